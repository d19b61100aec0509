//! An entry of `instances`.

use std::{collections::BTreeMap, path::Path};

use transship_model::{
    Credentials, EcrSettings, GoogleIdentity, Instance, InvalidSecretRef, Kind, Notify, SecretRef, TcrSettings, WebhookAuth,
    input,
};
use transship_registry::{Authorities, Ecr, InvalidAuthorities};
use url::Url;

use super::{
    spelling::nearest,
    yaml::{Mapping, Node, Notes, quoted},
};

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
    "tcr",
    "ca",
    "plain_http",
];

/// Reads an instance. `None` if it has mistakes, which are noted then.
pub(super) fn read(node: &Node<'_>, notes: &mut Notes) -> Option<Instance> {
    let keys = node.mapping(KEYS, notes)?;
    let mut words = |key: &str| match keys.get(key) {
        Some(node) => node.checked(|text| input::words(text, input::MAX_WORDS), notes).map(Some),
        None => Some(None),
    };
    let (region, zone) = (words("region"), words("zone"));
    let name = keys.need("name", "a short name that rules use, like 'build'", notes).and_then(|node| node.parsed(notes));
    let kind = keys.get("kind").map_or(Some(Kind::default()), |node| kind(node, notes));
    let credentials = keys.get("credentials").map_or(Some(Credentials::Anonymous), |node| credentials(node, notes));
    let webhook = webhook(&keys, notes);
    let notify = match keys.get("notify") {
        Some(node) => notify(node, notes).map(Some),
        None => Some(None),
    };
    let plain_http = keys.get("plain_http").map_or(Some(false), |node| node.flag(notes));
    // A flag that can't be read is one mistake, not two.
    let may_be_plain = plain_http.unwrap_or(true);
    let endpoint = keys
        .need("endpoint", "where the registry is, like 'https://registry.example.com'", notes)
        .and_then(|node| node.checked(|text| input::endpoint(text, may_be_plain), notes));
    let token_realm = match keys.get("token_realm") {
        Some(node) => node.checked(|text| input::realm(text, may_be_plain), notes).map(Some),
        None => Some(None),
    };
    let api = match keys.get("api") {
        Some(node) => node.checked(|text| input::endpoint(text, may_be_plain), notes).map(Some),
        None => Some(None),
    };
    let ecr = match keys.get("ecr") {
        Some(node) => ecr(node, notes),
        None => Some(EcrSettings::default()),
    };
    if let (Some(node), Some(credentials)) = (keys.get("ecr"), &credentials)
        && !matches!(credentials, Credentials::Ecr { .. })
    {
        let message = "has no effect: repositories of ECR are made by the AWS identity that 'credentials: ecr' logs in with";
        notes.warning(node, message);
    }
    let tcr = match keys.get("tcr") {
        Some(node) => tcr(node, notes).map(Some),
        None => Some(None),
    };
    let is_tcr = |endpoint: &Url| kind == Some(Kind::Tcr) || endpoint.host_str().and_then(Kind::of_host) == Some(Kind::Tcr);
    if let (Some(node), Some(endpoint)) = (keys.get("tcr"), &endpoint)
        && kind.is_some()
        && !is_tcr(endpoint)
    {
        notes.warning(node, "has no effect, because the registry is not of the kind tcr");
    }
    let ca = match keys.get("ca") {
        Some(node) => authorities(node, notes).map(Some),
        None => Some(None),
    };
    if let (Some(Credentials::Ecr { .. }), Some(endpoint), Some(at)) = (&credentials, &endpoint, keys.get("credentials"))
        && endpoint.host_str() == Some("public.ecr.aws")
    {
        let message = "ECR's public registry takes no such passwords: leave the credentials out, which is enough to pull, or use \
                       'docker-config'";
        notes.mistake(at, message);
    } else if let (Some(Credentials::Ecr { .. }), Some(endpoint), Some(at)) = (&credentials, &endpoint, keys.get("credentials"))
        && Ecr::region_of(endpoint).is_none()
        && !has_region()
    {
        let message = "neither the endpoint's host nor the environment names a region of AWS, so that the AWS profile or the \
                       machine has to: if none does, set the environment variable AWS_REGION, or use an endpoint like \
                       https://123456789012.dkr.ecr.eu-central-1.amazonaws.com";
        notes.warning(at, message);
    }
    if let (Some(Some(_)), Some(endpoint), Some(at)) = (&ca, &endpoint, keys.get("ca"))
        && endpoint.scheme() == "http"
    {
        notes.warning(at, "has no effect on the registry itself, because the endpoint begins with http://");
    }
    if let (Some(true), Some(endpoint), Some(at)) = (plain_http, &endpoint, keys.get("plain_http"))
        && endpoint.scheme() == "https"
    {
        notes.warning(at, "has no effect, because the endpoint begins with https://");
    }
    Some(Instance {
        name: name?,
        endpoint: endpoint?,
        kind: kind?,
        region: region?,
        zone: zone?,
        credentials: credentials?,
        webhook: webhook?,
        notify: notify?,
        token_realm: token_realm?,
        api: api?,
        ecr: ecr?,
        tcr: tcr?,
        ca: ca?,
        plain_http: plain_http?,
    })
}

