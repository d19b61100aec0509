//! What a request brings in its body: a JSON document, read to its end whatever is wrong with it, so that whoever mends it needs to do so
//! once. No message shows a text that may be a secret.

use std::{cell::RefCell, fmt::Display, rc::Rc};

use axum::{
    body::{Bytes, to_bytes},
    extract::{FromRequest, Request},
    http::header,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use transship_model::{Mistake, Problem};

use crate::failure::Failure;

/// The greatest size of a body, in bytes.
pub(crate) const MAX_BODY: usize = 64 << 10;

/// A JSON document, as a body of `application/json` or, for a merge patch, `application/merge-patch+json`.
pub(crate) struct Document(pub(crate) Value);

impl<S: Send + Sync> FromRequest<S> for Document {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !matches!(kind.as_str(), "application/json" | "application/merge-patch+json") {
            return Err(Failure::new(415, "send a JSON document, with the header Content-Type: application/json"));
        }
        let too_large = || Failure::new(413, format!("the body is larger than {} KiB", MAX_BODY >> 10));
        let body: Bytes = to_bytes(request.into_body(), MAX_BODY).await.map_err(|_| too_large())?;
        // serde_json's message shows the place and not the text.
        let document = serde_json::from_slice(&body);
        document.map(Self).map_err(|error| Failure::new(400, format!("the body is not JSON: {error}")))
    }
}

/// The same, as a value of some type.
pub(crate) struct Input<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Input<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let Document(document) = Document::from_request(request, state).await?;
        T::deserialize(document).map(Self).map_err(|error| Failure::new(422, format!("the body: {error}")))
    }
}

/// What a merge patch makes of a document (RFC 7396).
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

/// Reads an object of a document by its keys, and notes all mistakes.
pub(crate) struct Reader<'a> {
    /// Where it is: a JSON pointer.
    pointer: String,
    map: Option<&'a Map<String, Value>>,
    mistakes: Rc<RefCell<Vec<Mistake>>>,
}

impl<'a> Reader<'a> {
    /// Reads a document with `read`, unless there is a mistake.
    ///
    /// # Errors
    /// All mistakes, as a problem with the status 422.
    pub(crate) fn read<T>(document: &'a Value, keys: &[&str], read: impl FnOnce(&Self) -> Option<T>) -> Result<T, Failure> {
        let mistakes = Rc::default();
        let reader = Self::new(String::new(), document, keys, &mistakes);
        let result = read(&reader);
        let mistakes = mistakes.take();
        match result {
            Some(result) if mistakes.is_empty() => Ok(result),
            _ => {
                let first = mistakes.first().map(|mistake| format!("{}: {}", mistake.pointer, mistake.detail));
                let more = if mistakes.len() > 1 { format!(" (and {} more)", mistakes.len() - 1) } else { String::new() };
                let detail = format!("{}{more}", first.unwrap_or_default());
                Err(Failure(Problem { errors: mistakes, ..Problem::new(422, detail) }))
            }
        }
    }

    fn new(pointer: String, value: &'a Value, keys: &[&str], mistakes: &Rc<RefCell<Vec<Mistake>>>) -> Self {
        let reader = Self { pointer, map: value.as_object(), mistakes: mistakes.clone() };
        match reader.map {
            None => reader.note_at(&reader.pointer, format!("an object with the keys {} is needed", keys.join(", "))),
            // Beside a password, a key may be the password itself.
            Some(map) => {
                for key in map.keys().filter(|key| !keys.contains(&key.as_str())).take(10) {
                    let shown: String = key.chars().take(80).collect::<String>().replace('~', "~0").replace('/', "~1");
                    reader.note(&shown, format!("there is no such key here: the keys are {}", keys.join(", ")));
                }
            }
        }
        reader
    }

    fn note_at(&self, pointer: &str, detail: impl Display) {
        let (pointer, detail) = (format!("#{pointer}"), detail.to_string());
        self.mistakes.borrow_mut().push(Mistake { pointer, detail });
    }

    /// Notes a mistake in the value of a key.
    pub(crate) fn note(&self, key: &str, detail: impl Display) {
        self.note_at(&format!("{}/{key}", self.pointer), detail);
    }

    /// Whether it is an object; if not, that is noted.
    pub(crate) fn is_object(&self) -> bool {
        self.map.is_some()
    }

    /// Whether a key is there and not null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// What stands there, if anything: null is nothing.
    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    /// A value that may be missing; `None` if it is wrong.
    #[expect(clippy::option_option, reason = "missing is not wrong")]
    pub(crate) fn maybe<T: DeserializeOwned>(&self, key: &str) -> Option<Option<T>> {
        let Some(value) = self.value(key) else { return Some(None) };
        let parsed = T::deserialize(value).map_err(|error| self.note(key, error));
        parsed.ok().map(Some)
    }

    /// A value, or its default where it is missing.
    pub(crate) fn or<T: DeserializeOwned>(&self, key: &str, default: T) -> Option<T> {
        self.maybe(key).map(|value| value.unwrap_or(default))
    }

    /// A text that may be missing, if it will do.
    #[expect(clippy::option_option, reason = "missing is not wrong")]
    pub(crate) fn checked<T, E: Display>(&self, key: &str, check: impl FnOnce(&str) -> Result<T, E>) -> Option<Option<T>> {
        let Some(value) = self.value(key) else { return Some(None) };
        let Some(text) = value.as_str() else {
            self.note(key, "a text is needed");
            return None;
        };
        check(text).map_err(|error| self.note(key, error)).ok().map(Some)
    }

    /// A text that has to be there; `example` says what it might be.
    pub(crate) fn needed<T, E: Display>(
        &self,
        key: &str,
        example: &str,
        check: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let found = self.checked(key, check)?;
        if found.is_none() && self.map.is_some() {
            self.note(key, format!("is missing: {example}"));
        }
        found
    }

    /// An object that may be missing.
    pub(crate) fn below(&self, key: &str, keys: &[&str]) -> Option<Self> {
        let value = self.value(key)?;
        Some(Self::new(format!("{}/{key}", self.pointer), value, keys, &self.mistakes))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Would break: a patch that does otherwise than RFC 7396 says; its appendix A.
    #[test]
    fn patches_merge_as_the_rfc_has_it() {
        for (mut original, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            let text = format!("{original} {patch}");
            merge(&mut original, &patch);
            assert_eq!(original, result, "{text}");
        }
    }
}
