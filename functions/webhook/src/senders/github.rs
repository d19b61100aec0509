//! GitHub's packages (GHCR): `package` and `registry_package` events, as JSON or as a form.
//!
//! A delivery that somebody asks for again has the ID of the first; the payload has no time of the push.

use super::{Field, Push, Unreadable, delivery_id};

/// The push that a notification tells of. Packages that are no containers (npm, Maven) are nothing.
pub(super) fn pushes(body: &Field<'_>, delivery: Option<&str>) -> Result<Vec<Push>, Unreadable> {
    if !matches!(body.need_text("action")?, "published" | "updated") {
        return Ok(Vec::new());
    }
    let package = match body.get("package") {
        Some(package) => package,
        None => body.need("registry_package")?,
    };
    let version = package.need("package_version")?;
    let container = version.get("container_metadata");
    let says_container = |key| {
        package.get_text(key).map(|kind| kind.is_some_and(|kind| ["container", "docker"].contains(&&*kind.to_lowercase())))
    };
    if container.is_none() && !says_container("ecosystem")? && !says_container("package_type")? {
        return Ok(Vec::new());
    }

    let named = container.as_ref().and_then(|container| container.get("tag"));
    let tag = named.as_ref().map(|tag| tag.get_parsed("name")).transpose()?.flatten();
    // What was pushed is the version's name. The other two have been seen to be something else.
    let manifest = container.as_ref().and_then(|container| container.get("manifest"));
    let digests = [(Some(&version), "version"), (manifest.as_ref(), "digest"), (named.as_ref(), "digest")];
    let digest = digests.into_iter().find_map(|(field, key)| field?.get_parsed(key).ok().flatten());
    if tag.is_none() && digest.is_none() {
        return Err(version.wrong("there is neither a tag nor a digest"));
    }
    Ok(vec![Push { repository: repository(&package, &version)?, tag, digest, id: delivery_id(delivery), time: None }])
}

/// The repository: what `package_url` (`ghcr.io/OWNER/NAME:TAG`) has between host and tag, or else owner and name. Owners may be
/// written with capitals, repositories are not.
fn repository(package: &Field<'_>, version: &Field<'_>) -> Result<transship_model::Repository, Unreadable> {
    let path = version.get_text("package_url")?.and_then(|url| Some(url.split_once('/')?.1));
    if let Some(path) = path {
        let path = path.split_once('@').map_or(path, |(path, _)| path);
        let path = path.split_once(':').map_or(path, |(path, _)| path);
        return version.need("package_url")?.parse(&path.to_lowercase());
    }
    let owner = package.need("owner")?.need_text("login")?;
    package.parse(&format!("{owner}/{}", package.need_text("name")?).to_lowercase())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        Notification,
        tests::{ENDPOINT, assert_nothing, digest, push, read_with, refusal, told},
    };

    fn body(event: &str, tag: &str) -> Value {
        let mut body = json!({
            "action": "published", "repository": {"full_name": "Shop/cart"}, "sender": {"login": "builder"}
        });
        body[event] = json!({
            "name": "cart", "namespace": "Shop", "ecosystem": "CONTAINER", "package_type": "CONTAINER",
            "owner": {"login": "Shop", "type": "Organization"},
            "package_version": {
                "version": digest('a'), "name": digest('a'),
                "container_metadata": {
                    "tag": {"name": tag, "digest": digest('a')},
                    "manifest": {
                        "digest": digest('a'), "media_type": "application/vnd.oci.image.manifest.v1+json", "size": 612,
                        "config": {"digest": digest('b'), "media_type": "application/vnd.oci.image.config.v1+json", "size": 123},
                        "layers": []
                    }
                },
                "package_url": format!("ghcr.test/Shop/cart:{tag}")
            },
            "registry": {"name": "GitHub CONTAINER registry", "type": "CONTAINER", "url": "https://CONTAINER.pkg.github.test/shop"}
        });
        body
    }

    #[test]
    fn both_events_tell_of_pushes() {
        for event in ["package", "registry_package"] {
            assert_eq!(told(&push(&body(event, "v3"))), ["shop/cart", "v3", &digest('a')], "{event}");
            assert_eq!(told(&push(&body(event, ""))), ["shop/cart", "-", &digest('a')], "{event}");
        }
    }

    #[test]
    fn a_form_says_the_same_and_the_delivery_is_the_id() {
        let form: String = body("package", "v3").to_string().bytes().fold("payload=".to_owned(), |form, byte| match byte {
            b' ' => form + "+",
            byte => form + &format!("%{byte:02X}"),
        });
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("x-github-event", "package"),
            ("x-github-delivery", "72d3162e"),
        ];
        let Ok(Notification::Pushes(pushes)) = read_with(&headers, form.as_bytes(), ENDPOINT) else { panic!("a push") };
        assert_eq!(told(&pushes[0]), ["shop/cart", "v3", &digest('a')]);
        assert_eq!(pushes[0].id.as_deref(), Some("72d3162e"));
    }

    #[test]
    fn a_strange_digest_beside_the_version_does_not_matter() {
        let mut strange = body("package", "");
        strange["package"]["package_version"]["container_metadata"]["tag"]["digest"] = "sha256:6c62".into();
        assert_eq!(told(&push(&strange)), ["shop/cart", "-", &digest('a')]);
        strange["package"]["package_version"]["container_metadata"]["manifest"]["digest"] = "sha256:6c62".into();
        strange["package"]["package_version"]["version"] = "3".into();
        assert_eq!(refusal(&strange), "package.package_version: there is neither a tag nor a digest");
    }

    #[test]
    fn without_a_url_owner_and_name_tell_the_repository() {
        let mut plain = body("package", "v3");
        plain["package"]["package_version"].as_object_mut().unwrap().remove("package_url");
        plain["package"]["name"] = "web/cart".into();
        assert_eq!(told(&push(&plain))[0], "shop/web/cart");
    }

    #[test]
    fn pings_other_actions_and_other_packages_are_nothing() {
        let ping = json!({"zen": "Keep it simple.", "hook_id": 1, "hook": {"type": "Organization"}});
        let read = read_with(&[("x-github-event", "ping")], ping.to_string().as_bytes(), ENDPOINT);
        assert_eq!(read, Ok(Notification::Nothing));
        let mut deleted = body("package", "v3");
        deleted["action"] = "deleted".into();
        assert_nothing(&deleted);
        assert_nothing(&json!({
            "action": "published",
            "package": {"name": "cart", "ecosystem": "npm", "package_type": "npm", "package_version": {"version": "1.0.0"}}
        }));
    }
}
