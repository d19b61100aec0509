//! What can go wrong, sorted by what the caller can do about it.

use std::{fmt, time::Duration};

use serde::Deserialize;

/// Why something was not done. The variants say what to do next; the [`Failure`] inside says what happened and where.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It may go better later: the network, a 5xx, 408 or 429. A few short tries have been made already.
    #[error("{failure}")]
    Retry {
        /// What happened.
        failure: Box<Failure>,
        /// How long the registry asks to wait, if it said so.
        after: Option<Duration>,
    },
    /// It will not get better by itself: no access, not there, invalid, or content that is not what its digest says.
    #[error("{0}")]
    Refused(Box<Failure>),
    /// The source's manifest is Docker schema 1, which no current registry takes. Nothing is wrong, there is nothing to do.
    #[error("{0}")]
    Schema1(Box<Failure>),
    /// The target's tag is immutable and has another digest: what overwriting was meant to do, the registry forbids.
    #[error("{0}")]
    Immutable(Box<Failure>),
    /// The deadline has come. What is at the target stays there, and the next call goes on with it.
    #[error("{failure}")]
    Interrupted {
        /// What was under way.
        failure: Box<Failure>,
        /// So many bytes of blobs the target has.
        done: u64,
        /// Of so many.
        planned: u64,
    },
    /// Another process is at work on what is left to be done: when it is through, little will be.
    #[error("{0}")]
    Busy(Box<Failure>),
}

impl Error {
    /// Whether it is worth trying again.
    pub fn is_retry(&self) -> bool {
        matches!(self, Self::Retry { .. })
    }

    /// Whether a login was refused, by the registry or by its token service, or may not do what was to be done: another
    /// credential may mend it.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Refused(failure) if failure.denied || matches!(failure.status, Some(401 | 403)))
    }

    /// Whether it says nothing about what was to be done, only that it is not done now.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Retry { .. } | Self::Interrupted { .. } | Self::Busy(_))
    }

    /// How long the registry asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Retry { after, .. } => *after,
            _ => None,
        }
    }

    /// What happened.
    pub fn failure(&self) -> &Failure {
        match self {
            Self::Retry { failure, .. }
            | Self::Interrupted { failure, .. }
            | Self::Refused(failure)
            | Self::Schema1(failure)
            | Self::Immutable(failure)
            | Self::Busy(failure) => failure,
        }
    }

    /// Whether the registry answered that a manifest names something that it does not have. Distribution uses the first
    /// code for an index's children too; others use one of the other two, and Quay says that the manifest is invalid.
    pub(crate) fn is_content_unknown(&self) -> bool {
        ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN", "MANIFEST_INVALID"]
            .iter()
            .any(|code| self.failure().has_code(code))
    }

    /// Whether the registry answered that there is no such repository: ECR, where it has to be made before the first push.
    pub(crate) fn says_no_repository(&self) -> bool {
        matches!(self, Self::Refused(failure) if failure.status == Some(404) && failure.has_code("NAME_UNKNOWN"))
    }

    /// Whether the content was not what its digest or size says: worth fetching once more, and no more than once.
    pub(crate) fn is_mismatch(&self) -> bool {
        matches!(self, Self::Refused(failure) if failure.mismatch)
    }

    /// Whether the registry refused not a blob but the way in which it was sent: in pieces, too large, too small.
    pub(crate) fn is_about_form(&self) -> bool {
        matches!(self, Self::Refused(failure) if failure.form)
    }

    /// What an answer to the content of an upload means, where that is not what it means elsewhere.
    pub(crate) fn of_upload(self) -> Self {
        let Self::Refused(mut failure) = self else { return self };
        let about_name = ["NAME_INVALID", "NAME_UNKNOWN", "DIGEST_INVALID", "DENIED", "UNAUTHORIZED"];
        match failure.status {
            _ if about_name.iter().any(|code| failure.has_code(code)) => {}
            // The session is gone; ACR says so with BLOB_UPLOAD_INVALID. With another it can go well.
            Some(404) if !failure.has_code("UNSUPPORTED") => return failure.retry(None),
            Some(400 | 404 | 405 | 411 | 413 | 416 | 501) => failure.form = true,
            _ => {}
        }
        Self::Refused(failure)
    }
}

