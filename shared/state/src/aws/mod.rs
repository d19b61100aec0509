//! The adapters for AWS: DynamoDB, SQS, SNS, Secrets Manager and the Parameter Store.
//!
//! Each takes a client of the SDK, which is made once for a process and brings region, credentials, time-outs and the retries of
//! what the services mean to be retried: throttling and their own errors. What the SDK does not retry and should be (conflicts of
//! transactions, parts of a batch) is retried here, with jitter and a bound.

mod backoff;
mod problem;
mod queue;
mod secrets;
mod table;
mod topic;

pub use queue::SqsQueue;
pub use secrets::AwsSecrets;
pub use table::DynamoDbTable;
pub use topic::SnsTopic;
