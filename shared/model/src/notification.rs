//! What subscribers are told: the end of a task or of a resource, as a CloudEvent (CloudEvents 1.0, JSON event format).

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    ArtifactType, Counts, Digest, EventType, InstanceName, Outcome, Place, Resource, RuleName, SubscriptionName, Task,
    TaskHead, TaskId, TaskStatus, Trigger, names::hex,
};

/// A message of the notifications queue: what one subscription is to be told. Where that is, and with which secret it is signed, is
/// looked up when it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Queued")]
pub struct Notification {
    /// The subscription.
    pub subscription: SubscriptionName,
    /// The event's ID, by which a receiver knows it again.
    pub id: String,
    /// The event, as it is sent: the same bytes however often.
    pub body: String,
    /// How often it had been sent again by hand when this message was made. A message of an earlier round is void.
    #[serde(default, skip_serializing_if = "is_first")]
    pub round: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_first(round: &u32) -> bool {
    *round == 0
}

/// The message as queues have it: until there were subscriptions, it named the instance whose own webhook was meant.
#[derive(Deserialize)]
struct Queued {
    subscription: Option<SubscriptionName>,
    instance: Option<InstanceName>,
    id: String,
    body: String,
    #[serde(default)]
    round: u32,
}

impl TryFrom<Queued> for Notification {
    type Error = &'static str;

    fn try_from(queued: Queued) -> Result<Self, &'static str> {
        let Queued { subscription, instance, id, body, round } = queued;
        let of_instance = || instance.as_ref().map(SubscriptionName::of_instance);
        let subscription = subscription.or_else(of_instance).ok_or("it names no subscription")?;
        Ok(Self { subscription, id, body, round })
    }
}

/// An event as it is sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CloudEvent<T> {
    specversion: &'static str,
    /// Derives from what it tells of, so that an event that is told twice is known as one.
    pub id: String,
    /// The path in the API of what it comes from.
    pub source: String,
    /// `io.transship.task.succeeded` and the like: see [`EventType`].
    #[serde(rename = "type")]
    pub kind: String,
    /// What was pushed or copied, as `repository:tag`; a full run has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When that ended which it tells of.
    pub time: Timestamp,
    datacontenttype: &'static str,
    /// What it tells.
    pub data: T,
}

/// What all types begin with.
const DOMAIN: &str = "io.transship";

impl<T> CloudEvent<T> {
    fn new(id: String, source: String, kind: &str, subject: Option<String>, time: Timestamp, data: T) -> Self {
        let kind = format!("{DOMAIN}.{kind}");
        Self { specversion: "1.0", id, source, kind, subject, time, datacontenttype: "application/json", data }
    }
}

/// What of an event is needed to deliver it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Envelope {
    /// The event's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The event's time.
    pub time: Timestamp,
    /// The task that it tells of, if it tells of one.
    #[serde(default, rename = "data", deserialize_with = "task_of")]
    pub task: Option<TaskId>,
}

/// The task in an event's data. What is not understood of these is no reason not to deliver it.
fn task_of<'de, D: Deserializer<'de>>(data: D) -> Result<Option<TaskId>, D::Error> {
    let mut data = Value::deserialize(data)?;
    Ok(data.get_mut("task").and_then(|task| serde_json::from_value(task.take()).ok()))
}

impl Envelope {
    /// Reads the body of a notification; `None` if it is no event.
    pub fn read(body: &str) -> Option<Self> {
        serde_json::from_str(body).ok()
    }

    /// Whether the event is a test, which tells of nothing.
    pub fn is_ping(&self) -> bool {
        self.kind == format!("{DOMAIN}.{}", CloudEvent::PING)
    }
}

/// The end of a task. Its ID is `TASK-ended`.
pub type TaskEnded = CloudEvent<TaskReport>;

/// The end of a resource of a task. Its ID is `TASK-HASH-OUTCOME`, the hash being that of its source and target.
pub type ResourceEnded = CloudEvent<TaskResource>;

/// A resource that has ended, and the task that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskResource {
    /// The task.
    pub task: TaskId,
    /// The source instance.
    pub instance: InstanceName,
    /// The rule's name in that instance.
    pub rule: RuleName,
    /// Why the task ran.
    pub trigger: Trigger,
    /// What became of the resource.
    pub resource: ResourceReport,
}

impl ResourceEnded {
    /// What is told of a resource that has ended; `None` for one that has not.
    pub fn of(head: &TaskHead, resource: Resource) -> Option<Self> {
        let (outcome, time) = (resource.result.as_ref()?, resource.ended?);
        let kind = EventType::of_resource(outcome).as_str();
        let (from, to) = (&resource.route.source, &resource.route.target);
        let hash = hex(&Sha256::digest(format!("{}/{} {}/{}", from.instance, from.name(), to.instance, to.name())));
        let word = kind.rsplit('.').next().unwrap_or_default();
        let id = format!("{}-{}-{word}", head.id, &hash[..16]);
        let source = format!("/v1/instances/{}/rules/{}", head.instance, head.rule);
        let data = TaskResource {
            task: head.id.clone(),
            instance: head.instance.clone(),
            rule: head.rule.clone(),
            trigger: head.trigger.clone(),
            resource: ResourceReport::new(resource.clone()),
        };
        Some(Self::new(id, source, kind, Some(from.name()), time, data))
    }
}

