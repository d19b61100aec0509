//! The HTTP side of `serve`: `/hooks/`, `/v1/`, `/health` and `/metrics` on one address.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use http_body_util::LengthLimitError;
use secrecy::SecretString;
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, time::timeout};
use transship_api::{
    Api, Guarded,
    access::{Deployment, Gate},
};
use transship_model::Problem;
use transship_state::sqlite::SqliteStore;
use transship_webhook::{MAX_BODY, Webhook};

use super::{
    access,
    metrics::{Metrics, Queues},
};

/// For so long a notification's body is waited for.
const BODY_TIME: Duration = Duration::from_secs(30);

/// What `/health` looks at.
pub(crate) struct Health {
    store: Arc<SqliteStore>,
    queues: Queues,
}

impl Health {
    pub(crate) fn new(store: Arc<SqliteStore>, queues: Queues) -> Self {
        Self { store, queues }
    }
}

pub(crate) fn router(webhook: Webhook, api: Api, token: Option<SecretString>, health: Health, metrics: Arc<Metrics>) -> Router {
    let has_token = token.is_some();
    let gate = Gate::new(token.map_or(Deployment::None, Deployment::Token), api.tokens());
    let api = Arc::new(Guarded::new(api, gate));
    let metrics = Arc::new(Scraped { api: api.clone(), has_token, metrics });
    let call = async move |ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request| {
        let origin = access::origin(has_token, peer, request.headers());
        api.call(request, origin).await
    };
    Router::new()
        // Without an instance it is a notification that was sent to a wrong address, not a call of the API.
        .route("/hooks", any(hook))
        .route("/hooks/", any(hook))
        .route("/hooks/{*path}", any(hook))
        .with_state(Arc::new(webhook))
        .route("/health", get(report).with_state(Arc::new(health)))
        // It names rules and registries: for those who may call the API.
        .route("/metrics", get(scrape).with_state(metrics))
        .fallback(call)
}

pub(crate) async fn serve(listener: TcpListener, router: Router, mut stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let stop = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    Ok(axum::serve(listener, service).with_graceful_shutdown(stop).await?)
}

/// The metrics, and who lets in those who ask for them.
struct Scraped {
    api: Arc<Guarded>,
    has_token: bool,
    metrics: Arc<Metrics>,
}

async fn scrape(
    State(scraped): State<Arc<Scraped>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    let origin = access::origin(scraped.has_token, peer, &headers);
    scraped.api.beside(&headers, origin, async |caller| scraped.metrics.scrape(&caller).await).await
}

/// Hands a notification to the webhook. Its body is read up to the webhook's limit, and for no longer than senders wait.
async fn hook(State(webhook): State<Arc<Webhook>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let admitted = match webhook.admit(head).await {
        Ok(admitted) => admitted,
        Err(problem) => return transship_webhook::refuse(&problem).map(Body::from),
    };
    let broken = || Problem::new(400, "the notification did not arrive whole");
    let problem = match timeout(BODY_TIME, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => return webhook.answer(admitted, body).await.map(Body::from),
        Ok(Err(error)) => {
            let is_too_long = anyhow::Error::new(error).chain().any(<dyn std::error::Error>::is::<LengthLimitError>);
            if is_too_long { transship_webhook::too_large() } else { broken() }
        }
        Err(_) => broken(),
    };
    transship_webhook::refuse(&problem).map(Body::from)
}

/// Whether the process, its store and its queues work.
async fn report(State(health): State<Arc<Health>>) -> Response {
    let mut ok = true;
    let store = health.store.check().await;
    ok &= store.is_ok();
    let mut queues = serde_json::Map::new();
    for (name, queue) in &health.queues {
        let depth = queue.depth().await;
        ok &= depth.is_ok();
        let depth = depth.map(|depth| json!({ "waiting": depth.visible, "held": depth.held, "dead": depth.dead }));
        queues.insert((*name).to_owned(), depth.unwrap_or_else(|error| json!({ "error": error.to_string() })));
    }
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let store = store.map_or_else(|error| json!({ "error": error.to_string() }), |()| json!("ok"));
    let word = if ok { "ok" } else { "failing" };
    let version = env!("CARGO_PKG_VERSION");
    (status, Json(json!({ "status": word, "version": version, "store": store, "queues": queues }))).into_response()
}
