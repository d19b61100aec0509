//! The port [`Topic`] in SNS.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_sns::{
    Client,
    types::{MessageAttributeValue, PublishBatchRequestEntry},
};

use super::problem::Problem;
use crate::topic::{Announcement, Topic, TopicError};

/// The greatest size of a message with its attributes, in bytes.
const MAX_MESSAGE: usize = 256 << 10;
/// So many are published with one request, and no more bytes than one alone may have.
const MAX_BATCH: usize = 10;
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
        size(announcement)?;
        let Announcement { subject, body, attributes: _ } = announcement;
        let request = self.client.publish().topic_arn(&self.arn).message(body).set_subject(fitting(subject));
        match request.set_message_attributes(Some(attributes(announcement)?)).send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let problem = Problem::new("SNS", "Publish", &error);
                Err(match problem.code.as_deref() {
                    Some(code) if INVALID.contains(&code) => TopicError::Invalid(problem.text),
                    _ => TopicError::Unavailable(problem.text),
                })
            }
        }
    }

    async fn publish_all(&self, announcements: &[&Announcement]) -> Vec<Result<(), TopicError>> {
        let mut published = Vec::with_capacity(announcements.len());
        while published.len() < announcements.len() {
            let rest = &announcements[published.len()..];
            let mut bytes = 0;
            let fits = |announcement: &&&Announcement| {
                bytes += size(announcement).unwrap_or(0);
                bytes <= MAX_MESSAGE
            };
            // One alone fits, or is refused by itself.
            let some = rest.iter().take(MAX_BATCH).take_while(fits).count().max(1);
            let came = match &rest[..some] {
                [one] => vec![self.publish(one).await],
                several => self.publish_batch(several).await,
            };
            let is_up = !came.iter().any(|published| matches!(published, Err(TopicError::Unavailable(_))));
            published.extend(came);
            if !is_up {
                break;
            }
        }
        published
    }
}

impl SnsTopic {
    /// Publishes at most [`MAX_BATCH`] with one request.
    async fn publish_batch(&self, announcements: &[&Announcement]) -> Vec<Result<(), TopicError>> {
        let entry = |at: usize, announcement: &Announcement| {
            size(announcement)?;
            let entry = PublishBatchRequestEntry::builder().id(at.to_string()).message(&announcement.body);
            let entry = entry.set_subject(fitting(&announcement.subject));
            let entry = entry.set_message_attributes(Some(attributes(announcement)?)).build();
            entry.map_err(|error| TopicError::Invalid(error.to_string()))
        };
        let entries: Vec<_> = announcements.iter().enumerate().map(|(at, announcement)| entry(at, announcement)).collect();
        let good: Vec<_> = entries.iter().flatten().cloned().collect();
        let mut published: Vec<Result<(), TopicError>> = entries.into_iter().map(|entry| entry.map(drop)).collect();
        if good.is_empty() {
            return published;
        }
        let answer =
            self.client.publish_batch().topic_arn(&self.arn).set_publish_batch_request_entries(Some(good)).send().await;
        let failed = match answer {
            Ok(answer) => answer.failed.unwrap_or_default(),
            Err(error) => {
                let problem = Problem::new("SNS", "PublishBatch", &error);
                for one in published.iter_mut().filter(|one| one.is_ok()) {
                    *one = Err(TopicError::Unavailable(problem.text.clone()));
                }
                return published;
            }
        };
        for entry in failed {
            let text = format!("SNS answered with {}: {}", entry.code, entry.message.unwrap_or_default());
            let error = if entry.sender_fault { TopicError::Invalid(text) } else { TopicError::Unavailable(text) };
            if let Some(one) = entry.id.parse().ok().and_then(|at: usize| published.get_mut(at)) {
                *one = Err(error);
            }
        }
        published
    }
}

/// The codes of what SNS will never take.
const INVALID: [&str; 3] = ["InvalidParameter", "InvalidParameterValue", "ParameterValueInvalid"];

/// The bytes that SNS counts, if it takes so many.
fn size(announcement: &Announcement) -> Result<usize, TopicError> {
    let Announcement { body, attributes, .. } = announcement;
    // A type counts as well, and ours is always `String`.
    let of_attributes: usize = attributes.iter().map(|(name, value)| name.len() + value.len() + "String".len()).sum();
    match body.len() + of_attributes {
        size if body.is_empty() || size > MAX_MESSAGE => {
            Err(TopicError::Invalid(format!("it has {size} bytes, where 1 to {MAX_MESSAGE} are possible")))
        }
        size => Ok(size),
    }
}

/// The attributes as SNS has them. One without a value is refused, and left out.
fn attributes(announcement: &Announcement) -> Result<HashMap<String, MessageAttributeValue>, TopicError> {
    let with_value = announcement.attributes.iter().filter(|(_, value)| !value.is_empty());
    let attributes = with_value.map(|(name, value)| {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value).build();
        Ok((name.clone(), value.map_err(|error| TopicError::Invalid(error.to_string()))?))
    });
    attributes.collect()
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
