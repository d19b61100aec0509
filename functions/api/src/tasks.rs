//! Tasks and their resources: what was, is and will be done.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Response, StatusCode, header},
    response::IntoResponse as _,
};
use jiff::Timestamp;
use transship_model::{Caller, InstanceName, Problem, Role, RuleName, Task, TaskHead, TaskId, Trigger};
use transship_state::{TaskLog, dispatch};

use crate::{
    Api,
    failure::{Failure, permit_between},
    requests::{By, Page, Path, Query},
    rights::IdempotencyKey,
    rules,
    view::{ListView, ResourceView, StartedView, TaskView},
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
    responses(
        (status = 200, description = "A page of tasks", body = ListView<TaskView>),
        (status = "4XX", description = "What is wrong with the request", body = Problem, content_type = Problem::MEDIA_TYPE),
    )
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
    Ok(Json(ListView { items: listing.items.into_iter().map(TaskView::new).collect(), next: listing.next }))
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
    responses(
        (status = 202, description = "It has begun", body = StartedView, headers(("location" = String, description = "The task"))),
        (status = "4XX", description = "What is wrong with the request", body = Problem, content_type = Problem::MEDIA_TYPE),
    )
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
        return Err(Failure::new(409, format!("rule {} is disabled: enable it first, in the configuration", rule.path())));
    }
    let created = Timestamp::now();
    let id = TaskId::derive(rule.id, created, &format!("{created} {:016x}", fastrand::u64(..)));
    let task = TaskHead { id: id.clone(), instance, rule: rule.name.clone(), trigger: Trigger::Manual, created };
    api.audit.note(&caller, "rule.sync", rule.path(), format!("task {id}")).await?;
    let (job, event) = dispatch::full_run(task);
    // The job first, as everywhere: a job without its event makes a log, an event without its job would wait for ever.
    api.jobs.send(&[job]).await?;
    api.events.send(&[event]).await?;
    let location = format!("/v1/tasks/{id}");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(StartedView { task: id })).into_response())
}

/// Reads a task.
#[utoipa::path(
    get, path = "/v1/tasks/{task}", tag = "tasks", operation_id = "readTask", security(("token" = ["viewer"])),
    params(("task" = TaskId, Path, description = "The task")),
    responses(
        (status = 200, description = "The task", body = TaskView),
        (status = "4XX", description = "What is wrong with the request", body = Problem, content_type = Problem::MEDIA_TYPE),
    )
)]
pub(crate) async fn read(State(api): State<Api>, By(caller): By, Path(id): Path<TaskId>) -> Result<Json<TaskView>, Failure> {
    Ok(Json(TaskView::new(known(&api.log, &caller, &id).await?)))
}

/// Lists the resources of a task, by their names at the source.
#[utoipa::path(
    get, path = "/v1/tasks/{task}/resources", tag = "tasks", operation_id = "listResources",
    security(("token" = ["viewer"])),
    params(("task" = TaskId, Path, description = "The task"), Page),
    responses(
        (status = 200, description = "A page of resources", body = ListView<ResourceView>),
        (status = "4XX", description = "What is wrong with the request", body = Problem, content_type = Problem::MEDIA_TYPE),
    )
)]
pub(crate) async fn list_resources(
    State(api): State<Api>,
    By(caller): By,
    Path(id): Path<TaskId>,
    Query(page): Query<Page>,
) -> Result<Json<ListView<ResourceView>>, Failure> {
    known(&api.log, &caller, &id).await?;
    let listing = api.log.resources(&id, page.cursor, page.limit).await?;
    Ok(Json(ListView { items: listing.items.into_iter().map(ResourceView::new).collect(), next: listing.next }))
}

/// A task of an instance that the caller may see.
pub(crate) async fn known(log: &TaskLog, caller: &Caller, id: &TaskId) -> Result<Task, Failure> {
    let not_there = || Failure::new(404, format!("there is no task {id}, or its log has expired"));
    log.task(id).await?.filter(|task| caller.sees(&task.head.instance)).ok_or_else(not_there)
}
