//! Tasks, their resources and the events that tell of them.
//!
//! A task is one triggering of one rule. Workers tell what they do as [`TaskEvent`]s, which may arrive twice and in any
//! order; [`Resource::merge`] makes the same log of them whatever the order. Every event carries the [`TaskHead`], so that any
//! of them can begin the log.

use std::{fmt, ops::AddAssign};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ArtifactType, Digest, InstanceName, Place, RuleName, TaskId};

/// What is known of a task from its beginning on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskHead {
    /// Its identity.
    pub id: TaskId,
    /// The source instance.
    pub instance: InstanceName,
    /// The rule's name in that instance.
    pub rule: RuleName,
    /// Why it runs.
    pub trigger: Trigger,
    /// When it was triggered, by our clock.
    pub created: Timestamp,
}

/// Why a task runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Trigger {
    /// A push to the source.
    Push {
        /// What was pushed: `repository:tag`.
        resource: String,
    },
    /// A push of something that belongs to what the target has: a signature, an SBOM.
    Attachment {
        /// What was pushed: `repository@digest` or `repository:sha256-….sig`.
        resource: String,
    },
    /// A tag was deleted at the source.
    Deletion {
        /// What was deleted: `repository:tag`.
        resource: String,
    },
    /// Somebody asked for the rule's whole source.
    Manual,
    /// The rule is new: its whole source.
    Created,
    /// The rule's schedule: its whole source.
    Schedule,
    /// Somebody asked for what had failed in another task.
    Retry {
        /// That task.
        of: TaskId,
    },
}

impl Trigger {
    /// Whether the task's resources are found by a scan, of the source or of another task, so that their number is not known at first.
    pub fn scans(&self) -> bool {
        matches!(self, Self::Manual | Self::Created | Self::Schedule | Self::Retry { .. })
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Push { resource } => write!(f, "push {resource}"),
            Self::Attachment { resource } => write!(f, "attachment {resource}"),
            Self::Deletion { resource } => write!(f, "deletion of {resource}"),
            Self::Manual => f.write_str("by hand"),
            Self::Created => f.write_str("new rule"),
            Self::Schedule => f.write_str("schedule"),
            Self::Retry { of } => write!(f, "retry of {of}"),
        }
    }
}

/// Something that happened in a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEvent {
    /// The task.
    pub task: TaskHead,
    /// When, by the clock of who tells it.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Happening {
    /// The task was triggered; its resources are still to be found.
    Created,
    /// Resources were found and have a job each.
    Found {
        /// What will be copied where.
        resources: Vec<Route>,
    },
    /// A resource is being worked on.
    Progress {
        /// Which.
        route: Route,
        /// How far it is.
        progress: Progress,
    },
    /// A resource has its outcome.
    Ended {
        /// Which.
        route: Route,
        /// How far it came.
        progress: Progress,
        /// The outcome.
        outcome: Outcome,
    },
    /// The scan goes on.
    Scanned {
        /// Repositories with at least one resource so far.
        repositories: u64,
        /// Resources so far that were equal at both ends, and have got no job.
        #[serde(default)]
        compared: u64,
        /// Why the last step did not end; it is tried again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The scan is over.
    ScanEnded {
        /// How many resources it has found that have a job each.
        total: u64,
        /// How many were equal at both ends, and have none.
        #[serde(default)]
        compared: u64,
        /// In how many repositories.
        repositories: u64,
        /// Why it is over before its end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The scan is over before its end, because the task was cancelled.
    ScanStopped {
        /// How many resources it has found that have a job each.
        total: u64,
        /// How many were equal at both ends, and have none.
        #[serde(default)]
        compared: u64,
        /// In how many repositories.
        repositories: u64,
    },
    /// Somebody wants the task to end. What has an outcome by then keeps it.
    Cancelled {
        /// Who, as [`crate::Caller::name`] has it.
        by: String,
    },
}

/// From where to where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to look.
    pub source: Place,
    /// What to set.
    pub target: Place,
}

