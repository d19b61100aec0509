//! Previews, for as long as somebody may look at them.
//!
//! Partition `previews`, sort key the preview's ID. A worker writes them, because only workers have the registries' credentials; the API
//! reads them.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Map, Value};
use transship_model::preview::{Preview, PreviewId};

use crate::{Item, Key, Op, Query, StateError, Table, document, idempotency::hash};

const PARTITION: &str = "previews";
/// For so long one that has not been made counts: workers make none that was asked for earlier.
const OPEN_FOR: Duration = Duration::from_secs(600);
/// How long a page is kept.
const KEEP: Duration = Duration::from_secs(3600);

/// Reads and writes previews.
#[derive(Clone)]
pub struct Previews {
    table: Arc<dyn Table>,
}

impl Previews {
    /// So many previews that have not been made one caller may have asked for.
    pub const OPEN: usize = 10;

    /// The previews in a table.
    pub fn new(table: Arc<dyn Table>) -> Self {
        Self { table }
    }

    /// A preview, if it has been made and has not expired.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn get(&self, id: &PreviewId) -> Result<Option<Preview>, StateError> {
        let made = self.table.get(&key(id)).await?.filter(|item| !item.attributes.contains_key(AWAITED));
        made.map(document::value).transpose()
    }

    /// Whether a preview has been made or asked for.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn is_known(&self, id: &PreviewId) -> Result<bool, StateError> {
        Ok(self.table.get(&key(id)).await?.is_some())
    }

    /// Notes that somebody has asked for a preview, so that one that is not there yet can be told from one that never will be. Answers
    /// whether they may: who has asked for [`Previews::OPEN`] that have not been made has to wait.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn expect(&self, id: &PreviewId, caller: &str) -> Result<bool, StateError> {
        let partition = format!("previews/{}", hash(&[caller.as_bytes()]));
        // Requests at the same moment may be some more.
        let limit = 4 * Self::OPEN;
        let query = Query { partition: partition.clone(), prefix: String::new(), after: None, descending: false, limit };
        let asked = self.table.query(query).await?.items;
        let mut ops = Vec::new();
        if asked.len() >= Self::OPEN {
            let keys: Vec<Key> = asked.iter().map(|item| Key::new(PARTITION, &*item.key.sort)).collect();
            let there = self.table.get_many(&keys).await?;
            let is_open = |item: &Option<Item>| item.as_ref().is_some_and(|item| item.attributes.contains_key(AWAITED));
            let made = asked.into_iter().zip(&there).filter(|(_, item)| !is_open(item));
            ops.extend(made.map(|(item, _)| Op::Delete { key: item.key, condition: None }));
            if there.len() - ops.len() >= Self::OPEN {
                return Ok(false);
            }
        }
        let now = Timestamp::now();
        let awaited = Map::from_iter([(AWAITED.to_owned(), Value::from(true))]);
        let item = |key, attributes, keep| Op::Put {
            item: Item { key, attributes, expires: now.checked_add(keep).ok() },
            condition: None,
        };
        ops.push(item(key(id), awaited, KEEP));
        ops.push(item(Key::new(partition, id.as_str()), Map::new(), OPEN_FOR));
        self.table.write(ops).await?;
        Ok(true)
    }

    /// Keeps a preview.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn put(&self, id: &PreviewId, preview: &Preview) -> Result<(), StateError> {
        self.write(id, document::attributes(preview)?).await
    }

    async fn write(&self, id: &PreviewId, attributes: Map<String, Value>) -> Result<(), StateError> {
        let expires = Timestamp::now().checked_add(KEEP).ok();
        let item = Item { key: key(id), attributes, expires };
        Ok(self.table.write(vec![Op::Put { item, condition: None }]).await?)
    }
}

/// The attribute of an item in whose place a preview will be.
const AWAITED: &str = "awaited";

fn key(id: &PreviewId) -> Key {
    Key::new(PARTITION, id.as_str())
}
