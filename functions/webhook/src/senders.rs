//! Senders: from a notification's body to the pushes that it tells of.
//!
//! Formats are told apart by what the body says, and by headers where it can't, never by the kind of instance: a Harbor has a
//! distribution registry inside that can notify as well, and other vendors speak the same formats. A notification that tells of a push is read completely
//! or refused: a refused one is sent again and is seen in the sender's log, while a push left out would be missed by nobody.
//! What tells of neither a push nor a deletion (pulls, blobs, scans, tests) is not looked into.

use std::{fmt::Display, str::FromStr};

use http::{HeaderMap, header};
use jiff::Timestamp;
use percent_encoding::percent_decode;
use serde_json::Value;
use transship_model::{Digest, Reference, Repository, Tag};
use url::Url;

mod acr;
mod alibaba;
mod cloud_events;
mod deletions;
mod distribution;
mod docker_hub;
mod ecr;
mod event_grid;
mod gitea;
mod github;
mod google;
mod harbor;
mod inbox;
mod jfrog;
mod quay;
mod zot;

pub(crate) use inbox::Message;

/// How many events one body may hold. Senders put one or a few into it.
pub const MAX_EVENTS: usize = 1000;

/// The greatest length of an event's ID, in bytes: it goes into jobs.
const MAX_ID: usize = 256;

/// The greatest length of a part of a message that comes from the body, in characters.
const MAX_QUOTE: usize = 300;

/// What a notification says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// These manifests were pushed; there is at least one.
    Pushes(Vec<Push>),
    /// It was understood, and nothing was pushed.
    Nothing,
    /// Azure Event Grid asks whether its events are wanted here, and waits for this code.
    Validation(String),
}

/// A push as its sender tells it: what [`transship_model::PushEvent`] holds but for the instance and the time of receipt. It
/// has a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// The repository.
    pub repository: Repository,
    /// The tag, if the manifest was pushed by one.
    pub tag: Option<Tag>,
    /// The manifest's digest, if the sender tells it.
    pub digest: Option<Digest>,
    /// The sender's ID of the event.
    pub id: Option<String>,
    /// When it happened, by the sender's clock.
    pub time: Option<Timestamp>,
}

