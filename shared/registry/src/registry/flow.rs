//! Request bodies that are streams, watched while they flow.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream::poll_fn};
use tokio::time::{Instant, sleep_until};

use crate::{error::Error, http::Patience};

/// How a body flows into a request: whom it waits for, since when, and what broke it.
pub(super) struct Flow {
    patience: Patience,
    started: Instant,
    /// Milliseconds after `started`, when it last moved.
    moved: AtomicU64,
    waits_for: AtomicU8,
    failure: Mutex<Option<Error>>,
}

/// The target takes no more of the body, for now.
const TARGET: u8 = 0;
/// The source gives no more of it, for now. How long it may take is its own reader's business.
const SOURCE: u8 = 1;
/// The target has all of it, and may have work to do before it answers.
const ANSWER: u8 = 2;

/// The error that a request body ends with; the real one is in the [`Flow`].
#[derive(Debug, thiserror::Error)]
#[error("the content broke off")]
pub(super) struct Broken;

/// What a request holds as long as it has body to send. Of a body with a known length the end is not asked for.
struct Body(Arc<Flow>);

impl Drop for Body {
    fn drop(&mut self) {
        self.0.moved(ANSWER);
    }
}

impl Flow {
    pub(super) fn watch<S>(
        content: S,
        patience: Patience,
    ) -> (Arc<Self>, impl Stream<Item = Result<Bytes, Broken>> + Send + 'static)
    where
        S: Stream<Item = Result<Bytes, Error>> + Send + 'static,
    {
        let flow = Arc::new(Self {
            patience,
            started: Instant::now(),
            moved: AtomicU64::new(0),
            waits_for: AtomicU8::new(TARGET),
            failure: Mutex::default(),
        });
        let (body, mut content) = (Body(flow.clone()), Box::pin(content));
        let watched = poll_fn(move |context| {
            let Body(flow) = &body;
            let polled = content.poll_next_unpin(context);
            flow.moved(if polled.is_pending() { SOURCE } else { TARGET });
            polled.map_err(|error| {
                *flow.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Broken
            })
        });
        (flow, watched)
    }

    fn moved(&self, waits_for: u8) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
        self.waits_for.store(waits_for, Ordering::Relaxed);
    }

    /// Ends when the target has shown no progress for too long.
    pub(super) async fn stalled(&self) -> Duration {
        let Patience { stall, work, .. } = self.patience;
        loop {
            let patience = match self.waits_for.load(Ordering::Relaxed) {
                TARGET => Some(stall),
                ANSWER => Some(work),
                _ => None,
            };
            let since = self.started + Duration::from_millis(self.moved.load(Ordering::Relaxed));
            let now = Instant::now();
            match patience {
                Some(patience) if now >= since + patience => return patience,
                Some(patience) => sleep_until((since + patience).min(now + stall)).await,
                None => sleep_until(now + stall).await,
            }
        }
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
