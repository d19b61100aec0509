//! CNCF distribution (`registry:2`, `registry:3`) and what embeds it, such as GitLab's registry: an envelope of events, of the
//! media type `application/vnd.docker.distribution.events.v1+json` (2.x) or `….v2+json` (3.x), which say the same.
//!
//! A blob's push has the action of a manifest's, and each image sends several. Releases send one event an envelope, the format
//! allows many.

use super::{Field, Push, Unreadable};

/// The pushes of manifests among the events of an envelope.
pub(super) fn pushes(envelope: &Field<'_>) -> Result<Vec<Push>, Unreadable> {
    let mut pushes = Vec::new();
    for event in envelope.need("events")?.items()? {
        // The other actions (pull, delete, mount, and whatever comes to be) need not even be well-formed.
        if event.need("action")?.text()? == "push" {
            pushes.extend(push(&event)?);
        }
    }
    Ok(pushes)
}

/// The push that an event tells of, unless it is of a blob.
fn push(event: &Field<'_>) -> Result<Option<Push>, Unreadable> {
    let target = event.need("target")?;
    // Blobs have no tag, so whatever has one is a manifest, of a media type that is unknown here too. In doubt it is one: a
    // needless look is cheap.
    let named = target.get_text("tag")?.is_some();
    if !named && !target.get_text("mediaType")?.is_none_or(is_manifest) {
        return Ok(None);
    }
    let (tag, digest) = target.reference(["tag", "digest"])?;
    Ok(Some(Push {
        repository: target.need_parsed("repository")?,
        tag,
        digest,
        id: event.id("id")?,
        time: event.get_parsed("timestamp")?,
    }))
}

