//! What a request says an instance is to be: read, checked, and its secrets set apart.
//!
//! Whoever may change an instance must not be able to read a secret by it. So credentials stay only with what they were given for
//! ([`Instance::destination`]); anything else that could send them elsewhere is refused here.

use std::{collections::BTreeMap, fmt};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use transship_model::{
    Credentials, EcrSettings, GoogleIdentity, Instance, InstanceName, InvalidSecretRef, Kind, Notify, RoleArn, SecretName,
    SecretRef, WebhookAuth, input, input::InvalidInput,
};
use transship_state::WrittenSecrets;
use utoipa::ToSchema;

use crate::{bindings::signing, body::Reader, failure::Failure, instance_view::SecretKind, instance_view::is_pem};

/// What a secret of an instance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Purpose {
    /// To log in to the registry.
    Credentials,
    /// To know who sends notifications.
    Webhook,
    /// To sign what is told.
    Notify,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credentials => "credentials",
            Self::Webhook => "webhook",
            Self::Notify => "notify",
        })
    }
}

/// What an instance is to be.
pub(crate) struct Wanted {
    /// The instance. It names the secrets that are still to be written.
    pub(crate) instance: Instance,
    /// Secrets whose values the request has, with the names that they are to get.
    pub(crate) values: Vec<(SecretName, SecretString)>,
    /// Secrets that the request names by reference.
    pub(crate) references: Vec<(Purpose, SecretRef)>,
    /// Secrets that were there and are not to go where they would go now.
    pub(crate) dropped: Vec<Purpose>,
}

const KEYS: &[&str] = &[
    "name",
    "endpoint",
    "kind",
    "region",
    "zone",
    "credentials",
    "webhook_secret",
    "webhook_auth",
    "notify",
    "token_realm",
    "api",
    "ecr",
    "ca",
    "plain_http",
];
const SECRET_KEYS: &[&str] = &["value", "reference", "from"];
/// The greatest length of a secret, in bytes. Refresh tokens are the longest.
const MAX_SECRET: usize = 16 << 10;

/// Where a secret is to be from.
enum Given {
    New(SecretRef),
    Kept(SecretRef),
}

struct Reading<'a> {
    name: &'a InstanceName,
    before: Option<&'a Instance>,
    values: Vec<(SecretName, SecretString)>,
    references: Vec<(Purpose, SecretRef)>,
    dropped: Vec<Purpose>,
}

/// Reads what an instance is to be; `before` is what it is.
pub(crate) fn read(name: &InstanceName, document: &Value, before: Option<&Instance>) -> Result<Wanted, Failure> {
    Reader::read(document, KEYS, |reader| {
        let (values, references, dropped) = Default::default();
        Reading { name, before, values, references, dropped }.instance(reader)
    })
}

/// What repositories of Amazon ECR are like that are made.
fn ecr(reader: &Reader<'_>) -> Option<EcrSettings> {
    let Some(keys) = reader.below("ecr", &["immutable_tags", "scan_on_push", "kms_key", "lifecycle_policy", "tags"]) else {
        return Some(EcrSettings::default());
    };
    let (immutable_tags, scan_on_push) = (keys.or("immutable_tags", false), keys.or("scan_on_push", false));
    let kms_key = keys.checked("kms_key", |text| input::words(text, input::MAX_KMS_KEY));
    let lifecycle_policy = keys.checked("lifecycle_policy", str::parse);
    let tags: BTreeMap<String, String> = keys.or("tags", BTreeMap::new())?;
    if tags.len() > input::MAX_RESOURCE_TAGS {
        keys.note("tags", format!("AWS allows {} tags", input::MAX_RESOURCE_TAGS));
    }
    tags.iter().filter_map(|(key, value)| input::resource_tag(key, value).err()).for_each(|error| keys.note("tags", error));
    let (immutable_tags, scan_on_push, kms_key) = (immutable_tags?, scan_on_push?, kms_key?);
    Some(EcrSettings { immutable_tags, scan_on_push, kms_key, lifecycle_policy: lifecycle_policy?, tags })
}

