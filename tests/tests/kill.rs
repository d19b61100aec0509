//! SIGKILL, at any moment: what was accepted is done, and is done once as far as anybody can see.
//!
//! What the kernel has of a file survives its process, so this is about the order in which things are written, and about what is
//! taken up again; that they are on the disk is tested with the store (`shared/state/tests/sqlite/durability.rs`).
#![expect(clippy::unwrap_used, reason = "what a test does not expect is a failed test")]

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use serde_json::{Value, json};
use transship_tests::*;

const BUILD: &str = "instance: build, namespace: team";
const MIRROR: &str = "instance: prod, namespace: mirror";

/// A job that is at work in each of six kills is given up, as one that kills its worker would be; so there are fewer.
const KILLS: usize = 5;
/// Pushes to tags of their own in each burst, and to one tag that moves.
const BURST: usize = 24;

/// Kills in bursts of notifications, in scans and in copies, at moments that a seed decides; `TRANSSHIP_SEED` repeats one run.
///
/// Would break: an answer before the job is on the disk; a job whose event is lost, so that its task stays queued, or the other
/// way round; an event counted twice because its batch was written and not deleted; a message that stays held by the dead; a
/// tag set before what it needs; a lock or half-done upload that stands in the way of the next process.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_goes_on_and_loses_and_repeats_nothing() {
    let seed = std::env::var("TRANSSHIP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("TRANSSHIP_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    // Every request takes its time, so that a kill meets copies at each of their steps.
    let slow = |request: &Request| Action::Delay(Duration::from_millis(2 + request.number as u64 * 7 % 23));
    let (source, target) = (Proxy::start(build.url(), slow).await, Proxy::start(prod.url(), slow).await);
    let mut transship = Transship::reserve();
    let instances = [instance("build", source.url()), instance("prod", target.url())];
    transship.start(&config(&instances, &[rule("release", BUILD, MIRROR, "overwrite: true")])).await;

    let mut sender = Sender::to(&transship);
    let watch = Watch::start(&build, &prod);
    let mut unfinished = 0;
    for round in 0..KILLS {
        for image in images(round) {
            image.artifact.push(&build.at(&image.repository, &image.tag)).await;
            sender.send(&image);
        }
        sender.sync();
        tokio::time::sleep(Duration::from_millis(random.u64(0..700))).await;
        // Whatever it is doing now: nothing is asked of it before.
        transship.kill();
        tokio::time::sleep(Duration::from_millis(random.u64(0..30))).await;
        transship.restart().await;
        unfinished += usize::from(!is_idle(&transship).await);
    }
    assert!(unfinished > 0, "no kill met any work: the test has become too slow, or the product fast");

    let (pushes, syncs) = sender.all_accepted().await;
    transship.quiet().await;
    watch.stop().await;

    let tasks = transship.tasks("build/release").await;
    let ids: HashSet<&str> = tasks.iter().map(|task| task["id"].as_str().unwrap()).collect();
    for id in pushes.values().flatten().chain(&syncs) {
        assert!(ids.contains(id.as_str()), "the accepted task {id} is in the log");
    }
    let mut by_trigger: BTreeMap<&str, usize> = BTreeMap::new();
    for task in &tasks {
        *by_trigger.entry(task["trigger"].as_str().unwrap()).or_default() += 1;
        assert_recorded_once(&transship, task).await;
    }
    // One that was asked for when the process died may have begun without an answer.
    let by_hand = by_trigger.remove("by hand").unwrap_or(0);
    assert!(by_hand >= syncs.len(), "{by_hand} of {}", syncs.len());
    let expected: BTreeMap<String, usize> =
        pushes.iter().map(|(resource, tasks)| (format!("push {resource}"), tasks.len())).collect();
    let found: BTreeMap<String, usize> = by_trigger.into_iter().map(|(trigger, n)| (trigger.to_owned(), n)).collect();
    assert_eq!(found, expected, "one task for each push, however often it was sent");
    for resource in pushes.keys() {
        let (repository, tag) = resource.split_once(':').unwrap();
        assert_same(&build.at(repository, tag), &prod.at(mirrored(repository), tag)).await;
    }
}

