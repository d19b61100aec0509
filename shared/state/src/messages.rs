//! What goes through the queues, as domain types.

use std::sync::Arc;

use transship_model::{Happening, Job, TaskEvent};

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

fn encode<T: serde::Serialize>(what: &str, value: &T) -> Result<String, StateError> {
    serde_json::to_string(value).map_err(|error| StateError::Corrupt { what: what.into(), why: error.to_string() })
}

/// Reads a job from a message.
///
/// # Errors
/// [`StateError::Corrupt`] for what this version does not understand.
pub fn read_job(body: &str) -> Result<Job, StateError> {
    serde_json::from_str(body).map_err(|error| StateError::Corrupt { what: "a job".into(), why: error.to_string() })
}

/// Reads a task event from a message.
///
/// # Errors
/// [`StateError::Corrupt`] for what this version does not understand.
pub fn read_event(body: &str) -> Result<TaskEvent, StateError> {
    serde_json::from_str(body).map_err(|error| StateError::Corrupt { what: "a task event".into(), why: error.to_string() })
}
