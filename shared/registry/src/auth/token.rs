//! Getting a token from a token service.
//!
//! Three ways: a GET, with the user name and password in a header or with none ("Token Authentication Specification" of
//! distribution), and two POSTs ("OAuth 2.0", the same place): with a refresh token, or with the user name and password where the
//! service takes no GET.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::Method;
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use url::Url;

use super::credential::Credential;
use crate::error::{Error, Failure};

/// How a service answers a GET that takes none: by the book, or as a router that has no route for it.
const NO_GET: &[u16] = &[404, 405, 501];

/// The name that we go by at token services.
const CLIENT: (&str, &str) = ("client_id", "transship");

/// How long a token of Docker Hub's API is used.
const HUB_LIFE: Duration = Duration::from_secs(480);

/// So many things are remembered of one kind; a registry names one token service, or two.
const MANY: usize = 16;

/// Sends a request to a token service: the HTTP part, which is the registry client's.
pub(crate) trait TokenService: Clone + Send + Sync + 'static {
    /// Sends the request with the client that may reach the realm, and reads the answer. `None` if it has one of the
    /// statuses `expected`.
    fn ask(
        &self,
        realm: &Url,
        method: Method,
        request: impl Fn(RequestBuilder) -> RequestBuilder + Send + Sync,
        expected: &'static [u16],
    ) -> impl Future<Output = Result<Option<Vec<u8>>, Error>> + Send;
}

/// A token service, found trustworthy.
#[derive(Debug, Clone)]
pub(super) struct Realm {
    pub(super) url: Url,
    pub(super) service: Option<String>,
}

/// What the process knows about the token services of a registry's host. It outlives the clients of the host, which are made
/// anew after a refusal: a refresh token that has been replaced is of no use any more.
#[derive(Debug, Default)]
pub(crate) struct Services {
    /// Realms that take no GET.
    take_post: Mutex<Vec<Url>>,
    /// The refresh tokens that were given, and what has become of each.
    rotations: Mutex<Vec<(SecretString, Arc<AsyncMutex<Rotation>>)>>,
}

/// What has become of a refresh token.
#[derive(Debug, Default)]
struct Rotation {
    /// The one that the service has given in its place.
    newest: Option<SecretString>,
    /// Whether the service has answered without giving another one.
    stays: bool,
}

impl Services {
    fn takes_post(&self, realm: &Url) -> bool {
        self.take_post.lock().unwrap_or_else(PoisonError::into_inner).contains(realm)
    }

    fn learn_post(&self, realm: &Url) {
        remember(&mut self.take_post.lock().unwrap_or_else(PoisonError::into_inner), realm.clone());
    }

    fn rotation(&self, given: &SecretString) -> Arc<AsyncMutex<Rotation>> {
        let mut known = self.rotations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, rotation)) = known.iter().find(|(token, _)| token.expose_secret() == given.expose_secret()) {
            return rotation.clone();
        }
        let rotation = Arc::<AsyncMutex<Rotation>>::default();
        remember(&mut known, (given.clone(), rotation.clone()));
        rotation
    }
}

fn remember<T>(known: &mut Vec<T>, new: T) {
    if known.len() >= MANY {
        known.remove(0);
    }
    known.push(new);
}

/// A request for a token.
pub(super) struct Asking<'a, S> {
    /// The registry's name, for messages.
    pub(super) name: &'a str,
    pub(super) realm: &'a Realm,
    pub(super) scopes: Vec<String>,
    pub(super) services: &'a Services,
    pub(super) http: &'a S,
}

/// What a token service answers.
#[derive(Default, Deserialize)]
struct Answer {
    token: Option<String>,
    /// OAuth's name for the same; some services send both.
    access_token: Option<String>,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
}