/// Would break: a scan that begins anew and counts what it had found twice; one that goes on behind what it had not yet sent; a
/// total that is known too early, so that the task closes with resources to come.
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_killed_in_its_middle_finds_everything_once() {
    let bulk = Bulk::new("team", 13, 100);
    let (build, prod) = (DockerRegistry::builder().filled(bulk.clone()).start().await, DockerRegistry::start().await);
    // One kill in the first step of the scan, after some of its jobs have been sent, one in the second: a step is 1000 tags.
    let gates = [("team/repo-0003/tags", Gate::new()), ("team/repo-0011/tags", Gate::new())];
    let held = gates.clone();
    let source = Proxy::start(build.url(), move |request| {
        let gate = held.iter().find(|(path, _)| request.path.contains(path)).map(|(_, gate)| gate.clone());
        gate.map_or(Action::Pass, Action::Hold)
    })
    .await;
    let mut transship = Transship::reserve();
    let instances = [instance("build", source.url()), instance("prod", prod.url())];
    transship.start(&config(&instances, &[rule("all", BUILD, MIRROR, "")])).await;

    let (status, started) = transship.call(Method::POST, "/v1/instances/build/rules/all/sync").await;
    assert_eq!(status, 202, "{started}");
    for (_, gate) in &gates {
        gate.reached(1).await;
        let so_far = &transship.tasks("build/all").await[0];
        assert_eq!((so_far.get("total"), so_far.get("ended")), (None, None), "{so_far}");
        transship.kill();
        gate.open();
        transship.restart().await;
    }

    let tasks = transship.ended("build/all", 1).await;
    assert_eq!(tasks[0]["id"], started["task"]);
    assert_eq!(tasks[0]["repositories"], 13);
    assert_eq!(tasks[0]["total"], bulk.len());
    assert_recorded_once(&transship, &tasks[0]).await;
    for repository in bulk.repositories() {
        assert_eq!(prod.client().tags(&mirrored(&repository)).await, bulk.tags());
    }
    assert_eq!(source.count("GET", "team/repo-0012/tags"), 1, "what was listed in a step that ended is not listed again");
}

/// Would break: work that is repeated with effects, or recorded twice or never, because it was done and not yet told.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_tag_and_its_outcome_it_finds_the_work_done() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let mut transship = Transship::reserve();
    // The answer to the tag is lost, and whatever comes after that is held: the target has the tag, and nobody knows it.
    let (is_set, gate) = (Arc::new(AtomicBool::new(false)), Gate::new());
    let held = gate.clone();
    let target = Proxy::start(prod.url(), move |request| {
        if request.is("PUT", "/manifests/v1") && !is_set.swap(true, Ordering::SeqCst) {
            return Action::LoseAnswer;
        }
        if is_set.load(Ordering::SeqCst) { Action::Hold(held.clone()) } else { Action::Pass }
    })
    .await;
    let instances = [instance("build", build.url()), instance("prod", target.url())];
    transship.start(&config(&instances, &[rule("release", BUILD, MIRROR, "")])).await;
    let image = Index::random(1).platforms(2).layers(2, 64 << 10).build();
    image.push(&build.at("team/app", "v1")).await;

    assert_eq!(transship.notify("build", &pushed("e-1", "team/app", "v1", &image)).await.status(), 202);
    gate.reached(1).await;
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
    transship.kill();
    let task = target.count("PUT", "/blobs/uploads/");
    gate.open();
    transship.restart().await;

    let tasks = transship.ended("build/release", 1).await;
    assert_recorded_once(&transship, &tasks[0]).await;
    transship.quiet().await;
    assert_eq!(transship.ended("build/release", 1).await, tasks, "and what comes late changes nothing");
    assert_eq!(target.count("PUT", "/blobs/uploads/"), task, "nothing is sent twice");
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
}

