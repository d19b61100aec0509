//! Tokens: the three ways to ask a token service for one, and how seldom that is done.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    response::Response,
};
use tokio::sync::Notify;
use transship_model::Digest;
use transship_registry::{Copier, Endpoint, Error, Http, Login, Options, Outcome, Registry};
use transship_tests::{Action, Proxy};

use crate::fixture::*;

/// What a token service was asked.
#[derive(Debug, Clone)]
struct Asking {
    method: String,
    /// Of the query or of the form.
    parameters: HashMap<String, String>,
    authorization: Option<String>,
}

impl Asking {
    fn get(&self, parameter: &str) -> &str {
        self.parameters.get(parameter).map_or("", String::as_str)
    }
}

/// A token service, and a registry that wants its tokens and no others.
struct Guarded {
    registry: Fake,
    asked: Arc<Mutex<Vec<Asking>>>,
    realm: String,
}

impl Guarded {
    /// The answer with the status 200 has to hold a token that begins with `good`.
    async fn start(answers: impl Fn(&Asking) -> Response + Clone + Send + Sync + 'static) -> Self {
        let asked = Arc::<Mutex<Vec<Asking>>>::default();
        let record = asked.clone();
        let app = Router::new().fallback(move |request: Request| {
            let (record, answers) = (record.clone(), answers.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = to_bytes(body, 1 << 16).await.unwrap();
                let text = if head.method == "GET" { head.uri.query().unwrap_or_default().as_bytes() } else { &body[..] };
                let parameters = url::form_urlencoded::parse(text).into_owned().collect();
                let authorization = head.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
                let asking = Asking { method: head.method.to_string(), parameters, authorization };
                let response = answers(&asking);
                record.lock().unwrap().push(asking);
                response
            }
        });
        let service = Fake::serve(app).await;
        let realm = format!("{}/token", service.url);
        let challenge = challenge(&realm);
        let registry = Fake::start(move |asked, _| {
            if asked.authorization.as_deref().is_some_and(|value| value.starts_with("Bearer good")) {
                return answer(200, &[("content-type", OCI_MANIFEST)], "{}");
            }
            answer(401, &[("www-authenticate", &challenge)], "")
        })
        .await;
        Self { registry, asked, realm }
    }

    fn client(&self, http: &Http, credentials: Login) -> Registry {
        let mut config = config("test", &self.registry.url);
        config.credentials = credentials;
        Registry::new(http, config).unwrap()
    }

