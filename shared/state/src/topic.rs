//! The port `Topic`: what is told to subscribers that transship does not know.

use std::collections::BTreeMap;

use async_trait::async_trait;

/// Something to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// A line for people, where a subscriber gets an e-mail: printable ASCII, 1 to 99 characters.
    pub subject: String,
    /// The message, JSON, at most 256 KiB with the attributes.
    pub body: String,
    /// What subscribers can filter by without reading the body: at most ten, with values that are not empty.
    pub attributes: BTreeMap<String, String>,
}

/// Why something was not told.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TopicError {
    /// The topic will never take this announcement.
    #[error("the topic does not take the announcement: {0}")]
    Invalid(String),
    /// The topic is out of reach, overloaded, or not ours to publish to.
    #[error("the topic did not answer: {0}")]
    Unavailable(String),
}

/// Where tasks' ends are announced.
#[async_trait]
pub trait Topic: Send + Sync {
    /// Publishes an announcement; when it returns, the subscribers will get it, in any order, at least once.
    async fn publish(&self, announcement: &Announcement) -> Result<(), TopicError>;

    /// Publishes several, with what came of each, in their order. After one that the topic does not answer there may be fewer answers.
    async fn publish_all(&self, announcements: &[&Announcement]) -> Vec<Result<(), TopicError>> {
        let mut published = Vec::with_capacity(announcements.len());
        for announcement in announcements {
            published.push(self.publish(announcement).await);
            if let Some(Err(TopicError::Unavailable(_))) = published.last() {
                break;
            }
        }
        published
    }
}
