//! The port `Topic`: what is told to subscribers outside.

use std::collections::BTreeMap;

use async_trait::async_trait;

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// A line for people; what does not fit a subscriber's mail is left out.
    pub subject: String,
    /// The whole of it, as JSON; at most 256 KiB with the attributes.
    pub body: String,
    /// What subscribers choose by.
    pub attributes: BTreeMap<String, String>,
}

/// Why the topic did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TopicError {
    /// The announcement can't be published by any topic.
    #[error("the announcement can't be published: {0}")]
    Invalid(String),
    /// The topic is out of reach, overloaded or broken.
    #[error("the topic did not answer: {0}")]
    Unavailable(String),
}

/// Where announcements go.
#[async_trait]
pub trait Topic: Send + Sync {
    /// Publishes an announcement; when it returns, that is durable. It may reach a subscriber twice.
    async fn publish(&self, announcement: &Announcement) -> Result<(), TopicError>;
}
