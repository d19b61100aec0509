//! An entry of `instances`.

use std::{collections::BTreeMap, path::Path};

use transship_model::{
    Credentials, EcrSettings, GoogleIdentity, Instance, InvalidSecretRef, Kind, Notify, SecretRef, WebhookAuth,
    instance::is_loopback,
};
use transship_registry::{Authorities, Ecr, InvalidAuthorities};
use url::{Host, Url};

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
    "ca",
    "plain_http",
];

/// The greatest length of a region's, zone's or user's name.
const MAX_WORDS: usize = 200;

/// The greatest length of a KMS key's name: CreateRepository's `kmsKey`.
const MAX_KMS_KEY: usize = 2048;

/// How many tags AWS allows.
const MAX_TAGS: usize = 50;

/// The greatest length of an audience, which is mostly a URL.
const MAX_AUDIENCE: usize = 2000;

/// Reads an instance. `None` if it has mistakes, which are noted then.
pub(super) fn read(node: &Node<'_>, notes: &mut Notes) -> Option<Instance> {
    let keys = node.mapping(KEYS, notes)?;
    let mut words = |key: &str| match keys.get(key) {
        Some(node) => node.words(MAX_WORDS, notes).map(Some),
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
        .and_then(|node| endpoint(node, may_be_plain, notes));
    let token_realm = match keys.get("token_realm") {
        Some(node) => realm(node, may_be_plain, notes).map(Some),
        None => Some(None),
    };
    let api = match keys.get("api") {
        Some(node) => self::endpoint(node, may_be_plain, notes).map(Some),
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
    let username = keys.need("username", "the user's name", notes).and_then(|node| username(node, notes));
    let password = keys.need("password", "env:NAME or file:PATH", notes).and_then(|node| secret(node, notes));
    Some(Credentials::Password { username: username?, password: password? })
}

/// What repositories of ECR are like that have to be made.
fn ecr(node: &Node<'_>, notes: &mut Notes) -> Option<EcrSettings> {
    let keys = node.mapping(&["immutable_tags", "scan_on_push", "kms_key", "tags"], notes)?;
    let mut flag = |key: &str| keys.get(key).map_or(Some(false), |node| node.flag(notes));
    let (immutable_tags, scan_on_push) = (flag("immutable_tags"), flag("scan_on_push"));
    let kms_key = match keys.get("kms_key") {
        Some(node) => node.words(MAX_KMS_KEY, notes).map(Some),
        None => Some(None),
    };
    let tags = match keys.get("tags") {
        Some(node) => resource_tags(node, notes),
        None => Some(BTreeMap::new()),
    };
    Some(EcrSettings { immutable_tags: immutable_tags?, scan_on_push: scan_on_push?, kms_key: kms_key?, tags: tags? })
}

/// Tags of AWS: <https://docs.aws.amazon.com/tag-editor/latest/userguide/best-practices-and-strats.html>.
fn resource_tags(node: &Node<'_>, notes: &mut Notes) -> Option<BTreeMap<String, String>> {
    let mut tags = BTreeMap::new();
    let entries = node.named(MAX_TAGS, notes)?;
    let all = entries.len();
    for (key, value) in entries {
        let of_tag = |c: char| c.is_alphanumeric() || " _.:/=+-@".contains(c);
        if key.is_empty() || key.chars().count() > 128 || key.to_lowercase().starts_with("aws:") || !key.chars().all(of_tag) {
            notes.mistake(
                &value,
                "a tag's key has 1 to 128 letters, digits, spaces and _ . : / = + - @, and does not begin with aws:",
            );
            continue;
        }
        let Some(text) = value.text(notes) else { continue };
        if text.chars().count() > 256 || !text.chars().all(of_tag) {
            notes.mistake(&value, "a tag's value has up to 256 letters, digits, spaces and _ . : / = + - @");
            continue;
        }
        tags.insert(key.to_owned(), text.to_owned());
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

fn username(node: &Node<'_>, notes: &mut Notes) -> Option<String> {
    let name = node.words(MAX_WORDS, notes)?;
    if name.contains(':') {
        // RFC 7617, section 2. It may also be that somebody has put the password behind it.
        notes.mistake(node, "a user name has no ':' in it; the password has a key of its own");
        return None;
    }
    Some(name)
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
        .and_then(|node| audience(node, notes));
    Some(WebhookAuth::Google(GoogleIdentity { service_account: account?, audience: audience? }))
}

/// Any text will do: Pub/Sub puts into its tokens what the subscription says.
fn audience(node: &Node<'_>, notes: &mut Notes) -> Option<String> {
    let text = node.words(MAX_AUDIENCE, notes)?;
    if text.contains(char::is_whitespace) {
        notes.mistake(node, "an audience is a text without spaces, like 'https://transship.example.com/hooks/build'");
        return None;
    }
    Some(text)
}

/// Where the ends of tasks are told.
fn notify(node: &Node<'_>, notes: &mut Notes) -> Option<Notify> {
    let keys = node.mapping(&["url", "secret", "private_network"], notes)?;
    let private_network = keys.get("private_network").map_or(Some(false), |node| node.flag(notes));
    let url = keys
        .need("url", "where the ends of tasks are told, like 'https://ci.example.com/transship'", notes)
        // A flag that can't be read is one mistake, not two.
        .and_then(|node| receiver(node, private_network.unwrap_or(true), notes));
    let secret = match keys.get("secret") {
        Some(node) => secret(node, notes).map(Some),
        None => Some(None),
    };
    Some(Notify { url: url?, secret: secret?, private_network: private_network? })
}

/// The URL of a webhook. No message shows it: chat services have tokens in theirs.
fn receiver(node: &Node<'_>, may_be_near: bool, notes: &mut Notes) -> Option<Url> {
    let url = url(node, "https://ci.example.com/transship", notes)?;
    let is_near = is_loopback(&url) || matches!(url.host(), Some(Host::Ipv4(address)) if address.is_private());
    let problem = if !matches!(url.scheme(), "http" | "https") {
        "begin with https://, and a host: notifications are POSTs"
    } else if !url.username().is_empty() || url.password().is_some() {
        "take the user name and password out of the URL: a receiver knows us by the signature that 'secret' makes"
    } else if url.fragment().is_some() {
        "take away the fragment (after '#')"
    } else if is_near && !may_be_near {
        "private addresses and this machine's own are refused: write 'private_network: true' beside the url if the receiver is there"
    } else if url.scheme() == "http" && !may_be_near {
        "http:// sends what was copied where in the clear: use https://, or write 'private_network: true' beside the url if the \
         receiver is in a network of yours"
    } else {
        return Some(url);
    };
    notes.mistake(node, problem);
    None
}

/// Scheme, host and port.
fn endpoint(node: &Node<'_>, may_be_plain: bool, notes: &mut Notes) -> Option<Url> {
    let url = web_address(node, may_be_plain, notes)?;
    let surplus: Vec<_> = [
        (url.path() != "/", "the path (a namespace belongs into rules)"),
        (url.query().is_some(), "the query (after '?')"),
        (url.fragment().is_some(), "the fragment (after '#')"),
    ]
    .into_iter()
    .filter_map(|(is_there, what)| is_there.then_some(what))
    .collect();
    if !surplus.is_empty() {
        notes.mistake(node, format!("an endpoint is scheme, host and port: take away {}", surplus.join(" and ")));
        return None;
    }
    Some(url)
}

/// The URL of a token service.
fn realm(node: &Node<'_>, may_be_plain: bool, notes: &mut Notes) -> Option<Url> {
    let url = web_address(node, may_be_plain, notes)?;
    if url.fragment().is_some() {
        notes.mistake(node, "take away the fragment (after '#')");
        return None;
    }
    Some(url)
}

/// A URL, of which no message shows the text.
fn url(node: &Node<'_>, example: &str, notes: &mut Notes) -> Option<Url> {
    match Url::parse(node.text(notes)?) {
        Ok(url) => Some(url),
        Err(url::ParseError::RelativeUrlWithoutBase) => {
            notes.mistake(node, "no URL: write https:// before the host");
            None
        }
        Err(error) => {
            notes.mistake(node, format!("no URL: {error}; it is meant to be like '{example}'"));
            None
        }
    }
}

/// A URL that credentials may be sent to. No message shows it: people write passwords into URLs.
fn web_address(node: &Node<'_>, may_be_plain: bool, notes: &mut Notes) -> Option<Url> {
    let url = url(node, "https://registry.example.com:5000", notes)?;
    let problem = if !matches!(url.scheme(), "http" | "https") {
        // `localhost:5000` is a URL of the scheme localhost.
        Some("begin with https://, or with http://, and a host: there is no other way to a registry")
    } else if !url.username().is_empty() || url.password().is_some() {
        Some("take the user name and password out of the URL: they belong into 'credentials'")
    } else if url.scheme() == "http" && !may_be_plain && !is_loopback(&url) {
        Some(
            "http:// sends passwords and images in the clear: use https://, or write 'plain_http: true' beside the endpoint \
             if the network is yours",
        )
    } else {
        None
    };
    match problem {
        Some(problem) => {
            notes.mistake(node, problem);
            None
        }
        None => Some(url),
    }
}
