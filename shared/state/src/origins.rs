//! Where the content of tags came from: one item for each tag that rules write, or that versions decide about.
//!
//! Partition `origins/<instance>/<repository>`, sort key the tag.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::Value;
use transship_model::{Origin, Place};

use crate::{Condition, Item, Key, Op, StateError, Table, TableError, document};

/// Reads and writes [`Origin`]s.
#[derive(Clone)]
pub struct Origins {
    table: Arc<dyn Table>,
}

/// Origins that were read together with something else, by [`crate::Catalog::recall`]: each saves a read. A change that finds
/// another state by then reads it itself.
#[derive(Debug, Default)]
pub struct Recalled(HashMap<Place, Option<Stored>>);

impl Recalled {
    pub(crate) fn read(places: Vec<Place>, items: impl IntoIterator<Item = Option<Item>>) -> Result<Self, StateError> {
        let stored = |(place, item): (Place, Option<Item>)| Ok((place, item.map(document::value).transpose()?));
        places.into_iter().zip(items).map(stored).collect::<Result<_, _>>().map(Self)
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
const TRIES: usize = 20;

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
    pub async fn change(&self, place: &Place, change: impl FnMut(&mut Origin) -> bool) -> Result<Origin, StateError> {
        self.change_recalled(place, &Recalled::default(), change).await
    }

    /// As [`Origins::change`], beginning with what has been read already.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn change_recalled(
        &self,
        place: &Place,
        recalled: &Recalled,
        mut change: impl FnMut(&mut Origin) -> bool,
    ) -> Result<Origin, StateError> {
        let mut recalled = recalled.0.get(place).cloned();
        for _ in 0..TRIES {
            let known = match recalled.take() {
                Some(known) => known,
                None => self.read(place).await?,
            };
            let (mut origin, revision) = known.map_or_else(Default::default, |stored| (stored.origin, stored.revision));
            if !change(&mut origin) {
                return Ok(origin);
            }
            let condition = match revision {
                0 => Condition::Absent,
                revision => Condition::Equals("revision".into(), Value::from(revision)),
            };
            let attributes = document::attributes(&Stored { origin: origin.clone(), revision: revision + 1 })?;
            let expires = Timestamp::now().checked_add(KEEP).ok();
            let item = Item { key: key(place), attributes, expires };
            match self.table.write(vec![Op::Put { item, condition: Some(condition) }]).await {
                Ok(()) => return Ok(origin),
                Err(TableError::Condition(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StateError::Contended(format!("the origin of {place}")))
    }

    async fn read(&self, place: &Place) -> Result<Option<Stored>, StateError> {
        self.table.get(&key(place)).await?.map(document::value).transpose()
    }
}

pub(crate) fn key(place: &Place) -> Key {
    Key::new(format!("origins/{}/{}", place.instance, place.repository), place.reference.to_string())
}
