//! Logging in: which credentials go where, and tokens that are fetched once.
//!
//! The first 401 of a registry tells how it wants to be logged in to; from then on each request brings what is needed at once.
//! Tokens are kept until shortly before they expire, one for each scope, and many requests that need the same one wait for
//! one fetch.

mod credential;
mod realm;
mod token;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use http::HeaderMap;
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use transship_model::{Kind, Repository};
use url::Url;

use self::{
    credential::{Credential, Source},
    realm::is_trusted,
    token::{Asking, Realm},
};
pub(crate) use self::{
    realm::is_docker_hub,
    token::{Services, TokenService},
};
use crate::{
    challenge::{Challenge, choose},
    ecr::EcrIdentity,
    error::{Error, Failure},
    host::Host,
    kept::Kept,
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
    /// With an OAuth 2.0 refresh token, which a token service takes. Where it gives another one in its place, that is used
    /// for as long as the process lives.
    RefreshToken(SecretString),
    /// With what `docker login` left in Docker's `config.json`, or with the credential helper that it names. Without an entry
    /// for the registry, not at all.
    DockerConfig,
    /// With the passwords that Amazon ECR gives to an AWS identity for a while.
    Ecr(EcrIdentity),
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
    /// Read and delete in a repository.
    Delete(Repository),
    /// Read a repository's metadata: Azure's own API.
    Metadata(Repository),
    /// Write and delete in a repository by Azure's own API.
    Untag(Repository),
    /// The service's own API, which is logged in to in a way of its own.
    Service,
}

impl Scope {
    /// As token services want it: distribution's "Token Scope Documentation".
    fn parameters(&self) -> Vec<String> {
        match self {
            Self::Ping | Self::Service => Vec::new(),
            Self::Catalog => vec!["registry:catalog:*".into()],
            Self::Pull(repository) => vec![format!("repository:{repository}:pull")],
            Self::Push(repository) => vec![format!("repository:{repository}:pull,push")],
            Self::Delete(repository) => vec![format!("repository:{repository}:pull,delete")],
            // Azure's documentation names either for it; a token service gives of both what the login may do.
            Self::Untag(repository) => vec![format!("repository:{repository}:delete,metadata_write")],
            Self::Metadata(repository) => vec![format!("repository:{repository}:metadata_read")],
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
    Basic { username: String, password: SecretString, fresh: bool },
    Bearer { token: SecretString, scope: Scope, fresh: bool },
}

impl Authorization {
    pub(crate) fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        // reqwest marks both headers as sensitive, so that no log shows them.
        match self {
            Self::Basic { username, password, .. } => request.basic_auth(username, Some(password.expose_secret())),
            Self::Bearer { token, .. } => request.bearer_auth(token.expose_secret()),
        }
    }
}

/// How the registry wants to be logged in to, once it has said so.
#[derive(Debug, Clone)]
enum Scheme {
    Basic,
    Bearer(Realm),
}

/// The user name that Quay takes with a token of its API in the place of a password.
const OAUTH_TOKEN: &str = "$oauthtoken";

type Slot = Arc<Kept<SecretString>>;

/// The tokens, by scope, each with the moment when it was asked for last.
type Tokens = HashMap<Scope, (Slot, Instant)>;

/// How many scopes have a token at the same time before those that have expired are thrown out, and the oldest if that is too
/// little.
const MANY_SCOPES: usize = 512;

/// The login of one registry.
pub(crate) struct Auth {
    /// The registry's name, for messages.
    name: String,
    endpoint: Url,
    kind: Kind,
    /// Where the service's own API is.
    api: Url,
    source: Source,
    token_realm: Option<Url>,
    host: Arc<Host>,
    scheme: Mutex<Option<Scheme>>,
    tokens: Mutex<Tokens>,
}

impl Auth {
    pub(crate) fn new(
        name: String,
        endpoint: Url,
        (kind, api): (Kind, Url),
        login: Login,
        token_realm: Option<Url>,
        host: Arc<Host>,
    ) -> Self {
        Self {
            source: Source::new(name.clone(), &endpoint, login),
            name,
            endpoint,
            kind,
            api,
            token_realm,
            host,
            scheme: Mutex::default(),
            tokens: Mutex::default(),
        }
    }

