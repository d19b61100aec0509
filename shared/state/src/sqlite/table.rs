//! The port [`Table`] in SQLite.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::types::{ToSql, Value as Sql};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Map, Value};

use super::Inner;
use super::clock::Moment;
use super::writer::{Durability, PURGE_ROWS};
use crate::table::limits::{check_item, check_key, check_ops, check_query};
use crate::{Condition, Item, Key, Op, Page, Query, Table, TableError};

/// A page ends after so many bytes, as DynamoDB's does: callers find out here that a page may be short.
const PAGE_BYTES: usize = 1 << 20;

/// The table of a [`SqliteStore`](super::SqliteStore).
#[derive(Clone)]
pub struct SqliteTable {
    store: Arc<Inner>,
}

impl SqliteTable {
    pub(super) fn new(store: Arc<Inner>) -> Self {
        Self { store }
    }
}

#[async_trait]
impl Table for SqliteTable {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        check_key(key)?;
        let key = key.clone();
        self.store.readers.run(move |db| find(db, &key, Moment::now())).await
    }

    async fn query(&self, query: Query) -> Result<Page, TableError> {
        check_query(&query)?;
        self.store.readers.run(move |db| page(db, query, Moment::now())).await
    }

    async fn write(&self, ops: Vec<Op>) -> Result<(), TableError> {
        check_ops(&ops)?;
        let work = move |work: &mut super::writer::Work<'_>| {
            for (index, op) in ops.into_iter().enumerate() {
                apply(work.db, work.now, index, op)?;
            }
            Ok(())
        };
        self.store.writer.handle().run(Durability::Synced, work).await
    }
}

/// Removes a bounded number of expired items, and says how many.
pub(super) fn purge(db: &Connection, now: Moment) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM items WHERE rowid IN (SELECT rowid FROM items WHERE expires <= ?1 LIMIT ?2)";
    db.prepare_cached(sql)?.execute(params![now.seconds(), i64::try_from(PURGE_ROWS).unwrap_or(i64::MAX)])
}

// ---- Reading

fn find(db: &Connection, key: &Key, now: Moment) -> Result<Option<Item>, TableError> {
    let sql = "SELECT sort, expires, attributes FROM items
               WHERE partition = ?1 AND sort = ?2 AND (expires IS NULL OR expires > ?3)";
    let row = db.prepare_cached(sql)?.query_row(params![key.partition, key.sort, now.seconds()], StoredItem::of).optional()?;
    row.map(|stored| stored.into_item(&key.partition)).transpose()
}

fn page(db: &Connection, query: Query, now: Moment) -> Result<Page, TableError> {
    let (from, to) = bounds(&query);
    let order = if query.descending { "DESC" } else { "ASC" };
    let sql = format!(
        "SELECT sort, expires, attributes FROM items
         WHERE partition = ?1 AND sort >= ?2 AND sort < ?3 AND (expires IS NULL OR expires > ?4)
         ORDER BY sort {order}"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(params![query.partition, from, to, now.seconds()])?;
    let mut page = Page { items: Vec::new(), next: None };
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        if page.items.len() == query.limit || bytes >= PAGE_BYTES {
            page.next = page.items.last().map(|item: &Item| item.key.sort.clone());
            break;
        }
        let stored = StoredItem::of(row)?;
        bytes += stored.attributes.len();
        page.items.push(stored.into_item(&query.partition)?);
    }
    Ok(page)
}

/// The sort keys that a query is about: from the first on, up to but without the second.
fn bounds(query: &Query) -> (String, Sql) {
    let mut from = query.prefix.clone();
    let mut to = end_of_prefix(&query.prefix);
    if let Some(after) = &query.after {
        if query.descending {
            to = Some(to.map_or_else(|| after.clone(), |end| end.min(after.clone())));
        } else {
            // No text lies between one and the same with a NUL behind it.
            from = from.max(format!("{after}\0"));
        }
    }
    // SQLite orders every text before every blob.
    (from, to.map_or(Sql::Blob(Vec::new()), Sql::Text))
}

