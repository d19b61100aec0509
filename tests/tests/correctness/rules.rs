//! What a rule may be, what it leaves alone, and what its change does to work that waits.

use std::fs;

use reqwest::Method;
use serde_json::{Value, json};
use transship_tests::*;

use crate::world::*;

/// Would break: a rule whose copies it would copy again, deeper and deeper; a mistake that is found when the first push comes.
#[tokio::test]
async fn a_rule_that_would_copy_its_own_copies_is_refused_before_anything_runs() {
    let transship = Transship::reserve();
    let instances = [instance("a", "https://a.example"), instance("b", "https://b.example")];
    let within = "the target lies within the rule's own source";
    let onto_itself = "source and target are the same place";
    for (source, target, expected) in [
        ("instance: a, namespace: '*'", "instance: a, namespace: mirror", Some(within)),
        ("instance: a, namespace: team", "instance: a, namespace: team/copies", Some(within)),
        ("instance: a, namespace: '*'", "instance: a", Some(onto_itself)),
        ("instance: a, namespace: team", "instance: a, namespace: team", Some(onto_itself)),
        ("instance: a, namespace: '*'", "instance: b, namespace: mirror", None),
        ("instance: a, namespace: team", "instance: a, namespace: copies", None),
    ] {
        let fine = rule("fine", "instance: a, namespace: x", "instance: b", "");
        fs::write(transship.config_file(), config(&instances, &[fine, rule("bad", source, target, "")])).unwrap();
        let (file, data) = (transship.config_file(), transship.data());
        let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
        let check = transship.run(&["check", "--config", file]).await;
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        let Some(expected) = expected else {
            assert_eq!(check.status.code(), Some(0), "{source} -> {target}: {said}");
            continue;
        };
        let serve = transship.run(&["serve", "--config", file, "--data", data, "--listen", "127.0.0.1:0"]).await;
        for output in [check, serve] {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{source} -> {target}: {said}");
            // instances: is the first line, its entries follow, then rules: and the rule before it.
            assert!(said.starts_with(&format!("{file}:6:")) && said.contains(expected), "{source} -> {target}: {said}");
        }
        assert!(!transship.data().exists(), "nothing has been started");
    }
}

/// Would break: a rule without `overwrite` that replaces something; one that reports as a failure what it was told to do.
#[tokio::test]
async fn without_overwrite_the_target_s_own_image_stays_and_nothing_has_failed() {
    let world = World::new(["a", "b"], &[rule("to-b", "instance: a, namespace: team", "instance: b", "")]).await;
    let (own, other) = (image(1), image(2));
    own.push(&world.app("b")).await;
    other.push(&world.app("a")).await;
    assert_skipped_as_there_already(&world, &own).await;
    assert_eq!(world.front("b").count("POST", "/team/app/"), 0, "what can't be shown is not transferred");
}

/// Would break: the target's tag that appears between the look at it and the moment that it is set.
#[tokio::test]
async fn without_overwrite_an_image_that_appears_during_the_copy_stays() {
    let world = World::new(["a", "b"], &[rule("to-b", "instance: a, namespace: team", "instance: b", "")]).await;
    let (own, other, gate) = (image(1), image(2), Gate::new());
    world.hold("b", "POST", "/team/app/blobs/uploads/", &gate);
    other.push(&world.app("a")).await;
    gate.reached(1).await;
    own.push(&world.app("b")).await;
    gate.open();
    assert_skipped_as_there_already(&world, &own).await;
}

async fn assert_skipped_as_there_already(world: &World, own: &Artifact) {
    let tasks = world.transship.ended("a/to-b", 1).await;
    world.settle().await;
    assert_eq!(world.holds("b").await.as_ref(), Some(own.digest()));
    assert_eq!(world.outcomes("a/to-b").await, ["skipped exists"]);
    assert_eq!((&tasks[0]["status"], &tasks[0]["success_rate"]), (&json!("succeeded"), &json!(1.0)), "{}", tasks[0]);
    assert_eq!(tasks[0]["counts"]["skipped"], 1);
    assert_eq!(world.front("b").count("PUT", "/team/app/manifests/"), 0);
}

/// Would break: a job that does what its rule said when it was sent. So a worker would write where nobody wants it any more.
#[tokio::test]
async fn a_rule_that_is_changed_while_its_job_waits_writes_nothing_at_its_old_target() {
    let mut transship = Transship::reserve();
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let (source, target) = (Proxy::passing(build.url()).await, Proxy::passing(prod.url()).await);
    let instances = [instance("build", source.url()), instance("prod", target.url())];
    let names = ["kept", "off", "moved", "narrowed", "deleted"];
    let from = |name: &str| format!("instance: build, namespace: {name}");
    let to = |name: &str| format!("instance: prod, namespace: '{name}-copies'");
    transship.start(&config(&instances, &names.map(|name| rule(name, &from(name), &to(name), "overwrite: true")))).await;

    let gate = Gate::new();
    let held = gate.clone();
    source.on(move |_| Action::Hold(held.clone()));
    let image = image(1);
    let mut tasks = Vec::new();
    for name in names {
        image.push(&build.at(format!("{name}/app"), "v1")).await;
        let answer = transship.notify("build", &pushed(name, &format!("{name}/app"), "v1", &image)).await;
        tasks.push(answer.json::<Value>().await.unwrap()["tasks"][0].as_str().unwrap().to_owned());
    }
    gate.reached(names.len()).await;
    transship.kill();
    gate.open();
    let before = source.exchanges().len();
    let changed = [
        rule("kept", &from("kept"), &to("kept"), "overwrite: true"),
        rule("off", &from("off"), &to("off"), "overwrite: true, enabled: false"),
        rule("moved", &from("moved"), "instance: prod, namespace: elsewhere", "overwrite: true"),
        rule("narrowed", &format!("{}, tag: 'w.*'", from("narrowed")), &to("narrowed"), "overwrite: true"),
        // A new rule is not the deleted one, although it leads to the same place.
        rule("deleted-and-made-anew", &from("deleted"), &to("deleted"), "overwrite: true"),
    ];
    transship.start(&config(&instances, &changed)).await;

    for (name, task) in names.iter().zip(&tasks) {
        let mut found = Value::Null;
        wait_until("the task to end", SOON, async || {
            let (status, task) = transship.call(Method::GET, &format!("/v1/tasks/{task}")).await;
            found = task;
            status == 200 && found.get("ended").is_some()
        })
        .await;
        let resource = only_resource(&transship, &found).await;
        let expected = if *name == "kept" { "copied" } else { "skipped rule-changed" };
        assert_eq!(outcome(&resource), expected, "{name}");
        assert_eq!((&found["status"], &found["success_rate"]), (&json!("succeeded"), &json!(1.0)), "{found}");
    }
    assert_eq!(prod.client().catalog().await, ["kept-copies/app"], "neither at the old target nor at a new one");
    let asked = source.exchanges().split_off(before);
    assert!(asked.iter().all(|exchange| !exchange.request.path.contains("/off/")), "a rule that is off costs no request");
}

/// A notification as docker-registry sends it.
fn pushed(id: &str, repository: &str, tag: &str, artifact: &Artifact) -> Value {
    json!({ "events": [{
        "id": id, "timestamp": "2026-02-03T04:05:06.789Z", "action": "push",
        "target": { "mediaType": artifact.root().media_type, "digest": artifact.digest(), "repository": repository, "tag": tag },
    }]})
}