/// How far the work on a resource has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What the source tag pointed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactType>,
    /// Bytes sent to the target.
    pub bytes_moved: u64,
    /// Bytes that the target mounted from another of its repositories.
    #[serde(default)]
    pub bytes_mounted: u64,
    /// Bytes that the target had already. What older versions stored as saved counts as that: they did not know how.
    #[serde(default, alias = "bytes_saved")]
    pub bytes_present: u64,
    /// Bytes to move, mount or find there in all, as far as they are known.
    pub bytes_total: u64,
    /// How many bytes were moved a second lately, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// When this was told, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Timestamp>,
    /// How often work on it has begun.
    pub attempts: u32,
    /// When work on it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// Why the last attempt did not end it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it is tried again, after an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
}

impl Progress {
    /// Bytes that did not have to be moved.
    pub fn bytes_saved(&self) -> u64 {
        self.bytes_mounted + self.bytes_present
    }

    /// Bytes of which nothing is left to be done.
    pub fn bytes_done(&self) -> u64 {
        self.bytes_moved + self.bytes_saved()
    }
}

/// How the work on a resource ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The target has it now.
    Copied,
    /// The target had it already; or neither side has it any more.
    Unchanged,
    /// It was deleted at the source, and now at the target.
    Deleted,
    /// It was not meant to be copied.
    Skipped {
        /// Why.
        reason: SkipReason,
    },
    /// It could not be copied.
    Failed {
        /// Why, and how to mend it where that is known.
        reason: String,
    },
}

/// Why a resource was not copied although nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SkipReason {
    /// The target has another digest there, and the rule does not overwrite; or the target's tags are immutable.
    Exists,
    /// The rule is for other artifact types.
    Type,
    /// The rule was deleted, disabled or has another source or target by now.
    RuleChanged,
    /// The target has a newer version, where rules lead both ways.
    Superseded,
    /// Source and target differ, rules lead both ways, and it is not known which is newer.
    Conflict,
    /// The source does not have it (any more).
    Gone,
    /// The target does not have what this belongs to (any more).
    Subject,
    /// Docker schema 1, which no current registry accepts.
    Schema1,
    /// The task was cancelled before it was done.
    Cancelled,
    /// It was deleted at the target, later than it was pushed to the source, where rules lead both ways.
    Deleted,
    /// It was deleted at the source, and what the target has was not put there by transship, or is something else by now.
    NotOurs,
    /// It was deleted at the source; the target's registry can delete only what the tag points to, and another tag needs that.
    Shared,
    /// It was deleted at the source, and the target's registry does not delete tags.
    NoDeletion,
}

impl SkipReason {
    /// The reason in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exists => "the target has another digest there and the rule does not overwrite",
            Self::Type => "the rule is for other artifact types",
            Self::RuleChanged => "the rule has been changed, disabled or deleted",
            Self::Superseded => "the target has a newer version",
            Self::Conflict => "source and target differ and neither is known to be newer",
            Self::Gone => "the source does not have it",
            Self::Subject => "the target does not have what it belongs to",
            Self::Cancelled => "the task was cancelled",
            Self::Deleted => "the target's was deleted later than this was pushed",
            Self::NotOurs => {
                "deleted at the source, but what the target has was not put there by transship, or has changed since"
            }
            Self::Shared => "deleted at the source, but the target can delete only the image itself, which another tag needs",
            Self::NoDeletion => "deleted at the source, but the target's registry does not delete tags: see the worker's log",
            Self::Schema1 => "Docker schema 1 can't be copied: push the image again with a current client",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copied => f.write_str("copied"),
            Self::Unchanged => f.write_str("unchanged"),
            Self::Deleted => f.write_str("deleted"),
            Self::Skipped { reason } => write!(f, "skipped: {}", reason.as_str()),
            Self::Failed { reason } => write!(f, "failed: {reason}"),
        }
    }
}

/// A resource in the log of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// From where to where.
    #[serde(flatten)]
    pub route: Route,
    /// Where it is in its life.
    pub state: ResourceState,
    /// How far it has come.
    #[serde(flatten)]
    pub progress: Progress,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Outcome>,
    /// When it was found.
    pub queued: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
}

