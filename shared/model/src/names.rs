//! Names that are parsed once at the border and trusted from there on.
//!
//! Each type holds text that is known to follow its grammar, so that a path, a URL or a sort key can be made from it
//! without a second thought. `Display` gives the text back, `FromStr` and serde parse it.

use std::{fmt, str::FromStr, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

/// Text that does not follow the grammar of the name that it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: {rule}")]
pub struct InvalidName {
    /// What was to be parsed, at most 80 characters of it.
    pub text: String,
    /// The kind of name, with its article: "a tag".
    pub what: &'static str,
    /// The grammar in words, so that the reader can mend the text.
    pub rule: &'static str,
}

impl InvalidName {
    fn new(text: &str, what: &'static str, rule: &'static str) -> Self {
        Self { text: text.chars().take(80).collect(), what, rule }
    }
}

/// What is text in JSON, as JSON Schema has it.
macro_rules! text {
    ($name:ident, $what:literal) => {
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                use utoipa::openapi::{ObjectBuilder, Type};
                ObjectBuilder::new().schema_type(Type::String).description(Some($what)).build().into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}
pub(crate) use text;

/// Names as JSON Schema has them.
mod schema {
    /// The part of a name's grammar that a regular expression can say.
    pub(super) fn pattern(name: &str) -> Option<&'static str> {
        Some(match name {
            "InstanceName" | "RuleName" => "^[a-z0-9][a-z0-9._-]{0,99}$",
            "Repository" => r"^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$",
            "Namespace" => r"^(\*|[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*)?$",
            "Tag" => "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$",
            "Digest" => "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$",
            "TaskId" => "^[1-9][0-9]{0,18}-[0-9a-f]{28}$",
            "TokenId" => "^[0-9a-f]{16}$",
            "SubscriptionName" => "^(instance:)?[a-z0-9][a-z0-9._-]{0,99}$",
            "DeliveryId" => "^[0-9a-f]{28}$",
            _ => return None,
        })
    }

    /// What such a name may look like.
    pub(super) fn example(name: &str) -> Option<&'static str> {
        Some(match name {
            "InstanceName" => "build",
            "RuleName" => "release",
            "Repository" => "team/app",
            "Namespace" => "team",
            "Tag" => "v1.2.3",
            "Digest" => "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "TaskId" => "1-01a2006ebad69d5f1e2112162b7f",
            "TokenId" => "6b0228a25a344737",
            _ => return None,
        })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if $valid(text) { Ok(Self(text.into())) } else { Err(InvalidName::new(text, $what, $rule)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String).description(Some($rule));
                let text = text.pattern(schema::pattern(stringify!($name)));
                text.examples(schema::example(stringify!($name))).build().into()
            }
        }

        impl ToSchema for $name {}
    };
}

name!(
    /// The name of an instance, that is of a registry that transship knows.
    InstanceName,
    "an instance name",
    "1 to 100 lowercase letters, digits, '-', '.' and '_', beginning with a letter or digit",
    is_short_name
);

name!(
    /// The name of a rule, unique within its source instance.
    RuleName,
    "a rule name",
    "1 to 100 lowercase letters, digits, '-', '.' and '_', beginning with a letter or digit",
    is_short_name
);

name!(
    /// The name of a repository: distribution specification 1.1, section "Pulling manifests", at most 255 characters.
    Repository,
    "a repository name",
    "path components of lowercase letters and digits, separated inside by one of '.', '_', '__' or dashes, joined by '/', \
     255 characters at most",
    is_repository
);

name!(
    /// A tag: distribution specification 1.1, section "Pulling manifests".
    Tag,
    "a tag",
    "1 to 128 letters, digits, '_', '.' and '-', not beginning with '.' or '-'",
    is_tag
);

name!(
    /// A digest: image specification 1.1, section "Digests"; sha256 and sha512 are understood.
    Digest,
    "a digest",
    "'sha256:' with 64 or 'sha512:' with 128 lowercase hexadecimal digits",
    is_digest
);

name!(
    /// Which of a registry's repositories are meant: those below a path (`team`), those without a slash (the empty
    /// path), or all of them (`*`).
    Namespace,
    "a namespace",
    "a path like 'team' or 'team/base', '' for repositories without a slash, or '*' for all",
    is_namespace
);

