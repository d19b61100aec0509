//! What every adapter of a port must do, checked from outside.
//!
//! [`table`], [`catalog`()], [`secrets`()] and the two queue suites take an adapter and panic at the first promise that it breaks, with a sentence that
//! says what would go wrong because of it. They run against whatever stands behind the adapter, shared or not: each run uses
//! keys and groups of its own. A suite takes some ten to twenty seconds, most of which is waiting for holds to end.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a suite of checks: it ends where a promise is broken"
)]

mod catalog;
mod queue;
mod secrets;
mod table;

pub use catalog::catalog;
pub use queue::{Receiver, fifo_queue, standard_queue};
pub use secrets::secrets;
pub use table::table;

/// A text that no other run has, in hexadecimal digits.
fn unique() -> String {
    format!("{:x}", jiff::Timestamp::now().as_nanosecond())
}
