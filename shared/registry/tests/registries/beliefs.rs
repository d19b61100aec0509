//! What is believed about a target, and when it is looked at again.

use std::time::Duration;

use serde_json::json;
use transship_model::Kind;
use transship_registry::{Copier, Error, Http, Options, Outcome, Patience, Registry};
use transship_tests::{Action, DockerRegistry, Gate, Image, Proxy, assert_same, free_port};

use crate::fixture::*;

const PLAIN: Options = Options { overwrite: false, referrers: true };

/// Would break: an image over nothing, because a registry that mounts whatever it is asked for is taken to have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_says_yes_to_every_mount_gets_the_blobs_all_the_same() {
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let proxy = Proxy::start(b.url(), |request| match request.query.contains("mount=") {
        true => Action::status(201, &[], ""),
        false => Action::Pass,
    })
    .await;
    let image = Image::random(1).layers(3, 1000).build();
    image.push(&a.at("app", "v1")).await;
    let (source, target) = (endpoint("a", a.url(), "app"), endpoint("b", proxy.url(), "app"));
    let tag = reference("v1");
    let outcome = Copier::default().copy(&source, &tag, &target, &tag, PLAIN, &()).await.unwrap();
    let Outcome::Copied { moved, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!((moved.blobs_copied, moved.bytes_moved), (4, image.size() as u64));
    assert_same(&a.at("app", "v1"), &b.at("app", "v1")).await;
    // Of a repository without tags the mount is all that is asked at first.
    let (source, target) = (endpoint("a", a.url(), "app"), endpoint("b", proxy.url(), "all"));
    let mut outcomes = Vec::new();
    Copier::default().copy_all(&source, &target, PLAIN, &(), |(_, outcome)| outcomes.push(outcome.unwrap())).await.unwrap();
    assert_eq!(outcomes.len(), 1);
    assert_same(&a.at("app", "v1"), &b.at("all", "v1")).await;
}

/// Would break: a manifest that lies about a layer's size gets its tag where the target has the layer already.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_another_size_is_not_the_one_that_is_meant() {
    let (a, b) = (Distribution::start(), Distribution::start());
    let (source, target) = (endpoint("a", &a.url, "app"), endpoint("b", &b.url, "app"));
    let layer = noise(1, 1000);
    push(&source, Some("v1"), (OCI_CONFIG, b"{}"), &[(OCI_LAYER, &layer)], json!({})).await;
    let mut lie = descriptor(OCI_LAYER, &layer);
    lie["size"] = json!(1001);
    put(&source, Some("lie"), manifest(OCI_MANIFEST, json!({"config": descriptor(OCI_CONFIG, b"{}"), "layers": [lie]}))).await;
    // In a process that has brought the layer, and in one that knows nothing.
    let (knowing, tag) = (Copier::default(), reference("lie"));
    knowing.copy(&source, &reference("v1"), &target, &reference("v1"), PLAIN, &()).await.unwrap();
    for copier in [knowing, Copier::default()] {
        let error = copier.copy(&source, &tag, &target, &tag, PLAIN, &()).await.unwrap_err();
        assert!(error.to_string().contains("it has 1000 bytes, and its descriptor says 1001"), "{error}");
    }
    assert_eq!(target.registry.head_manifest(&target.repository, &tag).await.unwrap(), None);
}

/// Would break: a push to the target while a long copy is under way is overwritten, although nobody asked for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_to_the_target_during_a_long_copy_stays() {
    let (a, b, gate) = (DockerRegistry::start().await, DockerRegistry::start().await, Gate::new());
    let held = gate.clone();
    let proxy = Proxy::start(a.url(), move |request| match request.is("GET", "/blobs/") {
        true => Action::Hold(held.clone()),
        false => Action::Pass,
    })
    .await;
    Image::random(1).layers(1, 1000).build().push(&a.at("app", "v1")).await;
    let theirs = Image::random(2).layers(1, 1000).build();
    let (source, target, tag) = (endpoint("a", proxy.url(), "app"), endpoint("b", b.url(), "app"), reference("v1"));
    let copier = Copier::default();
    let copy = copier.copy(&source, &tag, &target, &tag, PLAIN, &());
    let push = async {
        gate.reached(1).await;
        theirs.push(&b.at("app", "v1")).await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        gate.open();
    };
    let (outcome, ()) = tokio::join!(copy, push);
    assert_eq!(outcome.unwrap(), Outcome::Exists { digest: theirs.digest().clone() });
    assert_eq!(b.at("app", "v1").manifest().await.digest, *theirs.digest());
}

/// Would break: a copy by hand that gives up while its registry is restarted; a worker that waits with its message in its hands.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_is_waited_for_by_hand_and_left_to_the_queue_by_a_worker() {
    let (a, port) = (DockerRegistry::start().await, free_port());
    Image::random(1).layers(1, 1000).build().push(&a.at("app", "v1")).await;
    let url = format!("http://127.0.0.1:{port}");
    let (source, tag) = (endpoint("a", a.url(), "app"), reference("v1"));
    let at = |patience| {
        let mut config = config("b", &url);
        config.kind = Kind::Oci;
        Registry::new(&Http::with_patience(patience).unwrap(), config).unwrap()
    };
    let (worker, hand) = (at(Patience::default()), at(Patience::default().with_trouble()));
    let target = transship_registry::Endpoint::new(&worker, repo("app"));
    let error = Copier::default().copy(&source, &tag, &target, &tag, PLAIN, &()).await.unwrap_err();
    assert!(matches!(error, Error::Retry { .. }), "{error}");

    let target = transship_registry::Endpoint::new(&hand, repo("app"));
    let copier = Copier::default();
    let start = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        DockerRegistry::builder().port(port).start().await
    };
    let (outcome, b) = tokio::join!(copier.copy(&source, &tag, &target, &tag, PLAIN, &()), start);
    assert!(matches!(outcome.unwrap(), Outcome::Copied { .. }));
    assert_same(&a.at("app", "v1"), &b.at("app", "v1")).await;
}
