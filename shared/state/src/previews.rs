//! Previews, for as long as somebody may look at them.
//!
//! Partition `previews`, sort key the preview's ID. A worker writes them, because only workers have the registries' credentials; the API
//! reads them.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Map, Value};
use transship_model::preview::{Preview, PreviewId};

use crate::{Item, Key, Op, StateError, Table, document};

/// How long a page is kept.
const KEEP: Duration = Duration::from_secs(3600);

/// Reads and writes previews.
#[derive(Clone)]
pub struct Previews {
    table: Arc<dyn Table>,
}

impl Previews {
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

    /// Notes that a preview has been asked for, so that one that is not there yet can be told from one that never will be.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn expect(&self, id: &PreviewId) -> Result<(), StateError> {
        let attributes = Map::from_iter([(AWAITED.to_owned(), Value::from(true))]);
        self.write(id, attributes).await
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
    Key::new("previews", id.as_str())
}
