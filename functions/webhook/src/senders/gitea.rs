//! Gitea and Forgejo: `package` events, which are the same for tags and for manifests without one.
//!
//! A delivery that somebody asks for again has the ID of the first; `created_at` is the package version's and not the push's.

use super::{Field, Push, Unreadable, delivery_id};
use transship_model::Reference;

/// The push that a notification tells of. Packages that are no containers are nothing.
pub(super) fn pushes(body: &Field<'_>, delivery: Option<&str>) -> Result<Vec<Push>, Unreadable> {
    let package = body.need("package")?;
    if body.need_text("action")? != "created" || package.need_text("type")? != "container" {
        return Ok(Vec::new());
    }
    // Owners and packages may be written with capitals, repositories are not.
    let name = format!("{}/{}", package.need("owner")?.need_text("login")?, package.need_text("name")?);
    let (tag, digest) = match package.need_parsed("version")? {
        Reference::Tag(tag) => (Some(tag), None),
        Reference::Digest(digest) => (None, Some(digest)),
    };
    let repository = package.parse(&name.to_lowercase())?;
    Ok(vec![Push { repository, tag, digest, id: delivery_id(delivery), time: None }])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        Notification,
        tests::{ENDPOINT, assert_nothing, digest, push, read_with, refusal, told},
    };

    fn body(version: &str) -> Value {
        let user = |name: &str| json!({"id": 1, "login": name, "full_name": "", "email": "", "username": name});
        json!({
            "action": "created", "repository": null,
            "package": {
                "id": 42, "owner": user("Shop"), "repository": null, "creator": user("builder"), "type": "container",
                "name": "cart", "version": version, "html_url": "https://gitea.test/Shop/-/packages/container/cart/v3",
                "created_at": "2026-03-04T05:06:07Z"
            },
            "organization": user("Shop"), "sender": user("builder")
        })
    }

    #[test]
    fn the_version_is_the_tag_or_the_digest() {
        assert_eq!(told(&push(&body("v3"))), ["shop/cart", "v3", "-"]);
        assert_eq!(told(&push(&body(&digest('a')))), ["shop/cart", "-", &digest('a')]);
        assert!(refusal(&body("a b")).starts_with("package.version: \"a b\" is not a tag"));
    }

    #[test]
    fn gitea_is_known_although_it_says_that_it_is_github_too() {
        let read = |event: &'static str, body: &Value| {
            let headers = [
                ("x-gitea-event", event),
                ("x-github-event", event),
                ("x-gitea-delivery", "5d1f"),
                ("x-github-delivery", "5d1f"),
            ];
            read_with(&headers, body.to_string().as_bytes(), ENDPOINT)
        };
        let Ok(Notification::Pushes(pushes)) = read("package", &body("v3")) else { panic!("a push") };
        assert_eq!((told(&pushes[0])[1].as_str(), pushes[0].id.as_deref()), ("v3", Some("5d1f")));
        // The button that tests a delivery sends a push of commits.
        assert_eq!(read("push", &json!({"ref": "refs/heads/main", "commits": []})), Ok(Notification::Nothing));
    }

    #[test]
    fn other_actions_and_packages_are_nothing() {
        let changed = |pointer: &str, value: &str| {
            let mut body = body("v3");
            *body.pointer_mut(pointer).unwrap() = value.into();
            body
        };
        assert_nothing(&changed("/action", "deleted"));
        assert_nothing(&changed("/package/type", "npm"));
    }
}
