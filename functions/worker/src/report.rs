//! How far a copy has come, told to the log now and then.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;
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
    mounted: AtomicU64,
    present: AtomicU64,
    planned: AtomicU64,
    is_setting: AtomicBool,
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
            mounted: AtomicU64::new(0),
            present: AtomicU64::new(0),
            planned: AtomicU64::new(0),
            is_setting: AtomicBool::new(attempts.done.may_have_set),
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

    /// The target's tag is about to be set.
    pub(crate) fn setting(&self) {
        self.is_setting.store(true, Ordering::Relaxed);
    }

    /// Whether this attempt, or an earlier one, may have set the target's tag, without an answer that says so.
    pub(crate) fn is_setting(&self) -> bool {
        self.is_setting.load(Ordering::Relaxed)
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
        let Progress { bytes_moved, bytes_mounted, bytes_present, .. } = self.progress();
        Done { has_set: self.has_set(), may_have_set: self.is_setting(), bytes_moved, bytes_mounted, bytes_present }
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> Progress {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let [moved, mounted, present, planned] =
            [&self.moved, &self.mounted, &self.present, &self.planned].map(|n| n.load(Ordering::Relaxed));
        let Done { bytes_moved, bytes_mounted, bytes_present, .. } = self.before;
        // What earlier attempts have brought this one finds there.
        let bytes_present = present.saturating_sub(bytes_moved + bytes_mounted).max(bytes_present);
        let (bytes_moved, bytes_mounted) = (bytes_moved + moved, bytes_mounted + mounted);
        let bytes_total = planned.max(bytes_moved + bytes_mounted + bytes_present);
        Progress { bytes_moved, bytes_mounted, bytes_present, bytes_total, ..known }
    }
}

impl Watch for Report {
    fn planned(&self, bytes: u64) {
        self.planned.fetch_add(bytes, Ordering::Relaxed);
    }

    fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    fn mounted(&self, bytes: u64) {
        self.mounted.fetch_add(bytes, Ordering::Relaxed);
    }

    fn present(&self, bytes: u64) {
        self.present.fetch_add(bytes, Ordering::Relaxed);
    }

    fn lost(&self, bytes: u64) {
        self.moved.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn absent(&self, bytes: u64) {
        self.present.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// How fast bytes were moved lately.
#[derive(Default)]
struct Pace(VecDeque<(Instant, u64)>);

/// So many reports tell how fast: about half a minute.
const REPORTS: usize = 7;
/// A shorter time tells nothing.
const LEAST: Duration = Duration::from_secs(4);

impl Pace {
    /// Bytes a second over the last reports, this one included; `None` where they are too few to tell.
    fn note(&mut self, now: Instant, moved: u64) -> Option<u64> {
        self.0.push_back((now, moved));
        if self.0.len() > REPORTS {
            self.0.pop_front();
        }
        let (since, before) = self.0.front()?;
        let time = now.duration_since(*since);
        if time < LEAST {
            return None;
        }
        // A blob that starts again has been moved for nothing.
        u64::try_from(u128::from(moved.saturating_sub(*before)) * 1000 / time.as_millis().max(1)).ok()
    }
}

impl Worker {
    /// Tells the log of a copy's progress for as long as it is polled.
    pub(crate) async fn tell_progress(&self, task: &TaskHead, route: &Route, report: &Report) -> std::convert::Infallible {
        let mut wait = FIRST;
        let mut told = None;
        let mut pace = Pace::default();
        loop {
            tokio::time::sleep(wait).await;
            wait = EVERY;
            let mut progress = report.progress();
            progress.bytes_per_second = pace.note(Instant::now(), progress.bytes_moved);
            if told.as_ref() != Some(&progress) {
                told = Some(progress.clone());
                progress.reported = Some(Timestamp::now());
                let told = self.tell(task, Happening::Progress { route: route.clone(), progress }).await;
                // The next one, or the outcome, tells more.
                told.unwrap_or_else(|error| tracing::warn!(%error, "a copy's progress could not be told"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: an estimate made of one look, of the mean since the beginning, or of bytes that have been lost.
    #[test]
    fn the_pace_is_that_of_the_last_reports() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        let at = |second| begin + Duration::from_secs(second);
        assert_eq!(pace.note(at(1), 1000), None);
        assert_eq!(pace.note(at(6), 6000), Some(1000));
        for second in (11..=61).step_by(5) {
            pace.note(at(second), 6000);
        }
        assert_eq!(pace.note(at(66), 6000), Some(0), "it has stood still for half a minute");
        assert_eq!(pace.note(at(71), 100), Some(0), "a blob starts again");
    }

    /// Would break: bytes that an earlier attempt had moved or mounted, and this one counts as found there.
    #[test]
    fn what_an_earlier_attempt_brought_is_not_counted_as_found() {
        let done = Done { bytes_moved: 100, bytes_mounted: 20, bytes_present: 3, ..Done::default() };
        let report = Report::new(&Attempts { done, ..Attempts::default() });
        let told = |report: &Report| {
            let progress = report.progress();
            (progress.bytes_moved, progress.bytes_mounted, progress.bytes_present)
        };
        assert_eq!(told(&report), (100, 20, 3), "before anything has been looked at");
        report.planned(200);
        report.present(123);
        report.moved(70);
        report.mounted(7);
        assert_eq!(told(&report), (170, 27, 3));
        assert_eq!(report.progress().bytes_total, 200);
    }
}
