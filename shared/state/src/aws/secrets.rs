//! The port [`Secrets`] in Secrets Manager and in the Parameter Store.

use std::{
    collections::HashMap,
    error::Error as StdError,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex as AsyncMutex;
use transship_model::{SecretName, SecretRef};

use super::problem::Problem;
use crate::{SecretError, SecretStore, Secrets, StoreError};

/// For so long a secret is taken from memory: a replaced one is in use everywhere when this is over.
const KEEP: Duration = Duration::from_secs(300);
/// What can't be read, or is refused, is not asked for again so soon: strangers can bring that about, and are not to cost calls.
const YOUNG: Duration = Duration::from_secs(10);
/// So many secrets are kept; two for each instance that there may be.
const CAPACITY: usize = 2000;

/// Secrets in Secrets Manager and in the Parameter Store, below one prefix.
///
/// With the prefix `transship/`, `secretsmanager:ci/password` is the secret `transship/ci/password`, and `ssm:ci/password` the
/// parameter `/transship/ci/password`. Needs leave for `secretsmanager:GetSecretValue` and `ssm:GetParameter` on these, and for
/// `kms:Decrypt` where they have a key of their own.
pub struct AwsSecrets {
    secretsmanager: aws_sdk_secretsmanager::Client,
    ssm: aws_sdk_ssm::Client,
    prefix: String,
    entries: Mutex<HashMap<SecretRef, Arc<Entry>>>,
}

/// What is known of one secret. Who asks for it while it is being read waits for the answer.
#[derive(Default)]
struct Entry {
    answer: AsyncMutex<Option<(Result<SecretString, String>, Instant)>>,
}

impl AwsSecrets {
    /// The prefix of a deployment that has not chosen another.
    pub const PREFIX: &str = "transship/";

    /// Secrets below a prefix like `transship/`, in the clients' region and account.
    pub fn new(secretsmanager: aws_sdk_secretsmanager::Client, ssm: aws_sdk_ssm::Client, prefix: impl Into<String>) -> Self {
        Self { secretsmanager, ssm, prefix: prefix.into(), entries: Mutex::default() }
    }

    fn entry(&self, reference: &SecretRef) -> Arc<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= CAPACITY && !entries.contains_key(reference) {
            // Of instances that are gone, mostly. Those that are not are read again.
            entries.clear();
        }
        entries.entry(reference.clone()).or_default().clone()
    }

    async fn fetch(&self, reference: &SecretRef) -> Result<SecretString, String> {
        let text = match reference {
            SecretRef::Env(_) | SecretRef::File(_) => {
                let why = "functions have no environment or files of yours: keep it in AWS, and name it as secretsmanager:NAME or ssm:NAME";
                return Err(why.to_owned());
            }
            SecretRef::SecretsManager(name) | SecretRef::Stored(name) => {
                let id = format!("{}{name}", self.prefix);
                let answer = self.secretsmanager.get_secret_value().secret_id(&id).send().await;
                let answer = answer.map_err(|error| {
                    let mend = format!("aws secretsmanager create-secret --name {id} --secret-string file://FILE");
                    self.problem("Secrets Manager", "GetSecretValue", &error, &format!("the secret {id}"), &mend)
                })?;
                answer.secret_string.ok_or_else(|| format!("the secret {id} is binary, and a text is needed"))?
            }
            SecretRef::Parameter(name) => {
                let id = format!("/{}{name}", self.prefix);
                let answer = self.ssm.get_parameter().name(&id).with_decryption(true).send().await;
                let answer = answer.map_err(|error| {
                    let mend = format!("aws ssm put-parameter --type SecureString --name {id} --value file://FILE");
                    self.problem("Systems Manager", "GetParameter", &error, &format!("the parameter {id}"), &mend)
                })?;
                answer.parameter.and_then(|parameter| parameter.value).unwrap_or_default()
            }
        };
        // As with a file: `--secret-string file://FILE` takes the line break at its end along.
        let secret = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).unwrap_or(&text);
        if secret.is_empty() {
            return Err("it is empty".to_owned());
        }
        Ok(SecretString::from(secret))
    }

    /// What keeps a secret from being read, and how to mend it.
    fn problem<E: ProvideErrorMetadata + StdError + 'static>(
        &self,
        service: &str,
        action: &str,
        error: &SdkError<E>,
        what: &str,
        mend: &str,
    ) -> String {
        let problem = Problem::new(service, action, error);
        let region = self.secretsmanager.config().region().map(ToString::to_string).unwrap_or_default();
        if problem.is("ResourceNotFoundException") || problem.is("ParameterNotFound") {
            return format!("there is no {} in {region}: make it with `{mend}`", what.trim_start_matches("the "));
        }
        if problem.is_denied() {
            return format!("this AWS identity may not read {what} in {region}, or not decrypt it: {}", problem.text);
        }
        format!("{what} in {region}: {}", problem.text)
    }
}

