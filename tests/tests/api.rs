//! The management API as a program sees it: what it shows, in which order, and what it says to a wrong request.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use transship_tests::*;

const BUILD: &str = "instance: build, namespace: team";
const MIRROR: &str = "instance: prod, namespace: mirror";

/// Would break: an instance that is not shown, or whose secrets are, be it by the name of where they are.
#[tokio::test]
async fn instances_are_shown_without_their_secrets() {
    let mut transship = Transship::reserve();
    let build = "  - name: build\n    endpoint: https://build.example:8443\n    kind: harbor\n    region: eu-central-1\n    zone: global\n    \
                 credentials: { username: alice, password: 'env:ALICE_PASSWORD' }\n    webhook_secret: 'env:HOOK_SECRET'\n";
    transship.start(&config(&[build.into(), instance("prod", "https://prod.example")], &[])).await;

    let answer = transship.get("/v1/instances").await;
    let file = transship.config_file().display().to_string();

    let build = json!({
        "name": "build", "endpoint": "https://build.example:8443/", "kind": "harbor", "region": "eu-central-1", "zone": "global",
        "credentials": { "username": "alice", "password": { "from": "env" } }, "webhook_secret": { "from": "env" },
        "webhook": "/hooks/build", "revision": 1, "file": file,
    });
    let prod = json!({
        "name": "prod", "endpoint": "https://prod.example/", "kind": "distribution", "webhook_secret": { "from": "env" },
        "webhook": "/hooks/prod", "revision": 1, "file": file,
    });
    assert_eq!(answer, json!({ "items": [build, prod] }), "by name, and of secrets only where they are from");
}

/// Would break: a rule that is shown otherwise than it was written, or a page of rules that repeats or leaves out one.
#[tokio::test]
async fn rules_are_shown_by_name_in_pages() {
    let mut transship = Transship::reserve();
    let from = r"instance: build, namespace: team, repository: 'app-.*', tag: 'v\d+', types: [image, chart]";
    let mut rules = vec![rule("release", from, MIRROR, "overwrite: true, enabled: false, description: to production")];
    rules.extend((0..7).map(|n| rule(&format!("r{n}"), BUILD, &format!("instance: prod, namespace: n{n}"), "")));
    let instances = [instance("build", "https://build.example"), instance("prod", "https://prod.example")];
    transship.start(&config(&instances, &rules)).await;

    let names: Vec<Value> = walk(&transship, "/v1/instances/build/rules", 3).await.iter().map(|r| r["name"].clone()).collect();
    assert_eq!(names, ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "release"]);
    let release = walk(&transship, "/v1/instances/build/rules", 1000).await.pop().unwrap();
    let wanted = json!({
        "name": "release", "description": "to production", "overwrite": true, "enabled": false, "revision": 1,
        "propagate_deletions": false, "referrers": true, "file": transship.config_file().display().to_string(),
        "source": {
            "instance": "build", "namespace": "team", "repository": "app-.*", "tag": r"v\d+", "types": ["image", "chart"],
        },
        "target": { "instance": "prod", "namespace": "mirror" },
    });
    assert_eq!(release, wanted);
    assert_eq!(transship.get("/v1/instances/prod/rules").await, json!({ "items": [] }));
}

/// Would break: a page that repeats or leaves out a task or a resource, or an order that is not the newest first.
#[tokio::test]
async fn tasks_come_newest_first_and_pages_lose_and_repeat_nothing() {
    let bulk = Bulk::new("team", 3, 9);
    let (build, prod) = (DockerRegistry::builder().filled(bulk.clone()).start().await, DockerRegistry::start().await);
    let mut transship = Transship::reserve();
    let rules = [rule("all", BUILD, MIRROR, ""), rule("quiet", BUILD, "instance: prod, namespace: quiet", "")];
    transship.start(&config(&[instance("build", build.url()), instance("prod", prod.url())], &rules)).await;
    let mut started = Vec::new();
    for n in 1..=7 {
        let (status, answer) = transship.call(Method::POST, "/v1/instances/build/rules/all/sync").await;
        assert_eq!(status, 202, "{answer}");
        started.insert(0, answer["task"].clone());
        transship.ended("build/all", n).await;
    }

    let ids = |tasks: Vec<Value>| tasks.iter().map(|task| task["id"].clone()).collect::<Vec<_>>();
    for limit in [1, 2, 3, 7, 1000] {
        assert_eq!(ids(walk(&transship, "/v1/instances/build/rules/all/tasks", limit).await), started, "limit={limit}");
    }
    assert_eq!(transship.get("/v1/instances/build/rules/quiet/tasks").await, json!({ "items": [] }), "each rule has its own");

    let oldest = started.last().unwrap().as_str().unwrap();
    let all = walk(&transship, &format!("/v1/tasks/{oldest}/resources"), 1000).await;
    let names = |resources: &[Value]| resources.iter().map(|r| r["source"].to_string()).collect::<BTreeSet<_>>();
    assert_eq!((all.len(), names(&all).len()), (bulk.len(), bulk.len()));
    for limit in [4, 9, 27] {
        assert_eq!(walk(&transship, &format!("/v1/tasks/{oldest}/resources"), limit).await, all, "limit={limit}");
    }
    assert_eq!(transship.get(&format!("/v1/tasks/{oldest}")).await["counts"]["copied"], bulk.len());
    let newest = transship.get(&format!("/v1/tasks/{}", started[0].as_str().unwrap())).await;
    assert_eq!(newest["counts"]["unchanged"], bulk.len());
}

