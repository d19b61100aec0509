//! What every request meets before the routes, and every answer after them: limits, the request's ID, the gate.

use std::time::Duration;

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header},
};
use tower::ServiceExt as _;
use tracing::Instrument as _;
use transship_model::{Caller, Problem};

use crate::{
    Api,
    access::{Gate, Origin, refuse},
    document,
};

/// The API for those who may call it.
pub struct Guarded {
    router: Router,
    gate: Gate,
}

/// The header with a request's ID.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest body that a request may have.
const MAX_BODY: usize = 1 << 20;
/// For so long a body is waited for.
const BODY_TIME: Duration = Duration::from_secs(30);
/// The longest path with its query.
const MAX_TARGET: usize = 8 << 10;
/// The longest ID that a caller may give a request.
const MAX_ID: usize = 128;

impl Guarded {
    /// Answers those whom the gate lets in. What the API is, it tells everybody.
    pub fn new(api: Api, gate: Gate) -> Self {
        Self { router: api.router(), gate }
    }

    /// Lets somebody in whom something beside the API then answers: the answer has an ID, as the API's have, and so has what the log tells
    /// of the request.
    pub async fn beside<F: Future<Output = Response<Body>>>(
        &self,
        headers: &HeaderMap,
        origin: Origin,
        answer: impl FnOnce(Caller) -> F,
    ) -> Response<Body> {
        let id = id_of(headers, &origin);
        let origin = Origin { request: Some(id.clone()), ..origin };
        let span = tracing::info_span!("request", request = id);
        let answered = async {
            match self.gate.authenticate(headers, &origin).await {
                Ok(caller) => answer(caller).await,
                Err(problem) => refuse(&problem),
            }
        };
        finished(answered.instrument(span).await, id, false)
    }

    /// Answers a request.
    pub async fn call(&self, request: Request<Body>, origin: Origin) -> Response<Body> {
        let id = id_of(request.headers(), &origin);
        let is_head = request.method() == Method::HEAD;
        let path = tellable(request.uri().path());
        let span = tracing::info_span!("request", request = id, method = %request.method(), path);
        let origin = Origin { request: Some(id.clone()), ..origin };
        let answer = self.answer(request, origin).instrument(span).await;
        finished(answer.unwrap_or_else(|problem| refuse(&problem)), id, is_head)
    }

    /// Answers a request whose body is here already: for AWS.
    pub async fn handle(&self, request: Request<Bytes>, origin: Origin) -> Response<Bytes> {
        let (head, body) = self.call(request.map(Body::from), origin).await.into_parts();
        // The API's answers are in memory already.
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        Response::from_parts(head, body)
    }

    async fn answer(&self, request: Request<Body>, origin: Origin) -> Result<Response<Body>, Problem> {
        let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        if target > MAX_TARGET {
            return Err(Problem::new(
                414,
                format!("path and query have {target} bytes, where at most {MAX_TARGET} are possible"),
            ));
        }
        let (mut head, body) = request.into_parts();
        if head.uri.path() != document::PATH {
            head.extensions.insert(self.gate.authenticate(&head.headers, &origin).await?);
        }
        // Only of those who were let in.
        let body = read(body).await?;
        match self.router.clone().oneshot(Request::from_parts(head, Body::from(body))).await {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }
}

/// An answer with what every one has: the request's ID, and that nobody keeps it.
fn finished(mut response: Response<Body>, id: String, is_head: bool) -> Response<Body> {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let problem = Problem { request: Some(id.clone()), ..problem };
        *response.body_mut() = if is_head { Body::empty() } else { problem.to_json().into() };
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    let headers = response.headers_mut();
    headers.extend(HeaderValue::try_from(id).map(|id| (REQUEST_ID, id)));
    // What one caller may see the next may not.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The ID that a request has, or gets.
fn id_of(headers: &HeaderMap, origin: &Origin) -> String {
    given_id(headers).or(origin.request.clone()).unwrap_or_else(new_id)
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_TIME, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if is_too_long(&error) => {
            Err(Problem::new(413, format!("the body is longer than {MAX_BODY} bytes, which is more than anything here needs")))
        }
        Ok(Err(_)) => Err(Problem::new(400, "the body did not arrive whole")),
        Err(_) => Err(Problem::new(408, format!("the body did not arrive within {} seconds", BODY_TIME.as_secs()))),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.into_iter().any(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>)
}

/// The ID that a caller has given a request, if it can stand in a log and in a header.
fn given_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let is_sane = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&b);
    ((1..=MAX_ID).contains(&id.len()) && id.bytes().all(is_sane)).then(|| id.to_owned())
}

/// A path as the log may have it: what came here by mistake may hold the secret of a webhook, or a whole token.
fn tellable(path: &str) -> &str {
    if path.starts_with("/v1/") && !path.contains("tsh_") { path } else { "elsewhere" }
}

/// It names one request among many, and guards nothing.
fn new_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: a secret in the log, of a notification that was sent to the API's address, or of somebody who revokes a token by
    /// the whole of it.
    #[test]
    fn no_path_with_a_secret_is_told() {
        assert_eq!(tellable("/v1/tasks/1-01"), "/v1/tasks/1-01");
        assert_eq!(tellable("/hooks/build/s3cret"), "elsewhere");
        assert_eq!(tellable("/v1/tokens/tsh_0123456789abcdef_00"), "elsewhere");
    }
}
