//! Deletions. Senders that tell of them do so in the form in which they tell of pushes, by another word: with the word for a push in its
//! place, what reads pushes reads them.
//!
//! Those that say which tag it was are understood: distribution and what embeds it (the deletion of a tag; that of a manifest names only its
//! digest), Harbor and TCR, ECR, Google, zot, and CloudEvents whose type ends in delete or deleted. Azure tells of deleted manifests only,
//! Quay, GHCR and Docker Hub of nothing.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

/// A notification of deletions as one of pushes; `None` if it is none.
pub(super) fn as_pushes(headers: &HeaderMap, mut body: Value) -> Option<(HeaderMap, Value)> {
    let mut headers = headers.clone();
    if let Some(kind) = headers.get("ce-type") {
        let kind = pushed(kind.to_str().ok()?)?;
        headers.insert("ce-type", HeaderValue::from_str(&kind).ok()?);
        return Some((headers, body));
    }
    if body["specversion"].is_string() {
        body["type"] = pushed(body["type"].as_str()?)?.into();
    } else if let Some(events) = body.get_mut("events").and_then(Value::as_array_mut) {
        // One without a tag is of a manifest, or of a blob.
        events.retain(|event| event["action"] == "delete" && event["target"]["tag"].is_string());
        events.iter_mut().for_each(|event| event["action"] = "push".into());
    } else if body["event_data"].is_object() {
        body["type"] = match body["type"].as_str()? {
            "DELETE_ARTIFACT" => "PUSH_ARTIFACT".into(),
            "deleteImage" => "pushImage".into(),
            _ => return None,
        };
    } else if body["detail-type"] == "ECR Image Action" {
        let action = body["detail"].get_mut("action-type").filter(|action| **action == "DELETE")?;
        *action = "PUSH".into();
    } else if body["subscription"].is_string() {
        let data = BASE64.decode(body["message"]["data"].as_str()?).ok()?;
        let mut data: Value = serde_json::from_slice(&data).ok().filter(|data: &Value| data["action"] == "DELETE")?;
        data["action"] = "INSERT".into();
        body["message"]["data"] = json!(BASE64.encode(data.to_string()));
    } else {
        return None;
    }
    Some((headers, body))
}

/// The type of the event that would tell of a push.
fn pushed(kind: &str) -> Option<String> {
    match kind {
        "zotregistry.image.deleted" => Some("zotregistry.image.updated".into()),
        _ => {
            let stem = kind.strip_suffix("deleted").or_else(|| kind.strip_suffix("delete"))?;
            stem.ends_with(['.', '-', '_']).then(|| format!("{stem}pushed"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        read_deletions,
        tests::{ENDPOINT, digest, told},
    };

    fn deletions(headers: &[(&'static str, &str)], body: &Value) -> Vec<[String; 3]> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        read_deletions(&headers, body.to_string().as_bytes(), &ENDPOINT.parse().unwrap()).iter().map(told).collect()
    }

    /// Would break: a sender whose deletions nobody hears of; a push, or a deleted manifest, that is taken for the deletion of a tag.
    #[test]
    fn the_tag_that_was_deleted_is_read_from_each_sender_that_names_it() {
        let target = |tag: Option<&str>| json!({"repository": "shop/cart", "tag": tag});
        let event = |action: &str, tag: Option<&str>| json!({"id": "e-1", "timestamp": "2026-03-04T05:06:07Z", "action": action, "target": target(tag)});
        let envelope = json!({"events": [event("delete", Some("v3")), event("push", Some("v4")), event("delete", None)]});
        // Distribution names the tag alone, and its reader wants no more.
        assert_eq!(deletions(&[], &envelope), [["shop/cart", "v3", "-"]]);
        let data = json!({
            "resources": [{"digest": digest('c'), "tag": "v3"}], "repository": {"repo_full_name": "shop/cart"},
        });
        for kind in ["DELETE_ARTIFACT", "deleteImage"] {
            let body = json!({"type": kind, "occur_at": 1_772_600_767, "event_data": data});
            assert_eq!(deletions(&[], &body), [["shop/cart", "v3", &digest('c')]], "{kind}");
        }
        let cloud_event = |kind: &str, data: &Value| json!({"specversion": "1.0", "id": "e-1", "type": kind, "data": data});
        assert_eq!(deletions(&[], &cloud_event("harbor.artifact.deleted", &data)), [["shop/cart", "v3", &digest('c')]]);
        let plain = json!({"repository": "shop/cart", "tag": "v3"});
        assert_eq!(deletions(&[], &cloud_event("com.example.image.deleted", &plain)), [["shop/cart", "v3", "-"]]);
        let ecr = |action: &str| {
            json!({
                "source": "aws.ecr", "detail-type": "ECR Image Action", "detail": {
                    "result": "SUCCESS", "repository-name": "shop/cart", "image-digest": digest('a'), "image-tag": "v3",
                    "action-type": action,
                },
            })
        };
        assert_eq!(deletions(&[], &ecr("DELETE")), [["shop/cart", "v3", &digest('a')]]);
        let headers = [("ce-specversion", "1.0"), ("ce-type", "zotregistry.image.deleted"), ("ce-id", "e-1")];
        let body = json!({"name": "shop/cart", "reference": "v3", "digest": digest('a')});
        assert_eq!(deletions(&headers, &body), [["shop/cart", "v3", &digest('a')]]);

        for other in [ecr("PUSH"), json!({"type": "PUSH_ARTIFACT", "event_data": data}), json!({"events": []}), json!(7)] {
            assert!(deletions(&[], &other).is_empty(), "{other}");
        }
        assert!(deletions(&[("ce-specversion", "1.0"), ("ce-type", "zotregistry.image.updated")], &body).is_empty());
    }
}
