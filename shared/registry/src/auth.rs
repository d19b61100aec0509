//! Logging in: which credentials go where, and tokens that are fetched once.
//!
//! The first 401 of a registry tells how it wants to be logged in to; from then on each request brings what is needed at once.
//! Tokens are kept until shortly before they expire, one for each scope, and many requests that need the same one wait for
//! one fetch.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use docker_credential::{CredentialRetrievalError, DockerCredential};
use http::HeaderMap;
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex as AsyncMutex;
use transship_model::Repository;
use url::{Host, Url};

use crate::{
    challenge::{Challenge, choose},
    error::{Error, Failure},
};

/// How to log in to a registry.
#[derive(Debug, Clone)]
pub enum Login {
    /// Not at all.
    Anonymous,
    /// With a user name and a password, directly or to get a token.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// With what `docker login` left in Docker's `config.json`, or with the credential helper that it names. Without an entry
    /// for the registry, not at all.
    DockerConfig,
}

/// What a request wants to do, which is what a token is good for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// Nothing in particular.
    Ping,
    /// List repositories.
    Catalog,
    /// Read a repository.
    Pull(Repository),
    /// Read and write a repository.
    Push(Repository),
    /// Read and write one, taking a blob from another.
    Mount { into: Repository, from: Repository },
    /// Harbor's own API, which takes user name and password without asking for them.
    Harbor,
}

impl Scope {
    /// As token services want it: distribution's "Token Scope Documentation".
    fn parameters(&self) -> Vec<String> {
        match self {
            Self::Ping | Self::Harbor => Vec::new(),
            Self::Catalog => vec!["registry:catalog:*".into()],
            Self::Pull(repository) => vec![format!("repository:{repository}:pull")],
            Self::Push(repository) => vec![format!("repository:{repository}:pull,push")],
            Self::Mount { into, from } => vec![format!("repository:{into}:pull,push"), format!("repository:{from}:pull")],
        }
    }

    /// A greater scope whose token will do as well, if there happens to be one.
    fn wider(&self) -> Option<Self> {
        match self {
            Self::Pull(repository) => Some(Self::Push(repository.clone())),
            _ => None,
        }
    }
}

/// What a request is sent with.
#[derive(Debug, Clone)]
pub(crate) enum Authorization {
    Basic { username: String, password: SecretString },
    Bearer { token: SecretString, scope: Scope, fresh: bool },
}

impl Authorization {
    pub(crate) fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        // reqwest marks both headers as sensitive, so that no log shows them.
        match self {
            Self::Basic { username, password } => request.basic_auth(username, Some(password.expose_secret())),
            Self::Bearer { token, .. } => request.bearer_auth(token.expose_secret()),
        }
    }
}

/// A token service, found trustworthy.
#[derive(Debug, Clone)]
struct Realm {
    url: Url,
    service: Option<String>,
}

/// How the registry wants to be logged in to, once it has said so.
#[derive(Debug, Clone)]
enum Scheme {
    Basic,
    Bearer(Realm),
}

#[derive(Debug, Clone)]
enum Credential {
    Password {
        username: String,
        password: SecretString,
    },
    /// OAuth 2.0 refresh token, as Docker's `config.json` may hold one.
    Identity(SecretString),
}

struct Token {
    value: SecretString,
    expires: Instant,
}

type Slot = Arc<AsyncMutex<Option<Token>>>;

/// How many scopes have a token at the same time before those that have expired are thrown out.
const MANY_SCOPES: usize = 512;

/// How long what Docker knows is good for. A credential helper is a process, and slow; what it answers may be good for hours (ECR:
/// twelve), and a new `docker login` should not need a restart.
const DOCKER_LIFE: Duration = Duration::from_secs(300);

/// Fetches a token: the HTTP part, which is the registry client's.
pub(crate) trait TokenService: Sync {
    /// Sends the request with the client that may reach the realm, and reads the answer.
    fn fetch(
        &self,
        realm: &Url,
        request: impl Fn(RequestBuilder) -> RequestBuilder + Send + Sync,
        post: bool,
    ) -> impl Future<Output = Result<Vec<u8>, Error>> + Send;
}

/// The login of one registry.
pub(crate) struct Auth {
    /// The registry's name, for messages.
    name: String,
    endpoint: Url,
    login: Login,
    token_realm: Option<Url>,
    scheme: Mutex<Option<Scheme>>,
    tokens: Mutex<HashMap<Scope, Slot>>,
    docker: AsyncMutex<Option<(Option<Credential>, Instant)>>,
}

