//! Requests to Tencent Cloud's APIs, signed with TC3-HMAC-SHA256: <https://cloud.tencent.com/document/api/213/30654>.

use std::fmt::{self, Write as _};

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};

/// What is sent, and signed as it is.
pub(crate) const CONTENT_TYPE: &str = "application/json; charset=utf-8";

/// A registry of Tencent Container Registry, as Tencent's API knows it, and a key for that API.
#[derive(Clone)]
pub struct Tcr {
    /// The registry's ID: `tcr-…`.
    pub registry_id: String,
    /// The region that it is in.
    pub region: String,
    /// The name of the API key.
    pub secret_id: String,
    /// The API key.
    pub secret_key: SecretString,
}

impl fmt::Debug for Tcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tcr").field("registry_id", &self.registry_id).field("region", &self.region).finish_non_exhaustive()
    }
}

/// A request that is to be signed.
pub(crate) struct Request<'a> {
    /// `tcr`, the first label of the API's host.
    pub(crate) service: &'a str,
    /// As the `Host` header has it.
    pub(crate) host: &'a str,
    pub(crate) action: &'a str,
    pub(crate) body: &'a [u8],
    /// Seconds since 1970, and the day in UTC that they are in: `2019-02-25`.
    pub(crate) time: (i64, &'a str),
}

impl Request<'_> {
    /// The `Authorization` header.
    pub(crate) fn authorization(&self, secret_id: &str, secret_key: &SecretString) -> String {
        let Self { service, time: (seconds, day), .. } = self;
        let scope = format!("{day}/{service}/tc3_request");
        let text = format!("TC3-HMAC-SHA256\n{seconds}\n{scope}\n{}", hex(&Sha256::digest(self.canonical())));
        let key = mac(format!("TC3{}", secret_key.expose_secret()).as_bytes(), day);
        let key = mac(&mac(&key, service), "tc3_request");
        let signature = hex(&mac(&key, &text));
        format!(
            "TC3-HMAC-SHA256 Credential={secret_id}/{scope}, SignedHeaders=content-type;host;x-tc-action, Signature={signature}"
        )
    }

    fn canonical(&self) -> String {
        let Self { host, action, body, .. } = self;
        let action = action.to_ascii_lowercase();
        let body = hex(&Sha256::digest(body));
        format!(
            "POST\n/\n\ncontent-type:{CONTENT_TYPE}\nhost:{host}\nx-tc-action:{action}\n\ncontent-type;host;x-tc-action\n{body}"
        )
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    // HMAC takes keys of any length.
    let mac = Hmac::<Sha256>::new_from_slice(key).map(|mac| mac.chain_update(text).finalize().into_bytes().to_vec());
    mac.unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to text does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in Tencent's documentation, which shows its key as 32 asterisks and has reckoned with just those. Would break: a
    /// signature that Tencent does not take.
    #[test]
    fn a_request_is_signed_as_tencent_s_example_is() {
        let body = br#"{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}"#;
        let request = Request {
            service: "cvm",
            host: "cvm.tencentcloudapi.com",
            action: "DescribeInstances",
            body,
            time: (1_551_113_065, "2019-02-25"),
        };
        let canonical = hex(&Sha256::digest(request.canonical()));
        assert_eq!(canonical, "7019a55be8395899b900fb5564e4200d984910f34794a27cb3fb7d10ff6a1e84");
        let stars = "*".repeat(32);
        assert_eq!(
            request.authorization(&format!("AKID{stars}"), &stars.clone().into()),
            format!(
                "TC3-HMAC-SHA256 Credential=AKID{stars}/2019-02-25/cvm/tc3_request, SignedHeaders=content-type;host;x-tc-action, \
                 Signature=10b1a37a7301a02ca19a647ad722d5e43b4b3cff309d421d85b46093f6ab6c4f"
            )
        );
    }
}
