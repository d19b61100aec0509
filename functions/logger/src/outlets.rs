//! Telling the end of a task to those who want to know.

use std::sync::Arc;

use transship_model::{Notification, Task, TaskEnded, TaskHead};
use transship_state::{Announcement, Catalog, Notifications, Snapshot, StateError, TaskLog, Topic, TopicError};

/// Where the ends of tasks are told.
#[derive(Clone)]
pub struct Outlets {
    /// Which instances have a webhook.
    pub catalog: Arc<Catalog>,
    /// For subscribers that transship does not know, if there is such a topic: the end of every task.
    pub topic: Option<Arc<dyn Topic>>,
    /// For instances' webhooks, one message each.
    pub notifications: Notifications,
}

/// An announcement's subject has at most so many characters.
const MAX_SUBJECT: usize = 99;

impl Outlets {
    /// Whether anybody is to be told of a task's end.
    pub(crate) fn wants(&self, catalog: &Snapshot, task: &TaskHead) -> bool {
        self.topic.is_some() || !catalog.listeners(task).is_empty()
    }

    /// Tells the end of a task. When it returns, the topic has it, and the notifications are durable. Each hears of it although the other
    /// does not answer, and is not told again because of that: `is_notified` says that webhooks have been told before, `is_topic_up` is false
    /// where the topic has just not answered.
    pub(crate) async fn tell(
        &self,
        log: &TaskLog,
        catalog: &Snapshot,
        task: &Task,
        is_notified: bool,
        is_topic_up: bool,
    ) -> Result<(), StateError> {
        let resources = match task.counts.found {
            0 => Vec::new(),
            found if found > TaskEnded::MAX_RESOURCES => Vec::new(),
            _ => log.resources(&task.head.id, None, TaskEnded::MAX_RESOURCES as usize).await?.items,
        };
        let event = TaskEnded::new(task, resources);
        let body = serde_json::to_string(&event)
            .map_err(|error| StateError::Corrupt { what: format!("the event {}", event.id), why: error.to_string() })?;
        let listeners = if is_notified { Vec::new() } else { catalog.listeners(&task.head) };
        let notifications: Vec<_> = listeners
            .into_iter()
            .map(|instance| Notification { instance: instance.name.clone(), id: event.id.clone(), body: body.clone() })
            .collect();
        self.notifications.send(&notifications).await?;
        let Some(topic) = &self.topic else { return Ok(()) };
        let published = match is_topic_up {
            true => topic.publish(&announcement(&event, body)).await,
            false => Err(TopicError::Unavailable("it has just not answered".to_owned())),
        };
        match published {
            Ok(()) => Ok(()),
            Err(error @ TopicError::Invalid(_)) => {
                tracing::error!(id = event.id, %error, "the topic is not told, and never will be");
                Ok(())
            }
            Err(error @ TopicError::Unavailable(_)) => {
                if !notifications.is_empty() {
                    log.notified(&task.head.id).await?;
                }
                Err(StateError::Unavailable(error.to_string()))
            }
        }
    }
}

fn announcement(event: &TaskEnded, body: String) -> Announcement {
    let data = &event.data;
    let subject: String =
        format!("transship: {}/{} {}", data.instance, data.rule, data.status).chars().take(MAX_SUBJECT).collect();
    let attributes = [
        ("type", event.kind.clone()),
        ("status", event.status().to_owned()),
        ("instance", data.instance.to_string()),
        ("rule", data.rule.to_string()),
    ];
    Announcement { subject, body, attributes: attributes.map(|(name, value)| (name.to_owned(), value)).into() }
}
