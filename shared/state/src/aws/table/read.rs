//! Reading: one item, many, and a page of a partition.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use jiff::Timestamp;

use super::{
    DynamoDbTable,
    attribute::{Attributes, PARTITION, SORT, of_key},
    expression::Placeholders,
    live,
};
use crate::{
    Item, Key, Page, Query, TableError,
    aws::{backoff::Backoff, problem::Problem},
};

/// What BatchGetItem takes.
const KEYS_A_CALL: usize = 100;

impl DynamoDbTable {
    pub(super) async fn read_one(&self, key: &Key) -> Result<Option<Item>, TableError> {
        let request = self.client.get_item().table_name(&self.name).set_key(Some(of_key(key))).consistent_read(true);
        let answer = request.send().await.map_err(|error| self.failed(Problem::new("DynamoDB", "GetItem", &error)))?;
        live(answer.item, Timestamp::now())
    }

    pub(super) async fn read_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, TableError> {
        // A call with one key twice is refused.
        let wanted: Vec<&Key> = keys.iter().collect::<BTreeSet<_>>().into_iter().collect();
        let mut found = HashMap::with_capacity(wanted.len());
        for chunk in wanted.chunks(KEYS_A_CALL) {
            self.read_batch(chunk.iter().map(|key| of_key(key)).collect(), &mut found).await?;
        }
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }

    /// Asks until there is an answer about every key: DynamoDB leaves out what makes an answer too long, and what it has no
    /// capacity for.
    async fn read_batch(&self, mut keys: Vec<Attributes>, found: &mut HashMap<Key, Item>) -> Result<(), TableError> {
        let mut backoff = Backoff::default();
        loop {
            let asked = keys.len();
            let wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
            let wanted = wanted.map_err(|error| TableError::Invalid(error.to_string()))?;
            let call = self.client.batch_get_item().request_items(&self.name, wanted).send().await;
            let answer = call.map_err(|error| self.failed(Problem::new("DynamoDB", "BatchGetItem", &error)))?;
            for attributes in answer.responses.into_iter().flatten().flat_map(|(_, items)| items) {
                if let Some(item) = live(Some(attributes), Timestamp::now())? {
                    found.insert(item.key.clone(), item);
                }
            }
            keys = answer.unprocessed_keys.into_iter().flatten().flat_map(|(_, rest)| rest.keys).collect();
            if keys.is_empty() {
                return Ok(());
            }
            if keys.len() < asked {
                backoff = Backoff::default();
            }
            if !backoff.wait().await {
                let (tries, keys) = (backoff.tries(), keys.len());
                return Err(TableError::Unavailable(format!(
                    "DynamoDB left {keys} keys out of {tries} answers to BatchGetItem"
                )));
            }
        }
    }

    pub(super) async fn read_page(&self, query: Query) -> Result<Page, TableError> {
        let Some(start) = start(&query) else { return Ok(Page { items: Vec::new(), next: None }) };
        let mut placeholders = Placeholders::default();
        let partition = placeholders.value(AttributeValue::S(query.partition.clone()));
        let mut range = format!("{} = {partition}", placeholders.name(PARTITION));
        if !query.prefix.is_empty() {
            let prefix = placeholders.value(AttributeValue::S(query.prefix.clone()));
            range += &format!(" AND begins_with({}, {prefix})", placeholders.name(SORT));
        }
        let start = start.map(|sort| of_key(&Key::new(&query.partition, sort)));
        let request = self.client.query().table_name(&self.name).consistent_read(true).key_condition_expression(range);
        let request = request
            .set_expression_attribute_names(placeholders.names())
            .set_expression_attribute_values(placeholders.values())
            .scan_index_forward(!query.descending)
            .limit(i32::try_from(query.limit).unwrap_or(i32::MAX))
            .set_exclusive_start_key(start);
        let answer = request.send().await.map_err(|error| self.failed(Problem::new("DynamoDB", "Query", &error)))?;
        let now = Timestamp::now();
        let items = answer.items.unwrap_or_default().into_iter().filter_map(|item| live(Some(item), now).transpose());
        let next = match answer.last_evaluated_key.and_then(|mut key| key.remove(SORT)) {
            Some(AttributeValue::S(sort)) => Some(sort),
            _ => None,
        };
        Ok(Page { items: items.collect::<Result<_, _>>()?, next })
    }
}

/// The key to start after, if any: it has to be one that the query could have found. `None` where nothing is left.
fn start(query: &Query) -> Option<Option<&str>> {
    let Some(after) = query.after.as_deref() else { return Some(None) };
    if !after.is_empty() && after.starts_with(&query.prefix) {
        return Some(Some(after));
    }
    let lies_behind = if query.descending { after < query.prefix.as_str() } else { after > query.prefix.as_str() };
    // Descending from the empty text nothing is left, either.
    if lies_behind || (query.descending && after.is_empty()) { None } else { Some(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(prefix: &str, after: &str, descending: bool) -> Option<Option<String>> {
        let (partition, prefix, after) = ("p".to_owned(), prefix.to_owned(), Some(after.to_owned()));
        start(&Query { partition, prefix, after, descending, limit: 1 }).map(|start| start.map(str::to_owned))
    }

    #[test]
    fn a_page_begins_within_its_prefix_or_not_at_all() {
        for descending in [false, true] {
            assert_eq!(from("b", "b1", descending), Some(Some("b1".into())));
            assert_eq!(from("", "x", descending), Some(Some("x".into())));
        }
        assert_eq!((from("b", "a", false), from("b", "c", false)), (Some(None), None));
        assert_eq!((from("b", "c", true), from("b", "a", true)), (Some(None), None));
        assert_eq!((from("", "", false), from("", "", true), from("b", "", true)), (Some(None), None, None));
    }
}
