//! The functions as AWS runs them: their real binaries under AWS's runtime interface emulator, with an emulator of the services
//! behind them. What the event source mappings do between them the tests do.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests end where something fails")]

mod access;
mod events;
mod given;
mod journey;
mod starting;
mod time;
mod world;
