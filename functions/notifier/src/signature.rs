//! Signatures as Standard Webhooks 1.0 has them: HMAC-SHA256 over the message's ID, its time and its body.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

use crate::Trouble;

/// What a secret begins with that is written in base64.
const BASE64: &str = "whsec_";

/// The value of `webhook-signature`.
pub(crate) fn sign(secret: &SecretString, id: &str, timestamp: i64, body: &str) -> Result<String, Trouble> {
    let secret = secret.expose_secret();
    let key = match secret.strip_prefix(BASE64) {
        Some(text) => STANDARD.decode(text).map_err(|_| Trouble::Secret)?,
        None => secret.as_bytes().to_vec(),
    };
    // Any length will do.
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|_| Trouble::Secret)?;
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    #[test]
    fn a_message_is_signed_as_others_sign_it() {
        let secret = SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signature = sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#).unwrap();
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        // The same key, as it is.
        assert!(sign(&SecretString::from("any text"), "a", 1, "b").unwrap().starts_with("v1,"));
        assert!(sign(&SecretString::from("whsec_not base64"), "a", 1, "b").is_err());
    }
}