    /// What a request for this scope is sent with, as far as that is known before the registry has been asked.
    pub(crate) async fn authorization(
        &self,
        scope: &Scope,
        service: &impl TokenService,
    ) -> Result<Option<Authorization>, Error> {
        let scheme = self.scheme.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Boxed: what asks somebody is large, mostly not needed, and part of every request's future.
        match scheme {
            _ if *scope == Scope::Service => Box::pin(self.for_service(service)).await,
            None => Ok(None),
            Some(Scheme::Basic) => Box::pin(self.basic(None)).await,
            Some(Scheme::Bearer(realm)) => Box::pin(self.bearer(&realm, scope, service)).await.map(Some),
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
        if *scope == Scope::Service && self.kind != Kind::Harbor {
            return self.after_401_of_service(used, service, refusal).await;
        }
        match (choose(headers), used) {
            // Refused with the very thing that it asked for: nothing better is to be had.
            (_, Some(Authorization::Bearer { fresh: true, .. }))
            | (Some(Challenge::Basic) | None, Some(Authorization::Basic { fresh: true, .. })) => Err(self.denied(refusal)),
            (Some(Challenge::Basic) | None, Some(Authorization::Basic { username, password, .. })) => {
                let refused = Credential::Password { username, password };
                let renewed = self.basic(Some(&refused)).await?;
                renewed.ok_or_else(|| self.denied(refusal))
            }
            (Some(Challenge::Basic), _) => {
                self.remember(Scheme::Basic);
                self.basic(None).await?.ok_or_else(|| self.denied(refusal))
            }
            (Some(Challenge::Bearer { realm, service: name }), used) => {
                let realm = Realm { url: self.trusted(&realm)?, service: name };
                self.remember(Scheme::Bearer(realm.clone()));
                if let Some(Authorization::Bearer { token, scope, .. }) = used
                    && let Some(slot) = self.existing_slot(&scope)
                {
                    slot.evict(|known| known.expose_secret() == token.expose_secret()).await;
                }
                self.bearer(&realm, scope, service).await
            }
            (None, _) => Err(self.denied(refusal)),
        }
    }

    /// What the service's own API is sent. It gets nothing that it does not take: an account of the registry alone (Quay's robots,
    /// GitLab's deploy tokens) has no place there.
    async fn for_service(&self, service: &impl TokenService) -> Result<Option<Authorization>, Error> {
        match self.kind {
            Kind::Harbor => self.basic(None).await,
            Kind::DockerHub => {
                let Some(Authorization::Basic { username, password, .. }) = self.basic(None).await? else { return Ok(None) };
                let fetch = token::of_docker_hub(&self.name, &self.api, service, &username, &password);
                let (token, fresh) = self.slot(&Scope::Service).get(|_| false, fetch).await?;
                Ok(Some(Authorization::Bearer { token, scope: Scope::Service, fresh }))
            }
            Kind::Gitlab | Kind::Quay => Ok(match self.basic(None).await? {
                // Quay: the user name that stands for "the password is a token of the API".
                Some(Authorization::Basic { username, .. }) if self.kind == Kind::Quay && username != OAUTH_TOKEN => None,
                Some(Authorization::Basic { password: token, fresh, .. }) => {
                    Some(Authorization::Bearer { token, scope: Scope::Service, fresh })
                }
                _ => None,
            }),
            _ => Ok(None),
        }
    }

    /// Only Docker Hub's token may be replaced.
    async fn after_401_of_service(
        &self,
        used: Option<Authorization>,
        service: &impl TokenService,
        refusal: Failure,
    ) -> Result<Authorization, Error> {
        let Some(Authorization::Bearer { token, fresh: false, .. }) = used else { return Err(self.denied(refusal)) };
        match self.existing_slot(&Scope::Service) {
            Some(slot) => slot.evict(|known| known.expose_secret() == token.expose_secret()).await,
            None => return Err(self.denied(refusal)),
        }
        self.for_service(service).await?.ok_or_else(|| self.denied(refusal))
    }

    /// Whether the service's own API would be asked with a login.
    pub(crate) async fn has_login_for_service(&self, service: &impl TokenService) -> Result<bool, Error> {
        Ok(self.for_service(service).await?.is_some())
    }

    /// The AWS identity that it logs in with.
    pub(crate) fn ecr(&self) -> Option<&EcrIdentity> {
        self.source.ecr()
    }

    /// Whether there is nothing to log in with.
    pub(crate) async fn is_anonymous(&self) -> Result<bool, Error> {
        Ok(self.source.credential(None).await?.0.is_none())
    }

    fn remember(&self, scheme: Scheme) {
        *self.scheme.lock().unwrap_or_else(PoisonError::into_inner) = Some(scheme);
    }

    fn denied(&self, refusal: Failure) -> Error {
        refusal.denied(self.source.hint())
    }

    /// User name and password, if there are any that are not the refused ones.
    async fn basic(&self, refused: Option<&Credential>) -> Result<Option<Authorization>, Error> {
        let (credential, fresh) = self.source.credential(refused).await?;
        let better = credential.filter(|credential| !refused.is_some_and(|refused| refused.is(credential)));
        Ok(match better {
            Some(Credential::Password { username, password }) => Some(Authorization::Basic { username, password, fresh }),
            Some(Credential::Refresh(_)) | None => None,
        })
    }

    async fn bearer(&self, realm: &Realm, scope: &Scope, service: &impl TokenService) -> Result<Authorization, Error> {
        if let Some(wider) = scope.wider()
            && let Some(slot) = self.existing_slot(&wider)
            && let Some(token) = slot.current().await
        {
            return Ok(Authorization::Bearer { token, scope: wider, fresh: false });
        }
        let (token, fresh) = self.slot(scope).get(|_| false, self.fetch(realm, scope, service)).await?;
        Ok(Authorization::Bearer { token, scope: scope.clone(), fresh })
    }

    fn existing_slot(&self, scope: &Scope) -> Option<Slot> {
        used(&mut self.tokens.lock().unwrap_or_else(PoisonError::into_inner), scope)
    }

    fn slot(&self, scope: &Scope) -> Slot {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = used(&mut tokens, scope) {
            return slot;
        }
        if tokens.len() >= MANY_SCOPES {
            make_room(&mut tokens);
        }
        let slot = Slot::default();
        tokens.insert(scope.clone(), (slot.clone(), Instant::now()));
        slot
    }

    async fn fetch(&self, realm: &Realm, scope: &Scope, service: &impl TokenService) -> Result<(SecretString, Instant), Error> {
        let asking =
            Asking { name: &self.name, realm, scopes: scope.parameters(), services: self.host.token_services(), http: service };
        let (credential, fresh) = self.source.credential(None).await?;
        let refusal = match asking.ask(credential.as_ref()).await {
            Err(Error::Refused(refusal)) if matches!(refusal.status(), Some(400 | 401)) => *refusal,
            answer => return answer,
        };
        if let Some(refused) = credential.filter(|_| !fresh)
            && let (Some(renewed), _) = self.source.credential(Some(&refused)).await?
            && !renewed.is(&refused)
        {
            return asking.ask(Some(&renewed)).await.map_err(|error| match error {
                Error::Refused(refusal) if matches!(refusal.status(), Some(400 | 401)) => self.denied(*refusal),
                error => error,
            });
        }
        Err(self.denied(refusal))
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

fn used(tokens: &mut Tokens, scope: &Scope) -> Option<Slot> {
    let (slot, used) = tokens.get_mut(scope)?;
    *used = Instant::now();
    Some(slot.clone())
}

/// Leaves half of what may be there at most, so that this is not done again for each new scope.
fn make_room(tokens: &mut Tokens) {
    tokens.retain(|_, (slot, _)| slot.is_in_use());
    let Some(surplus) = tokens.len().checked_sub(MANY_SCOPES / 2).filter(|surplus| *surplus > 0) else { return };
    let mut moments: Vec<_> = tokens.values().map(|(_, used)| *used).collect();
    let (_, newest_surplus, _) = moments.select_nth_unstable(surplus - 1);
    let newest_surplus = *newest_surplus;
    tokens.retain(|_, (_, used)| *used > newest_surplus);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_tokens_of_many_scopes_make_room_for_new_ones_the_oldest_first() {
        let endpoint = "https://registry.example.com".parse().unwrap();
        let api = (Kind::Oci, "https://registry.example.com".parse().unwrap());
        let auth = Auth::new("x".into(), endpoint, api, Login::Anonymous, None, Arc::default());
        let scope = |n: usize| Scope::Pull(format!("a{n}").parse().unwrap());
        let until = Instant::now() + Duration::from_secs(3600);
        for n in 0..4 * MANY_SCOPES {
            auth.slot(&scope(n)).get(|_| false, async { Ok(("token".to_owned().into(), until)) }).await.unwrap();
            // The first is in use all the time.
            assert!(auth.existing_slot(&scope(0)).is_some(), "{n}");
            assert!(auth.tokens.lock().unwrap().len() <= MANY_SCOPES, "{n}");
        }
        let newest = 4 * MANY_SCOPES - 1;
        assert!((newest - MANY_SCOPES / 4..=newest).all(|n| auth.existing_slot(&scope(n)).is_some()));
        assert!(auth.existing_slot(&scope(1)).is_none());
    }
}
