//! The one error of the repositories.

use crate::{QueueError, TableError};

/// Why a repository did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StateError {
    /// A store is out of reach or overloaded: the same call may succeed later.
    #[error("{0}")]
    Unavailable(String),
    /// Somebody else changed the same thing again and again while it was to be changed.
    #[error("{0} was changed by others at the same time, again and again")]
    Contended(String),
    /// What the store holds, or what it was to hold, is not what this version of transship understands.
    #[error("{what}: {why}")]
    Corrupt {
        /// The item or message.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

impl From<TableError> for StateError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Unavailable(_) => Self::Unavailable(error.to_string()),
            TableError::Condition(_) => Self::Contended("an item".into()),
            TableError::Invalid(_) => Self::Corrupt { what: "a write to the table".into(), why: error.to_string() },
        }
    }
}

impl From<QueueError> for StateError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Unavailable(_) => Self::Unavailable(error.to_string()),
            QueueError::Lost => Self::Contended("a message".into()),
            QueueError::Invalid(_) => Self::Corrupt { what: "a message".into(), why: error.to_string() },
        }
    }
}
