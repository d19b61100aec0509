//! The suites that every adapter passes.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_sqs::types::MessageSystemAttributeName::ApproximateReceiveCount;
use transship_state::Incoming;
use transship_state::aws::AwsSecrets;
use transship_state::conformance::{self, Receiver};

use crate::cloud::Cloud;

/// What the event source mapping does.
struct Receiving {
    client: aws_sdk_sqs::Client,
    url: String,
}

#[async_trait]
impl Receiver for Receiving {
    async fn receive(&self, max: usize, hold: Duration, wait: Duration) -> Vec<Incoming> {
        // Both are whole seconds.
        let seconds = |time: Duration| time.as_secs_f64().ceil() as i32;
        let request = self.client.receive_message().queue_url(&self.url).max_number_of_messages(max.min(10) as i32);
        let request = request.visibility_timeout(seconds(hold)).wait_time_seconds(seconds(wait));
        let answer = request.message_system_attribute_names(ApproximateReceiveCount).send().await.unwrap();
        let message = |message: aws_sdk_sqs::types::Message| Incoming {
            deliveries: message.attributes.unwrap()[&ApproximateReceiveCount].parse().unwrap(),
            body: message.body.unwrap(),
            receipt: message.receipt_handle.unwrap(),
        };
        answer.messages.unwrap_or_default().into_iter().map(message).collect()
    }

    async fn delete(&self, receipt: &str) {
        self.client.delete_message().queue_url(&self.url).receipt_handle(receipt).send().await.unwrap();
    }
}

#[tokio::test]
async fn the_table_conforms() {
    let cloud = Cloud::start().await;
    conformance::table(&cloud.table().await).await;
}

/// Would break: of two changes at the same time one is lost; a rule that names nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_conforms() {
    let cloud = Cloud::start().await;
    let table = Arc::new(cloud.table().await);
    conformance::catalog(table.clone(), table).await;
}

/// Would break: a password that the API was given and no worker can use, or that outlives its instance.
#[tokio::test]
async fn the_secrets_conform() {
    let cloud = Cloud::start().await;
    let (manager, ssm) = (aws_sdk_secretsmanager::Client::new(&cloud.sdk), aws_sdk_ssm::Client::new(&cloud.sdk));
    let secrets = || AwsSecrets::new(manager.clone(), ssm.clone(), "transship/");
    conformance::secrets(&secrets(), secrets).await;
}

#[tokio::test]
async fn the_fifo_queue_conforms() {
    let cloud = Cloud::start().await;
    let (queue, client, url) = cloud.queue("jobs.fifo").await;
    conformance::fifo_queue(&queue, &Receiving { client, url }).await;
}

#[tokio::test]
async fn the_standard_queue_conforms() {
    let cloud = Cloud::start().await;
    let (queue, client, url) = cloud.queue("events").await;
    conformance::standard_queue(&queue, &Receiving { client, url }).await;
}
