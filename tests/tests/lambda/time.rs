//! Time: the end of an invocation, and the ice age between two.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use transship_tests::{Action, DockerRegistry, Image, Proxy, Relay, Rie, assert_same};

use crate::world::{World, answer, image, push};

/// A layer that takes longer than an invocation arrives all the same, and no byte of it is paid for twice.
#[tokio::test]
async fn a_layer_that_outlives_the_invocation_arrives_in_parts_and_no_byte_is_sent_twice() {
    const SIZE: usize = 64 << 20;
    let (build, mirror) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let proxy = Proxy::start(mirror.url(), |request| match request.method.as_str() {
        // 4 MiB a second.
        "PATCH" | "PUT" => Action::Slow(Duration::from_millis(16)),
        _ => Action::Pass,
    })
    .await;
    let world = World::syncing(build.url(), proxy.url()).await;
    let image = Image::random(4).layers(1, SIZE).build();
    image.push(&build.at("team/app", "v1")).await;
    let webhook = world.function("webhook").await;
    assert_eq!(answer(&webhook.invoke(&push("team/app", "v1", &image)).await.unwrap()).0, 202);

    // Three seconds of work: twelve are kept for the end.
    let worker = world.function_for("worker", Duration::from_secs(15)).await;
    let invocations = world.drain("jobs.fifo", 1, &worker).await;
    assert!(invocations > 2, "{invocations}");
    assert_same(&build.at("team/app", "v1"), &mirror.at("team/app", "v1")).await;
    let peak = worker.peak_memory();
    assert!(peak <= 96_000_000, "{peak} bytes, and a function of 256 MB is to serve for layers of any size");
    let sent: u64 =
        proxy.exchanges().iter().filter(|exchange| exchange.request.path.contains("/blobs/")).map(|e| e.uploaded).sum();
    let size: u64 = image.blobs().values().map(|blob| blob.len() as u64).sum();
    assert_eq!(sent, size, "in {invocations} invocations");
}

/// Would break: a registry that asks for less, of which nobody sees anything on AWS.
#[tokio::test]
async fn what_a_registry_asks_for_is_counted() {
    let (build, mirror) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let has_asked = AtomicBool::new(false);
    let busy = Proxy::start(mirror.url(), move |_| match has_asked.swap(true, Ordering::SeqCst) {
        true => Action::Pass,
        false => Action::status(429, &[("Retry-After", "1")], ""),
    })
    .await;
    let world = World::syncing(build.url(), busy.url()).await;
    let image = Image::random(5).layers(1, 1 << 10).build();
    image.push(&build.at("team/app", "v1")).await;
    let (webhook, worker) = (world.function("webhook").await, world.function("worker").await);
    assert_eq!(answer(&webhook.invoke(&push("team/app", "v1", &image)).await.unwrap()).0, 202);
    world.drain("jobs.fifo", 1, &worker).await;
    assert_same(&build.at("team/app", "v1"), &mirror.at("team/app", "v1")).await;
    let counted = |name: &str| worker.lines().iter().filter_map(|line| line[name].as_u64()).sum::<u64>();
    assert_eq!(counted("Throttled"), 1, "{}", worker.log());
    assert!(counted("ThrottleWait") > 0, "{}", worker.log());
}

