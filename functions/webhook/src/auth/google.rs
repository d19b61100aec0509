//! Google's identity tokens, which Pub/Sub sends with a push subscription that authenticates.
//!
//! A token is signed (RS256) with a key that Google publishes, names who issued it, for whom and until when, and the service account
//! of the subscription. All of that has to be right. The keys are kept for as long as Google says that they may be, fetched by one
//! request at a time, and a token that names an unknown key has them fetched once a minute at most, whoever sends it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::header;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use serde::Deserialize;
use tokio::{sync::OnceCell, time::Instant};
use transship_model::GoogleIdentity;

/// Where the keys are: the `jwks_uri` of <https://accounts.google.com/.well-known/openid-configuration>.
const KEYS: &str = "https://www.googleapis.com/oauth2/v3/certs";
const ISSUERS: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];

/// How long the keys may take, in all.
const TIME: Duration = Duration::from_secs(5);
/// How large they may be, in bytes; they have about 1,500.
const MAX_KEYS: usize = 64 << 10;
/// The keys are believed for at least and at most so long, whatever the answer says.
const BELIEF: [Duration; 2] = [Duration::from_secs(5 * 60), Duration::from_secs(24 * 3600)];
/// For so long an unknown key's name does not have the keys fetched again.
const PAUSE: Duration = Duration::from_secs(60);
/// After a failure they are not asked for again for so long.
const BACKOFF: Duration = Duration::from_secs(5);

/// Why a token proves nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Untrusted {
    /// It is not what it has to be.
    Refused(String),
    /// The keys can't be had now.
    Unavailable(String),
}

/// Checks identity tokens.
pub(crate) struct Google {
    keys_at: String,
    pause: Duration,
    client: OnceCell<reqwest::Client>,
    kept: Mutex<Option<Arc<Kept>>>,
    /// Held by the one that fetches the keys: when they may be fetched next.
    next: tokio::sync::Mutex<Option<Instant>>,
}

struct Kept {
    keys: JwkSet,
    until: Instant,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    email: String,
    #[serde(default)]
    email_verified: bool,
}

impl Default for Google {
    fn default() -> Self {
        Self::with(KEYS.to_owned(), PAUSE)
    }
}

impl Google {
    fn with(keys_at: String, pause: Duration) -> Self {
        let (client, kept, next) = (OnceCell::new(), Mutex::default(), tokio::sync::Mutex::default());
        Self { keys_at, pause, client, kept, next }
    }

    /// Whether a token proves this identity.
    pub(crate) async fn check(&self, token: &str, identity: &GoogleIdentity) -> Result<(), Untrusted> {
        let refused = |why: &dyn std::fmt::Display| Untrusted::Refused(why.to_string());
        let header = decode_header(token).map_err(|error| refused(&error))?;
        if header.alg != Algorithm::RS256 {
            return Err(refused(&"it is not signed with RS256"));
        }
        let key = self.key(&header.kid.unwrap_or_default()).await?;
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&ISSUERS);
        validation.set_audience(&[&identity.audience]);
        let claims = decode::<Claims>(token, &key, &validation).map_err(|error| refused(&error))?.claims;
        if !claims.email_verified || claims.email != identity.service_account.as_str() {
            return Err(refused(&"it is of another account than the instance's service_account"));
        }
        Ok(())
    }

    async fn key(&self, name: &str) -> Result<DecodingKey, Untrusted> {
        if let Some(kept) = self.kept()
            && let Some(key) = kept.key(name)
        {
            return key;
        }
        let mut next = self.next.lock().await;
        // Another request may have fetched them meanwhile.
        let kept = self.kept();
        if let Some(key) = kept.as_ref().and_then(|kept| kept.key(name)) {
            return key;
        }
        let unknown = || Untrusted::Refused("it is signed with a key that Google does not publish".to_owned());
        if next.is_some_and(|next| Instant::now() < next) {
            return Err(match kept {
                Some(_) => unknown(),
                None => Untrusted::Unavailable("they could not be fetched a moment ago".to_owned()),
            });
        }
        // Set first, because the sender may go away while they are fetched.
        *next = Some(Instant::now() + BACKOFF);
        let fetched = self.fetch().await;
        let kept = Arc::new(fetched.map_err(|error| Untrusted::Unavailable(format!("{}: {error:#}", self.keys_at)))?);
        *next = Some(Instant::now() + self.pause);
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept.clone());
        kept.key(name).unwrap_or_else(|| Err(unknown()))
    }

    fn kept(&self) -> Option<Arc<Kept>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        kept.filter(|kept| Instant::now() < kept.until)
    }

    async fn fetch(&self) -> Result<Kept, FetchError> {
        let build = async || {
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(TIME).connect_timeout(TIME).build()
        };
        let client = self.client.get_or_try_init(build).await?;
        let mut response = client.get(&self.keys_at).send().await?.error_for_status()?;
        let belief = response.headers().get(header::CACHE_CONTROL).and_then(|value| max_age(value.to_str().ok()?));
        let until = Instant::now() + belief.unwrap_or_default().clamp(BELIEF[0], BELIEF[1]);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_KEYS {
                return Err(FetchError::TooLarge);
            }
        }
        Ok(Kept { keys: serde_json::from_slice(&body)?, until })
    }
}

