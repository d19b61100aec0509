//! The port [`Topic`] in SNS.

use async_trait::async_trait;
use aws_sdk_sns::{Client, types::MessageAttributeValue};

use super::problem::Problem;
use crate::topic::{Announcement, Topic, TopicError};

/// The greatest size of a message with its attributes, in bytes.
const MAX_MESSAGE: usize = 256 << 10;
/// A subject has fewer than 100 characters.
const MAX_SUBJECT: usize = 99;

/// A standard topic in SNS.
///
/// Needs leave for `Publish`.
#[derive(Debug, Clone)]
pub struct SnsTopic {
    client: Client,
    arn: String,
}

impl SnsTopic {
    /// The topic with this ARN.
    pub fn new(client: Client, arn: impl Into<String>) -> Self {
        Self { client, arn: arn.into() }
    }
}

#[async_trait]
impl Topic for SnsTopic {
    async fn publish(&self, announcement: &Announcement) -> Result<(), TopicError> {
        let Announcement { subject, body, attributes } = announcement;
        // A type counts as well, and ours is always `String`.
        let of_attributes: usize = attributes.iter().map(|(name, value)| name.len() + value.len() + "String".len()).sum();
        let size = body.len() + of_attributes;
        if body.is_empty() || size > MAX_MESSAGE {
            return Err(TopicError::Invalid(format!("it has {size} bytes, where 1 to {MAX_MESSAGE} are possible")));
        }
        let mut request = self.client.publish().topic_arn(&self.arn).message(body).set_subject(fitting(subject));
        // An attribute without a value is refused.
        for (name, value) in attributes.iter().filter(|(_, value)| !value.is_empty()) {
            let value = MessageAttributeValue::builder().data_type("String").string_value(value).build();
            request = request.message_attributes(name, value.map_err(|error| TopicError::Invalid(error.to_string()))?);
        }
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let problem = Problem::new("SNS", "Publish", &error);
                let invalid = ["InvalidParameter", "InvalidParameterValue", "ParameterValueInvalid"];
                Err(match problem.code.as_deref() {
                    Some(code) if invalid.contains(&code) => TopicError::Invalid(problem.text),
                    _ => TopicError::Unavailable(problem.text),
                })
            }
        }
    }
}

/// What SNS takes of a subject: printable ASCII, which does not begin with a space.
fn fitting(subject: &str) -> Option<String> {
    let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    let subject: String = subject.trim().chars().map(printable).take(MAX_SUBJECT).collect();
    Some(subject).filter(|subject| !subject.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_becomes_what_mail_can_carry() {
        assert_eq!(fitting(" built\nbüild ").as_deref(), Some("built?b?ild"));
        assert_eq!(fitting(&"x".repeat(200)).map(|subject| subject.len()), Some(99));
        assert_eq!(fitting(" "), None);
    }
}
