//! Deliveries: what subscriptions were told, and what came of it.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Response, StatusCode, header},
    response::IntoResponse as _,
};
use jiff::Timestamp;
use transship_model::{CloudEvent, DeliveryId, Notification, Role, SubscriptionName};

use crate::{
    Api,
    failure::Failure,
    requests::{By, Page, Path, Query},
    rights::IdempotencyKey,
    subscriptions::known,
    view::{DeliveryView, ListView, SentView},
};

/// Lists the deliveries of a subscription, the newest events first.
///
/// They are kept for 30 days.
#[utoipa::path(
    get, path = "/v1/subscriptions/{subscription}/deliveries", tag = "subscriptions", operation_id = "listDeliveries",
    security(("token" = ["viewer"])),
    params(("subscription" = SubscriptionName, Path, description = "The subscription"), Page),
    responses((status = 200, description = "A page of deliveries", body = ListView<DeliveryView>))
)]
pub(crate) async fn list(
    State(api): State<Api>,
    By(caller): By,
    Path(name): Path<SubscriptionName>,
    Query(page): Query<Page>,
) -> Result<Json<ListView<DeliveryView>>, Failure> {
    known(&*api.catalog.snapshot().await?, &caller, Role::Viewer, &name)?;
    let listing = api.deliveries.deliveries(&name, page.cursor, page.limit).await?;
    let items = listing.items.into_iter().map(|(id, record)| (id.to_string(), DeliveryView::new(id, record)));
    Ok(Json(ListView::cut(items, listing.next)))
}

/// Reads a delivery, with the event.
#[utoipa::path(
    get, path = "/v1/subscriptions/{subscription}/deliveries/{delivery}", tag = "subscriptions", operation_id = "readDelivery",
    security(("token" = ["viewer"])),
    params(
        ("subscription" = SubscriptionName, Path, description = "The subscription"),
        ("delivery" = DeliveryId, Path, description = "The delivery"),
    ),
    responses((status = 200, description = "The delivery", body = DeliveryView))
)]
pub(crate) async fn read(
    State(api): State<Api>,
    By(caller): By,
    Path((name, id)): Path<(SubscriptionName, DeliveryId)>,
) -> Result<Json<DeliveryView>, Failure> {
    known(&*api.catalog.snapshot().await?, &caller, Role::Viewer, &name)?;
    let record = api.deliveries.delivery(&name, &id).await?.ok_or_else(|| no_delivery(&name, &id))?;
    Ok(Json(DeliveryView::whole(id, record)))
}

/// Sends a test to a subscription's receiver.
///
/// An event of the type `io.transship.ping`, signed and logged as all are, and sent once, also where the subscription is disabled.
#[utoipa::path(
    post, path = "/v1/subscriptions/{subscription}/test", tag = "subscriptions", operation_id = "testSubscription",
    security(("token" = ["operator"])),
    params(("subscription" = SubscriptionName, Path, description = "The subscription"), IdempotencyKey),
    responses((status = 202, description = "It is on its way", body = SentView, headers(("location" = String, description = "What came of it"))))
)]
pub(crate) async fn test(
    State(api): State<Api>,
    By(caller): By,
    Path(name): Path<SubscriptionName>,
) -> Result<Response<Body>, Failure> {
    known(&*api.catalog.snapshot().await?, &caller, Role::Operator, &name)?;
    let event = CloudEvent::ping(&name, Timestamp::now(), fastrand::u64(..));
    let id = DeliveryId::derive(event.time, &event.id);
    let body =
        serde_json::to_string(&event).map_err(|error| Failure::new(500, format!("the test can't be written: {error}")))?;
    api.audit.note(&caller, "subscription.test", &name, format!("delivery {id}")).await?;
    let message = Notification { subscription: name.clone(), id: event.id, body, round: 0 };
    api.notifications.send(&[message]).await?;
    Ok(sent(&name, id, 0))
}

/// Sends an event again.
///
/// The same body and ID with a new time and signature, and as many attempts as the first time.
#[utoipa::path(
    post, path = "/v1/subscriptions/{subscription}/deliveries/{delivery}/redeliver", tag = "subscriptions",
    operation_id = "redeliver", security(("token" = ["operator"])),
    params(
        ("subscription" = SubscriptionName, Path, description = "The subscription"),
        ("delivery" = DeliveryId, Path, description = "The delivery"),
        IdempotencyKey,
    ),
    responses((status = 202, description = "It is on its way", body = SentView, headers(("location" = String, description = "What came of it"))))
)]
pub(crate) async fn redeliver(
    State(api): State<Api>,
    By(caller): By,
    Path((name, id)): Path<(SubscriptionName, DeliveryId)>,
) -> Result<Response<Body>, Failure> {
    let subscription = known(&*api.catalog.snapshot().await?, &caller, Role::Operator, &name)?;
    let record = api.deliveries.delivery(&name, &id).await?.ok_or_else(|| no_delivery(&name, &id))?;
    let standing = api.deliveries.standing(&name, &subscription.webhook).await?;
    if !subscription.enabled || standing.is_some_and(|standing| standing.disabled.is_some()) {
        let detail = format!("subscription {name} is disabled: enable it first (POST /v1/subscriptions/{name}/enable)");
        return Err(Failure::new(409, detail));
    }
    let round = record.round + 1;
    api.audit.note(&caller, "subscription.redeliver", &name, format!("delivery {id}, event {}", record.event)).await?;
    let message = Notification { subscription: name.clone(), id: record.event, body: record.body, round };
    api.notifications.send(&[message]).await?;
    Ok(sent(&name, id, round))
}

fn sent(name: &SubscriptionName, delivery: DeliveryId, redeliveries: u32) -> Response<Body> {
    let location = format!("/v1/subscriptions/{name}/deliveries/{delivery}");
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(SentView { delivery, redeliveries })).into_response()
}

fn no_delivery(name: &SubscriptionName, id: &DeliveryId) -> Failure {
    let detail = format!(
        "subscription {name} has no delivery {id}, or it has expired: GET /v1/subscriptions/{name}/deliveries lists them"
    );
    Failure::new(404, detail)
}
