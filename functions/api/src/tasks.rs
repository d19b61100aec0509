//! Tasks and their resources: what was, is and will be done.

use std::collections::BTreeSet;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Response, StatusCode, header},
    response::IntoResponse as _,
};
use jiff::Timestamp;
use serde::Deserialize;
use transship_model::{
    Caller, Happening, InstanceName, Job, RetryJob, Role, RuleName, Task, TaskEvent, TaskHead, TaskId, TaskStatus, Trigger,
};
use transship_state::{Selection, Snapshot, StateError, TaskLog, dispatch};
use utoipa::IntoParams;

use crate::{
    Api,
    failure::{Failure, permit, permit_between},
    instances,
    requests::{By, Page, Path, Query, cursor, fifty, limit, time},
    rights::IdempotencyKey,
    rules,
    view::{ListView, ProgressView, StartedView, TaskView},
};

/// Lists the tasks of a rule, the newest first.
#[utoipa::path(
    get, path = "/v1/instances/{instance}/rules/{rule}/tasks", tag = "tasks", operation_id = "listTasksOfRule",
    security(("token" = ["viewer"])),
    params(
        ("instance" = InstanceName, Path, description = "The source instance"),
        ("rule" = RuleName, Path, description = "The rule"),
        Page,
    ),
    responses((status = 200, description = "A page of tasks", body = ListView<TaskView>))
)]
pub(crate) async fn list_of_rule(
    State(api): State<Api>,
    By(caller): By,
    Path((instance, rule)): Path<(InstanceName, RuleName)>,
    Query(page): Query<Page>,
) -> Result<Json<ListView<TaskView>>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    let rule = rules::known(&catalog, &caller, Role::Viewer, &instance, &rule)?;
    let listing = api.log.tasks(rule.id, page.cursor, page.limit).await?;
    Ok(Json(ListView::cut(listing.items.into_iter().map(|task| (task.head.id.to_string(), TaskView::new(task))), listing.next)))
}

/// Which tasks are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Of this source instance.
    instance: Option<InstanceName>,
    /// Of this rule of the instance.
    rule: Option<RuleName>,
    /// With this status.
    status: Option<TaskStatus>,
    /// Triggered then or later: RFC 3339, to the millisecond.
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Triggered before that: RFC 3339, to the millisecond.
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// At most so many items, 1 to 1000; 50 by default.
    #[serde(default = "fifty", deserialize_with = "limit")]
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: usize,
    /// Where the page begins: `next` of the page before.
    #[serde(default, deserialize_with = "cursor")]
    #[param(min_length = 1, max_length = 1024)]
    cursor: Option<String>,
}

/// Lists tasks, the newest first. A page may hold fewer than `limit`, even none, before the end: `next` leads on.
#[utoipa::path(
    get, path = "/v1/tasks", tag = "tasks", operation_id = "listTasks", security(("token" = ["viewer"])),
    params(Filter),
    responses((status = 200, description = "A page of tasks", body = ListView<TaskView>))
)]
pub(crate) async fn list(
    State(api): State<Api>,
    By(caller): By,
    Query(filter): Query<Filter>,
) -> Result<Json<ListView<TaskView>>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    let Filter { instance, rule, status, since, until, limit, cursor } = filter;
    let after = cursor.map(|cursor| {
        cursor.parse::<TaskId>().map_err(|_| Failure::new(400, "the query: a cursor is the `next` of the page before"))
    });
    let rule = match (&instance, rule) {
        (Some(instance), Some(rule)) => Some(rules::known(&catalog, &caller, Role::Viewer, instance, &rule)?.id),
        (None, Some(_)) => {
            let detail = "the query: `rule` needs `instance`, because rules of several instances may have one name";
            return Err(Failure::new(400, detail));
        }
        (_, None) => None,
    };
    let instances = match instance {
        Some(instance) => {
            instances::known(&catalog, &caller, Role::Viewer, &instance)?;
            BTreeSet::from([instance])
        }
        None => catalog.instances().map(|instance| instance.name.clone()).filter(|name| caller.sees(name)).collect(),
    };
    let selection = Selection { instances, rule, status, since, until };
    let listing = api.log.list(&selection, after.transpose()?.as_ref(), limit).await?;
    Ok(Json(ListView::cut(listing.items.into_iter().map(|task| (task.head.id.to_string(), TaskView::new(task))), listing.next)))
}

