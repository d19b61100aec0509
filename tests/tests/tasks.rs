//! Tasks as operators have them: lists, live progress, cancelling, retrying; the real binary, and real registries behind proxies.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use transship_tests::*;

const BUILD: &str = "instance: build, namespace: team";
const MIRROR: &str = "instance: prod, namespace: mirror";

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn id_of(task: &Value) -> String {
    task["id"].as_str().unwrap().to_owned()
}

/// One process with a rule `build/all` between these registries.
async fn serving(build: &str, prod: &str) -> Transship {
    let mut transship = Transship::reserve();
    transship.start(&config(&[instance("build", build), instance("prod", prod)], &[rule("all", BUILD, MIRROR, "")])).await;
    transship
}

/// Would break: a cancelled task that goes on copying, or sets a tag after it has ended; what had been copied by then, counted as undone;
/// a job that waits for a registry and brings its image when it comes up; a task that stays running.
#[tokio::test]
async fn a_cancelled_task_stops_where_it_is_and_touches_the_target_no_more() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    for repository in ["team/done", "team/busy", "team/waits"] {
        Image::random(1).layers(1, 200_000).build().push(&build.at(repository, "v1")).await;
    }
    let gate = Gate::new();
    let held = gate.clone();
    let target = Proxy::start(prod.url(), move |request| match request {
        _ if request.is("PUT", "mirror/busy/manifests") => Action::Hold(held.clone()),
        _ if request.is("HEAD", "mirror/waits/manifests") => Action::status(503, &[("Retry-After", "2")], ""),
        _ => Action::Pass,
    })
    .await;
    let transship = serving(build.url(), target.url()).await;
    let id = text(&transship.run(&["sync", "build/all"]).await.stdout).trim().to_owned();
    gate.reached(1).await;
    wait_until("the first to be copied", Duration::from_secs(60), async || {
        transship.get(&format!("/v1/tasks/{id}")).await["counts"]["copied"] == 1
    })
    .await;

    let output = transship.run(&["tasks", "cancel", &id, "--wait"]).await;

    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = text(&output.stdout);
    assert!(told.contains("status        cancelled") && told.contains("1 copied, 2 cancelled"), "{told}");
    let task = transship.get(&format!("/v1/tasks/{id}")).await;
    assert_eq!((&task["status"], &task["counts"]["cancelled"]), (&json!("cancelled"), &json!(2)));
    assert_eq!(task["cancelled"]["by"], "this machine");
    let resources = transship.resources(&id).await;
    for (resource, outcome) in resources.iter().zip(["skipped", "copied", "skipped"]) {
        assert_eq!(resource["outcome"], outcome, "{resource}");
        assert!(outcome == "copied" || resource["reason"] == "cancelled", "{resource}");
    }
    target.on(|_| Action::Pass);
    target.forget();
    transship.quiet().await;
    assert_eq!(target.exchanges().len(), 0, "nobody touches the target any more");
    gate.open();
    // The request that was on its way is all that the registry may have got.
    assert_eq!(prod.client().catalog().await.iter().filter(|name| *name == "mirror/waits").count(), 0);
    let (status, problem) = transship.call(Method::POST, &format!("/v1/tasks/{id}/cancel")).await;
    assert_eq!(status, 409, "{problem}");
    let list = transship.get("/v1/tasks?status=cancelled").await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");

    // Whoever has stopped it in error goes on with what was left.
    let output = transship.run(&["tasks", "retry", &id, "--wait", "--output", "json"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let retry: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&retry["counts"]["found"], &retry["counts"]["failed"]), (&json!(2), &json!(0)));
    for repository in ["done", "busy", "waits"] {
        assert_same(&build.at(format!("team/{repository}"), "v1"), &prod.at(format!("mirror/{repository}"), "v1")).await;
    }
}

