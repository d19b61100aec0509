//! What people write about instances and rules, in a configuration file or to the API, and whether it will do.
//!
//! No message shows the text: it may hold a password, or be one.

use url::{Host, Url};

use crate::instance::is_loopback;

/// The greatest length of a region's, zone's or user's name, in characters.
pub const MAX_WORDS: usize = 200;
/// The greatest length of an audience, which is mostly a URL, in characters.
pub const MAX_AUDIENCE: usize = 2000;
/// The greatest length of a rule's description, in characters.
pub const MAX_DESCRIPTION: usize = 1000;

/// The greatest length of a KMS key's name: CreateRepository's `kmsKey`.
pub const MAX_KMS_KEY: usize = 2048;
/// How many tags AWS allows.
pub const MAX_RESOURCE_TAGS: usize = 50;

/// A text that will not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInput {
    /// Nothing is in it.
    #[error("is empty: write a text or leave the key out")]
    Empty,
    /// It has more than so many characters.
    #[error("longer than {0} characters")]
    TooLong(usize),
    /// RFC 7617, section 2. It may also be that somebody has put the password behind it.
    #[error("a user name has no ':' in it; the password has a key of its own")]
    Colon,
    /// A key of a tag of AWS.
    #[error("a tag's key has 1 to 128 letters, digits, spaces and _ . : / = + - @, and does not begin with aws:")]
    ResourceTagKey,
    /// A value of a tag of AWS.
    #[error("a tag's value has up to 256 letters, digits, spaces and _ . : / = + - @")]
    ResourceTagValue,
    /// An audience with white space.
    #[error("an audience is a text without spaces, like 'https://transship.example.com/hooks/build'")]
    Spaces,
    /// A URL without its scheme.
    #[error("no URL: write https:// before the host")]
    NoScheme,
    /// No URL at all.
    #[error("no URL: {error}; it is meant to be like '{example}'")]
    NoUrl {
        /// What is wrong with it.
        error: url::ParseError,
        /// A right one.
        example: &'static str,
    },
    /// `localhost:5000` is a URL of the scheme localhost.
    #[error("begin with https://, or with http://, and a host: there is no other way to a registry")]
    NoWay,
    /// A URL that tells who calls.
    #[error("take the user name and password out of the URL: they belong into 'credentials'")]
    Login,
    /// Plain http to a host that is not this machine.
    #[error(
        "http:// sends passwords and images in the clear: use https://, or write 'plain_http: true' beside the endpoint if the \
         network is yours"
    )]
    Plain,
    /// An endpoint with more than an endpoint has.
    #[error("an endpoint is scheme, host and port: take away {0}")]
    Surplus(String),
    /// A URL with a fragment, which is never sent.
    #[error("take away the fragment (after '#')")]
    Fragment,
    /// A receiver that is no web server.
    #[error("begin with https://, and a host: notifications are POSTs")]
    NoReceiver,
    /// A receiver's URL that tells who calls.
    #[error("take the user name and password out of the URL: a receiver knows us by the signature that 'secret' makes")]
    ReceiverLogin,
    /// A receiver at a private address.
    #[error(
        "private addresses and this machine's own are refused: write 'private_network: true' beside the url if the receiver is there"
    )]
    Private,
    /// A receiver that is spoken to in the clear.
    #[error(
        "http:// sends what was copied where in the clear: use https://, or write 'private_network: true' beside the url if the \
         receiver is in a network of yours"
    )]
    ReceiverPlain,
}

/// A tag of AWS: <https://docs.aws.amazon.com/tag-editor/latest/userguide/best-practices-and-strats.html>.
///
/// # Errors
/// [`InvalidInput`] says what AWS would not take.
pub fn resource_tag(key: &str, value: &str) -> Result<(), InvalidInput> {
    let is_fine =
        |text: &str, max| text.chars().count() <= max && text.chars().all(|c| c.is_alphanumeric() || " _.:/=+-@".contains(c));
    if key.is_empty() || key.to_lowercase().starts_with("aws:") || !is_fine(key, 128) {
        return Err(InvalidInput::ResourceTagKey);
    }
    if is_fine(value, 256) { Ok(()) } else { Err(InvalidInput::ResourceTagValue) }
}

