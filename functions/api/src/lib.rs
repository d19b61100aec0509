//! **api**: the management API.
//!
//! *Triggered by* HTTP requests below `/v1/`. *Reads* the catalogue and the task log. *Writes* jobs, and events to the log, as
//! everyone does. *When it fails* the answer is a problem document (RFC 9457) and nothing has been done, or what has been done
//! is found in the log.
//!
//! Who may call it: the bearer of its token ([`access`]); `serve` without a token lets in the machine itself.

pub mod access;
mod requests;
pub mod view;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::State,
    http::{HeaderMap, Request, Response, StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use jiff::Timestamp;
use tower::ServiceExt as _;
use transship_model::{
    Happening, Instance, InstanceName, Job, Problem, Rule, RuleName, ScanCursor, ScanJob, SecretRef, TaskEvent, TaskHead,
    TaskId, Trigger,
};
use transship_state::{Catalog, Events, Jobs, Secrets, Snapshot, StateError, TaskLog};

use crate::{
    requests::{Page, Path, Query},
    view::{InstanceView, ListView, ResourceView, RuleView, StartedView, TaskView},
};

/// What the API works on.
#[derive(Clone)]
pub struct Api {
    catalog: Arc<Catalog>,
    log: TaskLog,
    jobs: Jobs,
    events: Events,
}

const NOT_ALLOWED: &str = "this path does not understand that method: the header Allow names those that it does";

impl Api {
    /// The API over these stores.
    pub fn new(catalog: Arc<Catalog>, log: TaskLog, jobs: Jobs, events: Events) -> Self {
        Self { catalog, log, jobs, events }
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/v1/instances", get(list_instances))
            .route("/v1/instances/{instance}/rules", get(list_rules))
            .route("/v1/instances/{instance}/rules/{rule}/tasks", get(list_tasks))
            .route("/v1/instances/{instance}/rules/{rule}/sync", post(start_sync))
            .route("/v1/tasks/{task}", get(read_task))
            .route("/v1/tasks/{task}/resources", get(list_resources))
            .fallback(async || Failure(Problem::new(404, "there is nothing at this path: the API's paths begin with /v1/")))
            .method_not_allowed_fallback(async || Failure(Problem::new(405, NOT_ALLOWED)))
            .with_state(self)
    }
}

/// The API as a function of requests whose bodies are here already: for AWS, where the token is read anew each time, so that it can be
/// replaced.
pub struct Guarded {
    router: Router,
    secrets: Arc<dyn Secrets>,
    token: SecretRef,
}

impl Guarded {
    /// Answers only the bearer of the token.
    pub fn new(api: Api, secrets: Arc<dyn Secrets>, token: SecretRef) -> Self {
        Self { router: api.router(), secrets, token }
    }

    /// Answers a request.
    pub async fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        let response = match self.admit(request.headers()).await {
            Ok(()) => match self.router.clone().oneshot(request.map(Body::from)).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            Err(problem) => access::refuse(&problem),
        };
        let (head, body) = response.into_parts();
        // The API's answers are in memory already.
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        Response::from_parts(head, body)
    }

    async fn admit(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let token = self.secrets.read(&self.token).await.map_err(|error| {
            tracing::error!(%error, "the API's token");
            Problem::new(503, "the API's token can't be read: see the function's log")
        })?;
        access::admit(&token, headers)
    }
}

async fn list_instances(State(api): State<Api>, Query(page): Query<Page>) -> Result<Json<ListView<InstanceView>>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    let name = |instance: &&Arc<Instance>| instance.name.to_string();
    let (items, next) = page.cut(catalog.instances(), name);
    Ok(Json(ListView { items: items.iter().map(|instance| InstanceView::new(instance)).collect(), next }))
}