/// Would break: a retry that brings everything again, or nothing; one of a task in which nothing failed; a failure that it hides.
#[tokio::test]
async fn a_retry_brings_what_failed_and_nothing_else() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    for repository in ["team/bad", "team/good", "team/worse"] {
        Image::random(1).layers(1, 2_000).build().push(&build.at(repository, "v1")).await;
    }
    let denied = |request: &Request, of: &[&str]| {
        let is_one = of.iter().any(|name| request.is("PUT", &format!("mirror/{name}/manifests")));
        if is_one { Action::status(403, &[], r#"{"errors":[{"code":"DENIED"}]}"#) } else { Action::Pass }
    };
    let target = Proxy::start(prod.url(), move |request| denied(request, &["bad", "worse"])).await;
    let transship = serving(build.url(), target.url()).await;
    assert_eq!(transship.run(&["sync", "build/all", "--wait"]).await.status.code(), Some(1));
    let first = id_of(&transship.ended("build/all", 1).await[0]);

    // What failed is found among the rest, page by page, by its state or by its name at either end.
    for (query, expected) in [
        ("state=failed", &["bad", "worse"][..]),
        ("state=copied", &["good"]),
        ("state=skipped", &[]),
        ("name=mirror/w", &["worse"]),
        ("name=build/team/", &["bad", "good", "worse"]),
        ("state=failed&name=bad", &["bad"]),
    ] {
        let mut found = Vec::new();
        let mut path = format!("/v1/tasks/{first}/resources?{query}&limit=1");
        loop {
            let page = transship.get(&path).await;
            let of_page = page["items"].as_array().unwrap().iter();
            found.extend(of_page.map(|item| item["source"]["repository"].as_str().unwrap().replace("team/", "")));
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/v1/tasks/{first}/resources?{query}&limit=1&cursor={next}");
        }
        assert_eq!(found, expected, "{query}");
    }
    let shown = transship.run(&["task", &first, "--state", "failed", "--name", "worse"]).await;
    assert!(text(&shown.stdout).contains("team/worse") && !text(&shown.stdout).contains("team/bad"), "{shown:?}");

    target.on(move |request| denied(request, &["worse"]));
    let output = transship.run(&["tasks", "retry", &first, "--wait", "--output", "json"]).await;

    assert_eq!(output.status.code(), Some(1), "one fails again");
    let retry: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&retry["retry_of"], &retry["status"]), (&json!(first), &json!("partly-failed")));
    assert_eq!((&retry["counts"]["found"], &retry["repositories"]), (&json!(2), &json!(2)));
    assert_eq!(retry["trigger"], format!("retry of {first}"));
    let of = |resources: &[Value]| resources.iter().map(|r| r["source"]["repository"].to_string()).collect::<Vec<_>>();
    assert_eq!(of(&transship.resources(retry["id"].as_str().unwrap()).await), [r#""team/bad""#, r#""team/worse""#]);
    assert_same(&build.at("team/bad", "v1"), &prod.at("mirror/bad", "v1")).await;

    // A retry can be made again itself, and then there is nothing left to be made again.
    target.on(|_| Action::Pass);
    let output = transship.run(&["tasks", "retry", &id_of(&retry), "--wait"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let last = id_of(&transship.tasks("build/all").await[0]);
    assert_eq!(of(&transship.resources(&last).await), [r#""team/worse""#]);
    let output = transship.run(&["tasks", "retry", &last]).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("nothing failed in task"), "{output:?}");
    let failed = transship.run(&["tasks", "list", "build/all", "--status", "partly-failed", "--output", "json"]).await;
    let failed: Vec<Value> = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(failed.iter().map(id_of).collect::<Vec<_>>(), [id_of(&retry), first]);
}

/// Would break: a copy of minutes of which nobody can see how far it is; an estimate that is none, or wild; a stream that does not end with
/// its task, or that who connects again waits for in vain.
#[tokio::test]
async fn a_copy_can_be_watched_on_its_way() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let size = 24 << 20;
    Image::random(1).layers(1, size).build().push(&build.at("team/app", "v1")).await;
    // About 1.6 MB a second, so that there are several reports.
    let slow = Proxy::start(build.url(), |request| {
        if request.is("GET", "/blobs/") { Action::Slow(Duration::from_millis(40)) } else { Action::Pass }
    })
    .await;
    let transship = serving(slow.url(), prod.url()).await;
    let id = text(&transship.run(&["sync", "build/all"]).await.stdout).trim().to_owned();
    let path = format!("/v1/tasks/{id}/events");
    wait_until("the task to be in the log", Duration::from_secs(60), async || {
        transship.call(Method::GET, &format!("/v1/tasks/{id}")).await.0 == 200
    })
    .await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let watch = async |last: Option<&str>| {
        let request = http.get(format!("{}{path}", transship.url()));
        let request = last.iter().fold(request, |request, last| request.header("Last-Event-ID", *last));
        let response = request.send().await.unwrap();
        let (status, kind) = (response.status(), response.headers().get("content-type").cloned());
        (status, kind, response.text().await.unwrap())
    };
    let poll = async {
        let mut seen = Value::Null;
        wait_until("an estimate", Duration::from_secs(120), async || {
            seen = transship.get(&format!("/v1/tasks/{id}")).await;
            seen["progress"]["seconds_left"].is_u64() || seen.get("ended").is_some()
        })
        .await;
        seen
    };

    let ((status, kind, events), polled) = tokio::join!(watch(None), poll);

    assert_eq!((status, kind.unwrap().to_str().unwrap()), (StatusCode::OK, "text/event-stream"));
    let progress = &polled["progress"];
    let (done, total) = (progress["bytes_done"].as_u64().unwrap(), progress["bytes_total"].as_u64().unwrap());
    assert!(done < total && total >= size as u64, "{polled}");
    assert!(progress["bytes_per_second"].as_u64().is_some_and(|pace| pace > 0), "{polled}");
    assert!(progress["seconds_left"].as_u64().is_some_and(|left| left < 3600), "{polled}");

    let field = |event: &str, name: &str| {
        event.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned)).unwrap_or_default()
    };
    let all: Vec<(String, Value)> = events
        .split("\n\n")
        .filter(|event| event.contains("event: "))
        .map(|event| (field(event, "event"), serde_json::from_str(&field(event, "data")).unwrap()))
        .collect();
    let moved: Vec<u64> = all
        .iter()
        .filter(|(kind, resource)| kind == "resource" && resource["state"] == "running")
        .map(|(_, resource)| resource["bytes_moved"].as_u64().unwrap())
        .collect();
    assert!(moved.len() >= 2 && moved.is_sorted(), "{moved:?}");
    let (kind, last) = all.last().unwrap();
    assert_eq!((kind.as_str(), &last["status"], &last["id"]), ("task", &json!("succeeded"), &json!(id)));
    assert!(all.iter().any(|(kind, resource)| kind == "resource" && resource["outcome"] == "copied"), "its end is told");
    assert_eq!(last["counts"]["bytes_moved"].as_u64().unwrap() / size as u64, 1);

    // Who was cut off gets the end; who has it gets nothing more, and does not come again.
    let (status, _, again) = watch(Some("1")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(again.contains("id: end") && again.contains("\"copied\""), "{again}");
    assert_eq!(watch(Some("end")).await.0, StatusCode::NO_CONTENT);
}

/// Would break: lists by instance, status and time over the API; a wrong question that is answered as if it were another.
#[tokio::test]
async fn tasks_are_listed_by_instance_rule_status_and_time() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let image = Image::random(1).layers(1, 2_000).build();
    image.push(&build.at("team/app", "v1")).await;
    image.push(&prod.at("other/app", "v1")).await;
    let mut transship = Transship::reserve();
    let rules = [
        rule("one", BUILD, MIRROR, ""),
        rule("two", BUILD, "instance: prod, namespace: second", ""),
        rule("back", "instance: prod, namespace: other", "instance: build, namespace: back", ""),
    ];
    transship.start(&config(&[instance("build", build.url()), instance("prod", prod.url())], &rules)).await;
    let mut ids = Vec::new();
    for rule in ["build/one", "prod/back", "build/two", "build/one"] {
        let output = transship.run(&["sync", rule, "--wait", "--output", "json"]).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        ids.insert(0, id_of(&serde_json::from_slice(&output.stdout).unwrap()));
    }
    let list = async |query: &str| {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = transship.get(&format!("/v1/tasks?limit=1{query}{cursor}")).await;
            all.extend(page["items"].as_array().unwrap().iter().map(id_of));
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    };
    let created = transship.get(&format!("/v1/tasks/{}", ids[1])).await["created"].as_str().unwrap().to_owned();
    assert_eq!(list("").await, ids);
    assert_eq!(list("&instance=build").await, [&*ids[0], &*ids[1], &*ids[3]]);
    assert_eq!(list("&instance=build&rule=one").await, [&*ids[0], &*ids[3]]);
    assert_eq!(list("&status=succeeded&instance=prod").await, [&*ids[2]]);
    assert_eq!(list(&format!("&since={created}")).await, ids[..2]);
    assert_eq!(list(&format!("&until={created}")).await, ids[2..]);
    assert!(list("&status=running").await.is_empty() && list("&status=failed").await.is_empty());
    for (query, status, said) in [
        ("rule=one", 400, "needs `instance`"),
        ("status=odd", 400, "partly-failed"),
        ("since=yesterday", 400, "since: a time like 2026-03-04T05:06:07Z is needed, not \"yesterday\""),
        ("cursor=x", 400, "cursor"),
        ("colour=red", 400, "colour"),
        ("instance=nowhere", 404, "nowhere"),
        ("instance=build&rule=none", 404, "none"),
    ] {
        let (code, problem) = transship.call(Method::GET, &format!("/v1/tasks?{query}")).await;
        assert_eq!(code, status, "{query}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(said)), "{query}: {problem}");
    }
    let output = transship.run(&["tasks", "list", "--instance", "build", "--since", "1h", "--limit", "2"]).await;
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert!(lines.len() == 3 && lines[1].contains(&ids[0]) && lines[2].contains(&ids[1]), "{lines:#?}");
    let output = transship.run(&["tasks", "list", "--since", "long ago"]).await;
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("like 90d, 12h, 30m"), "{output:?}");
}
