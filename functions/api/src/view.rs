//! The API's answers. The command line reads them with the same types.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use transship_model::{
    ArtifactType, Cancellation, Counts, Digest, InstanceName, Namespace, Outcome, Pattern, Place, Resource, ResourceState,
    Role, Rule, RuleName, Schedule, Task, TaskId, TaskStatus, TokenId, Trigger,
    rule::{Source, Target},
};
use transship_state::{AuditEntry, Stamp, Token};
use utoipa::ToSchema;

pub use crate::instance_view::{
    CredentialsInput, EcrInput, GoogleInput, InstanceInput, InstanceView, NotifyInput, SecretInput, SecretKind,
    WebhookAuthInput,
};
pub use crate::subscription_view::{DeliveryView, SentView, SubscriptionInput, SubscriptionView, WebhookInput, WebhookView};

/// A page of a listing.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ListView<T> {
    /// What is on the page.
    pub items: Vec<T>,
    /// The `cursor` of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T: Serialize> ListView<T> {
    /// A page of items, each with the cursor that leads to what comes after it; `next` is that of the page. It ends where its answer
    /// would be longer than a function of AWS can give (6 MB); one item has room.
    pub(crate) fn cut(items: impl IntoIterator<Item = (String, T)>, next: Option<String>) -> Self {
        let (mut page, mut last, mut bytes) = (Vec::new(), None, 0);
        for (cursor, item) in items {
            // What can't be written is found out when it is.
            bytes += serde_json::to_string(&item).map_or(0, |text| text.len());
            if bytes > MAX_PAGE && last.is_some() {
                return Self { items: page, next: last };
            }
            page.push(item);
            last = Some(cursor);
        }
        Self { items: page, next }
    }
}

/// The longest that the items of a page may be, in bytes: well below what AWS allows, which counts what it writes around them.
const MAX_PAGE: usize = 4_000_000;

/// A rule.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RuleView {
    /// What can be written.
    #[serde(flatten)]
    pub written: RuleInput,
    /// Grows with each change; the ETag.
    pub revision: u64,
    /// The configuration file that it belongs to, if it does: then it is changed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The task of its first full run, if this change has started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_run: Option<TaskId>,
    /// What may not be meant: other rules that may write the same tags. No part of the ETag, and left out of lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 11)]
    pub warnings: Vec<String>,
}

/// What a rule is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuleInput {
    /// Its name, unique within the source instance; the path's, if it is written out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<RuleName>,
    /// For people.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub description: String,
    /// What it selects.
    pub source: SourceInput,
    /// Where that goes.
    pub target: Target,
    /// Whether it replaces what the target has.
    #[serde(default)]
    pub overwrite: bool,
    /// Whether a tag that is deleted at the source is deleted at the target, if that still has what transship put there.
    #[serde(default)]
    pub propagate_deletions: bool,
    /// Whether signatures, SBOMs and whatever else refers to an artifact go with it; by default they do.
    #[serde(default = "yes")]
    pub referrers: bool,
    /// When it runs by itself: a cron expression of five fields, in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Whether it does anything; by default it does.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

/// What a rule is to select.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceInput {
    /// The instance that is pushed to; the path's, if it is written out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceName>,
    /// The namespace whose repositories are meant: a path, `*` for all, empty for those without a slash.
    pub namespace: Namespace,
    /// Meets the path of a repository below the namespace; by default any.
    #[serde(default)]
    pub repository: Pattern,
    /// Meets the tag; by default any.
    #[serde(default)]
    pub tag: Pattern,
    /// The artifact types that are meant; empty for all.
    #[serde(default)]
    #[schema(max_items = 3)]
    pub types: Vec<ArtifactType>,
}

impl RuleInput {
    /// What would have to be written so that a rule stays as it is.
    pub fn of(rule: &Rule) -> Self {
        let Rule { id: _, revision: _, name, description, source, target, overwrite, enabled, .. } = rule.clone();
        let Rule { propagate_deletions, referrers, schedule, .. } = rule.clone();
        let Source { instance, namespace, repository, tag, types } = source;
        let source = SourceInput { instance: Some(instance), namespace, repository, tag, types };
        let name = Some(name);
        Self { name, description, source, target, overwrite, propagate_deletions, referrers, schedule, enabled }
    }
}

impl RuleView {
    /// How the API shows a rule.
    pub fn new(rule: &Rule, stamp: Option<&Stamp>) -> Self {
        let file = stamp.and_then(|stamp| stamp.file()).map(str::to_owned);
        Self { written: RuleInput::of(rule), revision: rule.revision, file, first_run: None, warnings: Vec::new() }
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
    /// (copied + unchanged + deleted) / (all − skipped), from 0 to 1; absent until something has ended.
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
    /// Who wanted it to end, and when. It has ended when `ended` is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<Cancellation>,
    /// The task whose failed resources it makes again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<TaskId>,
    /// How far it is, while it runs. Lists of tasks leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressView>,
}

/// How far a task is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProgressView {
    /// Bytes of which nothing is left to be done: moved, mounted or there already.
    pub bytes_done: u64,
    /// Bytes in all, as far as they are known; absent where there are too many resources to add them up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Bytes that were moved a second lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// An estimate of the time left; absent where there is nothing to go by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

/// A report that is older tells nothing of now: workers report every five seconds.
const FRESH: Duration = Duration::from_secs(30);
/// An estimate of more than that is none.
const LONGEST: u64 = 30 * 24 * 3600;
/// Of so many resources that are done the others' time is estimated.
const ENOUGH: u64 = 20;

impl ProgressView {
    /// So many resources are added up.
    pub const FEW: u64 = 50;

