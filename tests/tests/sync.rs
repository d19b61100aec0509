//! The main job as its users see it: real pushes, real notifications, the real binary, and what is at the other end.

use std::time::Duration;

use serde_json::json;
use transship_tests::*;

const BUILD: &str = "instance: build, namespace: team";
const MIRROR: &str = "instance: prod, namespace: mirror";

/// Would break: anything between the notification and the tag at the target.
#[tokio::test]
async fn a_push_is_carried_to_the_target_and_logged() {
    let mut transship = Transship::reserve();
    let (build, prod) = (transship.registry("build").await, DockerRegistry::start().await);
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    transship.start(&config(&instances, &[rule("release", &format!(r"{BUILD}, tag: 'v\d+'"), MIRROR, "")])).await;

    let image = Index::random(1).platforms(2).layers(2, 256 << 10).build();
    image.push_with_skopeo(&build.at("team/app", "v1")).await;
    image.push(&build.at("team/app", "latest")).await;
    image.push(&build.at("other/app", "v1")).await;
    let tasks = transship.ended("build/release", 1).await;
    transship.quiet().await;

    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
    assert_eq!(prod.client().catalog().await, ["mirror/app"], "a rule selects by namespace");
    assert_eq!(prod.client().tags("mirror/app").await, ["v1"], "and by tag");
    let task = &tasks[0];
    assert_eq!((task["status"].as_str(), task["success_rate"].as_f64()), (Some("succeeded"), Some(1.0)));
    assert_eq!((task["trigger"].as_str(), task["repositories"].as_u64()), (Some("push team/app:v1"), Some(1)));
    let resources = transship.resources(task["id"].as_str().unwrap()).await;
    assert_eq!(resources.len(), 1);
    assert_eq!(resources[0]["outcome"], "copied");
    assert_eq!(resources[0]["type"], "image");
    assert_eq!(resources[0]["digest"], json!(image.digest()));
    assert_eq!(resources[0]["target"]["repository"], "mirror/app");
    let bytes = ["bytes_moved", "bytes_present"].map(|name| resources[0][name].as_u64().unwrap());
    assert_eq!(bytes.iter().sum::<u64>(), image.size() as u64, "every byte is accounted for, once");
}

/// Would break: a task for each child of an index; children whose events come first, or a look that makes a task of nothing.
#[tokio::test]
async fn an_index_of_eight_platforms_is_one_task() {
    let mut transship = Transship::reserve();
    let (build, prod) = (transship.registry("build").await, DockerRegistry::start().await);
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    transship.start(&config(&instances, &[rule("release", BUILD, MIRROR, "")])).await;

    Index::random(2).platforms(8).layers(1, 4 << 10).attested().build().push_with_skopeo(&build.at("team/app", "v1")).await;
    transship.ended("build/release", 1).await;
    transship.quiet().await;

    transship.ended("build/release", 1).await;
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
}

/// Would break: an accepted push that is only in memory; work that is not taken up again; a task that stays running.
#[tokio::test]
async fn an_accepted_push_survives_sigkill_right_after() {
    let mut transship = Transship::reserve();
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    // Nothing moves before the kill: the source holds its answers back.
    let gate = Gate::new();
    let held = gate.clone();
    let slow = Proxy::start(build.url(), move |_| Action::Hold(held.clone())).await;
    let instances = [instance("build", slow.url()), instance("prod", prod.url())];
    transship.start(&config(&instances, &[rule("release", BUILD, MIRROR, "")])).await;
    let image = Image::random(3).layers(2, 64 << 10).build();
    image.push(&build.at("team/app", "v1")).await;

    let response = transship.notify("build", &pushed("e-1", "team/app", "v1", &image)).await;
    transship.kill();
    assert_eq!(response.status(), 202);
    let tasks = response.json::<serde_json::Value>().await.unwrap()["tasks"].clone();
    gate.open();
    transship.restart().await;

    let ended = transship.ended("build/release", 1).await;
    assert_eq!(json!([ended[0]["id"]]), tasks, "the answer names the task");
    assert_eq!(ended[0]["status"], "succeeded");
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
}

