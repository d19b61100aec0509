//! Answers that are too much, make no sense, or lead somewhere else. Little of them is read, and the error says who and what.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use transship_model::{Digest, Kind, Reference};
use transship_registry::{Copier, Cursor, Endpoint, Error, Options, Registry};

use crate::fixture::*;

const OPTIONS: Options = Options { overwrite: true, referrers: true };
const MIB: u64 = 1 << 20;
/// What may be on its way in sockets and in HTTP.
const ON_ITS_WAY: u64 = 16 * MIB;

fn assert_refused(error: &Error, problem: &str) {
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(problem) && text.len() < 1000 && !text.contains("secret"), "{text}");
}

/// A body that never ends, counted.
fn endless(served: &Arc<AtomicU64>) -> Body {
    let served = served.clone();
    Body::from_stream(stream::repeat(Bytes::from_static(&[b' '; 64 << 10])).map(move |piece| {
        served.fetch_add(piece.len() as u64, Ordering::SeqCst);
        Ok::<_, std::io::Error>(piece)
    }))
}

async fn every_list(registry: &Registry) -> Vec<Error> {
    let (app, digest) = (repo("team/app"), Digest::of(b"x"));
    vec![
        registry.get_manifest(&app, &reference("v1")).await.unwrap_err(),
        registry.get_manifest(&app, &Reference::Digest(digest.clone())).await.unwrap_err(),
        registry.list_tags(&app, None).await.unwrap_err(),
        registry.list_repositories(&"team".parse().unwrap(), None).await.unwrap_err(),
        registry.referrers(&app, &digest).await.unwrap_err(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_answer_without_end_no_more_is_read_than_it_may_have() {
    for kind in [Kind::Distribution, Kind::Harbor] {
        let served = Arc::<AtomicU64>::default();
        let count = served.clone();
        let without_end = Fake::start(move |_, _| answer(200, &[("content-type", OCI_INDEX)], endless(&count))).await;
        // Where it is announced nothing is waited for, and this would be for ever.
        let announced = Fake::start(|_, _| {
            let headers = [("content-type", OCI_INDEX), ("content-length", "1099511627776")];
            answer(200, &headers, Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()))
        })
        .await;
        for fake in [without_end, announced] {
            let at = registry_with(&fake.url, |config| config.kind = kind);
            let errors = tokio::time::timeout(Duration::from_secs(60), every_list(&at)).await.expect("it ends");
            assert_eq!(fake.asked().len(), errors.len());
            for error in errors {
                assert_refused(&error, "the answer has more than");
            }
        }
        assert!(served.load(Ordering::SeqCst) <= (3 * 4 + 2 * 16) * MIB + 5 * ON_ITS_WAY, "{served:?}");
    }
    let served = Arc::<AtomicU64>::default();
    let count = served.clone();
    let fake = Fake::start(move |_, _| answer(418, &[], endless(&count))).await;
    for error in every_list(&registry("x", &fake.url)).await {
        assert_refused(&error, "418");
    }
    assert!(served.load(Ordering::SeqCst) <= 5 * ON_ITS_WAY);
}

/// Would break: a copy that is tried for a day, because it looks as if the connection were bad.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_megabytes_is_refused() {
    let large = "x".repeat(1 << 20);
    let many: Vec<(String, String)> = (0..2000).map(|n| (format!("x-{n}"), "y".to_owned())).collect();
    let heads = [
        (401, vec![("www-authenticate".to_owned(), format!("Bearer realm=\"{large}\""))]),
        (200, vec![("docker-content-digest".to_owned(), large.clone())]),
        (302, vec![("location".to_owned(), large)]),
        (200, many),
    ];
    for (status, headers) in heads {
        let fake = Fake::start(move |_, _| {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            answer(status, &headers, "{}")
        })
        .await;
        let at = registry_with(&fake.url, |config| config.credentials = password());
        assert_refused(&at.get_manifest(&repo("a"), &reference("v1")).await.unwrap_err(), "message head is too large");
        assert_eq!(fake.asked().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_says_does_not_make_a_message_long() {
    let long = "a".repeat(100_000);
    for location in [format!("{long}://x"), format!("http://{long}"), format!("http://169.254.169.254/{long}")] {
        let fake = Fake::start(move |_, _| answer(302, &[("location", &location)], "")).await;
        let error = registry("x", &fake.url).get_manifest(&repo("a"), &reference("v1")).await.unwrap_err();
        assert!(error.to_string().len() < 1000, "{} characters", error.to_string().len());
    }
    let (_fake, error) = challenged(&format!("Bearer realm=\"https://{long}/\"")).await;
    assert!(error.to_string().len() < 2000, "{} characters", error.to_string().len());
    // A media type goes into a header of ours.
    let b = Distribution::start();
    let image = manifest(OCI_MANIFEST, json!({"config": descriptor(OCI_CONFIG, b"{}"), "layers": []}));
    let media_type = format!("application/{long}");
    let fake = Fake::start(move |asked, _| match asked.target.as_str() {
        "/v2/app/manifests/v1" => answer(200, &[("content-type", &media_type)], image.bytes.clone()),
        target if target.contains("/blobs/") => answer(200, &[], "{}"),
        _ => answer(404, &[], ""),
    })
    .await;
    let (source, target, tag) = (endpoint("a", &fake.url, "app"), endpoint("b", &b.url, "app"), reference("v1"));
    let error = Copier::default().copy(&source, &tag, &target, &tag, OPTIONS, &()).await.unwrap_err();
    assert_refused(&error, "its media type can't be sent in a header");
}

/// Would break: digests, and memory, if the HTTP client were ever built with decompression.
#[tokio::test(flavor = "multi_thread")]
async fn what_says_that_it_is_compressed_is_taken_as_it_is() {
    for encoding in ["gzip", "br", "zstd", "deflate"] {
        let content = noise(1, 5_000);
        let value = json!({"config": descriptor(OCI_CONFIG, b"{}"), "layers": [descriptor(OCI_LAYER, &content)]});
        let (image, name) = (manifest(OCI_MANIFEST, value), Digest::of(&content));
        let fake = Fake::start(move |asked, _| {
            let headers = [("content-type", OCI_MANIFEST), ("content-encoding", encoding)];
            match asked.target.as_str() {
                "/v2/app/manifests/v1" => answer(200, &headers, image.bytes.clone()),
                target if target.ends_with(name.as_str()) => answer(200, &headers, content.clone()),
                target if target.contains("/blobs/") => answer(200, &headers, "{}"),
                _ => answer(404, &[], ""),
            }
        })
        .await;
        let b = Distribution::start();
        let (source, target, tag) = (endpoint("a", &fake.url, "app"), endpoint("b", &b.url, "app"), reference("v1"));
        Copier::default().copy(&source, &tag, &target, &tag, OPTIONS, &()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_none_are_left_out() {
    let strange = json!([
        "../../x", "%2e%2e", "..", ".", "/etc/passwd", "a/../b", "a//b", "-a", "a b", "a\n", "a\u{0}", "http://evil.net/a", "a@b", "",
        "ä", "a".repeat(1 << 20), 1, -1.5, null, true, [], ["v1"], {}, {"name": "../x"}, {"name": 1},
    ]);
    let with = |name: &str, harbor: bool| {
        let mut names = strange.as_array().unwrap().clone();
        names.push(if harbor { json!({"name": name, "id": 1}) } else { json!(name) });
        names
    };
    let (tags, repositories, project) = (with("v1", false), with("team/app", false), with("team/app", true));
    let fake = Fake::start(move |asked, _| {
        let body = match asked.target.as_str() {
            target if target.contains("/tags/list") => json!({"name": "team/app", "tags": tags}),
            target if target.contains("/_catalog") => json!({"repositories": repositories}),
            _ => json!(project),
        };
        answer(200, &[], body.to_string())
    })
    .await;
    for kind in [Kind::Distribution, Kind::Harbor] {
        let at = registry_with(&fake.url, |config| config.kind = kind);
        let found = at.list_tags(&repo("team/app"), None).await.unwrap();
        assert_eq!((found.items, found.next), (vec!["v1".parse().unwrap()], None));
        let found = at.list_repositories(&"team".parse().unwrap(), None).await.unwrap();
        assert_eq!((found.items, found.next), (vec![repo("team/app")], None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_none_is_refused() {
    for body in
        ["", "null", "[]1", r#""x""#, r#"{"tags":"v1","repositories":"a"}"#, r#"{"tags":{},"repositories":{}}"#, "<html>"]
    {
        let fake = Fake::start(move |_, _| answer(200, &[], body)).await;
        let at = registry("x", &fake.url);
        assert_refused(&at.list_tags(&repo("a"), None).await.unwrap_err(), "the answer is not what the API promises");
        assert_refused(&at.list_repositories(&"*".parse().unwrap(), None).await.unwrap_err(), "not what the API promises");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_end_ends() {
    let pages = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start(move |asked, _| {
        let path = asked.target.split('?').next().unwrap();
        let link = format!(r#"<{path}?last={}>; rel="next""#, pages.fetch_add(1, Ordering::SeqCst));
        let body = match path.starts_with("/api") {
            true => json!(vec![json!({"name": "team/app"}); 100]).to_string(),
            false => r#"{"tags":[],"repositories":[]}"#.to_owned(),
        };
        answer(200, &[("link", &link)], body)
    })
    .await;
    // As after 9,999 pages.
    let late = |path: &str| Cursor::from(format!("9999.0000000000000000 {path}?last=x"));
    let (app, team) = (repo("team/app"), "team".parse().unwrap());
    let at = registry("x", &fake.url);
    let next = at.list_tags(&app, Some(&late("/v2/team/app/tags/list"))).await.unwrap().next.unwrap();
    assert_refused(&at.list_tags(&app, Some(&next)).await.unwrap_err(), "more than 10000 pages");
    let next = at.list_repositories(&team, Some(&late("/v2/_catalog"))).await.unwrap().next.unwrap();
    assert_refused(&at.list_repositories(&team, Some(&next)).await.unwrap_err(), "more than 10000 pages");
    let harbor = registry_with(&fake.url, |config| config.kind = Kind::Harbor);
    let next = harbor.list_repositories(&team, Some(&late("/api/v2.0/projects/team/repositories"))).await.unwrap().next;
    assert_refused(&harbor.list_repositories(&team, Some(&next.unwrap())).await.unwrap_err(), "more than 10000 pages");
}

/// Would break: a job whose message has no room for where its list goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_too_long_to_keep_is_refused() {
    let fake = Fake::start(|_, _| {
        let link = format!(r#"</v2/app/tags/list?last={}>; rel="next""#, "a".repeat(100_000));
        answer(200, &[("link", &link)], r#"{"tags":[]}"#)
    })
    .await;
    assert_refused(&registry("x", &fake.url).list_tags(&repo("app"), None).await.unwrap_err(), "which is too long");
}

/// A registry that names a token service, and the error of whoever asks it for something.
async fn challenged(challenge: &str) -> (Fake, Error) {
    let challenge = challenge.to_owned();
    let fake = Fake::start(move |_, _| answer(401, &[("www-authenticate", &challenge)], "")).await;
    let error = registry_with(&fake.url, |config| config.credentials = password()).ping().await.unwrap_err();
    (fake, error)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_elsewhere_gets_nothing_and_the_setting_is_named() {
    let service = Fake::start(|_, _| answer(200, &[], r#"{"token":"t"}"#)).await;
    let elsewhere = service.url.replace("127.0.0.1", "localhost");
    for origin in ["https://evil.net", "http://127.0.0.1.evil.net", "https://127.0.0.2:5001", &elsewhere] {
        let (fake, error) = challenged(&format!(r#"Bearer realm="{origin}/token",service="x""#)).await;
        assert_refused(&error, &format!("set its token_realm to {origin}"));
        assert_eq!(fake.asked().len(), 1);
    }
    // What no setting makes right.
    for (realm, problem) in [
        ("file:///etc/passwd", "a file: URL"),
        ("ftp://127.0.0.1/x", "a ftp: URL"),
        ("data:,{}", "a data: URL"),
        ("http://user:secret@127.0.0.1/token", "a URL with credentials in it"),
        ("/token", "no URL"),
        ("", "no URL"),
    ] {
        let (_fake, error) = challenged(&format!(r#"Bearer realm="{realm}""#)).await;
        assert_refused(&error, problem);
        assert!(!error.to_string().contains("token_realm"), "{error}");
    }
    assert_eq!(service.asked().len(), 0);

    let named = elsewhere.parse().unwrap();
    let challenge = format!(r#"Bearer realm="{elsewhere}/token""#);
    let fake = Fake::start(move |asked, _| match asked.authorization.as_deref() {
        Some("Bearer t") => answer(200, &[], ""),
        _ => answer(401, &[("www-authenticate", &challenge)], ""),
    })
    .await;
    let at = registry_with(&fake.url, |config| (config.credentials, config.token_realm) = (password(), Some(named)));
    at.ping().await.unwrap();
    assert_eq!(service.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_that_makes_no_sense_is_a_refusal() {
    let commas = ",".repeat(300_000);
    let challenges = [
        "",
        "Bearer",
        "Bearer realm",
        "Bearer realm=",
        r#"Bearer realm=""#,
        r#"Bearer realm="\"#,
        "=,=,\"",
        "Digest realm=x",
        &commas,
    ];
    for challenge in challenges {
        let (fake, error) = challenged(challenge).await;
        assert!(matches!(error, Error::Refused(_)), "{challenge}: {error:?}");
        assert_eq!(fake.asked().len(), 1);
    }
}

type Answers = Arc<dyn Fn() -> Response + Send + Sync>;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_none_is_refused() {
    let long = format!(r#"{{"token":"{}"}}"#, "x".repeat(2 << 20));
    let served = Arc::<AtomicU64>::default();
    let cases: Vec<(Answers, &str)> = vec![
        (Arc::new(move || answer(200, &[], long.clone())), "more than 1048576 bytes"),
        (
            Arc::new({
                let served = served.clone();
                move || answer(200, &[], endless(&served))
            }),
            "more than 1048576 bytes",
        ),
        (Arc::new(|| answer(200, &[], "")), "holds no token"),
        (Arc::new(|| answer(200, &[], "<html>log in</html>")), "holds no token"),
        (Arc::new(|| answer(200, &[], r#"[{"token":"t"}]"#)), "holds no token"),
        (Arc::new(|| answer(200, &[], r#"{"token":""}"#)), "holds no token"),
        (Arc::new(|| answer(200, &[], r#"{"token":{"token":"t"}}"#)), "holds no token"),
        (Arc::new(|| answer(200, &[], r#"{"token":"a\r\nhost: evil.net"}"#)), "header"),
        (Arc::new(|| answer(403, &[], r#"{"errors":[{"code":"DENIED"}]}"#)), "403 DENIED"),
        (Arc::new(|| answer(302, &[("location", "/other?secret")], "")), "302"),
    ];
    for (token, problem) in cases {
        let service = Fake::start(move |_, _| token()).await;
        let challenge = format!(r#"Bearer realm="{}/token""#, service.url);
        let (fake, error) = challenged(&challenge).await;
        assert_refused(&error, problem);
        assert_eq!((fake.asked().len(), service.asked().len()), (1, 1), "{error}");
    }
    assert!(served.load(Ordering::SeqCst) <= MIB + ON_ITS_WAY);
}

/// Would break: an engine that logs in for ever, now in one way and now in the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_always_asks_for_another_login_is_left() {
    let service = Fake::start(|_, _| answer(200, &[], r#"{"token":"t","expires_in":300}"#)).await;
    let bearer = format!(r#"Bearer realm="{}/token""#, service.url);
    let fake = Fake::start(move |asked, this| match asked.authorization.as_deref() {
        Some("Bearer t") if this.asked().len() <= 2 => answer(200, &[("content-type", OCI_MANIFEST)], "{}"),
        Some(login) if login.starts_with("Bearer") => answer(401, &[("www-authenticate", "Basic realm=x")], ""),
        _ => answer(401, &[("www-authenticate", &bearer)], ""),
    })
    .await;
    let at = registry_with(&fake.url, |config| config.credentials = password());
    at.get_manifest(&repo("a"), &reference("v1")).await.unwrap();
    let (app, tag) = (repo("a"), reference("v1"));
    let asking = at.get_manifest(&app, &tag);
    let error = tokio::time::timeout(Duration::from_secs(20), asking).await.expect("it ends").unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
    assert!(fake.asked().len() < 10, "{}", fake.asked().len());
}

/// A source with an image of a layer of 20 MB, which is sent in a `PATCH`.
async fn source() -> (Fake, Endpoint) {
    let content = noise(1, 20_000_000);
    let value = json!({"config": descriptor(OCI_CONFIG, b"{}"), "layers": [descriptor(OCI_LAYER, &content)]});
    let (image, name) = (manifest(OCI_MANIFEST, value), Digest::of(&content));
    let fake = Fake::start(move |asked, _| match asked.target.as_str() {
        "/v2/app/manifests/v1" => answer(200, &[("content-type", OCI_MANIFEST)], image.bytes.clone()),
        target if target.ends_with(name.as_str()) => answer(200, &[], content.clone()),
        target if target.contains("/blobs/") => answer(200, &[], "{}"),
        _ => answer(404, &[], ""),
    })
    .await;
    let at = endpoint("source", &fake.url, "app");
    (fake, at)
}

/// Copies to a target that answers one kind of request in its own way, and gives the error.
async fn copy_to(
    source: &Endpoint,
    method: &'static str,
    path: &'static str,
    own: impl Fn() -> Response + Clone + Send + Sync + 'static,
) -> (Fake, Error) {
    let fake = Fake::start(move |asked, _| match asked.method.as_str() {
        of if of == method && asked.target.contains(path) => own(),
        "POST" => answer(202, &[("location", "/v2/app/blobs/uploads/1")], ""),
        "PATCH" => answer(202, &[], ""),
        "PUT" => answer(201, &[], ""),
        _ => answer(404, &[], ""),
    })
    .await;
    let (target, tag) = (endpoint("target", &fake.url, "app"), reference("v1"));
    let error = Copier::default().copy(source, &tag, &target, &tag, OPTIONS, &()).await.unwrap_err();
    (fake, error)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_of_what_writes_is_not_followed() {
    let elsewhere = Fake::start(|_, _| answer(201, &[], "")).await;
    let (_source, source) = source().await;
    for status in [301, 302, 307, 308] {
        for (method, path) in [("POST", "/uploads/"), ("PATCH", "/uploads/"), ("PUT", "/uploads/"), ("PUT", "/manifests/")] {
            let location = format!("{}/x?secret", elsewhere.url);
            let (fake, error) = copy_to(&source, method, path, move || answer(status, &[("location", &location)], "")).await;
            assert_refused(&error, &format!("{status}"));
            assert!(fake.count("PUT", "/manifests/") <= usize::from(path == "/manifests/"), "{:?}", fake.asked());
        }
    }
    assert_eq!(elsewhere.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_to_no_place_that_a_registry_has_no_business_with() {
    let (_source, source) = source().await;
    for (location, problem) in [
        ("file:///etc/secret", "it sends us to a file: URL"),
        ("ftp://127.0.0.1/secret", "it sends us to a ftp: URL"),
        ("data:,secret", "it sends us to a data: URL"),
        ("http://169.254.169.254/secret", "169.254.169.254 is a private"),
        ("http://[fd00:ec2::254]/secret", "fd00:ec2::254 is a private"),
        ("http://user:secret@127.0.0.1/x", "a URL with credentials"),
        ("http://", "what is no URL"),
        ("http://[secret", "what is no URL"),
    ] {
        for (method, status) in [("POST", 202), ("PATCH", 202)] {
            let (fake, error) =
                copy_to(&source, method, "/uploads/", move || answer(status, &[("location", location)], "")).await;
            assert_refused(&error, problem);
            assert_eq!(fake.count("PUT", "/manifests/"), 0);
        }
    }
    let (fake, error) = copy_to(&source, "POST", "/uploads/", || answer(202, &[], "")).await;
    assert_refused(&error, "the answer has no Location");
    assert_eq!(fake.count("PUT", "/manifests/"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_that_send_us_to_each_other_are_left() {
    let there = Fake::start(|asked, _| {
        answer(307, &[("location", &asked.target.replace("/there/", "http://")), ("set-cookie", "a=b")], "")
    })
    .await;
    let to = there.url.clone();
    let fake = Fake::start(move |asked, this| {
        assert_eq!(asked.cookie, None);
        let back = this.url.replace("http://", "/there/");
        answer(302, &[("location", &format!("{to}{back}/v2/")), ("set-cookie", "c=d")], "")
    })
    .await;
    let at = registry("x", &fake.url);
    assert_refused(&at.get_blob(&repo("a"), &Digest::of(b"x")).await.err().unwrap(), "more than 5 redirects");
    assert_eq!((fake.asked().len(), there.asked().len()), (3, 3));
    assert!(there.asked().iter().all(|asked| asked.cookie.is_none() && asked.authorization.is_none()));
}