/// Would break: an outcome that waits in the events queue when the process dies and is then told a second time by the job.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_thousand_outcomes_are_written_it_counts_each_once() {
    let bulk = Bulk::new("team", 4, 100);
    let (build, prod) = (DockerRegistry::builder().filled(bulk.clone()).start().await, DockerRegistry::start().await);
    let mut transship = Transship::reserve();
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    transship.start(&config(&instances, &[rule("all", BUILD, MIRROR, "")])).await;

    let (status, started) = transship.call(Method::POST, "/v1/instances/build/rules/all/sync").await;
    assert_eq!(status, 202, "{started}");
    // At every sixth of the way the log is being written, and the way is short: the kills lie close together.
    for sixth in 1..=KILLS as u64 {
        let path = format!("/v1/tasks/{}", started["task"].as_str().unwrap());
        wait_until("the next part to be done", Duration::from_secs(30), async || {
            let (status, task) = transship.call(Method::GET, &path).await;
            let done: u64 = ["copied", "unchanged"].iter().filter_map(|name| task["counts"][name].as_u64()).sum();
            status == 200 && (done >= sixth * bulk.len() as u64 / 6)
        })
        .await;
        transship.kill();
        transship.restart().await;
    }
    let tasks = transship.ended("build/all", 1).await;
    assert_eq!(tasks[0]["total"], bulk.len());
    assert_recorded_once(&transship, &tasks[0]).await;
}

// ---- What a task has to be

/// Requires that a task has ended well, that each of its resources has one outcome, and that the counts are their sums.
async fn assert_recorded_once(transship: &Transship, task: &Value) {
    assert_eq!((&task["status"], task.get("ended").is_some()), (&json!("succeeded"), true), "{task}");
    let resources = transship.resources(task["id"].as_str().unwrap()).await;
    let names: BTreeSet<String> = resources.iter().map(|resource| resource["source"].to_string()).collect();
    assert_eq!(names.len(), resources.len(), "each resource of {task} once");
    let number = |name: &str| task["counts"][name].as_u64().unwrap();
    for outcome in ["copied", "unchanged", "skipped", "failed"] {
        let with = resources.iter().filter(|resource| resource["state"] == "done" && resource["outcome"] == outcome).count();
        // What a run finds equal is counted, and not listed.
        let compared = if outcome == "unchanged" { task["compared"].as_u64().unwrap_or(0) } else { 0 };
        assert_eq!(number(outcome), with as u64 + compared, "{outcome} of {task}");
    }
    let done: u64 = ["copied", "unchanged", "skipped", "failed"].map(number).iter().sum();
    let total = task["total"].as_u64();
    let listed = done - task["compared"].as_u64().unwrap_or(0);
    assert_eq!((done, Some(done), resources.len() as u64), (number("found"), total, listed), "{task}");
    let moved: u64 = resources.iter().map(|resource| resource["bytes_moved"].as_u64().unwrap()).sum();
    assert_eq!(number("bytes_moved"), moved, "{task}");
}

fn mirrored(repository: &str) -> String {
    repository.replacen("team/", "mirror/", 1)
}

async fn is_idle(transship: &Transship) -> bool {
    let queues = transship.get("/health").await["queues"].clone();
    ["jobs", "events"].iter().all(|queue| queues[queue]["waiting"] == 0 && queues[queue]["held"] == 0)
}

// ---- What is pushed

struct Pushed {
    repository: String,
    tag: String,
    artifact: Artifact,
    event: String,
}

/// What is pushed in one burst: images with a base in common, indexes among them, and a tag that each burst moves.
fn images(round: usize) -> Vec<Pushed> {
    let make = |i: usize| {
        let seed = (round * BURST + i) as u64;
        let artifact = match i % 5 {
            0 => Index::random(seed).platforms(2).layers(1, 8 << 10).base(1, 1, 32 << 10).build(),
            1 => Image::random(seed).layers(1, 1 << 20).base(1, 1, 32 << 10).build(),
            _ => Image::random(seed).layers(2, 4 << 10).base(1, 1, 32 << 10).build(),
        };
        let tag = if i == 0 { "latest".to_owned() } else { format!("r{round}-{i}") };
        Pushed { repository: format!("team/app-{}", i % 3), tag, artifact, event: format!("e-{round}-{i}") }
    };
    (0..BURST).map(make).collect()
}

/// A notification as docker-registry sends it.
fn pushed(id: &str, repository: &str, tag: &str, artifact: &Artifact) -> Value {
    json!({ "events": [{
        "id": id, "timestamp": "2026-02-03T04:05:06.789Z", "action": "push",
        "target": {
            "mediaType": artifact.root().media_type, "digest": artifact.digest(), "repository": repository, "tag": tag,
            "size": 1, "url": "http://elsewhere.example/v2/"
        },
    }]})
}

