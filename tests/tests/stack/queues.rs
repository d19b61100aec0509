//! Messages that come from elsewhere on AWS.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test needs and does not get is its failure")]

use serde_json::Value;
use transship_tests::Stack;

/// Puts a message into the deployed queue whose name has this in it.
pub(crate) async fn put_into(stack: &Stack, queue: &str, body: &Value) {
    let sqs = aws_sdk_sqs::Client::new(&stack.aws().sdk().await);
    let queues = sqs.list_queues().send().await.unwrap().queue_urls.unwrap_or_default();
    let url = queues.iter().find(|url| url.contains(queue)).unwrap_or_else(|| panic!("no {queue} among {queues:?}"));
    let mut send = sqs.send_message().queue_url(url).message_body(body.to_string());
    if queue.ends_with(".fifo") {
        send = send.message_group_id("a test").message_deduplication_id("a test");
    }
    send.send().await.unwrap();
}
