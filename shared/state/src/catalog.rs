//! The catalogue: instances, rules and subscriptions.
//!
//! Partition `catalog`: one item `version` that changes with every change. Partitions `catalog/instances`, `catalog/rules` and
//! `catalog/subscriptions`: an item each. A reader keeps a whole snapshot and asks only for the version, so that a rule that was
//! switched off is off in every warm environment at the next request.
//!
//! A change is decided on a snapshot and written on condition that the version is still the snapshot's ([`Catalog::edit`]): what was
//! true of the whole catalogue when it was decided (no rule names the instance that goes) is true when it is written.

mod draft;
mod plan;
mod snapshot;
mod subscribers;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use draft::Content;
use serde_json::Value;
use snapshot::index_of;
use transship_model::{Caller, InstanceName, Place, Rule, RuleName, SubscriptionName};

pub use draft::{Change, Draft, Saved, Stamp};
pub use plan::{Applied, Plan};
pub use snapshot::Snapshot;

use crate::{
    AuditEntry, Condition, Item, Key, Op, Query, StateError, Table, TableError, document,
    origins::{self, Recalled},
};

/// Reads and writes instances and rules.
pub struct Catalog {
    table: Arc<dyn Table>,
    cached: Mutex<Arc<Snapshot>>,
    /// Changes by one process wait for each other here, and not in a contest for the table.
    changing: tokio::sync::Mutex<()>,
}

const INSTANCES: &str = "catalog/instances";
const RULES: &str = "catalog/rules";
const SUBSCRIPTIONS: &str = "catalog/subscriptions";

fn version_key() -> Key {
    Key::new("catalog", "version")
}

/// So often a change is decided again because others have changed the catalogue meanwhile.
const TRIES: u32 = 40;

impl Catalog {
    /// The greatest number of instances.
    pub const MAX_INSTANCES: usize = 1000;
    /// The greatest number of rules.
    pub const MAX_RULES: usize = 20_000;
    /// The greatest number of subscriptions.
    pub const MAX_SUBSCRIPTIONS: usize = 1000;

    /// The catalogue in a table.
    pub fn new(table: Arc<dyn Table>) -> Self {
        Self { table, cached: Mutex::default(), changing: tokio::sync::Mutex::default() }
    }

    /// The instances and rules as they are now: one read of the table where nothing has changed since the last time.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>, StateError> {
        Ok(self.recall(|_| Vec::new()).await?.0)
    }

    /// The instances and rules as they were when they were read last, without a call. A decision that begins with them asks
    /// [`Catalog::snapshot`] or [`Catalog::recall`] whether they still hold: then that gives the same `Arc`.
    pub fn last(&self) -> Arc<Snapshot> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The instances and rules as they are now, and the origins of some places, all in one read of the table where nothing has
    /// changed since the last time.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn recall(&self, places: impl Fn(&Snapshot) -> Vec<Place>) -> Result<(Arc<Snapshot>, Recalled), StateError> {
        let cached = self.last();
        let wanted = places(&cached);
        let mut items = self.read(std::iter::once(version_key()).chain(wanted.iter().map(origins::key)).collect()).await?;
        let state = items.next().flatten();
        if cached.version == state.as_ref().map_or(0, |item| document::number(item, "version")) {
            return Ok((cached, Recalled::read(wanted, items)?));
        }
        let fresh = Arc::new(self.load(state.as_ref()).await?);
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        let wanted = places(&fresh);
        let items = self.read(wanted.iter().map(origins::key).collect()).await?;
        Ok((fresh, Recalled::read(wanted, items)?))
    }

    async fn read(&self, keys: Vec<Key>) -> Result<std::vec::IntoIter<Option<Item>>, StateError> {
        let items = match &keys[..] {
            [] => Vec::new(),
            [key] => vec![self.table.get(key).await?],
            keys => self.table.get_many(keys).await?,
        };
        Ok(items.into_iter())
    }

    /// Reads all entries; `state` is what was at [`version_key`] before. What has changed since then shows in the version.
    async fn load(&self, state: Option<&Item>) -> Result<Snapshot, StateError> {
        let mut snapshot = Snapshot::default();
        if let Some(state) = state {
            snapshot.version = document::number(state, "version");
            snapshot.next_rule = document::number(state, "next_rule").max(1).unsigned_abs();
        }
        for item in self.all(INSTANCES).await? {
            let stamp = document::value(item.clone())?;
            snapshot.insert(Content::Instance(Arc::new(document::value(item)?)), stamp);
        }
        for item in self.all(RULES).await? {
            let stamp = document::value(item.clone())?;
            snapshot.insert(Content::Rule(Arc::new(document::value(item)?)), stamp);
        }
        for item in self.all(SUBSCRIPTIONS).await? {
            let stamp = document::value(item.clone())?;
            snapshot.insert(Content::Subscription(Arc::new(document::value(item)?)), stamp);
        }
        snapshot.index = index_of(snapshot.rules.values().cloned());
        Ok(snapshot)
    }

    async fn all(&self, partition: &str) -> Result<Vec<Item>, StateError> {
        let mut items = Vec::new();
        let mut after = None;
        loop {
            let partition = partition.to_owned();
            let query = Query { partition, prefix: String::new(), after, descending: false, limit: 1000 };
            let page = self.table.query(query).await?;
            items.extend(page.items);
            after = page.next;
            if after.is_none() {
                return Ok(items);
            }
        }
    }

    /// Changes the catalogue: asks `decide` what is to be done, given what there is, and writes that on condition that the catalogue is
    /// still the same; if it is not, asks again. Returns what `decide` said in the end, and the catalogue after the change. A draft
    /// with no steps changes nothing; what it has besides is written all the same.
    ///
    /// # Errors
    /// What `decide` says, and [`StateError`]. Nothing has been written then, but of [`StateError::Unavailable`] that is not sure.
    pub async fn edit<T, E: From<StateError>>(
        &self,
        decide: impl Fn(&Snapshot, &mut Draft<'_>) -> Result<T, E>,
    ) -> Result<(Arc<Snapshot>, T), E> {
        let _turn = self.changing.lock().await;
        for n in 1..=TRIES {
            let before = self.snapshot().await?;
            let mut draft = Draft::new(&before);
            let decision = decide(&before, &mut draft)?;
            let Draft { next_rule, steps, also, .. } = draft;
            if steps.is_empty() && also.is_empty() {
                return Ok((before, decision));
            }
            let is_changed = !steps.is_empty();
            let state = if is_changed {
                move_on(before.version, next_rule)
            } else {
                Op::Check { key: version_key(), condition: is_at(before.version) }
            };
            let mut ops = vec![state];
            for step in &steps {
                ops.push(step.op()?);
            }
            ops.extend(also);
            match self.table.write(ops).await {
                Ok(()) if is_changed => {
                    let after = Arc::new(before.after(next_rule, steps));
                    let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
                    if cached.version == before.version {
                        *cached = after.clone();
                    }
                    return Ok((after, decision));
                }
                Ok(()) => return Ok((before, decision)),
                Err(TableError::Condition(0)) => {
                    // Another process was faster. Somebody of us always gets on.
                    let most = 10 * u64::from(n.min(10));
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=most))).await;
                }
                Err(TableError::Condition(_)) => return Err(StateError::Contended("what the change depends on".into()).into()),
                Err(error) => return Err(StateError::from(error).into()),
            }
        }
        Err(StateError::Contended("the catalogue".into()).into())
    }
}

