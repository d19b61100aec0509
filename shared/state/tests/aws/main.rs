//! The adapters for AWS, from outside: the conformance suites against an emulator, what only these adapters promise, and the
//! answers that only AWS itself gives, replayed.

#![expect(clippy::unwrap_used, reason = "tests end where something fails")]

mod cloud;
mod conformance;
mod replay;
mod replayed;
mod secrets;
mod table;
mod topic;
