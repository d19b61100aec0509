//! How far a copy has come, told to the log now and then.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use transship_model::{ArtifactType, Digest, Happening, Progress, Route, TaskHead};
use transship_registry::Progress as Watch;
use transship_state::Attempts;

use crate::Worker;

/// When a copy is told of first: shorter ones tell only how they ended.
const FIRST: Duration = Duration::from_secs(1);
/// How often it is told of after that.
const EVERY: Duration = Duration::from_secs(5);

/// What is known of a copy while it runs.
pub(crate) struct Report {
    moved: AtomicU64,
    saved: AtomicU64,
    planned: AtomicU64,
    known: Mutex<Progress>,
}

impl Report {
    pub(crate) fn new(attempts: &Attempts) -> Self {
        let known = Progress { attempts: attempts.begun, started: attempts.started, ..Progress::default() };
        Self { moved: AtomicU64::new(0), saved: AtomicU64::new(0), planned: AtomicU64::new(0), known: Mutex::new(known) }
    }

    /// What the source tag points to.
    pub(crate) fn resolved(&self, digest: &Digest, artifact: ArtifactType) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.digest = Some(digest.clone());
        known.artifact = Some(artifact);
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> Progress {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let [moved, saved, planned] = [&self.moved, &self.saved, &self.planned].map(|n| n.load(Ordering::Relaxed));
        Progress { bytes_moved: moved, bytes_saved: saved, bytes_total: planned.max(moved + saved), ..known }
    }
}

impl Watch for Report {
    fn planned(&self, bytes: u64) {
        self.planned.fetch_add(bytes, Ordering::Relaxed);
    }

    fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    fn saved(&self, bytes: u64) {
        self.saved.fetch_add(bytes, Ordering::Relaxed);
    }

    fn lost(&self, bytes: u64) {
        self.moved.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Worker {
    /// Tells the log of a copy's progress for as long as it is polled.
    pub(crate) async fn tell_progress(&self, task: &TaskHead, route: &Route, report: &Report) -> std::convert::Infallible {
        let mut wait = FIRST;
        let mut told = None;
        loop {
            tokio::time::sleep(wait).await;
            wait = EVERY;
            let progress = report.progress();
            if told.as_ref() != Some(&progress) {
                told = Some(progress.clone());
                let told = self.tell(task, Happening::Progress { route: route.clone(), progress }).await;
                // The next one, or the outcome, tells more.
                told.unwrap_or_else(|error| tracing::warn!(%error, "a copy's progress could not be told"));
            }
        }
    }
}
