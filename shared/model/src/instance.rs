//! Instances: the registries that transship knows.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use url::{Host, Url};
use utoipa::ToSchema;

use crate::{InstanceName, LifecyclePolicy, RoleArn, SecretName, ServiceAccount};

/// A registry that transship knows. It holds references to secrets, never secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its name, chosen by the operator; the path of its webhook ends with it.
    pub name: InstanceName,
    /// Scheme, host and port: `https://registry.example.com`.
    pub endpoint: Url,
    /// What software or service it is, where that makes a difference.
    pub kind: Kind,
    /// Where it is, for people; `eu-central-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The compliance zone; for people, until replicas are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// How transship logs in.
    #[serde(default)]
    pub credentials: Credentials,
    /// How its notifications prove where they come from.
    #[serde(default)]
    pub webhook: WebhookAuth,
    /// Where the ends of tasks that copy from it or to it are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// A token service besides the ones that are trusted by themselves (the registry's own host and its parent domain).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_realm: Option<Url>,
    /// The host of the service's own API, where that is not the registry's own or the known one of its kind: a GitLab of one's own. It
    /// gets the instance's credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<Url>,
    /// What repositories of Amazon ECR are like that are made here because an image needs them.
    #[serde(default, skip_serializing_if = "EcrSettings::is_default")]
    pub ecr: EcrSettings,
    /// How namespaces of Tencent Container Registry are made that are missing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcr: Option<TcrSettings>,
    /// The certificates (PEM) of authorities that its certificate may be signed by, besides the system's, or the path of a file with
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Talk plain http to a host that is not the loopback.
    #[serde(default)]
    pub plain_http: bool,
}

/// What a repository of Amazon ECR is like that is made because an image needs it; by default, what ECR makes of nothing but a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct EcrSettings {
    /// A tag that is there can't be moved.
    pub immutable_tags: bool,
    /// Images are scanned when they have been pushed, as ECR's basic scanning does.
    pub scan_on_push: bool,
    /// The key of AWS KMS that encrypts them: its ID, its ARN or an alias. Without it ECR uses a key of its own (AES-256).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    /// Which images expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifecycle_policy: Option<LifecyclePolicy>,
    /// Tags of AWS, by which costs and permissions are told apart.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

impl EcrSettings {
    /// Whether nothing has been set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// All that decides to whom an instance's credentials are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Destination<'a> {
    endpoint: &'a Url,
    kind: Kind,
    token_realm: Option<&'a Url>,
    api: Option<&'a Url>,
    ca: Option<&'a str>,
    plain_http: bool,
}

impl Instance {
    /// Where its credentials go. With another one they are not the same credentials any more.
    pub fn destination(&self) -> Destination<'_> {
        let Self { endpoint, kind, token_realm, api, ca, plain_http, .. } = self;
        let (token_realm, api) = (token_realm.as_ref(), api.as_ref());
        Destination { endpoint, kind: *kind, token_realm, api, ca: ca.as_deref(), plain_http: *plain_http }
    }
}

/// What the API of Tencent Container Registry is asked with to make a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcrSettings {
    /// The registry's ID: `tcr-…`.
    pub registry_id: String,
    /// The region that it is in: `ap-guangzhou`.
    pub region: String,
    /// The name of the API key.
    pub secret_id: String,
    /// Where the API key itself is.
    pub secret_key: SecretRef,
}

/// The kinds of registry that are treated specially; `oci` is every other one that follows the distribution specification.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// CNCF distribution (`registry:2`, `registry:3`, Debian's `docker-registry`).
    Distribution,
    /// Harbor: a repository's first segment is a project, which must exist before the first push.
    Harbor,
    /// Amazon Elastic Container Registry: chunks of 5 to 10 MiB, and repositories that have to exist.
    Ecr,
    /// GitHub Container Registry: chunks of at most 4 MiB.
    Ghcr,
    /// Google Artifact Registry: a blob in one request only.
    Google,
    /// Azure Container Registry: no large blob in one request.
    Acr,
    /// Quay.
    Quay,
    /// Docker Hub.
    DockerHub,
    /// GitLab's container registry.
    Gitlab,
    /// Tencent Container Registry: a repository's first segment is a namespace, which must exist before the first push.
    Tcr,
    /// Any other registry.
    #[default]
    Oci,
}

impl Kind {
    /// All kinds, in the order in which they are shown.
    pub const ALL: [Self; 11] = [
        Self::Distribution,
        Self::Harbor,
        Self::Ecr,
        Self::Ghcr,
        Self::Google,
        Self::Acr,
        Self::Quay,
        Self::DockerHub,
        Self::Gitlab,
        Self::Tcr,
        Self::Oci,
    ];