/// What happened: which registry, which request, what it answered, and how to mend it where that is known.
#[derive(Debug, Clone)]
pub struct Failure {
    registry: String,
    action: String,
    problem: String,
    hint: Option<String>,
    status: Option<u16>,
    codes: Vec<String>,
    mismatch: bool,
    form: bool,
    denied: bool,
}

impl Failure {
    pub(crate) fn new(registry: &str, action: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            registry: registry.into(),
            action: action.into(),
            problem: bounded(problem.into()),
            hint: None,
            status: None,
            codes: Vec::new(),
            mismatch: false,
            form: false,
            denied: false,
        }
    }

    /// Content that contradicts its digest or size.
    pub(crate) fn mismatch(registry: &str, action: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { mismatch: true, ..Self::new(registry, action, problem) }
    }

    /// An answer with an error status.
    pub(crate) fn answer(registry: &str, action: impl Into<String>, status: http::StatusCode, body: &[u8]) -> Self {
        let Envelope { mut codes, oauth, text } = Envelope::read(body);
        let mut problem = match codes.first() {
            Some(code) => format!("{} {code}", status.as_u16()),
            None => format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or("(unknown status)")),
        };
        if !text.is_empty() {
            problem.push_str(": ");
            problem.push_str(&text);
        }
        codes.extend(oauth);
        Self { status: Some(status.as_u16()), codes, ..Self::new(registry, action, problem) }
    }

    /// As if the registry had answered so.
    pub(crate) fn with_status(self, status: u16) -> Self {
        Self { status: Some(status), ..self }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(bounded(hint.into()));
        self
    }

    /// That a login was refused, with what to look at.
    pub(crate) fn denied(self, hint: String) -> Error {
        Self { denied: true, ..self.hint(hint) }.refused()
    }

    pub(crate) fn refused(self) -> Error {
        Error::Refused(Box::new(self))
    }

    pub(crate) fn retry(self, after: Option<Duration>) -> Error {
        Error::Retry { failure: Box::new(self), after }
    }

    pub(crate) fn interrupted(self, done: u64, planned: u64) -> Error {
        Error::Interrupted { failure: Box::new(self), done, planned }
    }

    /// The registry's name.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The status that the registry answered with, if it answered.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Whether the registry's own error codes (`MANIFEST_UNKNOWN`), or its token service's (`invalid_grant`), have this one.
    pub fn has_code(&self, code: &str) -> bool {
        self.codes.iter().any(|c| c == code)
    }

    /// Whether the registry says that a tag can't be moved. There is no code for it in the specification: ECR answers
    /// `TAG_INVALID` and "…cannot be overwritten because the repository is immutable", Harbor 412 and "configured as immutable".
    pub(crate) fn says_immutable(&self) -> bool {
        self.status.is_some_and(|status| matches!(status, 400 | 403 | 405 | 409 | 412))
            && (self.problem.to_ascii_lowercase().contains("immutable") || self.has_code("TAG_IMMUTABLE"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.registry, self.action, self.problem)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// How long a problem may be in words. What a registry has sent may be in it, and that may have megabytes.
const MAX_PROBLEM: usize = 600;

fn bounded(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_PROBLEM) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The error envelope (distribution specification, "Error codes"), read leniently: oci-client's has a closed list of codes,
/// and an answer of Harbor or ECR with a code of their own would lose its message with it.
struct Envelope {
    codes: Vec<String>,
    /// The code of a token service, which is in the text as well.
    oauth: Option<String>,
    text: String,
}

/// How much of a registry's own words goes into a message.
const MAX_TEXT: usize = 300;

impl Envelope {
    fn read(body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(default)]
            errors: Vec<RawError>,
            /// What token services answer: RFC 6749, section 5.2.
            #[serde(default)]
            error: serde_json::Value,
            #[serde(default)]
            error_description: serde_json::Value,
            /// And Docker Hub's.
            #[serde(default)]
            details: serde_json::Value,
        }
        #[derive(Deserialize)]
        struct RawError {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: Option<String>,
            #[serde(default)]
            detail: serde_json::Value,
        }
        let Ok(Raw { errors, error, error_description, details }) = serde_json::from_slice::<Raw>(body) else {
            // Plain text is worth showing, an HTML page of a proxy is not.
            let text = std::str::from_utf8(body).ok().filter(|text| !text.trim_start().starts_with('<')).unwrap_or_default();
            return Self { codes: Vec::new(), oauth: None, text: sanitised(text) };
        };
        let oauth: Vec<_> = [&error, &error_description, &details].into_iter().filter_map(serde_json::Value::as_str).collect();
        let text = errors.first().map_or_else(
            || oauth.join(": "),
            |error| {
                let message = error.message.as_deref().unwrap_or_default();
                match &error.detail {
                    serde_json::Value::String(detail) if !detail.is_empty() => format!("{message}: {detail}"),
                    _ => message.into(),
                }
            },
        );
        let codes = errors.into_iter().take(16).map(|error| sanitised(&error.code)).filter(|code| !code.is_empty()).collect();
        Self { codes, oauth: error.as_str().map(sanitised), text: sanitised(&text) }
    }
}

