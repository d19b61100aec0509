//! The embedded store, from outside: the conformance suites, and what only it promises.

#![expect(clippy::unwrap_used, reason = "tests end where something fails")]

mod conformance;
mod durability;
mod measurements;
mod queues;
mod scratch;
