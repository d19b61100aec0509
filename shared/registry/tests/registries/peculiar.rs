//! A proxy in front of a real registry that behaves as some service does. It takes a request's body whole before it hands it on,
//! as object storage does, so that a request that breaks leaves nothing behind.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body, extract::Request, response::Response};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use transship_model::Digest;

use crate::fixture::*;

pub(crate) const MIB: usize = 1 << 20;
pub(crate) const UPLOADS: &str = "/blobs/uploads/";

/// A request that has come to the proxy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    /// `Content-Length`.
    pub(crate) length: Option<u64>,
    pub(crate) content_range: Option<String>,
    pub(crate) range: Option<String>,
    /// How much of its body has come.
    pub(crate) received: u64,
    /// What was answered; 0 where nothing was.
    pub(crate) status: u16,
}

impl Seen {
    pub(crate) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.target.contains(part)
    }

    /// The session that it belongs to.
    pub(crate) fn session(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// What is done with a request.
pub(crate) enum Deed {
    Pass,
    /// Answered in the registry's place.
    Answer(Response),
    /// The connection breaks after so many bytes of the body, and the registry sees nothing.
    Break(u64),
    /// The connection breaks after so many bytes of the body, and the registry keeps them.
    Keep(u64),
    /// Passed on as it comes, not when it is whole.
    Stream,
    /// The registry does it, and nobody is told.
    LoseAnswer,
    /// Passed on after something else.
    After(BoxFuture<'static, ()>),
}

type Rule = Arc<dyn Fn(&Seen) -> Deed + Send + Sync>;
type Turn = Arc<dyn Fn(&Seen, Response) -> Response + Send + Sync>;

/// The proxy.
#[derive(Clone)]
pub(crate) struct Peculiar {
    pub(crate) url: String,
    upstream: String,
    client: reqwest::Client,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Where sessions go on: docker-registry's `Location` holds the offset, so that it forgets a session whose client has missed an
    /// answer. Others' does not.
    kept: Arc<Mutex<HashMap<String, String>>>,
    rule: Rule,
    turn: Turn,
}

impl Peculiar {
    /// A proxy that does with each request what `rule` says, and with each of the registry's answers what `turn` does.
    pub(crate) async fn start(
        upstream: &str,
        rule: impl Fn(&Seen) -> Deed + Send + Sync + 'static,
        turn: impl Fn(&Seen, Response) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            upstream: upstream.to_owned(),
            client: reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap(),
            seen: Arc::default(),
            kept: Arc::default(),
            rule: Arc::new(rule),
            turn: Arc::new(turn),
        };
        let serving = this.clone();
        let app = Router::new().fallback(move |request: Request| {
            let this = serving.clone();
            // What has come whole is handed on, even if whoever sent it is gone.
            async move { tokio::spawn(this.handle(request)).await.unwrap() }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        this
    }

    pub(crate) async fn with(upstream: &str, rule: impl Fn(&Seen) -> Deed + Send + Sync + 'static) -> Self {
        Self::start(upstream, rule, |_, response| response).await
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }

    /// Requests that were refused.
    pub(crate) fn refusals(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.status >= 400 && seen.method != "HEAD").collect()
    }

    /// How many bytes of requests' bodies have come.
    pub(crate) fn received(&self) -> u64 {
        self.seen().iter().map(|seen| seen.received).sum()
    }

    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.is(method, part)).count()
    }

    async fn handle(self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let header = |name| parts.headers.get(name).map(|value: &http::HeaderValue| value.to_str().unwrap().to_owned());
        let mut seen = Seen {
            method: parts.method.to_string(),
            target: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            length: header("content-length").and_then(|length| length.parse().ok()),
            content_range: header("content-range"),
            range: header("range"),
            ..Seen::default()
        };
        let number = {
            let mut all = self.seen.lock().unwrap();
            all.push(seen.clone());
            all.len() - 1
        };
        let mut deed = (self.rule)(&seen);
        let limit = if let Deed::Break(after) | Deed::Keep(after) = deed { after } else { u64::MAX };
        if let Deed::Stream = deed {
            let request = self.client.request(parts.method, format!("{}{}", self.upstream, seen.target));
            let body = reqwest::Body::wrap_stream(self.clone().counted(body, number));
            let Ok(passed) = request.headers(parts.headers).body(body).send().await else { return broken() };
            return http::Response::from(passed).map(Body::new);
        }
        let Some(bytes) = self.body(body, number, limit).await else { return broken() };
        seen.received = bytes.len() as u64;
        let answered = match &mut deed {
            Deed::Answer(response) => std::mem::take(response),
            Deed::Break(_) => return broken(),
            Deed::Stream | Deed::Pass | Deed::LoseAnswer | Deed::Keep(_) | Deed::After(_) => {
                if let Deed::After(wait) = &mut deed {
                    wait.await;
                }
                let mut target = seen.target.clone();
                if let Some(kept) = self.kept.lock().unwrap().get(seen.session()) {
                    let digest = seen.target.find("&digest=").map_or("", |at| &seen.target[at..]);
                    target = format!("{kept}{digest}");
                }
                // Locations are built from `Host`: they lead back here.
                let mut headers = parts.headers;
                headers.remove("content-length");
                let request = self.client.request(parts.method, format!("{}{target}", self.upstream));
                let passed = request.headers(headers).body(bytes).send().await.unwrap();
                if let (Some(next), true) = (passed.headers().get("location"), seen.is("PATCH", "/uploads/")) {
                    let next = next.to_str().unwrap();
                    let next = next[next.find("/v2/").unwrap()..].to_owned();
                    self.kept.lock().unwrap().insert(seen.session().into(), next);
                }
                if matches!(deed, Deed::LoseAnswer | Deed::Keep(_)) {
                    return broken();
                }
                (self.turn)(&seen, http::Response::from(passed).map(Body::new))
            }
        };
        if let Some(seen) = self.seen.lock().unwrap().get_mut(number) {
            seen.status = answered.status().as_u16();
        }
        answered
    }

    fn counted(self, body: Body, number: usize) -> impl futures_util::Stream<Item = Result<Bytes, axum::Error>> {
        body.into_data_stream().inspect(move |chunk| {
            if let (Ok(chunk), Some(seen)) = (chunk, self.seen.lock().unwrap().get_mut(number)) {
                seen.received += chunk.len() as u64;
            }
        })
    }

    /// A request's body; `None` if it broke off.
    async fn body(&self, body: Body, number: usize, limit: u64) -> Option<Bytes> {
        let mut stream = body.into_data_stream();
        let mut bytes = BytesMut::new();
        while (bytes.len() as u64) < limit {
            let Some(chunk) = stream.next().await else { break };
            bytes.extend_from_slice(&chunk.ok()?);
            bytes.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            if let Some(seen) = self.seen.lock().unwrap().get_mut(number) {
                seen.received = bytes.len() as u64;
            }
        }
        Some(bytes.freeze())
    }
}

/// A connection that breaks instead of an answer.
fn broken() -> Response {
    let error = std::io::Error::other("broken");
    Response::new(Body::from_stream(stream::once(async move { Err::<Bytes, _>(error) }.boxed())))
}

/// Refuses in a registry's words.
pub(crate) fn refuse(status: u16, code: &str) -> Deed {
    Deed::Answer(answer(status, &[], format!(r#"{{"errors":[{{"code":"{code}","message":"no"}}]}}"#)))
}

/// Bytes that no two seeds have in common, quickly.
pub(crate) fn much(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// The registry has the layer, byte by byte.
pub(crate) async fn assert_arrived(behind: &Distribution, layer: &[u8]) {
    let there = registry("behind", &behind.url).get_blob(&repo("app"), &Digest::of(layer)).await.unwrap();
    assert!(there.read(layer.len()).await.unwrap() == layer);
}
