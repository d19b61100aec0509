//! An instance as the API shows it and takes it. What it shows can be sent back as it is, without what only the API says.

use std::fmt;

use serde::{Deserialize, Serialize};
use transship_model::{
    Credentials, EcrSettings, GoogleIdentity, Instance, InstanceName, Kind, Notify, RoleArn, SecretRef, WebhookAuth,
};
use transship_state::Stamp;
use url::Url;
use utoipa::ToSchema;

/// An instance; of its secrets it tells where they are from, and nothing else.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InstanceView {
    /// What can be written.
    #[serde(flatten)]
    pub written: InstanceInput,
    /// The path that its notifications are to be sent to.
    pub webhook: String,
    /// Grows with each change; the ETag.
    pub revision: u64,
    /// The configuration file that it belongs to, if it does: then it is changed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Secrets that this change has dropped, because they are not to go to another place than they were given for: they are to be given
    /// again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<String>,
}

/// What an instance is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceInput {
    /// Its name; the path's, if it is written out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<InstanceName>,
    /// Scheme, host and port.
    pub endpoint: Url,
    /// What it is.
    #[serde(default)]
    pub kind: Kind,
    /// Where it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    pub region: Option<String>,
    /// Its compliance zone, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    pub zone: Option<String>,
    /// How transship logs in; anonymously without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsInput>,
    /// What its notifications prove themselves by. Without this and `webhook_auth` none is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_secret: Option<SecretInput>,
    /// How its notifications prove themselves without a secret of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_auth: Option<WebhookAuthInput>,
    /// Where the ends of tasks that copy from it or to it are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<NotifyInput>,
    /// A token service on another host that credentials may go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_realm: Option<Url>,
    /// The host of the service's own API, where that is not the registry's own or the known one of its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<Url>,
    /// What repositories of Amazon ECR are like that are made because an image needs them.
    #[serde(default, skip_serializing_if = "EcrSettings::is_default")]
    pub ecr: EcrSettings,
    /// The certificates (PEM) of authorities that its certificate may be signed by. `file` where a configuration file names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Talk plain http to a host that is not this machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain_http: bool,
}

/// How transship logs in: `username` and `password`, or `refresh_token`, or `ecr`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialsInput {
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    pub username: Option<String>,
    /// The user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretInput>,
    /// An OAuth 2.0 refresh token for the registry's token service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<SecretInput>,
    /// Passwords that Amazon ECR gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecr: Option<EcrInput>,
    /// What `docker login` left on the machine of `serve`: shown, and written in a configuration file only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub docker_config: bool,
}

/// Which identity asks ECR for passwords.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EcrInput {
    /// A role that is assumed first, as for another account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleArn>,
}

/// A secret: a value, or a reference, or the one that is there already. A value is kept and never shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretInput {
    /// The secret itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only, min_length = 1, max_length = 16384)]
    pub value: Option<String>,
    /// Where AWS keeps it: `secretsmanager:NAME` or `ssm:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Where the one that is there is from; sent back, it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<SecretKind>,
}

impl fmt::Debug for SecretInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretInput").field("from", &self.from).finish_non_exhaustive()
    }
}

/// Where a secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SecretKind {
    /// It was given to the API.
    Stored,
    /// A secret of AWS Secrets Manager that somebody else has made.
    Secretsmanager,
    /// A parameter of AWS Systems Manager.
    Ssm,
    /// A variable of the environment that `serve` runs in.
    Env,
    /// A file of the machine that `serve` runs on.
    File,
}

impl SecretKind {
    /// Where a reference leads.
    pub fn of(reference: &SecretRef) -> Self {
        match reference {
            SecretRef::Env(_) => Self::Env,
            SecretRef::File(_) => Self::File,
            SecretRef::SecretsManager(_) => Self::Secretsmanager,
            SecretRef::Parameter(_) => Self::Ssm,
            SecretRef::Stored(_) => Self::Stored,
        }
    }
}

/// How notifications prove themselves without a secret of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum WebhookAuthInput {
    /// Not at all: anybody may send them.
    None,
    /// By an identity token of Google, as Pub/Sub sends it.
    Google(GoogleInput),
}

