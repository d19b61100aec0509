//! Senders: from a notification's body to the pushes that it tells of.
//!
//! Formats are told apart by what the body says, never by the kind of instance: a Harbor has a distribution registry inside
//! that can notify as well, and other vendors speak the same formats. A notification that tells of a push is read completely
//! or refused: a refused one is sent again and is seen in the sender's log, while a push left out would be missed by nobody.
//! What tells of no push (pulls, deletions, blobs, scans, tests) is not looked into.

use std::{fmt::Display, str::FromStr};

use jiff::Timestamp;
use serde_json::Value;
use transship_model::{Digest, Reference, Repository, Tag};

mod distribution;
mod harbor;

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
        "the body is of no sender that is understood: CNCF distribution ('events'), Harbor ('type' and 'event_data', or \
         CloudEvents with a 'type' like 'harbor.artifact.pushed'), Tencent TCR ('type' and 'event_data')"
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

/// Reads a notification. The content type only helps to word the refusal of a body that is not JSON: senders are careless
/// with it.
///
/// # Errors
/// [`Unreadable`] says what is wrong and where.
pub fn read(content_type: Option<&str>, body: &[u8]) -> Result<Notification, Unreadable> {
    let json: Value = serde_json::from_slice(body).map_err(|error| not_json(content_type, body, &error))?;
    let root = Field { path: String::new(), value: &json };
    let pushes = if json["events"].is_array() {
        distribution::pushes(&root)?
    } else if json["specversion"].is_string() {
        harbor::cloud_event(&root)?
    } else if json["type"].is_string() && (json["event_data"].is_object() || !json["occur_at"].is_null()) {
        harbor::event(&root)?
    } else {
        return Err(Unreadable::UnknownSender);
    };
    Ok(if pushes.is_empty() { Notification::Nothing } else { Notification::Pushes(pushes) })
}

fn not_json(content_type: Option<&str>, body: &[u8], error: &serde_json::Error) -> Unreadable {
    let what = match content_type {
        _ if body.is_empty() => "it is empty".to_owned(),
        // Some senders offer both, and the form is what they are set to by default.
        Some(form) if form.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded") => {
            "it is a form: set the sender to application/json".to_owned()
        }
        _ => error.to_string(),
    };
    Unreadable::NotJson(shortened(&what))
}

/// A value in the body and the path to it.
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

    /// The text of a key as a name or a time, if there is any.
    fn get_parsed<T: FromStr<Err: Display>>(&self, key: &str) -> Result<Option<T>, Unreadable> {
        let Some(field) = self.get(key) else { return Ok(None) };
        let text = field.text()?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|error: T::Err| field.wrong(&error.to_string()))
    }

    /// The sender's ID of an event.
    fn id(&self) -> Result<Option<String>, Unreadable> {
        match self.get_text("id")? {
            Some(id) if id.len() > MAX_ID => Err(self.wrong(&format!("'id' has more than {MAX_ID} bytes"))),
            id => Ok(id.map(str::to_owned)),
        }
    }

    /// The keys `tag` and `digest`, of which there is at least one. A tag that is a digest is none.
    fn reference(&self) -> Result<(Option<Tag>, Option<Digest>), Unreadable> {
        let digest = self.get_parsed("digest");
        match self.get_parsed("tag")? {
            // The tag says where to look. A digest of an algorithm that is not known here is no reason to lose the push.
            Some(Reference::Tag(tag)) => Ok((Some(tag), digest.unwrap_or_default())),
            Some(Reference::Digest(tag)) => Ok((None, digest?.or(Some(tag)))),
            None => match digest? {
                Some(digest) => Ok((None, Some(digest))),
                None => Err(self.wrong("neither 'tag' nor 'digest' is there")),
            },
        }
    }

    fn wrong(&self, problem: &str) -> Unreadable {
        let path = if self.path.is_empty() { "the body".to_owned() } else { self.path.clone() };
        Unreadable::Field { path, problem: shortened(problem) }
    }
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

    /// The pushes of a body that tells of some.
    pub(super) fn pushes(body: &Value) -> Vec<Push> {
        match read(Some("application/json"), body.to_string().as_bytes()) {
            Ok(Notification::Pushes(pushes)) => pushes,
            other => panic!("{body} gave {other:?}"),
        }
    }

    /// Checks that a body is understood and tells of no push.
    pub(super) fn assert_nothing(body: &Value) {
        assert_eq!(read(None, body.to_string().as_bytes()), Ok(Notification::Nothing), "{body}");
    }

    /// The message that a body is refused with.
    pub(super) fn refusal(body: &Value) -> String {
        read(None, body.to_string().as_bytes()).unwrap_err().to_string()
    }

    /// A digest made of one digit.
    pub(super) fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    #[test]
    fn what_is_not_json_is_refused_with_the_reason() {
        let refusal = |content_type, body: &[u8]| read(content_type, body).unwrap_err().to_string();
        assert_eq!(refusal(None, b""), "the body is not JSON: it is empty");
        assert_eq!(
            refusal(Some("application/x-www-form-urlencoded; charset=utf-8"), b"payload=%7B%7D"),
            "the body is not JSON: it is a form: set the sender to application/json"
        );
        assert!(refusal(None, b"{\"events\": [").starts_with("the body is not JSON: EOF"));
        assert!(refusal(None, b"\xff\xfe").starts_with("the body is not JSON"));
        assert!(refusal(None, "[".repeat(100_000).as_bytes()).contains("recursion limit"));
    }

    #[test]
    fn json_of_an_unknown_shape_is_refused_with_the_shapes_that_are_known() {
        let quay = serde_json::json!({"repository": "shop/cart", "updated_tags": ["v1"]});
        let bodies = [quay, serde_json::json!([]), serde_json::json!(null), serde_json::json!({"events": "x"})];
        for body in bodies {
            let message = refusal(&body);
            for sender in ["distribution", "Harbor", "TCR"] {
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
