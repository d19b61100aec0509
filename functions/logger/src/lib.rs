//! **logger**: task events become the task log.
//!
//! *Triggered by* batches of the events queue, and by jobs that nobody could do (the jobs' dead-letter queue). *Reads and
//! writes* the task table, whose only writer it is; keeps dead letters; tells the ends of tasks to the topic and to the notifications
//! queue, and those of resources to the subscriptions that want them. *When it fails* the batch is delivered again: events may arrive
//! twice and in any order, and are merged so that the log is the same. A task's end that could not be told, or not be noted as told, is
//! told again: by the event that comes again, or by the sweep. A resource's end is told before its event is acknowledged: once at
//! least, and again, with the same ID, when the event comes again.

mod outlets;
mod strays;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use jiff::Timestamp;
use transship_model::{Happening, Job, Outcome, Place, Route, Task, TaskEvent, TaskId};
use transship_state::{Changed, DeadLetters, Feed, Recorded, Report, Snapshot, StateError, TaskLog, Unannounced, messages};

pub use outlets::Outlets;

/// The handler of task events.
#[derive(Clone)]
pub struct Logger {
    log: TaskLog,
    dead_letters: DeadLetters,
    outlets: Outlets,
    feed: Option<Feed>,
}

/// So long an end that was not told is left to whoever has closed the task.
const GRACE: Duration = Duration::from_secs(60);
/// So many ends are told at the same time.
const AT_ONCE: usize = 16;
/// At most so many are told by one sweep, so that it fits an invocation.
const MAX_SWEPT: usize = 1000;

impl Logger {
    /// A handler that writes this log, keeps dead letters there, and tells the ends of tasks by these outlets.
    pub fn new(log: TaskLog, dead_letters: DeadLetters, outlets: Outlets) -> Self {
        Self { log, dead_letters, outlets, feed: None }
    }

    /// The same, which tells this feed of what it has written.
    #[must_use]
    pub fn feeding(self, feed: Feed) -> Self {
        Self { feed: Some(feed), ..self }
    }

