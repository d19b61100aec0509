//! What users are promised about rules, with real registries, their own notifications, and the real binary: which of two pushes
//! wins, what ends, what is left alone, and what is said about it.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that can't go on has failed")]

mod attachments;
mod chains;
mod rules;
mod trouble;
mod two_way;
mod versions;
mod world;
