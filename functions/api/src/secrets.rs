//! Secrets of instances: written and replaced, never read back.

use axum::{
    body::Body,
    extract::State,
    http::{Response, StatusCode},
    response::IntoResponse as _,
};
use serde_json::{Value, json};
use transship_model::InstanceName;

use crate::{
    Api,
    body::Document,
    conditions::Conditions,
    failure::{Failure, no_instance},
    instances,
    requests::{By, Path},
    view::InstanceView,
    wanted::Purpose,
};

/// What an instance's secret is written to in what the instance is to be.
fn place(document: &mut Value, purpose: Purpose) -> Result<&mut Value, Failure> {
    match purpose {
        Purpose::Credentials => Ok(&mut document["credentials"]),
        Purpose::Webhook => {
            // A secret takes the place of the other ways.
            document["webhook_auth"] = Value::Null;
            Ok(&mut document["webhook_secret"])
        }
        Purpose::Notify if document["notify"].is_null() => {
            Err(Failure::new(409, "nothing is told of this instance: give it a `notify` with a `url` first"))
        }
        Purpose::Notify => Ok(&mut document["notify"]["secret"]),
    }
}

/// Writes or replaces a secret of an instance: for `credentials` the whole of them, like `{"username": "ci", "password": {"value": "…"}}`,
/// for `webhook` and `notify` `{"value": "…"}`.
#[utoipa::path(
    put, path = "/v1/instances/{instance}/secrets/{secret}", tag = "instances", operation_id = "putSecret",
    security(("token" = ["admin"])),
    params(
        ("instance" = InstanceName, Path, description = "The instance"),
        ("secret" = Purpose, Path, description = "What it is for"),
    ),
    request_body = Object,
    responses((status = 200, description = "The instance", body = InstanceView, headers(("etag" = String, description = "Its revision"))))
)]
pub(crate) async fn put(
    State(api): State<Api>,
    By(caller): By,
    Path((name, purpose)): Path<(InstanceName, Purpose)>,
    conditions: Conditions,
    Document(secret): Document,
) -> Result<Response<Body>, Failure> {
    let with = |current: Option<Value>| {
        let mut document = current.ok_or_else(|| no_instance(&name))?;
        *place(&mut document, purpose)? = if secret.is_null() { json!({}) } else { secret.clone() };
        Ok(document)
    };
    instances::change(&api, &caller, &name, &conditions, with).await
}

/// Takes a secret away from an instance: it is anonymous then, takes no notifications, or its own are not signed.
#[utoipa::path(
    delete, path = "/v1/instances/{instance}/secrets/{secret}", tag = "instances", operation_id = "deleteSecret",
    security(("token" = ["admin"])),
    params(
        ("instance" = InstanceName, Path, description = "The instance"),
        ("secret" = Purpose, Path, description = "What it is for"),
    ),
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn delete(
    State(api): State<Api>,
    By(caller): By,
    Path((name, purpose)): Path<(InstanceName, Purpose)>,
    conditions: Conditions,
) -> Result<Response<Body>, Failure> {
    let without = |current: Option<Value>| {
        let mut document = current.ok_or_else(|| no_instance(&name))?;
        match purpose {
            Purpose::Credentials => document["credentials"] = Value::Null,
            Purpose::Webhook => document["webhook_secret"] = Value::Null,
            Purpose::Notify if document["notify"].is_null() => {}
            Purpose::Notify => document["notify"]["secret"] = Value::Null,
        }
        Ok(document)
    };
    instances::change(&api, &caller, &name, &conditions, without).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
