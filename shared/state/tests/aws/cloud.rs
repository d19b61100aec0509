//! An emulator with what a test needs in it.

use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TimeToLiveSpecification,
};
use aws_sdk_sqs::types::QueueAttributeName;
use transship_state::aws::{DynamoDbTable, SqsQueue};
use transship_tests::Aws;

pub(crate) struct Cloud {
    _aws: Aws,
    pub(crate) sdk: SdkConfig,
}

impl Cloud {
    pub(crate) async fn start() -> Self {
        let aws = Aws::start().await;
        let sdk = aws.sdk().await;
        Self { _aws: aws, sdk }
    }

    /// A table as the deployment has it.
    pub(crate) async fn table(&self) -> DynamoDbTable {
        let client = aws_sdk_dynamodb::Client::new(&self.sdk);
        let text = |name: &str| {
            let definition = AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S);
            definition.build().unwrap()
        };
        let key = |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap();
        let create = client.create_table().table_name("transship").billing_mode(BillingMode::PayPerRequest);
        let create = create.attribute_definitions(text("partition")).attribute_definitions(text("sort"));
        create.key_schema(key("partition", KeyType::Hash)).key_schema(key("sort", KeyType::Range)).send().await.unwrap();
        let expires = TimeToLiveSpecification::builder().enabled(true).attribute_name("expires").build().unwrap();
        client.update_time_to_live().table_name("transship").time_to_live_specification(expires).send().await.unwrap();
        DynamoDbTable::new(client, "transship")
    }

    /// A queue, and a client to receive from it with.
    pub(crate) async fn queue(&self, name: &str) -> (SqsQueue, aws_sdk_sqs::Client, String) {
        let client = aws_sdk_sqs::Client::new(&self.sdk);
        let mut create = client.create_queue().queue_name(name);
        if name.ends_with(".fifo") {
            create = create.attributes(QueueAttributeName::FifoQueue, "true");
        }
        let url = create.send().await.unwrap().queue_url.unwrap();
        (SqsQueue::new(client.clone(), &url), client, url)
    }
}
