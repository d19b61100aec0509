//! Signatures of a notification's body with the instance's webhook secret: HMAC-SHA256 (RFC 2104) over the bytes as they were
//! sent, which are those behind the base64 that function URLs and API Gateway wrap some bodies in.
//!
//! | sender | header | value |
//! |---|---|---|
//! | GitHub, Gitea and Forgejo | `X-Hub-Signature-256` | `sha256=` and hexadecimal digits |
//! | Gitea and Forgejo | `X-Gitea-Signature` | hexadecimal digits |
//! | JFrog | `X-JFrog-Event-Auth` | hexadecimal digits where the secret signs the payload, else the secret itself |
//!
//! `X-Hub-Signature`, which is of SHA-1, is not looked at: its senders send the other one as well.

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use transship_state::secrets::is_same;

/// What a header says that it is.
#[derive(Debug)]
pub(super) enum Signature<'a> {
    /// Hexadecimal digits; nothing where there are none.
    Digits(&'a str),
    /// The same, or the secret.
    DigitsOrSecret(&'a str),
}

impl<'a> Signature<'a> {
    /// The signatures that a request carries. Gitea sends the headers without a value where its webhook has no secret; that is no
    /// signature. A value that can't be read is one, and it is wrong.
    pub(super) fn all(headers: &'a HeaderMap) -> Vec<Self> {
        let values = |name: &str| headers.get_all(name).into_iter().map(|value| value.to_str().unwrap_or("unreadable"));
        let hub = values("x-hub-signature-256")
            .filter(|value| !matches!(*value, "" | "sha256="))
            .map(|value| Self::Digits(value.strip_prefix("sha256=").unwrap_or_default()));
        let gitea = values("x-gitea-signature").filter(|value| !value.is_empty()).map(Self::Digits);
        let jfrog = values("x-jfrog-event-auth").filter(|value| !value.is_empty()).map(Self::DigitsOrSecret);
        hub.chain(gitea).chain(jfrog).collect()
    }

    /// Whether it is the signature of these bytes with this secret.
    pub(super) fn is_of(&self, body: &[u8], secret: &SecretString) -> bool {
        let is_signed = |digits: &str| {
            let Ok(mac) = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()) else { return false };
            mac.chain_update(body).verify_slice(&bytes(digits).unwrap_or_default()).is_ok()
        };
        match self {
            Self::Digits(digits) => is_signed(digits),
            Self::DigitsOrSecret(value) => is_signed(value) | is_same(value, secret),
        }
    }
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let pair = |pair: &[u8]| Some(value(pair[0])? << 4 | value(pair[1])?);
    (digits.len() == 64).then(|| digits.chunks_exact(2).map(pair).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a webhook's secret";
    const BODY: &[u8] = b"{\"zen\": \"\xc3\xa9\"}\n";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
    }

    fn verdicts(pairs: &[(&'static str, &str)], body: &[u8]) -> Vec<bool> {
        let headers = headers(pairs);
        Signature::all(&headers).iter().map(|signature| signature.is_of(body, &SecretString::from(SECRET))).collect()
    }

    /// Made by `openssl dgst -sha256 -hmac "a webhook's secret"`.
    const OF_BODY: &str = "b6e6ffe0f343932cb75e3209eab6273a13bb94f8c5eda416287da13ef53bb05c";

    #[test]
    fn each_header_is_checked_over_the_bytes() {
        let hub = format!("sha256={OF_BODY}");
        let all = [("x-hub-signature-256", &*hub), ("x-gitea-signature", OF_BODY), ("x-jfrog-event-auth", OF_BODY)];
        assert_eq!(verdicts(&all, BODY), [true; 3]);
        assert_eq!(verdicts(&all, &BODY[..BODY.len() - 1]), [false; 3]);
        assert_eq!(verdicts(&[("x-jfrog-event-auth", SECRET), ("x-gitea-signature", SECRET)], BODY), [false, true]);
    }

    #[test]
    fn a_header_without_a_value_is_no_signature_and_a_strange_one_is_wrong() {
        let empty = [("x-gitea-signature", ""), ("x-hub-signature-256", "sha256="), ("x-jfrog-event-auth", "")];
        assert!(verdicts(&empty, BODY).is_empty());
        for strange in ["sha1=00", OF_BODY, "sha256=é", &format!("sha256={OF_BODY}00"), &format!("sha256={}", &OF_BODY[2..])] {
            assert_eq!(verdicts(&[("x-hub-signature-256", strange)], BODY), [false], "{strange}");
        }
    }
}
