//! Instances, rules and secrets that are given to the API's function.

use serde_json::{Value, json};
use transship_tests::{ALICE, DockerRegistry, Rie, assert_same};

use crate::world::{TOKEN, World, answer, call, image, request};

async fn send(api: &Rie, method: &str, path: &str, body: &Value) -> (u64, Value) {
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    answer(&api.invoke(&request(method, path, &headers, &body.to_string())).await.unwrap())
}

/// Would break: on AWS an instance can't be made through the API, its password can't be used, is in a log, or outlives it; a new rule
/// waits for a push.
#[tokio::test]
async fn a_password_that_is_given_to_the_api_is_used_by_the_worker_and_goes_with_its_instance() {
    let (build, mirror) = (DockerRegistry::builder().login(ALICE).start().await, DockerRegistry::start().await);
    image(7).push(&build.at("team/app", "v1")).await;
    let world = World::start().await;
    let mut environment = world.environment();
    environment.push(("TRANSSHIP_LOG".into(), "trace,aws_smithy_runtime::client::orchestrator=trace".into()));
    let api = Rie::start("api", &environment, std::time::Duration::from_secs(60)).await;

    let credentials = json!({ "username": ALICE.user, "password": { "value": ALICE.password } });
    let from = json!({ "endpoint": build.url(), "kind": "distribution", "credentials": credentials });
    let (status, made) = send(&api, "PUT", "/v1/instances/build", &from).await;
    assert_eq!((status, &made["credentials"]["password"]), (201, &json!({ "from": "stored" })), "{made}");
    let to = json!({ "endpoint": mirror.url(), "kind": "distribution" });
    assert_eq!(send(&api, "PUT", "/v1/instances/mirror", &to).await.0, 201);
    let rule = json!({ "source": { "namespace": "team" }, "target": { "instance": "mirror" } });
    let (status, rule) = send(&api, "PUT", "/v1/instances/build/rules/release", &rule).await;
    assert_eq!(status, 201, "{rule}");
    let kept = world.secrets_below("transship/instances/build/").await;
    assert_eq!(kept.len(), 1, "{kept:?}");

    let worker = world.function("worker").await;
    world.drain("jobs.fifo", 1, &worker).await;
    assert_same(&build.at("team/app", "v1"), &mirror.at("team/app", "v1")).await;
    let logger = world.function("logger").await;
    world.drain("events", 10, &logger).await;
    let task = rule["first_run"].as_str().unwrap();
    let (_, log) = answer(&api.invoke(&call("GET", &format!("/v1/tasks/{task}"))).await.unwrap());
    assert_eq!((&log["trigger"], &log["status"]), (&json!("new rule"), &json!("succeeded")), "{log}");

    for path in ["/v1/instances/build/rules/release", "/v1/instances/build"] {
        assert_eq!(answer(&api.invoke(&call("DELETE", path)).await.unwrap()).0, 204);
    }
    assert_eq!(world.secrets_below("transship/instances/").await, Vec::<String>::new());
    assert!(!api.log().contains(ALICE.password) && !worker.log().contains(ALICE.password));
}
