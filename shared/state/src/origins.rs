//! Where the content of tags came from: one item for each tag that rules write, or that versions decide about.
//!
//! Partition `origins/<instance>/<repository>`, sort key the tag. Partition `flattened/<rule>`, sort key `<instance>/<repository>` of the
//! target: which source repository has that name, of those that the rule flattens to it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::Value;
use transship_model::{Origin, Place, Repository, RuleId};

use crate::{Condition, Item, Key, Op, StateError, Table, TableError, document};

/// Reads and writes [`Origin`]s.
#[derive(Clone)]
pub struct Origins {
    table: Arc<dyn Table>,
}

/// Origins as they were read, many in one call: by [`crate::Catalog::recall`], together with something else. They are changed
/// here, and then written all at once.
#[derive(Debug, Default)]
pub struct Recalled(HashMap<Place, Known>);

#[derive(Debug, Default)]
struct Known {
    origin: Origin,
    /// That of the item as it was read; 0 where there was none.
    revision: i64,
    is_changed: bool,
}

impl Recalled {
    pub(crate) fn read(places: Vec<Place>, items: impl IntoIterator<Item = Option<Item>>) -> Result<Self, StateError> {
        let known = |(place, item): (Place, Option<Item>)| {
            let stored: Option<Stored> = item.map(document::value).transpose()?;
            Ok((place, stored.map_or_else(Known::default, Known::from)))
        };
        places.into_iter().zip(items).map(known).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a place is among them.
    pub(crate) fn has(&self, place: &Place) -> bool {
        self.0.contains_key(place)
    }

    /// Takes over what has been read besides.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Changes what is known of a place. `change` returns what it finds, and whether there is anything to write.
    pub(crate) fn change<T>(&mut self, place: &Place, change: impl FnOnce(&mut Origin) -> (T, bool)) -> (T, &Origin) {
        let known = self.0.entry(place.clone()).or_default();
        let (found, is_changed) = change(&mut known.origin);
        known.is_changed |= is_changed;
        (found, &known.origin)
    }
}

impl From<Stored> for Known {
    fn from(Stored { origin, revision }: Stored) -> Self {
        Self { origin, revision, is_changed: false }
    }
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Stored {
    #[serde(flatten)]
    origin: Origin,
    revision: i64,
}

/// How long a tag that nothing happens to is remembered. Tags of builds come by the thousand and are never touched again.
const KEEP: Duration = Duration::from_secs(400 * 24 * 3600);

/// How often a change is tried again when webhook and worker change the same item.
pub(crate) const TRIES: usize = 20;

impl Origins {
    /// The origins in a table.
    pub fn new(table: Arc<dyn Table>) -> Self {
        Self { table }
    }

    /// What is known of a place; nothing at first.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn get(&self, place: &Place) -> Result<Origin, StateError> {
        Ok(self.read(place).await?.map_or_else(Origin::default, |stored| stored.origin))
    }

    /// Changes what is known of a place, in one step: `change` sees the newest state, and may be called more than once. It
    /// returns whether there is anything to write. The origin as it is then is returned.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn change(&self, place: &Place, mut change: impl FnMut(&mut Origin) -> bool) -> Result<Origin, StateError> {
        for _ in 0..TRIES {
            let Known { mut origin, revision, .. } = self.read(place).await?.map_or_else(Known::default, Known::from);
            if !change(&mut origin) || self.put(place, &origin, revision).await? {
                return Ok(origin);
            }
        }
        Err(StateError::Contended(format!("the origin of {place}")))
    }

    /// Which source repository has the name of a target's repository, of those that a rule flattens to it; nobody yet without one.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn holder(&self, rule: RuleId, target: &Place) -> Result<Option<Repository>, StateError> {
        let held: Option<Held> = self.table.get(&flattened(rule, target)).await?.map(document::value).transpose()?;
        Ok(held.map(|held| held.source))
    }

    /// Gives the name of a target's repository to a source repository, if it is still `before` that has it. It is kept, however
    /// long nothing is copied there; only a repository that the rule does not flatten to it any more loses it. True if it is given.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn hold(
        &self,
        rule: RuleId,
        target: &Place,
        source: &Repository,
        before: Option<&Repository>,
    ) -> Result<bool, StateError> {
        let condition = match before {
            None => Condition::Absent,
            Some(before) => Condition::Equals("source".into(), Value::from(before.as_str())),
        };
        let attributes = document::attributes(&Held { source: source.clone() })?;
        let item = Item { key: flattened(rule, target), attributes, expires: None };
        match self.table.write(vec![Op::Put { item, condition: Some(condition) }]).await {
            Ok(()) => Ok(true),
            Err(TableError::Condition(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What is known of some places.
    ///
    /// # Errors
    /// See [`StateError`].
    pub(crate) async fn recall(&self, places: Vec<Place>) -> Result<Recalled, StateError> {
        let keys: Vec<Key> = places.iter().map(key).collect();
        let items = if keys.is_empty() { Vec::new() } else { self.table.get_many(&keys).await? };
        Recalled::read(places, items)
    }

    /// Writes what was changed, all of it at once, and returns the places that others have changed since they were read: what was
    /// decided there is to be decided again.
    ///
    /// # Errors
    /// See [`StateError`]; some may have been written then.
    pub(crate) async fn write(&self, recalled: &Recalled) -> Result<Vec<Place>, StateError> {
        let changed = recalled.0.iter().filter(|(_, known)| known.is_changed);
        let writes = changed.map(async |(place, known)| (place, self.put(place, &known.origin, known.revision).await));
        let mut overtaken = Vec::new();
        for (place, is_written) in join_all(writes).await {
            if !is_written? {
                overtaken.push(place.clone());
            }
        }
        Ok(overtaken)
    }

    /// Writes an origin if the item is still that of `revision`.
    async fn put(&self, place: &Place, origin: &Origin, revision: i64) -> Result<bool, StateError> {
        let condition = match revision {
            0 => Condition::Absent,
            revision => Condition::Equals("revision".into(), Value::from(revision)),
        };
        let attributes = document::attributes(&Stored { origin: origin.clone(), revision: revision + 1 })?;
        let expires = Timestamp::now().checked_add(KEEP).ok();
        let item = Item { key: key(place), attributes, expires };
        match self.table.write(vec![Op::Put { item, condition: Some(condition) }]).await {
            Ok(()) => Ok(true),
            Err(TableError::Condition(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn read(&self, place: &Place) -> Result<Option<Stored>, StateError> {
        self.table.get(&key(place)).await?.map(document::value).transpose()
    }
}

/// Who has a flattened name.
#[derive(serde::Serialize, serde::Deserialize)]
struct Held {
    source: Repository,
}

fn flattened(rule: RuleId, target: &Place) -> Key {
    Key::new(format!("flattened/{rule}"), format!("{}/{}", target.instance, target.repository))
}

pub(crate) fn key(place: &Place) -> Key {
    Key::new(format!("origins/{}/{}", place.instance, place.repository), place.reference.to_string())
}
