//! How often work on a job has begun, and since when it has been failing.
//!
//! A queue's own count would do for neither: it counts waits, and deliveries that were never worked on. Partition
//! `attempts/<task ID>`, sort key the resource (or the scan).

use std::sync::Arc;

use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use transship_model::{ScanCursor, TaskId};

use crate::{Item, Key, Op, StateError, Table, document, task_log};

/// What is known of a job's attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    /// How many have begun, this one included.
    pub begun: u32,
    /// How many in a row have begun and not ended in any way: the process was killed, or lost its message.
    pub unfinished: u32,
    /// How many have ended with an error that may pass, in a row.
    pub errors: u32,
    /// How often in a row it was asked to wait.
    #[serde(default)]
    pub waits: u32,
    /// Since when errors have been going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// When the first began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// What earlier attempts have brought about, as far as they could tell it.
    #[serde(default)]
    pub done: Done,
    /// Of a scan: the step that is done and may not have been told of yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Box<StepDone>>,
}

/// What becomes of an attempt at a task's job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// It has begun.
    Begun(Attempts),
    /// Somebody wants the task to end, and it does not begin. These were made before.
    Cancelled(Attempts),
}

/// A step of a scan that is done: told again, it is told in the same words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDone {
    /// Which step: [`transship_model::ScanJob::continuation`].
    pub continuation: u32,
    /// How far it came.
    pub cursor: ScanCursor,
    /// Whether it was the last.
    pub has_ended: bool,
}

/// What earlier attempts of a job have brought about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// One of them has set the target's tag: what the next one finds there is the work of this job.
    pub has_set: bool,
    /// One of them was about to set it, and has perhaps.
    #[serde(default)]
    pub may_have_set: bool,
    /// Bytes that they have sent to the target.
    pub bytes_moved: u64,
    /// Bytes that they had mounted.
    #[serde(default)]
    pub bytes_mounted: u64,
    /// Bytes that were there before them.
    #[serde(default, alias = "bytes_saved")]
    pub bytes_present: u64,
}

/// Why an attempt ended before its job did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// With an error that may pass.
    Failed,
    /// It was asked to wait.
    Told,
    /// It has not come to anything: what it needs was not there yet. It is not counted as an attempt.
    Postponed,
    /// Its process stops, or it has sent itself on: nothing is wrong.
    Stopped,
}

/// Reads and writes [`Attempts`]. A job has one worker at a time, so that no conditions are needed.
#[derive(Clone)]
pub struct AttemptLog {
    table: Arc<dyn Table>,
}

impl AttemptLog {
    /// The attempts in a table.
    pub fn new(table: Arc<dyn Table>) -> Self {
        Self { table }
    }

    /// Counts an attempt that begins now.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn begin(&self, task: &str, what: &str) -> Result<Attempts, StateError> {
        let known = self.table.get(&key(task, what)).await?;
        self.begun(task, what, known).await
    }

    /// Counts an attempt of a task's job that begins now, unless somebody wants the task to end.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn begin_of(&self, task: &TaskId, what: &str) -> Result<Beginning, StateError> {
        // In one read.
        let items = self.table.get_many(&[task_log::task_key(task), key(task.as_str(), what)]).await?;
        let [task_item, known] = <[_; 2]>::try_from(items).unwrap_or_default();
        if task_item.as_ref().is_some_and(task_log::is_cancelled) {
            return Ok(Beginning::Cancelled(known.map(document::value).transpose()?.unwrap_or_default()));
        }
        Ok(Beginning::Begun(self.begun(task.as_str(), what, known).await?))
    }

    /// Whether somebody wants a task to end.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn is_cancelled(&self, task: &TaskId) -> Result<bool, StateError> {
        Ok(self.table.get(&task_log::task_key(task)).await?.as_ref().is_some_and(task_log::is_cancelled))
    }

    async fn begun(&self, task: &str, what: &str, known: Option<Item>) -> Result<Attempts, StateError> {
        let mut attempts: Attempts = known.map(document::value).transpose()?.unwrap_or_default();
        attempts.begun += 1;
        attempts.unfinished += 1;
        attempts.started.get_or_insert_with(Timestamp::now);
        self.put(task, what, &attempts).await?;
        Ok(attempts)
    }

    /// The attempt has ended in an orderly way, and there will be another.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn pause(&self, task: &str, what: &str, mut attempts: Attempts, why: Pause) -> Result<Attempts, StateError> {
        attempts.unfinished = 0;
        if why == Pause::Stopped {
            attempts.step = None;
        }
        match why {
            Pause::Failed => {
                attempts.errors += 1;
                attempts.failing_since.get_or_insert_with(Timestamp::now);
            }
            Pause::Told => attempts.waits += 1,
            Pause::Postponed => {
                attempts.waits += 1;
                attempts.begun = attempts.begun.saturating_sub(1);
            }
            Pause::Stopped => {}
        }
        self.put(task, what, &attempts).await?;
        Ok(attempts)
    }

    /// A step of a scan is done, and is about to be told of.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn note_step(&self, task: &str, what: &str, attempts: &mut Attempts, step: StepDone) -> Result<(), StateError> {
        attempts.step = Some(Box::new(step));
        self.put(task, what, attempts).await
    }

    /// The process stops in the middle of an attempt: that is nobody's fault, and not counted. How far it came nobody knows.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn forgive(&self, task: &str, what: &str) -> Result<(), StateError> {
        let Some(known) = self.table.get(&key(task, what)).await? else { return Ok(()) };
        let mut attempts: Attempts = document::value(known)?;
        attempts.unfinished = 0;
        attempts.done.may_have_set = true;
        self.put(task, what, &attempts).await
    }

    /// The job is over.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn end(&self, task: &str, what: &str) -> Result<(), StateError> {
        Ok(self.table.write(vec![Op::Delete { key: key(task, what), condition: None }]).await?)
    }

    async fn put(&self, task: &str, what: &str, attempts: &Attempts) -> Result<(), StateError> {
        // Longer than any queue keeps a message.
        let expires = Timestamp::now().checked_add((30 * 24).hours()).ok();
        let item = Item { key: key(task, what), attributes: document::attributes(attempts)?, expires };
        Ok(self.table.write(vec![Op::Put { item, condition: None }]).await?)
    }
}

fn key(task: &str, what: &str) -> Key {
    Key::new(format!("attempts/{task}"), what)
}
