//! What people write about instances and rules, in a configuration file or to the API, and whether it will do.
//!
//! No message shows the text: it may hold a password, or be one.

use std::net::{Ipv4Addr, Ipv6Addr};

use rustls_pki_types::pem::{self, PemObject as _, SectionKind};
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
    /// It has characters that a terminal obeys, or that show what stands beside them in another order.
    #[error("has a control character in it, or one that changes the direction of writing: take it out")]
    Control,
    /// It is no PEM text of certificates.
    #[error("one or more certificates are needed, as text that begins with -----BEGIN CERTIFICATE-----: {0}")]
    Certificates(&'static str),
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
    /// An address that is nobody's outside of the machine, or a metadata service's, which gives credentials to whoever asks.
    #[error("link-local addresses and those of metadata services are refused: name a host in a network")]
    LinkLocal,
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

/// Whether a terminal obeys a character instead of showing it, or shows what stands beside it in another order: controls (Unicode's
/// category Cc), and the overrides, embeddings, isolates and marks of its bidirectional algorithm (UAX #9).
pub fn is_control(c: char) -> bool {
    let is_bidi = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || is_bidi || matches!(c, '\u{2028}' | '\u{2029}')
}

/// A text for people, of limited length and not empty, on one line.
///
/// # Errors
/// It is empty or too long, or has control characters.
pub fn words(text: &str, max: usize) -> Result<String, InvalidInput> {
    match text {
        "" => Err(InvalidInput::Empty),
        _ if text.chars().nth(max).is_some() => Err(InvalidInput::TooLong(max)),
        _ if text.chars().any(is_control) => Err(InvalidInput::Control),
        _ => Ok(text.to_owned()),
    }
}

/// A description, which may be empty and have line breaks and tabs.
///
/// # Errors
/// It is too long, or has other control characters.
pub fn description(text: &str) -> Result<String, InvalidInput> {
    let is_wrong = |c: char| is_control(c) && !matches!(c, '\n' | '\r' | '\t');
    match text {
        _ if text.chars().nth(MAX_DESCRIPTION).is_some() => Err(InvalidInput::TooLong(MAX_DESCRIPTION)),
        _ if text.chars().any(is_wrong) => Err(InvalidInput::Control),
        _ => Ok(text.to_owned()),
    }
}

/// Certificates of authorities in PEM form (RFC 7468), and nothing else: what stands beside them may be a key. Each is looked at as far
/// as to tell a certificate from anything else.
///
/// # Errors
/// [`InvalidInput::Certificates`].
pub fn certificates(text: &str) -> Result<String, InvalidInput> {
    let wrong = |why| Err(InvalidInput::Certificates(why));
    let mut found = 0;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        match section {
            Ok((SectionKind::Certificate, der)) if is_certificate(&der) => found += 1,
            Ok((SectionKind::Certificate, _)) => return wrong("what is between BEGIN and END is none"),
            Ok(_) => return wrong("there is something else, perhaps a key, beside them"),
            Err(pem::Error::NoItemsFound) => break,
            Err(_) => return wrong("what is between BEGIN and END is not whole"),
        }
    }
    if found == 0 { wrong("there is none in it") } else { Ok(text.to_owned()) }
}

/// Whether DER may be a certificate: a sequence of a sequence, another and a bit string (RFC 5280, section 4.1).
fn is_certificate(der: &[u8]) -> bool {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    let parts = |der| {
        let (whole, end) = element(der, SEQUENCE)?;
        let (_, rest) = element(whole, SEQUENCE)?;
        let (_, rest) = element(rest, SEQUENCE)?;
        let (_, rest) = element(rest, BIT_STRING)?;
        Some(end.is_empty() && rest.is_empty())
    };
    parts(der).unwrap_or(false)
}

