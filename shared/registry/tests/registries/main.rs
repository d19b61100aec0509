//! The client and the engine against real registries, and against servers that do not play fair.

mod client;
mod copying;
mod fixture;
mod hostile;
mod login;
