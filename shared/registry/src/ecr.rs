//! Amazon ECR: passwords that AWS gives for twelve hours, and its own API. Nothing else here knows the SDK.

mod repositories;

use std::{
    collections::HashMap,
    error::Error as StdError,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use aws_config::{
    BehaviorVersion, Region, SdkConfig, default_provider::region, meta::region::ProvideRegion as _, sts::AssumeRoleProvider,
};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ecr::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::get_authorization_token::GetAuthorizationTokenOutput,
};
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use base64::Engine as _;
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::OnceCell, time::timeout};
use transship_model::RoleArn;
use url::Url;

use crate::{auth::Login, error::sanitised, kept::Kept};

/// How long AWS may take, with the SDK's own tries and the role in between.
const PATIENCE: Duration = Duration::from_secs(60);
/// A password is not used in the last minutes of its life.
const MARGIN: Duration = Duration::from_secs(300);
/// How long a password is used that has expired when it comes: the clock here is wrong.
const SHORTEST: Duration = Duration::from_secs(60);
/// How long a password is used that does not say when it expires.
const UNTOLD: Duration = Duration::from_secs(3600);
/// The longest that a password is used, whatever it says.
const LONGEST: Duration = Duration::from_secs(12 * 3600);

/// The AWS identity of the process, as the SDK finds it (environment, profile, web identity, container, instance), and the
/// passwords that ECR gives it. Nothing is looked up before the first password is needed; cloning is cheap.
#[derive(Clone, Default)]
pub struct Ecr {
    shared: Arc<Shared>,
    accounts: Arc<Mutex<HashMap<Key, EcrIdentity>>>,
}

/// Passwords differ by region, and by who asks for them. They are good for all registries in the region that this identity may use.
type Key = (Option<String>, Option<RoleArn>);

#[derive(Default)]
struct Shared {
    /// A configuration that is not the environment's.
    given: Option<SdkConfig>,
    loaded: OnceCell<SdkConfig>,
}

impl Ecr {
    /// With a configuration that is not the environment's; as [`aws_config::defaults`] makes it, with a time source and a way to
    /// sleep.
    pub fn with(config: SdkConfig) -> Self {
        Self { shared: Arc::new(Shared { given: Some(config), loaded: OnceCell::new() }), accounts: Arc::default() }
    }

    /// How to log in to a registry of ECR: the region is that of its host, or the environment's where the host has none; a role is
    /// assumed first if one is given.
    pub fn login(&self, endpoint: &Url, role: Option<&RoleArn>) -> Login {
        let region = Self::region_of(endpoint).map(str::to_owned);
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let account = accounts.entry((region.clone(), role.cloned())).or_insert_with(|| {
            let (role, shared) = (role.cloned(), self.shared.clone());
            EcrIdentity(Arc::new(Identity { region, role, shared, client: OnceCell::new(), password: Kept::default() }))
        });
        Login::Ecr(account.clone())
    }

    /// The region that a host of ECR names: `ACCOUNT.dkr.ecr.REGION.amazonaws.com`, of China, with `ecr-fips`, or
    /// `ACCOUNT.dkr-ecr.REGION.on.aws`.
    pub fn region_of(endpoint: &Url) -> Option<&str> {
        let labels: Vec<&str> = endpoint.host_str()?.split('.').collect();
        let (service, region) = match labels[..] {
            [_, "dkr", service, region, "amazonaws", "com"] | [_, "dkr", service, region, "amazonaws", "com", "cn"] => {
                (service, region)
            }
            [_, service, region, "on", "aws"] | [_, service, region, "on", "amazonwebservices", "com", "cn"] => {
                (service.strip_prefix("dkr-")?, region)
            }
            _ => return None,
        };
        matches!(service, "ecr" | "ecr-fips").then_some(region)
    }
}

impl fmt::Debug for Ecr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ecr")
    }
}

/// An identity that ECR knows, in one region. Cloning is cheap.
#[derive(Clone)]
pub struct EcrIdentity(Arc<Identity>);

struct Identity {
    /// The environment's if there is none.
    region: Option<String>,
    role: Option<RoleArn>,
    shared: Arc<Shared>,
    client: OnceCell<Client>,
    password: Kept<(String, SecretString), Denial>,
}

/// What ECR gives.
#[derive(Debug, Clone)]
pub(crate) struct Password {
    pub(crate) username: String,
    pub(crate) password: SecretString,
    /// Whether it has been issued since it was asked for: there is no newer one to be had.
    pub(crate) fresh: bool,
}

/// Why AWS does not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    /// What happened.
    pub(crate) problem: String,
    /// How to mend it, where that is known.
    pub(crate) hint: Option<String>,
    /// Whether it may go better later.
    pub(crate) may_pass: bool,
    /// The service's own name for it.
    pub(crate) code: Option<String>,
}

impl EcrIdentity {
    /// What to log in with now. It is asked before each request, and keeps what it has as long as that is good; `refused` is a
    /// password that the registry has not taken, so that another one is needed.
    pub(crate) async fn password(&self, refused: Option<&SecretString>) -> Result<Password, Denial> {
        let is_refused = |(_, known): &(String, SecretString)| {
            refused.is_some_and(|refused| refused.expose_secret() == known.expose_secret())
        };
        let fetch = async {
            let Ok(fetched) = timeout(PATIENCE, self.0.fetch()).await else { return Err(late()) };
            fetched
        };
        let ((username, password), fresh) = self.0.password.get(is_refused, fetch).await?;
        Ok(Password { username, password, fresh })
    }

    /// What to look at when a registry refuses a password.
    pub(crate) fn hint(&self) -> String {
        format!("check what {} may do in ECR, in its own policies and in the repository's", self.0.identity())
    }
}

