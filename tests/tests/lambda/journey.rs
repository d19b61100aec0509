//! A push on its way through all functions.

use serde_json::{Value, json};
use transship_model::Instance;
use transship_tests::{DockerRegistry, HOOK_SECRET, Rie, Sink, assert_same};

use crate::{
    events::samples,
    world::{TOKEN, World, answer, call, image, instance, push, request},
};

/// From the notification to the log: each function does its part with what the one before has left in AWS.
#[tokio::test]
async fn a_push_becomes_a_copy_and_a_log() {
    let (build, mirror) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let world = World::syncing(build.url(), mirror.url()).await;
    let image = image(1);
    image.push(&build.at("team/app", "v1")).await;

    let webhook = world.function("webhook").await;
    let (status, accepted) = answer(&webhook.invoke(&push("team/app", "v1", &image)).await.unwrap());
    assert_eq!(status, 202, "{accepted}");
    let task = accepted["tasks"][0].as_str().unwrap().to_owned();

    let worker = world.function("worker").await;
    assert_eq!(world.deliver("jobs.fifo", 1, &worker).await, Some(1), "{}", worker.log());
    assert_same(&build.at("team/app", "v1"), &mirror.at("team/app", "v1")).await;
    assert_eq!(world.deliver("jobs.fifo", 1, &worker).await, None, "one push is one job");

    let logger = world.function("logger").await;
    world.drain("events", 10, &logger).await;
    let api = world.function("api").await;
    let (status, log) = answer(&api.invoke(&call("GET", &format!("/v1/tasks/{task}"))).await.unwrap());
    assert_eq!((status, &log["status"], &log["counts"]["copied"]), (200, &json!("succeeded"), &json!(1)), "{log}");

    let pushes: Vec<Value> = webhook.lines().into_iter().filter(|line| line["level"] == "INFO").collect();
    assert_eq!((pushes.len(), &pushes[0]["tasks"], &pushes[0]["rules"]), (1, &json!(task), &json!("1")), "{pushes:?}");
    has_a_request(&pushes[0]);
    lines_can_be_found_by_request_and_task(&worker, &task);
    metrics_are_told(&webhook, &json!({ "Accepted": 1, "FunctionName": "stack-webhook" }));
    metrics_are_told(&worker, &json!({ "Jobs": 1, "Outcome": "done", "FunctionName": "stack-worker" }));
    let moved = &log["counts"]["bytes_moved"];
    metrics_are_told(
        &logger,
        &json!({ "TasksSucceeded": 1, "Copied": 1, "BytesMoved": moved, "FunctionName": "stack-logger" }),
    );
}

/// One line at `info` tells of the copy.
fn lines_can_be_found_by_request_and_task(worker: &Rie, task: &str) {
    let lines = worker.lines();
    let told: Vec<&Value> = lines.iter().filter(|line| line["level"] == "INFO").collect();
    assert_eq!(told.len(), 1, "{told:?}");
    let span = &told[0]["span"];
    assert_eq!((&span["task"], &span["rule"]), (&json!(task), &json!(1)), "{told:?}");
    has_a_request(told[0]);
}

/// A line is one of an invocation.
fn has_a_request(line: &Value) {
    assert!(line["span"]["request"].as_str().is_some_and(|id| id.len() == 36), "{line}");
}

/// Some line has these values, and CloudWatch is told to make metrics of them.
fn metrics_are_told(function: &Rie, values: &Value) {
    let lines = function.lines();
    let has_them = |line: &&Value| values.as_object().unwrap().iter().all(|(name, value)| line[name] == *value);
    let line = lines.iter().find(has_them).unwrap_or_else(|| panic!("{values} are not in {}", function.log()));
    let directive = &line["_aws"]["CloudWatchMetrics"][0];
    let named: Vec<&Value> = directive["Metrics"].as_array().unwrap().iter().map(|metric| &metric["Name"]).collect();
    let numbers = values.as_object().unwrap().iter().filter(|(_, value)| value.is_number());
    assert_eq!(directive["Namespace"], "transship");
    numbers.for_each(|(name, _)| assert!(named.contains(&&json!(name)), "{name} is not among {named:?}"));
}

/// Somebody who guesses, or has no token at all, must not start copies; who has it, may.
#[tokio::test]
async fn the_api_answers_the_bearer_of_its_token_only() {
    let world = World::syncing("http://127.0.0.1:1", "http://127.0.0.1:2").await;
    let api = world.function("api").await;
    let sync = "/v1/instances/build/rules/release/sync";
    for headers in [&[][..], &[("authorization", "Bearer guess")], &[("authorization", TOKEN)]] {
        let response = api.invoke(&request("POST", sync, headers, "")).await.unwrap();
        let (status, problem) = answer(&response);
        assert_eq!((status, &problem["title"]), (401, &json!("Unauthorized")), "{headers:?}");
        assert_eq!(response["headers"]["content-type"], "application/problem+json");
    }
    assert!(world.receive("jobs.fifo", 1).await["Records"].as_array().unwrap().is_empty());
    let (status, started) = answer(&api.invoke(&call("POST", sync)).await.unwrap());
    assert_eq!(status, 202, "{started}");
    let jobs = world.receive("jobs.fifo", 1).await;
    assert!(jobs["Records"][0]["body"].as_str().unwrap().contains("\"job\":\"scan\""), "{jobs}");
}

