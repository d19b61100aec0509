//! What subscribers are told: the end of a task, as a CloudEvent (CloudEvents 1.0, JSON event format).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    ArtifactType, Counts, Digest, InstanceName, Outcome, Place, Resource, RuleName, Task, TaskId, TaskStatus, Trigger,
};

/// A message of the notifications queue: what one instance's webhook is to be told. Where that is, and with which secret it is
/// signed, is looked up when it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// The instance whose webhook is meant.
    pub instance: InstanceName,
    /// The event's ID, by which a receiver knows it again.
    pub id: String,
    /// The event, as it is sent: the same bytes however often.
    pub body: String,
}

/// The end of a task. Its ID derives from the task, so that one that is told twice is known as one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskEnded {
    specversion: &'static str,
    /// `TASK-ended`.
    pub id: String,
    /// The rule's path in the API.
    pub source: String,
    /// `io.transship.task.succeeded`, `….partly-failed` or `….failed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What was pushed, as `repository:tag`; a full run has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When the last of the task's work had ended.
    pub time: Timestamp,
    datacontenttype: &'static str,
    /// The task.
    pub data: TaskReport,
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
    /// (copied + unchanged) / (all − skipped), from 0 to 1.
    pub success_rate: f64,
    /// How many resources there were.
    pub total: u64,
    /// In how many repositories.
    pub repositories: u64,
    /// What became of them, and bytes.
    pub counts: Counts,
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
    /// Bytes that the target had already, or mounted.
    pub bytes_saved: u64,
}

impl TaskEnded {
    /// Of a task with more resources than this only the counts are told; the API has the list.
    pub const MAX_RESOURCES: u64 = 10;

    /// What is told of a task that has ended, given its resources, or none of them where there are too many.
    pub fn new(task: &Task, resources: Vec<Resource>) -> Self {
        let Task { head, counts, total, repositories, started, ended, error, compared: _ } = task.clone();
        let (status, time) = (task.status(), ended.unwrap_or(head.created));
        let subject = match &head.trigger {
            Trigger::Push { resource } | Trigger::Attachment { resource } | Trigger::Deletion { resource } => {
                Some(resource.clone())
            }
            Trigger::Manual | Trigger::Created | Trigger::Schedule => None,
        };
        Self {
            specversion: "1.0",
            id: format!("{}-ended", head.id),
            source: format!("/v1/instances/{}/rules/{}", head.instance, head.rule),
            kind: format!("io.transship.task.{}", word(status)),
            subject,
            time,
            datacontenttype: "application/json",
            data: TaskReport {
                task: head.id,
                instance: head.instance,
                rule: head.rule,
                trigger: head.trigger,
                status,
                success_rate: task.success_rate().unwrap_or_default(),
                total: total.unwrap_or(counts.found).max(counts.found),
                repositories,
                counts,
                created: head.created,
                started,
                ended: time,
                error,
                resources: resources.into_iter().map(ResourceReport::new).collect(),
            },
        }
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
            digest: progress.digest,
            artifact: progress.artifact,
            outcome: result,
            bytes_moved: progress.bytes_moved,
            bytes_saved: progress.bytes_saved,
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
            counts: Counts { found: 1, copied: 1, bytes_moved: 10, ..Counts::default() },
            total: Some(1),
            compared: 0,
            repositories: 1,
            started: Some(at(1)),
            ended: Some(at(2)),
            error: None,
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
                ..Progress::default()
            },
            result: Some(Outcome::Copied),
            queued: task().head.created,
            ended: task().ended,
        };
        let event = serde_json::to_value(TaskEnded::new(&task(), vec![resource])).unwrap();
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
                        "found": 1, "copied": 1, "unchanged": 0, "skipped": 0, "failed": 0, "bytes_moved": 10, "bytes_saved": 0
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
                        "bytes_saved": 0,
                    }],
                },
            })
        );
    }

    /// Would break: a filter by type that misses tasks which failed; the reason of a skip, which is not told.
    #[test]
    fn the_type_tells_how_a_task_ended_and_a_resource_why() {
        let failed = Task { counts: Counts { found: 2, copied: 1, failed: 1, ..Counts::default() }, ..task() };
        let event = TaskEnded::new(&failed, Vec::new());
        assert_eq!((event.kind.as_str(), event.status()), ("io.transship.task.partly-failed", "partly-failed"));
        for (outcome, expected) in [
            (Outcome::Skipped { reason: SkipReason::Exists }, json!({"outcome": "skipped", "reason": "exists"})),
            (Outcome::Failed { reason: "no".into() }, json!({"outcome": "failed", "reason": "no"})),
        ] {
            let resource = Resource::new(Route { source: place("a"), target: place("b") }, failed.head.created);
            let event = TaskEnded::new(&failed, vec![Resource { result: Some(outcome), ..resource }]);
            let told = serde_json::to_value(&event).unwrap()["data"]["resources"][0].clone();
            for (key, value) in expected.as_object().unwrap() {
                assert_eq!(&told[key], value);
            }
        }
    }
}
