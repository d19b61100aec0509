//! What a function says when it can't do its work.

use std::time::Duration;

use serde_json::json;
use transship_tests::Rie;

use crate::world::World;

const NONE: &[(String, String)] = &[];
const TIME: Duration = Duration::from_secs(60);

/// Who deploys by hand learns of everything that is missing at once, and from the log alone.
#[tokio::test]
async fn a_function_names_all_settings_that_it_misses() {
    for (name, needs) in [
        ("webhook", &["TRANSSHIP_TABLE", "TRANSSHIP_JOBS_URL", "TRANSSHIP_EVENTS_URL"][..]),
        ("worker", &["TRANSSHIP_TABLE", "TRANSSHIP_JOBS_URL", "TRANSSHIP_EVENTS_URL"]),
        ("logger", &["TRANSSHIP_TABLE", "TRANSSHIP_NOTIFICATIONS_URL", "TRANSSHIP_TOPIC_ARN", "TRANSSHIP_DEAD_LETTERS_ARN"]),
        ("notifier", &["TRANSSHIP_TABLE", "TRANSSHIP_NOTIFICATIONS_URL"]),
        (
            "api",
            &[
                "TRANSSHIP_TABLE",
                "TRANSSHIP_JOBS_URL",
                "TRANSSHIP_EVENTS_URL",
                "TRANSSHIP_NOTIFICATIONS_URL",
                "TRANSSHIP_API_TOKEN",
            ],
        ),
    ] {
        let function = Rie::start(name, NONE, TIME).await;
        function.invoke(&json!({})).await.unwrap_err();
        let lines = function.lines();
        let errors: Vec<String> = lines.iter().filter_map(|line| Some(line["error"].as_str()?.to_owned())).collect();
        let told =
            |setting: &&str| errors.first().is_some_and(|error| error.contains(&format!("{setting} is missing: set it to")));
        assert!(needs.iter().all(told), "{name}: {errors:?}");
    }
}

/// An event that can't be read must fail the invocation: an answer would tell the queue that it is done with.
#[tokio::test]
async fn an_event_that_is_not_understood_fails_and_says_so() {
    let world = World::start().await;
    for name in ["webhook", "worker", "logger", "notifier", "api"] {
        let function = world.function(name).await;
        for event in [json!({}), json!({ "Records": "none" }), json!({ "Records": [{ "eventSource": "aws:sns" }] })] {
            let error = function.invoke(&event).await.unwrap_err();
            assert_eq!(error["errorType"], "Unhandled", "{name}: {event}");
        }
    }
}

/// What another version wrote is not lost: it comes again, until this one is gone or it is among the dead letters.
#[tokio::test]
async fn a_message_that_is_not_understood_comes_again() {
    let world = World::start().await;
    for (queue, name) in [("jobs.fifo", "worker"), ("events", "logger"), ("notifications", "notifier")] {
        world.send(queue, "{\"from\":\"the future\"}").await;
        let function = world.function(name).await;
        assert_eq!(world.deliver(queue, 1, &function).await, Some(0), "{name}: {}", function.log());
    }
}