/// Whose identity token is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GoogleInput {
    /// The account that the push subscription authenticates with.
    pub service_account: String,
    /// The audience of the push subscription.
    pub audience: String,
}

/// An instance's own webhook.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NotifyInput {
    /// Where to. It is not shown, because it may hold a token; left out, it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub url: Option<Url>,
    /// Scheme, host and port of the URL; what is written here is not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// What the POSTs are signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretInput>,
    /// The receiver may be at a private address or on this machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private_network: bool,
}

impl fmt::Debug for NotifyInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotifyInput").field("origin", &self.origin).field("secret", &self.secret).finish_non_exhaustive()
    }
}

impl InstanceView {
    /// How the API shows an instance.
    pub fn new(instance: &Instance, stamp: Option<&Stamp>) -> Self {
        Self {
            written: InstanceInput::of(instance),
            webhook: format!("/hooks/{}", instance.name),
            revision: stamp.map_or(1, |stamp| stamp.revision),
            file: stamp.and_then(|stamp| stamp.file()).map(str::to_owned),
            dropped: Vec::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.written.name.as_ref().map_or("", InstanceName::as_str)
    }
}

impl InstanceInput {
    /// What would have to be written so that an instance stays as it is.
    pub fn of(instance: &Instance) -> Self {
        let (webhook_secret, webhook_auth) = match &instance.webhook {
            WebhookAuth::Closed => (None, None),
            WebhookAuth::Secret(secret) => (Some(kept(secret)), None),
            WebhookAuth::Open => (None, Some(WebhookAuthInput::None)),
            WebhookAuth::Google(GoogleIdentity { service_account, audience }) => {
                let (service_account, audience) = (service_account.to_string(), audience.clone());
                (None, Some(WebhookAuthInput::Google(GoogleInput { service_account, audience })))
            }
        };
        Self {
            name: Some(instance.name.clone()),
            endpoint: instance.endpoint.clone(),
            kind: instance.kind,
            region: instance.region.clone(),
            zone: instance.zone.clone(),
            credentials: credentials(&instance.credentials),
            webhook_secret,
            webhook_auth,
            notify: instance.notify.as_ref().map(notify),
            token_realm: instance.token_realm.clone(),
            api: instance.api.clone(),
            ecr: instance.ecr.clone(),
            ca: instance.ca.as_ref().map(|ca| if is_pem(ca) { ca.clone() } else { "file".to_owned() }),
            plain_http: instance.plain_http,
        }
    }
}

/// Whether certificates are written out, and not the path of a file with them.
pub(crate) fn is_pem(ca: &str) -> bool {
    ca.trim_start().starts_with("-----BEGIN CERTIFICATE-----")
}

/// A secret as it is shown.
pub(crate) fn kept(secret: &SecretRef) -> SecretInput {
    let is_shown = matches!(secret, SecretRef::SecretsManager(_) | SecretRef::Parameter(_));
    let reference = is_shown.then(|| secret.to_string());
    SecretInput { value: None, reference, from: Some(SecretKind::of(secret)) }
}

fn credentials(credentials: &Credentials) -> Option<CredentialsInput> {
    let none = CredentialsInput::default();
    Some(match credentials {
        Credentials::Anonymous => return None,
        Credentials::Password { username, password } => {
            CredentialsInput { username: Some(username.clone()), password: Some(kept(password)), ..none }
        }
        Credentials::RefreshToken(token) => CredentialsInput { refresh_token: Some(kept(token)), ..none },
        Credentials::DockerConfig => CredentialsInput { docker_config: true, ..none },
        Credentials::Ecr { role } => CredentialsInput { ecr: Some(EcrInput { role: role.clone() }), ..none },
    })
}

fn notify(notify: &Notify) -> NotifyInput {
    let Notify { url, secret, private_network } = notify;
    let origin = Some(url.origin().ascii_serialization());
    NotifyInput { url: None, origin, secret: secret.as_ref().map(kept), private_network: *private_network }
}
