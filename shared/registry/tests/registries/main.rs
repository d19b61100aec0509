//! The client and the engine against real registries, and against servers that do not play fair.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that can't go on has failed")]

mod all_tags;
mod answers;
mod beliefs;
mod client;
mod copying;
mod deleting;
mod destinations;
mod ecr;
mod exact;
mod fixture;
mod hostile;
mod limits;
mod login;
mod peculiar;
mod resuming;
mod services;
mod stalling;
mod stopping;
mod tls;
mod tokens;
