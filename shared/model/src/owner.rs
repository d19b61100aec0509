//! Whose an entry of the catalogue is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who says what an entry of the catalogue is. Nobody else changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// Whoever calls the API.
    Api,
    /// The configuration file that `serve` was started with, by its path.
    File(String),
}

impl Owner {
    /// The configuration file, if it is one.
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::Api => None,
            Self::File(path) => Some(path),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("the API"),
            Self::File(path) => write!(f, "the configuration file {path}"),
        }
    }
}
