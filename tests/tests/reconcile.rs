//! Full runs where most is at the target already: what they ask for, what they find, and what they leave in the log.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use reqwest::Method;
use serde_json::{Value, json};
use transship_tests::*;

const SOURCE: &str = "instance: build, namespace: team";
const TARGET: &str = "instance: prod, namespace: mirror";
/// So many tags.
const MANY: u64 = 60;

/// Two registries that have the same tags, and what counts the requests for each.
struct World {
    transship: Transship,
    build: DockerRegistry,
    prod: DockerRegistry,
    source: Proxy,
    target: Proxy,
}

impl World {
    async fn with(kinds: [&str; 2], more: &str) -> Self {
        let mut transship = Transship::reserve();
        let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
        for n in 0..MANY {
            let image = Image::random(n).layers(1, 1 << 10).build();
            image.push(&build.at("team/app", format!("v{n}"))).await;
            image.push(&prod.at("mirror/app", format!("v{n}"))).await;
        }
        let (source, target) = (Proxy::passing(build.url()).await, Proxy::passing(prod.url()).await);
        let instances = [("build", &source, kinds[0]), ("prod", &target, kinds[1])]
            .map(|(name, proxy, kind)| instance(name, proxy.url()).replace("kind: distribution", &format!("kind: {kind}")));
        transship.start(&config(&instances, &[rule("release", SOURCE, TARGET, more)])).await;
        Self { transship, build, prod, source, target }
    }

