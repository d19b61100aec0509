//! Rules, each below its source instance.

use std::sync::Arc;

use axum::{Json, extract::State};
use transship_model::{Caller, InstanceName, Problem, Role, Rule, RuleName};
use transship_state::Snapshot;

use crate::{
    Api,
    failure::Failure,
    instances,
    requests::{By, Page, Path, Query},
    view::{ListView, RuleView},
};

/// Lists the rules of a source instance, by name.
#[utoipa::path(
    get, path = "/v1/instances/{instance}/rules", tag = "rules", operation_id = "listRules",
    security(("token" = ["viewer"])),
    params(("instance" = InstanceName, Path, description = "The source instance"), Page),
    responses(
        (status = 200, description = "A page of rules", body = ListView<RuleView>),
        (status = "4XX", description = "What is wrong with the request", body = Problem, content_type = Problem::MEDIA_TYPE),
    )
)]
pub(crate) async fn list(
    State(api): State<Api>,
    By(caller): By,
    Path(instance): Path<InstanceName>,
    Query(page): Query<Page>,
) -> Result<Json<ListView<RuleView>>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    instances::known(&catalog, &caller, Role::Viewer, &instance)?;
    let (items, next) = page.cut(catalog.rules_of(&instance), |rule| rule.name.to_string());
    Ok(Json(ListView { items: items.iter().map(|rule| RuleView::new(rule)).collect(), next }))
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
    let detail = || format!("instance {instance} has no rule {name}: GET /v1/instances/{instance}/rules lists them");
    catalog.rule_named(instance, name).cloned().ok_or_else(|| Failure::new(404, detail()))
}
