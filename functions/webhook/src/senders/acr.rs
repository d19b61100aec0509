//! Azure Container Registry's own webhooks. Event Grid carries the same data in its envelope.
//!
//! A registry with replicas sends an event for each of them.

use jiff::Timestamp;

use super::{Field, Push, Unreadable};

/// The pushes that a webhook's notification tells of. `chart_push` is of the old chart store, which is no registry; charts in the
/// registry are pushed as images are.
pub(super) fn pushes(body: &Field<'_>) -> Result<Vec<Push>, Unreadable> {
    if body.need_text("action")? != "push" {
        return Ok(Vec::new());
    }
    Ok(vec![push(body, body.id("id")?, None)?])
}

/// The push in the data of an event, whose own time is the best one.
pub(super) fn push(data: &Field<'_>, id: Option<String>, time: Option<Timestamp>) -> Result<Push, Unreadable> {
    let target = data.need("target")?;
    let (tag, digest) = target.reference(["tag", "digest"])?;
    let time = data.get_parsed("timestamp")?.or(time);
    Ok(Push { repository: target.need_parsed("repository")?, tag, digest, id, time })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{assert_nothing, digest, push, refusal, told};

    fn body(action: &str, target: Value) -> Value {
        json!({
            "id": "c1d2e3f4-0a1b-4c2d-8e3f-405162738495", "timestamp": "2026-03-04T05:06:07.343145347Z", "action": action,
            "target": target,
            "request": {"id": "5f6e7d8c", "host": "shop.azurecr.test", "method": "PUT", "useragent": "skopeo/1.18"}
        })
    }

    fn target(tag: &str) -> Value {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 612, "digest": digest('a'), "length": 612,
            "repository": "shop/cart", "tag": tag
        })
    }

    #[test]
    fn a_push_is_read_with_or_without_a_tag() {
        for (tag, expected) in [("v3", "v3"), ("", "-"), (&*digest('a'), "-")] {
            let push = push(&body("push", target(tag)));
            assert_eq!(told(&push), ["shop/cart", expected, &digest('a')]);
            assert_eq!(push.id.as_deref(), Some("c1d2e3f4-0a1b-4c2d-8e3f-405162738495"));
            assert_eq!(push.time, Some("2026-03-04T05:06:07.343145347Z".parse().unwrap()));
        }
    }

    #[test]
    fn other_actions_are_nothing() {
        for action in ["delete", "quarantine", "chart_push", "chart_delete"] {
            assert_nothing(&body(action, target("v3")));
        }
        assert_nothing(&json!({"id": "c1d2", "timestamp": "2026-03-04T05:06:07Z", "action": "ping"}));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(refusal(&body("push", json!({"repository": "shop/cart"}))).starts_with("target: neither 'tag' nor 'digest'"));
        assert!(refusal(&body("push", json!({"tag": "v3"}))).starts_with("target: 'repository' is missing"));
    }
}
