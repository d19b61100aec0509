//! Rules that run by themselves, in the real binary. What a tick decides is tested with a clock of the tests' own beside `Scheduler`.

use std::time::Duration;

use transship_tests::*;

/// Would break: a `serve` that does not tick, or a scheduled run that does not find what no notification has told.
#[tokio::test]
async fn a_rule_runs_by_itself_when_its_time_has_come() {
    let mut transship = Transship::reserve();
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    Image::random(1).build().push(&build.at("team/app", "v1")).await;
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    let source = "instance: build, namespace: team";
    let scheduled = rule("nightly", source, "instance: prod, namespace: nightly", "schedule: '* * * * *'");
    let other = rule("other", source, "instance: prod, namespace: other", "");
    transship.start(&config(&instances, &[scheduled, other])).await;

    let mut tasks = Vec::new();
    wait_until("the next full minute", Duration::from_secs(180), async || {
        tasks = transship.tasks("build/nightly").await;
        tasks.last().is_some_and(|task| task.get("ended").is_some())
    })
    .await;
    assert_eq!((&tasks[0]["trigger"], &tasks[0]["status"]), (&"schedule".into(), &"succeeded".into()));
    assert_same(&build.at("team/app", "v1"), &prod.at("nightly/app", "v1")).await;
    assert!(transship.tasks("build/other").await.is_empty());
}
