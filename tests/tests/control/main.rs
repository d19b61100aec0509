//! Instances, rules and secrets through the API of a running `transship serve`.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

mod applying;
mod changing;
mod files;
mod secrets;

use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};
use transship_tests::*;

/// An answer of the API.
#[derive(Debug)]
struct Answer {
    status: u16,
    etag: Option<String>,
    body: Value,
}

/// Sends a document; `headers` besides.
async fn send(transship: &Transship, method: Method, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> Answer {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = http.request(method.clone(), format!("{}{path}", transship.url()));
    if let Some(body) = body {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        request = request.header(CONTENT_TYPE, kind).body(body.to_string());
    }
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let response = request.send().await.unwrap();
    let etag = response.headers().get("etag").map(|value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
    Answer { status, etag, body }
}

/// Sends a document that is taken.
async fn done(transship: &Transship, method: Method, path: &str, body: Value) -> Answer {
    let answer = send(transship, method.clone(), path, Some(&body), &[]).await;
    assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
    answer
}

/// A process without a configuration file.
async fn bare() -> Transship {
    let mut transship = Transship::reserve();
    transship.restart().await;
    transship
}

fn to_prod() -> Value {
    json!({ "source": { "namespace": "team" }, "target": { "instance": "prod", "namespace": "mirror" } })
}
