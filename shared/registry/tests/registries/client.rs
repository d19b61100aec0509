//! What the client promises, against servers that do what some registry does.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::Request};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use transship_model::{Digest, Kind, Reference};
use transship_registry::{Error, Http, Registry};

use crate::fixture::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_a_digest_costs_a_get() {
    let fake = Fake::start(|asked, _| match asked.method.as_str() {
        "HEAD" => answer(200, &[("content-type", OCI_MANIFEST)], ""),
        _ => answer(200, &[("content-type", OCI_MANIFEST)], "{}"),
    })
    .await;
    let found = registry("x", &fake.url).head_manifest(&repo("a"), &reference("v1")).await.unwrap().unwrap();
    assert_eq!((found.digest, found.size), (Digest::of(b"{}"), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_in_trouble_is_tried_three_times_and_then_left_to_the_caller() {
    let fake = Fake::start(|_, _| answer(502, &[], "<html>bad gateway</html>")).await;
    let error = registry("x", &fake.url).ping().await.unwrap_err();
    assert!(error.is_retry() && error.retry_after().is_none());
    assert_eq!(fake.asked().len(), 3);
    assert_eq!(error.to_string(), "x: GET /v2/: 502 Bad Gateway");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_wait_is_the_caller_s() {
    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
    let fake = Fake::start(move |_, _| answer(429, &[("retry-after", "37")], body)).await;
    let error = registry("x", &fake.url).ping().await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(37)));
    assert_eq!(fake.asked().len(), 1);
    assert_eq!(error.to_string(), "x: GET /v2/: 429 TOOMANYREQUESTS: slow down");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_worth_another_try() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = registry("x", &format!("http://{free}")).ping().await.unwrap_err();
    assert!(error.is_retry(), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_read_goes_on_where_it_was() {
    let content = noise(1, 300_000);
    let served = content.clone();
    let fake = Fake::start(move |asked, _| {
        let from: usize = asked.range.as_deref().map_or(0, |r| r["bytes=".len()..r.len() - 1].parse().unwrap());
        // Never more than 120 000 bytes at a time, whatever was promised.
        let rest = &served[from..];
        let sent = rest[..rest.len().min(120_000)].to_vec();
        let broken = sent.len() < rest.len();
        // What was sent has to be on its way before the connection breaks.
        let end = async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            broken.then(|| Err(std::io::Error::other("broken")))
        };
        let chunks = stream::iter([Ok(sent)]).chain(stream::once(end).filter_map(std::future::ready));
        let body = axum::body::Body::from_stream(chunks);
        let length = rest.len().to_string();
        let range = format!("bytes {from}-{}/{}", served.len() - 1, served.len());
        answer(if from > 0 { 206 } else { 200 }, &[("content-length", &length), ("content-range", &range)], body)
    })
    .await;
    let blob = registry("x", &fake.url).get_blob(&repo("a"), &Digest::of(&content)).await.unwrap();
    assert_eq!(blob.length(), Some(300_000));
    assert_eq!(blob.read(1 << 20).await.unwrap(), content);
    let ranges: Vec<_> = fake.asked().into_iter().map(|asked| asked.range).collect();
    assert_eq!(ranges, [None, Some("bytes=120000-".into()), Some("bytes=240000-".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn harbor_gets_its_project_once_and_lists_it_by_its_own_api() {
    let fake = Fake::start(|asked, _| match (asked.method.as_str(), asked.target.as_str()) {
        ("HEAD", "/api/v2.0/projects?project_name=team") => answer(404, &[], ""),
        ("POST", "/api/v2.0/projects") => answer(409, &[], ""),
        ("GET", "/api/v2.0/projects/team/repositories?page=1&page_size=100&sort=name") => {
            let names: Vec<_> = (0..100).map(|n| json!({"name": format!("team/base/app{n}")})).collect();
            answer(200, &[], serde_json::to_string(&names).unwrap())
        }
        ("GET", "/api/v2.0/projects/team/repositories?page=2&page_size=100&sort=name") => {
            answer(200, &[], r#"[{"name":"team/app"},{"name":"team/base/last"},{"name":"team/NO"}]"#)
        }
        other => panic!("{other:?}"),
    })
    .await;
    let harbor = registry_with(&fake.url, |config| (config.kind, config.credentials) = (Kind::Harbor, password()));
    for _ in 0..2 {
        harbor.ensure_namespace(&repo("team/app")).await.unwrap();
    }
    assert_eq!(fake.asked().len(), 2);
    assert!(fake.asked().iter().all(|asked| asked.authorization.as_deref() == Some("Basic dXNlcjpzZWNyZXQ=")));
    let error = harbor.ensure_namespace(&repo("app")).await.unwrap_err();
    assert!(matches!(&error, Error::Refused(_)) && error.to_string().contains("two segments"), "{error}");

    // Of what is not there nothing is made by a look.
    assert!(!harbor.has_namespace(&repo("team/app")).await.unwrap());
    assert_eq!(fake.asked().len(), 3);

    let namespace = "team/base".parse().unwrap();
    let first = harbor.list_repositories(&namespace, None).await.unwrap();
    assert_eq!(first.items.len(), 100);
    // As it comes back from a message.
    let cursor = first.next.unwrap().to_string().into();
    let second = harbor.list_repositories(&namespace, Some(&cursor)).await.unwrap();
    assert_eq!((second.items, second.next), (vec![repo("team/base/last")], None));
}

/// Would break: a project that is made for a copy and that everybody can read.
#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_harbor_gets_is_private() {
    let made: Arc<Mutex<Vec<Value>>> = Arc::default();
    let bodies = made.clone();
    let app = Router::new().fallback(async move |request: Request| {
        if request.method() == "HEAD" {
            return answer(404, &[], "");
        }
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/api/v2.0/projects"));
        let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
        bodies.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
        answer(201, &[], "")
    });
    let fake = Fake::serve(app).await;
    let harbor = registry_with(&fake.url, |config| (config.kind, config.credentials) = (Kind::Harbor, password()));
    harbor.ensure_namespace(&repo("team/app")).await.unwrap();
    assert_eq!(*made.lock().unwrap(), [json!({ "project_name": "team", "metadata": { "public": "false" } })]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_tag_has_an_error_of_its_own() {
    let body = r#"{"errors":[{"code":"PRECONDITION","message":"Failed to process request due to 'app:v1' configured as immutable."}]}"#;
    let fake = Fake::start(move |_, _| answer(412, &[], body)).await;
    let image = manifest(OCI_MANIFEST, json!({"layers": []}));
    let error = registry("x", &fake.url).put_manifest(&repo("a"), &reference("v1"), &image).await.unwrap_err();
    assert!(matches!(error, Error::Immutable(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_the_referrers_api_is_asked_for_it_once() {
    let a = Distribution::start();
    let at = endpoint("a", &a.url, "app");
    let image = push_image(&at, Some("v1"), 1).await;
    for _ in 0..2 {
        assert!(at.registry.referrers(&at.repository, &image.descriptor.digest).await.unwrap().is_empty());
    }
    assert!(at.registry.has_blob(&at.repository, &Digest::of(br#"{"seed":1}"#)).await.unwrap());
    assert!(!at.registry.has_blob(&at.repository, &Digest::of(b"x")).await.unwrap());
    let by = Reference::Digest(Digest::of(b"x"));
    assert!(at.registry.get_manifest(&at.repository, &by).await.unwrap().is_none());
}

#[test]
fn plain_http_has_to_be_asked_for() {
    let http = Http::new().unwrap();
    let new = |url: &str, plain_http| {
        let mut config = config("x", url);
        config.plain_http = plain_http;
        Registry::new(&http, config)
    };
    assert!(new("https://registry.example.com", false).is_ok());
    assert!(new("http://localhost:5000", false).is_ok());
    assert!(new("http://[::1]:5000", false).is_ok());
    assert!(new("http://registry.example.com", true).is_ok());
    for bad in ["http://registry.example.com", "ftp://x", "https://user:pass@x", "https://x/path", "https://x/?q"] {
        assert!(matches!(new(bad, false), Err(Error::Refused(_))), "{bad}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let mut config = config("x", "https://someone:hunter2@registry.example.com");
    config.credentials = password();
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("secret\""), "{shown}");
}
