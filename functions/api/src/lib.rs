//! **api**: the management API.
//!
//! *Triggered by* HTTP requests below `/v1/`. *Reads* the catalogue and the task log, and no secret but its own token. *Writes* the
//! catalogue, secrets that it is given, jobs, and events to the log, as everyone does. *When it fails* the answer is a problem document (RFC 9457) and nothing has been done, or what has been done
//! is found in the log.
//!
//! Who may call it: the bearer of a token ([`access`]), and whom `serve` or AWS vouch for. What an operation needs at least, it says in
//! its documentation (`security(("token" = ["operator"]))`), and [`rights`] sees to it before the handler does; the handler knows which
//! instances it is about.

pub mod access;
mod audit;
mod bindings;
mod body;
mod conditions;
mod deliveries;
mod document;
mod events;
pub mod explain;
mod failure;
mod guarded;
mod instance_view;
mod instances;
pub mod preview;
mod requests;
mod rights;
mod rules;
mod secrets;
mod subscription_view;
mod subscriptions;
mod tasks;
mod tokens;
pub mod view;
mod wanted;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{Method, StatusCode},
    middleware,
    response::IntoResponse as _,
};
use jiff::Timestamp;
use serde_json::Value;
use transship_state::{
    AuditLog, Catalog, DeliveryLog, Events, Feed, Idempotency, Jobs, Notifications, Origins, Previews, StateError, Table,
    TaskLog, Tokens, WrittenSecrets,
};
use utoipa::OpenApi as _;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    document::{Document, Operations},
    events::Streams,
    failure::Failure,
    rights::Checks,
};
pub use guarded::Guarded;
pub use tokens::TokenInput;

/// What the API works on.
#[derive(Clone)]
pub struct Api {
    catalog: Arc<Catalog>,
    log: TaskLog,
    jobs: Jobs,
    events: Events,
    notifications: Notifications,
    deliveries: DeliveryLog,
    tokens: Arc<Tokens>,
    audit: AuditLog,
    answered: Idempotency,
    written: WrittenSecrets,
    previews: Previews,
    origins: Origins,
    streams: Option<Streams>,
}

/// Where the API's state is.
pub struct Stores {
    /// The table: tokens, the audit, deliveries, previews, origins and answers to be given again.
    pub table: Arc<dyn Table>,
    /// Instances, rules and subscriptions.
    pub catalog: Arc<Catalog>,
    /// The task log.
    pub log: TaskLog,
    /// The queue of jobs.
    pub jobs: Jobs,
    /// The queue of the log's events.
    pub events: Events,
    /// The queue of notifications.
    pub notifications: Notifications,
    /// Secrets that the API is given.
    pub written: WrittenSecrets,
}

const NOT_ALLOWED: &str = "this path does not understand that method: the header Allow names those that it does";

impl Api {
    /// The API over these stores.
    pub fn new(stores: Stores) -> Self {
        let Stores { table, catalog, log, jobs, events, notifications, written } = stores;
        Self {
            catalog,
            log,
            jobs,
            events,
            notifications,
            deliveries: DeliveryLog::new(table.clone()),
            tokens: Arc::new(Tokens::new(table.clone())),
            audit: AuditLog::new(table.clone()),
            previews: Previews::new(table.clone()),
            origins: Origins::new(table.clone()),
            answered: Idempotency::new(table),
            written,
            streams: None,
        }
    }

    /// The same, which can be watched: for a process that hears of the log's changes and sends an answer as it comes.
    #[must_use]
    pub fn streaming(self, feed: Feed) -> Self {
        Self { streams: Some(Streams::new(feed)), ..self }
    }

