//! `/metrics` of `serve`, as Prometheus reads it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test needs and does not get is its failure")]

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::Value;
use transship_tests::*;

const SOON: Duration = Duration::from_secs(60);

/// The samples of a scrape: `name{labels}` and the value.
type Samples = BTreeMap<String, f64>;

async fn scrape(transship: &Transship) -> Samples {
    let response = reqwest::get(format!("{}/metrics", transship.url())).await.unwrap();
    assert_eq!(response.status(), 200);
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    let text = response.text().await.unwrap();
    assert!(text.ends_with("# EOF\n"), "it came whole: {text}");
    let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    samples.collect()
}

fn value(samples: &Samples, name: &str) -> f64 {
    *samples.get(name).unwrap_or_else(|| panic!("{name} in {samples:#?}"))
}

fn sum(tasks: &[Value], counter: &str) -> f64 {
    tasks.iter().map(|task| task["counts"][counter].as_f64().unwrap()).sum()
}

fn saved(tasks: &[Value]) -> f64 {
    sum(tasks, "bytes_mounted") + sum(tasks, "bytes_present")
}

/// Would break: numbers that are not the log's, that count an event twice, or begin with what was before the process; a rule whose last
/// success is forgotten at a restart, so that nobody is alarmed; waits for a registry, and messages that wait, that nobody sees.
#[tokio::test]
async fn prometheus_sees_what_the_log_has() {
    let mut transship = Transship::reserve();
    let (build, prod) = (transship.registry("build").await, DockerRegistry::start().await);
    let locked = DockerRegistry::builder().login(ALICE).start().await;
    let asked = AtomicBool::new(false);
    let busy = Proxy::start(prod.url(), move |_| match asked.swap(true, Ordering::SeqCst) {
        true => Action::Pass,
        false => Action::status(429, &[("Retry-After", "1")], ""),
    })
    .await;
    let away = format!("http://127.0.0.1:{}", free_port());
    let instances = [("build", build.url()), ("prod", busy.url()), ("locked", locked.url()), ("away", &away)]
        .map(|(n, url)| instance(n, url));
    let from = |namespace: &str| format!("instance: build, namespace: {namespace}");
    let rules = [
        rule("release", &from("team"), "instance: prod, namespace: mirror", ""),
        rule("refused", &from("refused"), "instance: locked", ""),
        rule("waits", &from("waits"), "instance: away", ""),
        rule("off", &from("off"), "instance: prod", "enabled: false"),
    ];
    transship.start(&config(&instances, &rules)).await;
    assert_eq!(value(&scrape(&transship).await, r#"transship_tasks_total{status="succeeded"}"#), 0.0);

    let before = Timestamp::now().as_second() as f64;
    // The second has the first one's layers.
    let image = Image::random(1).layers(2, 20_000);
    image.clone().build().push(&build.at("team/app", "v1")).await;
    transship.ended("build/release", 1).await;
    image.annotation("second", "yes").build().push(&build.at("team/other", "v1")).await;
    Image::random(2).build().push(&build.at("refused/app", "v1")).await;
    Image::random(3).build().push(&build.at("waits/app", "v1")).await;
    let succeeded = transship.ended("build/release", 2).await;
    let refused = transship.ended("build/refused", 1).await;
    let tasks = [succeeded.clone(), refused.clone()].concat();
    assert_eq!((&refused[0]["status"], sum(&tasks, "copied")), (&"failed".into(), 2.0), "{tasks:#?}");
    let mut seen = Samples::new();
    wait_until("a job waits for the registry that is away", SOON, async || {
        seen = scrape(&transship).await;
        value(&seen, r#"transship_queue_messages{queue="jobs",state="held"}"#) == 1.0
    })
    .await;

    for (name, expected) in [
        (r#"transship_tasks_total{status="succeeded"}"#, 2.0),
        (r#"transship_tasks_total{status="partly-failed"}"#, 0.0),
        (r#"transship_tasks_total{status="failed"}"#, 1.0),
        (r#"transship_resources_total{outcome="copied"}"#, sum(&tasks, "copied")),
        (r#"transship_resources_total{outcome="failed"}"#, sum(&tasks, "failed")),
        (r#"transship_resources_total{outcome="unchanged"}"#, 0.0),
        (r#"transship_resources_total{outcome="skipped"}"#, 0.0),
        ("transship_moved_bytes_total", sum(&tasks, "bytes_moved")),
        ("transship_saved_bytes_total", saved(&tasks)),
        (r#"transship_queue_messages{queue="jobs",state="dead"}"#, 0.0),
        (&format!(r#"transship_build_info{{version="{}"}}"#, env!("CARGO_PKG_VERSION")), 1.0),
        (&format!(r#"transship_registry_throttled_total{{registry="{}"}}"#, busy.url()), 1.0),
        (&format!(r#"transship_registry_throttled_total{{registry="{}"}}"#, build.url()), 0.0),
    ] {
        assert_eq!(value(&seen, name), expected, "{name}");
    }
    assert!(sum(&tasks, "bytes_moved") > 40_000.0 && saved(&tasks) > 40_000.0, "{tasks:#?}");
    // What a full run finds equal has no job, and is in the log all the same.
    let run = transship.run(&["sync", "build/release", "--wait"]).await;
    assert!(run.status.success(), "{run:?}");
    let compared = scrape(&transship).await;
    assert_eq!(value(&compared, r#"transship_resources_total{outcome="unchanged"}"#), 2.0);
    let waited = value(&seen, &format!(r#"transship_registry_throttle_wait_seconds_total{{registry="{}"}}"#, busy.url()));
    assert!(waited > 0.5, "{waited}");
    assert!(value(&seen, r#"transship_queue_oldest_message_age_seconds{queue="jobs"}"#) > 0.0);
    let last = r#"transship_rule_last_success_timestamp_seconds{instance="build",rule="release"}"#;
    let succeeded_at = value(&seen, last);
    let ended: Timestamp = succeeded[0]["ended"].as_str().unwrap().parse().unwrap();
    assert_eq!(succeeded_at, ended.as_duration().as_secs_f64());
    assert!(succeeded_at >= before);
    assert_eq!(seen.keys().filter(|name| name.contains("last_success")).count(), 1, "of rules that have succeeded: {seen:#?}");

    transship.restart().await;
    let again = scrape(&transship).await;
    assert_eq!(value(&again, r#"transship_tasks_total{status="succeeded"}"#), 0.0, "counters begin with the process");
    assert_eq!(value(&again, last), succeeded_at, "what is known is not counted");
    assert!(value(&again, "transship_start_time_seconds") > value(&seen, "transship_start_time_seconds"));
    Image::random(4).build().push(&build.at("team/app", "v2")).await;
    transship.ended("build/release", 3).await;
    wait_until("the third success is seen", SOON, async || value(&scrape(&transship).await, last) > succeeded_at).await;
    assert_eq!(value(&scrape(&transship).await, r#"transship_tasks_total{status="succeeded"}"#), 1.0);
}
