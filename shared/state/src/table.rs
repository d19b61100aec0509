//! The port `Table`: a key-value table with a partition key and a sort key, as DynamoDB has it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};

pub(crate) mod limits;

/// Where an item is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The partition: items that are read together share it. At most 2048 bytes, not empty.
    pub partition: String,
    /// The place within the partition, ordered by bytes. At most 1024 bytes, not empty.
    pub sort: String,
}

impl Key {
    /// A key of these two parts.
    pub fn new(partition: impl Into<String>, sort: impl Into<String>) -> Self {
        Self { partition: partition.into(), sort: sort.into() }
    }
}

/// What the table holds at a key. At most 400 KB, names included.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Where it is.
    pub key: Key,
    /// Its attributes. Numbers are integers of 64 bits; the names `partition`, `sort` and `expires` are the table's own.
    pub attributes: Map<String, Value>,
    /// From when on it counts as gone, in whole seconds. It is never returned from then on, and conditions see nothing there.
    pub expires: Option<Timestamp>,
}

/// What must hold for an operation, judged against the item as it is before the write. An expired item counts as absent.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// Nothing is there.
    Absent,
    /// Something is there.
    Present,
    /// Something is there, and the attribute has this value.
    Equals(String, Value),
    /// Nothing is there, or its attribute is a number below this one, or it lacks the attribute.
    AbsentOrBelow(String, i64),
}

impl Condition {
    /// Whether it holds for what is there, an expired item being nothing.
    pub fn holds(&self, current: Option<&Item>) -> bool {
        match (self, current) {
            (Self::Absent | Self::AbsentOrBelow(..), None) | (Self::Present, Some(_)) => true,
            (Self::Absent, Some(_)) | (Self::Present | Self::Equals(..), None) => false,
            (Self::Equals(name, value), Some(item)) => item.attributes.get(name) == Some(value),
            (Self::AbsentOrBelow(name, bound), Some(item)) => match item.attributes.get(name) {
                Some(value) => value.as_i64().is_some_and(|number| number < *bound),
                None => true,
            },
        }
    }
}

/// One operation of a write.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Puts an item in the place of whatever is there.
    Put {
        /// The whole item.
        item: Item,
        /// What must hold.
        condition: Option<Condition>,
    },
    /// Changes some attributes and leaves the others; makes the item if there is none. An expired item counts as none.
    Update {
        /// Where the item is.
        key: Key,
        /// Attributes that get a new value.
        set: Map<String, Value>,
        /// Attributes that grow by an amount, from 0 where they are missing.
        add: BTreeMap<String, i64>,
        /// A new expiry; `None` leaves what is there.
        expires: Option<Timestamp>,
        /// What must hold.
        condition: Option<Condition>,
    },
    /// Removes what is there, if anything.
    Delete {
        /// Where the item is.
        key: Key,
        /// What must hold.
        condition: Option<Condition>,
    },
    /// Changes nothing, but the write fails unless the condition holds.
    Check {
        /// Where to look.
        key: Key,
        /// What must hold.
        condition: Condition,
    },
}

impl Op {
    /// The key that it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { item, .. } => &item.key,
            Self::Update { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }
}

/// A range of one partition, a page at a time.
#[derive(Debug, Clone)]
pub struct Query {
    /// The partition.
    pub partition: String,
    /// Only sort keys that begin with this.
    pub prefix: String,
    /// Begin after this sort key, in the order asked for: [`Page::next`] of the page before.
    pub after: Option<String>,
    /// From the greatest sort key down.
    pub descending: bool,
    /// At most so many items.
    pub limit: usize,
}

/// A page of a query's answer.
#[derive(Debug, Clone)]
pub struct Page {
    /// The items, in the order asked for; none of them expired. There may be fewer than the limit, even none, before the end.
    pub items: Vec<Item>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// Why the table did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TableError {
    /// A condition did not hold; nothing was written. The index is that of the first such operation.
    #[error("operation {0} of the write was refused by its condition")]
    Condition(usize),
    /// The write can't be done by any table: too many operations or bytes, two on one key, an item or key that is too large.
    #[error("the write can't be done: {0}")]
    Invalid(String),
    /// The table is out of reach, overloaded or broken.
    #[error("the table did not answer: {0}")]
    Unavailable(String),
}

/// A key-value table. Every access pattern is one `get` or one `query`.
#[async_trait]
pub trait Table: Send + Sync {
    /// Reads one item, as the last completed write left it.
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError>;

    /// Reads several items; the answers are in the order of the keys.
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, TableError> {
        let mut items = Vec::with_capacity(keys.len());
        for key in keys {
            items.push(self.get(key).await?);
        }
        Ok(items)
    }

    /// Reads a range of a partition, as the last completed write left it.
    async fn query(&self, query: Query) -> Result<Page, TableError>;

    /// Carries out 1 to 100 operations on different keys, of at most 4 MB, all of them or none. It returns when the result is durable. Conflicts
    /// with other writes are retried inside; a condition that does not hold is [`TableError::Condition`].
    async fn write(&self, ops: Vec<Op>) -> Result<(), TableError>;
}

/// The largest number of operations in one write.
pub const MAX_OPS: usize = 100;