name!(
    /// The identity of a task, made by [`TaskId::derive`]. It begins with its rule's ID and its time, so that a table finds
    /// the task by it alone and lists a rule's tasks in the order of time.
    TaskId,
    "a task ID",
    "a rule's number, '-' and 28 lowercase hexadecimal digits",
    is_task_id
);

name!(
    /// The part of an API token by which it is found and named. It is no secret, and begins with the second in which the token was made,
    /// so that a table lists tokens in the order of time.
    TokenId,
    "a token's ID",
    "16 lowercase hexadecimal digits",
    is_token_id
);

name!(
    /// The name of a subscription. `instance:NAME` is what an instance's own `notify` stands for; no other can be called so.
    SubscriptionName,
    "a subscription's name",
    "1 to 100 lowercase letters, digits, '-', '.' and '_', beginning with a letter or digit; that of an instance's own webhook is \
     'instance:' and the instance's name",
    is_subscription_name
);

name!(
    /// The identity of a delivery, made by [`DeliveryId::derive`]. It begins with the event's time, so that a table lists deliveries in
    /// that order.
    DeliveryId,
    "a delivery's ID",
    "28 lowercase hexadecimal digits",
    is_delivery_id
);

name!(
    /// The name of a role in AWS: IAM User Guide, "IAM ARNs".
    RoleArn,
    "the ARN of a role",
    "like 'arn:aws:iam::123456789012:role/NAME', with a path before the name if the role has one",
    is_role_arn
);

name!(
    /// The e-mail address of a service account of Google Cloud: IAM documentation, "Service accounts overview".
    ServiceAccount,
    "a service account",
    "an e-mail address like 'push@my-project.iam.gserviceaccount.com', in lowercase",
    is_service_account
);

name!(
    /// The name of a secret that a service keeps, below the prefix of the deployment: no other's secrets can be named.
    SecretName,
    "the name of a secret",
    "1 to 400 letters, digits, '-', '.' and '_', in segments joined by '/', none of them '.' or '..'",
    is_secret_name
);

impl SecretName {
    /// How the names of secrets begin that are given to the API. Nobody can name one of them.
    pub const WRITTEN: &str = "instances/";

    /// Whether it is the name of a secret that was given to the API.
    pub fn is_written(&self) -> bool {
        self.as_str().starts_with(Self::WRITTEN)
    }
}

fn is_short_name(s: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    s.len() <= 100 && s.bytes().next().is_some_and(alnum) && s.bytes().all(|b| alnum(b) || b"-._".contains(&b))
}

fn is_subscription_name(s: &str) -> bool {
    is_short_name(s.strip_prefix(SubscriptionName::OF_INSTANCE).unwrap_or(s))
}

fn is_delivery_id(s: &str) -> bool {
    s.len() == 28 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_secret_name(s: &str) -> bool {
    let word = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    s.len() <= 400 && s.split('/').all(|segment| !matches!(segment, "" | "." | "..") && word(segment))
}

/// `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME`
fn is_role_arn(s: &str) -> bool {
    let [arn, partition, iam, region, account, role] = s.splitn(6, ':').collect::<Vec<_>>()[..] else { return false };
    let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b));
    arn == "arn"
        && (partition == "aws" || partition.strip_prefix("aws-").is_some_and(word))
        && iam == "iam"
        && region.is_empty()
        && account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit())
        && s.len() <= 600
        && role.strip_prefix("role/").is_some_and(|name| name.split('/').all(word))
}

fn is_service_account(s: &str) -> bool {
    let label = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    s.len() <= 254
        && s.strip_suffix(".gserviceaccount.com")
            .and_then(|address| address.split_once('@'))
            .is_some_and(|(name, domain)| label(name) && domain.split('.').all(label))
}