/// Starts a full run of a rule.
#[utoipa::path(
    post, path = "/v1/instances/{instance}/rules/{rule}/sync", tag = "tasks", operation_id = "syncRule",
    security(("token" = ["operator"])),
    params(
        ("instance" = InstanceName, Path, description = "The source instance"),
        ("rule" = RuleName, Path, description = "The rule"),
        IdempotencyKey,
    ),
    responses((status = 202, description = "It has begun", body = StartedView, headers(("location" = String, description = "The task"))))
)]
pub(crate) async fn sync(
    State(api): State<Api>,
    By(caller): By,
    Path((instance, rule)): Path<(InstanceName, RuleName)>,
) -> Result<Response<Body>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    let rule = rules::known(&catalog, &caller, Role::Operator, &instance, &rule)?;
    permit_between(&caller, Role::Operator, &instance, &rule.target.instance)?;
    if !rule.enabled {
        return Err(Failure::new(409, format!("rule {} is disabled: enable it first", rule.path())));
    }
    let created = Timestamp::now();
    let id = TaskId::derive(rule.id, created, &format!("{created} {:016x}", fastrand::u64(..)));
    let task = TaskHead { id: id.clone(), instance, rule: rule.name.clone(), trigger: Trigger::Manual, created };
    api.audit.note(&caller, "rule.sync", rule.path(), format!("task {id}")).await?;
    let (job, begun) = dispatch::full_run(task);
    start(&api, job, begun).await
}

/// Reads a task.
#[utoipa::path(
    get, path = "/v1/tasks/{task}", tag = "tasks", operation_id = "readTask", security(("token" = ["viewer"])),
    params(("task" = TaskId, Path, description = "The task")),
    responses((status = 200, description = "The task", body = TaskView))
)]
pub(crate) async fn read(State(api): State<Api>, By(caller): By, Path(id): Path<TaskId>) -> Result<Json<TaskView>, Failure> {
    let task = known(&api.log, &caller, &id).await?;
    Ok(Json(view(&api.log, task).await?))
}

/// A task with how far it is, while it runs.
pub(crate) async fn view(log: &TaskLog, task: Task) -> Result<TaskView, StateError> {
    let progress = match task.ended {
        Some(_) => None,
        None if task.total.is_some() && task.counts.found.saturating_sub(task.compared) <= ProgressView::FEW => {
            let resources = log.resources(&task.head.id, None, ProgressView::FEW as usize).await?.items;
            Some(ProgressView::of_resources(&resources, Timestamp::now()))
        }
        None => Some(ProgressView::of_counts(&task, Timestamp::now())),
    };
    Ok(TaskView { progress, ..TaskView::new(task) })
}

/// Ends a task before its time: what has an outcome keeps it, what has none is skipped. Workers see it within about twenty seconds; the task
/// has ended when `ended` is there.
#[utoipa::path(
    post, path = "/v1/tasks/{task}/cancel", tag = "tasks", operation_id = "cancelTask",
    security(("token" = ["operator"])),
    params(("task" = TaskId, Path, description = "The task")),
    responses((status = 202, description = "It will end", body = StartedView))
)]
pub(crate) async fn cancel(
    State(api): State<Api>,
    By(caller): By,
    Path(id): Path<TaskId>,
) -> Result<(StatusCode, Json<StartedView>), Failure> {
    let task = known(&api.log, &caller, &id).await?;
    let catalog = api.catalog.snapshot().await?;
    permit_both(&catalog, &caller, &task)?;
    if task.ended.is_some() {
        return Err(Failure::new(409, format!("task {id} has ended ({}): there is nothing to cancel", task.status())));
    }
    api.audit.note(&caller, "task.cancel", id.to_string(), format!("rule {}/{}", task.head.instance, task.head.rule)).await?;
    let by = caller.name.clone();
    api.events.send(&[TaskEvent { task: task.head, at: Timestamp::now(), what: Happening::Cancelled { by } }]).await?;
    Ok((StatusCode::ACCEPTED, Json(StartedView { task: id })))
}

