//! The port [`Table`] in DynamoDB: a table with the keys `partition` and `sort`, both texts, and the time to live in `expires`.
//!
//! DynamoDB deletes expired items within days: until then they are left out of what is read, and count as absent in conditions.
//! All reads are strongly consistent.

mod attribute;
mod expression;
mod read;
mod write;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use jiff::Timestamp;

use super::problem::Problem;
use crate::{
    Item, Key, Op, Page, Query, Table, TableError,
    table::limits::{check_key, check_ops, check_query},
};
use attribute::Attributes;

/// A table in DynamoDB.
///
/// Needs leave for `GetItem`, `BatchGetItem`, `Query`, `PutItem`, `UpdateItem`, `DeleteItem` and `ConditionCheckItem`.
#[derive(Debug, Clone)]
pub struct DynamoDbTable {
    client: Client,
    name: String,
}

impl DynamoDbTable {
    /// The table of this name, in the client's region and account.
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self { client, name: table.into() }
    }

    /// What an answer means that is none of those which the call knows what to do about.
    fn failed(&self, problem: Problem) -> TableError {
        if problem.is("ValidationException") {
            return TableError::Invalid(problem.text);
        }
        let region = self.client.config().region().map(ToString::to_string).unwrap_or_default();
        let text = problem.text.clone();
        TableError::Unavailable(if problem.is("ResourceNotFoundException") {
            format!("there is no table {} in {region}: {text}", self.name)
        } else if problem.is_denied() {
            format!("this AWS identity may not use the table {} in {region}: {text}", self.name)
        } else {
            text
        })
    }
}

#[async_trait]
impl Table for DynamoDbTable {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        check_key(key)?;
        self.read_one(key).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, TableError> {
        keys.iter().try_for_each(check_key)?;
        match keys {
            [] => Ok(Vec::new()),
            [key] => Ok(vec![self.read_one(key).await?]),
            keys => self.read_many(keys).await,
        }
    }

    async fn query(&self, query: Query) -> Result<Page, TableError> {
        check_query(&query)?;
        self.read_page(query).await
    }

    async fn write(&self, ops: Vec<Op>) -> Result<(), TableError> {
        check_ops(&ops)?;
        match &ops[..] {
            // Nothing is written, so looking is enough, and costs less.
            [Op::Check { key, condition }] => match condition.holds(self.read_one(key).await?.as_ref()) {
                true => Ok(()),
                false => Err(TableError::Condition(0)),
            },
            ops => self.write_all(ops).await,
        }
    }
}

/// What DynamoDB has at a key, unless it has expired.
fn live(attributes: Option<Attributes>, now: Timestamp) -> Result<Option<Item>, TableError> {
    let item = attributes.map(attribute::item).transpose().map_err(TableError::Unavailable)?;
    Ok(item.filter(|item| !is_expired(item, now)))
}

fn is_expired(item: &Item, now: Timestamp) -> bool {
    item.expires.is_some_and(|expires| expires.as_second() <= now.as_second())
}
