//! JFrog Artifactory: `docker` events. They tell the Artifactory repository and the image in it apart.

use transship_model::{Digest, Reference, Repository, Tag};
use url::Url;

use super::{Field, Push, Unreadable};

/// The push that a notification tells of; it has no ID and no time.
pub(super) fn pushes(body: &Field<'_>, endpoint: &Url) -> Result<Vec<Push>, Unreadable> {
    if body.need_text("domain")? != "docker" || body.need_text("event_type")? != "pushed" {
        return Ok(Vec::new());
    }
    let data = body.need("data")?;
    let repository = repository(&data, endpoint)?;
    let digest = data.get_text("sha256")?.map(|hex| format!("sha256:{hex}").parse());
    let (tag, digest): (Option<Tag>, Option<Digest>) = match (reference(&data)?, digest) {
        (Some(Reference::Tag(tag)), digest) => (Some(tag), digest.and_then(Result::ok)),
        (Some(Reference::Digest(digest)), _) => (None, Some(digest)),
        (None, Some(digest)) => (None, Some(digest.map_err(|error| data.wrong(&format!("sha256: {error}")))?)),
        (None, None) => return Err(data.wrong("neither 'tag' nor 'sha256' is there")),
    };
    Ok(vec![Push { repository, tag, digest, id: None, time: None }])
}

/// The tag; of a manifest that was pushed without one Artifactory makes a folder `sha256__<hex>`.
fn reference(data: &Field<'_>) -> Result<Option<Reference>, Unreadable> {
    match data.get_text("tag")?.and_then(|tag| tag.strip_prefix("sha256__")) {
        Some(hex) => data.need("tag")?.parse(&format!("sha256:{hex}")).map(Some),
        None => data.get_parsed("tag"),
    }
}

/// The repository as it is pulled: below the Artifactory repository (`HOST/REPOSITORY/IMAGE`), or that is in the host's name already
/// (`REPOSITORY.HOST/IMAGE`, `SERVER-REPOSITORY.jfrog.io/IMAGE`).
fn repository(data: &Field<'_>, endpoint: &Url) -> Result<Repository, Unreadable> {
    let (key, image) = (data.need_text("repo_key")?, data.need_text("image_name")?);
    let label = endpoint.host_str().and_then(|host| host.split('.').next()).unwrap_or_default();
    let is_in_host = label.strip_suffix(key).is_some_and(|server| server.is_empty() || server.ends_with('-'));
    data.parse(&if is_in_host { image.to_owned() } else { format!("{key}/{image}") })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        Notification, Unreadable,
        tests::{assert_nothing, digest, push, read_with, refusal, told},
    };

    fn body(tag: &str) -> Value {
        json!({
            "domain": "docker", "event_type": "pushed",
            "data": {
                "repo_key": "images", "event_type": "pushed", "path": format!("shop/cart/{tag}/list.manifest.json"),
                "name": "list.manifest.json", "sha256": "a".repeat(64), "size": 1206, "image_name": "shop/cart", "tag": tag,
                "platforms": [{"architecture": "amd64", "os": "linux"}]
            },
            "subscription_key": "transship", "jpd_origin": "https://shop.jfrog.test", "source": "jfrog/builder"
        })
    }

    #[test]
    fn a_push_is_below_the_artifactory_repository_unless_the_host_names_that() {
        assert_eq!(told(&push(&body("v3"))), ["images/shop/cart", "v3", &digest('a')]);
        for (host, expected) in [
            ("shop.jfrog.test", "images/shop/cart"),
            ("images.artifactory.test", "shop/cart"),
            ("server-images.jfrog.test", "shop/cart"),
            ("myimages.jfrog.test", "images/shop/cart"),
        ] {
            let read = read_with(&[], body("v3").to_string().as_bytes(), &format!("https://{host}"));
            let Ok(Notification::Pushes(pushes)) = read else { panic!("{read:?}") };
            assert_eq!(told(&pushes[0])[0], expected, "{host}");
        }
    }

    #[test]
    fn a_tag_that_is_a_digest_is_none() {
        for tag in [digest('a'), digest('a').replace(':', "__"), String::new()] {
            assert_eq!(told(&push(&body(&tag)))[1..], ["-".to_owned(), digest('a')], "{tag}");
        }
    }

    #[test]
    fn other_events_are_nothing() {
        for (domain, event) in [("docker", "deleted"), ("docker", "promoted"), ("artifact", "deployed"), ("build", "uploaded")]
        {
            let mut body = body("v3");
            (body["domain"], body["event_type"]) = (domain.into(), event.into());
            assert_nothing(&body);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let changed = |key: &str, value: Value| {
            let mut body = body("");
            body["data"][key] = value;
            refusal(&body)
        };
        assert!(changed("sha256", "sample".into()).starts_with("data: sha256: \"sha256:sample\" is not a digest"));
        assert_eq!(changed("sha256", Value::Null), "data: neither 'tag' nor 'sha256' is there");
        assert_eq!(changed("repo_key", Value::Null), "data: 'repo_key' is missing");
        let unreadable = read_with(&[], body("a b").to_string().as_bytes(), "https://shop.jfrog.test");
        assert!(matches!(unreadable, Err(Unreadable::Field { path, .. }) if path == "data.tag"));
    }
}