/// Would break: the three kinds of answer that senders act on, and that nothing is told to who has no secret.
#[tokio::test]
async fn the_webhook_answers_as_its_senders_expect() {
    let mut transship = Transship::reserve();
    let build = DockerRegistry::start().await;
    let instances = [instance("build", build.url()), instance("prod", build.url())];
    transship.start(&config(&instances, &[rule("release", BUILD, MIRROR, "")])).await;
    let image = Image::random(4).build();
    let push = pushed("e-1", "team/app", "v1", &image).to_string();
    let http = reqwest::Client::new();
    let post = async |path: &str, secret: &str, body: &str| {
        let request = http.post(format!("{}/hooks/{path}", transship.url())).bearer_auth(secret);
        let response = request.body(body.to_owned()).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };

    let wrong = post("build", "wrong", &push).await;
    assert_eq!(wrong.0, 401);
    assert_eq!(wrong, post("nobody", HOOK_SECRET, &push).await, "nobody learns which instances there are");
    assert_eq!(wrong, post("build", "", &push).await);
    let (status, body) = post("build", HOOK_SECRET, "{ no json").await;
    assert_eq!(status, 400);
    assert!(body.contains("\"detail\""), "{body}");
    assert_eq!(post("build", HOOK_SECRET, &" ".repeat((4 << 20) + 1)).await.0, 413);
    for action in ["pull", "delete", "mount"] {
        let (status, body) = post("build", HOOK_SECRET, &push.replace("\"push\"", &format!("{action:?}"))).await;
        assert_eq!((status, body.as_str()), (200, r#"{"tasks":[],"pending":false}"#), "{action}");
    }
    let blob = push.replace(&image.root().media_type, "application/octet-stream").replace(r#""tag":"v1","#, "");
    assert_eq!(post("build", HOOK_SECRET, &blob).await.0, 200);
    assert_eq!(post(&format!("build/{HOOK_SECRET}"), "", &push).await.0, 202, "senders without headers have the path");
    assert!(!transship.log().contains(HOOK_SECRET), "no secret is in the log");
}

/// Would break: the repeated delivery that every registry makes when an answer is lost.
#[tokio::test]
async fn a_repeated_event_makes_no_second_task() {
    let mut transship = Transship::reserve();
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    transship.start(&config(&instances, &[rule("release", BUILD, MIRROR, "overwrite: true")])).await;
    let image = Image::random(5).build();
    image.push(&build.at("team/app", "v1")).await;

    let event = pushed("e-1", "team/app", "v1", &image);
    let first = transship.notify("build", &event).await.text().await.unwrap();
    let tasks = transship.ended("build/release", 1).await;
    assert_eq!(transship.notify("build", &event).await.text().await.unwrap(), first);
    transship.quiet().await;
    assert_eq!(transship.ended("build/release", 1).await, tasks, "the first outcome stands");

    // Late: the tag has moved since. It can't bring the old image back.
    let newer = Image::random(6).build();
    newer.push(&build.at("team/app", "v1")).await;
    transship.notify("build", &pushed("e-2", "team/app", "v1", &newer)).await;
    transship.notify("build", &pushed("e-0", "team/app", "v1", &image)).await;
    transship.ended("build/release", 3).await;
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
}

/// Would break: a push that comes while the one before it is being copied.
#[tokio::test]
async fn a_push_during_a_copy_wins() {
    let mut transship = Transship::reserve();
    let (build, prod) = (transship.registry("build").await, DockerRegistry::start().await);
    let gate = Gate::new();
    let held = gate.clone();
    // The first copy stops when it is about to set the tag.
    let target =
        Proxy::start(
            prod.url(),
            move |request| {
                if request.is("PUT", "/manifests/v1") { Action::Hold(held.clone()) } else { Action::Pass }
            },
        )
        .await;
    let instances = [instance("build", build.url()), instance("prod", target.url())];
    transship.start(&config(&instances, &[rule("release", BUILD, MIRROR, "overwrite: true")])).await;

    Image::random(7).layers(1, 64 << 10).build().push(&build.at("team/app", "v1")).await;
    gate.reached(1).await;
    let second = Image::random(8).layers(1, 64 << 10).build();
    second.push(&build.at("team/app", "v1")).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    gate.open();
    transship.ended("build/release", 2).await;

    assert_eq!(prod.at("mirror/app", "v1").manifest().await.digest, *second.digest());
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
}

/// A notification as docker-registry sends it.
fn pushed(id: &str, repository: &str, tag: &str, artifact: &Artifact) -> serde_json::Value {
    json!({ "events": [{
        "id": id, "timestamp": "2026-02-03T04:05:06.789Z", "action": "push",
        "target": {
            "mediaType": artifact.root().media_type, "digest": artifact.digest(), "repository": repository, "tag": tag,
            "size": 1, "url": "http://elsewhere.example/v2/"
        },
    }]})
}