    /// Takes in a batch of messages from the events queue, and returns what it has changed. A message that is no
    /// event can only come from another version of transship; it is reported and left out, so that it does not block the others.
    ///
    /// That the end of a task can't be told is no reason to have the batch again: the log is right, and the sweep will tell it.
    ///
    /// # Errors
    /// See [`StateError`]: the batch is to be delivered again.
    pub async fn record<'a>(&self, bodies: impl IntoIterator<Item = &'a str>) -> Result<Recorded, StateError> {
        let (mut events, mut has_sweep) = (Vec::new(), false);
        for body in bodies {
            match messages::read_report(body) {
                Ok(Report::Event(event)) => events.push(*event),
                Ok(Report::Sweep) => has_sweep = true,
                Err(error) => tracing::error!(%error, body, "a message of the events queue"),
            }
        }
        let recorded = self.take_in(&events).await?;
        if has_sweep {
            self.sweep().await?;
        }
        Ok(recorded)
    }

    /// Tells the ends of tasks that a crash, or an outlet that did not answer, has kept from being told. Winds up tasks that would stay
    /// open for ever.
    ///
    /// # Errors
    /// See [`StateError`]. What can't be told now is left to the next sweep.
    pub async fn sweep(&self) -> Result<(), StateError> {
        self.sweep_at(Timestamp::now()).await
    }

    /// The same, at another time.
    ///
    /// # Errors
    /// As there.
    pub async fn sweep_at(&self, now: Timestamp) -> Result<(), StateError> {
        let told = self.tell_ends(now).await;
        // Neither is kept from its work by the other.
        self.find_strays(now).await.and(told)
    }

    async fn tell_ends(&self, now: Timestamp) -> Result<(), StateError> {
        let before = now.checked_sub(GRACE).unwrap_or(Timestamp::MIN);
        let catalog = self.outlets.catalog.snapshot().await?;
        let (mut after, mut swept) = (None, 0);
        loop {
            let page = self.log.unannounced_since(before, after, 100).await?;
            swept += page.items.len();
            if !page.items.is_empty() {
                tracing::warn!(count = page.items.len(), "ends of tasks that were not told are told now");
            }
            self.announce(&catalog, &page.items, &[]).await;
            after = page.next;
            if after.is_none() || swept >= MAX_SWEPT {
                return Ok(());
            }
        }
    }

    /// Writes the log, and tells the ends of tasks that these events have closed, or had closed before and were not told.
    async fn take_in(&self, events: &[TaskEvent]) -> Result<Recorded, StateError> {
        if events.is_empty() {
            return Ok(Recorded::default());
        }
        let catalog = self.outlets.catalog.snapshot().await?;
        let recorded = self.log.record_for(events, &|task| self.outlets.wants(&catalog, task)).await?;
        if let Some(feed) = &self.feed {
            changes(events).for_each(|change| feed.tell(change));
        }
        let closed = &recorded.closed;
        for task in closed {
            tracing::info!(
                task = %task.head.id, rule = %task.head.rule, instance = %task.head.instance, status = %task.status(),
                copied = task.counts.copied, unchanged = task.counts.unchanged, skipped = task.counts.skipped,
                failed = task.counts.failed, bytes_moved = task.counts.bytes_moved, "task ended"
            );
        }
        let told = self.outlets.tell_resources(&self.log, &catalog, events).await;
        // Only such events close a task.
        let can_close = |event: &&TaskEvent| {
            matches!(event.what, Happening::Ended { .. } | Happening::ScanEnded { .. } | Happening::ScanStopped { .. })
        };
        let candidates = events.iter().filter(can_close).map(|event| &event.task);
        let candidates: BTreeSet<&TaskId> = candidates
            .filter(|task| self.outlets.wants(&catalog, task))
            .map(|task| &task.id)
            .chain(closed.iter().map(|task| &task.head.id))
            .collect();
        let candidates: Vec<TaskId> = candidates.into_iter().cloned().collect();
        let unannounced = self.log.unannounced(&candidates).await?;
        self.announce(&catalog, &unannounced, closed).await;
        // Nothing else would tell them: the events come again.
        told?;
        Ok(recorded)
    }

    /// Tells the ends of tasks, some of which are known, and notes that they have been told.
    async fn announce(&self, catalog: &Snapshot, ends: &[Unannounced], known: &[Task]) {
        // Of an outlet that hangs is waited for once, and not for each end.
        let mut is_topic_up = true;
        for ends in ends.chunks(AT_ONCE) {
            let tell = async |end: &Unannounced| {
                let read = match known.iter().find(|task| task.head.id == end.task) {
                    Some(task) => Some(task.clone()),
                    None => self.log.task(&end.task).await?,
                };
                // Of a task that has expired there is nothing to tell.
                if let Some(task) = read {
                    self.outlets.tell(&self.log, catalog, &task, end.notified, is_topic_up).await?;
                }
                self.log.announced(&end.task).await
            };
            for (end, result) in ends.iter().zip(join_all(ends.iter().map(tell)).await) {
                if let Err(error) = result {
                    is_topic_up &= !matches!(error, StateError::Unavailable(_));
                    tracing::error!(task = %end.task, %error, "the end of a task could not be told; the sweep will try again");
                }
            }
        }
    }

    /// Takes in a job from the dead-letter queue: what it was for has failed. The job is kept, so that it can be made again. Returns what
    /// that has changed in the log.
    ///
    /// # Errors
    /// See [`StateError`]: the message is to be delivered again.
    pub async fn bury(&self, body: &str) -> Result<Recorded, StateError> {
        let job = match messages::read_job(body) {
            Ok(job) => job,
            Err(error) => {
                tracing::error!(%error, body, "a message of the jobs' dead-letter queue can't be read; it is kept as it is");
                self.dead_letters.keep_unread(body).await?;
                return Ok(Recorded::default());
            }
        };
        self.dead_letters.keep(&job).await?;
        let reason =
            "given up: it came back too often. Retry the task, or start the rule again by hand, when the cause is mended";
        let at = Timestamp::now();
        let event = match job {
            Job::Copy(job) => {
                // What the worker told last is the best that is known of it.
                let known = self.log.resource(&job.task.id, &job.source).await?;
                let progress = known.map(|resource| resource.progress).unwrap_or_default();
                let reason = match &progress.error {
                    Some(error) => format!("{reason}. The last error: {error}"),
                    None => reason.to_owned(),
                };
                let route = Route { source: job.source, target: job.target };
                let outcome = Outcome::Failed { reason };
                TaskEvent { task: job.task, at, what: Happening::Ended { route, progress, outcome } }
            }
            Job::Scan(job) => {
                let (total, compared, repositories) = (job.cursor.resources, job.cursor.compared, job.cursor.repositories);
                TaskEvent {
                    task: job.task,
                    at,
                    what: Happening::ScanEnded { total, compared, repositories, error: Some(reason.to_owned()) },
                }
            }
            Job::Retry(job) => {
                let (total, repositories) = (job.resources, job.repositories);
                let error = Some(reason.to_owned());
                TaskEvent { task: job.task, at, what: Happening::ScanEnded { total, compared: 0, repositories, error } }
            }
            // They have no task of their own.
            Job::Look(_) | Job::FanOut(_) | Job::Restore(_) | Job::Preview(_) => {
                tracing::error!(body, "a job was given up");
                return Ok(Recorded::default());
            }
        };
        self.take_in(&[event]).await
    }
}

/// What these events change, by task.
fn changes(events: &[TaskEvent]) -> impl Iterator<Item = Changed> {
    let mut by_task: BTreeMap<&TaskId, Vec<Place>> = BTreeMap::new();
    for event in events {
        let places = by_task.entry(&event.task.id).or_default();
        match &event.what {
            Happening::Found { resources } => places.extend(resources.iter().map(|route| route.source.clone())),
            Happening::Progress { route, .. } | Happening::Ended { route, .. } => places.push(route.source.clone()),
            _ => {}
        }
    }
    by_task.into_iter().map(|(task, resources)| Changed { task: task.clone(), resources: resources.into() })
}