impl Identity {
    async fn fetch(&self) -> Result<((String, SecretString), Instant), Denial> {
        let answer = self.client().await?.get_authorization_token().send().await;
        let answer = answer.map_err(|error| self.denial(&error, "ecr:GetAuthorizationToken"))?;
        let nonsense = || passing("ECR's answer holds no password".to_owned());
        opened(&answer).ok_or_else(nonsense)
    }

    async fn client(&self) -> Result<&Client, Denial> {
        self.client.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Client, Denial> {
        let region = match (&self.region, &self.shared.given) {
            (Some(region), _) => Some(Region::new(region.clone())),
            (None, Some(given)) => given.region().cloned(),
            (None, None) => region::default_provider().region().await,
        };
        let region = region.ok_or_else(|| Denial {
            problem: "the endpoint's host names no region of AWS, and neither does the environment".into(),
            hint: Some("set AWS_REGION, or use the endpoint ACCOUNT.dkr.ecr.REGION.amazonaws.com".into()),
            may_pass: false,
            code: None,
        })?;
        let load = || async { aws_config::defaults(BehaviorVersion::latest()).region(region.clone()).load().await };
        let config = match &self.shared.given {
            Some(given) => given,
            None => self.shared.loaded.get_or_init(load).await,
        };
        let mut builder = aws_sdk_ecr::config::Builder::from(config).region(region.clone());
        if let Some(role) = &self.role {
            let provider =
                AssumeRoleProvider::builder(role.as_str()).session_name("transship").region(region).configure(config);
            builder = builder.credentials_provider(provider.build().await);
        }
        Ok(Client::from_conf(builder.build()))
    }

    fn identity(&self) -> String {
        match &self.role {
            Some(role) => format!("the role {role}"),
            None => "the AWS identity of this process".into(),
        }
    }

    /// What the SDK's error means, of something that needs `permission`. Answers are not shown but for their code and message: there
    /// may be a password in them.
    fn denial<E>(&self, error: &SdkError<E>, permission: &str) -> Denial
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        if let SdkError::ServiceError(service) = error {
            let hint = format!("check that {} may do {permission}", self.identity());
            return answered("ECR", service.raw().status().as_u16(), service.err(), hint);
        }
        let mut innermost: &(dyn StdError + 'static) = error;
        loop {
            if let Some(SdkError::ServiceError(service)) = innermost.downcast_ref::<SdkError<AssumeRoleError>>() {
                let hint = format!("check that {} exists, and that this process's AWS identity may assume it", self.identity());
                return answered("STS", service.raw().status().as_u16(), service.err(), hint);
            }
            if let Some(CredentialsError::CredentialsNotLoaded(_)) = innermost.downcast_ref::<CredentialsError>() {
                return Denial {
                    problem: "this process has no AWS identity".into(),
                    hint: Some(
                        "give it one as AWS tools take it: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role"
                            .into(),
                    ),
                    may_pass: false,
                    code: None,
                };
            }
            match innermost.source() {
                Some(source) => innermost = source,
                None => break,
            }
        }
        passing(format!("AWS can't be asked: {}", sanitised(&innermost.to_string())))
    }
}

/// A service's refusal.
fn answered(service: &str, status: u16, error: &impl ProvideErrorMetadata, hint: String) -> Denial {
    let (code, message) = (error.code().unwrap_or("an unknown error"), error.message().unwrap_or_default());
    let may_pass =
        status >= 500 || status == 429 || ["Throttling", "ThrottlingException", "RequestLimitExceeded"].contains(&code);
    let problem = sanitised(&format!("{service} answered {status} {code}: {message}"));
    Denial {
        problem: problem.trim_end_matches([':', ' ']).to_owned(),
        hint: (!may_pass).then_some(hint),
        may_pass,
        code: Some(code.to_owned()),
    }
}

fn passing(problem: String) -> Denial {
    Denial { problem, hint: None, may_pass: true, code: None }
}

fn late() -> Denial {
    passing(format!("no answer from AWS for {} seconds", PATIENCE.as_secs()))
}

/// User name and password, and when they are not to be used any more.
fn opened(answer: &GetAuthorizationTokenOutput) -> Option<((String, SecretString), Instant)> {
    let data = answer.authorization_data().first()?;
    let text = base64::engine::general_purpose::STANDARD.decode(data.authorization_token()?).ok()?;
    let (username, password) = std::str::from_utf8(&text).ok()?.split_once(':')?;
    let life = match data.expires_at().and_then(|expires| SystemTime::try_from(*expires).ok()) {
        None => UNTOLD,
        Some(expires) => expires.duration_since(SystemTime::now()).map_or(SHORTEST, |life| life.min(LONGEST)),
    };
    Some(((username.to_owned(), password.to_owned().into()), Instant::now() + life - (life / 4).min(MARGIN)))
}

impl fmt::Debug for EcrIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EcrIdentity").field("region", &self.0.region).field("role", &self.0.role).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_known_by_the_host() {
        for (host, region) in [
            ("123456789012.dkr.ecr.eu-central-1.amazonaws.com", Some("eu-central-1")),
            ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("123456789012.dkr-ecr.us-east-1.on.aws", Some("us-east-1")),
            ("123456789012.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn", Some("cn-north-1")),
            ("public.ecr.aws", None),
            ("123456789012.dkr.s3.eu-central-1.amazonaws.com", None),
            ("123456789012.ecr.eu-central-1.on.aws", None),
            ("123456789012.dkr.ecr.eu-central-1.amazonaws.com.evil.net", None),
            ("registry.example.com", None),
            ("127.0.0.1", None),
        ] {
            assert_eq!(Ecr::region_of(&format!("https://{host}").parse().unwrap()), region, "{host}");
        }
    }
}
