//! Logging in: passwords, tokens, and who gets to see them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use transship_model::Digest;
use transship_registry::{Copier, Endpoint, Error, Login, Options, Outcome};

use crate::fixture::*;

#[tokio::test(flavor = "multi_thread")]
async fn with_a_password_everything_works_and_without_nothing_does() {
    let (a, b) = (Distribution::with_password(), Distribution::start());
    let logged_in = registry_with(&a.url, |config| config.credentials = password());
    logged_in.ping().await.unwrap();
    let source = Endpoint::new(&logged_in, repo("app"));
    push_index(&source, "v1", &[1, 2]).await;
    let target = endpoint("target", &b.url, "app");
    let options = Options { overwrite: false, referrers: true };
    let tag = reference("v1");
    let outcome = Copier::default().copy(&source, &tag, &target, &tag, options, &()).await.unwrap();
    assert!(matches!(outcome, Outcome::Copied { .. }));

    let error = registry("source", &a.url).ping().await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)));
    assert_eq!(error.failure().status(), Some(401));
    assert!(error.to_string().contains("source has no credentials"), "{error}");

    let wrong = Login::Password { username: "user".into(), password: "guessed".to_owned().into() };
    let error = registry_with(&a.url, |config| config.credentials = wrong).ping().await.unwrap_err();
    assert!(error.to_string().contains("check the credentials of test"), "{error}");
    assert!(!format!("{error} {error:?}").contains("guessed"));
}

/// A registry whose tokens a service beside it gives: `good` tokens are those with a number of at least `valid`.
struct Guarded {
    registry: Fake,
    service: Fake,
    valid: Arc<AtomicUsize>,
}

async fn guarded() -> Guarded {
    let given = Arc::new(AtomicUsize::new(0));
    let service = Fake::start(move |asked, _| {
        if asked.authorization.as_deref() != Some("Basic dXNlcjpzZWNyZXQ=") {
            return answer(401, &[], r#"{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}"#);
        }
        let number = given.fetch_add(1, Ordering::SeqCst);
        answer(200, &[], format!(r#"{{"token":"t{number}","access_token":"t{number}","expires_in":300}}"#))
    })
    .await;
    let valid = Arc::new(AtomicUsize::new(0));
    let (realm, least) = (format!("{}/token", service.url), valid.clone());
    let registry = Fake::start(move |asked, _| {
        let token = asked.authorization.as_deref().and_then(|a| a.strip_prefix("Bearer t")?.parse::<usize>().ok());
        if token.is_some_and(|token| token >= least.load(Ordering::SeqCst)) {
            return answer(200, &[("content-type", OCI_MANIFEST)], "{}");
        }
        let challenge = format!(r#"Bearer realm="{realm}",service="reg",scope="repository:other:pull,push,delete""#);
        answer(401, &[("www-authenticate", &challenge)], "")
    })
    .await;
    Guarded { registry, service, valid }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_fetch_one_token() {
    let Guarded { registry, service, .. } = guarded().await;
    let client = registry_with(&registry.url, |config| config.credentials = password());
    // The first learns how to log in; the others wait for one token.
    client.has_blob(&repo("a"), &Digest::of(b"x")).await.unwrap();
    let asking = (0..16).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.has_blob(&repo("b"), &Digest::of(&[n])).await.unwrap() })
    });
    for asking in asking.collect::<Vec<_>>() {
        assert!(asking.await.unwrap());
    }
    let asked: Vec<String> = service.asked().into_iter().map(|asked| asked.target).collect();
    assert_eq!(asked, ["/token?service=reg&scope=repository%3Aa%3Apull", "/token?service=reg&scope=repository%3Ab%3Apull"]);
    assert_eq!(registry.asked().iter().filter(|asked| asked.authorization.is_none()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_refused_is_replaced_once() {
    let Guarded { registry, service, valid } = guarded().await;
    let client = registry_with(&registry.url, |config| config.credentials = password());
    client.has_blob(&repo("a"), &Digest::of(b"x")).await.unwrap();
    valid.store(1, Ordering::SeqCst);
    client.has_blob(&repo("a"), &Digest::of(b"x")).await.unwrap();
    assert_eq!(service.asked().len(), 2);
    valid.store(1000, Ordering::SeqCst);
    let error = client.has_blob(&repo("a"), &Digest::of(b"x")).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    assert_eq!(service.asked().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said_by_the_token_service() {
    let Guarded { registry, .. } = guarded().await;
    let wrong = Login::Password { username: "user".into(), password: "guessed".to_owned().into() };
    let error = registry_with(&registry.url, |config| config.credentials = wrong).ping().await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)));
    assert!(error.to_string().contains("wrong password") && error.to_string().contains("check the credentials"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_do_not_go_to_a_foreign_realm() {
    for realm in ["https://tokens.evil.net/token", "https://169.254.169.254/token", "file:///etc/passwd", "nonsense"] {
        let fake =
            Fake::start(move |_, _| answer(401, &[("www-authenticate", &format!(r#"Bearer realm="{realm}""#))], "")).await;
        let error = registry_with(&fake.url, |config| config.credentials = password()).ping().await.unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{error}");
        if realm.contains("evil") {
            assert!(error.to_string().contains("set its token_realm to https://tokens.evil.net"), "{error}");
        }
    }
}