/// Would break: a problem that is no problem document, whose status is another than its own, or that does not say how to mend it.
#[tokio::test]
async fn a_wrong_request_is_told_what_is_wrong_and_how_to_mend_it() {
    let mut transship = Transship::reserve();
    let instances = [instance("build", "https://build.example"), instance("prod", "https://prod.example")];
    transship.start(&config(&instances, &[rule("off", BUILD, MIRROR, "enabled: false")])).await;
    let (get, post, tasks) = (Method::GET, Method::POST, "/v1/instances/build/rules/off/tasks");
    let page = |query: &str| format!("{tasks}?{query}");
    for (method, path, status, parts) in [
        (&get, "/v1".into(), 404, &["/v1/"][..]),
        (&get, "/v1/nothing".into(), 404, &["/v1/"]),
        (&get, "/".into(), 404, &["/v1/"]),
        (&get, "/v1/instances/none/rules".into(), 404, &["no instance none", "GET /v1/instances lists"]),
        (&get, "/v1/instances/No!/rules".into(), 404, &["No!", "is not an instance name: ", "lowercase"]),
        (&get, "/v1/instances/build/rules/none/tasks".into(), 404, &["no rule none", "GET /v1/instances/build/rules lists"]),
        (&post, "/v1/instances/build/rules/none/sync".into(), 404, &["no rule none"]),
        (&get, "/v1/tasks/7".into(), 404, &["is not a task ID: "]),
        (&get, "/v1/tasks/1-01a1fe5f9e14b6273d00184eeaac".into(), 404, &["no task", "expired"]),
        (&get, "/v1/tasks/1-01a1fe5f9e14b6273d00184eeaac/resources".into(), 404, &["no task"]),
        (&post, "/v1/instances/build/rules/off/sync".into(), 409, &["build/off is disabled", "enable it"]),
        (&get, "/v1/instances/build/rules/off/sync".into(), 405, &["Allow"]),
        (&Method::DELETE, "/v1/instances".into(), 405, &["Allow"]),
        (&get, page("limit=0"), 400, &["limit: ", "from 1 to 1000", "\"0\""]),
        (&get, page("limit=1001"), 400, &["limit: ", "from 1 to 1000", "\"1001\""]),
        (&get, page("limit=abc"), 400, &["limit: ", "from 1 to 1000", "\"abc\""]),
        (&get, page("limit=-1"), 400, &["limit: ", "from 1 to 1000"]),
        (&get, page("limt=5"), 400, &["limt", "`limit` or `cursor`"]),
        (&get, "/v1/instances?page=2".into(), 400, &["page", "`limit` or `cursor`"]),
    ] {
        let what = format!("{method} {path}");
        let request = reqwest::Client::new().request(method.clone(), format!("{}{path}", transship.url()));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{what}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{what}");
        assert_eq!(response.headers().contains_key("allow"), status == 405, "{what}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["status"], status, "{what}");
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{what}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        for part in parts {
            assert!(detail.contains(part), "{part:?} is not in the answer to {what}: {detail}");
        }
        assert!(!detail.contains("deserialize"), "{what}: words of a library: {detail}");
    }
    assert_eq!(transship.get(tasks).await, json!({ "items": [] }), "a refused request leaves nothing behind");
}

/// Would break: a start by the API that does not say where to look, or a task that never comes to be.
#[tokio::test]
async fn a_sync_is_answered_with_the_task_to_look_at() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    Image::random(1).build().push(&build.at("team/app", "v1")).await;
    let mut transship = Transship::reserve();
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    transship.start(&config(&instances, &[rule("all", BUILD, MIRROR, "")])).await;

    let sync = format!("{}/v1/instances/build/rules/all/sync", transship.url());
    let response = reqwest::Client::new().post(sync).send().await.unwrap();

    assert_eq!(response.status(), 202);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let id = response.json::<Value>().await.unwrap()["task"].clone();
    assert_eq!(location, format!("/v1/tasks/{}", id.as_str().unwrap()));
    assert_eq!(transship.ended("build/all", 1).await[0]["id"], id);
    let task = transship.get(&location).await;
    assert_eq!(
        [&task["trigger"], &task["status"], &task["counts"]["copied"]],
        [&json!("by hand"), &json!("succeeded"), &json!(1)]
    );
}

/// Would break: what a load balancer and a person look at first.
#[tokio::test]
async fn health_tells_of_the_store_and_the_queues() {
    let mut transship = Transship::reserve();
    transship.start(&config(&[instance("build", "https://build.example")], &[])).await;
    let empty = json!({ "waiting": 0, "held": 0, "dead": 0 });
    let health = transship.get("/health").await;
    assert_eq!([&health["status"], &health["store"]], ["ok", "ok"]);
    assert_eq!(health["queues"], json!({ "jobs": empty, "events": empty, "notifications": empty }));
    assert!(health["version"].as_str().is_some_and(|version| version.contains('.')), "{health}");
}

/// All items of a listing, page by page; each page but the last is full, and the last one says that it is.
async fn walk(transship: &Transship, path: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = transship.get(&format!("{path}?limit={limit}{cursor}")).await;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit, "{} items of at most {limit}", items.len());
        all.extend(items.clone());
        let Some(next) = page["next"].as_str() else { return all };
        assert_eq!(items.len(), limit, "a page before the last is full");
        cursor = format!("&cursor={}", next.replace('/', "%2F").replace(':', "%3A").replace('@', "%40"));
    }
}