async fn list_rules(
    State(api): State<Api>,
    Path(instance): Path<InstanceName>,
    Query(page): Query<Page>,
) -> Result<Json<ListView<RuleView>>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    known_instance(&catalog, &instance)?;
    let (items, next) = page.cut(catalog.rules_of(&instance), |rule| rule.name.to_string());
    Ok(Json(ListView { items: items.iter().map(|rule| RuleView::new(rule)).collect(), next }))
}

async fn list_tasks(
    State(api): State<Api>,
    Path((instance, rule)): Path<(InstanceName, RuleName)>,
    Query(page): Query<Page>,
) -> Result<Json<ListView<TaskView>>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    let rule = known_rule(&catalog, &instance, &rule)?;
    let listing = api.log.tasks(rule.id, page.cursor, page.limit).await?;
    Ok(Json(ListView { items: listing.items.into_iter().map(TaskView::new).collect(), next: listing.next }))
}

async fn start_sync(
    State(api): State<Api>,
    Path((instance, rule)): Path<(InstanceName, RuleName)>,
) -> Result<Response<Body>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    let rule = known_rule(&catalog, &instance, &rule)?;
    if !rule.enabled {
        return Err(Failure(Problem::new(
            409,
            format!("rule {} is disabled: enable it first, in the configuration", rule.path()),
        )));
    }
    let created = Timestamp::now();
    let id = TaskId::derive(rule.id, created, &format!("{created} {:016x}", fastrand::u64(..)));
    let task = TaskHead { id: id.clone(), instance, rule: rule.name.clone(), trigger: Trigger::Manual, created };
    // The job first, as everywhere: a job without its event makes a log, an event without its job would wait for ever.
    api.jobs.send(&[Job::Scan(ScanJob { task: task.clone(), cursor: ScanCursor::default(), continuation: 0 })]).await?;
    api.events.send(&[TaskEvent { task, at: created, what: Happening::Created }]).await?;
    let location = format!("/v1/tasks/{id}");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(StartedView { task: id })).into_response())
}

async fn read_task(State(api): State<Api>, Path(id): Path<TaskId>) -> Result<Json<TaskView>, Failure> {
    Ok(Json(TaskView::new(known_task(&api.log, &id).await?)))
}

async fn list_resources(
    State(api): State<Api>,
    Path(id): Path<TaskId>,
    Query(page): Query<Page>,
) -> Result<Json<ListView<ResourceView>>, Failure> {
    known_task(&api.log, &id).await?;
    let listing = api.log.resources(&id, page.cursor, page.limit).await?;
    Ok(Json(ListView { items: listing.items.into_iter().map(ResourceView::new).collect(), next: listing.next }))
}

fn known_instance(catalog: &Snapshot, name: &InstanceName) -> Result<Arc<Instance>, Failure> {
    let not_there = || Failure(Problem::new(404, format!("there is no instance {name}: GET /v1/instances lists them")));
    catalog.instance(name).cloned().ok_or_else(not_there)
}

fn known_rule(catalog: &Snapshot, instance: &InstanceName, name: &RuleName) -> Result<Arc<Rule>, Failure> {
    known_instance(catalog, instance)?;
    let detail = || format!("instance {instance} has no rule {name}: GET /v1/instances/{instance}/rules lists them");
    catalog.rule_named(instance, name).cloned().ok_or_else(|| Failure(Problem::new(404, detail())))
}

async fn known_task(log: &TaskLog, id: &TaskId) -> Result<transship_model::Task, Failure> {
    let not_there = || Failure(Problem::new(404, format!("there is no task {id}, or its log has expired")));
    log.task(id).await?.ok_or_else(not_there)
}

/// A problem document as a response.
struct Failure(Problem);

impl IntoResponse for Failure {
    fn into_response(self) -> Response<Body> {
        access::refuse(&self.0)
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        tracing::error!(%error, "a request to the API failed");
        Self(match error {
            StateError::Unavailable(_) | StateError::Contended(_) => Problem::new(503, "the store does not answer: try again"),
            StateError::Corrupt { .. } => Problem::new(500, "the store holds something that can't be read: see the log"),
        })
    }
}
