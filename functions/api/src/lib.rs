//! **api**: the management API.
//!
//! *Triggered by* HTTP requests below `/v1/`. *Reads* the catalogue and the task log. *Writes* jobs, and events to the log, as
//! everyone does. *When it fails* the answer is a problem document (RFC 9457) and nothing has been done, or what has been done
//! is found in the log.
//!
//! Who may call it: the bearer of its token ([`access`]); `serve` without a token lets in the machine itself.

pub mod access;
mod events;
mod failure;
mod instances;
mod requests;
mod rules;
mod tasks;
pub mod view;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, Request, Response},
    routing::get,
};
use tower::ServiceExt as _;
use transship_model::{Caller, Problem, SecretRef};
use transship_state::{Catalog, Events, Feed, Jobs, Secrets, TaskLog};
use utoipa::OpenApi as _;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{events::Streams, failure::Failure};

/// What the API works on.
#[derive(Clone)]
pub struct Api {
    catalog: Arc<Catalog>,
    log: TaskLog,
    jobs: Jobs,
    events: Events,
    streams: Option<Streams>,
}

const NOT_ALLOWED: &str = "this path does not understand that method: the header Allow names those that it does";

impl Api {
    /// The API over these stores.
    pub fn new(catalog: Arc<Catalog>, log: TaskLog, jobs: Jobs, events: Events) -> Self {
        Self { catalog, log, jobs, events, streams: None }
    }

    /// The same, which can be watched: for a process that hears of the log's changes and sends an answer as it comes.
    #[must_use]
    pub fn streaming(self, feed: Feed) -> Self {
        Self { streams: Some(Streams::new(feed)), ..self }
    }

    /// The routes. Each request carries its [`Caller`] among its extensions: who lets a request in puts it there.
    pub fn router(self) -> Router {
        let (router, document) = Self::routes().split_for_parts();
        let document = Arc::new(document);
        router
            .route("/v1/openapi.json", get(async move || Json(document)))
            .fallback(async || Failure::new(404, "there is nothing at this path: the API's paths begin with /v1/"))
            .method_not_allowed_fallback(async || Failure::new(405, NOT_ALLOWED))
            .with_state(self)
    }

    /// What the API understands, as OpenAPI 3.1.
    pub fn document() -> utoipa::openapi::OpenApi {
        Self::routes().into_openapi()
    }

    fn routes() -> OpenApiRouter<Self> {
        OpenApiRouter::with_openapi(Document::openapi())
            .routes(routes!(instances::list))
            .routes(routes!(rules::list))
            .routes(routes!(tasks::list_of_rule))
            .routes(routes!(tasks::sync))
            .routes(routes!(tasks::list))
            .routes(routes!(tasks::read))
            .routes(routes!(tasks::cancel))
            .routes(routes!(tasks::retry))
            .routes(routes!(events::watch))
            .routes(routes!(tasks::list_resources))
    }
}

/// What the document says about itself; the handlers say the rest.
#[derive(utoipa::OpenApi)]
#[openapi(info(title = "transship", description = "Keeps container registries in step: the management API."))]
struct Document;

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
    pub async fn handle(&self, mut request: Request<Bytes>) -> Response<Bytes> {
        let response = match self.admit(request.headers()).await {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                match self.router.clone().oneshot(request.map(Body::from)).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
            Err(problem) => access::refuse(&problem),
        };
        let (head, body) = response.into_parts();
        // The API's answers are in memory already.
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        Response::from_parts(head, body)
    }

    async fn admit(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let token = self.secrets.read(&self.token).await.map_err(|error| {
            tracing::error!(%error, "the API's token");
            Problem::new(503, "the API's token can't be read: see the function's log")
        })?;
        access::admit(&token, headers)
    }
}
