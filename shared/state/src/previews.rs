//! Previews, for as long as somebody may look at them.
//!
//! Partition `previews`, sort key the preview's ID. A worker writes them, because only workers have the registries' credentials; the API
//! reads them.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
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
        self.table.get(&key(id)).await?.map(document::value).transpose()
    }

    /// Keeps a preview.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn put(&self, id: &PreviewId, preview: &Preview) -> Result<(), StateError> {
        let expires = Timestamp::now().checked_add(KEEP).ok();
        let item = Item { key: key(id), attributes: document::attributes(preview)?, expires };
        Ok(self.table.write(vec![Op::Put { item, condition: None }]).await?)
    }
}

fn key(id: &PreviewId) -> Key {
    Key::new("previews", id.as_str())
}
