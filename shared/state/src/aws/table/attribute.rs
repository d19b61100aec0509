//! Items as DynamoDB has them.
//!
//! Written out here rather than taken from a library: numbers have to be integers of 64 bits on both ways, never floating-point
//! ones, and anything else in the table is an error with a name.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{Item, Key};

/// The table's key attributes, and the one that DynamoDB deletes expired items by.
pub(super) const PARTITION: &str = "partition";
pub(super) const SORT: &str = "sort";
pub(super) const EXPIRES: &str = "expires";

/// The expiry, in seconds, of an item that has none where DynamoDB wants something to be written.
pub(super) const NEVER: i64 = 253_402_207_200;

pub(super) type Attributes = HashMap<String, AttributeValue>;

pub(super) fn of_key(key: &Key) -> Attributes {
    let text = |text: &String| AttributeValue::S(text.clone());
    HashMap::from([(PARTITION.to_owned(), text(&key.partition)), (SORT.to_owned(), text(&key.sort))])
}

pub(super) fn of_item(item: &Item) -> Attributes {
    let mut attributes = of_key(&item.key);
    attributes.extend(item.attributes.iter().map(|(name, value)| (name.clone(), of_value(value))));
    attributes.extend(item.expires.map(|expires| (EXPIRES.to_owned(), number(expires.as_second()))));
    attributes
}

/// A value whose numbers have been checked to be integers.
pub(super) fn of_value(value: &Value) -> AttributeValue {
    match value {
        Value::Null => AttributeValue::Null(true),
        Value::Bool(flag) => AttributeValue::Bool(*flag),
        Value::Number(number) => AttributeValue::N(number.to_string()),
        Value::String(text) => AttributeValue::S(text.clone()),
        Value::Array(values) => AttributeValue::L(values.iter().map(of_value).collect()),
        Value::Object(map) => AttributeValue::M(map.iter().map(|(name, value)| (name.clone(), of_value(value))).collect()),
    }
}

pub(super) fn number(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// Reads an item; what is wrong with it, otherwise.
pub(super) fn item(mut attributes: Attributes) -> Result<Item, String> {
    let mut text = |name: &str| match attributes.remove(name) {
        Some(AttributeValue::S(text)) => Ok(text),
        _ => Err(format!("an item without the key {name}")),
    };
    let key = Key::new(text(PARTITION)?, text(SORT)?);
    let damaged = |what: String| format!("the item {}/{} is damaged: {what}", key.partition, key.sort);
    let expires = match attributes.remove(EXPIRES) {
        None => None,
        Some(AttributeValue::N(seconds)) if seconds == NEVER.to_string() => None,
        Some(AttributeValue::N(seconds)) => {
            let time = seconds.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
            Some(time.ok_or_else(|| damaged(format!("it expires at {seconds}")))?)
        }
        Some(_) => return Err(damaged("its expiry is no number".to_owned())),
    };
    let mut read = Map::new();
    for (name, stored) in attributes {
        let value = value(stored).map_err(|what| damaged(format!("the attribute {name} has {what}")))?;
        read.insert(name, value);
    }
    Ok(Item { key, attributes: read, expires })
}

fn value(stored: AttributeValue) -> Result<Value, String> {
    Ok(match stored {
        AttributeValue::Null(_) => Value::Null,
        AttributeValue::Bool(flag) => Value::Bool(flag),
        AttributeValue::N(text) => Value::from(text.parse::<i64>().map_err(|_| format!("{text}, no integer of 64 bits"))?),
        AttributeValue::S(text) => Value::String(text),
        AttributeValue::L(values) => Value::Array(values.into_iter().map(value).collect::<Result<_, _>>()?),
        AttributeValue::M(map) => {
            let member = |(name, stored)| Ok((name, value(stored)?));
            Value::Object(map.into_iter().map(member).collect::<Result<_, String>>()?)
        }
        _ => return Err("a value of a type that transship never writes".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str, value: AttributeValue) -> Attributes {
        let mut attributes = of_key(&Key::new("p", "s"));
        attributes.insert(name.to_owned(), value);
        attributes
    }

    #[test]
    fn what_this_program_never_writes_is_named_and_not_guessed_at() {
        for (value, part) in [
            (AttributeValue::N("1.5".into()), "p/s is damaged: the attribute a has 1.5, no integer"),
            (AttributeValue::N("9223372036854775808".into()), "no integer of 64 bits"),
            (AttributeValue::Ss(vec!["x".into()]), "a type that transship never writes"),
        ] {
            let error = item(stored("a", value)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(item(stored(EXPIRES, AttributeValue::S("soon".into()))).unwrap_err().contains("expiry is no number"));
        assert!(item(HashMap::new()).unwrap_err().contains("without the key"));
        assert_eq!(item(stored(EXPIRES, number(NEVER))).unwrap().expires, None);
        assert_eq!(Timestamp::from_second(NEVER).map(|time| time.to_string()).as_deref().ok(), Some("9999-12-30T22:00:00Z"));
    }
}
