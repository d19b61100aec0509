//! Telling the ends of tasks and of resources to those who want to know.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use transship_model::{
    CloudEvent, Concern, EventType, Happening, Notification, Place, Resource, ResourceEnded, Subscription, SubscriptionName,
    Task, TaskEnded, TaskEvent, TaskHead, TaskId,
};
use transship_state::{Announcement, Catalog, Notifications, Snapshot, StateError, TaskLog, Topic, TopicError};

/// Where ends are told.
#[derive(Clone)]
pub struct Outlets {
    /// Which subscriptions there are.
    pub catalog: Arc<Catalog>,
    /// For subscribers that transship does not know, if there is such a topic: the end of every task.
    pub topic: Option<Arc<dyn Topic>>,
    /// Which ends of resources the topic is told besides.
    pub topic_resources: Vec<EventType>,
    /// For subscriptions, one message each.
    pub notifications: Notifications,
}

/// An announcement's subject has at most so many characters.
const MAX_SUBJECT: usize = 99;

impl Outlets {
    /// Whether anybody is to be told of a task's end, however it ends.
    pub(crate) fn wants(&self, catalog: &Snapshot, task: &TaskHead) -> bool {
        let hears = |subscription: &Arc<Subscription>| EventType::ALL.iter().any(|e| e.is_of_task() && subscription.wants(*e));
        self.topic.is_some() || subscribers_of(catalog, task).iter().any(hears)
    }