impl Auth {
    pub(crate) fn new(name: String, endpoint: Url, login: Login, token_realm: Option<Url>) -> Self {
        Self {
            name,
            endpoint,
            login,
            token_realm,
            scheme: Mutex::default(),
            tokens: Mutex::default(),
            docker: AsyncMutex::default(),
        }
    }

    /// What a request for this scope is sent with, as far as that is known before the registry has been asked.
    pub(crate) async fn authorization(
        &self,
        scope: &Scope,
        service: &impl TokenService,
    ) -> Result<Option<Authorization>, Error> {
        let scheme = self.scheme.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match scheme {
            _ if *scope == Scope::Harbor => self.basic().await,
            None => Ok(None),
            Some(Scheme::Basic) => self.basic().await,
            Some(Scheme::Bearer(realm)) => self.bearer(&realm, scope, service).await.map(Some),
        }
    }

    /// What to try after a 401, whose request had been sent with `used`.
    pub(crate) async fn after_401(
        &self,
        headers: &HeaderMap,
        scope: &Scope,
        used: Option<Authorization>,
        service: &impl TokenService,
        refusal: Failure,
    ) -> Result<Authorization, Error> {
        match (choose(headers), used) {
            // Refused with the very thing that it asked for: nothing better is to be had.
            (_, Some(Authorization::Bearer { fresh: true, .. }))
            | (Some(Challenge::Basic) | None, Some(Authorization::Basic { .. })) => Err(self.denied(refusal)),
            (Some(Challenge::Basic), _) => {
                self.remember(Scheme::Basic);
                self.basic().await?.ok_or_else(|| self.denied(refusal))
            }
            (Some(Challenge::Bearer { realm, service: name }), used) => {
                let realm = Realm { url: self.trusted(&realm)?, service: name };
                self.remember(Scheme::Bearer(realm.clone()));
                if let Some(Authorization::Bearer { token, scope, .. }) = used {
                    self.evict(&scope, &token).await;
                }
                self.bearer(&realm, scope, service).await
            }
            (None, _) => Err(self.denied(refusal)),
        }
    }

    fn remember(&self, scheme: Scheme) {
        *self.scheme.lock().unwrap_or_else(PoisonError::into_inner) = Some(scheme);
    }

    fn denied(&self, refusal: Failure) -> Error {
        let hint = match self.login {
            Login::Anonymous => format!("{} has no credentials, and the registry asks for some", self.name),
            Login::Password { .. } => format!("check the credentials of {} and what they may do", self.name),
            Login::DockerConfig => format!("check what `docker login` knows about {}", self.name),
        };
        refusal.hint(hint).refused()
    }

    async fn basic(&self) -> Result<Option<Authorization>, Error> {
        Ok(match self.credential().await? {
            Some(Credential::Password { username, password }) => Some(Authorization::Basic { username, password }),
            Some(Credential::Identity(_)) | None => None,
        })
    }

    async fn bearer(&self, realm: &Realm, scope: &Scope, service: &impl TokenService) -> Result<Authorization, Error> {
        if let Some(wider) = scope.wider()
            && let Some(slot) = self.existing_slot(&wider)
            && let Some(token) = current(&*slot.lock().await)
        {
            return Ok(Authorization::Bearer { token, scope: wider, fresh: false });
        }
        let slot = self.slot(scope);
        // Held while fetching: whoever needs the same token waits here and finds it.
        let mut slot = slot.lock().await;
        if let Some(token) = current(&slot) {
            return Ok(Authorization::Bearer { token, scope: scope.clone(), fresh: false });
        }
        let fetched = self.fetch(realm, scope, service).await?;
        let token = fetched.value.clone();
        *slot = Some(fetched);
        Ok(Authorization::Bearer { token, scope: scope.clone(), fresh: true })
    }