/// Why a notification can't be read. The messages are short whatever the body holds, and are meant for the answer that the
/// sender logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is not JSON.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// It is JSON of an unknown shape.
    #[error(
        "the body is of no sender that is understood: distribution and GitLab ('events'), Harbor and TCR ('type', 'event_data'), ECR \
         ('detail-type'), Docker Hub and Alibaba ('push_data'), GitHub and Gitea ('package'), Quay ('updated_tags'), ACR ('action', \
         'target'), Event Grid (a list), Google Pub/Sub ('message', 'subscription'), JFrog ('domain', 'event_type'), zot and other \
         CloudEvents ('specversion' or the header ce-specversion, and a type that ends in push, pushed or published)"
    )]
    UnknownSender,
    /// It holds more than [`MAX_EVENTS`].
    #[error("{list}: {count} elements are more than the {MAX_EVENTS} that a body may have")]
    TooMany {
        /// The list, as a path.
        list: String,
        /// Its length.
        count: usize,
    },
    /// A value that a push needs is missing or wrong.
    #[error("{path}: {problem}")]
    Field {
        /// Where: `events[3].target.repository`.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads a notification to an instance with this endpoint, which tells what is meant where a sender speaks for several hosts.
///
/// # Errors
/// [`Unreadable`] says what is wrong and where.
pub fn read(headers: &HeaderMap, body: &[u8], endpoint: &Url) -> Result<Notification, Unreadable> {
    read_json(headers, &json(headers, body)?, endpoint)
}

/// Reads which tags a notification says were deleted. What can't be read tells of none: nothing is deleted by a doubt.
pub fn read_deletions(headers: &HeaderMap, body: &[u8], endpoint: &Url) -> Vec<Push> {
    let told = json(headers, body).ok().and_then(|json| deletions::as_pushes(headers, json));
    match told.map(|(headers, json)| read_json(&headers, &json, endpoint)) {
        Some(Ok(Notification::Pushes(deletions))) => deletions,
        _ => Vec::new(),
    }
}

fn read_json(headers: &HeaderMap, json: &Value, endpoint: &Url) -> Result<Notification, Unreadable> {
    let root = Field { path: String::new(), value: json };
    let is = |key: &str| !json[key].is_null();
    let event_of = |sender: &str| headers.get(sender).and_then(|value| value.to_str().ok());

    let pushes = if headers.contains_key("ce-specversion") {
        return cloud_events::binary(headers, root);
    } else if json["specversion"].is_string() {
        return cloud_events::structured(root);
    } else if json.is_array() {
        return event_grid::events(&root);
    } else if json["events"].is_array() {
        distribution::pushes(&root)?
    } else if json["type"].is_string() && (json["event_data"].is_object() || is("occur_at")) {
        harbor::event(&root)?
    } else if json["detail-type"].is_string() {
        ecr::pushes(&root)?
    } else if is("push_data") {
        if json["repository"]["repo_full_name"].is_null() { docker_hub::pushes(&root)? } else { alibaba::pushes(&root)? }
    // Gitea says that it is GitHub as well.
    } else if event_of("x-gitea-event").is_some_and(|event| event != "package") {
        Vec::new()
    } else if json["package"]["version"].is_string() {
        gitea::pushes(&root, event_of("x-gitea-delivery"))?
    } else if is("package") || is("registry_package") {
        github::pushes(&root, event_of("x-github-delivery"))?
    } else if event_of("x-github-event").is_some() {
        Vec::new()
    } else if json["docker_url"].is_string() {
        quay::pushes(&root)?
    } else if json["message"].is_object() && json["subscription"].is_string() {
        google::pushes(&root, endpoint)?
    } else if json["domain"].is_string() && json["event_type"].is_string() {
        jfrog::pushes(&root, endpoint)?
    // A ping has an action and no target.
    } else if json["action"].is_string() && (is("target") || json["action"] == "ping") {
        acr::pushes(&root)?
    } else {
        return Err(Unreadable::UnknownSender);
    };
    Ok(Notification::of(pushes))
}

impl Notification {
    fn of(pushes: Vec<Push>) -> Self {
        if pushes.is_empty() { Self::Nothing } else { Self::Pushes(pushes) }
    }
}

/// The body as JSON; GitHub and Gitea send a form with the JSON in its field `payload` if they are set to.
fn json(headers: &HeaderMap, body: &[u8]) -> Result<Value, Unreadable> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_form = content_type.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded");
    let not_json = |why: String| Unreadable::NotJson(shortened(&why));
    if body.is_empty() {
        return Err(not_json("it is empty".to_owned()));
    }
    // Senders are careless with the content type: curl says that everything is a form.
    match serde_json::from_slice(body) {
        Err(_) if is_form => {
            let payload = form_field(body, b"payload=")
                .ok_or_else(|| not_json("it is a form without 'payload': set the sender to application/json".to_owned()))?;
            serde_json::from_slice(&payload).map_err(|error| not_json(format!("'payload' of the form: {error}")))
        }
        read => read.map_err(|error| not_json(error.to_string())),
    }
}

/// The value of a field of a form: WHATWG URL, section 5.1.
fn form_field(form: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let value = form.split(|byte| *byte == b'&').find_map(|field| field.strip_prefix(name))?;
    let spaced: Vec<u8> = value.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Some(percent_decode(&spaced).collect())
}