    /// How far a task is whose resources are at hand.
    pub fn of_resources(resources: &[Resource], now: Timestamp) -> Self {
        let bytes_done = resources.iter().map(|resource| resource.progress.bytes_done()).sum();
        let total: u64 = resources.iter().map(|r| r.progress.bytes_total.max(r.progress.bytes_done())).sum();
        let running = resources.iter().filter(|resource| resource.state != ResourceState::Done);
        // Of what has not begun nothing is known.
        let paces: Option<Vec<u64>> = running.clone().map(|resource| pace(resource, now)).collect();
        let pace = paces.map(|paces| paces.iter().sum()).filter(|pace| *pace > 0);
        let left = running.map(|r| r.progress.bytes_total.saturating_sub(r.progress.bytes_done())).sum::<u64>();
        let seconds_left = pace.map(|pace| left.div_ceil(pace)).filter(|seconds| *seconds <= LONGEST);
        Self { bytes_done, bytes_total: Some(total), bytes_per_second: pace, seconds_left }
    }

    /// How far a task with more resources is: what is left takes as long as what is done, as soon as that is enough to go by.
    pub fn of_counts(task: &Task, now: Timestamp) -> Self {
        let counts = &task.counts;
        let (done, left) = (counts.done(), task.total.map(|total| total.max(counts.found).saturating_sub(counts.done())));
        let worked = task.started.map(|started| now.duration_since(started).as_secs_f64().max(0.0));
        let seconds_left = worked.zip(left).filter(|_| done >= ENOUGH).map(|(worked, left)| {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an estimate"
            )]
            let seconds = (worked * left as f64 / done as f64).ceil() as u64;
            seconds
        });
        let seconds_left = seconds_left.filter(|seconds| *seconds <= LONGEST);
        Self { bytes_done: counts.bytes_moved + counts.bytes_saved(), bytes_total: None, bytes_per_second: None, seconds_left }
    }
}

/// How fast a resource's bytes move now, if that is known.
fn pace(resource: &Resource, now: Timestamp) -> Option<u64> {
    let progress = &resource.progress;
    let is_fresh = progress.reported.is_some_and(|reported| now.duration_since(reported).unsigned_abs() <= FRESH);
    let moves = resource.state == ResourceState::Running && progress.error.is_none() && is_fresh;
    progress.bytes_per_second.filter(|_| moves)
}

impl TaskView {
    /// How the API shows a task.
    pub fn new(task: Task) -> Self {
        let retry_of = match &task.head.trigger {
            Trigger::Retry { of } => Some(of.clone()),
            _ => None,
        };
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
            cancelled: task.cancelled,
            retry_of,
            progress: None,
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
    /// Bytes that the target mounted from another of its repositories.
    pub bytes_mounted: u64,
    /// Bytes that the target had already.
    pub bytes_present: u64,
    /// Bytes to move, mount or find there in all, as far as they are known.
    pub bytes_total: u64,
    /// Bytes that were moved a second lately, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// An estimate of the time left, while it runs; absent where there is nothing to go by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
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
    /// Bytes of which nothing is left to be done.
    pub fn bytes_done(&self) -> u64 {
        self.bytes_moved + self.bytes_mounted + self.bytes_present
    }

    /// How the API shows a resource.
    pub fn new(resource: Resource) -> Self {
        let pace = pace(&resource, Timestamp::now());
        let left = resource.progress.bytes_total.saturating_sub(resource.progress.bytes_done());
        let seconds_left = pace.filter(|pace| *pace > 0).map(|pace| left.div_ceil(pace)).filter(|left| *left <= LONGEST);
        let Resource { route, state, progress, result, queued, ended } = resource;
        Self {
            source: route.source,
            target: route.target,
            digest: progress.digest,
            artifact: progress.artifact,
            state,
            outcome: result,
            bytes_moved: progress.bytes_moved,
            bytes_mounted: progress.bytes_mounted,
            bytes_present: progress.bytes_present,
            bytes_total: progress.bytes_total,
            bytes_per_second: pace,
            seconds_left,
            attempts: progress.attempts,
            queued,
            started: progress.started,
            ended,
            error: progress.error,
            retry_at: progress.retry_at,
        }
    }
}

/// What is known of a token.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// By what it is found and named; no secret.
    pub id: TokenId,
    /// What it is for.
    pub name: String,
    /// What its bearer may do.
    pub role: Role,
    /// With which instances; with all if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<BTreeSet<InstanceName>>,
    /// Whether it lets its bearer in.
    pub status: TokenStatus,
    /// When it was made.
    pub created: Timestamp,
    /// By whom.
    pub created_by: String,
    /// From when on it is of no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When it was used last, to the hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
}