/// Where a resource is in its life; it only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceState {
    /// Its job waits.
    Queued,
    /// Its job has begun.
    Running,
    /// It has an outcome.
    Done,
}

impl Resource {
    /// A resource that has just been found.
    pub fn new(route: Route, queued: Timestamp) -> Self {
        Self { route, state: ResourceState::Queued, progress: Progress::default(), result: None, queued, ended: None }
    }

    /// Takes in that it was found then. What was told of it before that had nothing better than the task's beginning.
    pub fn found(&mut self, at: Timestamp, created: Timestamp) {
        self.queued = if self.queued == created { at } else { self.queued.min(at) };
    }

    /// Takes in an event, late or repeated as it may be. True if it changed anything.
    pub fn merge(&mut self, at: Timestamp, what: &Happening) -> bool {
        match what {
            Happening::Progress { progress, .. } if self.state < ResourceState::Done && self.is_behind(progress) => {
                self.state = ResourceState::Running;
                self.take(progress.clone());
                true
            }
            // The first final outcome stands: what a repeated job finds is the work of the first.
            Happening::Ended { progress, outcome, .. } if self.state < ResourceState::Done => {
                self.state = ResourceState::Done;
                self.take(progress.clone());
                let Progress { error, retry_at, bytes_per_second, reported, .. } = &mut self.progress;
                (*error, *retry_at, *bytes_per_second, *reported) = (None, None, None, None);
                self.result = Some(outcome.clone());
                self.ended = Some(at);
                true
            }
            Happening::Progress { progress, .. } => self.fill(progress),
            _ => false,
        }
    }

    /// Takes from what is told late what is not known otherwise. True if that is anything.
    fn fill(&mut self, late: &Progress) -> bool {
        let before = self.progress.clone();
        let Progress { digest, artifact, started, .. } = &mut self.progress;
        *started = started.iter().chain(&late.started).min().copied();
        if digest.is_none() {
            digest.clone_from(&late.digest);
        }
        *artifact = artifact.or(late.artifact);
        self.progress != before
    }

    fn is_behind(&self, progress: &Progress) -> bool {
        let rank = |p: &Progress| (p.attempts, p.error.is_some(), p.bytes_done(), p.bytes_total, p.reported);
        self.state == ResourceState::Queued || rank(progress) > rank(&self.progress)
    }

    fn take(&mut self, progress: Progress) {
        let started = self.progress.started.into_iter().chain(progress.started).min();
        let (digest, artifact) = (self.progress.digest.take(), self.progress.artifact.take());
        self.progress = progress;
        self.progress.started = started;
        self.progress.digest = self.progress.digest.take().or(digest);
        self.progress.artifact = self.progress.artifact.take().or(artifact);
    }
}

/// A task as the log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What is known from the beginning.
    #[serde(flatten)]
    pub head: TaskHead,
    /// What has been counted.
    pub counts: Counts,
    /// How many of the unchanged were compared by digest alone: they are counted, and not among the resources.
    #[serde(default)]
    pub compared: u64,
    /// How many resources there will be, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Repositories with at least one resource.
    pub repositories: u64,
    /// When work began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When the last resource had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// What keeps the scan from going on, or kept it from being complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Who wanted it to end, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<Cancellation>,
    /// Whether that has ended its scan.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}

/// That somebody wanted a task to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cancellation {
    /// Who, as [`crate::Caller::name`] has it.
    pub by: String,
    /// When; the first time, if it was wanted more than once.
    pub at: Timestamp,
}

