//! Deletions that follow: where a rule says so, what was deleted at the source is deleted at the target, if transship has put it there.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on has failed")]

use std::time::Duration;

use serde_json::{Value, json};
use transship_tests::*;

const SOURCE: &str = "instance: build, namespace: team";
const TARGET: &str = "instance: prod, namespace: mirror";

/// A registry that notifies, one that does not, and a rule by which deletions follow.
struct World {
    transship: Transship,
    build: DockerRegistry,
    prod: DockerRegistry,
}

impl World {
    async fn new(rules: &[String]) -> Self {
        let mut transship = Transship::reserve();
        let (build, prod) = (transship.registry("build").await, transship.registry("prod").await);
        let instances = [instance("build", build.url()), instance("prod", prod.url())];
        transship.start(&config(&instances, rules)).await;
        Self { transship, build, prod }
    }

    async fn pushed(&self, tag: &str, seed: u64) -> Artifact {
        let image = Image::random(seed).layers(1, 1 << 10).build();
        image.push(&self.build.at("team/app", tag)).await;
        let (at, digest) = (self.prod.at("mirror/app", tag), image.digest().clone());
        let holds = async || at.find_manifest().await.is_some_and(|manifest| manifest.digest == digest);
        wait_until("the copy", Duration::from_secs(60), holds).await;
        image
    }

    async fn delete(&self, image: &Artifact) {
        assert!(self.build.client().delete_manifest("team/app", image.digest().as_str()).await.is_success());
    }

    /// How all resources of tasks with such a trigger ended.
    async fn outcomes(&self, rule: &str, trigger: &str) -> Vec<String> {
        let mut outcomes = Vec::new();
        for task in
            self.transship.tasks(rule).await.iter().filter(|task| task["trigger"].as_str().unwrap().starts_with(trigger))
        {
            for resource in self.transship.resources(task["id"].as_str().unwrap()).await {
                let word = |name: &str| resource[name].as_str().unwrap_or_default().to_owned();
                outcomes.push(format!("{} {}", word("outcome"), word("reason")).trim().to_owned());
            }
        }
        outcomes
    }

    async fn sync(&self, rule: &str) -> Value {
        let output = self.transship.run(&["sync", rule, "--wait", "--output", "json"]).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }
}

/// A notification of a deleted tag as docker-registry sends it.
fn deleted(id: &str, tag: &str) -> Value {
    deleted_from(id, "team/app", tag)
}

fn deleted_from(id: &str, repository: &str, tag: &str) -> Value {
    json!({ "events": [{
        "id": id, "timestamp": jiff::Timestamp::now().to_string(), "action": "delete", "target": { "repository": repository, "tag": tag },
    }]})
}

fn follows(name: &str, source: &str, target: &str) -> String {
    rule(name, source, target, "overwrite: true, propagate_deletions: true")
}

