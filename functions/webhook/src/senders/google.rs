//! Google Artifact Registry: messages of the Pub/Sub topic `gcr`, pushed. They name what was pushed with its host.
//!
//! One topic tells of all hosts of a project (`europe-docker.pkg.dev`, `gcr.io`, …). What is of another host than the instance's is
//! left out, so that each instance has a subscription of its own.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;
use transship_model::{Digest, Repository, Tag};
use url::Url;

use super::{Field, Push, Unreadable};

/// The push that a Pub/Sub message tells of.
pub(super) fn pushes(body: &Field<'_>, endpoint: &Url) -> Result<Vec<Push>, Unreadable> {
    let message = body.need("message")?;
    let data = message.need("data")?;
    let json = BASE64.decode(data.text()?).map_err(|error| data.wrong(&format!("not base64: {error}")))?;
    let json: Value = serde_json::from_slice(&json).map_err(|error| data.wrong(&format!("not JSON: {error}")))?;
    let event = Field { path: data.path, value: &json };
    if event.need_text("action")? != "INSERT" {
        return Ok(Vec::new());
    }
    let (tag, digest) = (event.get("tag"), event.get("digest"));
    let tag = tag.as_ref().map(|field| Name::<Tag>::read(field, ':')).transpose()?;
    let digest = match digest.as_ref().map(|field| Name::<Digest>::read(field, '@')).transpose() {
        // The tag says where to look. A digest of an algorithm that is not known here is no reason to lose the push.
        Err(_) if tag.is_some() => None,
        digest => digest?,
    };
    let (host, repository) = match (&tag, &digest) {
        (Some(name), _) => (name.host, name.repository.clone()),
        (None, Some(name)) => (name.host, name.repository.clone()),
        (None, None) => return Err(event.wrong("neither 'tag' nor 'digest' is there")),
    };
    if endpoint.host_str() != Some(host) {
        tracing::info!(host, "a push to another host than the instance's is left to the instance of that host");
        return Ok(Vec::new());
    }
    let id = message.id("messageId")?;
    let time = message.get_parsed("publishTime")?;
    let (tag, digest) = (tag.map(|name| name.reference), digest.map(|name| name.reference));
    Ok(vec![Push { repository, tag, digest, id, time }])
}

/// `HOST/REPOSITORY:TAG` or `HOST/REPOSITORY@DIGEST`.
struct Name<'a, R> {
    host: &'a str,
    repository: Repository,
    reference: R,
}

impl<'a, R: std::str::FromStr<Err: std::fmt::Display>> Name<'a, R> {
    fn read(field: &Field<'a>, separator: char) -> Result<Self, Unreadable> {
        let parts = field.text()?.split_once('/').and_then(|(host, path)| Some((host, path.split_once(separator)?)));
        let (host, (repository, reference)) =
            parts.ok_or_else(|| field.wrong(&format!("not like HOST/REPOSITORY{separator}REFERENCE")))?;
        Ok(Self { host, repository: field.parse(repository)?, reference: field.parse(reference)? })
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
    use serde_json::{Value, json};

    use super::super::{
        Notification, Unreadable,
        tests::{digest, read_with, told},
    };

    fn read(data: &Value) -> Result<Notification, Unreadable> {
        let data = BASE64.encode(data.to_string());
        let body = json!({
            "message": {
                "data": data, "messageId": "20704433", "message_id": "20704433", "publishTime": "2026-03-04T05:06:07.5Z",
                "publish_time": "2026-03-04T05:06:07.5Z"
            },
            "subscription": "projects/shop/subscriptions/transship"
        });
        read_with(&[], body.to_string().as_bytes(), "https://europe-docker.pkg.dev")
    }

    const IMAGE: &str = "europe-docker.pkg.dev/shop/images/web/cart";

    #[test]
    fn a_push_is_named_in_full() {
        let by_digest = json!({"action": "INSERT", "digest": format!("{IMAGE}@{}", digest('a'))});
        let mut by_tag = by_digest.clone();
        by_tag["tag"] = format!("{IMAGE}:v3").into();
        let mut unknown = by_tag.clone();
        unknown["digest"] = format!("{IMAGE}@blake3:0af1").into();
        let Ok(Notification::Pushes(pushes)) = read(&unknown) else { panic!("{unknown}") };
        assert_eq!(told(&pushes[0])[1..], ["v3", "-"]);
        for (data, tag) in [(by_digest, "-"), (by_tag, "v3")] {
            let Ok(Notification::Pushes(pushes)) = read(&data) else { panic!("{data}") };
            assert_eq!(told(&pushes[0]), ["shop/images/web/cart", tag, &digest('a')]);
            assert_eq!(pushes[0].id.as_deref(), Some("20704433"));
            assert_eq!(pushes[0].time, Some("2026-03-04T05:06:07.5Z".parse().unwrap()));
        }
    }

    #[test]
    fn deletions_and_other_hosts_are_nothing() {
        assert_eq!(read(&json!({"action": "DELETE", "tag": format!("{IMAGE}:v3")})), Ok(Notification::Nothing));
        let elsewhere = "us-docker.pkg.dev/shop/images/web/cart:v3";
        assert_eq!(read(&json!({"action": "INSERT", "tag": elsewhere})), Ok(Notification::Nothing));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refusal = |data: Value| read(&data).unwrap_err().to_string();
        assert_eq!(refusal(json!({"action": "INSERT"})), "message.data: neither 'tag' nor 'digest' is there");
        assert!(refusal(json!({"action": "INSERT", "tag": "cart"})).starts_with("message.data.tag: not like HOST/REPOSITORY:"));
        let short = format!("{IMAGE}@sha256:00");
        assert!(refusal(json!({"action": "INSERT", "digest": short})).starts_with("message.data.digest: \"sha256:00\" is not"));
        let body = json!({"message": {"data": "?"}, "subscription": "s"}).to_string();
        let message = read_with(&[], body.as_bytes(), "https://gcr.io").unwrap_err().to_string();
        assert!(message.starts_with("message.data: not base64: "), "{message}");
    }
}
