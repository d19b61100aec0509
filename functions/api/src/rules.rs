//! Rules, each below its source instance.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Response, StatusCode},
    response::IntoResponse as _,
};
use serde::Deserialize;
use serde_json::Value;
use transship_model::{
    ArtifactType, Caller, InstanceName, Overlap, Owner, Pattern, Role, Rule, RuleId, RuleName, Source, Target, input,
    overlap::{overlapping, warning_of},
};
use transship_state::{AuditEntry, Catalog, Change, Draft, Entry, Saved, Snapshot, first_runs};
use utoipa::IntoParams;

use crate::{
    Api,
    audit::differences,
    body::{Document, Reader, merge},
    conditions::{Conditions, shown, tagged},
    failure::{Failure, changeable, permit_between},
    instances,
    requests::{By, Page, Path, Query, cursor, fifty, limit},
    view::{ListView, RuleInput, RuleView},
};

/// Which rules are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Selection {
    /// Only those that write this instance.
    target: Option<InstanceName>,
    /// Only those that are enabled, or that are not.
    enabled: Option<bool>,
    /// At most so many items, 1 to 1000; 50 by default.
    #[serde(default = "fifty", deserialize_with = "limit")]
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: usize,
    /// Where it begins: `next` of the page before.
    #[serde(default, deserialize_with = "cursor")]
    #[param(min_length = 1, max_length = 1024)]
    cursor: Option<String>,
}

/// Lists the rules of a source instance, by name.
#[utoipa::path(
    get, path = "/v1/instances/{instance}/rules", tag = "rules", operation_id = "listRules",
    security(("token" = ["viewer"])),
    params(("instance" = InstanceName, Path, description = "The source instance"), Selection),
    responses((status = 200, description = "A page of rules", body = ListView<RuleView>))
)]
pub(crate) async fn list(
    State(api): State<Api>,
    By(caller): By,
    Path(instance): Path<InstanceName>,
    Query(selection): Query<Selection>,
) -> Result<Json<ListView<RuleView>>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    instances::known(&catalog, &caller, Role::Viewer, &instance)?;
    let Selection { target, enabled, limit, cursor } = selection;
    let is_meant = |rule: &&Arc<Rule>| {
        target.as_ref().is_none_or(|target| rule.target.instance == *target)
            && enabled.is_none_or(|enabled| rule.enabled == enabled)
    };
    let rules = catalog.rules_of(&instance).filter(is_meant);
    let (items, next) = Page { limit, cursor }.cut(rules, |rule| rule.name.to_string());
    let view = |rule: &Arc<Rule>| RuleView::new(rule, catalog.stamp(&Entry::of_rule(rule)));
    Ok(Json(ListView::cut(items.into_iter().map(|rule| (rule.name.to_string(), view(rule))), next)))
}

/// Shows a rule.
#[utoipa::path(
    get, path = "/v1/instances/{instance}/rules/{rule}", tag = "rules", operation_id = "readRule",
    security(("token" = ["viewer"])),
    params(
        ("instance" = InstanceName, Path, description = "The source instance"),
        ("rule" = RuleName, Path, description = "The rule"),
    ),
    responses(
        (status = 200, description = "The rule", body = RuleView, headers(("etag" = String, description = "Its revision"))),
        (status = 304, description = "It is what If-None-Match names"),
    )
)]
pub(crate) async fn read(
    State(api): State<Api>,
    By(caller): By,
    Path((instance, name)): Path<(InstanceName, RuleName)>,
    conditions: Conditions,
) -> Result<Response<Body>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    let rule = known(&catalog, &caller, Role::Viewer, &instance, &name)?;
    let view = RuleView::new(&rule, catalog.stamp(&Entry::of_rule(&rule)));
    Ok(shown(&conditions, rule.revision, RuleView { warnings: warnings(&catalog, &caller, &rule), ..view }))
}

