//! **logger**: task events become the task log.
//!
//! *Triggered by* batches of the events queue, and by jobs that nobody could do (the jobs' dead-letter queue). *Reads and
//! writes* the task table, whose only writer it is. *When it fails* the batch is delivered again: events may arrive twice and in any
//! order, and are merged so that the log is the same.

use jiff::Timestamp;
use transship_model::{Happening, Job, Outcome, Progress, Route, Task, TaskEvent};
use transship_state::{StateError, TaskLog, messages};

/// The handler of task events.
#[derive(Clone)]
pub struct Logger {
    log: TaskLog,
}

impl Logger {
    /// A handler that writes this log.
    pub fn new(log: TaskLog) -> Self {
        Self { log }
    }

    /// Takes in a batch of messages from the events queue, and returns the tasks that are complete by it. A message that is no
    /// event can only come from another version of transship; it is reported and left out, so that it does not block the others.
    ///
    /// # Errors
    /// See [`StateError`]: the batch is to be delivered again.
    pub async fn record<'a>(&self, bodies: impl IntoIterator<Item = &'a str>) -> Result<Vec<Task>, StateError> {
        let read = |body| {
            messages::read_event(body).inspect_err(|error| tracing::error!(%error, body, "a message of the events queue")).ok()
        };
        let events: Vec<TaskEvent> = bodies.into_iter().filter_map(read).collect();
        let closed = self.log.record(&events).await?;
        for task in &closed {
            tracing::info!(
                task = %task.head.id, rule = %task.head.rule, instance = %task.head.instance, status = %task.status(),
                copied = task.counts.copied, unchanged = task.counts.unchanged, skipped = task.counts.skipped,
                failed = task.counts.failed, bytes_moved = task.counts.bytes_moved, "task ended"
            );
        }
        Ok(closed)
    }

    /// Takes in a job from the dead-letter queue: what it was for has failed.
    ///
    /// # Errors
    /// See [`StateError`]: the message is to be delivered again.
    pub async fn bury(&self, body: &str) -> Result<(), StateError> {
        let job = match messages::read_job(body) {
            Ok(job) => job,
            Err(error) => {
                tracing::error!(%error, body, "a message of the jobs' dead-letter queue");
                return Ok(());
            }
        };
        let reason = "given up: it came back too often. Start the rule again by hand when the cause is mended".to_owned();
        let at = Timestamp::now();
        let event = match job {
            Job::Copy(job) => {
                let route = Route { source: job.source, target: job.target };
                let outcome = Outcome::Failed { reason };
                TaskEvent { task: job.task, at, what: Happening::Ended { route, progress: Progress::default(), outcome } }
            }
            Job::Scan(job) => {
                let (total, repositories) = (job.cursor.resources, job.cursor.repositories);
                TaskEvent { task: job.task, at, what: Happening::ScanEnded { total, repositories, error: Some(reason) } }
            }
            // They have no task of their own.
            Job::Look(_) | Job::FanOut(_) | Job::Restore(_) => {
                tracing::error!(body, "a job was given up");
                return Ok(());
            }
        };
        self.log.record(&[event]).await?;
        Ok(())
    }
}
