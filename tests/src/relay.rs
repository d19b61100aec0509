//! What stands between the functions and the services of AWS, and notes what passes.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    response::Response,
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

/// A request to a service.
#[derive(Debug)]
pub struct Call {
    /// `DynamoDB.GetItem`, `SQS.SendMessage`.
    pub operation: String,
    /// What it was asked, where that is JSON.
    pub asked: Value,
    /// What it answered, likewise.
    pub answered: Value,
    /// It did what it was asked for.
    pub is_done: bool,
    began: Instant,
    ended: Instant,
}

/// A running relay; it ends on drop.
pub struct Relay {
    url: String,
    calls: Calls,
    server: JoinHandle<()>,
}

type Calls = Arc<Mutex<Vec<Call>>>;

#[derive(Clone)]
struct Leg {
    upstream: String,
    http: reqwest::Client,
    calls: Calls,
}

impl Relay {
    /// One before the services at `upstream`.
    pub async fn start(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let leg = Leg { upstream, http, calls: Calls::default() };
        let calls = leg.calls.clone();
        let router = axum::Router::new().fallback(pass).with_state(leg);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("the relay") });
        Self { url, calls, server }
    }

    /// Where the functions find the services.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All calls since this was asked last.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn pass(State(leg): State<Leg>, request: Request) -> Response {
    let began = Instant::now();
    let (mut head, body) = request.into_parts();
    let body = to_bytes(body, 16 << 20).await.expect("a whole request");
    let target = head.headers.get("x-amz-target").map(|target| target.to_str().expect("text").to_owned());
    // SNS still speaks its older protocol: a form.
    let operation = target.map_or_else(
        || form(&body, "Action").map_or_else(|| head.uri.path().to_owned(), |action| format!("SNS.{action}")),
        |target| target.replace("DynamoDB_20120810", "DynamoDB").replace("AmazonSQS", "SQS"),
    );
    let mut asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut body = body.to_vec();
    if operation.starts_with("DynamoDB.") {
        // The service itself is to say what it charges.
        asked["ReturnConsumedCapacity"] = "TOTAL".into();
        body = serde_json::to_vec(&asked).expect("JSON");
    }
    // Both are of this connection.
    head.headers.remove("content-length");
    head.headers.remove("host");
    let response = leg.http.request(head.method, format!("{}{}", leg.upstream, head.uri)).headers(head.headers).body(body);
    let response = response.send().await.expect("the services answer");
    let (status, mut headers) = (response.status(), response.headers().clone());
    headers.remove("transfer-encoding");
    let body = response.bytes().await.expect("a whole answer");
    let answered = serde_json::from_slice(&body).unwrap_or_default();
    let call = Call { operation, asked, answered, is_done: status.is_success(), began, ended: Instant::now() };
    leg.calls.lock().unwrap().push(call);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn form(body: &[u8], field: &str) -> Option<String> {
    let text = str::from_utf8(body).ok()?;
    text.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == field).map(|(_, value)| value.to_owned())
}

/// The time in which any of them was under way.
pub fn busy(calls: &[Call]) -> Duration {
    let mut spans: Vec<(Instant, Instant)> = calls.iter().map(|call| (call.began, call.ended)).collect();
    spans.sort_unstable();
    let mut busy = Duration::ZERO;
    let mut until: Option<Instant> = None;
    for (began, ended) in spans {
        let began = until.map_or(began, |until| until.max(began));
        if ended > began {
            busy += ended - began;
            until = Some(ended);
        }
    }
    busy
}

/// How many of them came one after the other: the most of which each began when the one before had ended.
pub fn in_a_row(calls: &[Call]) -> usize {
    let mut spans: Vec<(Instant, Instant)> = calls.iter().map(|call| (call.ended, call.began)).collect();
    spans.sort_unstable();
    let mut last: Option<Instant> = None;
    let mut follows = |(ended, began): &(Instant, Instant)| {
        let follows = last.is_none_or(|last| *began >= last);
        if follows {
            last = Some(*ended);
        }
        follows
    };
    spans.iter().filter(|span| follows(span)).count()
}