/// Whether a token lets its bearer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TokenStatus {
    /// It does.
    Active,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
}

impl TokenView {
    /// How the API shows a token at a time.
    pub fn new(token: Token, now: Timestamp) -> Self {
        let Token { id, name, role, instances, created, created_by, expires, last_used, revoked } = token;
        let status = match (revoked, expires) {
            (Some(_), _) => TokenStatus::Revoked,
            (None, Some(expires)) if expires <= now => TokenStatus::Expired,
            _ => TokenStatus::Active,
        };
        Self { id, name, role, instances, status, created, created_by, expires, last_used, revoked }
    }
}

/// A token that has just been made.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct MintedTokenView {
    /// The token itself. It is shown here and nowhere else.
    #[schema(pattern = "^tsh_[0-9a-f]{16}_[0-9a-f]{72}$")]
    pub token: String,
    /// What is known of it.
    #[serde(flatten)]
    pub about: TokenView,
}

/// A change.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// When.
    pub at: Timestamp,
    /// Who: `deployment`, `this machine`, `token:ID` or `iam:ARN`.
    pub who: String,
    /// What was done: a kind of thing and a verb, as in `rule.sync`.
    pub action: String,
    /// With which: its name.
    pub what: String,
    /// What changed, in a few words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
    /// From which address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// By which request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

impl AuditView {
    /// How the API shows a change.
    pub fn new(entry: AuditEntry) -> Self {
        let AuditEntry { at, who, action, what, details, from, request } = entry;
        Self { at, who, action, what, details, from, request }
    }
}

#[cfg(test)]
mod tests {
    use transship_model::{Progress, Route, RuleId, TaskHead};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn resource(state: ResourceState, moved: u64, pace: Option<u64>, reported: i64) -> Resource {
        let place = |instance: &str| Place {
            instance: instance.parse().unwrap(),
            repository: "team/app".parse().unwrap(),
            reference: "v1".parse().unwrap(),
        };
        let route = Route { source: place("a"), target: place("b") };
        let progress = Progress {
            bytes_moved: moved,
            bytes_present: 100,
            bytes_total: if state == ResourceState::Queued { 0 } else { 1100 },
            bytes_per_second: pace,
            reported: Some(at(reported)),
            ..Progress::default()
        };
        Resource { state, progress, ..Resource::new(route, at(0)) }
    }

    /// Would break: an estimate where there is nothing to go by: what has not begun, a report of long ago, a copy that stands still or is to
    /// be tried again.
    #[test]
    fn the_time_left_is_told_only_where_something_tells_it() {
        use ResourceState::{Done, Queued, Running};
        let left = |resources: &[Resource]| ProgressView::of_resources(resources, at(100)).seconds_left;
        let running = resource(Running, 200, Some(100), 98);
        assert_eq!(left(std::slice::from_ref(&running)), Some(8));
        assert_eq!(left(&[running.clone(), resource(Done, 1000, None, 50)]), Some(8));
        assert_eq!(left(&[running.clone(), resource(Running, 600, Some(300), 99)]), Some(3), "side by side");
        let failing = Progress { error: Some("503".into()), ..running.progress.clone() };
        for other in [
            resource(Queued, 0, None, 0),
            resource(Running, 0, None, 99),
            resource(Running, 200, Some(100), 60),
            Resource { progress: failing, ..running.clone() },
        ] {
            assert_eq!(left(&[running.clone(), other.clone()]), None, "{other:?}");
        }
        assert_eq!(left(&[resource(Running, 200, Some(0), 99)]), None, "it stands still");
        assert_eq!(left(&[]), None);
        let view = ProgressView::of_resources(&[running, resource(Done, 1000, None, 50)], at(100));
        assert_eq!((view.bytes_done, view.bytes_total), (1400, Some(2200)));
    }

    /// Would break: a run of thousands whose time is told by its first few, or before its list has ended.
    #[test]
    fn of_many_resources_the_time_is_told_by_those_that_are_done() {
        let head = TaskHead {
            id: TaskId::derive(RuleId(1), at(0), "x"),
            instance: "a".parse().unwrap(),
            rule: "r".parse().unwrap(),
            trigger: Trigger::Manual,
            created: at(0),
        };
        let left = |total, unchanged, found| {
            let counts = Counts { found, unchanged, ..Counts::default() };
            let task = Task {
                head: head.clone(),
                counts,
                total,
                repositories: 1,
                started: Some(at(10)),
                ended: None,
                error: None,
                cancelled: None,
                stopped: false,
                compared: 0,
            };
            ProgressView::of_counts(&task, at(110)).seconds_left
        };
        assert_eq!(left(Some(1000), 500, 1000), Some(100));
        assert_eq!(left(Some(1000), 19, 1000), None);
        assert_eq!(left(None, 500, 1000), None, "the list goes on");
    }
}