/// A wait that is longer than a worker makes itself is the queue's: the job is held back for as long as the registry asked.
///
/// Would break: a job that comes back at once and makes the registry ask again, or when its hold of hours is over.
#[tokio::test]
async fn a_job_that_is_asked_to_wait_is_held_back_for_as_long() {
    const ASKED: u64 = 20;
    let (build, mirror) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let has_asked = AtomicBool::new(false);
    let busy = Proxy::start(mirror.url(), move |_| match has_asked.swap(true, Ordering::SeqCst) {
        true => Action::Pass,
        false => Action::status(429, &[("Retry-After", &ASKED.to_string())], ""),
    })
    .await;
    let world = World::syncing(build.url(), busy.url()).await;
    let image = image(6);
    image.push(&build.at("team/app", "v1")).await;
    let webhook = world.function("webhook").await;
    assert_eq!(answer(&webhook.invoke(&push("team/app", "v1", &image)).await.unwrap()).0, 202);

    let mut environment = world.environment();
    let services = environment.iter_mut().find(|(name, _)| name == "AWS_ENDPOINT_URL").unwrap();
    let relay = Relay::start(services.1.clone()).await;
    relay.url().clone_into(&mut services.1);
    let worker = Rie::start("worker", &environment, Duration::from_secs(120)).await;
    let event = world.receive("jobs.fifo", 1).await;
    let job = &event["Records"][0];
    let again = serde_json::json!({ "batchItemFailures": [{ "itemIdentifier": job["messageId"] }] });
    assert_eq!(worker.invoke(&event).await, Ok(again), "{}", worker.log());
    let calls = relay.take();
    let mut held = calls.iter().filter(|call| call.operation == "SQS.ChangeMessageVisibility");
    let last = held.next_back().unwrap_or_else(|| panic!("{calls:?}"));
    let (asked, visible) = (&last.asked, last.asked["VisibilityTimeout"].as_u64().unwrap());
    assert!(last.is_done && asked["ReceiptHandle"] == job["receiptHandle"], "{last:?}");
    // It is told in whole seconds, of which some may be over.
    assert!((ASKED - 1..=ASKED + 1).contains(&visible), "{asked}");

    transship_tests::wait_until("the job comes again", Duration::from_secs(300), async || {
        world.deliver("jobs.fifo", 1, &worker).await == Some(1)
    })
    .await;
    assert_same(&build.at("team/app", "v1"), &mirror.at("team/app", "v1")).await;
}

/// Between two events the process stands still, and its connections die without its noticing.
#[tokio::test]
async fn a_function_that_was_frozen_finds_new_connections() {
    let (mut build, mut mirror) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let world = World::syncing(build.url(), mirror.url()).await;
    let (webhook, worker) = (world.function("webhook").await, world.function("worker").await);
    for round in 1..=3 {
        // With more connections than are tried before a job is given back.
        let (tag, image) = (format!("v{round}"), Image::random(10 + round).layers(8, 2 << 20).build());
        image.push(&build.at("team/app", &tag)).await;
        assert_eq!(answer(&webhook.invoke(&push("team/app", &tag, &image)).await.unwrap()).0, 202);
        assert_eq!(world.deliver("jobs.fifo", 1, &worker).await, Some(1), "round {round}: {}", worker.log());
        assert_same(&build.at("team/app", &tag), &mirror.at("team/app", &tag)).await;
        worker.signal("STOP");
        build.restart().await;
        mirror.restart().await;
        worker.signal("CONT");
    }
}

/// A worker that is killed has its job taken up when its hold of a minute is over, and not the queue's hold of hours.
#[tokio::test]
async fn the_job_of_a_killed_worker_comes_again_after_the_worker_s_own_hold() {
    let (build, mirror) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let gate = transship_tests::Gate::new();
    let held = gate.clone();
    let proxy = Proxy::start(mirror.url(), move |request| match request.method.as_str() {
        "PUT" => Action::Hold(held.clone()),
        _ => Action::Pass,
    })
    .await;
    let world = World::syncing(build.url(), proxy.url()).await;
    let image = image(5);
    image.push(&build.at("team/app", "v1")).await;
    let webhook = world.function("webhook").await;
    webhook.invoke(&push("team/app", "v1", &image)).await.unwrap();
    let worker = world.function("worker").await;
    let event = world.receive("jobs.fifo", 1).await;
    let (killed, ()) = tokio::join!(worker.invoke(&event), async {
        gate.reached(1).await;
        worker.signal("KILL");
    });
    killed.unwrap_err();
    gate.open();
    // The queue itself would keep it for an hour and a half.
    transship_tests::wait_until("the job comes again", Duration::from_secs(300), async || {
        world.deliver("jobs.fifo", 1, &worker).await == Some(1)
    })
    .await;
    assert_same(&build.at("team/app", "v1"), &mirror.at("team/app", "v1")).await;
}
