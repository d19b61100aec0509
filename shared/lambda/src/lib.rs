//! What the functions start with on AWS Lambda: settings from the environment, clients, log lines, metrics, and events as the
//! handlers want them.
//!
//! A function's `main.rs` says what it needs and what it does with an event, and nothing else:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use transship_lambda::{Answer, Aws, Call, Event, Function, Metric, Settings, StartError, Unhandled, settings::TABLE};
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> ExitCode {
//!     transship_lambda::run(start()).await
//! }
//!
//! async fn start() -> Result<Counter, StartError> {
//!     let table = TABLE.read()?;
//!     Ok(Counter { table: Aws::connect().await.table(table) })
//! }
//!
//! struct Counter { table: transship_state::aws::DynamoDbTable }
//!
//! impl Function for Counter {
//!     async fn handle(&self, event: Event, call: &Call) -> Result<Answer, Unhandled> {
//!         let messages = event.messages("the counter")?;
//!         call.count(Metric::Events, messages.len() as u64);
//!         Ok(Answer::done_but([]))
//!     }
//! }
//! ```
//!
//! Between two events an environment is frozen: nothing of a function goes on after its answer, and a connection may be dead when the
//! next event comes. Clients notice that and take another one.

mod batch;
mod clients;
mod event;
mod http;
mod log;
mod metrics;
mod run;
pub mod settings;

pub use batch::{Message, each, in_order};
pub use clients::Aws;
pub use event::{Answer, Event, Unhandled};
pub use http::Sender;
pub use metrics::Metric;
pub use run::{Call, Function, StartError, run};
pub use settings::Settings;