    /// Tells the end of a task. When it returns, the topic has it, and the notifications are durable. Each hears of it although the other
    /// does not answer, and is not told again because of that: `is_notified` says that subscriptions have been told before, `is_topic_up` is
    /// false where the topic has just not answered.
    pub(crate) async fn tell(
        &self,
        log: &TaskLog,
        catalog: &Snapshot,
        task: &Task,
        is_notified: bool,
        is_topic_up: bool,
    ) -> Result<(), StateError> {
        let subscribers = match EventType::of_task(task.status()) {
            Some(event) if !is_notified => wanting(subscribers_of(catalog, &task.head), event),
            _ => Vec::new(),
        };
        if subscribers.is_empty() && self.topic.is_none() {
            return Ok(());
        }
        let resources = match task.counts.found - task.compared {
            0 => Vec::new(),
            found if found > TaskEnded::MAX_RESOURCES => Vec::new(),
            _ => log.resources(&task.head.id, None, TaskEnded::MAX_RESOURCES as usize).await?.items,
        };
        let event = TaskEnded::of(task, resources);
        let body = encode(&event)?;
        let notifications = addressed(subscribers, &event.id, &body);
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

    /// Tells the ends of resources that these events have brought, to the topic and the subscriptions that want to hear of resources. Where
    /// there are none it costs nothing.
    ///
    /// What is told is what the log has: of a resource that ended twice, the first end. An event that comes again tells the same again.
    pub(crate) async fn tell_resources(
        &self,
        log: &TaskLog,
        catalog: &Snapshot,
        events: &[TaskEvent],
    ) -> Result<(), StateError> {
        let mut wanted: BTreeMap<&TaskId, Ends<'_>> = BTreeMap::new();
        for TaskEvent { task, what, .. } in events {
            let Happening::Ended { route, outcome, .. } = what else { continue };
            let kind = EventType::of_resource(outcome);
            let is_wanted = || !wanting(catalog.subscribers(Concern::of_route(route, &task.rule)), kind).is_empty();
            if self.is_for_topic(kind) || is_wanted() {
                wanted.entry(&task.id).or_insert_with(|| (task, Vec::new())).1.push((&route.source, kind));
            }
        }
        let (mut notifications, mut announcements) = (Vec::new(), Vec::new());
        for (id, (head, ends)) in wanted {
            let sources: Vec<&Place> = ends.iter().map(|(source, _)| *source).collect();
            for resource in log.resources_at(id, &sources).await? {
                let kind = resource.result.as_ref().map(EventType::of_resource);
                // Of work that ended a second time the first end stands, and was told.
                if ends.iter().any(|(source, end)| **source == resource.route.source && Some(*end) == kind) {
                    let Some(event) = ResourceEnded::of(head, resource.clone()) else { continue };
                    let body = encode(&event)?;
                    if kind.is_some_and(|kind| self.is_for_topic(kind)) {
                        announcements.push((event.id.clone(), announcement_of(&event, body.clone())));
                    }
                    notifications.extend(notifications_of(catalog, head, &resource, &event.id, &body));
                }
            }
        }
        self.notifications.send(&notifications).await?;
        self.announce(&announcements).await
    }

    fn is_for_topic(&self, kind: EventType) -> bool {
        self.topic.is_some() && self.topic_resources.contains(&kind)
    }

    /// Tells the topic, several at a time where it takes so many. After one that it does not answer the rest is left to the next delivery
    /// of the events.
    async fn announce(&self, announcements: &[(String, Announcement)]) -> Result<(), StateError> {
        let Some(topic) = &self.topic else { return Ok(()) };
        let said: Vec<&Announcement> = announcements.iter().map(|(_, said)| said).collect();
        for ((id, _), published) in announcements.iter().zip(topic.publish_all(&said).await) {
            match published {
                Ok(()) => {}
                Err(error @ TopicError::Invalid(_)) => {
                    tracing::error!(id, %error, "the topic is not told, and never will be");
                }
                Err(error @ TopicError::Unavailable(_)) => return Err(StateError::Unavailable(error.to_string())),
            }
        }
        Ok(())
    }
}

/// A task, and ends of its resources that somebody wants to hear of.
type Ends<'a> = (&'a TaskHead, Vec<(&'a Place, EventType)>);

/// What is sent of a resource that has ended.
fn notifications_of(catalog: &Snapshot, head: &TaskHead, resource: &Resource, id: &str, body: &str) -> Vec<Notification> {
    let Some(outcome) = &resource.result else { return Vec::new() };
    let about = Concern::of_route(&resource.route, &head.rule);
    addressed(wanting(catalog.subscribers(about), EventType::of_resource(outcome)), id, body)
}

fn subscribers_of(catalog: &Snapshot, task: &TaskHead) -> Vec<Arc<Subscription>> {
    catalog.subscribers(Concern { instance: &task.instance, rule: &task.rule, target: catalog.target_of(task) })
}

/// The names of those that are told events of this type.
fn wanting(subscribers: Vec<Arc<Subscription>>, event: EventType) -> Vec<SubscriptionName> {
    subscribers.iter().filter(|subscription| subscription.wants(event)).map(|subscription| subscription.name.clone()).collect()
}

fn addressed(subscriptions: Vec<SubscriptionName>, id: &str, body: &str) -> Vec<Notification> {
    let message = |subscription| Notification { subscription, id: id.to_owned(), body: body.to_owned(), round: 0 };
    subscriptions.into_iter().map(message).collect()
}

fn encode<T: Serialize>(event: &CloudEvent<T>) -> Result<String, StateError> {
    serde_json::to_string(event)
        .map_err(|error| StateError::Corrupt { what: format!("the event {}", event.id), why: error.to_string() })
}

fn announcement(event: &TaskEnded, body: String) -> Announcement {
    let data = &event.data;
    let subject = format!("transship: {}/{} {}", data.instance, data.rule, data.status);
    let of = [event.kind.clone(), event.status().to_owned(), data.instance.to_string(), data.rule.to_string()];
    announced(&subject, body, of)
}

fn announcement_of(event: &ResourceEnded, body: String) -> Announcement {
    let data = &event.data;
    let status = event.kind.rsplit('.').next().unwrap_or_default();
    let name = event.subject.as_deref().unwrap_or_default();
    let subject = format!("transship: {}/{} {name} {status}", data.instance, data.rule);
    announced(&subject, body, [event.kind.clone(), status.to_owned(), data.instance.to_string(), data.rule.to_string()])
}

fn announced(subject: &str, body: String, values: [String; 4]) -> Announcement {
    let subject: String = subject.chars().take(MAX_SUBJECT).collect();
    let attributes = ["type", "status", "instance", "rule"].map(str::to_owned).into_iter().zip(values).collect();
    Announcement { subject, body, attributes }
}
