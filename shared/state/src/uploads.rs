//! Uploads that are under way: how far they have come, and which process is at work on them.
//!
//! A checkpoint lets any worker go on where another had to stop: partition `uploads/<origin>/<repository>`, sort key the digest. A lease
//! keeps two workers from sending the same bytes to the same registry: partition `leases/<origin>/<what>`, sort key `lease`.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use transship_model::{Digest, Repository};

use crate::{Condition, Item, Key, Op, StateError, Table, TableError, document};

/// For so long a checkpoint is good for anything: registries purge unfinished uploads after about a week.
const CHECKPOINT: Duration = Duration::from_secs(7 * 24 * 3600);
/// For so long a lease is held unless it is renewed.
const LEASE: Duration = Duration::from_secs(60);
/// For so long it is known where something has been brought to, so that others mount it from there.
const BROUGHT: Duration = Duration::from_secs(600);

/// Reads and writes checkpoints and leases.
#[derive(Clone)]
pub struct Uploads {
    table: Arc<dyn Table>,
    holder: String,
}

/// What comes of asking for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// It is ours for a minute, or is again.
    Taken,
    /// Another process has it.
    Busy,
    /// Another process has had it, and has brought the thing to this repository.
    Brought(Repository),
}

#[derive(Serialize, Deserialize)]
struct Lease {
    holder: String,
    repository: Repository,
    brought: bool,
}

impl Uploads {
    /// The uploads in a table, seen by one process. `holder` is what tells it from the others; a process that takes the place of one
    /// that has died, and knows that it has, bears its name and finds its leases its own.
    pub fn new(table: Arc<dyn Table>, holder: impl Into<String>) -> Self {
        Self { table, holder: holder.into() }
    }

    /// The newest checkpoint of a blob on its way to a repository.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn checkpoint<T: DeserializeOwned>(
        &self,
        origin: &str,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<T>, StateError> {
        self.table.get(&checkpoint_key(origin, repository, digest)).await?.map(document::value).transpose()
    }

    /// Keeps a checkpoint in place of the one before.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn keep<T: Serialize + Sync>(
        &self,
        origin: &str,
        repository: &Repository,
        digest: &Digest,
        checkpoint: &T,
    ) -> Result<(), StateError> {
        let key = checkpoint_key(origin, repository, digest);
        let item = Item { key, attributes: document::attributes(checkpoint)?, expires: after(CHECKPOINT) };
        Ok(self.table.write(vec![Op::Put { item, condition: None }]).await?)
    }

    /// Forgets a checkpoint.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn forget(&self, origin: &str, repository: &Repository, digest: &Digest) -> Result<(), StateError> {
        let key = checkpoint_key(origin, repository, digest);
        Ok(self.table.write(vec![Op::Delete { key, condition: None }]).await?)
    }

    /// Asks for the lease of something at a registry that is to go to a repository, or renews it.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn take(&self, origin: &str, repository: &Repository, what: &str) -> Result<LeaseAnswer, StateError> {
        // The second time round, because a lease may end between the refusal and the look at it.
        for _ in 0..2 {
            if self.put(origin, repository, what, false, Condition::Absent).await? {
                return Ok(LeaseAnswer::Taken);
            }
            let Some(item) = self.table.get(&lease_key(origin, what)).await? else { continue };
            return Ok(match document::value(item)? {
                Lease { brought: true, repository, .. } => LeaseAnswer::Brought(repository),
                Lease { holder, .. } if holder == self.holder => match self.renew(origin, repository, what).await? {
                    true => LeaseAnswer::Taken,
                    false => LeaseAnswer::Busy,
                },
                _ => LeaseAnswer::Busy,
            });
        }
        Ok(LeaseAnswer::Busy)
    }

    /// Gives a lease back, if it is still ours.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn give_back(&self, origin: &str, repository: &Repository, what: &str, brought: bool) -> Result<(), StateError> {
        if brought {
            self.put(origin, repository, what, true, self.is_ours()).await?;
            return Ok(());
        }
        match self.table.write(vec![Op::Delete { key: lease_key(origin, what), condition: Some(self.is_ours()) }]).await {
            Ok(()) | Err(TableError::Condition(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn renew(&self, origin: &str, repository: &Repository, what: &str) -> Result<bool, StateError> {
        self.put(origin, repository, what, false, self.is_ours()).await
    }

    fn is_ours(&self) -> Condition {
        Condition::Equals("holder".into(), Value::from(self.holder.clone()))
    }

    /// Writes a lease; false if the condition forbids it.
    async fn put(
        &self,
        origin: &str,
        repository: &Repository,
        what: &str,
        brought: bool,
        condition: Condition,
    ) -> Result<bool, StateError> {
        let lease = Lease { holder: self.holder.clone(), repository: repository.clone(), brought };
        let expires = after(if brought { BROUGHT } else { LEASE });
        let item = Item { key: lease_key(origin, what), attributes: document::attributes(&lease)?, expires };
        match self.table.write(vec![Op::Put { item, condition: Some(condition) }]).await {
            Ok(()) => Ok(true),
            Err(TableError::Condition(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn after(time: Duration) -> Option<Timestamp> {
    Timestamp::now().checked_add(time).ok()
}

fn checkpoint_key(origin: &str, repository: &Repository, digest: &Digest) -> Key {
    Key::new(format!("uploads/{origin}/{repository}"), digest.to_string())
}

fn lease_key(origin: &str, what: &str) -> Key {
    Key::new(format!("leases/{origin}/{what}"), "lease")
}
