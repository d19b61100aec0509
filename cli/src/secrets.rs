//! Where the process's secrets are: its environment, files, its own folder for what the API was given, and AWS if an instance names a
//! secret there.

use async_trait::async_trait;
use aws_config::BehaviorVersion;
use secrecy::SecretString;
use tokio::sync::OnceCell;
use transship_model::SecretRef;
use transship_state::{FolderSecrets, LocalSecrets, SecretError, Secrets, aws::AwsSecrets};

/// The secrets of a process. AWS is asked only if a secret is there, with the identity that the environment gives.
#[derive(Debug)]
pub(crate) struct ProcessSecrets {
    aws: OnceCell<AwsSecrets>,
    stored: FolderSecrets,
}

impl ProcessSecrets {
    /// The secrets of a process that keeps what its API is given in `stored`.
    pub(crate) fn new(stored: FolderSecrets) -> Self {
        Self { aws: OnceCell::new(), stored }
    }

    async fn aws(&self) -> &AwsSecrets {
        let connect = async || {
            let sdk = aws_config::load_defaults(BehaviorVersion::latest()).await;
            let prefix = std::env::var("TRANSSHIP_SECRET_PREFIX").unwrap_or_else(|_| AwsSecrets::PREFIX.to_owned());
            AwsSecrets::new(aws_sdk_secretsmanager::Client::new(&sdk), aws_sdk_ssm::Client::new(&sdk), prefix)
        };
        self.aws.get_or_init(connect).await
    }
}

#[async_trait]
impl Secrets for ProcessSecrets {
    async fn read(&self, reference: &SecretRef) -> Result<SecretString, SecretError> {
        match reference {
            SecretRef::Env(_) | SecretRef::File(_) => LocalSecrets.read(reference).await,
            SecretRef::SecretsManager(_) | SecretRef::Parameter(_) => self.aws().await.read(reference).await,
            SecretRef::Stored(_) => self.stored.read(reference).await,
        }
    }

    fn forget(&self, reference: &SecretRef) {
        if let Some(aws) = self.aws.get() {
            aws.forget(reference);
        }
    }
}
