//! `transship demo`: two registries in this process, a push, a copy by rule, the log, and the proof.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::json;
use transship_model::{
    EcrSettings, Instance, Kind, Repository, Rule, RuleId, TaskId, WebhookAuth, instance::Credentials, rule,
};
use transship_registry::Patience;

use crate::{
    client::Client,
    commands::tasks,
    demo::{
        content::{self, Artifact, End},
        registry::DemoRegistry,
    },
    output,
    progress::{Meter, Unit},
    serve,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

/// The webhook's answer.
#[derive(Debug, Deserialize)]
struct Accepted {
    tasks: Vec<TaskId>,
    pending: bool,
}

pub(crate) async fn run(_: Arguments) -> anyhow::Result<()> {
    let started = Instant::now();
    let (build, prod) = (DemoRegistry::start().await?, DemoRegistry::start().await?);
    say("two registries in this process", &format!("build at {}, prod at {}", build.url(), prod.url()))?;

    let data = tempfile::tempdir().context("the demo needs a temporary folder")?;
    let rule = demo_rule()?;
    let instances = vec![instance("build", &build.url(), "eu-central-1")?, instance("prod", &prod.url(), "ap-southeast-1")?];
    let settings = serve::Settings {
        data: data.path().to_owned(),
        // It shows how pushes drive it.
        file: Some(serve::File {
            path: "the demo".into(),
            instances,
            rules: vec![rule.clone()],
            subscriptions: Vec::new(),
            first_run: false,
        }),
        adopt: false,
        listen: ([127, 0, 0, 1], 0).into(),
        token: None,
        workers: 4,
        patience: Patience::default(),
        keep_tasks: transship_state::TaskLog::KEEP,
        topic: None,
        topic_resources: Vec::new(),
    };
    let running = serve::start(settings).await?;
    let api = format!("http://{}", running.address);
    say(
        "transship serve",
        &format!("at {api}, with the rule {}: namespace shop of build -> namespace mirror of prod", rule.path()),
    )?;

    let http = reqwest::Client::builder().no_proxy().build()?;
    let client = Client::at(&api)?;
    let artifacts = content::release()?;
    let mut ended = Vec::new();
    for artifact in &artifacts {
        artifact.push(&http, &build.url()).await?;
        let name = format!("{} {}", artifact.what, named(artifact));
        say("push to build", &format!("{name}, {} in blobs", output::bytes(artifact.size())))?;
        let accepted = notify(&http, &api, artifact).await?;
        ended.extend(finish(&client, &rule, accepted, ended.len()).await?);
    }

    output::print("\nThe log of the rule:\n")?;
    output::print(&output::tasks(&client.tasks_of(&rule, 20).await?))?;
    output::print("\nIts resources:\n")?;
    let mut resources = Vec::new();
    for task in &ended {
        resources.extend(client.resources(task, &[], 100).await?);
    }
    output::print(&output::resources(&resources))?;

    output::print("\nRead back from prod, every byte of it, and compared by digest:\n")?;
    let (mut count, mut bytes) = (0, 0);
    for artifact in artifacts.iter().filter(|artifact| artifact.reference.tag().is_some_and(|tag| tag.subject().is_none())) {
        let to = rule.target_repository(&artifact.repository).context("the demo's rule selects what the demo pushes")??;
        let (source, target) = (build.url(), prod.url());
        let from = End { registry: &source, repository: &artifact.repository };
        let to = End { registry: &target, repository: &to };
        for verified in content::verify(&http, &from, &to, &artifact.reference).await? {
            output::print(&format!("  {} {:>10}  {}", verified.digest, output::bytes(verified.bytes), verified.name))?;
            (count, bytes) = (count + 1, bytes + verified.bytes);
        }
    }
    running.stop().await;
    let took = output::seconds(started.elapsed().as_secs_f64());
    output::print(&format!(
        "\n{count} manifests and blobs, {}, are the same at both ends. All of it took {took}.\n",
        output::bytes(bytes)
    ))?;
    output::print(NEXT)
}

const NEXT: &str = "\
What to try next, with registries of your own:
  transship copy SRC DST                                copy one artifact by hand
  transship check --config sync.yaml                    write down instances and rules, and have them checked
  transship serve --data DIR --config sync.yaml         let pushes drive them; README.md shows a sync.yaml";

fn say(step: &str, what: &str) -> anyhow::Result<()> {
    output::print(&format!("{step:<32} {what}"))
}

fn named(artifact: &Artifact) -> String {
    let separator = if artifact.reference.tag().is_some() { ':' } else { '@' };
    format!("{}{separator}{}", artifact.repository, output::short(&artifact.reference.to_string()))
}

fn instance(name: &str, url: &str, region: &str) -> anyhow::Result<Instance> {
    Ok(Instance {
        name: name.parse()?,
        endpoint: url.parse()?,
        kind: Kind::Oci,
        region: Some(region.into()),
        zone: None,
        credentials: Credentials::Anonymous,
        // The demo listens on loopback, for seconds.
        webhook: WebhookAuth::Open,
        notify: None,
        token_realm: None,
        api: None,
        ecr: EcrSettings::default(),
        tcr: None,
        ca: None,
        plain_http: false,
    })
}

fn demo_rule() -> anyhow::Result<Rule> {
    Ok(Rule {
        id: RuleId(0),
        revision: 0,
        name: "release".parse()?,
        description: "released images and charts go to production".into(),
        source: rule::Source {
            instance: "build".parse()?,
            namespace: "shop".parse()?,
            repository: rule::Pattern::default(),
            tag: r"v?\d+\..*".parse()?,
            types: Vec::new(),
        },
        target: rule::Target { instance: "prod".parse()?, namespace: Some("mirror".parse()?), flatten: false },
        overwrite: false,
        propagate_deletions: false,
        referrers: true,
        schedule: None,
        enabled: true,
    })
}

/// Sends the notification that a registry would send (the ones in this process send none), through the webhook's own door.
async fn notify(http: &reqwest::Client, api: &str, artifact: &Artifact) -> anyhow::Result<Accepted> {
    let root = artifact.root();
    let repository: &Repository = &artifact.repository;
    let event = json!({ "events": [{
        "id": format!("demo-{}", root.digest),
        "timestamp": jiff::Timestamp::now(),
        "action": "push",
        "target": {
            "mediaType": root.media_type, "digest": root.digest, "size": root.bytes.len(),
            "repository": repository, "tag": artifact.reference.tag(),
        },
    }]});
    let request = http.post(format!("{api}/hooks/build"));
    let request = request.header("content-type", "application/vnd.docker.distribution.events.v1+json").body(event.to_string());
    let response = request.send().await?;
    ensure!(response.status() == reqwest::StatusCode::ACCEPTED, "the webhook answered {}", response.status());
    Ok(serde_json::from_slice(&response.bytes().await?)?)
}

/// Waits for the tasks of a push, showing how far they are. What has no tag of its own makes a task once a worker has seen what it
/// belongs to.
async fn finish(client: &Client, rule: &Rule, accepted: Accepted, before: usize) -> anyhow::Result<Vec<TaskId>> {
    let mut ids = accepted.tasks;
    let deadline = Instant::now() + Duration::from_secs(30);
    while ids.is_empty() && accepted.pending {
        ensure!(Instant::now() < deadline, "the push has made no task");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let all = client.tasks_of(rule, 20).await?;
        ids = all.into_iter().rev().skip(before).map(|task| task.id).collect();
    }
    ensure!(!ids.is_empty(), "the push has met no rule");
    for id in &ids {
        watch(client, id).await;
        let task = tasks::follow(client, id).await?;
        say("copied by the rule", &format!("task {id}: {} in {}", task.status, output::seconds(task.seconds)))?;
        ensure!(task.counts.failed == 0, "task {id} failed");
    }
    Ok(ids)
}

/// Shows the bytes of a task on their way, looking more often than is needed for what takes longer than a demo.
async fn watch(client: &Client, id: &TaskId) {
    let meter = Meter::new(format!("{:<32}", "copying"), Unit::Bytes);
    for _ in 0..1000 {
        let ended = client.task(id).await.is_ok_and(|task| task.ended.is_some());
        let resources = client.resources(id, &[], 100).await.unwrap_or_default();
        let (done, total) = resources.iter().fold((0, 0), |(done, total), resource| {
            let here = resource.bytes_done();
            (done + here, total + resource.bytes_total.max(here))
        });
        meter.set(done, total, "");
        if ended {
            break;
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    meter.keep();
}