/// Whether the environment names a region. AWS's SDK looks further: into its profile, and at the machine.
pub(super) fn has_region() -> bool {
    ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().any(|name| std::env::var(name).is_ok_and(|region| !region.is_empty()))
}

fn kind(node: &Node<'_>, notes: &mut Notes) -> Option<Kind> {
    let text = node.text(notes)?;
    let found = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
    if found.is_none() {
        let kinds = Kind::ALL.map(Kind::as_str);
        let meant = nearest(text, kinds).map(|meant| format!("did you mean '{meant}'? ")).unwrap_or_default();
        let message = format!("{} is no kind: {meant}The kinds are {}; oci fits all others", quoted(text), kinds.join(", "));
        notes.mistake(node, message);
    }
    found
}

/// `docker-config`, `ecr`, or what else proves who we are. What stands here instead may hold a password, so it is not shown.
fn credentials(node: &Node<'_>, notes: &mut Notes) -> Option<Credentials> {
    if let Some(text) = node.peek_text() {
        match text {
            "docker-config" => {
                let message =
                    "functions on AWS have no Docker configuration: give username and password, refresh_token, or ecr";
                notes.local(node, message);
                return Some(Credentials::DockerConfig);
            }
            "ecr" => return Some(Credentials::Ecr { role: None }),
            _ => {}
        }
        let wanted = "a mapping with the keys username and password, or refresh_token, or 'docker-config', or 'ecr',";
        node.is_not(wanted, notes);
        return None;
    }
    let keys = node.mapping(&["username", "password", "refresh_token", "ecr"], notes)?;
    let (token, ecr) = (keys.get("refresh_token"), keys.get("ecr"));
    let ways = [token.is_some(), ecr.is_some(), keys.get("username").or(keys.get("password")).is_some()];
    if ways.into_iter().filter(|given| *given).count() > 1 {
        notes.mistake(node, "these are two ways to log in: keep username and password, or refresh_token, or ecr");
        return None;
    }
    if let Some(token) = token {
        return secret(token, notes).map(Credentials::RefreshToken);
    }
    if let Some(ecr) = ecr {
        let role =
            ecr.mapping(&["role"], notes)?.need("role", "without one, write 'credentials: ecr'", notes)?.parsed(notes)?;
        return Some(Credentials::Ecr { role: Some(role) });
    }
    let username = keys.need("username", "the user's name", notes).and_then(|node| node.checked(input::username, notes));
    let password = keys.need("password", "env:NAME or file:PATH", notes).and_then(|node| secret(node, notes));
    Some(Credentials::Password { username: username?, password: password? })
}

/// What repositories of ECR are like that have to be made.
fn ecr(node: &Node<'_>, notes: &mut Notes) -> Option<EcrSettings> {
    let keys = node.mapping(&["immutable_tags", "scan_on_push", "kms_key", "lifecycle_policy", "tags"], notes)?;
    let mut flag = |key: &str| keys.get(key).map_or(Some(false), |node| node.flag(notes));
    let (immutable_tags, scan_on_push) = (flag("immutable_tags"), flag("scan_on_push"));
    let kms_key = match keys.get("kms_key") {
        Some(node) => node.checked(|text| input::words(text, input::MAX_KMS_KEY), notes).map(Some),
        None => Some(None),
    };
    let lifecycle_policy = match keys.get("lifecycle_policy") {
        Some(node) => node.checked(str::parse, notes).map(Some),
        None => Some(None),
    };
    let tags = match keys.get("tags") {
        Some(node) => resource_tags(node, notes),
        None => Some(BTreeMap::new()),
    };
    Some(EcrSettings {
        immutable_tags: immutable_tags?,
        scan_on_push: scan_on_push?,
        kms_key: kms_key?,
        lifecycle_policy: lifecycle_policy?,
        tags: tags?,
    })
}

/// How namespaces of Tencent Container Registry are made.
fn tcr(node: &Node<'_>, notes: &mut Notes) -> Option<TcrSettings> {
    let keys = node.mapping(&["registry_id", "region", "secret_id", "secret_key"], notes)?;
    let mut words = |key: &str, example: &str, is_fit: fn(&str) -> bool, form: &str| {
        let node = keys.need(key, example, notes)?;
        let text = node.checked(|text| input::words(text, input::MAX_WORDS), notes)?;
        if !is_fit(&text) {
            notes.mistake(node, form);
            return None;
        }
        Some(text)
    };
    let is_id = |text: &str| text.starts_with("tcr-") && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let is_region = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let is_key = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric());
    let registry_id = words("registry_id", "the registry's ID, like tcr-a1b2c3d4", is_id, "a registry's ID begins with tcr-");
    let region = words("region", "the registry's region, like ap-guangzhou", is_region, "a region's name is like ap-guangzhou");
    let secret_id = words("secret_id", "the name of the API key", is_key, "the name of an API key is letters and digits");
    let secret_key = keys.need("secret_key", "env:NAME or file:PATH", notes).and_then(|node| secret(node, notes));
    Some(TcrSettings { registry_id: registry_id?, region: region?, secret_id: secret_id?, secret_key: secret_key? })
}