/// What to tell of other rules that may write the same tags. Those whose source is none of the caller's are counted and not named.
fn warnings(catalog: &Snapshot, caller: &Caller, rule: &Rule) -> Vec<String> {
    /// No answer names more.
    const NAMED: usize = 10;
    let all = overlapping(rule, catalog.rules().map(|rule| &**rule));
    let visible = all.iter().filter(|overlap| caller.sees(&overlap.other.source.instance));
    let mut warnings: Vec<String> = visible.take(NAMED).map(Overlap::warning).collect();
    match (all.len() - warnings.len(), warnings.is_empty()) {
        (0, _) => {}
        (1, true) => warnings.push(warning_of(rule, "a rule of an instance that is not yours")),
        (more, true) => warnings.push(warning_of(rule, &format!("{more} rules of instances that are not yours"))),
        (more, false) => warnings.push(warning_of(rule, &format!("{more} more rules"))),
    }
    warnings
}

/// How a rule begins.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Beginning {
    /// Whether a rule that is new, or enabled for the first time, begins with a full run.
    #[serde(default = "yes")]
    #[param(default = true)]
    start: bool,
}

fn yes() -> bool {
    true
}

/// Makes a rule, or replaces it. A new one that is enabled begins with a full run.
#[utoipa::path(
    put, path = "/v1/instances/{instance}/rules/{rule}", tag = "rules", operation_id = "putRule",
    security(("token" = ["operator"])),
    params(
        ("instance" = InstanceName, Path, description = "The source instance"),
        ("rule" = RuleName, Path, description = "The rule"),
        Beginning,
    ),
    request_body = RuleInput,
    responses(
        (status = 200, description = "It is this now", body = RuleView, headers(("etag" = String, description = "Its revision"))),
        (status = 201, description = "It is new", body = RuleView, headers(("etag" = String, description = "Its revision"))),
    )
)]
pub(crate) async fn put(
    State(api): State<Api>,
    By(caller): By,
    Path((instance, name)): Path<(InstanceName, RuleName)>,
    Query(beginning): Query<Beginning>,
    conditions: Conditions,
    Document(document): Document,
) -> Result<Response<Body>, Failure> {
    change(&api, &caller, (&instance, &name), beginning, &conditions, |_| Ok(document.clone())).await
}

/// Changes a rule: a JSON merge patch (RFC 7396) of what it is.
#[utoipa::path(
    patch, path = "/v1/instances/{instance}/rules/{rule}", tag = "rules", operation_id = "patchRule",
    security(("token" = ["operator"])),
    params(
        ("instance" = InstanceName, Path, description = "The source instance"),
        ("rule" = RuleName, Path, description = "The rule"),
        Beginning,
    ),
    request_body(content = Object, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "It is this now", body = RuleView, headers(("etag" = String, description = "Its revision"))))
)]
pub(crate) async fn patch(
    State(api): State<Api>,
    By(caller): By,
    Path((instance, name)): Path<(InstanceName, RuleName)>,
    Query(beginning): Query<Beginning>,
    conditions: Conditions,
    Document(patch): Document,
) -> Result<Response<Body>, Failure> {
    let patched = |current: Option<&Arc<Rule>>| {
        let current = current.ok_or_else(|| no_rule(&instance, &name))?;
        let mut document = serde_json::to_value(RuleInput::of(current)).unwrap_or_default();
        merge(&mut document, &patch);
        Ok(document)
    };
    change(&api, &caller, (&instance, &name), beginning, &conditions, patched).await
}