/// A text for people, of limited length and not empty.
///
/// # Errors
/// It is empty or too long.
pub fn words(text: &str, max: usize) -> Result<String, InvalidInput> {
    if text.is_empty() {
        return Err(InvalidInput::Empty);
    }
    if text.chars().nth(max).is_some() {
        return Err(InvalidInput::TooLong(max));
    }
    Ok(text.to_owned())
}

/// The name of a user.
///
/// # Errors
/// See [`InvalidInput`].
pub fn username(text: &str) -> Result<String, InvalidInput> {
    let name = words(text, MAX_WORDS)?;
    if name.contains(':') { Err(InvalidInput::Colon) } else { Ok(name) }
}

/// An audience: any text will do, because Pub/Sub puts into its tokens what the subscription says.
///
/// # Errors
/// See [`InvalidInput`].
pub fn audience(text: &str) -> Result<String, InvalidInput> {
    let text = words(text, MAX_AUDIENCE)?;
    if text.contains(char::is_whitespace) { Err(InvalidInput::Spaces) } else { Ok(text) }
}

/// Scheme, host and port of a registry. Plain http is for this machine, or where it is allowed.
///
/// # Errors
/// See [`InvalidInput`].
pub fn endpoint(text: &str, may_be_plain: bool) -> Result<Url, InvalidInput> {
    let url = web_address(text, may_be_plain)?;
    let surplus: Vec<_> = [
        (url.path() != "/", "the path (a namespace belongs into rules)"),
        (url.query().is_some(), "the query (after '?')"),
        (url.fragment().is_some(), "the fragment (after '#')"),
    ]
    .into_iter()
    .filter_map(|(is_there, what)| is_there.then_some(what))
    .collect();
    if surplus.is_empty() { Ok(url) } else { Err(InvalidInput::Surplus(surplus.join(" and "))) }
}

/// The URL of a token service.
///
/// # Errors
/// See [`InvalidInput`].
pub fn realm(text: &str, may_be_plain: bool) -> Result<Url, InvalidInput> {
    let url = web_address(text, may_be_plain)?;
    if url.fragment().is_some() { Err(InvalidInput::Fragment) } else { Ok(url) }
}

/// The URL of a webhook, which may be near (in a private network, on this machine, by plain http) only where that is allowed.
///
/// # Errors
/// See [`InvalidInput`].
pub fn receiver(text: &str, may_be_near: bool) -> Result<Url, InvalidInput> {
    let url = url(text, "https://ci.example.com/transship")?;
    let is_near = is_loopback(&url) || matches!(url.host(), Some(Host::Ipv4(address)) if address.is_private());
    if !matches!(url.scheme(), "http" | "https") {
        Err(InvalidInput::NoReceiver)
    } else if !url.username().is_empty() || url.password().is_some() {
        Err(InvalidInput::ReceiverLogin)
    } else if url.fragment().is_some() {
        Err(InvalidInput::Fragment)
    } else if is_near && !may_be_near {
        Err(InvalidInput::Private)
    } else if url.scheme() == "http" && !may_be_near {
        Err(InvalidInput::ReceiverPlain)
    } else {
        Ok(url)
    }
}

fn url(text: &str, example: &'static str) -> Result<Url, InvalidInput> {
    Url::parse(text).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase => InvalidInput::NoScheme,
        error => InvalidInput::NoUrl { error, example },
    })
}

/// A URL that credentials may be sent to.
fn web_address(text: &str, may_be_plain: bool) -> Result<Url, InvalidInput> {
    let url = url(text, "https://registry.example.com:5000")?;
    if !matches!(url.scheme(), "http" | "https") {
        Err(InvalidInput::NoWay)
    } else if !url.username().is_empty() || url.password().is_some() {
        Err(InvalidInput::Login)
    } else if url.scheme() == "http" && !may_be_plain && !is_loopback(&url) {
        Err(InvalidInput::Plain)
    } else {
        Ok(url)
    }
}