/// However much is logged, what proves a sender or a caller is not: logs have more readers than secrets.
#[tokio::test]
async fn no_log_has_a_secret() {
    let world = World::syncing("http://127.0.0.1:1", "http://127.0.0.1:2").await;
    let mut environment = world.environment();
    // The SDK writes down whole answers at that level, and a directive for one of its modules goes before one for all.
    environment.push(("TRANSSHIP_LOG".into(), "trace,aws_smithy_runtime::client::orchestrator=trace".into()));
    let webhook = Rie::start("webhook", &environment, std::time::Duration::from_secs(60)).await;
    let wrong = "not-the-secret-but-one";
    let headers = [("authorization", format!("Bearer {wrong}"))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(answer(&webhook.invoke(&request("POST", "/hooks/build", &headers, "{}")).await.unwrap()).0, 401);
    let path = format!("/hooks/build/{HOOK_SECRET}");
    // Right, but no notification.
    assert_eq!(answer(&webhook.invoke(&request("POST", &path, &[], "{}")).await.unwrap()).0, 400);
    assert_eq!(answer(&webhook.invoke(&push("team/app", "v1", &image(2))).await.unwrap()).0, 202);
    let api = Rie::start("api", &environment, std::time::Duration::from_secs(60)).await;
    assert_eq!(answer(&api.invoke(&call("GET", "/v1/instances")).await.unwrap()).0, 200);

    for (function, secrets) in [(&webhook, [HOOK_SECRET, wrong]), (&api, [TOKEN, HOOK_SECRET])] {
        let lines = function.lines();
        assert!(!lines.is_empty(), "the test looks at nothing");
        for secret in secrets {
            let found = lines.iter().find(|line| line.to_string().contains(secret));
            assert!(found.is_none(), "{secret}: {found:?}");
        }
    }
}

/// A job that was given up is found in the log as failed, and counted: nobody looks into an empty dead-letter queue.
#[tokio::test]
async fn a_dead_letter_is_logged_as_failed_and_counted() {
    let world = World::syncing("http://127.0.0.1:1", "http://127.0.0.1:2").await;
    let webhook = world.function("webhook").await;
    let (_, accepted) = answer(&webhook.invoke(&push("team/app", "v1", &image(3))).await.unwrap());
    let job = world.receive("jobs.fifo", 1).await["Records"][0]["body"].as_str().unwrap().to_owned();
    world.send("jobs-dead.fifo", &job).await;

    let logger = world.function("logger").await;
    world.drain("events", 10, &logger).await;
    assert_eq!(world.drain("jobs-dead.fifo", 10, &logger).await, 1);
    metrics_are_told(&logger, &json!({ "DeadLetters": 1, "FunctionName": "stack-logger" }));
    let api = world.function("api").await;
    let task = accepted["tasks"][0].as_str().unwrap();
    let (_, log) = answer(&api.invoke(&call("GET", &format!("/v1/tasks/{task}"))).await.unwrap());
    assert_eq!((&log["status"], &log["counts"]["failed"]), (&json!("failed"), &json!(1)), "{log}");
}

/// Who has a webhook is told of the end of a task, also if it is down at first; and what another version wrote into the same batch
/// neither blocks that nor is lost.
#[tokio::test]
async fn the_end_of_a_task_is_told_until_it_is_taken() {
    let world = World::start().await;
    let subscriber = Sink::start().await;
    let notify = json!({ "url": subscriber.url(), "private_network": true });
    let build =
        Instance { notify: Some(serde_json::from_value(notify).unwrap()), ..instance("distribution", "http://127.0.0.1:1") };
    world.apply(&[build, instance("mirror", "http://127.0.0.1:2")], &[]).await;

    let (_, sample) = samples("logger").into_iter().find(|(name, _)| name == "push").unwrap();
    // A log as old as the sample has expired.
    let today = jiff::Timestamp::now().to_string()[..11].to_owned();
    let mut batch: Value = serde_json::from_str(&sample.to_string().replace("2026-03-04T", &today)).unwrap();
    let records = batch["Records"].as_array_mut().unwrap();
    let mut unknown = records[0].clone();
    (unknown["messageId"], unknown["body"]) = (json!("unknown"), json!("{\"from\":\"the future\"}"));
    records.insert(1, unknown);
    let logger = world.function("logger").await;
    let again = json!({ "batchItemFailures": [{ "itemIdentifier": "unknown" }] });
    assert_eq!(logger.invoke(&batch).await, Ok(again), "{}", logger.log());

    let notifier = world.function("notifier").await;
    subscriber.answer(|_| 503);
    assert_eq!(world.deliver("notifications", 1, &notifier).await, Some(0), "{}", notifier.log());
    metrics_are_told(&notifier, &json!({ "Deliveries": 1, "Retries": 1, "Outcome": "again" }));
    subscriber.answer(|_| 200);
    transship_tests::wait_until("the notification comes again", std::time::Duration::from_secs(120), async || {
        world.deliver("notifications", 1, &notifier).await == Some(1)
    })
    .await;
    let deliveries = subscriber.deliveries();
    assert_eq!(deliveries.len(), 2);
    assert_eq!(deliveries[0].header("webhook-id"), deliveries[1].header("webhook-id"));
    let event = deliveries[1].json();
    assert_eq!(event["type"], "io.transship.task.succeeded");
    let (lines, task) = (notifier.lines(), event["data"]["task"].as_str().unwrap());
    for message in ["not taken; told again", "told"] {
        let line = lines.iter().find(|line| line["message"] == message).unwrap_or_else(|| panic!("{message}: {lines:?}"));
        let rule: u64 = task.split('-').next().unwrap().parse().unwrap();
        assert_eq!((&line["id"], &line["task"], &line["rule"]), (&event["id"], &json!(task), &json!(rule)), "{line}");
        has_a_request(line);
    }
}
