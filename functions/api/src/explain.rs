//! Explanations: why something was, or was not, synchronised.

use std::sync::Arc;

use axum::{Json, body::Bytes, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use transship_model::{
    Digest, InstanceName, Outcome, Place, Reason, Reference, Repository, Resource, Role, Rule, RuleName, Tag, Task, TaskId,
    Trigger, explain as reason_of,
};
use utoipa::ToSchema;

use crate::{Api, failure::Failure, instances, requests::By};

/// So many of a rule's tasks are looked through, the newest first,
const TASKS: usize = 200;
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
    /// Each rule of the instance, by name, whose target the caller may see.
    pub rules: Vec<RuleSays>,
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
    /// What its last tasks did about it, the newest first.
    pub tasks: Vec<TaskSays>,
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
    let mut rules = Vec::new();
    // A rule leads to a target that the caller has to be allowed to see.
    let is_seen = |rule: &&Arc<Rule>| caller.sees(&rule.target.instance);
    let hidden = catalog.rules_of(&place.instance).filter(|rule| !is_seen(rule)).count();
    for rule in catalog.rules_of(&place.instance).filter(is_seen) {
        let reason = reason_of(rule, &place, &origin);
        let mut says = RuleSays::new(rule, &place, reason);
        for task in api.log.tasks(rule.id, None, TASKS).await?.items {
            let of_push = matches!(&task.head.trigger, Trigger::Push { resource } if *resource == place.name());
            let of_it = of_push
                || matches!(
                    &task.head.trigger,
                    Trigger::Deletion { resource } | Trigger::Attachment { resource } if *resource == place.name()
                );
            if of_push {
                last_push = last_push.max(Some(task.head.created));
            }
            if says.tasks.len() < TOLD && (of_it || task.head.trigger.scans()) {
                let resource = api.log.resource(&task.head.id, &place).await?;
                says.tasks
                    .extend(resource.or_else(|| of_it.then(|| unknown(&task, &place))).map(|resource| told(task, resource)));
            }
        }
        rules.push(says);
    }
    let summary = summary(&place, &rules, hidden, last_push);
    Ok(Json(ExplainView { summary, last_push, rules }))
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
        }
    }
}

/// What a task is about that has no resources yet.
fn unknown(task: &Task, place: &Place) -> Resource {
    let route = transship_model::Route { source: place.clone(), target: place.clone() };
    Resource::new(route, task.head.created)
}

fn told(task: Task, resource: Resource) -> TaskSays {
    TaskSays {
        task: task.head.id,
        trigger: task.head.trigger.to_string(),
        created: task.head.created,
        outcome: resource.result,
        error: resource.progress.error,
    }
}

/// What it comes to; `hidden` rules of the instance lead to where the caller does not see.
fn summary(place: &Place, rules: &[RuleSays], hidden: usize, last_push: Option<Timestamp>) -> String {
    let seen = summary_of_seen(place, rules, last_push);
    match (hidden, rules.is_empty()) {
        (0, _) => seen,
        (_, true) => format!("no rule of {} that you may see: {hidden} lead to instances that are not yours", place.instance),
        (_, false) => format!("{seen}; {hidden} more lead to instances that are not yours, and are not looked at"),
    }
}

fn summary_of_seen(place: &Place, rules: &[RuleSays], last_push: Option<Timestamp>) -> String {
    let selecting = rules.iter().filter(|rule| rule.selected).count();
    match (rules.len(), selecting, last_push) {
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
