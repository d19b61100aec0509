//! Request bodies that are streams, watched while they flow.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::time::{Instant, sleep_until};

use crate::{
    error::Error,
    http::{STALL, WORK},
};

/// How much longer than the source's the target's patience is, so that a stalled source is not blamed on the target.
const GRACE: Duration = Duration::from_secs(10);

/// How a body flows into a request: when it last moved, whether it has ended, and what broke it.
pub(super) struct Flow {
    started: Instant,
    /// Milliseconds after `started`.
    moved: AtomicU64,
    ended: AtomicU64,
    failure: Mutex<Option<Error>>,
}

/// The error that a request body ends with; the real one is in the [`Flow`].
#[derive(Debug, thiserror::Error)]
#[error("the content broke off")]
pub(super) struct Broken;

impl Flow {
    pub(super) fn watch<S>(content: S) -> (Arc<Self>, impl Stream<Item = Result<Bytes, Broken>> + Send + 'static)
    where
        S: Stream<Item = Result<Bytes, Error>> + Send + 'static,
    {
        let flow = Arc::new(Self {
            started: Instant::now(),
            moved: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            failure: Mutex::default(),
        });
        let watched = {
            let flow = flow.clone();
            content.map(move |item| {
                flow.touch();
                item.map_err(|error| {
                    *flow.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Broken
                })
            })
        };
        let end = {
            let flow = flow.clone();
            futures_util::stream::poll_fn(move |_| {
                flow.touch();
                flow.ended.store(1, Ordering::Relaxed);
                std::task::Poll::Ready(None)
            })
        };
        (flow, watched.chain(end))
    }

    fn touch(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    /// Ends when nothing has moved for too long. After the last byte the registry may have work to do.
    pub(super) async fn stalled(&self) -> Duration {
        loop {
            let patience = if self.ended.load(Ordering::Relaxed) == 0 { STALL + GRACE } else { WORK };
            let deadline = self.started + Duration::from_millis(self.moved.load(Ordering::Relaxed)) + patience;
            if Instant::now() >= deadline {
                return patience;
            }
            sleep_until(deadline.min(Instant::now() + STALL)).await;
        }
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
