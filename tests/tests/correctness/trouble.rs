//! Registries that fail for a while, and one that refuses.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::json;
use transship_tests::*;

use crate::world::*;

/// Answers the first `n` requests that set the tag so, and lets the others pass.
fn first(n: usize, trouble: Action) -> impl Fn(&Request) -> Action + Send + Sync {
    let seen = AtomicUsize::new(0);
    move |request| {
        let fails = request.is("PUT", "/team/app/manifests/v1") && seen.fetch_add(1, Ordering::SeqCst) < n;
        if fails { trouble.clone() } else { Action::Pass }
    }
}

/// Would break: an error that passes and is taken for good; a job that is given up with the first message; attempts that nobody
/// can see.
#[tokio::test]
async fn what_passes_is_tried_again_until_it_has_passed() {
    let rules = ["busy", "limited", "resets", "fine"].map(|to| mirror(&format!("to-{to}"), "a", to));
    let world = World::new(["a", "busy", "limited", "resets", "fine"], &rules).await;
    // A few more than one attempt makes by itself.
    world.front("busy").on(first(4, Action::status(503, &[], "out to lunch")));
    world.front("resets").on(first(4, Action::Reset));
    world.front("limited").on(first(1, Action::status(429, &[("Retry-After", "3")], "")));
    let image = image(1);
    image.push(&world.app("a")).await;

    for (name, attempts) in [("busy", 2), ("resets", 2), ("limited", 2), ("fine", 1)] {
        let tasks = world.transship.ended(&format!("a/to-{name}"), 1).await;
        assert_eq!((&tasks[0]["status"], &tasks[0]["success_rate"]), (&json!("succeeded"), &json!(1.0)), "{name}");
        let resource = only_resource(&world.transship, &tasks[0]).await;
        assert_eq!((&resource["outcome"], &resource["attempts"]), (&json!("copied"), &json!(attempts)), "{name}: {resource}");
        assert!(
            resource.get("error").is_none() && resource.get("retry_at").is_none(),
            "what has passed is not shown: {resource}"
        );
        assert_same(&world.app("a"), &world.app(name)).await;
    }
    // Who asks for patience is given it: nothing at all comes before its time.
    let asked = world.front("limited").exchanges();
    let at = asked.iter().position(|exchange| exchange.status == Some(429)).unwrap();
    let pause = asked[at + 1].began - asked[at].ended.unwrap();
    assert!(pause >= Duration::from_millis(2900), "{pause:?}");
}

/// Would break: a wait that is shown as nothing at all.
#[tokio::test]
async fn a_copy_that_waits_says_what_for() {
    let world = World::new(["a", "b"], &[mirror("to-b", "a", "b")]).await;
    world.front("b").on(first(1, Action::status(429, &[("Retry-After", "600")], "")));
    image(1).push(&world.app("a")).await;
    let mut resource = json!(null);
    wait_until("the wait to be shown", SOON, async || {
        let tasks = world.transship.tasks("a/to-b").await;
        if let [task] = &tasks[..] {
            resource = only_resource(&world.transship, task).await;
        }
        resource.get("retry_at").is_some()
    })
    .await;
    assert_eq!((&resource["state"], &resource["attempts"]), (&json!("running"), &json!(1)));
    let error = resource["error"].as_str().unwrap();
    assert!(error.starts_with("b: ") && error.contains("429"), "{error}");
    let time = |value: &serde_json::Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(time(&resource["retry_at"]).duration_since(time(&resource["started"])).as_secs() >= 600, "{resource}");
}

/// Would break: a refusal that is tried again for a day; a message that leaves its reader to guess which registry it was.
#[tokio::test]
async fn a_refusal_fails_at_once_and_says_what_to_check() {
    let world = World::new(["a", "b"], &[mirror("to-b", "a", "b")]).await;
    let denied = json!({"errors": [{"code": "DENIED", "message": "requested access to the resource is denied"}]}).to_string();
    world.front("b").on(first(usize::MAX, Action::status(403, &[("Content-Type", "application/json")], denied)));
    image(1).push(&world.app("a")).await;

    let tasks = world.transship.ended("a/to-b", 1).await;
    assert_eq!((&tasks[0]["status"], &tasks[0]["success_rate"]), (&json!("failed"), &json!(0.0)));
    let resource = only_resource(&world.transship, &tasks[0]).await;
    assert_eq!((&resource["outcome"], &resource["attempts"]), (&json!("failed"), &json!(1)));
    let reason = resource["reason"].as_str().unwrap();
    assert!(reason.starts_with("b: ") && reason.contains("team/app:v1"), "where: {reason}");
    assert!(reason.contains("403 DENIED: requested access to the resource is denied"), "what: {reason}");
    assert!(reason.contains("check what the credentials of b may do"), "and what to do: {reason}");
    world.settle().await;
    assert_eq!(world.front("b").count("PUT", "/team/app/manifests/v1"), 1);
    assert!(world.app("b").find_manifest().await.is_none());
}
