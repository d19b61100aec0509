//! Messages of SQS, and which of a batch are to come again (`ReportBatchItemFailures`).

use aws_lambda_events::sqs::SqsMessage;
use transship_state::Incoming;

use crate::Answer;

/// A message of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What was sent, and this delivery of it.
    pub incoming: Incoming,
    /// The ARN of its queue.
    pub queue: String,
    id: String,
}

impl Message {
    /// Its name in the answer.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// What was sent.
    pub fn body(&self) -> &str {
        &self.incoming.body
    }
}

/// None if it lacks what every message has.
pub(crate) fn message(record: SqsMessage) -> Option<Message> {
    let deliveries = record.attributes.get("ApproximateReceiveCount").and_then(|count| count.parse().ok()).unwrap_or(1);
    let incoming = Incoming { body: record.body?, receipt: record.receipt_handle?, deliveries };
    Some(Message { incoming, queue: record.event_source_arn.unwrap_or_default(), id: record.message_id? })
}

/// Hands over one message after the other; those for which the answer is no come again.
pub async fn each(messages: Vec<Message>, mut is_done: impl AsyncFnMut(&Message) -> bool) -> Answer {
    let mut again = Vec::new();
    for message in &messages {
        if !is_done(message).await {
            again.push(message);
        }
    }
    Answer::done_but(again)
}

/// As [`each`], for a FIFO queue: the first message that is not done ends it, and it comes again with all that come after it. One of
/// them that was dealt with before it would have overtaken it.
pub async fn in_order(messages: Vec<Message>, mut is_done: impl AsyncFnMut(&Message) -> bool) -> Answer {
    for (at, message) in messages.iter().enumerate() {
        if !is_done(message).await {
            return Answer::done_but(&messages[at..]);
        }
    }
    Answer::done_but([])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn batch() -> Vec<Message> {
        let message = |n: u32| Message {
            incoming: Incoming { body: n.to_string(), receipt: format!("receipt-{n}"), deliveries: 1 },
            queue: String::new(),
            id: format!("id-{n}"),
        };
        (1..=4).map(message).collect()
    }

    fn again(answer: &Answer) -> Value {
        serde_json::to_value(answer).unwrap()["batchItemFailures"].clone()
    }

    #[tokio::test]
    async fn only_what_failed_comes_again() {
        let answer = each(batch(), async |message| message.body() != "2").await;
        assert_eq!(again(&answer), json!([{ "itemIdentifier": "id-2" }]));
    }

    #[tokio::test]
    async fn in_a_fifo_queue_nothing_overtakes_what_failed() {
        let mut seen = Vec::new();
        let answer = in_order(batch(), async |message| {
            seen.push(message.body().to_owned());
            message.body() != "2"
        })
        .await;
        assert_eq!(
            again(&answer),
            json!([{ "itemIdentifier": "id-2" }, { "itemIdentifier": "id-3" }, { "itemIdentifier": "id-4" }])
        );
        assert_eq!(seen, ["1", "2"]);
    }

    #[test]
    fn that_all_are_done_is_said() {
        assert_eq!(again(&Answer::done_but([])), json!([]));
    }
}
