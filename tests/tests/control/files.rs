//! What belongs to a configuration file, and what to the API.

use reqwest::Method;
use serde_json::json;
use transship_tests::*;

use crate::{done, send, to_prod};

/// Would break: a change through the API that the next start takes back; a file that deletes what somebody has made through the API;
/// two who change the same rule.
#[tokio::test]
async fn a_file_and_the_api_keep_to_what_is_theirs() {
    let mut transship = Transship::reserve();
    transship.set("HOOK_SECRET", HOOK_SECRET);
    let instances = [instance("build", "https://build.example"), instance("prod", "https://prod.example")];
    let of_file = |name: &str| rule(name, "instance: build, namespace: team", "instance: prod, namespace: mirror", "");
    transship.start(&config(&instances, &[of_file("of-file")])).await;

    let file = transship.config_file().display().to_string();
    for (method, path, body) in [
        (Method::PUT, "/v1/instances/build", Some(json!({ "endpoint": "https://other.example" }))),
        (Method::PATCH, "/v1/instances/build", Some(json!({ "zone": "x" }))),
        (Method::DELETE, "/v1/instances/prod", None),
        (Method::PUT, "/v1/instances/build/secrets/webhook", Some(json!({ "value": "x" }))),
        (Method::PUT, "/v1/instances/build/rules/of-file", Some(to_prod())),
        (Method::PATCH, "/v1/instances/build/rules/of-file", Some(json!({ "enabled": false }))),
        (Method::DELETE, "/v1/instances/build/rules/of-file", None),
    ] {
        let refused = send(&transship, method.clone(), path, body.as_ref(), &[]).await;
        let detail = refused.body["detail"].as_str().unwrap_or_default();
        assert!(refused.status == 409 && detail.contains(&file), "{method} {path}: {refused:?}");
    }
    assert_eq!(transship.get("/v1/instances/build").await["file"], file);

    done(&transship, Method::PUT, "/v1/instances/build/rules/by-hand?start=false", to_prod()).await;
    transship.start(&config(&instances, &[of_file("another")])).await;
    let rules = transship.get("/v1/instances/build/rules").await;
    let names: Vec<_> = rules["items"].as_array().unwrap().iter().map(|rule| rule["name"].clone()).collect();
    assert_eq!(names, ["another", "by-hand"], "the file's own are as the file says, the API's are as they were");

    transship.kill();
    let (file, data) = (transship.config_file(), transship.data());
    let serve = async |text: String| {
        std::fs::write(&file, text).unwrap();
        let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
        let output = transship.run(&["serve", "--config", file, "--data", data, "--listen", "127.0.0.1:0"]).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = serve(config(&instances, &[of_file("by-hand")])).await;
    for part in ["rule build/by-hand", file.to_str().unwrap(), "the API"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    let said = serve(config(&instances[..1], &[])).await;
    assert!(said.contains("instance prod is to be deleted") && said.contains("rule build/by-hand"), "{said}");
}

/// Would break: a rule of a new file that leaves what is there already; one that runs again at each start, or because it is changed.
#[tokio::test]
async fn the_rules_of_a_new_file_begin_with_a_full_run() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    Image::random(1).build().push(&build.at("team/app", "v1")).await;
    let mut transship = Transship::reserve();
    transship.with_first_runs();
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    let mirror = |more: &str| rule("all", "instance: build, namespace: team", "instance: prod, namespace: mirror", more);
    transship.start(&config(&instances, &[mirror("")])).await;
    let tasks = transship.ended("build/all", 1).await;
    assert_eq!((&tasks[0]["trigger"], &tasks[0]["status"]), (&json!("new rule"), &json!("succeeded")));
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
    transship.restart().await;
    transship.start(&config(&instances, &[mirror("overwrite: true")])).await;
    transship.quiet().await;
    assert_eq!(transship.tasks("build/all").await.len(), 1);
}
