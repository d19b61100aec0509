//! The sample events of `events/`, each through its function. `sam local invoke` is given the same files.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use transship_tests::Rie;

use crate::world::{World, answer, instance};

const TIME: Duration = Duration::from_secs(60);

/// The events of a function, by name.
pub(crate) fn samples(function: &str) -> Vec<(String, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../events").join(function);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{function} has no events");
    let read = |file: PathBuf| {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap())
    };
    files.into_iter().map(read).collect()
}

/// A deployment with the two instances and the rule that all events but the webhook's are about.
async fn deployment() -> World {
    let world = World::start().await;
    let rule = json!({
        "id": 0, "revision": 0, "name": "copy",
        "source": { "instance": "distribution", "namespace": "shop" },
        "target": { "instance": "mirror", "namespace": "distribution" },
    });
    let instances =
        [instance("distribution", "https://registry.example.com"), instance("mirror", "https://mirror.example.com")];
    world.apply(&instances, &[serde_json::from_value(rule).unwrap()]).await;
    world
}

/// With a variable of its own.
async fn function(world: &World, name: &str, variable: &str, value: &str) -> Rie {
    let mut environment = world.environment();
    environment.push((variable.into(), value.into()));
    Rie::start(name, &environment, TIME).await
}

/// A worker needs a message that is really held; all else is the sample's.
#[tokio::test]
async fn the_worker_takes_its_samples() {
    let world = deployment().await;
    let worker = world.function("worker").await;
    for (name, mut event) in samples("worker") {
        world.send("jobs.fifo", event["Records"][0]["body"].as_str().unwrap()).await;
        let held = world.receive("jobs.fifo", 1).await["Records"][0].clone();
        event["Records"][0]["receiptHandle"] = held["receiptHandle"].clone();
        assert_eq!(worker.invoke(&event).await, Ok(json!({ "batchItemFailures": [] })), "{name}: {}", worker.log());
        world.delete("jobs.fifo", &held).await;
    }
}

/// As they are: also the message that is held by nobody any more, which must not be worked on.
#[tokio::test]
async fn a_worker_leaves_alone_what_is_not_its_own_any_more() {
    let world = deployment().await;
    let worker = world.function("worker").await;
    for (name, event) in samples("worker") {
        let again = json!({ "batchItemFailures": [{ "itemIdentifier": event["Records"][0]["messageId"] }] });
        assert_eq!(worker.invoke(&event).await, Ok(again), "{name}");
    }
    assert!(world.receive("events", 1).await["Records"].as_array().unwrap().is_empty(), "something was told of it");
}

#[tokio::test]
async fn the_logger_takes_its_samples_and_tells_the_queues_apart() {
    let world = deployment().await;
    let dead_letters = "arn:aws:sqs:eu-central-1:123456789012:transship-jobs-dead.fifo";
    let logger = function(&world, "logger", "TRANSSHIP_DEAD_LETTERS_ARN", dead_letters).await;
    for (name, event) in samples("logger") {
        assert_eq!(logger.invoke(&event).await, Ok(json!({ "batchItemFailures": [] })), "{name}: {}", logger.log());
    }
    let counted: u64 = logger.lines().iter().filter_map(|line| line["DeadLetters"].as_u64()).sum();
    assert_eq!(counted, 1, "{}", logger.log());
}

#[tokio::test]
async fn the_notifier_takes_its_samples() {
    let world = deployment().await;
    let notifier = world.function("notifier").await;
    for (name, event) in samples("notifier") {
        assert_eq!(notifier.invoke(&event).await, Ok(json!({ "batchItemFailures": [] })), "{name}: {}", notifier.log());
    }
}

#[tokio::test]
async fn the_api_answers_its_samples() {
    let world = deployment().await;
    world.secret("transship/sample-token", "transship-sample-token").await;
    let api = function(&world, "api", "TRANSSHIP_API_TOKEN", "secretsmanager:sample-token").await;
    for (name, event) in samples("api") {
        let (status, body) = answer(&api.invoke(&event).await.unwrap());
        let expected = match &*name {
            // Nobody works on the preview: it says where it will be.
            "sync" | "preview" => 202,
            "subscribe" => 201,
            _ => 200,
        };
        assert_eq!(status, expected, "{name}: {body}");
    }
}

/// Each sender's notification, with the authentication that it has there, and each message of the inbox.
#[tokio::test]
async fn the_webhook_takes_its_samples() {
    let world = World::start().await;
    world.secret("transship/sample-events", "transship-sample-events").await;
    world.apply_file("events/sync.yaml").await;
    let webhook = world.function("webhook").await;
    for (name, event) in samples("webhook") {
        let response = webhook.invoke(&event).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        if event.get("Records").is_some() {
            assert_eq!(response, json!({ "batchItemFailures": [] }), "{name}: {}", webhook.log());
            continue;
        }
        let (status, body) = answer(&response);
        let expected = if name.ends_with("-push") { 202..203 } else { 200..202 };
        assert!(expected.contains(&status), "{name}: {status} {body}");
    }
}