/// Makes again, in a task of its own, what failed or was cancelled in a task, under the rule as it is now. Where the source was not listed
/// whole, that is a full run.
#[utoipa::path(
    post, path = "/v1/tasks/{task}/retry", tag = "tasks", operation_id = "retryTask",
    security(("token" = ["operator"])),
    params(("task" = TaskId, Path, description = "The task in which something failed"), IdempotencyKey),
    responses((status = 202, description = "It has begun", body = StartedView, headers(("location" = String, description = "The new task"))))
)]
pub(crate) async fn retry(State(api): State<Api>, By(caller): By, Path(of): Path<TaskId>) -> Result<Response<Body>, Failure> {
    let task = known(&api.log, &caller, &of).await?;
    let catalog = api.catalog.snapshot().await?;
    permit_both(&catalog, &caller, &task)?;
    if task.ended.is_none() {
        return Err(Failure::new(409, format!("task {of} has not ended: wait for it, or POST /v1/tasks/{of}/cancel")));
    }
    let Some(rule) = catalog.rule(of.rule()) else {
        return Err(Failure::new(409, format!("the rule of task {of} is gone: there is nothing to make it again under")));
    };
    if !rule.enabled {
        return Err(Failure::new(409, format!("rule {} is disabled: enable it first", rule.path())));
    }
    // What it did not list, because it could not or was cancelled, is not known.
    let is_whole = task.error.is_none() && !task.stopped;
    if is_whole && task.counts.failed == 0 && task.counts.cancelled == 0 {
        let path = format!("/v1/instances/{}/rules/{}/sync", rule.source.instance, rule.name);
        return Err(Failure::new(
            409,
            format!("nothing failed in task {of}, and nothing was cancelled: POST {path} starts a full run"),
        ));
    }
    let created = Timestamp::now();
    let id = TaskId::derive(rule.id, created, &format!("retry {of} {created} {:016x}", fastrand::u64(..)));
    let (instance, name) = (rule.source.instance.clone(), rule.name.clone());
    let head = TaskHead { id: id.clone(), instance, rule: name, trigger: Trigger::Retry { of: of.clone() }, created };
    api.audit.note(&caller, "task.retry", of.to_string(), format!("task {id}")).await?;
    let (full_run, begun) = dispatch::full_run(head.clone());
    let job = match is_whole {
        false => full_run,
        true => Job::Retry(RetryJob {
            task: head,
            of,
            after: None,
            resources: 0,
            repositories: 0,
            repository: None,
            continuation: 0,
        }),
    };
    start(&api, job, begun).await
}

/// Refuses what a caller may not do with a task of another's: it concerns both ends.
fn permit_both(catalog: &Snapshot, caller: &Caller, task: &Task) -> Result<(), Failure> {
    match catalog.rule(task.head.id.rule()) {
        Some(rule) => permit_between(caller, Role::Operator, &task.head.instance, &rule.target.instance),
        None => permit(caller, Role::Operator, &task.head.instance),
    }
}

/// Starts a task by its first job and its first event.
async fn start(api: &Api, job: Job, begun: TaskEvent) -> Result<Response<Body>, Failure> {
    let id = begun.task.id.clone();
    // The job first, as everywhere: a job without its event makes a log, an event without its job would wait for ever.
    api.jobs.send(&[job]).await?;
    api.events.send(&[begun]).await?;
    let location = format!("/v1/tasks/{id}");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(StartedView { task: id })).into_response())
}

/// A task of an instance that the caller may see.
pub(crate) async fn known(log: &TaskLog, caller: &Caller, id: &TaskId) -> Result<Task, Failure> {
    let not_there = || {
        Failure::new(
            404,
            format!("there is no task {id}: its log has expired, or it has only just begun and is in the log in a moment"),
        )
    };
    log.task(id).await?.filter(|task| caller.sees(&task.head.instance)).ok_or_else(not_there)
}
