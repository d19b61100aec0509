//! Explanations: why something was, or was not, synchronised.

use std::sync::Arc;

use axum::{Json, body::Bytes, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use transship_model::{
    Digest, InstanceName, Outcome, Place, Reason, Reference, Repository, Resource, Role, Rule, RuleName, Tag, Task, TaskId,
    Trigger, explain as reason_of,
};
use transship_state::Snapshot;
use utoipa::ToSchema;

use crate::{Api, failure::Failure, instances, requests::By};

/// So many rules are told of at most, those first that select it or would if it were no echo;
const RULES: usize = 200;
/// of so many of these the tasks are looked through:
const WITH_TASKS: usize = 20;
/// so many of each rule, the newest first,
const TASKS: usize = 200;
/// in so many full runs of these it is looked for,
const RUNS: usize = 20;
/// and of so many it is told what they did.
const TOLD: usize = 3;

/// What is to be explained.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainInput {
    /// The instance that it was pushed to.
    pub instance: InstanceName,
    /// The repository.
    pub repository: Repository,
    /// The tag; without it, the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// The digest, of something without a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// Why something was, or was not, synchronised.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExplainView {
    /// What it comes to.
    pub summary: String,
    /// When a push of it was told last, as far as that is known: only those that met a rule are remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_push: Option<Timestamp>,
    /// The rules of the instance whose target the caller may see: by name, those first that select it. At most 200.
    #[schema(max_items = 200)]
    pub rules: Vec<RuleSays>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_none")]
    pub more: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_none(more: &usize) -> bool {
    *more == 0
}

/// What a rule has to say.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RuleSays {
    /// The rule's name.
    pub rule: RuleName,
    /// Whether it selects it.
    pub selected: bool,
    /// Why, or why not.
    #[serde(flatten)]
    pub reason: Reason,
    /// The same in words.
    pub words: String,
    /// Where it would be copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Place>,
    /// What its last tasks did about it, the newest first. Those of a rule that does not select it are not looked at.
    pub tasks: Vec<TaskSays>,
    /// Whether its tasks were not looked at either, because 20 rules before it select it too: `GET
    /// /v1/instances/{instance}/rules/{rule}/tasks` lists them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tasks_not_read: bool,
}

/// What a task did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TaskSays {
    /// The task.
    pub task: TaskId,
    /// Why it ran, in words.
    pub trigger: String,
    /// When it was triggered.
    pub created: Timestamp,
    /// How it ended; absent as long as it has not.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why the last attempt did not end it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Explains which rules select something and why the others do not, and what the last tasks did about it.
#[utoipa::path(
    post, path = "/v1/explain", tag = "rules", operation_id = "explain", security(("token" = ["viewer"])),
    request_body = ExplainInput,
    responses((status = 200, description = "The explanation", body = ExplainView))
)]
pub(crate) async fn explain(State(api): State<Api>, By(caller): By, body: Bytes) -> Result<Json<ExplainView>, Failure> {
    let input: ExplainInput = serde_json::from_slice(&body)
        .map_err(|error| Failure::new(400, format!("the body does not say what is to be explained: {error}")))?;
    let reference = match (input.tag, input.digest) {
        (Some(tag), _) => Reference::Tag(tag),
        (None, Some(digest)) => Reference::Digest(digest),
        (None, None) => return Err(Failure::new(400, "give a tag or a digest")),
    };
    let place = Place { instance: input.instance, repository: input.repository, reference };
    let catalog = api.catalog.snapshot().await?;
    instances::known(&catalog, &caller, Role::Viewer, &place.instance)?;
    let origin = api.origins.get(&place).await?;
    let mut last_push = origin.pushed.as_ref().map(|pushed| pushed.version.time);
    // A rule leads to a target that the caller has to be allowed to see.
    let is_seen = |rule: &&Arc<Rule>| caller.sees(&rule.target.instance);
    let hidden = catalog.rules_of(&place.instance).filter(|rule| !is_seen(rule)).count();
    let reasoned = catalog.rules_of(&place.instance).filter(is_seen).map(|rule| {
        let reason = reason_of(rule, &place, &origin);
        let problem = too_deep(&catalog, rule, &place).filter(|_| reason.is_selected());
        (rule, problem.map_or(reason, |problem| Reason::TargetName { problem }))
    });
    // An echo may be what one of the rule's tasks has made.
    let (near, far): (Vec<_>, Vec<_>) =
        reasoned.partition(|(_, reason)| reason.is_selected() || matches!(reason, Reason::Echo | Reason::TargetName { .. }));
    let (all, of_interest) = (near.len() + far.len(), near.len());
    let selecting = near.iter().filter(|(_, reason)| reason.is_selected()).count();
    let mut rules = Vec::new();
    for (at, (rule, reason)) in near.into_iter().chain(far).take(RULES).enumerate() {
        let mut says = RuleSays::new(rule, &place, reason);
        if at < of_interest.min(WITH_TASKS) {
            let (tasks, pushed) = last_tasks(&api, rule, &place).await?;
            says.tasks = tasks;
            last_push = last_push.max(pushed);
        } else {
            says.tasks_not_read = at < of_interest;
        }
        rules.push(says);
    }
    let summary = summary(&place, (all, selecting), hidden, last_push);
    let more = all - rules.len();
    Ok(Json(ExplainView { summary, last_push, rules, more }))
}

