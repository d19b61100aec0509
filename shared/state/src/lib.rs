//! The ports `Table` and `Queue`, their adapters, and the repositories built on them.
//!
//! A function knows only the ports and the repositories; which adapter stands behind them is decided where the process
//! starts. One conformance suite ([`conformance`]) runs against every adapter of a port.

pub mod attempts;
pub mod aws;
pub mod catalog;
pub mod conformance;
pub mod dead_letters;
pub mod dispatch;
mod document;
mod error;
pub mod messages;
pub mod origins;
pub mod queue;
pub mod secrets;
pub mod sqlite;
pub mod table;
pub mod task_log;
pub mod topic;
pub mod uploads;

pub use attempts::{AttemptLog, Attempts, Done, Pause};
pub use catalog::{Applied, Catalog, Change, Entry, Plan, Snapshot};
pub use dead_letters::{DeadLetter, DeadLetters};
pub use dispatch::{Delivery, Dispatched, Dispatcher};
pub use error::StateError;
pub use messages::{Events, Jobs, Notifications, Report};
pub use origins::{Origins, Recalled};
pub use queue::{Incoming, Outgoing, Queue, QueueError};
pub use secrets::{LocalSecrets, SecretError, Secrets};
pub use table::{Condition, Item, Key, Op, Page, Query, Table, TableError};
pub use task_log::{Listing, Recorded, TaskLog, Unannounced};
pub use topic::{Announcement, Topic, TopicError};
pub use uploads::{LeaseAnswer, Uploads};
