//! Several registries that notify one transship, each by a proxy that can hold its notifications back.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::Value;
use transship_model::Digest;
use transship_tests::*;

/// For whatever is a matter of seconds at worst.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The repository and tag that most tests push to.
pub(crate) const APP: &str = "team/app";

/// Registries, the process that they notify, and what stands between the two.
pub(crate) struct World {
    pub(crate) transship: Transship,
    nodes: Vec<Node>,
    flushes: AtomicUsize,
}

struct Node {
    name: &'static str,
    registry: DockerRegistry,
    /// Between the registry and the webhook.
    hook: Proxy,
    /// Between transship and the registry.
    front: Proxy,
    /// Is told the same as the webhook, and never held back.
    sink: Sink,
}

impl World {
    /// Registries with these names, and these rules between them.
    pub(crate) async fn new<const N: usize>(names: [&'static str; N], rules: &[String]) -> Self {
        let mut transship = Transship::reserve();
        let mut nodes = Vec::new();
        for name in names {
            let hook = Proxy::passing(&transship.url()).await;
            let sink = Sink::start().await;
            let bearer = format!("Bearer {HOOK_SECRET}");
            let registry = DockerRegistry::builder()
                .notify(format!("{}/hooks/{name}", hook.url()), &[("Authorization", &bearer)])
                .notify(sink.url(), &[])
                .start()
                .await;
            let front = Proxy::passing(registry.url()).await;
            nodes.push(Node { name, registry, hook, front, sink });
        }
        let instances: Vec<String> = nodes.iter().map(|node| instance(node.name, node.front.url())).collect();
        // What is pushed below `marker` tells that all notifications before it have come: see `flush`.
        let markers = nodes.iter().map(|Node { name, .. }| {
            rule("marker", &format!("instance: {name}, namespace: marker"), &format!("instance: {name}, namespace: marked"), "")
        });
        let rules: Vec<String> = markers.chain(rules.iter().cloned()).collect();
        transship.start(&config(&instances, &rules)).await;
        Self { transship, nodes, flushes: AtomicUsize::new(0) }
    }

    fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).expect("a registry of this world")
    }

    /// A place in a registry, without a proxy.
    pub(crate) fn at(&self, name: &str, repository: &str, tag: &str) -> At {
        self.node(name).registry.at(repository, tag)
    }

    /// `team/app:v1` of a registry.
    pub(crate) fn app(&self, name: &str) -> At {
        self.at(name, APP, "v1")
    }

    /// What `team/app:v1` of a registry is.
    pub(crate) async fn holds(&self, name: &str) -> Option<Digest> {
        self.app(name).find_manifest().await.map(|manifest| manifest.digest)
    }

    /// Waits until `team/app:v1` of a registry is this.
    pub(crate) async fn comes_to_hold(&self, name: &str, artifact: &Artifact) {
        let what = format!("{name} holds {}", artifact.digest());
        wait_until(&what, SOON, async || self.holds(name).await.as_ref() == Some(artifact.digest())).await;
    }

    /// The proxy between transship and a registry.
    pub(crate) fn front(&self, name: &str) -> &Proxy {
        &self.node(name).front
    }

    /// Holds back what a registry notifies from now on, until the gate is opened.
    pub(crate) fn hold_notifications(&self, name: &str) -> Gate {
        let gate = Gate::new();
        let held = gate.clone();
        self.node(name).hook.on(move |_| Action::Hold(held.clone()));
        gate
    }

    /// Holds such requests of transship to a registry from now on, until the gate is opened.
    pub(crate) fn hold(&self, name: &str, method: &'static str, in_path: &'static str, gate: &Gate) {
        let held = gate.clone();
        self.front(name).on(move |request| if request.is(method, in_path) { Action::Hold(held.clone()) } else { Action::Pass });
    }

    /// When a registry says that this was pushed to `team/app`, the first time: as it writes it, which can be compared.
    pub(crate) async fn pushed_at(&self, name: &str, tag: &str, digest: &Digest) -> String {
        let is = |event: &Value| {
            let target = &event["target"];
            event["action"] == "push" && target["tag"] == tag && target["digest"] == digest.as_str()
        };
        let find = |delivery: &Delivery| {
            delivery.json()["events"].as_array().and_then(|events| events.iter().find(|e| is(e)).cloned())
        };
        let delivery =
            self.node(name).sink.wait_for("the notification of a push", SOON, |delivery| find(delivery).is_some()).await;
        let time = find(&delivery).expect("it was just found")["timestamp"].as_str().expect("a time").to_owned();
        let time: jiff::Timestamp = time.parse().expect("a time");
        format!("{time:.9}")
    }

    /// How often tags and manifests have been put into registries, by whomever.
    fn puts(&self) -> usize {
        let is_put = |line: &&str| line.contains("\"PUT /v2/") && line.contains("/manifests/") && !line.contains("/v2/mark");
        self.nodes.iter().map(|node| node.registry.log().lines().filter(is_put).count()).sum()
    }

    /// Waits until all that the registries have notified so far has been taken in and done. A registry sends its notifications
    /// one after the other, so that those before a marker's have come when the marker is copied.
    pub(crate) async fn flush(&self) {
        let n = self.flushes.fetch_add(1, Ordering::Relaxed) + 1;
        let marker = Image::random(0).build();
        for node in &self.nodes {
            marker.push(&node.registry.at("marker/app", format!("m{n}"))).await;
        }
        for Node { name, .. } in &self.nodes {
            self.transship.ended(&format!("{name}/marker"), n).await;
        }
    }

    /// Waits until jobs and events are all done, but for those jobs that the test holds.
    pub(crate) async fn idle_but_for(&self, held: u64) {
        let mut seen = 0;
        wait_until("the queues to be empty", SOON, async || {
            let queues = self.transship.get("/health").await["queues"].clone();
            let number = |queue: &str, what: &str| queues[queue][what].as_u64().unwrap_or(u64::MAX);
            let idle = number("jobs", "waiting") == 0 && number("jobs", "held") == held;
            let told = number("events", "waiting") == 0 && number("events", "held") == 0;
            // The two queues are not looked at in one moment.
            seen = if idle && told { seen + 1 } else { 0 };
            seen == 2
        })
        .await;
    }

    /// Waits until nothing moves any more: what was done has caused notifications, and these have caused nothing.
    pub(crate) async fn settle(&self) {
        for _ in 0..10 {
            let puts = self.puts();
            self.flush().await;
            self.idle_but_for(0).await;
            if self.puts() == puts {
                return;
            }
        }
        panic!("it does not come to rest: tags are set again and again");
    }

    /// What became of the only resource of each task of `INSTANCE/RULE`, the oldest first: `copied`, `skipped superseded`.
    pub(crate) async fn outcomes(&self, rule: &str) -> Vec<String> {
        let mut outcomes = Vec::new();
        for task in self.transship.tasks(rule).await.iter().rev() {
            outcomes.push(outcome(&only_resource(&self.transship, task).await));
        }
        outcomes
    }
}

/// The resource of a task that has one.
pub(crate) async fn only_resource(transship: &Transship, task: &Value) -> Value {
    let mut resources = transship.resources(task["id"].as_str().expect("an ID")).await;
    assert_eq!(resources.len(), 1, "{task}");
    resources.remove(0)
}

/// How a resource ended, in short.
pub(crate) fn outcome(resource: &Value) -> String {
    let word = |name: &str| resource[name].as_str().unwrap_or_default().to_owned();
    format!("{} {}", word("outcome"), word("reason")).trim_end().to_owned()
}

/// A rule that copies `team` of one registry to `team` of another, and overwrites.
pub(crate) fn mirror(name: &str, from: &str, to: &str) -> String {
    rule(name, &format!("instance: {from}, namespace: team"), &format!("instance: {to}"), "overwrite: true")
}

/// Rules that lead both ways.
pub(crate) fn both_ways(a: &str, b: &str) -> [String; 2] {
    [mirror(&format!("to-{b}"), a, b), mirror(&format!("to-{a}"), b, a)]
}

/// A small image like no other.
pub(crate) fn image(seed: u64) -> Artifact {
    Image::random(seed).layers(1, 4 << 10).build()
}
