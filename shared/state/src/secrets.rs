//! The port `Secrets`: what a [`SecretRef`] stands for, read when it is needed; and the port `SecretStore`: where secrets are put that
//! are given to the API.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use transship_model::{SecretName, SecretRef};

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

/// A secret that can't be put where it is to be kept, or not taken away from there.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the secret {name} can't be kept: {why}")]
pub struct StoreError {
    /// Its name.
    pub name: SecretName,
    /// What is wrong, and how to mend it.
    pub why: String,
}

/// Keeps secrets under names, each of which is used once: [`SecretRef::Stored`] stands for what is kept. Who can put a secret there
/// need not be able to read one.
#[async_trait]
pub trait SecretStore: Send + Sync {
    /// Puts a secret there. It returns when it is durable.
    async fn create(&self, name: &SecretName, value: &SecretString) -> Result<(), StoreError>;

    /// Takes a secret away, if it is there.
    async fn delete(&self, name: &SecretName) -> Result<(), StoreError>;
}

/// Secrets in files of a folder that nobody else can look into.
#[derive(Debug, Clone)]
pub struct FolderSecrets {
    folder: PathBuf,
}

impl FolderSecrets {
    /// The secrets of a folder, which is made when the first is put there.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

#[async_trait]
impl Secrets for FolderSecrets {
    async fn read(&self, reference: &SecretRef) -> Result<SecretString, SecretError> {
        let error = |why: String| SecretError { reference: reference.clone(), why };
        let SecretRef::Stored(name) = reference else { return Err(error("the folder has what was given to the API".into())) };
        let path = self.folder.join(name.as_str());
        let text = blocking(name, move || fs::read_to_string(path)).await.map_err(|unread| error(unread.why))?;
        Ok(SecretString::from(text))
    }
}

async fn blocking<T: Send + 'static>(
    name: &SecretName,
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let result = tokio::task::spawn_blocking(act).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    result.map_err(|error| StoreError { name: name.clone(), why: error.to_string() })
}

#[async_trait]
impl SecretStore for FolderSecrets {
    async fn create(&self, name: &SecretName, value: &SecretString) -> Result<(), StoreError> {
        let (path, value) = (self.folder.join(name.as_str()), value.clone());
        let write = move || {
            let parent = path.parent().unwrap_or(Path::new("."));
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(value.expose_secret().as_bytes())?;
            file.sync_all()?;
            // The file's name is in the folder.
            fs::File::open(parent)?.sync_all()
        };
        blocking(name, write).await
    }

    async fn delete(&self, name: &SecretName) -> Result<(), StoreError> {
        let path = self.folder.join(name.as_str());
        let remove = move || match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        blocking(name, remove).await
    }
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
            SecretRef::Stored(_) => return Err(error("this process keeps no secrets".into())),
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
