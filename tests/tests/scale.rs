//! Very much at once: a rule that meets ten thousand tags.
#![expect(clippy::expect_used, reason = "what a test does not expect is a failed test")]

use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use transship_tests::*;

const REPOSITORIES: usize = 100;
const TAGS: usize = 100;

/// Would break: paging, of the source's lists and of the log; a scan that goes on after its first step; counters that are added
/// up from several batches; a resource that is found twice or lost between two steps; a second run that writes.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tags_in_a_hundred_repositories_are_one_task() {
    let bulk = Bulk::new("team", REPOSITORIES, TAGS);
    let (build, prod) = (DockerRegistry::builder().filled(bulk.clone()).start().await, DockerRegistry::start().await);
    let mut transship = Transship::reserve();
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    let all =
        rule("all", "instance: build, namespace: team, tag: 'v.*'", "instance: prod, namespace: mirror", "overwrite: true");
    transship.start(&config(&instances, &[all])).await;

    let first = sync(&transship, "copied").await;
    let there = digests(&prod, &bulk).await;
    let wanted: Vec<(String, String)> = places(&bulk)
        .map(|(repository, tag)| {
            let digest = bulk.manifest(&repository, &tag).digest;
            (format!("{repository}:{tag}"), digest.to_string())
        })
        .collect();
    assert!(there == wanted, "every tag is at the target with the digest that it has at the source");

    // Each manifest once, and the two blobs of the first repository; elsewhere they are mounted.
    let puts = || prod.log().matches("\"PUT /v2/mirror/").count();
    let written = puts();
    assert!((bulk.len()..bulk.len() + 100).contains(&written), "{written} writes for {} tags", bulk.len());

    let second = sync(&transship, "unchanged").await;
    assert_eq!(puts(), written, "the second run writes nothing");
    let tasks: Vec<Value> = transship.ended("build/all", 2).await.iter().map(|task| task["id"].clone()).collect();
    assert_eq!(tasks, [second, first], "each run is one task");
}

/// Runs the rule, and requires every tag to be counted once, with this outcome. The task's ID.
async fn sync(transship: &Transship, outcome: &str) -> Value {
    let began = Instant::now();
    let output = transship.run(&["sync", "build/all", "--wait", "--output", "json"]).await;
    let took = began.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let task: Value = serde_json::from_slice(&output.stdout).expect("a task");
    let all = REPOSITORIES * TAGS;
    let counts = ["found", "total", outcome].map(|name| task["counts"].get(name).unwrap_or(&task[name]).as_u64());
    assert_eq!(counts, [Some(all as u64); 3], "{task}");
    assert_eq!(task["repositories"], REPOSITORIES, "{task}");
    assert_eq!(task["status"], "succeeded", "{task}");

    let resources = transship.resources(task["id"].as_str().expect("an ID")).await;
    assert!(resources.iter().all(|resource| resource["state"] == "done" && resource["outcome"] == outcome));
    // What is equal has no job, and is counted alone.
    let listed = if outcome == "copied" { all } else { 0 };
    assert_eq!(task["compared"], all - listed, "{task}");
    let mut names: Vec<String> = resources.iter().map(|resource| resource["source"].to_string()).collect();
    names.sort();
    names.dedup();
    assert_eq!((resources.len(), names.len()), (listed, listed), "every resource is recorded once");
    eprintln!("{all} tags {outcome} in {took:.1?}");
    task["id"].clone()
}

fn places(bulk: &Bulk) -> impl Iterator<Item = (String, String)> {
    let tags = bulk.tags();
    bulk.repositories()
        .into_iter()
        .flat_map(move |repository| tags.clone().into_iter().map(move |tag| (repository.clone(), tag)))
}

/// What the tags point to at the target, by their names at the source.
async fn digests(prod: &DockerRegistry, bulk: &Bulk) -> Vec<(String, String)> {
    let look = async |(repository, tag): (String, String)| {
        let at = prod.at(repository.replacen("team/", "mirror/", 1), &tag);
        (format!("{repository}:{tag}"), at.manifest().await.digest.to_string())
    };
    stream::iter(places(bulk)).map(look).buffered(16).collect().await
}