    fn existing_slot(&self, scope: &Scope) -> Option<Slot> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(scope).cloned()
    }

    fn slot(&self, scope: &Scope) -> Slot {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= MANY_SCOPES {
            // A slot that is locked is being filled.
            tokens.retain(|_, slot| slot.try_lock().map_or(true, |token| current(&token).is_some()));
        }
        tokens.entry(scope.clone()).or_default().clone()
    }

    /// Forgets a token that was refused, unless somebody has replaced it in the meantime.
    async fn evict(&self, scope: &Scope, refused: &SecretString) {
        if let Some(slot) = self.existing_slot(scope) {
            let mut slot = slot.lock().await;
            if slot.as_ref().is_some_and(|token| token.value.expose_secret() == refused.expose_secret()) {
                *slot = None;
            }
        }
    }

    async fn fetch(&self, realm: &Realm, scope: &Scope, service: &impl TokenService) -> Result<Token, Error> {
        #[derive(Default, Deserialize)]
        struct Answer {
            token: Option<String>,
            /// OAuth's name for the same; some services send both.
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let asked = Instant::now();
        let scopes = scope.parameters();
        let mut parameters: Vec<(&str, &str)> = realm.service.iter().map(|name| ("service", name.as_str())).collect();
        let body = match self.credential().await? {
            Some(Credential::Identity(identity)) => {
                let scopes = scopes.join(" ");
                parameters.push(("scope", &scopes));
                parameters.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "transship"),
                    ("refresh_token", identity.expose_secret()),
                ]);
                service.fetch(&realm.url, |request| request.form(&parameters), true).await?
            }
            credential => {
                parameters.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
                let request = |request: RequestBuilder| {
                    let request = request.query(&parameters);
                    match &credential {
                        Some(Credential::Password { username, password }) => {
                            request.basic_auth(username, Some(password.expose_secret()))
                        }
                        _ => request,
                    }
                };
                service.fetch(&realm.url, request, false).await?
            }
        };
        let Answer { token, access_token, expires_in } = serde_json::from_slice(&body).unwrap_or_default();
        let value = token.or(access_token).filter(|token| !token.is_empty()).map(SecretString::from).ok_or_else(|| {
            Failure::new(&self.name, "getting a token", "the token service's answer holds no token").refused()
        })?;
        Ok(Token { value, expires: asked + usable(expires_in) })
    }

    async fn credential(&self) -> Result<Option<Credential>, Error> {
        match &self.login {
            Login::Anonymous => Ok(None),
            Login::Password { username, password } => {
                Ok(Some(Credential::Password { username: username.clone(), password: password.clone() }))
            }
            Login::DockerConfig => {
                let mut known = self.docker.lock().await;
                if let Some((credential, asked)) = &*known
                    && asked.elapsed() < DOCKER_LIFE
                {
                    return Ok(credential.clone());
                }
                let credential = self.ask_docker().await?;
                *known = Some((credential.clone(), Instant::now()));
                Ok(credential)
            }
        }
    }

    async fn ask_docker(&self) -> Result<Option<Credential>, Error> {
        let host = self.endpoint.host_str().unwrap_or_default().to_owned();
        let servers = match (self.endpoint.port(), is_docker_hub(&host)) {
            (_, true) => vec!["https://index.docker.io/v1/".to_owned(), "docker.io".to_owned()],
            (Some(port), _) => vec![format!("{host}:{port}")],
            (None, _) => vec![host],
        };
        let problem = |text: &str| Failure::new(&self.name, "reading Docker's credentials", text);
        let asked = tokio::task::spawn_blocking(move || {
            let mut answer = Err(CredentialRetrievalError::NoCredentialConfigured);
            for server in servers {
                answer = docker_credential::get_credential(&server);
                if answer.is_ok() {
                    break;
                }
            }
            answer
        });
        match asked.await.map_err(|_| problem("it was interrupted").retry(None))? {
            Ok(DockerCredential::UsernamePassword(username, password)) => {
                Ok(Some(Credential::Password { username, password: password.into() }))
            }
            Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credential::Identity(token.into()))),
            // No file, or none that can be read, is what everybody has who never logged in.
            Err(
                CredentialRetrievalError::NoCredentialConfigured
                | CredentialRetrievalError::ConfigNotFound
                | CredentialRetrievalError::ConfigReadError,
            ) => Ok(None),
            // What a helper wrote may hold anything, so only its name is shown. It answers so, too, when it has no entry.
            Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("credentials not found") => Ok(None),
            Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
                Err(problem(&format!("the credential helper {helper} failed")).refused())
            }
            Err(error) => Err(problem(&error.to_string()).refused()),
        }
    }

    fn trusted(&self, realm: &str) -> Result<Url, Error> {
        let problem = |text: String| Failure::new(&self.name, "getting a token", text);
        let url =
            Url::parse(realm).map_err(|_| problem("the token realm that the registry names is no URL".into()).refused())?;
        if is_trusted(&url, &self.endpoint, self.token_realm.as_ref()) {
            return Ok(url);
        }
        let unfit = |what: &str| problem(format!("the token realm that the registry names is {what}")).refused();
        match url.scheme() {
            "https" => {}
            "http" if self.endpoint.scheme() == "http" => {}
            "http" => return Err(unfit("plain http, and the registry itself is not")),
            scheme => return Err(unfit(&format!("a {scheme}: URL"))),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(unfit("a URL with credentials in it"));
        }
        let origin = url.origin().ascii_serialization();
        Err(problem(format!("the registry names a token realm elsewhere, {origin}"))
            .hint(format!("if credentials for {} may go there, set its token_realm to {origin}", self.name))
            .refused())
    }
}