    /// The name in configuration files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Distribution => "distribution",
            Self::Harbor => "harbor",
            Self::Ecr => "ecr",
            Self::Ghcr => "ghcr",
            Self::Google => "google",
            Self::Acr => "acr",
            Self::Quay => "quay",
            Self::DockerHub => "docker-hub",
            Self::Gitlab => "gitlab",
            Self::Tcr => "tcr",
            Self::Oci => "oci",
        }
    }

    /// The kind of a service that is known by its host, whose name nobody else can have.
    pub fn of_host(host: &str) -> Option<Self> {
        let below = |parent: &str| host.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
        Some(match host {
            "ghcr.io" => Self::Ghcr,
            "gcr.io" => Self::Google,
            "quay.io" => Self::Quay,
            "docker.io" | "index.docker.io" | "registry-1.docker.io" => Self::DockerHub,
            "registry.gitlab.com" => Self::Gitlab,
            "public.ecr.aws" => Self::Ecr,
            _ if below("gcr.io") || below("pkg.dev") => Self::Google,
            _ if below("azurecr.io") || below("azurecr.cn") => Self::Acr,
            _ if below("tencentcloudcr.com") => Self::Tcr,
            _ if host.contains(".dkr.ecr.") && (below("amazonaws.com") || below("amazonaws.com.cn")) => Self::Ecr,
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a secret is: it is read when it is needed, and not stored. As text it is one of the forms given here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretRef {
    /// An environment variable: `env:NAME`.
    Env(String),
    /// A file, a final line break not being part of the secret: `file:/run/secrets/name`.
    File(String),
    /// A secret of AWS Secrets Manager: `secretsmanager:NAME`.
    SecretsManager(SecretName),
    /// A parameter of AWS Systems Manager: `ssm:NAME`.
    Parameter(SecretName),
    /// One that was given to the API, and is kept where the deployment keeps such. Nobody can name it: each value gets a name of its
    /// own, so that what is remembered of an older one is never taken for it.
    Stored(SecretName),
}

/// A text that is no reference to a secret. No message shows the text: it may be a secret itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecretRef {
    /// It begins with none of the words that say where a secret is.
    #[error(
        "a secret is named, not written: as env:NAME or file:PATH, or as secretsmanager:NAME or ssm:NAME where AWS keeps it"
    )]
    Written,
    /// `env:` with something else behind it.
    #[error("after 'env:' comes the name of an environment variable: letters, digits and '_'")]
    Variable,
    /// `file:` with something else behind it.
    #[error("after 'file:' comes the path of a file")]
    Path,
    /// `secretsmanager:` or `ssm:` with something else behind it.
    #[error(
        "after '{0}:' comes a name below the deployment's prefix, not an ARN or a path from the root: letters, digits, '-', '.' and \
         '_', in segments joined by '/'"
    )]
    Name(&'static str),
}

impl FromStr for SecretRef {
    type Err = InvalidSecretRef;

    fn from_str(text: &str) -> Result<Self, InvalidSecretRef> {
        let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
        let is_variable = |name: &str| name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit());
        match text.split_once(':') {
            Some(("env", name)) if is_variable(name) => Ok(Self::Env(name.into())),
            Some(("env", _)) => Err(InvalidSecretRef::Variable),
            Some(("file", path)) if !path.is_empty() && !path.contains('\0') => Ok(Self::File(path.into())),
            Some(("file", _)) => Err(InvalidSecretRef::Path),
            Some(("secretsmanager", name)) => {
                name.parse().map(Self::SecretsManager).map_err(|_| InvalidSecretRef::Name("secretsmanager"))
            }
            Some(("ssm", name)) => name.parse().map(Self::Parameter).map_err(|_| InvalidSecretRef::Name("ssm")),
            _ => Err(InvalidSecretRef::Written),
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
            Self::SecretsManager(name) => write!(f, "secretsmanager:{name}"),
            Self::Parameter(name) => write!(f, "ssm:{name}"),
            Self::Stored(name) => write!(f, "stored:{name}"),
        }
    }
}

/// How transship logs in to a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Credentials {
    /// Not at all.
    #[default]
    Anonymous,
    /// With a user name and a password, directly or to get a bearer token.
    Password {
        /// The user.
        username: String,
        /// Where the password is.
        password: SecretRef,
    },
    /// With an OAuth 2.0 refresh token, which the registry's token service takes.
    RefreshToken(SecretRef),
    /// With what `docker login` left in Docker's `config.json`, or with the credential helper that it names.
    DockerConfig,
    /// With passwords that Amazon ECR gives to the AWS identity of the process.
    Ecr {
        /// A role that is assumed first, mostly one of another account.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<RoleArn>,
    },
}