    /// The rule runs as a whole: its task and the task's resources.
    async fn sync(&self) -> (Value, Vec<Value>) {
        self.source.forget();
        self.target.forget();
        let output = self.transship.run(&["sync", "build/release", "--wait", "--output", "json"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let task: Value = serde_json::from_slice(&output.stdout).unwrap();
        let resources = self.transship.resources(task["id"].as_str().unwrap()).await;
        (task, resources)
    }

    /// The requests for manifests at source and target.
    fn looks(&self) -> [usize; 2] {
        [&self.source, &self.target].map(|proxy| proxy.count("HEAD", "/manifests/") + proxy.count("GET", "/manifests/"))
    }
}

fn counts(task: &Value) -> [u64; 4] {
    ["found", "copied", "unchanged", "skipped"].map(|name| task["counts"][name].as_u64().unwrap())
}

/// Would break: a run each night that costs a job, a message and items of the table for each tag that is equal, or more than one request
/// on each side; a tag that is missing or differs and is taken for equal.
#[tokio::test]
async fn what_is_equal_costs_one_look_on_each_side_and_no_job() {
    let world = World::with(["distribution"; 2], "overwrite: true").await;
    let (task, resources) = world.sync().await;
    assert_eq!(world.looks(), [MANY as usize; 2], "no more than a HEAD on each side");
    assert_eq!((counts(&task), resources.len()), ([MANY, 0, MANY, 0], 0), "{task}");
    assert_eq!((&task["compared"], &task["total"], &task["repositories"]), (&json!(MANY), &json!(MANY), &json!(1)));
    assert_eq!((&task["status"], &task["success_rate"]), (&json!("succeeded"), &json!(1.0)));

    // One is new, and one has moved.
    Image::random(100).build().push(&world.build.at("team/app", "new")).await;
    Image::random(101).build().push(&world.build.at("team/app", "v7")).await;
    let (task, resources) = world.sync().await;
    assert_eq!(counts(&task), [MANY + 1, 2, MANY - 1, 0], "{task}");
    let names: Vec<&str> = resources.iter().map(|resource| resource["source"]["reference"].as_str().unwrap()).collect();
    assert_eq!(names, ["new", "v7"], "only what was to be done is listed");
    for tag in names {
        assert_same(&world.build.at("team/app", tag), &world.prod.at("mirror/app", tag)).await;
    }
    let shown = world.transship.run(&["task", task["id"].as_str().unwrap()]).await;
    let (shown, complaints) = (String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
    assert!(shown.contains("59 were equal by digest, and are not listed"), "{shown}");
    assert!(!complaints.contains("more"), "{complaints}");
}

/// Answers as a registry whose list of tags has digests.
fn tells_digests(proxy: &Proxy, repository: &'static str, tags: &[(String, String)]) {
    let tags: Vec<Value> = tags.iter().map(|(name, digest)| json!({ "name": name, "digest": digest })).collect();
    let list = json!({ "registry": "r", "imageName": repository, "tags": tags }).to_string();
    proxy.on(move |request| {
        if request.is("GET", &format!("/acr/v1/{repository}/_tags")) {
            Action::status(200, &[("content-type", "application/json")], list.clone())
        } else {
            Action::Pass
        }
    });
}

/// Would break: requests for each tag where both lists tell all that is needed, which is what makes a run over a hundred thousand tags
/// cheap.
#[tokio::test]
async fn where_lists_tell_digests_what_is_equal_costs_nothing() {
    let world = World::with(["acr"; 2], "overwrite: true").await;
    let mut tags = Vec::new();
    for n in 0..MANY {
        let tag = format!("v{n}");
        tags.push((tag.clone(), world.build.at("team/app", &tag).manifest().await.digest.to_string()));
    }
    tells_digests(&world.source, "team/app", &tags);
    tells_digests(&world.target, "mirror/app", &tags);
    let (task, resources) = world.sync().await;
    assert_eq!(world.looks(), [0, 0], "no tag is asked for");
    let all = world.source.exchanges().len() + world.target.exchanges().len();
    // Catalogue, both lists, whether there is a referrers API, and what logging in takes.
    assert!(all <= 10, "{all} requests");
    assert_eq!((counts(&task), resources.len()), ([MANY, 0, MANY, 0], 0), "{task}");

    // By the target's list one tag is another: that one is looked at, and found to be the same.
    tags[3].1 = format!("sha256:{}", "0".repeat(64));
    tells_digests(&world.target, "mirror/app", &tags);
    let (task, resources) = world.sync().await;
    assert_eq!((counts(&task), resources.len()), ([MANY, 0, MANY, 0], 1), "{task}");
    // Of one tag; a busy machine makes some late, and they are made again.
    assert_eq!(world.looks().iter().filter(|looks| **looks > 10).count(), 0, "{:?}", world.looks());
}

/// Would break: signatures of images that are equal, which a run that compares digests does not see; those of an index's child; a run that
/// does the same again each night because lists of referrers are never the same bytes.
#[tokio::test]
async fn a_signature_on_an_unchanged_image_is_found() {
    let world = World::with(["distribution"; 2], "").await;
    let index = Index::random(200).platforms(2).build();
    for at in [world.build.at("team/app", "multi"), world.prod.at("mirror/app", "multi")] {
        index.push(&at).await;
    }
    let (image, other) = (Image::random(5).layers(1, 1 << 10).build(), Image::random(900).build());
    let from = world.build.at("team/app", "v5");
    let sbom = referrer(1, &image, "application/vnd.example.sbom");
    referrers_index(std::slice::from_ref(&sbom)).push(&from.with(image.digest().as_tag(""))).await;
    let child: transship_model::Digest = index_child(&from.with("multi")).await;
    let child_image = from.with(&child).manifest().await;
    let signatures = [(image.digest().clone(), cosign_signature(&image)), (child.clone(), cosign_signature(&index))];
    for (subject, signature) in &signatures {
        signature.push(&from.with(subject.as_tag(".sig"))).await;
    }
    // One of something that the target does not have.
    cosign_signature(&other).push(&from.with(other.digest().as_tag(".sig"))).await;
    assert_eq!(child_image.digest, child);

    let (task, resources) = world.sync().await;
    assert_eq!(counts(&task), [MANY + 1 + 2, 2, MANY + 1, 0], "{task} {resources:?}");
    let at = world.prod.at("mirror/app", "v5");
    for (subject, _) in &signatures {
        assert_same(&from.with(subject.as_tag(".sig")), &at.with(subject.as_tag(".sig"))).await;
    }
    assert_same(&from.with(sbom.digest()), &at.with(sbom.digest())).await;
    assert!(at.with(other.digest().as_tag(".sig")).find_manifest().await.is_none());

    let (task, resources) = world.sync().await;
    assert_eq!((counts(&task), resources.len()), ([MANY + 1, 0, MANY + 1, 0], 0), "nothing is left to be done: {resources:?}");
}

/// The first child of an index.
async fn index_child(at: &At) -> transship_model::Digest {
    at.manifest().await.json()["manifests"][0]["digest"].as_str().unwrap().parse().unwrap()
}

/// Would break: a target whose list is refused, and which is taken to have nothing, or everything.
#[tokio::test]
async fn where_the_target_may_not_be_listed_each_tag_is_asked_for() {
    let world = World::with(["distribution"; 2], "").await;
    world.target.on(|request| if request.is("GET", "/tags/list") { Action::status(403, &[], "") } else { Action::Pass });
    Image::random(100).build().push(&world.build.at("team/app", "new")).await;
    let (task, _) = world.sync().await;
    assert_eq!(counts(&task), [MANY + 1, 1, MANY, 0], "{task}");
    let (status, _) = world.transship.call(Method::GET, "/health").await;
    assert_eq!(status, 200);
}
