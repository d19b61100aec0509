//! Secrets that were given to the API, and whose they are.
//!
//! Partition `secrets/of/<owner>`, an item for each secret that was put into the store: it is written before the secret is, so that
//! a crash between the two leaves nothing that nobody knows of. An owner is an instance, or `subscriptions/<name>`. Partition `secrets/bound`: to what use a reference was named first.

use std::{fmt::Display, sync::Arc};

use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Map, Value};
use transship_model::{SecretName, SecretRef};

use crate::{Condition, Item, Key, Op, Query, SecretStore, StateError, StoreError, Table, document};

/// What is not in use so long after it was put there never will be: a request that was to name it has ended long ago.
const STRAY: i64 = 3600;

/// The secrets that were given to the API.
#[derive(Clone)]
pub struct WrittenSecrets {
    table: Arc<dyn Table>,
    store: Arc<dyn SecretStore>,
}

/// Why a secret was not put there.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The table.
    #[error(transparent)]
    State(#[from] StateError),
    /// Where secrets are kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A reference that has been named for another use before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} has been named for another registry, with other settings of its connection, or for another purpose")]
pub struct Bound(pub SecretRef);

impl WrittenSecrets {
    /// The secrets of a store, with their list in a table.
    pub fn new(table: Arc<dyn Table>, store: Arc<dyn SecretStore>) -> Self {
        Self { table, store }
    }

    /// A name for an owner's next secret, which no other secret has or had.
    pub fn name(owner: &(impl Display + ?Sized), purpose: &str) -> Option<SecretName> {
        format!("{}{owner}/{purpose}-{:016x}", SecretName::WRITTEN, fastrand::u64(..)).parse().ok()
    }

    /// Puts a secret there. Whoever does so names it in the owner then, or discards it.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn write(
        &self,
        owner: &(impl Display + Sync + ?Sized),
        name: &SecretName,
        value: &SecretString,
    ) -> Result<(), WriteError> {
        let attributes = Map::from_iter([("written".to_owned(), Value::from(Timestamp::now().as_second()))]);
        let item = Item { key: record(owner, name), attributes, expires: None };
        self.table.write(vec![Op::Put { item, condition: None }]).await.map_err(StateError::from)?;
        Ok(self.store.create(name, value).await?)
    }

    /// Takes away what an owner does not use any more, and what a crash has left. What can't be taken away now is at the next time.
    pub async fn tidy(&self, owner: &(impl Display + Sync + ?Sized), gone: &[SecretName], in_use: &[SecretName]) {
        if let Err(error) = self.try_tidy(owner, gone, in_use).await {
            tracing::warn!(%owner, %error, "a secret that nobody uses any more is still there");
        }
    }

    async fn try_tidy(
        &self,
        owner: &(impl Display + Sync + ?Sized),
        gone: &[SecretName],
        in_use: &[SecretName],
    ) -> Result<(), WriteError> {
        let query = Query { partition: partition(owner), prefix: String::new(), after: None, descending: false, limit: 100 };
        let page = self.table.query(query).await.map_err(StateError::from)?;
        let now = Timestamp::now().as_second();
        for item in page.items {
            let Ok(name) = item.key.sort.parse::<SecretName>() else { continue };
            let is_stray = now - document::number(&item, "written") > STRAY;
            if !in_use.contains(&name) && (is_stray || gone.contains(&name)) {
                self.store.delete(&name).await?;
                self.table.write(vec![Op::Delete { key: item.key, condition: None }]).await.map_err(StateError::from)?;
            }
        }
        Ok(())
    }

    /// What is to be written with a change that names a secret by reference for some use: a reference is for one use for ever, so that
    /// it can't be sent to another place by naming it there.
    ///
    /// # Errors
    /// The inner one: it has been named for another use.
    pub async fn bind(&self, reference: &SecretRef, to: &Value) -> Result<Result<Op, Bound>, StateError> {
        let key = Key::new("secrets/bound", reference.to_string());
        let Some(known) = self.table.get(&key).await? else {
            let item = Item { key, attributes: Map::from_iter([("to".to_owned(), to.clone())]), expires: None };
            return Ok(Ok(Op::Put { item, condition: Some(Condition::Absent) }));
        };
        if known.attributes.get("to") == Some(to) {
            return Ok(Ok(Op::Check { key, condition: Condition::Present }));
        }
        Ok(Err(Bound(reference.clone())))
    }
}

fn partition(owner: &(impl Display + Sync + ?Sized)) -> String {
    format!("secrets/of/{owner}")
}

fn record(owner: &(impl Display + Sync + ?Sized), name: &SecretName) -> Key {
    Key::new(partition(owner), name.as_str())
}
