//! What goes through the queues, as domain types.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use transship_model::{Happening, Job, Notification, TaskEvent};

use crate::{Outgoing, Queue, StateError};

/// Sends jobs to the workers' queue, which is FIFO: one writer a target.
#[derive(Clone)]
pub struct Jobs(pub Arc<dyn Queue>);

impl Jobs {
    /// Sends jobs; when it returns they are durable.
    ///
    /// # Errors
    /// See [`StateError`]. Some may have been sent then; sending all again is safe.
    pub async fn send(&self, jobs: &[Job]) -> Result<(), StateError> {
        let message = |job: &Job| {
            Ok(Outgoing { body: encode("a job", job)?, group: Some(job.group()), deduplication: Some(job.deduplication()) })
        };
        let messages = jobs.iter().map(message).collect::<Result<Vec<_>, StateError>>()?;
        Ok(self.0.send(messages).await?)
    }
}

/// What the logger's queue carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Something happened in a task.
    Event(Box<TaskEvent>),
    /// It is time to look for ends of tasks that were not told; [`Events::sweep`].
    Sweep,
}

/// The form of [`Report::Sweep`], which no task event has.
#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Timed {
    Sweep,
}

/// Sends task events to the logger's queue.
#[derive(Clone)]
pub struct Events(pub Arc<dyn Queue>);

/// So many routes fit a message, as long as names may be.
const ROUTES_A_MESSAGE: usize = 50;

impl Events {
    /// Sends events; when it returns they are durable.
    ///
    /// # Errors
    /// See [`StateError`]. Some may have been sent then; sending all again is safe.
    pub async fn send(&self, events: &[TaskEvent]) -> Result<(), StateError> {
        let messages = events
            .iter()
            .flat_map(split)
            .map(|event| Ok(Outgoing { body: encode("a task event", &event)?, group: None, deduplication: None }))
            .collect::<Result<Vec<_>, StateError>>()?;
        if messages.is_empty() {
            return Ok(());
        }
        Ok(self.0.send(messages).await?)
    }

    /// Asks the logger to tell what a crash has kept from being told. A schedule does it every few minutes.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn sweep(&self) -> Result<(), StateError> {
        let body = encode("a sweep", &Timed::Sweep)?;
        Ok(self.0.send(vec![Outgoing { body, group: None, deduplication: None }]).await?)
    }
}

/// Sends notifications to the notifier's queue.
#[derive(Clone)]
pub struct Notifications(pub Arc<dyn Queue>);

impl Notifications {
    /// Sends notifications; when it returns they are durable.
    ///
    /// # Errors
    /// See [`StateError`]. Some may have been sent then.
    pub async fn send(&self, notifications: &[Notification]) -> Result<(), StateError> {
        if notifications.is_empty() {
            return Ok(());
        }
        let message =
            |notification| Ok(Outgoing { body: encode("a notification", notification)?, group: None, deduplication: None });
        let messages = notifications.iter().map(message).collect::<Result<Vec<_>, StateError>>()?;
        Ok(self.0.send(messages).await?)
    }
}

fn split(event: &TaskEvent) -> Vec<TaskEvent> {
    match &event.what {
        Happening::Found { resources } if resources.len() > ROUTES_A_MESSAGE => resources
            .chunks(ROUTES_A_MESSAGE)
            .map(|resources| TaskEvent { what: Happening::Found { resources: resources.to_vec() }, ..event.clone() })
            .collect(),
        _ => vec![event.clone()],
    }
}

fn encode<T: Serialize>(what: &str, value: &T) -> Result<String, StateError> {
    serde_json::to_string(value).map_err(|error| StateError::Corrupt { what: what.into(), why: error.to_string() })
}

/// Reads a job from a message.
///
/// # Errors
/// [`StateError::Corrupt`] for what this version does not understand.
pub fn read_job(body: &str) -> Result<Job, StateError> {
    read("a job", body)
}

/// Reads a message of the logger's queue.
///
/// # Errors
/// [`StateError::Corrupt`] for what this version does not understand.
pub fn read_report(body: &str) -> Result<Report, StateError> {
    match serde_json::from_str(body) {
        Ok(Timed::Sweep) => Ok(Report::Sweep),
        Err(_) => Ok(Report::Event(Box::new(read_event(body)?))),
    }
}

/// Reads a task event from a message.
///
/// # Errors
/// [`StateError::Corrupt`] for what this version does not understand.
pub fn read_event(body: &str) -> Result<TaskEvent, StateError> {
    read("a task event", body)
}

/// Reads a notification from a message.
///
/// # Errors
/// [`StateError::Corrupt`] for what this version does not understand.
pub fn read_notification(body: &str) -> Result<Notification, StateError> {
    read("a notification", body)
}

fn read<T: serde::de::DeserializeOwned>(what: &str, body: &str) -> Result<T, StateError> {
    serde_json::from_str(body).map_err(|error| StateError::Corrupt { what: what.into(), why: error.to_string() })
}