/// Deletes a rule, and with it its log. What is on its way by it is skipped.
#[utoipa::path(
    delete, path = "/v1/instances/{instance}/rules/{rule}", tag = "rules", operation_id = "deleteRule",
    security(("token" = ["operator"])),
    params(
        ("instance" = InstanceName, Path, description = "The source instance"),
        ("rule" = RuleName, Path, description = "The rule"),
    ),
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn delete(
    State(api): State<Api>,
    By(caller): By,
    Path((instance, name)): Path<(InstanceName, RuleName)>,
    conditions: Conditions,
) -> Result<Response<Body>, Failure> {
    let entry = Entry::Rule(instance.clone(), name.clone());
    let decide = |now: &Snapshot, draft: &mut Draft<'_>| -> Result<(), Failure> {
        let rule = known(now, &caller, Role::Operator, &instance, &name)?;
        permit_between(&caller, Role::Operator, &instance, &rule.target.instance)?;
        conditions.check(Some(rule.revision))?;
        changeable(now.stamp(&entry), &entry)?;
        draft.delete(&entry);
        draft.also(api.audit.op(&AuditEntry::new(&caller, "rule.delete", rule.path(), String::new()))?);
        Ok(())
    };
    api.catalog.edit(decide).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Makes or changes a rule. `document` says what it is to be, given what it is.
async fn change(
    api: &Api,
    caller: &Caller,
    (instance, name): (&InstanceName, &RuleName),
    Beginning { start }: Beginning,
    conditions: &Conditions,
    document: impl Fn(Option<&Arc<Rule>>) -> Result<Value, Failure>,
) -> Result<Response<Body>, Failure> {
    let entry = Entry::Rule(instance.clone(), name.clone());
    let decide = |now: &Snapshot, draft: &mut Draft<'_>| -> Result<Saved, Failure> {
        instances::known(now, caller, Role::Operator, instance)?;
        let (before, stamp) = (now.rule_named(instance, name), now.stamp(&entry));
        if let Some(before) = before {
            permit_between(caller, Role::Operator, instance, &before.target.instance)?;
        }
        conditions.check(stamp.map(|stamp| stamp.revision))?;
        changeable(stamp, &entry)?;
        let rule = wanted(now, caller, (instance, name), &document(before)?)?;
        if before.is_none() && now.rules().count() >= Catalog::MAX_RULES {
            let detail = format!("there are {} rules already, and no more are possible", Catalog::MAX_RULES);
            return Err(Failure::new(409, detail));
        }
        let saved = draft.put_rule(&rule, &Owner::Api, start);
        if saved.change.is_some() {
            let action = if before.is_some() { "rule.change" } else { "rule.create" };
            let details = differences(before.map(|before| RuleInput::of(before)).as_ref(), &RuleInput::of(&rule));
            draft.also(api.audit.op(&AuditEntry::new(caller, action, rule.path(), details))?);
        }
        Ok(saved)
    };
    let (after, saved) = api.catalog.edit(decide).await?;
    let rule = after.rule_named(instance, name).ok_or_else(|| no_rule(instance, name))?;
    let first_run = first_runs::start_one(&api.catalog, &after, &api.jobs, &api.events, rule).await?;
    let warnings = warnings(&after, caller, rule);
    let view = RuleView { first_run, warnings, ..RuleView::new(rule, after.stamp(&entry)) };
    let status = if saved.change == Some(Change::Created) { StatusCode::CREATED } else { StatusCode::OK };
    Ok(tagged(status, saved.revision, view))
}

/// What a rule is to be, if the caller may have it so.
fn wanted(
    catalog: &Snapshot,
    caller: &Caller,
    (instance, name): (&InstanceName, &RuleName),
    document: &Value,
) -> Result<Rule, Failure> {
    let rule = read_document(catalog, caller, (instance, name), document)?;
    permit_between(caller, Role::Operator, instance, &rule.target.instance)?;
    Ok(rule)
}

