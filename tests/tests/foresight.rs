//! What a rule would do, and why it did or did not: `preview` and `explain`, by the real binary.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on has failed")]

use std::fs;

use reqwest::Method;
use serde_json::{Value, json};
use transship_tests::*;

const SOURCE: &str = r"instance: build, namespace: team, tag: 'v\d+'";
const TARGET: &str = "instance: prod, namespace: mirror";

fn json_of(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The tags with what would become of each, sorted: not every registry sorts its lists.
fn wouldbe(preview: &Value) -> Vec<(String, String)> {
    let items = preview["items"].as_array().unwrap();
    let word = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
    let told = items.iter().map(|item| {
        let would = format!("{} {}", word(item, "would"), word(item, "reason"));
        (item["source"]["reference"].as_str().unwrap().to_owned(), would.trim().to_owned())
    });
    let mut told: Vec<(String, String)> = told.collect();
    told.sort();
    told
}

fn expected(items: &[(&str, &str)]) -> Vec<(String, String)> {
    items.iter().map(|(tag, would)| ((*tag).to_owned(), (*would).to_owned())).collect()
}

/// Would break: a preview that is not what the run does afterwards; one that writes, or makes a task; a page that is lost between two.
#[tokio::test]
async fn a_preview_says_what_the_run_then_does_and_moves_nothing() {
    let mut transship = Transship::reserve();
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let image = |n: u64| Image::random(n).layers(1, 1 << 10).build();
    for (tag, n) in [("v1", 1), ("v2", 2), ("v3", 3), ("latest", 9)] {
        image(n).push(&build.at("team/app", tag)).await;
    }
    chart(4, "chart", "1.0.0").push(&build.at("team/chart", "v4")).await;
    image(1).push(&prod.at("mirror/app", "v1")).await;
    image(7).push(&prod.at("mirror/app", "v2")).await;
    let target = Proxy::passing(prod.url()).await;
    let instances = [instance("build", build.url()), instance("prod", target.url())];
    let rules = [
        rule("kept", SOURCE, TARGET, ""),
        rule("images", &format!("{SOURCE}, types: [image]"), TARGET, "overwrite: true, enabled: false"),
    ];
    transship.start(&config(&instances, &rules)).await;

    let preview = async |arguments: &[&str]| {
        let output = transship.run(&[&["preview"], arguments, &["--output", "json"]].concat()).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        json_of(&output)
    };
    let kept = preview(&["build/kept"]).await;
    let of_kept = expected(&[("v1", "unchanged"), ("v2", "skip exists"), ("v3", "copy"), ("v4", "copy")]);
    assert_eq!((wouldbe(&kept), &kept["complete"]), (of_kept, &json!(true)), "{kept}");
    let images = preview(&["build/images"]).await;
    let of_images = expected(&[("v1", "unchanged"), ("v2", "replace"), ("v3", "copy"), ("v4", "skip type")]);
    assert_eq!(wouldbe(&images), of_images, "{images}");
    let v2 = images["items"].as_array().unwrap().iter().find(|item| item["source"]["reference"] == "v2").unwrap();
    assert_eq!(v2["target_digest"], json!(image(7).digest()));

    // A rule that is not stored, from a file and by the API a page at a time.
    let file = transship.config_file().with_file_name("rule.yaml");
    fs::write(&file, format!("name: new\nsource: {{ {SOURCE} }}\ntarget: {{ {TARGET} }}\noverwrite: true\n")).unwrap();
    let given = preview(&["-f", file.to_str().unwrap()]).await;
    assert_eq!(wouldbe(&given), expected(&[("v1", "unchanged"), ("v2", "replace"), ("v3", "copy"), ("v4", "copy")]));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = json!({
        "source": {"instance": "build", "namespace": "team", "tag": r"v\d+"}, "target": {"instance": "prod", "namespace": "mirror"},
        "overwrite": true,
    });
    let (mut paged, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let url = format!("{}/v1/preview?limit=1{cursor}", transship.url());
        let page: Value = http.post(url).json(&body).send().await.unwrap().json().await.unwrap();
        paged.extend(wouldbe(&page));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    paged.sort();
    assert_eq!((paged, pages > 1), (wouldbe(&given), true));
    for (wrong, status) in [
        (json!({"source": {"instance": "build", "namespace": "team", "tag": "("}, "target": {"instance": "prod"}}), 422),
        (json!({"source": {"instance": "nowhere", "namespace": "team"}, "target": {"instance": "prod"}}), 404),
        (json!({"source": {"instance": "build", "namespace": "team"}, "target": {"instance": "build"}}), 422),
        (json!({"tag": "v1"}), 400),
    ] {
        let answer = http.post(format!("{}/v1/preview", transship.url())).json(&wrong).send().await.unwrap();
        assert_eq!(answer.status(), status, "{wrong}");
    }

    let is_writing = |exchange: &&Exchange| !["GET", "HEAD"].contains(&exchange.request.method.as_str());
    assert_eq!(target.exchanges().iter().filter(is_writing).count(), 0, "nothing is written");
    assert!(transship.tasks("build/kept").await.is_empty(), "no task");
    let table = transship.run(&["preview", "build/kept"]).await;
    let (out, said) = (String::from_utf8_lossy(&table.stdout), String::from_utf8_lossy(&table.stderr));
    assert!(out.contains("SOURCE") && out.contains("skip: the target has another digest there"), "{out}");
    assert_eq!(said, "2 to copy, 1 unchanged, 1 to skip\n");
    let tags: Vec<&str> = out.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(tags.len() == 4 && tags.is_sorted(), "by name, whatever the order of the registry: {out}");
    target.on(|request| match request.method.as_str() {
        "HEAD" => Action::status(403, &[], ""),
        _ => Action::Pass,
    });
    let untold = transship.run(&["preview", "build/kept"]).await;
    assert_eq!(untold.status.code(), Some(1), "{untold:?}");
    assert!(String::from_utf8_lossy(&untold.stderr).contains("transship: "), "{untold:?}");
    target.on(|_| Action::Pass);

    let run = transship.run(&["sync", "build/kept", "--wait", "--output", "json"]).await;
    let counts = &json_of(&run)["counts"];
    assert_eq!([&counts["copied"], &counts["unchanged"], &counts["skipped"]], [2, 1, 1].map(|n| json!(n)).each_ref());
}

/// Would break: two repositories that are mixed in one because they are flattened to the same name, or the second of them left out without
/// a word; a deletion in one that takes the other's tag away; a name on Docker Hub that nothing can be pushed to, and that says nothing.
#[tokio::test]
async fn of_two_repositories_that_flatten_to_one_name_the_first_has_it() {
    let mut transship = Transship::reserve();
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let hub = instance("hub", prod.url()).replace("kind: distribution", "kind: docker-hub");
    let instances = [instance("build", build.url()), instance("prod", prod.url()), hub];
    let flags = "overwrite: true, propagate_deletions: true";
    let rules = [
        rule("flat", "instance: build, namespace: team", "instance: prod, namespace: mirror, flatten: true", flags),
        rule("deep", "instance: build, namespace: team, repository: 'base/.*'", "instance: hub, namespace: me", ""),
    ];
    transship.start(&config(&instances, &rules)).await;
    let run = async |arguments: &[&str]| json_of(&transship.run(&[arguments, &["--output", "json"]].concat()).await);
    let image = |n: u64| Image::random(n).layers(1, 1 << 10).build();
    image(1).push(&build.at("team/base/app", "v1")).await;
    assert_eq!(run(&["sync", "build/flat", "--wait"]).await["counts"]["copied"], 1);
    assert_same(&build.at("team/base/app", "v1"), &prod.at("mirror/base-app", "v1")).await;

    for tag in ["v1", "v2"] {
        image(2).push(&build.at("team/base-app", tag)).await;
    }
    let preview = run(&["preview", "build/flat"]).await;
    let told = preview["items"].as_array().unwrap();
    let of = |repository: &str| {
        let of_it = told.iter().filter(|item| item["source"]["repository"] == repository);
        of_it.map(|item| item["would"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((of("team/base/app"), of("team/base-app")), (vec!["unchanged"], vec!["fail"; 2]), "{preview}");
    let task = run(&["sync", "build/flat", "--wait"]).await;
    assert_eq!([&task["counts"]["failed"], &task["counts"]["deleted"]], [2, 0].map(|n| json!(n)).each_ref(), "{task}");
    let retry = run(&["tasks", "retry", task["id"].as_str().unwrap(), "--wait"]).await;
    assert_eq!(retry["counts"]["failed"], 2, "{retry}");
    for task in [task, retry] {
        for resource in transship.resources(task["id"].as_str().unwrap()).await {
            let error = resource["reason"].as_str().unwrap();
            assert!(error.contains("team/base-app") && error.contains("team/base/app") && error.contains("pattern"), "{error}");
        }
    }
    assert_same(&build.at("team/base/app", "v1"), &prod.at("mirror/base-app", "v1")).await;
    assert_eq!(prod.client().tags("mirror/base-app").await, ["v1"]);

    let deep = run(&["preview", "build/deep"]).await;
    assert!(deep["error"].as_str().unwrap().contains("flatten: true"), "{deep}");
    let explained = run(&["explain", "build/team/base/app:v1"]).await;
    let says = |name: &str| explained["rules"].as_array().unwrap().iter().find(|rule| rule["rule"] == name).unwrap().clone();
    assert_eq!(
        (&says("deep")["reason"], &says("flat")["target"]["repository"]),
        (&json!("target-name"), &json!("mirror/base-app"))
    );
    let task = run(&["sync", "build/deep", "--wait"]).await;
    assert!(task["error"].as_str().unwrap().contains("flatten: true"), "{task}");
    let (status, body) = transship.call(Method::GET, "/v1/instances/build/rules/flat").await;
    assert_eq!((status, &body["target"]["flatten"]), (200, &json!(true)), "{body}");
    let wrong =
        json!({"source": {"instance": "build", "namespace": "team"}, "target": {"instance": "hub", "namespace": "me/base"}});
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let refused = http.post(format!("{}/v1/preview", transship.url())).json(&wrong).send().await.unwrap();
    assert_eq!(refused.status(), 422, "a target namespace that leaves no place");
}

/// Would break: an explanation that names the wrong reason; one that knows nothing of what was done.
#[tokio::test]
async fn an_explanation_names_each_rule_and_its_reason() {
    let mut transship = Transship::reserve();
    let (build, prod) = (transship.registry("build").await, DockerRegistry::start().await);
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    let rules = [
        rule("a-release", SOURCE, TARGET, ""),
        rule("b-charts", "instance: build, namespace: team, types: [chart]", "instance: prod, namespace: charts", ""),
        rule("c-off", SOURCE, "instance: prod, namespace: off", "enabled: false"),
        rule("d-other", "instance: build, namespace: other", "instance: prod", ""),
        rule("e-web", "instance: build, namespace: team, repository: 'web-.*'", "instance: prod, namespace: web", ""),
        rule("from-prod", "instance: prod, namespace: x", "instance: build, namespace: y", ""),
    ];
    transship.start(&config(&instances, &rules)).await;
    Image::random(1).layers(1, 1 << 10).build().push(&build.at("team/app", "v7")).await;
    transship.ended("build/a-release", 1).await;
    transship.ended("build/b-charts", 1).await;

    let explain = async |place: &str| {
        let output = transship.run(&["explain", place, "--output", "json"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        json_of(&output)
    };
    let said = explain("build/team/app:v7").await;
    let of = |name: &str, key: &str| {
        let rules = said["rules"].as_array().unwrap();
        rules.iter().find(|rule| rule["rule"] == name).unwrap_or_else(|| panic!("{name}: {said}"))[key].clone()
    };
    let reasons = ["a-release", "b-charts", "c-off", "d-other", "e-web"].map(|name| of(name, "reason"));
    assert_eq!(reasons, ["selected", "selected-by-type", "disabled", "namespace", "repository"]);
    assert_eq!(said["rules"].as_array().unwrap().len(), 5, "the rules of the instance");
    assert_eq!(of("a-release", "target")["repository"], "mirror/app");
    assert_eq!(of("a-release", "tasks")[0]["outcome"], "copied");
    assert_eq!(of("b-charts", "tasks")[0]["reason"], "type", "{said}");
    assert!(said["last_push"].is_string(), "{said}");
    let latest = explain("build/team/app:latest").await;
    // Those first that want it, by what can be told without the type.
    let told = latest["rules"].as_array().unwrap().iter().map(|rule| (rule["rule"].as_str().unwrap(), &rule["reason"]));
    let told: Vec<_> = told.filter(|(name, _)| ["a-release", "b-charts"].contains(name)).collect();
    assert_eq!(told, [("b-charts", &json!("selected-by-type")), ("a-release", &json!("tag"))]);
    assert_eq!(latest["last_push"], Value::Null);
    assert!(explain("build/other/app:v1").await["summary"].as_str().unwrap().contains("/hooks/build"));
    assert_eq!(explain("prod/team/app:v1").await["summary"], "none of the 1 rules of prod selects it");

    let table = transship.run(&["explain", "build/team/app:v7"]).await;
    let out = String::from_utf8_lossy(&table.stdout);
    assert!(out.contains("yes a-release → prod/mirror/app:v7: the rule selects it"), "{out}");
    assert!(out.contains(r"no  c-off: the rule is disabled") && out.contains("(push team/app:v7, "), "{out}");
    let unknown = transship.run(&["explain", "nowhere/team/app:v7"]).await;
    assert_eq!(unknown.status.code(), Some(4), "not found");
    let malformed = transship.run(&["explain", "app"]).await;
    assert_eq!(malformed.status.code(), Some(2), "usage");
    let (status, body) = transship.call(Method::POST, "/v1/explain").await;
    assert_eq!(status, 400, "{body}");
}