impl<S: TokenService> Asking<'_, S> {
    /// A token, and when it is not to be used any more.
    pub(super) async fn ask(&self, credential: Option<&Credential>) -> Result<(SecretString, Instant), Error> {
        let asked = Instant::now();
        let answer = match credential {
            None => self.get(None, &[]).await?,
            Some(Credential::Refresh(given)) => Some(self.refresh(given).await?),
            Some(Credential::Password { username, password }) => {
                let got = match self.services.takes_post(&self.realm.url) {
                    true => None,
                    false => self.get(Some((username, password)), NO_GET).await?,
                };
                match got {
                    Some(answer) => Some(answer),
                    None => Some(self.password(username, password).await?),
                }
            }
        };
        let Answer { token, access_token, expires_in, .. } = answer.unwrap_or_default();
        let token =
            token.or(access_token).filter(|token| !token.is_empty()).map(SecretString::from).ok_or_else(|| {
                Failure::new(self.name, "getting a token", "the token service's answer holds no token").refused()
            })?;
        Ok((token, asked + usable(expires_in)))
    }

    async fn get(&self, login: Option<(&String, &SecretString)>, expected: &'static [u16]) -> Result<Option<Answer>, Error> {
        let service = self.realm.service.iter().map(|name| ("service", name.as_str()));
        let parameters: Vec<_> = service.chain(self.scopes.iter().map(|scope| ("scope", scope.as_str()))).collect();
        let request = |request: RequestBuilder| {
            let request = request.query(&parameters);
            match login {
                Some((username, password)) => request.basic_auth(username, Some(password.expose_secret())),
                None => request,
            }
        };
        Ok(self.http.ask(&self.realm.url, Method::GET, request, expected).await?.map(|body| read(&body)))
    }

    async fn post(&self, grant: &[(&str, &str)]) -> Result<Answer, Error> {
        post(self.http, self.realm, &self.scopes, grant).await
    }

    async fn password(&self, username: &str, password: &SecretString) -> Result<Answer, Error> {
        let grant = [("grant_type", "password"), ("username", username), ("password", password.expose_secret())];
        let answer = self.post(&grant).await;
        // It may be that there is no token service at all.
        let understood = match &answer {
            Ok(_) => true,
            Err(error) => error.failure().status().is_some_and(|status| matches!(status, 400 | 401 | 403)),
        };
        if understood && !self.services.takes_post(&self.realm.url) {
            self.services.learn_post(&self.realm.url);
        }
        answer
    }

    /// RFC 6749, section 6: the service may give a new refresh token with each answer, and take the old one no more. Until it is
    /// known that it does not, two scopes don't ask at the same time.
    async fn refresh(&self, given: &SecretString) -> Result<Answer, Error> {
        let rotation = self.services.rotation(given);
        match self.exchange(given, &rotation).await? {
            Exchange::Done(answer) => Ok(answer),
            Exchange::Overtaken(_) => match self.exchange(given, &rotation).await? {
                Exchange::Done(answer) => Ok(answer),
                Exchange::Overtaken(error) => Err(error),
            },
        }
    }

    async fn exchange(&self, given: &SecretString, rotation: &Arc<AsyncMutex<Rotation>>) -> Result<Exchange, Error> {
        let known = rotation.clone().lock_owned().await;
        let sent = known.newest.as_ref().unwrap_or(given).clone();
        let turn: Option<OwnedMutexGuard<Rotation>> = Some(known).filter(|known| !known.stays);
        let (http, realm, scopes) = (self.http.clone(), self.realm.clone(), self.scopes.clone());
        let (given, rotation) = (given.clone(), rotation.clone());
        let exchange = async move {
            let grant = [("grant_type", "refresh_token"), ("refresh_token", sent.expose_secret())];
            let answer = post(&http, &realm, &scopes, &grant).await;
            let mut known = match turn {
                Some(known) => known,
                None => rotation.lock_owned().await,
            };
            let overtaken = known.newest.as_ref().unwrap_or(&given).expose_secret() != sent.expose_secret();
            match answer {
                Ok(answer) => {
                    match answer.refresh_token.as_deref().filter(|newest| !newest.is_empty()) {
                        Some(newest) if newest != sent.expose_secret() => {
                            *known = Rotation { newest: Some(newest.to_owned().into()), stays: false };
                        }
                        _ if overtaken => {}
                        _ => known.stays = true,
                    }
                    Ok(Exchange::Done(answer))
                }
                Err(error) if !is_invalid_grant(&error) => Err(error),
                Err(error) if overtaken => Ok(Exchange::Overtaken(error)),
                Err(error) => {
                    // What was given may have been made good again; the next try begins with it.
                    *known = Rotation::default();
                    Err(error)
                }
            }
        };
        // A task of its own: the answer may hold the only token that is good from now on, and whoever waits for it may stop.
        let interrupted = |_| Failure::new(self.name, "getting a token", "it was interrupted").retry(None);
        tokio::spawn(exchange).await.map_err(interrupted)?
    }
}

/// What came of sending a refresh token.
enum Exchange {
    Done(Answer),
    /// It was refused, and another one had taken its place in the meantime.
    Overtaken(Error),
}

/// Docker Hub's API gives tokens for ten minutes: <https://docs.docker.com/reference/api/hub/latest/#tag/authentication-api>.
pub(super) async fn of_docker_hub(
    name: &str,
    api: &Url,
    http: &impl TokenService,
    username: &str,
    password: &SecretString,
) -> Result<(SecretString, Instant), Error> {
    let mut url = api.clone();
    url.set_path("/v2/auth/token");
    let body = serde_json::json!({"identifier": username, "secret": password.expose_secret()});
    let asked = Instant::now();
    let answer = http.ask(&url, Method::POST, |request| request.json(&body), &[]).await?;
    let token = read(&answer.unwrap_or_default()).access_token.filter(|token| !token.is_empty());
    let none = || Failure::new(name, "getting a token of Docker Hub's API", "the answer holds no token").refused();
    Ok((token.map(SecretString::from).ok_or_else(none)?, asked + HUB_LIFE))
}

/// Whether it is the refresh token that is refused, and not what it was to be used for: RFC 6749, section 5.2.
fn is_invalid_grant(error: &Error) -> bool {
    matches!(error, Error::Refused(failure) if matches!(failure.status(), Some(400 | 401)) && failure.has_code("invalid_grant"))
}

async fn post(http: &impl TokenService, realm: &Realm, scopes: &[String], grant: &[(&str, &str)]) -> Result<Answer, Error> {
    let scopes = scopes.join(" ");
    let mut form = vec![CLIENT];
    form.extend(realm.service.iter().map(|name| ("service", name.as_str())));
    if !scopes.is_empty() {
        form.push(("scope", &scopes));
    }
    form.extend(grant);
    let body = http.ask(&realm.url, Method::POST, |request| request.form(&form), &[]).await?;
    Ok(read(&body.unwrap_or_default()))
}

fn read(body: &[u8]) -> Answer {
    serde_json::from_slice(body).unwrap_or_default()
}

/// How long a token is used: the specification's 60 seconds where nothing is said, and less by a margin for the request that
/// is on its way when it expires.
fn usable(expires_in: Option<u64>) -> Duration {
    let life = Duration::from_secs(expires_in.unwrap_or(60).clamp(1, 3600));
    life - (life / 4).min(Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_used_to_its_last_moment() {
        assert_eq!(usable(None), Duration::from_secs(50));
        assert_eq!(usable(Some(300)), Duration::from_secs(290));
        assert_eq!(usable(Some(4)), Duration::from_secs(3));
        assert!(usable(Some(0)) > Duration::ZERO);
        assert!(usable(Some(u64::MAX)) <= Duration::from_secs(3600));
    }
}
