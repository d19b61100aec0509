//! Docker Hub. It tells no digest, and the push of an index may send an event for each platform, all of one second.

use super::{Field, Push, Unreadable};

/// The push that a notification tells of.
pub(super) fn pushes(body: &Field<'_>) -> Result<Vec<Push>, Unreadable> {
    let data = body.need("push_data")?;
    let repository = body.need("repository")?.need_parsed("repo_name")?;
    let tag = Some(data.need_parsed("tag")?);
    let time = data.get("pushed_at").map(|field| field.seconds()).transpose()?;
    Ok(vec![Push { repository, tag, digest: None, id: None, time }])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{push, refusal, told};

    fn body(pushed_at: Value) -> Value {
        json!({
            "callback_url": "https://registry.hub.docker.test/u/shop/cart/hook/1/",
            "push_data": {"pushed_at": pushed_at, "pusher": "builder", "tag": "v3"},
            "repository": {
                "date_created": 1_771_000_000, "is_official": false, "is_private": true, "name": "cart", "namespace": "shop",
                "owner": "shop", "repo_name": "shop/cart", "repo_url": "https://registry.hub.docker.test/u/shop/cart/",
                "status": "Active"
            }
        })
    }

    #[test]
    fn a_push_has_a_tag_and_no_digest() {
        for pushed_at in [json!(1_772_600_767), json!(1_772_600_767.0)] {
            let push = push(&body(pushed_at));
            assert_eq!(told(&push), ["shop/cart", "v3", "-"]);
            assert_eq!(push.time, Some("2026-03-04T05:06:07Z".parse().unwrap()));
        }
    }

    #[test]
    fn without_a_tag_there_is_nowhere_to_look() {
        let mut old = body(json!(1_772_600_767));
        old["push_data"].as_object_mut().unwrap().remove("tag");
        assert_eq!(refusal(&old), "push_data: 'tag' is missing");
        let mut foreign = body(json!(1_772_600_767));
        foreign["repository"]["repo_name"] = "Shop/Cart".into();
        assert!(refusal(&foreign).starts_with("repository.repo_name: \"Shop/Cart\" is not a repository name"));
    }
}
