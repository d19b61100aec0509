//! Domain types as items: their fields are the item's attributes.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{Item, Key, StateError};

/// The attributes that a value is stored as.
pub(crate) fn attributes<T: Serialize>(value: &T) -> Result<Map<String, Value>, StateError> {
    match serde_json::to_value(value) {
        Ok(Value::Object(attributes)) => Ok(attributes),
        Ok(other) => Err(StateError::Corrupt { what: "an item".into(), why: format!("{other} is not an object") }),
        Err(error) => Err(StateError::Corrupt { what: "an item".into(), why: error.to_string() }),
    }
}

/// The value that an item holds.
pub(crate) fn value<T: DeserializeOwned>(item: Item) -> Result<T, StateError> {
    let Key { partition, sort } = item.key;
    serde_json::from_value(Value::Object(item.attributes))
        .map_err(|error| StateError::Corrupt { what: format!("the item {partition} / {sort}"), why: error.to_string() })
}

/// The number in an attribute, 0 where there is none.
pub(crate) fn number(item: &Item, attribute: &str) -> i64 {
    item.attributes.get(attribute).and_then(Value::as_i64).unwrap_or_default()
}
