//! Secrets that were given to the API, and whose they are.
//!
//! Partition `secrets/of/<owner>`, an item for each secret that was put into the store: it is written before the secret is, so that
//! a crash between the two leaves nothing that nobody knows of. An owner is an instance, or `subscriptions/<name>`. Partition
//! `secrets/untidy`: an item for each change after which something is to be taken away, as long as it has not been, so that what a crash
//! left is found with one query. Partition `secrets/bound`: to what use a reference was named first.

use std::{collections::BTreeSet, fmt::Display, sync::Arc};

use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Map, Value};
use transship_model::{SecretName, SecretRef, SubscriptionName};

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

    /// How the owners begin that are subscriptions.
    pub const SUBSCRIPTIONS: &str = "subscriptions/";

    /// Whose the secrets are that were given with a subscription.
    pub fn owner_of(subscription: &SubscriptionName) -> String {
        format!("{}{subscription}", Self::SUBSCRIPTIONS)
    }

    /// A name for an owner's next secret, which no other secret has or had. No instance or subscription has a name that begins like the
    /// part of the purpose, so that a policy can tell passwords from what has been called so.
    pub fn name(owner: &(impl Display + ?Sized), purpose: &str) -> Option<SecretName> {
        format!("{}{owner}/_{purpose}-{:016x}", SecretName::WRITTEN, fastrand::u64(..)).parse().ok()
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
        let record = Op::Put { item, condition: None };
        self.table.write(vec![record, untidy(owner, name.as_str())]).await.map_err(StateError::from)?;
        Ok(self.store.create(name, value).await?)
    }

    /// What is to be written with the change by which an owner goes: its secrets are to go, too.
    pub fn leaving(owner: &(impl Display + ?Sized)) -> Op {
        untidy(owner, &owner.to_string())
    }

    /// Has an owner looked at by the next sweep: its secrets may have been replaced by somebody who can't take them away.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn suspect(&self, owner: &(impl Display + Sync + ?Sized)) -> Result<(), StateError> {
        Ok(self.table.write(vec![Self::leaving(owner)]).await?)
    }

    /// Takes away what changes have left that a crash has cut short, an hour after they began. `in_use` says what an owner uses now, and
    /// is asked after what was left has been listed.
    ///
    /// # Errors
    /// See [`StateError`]. What can't be taken away now is at the next time.
    pub async fn sweep<F: Future<Output = Result<Vec<SecretName>, StateError>> + Send>(
        &self,
        now: Timestamp,
        in_use: impl Fn(String) -> F + Send + Sync,
    ) -> Result<(), StateError> {
        let query = Query { partition: UNTIDY.into(), prefix: String::new(), after: None, descending: false, limit: 100 };
        for item in self.table.query(query).await?.items {
            let owner = item.attributes.get("owner").and_then(Value::as_str).unwrap_or_default().to_owned();
            if now.as_second() - document::number(&item, "written") <= STRAY {
                continue;
            }
            let in_use = in_use(owner.clone()).await?;
            match self.try_tidy(&owner, &[], &in_use, now).await {
                Ok(()) => self.table.write(vec![Op::Delete { key: item.key, condition: None }]).await?,
                Err(error) => tracing::warn!(%owner, %error, "a secret that nobody uses any more is still there"),
            }
        }
        Ok(())
    }

    /// Takes away what an owner does not use any more, and what a crash has left. What can't be taken away now is at the next time.
    pub async fn tidy(&self, owner: &(impl Display + Sync + ?Sized), gone: &[SecretName], in_use: &[SecretName]) {
        let done = async {
            self.try_tidy(owner, gone, in_use, Timestamp::now()).await?;
            let changes = gone.iter().chain(in_use).map(ToString::to_string).chain([owner.to_string()]);
            // A write names each key once.
            let changes: BTreeSet<String> = changes.collect();
            let ops = changes.iter().map(|change| Op::Delete { key: Key::new(UNTIDY, change), condition: None });
            Ok::<_, WriteError>(self.table.write(ops.collect()).await.map_err(StateError::from)?)
        };
        if let Err(error) = done.await {
            tracing::warn!(%owner, %error, "a secret that nobody uses any more is still there");
        }
    }

    async fn try_tidy(
        &self,
        owner: &(impl Display + Sync + ?Sized),
        gone: &[SecretName],
        in_use: &[SecretName],
        now: Timestamp,
    ) -> Result<(), WriteError> {
        let mut after = None;
        loop {
            let (partition, prefix) = (partition(owner), String::new());
            let query = Query { partition, prefix, after, descending: false, limit: 100 };
            let page = self.table.query(query).await.map_err(StateError::from)?;
            for item in page.items {
                let Ok(name) = item.key.sort.parse::<SecretName>() else { continue };
                let is_stray = now.as_second() - document::number(&item, "written") > STRAY;
                if !in_use.contains(&name) && (is_stray || gone.contains(&name)) {
                    self.store.delete(&name).await?;
                    self.table.write(vec![Op::Delete { key: item.key, condition: None }]).await.map_err(StateError::from)?;
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
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

const UNTIDY: &str = "secrets/untidy";

/// Notes that after a change of an owner something may be left.
fn untidy(owner: &(impl Display + ?Sized), change: &str) -> Op {
    let written = Value::from(Timestamp::now().as_second());
    let attributes = Map::from_iter([("owner".to_owned(), Value::from(owner.to_string())), ("written".to_owned(), written)]);
    Op::Put { item: Item { key: Key::new(UNTIDY, change), attributes, expires: None }, condition: None }
}

fn partition(owner: &(impl Display + Sync + ?Sized)) -> String {
    format!("secrets/of/{owner}")
}

fn record(owner: &(impl Display + Sync + ?Sized), name: &SecretName) -> Key {
    Key::new(partition(owner), name.as_str())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jiff::ToSpan as _;

    use super::*;
    use crate::{FolderSecrets, sqlite::SqliteStore};

    fn files(folder: &Path) -> usize {
        let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
        entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
    }

    /// Would break: passwords that a kill leaves for ever, of an instance that was never made, of one that got another, and of one that
    /// is gone; one that is in use, or about to be, and is taken away.
    #[tokio::test]
    async fn what_a_kill_leaves_is_swept_and_what_is_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("data")).unwrap();
        let table: Arc<dyn Table> = Arc::new(store.table());
        let folder = dir.path().join("secrets");
        let written = WrittenSecrets::new(table.clone(), Arc::new(FolderSecrets::new(&folder)));
        let write = async |owner: &'static str| {
            let name = WrittenSecrets::name(owner, "credentials").unwrap();
            written.write(owner, &name, &SecretString::from("a password")).await.unwrap();
            name
        };
        // Killed before it was made.
        write("never-made").await;
        // Got another, and was killed before the first was taken away.
        let first = write("changed").await;
        written.tidy("changed", &[], std::slice::from_ref(&first)).await;
        let second = write("changed").await;
        // Went, and was killed before its secret did.
        let last = write("gone").await;
        written.tidy("gone", &[], &[last]).await;
        table.write(vec![WrittenSecrets::leaving("gone")]).await.unwrap();
        let kept = write("kept").await;
        written.tidy("kept", &[], std::slice::from_ref(&kept)).await;
        assert_eq!(files(&folder), 5);

        let in_use = |owner: String| {
            let names = match owner.as_str() {
                "changed" => vec![second.clone()],
                "kept" => vec![kept.clone()],
                _ => Vec::new(),
            };
            async move { Ok(names) }
        };
        let now = Timestamp::now();
        written.sweep(now, in_use).await.unwrap();
        assert_eq!(files(&folder), 5, "requests may still be at work on them");
        written.sweep(now + 2.hours(), in_use).await.unwrap();
        assert_eq!(files(&folder), 2, "what is in use");
        let query = Query { partition: UNTIDY.into(), prefix: String::new(), after: None, descending: false, limit: 100 };
        assert!(table.query(query).await.unwrap().items.is_empty(), "nothing is looked at for ever");
    }
}
