//! What no table takes. These are the limits of DynamoDB, and hold for every adapter: what the embedded table takes, the other
//! must take, too.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::MAX_OPS;
use crate::{Condition, Item, Key, Op, Query, TableError};

const MAX_PARTITION: usize = 2048;
const MAX_SORT: usize = 1024;
const MAX_ITEM: usize = 400 << 10;
const MAX_DEPTH: usize = 32;
/// How many bytes the items of one write may have in all, as [`size`] counts them.
pub(crate) const MAX_WRITE: usize = 4 << 20;
/// What the table itself calls its keys and the time from which on an item counts as gone.
const OWN_NAMES: [&str; 3] = ["partition", "sort", "expires"];

pub(crate) fn check_ops(ops: &[Op]) -> Result<(), TableError> {
    if ops.is_empty() || ops.len() > MAX_OPS {
        return Err(TableError::Invalid(format!("{} operations, where 1 to {MAX_OPS} are possible", ops.len())));
    }
    let mut keys = HashSet::new();
    for op in ops {
        let key = op.key();
        check_key(key)?;
        if !keys.insert(key) {
            return Err(TableError::Invalid(format!("two operations on {}/{}", key.partition, key.sort)));
        }
        match op {
            Op::Put { item, condition } => {
                check_item(item)?;
                check_condition(condition.as_ref())?;
            }
            Op::Update { set, add, condition, .. } => {
                check_attributes(set)?;
                for name in add.keys() {
                    check_name(name)?;
                    if set.contains_key(name) {
                        return Err(TableError::Invalid(format!("the attribute {name:?} is both set and added to")));
                    }
                }
                check_condition(condition.as_ref())?;
            }
            Op::Delete { condition, .. } => check_condition(condition.as_ref())?,
            Op::Check { condition, .. } => check_condition(Some(condition))?,
        }
    }
    let bytes: usize = ops.iter().map(size).sum();
    if bytes > MAX_WRITE {
        return Err(TableError::Invalid(format!("a write of {bytes} bytes, where at most {MAX_WRITE} are possible")));
    }
    Ok(())
}

/// How much of [`MAX_WRITE`] an operation takes. What an update finds in the table comes on top of that, and is known there only.
pub(crate) fn size(op: &Op) -> usize {
    let attributes = match op {
        Op::Put { item, .. } => attributes_size(&item.attributes),
        Op::Update { set, add, .. } => attributes_size(set) + add.keys().map(|name| name.len() + NUMBER).sum::<usize>(),
        Op::Delete { .. } | Op::Check { .. } => 0,
    };
    key_size(op.key()) + attributes
}

/// Names count, too: those of the keys and of the expiry.
fn key_size(key: &Key) -> usize {
    key.partition.len() + key.sort.len() + OWN_NAMES.map(str::len).iter().sum::<usize>() + NUMBER
}

pub(crate) fn check_key(key: &Key) -> Result<(), TableError> {
    check_partition(&key.partition)?;
    match key.sort.len() {
        1..=MAX_SORT => Ok(()),
        bytes => Err(TableError::Invalid(format!("a sort key of {bytes} bytes, where 1 to {MAX_SORT} are possible"))),
    }
}

pub(crate) fn check_query(query: &Query) -> Result<(), TableError> {
    check_partition(&query.partition)?;
    if query.limit == 0 {
        return Err(TableError::Invalid("a page of no items".to_owned()));
    }
    for text in [Some(&query.prefix), query.after.as_ref()].into_iter().flatten() {
        if text.len() > MAX_SORT {
            let bytes = text.len();
            return Err(TableError::Invalid(format!("a query from {bytes} bytes on, where sort keys have at most {MAX_SORT}")));
        }
    }
    Ok(())
}

pub(crate) fn check_item(item: &Item) -> Result<(), TableError> {
    check_attributes(&item.attributes)?;
    let size = attributes_size(&item.attributes) + key_size(&item.key);
    if size > MAX_ITEM {
        return Err(TableError::Invalid(format!("an item of {size} bytes, where at most {MAX_ITEM} are possible")));
    }
    Ok(())
}

fn check_partition(partition: &str) -> Result<(), TableError> {
    match partition.len() {
        1..=MAX_PARTITION => Ok(()),
        bytes => Err(TableError::Invalid(format!("a partition key of {bytes} bytes, where 1 to {MAX_PARTITION} are possible"))),
    }
}

fn check_condition(condition: Option<&Condition>) -> Result<(), TableError> {
    match condition {
        Some(Condition::Equals(name, value)) => {
            check_name(name)?;
            check_value(value, 1)
        }
        Some(Condition::AbsentOrBelow(name, _)) => check_name(name),
        _ => Ok(()),
    }
}

fn check_attributes(attributes: &Map<String, Value>) -> Result<(), TableError> {
    attributes.iter().try_for_each(|(name, value)| {
        check_name(name)?;
        check_value(value, 1)
    })
}

fn check_name(name: &str) -> Result<(), TableError> {
    match name {
        "" => Err(TableError::Invalid("an attribute without a name".to_owned())),
        name if OWN_NAMES.contains(&name) => Err(TableError::Invalid(format!("the attribute {name:?} is the table's own"))),
        _ => Ok(()),
    }
}

fn check_value(value: &Value, depth: usize) -> Result<(), TableError> {
    if depth > MAX_DEPTH {
        return Err(TableError::Invalid(format!("an attribute nested deeper than {MAX_DEPTH}")));
    }
    match value {
        Value::Number(number) if number.as_i64().is_none() => {
            Err(TableError::Invalid(format!("the number {number}, where 64-bit integers are possible")))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        Value::Array(values) => values.iter().try_for_each(|value| check_value(value, depth + 1)),
        Value::Object(map) => map.values().try_for_each(|value| check_value(value, depth + 1)),
    }
}

/// The bytes of a number of 64 bits: two digits each, and one more.
const NUMBER: usize = 11;

/// The size of attributes as DynamoDB counts it.
fn attributes_size(attributes: &Map<String, Value>) -> usize {
    attributes.iter().map(|(name, value)| name.len() + value_size(value)).sum()
}

/// A list or map is 3 bytes and one more for each member.
fn value_size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 1,
        Value::Number(_) => NUMBER,
        Value::String(text) => text.len(),
        Value::Array(values) => 3 + values.iter().map(|value| 1 + value_size(value)).sum::<usize>(),
        Value::Object(map) => 3 + map.iter().map(|(name, value)| 1 + name.len() + value_size(value)).sum::<usize>(),
    }
}
