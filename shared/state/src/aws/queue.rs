//! The port [`Queue`] in SQS. Receiving and deleting is the event source mapping's.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use aws_sdk_sqs::{
    Client,
    types::{BatchResultErrorEntry, SendMessageBatchRequestEntry},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{backoff::Backoff, problem::Problem};
use crate::{
    Outgoing, Queue, QueueError,
    queue::limits::{MAX_BODY, check},
};

/// What SendMessageBatch takes.
const MESSAGES_A_CALL: usize = 10;
/// The bytes of a batch: so many every queue takes, however it is set up.
const BYTES_A_CALL: usize = MAX_BODY;
/// So many batches are under way at once.
const CALLS_AT_ONCE: usize = 8;
/// A message is held for twelve hours at most, counted from its receipt. A function has 15 minutes to come to this point.
const MAX_HOLD: Duration = Duration::from_secs(12 * 3600 - 15 * 60);

/// A queue in SQS: FIFO if its URL ends in `.fifo`.
///
/// Needs leave for `SendMessage` and `ChangeMessageVisibility`.
#[derive(Debug, Clone)]
pub struct SqsQueue {
    client: Client,
    url: String,
    fifo: bool,
}

impl SqsQueue {
    /// The queue with this URL.
    pub fn new(client: Client, url: impl Into<String>) -> Self {
        let url = url.into();
        Self { client, fifo: url.ends_with(".fifo"), url }
    }

    /// Sends a batch. What is not taken of it is sent again.
    async fn send_batch(&self, batch: Vec<Outgoing>) -> Result<(), QueueError> {
        let mut entries =
            batch.into_iter().enumerate().map(|(id, message)| entry(id, message)).collect::<Result<Vec<_>, _>>()?;
        let mut backoff = Backoff::default();
        loop {
            let call = self.client.send_message_batch().queue_url(&self.url).set_entries(Some(entries.clone())).send().await;
            let answer = call.map_err(|error| self.failed(Problem::new("SQS", "SendMessageBatch", &error)))?;
            let Some(first) = answer.failed.first() else { return Ok(()) };
            if let Some(fault) = answer.failed.iter().find(|failure| is_ours(failure)) {
                return Err(QueueError::Invalid(words(fault)));
            }
            let why = words(first);
            entries.retain(|entry| answer.failed.iter().any(|failure| failure.id == entry.id));
            if !backoff.wait().await {
                let (n, tries) = (entries.len(), backoff.tries());
                return Err(QueueError::Unavailable(format!("of a batch {n} were not taken in {tries} tries: {why}")));
            }
        }
    }

    async fn hold(&self, receipt: &str, hold: Duration) -> Result<(), QueueError> {
        let hold = hold.min(MAX_HOLD);
        // Rather a moment longer than asked for: a registry that wants to be left alone for half a second gets that.
        let seconds = hold.as_secs() + u64::from(hold.subsec_nanos() > 0);
        let request = self.client.change_message_visibility().queue_url(&self.url).receipt_handle(receipt);
        let request = request.visibility_timeout(i32::try_from(seconds).unwrap_or(i32::MAX));
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(Problem::new("SQS", "ChangeMessageVisibility", &error))),
        }
    }

    fn failed(&self, problem: Problem) -> QueueError {
        // The service has codes in two forms, and tells the old one in a header.
        match problem.code.as_deref().map(|code| code.trim_start_matches("AWS.SimpleQueueService.")) {
            // With a time within its limits the parameter that is not valid (any more) is the receipt, or the twelve hours are over.
            Some("ReceiptHandleIsInvalid" | "MessageNotInflight" | "InvalidParameterValue") => QueueError::Lost,
            Some("InvalidMessageContents" | "BatchRequestTooLong" | "InvalidBatchEntryId") => QueueError::Invalid(problem.text),
            Some("QueueDoesNotExist" | "NonExistentQueue") => {
                QueueError::Unavailable(format!("there is no queue {}: {}", self.url, problem.text))
            }
            _ if problem.is_denied() => {
                QueueError::Unavailable(format!("this AWS identity may not use the queue {}: {}", self.url, problem.text))
            }
            _ => QueueError::Unavailable(problem.text),
        }
    }
}