impl Credentials {
    /// The secret that they need, if any.
    pub fn secret(&self) -> Option<&SecretRef> {
        match self {
            Self::Password { password: secret, .. } | Self::RefreshToken(secret) => Some(secret),
            Self::Anonymous | Self::DockerConfig | Self::Ecr { .. } => None,
        }
    }
}

/// Whose identity token proves a notification, and whom it has to be made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoogleIdentity {
    /// The account that the push subscription authenticates with.
    pub service_account: ServiceAccount,
    /// The audience of the push subscription, by default the URL that it pushes to. It is written out, because a request that named
    /// it itself could bring a token that was made for somebody else.
    pub audience: String,
}

/// How an instance's notifications prove where they come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WebhookAuth {
    /// No notification is accepted.
    #[default]
    Closed,
    /// By a secret in a header or in the path.
    Secret(SecretRef),
    /// By an identity token of Google, as Pub/Sub sends it with a push subscription.
    Google(GoogleIdentity),
    /// Not at all: written out as `webhook_auth: none`.
    Open,
}

/// An instance's own webhook: a POST to it tells the end of each task that copies from the instance or to it, whether it succeeded or
/// not. A task whose source and target have the same URL is told there once. A POST may come twice, in any order, with the same ID.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    /// Where to. It may hold a token, as chat services' URLs do, so it is kept out of logs and messages.
    pub url: Url,
    /// What the POSTs are signed with (Standard Webhooks 1.0): `whsec_` and base64, or any other text as it is. Unsigned without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// The receiver may be at a private address or on this machine, and be spoken to by plain http. Otherwise a URL that leads
    /// there is refused when it is connected to.
    #[serde(default)]
    pub private_network: bool,
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, secret, private_network } = self;
        let host = url.host_str().unwrap_or_default();
        f.debug_struct("Notify").field("host", &host).field("secret", secret).field("private_network", private_network).finish()
    }
}

/// Whether a URL's host is this machine by its name or address alone: `localhost`, `127.0.0.0/8`, `[::1]`. Plain http is fine there.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_known_by_their_hosts() {
        for (host, kind) in [
            ("ghcr.io", Some(Kind::Ghcr)),
            ("europe-docker.pkg.dev", Some(Kind::Google)),
            ("eu.gcr.io", Some(Kind::Google)),
            ("team.azurecr.io", Some(Kind::Acr)),
            ("123456789012.dkr.ecr.eu-central-1.amazonaws.com", Some(Kind::Ecr)),
            ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", Some(Kind::Ecr)),
            ("registry-1.docker.io", Some(Kind::DockerHub)),
            ("team.tencentcloudcr.com", Some(Kind::Tcr)),
            ("registry.example.com", None),
            ("evilazurecr.io", None),
            ("x.dkr.ecr.evil.net", None),
        ] {
            assert_eq!(Kind::of_host(host), kind, "{host}");
        }
    }

    #[test]
    fn a_secret_is_named_as_it_is_printed() {
        for text in ["env:PASSWORD", "file:/run/secrets/a:b", "secretsmanager:ci/password", "ssm:api-token"] {
            assert_eq!(text.parse::<SecretRef>().map(|secret| secret.to_string()).as_deref(), Ok(text));
        }
        for (text, error) in [
            ("hunter2", InvalidSecretRef::Written),
            ("vault:a", InvalidSecretRef::Written),
            ("env:", InvalidSecretRef::Variable),
            ("env:1", InvalidSecretRef::Variable),
            ("file:", InvalidSecretRef::Path),
            (
                "secretsmanager:arn:aws:secretsmanager:eu-central-1:123456789012:secret:a",
                InvalidSecretRef::Name("secretsmanager"),
            ),
            ("secretsmanager:", InvalidSecretRef::Name("secretsmanager")),
            ("ssm:/a", InvalidSecretRef::Name("ssm")),
            ("ssm:../a", InvalidSecretRef::Name("ssm")),
        ] {
            assert_eq!(text.parse::<SecretRef>(), Err(error), "{text}");
            let message = error.to_string();
            assert!(!message.contains("hunter2") && !message.contains("arn:"), "{message}");
        }
    }

    #[test]
    fn kinds_are_called_the_same_everywhere() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