/// A test of a subscription, which tells of nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ping {
    /// The subscription that is tested.
    pub subscription: SubscriptionName,
}

impl CloudEvent<Ping> {
    /// The type of a test.
    const PING: &'static str = "ping";

    /// A test of a subscription, at that time, told apart from others by a number.
    pub fn ping(subscription: &SubscriptionName, time: Timestamp, number: u64) -> Self {
        let source = format!("/v1/subscriptions/{subscription}");
        let data = Ping { subscription: subscription.clone() };
        Self::new(format!("ping-{number:016x}"), source, Self::PING, None, time, data)
    }
}

/// A task that has ended, in the words of the API.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskReport {
    /// Its ID.
    pub task: TaskId,
    /// The source instance.
    pub instance: InstanceName,
    /// The rule's name in that instance.
    pub rule: RuleName,
    /// Why it ran.
    pub trigger: Trigger,
    /// How it ended.
    pub status: TaskStatus,
    /// (copied + unchanged + deleted) / (all − skipped), from 0 to 1.
    pub success_rate: f64,
    /// How many resources there were.
    pub total: u64,
    /// In how many repositories.
    pub repositories: u64,
    /// What became of them, and bytes.
    pub counts: CountsReport,
    /// When it was triggered.
    pub created: Timestamp,
    /// When work began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When the last of it had ended.
    pub ended: Timestamp,
    /// What kept the scan from being complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The resources, unless there are more than [`TaskEnded::MAX_RESOURCES`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ResourceReport>,
}

/// What is counted of a task's resources, with a sum that subscribers may go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CountsReport {
    #[serde(flatten)]
    counts: Counts,
    /// Bytes that did not have to be sent: mounted, or there already.
    bytes_saved: u64,
}

/// What became of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResourceReport {
    /// Where it was looked for.
    pub source: Place,
    /// What was to be set.
    pub target: Place,
    /// What the source tag pointed to, if that was found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What it is.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactType>,
    /// How it ended, and why where it was skipped or failed.
    #[serde(flatten)]
    pub outcome: Option<Outcome>,
    /// Bytes sent to the target.
    pub bytes_moved: u64,
    /// Bytes that the target mounted from another of its repositories.
    pub bytes_mounted: u64,
    /// Bytes that the target had already.
    pub bytes_present: u64,
    /// Both: bytes that did not have to be sent.
    pub bytes_saved: u64,
}

impl TaskEnded {
    /// Of a task with more resources than this only the counts are told; the API has the list.
    pub const MAX_RESOURCES: u64 = 10;

    /// What is told of a task that has ended, given its resources, or none of them where there are too many.
    pub fn of(task: &Task, resources: Vec<Resource>) -> Self {
        let Task { head, counts, total, repositories, started, ended, error, .. } = task.clone();
        let (status, time) = (task.status(), ended.unwrap_or(head.created));
        let subject = match &head.trigger {
            Trigger::Push { resource } | Trigger::Attachment { resource } | Trigger::Deletion { resource } => {
                Some(resource.clone())
            }
            Trigger::Manual | Trigger::Created | Trigger::Schedule | Trigger::Retry { .. } => None,
        };
        let (id, source) = (format!("{}-ended", head.id), format!("/v1/instances/{}/rules/{}", head.instance, head.rule));
        let data = TaskReport {
            task: head.id,
            instance: head.instance,
            rule: head.rule,
            trigger: head.trigger,
            status,
            success_rate: task.success_rate().unwrap_or_default(),
            total: total.unwrap_or(counts.found).max(counts.found),
            repositories,
            counts: CountsReport { counts, bytes_saved: counts.bytes_saved() },
            created: head.created,
            started,
            ended: time,
            error,
            resources: resources.into_iter().map(ResourceReport::new).collect(),
        };
        CloudEvent::new(id, source, &format!("task.{}", word(status)), subject, time, data)
    }

    /// The status as it stands in the type.
    pub fn status(&self) -> &'static str {
        word(self.data.status)
    }
}

impl ResourceReport {
    fn new(resource: Resource) -> Self {
        let Resource { route, progress, result, .. } = resource;
        Self {
            source: route.source,
            target: route.target,
            bytes_saved: progress.bytes_saved(),
            digest: progress.digest,
            artifact: progress.artifact,
            outcome: result,
            bytes_moved: progress.bytes_moved,
            bytes_mounted: progress.bytes_mounted,
            bytes_present: progress.bytes_present,
        }
    }
}