impl Reading<'_> {
    fn instance(mut self, reader: &Reader<'_>) -> Option<Wanted> {
        let named = reader.or("name", self.name.clone());
        if named.as_ref().is_some_and(|named| named != self.name) {
            reader.note("name", format!("the path says {}, and a name stays: leave it out", self.name));
        }
        let plain_http = reader.or("plain_http", false);
        // A flag that can't be read is one mistake, not two.
        let may_be_plain = plain_http.unwrap_or(true);
        let example = "where the registry is, like 'https://registry.example.com'";
        let endpoint = reader.needed("endpoint", example, |text| input::endpoint(text, may_be_plain));
        let kind = reader.or("kind", Kind::default());
        let token_realm = reader.checked("token_realm", |text| input::realm(text, may_be_plain));
        let api = reader.checked("api", |text| input::endpoint(text, may_be_plain));
        let ecr = ecr(reader);
        let ca = self.authorities(reader);
        let words = |text: &str| input::words(text, input::MAX_WORDS);
        let (region, zone) = (reader.checked("region", words), reader.checked("zone", words));
        let webhook = self.webhook(reader);
        let notify = self.notify(reader);
        let mut instance = Instance {
            name: self.name.clone(),
            endpoint: endpoint?,
            kind: kind?,
            region: region?,
            zone: zone?,
            credentials: Credentials::Anonymous,
            webhook: webhook?,
            notify: notify?,
            token_realm: token_realm?,
            api: api?,
            ecr: ecr?,
            // It names a secret for a service of its own: a configuration file says so.
            tcr: self.before.and_then(|before| before.tcr.clone()),
            ca: ca?,
            plain_http: plain_http?,
        };
        instance.credentials = self.credentials(reader, &instance)?;
        let Self { values, references, dropped, .. } = self;
        Some(Wanted { instance, values, references, dropped })
    }

    /// Certificates. A path is for a configuration file: here it would name a file of somebody else's machine.
    #[expect(clippy::option_option, reason = "missing is not wrong")]
    fn authorities(&self, reader: &Reader<'_>) -> Option<Option<String>> {
        let known = self.before.and_then(|before| before.ca.as_ref()).filter(|ca| !is_pem(ca));
        reader.checked("ca", |text| match known {
            Some(path) if text == "file" => Ok(path.clone()),
            // Where else a text begins, it may be a path for all that is known later.
            _ if is_pem(text) => input::certificates(text),
            _ => Err(InvalidInput::Certificates("it begins with something else")),
        })
    }

    fn credentials(&mut self, reader: &Reader<'_>, instance: &Instance) -> Option<Credentials> {
        const ALL: &[&str] = &["username", "password", "refresh_token", "ecr", "docker_config"];
        let Some(keys) = reader.below("credentials", ALL) else { return Some(Credentials::Anonymous) };
        let docker_config = keys.or("docker_config", false)?;
        let ways = [keys.has("username") || keys.has("password"), keys.has("refresh_token"), keys.has("ecr"), docker_config];
        if ways.into_iter().filter(|given| *given).count() != 1 {
            let ways = "give one way to log in: username and password, or refresh_token, or ecr; leave the key out for none";
            reader.note("credentials", ways);
            return None;
        }
        let known = self.before.map(|before| &before.credentials);
        let stays = self.before.is_some_and(|before| before.destination() == instance.destination());
        if docker_config {
            if !matches!(known, Some(Credentials::DockerConfig)) {
                keys.note("docker_config", "it can only be written in a configuration file");
                return None;
            }
            return Some(self.unless_moved(stays, Credentials::DockerConfig));
        }
        if let Some(identity) = keys.below("ecr", &["role"]) {
            let role = identity.checked("role", str::parse::<RoleArn>)?;
            let host = instance.endpoint.host_str().unwrap_or_default();
            let ecr = Credentials::Ecr { role };
            if stays && known == Some(&ecr) {
                return Some(ecr);
            }
            // Anybody else would be sent passwords for all of the account's registries.
            if Kind::of_host(host) != Some(Kind::Ecr)
                || instance.endpoint.scheme() != "https"
                || host == "public.ecr.aws"
                || instance.token_realm.is_some()
                || instance.api.is_some()
            {
                keys.note("ecr", "its passwords go only to an endpoint like https://123456789012.dkr.ecr.eu-central-1.amazonaws.com, without token_realm and api");
                return None;
            }
            return Some(ecr);
        }
        if keys.has("refresh_token") {
            let kept = match known {
                Some(Credentials::RefreshToken(token)) => Some(token.clone()),
                _ => None,
            };
            return Some(match self.secret(&keys, "refresh_token", Purpose::Credentials, kept)? {
                Given::New(token) => Credentials::RefreshToken(token),
                Given::Kept(token) => self.unless_moved(stays, Credentials::RefreshToken(token)),
            });
        }
        let username = keys.needed("username", "the user's name", input::username);
        let kept = match known {
            Some(Credentials::Password { password, .. }) => Some(password.clone()),
            _ => None,
        };
        if !keys.has("password") {
            keys.note("password", "is missing: give it as { \"value\": \"…\" }");
            return None;
        }
        let password = self.secret(&keys, "password", Purpose::Credentials, kept)?;
        let username = username?;
        Some(match password {
            Given::New(password) => Credentials::Password { username, password },
            Given::Kept(password) => self.unless_moved(stays, Credentials::Password { username, password }),
        })
    }

    /// What was given for another place is dropped.
    fn unless_moved(&mut self, stays: bool, credentials: Credentials) -> Credentials {
        if stays {
            return credentials;
        }
        self.dropped.push(Purpose::Credentials);
        Credentials::Anonymous
    }

    fn webhook(&mut self, reader: &Reader<'_>) -> Option<WebhookAuth> {
        if reader.has("webhook_secret") && reader.has("webhook_auth") {
            reader
                .note("webhook_auth", "webhook_secret is given as well: keep it, or keep webhook_auth, which needs no secret");
            return None;
        }
        if reader.has("webhook_secret") {
            let kept = match self.before.map(|before| &before.webhook) {
                Some(WebhookAuth::Secret(secret)) => Some(secret.clone()),
                _ => None,
            };
            let (Given::New(secret) | Given::Kept(secret)) = self.secret(reader, "webhook_secret", Purpose::Webhook, kept)?;
            return Some(WebhookAuth::Secret(secret));
        }
        match reader.value("webhook_auth") {
            None => return Some(WebhookAuth::Closed),
            Some(auth) if auth == "none" => return Some(WebhookAuth::Open),
            Some(_) => {}
        }
        let auth = reader.below("webhook_auth", &["google"])?;
        let Some(google) = auth.below("google", &["service_account", "audience"]) else {
            reader.note("webhook_auth", "'none' or { \"google\": { \"service_account\": …, \"audience\": … } } is needed");
            return None;
        };
        let account = "the account that the push subscription authenticates with";
        let account = google.needed("service_account", account, str::parse);
        let audience = "the audience of the push subscription, by default the URL that it pushes to";
        let audience = google.needed("audience", audience, input::audience);
        Some(WebhookAuth::Google(GoogleIdentity { service_account: account?, audience: audience? }))
    }

    #[expect(clippy::option_option, reason = "missing is not wrong")]
    fn notify(&mut self, reader: &Reader<'_>) -> Option<Option<Notify>> {
        let Some(keys) = reader.below("notify", &["url", "origin", "secret", "private_network"]) else { return Some(None) };
        let before = self.before.and_then(|before| before.notify.as_ref());
        let private_network = keys.or("private_network", false);
        let may_be_near = private_network.unwrap_or(true);
        let url = match keys.checked("url", |text| input::receiver(text, may_be_near))? {
            Some(url) => url,
            None => match before.map(|before| input::receiver(before.url.as_str(), may_be_near)) {
                Some(Ok(url)) => url,
                Some(Err(error)) => {
                    keys.note("private_network", error);
                    return None;
                }
                None => {
                    keys.note("url", "is missing: where the ends of tasks are told, like 'https://ci.example.com/transship'");
                    return None;
                }
            },
        };
        let secret = if keys.has("secret") {
            let kept = before.and_then(|before| before.secret.clone());
            match self.secret(&keys, "secret", Purpose::Notify, kept)? {
                // Somebody else could try passwords at what it has signed.
                Given::Kept(_) if before.is_none_or(|before| before.url != url) => {
                    self.dropped.push(Purpose::Notify);
                    None
                }
                Given::New(secret) | Given::Kept(secret) => Some(secret),
            }
        } else {
            None
        };
        Some(Some(Notify { url, secret, private_network: private_network? }))
    }

    /// A secret: its value, which is set apart, a reference, or what is there.
    fn secret(&mut self, reader: &Reader<'_>, key: &str, purpose: Purpose, kept: Option<SecretRef>) -> Option<Given> {
        let keys = reader.below(key, SECRET_KEYS)?;
        if !keys.is_object() {
            return None;
        }
        // As it was shown: a patch leaves it beside a new value.
        let is_known = |text: &Value| kept.as_ref().is_some_and(|kept| *text == kept.to_string());
        let reference_to_kept = keys.value("reference").is_some_and(is_known);
        match (keys.has("value"), keys.has("reference") && !reference_to_kept, keys.has("from") || reference_to_kept) {
            (true, false, _) => {
                let value = keys.checked("value", |text| match text.len() {
                    0 => Err("is empty".to_owned()),
                    length if length > MAX_SECRET => Err(format!("longer than {} KiB", MAX_SECRET >> 10)),
                    _ if text.chars().any(char::is_control) => {
                        Err("has a line break or another control character in it".to_owned())
                    }
                    _ => Ok(SecretString::from(text)),
                })??;
                let name = WrittenSecrets::name(self.name, &purpose.to_string())?;
                self.values.push((name.clone(), value));
                Some(Given::New(SecretRef::Stored(name)))
            }
            (false, true, _) => {
                let reference = keys.checked("reference", reference)??;
                self.references.push((purpose, reference.clone()));
                Some(Given::New(reference))
            }
            (false, false, true) => {
                let from = keys.maybe::<SecretKind>("from")?;
                match kept.filter(|kept| from.is_none_or(|from| SecretKind::of(kept) == from)) {
                    Some(kept) => Some(Given::Kept(kept)),
                    None => {
                        keys.note("from", "there is no such secret here to be kept: give its value");
                        None
                    }
                }
            }
            _ => {
                reader.note(key, "give the secret as { \"value\": \"…\" }, or say where AWS keeps it: { \"reference\": \"secretsmanager:NAME\" }");
                None
            }
        }
    }
}