/// A value in the body and the path to it.
#[derive(Clone)]
struct Field<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    /// The value of a key. `null` is no value: Go's encoders write it for what is not there.
    fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Some(Self { path, value })
    }

    fn need(&self, key: &str) -> Result<Self, Unreadable> {
        self.get(key).ok_or_else(|| self.wrong(&format!("'{key}' is missing")))
    }

    fn items(&self) -> Result<impl Iterator<Item = Self>, Unreadable> {
        let items = self.value.as_array().ok_or_else(|| self.wrong("not a list"))?;
        if items.len() > MAX_EVENTS {
            return Err(Unreadable::TooMany { list: self.path.clone(), count: items.len() });
        }
        Ok(items.iter().enumerate().map(|(at, value)| Self { path: format!("{}[{at}]", self.path), value }))
    }

    fn text(&self) -> Result<&'a str, Unreadable> {
        self.value.as_str().ok_or_else(|| self.wrong("not a text"))
    }

    /// The text of a key, if there is any.
    fn get_text(&self, key: &str) -> Result<Option<&'a str>, Unreadable> {
        let text = self.get(key).map(|field| field.text()).transpose()?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    fn need_text(&self, key: &str) -> Result<&'a str, Unreadable> {
        self.get_text(key)?.ok_or_else(|| self.wrong(&format!("'{key}' is missing")))
    }

    /// The text of a key as a name or a time, which has to be there.
    fn need_parsed<T: FromStr<Err: Display>>(&self, key: &str) -> Result<T, Unreadable> {
        self.get_parsed(key)?.ok_or_else(|| self.wrong(&format!("'{key}' is missing")))
    }

    /// What a text of this value means.
    fn parse<T: FromStr<Err: Display>>(&self, text: &str) -> Result<T, Unreadable> {
        text.parse().map_err(|error: T::Err| self.wrong(&error.to_string()))
    }

    /// The text of a key as a name or a time, if there is any.
    fn get_parsed<T: FromStr<Err: Display>>(&self, key: &str) -> Result<Option<T>, Unreadable> {
        let Some(field) = self.get(key) else { return Ok(None) };
        let text = field.text()?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|error: T::Err| field.wrong(&error.to_string()))
    }

    /// The sender's ID of an event, under a key.
    fn id(&self, key: &str) -> Result<Option<String>, Unreadable> {
        match self.get_text(key)? {
            Some(id) if id.len() > MAX_ID => Err(self.wrong(&format!("'{key}' has more than {MAX_ID} bytes"))),
            id => Ok(id.map(str::to_owned)),
        }
    }

    /// Seconds since 1970, as a number with or without a fraction.
    fn seconds(&self) -> Result<Timestamp, Unreadable> {
        // A fraction is meant to go, and what is too large is out of range.
        let whole = |seconds: f64| seconds as i64;
        let seconds = self.value.as_i64().or_else(|| self.value.as_f64().map(whole));
        let seconds = seconds.ok_or_else(|| self.wrong("not a number of seconds"))?;
        Timestamp::from_second(seconds).map_err(|_| self.wrong("out of range: it is meant to be seconds since 1970"))
    }

    /// The keys `tag` and `digest`, or what they are called here, of which there is at least one. A tag that is a digest is none.
    fn reference(&self, [tag, digest]: [&str; 2]) -> Result<(Option<Tag>, Option<Digest>), Unreadable> {
        let told = self.get_parsed(digest);
        match self.get_parsed(tag)? {
            // The tag says where to look. A digest of an algorithm that is not known here is no reason to lose the push.
            Some(Reference::Tag(tag)) => Ok((Some(tag), told.unwrap_or_default())),
            Some(Reference::Digest(tag)) => Ok((None, told?.or(Some(tag)))),
            None => match told? {
                Some(digest) => Ok((None, Some(digest))),
                None => Err(self.wrong(&format!("neither '{tag}' nor '{digest}' is there"))),
            },
        }
    }

    fn wrong(&self, problem: &str) -> Unreadable {
        let path = if self.path.is_empty() { "the body".to_owned() } else { self.path.clone() };
        Unreadable::Field { path, problem: shortened(problem) }
    }
}

