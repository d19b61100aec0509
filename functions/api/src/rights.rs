//! What stands between a route and its handler, as the document says it of the operation: the least role, and answers that are given
//! again.

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header},
    middleware::Next,
};
use serde::Deserialize;
use transship_model::{Caller, Role};
use transship_state::{Answer, Begun, Fingerprint, Idempotency};
use utoipa::IntoParams;

use crate::{
    document::{Operation, Operations},
    failure::Failure,
};

/// What the checks need.
#[derive(Clone)]
pub(crate) struct Checks {
    pub(crate) operations: Arc<Operations>,
    pub(crate) answered: Idempotency,
}

/// For the documentation of operations that keep their answers; that they do follows from it.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "the header is read for all operations in one place")]
pub(crate) struct IdempotencyKey {
    /// A text of the caller's own, new for each request that is meant. The same request with the same key within 24 hours is answered
    /// as the first was, and starts nothing.
    #[serde(rename = "Idempotency-Key")]
    #[param(min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    key: Option<String>,
}

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer is that of an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const MAX_KEY: usize = 255;
/// The headers that are kept with an answer.
const KEPT: [HeaderName; 3] = [header::CONTENT_TYPE, header::LOCATION, header::ETAG];

/// Refuses whose role is too low for the operation whatever it is asked for; then answers, or has the request answered.
pub(crate) async fn check(State(checks): State<Checks>, request: Request, next: Next) -> Result<Response<Body>, Failure> {
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let closed = Operation { role: Some(Role::Admin), is_keyed: false };
    let Operation { role, is_keyed } = checks.operations.find(path, request.method()).unwrap_or(closed);
    let Some(role) = role else { return Ok(next.run(request).await) };
    let Some(caller) = request.extensions().get::<Caller>() else {
        return Err(Failure::new(401, "who calls is not known: send a token"));
    };
    if caller.role < role {
        return Err(Failure::new(403, format!("this needs the role {role}; yours is {}", caller.role)));
    }
    match key(request.headers())? {
        Some(key) if is_keyed => {
            let caller = caller.name.clone();
            once(&checks.answered, &caller, &key, request, next).await
        }
        _ => Ok(next.run(request).await),
    }
}

/// The key of a request: a string of structured fields (RFC 8941), or the same without its quotation marks.
fn key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let mut all = headers.get_all(KEY).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        let none = headers.get(KEY).is_none();
        return if none { Ok(None) } else { Err(Failure::new(400, "there are several headers Idempotency-Key")) };
    };
    let text = value.to_str().unwrap_or_default();
    let key = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    if (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(Some(key.to_owned()));
    }
    Err(Failure::new(400, format!("Idempotency-Key: 1 to {MAX_KEY} letters, digits and signs of ASCII, without spaces")))
}

/// Carries out a request unless it has been.
async fn once(
    answered: &Idempotency,
    caller: &str,
    key: &str,
    request: Request,
    next: Next,
) -> Result<Response<Body>, Failure> {
    let (head, body) = request.into_parts();
    // It is in memory already.
    let body = to_bytes(body, usize::MAX).await.map_err(|_| Failure::new(400, "the body did not arrive whole"))?;
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    let fingerprint = Fingerprint::new(head.method.as_str(), target, &body);
    let run = match answered.begin(caller, key, fingerprint.clone()).await? {
        Begun::First(run) => run,
        Begun::Again(answer) => return Ok(again(answer)),
        Begun::Running => {
            let detail = "a request with this Idempotency-Key is being carried out: send it again in a moment";
            return Err(Failure::new(409, detail));
        }
        Begun::Other => {
            let detail = "this Idempotency-Key has come with another request: each that is meant anew needs one of its own";
            return Err(Failure::new(422, detail));
        }
    };
    let response = next.run(Request::from_parts(head, body.into())).await;
    if !response.status().is_success() {
        // Nothing has begun, and the next time it may.
        answered.release(run).await?;
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let text = |name: &HeaderName| Some((name.to_string(), head.headers.get(name)?.to_str().ok()?.to_owned()));
    let headers = KEPT.iter().filter_map(text).collect();
    let answer = Answer { status: head.status.as_u16(), headers, body: String::from_utf8_lossy(&body).into_owned() };
    if let Err(error) = answered.finish(run, fingerprint, answer).await {
        // What was asked for has begun: that is what the caller has to know.
        tracing::error!(%error, "the answer to a request with an Idempotency-Key could not be kept");
    }
    Ok(Response::from_parts(head, body.into()))
}

fn again(answer: Answer) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let pairs = answer.headers.iter().filter_map(|(name, value)| Some((name.parse::<HeaderName>().ok()?, value.parse().ok()?)));
    response.headers_mut().extend(pairs.collect::<Vec<(HeaderName, HeaderValue)>>());
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}