/// Text from outside, made fit for one line of a log: bounded, without control characters, and without the queries of URLs,
/// which may be signed.
pub(crate) fn sanitised(text: &str) -> String {
    let words = text
        .split(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
        .filter(|word| !word.is_empty());
    let mut clean = String::new();
    for word in words {
        if clean.len() >= MAX_TEXT {
            break;
        }
        if !clean.is_empty() {
            clean.push(' ');
        }
        let end = word.find("://").and_then(|_| word.find('?')).unwrap_or(word.len());
        clean.extend(word[..end].chars().take(MAX_TEXT));
    }
    match clean.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => clean[..end].to_owned() + "…",
        None => clean,
    }
}

/// What a request's failure was, without its URL, whose query may be a signature.
pub(crate) fn network(error: reqwest::Error) -> String {
    let error = error.without_url();
    // The outermost message says "error sending request" and nothing more; the innermost says what happened.
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    // What rustls says when the other side does not speak TLS at all.
    if text.contains("InvalidContentType") {
        return "it does not speak TLS at this port: is it http://?".into();
    }
    sanitised(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_s_words_are_bounded_and_harmless() {
        let body = br#"{"errors":[{"code":"PROJECTPOLICYVIOLATION","message":"no\n\u001b[31m see https://x.example/a?sig=secret now"}]}"#;
        let failure = Failure::answer("x", "GET manifest a:b", http::StatusCode::PRECONDITION_FAILED, body);
        assert_eq!(failure.to_string(), "x: GET manifest a:b: 412 PROJECTPOLICYVIOLATION: no [31m see https://x.example/a now");
        assert!(failure.has_code("PROJECTPOLICYVIOLATION"));
        let long = Failure::answer("x", "y", http::StatusCode::BAD_GATEWAY, "a".repeat(5000).as_bytes());
        assert!(long.to_string().len() < 400);
        let oauth = br#"{"error":"invalid_grant","error_description":"the token has expired"}"#;
        let oauth = Failure::answer("x", "y", http::StatusCode::BAD_REQUEST, oauth);
        assert_eq!(oauth.to_string(), "x: y: 400 Bad Request: invalid_grant: the token has expired");
        assert!(oauth.has_code("invalid_grant"));
        let html = Failure::answer("x", "y", http::StatusCode::BAD_GATEWAY, b"<html><body>sorry</body></html>");
        assert_eq!(html.to_string(), "x: y: 502 Bad Gateway");
    }

    #[test]
    fn whatever_is_in_a_message_it_is_not_long() {
        let failure = Failure::new("x", "y", "ä".repeat(1 << 20)).hint("b".repeat(1 << 20)).to_string();
        assert!(failure.len() < 2000, "{}", failure.len());
    }

    #[test]
    fn an_immutable_tag_is_told_from_other_refusals() {
        let ecr = br#"{"errors":[{"code":"TAG_INVALID","message":"The image tag 'v1' already exists in the 'a' repository and cannot be overwritten because the repository is immutable."}]}"#;
        assert!(Failure::answer("x", "y", http::StatusCode::BAD_REQUEST, ecr).says_immutable());
        let other = br#"{"errors":[{"code":"TAG_INVALID","message":"no"}]}"#;
        assert!(!Failure::answer("x", "y", http::StatusCode::BAD_REQUEST, other).says_immutable());
    }
}
