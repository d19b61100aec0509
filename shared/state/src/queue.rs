//! The port `Queue`: messages that are delivered at least once, held back while they are worked on.

use std::time::Duration;

use async_trait::async_trait;

pub(crate) mod limits;

/// A message to send. With a group (on a FIFO queue) it is delivered after those sent before it in the group, and never
/// while another of the group is being worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The text, at most 256 KiB.
    pub body: String,
    /// Its group: up to 128 hexadecimal digits; needed on a FIFO queue, not allowed on a standard one.
    pub group: Option<String>,
    /// A message with the ID of one that was sent in the last five minutes is accepted and dropped. FIFO queues only, as above.
    pub deduplication: Option<String>,
}

/// A message as it is received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The text as it was sent.
    pub body: String,
    /// What names this delivery of the message to [`Queue::extend`] and [`Queue::release`]. A later delivery has another.
    pub receipt: String,
    /// How often it has been delivered, from 1.
    pub deliveries: u32,
}

/// Why the queue did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The delivery is over: its time ran out and the message is, or may be, with somebody else.
    #[error("the message is no longer held by this receiver")]
    Lost,
    /// The message can't be sent by any queue: too large, or without its group.
    #[error("the message can't be sent: {0}")]
    Invalid(String),
    /// The queue is out of reach, overloaded or broken.
    #[error("the queue did not answer: {0}")]
    Unavailable(String),
}

/// What a function does with a queue. Receiving and deleting is done for it, on AWS by the event source mapping, in `serve` by
/// the process.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Sends messages, any number of them. When it returns `Ok` all are durable; on an error some may have been sent, and
    /// sending all again is safe where they have de-duplication IDs.
    async fn send(&self, messages: Vec<Outgoing>) -> Result<(), QueueError>;

    /// Holds a received message back for so long from now on.
    async fn extend(&self, receipt: &str, hold: Duration) -> Result<(), QueueError>;

    /// Gives a received message back, to be delivered again after `delay`, at once if it is zero. Its group waits with it.
    async fn release(&self, receipt: &str, delay: Duration) -> Result<(), QueueError>;
}
