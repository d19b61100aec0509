//! Previews: what a rule would do now.
//!
//! The API has no credentials of registries: a worker finds it out, and the API waits for what it writes.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Response, StatusCode, header},
    response::IntoResponse as _,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use transship_model::{Caller, Foreseen, InstanceName, Job, Preview, PreviewId, PreviewJob, Role, Rule, RuleName, ScanCursor};
use transship_state::Previews;
use utoipa::{IntoParams, ToSchema};

use crate::{
    Api,
    body::Document,
    failure::{Failure, permit_between},
    instances,
    requests::{By, Path, Query},
    rights::IdempotencyKey,
    rules,
    view::RuleInput,
};

/// For so long an answer is waited for: less than a function's time, and than most clients' patience.
const WAIT: Duration = Duration::from_secs(20);
/// When who has asked for too many may ask again, in seconds.
const RETRY_AFTER: &str = "15";
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Which page of a preview is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PreviewPage {
    /// About so many resources, 1 to 200; 100 by default. There may be fewer, because a page takes 12 seconds at most, or some more.
    #[serde(default = "hundred", deserialize_with = "limit")]
    #[param(minimum = 1, maximum = 200, default = 100)]
    limit: usize,
    /// Where it begins: `next` of the page before, for an hour.
    #[serde(default)]
    #[param(pattern = "^[0-9a-f]{32}$")]
    cursor: Option<PreviewId>,
}

fn hundred() -> usize {
    100
}

fn limit<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let text = String::deserialize(deserializer)?;
    let number = text.parse().ok().filter(|number| (1..=200).contains(number));
    number.ok_or_else(|| serde::de::Error::custom(format!("a number from 1 to 200 is needed, not {text:?}")))
}

/// A page of a preview.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PreviewView {
    /// What would become of each resource, in the order in which a run would find them.
    pub items: Vec<Foreseen>,
    /// The `cursor` of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<PreviewId>,
    /// Why it is not all that there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A preview that is being made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PendingView {
    /// Where it will be: `GET /v1/previews/{preview}`.
    pub preview: PreviewId,
}

/// Previews a stored rule: what it would copy now, what is there, and what it would skip and why. Nothing is moved.
#[utoipa::path(
    post, path = "/v1/instances/{instance}/rules/{rule}/preview", tag = "rules", operation_id = "previewRule",
    security(("token" = ["viewer"])),
    params(
        ("instance" = InstanceName, Path, description = "The source instance"),
        ("rule" = RuleName, Path, description = "The rule"),
        PreviewPage,
        IdempotencyKey,
    ),
    responses(
        (status = 200, description = "A page of the preview", body = PreviewView),
        (status = 202, description = "It is being made: the workers are busy", body = PendingView),
    )
)]
pub(crate) async fn of_stored(
    State(api): State<Api>,
    By(caller): By,
    Path((instance, rule)): Path<(InstanceName, RuleName)>,
    Query(page): Query<PreviewPage>,
) -> Result<Response<Body>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    let rule = rules::known(&catalog, &caller, Role::Viewer, &instance, &rule)?;
    permit_between(&caller, Role::Viewer, &instance, &rule.target.instance)?;
    preview(&api, &caller, Rule::clone(&rule), page).await
}

/// Previews a rule that is not stored.
#[utoipa::path(
    post, path = "/v1/preview", tag = "rules", operation_id = "preview", security(("token" = ["viewer"])),
    params(PreviewPage, IdempotencyKey), request_body = RuleInput,
    responses(
        (status = 200, description = "A page of the preview", body = PreviewView),
        (status = 202, description = "It is being made: the workers are busy", body = PendingView),
    )
)]
pub(crate) async fn of_given(
    State(api): State<Api>,
    By(caller): By,
    Query(page): Query<PreviewPage>,
    Document(document): Document,
) -> Result<Response<Body>, Failure> {
    let Some(instance) = document["source"]["instance"].as_str() else {
        return Err(Failure::new(400, "the body is no rule: source.instance is missing, the instance that is pushed to"));
    };
    let wrong = |key: &str, error: &dyn std::fmt::Display| Failure::new(422, format!("{key}: {error}"));
    let instance: InstanceName = instance.parse().map_err(|error| wrong("source.instance", &error))?;
    // One that is stored under this name is what this rule would replace.
    let name: RuleName = document["name"].as_str().unwrap_or("preview").parse().map_err(|error| wrong("name", &error))?;
    let catalog = api.catalog.snapshot().await?;
    instances::known(&catalog, &caller, Role::Viewer, &instance)?;
    let rule = rules::read_document(&catalog, &caller, (&instance, &name), &document)?;
    permit_between(&caller, Role::Viewer, &instance, &rule.target.instance)?;
    let id = catalog.rule_named(&instance, &name).map_or(rule.id, |stored| stored.id);
    preview(&api, &caller, Rule { id, ..rule }, page).await
}

/// Reads a preview that was not there in time.
#[utoipa::path(
    get, path = "/v1/previews/{preview}", tag = "rules", operation_id = "readPreview", security(("token" = ["viewer"])),
    params(("preview" = PreviewId, Path, description = "The preview")),
    responses((status = 200, description = "A page of the preview", body = PreviewView))
)]
pub(crate) async fn read(
    State(api): State<Api>,
    By(caller): By,
    Path(id): Path<PreviewId>,
) -> Result<Json<PreviewView>, Failure> {
    let made = if api.previews.is_known(&id).await? { wait(&api, &id).await? } else { None };
    let made = made.filter(|made| may_see(&caller, &made.rule));
    let detail = || format!("there is no preview {id}: no worker has made it yet, or it has expired");
    Ok(Json(view(&id, made.ok_or_else(|| Failure::new(404, detail()))?)))
}

fn may_see(caller: &Caller, rule: &Rule) -> bool {
    [&rule.source.instance, &rule.target.instance].iter().all(|instance| caller.may_with(Role::Viewer, instance))
}

async fn preview(api: &Api, caller: &Caller, rule: Rule, page: PreviewPage) -> Result<Response<Body>, Failure> {
    let cursor = match page.cursor {
        None => ScanCursor::default(),
        Some(cursor) => {
            let before = api.previews.get(&cursor).await?.filter(|before| before.rule == rule);
            let detail = "the cursor is not one of this rule, or has expired, or the rule has been changed: begin anew";
            before.and_then(|before| before.next).ok_or_else(|| Failure::new(400, detail))?
        }
    };
    let id = PreviewId::of(fastrand::u128(..));
    let job = PreviewJob { id: id.clone(), rule, cursor, limit: page.limit, asked: Timestamp::now() };
    if !api.previews.expect(&id, &caller.name).await? {
        let detail = format!("{} previews that you have asked for are still being made: wait for one of them", Previews::OPEN);
        return Ok(([(header::RETRY_AFTER, RETRY_AFTER)], Failure::new(429, detail)).into_response());
    }
    api.jobs.send(&[Job::Preview(Box::new(job))]).await?;
    Ok(match wait(api, &id).await? {
        Some(made) => Json(view(&id, made)).into_response(),
        None => {
            let location = format!("/v1/previews/{id}");
            (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(PendingView { preview: id })).into_response()
        }
    })
}

/// The preview, when it has been made.
async fn wait(api: &Api, id: &PreviewId) -> Result<Option<Preview>, Failure> {
    let until = Instant::now() + WAIT;
    loop {
        if let Some(made) = api.previews.get(id).await? {
            return Ok(Some(made));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn view(id: &PreviewId, made: Preview) -> PreviewView {
    PreviewView { next: made.next.is_some().then(|| id.clone()), items: made.items, error: made.error }
}