/// Reads what a rule is to be, and checks it. Who may have it so is another question.
pub(crate) fn read_document(
    catalog: &Snapshot,
    caller: &Caller,
    (instance, name): (&InstanceName, &RuleName),
    document: &Value,
) -> Result<Rule, Failure> {
    const KEYS: &[&str] =
        &["name", "description", "source", "target", "overwrite", "propagate_deletions", "referrers", "schedule", "enabled"];
    Reader::read(document, KEYS, |reader| {
        let named = reader.or("name", name.clone());
        if named.as_ref().is_some_and(|named| named != name) {
            reader.note("name", format!("the path says {name}, and a name stays: leave it out"));
        }
        let description = reader.checked("description", input::description);
        let source = source(reader, instance);
        let target = target(reader, catalog, caller);
        let flag = |key, default| reader.or(key, default);
        let (overwrite, enabled) = (flag("overwrite", false), flag("enabled", true));
        let (propagate_deletions, referrers) = (flag("propagate_deletions", false), flag("referrers", true));
        let schedule = reader.checked("schedule", str::parse);
        let rule = Rule {
            id: RuleId(0),
            revision: 0,
            name: name.clone(),
            description: description?.unwrap_or_default(),
            source: source?,
            target: target?,
            overwrite: overwrite?,
            propagate_deletions: propagate_deletions?,
            referrers: referrers?,
            schedule: schedule?,
            enabled: enabled?,
        };
        if let Err(error) = rule.check() {
            reader.note("target", error);
        }
        let (from, to) = (catalog.instance(&rule.source.instance), catalog.instance(&rule.target.instance));
        if let Some(Err(error)) = to.map(|target| rule.check_at(target.kind)) {
            reader.note("target", error);
        }
        if let (Some(from), Some(to), false) = (from, to, rule.source.instance == rule.target.instance)
            && let Err(error) = rule.check_between(&from.endpoint, &to.endpoint)
        {
            reader.note("target", error);
        }
        Some(rule)
    })
}

fn source(reader: &Reader<'_>, path: &InstanceName) -> Option<Source> {
    if !reader.has("source") {
        reader.note("source", "is missing: what to copy, like { \"namespace\": \"team\" }");
        return None;
    }
    let keys = reader.below("source", &["instance", "namespace", "repository", "tag", "types"])?;
    let instance = keys.or("instance", path.clone());
    if instance.as_ref().is_some_and(|instance| instance != path) {
        keys.note("instance", format!("the path says {path}: leave it out"));
    }
    let example = "a path like 'team', '*' for all repositories, or '' for those without a slash";
    let namespace = keys.needed("namespace", example, str::parse);
    let pattern = |key| keys.checked(key, str::parse::<Pattern>).map(Option::unwrap_or_default);
    let (repository, tag) = (pattern("repository"), pattern("tag"));
    let types = keys.or::<Vec<ArtifactType>>("types", Vec::new());
    if types.as_ref().is_some_and(|types| types.iter().collect::<BTreeSet<_>>().len() < types.len()) {
        keys.note("types", "a type is given twice");
    }
    Some(Source { instance: instance?, namespace: namespace?, repository: repository?, tag: tag?, types: types? })
}

fn target(reader: &Reader<'_>, catalog: &Snapshot, caller: &Caller) -> Option<Target> {
    if !reader.has("target") {
        reader.note("target", "is missing: where to copy it, like { \"instance\": \"prod\" }");
        return None;
    }
    let keys = reader.below("target", &["instance", "namespace", "flatten"])?;
    let instance: Option<InstanceName> = keys.needed("instance", "the instance that is written to", str::parse);
    // Whether an instance that is not theirs exists is not told.
    if let Some(name) = instance.as_ref().filter(|name| !caller.sees(name) || catalog.instance(name).is_none()) {
        keys.note("instance", format!("there is no instance {name}: GET /v1/instances lists them"));
    }
    let namespace = keys.checked("namespace", str::parse);
    let flatten = keys.or("flatten", false);
    Some(Target { instance: instance?, namespace: namespace?, flatten: flatten? })
}

fn no_rule(instance: &InstanceName, name: &RuleName) -> Failure {
    Failure::new(404, format!("instance {instance} has no rule {name}: GET /v1/instances/{instance}/rules lists them"))
}

/// A rule whose source instance the caller may do what the role may with.
pub(crate) fn known(
    catalog: &Snapshot,
    caller: &Caller,
    role: Role,
    instance: &InstanceName,
    name: &RuleName,
) -> Result<Arc<Rule>, Failure> {
    instances::known(catalog, caller, role, instance)?;
    catalog.rule_named(instance, name).cloned().ok_or_else(|| no_rule(instance, name))
}
