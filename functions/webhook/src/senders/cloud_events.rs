//! CloudEvents 1.0, structured (the event is the body) and binary (its attributes are headers, the body is its data): Harbor, zot
//! and Event Grid by their types, and pushes that somebody else has put into this envelope, as an input transformer of EventBridge
//! can do.

use http::HeaderMap;
use jiff::Timestamp;

use super::{Field, Notification, Push, Unreadable, delivery_id, event_grid, harbor, zot};

/// An event without its envelope.
pub(super) struct CloudEvent<'a> {
    /// Its type.
    pub(super) kind: &'a str,
    pub(super) id: Option<String>,
    pub(super) time: Option<Timestamp>,
    data: Option<Field<'a>>,
    body: Field<'a>,
}

impl<'a> CloudEvent<'a> {
    /// An event of the structured mode.
    pub(super) fn read(body: Field<'a>) -> Result<Self, Unreadable> {
        let (kind, id, time) = (body.need_text("type")?, body.id("id")?, body.get_parsed("time")?);
        Ok(Self { kind, id, time, data: body.get("data"), body })
    }

    pub(super) fn data(&self) -> Result<Field<'a>, Unreadable> {
        self.data.clone().ok_or_else(|| self.body.wrong("'data' is missing"))
    }
}

/// An event whose attributes are headers: CloudEvents, HTTP protocol binding, section 3.1.
pub(super) fn binary(headers: &HeaderMap, body: Field<'_>) -> Result<Notification, Unreadable> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let wrong = |problem: String| Unreadable::Field { path: "the headers".to_owned(), problem };
    let kind = header("ce-type").ok_or_else(|| wrong("ce-type is missing".to_owned()))?;
    let time = header("ce-time").map(str::parse).transpose().map_err(|error| wrong(format!("ce-time: {error}")))?;
    let event = CloudEvent { kind, id: delivery_id(header("ce-id")), time, data: Some(body.clone()), body };
    pushes(event)
}

/// An event that is the body.
pub(super) fn structured(body: Field<'_>) -> Result<Notification, Unreadable> {
    pushes(CloudEvent::read(body)?)
}

fn pushes(event: CloudEvent<'_>) -> Result<Notification, Unreadable> {
    let sender = event.kind.split('.').next().unwrap_or_default();
    Ok(Notification::of(match sender {
        "harbor" => harbor::cloud_event(event)?,
        "zotregistry" => zot::pushes(event)?,
        "Microsoft" => event_grid::push(event)?.into_iter().collect(),
        _ => generic(event)?.into_iter().collect(),
    }))
}

/// What an event of no known sender tells. Its type has to say in its last word that something was pushed or that nothing was: the
/// envelope is anybody's, and what is not understood must not be lost silently.
fn generic(event: CloudEvent<'_>) -> Result<Option<Push>, Unreadable> {
    match event.kind.rsplit(['.', '-', '_']).next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "push" | "pushed" | "published" => {}
        "delete" | "deleted" | "pull" | "pulled" | "ping" | "test" => return Ok(None),
        _ => return Err(Unreadable::UnknownSender),
    }
    let data = event.data()?;
    let one_of = |keys: [&'static str; 3]| keys.into_iter().find(|key| data.get(key).is_some()).unwrap_or(keys[0]);
    let repository = data.need_parsed(one_of(["repositoryName", "repository", "name"]))?;
    let tag = one_of(["imageTag", "tag", "reference"]);
    let digest = if data.get("imageDigest").is_some() { "imageDigest" } else { "digest" };
    let (tag, digest) = data.reference([tag, digest])?;
    Ok(Some(Push { repository, tag, digest, id: event.id, time: event.time }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        Notification,
        tests::{ENDPOINT, assert_nothing, digest, push, read_with, refusal, told},
    };

    fn event(kind: &str, data: Value) -> Value {
        json!({
            "specversion": "1.0", "id": "0d3f6a10-5e7c-4d0a-9a55-6b1c2d3e4f50", "type": kind,
            "source": "urn:example:registry:shop", "subject": "shop/cart:v3", "time": "2026-03-04T05:06:07Z",
            "datacontenttype": "application/json", "data": data
        })
    }

    #[test]
    fn a_push_in_the_envelope_is_read_with_the_names_that_adapters_use() {
        for data in [
            json!({"repositoryName": "shop/cart", "imageDigest": digest('a'), "imageTag": "v3", "registryId": "123456789012"}),
            json!({"repository": "shop/cart", "digest": digest('a'), "tag": "v3"}),
            json!({"name": "shop/cart", "digest": digest('a'), "reference": "v3"}),
        ] {
            for kind in ["com.amazon.ecr.image.push", "container.image.pushed", "dev.cdevents.artifact.published"] {
                let push = push(&event(kind, data.clone()));
                assert_eq!(told(&push), ["shop/cart", "v3", &digest('a')], "{kind} {data}");
                assert_eq!(push.id.as_deref(), Some("0d3f6a10-5e7c-4d0a-9a55-6b1c2d3e4f50"));
                assert_eq!(push.time, Some("2026-03-04T05:06:07Z".parse().unwrap()));
            }
        }
        // An input transformer leaves a tag that is not there empty.
        let untagged = json!({"repositoryName": "shop/cart", "imageDigest": digest('a'), "imageTag": ""});
        assert_eq!(told(&push(&event("com.amazon.ecr.image.push", untagged)))[1], "-");
    }

    #[test]
    fn the_attributes_may_be_headers() {
        let data = json!({"repository": "shop/cart", "tag": "v3"}).to_string();
        let read = |kind, time| {
            let headers = [("ce-specversion", "1.0"), ("ce-type", kind), ("ce-id", "e-1"), ("ce-time", time)];
            read_with(&headers, data.as_bytes(), ENDPOINT)
        };
        let Ok(Notification::Pushes(pushes)) = read("container.image.push", "2026-03-04T05:06:07Z") else { panic!("a push") };
        assert_eq!(told(&pushes[0]), ["shop/cart", "v3", "-"]);
        assert_eq!(pushes[0].id.as_deref(), Some("e-1"));
        assert_eq!(pushes[0].time, Some("2026-03-04T05:06:07Z".parse().unwrap()));
        assert!(read("container.image.push", "noon").unwrap_err().to_string().starts_with("the headers: ce-time: "));
    }

    #[test]
    fn only_a_type_that_says_so_is_a_push() {
        for kind in ["com.example.image.delete", "com.example.image.deleted", "com.example.image.pulled", "com.example.ping"] {
            assert_nothing(&event(kind, json!({})));
        }
        assert!(refusal(&event("com.example.image.signed", json!({}))).contains("no sender that is understood"));
        assert_eq!(refusal(&event("com.example.image.push", json!({"tag": "v1"}))), "data: 'repositoryName' is missing");
        assert_eq!(refusal(&event("com.example.image.push", Value::Null)), "the body: 'data' is missing");
    }
}
