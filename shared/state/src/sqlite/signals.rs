//! How a receiver that waits learns that there is something to receive.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// How many messages became ready, by queue.
pub(super) type Ready = HashMap<String, usize>;

/// One signal for each queue that somebody has a handle of.
#[derive(Clone, Default)]
pub(super) struct Signals(Arc<Mutex<HashMap<String, Arc<Notify>>>>);

impl Signals {
    /// The signal of a queue.
    pub(super) fn of(&self, queue: &str) -> Arc<Notify> {
        let mut signals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(signals.entry(queue.to_owned()).or_default())
    }

    /// Wakes as many receivers as there are messages for. No wake-up is lost: a receiver registers before it looks, so that
    /// it is either woken or sees the message; and one that goes away hands its wake-up to the next ([`Notify::notify_one`]).
    pub(super) fn wake(&self, ready: Ready) {
        for (queue, count) in ready {
            let signal = self.of(&queue);
            for _ in 0..count {
                signal.notify_one();
            }
        }
    }
}
