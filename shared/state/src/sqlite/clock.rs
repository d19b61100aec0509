//! The one place where the embedded store looks at the clock.
//!
//! It is the wall clock, because holds and expiries are kept in the file and must mean the same after a restart.

use std::time::Duration;

use jiff::Timestamp;

/// A moment in milliseconds since 1970, as the columns `until` hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) i64);

impl Moment {
    pub(super) fn now() -> Self {
        Self(Timestamp::now().as_millisecond())
    }

    /// Whole seconds since 1970, in which items expire.
    pub(super) fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    pub(super) fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long it is from here to `later`; nothing if that is past.
    pub(super) fn until(self, later: Self) -> Duration {
        Duration::from_millis(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }
}
