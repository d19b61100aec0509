//! What a login consists of at the moment.

use std::time::{Duration, Instant};

use docker_credential::{CredentialRetrievalError, DockerCredential};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;
use url::Url;

use super::{Login, realm::is_docker_hub};
use crate::{
    ecr::EcrIdentity,
    error::{Error, Failure},
    kept::Kept,
};

/// How long what Docker knows is good for. A credential helper is a process, and slow; what it answers may be good for hours (ECR:
/// twelve), and a new `docker login` should not need a restart.
const DOCKER_LIFE: Duration = Duration::from_secs(300);
/// How long a credential helper may take. Some ask a cloud.
const HELPER_PATIENCE: Duration = Duration::from_secs(60);

/// What proves who we are.
#[derive(Debug, Clone)]
pub(super) enum Credential {
    Password {
        username: String,
        password: SecretString,
    },
    /// OAuth 2.0 refresh token; Docker calls it identity token.
    Refresh(SecretString),
}

impl Credential {
    /// Whether it is the same secret.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Password { username, password }, Self::Password { username: other_name, password: other }) => {
                username == other_name && password.expose_secret() == other.expose_secret()
            }
            (Self::Refresh(token), Self::Refresh(other)) => token.expose_secret() == other.expose_secret(),
            _ => false,
        }
    }
}

/// Where a registry's credential comes from.
pub(super) struct Source {
    /// The registry's name, for messages.
    name: String,
    login: Login,
    /// What Docker may call the registry.
    servers: Vec<String>,
    docker: Kept<Option<Credential>>,
}

impl Source {
    pub(super) fn new(name: String, endpoint: &Url, login: Login) -> Self {
        let host = endpoint.host_str().unwrap_or_default().to_owned();
        let servers = match (endpoint.port(), is_docker_hub(&host)) {
            (_, true) => vec!["https://index.docker.io/v1/".to_owned(), "docker.io".to_owned()],
            (Some(port), _) => vec![format!("{host}:{port}")],
            (None, _) => vec![host],
        };
        Self { name, login, servers, docker: Kept::default() }
    }

    /// The credential, if there is one, and whether there can be no newer one; `refused` is one that was of no use.
    pub(super) async fn credential(&self, refused: Option<&Credential>) -> Result<(Option<Credential>, bool), Error> {
        let is_refused = |known: &Credential| refused.is_some_and(|refused| known.is(refused));
        match &self.login {
            Login::Anonymous => Ok((None, true)),
            Login::Password { username, password } => {
                Ok((Some(Credential::Password { username: username.clone(), password: password.clone() }), true))
            }
            Login::RefreshToken(token) => Ok((Some(Credential::Refresh(token.clone())), true)),
            Login::DockerConfig => {
                let ask = async { Ok((self.ask_docker().await?, Instant::now() + DOCKER_LIFE)) };
                self.docker.get(|known| known.as_ref().is_some_and(is_refused), ask).await
            }
            Login::Ecr(identity) => {
                let password = match refused {
                    Some(Credential::Password { password, .. }) => Some(password),
                    _ => None,
                };
                let issued = identity.password(password).await.map_err(|problem| {
                    let failure = Failure::new(&self.name, "getting a password", problem.problem);
                    let failure = match problem.hint {
                        Some(hint) => failure.hint(hint),
                        None => failure,
                    };
                    if problem.may_pass { failure.retry(None) } else { failure.refused() }
                })?;
                let credential = Credential::Password { username: issued.username, password: issued.password };
                Ok((Some(credential), issued.fresh))
            }
        }
    }

    pub(super) fn ecr(&self) -> Option<&EcrIdentity> {
        match &self.login {
            Login::Ecr(identity) => Some(identity),
            _ => None,
        }
    }

    /// What to look at when the registry refuses.
    pub(super) fn hint(&self) -> String {
        match &self.login {
            Login::Anonymous => format!("{} has no credentials, and the registry asks for some", self.name),
            Login::Password { .. } => format!("check the credentials of {} and what they may do", self.name),
            Login::RefreshToken(_) => format!(
                "check the refresh token of {}: what it may do, whether it has expired or been replaced, and whether the registry \
                 has a token service at all",
                self.name
            ),
            Login::DockerConfig => format!("check what `docker login` knows about {}", self.name),
            Login::Ecr(identity) => identity.hint(),
        }
    }

    async fn ask_docker(&self) -> Result<Option<Credential>, Error> {
        let problem = |text: &str| Failure::new(&self.name, "reading Docker's credentials", text);
        let servers = self.servers.clone();
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
        let Ok(asked) = timeout(HELPER_PATIENCE, asked).await else {
            let text = format!("no answer for {} seconds, perhaps of a credential helper", HELPER_PATIENCE.as_secs());
            return Err(problem(&text).retry(None));
        };
        match asked.map_err(|_| problem("it was interrupted").retry(None))? {
            Ok(DockerCredential::UsernamePassword(username, password)) => {
                Ok(Some(Credential::Password { username, password: password.into() }))
            }
            Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credential::Refresh(token.into()))),
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
}
