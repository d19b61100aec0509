//! What a task has to do with each resource.

use axum::{Json, extract::State};
use serde::Deserialize;
use transship_model::{Outcome, Resource, ResourceState, TaskId};
use utoipa::{IntoParams, ToSchema};

use crate::{
    Api,
    failure::Failure,
    requests::{By, Path, Query, cursor, fifty, limit},
    tasks,
    view::{ListView, ResourceView},
};

/// Where a resource is, or how it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Standing {
    Queued,
    Running,
    Copied,
    Unchanged,
    Deleted,
    Skipped,
    Failed,
}

impl Standing {
    fn of(resource: &Resource) -> Self {
        match (&resource.result, resource.state) {
            (Some(Outcome::Copied), _) => Self::Copied,
            (Some(Outcome::Unchanged), _) => Self::Unchanged,
            (Some(Outcome::Deleted), _) => Self::Deleted,
            (Some(Outcome::Skipped { .. }), _) => Self::Skipped,
            (Some(Outcome::Failed { .. }), _) => Self::Failed,
            (None, ResourceState::Queued) => Self::Queued,
            (None, ResourceState::Running | ResourceState::Done) => Self::Running,
        }
    }
}

/// Which resources are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only those that are there, or have ended so.
    #[param(inline)]
    state: Option<Standing>,
    /// Only those that have this text in their name at the source or at the target: `INSTANCE/REPOSITORY:TAG`.
    #[param(min_length = 1, max_length = 300)]
    name: Option<String>,
    /// At most so many items, 1 to 1000; 50 by default.
    #[serde(default = "fifty", deserialize_with = "limit")]
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: usize,
    /// Where it begins: `next` of the page before.
    #[serde(default, deserialize_with = "cursor")]
    #[param(min_length = 1, max_length = 1024)]
    cursor: Option<String>,
}

/// Lists the resources of a task, by their names at the source. With a filter a page may hold fewer than `limit`, even none, before the
/// end: `next` leads on.
#[utoipa::path(
    get, path = "/v1/tasks/{task}/resources", tag = "tasks", operation_id = "listResources",
    security(("token" = ["viewer"])),
    params(("task" = TaskId, Path, description = "The task"), Filter),
    responses((status = 200, description = "A page of resources", body = ListView<ResourceView>))
)]
pub(crate) async fn list(
    State(api): State<Api>,
    By(caller): By,
    Path(id): Path<TaskId>,
    Query(filter): Query<Filter>,
) -> Result<Json<ListView<ResourceView>>, Failure> {
    tasks::known(&api.log, &caller, &id).await?;
    let Filter { state, name, limit, cursor } = filter;
    let listing = if state.is_none() && name.is_none() {
        api.log.resources(&id, cursor, limit).await?
    } else {
        let is_wanted = |resource: &Resource| {
            let has_name = |name: &String| {
                [&resource.route.source, &resource.route.target].iter().any(|place| place.to_string().contains(name.as_str()))
            };
            state.is_none_or(|state| Standing::of(resource) == state) && name.as_ref().is_none_or(has_name)
        };
        api.log.resources_where(&id, cursor, limit, is_wanted).await?
    };
    let items = listing.items.into_iter().map(|resource| (resource.route.source.name(), ResourceView::new(resource)));
    Ok(Json(ListView::cut(items, listing.next)))
}