/// What is counted of a task's resources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// Known so far.
    pub found: u64,
    /// With outcome copied.
    pub copied: u64,
    /// With outcome unchanged.
    pub unchanged: u64,
    /// With outcome deleted.
    #[serde(default)]
    pub deleted: u64,
    /// With outcome skipped, those among them that were cancelled.
    pub skipped: u64,
    /// Skipped because the task was cancelled.
    #[serde(default)]
    pub cancelled: u64,
    /// With outcome failed.
    pub failed: u64,
    /// Bytes sent to the target.
    pub bytes_moved: u64,
    /// Bytes that the target mounted from another of its repositories.
    #[serde(default)]
    pub bytes_mounted: u64,
    /// Bytes that the target had already.
    #[serde(default)]
    pub bytes_present: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        let Self { found, copied, unchanged, deleted, skipped, cancelled, failed, .. } = other;
        let Self { bytes_moved, bytes_mounted, bytes_present, .. } = other;
        self.found += found;
        self.copied += copied;
        self.unchanged += unchanged;
        self.deleted += deleted;
        self.skipped += skipped;
        self.cancelled += cancelled;
        self.failed += failed;
        self.bytes_moved += bytes_moved;
        self.bytes_mounted += bytes_mounted;
        self.bytes_present += bytes_present;
    }
}

impl Counts {
    /// How many resources have an outcome.
    pub fn done(&self) -> u64 {
        self.copied + self.unchanged + self.deleted + self.skipped + self.failed
    }

    /// Bytes that did not have to be sent.
    pub fn bytes_saved(&self) -> u64 {
        self.bytes_mounted + self.bytes_present
    }

    /// Whether everything has an outcome, given how many resources there will be once that is known.
    pub fn is_complete(&self, total: Option<u64>) -> bool {
        total.is_some_and(|total| self.found >= total) && self.done() == self.found
    }

    /// Counts what has come of a resource by a change.
    pub fn note(&mut self, before: Option<&Resource>, after: &Resource) {
        self.found += u64::from(before.is_none());
        if before.is_some_and(|before| before.state == ResourceState::Done) {
            return;
        }
        match &after.result {
            Some(Outcome::Copied) => self.copied += 1,
            Some(Outcome::Unchanged) => self.unchanged += 1,
            Some(Outcome::Deleted) => self.deleted += 1,
            Some(Outcome::Skipped { reason }) => {
                self.skipped += 1;
                self.cancelled += u64::from(*reason == SkipReason::Cancelled);
            }
            Some(Outcome::Failed { .. }) => self.failed += 1,
            None => return,
        }
        self.bytes_moved += after.progress.bytes_moved;
        self.bytes_mounted += after.progress.bytes_mounted;
        self.bytes_present += after.progress.bytes_present;
    }
}

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskStatus {
    /// Nothing has begun.
    Queued,
    /// Something has begun, not everything has ended.
    Running,
    /// Nothing failed.
    Succeeded,
    /// Some failed, some did not.
    PartlyFailed,
    /// Everything that was to be copied failed.
    Failed,
    /// Something was left undone because somebody wanted that.
    Cancelled,
}

impl TaskStatus {
    /// The status in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::PartlyFailed => "partly failed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Task {
    /// Where the task is.
    pub fn status(&self) -> TaskStatus {
        let Counts { copied, unchanged, deleted, failed, .. } = self.counts;
        match (self.ended, self.started) {
            (None, None) => TaskStatus::Queued,
            (None, Some(_)) => TaskStatus::Running,
            // What it has left undone tells it and not the wish: that may have come too late.
            (Some(_), _) if self.counts.cancelled > 0 || self.stopped => TaskStatus::Cancelled,
            (Some(_), _) if failed == 0 && self.error.is_none() => TaskStatus::Succeeded,
            (Some(_), _) if copied + unchanged + deleted > 0 => TaskStatus::PartlyFailed,
            (Some(_), _) => TaskStatus::Failed,
        }
    }

    /// (copied + unchanged + deleted) / (all − skipped), between 0 and 1; 1 where nothing is left, 0 where nothing could be listed. `None` as long as nothing has ended.
    pub fn success_rate(&self) -> Option<f64> {
        let Counts { copied, unchanged, deleted, skipped, .. } = self.counts;
        let all = self.total.unwrap_or(self.counts.found).max(self.counts.found);
        if self.counts.done() == 0 && self.ended.is_none() {
            return None;
        }
        let meant = all.saturating_sub(skipped);
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        Some(match meant {
            0 if self.error.is_some() => 0.0,
            0 => 1.0,
            _ => (copied + unchanged + deleted) as f64 / meant as f64,
        })
    }