/// The first text behind all that begin with `prefix`, if there is one. UTF-8 keeps the order of the characters, so this is
/// the prefix with its last character replaced by the next one.
fn end_of_prefix(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

/// A row of `items` without its partition, which the reader knows.
struct StoredItem {
    sort: String,
    expires: Option<i64>,
    attributes: String,
}

impl StoredItem {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { sort: row.get(0)?, expires: row.get(1)?, attributes: row.get(2)? })
    }

    fn into_item(self, partition: &str) -> Result<Item, TableError> {
        let damaged = |what: &str| TableError::Unavailable(format!("the item {partition}/{} is damaged: {what}", self.sort));
        let attributes = serde_json::from_str(&self.attributes).map_err(|error| damaged(&error.to_string()))?;
        let expires = self.expires.map(Timestamp::from_second).transpose().map_err(|error| damaged(&error.to_string()))?;
        Ok(Item { key: Key::new(partition, self.sort), attributes, expires })
    }
}

// ---- Writing

/// Carries out one operation. All operations of a write have different keys, so each still sees its item as it was before.
fn apply(db: &Connection, now: Moment, index: usize, op: Op) -> Result<(), TableError> {
    let judge = |current: Option<&Item>, condition: Option<&Condition>| match condition {
        Some(condition) if !condition.holds(current) => Err(TableError::Condition(index)),
        _ => Ok(()),
    };
    match op {
        Op::Put { item, condition } => {
            if condition.is_some() {
                judge(find(db, &item.key, now)?.as_ref(), condition.as_ref())?;
            }
            put(db, &item)
        }
        Op::Update { key, set, add, expires, condition } => {
            let current = find(db, &key, now)?;
            judge(current.as_ref(), condition.as_ref())?;
            let mut item = current.unwrap_or(Item { key, attributes: Map::new(), expires: None });
            item.attributes.extend(set);
            add_to(&mut item.attributes, add)?;
            item.expires = expires.or(item.expires);
            check_item(&item)?;
            put(db, &item)
        }
        Op::Delete { key, condition } => {
            if condition.is_some() {
                judge(find(db, &key, now)?.as_ref(), condition.as_ref())?;
            }
            let sql = "DELETE FROM items WHERE partition = ?1 AND sort = ?2";
            db.prepare_cached(sql)?.execute([key.partition, key.sort])?;
            Ok(())
        }
        Op::Check { key, condition } => judge(find(db, &key, now)?.as_ref(), Some(&condition)),
    }
}

fn put(db: &Connection, item: &Item) -> Result<(), TableError> {
    let attributes = serde_json::to_string(&item.attributes).map_err(|error| TableError::Invalid(error.to_string()))?;
    let expires = item.expires.map(Timestamp::as_second);
    let sql = "INSERT INTO items (partition, sort, expires, attributes) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT DO UPDATE SET expires = excluded.expires, attributes = excluded.attributes";
    let row: [&dyn ToSql; 4] = [&item.key.partition, &item.key.sort, &expires, &attributes];
    db.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

fn add_to(attributes: &mut Map<String, Value>, amounts: BTreeMap<String, i64>) -> Result<(), TableError> {
    for (name, amount) in amounts {
        let current = match attributes.get(&name) {
            Some(value) => value.as_i64().ok_or_else(|| TableError::Invalid(format!("{name} is not a number to add to")))?,
            None => 0,
        };
        let sum = current.checked_add(amount).ok_or_else(|| TableError::Invalid(format!("{name} grows beyond 64 bits")))?;
        attributes.insert(name, Value::from(sum));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_character() {
        assert_eq!(end_of_prefix("ab").as_deref(), Some("ac"));
        assert_eq!(end_of_prefix("a\u{7f}").as_deref(), Some("a\u{80}"));
        assert_eq!(end_of_prefix("a\u{d7ff}").as_deref(), Some("a\u{e000}"), "there are no characters between the two");
        assert_eq!(end_of_prefix("a\u{10ffff}").as_deref(), Some("b"), "nothing comes after the last character");
        assert_eq!(end_of_prefix("\u{10ffff}"), None);
        assert_eq!(end_of_prefix(""), None);
    }
}
