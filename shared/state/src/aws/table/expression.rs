//! Conditions and changes in DynamoDB's expression language. Names and values stand in them as placeholders, so that no name is a
//! reserved word and no value is syntax.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::attribute::{Attributes, EXPIRES, NEVER, PARTITION, number, of_value};
use crate::Condition;

/// The placeholders of one request. DynamoDB refuses those that no expression uses, and empty lists of them.
#[derive(Debug, Default)]
pub(super) struct Placeholders {
    names: HashMap<String, String>,
    values: Attributes,
}

impl Placeholders {
    pub(super) fn name(&mut self, name: &str) -> String {
        let known = self.names.iter().find_map(|(placeholder, known)| (known == name).then(|| placeholder.clone()));
        known.unwrap_or_else(|| {
            let placeholder = format!("#n{}", self.names.len());
            self.names.insert(placeholder.clone(), name.to_owned());
            placeholder
        })
    }

    pub(super) fn value(&mut self, value: AttributeValue) -> String {
        let placeholder = format!(":v{}", self.values.len());
        self.values.insert(placeholder.clone(), value);
        placeholder
    }

    pub(super) fn names(&self) -> Option<HashMap<String, String>> {
        Some(self.names.clone()).filter(|names| !names.is_empty())
    }

    pub(super) fn values(&self) -> Option<Attributes> {
        Some(self.values.clone()).filter(|values| !values.is_empty())
    }

    fn now(&mut self, now: Timestamp) -> String {
        self.value(number(now.as_second()))
    }

    /// True where an item is there and has expired.
    fn expired(&mut self, now: Timestamp) -> String {
        format!("{} <= {}", self.name(EXPIRES), self.now(now))
    }

    /// True where no item is there, and where one is that has not expired.
    fn not_expired(&mut self, now: Timestamp) -> String {
        let expires = self.name(EXPIRES);
        format!("(attribute_not_exists({expires}) OR {expires} > {})", self.now(now))
    }

    fn absent(&mut self) -> String {
        format!("attribute_not_exists({})", self.name(PARTITION))
    }

    /// A condition, an expired item counting as absent.
    pub(super) fn condition(&mut self, condition: &Condition, now: Timestamp) -> String {
        match condition {
            Condition::Absent => format!("{} OR {}", self.absent(), self.expired(now)),
            Condition::Present => format!("attribute_exists({}) AND {}", self.name(PARTITION), self.not_expired(now)),
            Condition::Equals(name, value) => {
                format!("{} = {} AND {}", self.name(name), self.value(of_value(value)), self.not_expired(now))
            }
            Condition::AbsentOrBelow(name, bound) => format!("{} OR {}", self.below(name, *bound), self.expired(now)),
        }
    }

    /// The condition of an update, which can't begin anew by itself: it goes ahead only where no item is there, or one that has not
    /// expired.
    pub(super) fn condition_of_update(&mut self, condition: Option<&Condition>, now: Timestamp) -> String {
        match condition {
            None => self.not_expired(now),
            Some(Condition::Absent) => self.absent(),
            Some(Condition::AbsentOrBelow(name, bound)) => {
                format!("({}) AND {}", self.below(name, *bound), self.not_expired(now))
            }
            Some(present @ (Condition::Present | Condition::Equals(..))) => self.condition(present, now),
        }
    }

    fn below(&mut self, name: &str, bound: i64) -> String {
        let name = self.name(name);
        format!("attribute_not_exists({name}) OR {name} < {}", self.value(number(bound)))
    }

    /// What an update does.
    pub(super) fn update(
        &mut self,
        set: &Map<String, Value>,
        add: &BTreeMap<String, i64>,
        expires: Option<Timestamp>,
    ) -> String {
        let mut sets: Vec<String> =
            set.iter().map(|(name, value)| format!("{} = {}", self.name(name), self.value(of_value(value)))).collect();
        if let Some(expires) = expires {
            sets.push(format!("{} = {}", self.name(EXPIRES), self.value(number(expires.as_second()))));
        } else if set.is_empty() && add.is_empty() {
            // An update has to do something, or it makes no item.
            let (expires, never) = (self.name(EXPIRES), self.value(number(NEVER)));
            sets.push(format!("{expires} = if_not_exists({expires}, {never})"));
        }
        let adds: Vec<String> = add.iter().map(|(name, n)| format!("{} {}", self.name(name), self.value(number(*n)))).collect();
        let clauses = [("SET", sets), ("ADD", adds)].into_iter().filter(|(_, parts)| !parts.is_empty());
        clauses.map(|(clause, parts)| format!("{clause} {}", parts.join(", "))).collect::<Vec<_>>().join(" ")
    }
}
