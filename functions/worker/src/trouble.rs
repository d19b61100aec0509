//! What keeps a job from being done, sorted by what comes next.

use std::{fmt, time::Duration};

use transship_registry::Error as RegistryError;
use transship_state::{SecretError, StateError};

/// What keeps a job from being done.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// A registry.
    Registry(RegistryError),
    /// A store of our own.
    State(StateError),
    /// A registry's password.
    Secret(SecretError),
    /// A file of the operator's that can't be read.
    Unreadable(String),
    /// The invocation's time was over before the registries had answered.
    Late,
    /// The source does not show yet what was pushed to it a moment ago.
    Early,
    /// A registry has not answered others, and is left alone for so long.
    Down {
        /// Its instance.
        registry: String,
        /// For how long.
        wait: Duration,
    },
    /// Something that will not change by itself.
    Refused(String),
}

/// How something may be tried again.
pub(crate) struct Retry {
    /// After how long, if somebody said so.
    pub(crate) after: Option<Duration>,
    /// Whether it counts as an error; being asked to wait does not.
    pub(crate) is_error: bool,
}

impl Trouble {
    /// Something about the job ends the process again and again.
    pub(crate) fn crashed() -> Self {
        Self::Refused("crashed: work on it began 5 times and ended each time with its process, which may lack memory".into())
    }

    /// The instance whose registry did not let us in.
    pub(crate) fn denied_by(&self) -> Option<&str> {
        match self {
            Self::Registry(error) if error.is_denied() => Some(error.failure().registry()),
            _ => None,
        }
    }

    /// Whether nothing has been tried yet, because what it needs is not there.
    pub(crate) fn is_postponed(&self) -> bool {
        matches!(self, Self::Early | Self::Down { .. } | Self::Registry(RegistryError::Busy(_)))
    }

    /// How it may be tried again; `None` where that is of no use.
    pub(crate) fn retry(&self) -> Option<Retry> {
        match self {
            Self::Registry(error) if error.is_retry() => {
                Some(Retry { after: error.retry_after(), is_error: error.failure().status() != Some(429) })
            }
            // Little is left to be done when the other is through: it is worth a look now and then.
            Self::Registry(RegistryError::Busy(_)) => Some(Retry { after: Some(Duration::from_secs(1)), is_error: false }),
            // Registries that set the tag after they have told of it do so within milliseconds.
            Self::Early => Some(Retry { after: Some(Duration::from_millis(100)), is_error: false }),
            Self::Down { wait, .. } => Some(Retry { after: Some(*wait), is_error: false }),
            Self::Registry(_) | Self::Refused(_) => None,
            Self::State(StateError::Corrupt { .. }) => None,
            // What is missing may be mended by the operator while the job waits.
            Self::State(_) | Self::Secret(_) | Self::Unreadable(_) | Self::Late => Some(Retry { after: None, is_error: true }),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(error) => error.fmt(f),
            Self::State(error) => error.fmt(f),
            Self::Secret(error) => error.fmt(f),
            Self::Late => f.write_str("the time of the invocation was over before the registries had answered"),
            Self::Early => f.write_str("the source does not show yet what was pushed to it"),
            Self::Down { registry, .. } => write!(f, "{registry} does not answer, and is left alone for a moment"),
            Self::Unreadable(problem) | Self::Refused(problem) => f.write_str(problem),
        }
    }
}

impl From<RegistryError> for Trouble {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl From<StateError> for Trouble {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<SecretError> for Trouble {
    fn from(error: SecretError) -> Self {
        Self::Secret(error)
    }
}