/// What a rule's last tasks did about something, and when the last push of it was that one of them is of.
async fn last_tasks(api: &Api, rule: &Rule, place: &Place) -> Result<(Vec<TaskSays>, Option<Timestamp>), Failure> {
    let (mut told, mut last_push, mut runs) = (Vec::new(), None, 0);
    for task in api.log.tasks(rule.id, None, TASKS).await?.items {
        let trigger = &task.head.trigger;
        let of_push = matches!(trigger, Trigger::Push { resource } if *resource == place.name());
        let of_it = of_push
            || matches!(
                trigger,
                Trigger::Deletion { resource } | Trigger::Attachment { resource } if *resource == place.name()
            );
        if of_push {
            last_push = last_push.max(Some(task.head.created));
        }
        let is_run = trigger.scans() && runs < RUNS;
        if told.len() < TOLD && (of_it || is_run) {
            runs += usize::from(!of_it);
            let resource = api.log.resource(&task.head.id, place).await?;
            let resource = resource.or_else(|| of_it.then(|| unknown(&task, place)));
            told.extend(resource.map(|resource| says_of(task, resource)));
        }
    }
    Ok((told, last_push))
}

/// Why the target's registry has no place for a repository, if its name there is too deep.
fn too_deep(catalog: &Snapshot, rule: &Rule, place: &Place) -> Option<String> {
    let (kind, to) = (catalog.instance(&rule.target.instance)?.kind, rule.target_repository(&place.repository)?.ok()?);
    rule.check_depth(kind, &to).err().map(|error| error.to_string())
}

impl RuleSays {
    fn new(rule: &Rule, place: &Place, reason: Reason) -> Self {
        let target = rule.target_repository(&place.repository).and_then(Result::ok).map(|repository| Place {
            instance: rule.target.instance.clone(),
            repository,
            reference: place.reference.clone(),
        });
        Self {
            rule: rule.name.clone(),
            selected: reason.is_selected(),
            words: reason.words(rule),
            target: target.filter(|_| reason.is_selected()),
            reason,
            tasks: Vec::new(),
            tasks_not_read: false,
        }
    }
}

/// What a task is about that has no resources yet.
fn unknown(task: &Task, place: &Place) -> Resource {
    let route = transship_model::Route { source: place.clone(), target: place.clone() };
    Resource::new(route, task.head.created)
}

fn says_of(task: Task, resource: Resource) -> TaskSays {
    TaskSays {
        task: task.head.id,
        trigger: task.head.trigger.to_string(),
        created: task.head.created,
        outcome: resource.result,
        error: resource.progress.error,
    }
}

/// What it comes to where so many rules select it of so many; `hidden` rules of the instance lead to where the caller does not see.
fn summary(place: &Place, (all, selecting): (usize, usize), hidden: usize, last_push: Option<Timestamp>) -> String {
    let seen = summary_of_seen(place, (all, selecting), last_push);
    match (hidden, all) {
        (0, _) => seen,
        (_, 0) => format!("no rule of {} that you may see: {hidden} lead to instances that are not yours", place.instance),
        _ => format!("{seen}; {hidden} more lead to instances that are not yours, and are not looked at"),
    }
}

fn summary_of_seen(place: &Place, rules: (usize, usize), last_push: Option<Timestamp>) -> String {
    match (rules.0, rules.1, last_push) {
        (0, ..) => format!("no rule has {} as its source", place.instance),
        (all, 0, _) => format!("none of the {all} rules of {} selects it", place.instance),
        (_, n, Some(_)) => format!("{n} of the rules of {} select it", place.instance),
        (_, n, None) => format!(
            "{n} of the rules of {} select it, and no push of it is known: does the registry notify /hooks/{}? What a rule selects \
             now it brings with a full run",
            place.instance, place.instance
        ),
    }
}
