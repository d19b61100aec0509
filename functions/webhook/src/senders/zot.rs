//! zot, whose events extension sends CloudEvents in binary mode. A first push sends two events, of which one is of the repository.

use super::{Push, Unreadable, cloud_events::CloudEvent};

/// The push that an event of a type `zotregistry.…` tells of.
pub(super) fn pushes(event: CloudEvent<'_>) -> Result<Vec<Push>, Unreadable> {
    // Also what comes from a mirror of zot's own.
    if event.kind != "zotregistry.image.updated" {
        return Ok(Vec::new());
    }
    let data = event.data()?;
    let (tag, digest) = data.reference(["reference", "digest"])?;
    Ok(vec![Push { repository: data.need_parsed("name")?, tag, digest, id: event.id, time: event.time }])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        Notification, Unreadable,
        tests::{ENDPOINT, digest, read_with, told},
    };

    fn read(kind: &str, body: &Value) -> Result<Notification, Unreadable> {
        let headers = [
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-type", kind),
            ("ce-source", "zotregistry.dev"),
            ("ce-id", "3b9d2f0e-7a51-4c6e-8f10-90ab12cd34ef"),
            ("ce-time", "2026-03-04T05:06:07.5Z"),
        ];
        read_with(&headers, body.to_string().as_bytes(), ENDPOINT)
    }

    fn updated(reference: &str) -> Value {
        json!({
            "name": "shop/cart", "reference": reference, "digest": digest('a'),
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "manifest": "{\"schemaVersion\":2}",
            "actor": {"name": "builder"}, "request": {"addr": "198.51.100.4:51234", "method": "PUT", "useragent": "skopeo/1.18"}
        })
    }

    #[test]
    fn an_updated_image_is_a_push() {
        for (reference, tag) in [("v3", "v3"), (&*digest('a'), "-")] {
            let Ok(Notification::Pushes(pushes)) = read("zotregistry.image.updated", &updated(reference)) else {
                panic!("a push")
            };
            assert_eq!(told(&pushes[0]), ["shop/cart", tag, &digest('a')]);
            assert_eq!(pushes[0].id.as_deref(), Some("3b9d2f0e-7a51-4c6e-8f10-90ab12cd34ef"));
            assert_eq!(pushes[0].time, Some("2026-03-04T05:06:07.5Z".parse().unwrap()));
        }
        assert_eq!(
            read("zotregistry.image.updated", &json!({"reference": "v3"})).unwrap_err().to_string(),
            "the body: 'name' is missing"
        );
    }

    #[test]
    fn other_events_are_nothing() {
        for kind in ["zotregistry.repository.created", "zotregistry.image.deleted", "zotregistry.image.lint_failed"] {
            assert_eq!(read(kind, &updated("v3")), Ok(Notification::Nothing), "{kind}");
        }
    }
}
