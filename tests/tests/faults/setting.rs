//! How long a registry may show no progress is said by who runs it.

use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use transship_tests::*;

/// A proxy before a registry that never answers the first request for a manifest.
async fn stalling_once(registry: &DockerRegistry) -> Proxy {
    let stalls = AtomicBool::new(true);
    Proxy::start(registry.url(), move |request| {
        match request.path.contains("/manifests/") && stalls.swap(false, Ordering::SeqCst) {
            true => Action::Hold(Gate::new()),
            false => Action::Pass,
        }
    })
    .await
}

/// Would break: a setting that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn copy_waits_for_a_stalled_registry_as_long_as_it_is_told_to() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    Image::random(1).layers(1, 10_000).build().push(&build.at("team/app", "v1")).await;
    let source = stalling_once(&build).await;
    let mut transship = Transship::reserve();
    transship.set("TRANSSHIP_LOG", "debug");
    let (from, to) = (format!("{}/team/app:v1", source.url()), format!("{}/mirror/app", prod.url()));
    let output = transship.run(&["copy", "--stall-timeout", "1", &from, &to]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("no progress for 1 seconds"), "{said}");
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;

    let output = transship.run(&["copy", "--stall-timeout", "0", &from, &to]).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("0 is not in 1..=86400"), "{output:?}");
}

/// Would break: the same for a server, which waits for a registry as long as nobody has said.
#[tokio::test(flavor = "multi_thread")]
async fn serve_waits_for_a_stalled_registry_as_long_as_it_is_told_to() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    Image::random(1).layers(1, 10_000).build().push(&build.at("team/app", "v1")).await;
    let source = stalling_once(&build).await;
    let mut transship = Transship::reserve();
    transship.set("TRANSSHIP_LOG", "debug");
    transship.set("TRANSSHIP_STALL_TIMEOUT", "1");
    let all = rule("all", "instance: build, namespace: team", "instance: prod, namespace: mirror", "");
    transship.start(&config(&[instance("build", source.url()), instance("prod", prod.url())], &[all])).await;
    let (status, started) = transship.call(Method::POST, "/v1/instances/build/rules/all/sync").await;
    assert_eq!(status, 202, "{started}");
    assert_eq!(transship.ended("build/all", 1).await[0]["status"], "succeeded");
    assert!(transship.log().contains("no progress for 1 seconds"));
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
}