fn current(slot: &Option<Token>) -> Option<SecretString> {
    slot.as_ref().filter(|token| token.expires > Instant::now()).map(|token| token.value.clone())
}

/// How long a token is used: the specification's 60 seconds where nothing is said, and less by a margin for the request that
/// is on its way when it expires.
fn usable(expires_in: Option<u64>) -> Duration {
    let life = Duration::from_secs(expires_in.unwrap_or(60).clamp(1, 3600));
    life - (life / 4).min(Duration::from_secs(10))
}

fn is_docker_hub(host: &str) -> bool {
    matches!(host, "registry-1.docker.io" | "index.docker.io" | "docker.io")
}

/// Whether credentials of the registry may go to a token realm.
fn is_trusted(realm: &Url, endpoint: &Url, named: Option<&Url>) -> bool {
    let scheme_is_fine = match realm.scheme() {
        "https" => true,
        "http" => endpoint.scheme() == "http",
        _ => false,
    };
    if !scheme_is_fine || !realm.username().is_empty() || realm.password().is_some() {
        return false;
    }
    if named.is_some_and(|named| named.origin() == realm.origin()) {
        return true;
    }
    match (realm.host(), endpoint.host()) {
        (Some(Host::Domain(realm)), Some(Host::Domain(endpoint))) => {
            realm == endpoint
                || (is_docker_hub(endpoint) && realm == "auth.docker.io")
                || parent(endpoint)
                    .is_some_and(|parent| realm == parent || realm.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')))
        }
        (realm, endpoint) => realm == endpoint,
    }
}

/// The domain that a registry's host lies in, where that has one owner as far as its form tells: not `com`, not `co.uk`.
fn parent(host: &str) -> Option<&str> {
    let (_, parent) = host.split_once('.')?;
    let labels: Vec<&str> = parent.split('.').collect();
    match labels.as_slice() {
        [] | [_] => None,
        // `co.uk`, `com.cn`, `gov.au`: registrars' second levels are short ones below a country's two letters.
        [second, country] if country.len() == 2 && second.len() <= 3 => None,
        _ => Some(parent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_no_realm_by_mere_claim() {
        let trusted = |realm: &str, endpoint: &str, named: Option<&str>| {
            is_trusted(&realm.parse().unwrap(), &endpoint.parse().unwrap(), named.map(|n| n.parse().unwrap()).as_ref())
        };
        let registry = "https://registry.example.com";
        assert!(trusted("https://registry.example.com/token", registry, None));
        assert!(trusted("https://registry.example.com:5001/token", registry, None));
        assert!(trusted("https://auth.example.com/token", registry, None));
        assert!(trusted("https://example.com/jwt/auth", registry, None));
        assert!(trusted("https://auth.docker.io/token", "https://registry-1.docker.io", None));
        assert!(trusted("https://login.other.net/token", registry, Some("https://login.other.net")));
        assert!(trusted("http://localhost:5001/token", "http://localhost:5000", None));
        assert!(trusted("http://127.0.0.1:5001/token", "http://127.0.0.1:5000", None));

        assert!(!trusted("https://evil.net/token", registry, None));
        assert!(!trusted("https://evilexample.com/token", registry, None));
        assert!(!trusted("https://registry.example.com.evil.net/", registry, None));
        assert!(!trusted("http://registry.example.com/token", registry, None));
        assert!(!trusted("http://auth.internal/token", registry, Some("http://auth.internal")));
        assert!(!trusted("https://login.other.net:8443/token", registry, Some("https://login.other.net")));
        assert!(!trusted("https://user:pass@registry.example.com/token", registry, None));
        assert!(!trusted("https://evil.com/token", "https://example.com", None));
        assert!(!trusted("https://evil.co.uk/token", "https://example.co.uk", None));
        assert!(!trusted("https://auth.docker.io/token", registry, None));
        assert!(!trusted("https://127.0.0.2/token", "https://127.0.0.1", None));
        assert!(!trusted("https://1.0.0.1/token", "https://127.0.0.1", None));
        assert!(!trusted("ftp://registry.example.com/token", registry, None));
    }

    #[test]
    fn a_token_is_not_used_to_its_last_moment() {
        assert_eq!(usable(None), Duration::from_secs(50));
        assert_eq!(usable(Some(300)), Duration::from_secs(290));
        assert_eq!(usable(Some(4)), Duration::from_secs(3));
        assert!(usable(Some(0)) > Duration::ZERO);
        assert!(usable(Some(u64::MAX)) <= Duration::from_secs(3600));
    }
}
