//! The clients of AWS's services, built once an environment and only where a function needs them.

use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig, timeout::TimeoutConfig};
use transship_state::aws::{AwsSecrets, DynamoDbTable, SnsTopic, SqsQueue};

use crate::settings::{Arn, QueueUrl, SecretPrefix, TableName};

/// For so long an answer is waited for before it is asked for again: services answer in milliseconds, and who does not has lost the
/// connection, as those that were frozen with the environment have.
const PATIENCE: Duration = Duration::from_secs(5);

/// The AWS identity and region of the environment.
pub struct Aws(SdkConfig);

impl Aws {
    /// Reads them from the environment's variables, which Lambda sets.
    pub async fn connect() -> Self {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(PATIENCE).build();
        Self(aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts).load().await)
    }

    /// The table.
    pub fn table(&self, name: TableName) -> DynamoDbTable {
        DynamoDbTable::new(aws_sdk_dynamodb::Client::new(&self.0), name.0)
    }

    /// The queues, which share a client.
    pub fn queues<const N: usize>(&self, urls: [QueueUrl; N]) -> [SqsQueue; N] {
        let client = aws_sdk_sqs::Client::new(&self.0);
        urls.map(|url| SqsQueue::new(client.clone(), url.0))
    }

    /// The topic.
    pub fn topic(&self, arn: Arn) -> SnsTopic {
        SnsTopic::new(aws_sdk_sns::Client::new(&self.0), arn.0)
    }

    /// The deployment's secrets.
    pub fn secrets(&self, prefix: SecretPrefix) -> AwsSecrets {
        let (secretsmanager, ssm) = (aws_sdk_secretsmanager::Client::new(&self.0), aws_sdk_ssm::Client::new(&self.0));
        AwsSecrets::new(secretsmanager, ssm, prefix.0)
    }
}