    /// Takes away secrets that were given to the API and that nothing names, because a change was cut short more than an hour ago.
    ///
    /// # Errors
    /// See [`StateError`]. What is left is taken away the next time.
    pub async fn sweep(&self) -> Result<(), StateError> {
        let in_use = async |owner: String| {
            let catalog = self.catalog.snapshot().await?;
            let of_instance = || owner.parse().ok().and_then(|name| catalog.instance(&name).map(|known| wanted::stored(known)));
            Ok(subscriptions::in_use(&catalog, &owner).or_else(of_instance).unwrap_or_default())
        };
        self.written.sweep(Timestamp::now(), in_use).await
    }

    /// Has the sweep look at the secrets of all that is there: a configuration file may have taken over what the API was given them for.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn suspect_all(&self) -> Result<(), StateError> {
        let catalog = self.catalog.snapshot().await?;
        let of_instances = catalog.instances().map(|instance| instance.name.to_string());
        for owner in of_instances.chain(catalog.subscriptions().map(|known| subscriptions::owner(&known.name))) {
            self.written.suspect(&owner).await?;
        }
        Ok(())
    }

    /// The tokens that let callers in.
    pub fn tokens(&self) -> Arc<Tokens> {
        self.tokens.clone()
    }

    /// The routes. Each request carries its [`transship_model::Caller`] among its extensions: [`Guarded`] puts it there.
    fn router(self) -> Router {
        let document = Self::document();
        let operations = Arc::new(Operations::read(&document));
        let checks = Checks { operations, answered: self.answered.clone() };
        let (router, _) = Self::routes().split_for_parts();
        router
            .route_layer(middleware::from_fn_with_state(checks, rights::check))
            .fallback(async || Failure::new(404, "there is nothing at this path: the API's paths begin with /v1/"))
            // What a path understands is in the header Allow, which axum adds.
            .method_not_allowed_fallback(async |method: Method| match method {
                Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
                _ => Failure::new(405, NOT_ALLOWED).into_response(),
            })
            .with_state(self)
    }

    /// What the API understands, as OpenAPI 3.1.
    pub fn document() -> Value {
        // It is made of nothing that JSON does not have.
        let mut document = serde_json::to_value(Self::routes().into_openapi()).unwrap_or_default();
        document::complete(&mut document);
        document
    }

    fn routes() -> OpenApiRouter<Self> {
        OpenApiRouter::with_openapi(Document::openapi())
            .routes(routes!(describe))
            .routes(routes!(instances::list))
            .routes(routes!(instances::read, instances::put, instances::patch, instances::delete))
            .routes(routes!(secrets::put, secrets::delete))
            .routes(routes!(rules::list))
            .routes(routes!(rules::read, rules::put, rules::patch, rules::delete))
            .routes(routes!(tasks::list_of_rule))
            .routes(routes!(tasks::sync))
            .routes(routes!(preview::of_stored))
            .routes(routes!(preview::of_given))
            .routes(routes!(preview::read))
            .routes(routes!(explain::explain))
            .routes(routes!(tasks::list))
            .routes(routes!(tasks::read))
            .routes(routes!(tasks::cancel))
            .routes(routes!(tasks::retry))
            .routes(routes!(events::watch))
            .routes(routes!(tasks::list_resources))
            .routes(routes!(subscriptions::list))
            .routes(routes!(subscriptions::read, subscriptions::put, subscriptions::change, subscriptions::delete))
            .routes(routes!(subscriptions::enable))
            .routes(routes!(deliveries::test))
            .routes(routes!(deliveries::list))
            .routes(routes!(deliveries::read))
            .routes(routes!(deliveries::redeliver))
            .routes(routes!(tokens::create, tokens::list))
            .routes(routes!(tokens::read, tokens::revoke))
            .routes(routes!(audit::list))
    }
}

/// Tells what the API understands.
///
/// This document. It is the same for every deployment of a version, and everybody may read it.
#[utoipa::path(
    get, path = document::PATH, tag = "api", operation_id = "readDocument", security(()),
    responses((status = 200, description = "An OpenAPI document", body = Object))
)]
async fn describe(State(_): State<Api>) -> Json<Value> {
    Json(Api::document())
}