/// Nobody has changed the catalogue since it was at this version.
fn is_at(version: i64) -> Condition {
    if version == 0 { Condition::Absent } else { Condition::Equals("version".into(), Value::from(version)) }
}

/// The catalogue's version after this one, on condition that it is this one.
fn move_on(version: i64, next_rule: u64) -> Op {
    let set = [("version", Value::from(version + 1)), ("next_rule", Value::from(next_rule))];
    let attributes = set.map(|(name, number)| (name.to_owned(), number)).into_iter().collect();
    Op::Put { item: Item { key: version_key(), attributes, expires: None }, condition: Some(is_at(version)) }
}

/// Something that the catalogue has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Entry {
    /// An instance.
    Instance(InstanceName),
    /// A rule, by its source instance and its name.
    Rule(InstanceName, RuleName),
    /// A subscription.
    Subscription(SubscriptionName),
}

impl Entry {
    /// A rule's.
    pub fn of_rule(rule: &Rule) -> Self {
        Self::Rule(rule.source.instance.clone(), rule.name.clone())
    }

    /// What the audit tells of a change, in the words that it has for the API's. A new owner is no change of what it is.
    fn note(&self, change: Change, caller: &Caller, details: &str) -> Option<AuditEntry> {
        let verb = match change {
            Change::Created => "create",
            Change::Changed => "change",
            Change::Deleted => "delete",
            Change::Claimed => return None,
        };
        let (kind, name) = match self {
            Self::Instance(name) => ("instance", name.to_string()),
            Self::Rule(instance, name) => ("rule", format!("{instance}/{name}")),
            Self::Subscription(name) => ("subscription", name.to_string()),
        };
        Some(AuditEntry::new(caller, &format!("{kind}.{verb}"), name, details))
    }

    fn key(&self) -> Key {
        match self {
            Self::Instance(name) => Key::new(INSTANCES, name.as_str()),
            Self::Rule(instance, rule) => Key::new(RULES, format!("{instance}/{rule}")),
            Self::Subscription(name) => Key::new(SUBSCRIPTIONS, name.as_str()),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(name) => write!(f, "instance {name}"),
            Self::Rule(instance, rule) => write!(f, "rule {instance}/{rule}"),
            Self::Subscription(name) => write!(f, "subscription {name}"),
        }
    }
}