/// Would break: a deletion that does not follow, or takes another tag with it; one that deletes what somebody else has put there, or what is
/// there again at the source; one by a rule that does not say so.
#[tokio::test]
async fn a_tag_that_is_deleted_at_the_source_is_deleted_at_the_target_if_it_is_ours() {
    let kept = rule("kept", SOURCE, "instance: prod, namespace: kept", "overwrite: true");
    let world = World::new(&[follows("follows", SOURCE, TARGET), kept]).await;
    let first = world.pushed("v1", 1).await;
    let second = world.pushed("v2", 2).await;
    world.pushed("v3", 3).await;
    world.transship.quiet().await;

    world.delete(&first).await;
    world.transship.notify("build", &deleted("d-1", "v1")).await;
    let gone = async || world.prod.at("mirror/app", "v1").find_manifest().await.is_none();
    wait_until("the deletion", Duration::from_secs(60), gone).await;
    world.transship.quiet().await;
    assert_eq!(world.prod.client().tags("mirror/app").await, ["v2", "v3"]);
    assert_eq!(world.prod.client().tags("kept/app").await, ["v1", "v2", "v3"], "that rule does not say so");
    let outcomes = world.outcomes("build/follows", "deletion of team/app:v1").await;
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "deleted").count(), 1, "{outcomes:?}");
    assert!(world.outcomes("build/kept", "deletion").await.is_empty());

    // Somebody has put something else there.
    let own = Image::random(9).build();
    own.push(&world.prod.at("mirror/app", "v2")).await;
    world.delete(&second).await;
    world.transship.notify("build", &deleted("d-2", "v2")).await;
    wait_until("the end", Duration::from_secs(60), async || {
        // The registry may tell of it besides.
        let outcomes = world.outcomes("build/follows", "deletion of team/app:v2").await;
        !outcomes.is_empty() && outcomes.iter().all(|outcome| !outcome.is_empty())
    })
    .await;
    assert!(world.outcomes("build/follows", "deletion of team/app:v2").await.iter().all(|o| o == "skipped not-ours"));
    assert_eq!(world.prod.at("mirror/app", "v2").manifest().await.digest, *own.digest());

    // It is there: the deletion is told late, or it was pushed again.
    world.transship.notify("build", &deleted("d-3", "v3")).await;
    wait_until("the end", Duration::from_secs(60), async || {
        world.outcomes("build/follows", "deletion of team/app:v3").await == ["unchanged"]
    })
    .await;
    assert_same(&world.build.at("team/app", "v3"), &world.prod.at("mirror/app", "v3")).await;
}