fn resource_tags(node: &Node<'_>, notes: &mut Notes) -> Option<BTreeMap<String, String>> {
    let mut tags = BTreeMap::new();
    let entries = node.named(input::MAX_RESOURCE_TAGS, notes)?;
    let all = entries.len();
    for (key, value) in entries {
        let Some(text) = value.text(notes) else { continue };
        match input::resource_tag(key, text) {
            Ok(()) => drop(tags.insert(key.to_owned(), text.to_owned())),
            Err(error) => notes.mistake(&value, error),
        }
    }
    (tags.len() == all).then_some(tags)
}

/// The path of a file with certificates. Where it can be read, which need not be here, it has to hold some. What stands here
/// instead may be a key, so it is not shown.
fn authorities(node: &Node<'_>, notes: &mut Notes) -> Option<String> {
    let path = node.peek_text().and_then(|text| text.strip_prefix("file:")).filter(|path| !path.is_empty());
    let Some(path) = path else {
        node.is_not("the place of a PEM file with the certificate of one authority or more, as file:PATH,", notes);
        return None;
    };
    if let Err(problem @ InvalidAuthorities::Invalid(_)) = Authorities::read(Path::new(path)) {
        notes.mistake(node, problem);
        return None;
    }
    notes.local(
        node,
        "functions on AWS can't read this file: their registries need certificates that a public authority signed",
    );
    Some(path.to_owned())
}

/// A reference to a secret. No message shows what stands here instead.
fn secret(node: &Node<'_>, notes: &mut Notes) -> Option<SecretRef> {
    let Some(text) = node.peek_text() else {
        node.is_not("the place of a secret, as env:NAME or file:PATH,", notes);
        return None;
    };
    match text.parse() {
        Ok(secret) => {
            if matches!(secret, SecretRef::Env(_) | SecretRef::File(_)) {
                let message = "functions on AWS have no variables or files of yours: keep it in AWS, and name it here as \
                               secretsmanager:NAME or ssm:NAME";
                notes.local(node, message);
            }
            Some(secret)
        }
        Err(InvalidSecretRef::Written) => {
            let message = "secrets are not written into this file: put it into an environment variable or a file of its own, \
                           and name that here, as env:NAME or file:PATH; or let AWS keep it, and name it as secretsmanager:NAME \
                           or ssm:NAME";
            notes.mistake(node, message);
            None
        }
        Err(error) => {
            notes.mistake(node, error);
            None
        }
    }
}

fn webhook(keys: &Mapping<'_>, notes: &mut Notes) -> Option<WebhookAuth> {
    match (keys.get("webhook_secret"), keys.get("webhook_auth")) {
        (None, None) => Some(WebhookAuth::Closed),
        (Some(node), None) => secret(node, notes).map(WebhookAuth::Secret),
        (None, Some(node)) => without_secret(node, notes),
        (Some(node), Some(auth)) => {
            // Each of them may have a mistake of its own.
            secret(node, notes);
            without_secret(auth, notes);
            notes.mistake(auth, "webhook_secret is given as well: keep it, or keep webhook_auth, which needs no secret");
            None
        }
    }
}

/// `none`, or who signs the tokens that notifications bring.
fn without_secret(node: &Node<'_>, notes: &mut Notes) -> Option<WebhookAuth> {
    match node.peek_text() {
        Some("none") => return Some(WebhookAuth::Open),
        Some(_) => {
            let wanted = "'none' (anybody may send notifications; a secret goes into webhook_secret) or \
                          { google: { service_account: …, audience: … } }";
            node.is_not(wanted, notes);
            return None;
        }
        None => {}
    }
    let auth = node.mapping(&["google"], notes)?;
    let google = auth.need("google", "without it, write 'webhook_auth: none'", notes)?;
    let keys = google.mapping(&["service_account", "audience"], notes)?;
    let account = keys
        .need("service_account", "the account that the push subscription authenticates with", notes)
        .and_then(|node| node.parsed(notes));
    let audience = keys
        .need("audience", "the audience of the push subscription, by default the URL that it pushes to", notes)
        .and_then(|node| node.checked(input::audience, notes));
    Some(WebhookAuth::Google(GoogleIdentity { service_account: account?, audience: audience? }))
}

/// Where something is told.
pub(super) fn notify(node: &Node<'_>, notes: &mut Notes) -> Option<Notify> {
    let keys = node.mapping(&["url", "secret", "private_network"], notes)?;
    let private_network = keys.get("private_network").map_or(Some(false), |node| node.flag(notes));
    let url = keys
        .need("url", "where the ends of tasks are told, like 'https://ci.example.com/transship'", notes)
        // A flag that can't be read is one mistake, not two.
        .and_then(|node| node.checked(|text| input::receiver(text, private_network.unwrap_or(true)), notes));
    let secret = match keys.get("secret") {
        Some(node) => secret(node, notes).map(Some),
        None => Some(None),
    };
    Some(Notify { url: url?, secret: secret?, private_network: private_network? })
}
