//! From a notification to the start of its job, alone and in a burst.
//!
//! Two servers that have nothing play the registries: what is measured is transship, and the disk that it writes to.

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use transship_tests::{HOOK_SECRET, Sink, Transship, config, instance, rule, wait_until};

use crate::figures::Figures;

const EVENTS: usize = 1_000;
const CONNECTIONS: usize = 64;

pub(crate) async fn measure(figures: &mut Figures) {
    let (build, prod) = (Sink::start().await, Sink::start().await);
    for registry in [&build, &prod] {
        registry.answer(|request| if request.path == "/v2/" { 200 } else { 404 });
    }
    let mut transship = Transship::reserve();
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    let rules = [rule("all", "instance: build, namespace: team", "instance: prod, namespace: mirror", "")];
    transship.start(&config(&instances, &rules)).await;
    figures.times("the disk's fsync, 4 KiB", fsyncs(&transship), None);

    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let send = async |repository: &str, i: usize| {
        let request = http.post(transship.hook("build")).bearer_auth(HOOK_SECRET);
        let response = request.body(pushed(repository, i).to_string()).send().await.expect("the webhook answers");
        assert_eq!(response.status(), 202);
        response.json::<Value>().await.expect("an answer")["tasks"].as_array().expect("tasks").len()
    };

    let mut times = Vec::new();
    for i in 0..EVENTS + 20 {
        let arrived = Instant::now();
        assert_eq!(send("team/alone", i).await, 1);
        let path = format!("/v2/team/alone/manifests/v{i}");
        let start = loop {
            // The newest are at the end, and there are several for each job.
            if let Some(at) = build.first(&path) {
                break at;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        };
        times.push(start.duration_since(arrived));
    }
    // The first ones connect.
    figures.times("from a notification's arrival to its job's start", times.split_off(20), Some(Duration::from_millis(20)));
    transship.quiet().await;

    let began = Instant::now();
    let answers = stream::iter(0..EVENTS).map(async |i| {
        let began = Instant::now();
        assert_eq!(send("team/burst", i).await, 1);
        began.elapsed()
    });
    let times: Vec<Duration> = answers.buffer_unordered(CONNECTIONS).collect().await;
    let sent = began.elapsed();
    figures.times("the webhook's answer, 1,000 events on 64 connections", times, Some(Duration::from_millis(50)));
    let rate = EVENTS as f64 / sent.as_secs_f64();
    figures.note("    all answered after", format!("{sent:.2?} ({rate:.0} a second)"));

    let mut burst = Vec::new();
    wait_until("all tasks of the burst to end", Duration::from_secs(60), async || {
        burst = tasks(&transship).await;
        burst.retain(|task| task["trigger"].as_str().is_some_and(|trigger| trigger.contains("team/burst")));
        burst.len() >= EVENTS && burst.iter().all(|task| task.get("ended").is_some())
    })
    .await;
    let ended = began.elapsed();
    let mut triggers: Vec<&str> = burst.iter().filter_map(|task| task["trigger"].as_str()).collect();
    triggers.sort_unstable();
    triggers.dedup();
    assert_eq!((burst.len(), triggers.len()), (EVENTS, EVENTS), "each event has one task");
    assert!(burst.iter().all(|task| task["counts"]["found"] == 1 && task["counts"]["skipped"] == 1));
    figures.note("    all jobs done and recorded after", format!("{ended:.2?}"));
}

/// All tasks of the rule.
async fn tasks(transship: &Transship) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = transship.get(&format!("/v1/instances/build/rules/all/tasks?limit=1000{cursor}")).await;
        all.extend(page["items"].as_array().expect("items").clone());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

/// How long 4 KiB take to the disk that the store is on, within a file that has its size, as the store's log does.
fn fsyncs(transship: &Transship) -> Vec<Duration> {
    const PAGE: [u8; 4096] = [7; 4096];
    let mut file = File::create(transship.data().with_file_name("fsync")).expect("a file");
    file.write_all(&PAGE.repeat(200)).expect("its content");
    file.sync_all().expect("an fsync");
    file.rewind().expect("its beginning");
    let mut write = || {
        let began = Instant::now();
        file.write_all(&PAGE).expect("4 KiB");
        file.sync_data().expect("an fsync");
        began.elapsed()
    };
    (0..200).map(|_| write()).collect()
}

/// A notification as docker-registry sends it.
fn pushed(repository: &str, i: usize) -> Value {
    let digest = format!("sha256:{i:064x}");
    json!({ "events": [{
        "id": format!("{repository}-{i}"), "timestamp": "2026-02-03T04:05:06.789Z", "action": "push",
        "target": {
            "mediaType": transship_tests::media::OCI_MANIFEST, "digest": digest, "repository": repository,
            "tag": format!("v{i}"), "size": 1, "url": "http://elsewhere.example/v2/"
        },
    }]})
}