/// A delivery's ID as a header gives it; one that is too long for a job is none.
fn delivery_id(header: Option<&str>) -> Option<String> {
    header.filter(|id| !id.is_empty() && id.len() <= MAX_ID).map(str::to_owned)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The endpoint of the instance that is notified.
    pub(super) const ENDPOINT: &str = "https://registry.test";

    /// What a body says that comes with these headers.
    pub(super) fn read_with(headers: &[(&'static str, &str)], body: &[u8], endpoint: &str) -> Result<Notification, Unreadable> {
        let header = |(name, value): &(&'static str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        read(&headers.iter().map(header).collect(), body, &endpoint.parse().unwrap())
    }

    fn read_json(body: &Value) -> Result<Notification, Unreadable> {
        read_with(&[("content-type", "application/json")], body.to_string().as_bytes(), ENDPOINT)
    }

    /// The pushes of a body that tells of some.
    #[track_caller]
    pub(super) fn pushes(body: &Value) -> Vec<Push> {
        match read_json(body) {
            Ok(Notification::Pushes(pushes)) => pushes,
            other => panic!("{body} gave {other:?}"),
        }
    }

    /// The push of a body that tells of one.
    #[track_caller]
    pub(super) fn push(body: &Value) -> Push {
        let mut pushes = pushes(body);
        assert_eq!(pushes.len(), 1, "{pushes:?}");
        pushes.remove(0)
    }

    /// `repository`, tag and digest, each `-` if it is not there.
    pub(super) fn told(push: &Push) -> [String; 3] {
        let text = |part: Option<String>| part.unwrap_or_else(|| "-".to_owned());
        let (tag, digest) = (push.tag.as_ref().map(Tag::to_string), push.digest.as_ref().map(Digest::to_string));
        [push.repository.to_string(), text(tag), text(digest)]
    }

    /// Checks that a body is understood and tells of no push.
    #[track_caller]
    pub(super) fn assert_nothing(body: &Value) {
        assert_eq!(read_json(body), Ok(Notification::Nothing), "{body}");
    }

    /// The message that a body is refused with.
    #[track_caller]
    pub(super) fn refusal(body: &Value) -> String {
        read_json(body).unwrap_err().to_string()
    }

    /// A digest made of one digit.
    pub(super) fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    #[test]
    fn what_is_not_json_is_refused_with_the_reason() {
        let refusal = |content_type: Option<&str>, body: &[u8]| {
            let headers: Vec<_> = content_type.map(|value| ("content-type", value)).into_iter().collect();
            read_with(&headers, body, ENDPOINT).unwrap_err().to_string()
        };
        let form = Some("application/x-www-form-urlencoded; charset=utf-8");
        assert_eq!(refusal(None, b""), "the body is not JSON: it is empty");
        assert!(refusal(form, b"a=b&c=%7B%7D").starts_with("the body is not JSON: it is a form without 'payload': set"));
        assert!(refusal(form, b"payload=%7B").starts_with("the body is not JSON: 'payload' of the form: EOF"));
        assert!(refusal(None, b"payload=%7B%7D").starts_with("the body is not JSON: "));
        assert!(refusal(None, b"{\"events\": [").starts_with("the body is not JSON: EOF"));
        assert!(refusal(None, b"\xff\xfe").starts_with("the body is not JSON"));
        assert!(refusal(None, "[".repeat(100_000).as_bytes()).contains("recursion limit"));
    }

    #[test]
    fn json_of_an_unknown_shape_is_refused_with_the_shapes_that_are_known() {
        let other = serde_json::json!({"repository": "shop/cart", "tags": ["v1"]});
        let bodies = [other, serde_json::json!(7), serde_json::json!(null), serde_json::json!({"events": "x"})];
        for body in bodies {
            let message = refusal(&body);
            for sender in ["distribution", "Harbor", "TCR", "ECR", "GitHub", "Quay", "zot"] {
                assert!(message.contains(sender), "{body}: {message}");
            }
        }
    }

    #[test]
    fn a_refusal_is_short_whatever_the_body_holds() {
        for long in ["\u{1f6a2}".repeat(100_000), "a".repeat(100_000), "\u{0}".repeat(100_000)] {
            let target = |key: &str, value: &str| {
                let mut target = serde_json::json!({"repository": "shop/cart", "digest": digest('a')});
                target[key] = value.into();
                serde_json::json!({"events": [{"action": "push", "target": target, "timestamp": "2026-03-04T05:06:07Z"}]})
            };
            for key in ["repository", "digest", "tag"] {
                let message = refusal(&target(key, &long));
                assert!(message.starts_with(&format!("events[0].target.{key}: ")), "{message}");
                assert!(message.chars().count() < 400, "{message}");
            }
            let mut body = target("tag", "v1");
            body["events"][0]["timestamp"] = long.as_str().into();
            assert!(refusal(&body).chars().count() < 400);
            body["events"][0]["timestamp"] = Value::Null;
            body["events"][0]["id"] = long.into();
            assert_eq!(refusal(&body), "events[0]: 'id' has more than 256 bytes");
        }
    }
}