/// Whether a media type is a manifest's or an index's: `application/vnd.oci.image.manifest.v1+json`,
/// `application/vnd.oci.image.index.v1+json`, `application/vnd.docker.distribution.manifest.list.v2+json` and the like. Charts,
/// signatures and other artifacts have the same ones; layers and `application/octet-stream`, as blobs are called, do not.
fn is_manifest(media_type: &str) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    media_type.contains(".manifest.") || media_type.contains(".index.")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        MAX_EVENTS,
        tests::{assert_nothing, digest, pushes, refusal},
    };

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    /// An event with all that distribution 3 writes.
    fn event(action: &str, target: Value) -> Value {
        json!({
            "id": "5b0fa9c8-2f0e-4e4e-9d55-0c8a3cd8f3b1",
            "timestamp": "2026-03-04T05:06:07.123456789+01:00",
            "action": action,
            "target": target,
            "request": {
                "id": "1f2e3d4c", "addr": "198.51.100.4:51234", "host": "registry.test", "method": "PUT", "useragent": "skopeo/1.18"
            },
            "actor": {"name": "builder"},
            "source": {"addr": "registry-0:5000", "instanceID": "0d9c8b7a"}
        })
    }

    /// What is pushed, as `target` has it.
    fn target(media_type: &str) -> Value {
        json!({
            "mediaType": media_type, "digest": digest('a'), "size": 612, "length": 612, "repository": "shop/cart",
            "url": format!("http://registry.test/v2/shop/cart/manifests/{}", digest('a'))
        })
    }

    fn tagged(tag: &str) -> Value {
        let mut target = target(MANIFEST);
        target["tag"] = tag.into();
        target
    }

    fn envelope(events: &[Value]) -> Value {
        json!({ "events": events })
    }

    #[test]
    fn a_manifest_pushed_by_tag_is_a_push() {
        let mut target = tagged("v1.2");
        // With `includereferences: true`.
        target["references"] = json!([{"mediaType": "application/octet-stream", "digest": digest('b'), "size": 3}]);
        let [push] = &pushes(&envelope(&[event("push", target)]))[..] else { panic!("one push") };
        assert_eq!(push.repository.as_str(), "shop/cart");
        assert_eq!(push.tag.as_ref().unwrap().as_str(), "v1.2");
        assert_eq!(push.digest.as_ref().unwrap().as_str(), digest('a'));
        assert_eq!(push.id.as_deref(), Some("5b0fa9c8-2f0e-4e4e-9d55-0c8a3cd8f3b1"));
        assert_eq!(push.time, Some("2026-03-04T04:06:07.123456789Z".parse().unwrap()));
    }

    #[test]
    fn a_manifest_pushed_by_digest_has_no_tag() {
        for media_type in [
            MANIFEST,
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.distribution.manifest.list.v2+json",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            "application/vnd.oci.artifact.manifest.v1+json",
        ] {
            let [push] = &pushes(&envelope(&[event("push", target(media_type))]))[..] else { panic!("{media_type}") };
            assert_eq!((push.tag.as_ref(), push.digest.is_some()), (None, true), "{media_type}");
        }
        for tag in [digest('a'), String::new()] {
            let [push] = &pushes(&envelope(&[event("push", tagged(&tag))]))[..] else { panic!("{tag}") };
            assert_eq!((push.tag.as_ref(), push.digest.is_some()), (None, true), "{tag}");
        }
    }

    #[test]
    fn in_doubt_it_is_a_manifest() {
        let mut unnamed = target(MANIFEST);
        unnamed.as_object_mut().unwrap().remove("mediaType");
        assert_eq!(pushes(&envelope(&[event("push", unnamed)])).len(), 1);
        let mut unknown = tagged("v1");
        unknown["mediaType"] = "application/vnd.example.thing+json".into();
        assert_eq!(pushes(&envelope(&[event("push", unknown)])).len(), 1);
    }

    #[test]
    fn blobs_and_other_actions_are_nothing() {
        for media_type in [
            "application/octet-stream",
            "application/vnd.docker.container.image.rootfs.diff+x-gtar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.container.image.v1+json",
        ] {
            assert_nothing(&envelope(&[event("push", target(media_type))]));
        }
        let mut mounted = target("application/octet-stream");
        mounted["fromRepository"] = "shop/base".into();
        assert_nothing(&envelope(&[event("mount", mounted)]));
        assert_nothing(&envelope(&[event("pull", tagged("v1"))]));
        assert_nothing(&envelope(&[event("delete", json!({"digest": digest('a'), "repository": "shop/cart"}))]));
        assert_nothing(&envelope(&[event("delete", json!({"tag": "v1", "repository": "shop/cart"}))]));
        assert_nothing(&envelope(&[event("repaint", json!({"repository": "NOT A NAME"}))]));
        assert_nothing(&envelope(&[]));
    }

    #[test]
    fn an_envelope_is_read_completely_or_refused() {
        let good = event("push", tagged("v1"));
        let layer = event("push", target("application/octet-stream"));
        assert_eq!(pushes(&envelope(&[layer.clone(), good.clone(), layer, good.clone()])).len(), 2);

        let mut foreign = tagged("v1");
        foreign["repository"] = "Shop/Cart".into();
        let message = refusal(&envelope(&[good.clone(), good.clone(), good.clone(), event("push", foreign)]));
        assert!(message.starts_with("events[3].target.repository: \"Shop/Cart\" is not a repository name: "), "{message}");

        let without = |key: &str| {
            let mut target = target(MANIFEST);
            target.as_object_mut().unwrap().remove(key);
            envelope(&[event("push", target)])
        };
        assert_eq!(refusal(&without("repository")), "events[0].target: 'repository' is missing");
        assert_eq!(refusal(&without("digest")), "events[0].target: neither 'tag' nor 'digest' is there");
        assert!(refusal(&envelope(&[event("push", tagged("a b"))])).starts_with("events[0].target.tag: \"a b\" is not a tag"));
        assert_eq!(refusal(&envelope(&[good, json!(7)])), "events[1]: 'action' is missing");
        assert_eq!(refusal(&envelope(&[event("push", json!(null))])), "events[0]: 'target' is missing");
        assert_eq!(refusal(&envelope(&[json!({"action": 1})])), "events[0].action: not a text");
    }

    #[test]
    fn an_envelope_has_a_greatest_length() {
        let full = vec![event("push", tagged("v1")); MAX_EVENTS];
        assert_eq!(pushes(&envelope(&full)).len(), MAX_EVENTS);
        let over = vec![event("pull", tagged("v1")); MAX_EVENTS + 1];
        assert_eq!(refusal(&envelope(&over)), "events: 1001 elements are more than the 1000 that a body may have");
    }
}