#[async_trait]
impl Secrets for AwsSecrets {
    async fn read(&self, reference: &SecretRef) -> Result<SecretString, SecretError> {
        let entry = self.entry(reference);
        let mut known = entry.answer.lock().await;
        let result = match &*known {
            Some((result, at)) if at.elapsed() < if result.is_ok() { KEEP } else { YOUNG } => result.clone(),
            _ => {
                let result = self.fetch(reference).await;
                *known = Some((result.clone(), Instant::now()));
                result
            }
        };
        result.map_err(|why| SecretError { reference: reference.clone(), why })
    }

    fn forget(&self, reference: &SecretRef) {
        let entry = self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(reference).cloned();
        // What is being read at the moment is young.
        if let Some(entry) = entry
            && let Ok(mut known) = entry.answer.try_lock()
            && known.as_ref().is_some_and(|(_, at)| at.elapsed() >= YOUNG)
        {
            *known = None;
        }
    }
}

/// In Secrets Manager. Needs leave for `secretsmanager:CreateSecret` and `secretsmanager:DeleteSecret`, and for nothing that reads.
#[async_trait]
impl SecretStore for AwsSecrets {
    async fn create(&self, name: &SecretName, value: &SecretString) -> Result<(), StoreError> {
        let id = format!("{}{name}", self.prefix);
        let request = self.secretsmanager.create_secret().name(&id).description("Given to transship's API");
        match request.secret_string(value.expose_secret()).send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let why = Problem::new("Secrets Manager", "CreateSecret", &error).text;
                Err(StoreError { name: name.clone(), why })
            }
        }
    }

    async fn delete(&self, name: &SecretName) -> Result<(), StoreError> {
        let id = format!("{}{name}", self.prefix);
        // Its name is never used again, and nobody wants it back.
        let request = self.secretsmanager.delete_secret().secret_id(id).force_delete_without_recovery(true);
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let problem = Problem::new("Secrets Manager", "DeleteSecret", &error);
                if problem.is("ResourceNotFoundException") {
                    return Ok(());
                }
                Err(StoreError { name: name.clone(), why: problem.text })
            }
        }
    }
}

impl fmt::Debug for AwsSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsSecrets").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_secretsmanager::config::{BehaviorVersion, Region};

    use super::*;

    /// Would break: after a password was replaced every job of five minutes fails.
    #[tokio::test]
    async fn what_is_not_young_is_forgotten_when_it_is_refused() {
        let (region, version) = (Region::from_static("eu-central-1"), BehaviorVersion::latest());
        let config = aws_sdk_secretsmanager::Config::builder().behavior_version(version).region(region.clone()).build();
        let ssm = aws_sdk_ssm::Config::builder().behavior_version(version).region(region).build();
        let (manager, ssm) = (aws_sdk_secretsmanager::Client::from_conf(config), aws_sdk_ssm::Client::from_conf(ssm));
        let secrets = AwsSecrets::new(manager, ssm, AwsSecrets::PREFIX);
        let reference: SecretRef = "ssm:a".parse().unwrap();
        for (age, is_forgotten) in [(YOUNG / 2, false), (YOUNG * 2, true)] {
            let at = Instant::now().checked_sub(age).unwrap();
            *secrets.entry(&reference).answer.lock().await = Some((Ok("old".into()), at));
            secrets.forget(&reference);
            assert_eq!(secrets.entry(&reference).answer.lock().await.is_none(), is_forgotten, "{age:?}");
        }
    }
}
