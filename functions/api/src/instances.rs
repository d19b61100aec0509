//! Instances: the registries that transship knows.

use std::sync::Arc;

use axum::{Json, extract::State};
use transship_model::{Caller, Instance, InstanceName, Problem, Role};
use transship_state::Snapshot;

use crate::{
    Api,
    failure::{Failure, no_instance, permit},
    requests::{By, Page, Query},
    view::{InstanceView, ListView},
};

/// Lists the instances that the caller may see, by name.
#[utoipa::path(
    get, path = "/v1/instances", tag = "instances", operation_id = "listInstances", security(("token" = ["viewer"])),
    params(Page),
    responses(
        (status = 200, description = "A page of instances", body = ListView<InstanceView>),
        (status = "4XX", description = "What is wrong with the request", body = Problem, content_type = Problem::MEDIA_TYPE),
    )
)]
pub(crate) async fn list(
    State(api): State<Api>,
    By(caller): By,
    Query(page): Query<Page>,
) -> Result<Json<ListView<InstanceView>>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    let name = |instance: &&Arc<Instance>| instance.name.to_string();
    let (items, next) = page.cut(catalog.instances().filter(|instance| caller.sees(&instance.name)), name);
    Ok(Json(ListView { items: items.iter().map(|instance| InstanceView::new(instance)).collect(), next }))
}

/// An instance that the caller may do what the role may with.
pub(crate) fn known(catalog: &Snapshot, caller: &Caller, role: Role, name: &InstanceName) -> Result<Arc<Instance>, Failure> {
    permit(caller, role, name)?;
    catalog.instance(name).cloned().ok_or_else(|| no_instance(name))
}
