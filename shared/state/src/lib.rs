//! The ports `Table` and `Queue`, their adapters, and the repositories built on them.
//!
//! A function knows only the ports and the repositories; which adapter stands behind them is decided where the process
//! starts. One conformance suite ([`conformance`]) runs against every adapter of a port.

pub mod attempts;
pub mod audit;
pub mod aws;
pub mod catalog;
pub mod conformance;
pub mod dead_letters;
pub mod deliveries;
pub mod dispatch;
mod document;
mod error;
pub mod feed;
pub mod first_runs;
pub mod idempotency;
pub mod messages;
pub mod origins;
pub mod previews;
pub mod queue;
pub mod schedules;
pub mod secrets;
pub mod sqlite;
pub mod table;
pub mod task_log;
pub mod tokens;
pub mod topic;
pub mod uploads;
pub mod written;

pub use attempts::{AttemptLog, Attempts, Beginning, Done, Pause, StepDone};
pub use audit::{AuditCursor, AuditEntry, AuditLog, AuditQuery};
pub use catalog::{Applied, Catalog, Change, Draft, Entry, Plan, Saved, Snapshot, Stamp};
pub use dead_letters::{DeadLetter, DeadLetters};
pub use deliveries::{DeliveryLog, DeliveryRecord, Standing};
pub use dispatch::{Delivery, Dispatched, Dispatcher};
pub use error::StateError;
pub use feed::{Changed, Feed};
pub use idempotency::{Answer, Begun, Fingerprint, Idempotency};
pub use messages::{Events, Jobs, Notifications, Report};
pub use origins::{Origins, Recalled};
pub use previews::Previews;
pub use queue::{Incoming, Outgoing, Queue, QueueError};
pub use schedules::Scheduler;
pub use secrets::{FolderSecrets, LocalSecrets, SecretError, SecretStore, Secrets, StoreError};
pub use table::{Condition, Item, Key, Op, Page, Query, Table, TableError};
pub use task_log::{Listing, OpenTask, Recorded, Selection, TaskLog, Unannounced};
pub use tokens::{MintedToken, NewToken, Token, TokenRefusal, Tokens};
pub use topic::{Announcement, Topic, TopicError};
pub use uploads::{LeaseAnswer, Uploads};
pub use written::WrittenSecrets;
