//! The port `Secrets`: what a [`SecretRef`] stands for, read when it is needed.

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use transship_model::SecretRef;

/// A secret that can't be had. The message names the reference, never the secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the secret {reference} can't be read: {why}")]
pub struct SecretError {
    /// Where it was looked for.
    pub reference: SecretRef,
    /// What is wrong, and how to mend it.
    pub why: String,
}

/// Reads secrets.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The secret that is there now, or was a few minutes ago.
    async fn read(&self, reference: &SecretRef) -> Result<SecretString, SecretError>;

    /// What was read is not (any more) what it is for: it may have been replaced, and the next read is not to be answered from
    /// memory.
    fn forget(&self, _reference: &SecretRef) {}
}

/// Secrets in the environment and in files: those of the machine that a process runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalSecrets;

#[async_trait]
impl Secrets for LocalSecrets {
    async fn read(&self, reference: &SecretRef) -> Result<SecretString, SecretError> {
        let error = |why: String| SecretError { reference: reference.clone(), why };
        let text = match reference {
            SecretRef::Env(name) => {
                std::env::var(name).map_err(|_| error("set the environment variable for the process".into()))?
            }
            SecretRef::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
                let text = read.map_err(|e| error(e.to_string()))?.map_err(|e| error(e.to_string()))?;
                text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).unwrap_or(&text).to_owned()
            }
            SecretRef::SecretsManager(_) | SecretRef::Parameter(_) => {
                return Err(error("it is with AWS, which this process does not ask: name it as env:NAME or file:PATH".into()));
            }
        };
        if text.is_empty() {
            return Err(error("it is empty".into()));
        }
        Ok(SecretString::from(text))
    }
}

/// Whether what a caller gave is a secret. It takes a time that depends on neither: their hashes have one length.
pub fn is_same(given: &str, secret: &SecretString) -> bool {
    Sha256::digest(given).ct_eq(&Sha256::digest(secret.expose_secret())).into()
}

/// The token in the value of an `Authorization` header of the scheme `Bearer` (RFC 6750, section 2.1).
pub fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
}
