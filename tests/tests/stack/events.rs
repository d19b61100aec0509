//! What EventBridge takes from Amazon ECR.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use serde_json::{Value, json};
use transship_tests::{Aws, Stack, root};

/// Asks the emulator's EventBridge, for which no client is worth a dependency: it takes any signature of its own account.
async fn ask(stack: &Stack, operation: &str, what: &Value) -> Value {
    let region = Aws::REGION;
    let signature = format!(
        "AWS4-HMAC-SHA256 Credential=test/20260101/{region}/events/aws4_request, SignedHeaders=host;x-amz-date, Signature=00"
    );
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.post(stack.aws().endpoint()).header("x-amz-target", format!("AWSEvents.{operation}"));
    let request = request.header("authorization", signature).header("content-type", "application/x-amz-json-1.1");
    let response = request.body(what.to_string()).send().await.unwrap();
    let (status, answer) = (response.status(), response.text().await.unwrap());
    assert_eq!(status, 200, "{operation}: {answer}");
    serde_json::from_str(&answer).unwrap()
}

/// The deployed rule's pattern meets what ECR sends of pushes and deletions, and nothing else of it.
pub(crate) async fn pushes_and_deletions_are_taken_from_ecr(stack: &Stack) {
    let rules = ask(stack, "ListRules", &json!({})).await;
    let of_ecr = |rule: &&Value| rule["EventPattern"].as_str().is_some_and(|pattern| pattern.contains("aws.ecr"));
    let found: Vec<&Value> = rules["Rules"].as_array().unwrap().iter().filter(of_ecr).collect();
    assert_eq!(found.len(), 1, "{rules}");
    assert_eq!(found[0]["State"], "ENABLED", "{rules}");
    let pattern = &found[0]["EventPattern"];
    for (sample, is_taken) in
        [("ecr-push", true), ("ecr-push-untagged", true), ("ecr-delete", true), ("ecr-storage-class", false)]
    {
        let file = root().join("events/webhook").join(sample).with_extension("json");
        let message: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let event = message["Records"][0]["body"].as_str().unwrap();
        let failed = event.replace("SUCCESS", "FAILURE");
        for (event, is_taken) in [(event, is_taken), (&failed, false)] {
            let answer = ask(stack, "TestEventPattern", &json!({ "EventPattern": pattern, "Event": event })).await;
            assert_eq!(answer["Result"], is_taken, "{sample}: {event} and {pattern}");
        }
    }
}