/// Would break: a deletion that no notification told, and stays for ever; a full run that deletes what the target had before, or all of it
/// because the source's list is empty or refused.
#[tokio::test]
async fn a_full_run_finds_deletions_that_were_not_told_and_deletes_nothing_by_a_doubt() {
    let mut transship = Transship::reserve();
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let source = Proxy::passing(build.url()).await;
    let instances = [instance("build", source.url()), instance("prod", prod.url())];
    transship.start(&config(&instances, &[follows("follows", SOURCE, TARGET)])).await;
    let world = World { transship, build, prod };
    let images: Vec<Artifact> = (1..4).map(|n| Image::random(n).layers(1, 1 << 10).build()).collect();
    for (n, image) in images.iter().enumerate() {
        image.push(&world.build.at("team/app", format!("v{n}"))).await;
    }
    Image::random(9).build().push(&world.prod.at("mirror/app", "own")).await;
    assert_eq!(world.sync("build/follows").await["counts"]["copied"], 3);

    world.delete(&images[0]).await;
    let preview = world.transship.run(&["preview", "build/follows", "--output", "json"]).await;
    let preview: Value = serde_json::from_slice(&preview.stdout).unwrap();
    let would = |tag: &str| {
        let items = preview["items"].as_array().unwrap();
        let of_it = items.iter().find(|item| item["target"]["reference"] == tag);
        of_it.map(|item| item["would"].as_str().unwrap().to_owned())
    };
    assert_eq!(would("v0").as_deref(), Some("delete"), "{preview}");
    assert_eq!((would("v1").as_deref(), would("own")), (Some("unchanged"), None), "{preview}");
    let task = world.sync("build/follows").await;
    assert_eq!(
        [&task["counts"]["deleted"], &task["counts"]["unchanged"], &task["success_rate"]],
        [&json!(1), &json!(2), &json!(1.0)]
    );
    assert_eq!(world.prod.client().tags("mirror/app").await, ["own", "v1", "v2"]);

    source.on(|request| {
        if request.is("GET", "/tags/list") {
            Action::status(200, &[("content-type", "application/json")], r#"{"name":"team/app","tags":null}"#)
        } else {
            Action::Pass
        }
    });
    world.sync("build/follows").await;
    source.on(|request| if request.is("GET", "/tags/list") { Action::status(403, &[], "") } else { Action::Pass });
    world.sync("build/follows").await;
    // A list that lacks what is there: the tag itself is asked for.
    source.on(|request| {
        if request.is("GET", "/tags/list") {
            Action::status(200, &[("content-type", "application/json")], r#"{"name":"team/app","tags":["v1"]}"#)
        } else {
            Action::Pass
        }
    });
    assert_eq!(world.sync("build/follows").await["counts"]["deleted"], 0);
    assert_eq!(world.prod.client().tags("mirror/app").await, ["own", "v1", "v2"]);
}

/// Would break: a page of a preview that has no limit where tags are deleted, and grows until no table keeps it; deletions that it leaves
/// out without a word.
#[tokio::test]
async fn a_preview_of_many_deletions_ends_and_says_that_there_are_more() {
    let mut transship = Transship::reserve();
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    transship.start(&config(&instances, &[follows("follows", SOURCE, TARGET)])).await;
    let world = World { transship, build, prod };
    let image = Image::random(1).layers(1, 1 << 10).build();
    for n in 0..60 {
        image.push(&world.build.at("team/app", format!("v{n}"))).await;
    }
    Image::random(2).layers(1, 1 << 10).build().push(&world.build.at("team/app", "stays")).await;
    assert_eq!(world.sync("build/follows").await["counts"]["copied"], 61);
    world.delete(&image).await;

    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let url = format!("{}/v1/instances/build/rules/follows/preview?limit=2{cursor}", world.transship.url());
        let page: Value = http.post(url).send().await.unwrap().json().await.unwrap();
        let next = page["next"].as_str().map(|next| format!("&cursor={next}"));
        pages.push(page);
        let Some(next) = next else { break };
        cursor = next;
    }
    let count = pages.iter().map(|page| page["items"].as_array().unwrap().len()).sum::<usize>();
    assert_eq!(count, 51, "one that stays, and a slice of deletions");
    let error = pages.last().unwrap()["error"].as_str().unwrap_or_default();
    assert!(error.contains("team/app") && error.contains("more deletions"), "{pages:?}");
    // A run looks at all of them. This registry deletes no tag without the image, which the others need.
    assert_eq!(world.sync("build/follows").await["counts"]["skipped"], 60);
}

/// Would break: two-way rules that bring back what was deleted, from the other side; echoes of our own deletion that go on for ever.
#[tokio::test]
async fn two_way_rules_do_not_bring_back_what_was_deleted() {
    let there = follows("there", "instance: build, namespace: team", "instance: prod, namespace: mirror");
    let back = follows("back", "instance: prod, namespace: mirror", "instance: build, namespace: team");
    let world = World::new(&[there, back]).await;
    let image = world.pushed("v1", 1).await;
    world.pushed("v2", 2).await;
    world.transship.quiet().await;

    world.delete(&image).await;
    world.transship.notify("build", &deleted("d-1", "v1")).await;
    let gone = async || world.prod.at("mirror/app", "v1").find_manifest().await.is_none();
    wait_until("the deletion", Duration::from_secs(60), gone).await;
    world.transship.quiet().await;
    // The target's registry tells of our own deletion.
    let echo = world.transship.notify("prod", &deleted_from("d-2", "mirror/app", "v1")).await;
    assert_eq!(echo.json::<Value>().await.unwrap()["tasks"], json!([]), "it goes nowhere");
    for rule in ["build/there", "prod/back"] {
        world.sync(rule).await;
    }
    world.transship.quiet().await;
    assert_eq!(world.build.client().tags("team/app").await, ["v2"]);
    assert_eq!(world.prod.client().tags("mirror/app").await, ["v2"]);
    assert!(world.outcomes("prod/back", "deletion").await.is_empty());

    // What is pushed after that is new.
    let newer = world.pushed("v1", 3).await;
    assert_eq!(world.build.at("team/app", "v1").manifest().await.digest, *newer.digest());
}
