//! Jobs that nobody could do, kept so that they can be made again.
//!
//! Partition `dead/<task ID>`, or `dead/untasked` for jobs that have no task of their own; sort key the source's `repository:tag`, or
//! `scan`, or the job's de-duplication ID. Partition `dead/unread`: what is no job to this version.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use transship_model::{Digest, Job, Place, TaskId};

use crate::{Item, Key, Listing, Op, Query, StateError, Table, TaskLog, document};

/// A job that came back too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// What was to be done.
    pub job: Job,
    /// When it was given up.
    pub buried: Timestamp,
}

/// Reads and writes [`DeadLetter`]s.
#[derive(Clone)]
pub struct DeadLetters {
    table: Arc<dyn Table>,
    keep: Duration,
}

impl DeadLetters {
    /// How long they are kept after they were given up, unless another time is said: as long as tasks are.
    pub const KEEP: Duration = TaskLog::KEEP;

    /// The dead letters in a table.
    pub fn new(table: Arc<dyn Table>) -> Self {
        Self { table, keep: Self::KEEP }
    }

    /// The same, which keeps them for so long.
    #[must_use]
    pub fn keeping(self, keep: Duration) -> Self {
        Self { keep, ..self }
    }

    /// Keeps a job that is given up now, in place of an earlier copy of it.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn keep(&self, job: &Job) -> Result<(), StateError> {
        let buried = Timestamp::now();
        let attributes = document::attributes(&DeadLetter { job: job.clone(), buried })?;
        let item = Item { key: key(job), attributes, expires: buried.checked_add(self.keep).ok() };
        Ok(self.table.write(vec![Op::Put { item, condition: None }]).await?)
    }

    /// Keeps a job that this version can't read, of a newer one perhaps.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn keep_unread(&self, body: &str) -> Result<(), StateError> {
        let buried = Timestamp::now();
        let texts = [("body", body.to_owned()), ("buried", buried.to_string())];
        let attributes = Map::from_iter(texts.map(|(name, text)| (name.to_owned(), Value::from(text))));
        let key = Key::new("dead/unread", Digest::of(body.as_bytes()).to_string());
        let item = Item { key, attributes, expires: buried.checked_add(self.keep).ok() };
        Ok(self.table.write(vec![Op::Put { item, condition: None }]).await?)
    }

    /// The job of a task that was to bring one resource, if it was given up.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn of_resource(&self, task: &TaskId, source: &Place) -> Result<Option<DeadLetter>, StateError> {
        let item = self.table.get(&Key::new(partition(Some(task)), source.name())).await?;
        item.map(document::value).transpose()
    }

    /// A job is done with: it has been made again.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn remove(&self, job: &Job) -> Result<(), StateError> {
        Ok(self.table.write(vec![Op::Delete { key: key(job), condition: None }]).await?)
    }

    /// The jobs of a task that were given up; with `None`, those without a task.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn of(
        &self,
        task: Option<&TaskId>,
        after: Option<String>,
        limit: usize,
    ) -> Result<Listing<DeadLetter>, StateError> {
        let query = Query { partition: partition(task), prefix: String::new(), after, descending: false, limit };
        let page = self.table.query(query).await?;
        Ok(Listing { items: page.items.into_iter().map(document::value).collect::<Result<_, _>>()?, next: page.next })
    }
}

fn partition(task: Option<&TaskId>) -> String {
    format!("dead/{}", task.map_or("untasked", TaskId::as_str))
}

fn key(job: &Job) -> Key {
    match job {
        Job::Copy(copy) => Key::new(partition(Some(&copy.task.id)), copy.source.name()),
        Job::Scan(scan) => Key::new(partition(Some(&scan.task.id)), "scan"),
        Job::Retry(retry) => Key::new(partition(Some(&retry.task.id)), "scan"),
        Job::Look(_) | Job::FanOut(_) | Job::Restore(_) | Job::Preview(_) => Key::new(partition(None), job.deduplication()),
    }
}
