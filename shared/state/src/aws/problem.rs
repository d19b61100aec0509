//! What went wrong, in words that say what was asked of whom, and what it answered.

use std::error::Error as StdError;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

/// A call to a service that did not succeed.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    /// The service's code, if it answered: `AccessDeniedException`.
    pub(super) code: Option<String>,
    /// The whole story: `DynamoDB answered PutItem with 400 AccessDeniedException: …`.
    pub(super) text: String,
}

impl Problem {
    /// The meaning of the SDK's error about an action of a service. A service's answer is shown by its code and message alone:
    /// the rest of it may hold what was stored.
    pub(super) fn new<E: ProvideErrorMetadata + StdError + 'static>(service: &str, action: &str, error: &SdkError<E>) -> Self {
        if let SdkError::ServiceError(answer) = error {
            let (status, error) = (answer.raw().status().as_u16(), answer.err());
            let (code, message) = (error.code(), error.message().unwrap_or_default());
            let text = format!("{service} answered {action} with {status} {}: {message}", code.unwrap_or("without a code"));
            return Self { code: code.map(str::to_owned), text: text.trim_end_matches([':', ' ']).to_owned() };
        }
        let mut innermost: &(dyn StdError + 'static) = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        Self { code: None, text: format!("{service} can't be asked to {action}: {innermost}") }
    }

    /// Whether the service answered with this code.
    pub(super) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether the service does not let this process do it.
    pub(super) fn is_denied(&self) -> bool {
        self.is("AccessDeniedException") || self.is("AccessDenied")
    }
}
