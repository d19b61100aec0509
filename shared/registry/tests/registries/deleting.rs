//! Tags deleted by the specification: docker-registry deletes manifests only, others tags.

use serde_json::json;
use transship_model::{Digest, Kind, Reference, Tag};
use transship_registry::{Deletion, Endpoint, Error};
use transship_tests::DockerRegistry;

use crate::fixture::*;

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

async fn delete(at: &Endpoint, name: &str, expected: &Digest) -> Deletion {
    at.registry.delete_tag(&at.repository, &tag(name), expected).await.unwrap()
}

async fn tags(at: &Endpoint) -> Vec<String> {
    let mut tags: Vec<_> =
        at.registry.list_tags(&at.repository, None).await.unwrap().items.iter().map(ToString::to_string).collect();
    tags.sort();
    tags
}

/// Would break: a tag deleted that somebody has moved, or a second deletion that is an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_deleted_while_it_is_what_was_expected() {
    let registry = DockerRegistry::start().await;
    let at = endpoint("x", registry.url(), "team/app");
    let (old, new) = (push_image(&at, Some("v1"), 1).await, push_image(&at, Some("v2"), 2).await);
    let (old, new) = (old.descriptor.digest, new.descriptor.digest);
    assert_eq!(delete(&at, "v1", &new).await, Deletion::Changed(old.clone()));
    assert_eq!(tags(&at).await, ["v1", "v2"]);
    assert_eq!(delete(&at, "v1", &old).await, Deletion::Deleted);
    assert_eq!(tags(&at).await, ["v2"]);
    assert!(at.registry.head_manifest(&at.repository, &Reference::Digest(new)).await.unwrap().is_some());
    assert_eq!(delete(&at, "v1", &old).await, Deletion::Gone);
    let nowhere = endpoint("x", registry.url(), "nothing");
    assert_eq!(delete(&nowhere, "v1", &old).await, Deletion::Gone);
}

/// Would break: `latest` gone with `v1`, because the registry deletes what both point to.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_tag_has_stays() {
    let registry = DockerRegistry::start().await;
    let at = endpoint("x", registry.url(), "team/app");
    for n in 0..20 {
        push_image(&at, Some(&format!("other{n}")), 100 + n).await;
    }
    let image = push_image(&at, Some("v1"), 1).await;
    put(&at, Some("latest"), image.clone()).await;
    assert_eq!(delete(&at, "v1", &image.descriptor.digest).await, Deletion::Shared { with: tag("latest") });
    assert_eq!(tags(&at).await.len(), 22);
}

/// Would break: an index whose platform is gone, because a tag of that platform alone was deleted.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_index_of_another_tag_needs_stays() {
    let registry = DockerRegistry::start().await;
    let at = endpoint("x", registry.url(), "team/app");
    let (index, children) = push_index(&at, "v1", &[1, 2]).await;
    let outer = put(&at, Some("outer"), manifest(OCI_INDEX, json!({"manifests": [as_value(&index.descriptor)]}))).await;
    put(&at, Some("v1-amd64"), children[0].clone()).await;
    let digest = children[0].descriptor.digest.clone();
    let Deletion::Shared { with } = delete(&at, "v1-amd64", &digest).await else { panic!("it is shared") };
    assert!(["v1", "outer"].contains(&with.as_str()), "{with}");
    // Below two indexes, one within the other, too.
    assert_eq!(delete(&at, "v1", &index.descriptor.digest).await, Deletion::Shared { with: tag("outer") });
    // What needs others is needed by nobody.
    assert_eq!(delete(&at, "outer", &outer.descriptor.digest).await, Deletion::Deleted);
    assert_eq!(delete(&at, "v1", &index.descriptor.digest).await, Deletion::Deleted);
    assert_eq!(delete(&at, "v1-amd64", &digest).await, Deletion::Deleted);
    assert!(tags(&at).await.is_empty());
}

/// Would break: an error that is tried again, or a report that leaves its reader without what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_deletes_nothing_is_reported_with_what_turns_it_on() {
    let registry = DockerRegistry::builder().without_deletion().start().await;
    let at = endpoint("x", registry.url(), "team/app");
    let image = push_image(&at, Some("v1"), 1).await;
    let Deletion::NotSupported(reason) = delete(&at, "v1", &image.descriptor.digest).await else { panic!("it can't be") };
    assert!(reason.starts_with("x deletes nothing") && reason.contains("REGISTRY_STORAGE_DELETE_ENABLED=true"), "{reason}");
    assert_eq!(tags(&at).await, ["v1"]);
}

/// Would break: a whole manifest deleted, with all its tags, where the registry would have taken one tag away.
#[tokio::test(flavor = "multi_thread")]
async fn where_tags_can_be_deleted_nothing_else_is() {
    let digest = Digest::of(b"{}");
    let found = digest.to_string();
    let fake = Fake::start(move |asked, _| match asked.method.as_str() {
        "HEAD" => {
            answer(200, &[("content-type", OCI_MANIFEST), ("docker-content-digest", &found), ("content-length", "2")], "")
        }
        "DELETE" if asked.target == "/v2/team/app/manifests/v1" => answer(202, &[], ""),
        other => panic!("{other} {}", asked.target),
    })
    .await;
    for kind in [Kind::Distribution, Kind::Quay, Kind::Gitlab, Kind::Google, Kind::Oci] {
        let at = Endpoint::new(&registry_with(&fake.url, |config| config.kind = kind), repo("team/app"));
        assert_eq!(delete(&at, "v1", &digest).await, Deletion::Deleted, "{kind}");
    }
    assert_eq!(fake.count("DELETE", ""), 5);
}

/// Would break: a denial reported as if the registry could not delete, so that nobody mends the rights.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_deletion_is_no_missing_support() {
    let digest = Digest::of(b"{}");
    let found = digest.to_string();
    let fake = Fake::start(move |asked, _| match asked.method.as_str() {
        "HEAD" => {
            answer(200, &[("content-type", OCI_MANIFEST), ("docker-content-digest", &found), ("content-length", "2")], "")
        }
        _ => answer(403, &[], r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#),
    })
    .await;
    let at = endpoint("x", &fake.url, "team/app");
    let error = at.registry.delete_tag(&at.repository, &tag("v1"), &digest).await.unwrap_err();
    assert!(
        matches!(error, Error::Refused(_)) && error.to_string().contains("check what the credentials of x may do"),
        "{error}"
    );
}
