//! The audit: who changed what.

use std::collections::BTreeSet;

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use transship_model::Role;
use transship_state::{AuditCursor, AuditQuery};
use utoipa::IntoParams;

use crate::{
    Api,
    failure::{Failure, permit_all},
    requests::{By, Query, fifty, limit},
    view::{AuditView, ListView},
};

/// Which changes are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// At most so many items, 1 to 1000; 50 by default.
    #[serde(default = "fifty", deserialize_with = "limit")]
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: usize,
    /// Where it begins: `next` of the page before.
    #[serde(default, deserialize_with = "cursor")]
    #[param(value_type = Option<String>, pattern = "^[0-9a-f]{14}-[0-9a-f]{8}$")]
    cursor: Option<AuditCursor>,
    /// Not before this time.
    #[serde(default, deserialize_with = "time")]
    since: Option<Timestamp>,
    /// Before this time.
    #[serde(default, deserialize_with = "time")]
    until: Option<Timestamp>,
    /// By this caller, as entries name them.
    #[serde(default, deserialize_with = "who")]
    #[param(min_length = 1, max_length = 2048, example = "token:6920f1c07f3a9b21")]
    who: Option<String>,
}

fn cursor<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<AuditCursor>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(serde::de::Error::custom)
}

fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = |_| serde::de::Error::custom(format!("a time like 2026-03-04T05:06:07Z is needed, not {text:?}"));
    text.parse().map(Some).map_err(wrong)
}

fn who<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let who = String::deserialize(deserializer)?;
    if (1..=2048).contains(&who.chars().count()) {
        return Ok(Some(who));
    }
    Err(serde::de::Error::custom("a caller's name is needed, as `who` of an entry has it"))
}

/// Lists changes, the newest first.
///
/// What was changed through the API in the last year: by whom, when, from where and by which request.
#[utoipa::path(
    get, path = "/v1/audit", tag = "audit", operation_id = "listAudit", security(("token" = ["admin"])), params(Filter),
    responses((status = 200, description = "A page of changes", body = ListView<AuditView>))
)]
pub(crate) async fn list(
    State(api): State<Api>,
    By(caller): By,
    Query(filter): Query<Filter>,
) -> Result<Json<ListView<AuditView>>, Failure> {
    permit_all(&caller, Role::Admin)?;
    let Filter { limit, cursor: after, since, until, who } = filter;
    let listing = api.audit.list(&AuditQuery { since, until, who, after, limit }, Timestamp::now()).await?;
    Ok(Json(ListView { items: listing.items.into_iter().map(AuditView::new).collect(), next: listing.next }))
}

/// For the audit: the keys that differ between what something was and what it is. Values are not told, which may be secret.
pub(crate) fn differences<T: Serialize>(before: Option<&T>, after: &T) -> String {
    let Some(before) = before else { return String::new() };
    let [before, after] = [before, after].map(|view| serde_json::to_value(view).unwrap_or_default());
    let keys = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<BTreeSet<_>>()).unwrap_or_default();
    let all: BTreeSet<String> = keys(&before).union(&keys(&after)).cloned().collect();
    let changed: Vec<String> = all.into_iter().filter(|key| before.get(key) != after.get(key)).collect();
    if changed.is_empty() { String::new() } else { format!("changed: {}", changed.join(", ")) }
}
