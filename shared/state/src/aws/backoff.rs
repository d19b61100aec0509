//! Waiting between tries that the SDK does not make.

use std::time::Duration;

/// The first wait is at most so long, each next one at most twice as long.
const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);
/// With these numbers a call is given up after three to seven seconds.
const TRIES: u32 = 12;

/// The tries of one call.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// Waits before the next try, anything up to the wait of the time, so that those who met do not meet again. Returns false, at
    /// once, if there should be no other.
    pub(super) async fn wait(&mut self) -> bool {
        self.tries += 1;
        if self.tries >= TRIES {
            return false;
        }
        let longest = FIRST.saturating_mul(1 << (self.tries - 1)).min(LONGEST);
        tokio::time::sleep(longest.mul_f64(fastrand::f64())).await;
        true
    }

    /// How often the call was made, once it is given up.
    pub(super) fn tries(&self) -> u32 {
        self.tries
    }
}