/// The contents of the element of this kind that DER begins with, and what follows it (X.690, section 8.1).
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (head, rest) = der.split_at_checked(2)?;
    let (length, rest) = match head {
        [kind, ..] if *kind != tag => return None,
        [_, short @ 0..=0x7f] => (usize::from(*short), rest),
        [_, long @ 0x81..=0x83] => {
            let (length, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (length.iter().fold(0, |all, byte| (all << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
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
    } else if is_link_local(&url) {
        Err(InvalidInput::LinkLocal)
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
    } else if is_link_local(&url) {
        Err(InvalidInput::LinkLocal)
    } else if url.scheme() == "http" && !may_be_plain && !is_loopback(&url) {
        Err(InvalidInput::Plain)
    } else {
        Ok(url)
    }
}

/// Whether a URL's host is an address of this link (RFC 3927, RFC 4291) or of a metadata service, by the address alone. What a name leads
/// to is looked at when it is connected to.
fn is_link_local(url: &Url) -> bool {
    let of_v4 = |address: Ipv4Addr| {
        // Alibaba's metadata service and Oracle's, and Azure's host.
        address.is_link_local() || [[100, 100, 100, 200], [192, 0, 0, 192], [168, 63, 129, 16]].contains(&address.octets())
    };
    match url.host() {
        Some(Host::Ipv4(address)) => of_v4(address),
        Some(Host::Ipv6(address)) => match embedded(address) {
            Some(v4) => of_v4(v4),
            // AWS's: metadata, and the credentials of pods.
            None => {
                address.is_unicast_link_local() || matches!(address.segments(), [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254 | 0x23])
            }
        },
        _ => false,
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped (RFC 4291) or NAT64 (RFC 6052).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, a, b] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] => {
            Some(Ipv4Addr::from((u32::from(a) << 16) | u32::from(b)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: a description that repaints the terminal of who lists it, or shows another name than it is.
    #[test]
    fn texts_for_people_obey_nobody() {
        for text in ["plain", "señor — 漢字 🎉", "עברית"] {
            assert_eq!((words(text, 40).as_deref(), description(text).as_deref()), (Ok(text), Ok(text)));
        }
        for text in ["\u{1b}[2J", "\u{9b}2J", "a\0", "a\u{202e}gpj.exe", "\u{2066}x", "\u{7f}", "\u{2028}"] {
            assert_eq!(words(text, 40), Err(InvalidInput::Control), "{text:?}");
            assert_eq!(description(text), Err(InvalidInput::Control), "{text:?}");
        }
        assert_eq!(words("two\nlines", 40), Err(InvalidInput::Control));
        assert_eq!(description("two\n\tlines").as_deref(), Ok("two\n\tlines"));
        assert_eq!(description("").as_deref(), Ok(""));
        assert_eq!(words("", 40), Err(InvalidInput::Empty));
        assert_eq!(description(&"x".repeat(MAX_DESCRIPTION + 1)), Err(InvalidInput::TooLong(MAX_DESCRIPTION)));
    }

    /// Would break: credentials of the machine's own that are fetched by naming its metadata service.
    #[test]
    fn no_url_leads_to_this_link_or_to_a_metadata_service() {
        for host in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.1.1",
            "100.100.100.200",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "[fd00:ec2::23]",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::169.254.169.254]",
            "0xa9fea9fe",
        ] {
            let url = format!("http://{host}");
            assert_eq!(endpoint(&url, true), Err(InvalidInput::LinkLocal), "{url}");
            assert_eq!(realm(&url, true), Err(InvalidInput::LinkLocal), "{url}");
            assert_eq!(receiver(&url, true), Err(InvalidInput::LinkLocal), "{url}");
        }
        for host in ["10.0.0.1", "192.168.1.1", "127.0.0.1", "[fd12::1]", "registry.example.com"] {
            let url = format!("http://{host}");
            assert!(endpoint(&url, true).is_ok() && receiver(&url, true).is_ok(), "{url}");
        }
    }

    /// Would break: an authority that is noticed to be none when nothing can be copied; a key that is stored and shown as one.
    #[test]
    fn what_is_no_certificate_is_told_from_one() {
        let of = |der: &[u8]| is_certificate(der);
        let right = [0x30, 0x08, 0x30, 0x00, 0x30, 0x00, 0x03, 0x02, 0x00, 0xff];
        assert!(of(&right));
        assert!(!of(&right[..9]) && !of(&[&right[..], &[0]].concat()) && !of(&[]) && !of(b"hello"));
        let long =
            [&[0x30, 0x82, 0x01, 0x08][..], &[0x30, 0x81, 0xfc], &[0; 0xfc], &[0x30, 0x00, 0x03, 0x05], &[0; 5]].concat();
        assert!(of(&long));
        let pem = |kind: &str, base64: &str| format!("-----BEGIN {kind}-----\n{base64}\n-----END {kind}-----\n");
        let one = pem("CERTIFICATE", "MAgwADAAAwIA/w==");
        assert_eq!(certificates(&one).as_deref(), Ok(&*one));
        assert!(certificates(&format!("{one}# and another\n{one}")).is_ok());
        for wrong in [
            String::new(),
            "-----BEGIN CERTIFICATE-----".into(),
            "-----BEGIN CERTIFICATE-----\nhunter2".into(),
            pem("CERTIFICATE", "AAAA"),
            pem("CERTIFICATE", "!"),
            format!("{one}{}", pem("PRIVATE KEY", "MAgwADAAAwIA/w==")),
            pem("PUBLIC KEY", "MAgwADAAAwIA/w=="),
        ] {
            assert!(matches!(certificates(&wrong), Err(InvalidInput::Certificates(_))), "{wrong}");
        }
    }
}
