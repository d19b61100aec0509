//! How far a copy has come, told to the log now and then.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use transship_model::{ArtifactType, Digest, Happening, Progress, Route, TaskHead};
use transship_registry::Progress as Watch;
use transship_state::{Attempts, Done};

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
    has_set: AtomicBool,
    /// What earlier attempts have done. What they moved this one finds there, which is not to be counted twice.
    before: Done,
    known: Mutex<Progress>,
}

impl Report {
    pub(crate) fn new(attempts: &Attempts) -> Self {
        let known = Progress { attempts: attempts.begun, started: attempts.started, ..Progress::default() };
        Self {
            moved: AtomicU64::new(0),
            saved: AtomicU64::new(0),
            planned: AtomicU64::new(0),
            has_set: AtomicBool::new(attempts.done.has_set),
            before: attempts.done,
            known: Mutex::new(known),
        }
    }

    /// What the source tag points to, and what that is if it had to be read.
    pub(crate) fn resolved(&self, digest: &Digest, artifact: Option<ArtifactType>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.digest = Some(digest.clone());
        known.artifact = artifact;
    }

    /// The target's tag has been set.
    pub(crate) fn set(&self) {
        self.has_set.store(true, Ordering::Relaxed);
    }

    /// Whether this attempt, or an earlier one that could tell it, has set the target's tag.
    pub(crate) fn has_set(&self) -> bool {
        self.has_set.load(Ordering::Relaxed)
    }

    /// What the next attempt has to know, if there is one.
    pub(crate) fn done(&self) -> Done {
        let Progress { bytes_moved, bytes_saved, .. } = self.progress();
        Done { has_set: self.has_set(), bytes_moved, bytes_saved }
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> Progress {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let [moved, saved, planned] = [&self.moved, &self.saved, &self.planned].map(|n| n.load(Ordering::Relaxed));
        let bytes_moved = self.before.bytes_moved + moved;
        let bytes_saved = saved.saturating_sub(self.before.bytes_moved).max(self.before.bytes_saved);
        Progress { bytes_moved, bytes_saved, bytes_total: planned.max(bytes_moved + bytes_saved), ..known }
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

    fn unsaved(&self, bytes: u64) {
        self.saved.fetch_sub(bytes, Ordering::Relaxed);
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