fn is_repository(s: &str) -> bool {
    s.len() <= 255 && s.split('/').all(is_path_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(s: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = s.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    alnum(first)
        && alnum(last)
        && bytes
            .chunk_by(|a, b| alnum(a) == alnum(b))
            .all(|run| alnum(&run[0]) || matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

fn is_tag(s: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    s.len() <= 128 && s.bytes().next().is_some_and(word) && s.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_digest(s: &str) -> bool {
    let hex = |h: &str, n| h.len() == n && h.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match s.split_once(':') {
        Some(("sha256", h)) => hex(h, 64),
        Some(("sha512", h)) => hex(h, 128),
        _ => false,
    }
}

fn is_namespace(s: &str) -> bool {
    s.is_empty() || s == "*" || is_repository(s)
}

fn is_task_id(s: &str) -> bool {
    s.split_once('-').is_some_and(|(rule, rest)| {
        rule.parse::<RuleId>().is_ok()
            && rest.len() == 28
            && rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

fn is_token_id(s: &str) -> bool {
    s.len() == 16 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Repository {
    /// The path below a namespace, if the repository lies in it: `base/app` of `team/base/app` in `team`.
    pub fn below(&self, namespace: &Namespace) -> Option<&str> {
        match namespace.as_str() {
            "*" => Some(&self.0),
            "" => (!self.0.contains('/')).then_some(&*self.0),
            path => self.0.strip_prefix(path)?.strip_prefix('/'),
        }
    }
}

impl Namespace {
    /// Whether this is `*`, every repository of the instance.
    pub fn is_all(&self) -> bool {
        &*self.0 == "*"
    }

    /// The repository at `path` below this namespace; with `*` and the empty namespace that is the path itself.
    ///
    /// # Errors
    /// The joined name may be too long.
    pub fn join(&self, path: &str) -> Result<Repository, InvalidName> {
        match self.as_str() {
            "" | "*" => path.parse(),
            namespace => format!("{namespace}/{path}").parse(),
        }
    }
}

impl SubscriptionName {
    /// What the name of an instance's own subscription begins with.
    const OF_INSTANCE: &'static str = "instance:";

    /// The name of what an instance's `notify` stands for.
    pub fn of_instance(instance: &InstanceName) -> Self {
        Self(format!("{}{instance}", Self::OF_INSTANCE).into())
    }

    /// The instance whose `notify` this is the name of, if it is such a name.
    pub fn instance(&self) -> Option<InstanceName> {
        self.0.strip_prefix(Self::OF_INSTANCE)?.parse().ok()
    }
}

impl DeliveryId {
    /// The ID of the delivery of an event, by its time and its ID: the same for the same event.
    pub fn derive(time: Timestamp, event: &str) -> Self {
        let milliseconds = u64::try_from(time.as_millisecond()).unwrap_or_default() & 0xffff_ffff_ffff;
        Self(format!("{milliseconds:012x}{}", &hex(&Sha256::digest(event))[..16]).into())
    }
}

/// A rule as people name it: `INSTANCE/RULE`, its source instance and its name there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RulePath {
    /// The source instance.
    pub instance: InstanceName,
    /// The rule's name in it.
    pub rule: RuleName,
}

impl FromStr for RulePath {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let form = "INSTANCE/RULE, the rule's source instance and its name, as in 'build/release'";
        let (instance, rule) = text.split_once('/').ok_or_else(|| InvalidName::new(text, "a rule", form))?;
        Ok(Self { instance: instance.parse()?, rule: rule.parse()? })
    }
}

impl TryFrom<String> for RulePath {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<RulePath> for String {
    fn from(path: RulePath) -> String {
        path.to_string()
    }
}

impl fmt::Display for RulePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.instance, self.rule)
    }
}

impl fmt::Debug for RulePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl PartialSchema for RulePath {
    fn schema() -> RefOr<Schema> {
        let text =
            ObjectBuilder::new().schema_type(Type::String).description(Some("a rule: its source instance, '/', its name"));
        text.pattern(Some("^[a-z0-9][a-z0-9._-]{0,99}/[a-z0-9][a-z0-9._-]{0,99}$")).build().into()
    }
}

impl ToSchema for RulePath {}

/// What an attachment tag says about itself; see [`Tag::subject`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachmentKind {
    /// `sha256-<hex>`: the referrers tag schema of the distribution specification, an index of referrers.
    Referrers,
    /// `sha256-<hex>.sig`, `.att` or `.sbom`: cosign's signature, attestation and bill of materials.
    Cosign,
}

impl Tag {
    /// The manifest that a tag of the form `sha256-<hex>` (referrers tag schema) or `sha256-<hex>.sig|.att|.sbom` (cosign)
    /// belongs to. Such tags never meet a rule's tag pattern; they follow their subject.
    pub fn subject(&self) -> Option<(Digest, AttachmentKind)> {
        let (name, kind) = match self.0.split_once('.') {
            None => (&*self.0, AttachmentKind::Referrers),
            Some((name, "sig" | "att" | "sbom")) => (name, AttachmentKind::Cosign),
            Some(_) => return None,
        };
        let (algorithm, hex) = name.split_once('-')?;
        Some((format!("{algorithm}:{hex}").parse().ok()?, kind))
    }
}

impl Digest {
    /// The sha256 digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(format!("sha256:{}", hex(&Sha256::digest(bytes))).into())
    }

    /// `sha256` or `sha512`.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// The part after the colon.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// The digest as a tag of the referrers tag schema, `sha256-<hex>`, with a suffix like `.sig` if one is given. Of a sha512
    /// digest the first 64 digits stand for all, as the specification has it.
    pub fn as_tag(&self, suffix: &str) -> Tag {
        let hex = self.hex();
        Tag(format!("{}-{}{suffix}", self.algorithm(), &hex[..hex.len().min(64)]).into())
    }
}

/// Lowercase hexadecimal digits of some bytes.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A tag, or a digest where there is no tag.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Reference {
    /// A name that can be moved.
    Tag(Tag),
    /// Exact content.
    Digest(Digest),
}

text!(Reference, "a tag, or a digest where there is no tag");

impl FromStr for Reference {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.contains(':') { text.parse().map(Self::Digest) } else { text.parse().map(Self::Tag) }
    }
}

impl TryFrom<String> for Reference {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Reference {
    /// The tag, if it is one.
    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Tag(tag) => Some(tag),
            Self::Digest(_) => None,
        }
    }
}

