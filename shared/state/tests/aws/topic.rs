//! Publishing to SNS.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use transship_state::{Announcement, Topic, TopicError, aws::SnsTopic};
use transship_tests::wait_until;

use crate::cloud::Cloud;

/// Would break: subscribers that get nothing, or can't filter by attributes.
#[tokio::test]
async fn an_announcement_reaches_a_subscribed_queue_with_its_attributes() {
    let cloud = Cloud::start().await;
    let (_, sqs, url) = cloud.queue("subscriber").await;
    let client = aws_sdk_sns::Client::new(&cloud.sdk);
    let arn = client.create_topic().name("announcements").send().await.unwrap().topic_arn.unwrap();
    let attributes = sqs.get_queue_attributes().queue_url(&url).attribute_names("QueueArn".into()).send().await.unwrap();
    let queue = attributes.attributes.unwrap()[&"QueueArn".into()].clone();
    client.subscribe().topic_arn(&arn).protocol("sqs").endpoint(queue).send().await.unwrap();
    let topic = SnsTopic::new(client.clone(), &arn);

    let attributes = BTreeMap::from([("rule".to_owned(), "build/all".to_owned()), ("empty".to_owned(), String::new())]);
    let announcement = Announcement { subject: "build/all:\nsucceeded".into(), body: r#"{"task":"ü"}"#.into(), attributes };
    topic.publish(&announcement).await.unwrap();

    let mut body = None;
    wait_until("the announcement is in the queue", Duration::from_secs(30), async || {
        let received = sqs.receive_message().queue_url(&url).wait_time_seconds(1).send().await.unwrap();
        body = received.messages.unwrap_or_default().into_iter().next().and_then(|message| message.body);
        body.is_some()
    })
    .await;
    let envelope: Value = serde_json::from_str(&body.unwrap()).unwrap();
    assert_eq!(envelope["Message"], announcement.body);
    assert_eq!(envelope["MessageAttributes"]["rule"]["Value"], "build/all");
    assert!(envelope["MessageAttributes"].get("empty").is_none(), "SNS refuses attributes without a value");

    // Many at once, one of which is too large: each has its own answer, and all others are there.
    let numbered =
        |n: usize| Announcement { body: format!("{n}").repeat(if n == 7 { 300 << 10 } else { 1 }), ..announcement.clone() };
    let many: Vec<Announcement> = (0..23).map(numbered).collect();
    let published = topic.publish_all(&many.iter().collect::<Vec<_>>()).await;
    let refused: Vec<usize> = published.iter().enumerate().filter(|(_, one)| one.is_err()).map(|(n, _)| n).collect();
    assert_eq!((published.len(), &refused[..]), (23, &[7][..]), "{published:?}");
    let mut heard = BTreeSet::new();
    wait_until("all that were published are in the queue", Duration::from_secs(30), async || {
        let receive = sqs.receive_message().queue_url(&url).max_number_of_messages(10).wait_time_seconds(1);
        for message in receive.send().await.unwrap().messages.unwrap_or_default() {
            let envelope: Value = serde_json::from_str(&message.body.unwrap()).unwrap();
            heard.extend(envelope["Message"].as_str().unwrap().parse::<usize>().ok());
        }
        heard.len() == 22
    })
    .await;

    let large = Announcement { body: "x".repeat(256 << 10), ..announcement.clone() };
    assert!(matches!(topic.publish(&large).await, Err(TopicError::Invalid(_))));
    let gone = SnsTopic::new(client, "arn:aws:sns:us-east-1:000000000000:gone").publish(&announcement).await.unwrap_err();
    assert!(gone.to_string().contains("SNS answered Publish with 404"), "{gone}");
}
