//! However large what is copied, memory stays as it is.

use std::fs;

use reqwest::Method;
use transship_tests::*;

/// Bytes of each layer: one of them held whole is more than the bound.
const LARGE: usize = 128 << 20;
/// In KiB. What one process needs anyway is a third of it.
const BOUND: u64 = 100 << 10;

/// Would break: a layer that is held whole, a body that is read faster than it is sent, and chunks without a bound in common.
#[tokio::test(flavor = "multi_thread")]
async fn large_layers_at_once_take_no_more_memory_than_small_ones() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let places = ["team/a", "team/b", "parts/c"];
    for (seed, repository) in (1..).zip(places) {
        artifact(seed, "application/vnd.example.model", LARGE).push(&build.at(repository, "v1")).await;
    }
    let (source, mut transship) = (Proxy::passing(build.url()).await, Transship::reserve());
    // Streamed, and in chunks that are kept until they are sent.
    let chunks = instance("chunks", prod.url()).replace("kind: distribution", "kind: ecr");
    let instances = [instance("build", source.url()), instance("prod", prod.url()), chunks];
    let a = rule("a", "instance: build, namespace: team", "instance: prod, namespace: mirror/team", "");
    let b = rule("b", "instance: build, namespace: parts", "instance: chunks, namespace: mirror/parts", "");
    transship.start(&config(&instances, &[a, b])).await;

    for rule in ["a", "b"] {
        let (status, started) = transship.call(Method::POST, &format!("/v1/instances/build/rules/{rule}/sync")).await;
        assert_eq!(status, 202, "{started}");
    }
    for rule in ["build/a", "build/b"] {
        assert_eq!(transship.ended(rule, 1).await[0]["status"], "succeeded");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", transship.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    eprintln!("{peak} KiB at most");

    assert!(source.peak(|request| request.is("GET", "/blobs/")) > 1, "several at once");
    assert!(peak < BOUND, "{peak} KiB at most");
    for repository in places {
        assert_same(&build.at(repository, "v1"), &prod.at(format!("mirror/{repository}"), "v1")).await;
    }
}
