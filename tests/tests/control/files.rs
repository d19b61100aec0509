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
    for part in ["rule build/by-hand", file.to_str().unwrap(), "the API", "--adopt"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    let said = serve(config(&instances[..1], &[])).await;
    assert!(said.contains("instance prod is to be deleted") && said.contains("rule build/by-hand"), "{said}");
}

/// Starts `serve` once with these arguments, asks it something, and ends it.
async fn once<T>(transship: &mut Transship, arguments: &[&str], ask: impl AsyncFnOnce(&Transship) -> T) -> T {
    transship.kill();
    let (data, listen) = (transship.data().display().to_string(), transship.url().replace("http://", ""));
    let arguments = [&["serve", "--data", &data, "--listen", &listen, "--no-first-run"], arguments].concat();
    let arguments: Vec<&str> = match arguments.contains(&"--config") {
        true => arguments,
        false => arguments.into_iter().filter(|argument| *argument != "--no-first-run").collect(),
    };
    let mut process = transship.command(&arguments).spawn().unwrap();
    let health = format!("{}/health", transship.url());
    wait_until("serve to answer", std::time::Duration::from_secs(60), async || {
        assert!(process.try_wait().unwrap().is_none(), "it ended: {arguments:?}");
        reqwest::get(&health).await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let answer = ask(transship).await;
    process.kill().unwrap();
    process.wait().unwrap();
    answer
}

/// Would break: entries that only a file can change that is not there any more; a move to a file, or from one, that costs the rules' logs,
/// starts runs, loses a secret, or takes what nobody has named.
#[tokio::test]
async fn what_is_there_moves_from_a_file_to_the_api_and_back_with_its_log() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    Image::random(1).layers(1, 1_000).build().push(&build.at("team/app", "v1")).await;
    let mut transship = Transship::reserve();
    transship.set("HOOK_SECRET", HOOK_SECRET);
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    let all = rule("all", "instance: build, namespace: team", "instance: prod, namespace: mirror", "");
    transship.start(&config(&instances, &[all])).await;
    assert!(transship.run(&["sync", "build/all", "--wait"]).await.status.success());
    let id = transship.ended("build/all", 1).await[0]["id"].clone();
    let file = transship.config_file();

    once(&mut transship, &["--adopt"], async |transship| {
        let disabled = transship.run(&["rules", "disable", "build/all"]).await;
        assert!(disabled.status.success(), "{disabled:?}");
        let change = json!({ "region": "eu-central-1" });
        done(transship, Method::PATCH, "/v1/instances/build", change).await;
        assert_eq!(transship.notify("build", &json!({ "events": [] })).await.status(), 200, "its secret is in use");
        assert_eq!(transship.tasks("build/all").await[0]["id"], id, "the log stays");
        done(transship, Method::PUT, "/v1/instances/build/rules/by-hand?start=false", to_prod()).await;
    })
    .await;
    // It stays so without the flag.
    once(&mut transship, &[], async |transship| {
        assert!(transship.run(&["rules", "enable", "build/all", "--no-first-run"]).await.status.success());
    })
    .await;
    once(&mut transship, &["--config", file.to_str().unwrap(), "--adopt"], async |transship| {
        let rules = transship.get("/v1/instances/build/rules").await;
        let owners = rules["items"].as_array().unwrap().iter().map(|rule| rule["file"].is_string()).collect::<Vec<_>>();
        assert_eq!(owners, [true, false], "what the file does not name stays the API's: {rules}");
        let refused = transship.run(&["rules", "disable", "build/all"]).await;
        assert!(
            refused.status.code() == Some(3) && String::from_utf8_lossy(&refused.stderr).contains("--adopt"),
            "{refused:?}"
        );
        assert_eq!(transship.tasks("build/all").await[0]["id"], id);
        assert_eq!(transship.tasks("build/all").await.len(), 1, "nothing was run");
    })
    .await;
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
