//! Errors over HTTP: problem documents, RFC 9457.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A problem document (RFC 9457, section 3.1). Its type is `about:blank`: the status says what kind of problem it is, the
/// detail what, where and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The status in words.
    pub title: String,
    /// What is wrong with this request and how to mend it.
    pub detail: String,
    /// For programs, where the status alone leaves in doubt what has happened: `exists`, `changed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The request's ID, as the log has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// All that is wrong with the document that was sent, where more can be said than one sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Mistake>,
}

/// Something that is wrong with a document (RFC 9457, section 3.1, in the form of its example).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mistake {
    /// Where: a JSON pointer (RFC 6901) as a fragment, like `#/source/tag`.
    pub pointer: String,
    /// What, and how to mend it.
    pub detail: String,
}

impl Problem {
    /// The media type of a problem document.
    pub const MEDIA_TYPE: &'static str = "application/problem+json";

    /// The code of a refusal to make what is there already.
    pub const EXISTS: &'static str = "exists";
    /// The code of a refusal to change what is another by now.
    pub const CHANGED: &'static str = "changed";

    /// A problem with its status, the status's words, and the detail.
    pub fn new(status: u16, detail: impl Into<String>) -> Self {
        let title = match status {
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            406 => "Not Acceptable",
            408 => "Request Timeout",
            409 => "Conflict",
            412 => "Precondition Failed",
            413 => "Content Too Large",
            414 => "URI Too Long",
            415 => "Unsupported Media Type",
            422 => "Unprocessable Content",
            428 => "Precondition Required",
            429 => "Too Many Requests",
            501 => "Not Implemented",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        };
        Self { status, title: title.to_owned(), detail: detail.into(), code: None, request: None, errors: Vec::new() }
    }

    /// The document.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}
