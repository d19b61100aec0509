//! The API's answers. The command line reads them with the same types.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use transship_model::{
    ArtifactType, Counts, Digest, Instance, InstanceName, Kind, Outcome, Place, Resource, ResourceState, Rule, RuleName,
    Schedule, Task, TaskId, TaskStatus,
    rule::{Source, Target},
};
use url::Url;
use utoipa::ToSchema;

/// A page of a listing.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ListView<T> {
    /// What is on the page.
    pub items: Vec<T>,
    /// The `cursor` of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An instance; of its secrets it tells only whether there are any.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InstanceView {
    /// Its name.
    pub name: InstanceName,
    /// Scheme, host and port.
    pub endpoint: Url,
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Its compliance zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The path that its notifications are to be sent to.
    pub webhook: String,
}

impl InstanceView {
    /// How the API shows an instance.
    pub fn new(instance: &Instance) -> Self {
        Self {
            name: instance.name.clone(),
            endpoint: instance.endpoint.clone(),
            kind: instance.kind,
            region: instance.region.clone(),
            zone: instance.zone.clone(),
            webhook: format!("/hooks/{}", instance.name),
        }
    }
}

/// A rule.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RuleView {
    /// Its name, unique within the source instance.
    pub name: RuleName,
    /// For people.
    pub description: String,
    /// What it selects.
    pub source: Source,
    /// Where that goes.
    pub target: Target,
    /// Whether it replaces what the target has.
    pub overwrite: bool,
    /// Whether a tag that is deleted at the source is deleted at the target, if that still has what transship put there.
    pub propagate_deletions: bool,
    /// Whether signatures, SBOMs and whatever else refers to an artifact go with it.
    pub referrers: bool,
    /// When it runs by itself: a cron expression of five fields, in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Whether it does anything.
    pub enabled: bool,
    /// Grows with each change.
    pub revision: u64,
}

impl RuleView {
    /// How the API shows a rule.
    pub fn new(rule: &Rule) -> Self {
        let Rule { id: _, revision, name, description, source, target, overwrite, enabled, .. } = rule.clone();
        let Rule { propagate_deletions, referrers, schedule, .. } = rule.clone();
        Self { name, description, source, target, overwrite, propagate_deletions, referrers, schedule, enabled, revision }
    }
}

/// What has been started.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StartedView {
    /// The task to look at.
    pub task: TaskId,
}

/// A task.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TaskView {
    /// Its identity.
    pub id: TaskId,
    /// The source instance.
    pub instance: InstanceName,
    /// The rule, as it was named then.
    pub rule: RuleName,
    /// Why it ran, in words.
    pub trigger: String,
    /// Where it is.
    pub status: TaskStatus,
    /// When it was triggered.
    pub created: Timestamp,
    /// When work began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When the last resource had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// From its trigger to its end, or to now, in seconds.
    pub seconds: f64,
    /// (copied + unchanged) / (all − skipped), from 0 to 1; absent until something has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<f64>,
    /// Repositories with at least one resource.
    pub repositories: u64,
    /// How many resources there are; absent until the scan has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// What has been counted.
    pub counts: Counts,
    /// How many of the unchanged were compared by digest alone: they are counted, and not among the resources.
    #[serde(default)]
    pub compared: u64,
    /// What keeps the scan from going on, or kept it from being complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl TaskView {
    /// How the API shows a task.
    pub fn new(task: Task) -> Self {
        let (status, success_rate) = (task.status(), task.success_rate());
        let until = task.ended.unwrap_or_else(Timestamp::now);
        Self {
            status,
            success_rate,
            seconds: until.duration_since(task.head.created).as_secs_f64().max(0.0),
            trigger: task.head.trigger.to_string(),
            id: task.head.id,
            instance: task.head.instance,
            rule: task.head.rule,
            created: task.head.created,
            started: task.started,
            ended: task.ended,
            repositories: task.repositories,
            total: task.total,
            counts: task.counts,
            compared: task.compared,
            error: task.error,
        }
    }
}

/// A resource of a task.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ResourceView {
    /// Where it was looked for.
    pub source: Place,
    /// What was to be set.
    pub target: Place,
    /// What the source tag pointed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What it is.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactType>,
    /// Where it is in its life.
    pub state: ResourceState,
    /// How it ended, and why where it was skipped or failed.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Bytes sent to the target.
    pub bytes_moved: u64,
    /// Bytes that the target had already, or mounted.
    pub bytes_saved: u64,
    /// Bytes to move or save, as far as they are known.
    pub bytes_total: u64,
    /// How often work on it has begun.
    pub attempts: u32,
    /// When it was found.
    pub queued: Timestamp,
    /// When work on it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Why the last attempt did not end it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
}

impl ResourceView {
    /// How the API shows a resource.
    pub fn new(resource: Resource) -> Self {
        let Resource { route, state, progress, result, queued, ended } = resource;
        Self {
            source: route.source,
            target: route.target,
            digest: progress.digest,
            artifact: progress.artifact,
            state,
            outcome: result,
            bytes_moved: progress.bytes_moved,
            bytes_saved: progress.bytes_saved,
            bytes_total: progress.bytes_total,
            attempts: progress.attempts,
            queued,
            started: progress.started,
            ended,
            error: progress.error,
            retry_at: progress.retry_at,
        }
    }
}
