//! Quay: a list of tags without digests, an ID or a time.

use transship_model::Repository;

use super::{Field, Push, Unreadable};

/// The pushes that a notification tells of; those of other events (builds, mirrors, vulnerabilities) have no `updated_tags`.
pub(super) fn pushes(body: &Field<'_>) -> Result<Vec<Push>, Unreadable> {
    let Some(tags) = body.get("updated_tags") else { return Ok(Vec::new()) };
    let repository: Repository = body.need_parsed("repository")?;
    let push = |tag: Field<'_>| {
        let tag = Some(tag.parse(tag.text()?)?);
        Ok(Push { repository: repository.clone(), tag, digest: None, id: None, time: None })
    };
    tags.items()?.map(push).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        MAX_EVENTS,
        tests::{assert_nothing, pushes, refusal, told},
    };

    fn body(tags: Value) -> Value {
        json!({
            "repository": "shop/cart", "namespace": "shop", "name": "cart", "docker_url": "quay.test/shop/cart",
            "homepage": "https://quay.test/repository/shop/cart", "updated_tags": tags
        })
    }

    #[test]
    fn each_tag_is_a_push() {
        let pushes = pushes(&body(json!(["v3", "latest"])));
        let [first, second] = &pushes[..] else { panic!("two pushes") };
        assert_eq!(
            (told(first), told(second)),
            (["shop/cart", "v3", "-"].map(str::to_owned), ["shop/cart", "latest", "-"].map(str::to_owned))
        );
    }

    #[test]
    fn other_events_are_nothing() {
        assert_nothing(&body(json!([])));
        let mut build = body(json!(null));
        build["build_id"] = "7f3a".into();
        assert_nothing(&build);
    }

    #[test]
    fn a_list_is_read_completely_or_refused() {
        assert!(refusal(&body(json!(["v3", "a b"]))).starts_with("updated_tags[1]: \"a b\" is not a tag"));
        assert_eq!(refusal(&body(json!(["v3", 7]))), "updated_tags[1]: not a text");
        assert!(refusal(&body(json!(vec!["v3"; MAX_EVENTS + 1]))).starts_with("updated_tags: 1001 elements"));
    }
}
