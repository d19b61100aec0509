//! Copies between real registries.

use std::sync::Arc;

use serde_json::{Value, json};
use transship_model::{ArtifactType, Digest, Reference};
use transship_registry::{Attached, Copier, Endpoint, Options, Outcome, Way};

use crate::fixture::*;

const PLAIN: Options = Options { overwrite: false, referrers: true };
const OVERWRITE: Options = Options { overwrite: true, referrers: true };

fn pair(repository: &str) -> (Distribution, Distribution, Endpoint, Endpoint) {
    let (a, b) = (Distribution::start(), Distribution::start());
    let (source, target) = (endpoint("source", &a.url, repository), endpoint("target", &b.url, repository));
    (a, b, source, target)
}

async fn copy(source: &Endpoint, target: &Endpoint, tag: &str, options: Options) -> Outcome {
    Copier::default().copy(source, &reference(tag), target, &reference(tag), options, &()).await.unwrap()
}

async fn bytes_of(at: &Endpoint, by: &Reference) -> Option<(String, Vec<u8>)> {
    let manifest = at.registry.get_manifest(&at.repository, by).await.unwrap()?;
    Some((manifest.descriptor.media_type, manifest.bytes.to_vec()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_multi_platform_image_arrives_byte_for_byte() {
    let (_a, b, source, target) = pair("team/app");
    let (index, children) = push_index(&source, "v1", &[1, 2, 3]).await;
    let progress = Counter::default();
    let copier = Copier::default();
    let tag = reference("v1");
    let Outcome::Copied { digest, moved, attached } =
        copier.copy(&source, &tag, &target, &tag, PLAIN, &progress).await.unwrap()
    else {
        panic!("not copied")
    };
    assert_eq!(digest, index.descriptor.digest);
    assert_eq!((moved.blobs_copied, moved.blobs_present, moved.manifests), (6, 0, 4));
    assert_eq!(attached, Attached::default());
    assert_eq!(progress.read(), (moved.bytes_moved, moved.bytes_moved, 0, 0));
    assert_eq!(bytes_of(&target, &tag).await, Some((OCI_INDEX.into(), index.bytes.to_vec())));
    for child in &children {
        let by = Reference::Digest(child.descriptor.digest.clone());
        assert_eq!(bytes_of(&target, &by).await, Some((OCI_MANIFEST.into(), child.bytes.to_vec())));
    }
    let layer = target.registry.get_blob(&target.repository, &Digest::of(&noise(2, 50_000))).await.unwrap();
    assert_eq!(layer.read(1 << 20).await.unwrap(), noise(2, 50_000));
    assert_eq!(b.unfinished_uploads(), 0);

    let resolved = copier.resolve(&source, &tag).await.unwrap().unwrap();
    assert_eq!(resolved.artifact, ArtifactType::Image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_copy_moves_nothing() {
    let (_a, _b, source, target) = pair("app");
    push_index(&source, "v1", &[1, 2]).await;
    copy(&source, &target, "v1", PLAIN).await;
    assert!(matches!(copy(&source, &target, "v1", PLAIN).await, Outcome::Unchanged { .. }));

    // The same under another tag, by a process that remembers nothing: everything is there but the tag.
    let outcome = Copier::default().copy(&source, &reference("v1"), &target, &reference("v2"), PLAIN, &()).await.unwrap();
    let Outcome::Copied { moved, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!((moved.bytes_moved, moved.blobs_copied, moved.manifests), (0, 0, 1));

    // Another image with one of the layers.
    let (config, layer) = (br#"{"other":1}"#, noise(1, 50_000));
    push(&source, Some("v3"), (OCI_CONFIG, config), &[(OCI_LAYER, &layer)], json!({})).await;
    let Outcome::Copied { moved, .. } = copy(&source, &target, "v3", PLAIN).await else { panic!() };
    assert_eq!((moved.blobs_copied, moved.blobs_present, moved.bytes_present), (1, 1, 50_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn charts_and_other_artifacts_are_told_apart_and_copied() {
    let (_a, _b, source, target) = pair("team/things");
    let copier = Copier::default();
    let helm = ("application/vnd.cncf.helm.config.v1+json", br#"{"name":"chart"}"#.as_slice());
    push(&source, Some("chart"), helm, &[("application/vnd.cncf.helm.chart.content.v1.tar+gzip", &noise(1, 900))], json!({}))
        .await;
    let empty = ("application/vnd.oci.empty.v1+json", b"{}".as_slice());
    push(&source, Some("other"), empty, &[("text/plain", b"hello")], json!({"artifactType": "application/x-thing"})).await;
    // BuildKit's attestation comes first and does not count.
    let note = push(&source, None, empty, &[("application/vnd.in-toto+json", b"{\"a\":1}")], json!({})).await;
    let chart = source.registry.head_manifest(&source.repository, &reference("chart")).await.unwrap().unwrap();
    let mut noted = as_value(&note.descriptor);
    noted["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    put(&source, Some("index"), manifest(OCI_INDEX, json!({"manifests": [noted, as_value(&chart)]}))).await;
    for (tag, artifact) in [("chart", ArtifactType::Chart), ("other", ArtifactType::Other), ("index", ArtifactType::Chart)] {
        assert_eq!(copier.resolve(&source, &reference(tag)).await.unwrap().unwrap().artifact, artifact, "{tag}");
        assert!(matches!(copy(&source, &target, tag, PLAIN).await, Outcome::Copied { .. }));
        assert_eq!(bytes_of(&target, &reference(tag)).await, bytes_of(&source, &reference(tag)).await);
    }
    assert!(copier.resolve(&source, &reference("nothing")).await.unwrap().is_none());
    let error = copier.copy(&source, &reference("nothing"), &target, &reference("x"), PLAIN, &()).await.unwrap_err();
    assert_eq!(error.to_string(), "source: copying team/things:nothing: it is not there");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_digest_at_the_target_stays_unless_it_may_be_overwritten() {
    let (_a, _b, source, target) = pair("app");
    push_image(&source, Some("v1"), 1).await;
    let there = push_image(&target, Some("v1"), 2).await;
    assert_eq!(copy(&source, &target, "v1", PLAIN).await, Outcome::Exists { digest: there.descriptor.digest });
    assert!(matches!(copy(&source, &target, "v1", OVERWRITE).await, Outcome::Copied { .. }));
    assert_eq!(bytes_of(&target, &reference("v1")).await, bytes_of(&source, &reference("v1")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_blobs_doubled_blobs_and_foreign_layers_are_no_trouble() {
    let (_a, _b, source, target) = pair("app");
    let layer = noise(1, 2000);
    let foreign = json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": Digest::of(b"elsewhere"), "size": 9, "urls": ["https://example.com/layer"]});
    for bytes in [b"{}".as_slice(), b"", &layer] {
        source.registry.push_blob(&source.repository, bytes.to_vec().into()).await.unwrap();
    }
    let layers = json!([descriptor(OCI_LAYER, &layer), descriptor(OCI_LAYER, b""), descriptor(OCI_LAYER, &layer), foreign]);
    let value = json!({"config": descriptor(OCI_CONFIG, b"{}"), "layers": layers});
    put(&source, Some("v1"), manifest(OCI_MANIFEST, value)).await;
    let Outcome::Copied { moved, .. } = copy(&source, &target, "v1", PLAIN).await else { panic!() };
    assert_eq!((moved.blobs_copied, moved.bytes_moved), (3, 2002));
    assert_eq!(bytes_of(&target, &reference("v1")).await, bytes_of(&source, &reference("v1")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn within_one_registry_blobs_are_mounted() {
    let a = Distribution::start();
    let (source, target) = (endpoint("a", &a.url, "team/app"), endpoint("a", &a.url, "mirror/app"));
    push_image(&source, Some("v1"), 1).await;
    let Outcome::Copied { moved, .. } = copy(&source, &target, "v1", PLAIN).await else { panic!() };
    assert_eq!((moved.blobs_mounted, moved.blobs_copied, moved.bytes_moved), (2, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_at_the_same_time_upload_a_common_layer_once() {
    let (_a, b, source, _) = pair("base");
    let target = registry("target", &b.url);
    let layer = noise(7, 3_000_000);
    let copier = Arc::new(Copier::default());
    for n in 0..6 {
        let at = Endpoint::new(&source.registry, repo(&format!("team/app{n}")));
        let config = format!(r#"{{"n":{n}}}"#);
        push(&at, Some("v1"), (OCI_CONFIG, config.as_bytes()), &[(OCI_LAYER, &layer)], json!({})).await;
    }
    let copies = (0..6).map(|n| {
        let (copier, source, target) = (copier.clone(), source.registry.clone(), target.clone());
        tokio::spawn(async move {
            let repository = repo(&format!("team/app{n}"));
            let (source, target) = (Endpoint::new(&source, repository.clone()), Endpoint::new(&target, repository));
            copier.copy(&source, &reference("v1"), &target, &reference("v1"), PLAIN, &()).await.unwrap()
        })
    });
    let (mut copied, mut mounted) = (0, 0);
    for copy in copies.collect::<Vec<_>>() {
        let Outcome::Copied { moved, .. } = copy.await.unwrap() else { panic!() };
        copied += moved.blobs_copied;
        mounted += moved.blobs_mounted;
    }
    assert_eq!((copied, mounted), (6 + 1, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_has_lost_is_brought_again() {
    let (_a, b, source, target) = pair("app");
    let copier = Copier::default();
    push_image(&source, Some("v1"), 1).await;
    let tag = reference("v1");
    copier.copy(&source, &tag, &target, &tag, PLAIN, &()).await.unwrap();
    // As after a garbage collection: the copier believes what is no longer true.
    std::fs::remove_dir_all(b.storage.path().join("data/docker/registry/v2")).unwrap();
    let resolved = copier.resolve(&source, &tag).await.unwrap().unwrap();
    let before = copier.content(&Way::new(&source, &target, &()), &resolved).await.unwrap();
    assert_eq!(before.blobs_copied, 0);
    let moved = copier.publish(&Way::new(&source, &target, &()), &resolved, &tag).await.unwrap();
    assert_eq!(moved.blobs_copied, 2);
    assert_eq!(bytes_of(&target, &tag).await, bytes_of(&source, &tag).await);
}

/// An image with a signature by tag, an SBOM by subject, and a signature of the SBOM.
async fn push_signed(at: &Endpoint) -> (Digest, Digest, Digest) {
    let (index, children) = push_index(at, "v1", &[1, 2]).await;
    let empty = ("application/vnd.oci.empty.v1+json", b"{}".as_slice());
    let subject = |of: &transship_registry::Descriptor| {
        json!({"subject": as_value(of), "artifactType": "application/spdx+json",
        "annotations": {"of": of.digest}})
    };
    let sbom = push(at, None, empty, &[("application/spdx+json", b"sbom")], subject(&index.descriptor)).await;
    let signed = push(at, None, empty, &[("application/x-sig", b"sig of sbom")], subject(&sbom.descriptor)).await;
    for digest in [&index.descriptor.digest, &children[1].descriptor.digest] {
        let tag = digest.as_tag(".sig").to_string();
        push(
            at,
            Some(&tag),
            (OCI_CONFIG, b"{}"),
            &[("application/vnd.dev.cosign.simplesigning.v1+json", digest.as_str().as_bytes())],
            json!({}),
        )
        .await;
    }
    (index.descriptor.digest, sbom.descriptor.digest, signed.descriptor.digest)
}

/// Lists a referrer by the tag, as a client does where the registry has no API.
async fn list_by_tag(at: &Endpoint, subject: &Digest, referrer: &Digest) {
    let by = Reference::Digest(referrer.clone());
    let mut entry = as_value(&at.registry.head_manifest(&at.repository, &by).await.unwrap().unwrap());
    entry["artifactType"] = json!("application/spdx+json");
    put(at, Some(subject.as_tag("").as_str()), manifest(OCI_INDEX, json!({"manifests": [entry]}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_and_referrers_follow_by_tag() {
    let (_a, _b, source, target) = pair("app");
    let (index, sbom, signed) = push_signed(&source).await;
    list_by_tag(&source, &index, &sbom).await;
    list_by_tag(&source, &sbom, &signed).await;
    // The target has a referrer of its own, with a field that nobody knows.
    let own =
        json!({"mediaType": OCI_MANIFEST, "digest": push_image(&target, None, 9).await.descriptor.digest, "size": 1, "new": 1});
    put(&target, Some(index.as_tag("").as_str()), manifest(OCI_INDEX, json!({"manifests": [own]}))).await;

    let Outcome::Copied { attached, .. } = copy(&source, &target, "v1", PLAIN).await else { panic!() };
    assert_eq!((attached.manifests, attached.left.len()), (4, 0));
    let (_, merged) = bytes_of(&target, &Reference::Tag(index.as_tag(""))).await.unwrap();
    let merged: Value = serde_json::from_slice(&merged).unwrap();
    assert_eq!(merged["manifests"][0], own);
    assert_eq!(merged["manifests"][1]["digest"], json!(sbom));
    assert_eq!(merged["manifests"][1]["artifactType"], "application/spdx+json");
    assert_eq!(merged["manifests"][1]["annotations"]["of"], json!(index));
    let listed = target.registry.referrers(&target.repository, &sbom).await.unwrap();
    assert_eq!(listed.iter().map(|r| &r.digest).collect::<Vec<_>>(), [&signed]);
    assert!(bytes_of(&target, &Reference::Tag(index.as_tag(".sig"))).await.is_some());

    assert_eq!(copy(&source, &target, "v1", PLAIN).await, Outcome::Unchanged { digest: index, attached: Attached::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_follow_by_api_and_from_one_way_to_the_other() {
    let (a, b) = (Fake::ferro().await, Fake::ferro().await);
    let c = Distribution::start();
    let d = Fake::ferro().await;
    let [first, second, third, fourth] = [&a.url, &b.url, &c.url, &d.url].map(|url| endpoint("registry", url, "app"));
    let (index, sbom, signed) = push_signed(&first).await;
    for (from, to) in [(&first, &second), (&second, &third), (&third, &fourth)] {
        let Outcome::Copied { attached, .. } = copy(from, to, "v1", PLAIN).await else { panic!() };
        assert_eq!(attached.manifests, 4);
        for (subject, referrer) in [(&index, &sbom), (&sbom, &signed)] {
            let listed = to.registry.referrers(&to.repository, subject).await.unwrap();
            assert_eq!(listed.iter().map(|r| &r.digest).collect::<Vec<_>>(), [referrer]);
            assert_eq!(listed[0].rest["artifactType"], "application/spdx+json");
        }
        assert!(
            matches!(copy(from, to, "v1", PLAIN).await, Outcome::Unchanged { attached, .. } if attached == Attached::default())
        );
    }
    // Where the API lists them, no tag does.
    let tags = |at: Endpoint| async move { at.registry.list_tags(&at.repository, None).await.unwrap().items };
    assert!(!tags(second).await.contains(&index.as_tag("")));
    assert!(tags(third).await.contains(&index.as_tag("")));
    assert!(!tags(fourth).await.contains(&index.as_tag("")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cosign_tag_is_replaced_only_where_no_signature_is_lost() {
    let (_a, _b, source, target) = pair("app");
    let image = push_image(&source, Some("v1"), 1).await;
    let tag = image.descriptor.digest.as_tag(".sig");
    let sign = async |at: &Endpoint, signatures: &[&[u8]]| {
        let layers: Vec<_> = signatures.iter().map(|s| ("application/vnd.dev.cosign.simplesigning.v1+json", *s)).collect();
        push(at, Some(tag.as_str()), (OCI_CONFIG, b"{}"), &layers, json!({})).await
    };
    sign(&source, &[b"one", b"two"]).await;
    let attached = |outcome| match outcome {
        Outcome::Copied { attached, .. } | Outcome::Unchanged { attached, .. } => attached,
        Outcome::Exists { .. } => panic!(),
    };
    // The target has one of the two: nothing is lost.
    sign(&target, &[b"one"]).await;
    assert_eq!(attached(copy(&source, &target, "v1", PLAIN).await).manifests, 1);
    // It has one that the source does not have.
    let kept = sign(&target, &[b"one", b"three"]).await;
    assert_eq!(attached(copy(&source, &target, "v1", PLAIN).await).left, std::slice::from_ref(&tag));
    let by = Reference::Tag(tag.clone());
    assert_eq!(bytes_of(&target, &by).await.unwrap().1, kept.bytes);
    assert_eq!(attached(copy(&source, &target, "v1", OVERWRITE).await).manifests, 1);
    assert_eq!(bytes_of(&target, &by).await, bytes_of(&source, &by).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_come_in_pages_and_a_missing_repository_has_none() {
    let a = Fake::ferro().await;
    let at = endpoint("a", &a.url, "app");
    for n in 0..5 {
        push_image(&at, Some(&format!("v{n}")), 1).await;
    }
    let page = at.registry.list_tags(&at.repository, None).await.unwrap();
    assert_eq!(page.items.len(), 5);
    assert!(page.next.is_none());
    let page = at.registry.list_tags(&repo("nothing"), None).await.unwrap();
    assert!(page.items.is_empty() && page.next.is_none());
    let page = at.registry.list_repositories(&"*".parse().unwrap(), None).await.unwrap();
    assert_eq!(page.items, [repo("app")]);
    let page = at.registry.list_repositories(&"team".parse().unwrap(), None).await.unwrap();
    assert!(page.items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_copy_leaves_nothing_that_can_be_seen() {
    let (_a, _b, source, target) = pair("app");
    push(&source, Some("v1"), (OCI_CONFIG, b"{}"), &[(OCI_LAYER, &noise(1, 30_000_000))], json!({})).await;
    let copier = Copier::default();
    let tag = reference("v1");
    let work = copier.copy(&source, &tag, &target, &tag, PLAIN, &());
    assert!(tokio::time::timeout(std::time::Duration::from_millis(30), work).await.is_err(), "too fast to be interrupted");
    assert!(target.registry.list_tags(&target.repository, None).await.unwrap().items.is_empty());
    // Nor does it stand in the way of the next.
    let outcome = copier.copy(&source, &tag, &target, &tag, PLAIN, &()).await.unwrap();
    assert!(matches!(outcome, Outcome::Copied { .. }));
}
