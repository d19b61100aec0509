//! The commands, one file each.

pub(crate) mod check;
pub(crate) mod copy;
pub(crate) mod demo;
pub(crate) mod serve;
pub(crate) mod tasks;