#[async_trait]
impl Queue for SqsQueue {
    async fn send(&self, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        for message in &messages {
            check(message, self.fifo)?;
        }
        for turn in turns(messages) {
            stream::iter(batches(turn))
                .map(|batch| self.send_batch(batch))
                .buffer_unordered(CALLS_AT_ONCE)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    async fn extend(&self, receipt: &str, hold: Duration) -> Result<(), QueueError> {
        self.hold(receipt, hold).await
    }

    async fn release(&self, receipt: &str, delay: Duration) -> Result<(), QueueError> {
        self.hold(receipt, delay).await
    }
}

fn entry(id: usize, message: Outgoing) -> Result<SendMessageBatchRequestEntry, QueueError> {
    let entry = SendMessageBatchRequestEntry::builder().id(id.to_string()).message_body(message.body);
    let entry = entry.set_message_group_id(message.group).set_message_deduplication_id(message.deduplication);
    entry.build().map_err(|error| QueueError::Invalid(error.to_string()))
}

/// Whether a message was not taken because of what it is. Being throttled is put down to the sender, too, but passes.
fn is_ours(failure: &BatchResultErrorEntry) -> bool {
    failure.sender_fault && !failure.code.to_ascii_lowercase().contains("throttl")
}

fn words(failure: &BatchResultErrorEntry) -> String {
    let text = format!("SQS did not take a message: {}: {}", failure.code, failure.message().unwrap_or_default());
    text.trim_end_matches([':', ' ']).to_owned()
}

/// Messages in turns, to be sent one after the other, with at most one of a group in each: of two in one batch the first may
/// fail and the second not, and the group would lose its order. Mostly there is one turn.
fn turns(messages: Vec<Outgoing>) -> Vec<Vec<Outgoing>> {
    let mut turns: Vec<Vec<Outgoing>> = Vec::new();
    let mut sent: HashMap<String, usize> = HashMap::new();
    for message in messages {
        let turn = match &message.group {
            Some(group) => {
                let next = sent.entry(group.clone()).or_default();
                *next += 1;
                *next - 1
            }
            None => 0,
        };
        if turn == turns.len() {
            turns.push(Vec::new());
        }
        turns[turn].push(message);
    }
    turns
}

/// Messages in batches of what one call takes.
fn batches(messages: Vec<Outgoing>) -> Vec<Vec<Outgoing>> {
    let mut batches: Vec<Vec<Outgoing>> = Vec::new();
    let mut bytes = 0;
    for message in messages {
        let size = message.body.len();
        match batches.last_mut() {
            Some(batch) if batch.len() < MESSAGES_A_CALL && bytes + size <= BYTES_A_CALL => {
                bytes += size;
                batch.push(message);
            }
            _ => {
                bytes = size;
                batches.push(vec![message]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(group: &str, body: &str) -> Outgoing {
        Outgoing { body: body.to_owned(), group: Some(group.to_owned()), deduplication: None }
    }

    fn bodies(messages: &[Outgoing]) -> Vec<&str> {
        messages.iter().map(|message| message.body.as_str()).collect()
    }

    #[test]
    fn messages_of_one_group_are_never_sent_together() {
        let messages = [("a", "a0"), ("b", "b0"), ("a", "a1"), ("c", "c0"), ("a", "a2"), ("b", "b1")];
        let turns = turns(messages.map(|(group, body)| message(group, body)).into());
        assert_eq!(
            turns.iter().map(|turn| bodies(turn)).collect::<Vec<_>>(),
            [vec!["a0", "b0", "c0"], vec!["a1", "b1"], vec!["a2"]]
        );
    }

    #[test]
    fn a_batch_is_ten_messages_or_256_kib() {
        let sizes = |messages: Vec<Outgoing>| batches(messages).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes((0..23).map(|n| message(&n.to_string(), "x")).collect()), [10, 10, 3]);
        let half = "x".repeat(128 << 10);
        assert_eq!(sizes(vec![message("a", &half), message("b", &half), message("c", "x"), message("d", &half)]), [2, 2]);
        assert_eq!(sizes(vec![]), Vec::<usize>::new());
    }
}