// ---- A sender that does what registries do: it sends again until the answer says that it was accepted

struct Sender {
    http: reqwest::Client,
    url: String,
    hook: String,
    sending: Vec<tokio::task::JoinHandle<()>>,
    /// The tasks that the answers named: by `repository:tag`, and those that were started by hand.
    pushes: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>,
    syncs: Arc<Mutex<BTreeSet<String>>>,
}

impl Sender {
    fn to(transship: &Transship) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let (url, hook) = (transship.url(), transship.hook("build"));
        Self { http, url, hook, sending: Vec::new(), pushes: Arc::default(), syncs: Arc::default() }
    }

    /// Sends a notification, in its own time.
    fn send(&mut self, push: &Pushed) {
        let resource = format!("{}:{}", push.repository, push.tag);
        let body = pushed(&push.event, &push.repository, &push.tag, &push.artifact).to_string();
        let request = self.http.post(&self.hook).bearer_auth(HOOK_SECRET).body(body);
        let pushes = self.pushes.clone();
        self.sending.push(tokio::spawn(async move {
            let answer = until_accepted(request).await;
            let tasks = answer["tasks"].as_array().unwrap().iter().map(|task| task.as_str().unwrap().to_owned());
            pushes.lock().unwrap().entry(resource).or_default().extend(tasks);
        }));
    }

    /// Starts the whole rule.
    fn sync(&mut self) {
        let request = self.http.post(format!("{}/v1/instances/build/rules/release/sync", self.url));
        let syncs = self.syncs.clone();
        self.sending.push(tokio::spawn(async move {
            let answer = until_accepted(request).await;
            syncs.lock().unwrap().insert(answer["task"].as_str().unwrap().to_owned());
        }));
    }

    /// Waits until all has been accepted; the tasks of the pushes by what was pushed, and those of the syncs.
    async fn all_accepted(self) -> (BTreeMap<String, BTreeSet<String>>, BTreeSet<String>) {
        for sending in self.sending {
            sending.await.unwrap();
        }
        let (pushes, syncs) = (self.pushes.lock().unwrap().clone(), self.syncs.lock().unwrap().clone());
        (pushes, syncs)
    }
}

async fn until_accepted(request: reqwest::RequestBuilder) -> Value {
    loop {
        match request.try_clone().unwrap().send().await {
            Ok(response) if response.status() == 202 => {
                if let Ok(answer) = response.json().await {
                    return answer;
                }
            }
            Ok(response) => assert_eq!(response.status(), 503, "accepted, or to be sent again"),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// ---- Somebody who pulls from the target all the time

/// Looks at the target's tags without rest: whatever one points to is there with all that it refers to.
struct Watch {
    stop: Arc<AtomicBool>,
    looking: tokio::task::JoinHandle<usize>,
}

impl Watch {
    fn start(build: &DockerRegistry, prod: &DockerRegistry) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, build, prod) = (stop.clone(), build.client().clone(), prod.client().clone());
        let looking = tokio::spawn(async move {
            let mut whole = HashSet::new();
            while !stopped.load(Ordering::SeqCst) {
                for repository in prod.catalog().await {
                    let tags = prod.tags(&repository).await;
                    let mut digests =
                        stream::iter(tags).map(|tag| prod.at(&repository, tag)).map(digest_at).buffer_unordered(8);
                    while let Some(digest) = digests.next().await {
                        let Some(digest) = digest else { continue };
                        if whole.insert((repository.clone(), digest.clone())) {
                            // By digest: the tag may have moved on since.
                            let from = build.at(repository.replacen("mirror/", "team/", 1), &digest);
                            assert_same(&from, &prod.at(&repository, &digest)).await;
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            whole.len()
        });
        Self { stop, looking }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        let began = Instant::now();
        let seen = self.looking.await.unwrap();
        assert!(seen > 0, "something was looked at");
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}

async fn digest_at(at: At) -> Option<transship_model::Digest> {
    at.find_manifest().await.map(|manifest| manifest.digest)
}