    /// Whether everything that was found has ended and nothing more will be found.
    pub fn is_complete(&self) -> bool {
        self.counts.is_complete(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(instance: &str) -> Place {
        Place { instance: instance.parse().unwrap(), repository: "team/app".parse().unwrap(), reference: "v1".parse().unwrap() }
    }
    fn route() -> Route {
        Route { source: place("a"), target: place("b") }
    }
    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }
    fn progress(attempts: u32, bytes_moved: u64) -> Progress {
        Progress { attempts, bytes_moved, bytes_total: 10, started: Some(at(5)), ..Progress::default() }
    }
    fn ended(outcome: Outcome) -> Happening {
        Happening::Ended { route: route(), progress: progress(1, 10), outcome }
    }

    #[test]
    fn the_log_is_the_same_whatever_the_order_of_events() {
        let events = [
            (at(6), Happening::Progress { route: route(), progress: progress(1, 3) }),
            (at(7), Happening::Progress { route: route(), progress: progress(1, 7) }),
            (at(8), ended(Outcome::Copied)),
        ];
        let mut expected = None;
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut resource = Resource::new(route(), at(1));
            let mut counts = Counts::default();
            for at in order.into_iter().chain(order) {
                let before = resource.clone();
                if resource.merge(events[at].0, &events[at].1) {
                    counts.note(Some(&before), &resource);
                }
            }
            assert_eq!(counts.copied, 1, "{order:?}");
            assert_eq!(counts.bytes_moved, 10, "{order:?}");
            assert_eq!(*expected.get_or_insert(resource.clone()), resource, "{order:?}");
        }
    }

    /// Would break: how fast a copy is, by whichever of two reports with the same bytes came last.
    #[test]
    fn of_two_reports_the_later_one_tells_the_pace() {
        let report = |second, pace| {
            let told = Progress { reported: Some(at(second)), bytes_per_second: Some(pace), ..progress(1, 7) };
            (at(second), Happening::Progress { route: route(), progress: told })
        };
        let (early, late) = (report(6, 100), report(11, 0));
        for order in [[&early, &late], [&late, &early]] {
            let mut resource = Resource::new(route(), at(1));
            for (at, what) in order {
                resource.merge(*at, what);
            }
            assert_eq!((resource.progress.bytes_per_second, resource.progress.reported), (Some(0), Some(at(11))));
            resource.merge(at(12), &ended(Outcome::Copied));
            assert_eq!((resource.progress.bytes_per_second, resource.progress.reported), (None, None));
        }
    }

    #[test]
    fn the_first_outcome_stands() {
        let mut resource = Resource::new(route(), at(1));
        assert!(resource.merge(at(8), &ended(Outcome::Copied)));
        assert!(!resource.merge(at(9), &ended(Outcome::Unchanged)));
        assert_eq!(resource.result, Some(Outcome::Copied));
    }

    #[test]
    fn the_success_rate_leaves_out_what_was_skipped() {
        let head = TaskHead {
            id: TaskId::derive(crate::RuleId(1), at(1), "x"),
            instance: "a".parse().unwrap(),
            rule: "r".parse().unwrap(),
            trigger: Trigger::Manual,
            created: at(1),
        };
        let task = |counts: Counts| Task {
            head: head.clone(),
            counts,
            compared: 0,
            total: Some(counts.found),
            repositories: 1,
            started: Some(at(2)),
            ended: Some(at(3)),
            error: None,
            cancelled: None,
            stopped: false,
        };
        let half = task(Counts { found: 4, copied: 1, skipped: 2, failed: 1, ..Counts::default() });
        assert_eq!(half.success_rate(), Some(0.5));
        assert_eq!(half.status(), TaskStatus::PartlyFailed);
        let nothing = task(Counts { found: 1, skipped: 1, ..Counts::default() });
        assert_eq!((nothing.success_rate(), nothing.status()), (Some(1.0), TaskStatus::Succeeded));
        let failed = task(Counts { found: 2, skipped: 1, failed: 1, ..Counts::default() });
        assert_eq!((failed.success_rate(), failed.status()), (Some(0.0), TaskStatus::Failed));
    }
}
