//! Alibaba Cloud's registry. Its time has no zone and its trigger no ID, so that each delivery is new.

use super::{Field, Push, Unreadable};

/// The push that a notification tells of.
pub(super) fn pushes(body: &Field<'_>) -> Result<Vec<Push>, Unreadable> {
    let (tag, digest) = body.need("push_data")?.reference(["tag", "digest"])?;
    let repository = body.need("repository")?;
    // The console lets people write capitals, which no reference has.
    let repository = repository.parse(&repository.need_text("repo_full_name")?.to_lowercase())?;
    Ok(vec![Push { repository, tag, digest, id: None, time: None }])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{digest, push, refusal, told};

    fn body(tag: &str) -> Value {
        json!({
            "push_data": {"digest": digest('a'), "pushed_at": "2026-03-04 13:06:07", "tag": tag},
            "repository": {
                "date_created": "2026-02-13 10:00:00", "name": "cart", "namespace": "shop", "region": "cn-hangzhou",
                "repo_authentication_type": "NO_CERTIFIED", "repo_full_name": "shop/Cart", "repo_origin_type": "NO_CERTIFIED",
                "repo_type": "PRIVATE"
            }
        })
    }

    #[test]
    fn a_push_has_no_identity() {
        let push = push(&body("v3"));
        assert_eq!(told(&push), ["shop/cart", "v3", &digest('a')]);
        assert_eq!((push.id, push.time), (None, None));
    }

    #[test]
    fn a_tag_that_is_a_digest_is_none_and_a_wrong_one_is_named() {
        assert_eq!(told(&push(&body(&digest('a'))))[1], "-");
        assert!(refusal(&body("a b")).starts_with("push_data.tag: \"a b\" is not a tag"));
    }
}