/// A reference that may be named through the API. No message shows what stands here instead.
fn reference(text: &str) -> Result<SecretRef, String> {
    match text.parse::<SecretRef>() {
        Ok(SecretRef::SecretsManager(name)) if name.is_written() => {
            Err("what was given to the API is nobody's to name: give the value".to_owned())
        }
        Ok(reference @ (SecretRef::SecretsManager(_) | SecretRef::Parameter(_))) => Ok(reference),
        Ok(_) | Err(InvalidSecretRef::Written | InvalidSecretRef::Variable | InvalidSecretRef::Path) => {
            Err("secretsmanager:NAME or ssm:NAME is needed; env: and file: can only be written in a configuration file"
                .to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// What a reference is used for: it is for that for ever.
pub(crate) fn usage(instance: &Instance, purpose: Purpose) -> Value {
    match purpose {
        Purpose::Credentials => json!({ "registry": instance.destination() }),
        // It is compared with what comes, and goes nowhere.
        Purpose::Webhook => json!("webhooks"),
        Purpose::Notify => instance.notify.as_ref().map_or(Value::Null, |notify| signing(&notify.url)),
    }
}

/// All secrets that an instance names.
pub(crate) fn secrets(instance: &Instance) -> impl Iterator<Item = (Purpose, &SecretRef)> {
    let webhook = match &instance.webhook {
        WebhookAuth::Secret(secret) => Some(secret),
        WebhookAuth::Closed | WebhookAuth::Open | WebhookAuth::Google(_) => None,
    };
    let notify = instance.notify.as_ref().and_then(|notify| notify.secret.as_ref());
    let all = [(Purpose::Credentials, instance.credentials.secret()), (Purpose::Webhook, webhook), (Purpose::Notify, notify)];
    all.into_iter().filter_map(|(purpose, secret)| Some((purpose, secret?)))
}

/// The names of those that were given to the API.
pub(crate) fn stored(instance: &Instance) -> Vec<SecretName> {
    let name = |(_, secret): (Purpose, &SecretRef)| match secret {
        SecretRef::Stored(name) => Some(name.clone()),
        _ => None,
    };
    secrets(instance).filter_map(name).collect()
}