/// The status as one word.
fn word(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Queued => "queued",
        TaskStatus::Running => "running",
        TaskStatus::Succeeded => "succeeded",
        TaskStatus::PartlyFailed => "partly-failed",
        TaskStatus::Failed => "failed",
        TaskStatus::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Progress, ResourceState, Route, RuleId, SkipReason, TaskHead};

    fn place(instance: &str) -> Place {
        Place { instance: instance.parse().unwrap(), repository: "team/app".parse().unwrap(), reference: "v1".parse().unwrap() }
    }

    fn task() -> Task {
        let at = |second: i64| Timestamp::from_second(1_767_323_045 + second).unwrap();
        Task {
            head: TaskHead {
                id: TaskId::derive(RuleId(7), at(0), "x"),
                instance: "build".parse().unwrap(),
                rule: "release".parse().unwrap(),
                trigger: Trigger::Push { resource: "team/app:v1".into() },
                created: at(0),
            },
            counts: Counts { found: 1, copied: 1, bytes_moved: 10, bytes_mounted: 2, bytes_present: 3, ..Counts::default() },
            total: Some(1),
            compared: 0,
            repositories: 1,
            started: Some(at(1)),
            ended: Some(at(2)),
            error: None,
            cancelled: None,
            stopped: false,
        }
    }

    /// Would break: what subscribers have written their programs against.
    #[test]
    fn a_task_s_end_is_a_cloud_event_with_a_stable_form() {
        let digest = Digest::of(b"x");
        let resource = Resource {
            route: Route { source: place("build"), target: place("prod") },
            state: ResourceState::Done,
            progress: Progress {
                digest: Some(digest.clone()),
                artifact: Some(ArtifactType::Image),
                bytes_moved: 10,
                bytes_present: 4,
                ..Progress::default()
            },
            result: Some(Outcome::Copied),
            queued: task().head.created,
            ended: task().ended,
        };
        let event = serde_json::to_value(TaskEnded::of(&task(), vec![resource])).unwrap();
        let id = task().head.id;
        assert_eq!(
            event,
            json!({
                "specversion": "1.0",
                "id": format!("{id}-ended"),
                "source": "/v1/instances/build/rules/release",
                "type": "io.transship.task.succeeded",
                "subject": "team/app:v1",
                "time": "2026-01-02T03:04:07Z",
                "datacontenttype": "application/json",
                "data": {
                    "task": id,
                    "instance": "build",
                    "rule": "release",
                    "trigger": {"kind": "push", "resource": "team/app:v1"},
                    "status": "succeeded",
                    "success_rate": 1.0,
                    "total": 1,
                    "repositories": 1,
                    "counts": {
                        "found": 1, "copied": 1, "unchanged": 0, "skipped": 0, "deleted": 0, "cancelled": 0, "failed": 0,
                        "bytes_moved": 10, "bytes_mounted": 2, "bytes_present": 3, "bytes_saved": 5
                    },
                    "created": "2026-01-02T03:04:05Z",
                    "started": "2026-01-02T03:04:06Z",
                    "ended": "2026-01-02T03:04:07Z",
                    "resources": [{
                        "source": {"instance": "build", "repository": "team/app", "reference": "v1"},
                        "target": {"instance": "prod", "repository": "team/app", "reference": "v1"},
                        "digest": digest,
                        "type": "image",
                        "outcome": "copied",
                        "bytes_moved": 10,
                        "bytes_mounted": 0,
                        "bytes_present": 4,
                        "bytes_saved": 4,
                    }],
                },
            })
        );
    }

    /// Would break: a filter by type that misses tasks which failed; the reason of a skip, which is not told.
    #[test]
    fn the_type_tells_how_a_task_ended_and_a_resource_why() {
        let failed = Task { counts: Counts { found: 2, copied: 1, failed: 1, ..Counts::default() }, ..task() };
        let event = TaskEnded::of(&failed, Vec::new());
        assert_eq!((event.kind.as_str(), event.status()), ("io.transship.task.partly-failed", "partly-failed"));
        for (outcome, expected) in [
            (Outcome::Skipped { reason: SkipReason::Exists }, json!({"outcome": "skipped", "reason": "exists"})),
            (Outcome::Failed { reason: "no".into() }, json!({"outcome": "failed", "reason": "no"})),
        ] {
            let resource = Resource::new(Route { source: place("a"), target: place("b") }, failed.head.created);
            let event = TaskEnded::of(&failed, vec![Resource { result: Some(outcome), ..resource }]);
            let told = serde_json::to_value(&event).unwrap()["data"]["resources"][0].clone();
            for (key, value) in expected.as_object().unwrap() {
                assert_eq!(&told[key], value);
            }
        }
    }
}