/// A place for an artifact in an instance: written `instance/repository:tag` or `instance/repository@digest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct Place {
    /// The registry.
    pub instance: InstanceName,
    /// The repository in it.
    pub repository: Repository,
    /// Tag or digest.
    pub reference: Reference,
}

impl Place {
    /// `repository:tag` or `repository@digest`.
    pub fn name(&self) -> String {
        let separator = if self.reference.tag().is_some() { ':' } else { '@' };
        format!("{}{separator}{}", self.repository, self.reference)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.instance, self.name())
    }
}

/// A rule's identity: a number that is given once and never again, so that work left over from a deleted rule never acts
/// for a later one of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleId(pub u64);

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RuleId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl TaskId {
    /// The task of `rule` for the triggering that `identity` names, at `time`. The same three give the same ID, so that a
    /// repeated delivery makes no second task.
    pub fn derive(rule: RuleId, time: Timestamp, identity: &str) -> Self {
        let millis = time.as_millisecond().max(0);
        let hash = Sha256::digest(format!("{rule}\n{identity}"));
        Self(format!("{rule}-{millis:012x}{}", hex(&hash[..8])).into())
    }

    /// The rule whose task this is.
    pub fn rule(&self) -> RuleId {
        RuleId(self.0.split_once('-').and_then(|(rule, _)| rule.parse().ok()).unwrap_or_default())
    }

    /// The part after the rule: time, then hash.
    pub fn ordinal(&self) -> &str {
        self.0.split_once('-').map_or("", |(_, ordinal)| ordinal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_outside_is_held_to_its_grammar() {
        for good in ["a", "team/app", "a.b/c_d/e__f/g---h", "0/1"] {
            assert!(good.parse::<Repository>().is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "A", "a..b", "a___b", "-a", "a-", "..", "a/../b", "a b", "a\n", "ä", "a/%2e%2e"] {
            assert!(bad.parse::<Repository>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(256).parse::<Repository>().is_err());
        for good in ["arn:aws:iam::123456789012:role/a", "arn:aws-cn:iam::123456789012:role/path/to/a_b-c+=,.@d"] {
            assert!(good.parse::<RoleArn>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "mirror",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:role/a//b",
            "arn:aws:iam::12345678901:role/a",
            "arn:aws:iam::12345678901x:role/a",
            "arn:aws:iam:eu-west-1:123456789012:role/a",
            "arn:aws:iam::123456789012:user/a",
            "arn:aws:sts::123456789012:assumed-role/a/b",
            "arn:aw:iam::123456789012:role/a",
            "arn:aws:iam::123456789012:role/a b",
            "arn:aws:iam::123456789012:role/a:b",
        ] {
            assert!(bad.parse::<RoleArn>().is_err(), "{bad:?}");
        }
        for good in ["a", "0", "to-prod", "a.b_c-d", "1st", &"a".repeat(100)] {
            assert_eq!((good.parse::<InstanceName>().is_ok(), good.parse::<RuleName>().is_ok()), (true, true), "{good}");
        }
        for bad in ["", "A", "-a", ".a", "_a", "a/b", "a b", "a:b", "ä", "a\n", &"a".repeat(101)] {
            assert_eq!((bad.parse::<InstanceName>().is_err(), bad.parse::<RuleName>().is_err()), (true, true), "{bad:?}");
        }
        for good in ["api-token", "ci/build.password", "..a", "A_1"] {
            assert!(good.parse::<SecretName>().is_ok(), "{good}");
        }
        let arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:other-AbCdEf";
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a b", "a*", arn, &"a".repeat(401)] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }

        for good in [
            "push@shop.iam.gserviceaccount.com",
            "123-compute@developer.gserviceaccount.com",
            "a@b.example.com.iam.gserviceaccount.com",
        ] {
            assert_eq!(good.parse::<ServiceAccount>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "push",
            "me@example.com",
            "@shop.iam.gserviceaccount.com",
            "a@b@shop.iam.gserviceaccount.com",
            "push@.gserviceaccount.com",
            "Push@shop.iam.gserviceaccount.com",
            "push@shop.iam.gserviceaccount.com.evil.test",
        ] {
            assert!(bad.parse::<ServiceAccount>().is_err(), "{bad:?}");
        }
        assert!("_v1.0-rc".parse::<Tag>().is_ok());
        for bad in ["", ".a", "-a", "a/b", "a:b", "v1\n"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(129).parse::<Tag>().is_err());
        for bad in ["sha256:ab", "md5:00", &format!("sha256:{}", "A".repeat(64)), &"f".repeat(64)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
        assert_eq!("Team".parse::<Repository>().unwrap_err().text, "Team");
    }

    #[test]
    fn the_path_below_a_namespace_is_what_a_pattern_meets() {
        let ns = |s: &str| s.parse::<Namespace>().unwrap();
        let repo = "team/base/app".parse::<Repository>().unwrap();
        assert_eq!(repo.below(&ns("team")), Some("base/app"));
        assert_eq!(repo.below(&ns("team/base")), Some("app"));
        assert_eq!(repo.below(&ns("*")), Some("team/base/app"));
        assert_eq!(repo.below(&ns("tea")), None);
        assert_eq!(repo.below(&ns("")), None);
        assert_eq!("app".parse::<Repository>().unwrap().below(&ns("")), Some("app"));
        assert_eq!(ns("mirror").join("base/app").unwrap().as_str(), "mirror/base/app");
    }

    #[test]
    fn attachment_tags_name_their_subject() {
        let digest = Digest::of(b"x");
        for (suffix, kind) in
            [("", AttachmentKind::Referrers), (".sig", AttachmentKind::Cosign), (".sbom", AttachmentKind::Cosign)]
        {
            assert_eq!(digest.as_tag(suffix).subject(), Some((digest.clone(), kind)));
        }
        for other in ["v1", "sha256-12", "sha256-12.sig", "v1.sig"] {
            assert_eq!(other.parse::<Tag>().unwrap().subject(), None, "{other}");
        }
    }

    #[test]
    fn a_repeated_delivery_has_the_same_task() {
        let time = "2026-01-02T03:04:05Z".parse().unwrap();
        let id = TaskId::derive(RuleId(12), time, "event-1");
        assert_eq!(id, TaskId::derive(RuleId(12), time, "event-1"));
        assert_ne!(id, TaskId::derive(RuleId(13), time, "event-1"));
        assert_eq!(id.rule(), RuleId(12));
        assert_eq!(id.to_string().parse::<TaskId>().unwrap(), id);
        for bad in ["", "12", "12-xyz", "x-0193f2ab3c4d9f8e7d6c5b4a3928", "12-0193f2ab3c4d9f8e7d6c5b4a392"] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad}");
        }
    }
}