    /// Waits until the token service has been asked so often.
    async fn was_asked(&self, times: usize) {
        while self.asked().len() < times {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn asked(&self) -> Vec<Asking> {
        self.asked.lock().unwrap().clone()
    }
}

fn challenge(realm: &str) -> String {
    format!(r#"Bearer realm="{realm}",service="reg""#)
}

fn token(token: &str) -> Response {
    answer(200, &[], format!(r#"{{"token":"{token}","expires_in":300}}"#))
}

async fn look(registry: &Registry, repository: &str) -> Result<bool, Error> {
    registry.has_blob(&repo(repository), &Digest::of(b"x")).await
}

fn refresh_token(token: &str) -> Login {
    Login::RefreshToken(token.to_owned().into())
}

/// Would break: a token for each request, or one for more than is needed.
#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_a_token_is_fetched_without_any() {
    let guarded = Guarded::start(|_| token("good")).await;
    let client = guarded.client(&Http::new().unwrap(), Login::Anonymous);
    for _ in 0..3 {
        look(&client, "a").await.unwrap();
    }
    let asked = guarded.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!((asked[0].method.as_str(), asked[0].authorization.as_deref()), ("GET", None));
    assert_eq!((asked[0].get("service"), asked[0].get("scope")), ("reg", "repository:a:pull"));
}

/// Would break: a request that is refused, and made twice, each time that a token ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_used_after_its_time() {
    let guarded = Guarded::start(|_| answer(200, &[], r#"{"token":"good","expires_in":1}"#)).await;
    let client = guarded.client(&Http::new().unwrap(), Login::Anonymous);
    look(&client, "a").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    look(&client, "a").await.unwrap();
    assert_eq!(guarded.asked().len(), 2);
    // It was thrown away in time, and not because it was refused: each token was used once, after one 401 in all.
    let used = guarded.registry.asked();
    assert_eq!(used.iter().map(|asked| asked.authorization.is_some()).collect::<Vec<_>>(), [false, true, true]);
}

/// Would break: a refresh token in a URL, a log or a request to the registry.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_posted_and_goes_to_nobody_else() {
    let guarded = Guarded::start(|asked| match asked.get("refresh_token") {
        "given" => answer(200, &[], r#"{"access_token":"good","expires_in":300}"#),
        _ => answer(400, &[], r#"{"error":"invalid_grant","error_description":"it has expired"}"#),
    })
    .await;
    let http = Http::new().unwrap();
    let client = guarded.client(&http, refresh_token("given"));
    look(&client, "a").await.unwrap();
    look(&client, "a").await.unwrap();
    look(&client, "b").await.unwrap();
    let asked = guarded.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    let wanted = [
        ("grant_type", "refresh_token"),
        ("client_id", "transship"),
        ("service", "reg"),
        ("scope", "repository:a:pull"),
        ("refresh_token", "given"),
    ];
    assert_eq!((asked[0].method.as_str(), asked[0].authorization.as_deref()), ("POST", None));
    assert_eq!(asked[0].parameters, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert!(guarded.registry.asked().iter().all(|asked| !format!("{asked:?}").contains("given")));

    let error = look(&guarded.client(&http, refresh_token("stolen-or-old")), "a").await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)) && error.is_denied(), "{error}");
    let text = error.to_string();
    assert!(text.contains("invalid_grant: it has expired") && text.contains("check the refresh token of test"), "{text}");
    assert!(!format!("{error:?} {client:?} {:?}", refresh_token("stolen-or-old")).contains("stolen-or-old"));
}

/// Would break: a login that is locked out because an old refresh token was used again.
/// A service that gives a new refresh token with each answer, and takes none twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_that_is_replaced_is_used_no_more() {
    let next = Arc::new(AtomicUsize::new(0));
    let newest = next.clone();
    let guarded = Guarded::start(move |asked| {
        let used = newest.load(Ordering::SeqCst);
        if asked.get("refresh_token") != format!("r{used}") {
            return answer(400, &[], r#"{"error":"invalid_grant"}"#);
        }
        newest.store(used + 1, Ordering::SeqCst);
        answer(200, &[], format!(r#"{{"access_token":"good{used}","refresh_token":"r{}","expires_in":300}}"#, used + 1))
    })
    .await;
    let http = Http::new().unwrap();
    let client = guarded.client(&http, refresh_token("r0"));
    let asking: Vec<_> = (0..8)
        .map(|at| {
            let client = client.clone();
            tokio::spawn(async move { look(&client, &format!("a{at}")).await })
        })
        .collect();
    for asking in asking {
        asking.await.unwrap().unwrap();
    }
    // A client that is made anew knows it too, though it was given the first one.
    look(&guarded.client(&http, refresh_token("r0")), "b").await.unwrap();
    let used: Vec<_> = guarded.asked().iter().map(|asked| asked.get("refresh_token").to_owned()).collect();
    assert_eq!(used, (0..9).map(|at| format!("r{at}")).collect::<Vec<_>>());

    // The operator has logged in anew, with the same words: what was remembered is forgotten after one refusal.
    next.store(0, Ordering::SeqCst);
    look(&client, "c").await.unwrap_err();
    look(&client, "c").await.unwrap();
}

/// A service as the one above, which besides refuses a scope.
#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_is_denied_does_not_lose_the_newest_refresh_token() {
    for (status, code) in [(400, "invalid_scope"), (401, "access_denied"), (403, "invalid_grant")] {
        let next = AtomicUsize::new(0);
        let rotating = Arc::new(move |asked: &Asking| {
            let used = next.load(Ordering::SeqCst);
            match asked.get("refresh_token") == format!("r{used}") {
                false => answer(400, &[], r#"{"error":"invalid_grant"}"#),
                true if asked.get("scope").contains("denied") => answer(status, &[], format!(r#"{{"error":"{code}"}}"#)),
                true => {
                    next.store(used + 1, Ordering::SeqCst);
                    let newest = used + 1;
                    answer(200, &[], format!(r#"{{"access_token":"good","refresh_token":"r{newest}","expires_in":300}}"#))
                }
            }
        });
        let guarded = Guarded::start(move |asked| rotating(asked)).await;
        let client = guarded.client(&Http::new().unwrap(), refresh_token("r0"));
        look(&client, "a").await.unwrap();
        look(&client, "denied").await.unwrap_err();
        look(&client, "b").await.unwrap();
        let used: Vec<_> = guarded.asked().iter().map(|asked| asked.get("refresh_token").to_owned()).collect();
        assert_eq!(used, ["r0", "r1", "r1"], "{status} {code}");
    }
}

/// An answer whose body comes when it is told to.
fn held(status: u16, body: &'static str, go: &Arc<Notify>) -> Response {
    let go = go.clone();
    let body = futures_util::stream::once(async move {
        go.notified().await;
        Ok::<_, std::convert::Infallible>(body)
    });
    Response::builder().status(status).body(Body::from_stream(body)).unwrap()
}

/// Would break: the only token that is good for anything is in an answer that nobody waits for any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_not_lost_with_the_one_who_asked_for_it() {
    let go = Arc::new(Notify::new());
    let told = go.clone();
    let guarded = Guarded::start(move |asked| match asked.get("refresh_token") {
        "r0" => held(200, r#"{"access_token":"good","refresh_token":"r1","expires_in":300}"#, &told),
        "r1" => token("good"),
        _ => answer(400, &[], r#"{"error":"invalid_grant"}"#),
    })
    .await;
    let client = guarded.client(&Http::new().unwrap(), refresh_token("r0"));
    let asking = tokio::spawn({
        let client = client.clone();
        async move { look(&client, "a").await }
    });
    guarded.was_asked(1).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    go.notify_one();
    look(&client, "b").await.unwrap();
    let used: Vec<_> = guarded.asked().iter().map(|asked| asked.get("refresh_token").to_owned()).collect();
    assert_eq!(used, ["r0", "r1"]);
}

/// A service that begins to replace refresh tokens when it has been found not to.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_that_is_overtaken_on_its_way_is_sent_anew_and_the_newest_kept() {
    let go = Arc::new(Notify::new());
    let told = go.clone();
    let guarded = Guarded::start(move |asked| match (asked.get("refresh_token"), asked.get("scope")) {
        ("r0", "repository:a:pull") => token("good"),
        ("r0", "repository:b:pull") => held(400, r#"{"error":"invalid_grant"}"#, &told),
        ("r0", "repository:c:pull") => answer(200, &[], r#"{"access_token":"good","refresh_token":"r1","expires_in":300}"#),
        ("r1", _) => token("good"),
        _ => answer(400, &[], r#"{"error":"invalid_grant"}"#),
    })
    .await;
    let client = guarded.client(&Http::new().unwrap(), refresh_token("r0"));
    look(&client, "a").await.unwrap();
    let late = tokio::spawn({
        let client = client.clone();
        async move { look(&client, "b").await }
    });
    guarded.was_asked(2).await;
    look(&client, "c").await.unwrap();
    go.notify_one();
    late.await.unwrap().unwrap();
    look(&client, "d").await.unwrap();
    let used: Vec<_> = guarded.asked().iter().map(|asked| asked.get("refresh_token").to_owned()).collect();
    assert_eq!(used, ["r0", "r0", "r0", "r1", "r1"]);
}

/// Would break: services that know only one of the ways, or a request in vain for each token.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_takes_no_get_is_posted_to_and_not_asked_twice() {
    for status in [404, 405, 501] {
        let guarded = Guarded::start(move |asked| match asked.method.as_str() {
            "POST" if asked.get("password") == "secret" => answer(200, &[], r#"{"access_token":"good","expires_in":300}"#),
            "POST" => answer(401, &[], r#"{"error":"invalid_grant"}"#),
            _ => answer(status, &[], "no such thing"),
        })
        .await;
        let http = Http::new().unwrap();
        let client = guarded.client(&http, password());
        look(&client, "a").await.unwrap();
        look(&client, "b").await.unwrap();
        look(&guarded.client(&http, password()), "c").await.unwrap();
        let asked = guarded.asked();
        let methods: Vec<_> = asked.iter().map(|asked| asked.method.as_str()).collect();
        assert_eq!(methods, ["GET", "POST", "POST", "POST"], "{status}");
        let wanted = [
            ("grant_type", "password"),
            ("client_id", "transship"),
            ("service", "reg"),
            ("scope", "repository:b:pull"),
            ("username", "user"),
            ("password", "secret"),
        ];
        assert_eq!(asked[2].parameters, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!(asked[2].authorization, None);

        let wrong = Login::Password { username: "user".into(), password: "guessed".to_owned().into() };
        let error = look(&guarded.client(&http, wrong), "a").await.unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{error}");
        assert!(error.to_string().contains("invalid_grant (check the credentials of test"), "{error}");
        assert_eq!(guarded.asked().len(), 5);
    }
    // Where there is nothing at all, that is what is said, and a password is not offered to it by each request.
    let guarded = Guarded::start(|_| answer(404, &[], "")).await;
    let error = look(&guarded.client(&Http::new().unwrap(), password()), "a").await.unwrap_err();
    assert!(
        error.to_string().contains("getting a token from http://127.0.0.1:") && error.to_string().contains("404"),
        "{error}"
    );
    assert_eq!(guarded.asked().len(), 2);
}

/// Would break: a token for each request, or the right to push asked of a source.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_pull_and_push_copies_with_few_tokens_and_no_more_than_it_needs() {
    let guarded = Guarded::start(|asked| token(&format!("good:{}", asked.get("scope")))).await;
    let challenge = challenge(&guarded.realm);
    // Real registries, behind a door that opens to tokens for what is done there.
    let door = move |request: &transship_tests::Request| {
        let path = request.path.strip_prefix("/v2/").unwrap_or_default();
        let end = ["/blobs/", "/manifests/", "/referrers/"].iter().find_map(|part| path.find(part)).unwrap_or(0);
        let reads = request.method == "GET" || request.method == "HEAD";
        let scope = request.header("authorization").strip_prefix("Bearer good:repository:").unwrap_or_default();
        let (name, actions) = scope.split_once(':').unwrap_or_default();
        if name == &path[..end] && (actions == "pull,push" || (reads && actions == "pull")) {
            return Action::Pass;
        }
        Action::status(401, &[("www-authenticate", &challenge)], "")
    };
    let (a, b) = (Distribution::start(), Distribution::start());
    push_index(&endpoint("source", &a.url, "app"), "v1", &[1, 2, 3]).await;
    let (from, to) = (Proxy::start(&a.url, door.clone()).await, Proxy::start(&b.url, door).await);
    let with = |url: &str| registry_with(url, |config| config.credentials = password());
    let (source, target) = (Endpoint::new(&with(from.url()), repo("app")), Endpoint::new(&with(to.url()), repo("team/app")));
    let options = Options { overwrite: false, referrers: true };
    let tag = reference("v1");
    let outcome = Copier::default().copy(&source, &tag, &target, &tag, options, &()).await.unwrap();
    assert!(matches!(outcome, Outcome::Copied { .. }), "{outcome:?}");
    let mut scopes: Vec<_> = guarded.asked().iter().map(|asked| asked.get("scope").to_owned()).collect();
    scopes.sort();
    scopes.dedup();
    assert_eq!(scopes[0], "repository:app:pull");
    assert!(scopes.iter().skip(1).all(|scope| scope.starts_with("repository:team/app:pull")), "{scopes:?}");
    assert!(guarded.asked().len() <= 3, "{:?}", guarded.asked());
}