impl Kept {
    fn key(&self, name: &str) -> Option<Result<DecodingKey, Untrusted>> {
        let key = self.keys.find(name)?;
        Some(DecodingKey::from_jwk(key).map_err(|error| Untrusted::Unavailable(error.to_string())))
    }
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("the answer is larger than {MAX_KEYS} bytes")]
    TooLarge,
    #[error("the answer is no set of keys: {0}")]
    Json(#[from] serde_json::Error),
}

/// `max-age` of `Cache-Control` (RFC 9111, section 5.2.2.1).
fn max_age(cache_control: &str) -> Option<Duration> {
    let seconds = cache_control.split(',').find_map(|directive| directive.trim().strip_prefix("max-age="))?;
    seconds.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    };

    use http::Request;
    use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp, jwk::Jwk};
    use serde_json::{Value, json};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use transship_model::{Credentials, Instance, Kind, WebhookAuth};
    use transship_state::{Catalog, LocalSecrets, sqlite::SqliteStore};

    use super::{
        super::{Gate, Proof},
        *,
    };

    /// Two keys: the first is published, the second not.
    static KEYS: LazyLock<[EncodingKey; 2]> = LazyLock::new(|| [key(), key()]);

    fn key() -> EncodingKey {
        let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        // Of PKCS#8 (RFC 5208) the key itself: what comes before it has this length with 2048 bits.
        EncodingKey::from_rsa_der(&key.serialize_der()[26..])
    }

    /// A server that publishes the first key, after answers that it begins with.
    struct Server {
        url: String,
        requests: Arc<AtomicUsize>,
    }

    impl Server {
        async fn start(first: Vec<String>) -> Self {
            let mut jwk = Jwk::from_encoding_key(&KEYS[0], Algorithm::RS256).unwrap();
            jwk.common.key_id = Some("k1".to_owned());
            let keys = json!({ "keys": [jwk] }).to_string();
            let good = format!(
                "HTTP/1.1 200 OK\r\ncache-control: public, max-age=3600\r\ncontent-length: {}\r\n\r\n{keys}",
                keys.len()
            );
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/certs", listener.local_addr().unwrap());
            let requests = Arc::new(AtomicUsize::new(0));
            let counted = requests.clone();
            tokio::spawn(async move {
                let mut first = first.into_iter();
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    counted.fetch_add(1, Ordering::SeqCst);
                    let answer = first.next().unwrap_or_else(|| good.clone());
                    tokio::spawn(async move {
                        let _ = stream.read(&mut [0; 4096]).await;
                        let _ = stream.write_all(answer.as_bytes()).await;
                        let _ = stream.shutdown().await;
                    });
                }
            });
            Self { url, requests }
        }

        fn google(&self, pause: Duration) -> Google {
            Google::with(self.url.clone(), pause)
        }

        fn requests(&self) -> usize {
            self.requests.load(Ordering::SeqCst)
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn identity() -> GoogleIdentity {
        GoogleIdentity {
            service_account: "push@shop.iam.gserviceaccount.com".parse().unwrap(),
            audience: "https://hooks.test/hooks/google".to_owned(),
        }
    }

    /// A token as Pub/Sub sends it, with some claims changed.
    fn token(key: &EncodingKey, name: &str, changes: Value) -> String {
        let now = get_current_timestamp();
        let mut claims = json!({
            "iss": "https://accounts.google.com", "aud": "https://hooks.test/hooks/google", "azp": "1137", "sub": "1137",
            "email": "push@shop.iam.gserviceaccount.com", "email_verified": true, "iat": now - 10, "exp": now + 3600
        });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let header = Header { kid: Some(name.to_owned()), ..Header::new(Algorithm::RS256) };
        encode(&header, &claims, key).unwrap()
    }

    fn is_refused(result: Result<(), Untrusted>) -> bool {
        matches!(result, Err(Untrusted::Refused(_)))
    }

    #[tokio::test]
    async fn a_token_of_the_account_for_this_audience_is_trusted() {
        let server = Server::start(Vec::new()).await;
        let google = server.google(HOUR);
        for changes in [json!({}), json!({"iss": "accounts.google.com"})] {
            assert_eq!(google.check(&token(&KEYS[0], "k1", changes), &identity()).await, Ok(()));
        }
        assert_eq!(server.requests(), 1, "the keys are kept");
    }

    #[tokio::test]
    async fn every_claim_has_to_be_right() {
        let server = Server::start(Vec::new()).await;
        let google = server.google(HOUR);
        for changes in [
            json!({"aud": "https://hooks.test/hooks/other"}),
            json!({"aud": null}),
            json!({"iss": "https://accounts.example.com"}),
            json!({"iss": null}),
            json!({"exp": get_current_timestamp() - 120}),
            json!({"exp": null}),
            json!({"email": "push@other.iam.gserviceaccount.com"}),
            json!({"email": null}),
            json!({"email_verified": false}),
        ] {
            let result = google.check(&token(&KEYS[0], "k1", changes.clone()), &identity()).await;
            assert!(is_refused(result.clone()), "{changes}: {result:?}");
        }
        assert_eq!(server.requests(), 1);
    }

    #[tokio::test]
    async fn only_googles_signature_counts() {
        let server = Server::start(Vec::new()).await;
        let google = server.google(HOUR);
        assert!(is_refused(google.check(&token(&KEYS[1], "k1", json!({})), &identity()).await), "signed by somebody else");
        let [head, claims, signature] = &token(&KEYS[0], "k1", json!({})).split('.').map(str::to_owned).collect::<Vec<_>>()[..]
        else {
            panic!("three parts")
        };
        let other = token(&KEYS[0], "k1", json!({"exp": get_current_timestamp() + 7200}));
        let other_claims = other.split('.').nth(1).unwrap();
        assert!(is_refused(google.check(&format!("{head}.{other_claims}.{signature}"), &identity()).await), "other claims");
        // The published key taken for a shared secret, and no signature at all.
        let secret = EncodingKey::from_secret(b"anything");
        let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::HS256) };
        let shared = encode(&header, &json!({"exp": get_current_timestamp() + 60}), &secret).unwrap();
        assert!(is_refused(google.check(&shared, &identity()).await), "HS256");
        for garbage in ["", "a.b.c", &format!("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.{claims}.")] {
            assert!(is_refused(google.check(garbage, &identity()).await), "{garbage}");
        }
    }

    #[tokio::test]
    async fn an_unknown_key_has_the_keys_fetched_but_not_again_and_again() {
        let server = Server::start(Vec::new()).await;
        let google = server.google(HOUR);
        for _ in 0..3 {
            assert!(is_refused(google.check(&token(&KEYS[1], "k2", json!({})), &identity()).await));
        }
        assert_eq!(google.check(&token(&KEYS[0], "k1", json!({})), &identity()).await, Ok(()));
        assert_eq!(server.requests(), 1);

        let server = Server::start(Vec::new()).await;
        let google = server.google(Duration::ZERO);
        for _ in 0..3 {
            assert!(is_refused(google.check(&token(&KEYS[1], "k2", json!({})), &identity()).await));
        }
        assert_eq!(server.requests(), 3, "the pause is over each time");
    }

    #[tokio::test]
    async fn many_requests_at_once_fetch_the_keys_once() {
        let server = Server::start(Vec::new()).await;
        let google = Arc::new(server.google(HOUR));
        let token = token(&KEYS[0], "k1", json!({}));
        let mut checks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (google, token) = (google.clone(), token.clone());
            checks.spawn(async move { google.check(&token, &identity()).await });
        }
        assert!(checks.join_all().await.iter().all(Result::is_ok));
        assert_eq!(server.requests(), 1);
    }

    /// Would break: a server out of reach asked anew by each request, and a token taken for wrong that could not be checked.
    #[tokio::test]
    async fn keys_that_can_not_be_had_are_asked_for_again_later() {
        let failing = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".to_owned();
        let large = format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(MAX_KEYS + 1));
        for answer in [failing, large] {
            let server = Server::start(vec![answer]).await;
            let google = server.google(HOUR);
            for _ in 0..2 {
                let result = google.check(&token(&KEYS[0], "k1", json!({})), &identity()).await;
                assert!(matches!(result, Err(Untrusted::Unavailable(_))), "{result:?}");
            }
            assert_eq!(server.requests(), 1);
        }
    }

    /// Would break: an instance that asks for Google's token lets in who has a secret, or not who has the token.
    #[tokio::test]
    async fn where_a_token_is_asked_for_nothing_else_proves_a_request() {
        let server = Server::start(Vec::new()).await;
        let gate = Gate { secrets: Arc::new(LocalSecrets), google: server.google(HOUR) };
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(Arc::new(SqliteStore::open(dir.path()).unwrap().table()));
        let instance = Instance {
            name: "google".parse().unwrap(),
            endpoint: "https://europe-docker.pkg.dev".parse().unwrap(),
            kind: Kind::Google,
            region: None,
            zone: None,
            credentials: Credentials::Anonymous,
            webhook: WebhookAuth::Google(identity()),
            token_realm: None,
            api: None,
            ecr: transship_model::EcrSettings::default(),
            tcr: None,
            ca: None,
            plain_http: false,
            notify: None,
        };
        catalog.replace(&[instance], &[]).await.unwrap();
        let catalog = catalog.snapshot().await.unwrap();
        let prove = async |path: &str, authorization: Option<String>| {
            let mut request = Request::builder().uri(path);
            if let Some(authorization) = authorization {
                request = request.header("authorization", authorization);
            }
            gate.prove(&request.body(()).unwrap().into_parts().0, None, &catalog).await.map_err(|problem| problem.status)
        };
        let token = token(&KEYS[0], "k1", json!({}));
        assert!(matches!(prove("/hooks/google", Some(format!("Bearer {token}"))).await, Ok(Proof::Given(_))));
        for (path, authorization) in [
            ("/hooks/google", None),
            ("/hooks/google", Some(token.clone())),
            ("/hooks/google", Some("Bearer secret".to_owned())),
            ("/hooks/google/secret", None),
        ] {
            assert_eq!(prove(path, authorization.clone()).await.err(), Some(401), "{path} {authorization:?}");
        }
    }

    #[test]
    fn the_answer_says_for_how_long_the_keys_hold() {
        assert_eq!(max_age("public, max-age=22543, must-revalidate"), Some(Duration::from_secs(22_543)));
        assert_eq!((max_age("no-store"), max_age("max-age=soon")), (None, None));
    }
}
