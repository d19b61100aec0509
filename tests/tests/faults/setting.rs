//! How long a registry may show no progress is said by who runs it.

use std::sync::atomic::{AtomicUsize, Ordering};

use transship_tests::*;

/// Would break: a setting that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn copy_waits_for_a_stalled_registry_as_long_as_it_is_told_to() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    Image::random(1).layers(1, 10_000).build().push(&build.at("team/app", "v1")).await;
    let reads = AtomicUsize::new(0);
    let source = Proxy::start(build.url(), move |_| match reads.fetch_add(1, Ordering::SeqCst) {
        0 => Action::Hold(Gate::new()),
        _ => Action::Pass,
    })
    .await;
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
