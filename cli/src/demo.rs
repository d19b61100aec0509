//! `transship demo`: two registries in this process, a push, and the proof that it has arrived.

pub(crate) mod content;
pub(crate) mod registry;
