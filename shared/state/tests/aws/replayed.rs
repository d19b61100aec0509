//! What the services answer when they are busy or in each other's way. The emulator is never either, so the answers are those that
//! AWS documents, given by a server of our own; what is checked is what the adapters make of them.

use aws_sdk_dynamodb::Client;
use serde_json::{Map, Value, json};
use transship_state::{
    Condition, Item, Key, Op, Outgoing, Queue, QueueError, Table, TableError,
    aws::{DynamoDbTable, SqsQueue},
};

use crate::replay::Replay;

async fn table(answers: Vec<(u16, Value)>) -> (DynamoDbTable, Replay) {
    let replay = Replay::start(answers).await;
    (DynamoDbTable::new(Client::new(&replay.sdk().await), "transship"), replay)
}

async fn queue(answers: Vec<(u16, Value)>) -> (SqsQueue, Replay) {
    let replay = Replay::start(answers).await;
    (SqsQueue::new(aws_sdk_sqs::Client::new(&replay.sdk().await), "http://queue.test/jobs.fifo"), replay)
}

fn error(code: &str, message: &str) -> (u16, Value) {
    (400, json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": message }))
}

/// A cancelled transaction with these codes as the reasons of its operations.
fn cancelled(codes: &[&str]) -> (u16, Value) {
    let reasons: Vec<_> = codes.iter().map(|code| json!({ "Code": code, "Message": format!("because {code}") })).collect();
    let (status, mut body) = error("TransactionCanceledException", "Transaction cancelled");
    body["CancellationReasons"] = reasons.into();
    (status, body)
}

fn put(sort: &str, condition: Option<Condition>) -> Op {
    Op::Put { item: Item { key: Key::new("p", sort), attributes: Map::new(), expires: None }, condition }
}

fn two() -> Vec<Op> {
    vec![put("a", None), put("b", Some(Condition::Absent))]
}

/// Would break: a logger whose batch fails whenever a worker's event is written at the same moment.
#[tokio::test]
async fn a_write_that_met_another_is_tried_again() {
    let conflicts = [["TransactionConflict", "None"], ["None", "ThrottlingError"], ["ProvisionedThroughputExceeded", "None"]];
    let answers = conflicts.iter().map(|codes| cancelled(codes)).chain([(200, json!({}))]).collect();
    let (table, replay) = table(answers).await;
    table.write(two()).await.unwrap();
    let tokens: Vec<_> = replay.asked().iter().map(|request| request["ClientRequestToken"].clone()).collect();
    assert_eq!(tokens.len(), 4);
    assert!(tokens.windows(2).all(|pair| pair[0] != pair[1]), "a new try is a new write: {tokens:?}");
}

/// Would break: the same for a write of one operation, which is no transaction but may meet one.
#[tokio::test]
async fn a_single_write_that_met_a_transaction_is_tried_again() {
    let conflict = error("TransactionConflictException", "Transaction is ongoing for the item");
    let (table, replay) = table(vec![conflict.clone(), conflict, (200, json!({}))]).await;
    table.write(vec![put("a", None)]).await.unwrap();
    assert_eq!(replay.asked().len(), 3);
}

/// Would break: a function that hangs for ever on an item that somebody else writes all the time.
#[tokio::test]
async fn tries_have_an_end() {
    let (table, replay) = table(vec![cancelled(&["TransactionConflict", "None"])]).await;
    let Err(TableError::Unavailable(why)) = table.write(two()).await else { unreachable!("it was never done") };
    assert!(why.contains("in 12 tries") && why.contains("operation 0: TransactionConflict"), "{why}");
    assert_eq!(replay.asked().len(), 12);
}

/// Would break: the caller is told of the wrong operation, or a refused write is tried again.
#[tokio::test]
async fn the_first_refused_operation_is_named_even_beside_a_conflict() {
    let (table, replay) =
        table(vec![cancelled(&["TransactionConflict", "ConditionalCheckFailed", "ConditionalCheckFailed"])]).await;
    let ops = ["a", "b", "c"].map(|sort| put(sort, Some(Condition::Absent)));
    assert!(matches!(table.write(ops.into()).await, Err(TableError::Condition(1))));
    assert_eq!(replay.asked().len(), 1);
}

/// Would break: what can never be written is tried again by its sender for days.
#[tokio::test]
async fn what_dynamodb_finds_impossible_is_invalid() {
    let (cancelling, _replay) = table(vec![cancelled(&["None", "ValidationError"])]).await;
    let Err(TableError::Invalid(why)) = cancelling.write(two()).await else { unreachable!("it is impossible") };
    assert!(why.contains("operation 1: ValidationError because ValidationError"), "{why}");
    let (refusing, _replay) =
        table(vec![error("ValidationException", "Item size has exceeded the maximum allowed size")]).await;
    assert!(matches!(refusing.write(vec![put("a", None)]).await, Err(TableError::Invalid(_))));
}

/// Would break: an operator who can't tell a missing table from a missing policy.
#[tokio::test]
async fn an_error_says_what_was_asked_and_answered() {
    let (missing, _replay) = table(vec![error("ResourceNotFoundException", "Requested resource not found")]).await;
    let why = missing.get(&Key::new("p", "s")).await.unwrap_err().to_string();
    assert!(why.contains("there is no table transship in eu-central-1: DynamoDB answered GetItem with 400"), "{why}");
    let (denied, _replay) =
        table(vec![error("AccessDeniedException", "User: x is not authorized to perform: dynamodb:PutItem")]).await;
    let why = denied.write(vec![put("a", None)]).await.unwrap_err().to_string();
    assert!(
        why.contains("this AWS identity may not use the table transship in eu-central-1: DynamoDB answered PutItem"),
        "{why}"
    );
}

/// Would break: items are taken for missing because DynamoDB had no room for them in its answer.
#[tokio::test]
async fn keys_that_an_answer_leaves_out_are_asked_for_again() {
    let stored = |sort: &str| json!({ "partition": {"S": "p"}, "sort": {"S": sort}, "n": {"N": "1"} });
    let key = |sort: &str| json!({ "partition": {"S": "p"}, "sort": {"S": sort} });
    let answer = |found: &str, left: &[&str]| {
        let left: Vec<_> = left.iter().map(|sort| key(sort)).collect();
        let rest = if left.is_empty() { json!({}) } else { json!({ "transship": { "Keys": left, "ConsistentRead": true } }) };
        (200, json!({ "Responses": { "transship": [stored(found)] }, "UnprocessedKeys": rest }))
    };
    let (table, replay) = table(vec![answer("b", &["a", "c"]), answer("c", &["a"]), answer("a", &[])]).await;
    let keys = ["a", "b", "c", "b"].map(|sort| Key::new("p", sort));
    let found = table.get_many(&keys).await.unwrap();
    let sorts: Vec<_> = found.into_iter().map(|item| item.unwrap().key.sort).collect();
    assert_eq!(sorts, ["a", "b", "c", "b"], "in the order of the keys, a repeated one as well");
    let asked: Vec<_> =
        replay.asked().iter().map(|request| request["RequestItems"]["transship"]["Keys"].as_array().unwrap().len()).collect();
    assert_eq!(asked, [3, 2, 1]);
}

/// Would break: throttling is an error at once. The SDK tries three times.
#[tokio::test]
async fn throttling_is_waited_out() {
    let throttled = error("ThrottlingException", "Rate of requests exceeds the allowed throughput.");
    let (table, replay) = table(vec![throttled.clone(), throttled, (200, json!({}))]).await;
    assert_eq!(table.get(&Key::new("p", "s")).await.unwrap(), None);
    assert_eq!(replay.asked().len(), 3);
}

fn message(group: &str, body: &str) -> Outgoing {
    Outgoing { body: body.to_owned(), group: Some(group.to_owned()), deduplication: Some(body.to_owned()) }
}

fn taken(ids: &[&str], failed: &[(&str, bool, &str)]) -> (u16, Value) {
    let taken: Vec<_> = ids.iter().map(|id| json!({ "Id": id, "MessageId": "m", "MD5OfMessageBody": "x" })).collect();
    let failed: Vec<_> = failed
        .iter()
        .map(|(id, ours, code)| json!({ "Id": id, "SenderFault": ours, "Code": code, "Message": "why" }))
        .collect();
    (200, json!({ "Successful": taken, "Failed": failed }))
}

fn bodies(request: &Value) -> Vec<String> {
    request["Entries"].as_array().unwrap().iter().map(|entry| entry["MessageBody"].as_str().unwrap().to_owned()).collect()
}

/// Would break: a job that SQS did not take out of a batch is lost, or all of the batch is sent again and again.
#[tokio::test]
async fn what_is_not_taken_of_a_batch_is_sent_again_before_what_follows_in_its_group() {
    let answers = vec![
        taken(&["0"], &[("1", false, "InternalError")]),
        taken(&[], &[("1", true, "ThrottlingException")]),
        taken(&["1"], &[]),
        taken(&["0"], &[]),
    ];
    let (queue, replay) = queue(answers).await;
    queue.send(vec![message("a", "a1"), message("b", "b1"), message("b", "b2")]).await.unwrap();
    let sent: Vec<_> = replay.asked().iter().map(bodies).collect();
    assert_eq!(sent, [vec!["a1", "b1"], vec!["b1"], vec!["b1"], vec!["b2"]]);
}

/// Would break: a message that SQS will never take is sent for ever.
#[tokio::test]
async fn a_message_that_is_at_fault_itself_is_invalid() {
    let (queue, replay) = queue(vec![taken(&["0"], &[("1", true, "InvalidMessageContents")])]).await;
    let sent = queue.send(vec![message("a", "a1"), message("b", "b1")]).await;
    assert!(matches!(&sent, Err(QueueError::Invalid(why)) if why.contains("InvalidMessageContents: why")), "{sent:?}");
    assert_eq!(replay.asked().len(), 1);
}

/// Would break: a worker that has lost its message goes on writing to the target.
#[tokio::test]
async fn a_receipt_that_is_over_is_lost_in_all_the_ways_that_sqs_says_so() {
    let sqs = |code: &str, message: &str| (400, json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": message }));
    for (code, message) in [
        ("ReceiptHandleIsInvalid", "The input receipt handle is invalid."),
        ("MessageNotInflight", "The specified message isn't in flight."),
        // As the service's own header has it, which the SDK goes by.
        ("AWS.SimpleQueueService.MessageNotInflight", "The specified message isn't in flight."),
        ("InvalidParameterValue", "Value x for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."),
    ] {
        let (queue, _replay) = queue(vec![sqs(code, message)]).await;
        let extended = queue.extend("x", std::time::Duration::from_secs(60)).await;
        assert!(matches!(extended, Err(QueueError::Lost)), "{code}: {extended:?}");
    }
    let (queue, _replay) = queue(vec![sqs("QueueDoesNotExist", "The specified queue does not exist.")]).await;
    let why = queue.extend("x", std::time::Duration::from_secs(60)).await.unwrap_err().to_string();
    assert!(why.contains("there is no queue http://queue.test/jobs.fifo"), "{why}");
}

/// Would break: a registry's half second becomes none; a wait of a day, which SQS refuses, becomes a message that is lost.
#[tokio::test]
async fn holds_are_whole_seconds_within_the_twelve_hours() {
    let (queue, replay) = queue(vec![(200, json!({}))]).await;
    for millis in [0, 1, 500, 60_000, 24 * 3_600_000] {
        queue.release("x", std::time::Duration::from_millis(millis)).await.unwrap();
    }
    let asked: Vec<_> = replay.asked().iter().map(|request| request["VisibilityTimeout"].as_i64().unwrap()).collect();
    assert_eq!(asked, [0, 1, 1, 60, 42_300]);
}
