//! Writing: one operation as itself, several as a transaction.
//!
//! A transaction costs twice, so a single operation is none, unless it adds: where an answer is lost the SDK asks again, and only
//! a transaction has a token by which DynamoDB knows the second for the first.
//!
//! An update can't begin anew where an expired item is. It is refused there, the refusal brings the item along, and a put takes
//! the update's place.

use aws_sdk_dynamodb::{
    operation::{transact_write_items::TransactWriteItemsError, update_item::UpdateItemError},
    types::{CancellationReason, ConditionCheck, Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update},
};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    DynamoDbTable,
    attribute::{self, Attributes, of_item, of_key},
    expression::Placeholders,
    is_expired,
};
use crate::{
    Condition, Item, Op, TableError,
    aws::{backoff::Backoff, problem::Problem},
};

/// An operation, and the way that it is tried next.
struct Step<'a> {
    op: &'a Op,
    /// An update that found an expired item, and so is a put.
    begins_anew: bool,
}

/// How a try ended.
enum Outcome {
    Done,
    /// These operations were refused by their conditions, because of what was there.
    Refused(Vec<(usize, Option<Attributes>)>),
    /// Another write was in the way.
    Conflict(String),
}

impl DynamoDbTable {
    pub(super) async fn write_all(&self, ops: &[Op]) -> Result<(), TableError> {
        let mut steps: Vec<Step<'_>> = ops.iter().map(|op| Step { op, begins_anew: false }).collect();
        let mut backoff = Backoff::default();
        loop {
            let now = Timestamp::now();
            let outcome = match &steps[..] {
                [step] if !matches!(step.op, Op::Update { add, .. } if !add.is_empty()) => self.write_alone(step, now).await?,
                steps => self.write_together(steps, now).await?,
            };
            let why = match outcome {
                Outcome::Done => return Ok(()),
                Outcome::Refused(refusals) => {
                    for (index, there) in refusals {
                        if !steps[index].takes_another_way(there, now) {
                            return Err(TableError::Condition(index));
                        }
                    }
                    "an item that expired came back each time".to_owned()
                }
                Outcome::Conflict(why) => why,
            };
            if !backoff.wait().await {
                return Err(TableError::Unavailable(format!("in {} tries: {why}", backoff.tries())));
            }
        }
    }

    async fn write_alone(&self, step: &Step<'_>, now: Timestamp) -> Result<Outcome, TableError> {
        let write = step.request(&self.name, now)?;
        let refused = |there| Ok(Outcome::Refused(vec![(0, there)]));
        let problem = if let Some(put) = write.put {
            let request = self.client.put_item().table_name(put.table_name).set_item(Some(put.item));
            let request = request
                .set_condition_expression(put.condition_expression)
                .set_expression_attribute_names(put.expression_attribute_names)
                .set_expression_attribute_values(put.expression_attribute_values);
            let Err(error) = request.send().await else { return Ok(Outcome::Done) };
            Problem::new("DynamoDB", "PutItem", &error)
        } else if let Some(update) = write.update {
            let request = self.client.update_item().table_name(update.table_name).set_key(Some(update.key));
            let request = request
                .update_expression(update.update_expression)
                .set_condition_expression(update.condition_expression)
                .set_expression_attribute_names(update.expression_attribute_names)
                .set_expression_attribute_values(update.expression_attribute_values)
                .set_return_values_on_condition_check_failure(update.return_values_on_condition_check_failure);
            let Err(error) = request.send().await else { return Ok(Outcome::Done) };
            if let Some(UpdateItemError::ConditionalCheckFailedException(refusal)) = error.as_service_error() {
                return refused(refusal.item.clone());
            }
            Problem::new("DynamoDB", "UpdateItem", &error)
        } else if let Some(delete) = write.delete {
            let request = self.client.delete_item().table_name(delete.table_name).set_key(Some(delete.key));
            let request = request
                .set_condition_expression(delete.condition_expression)
                .set_expression_attribute_names(delete.expression_attribute_names)
                .set_expression_attribute_values(delete.expression_attribute_values);
            let Err(error) = request.send().await else { return Ok(Outcome::Done) };
            Problem::new("DynamoDB", "DeleteItem", &error)
        } else {
            return Err(TableError::Invalid("a check by itself writes nothing".to_owned()));
        };
        if problem.is("ConditionalCheckFailedException") {
            return refused(None);
        }
        if problem.is("TransactionConflictException") {
            return Ok(Outcome::Conflict(problem.text));
        }
        Err(self.failed(problem))
    }

    async fn write_together(&self, steps: &[Step<'_>], now: Timestamp) -> Result<Outcome, TableError> {
        let writes = steps.iter().map(|step| step.request(&self.name, now)).collect::<Result<_, _>>()?;
        let Err(error) = self.client.transact_write_items().set_transact_items(Some(writes)).send().await else {
            return Ok(Outcome::Done);
        };
        let problem = Problem::new("DynamoDB", "TransactWriteItems", &error);
        match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(canceled)) => {
                judge(canceled.cancellation_reasons(), problem)
            }
            Some(TransactWriteItemsError::TransactionInProgressException(_)) => Ok(Outcome::Conflict(problem.text)),
            _ => Err(self.failed(problem)),
        }
    }
}

/// What DynamoDB's reasons for a cancelled transaction, one for each operation, come to.
fn judge(reasons: &[CancellationReason], problem: Problem) -> Result<Outcome, TableError> {
    let code = |reason: &CancellationReason| reason.code.as_deref().unwrap_or("None").to_owned();
    let of = |codes: &[&str]| reasons.iter().position(|reason| codes.contains(&code(reason).as_str()));
    let words = |index: usize| {
        let message = reasons[index].message.as_deref().unwrap_or_default();
        format!("DynamoDB cancelled the write because of operation {index}: {} {message}", code(&reasons[index]))
    };
    if let Some(index) = of(&["ValidationError", "ItemCollectionSizeLimitExceeded"]) {
        return Err(TableError::Invalid(words(index)));
    }
    let refused = |(index, reason): (usize, &CancellationReason)| {
        (code(reason) == "ConditionalCheckFailed").then(|| (index, reason.item.clone()))
    };
    let refusals: Vec<_> = reasons.iter().enumerate().filter_map(refused).collect();
    if !refusals.is_empty() {
        return Ok(Outcome::Refused(refusals));
    }
    match of(&["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"]) {
        Some(index) => Ok(Outcome::Conflict(words(index))),
        None => Err(TableError::Unavailable(problem.text)),
    }
}

impl Step<'_> {
    /// Whether there is another way to do what was refused: beginning anew where an expired item is, and going on from it again
    /// where somebody else has done that meanwhile.
    fn takes_another_way(&mut self, there: Option<Attributes>, now: Timestamp) -> bool {
        let Op::Update { condition, .. } = self.op else { return false };
        if self.begins_anew {
            self.begins_anew = false;
            return true;
        }
        let expired = there.and_then(|there| attribute::item(there).ok()).is_some_and(|item| is_expired(&item, now));
        self.begins_anew = expired && condition.as_ref().is_none_or(|condition| condition.holds(None));
        self.begins_anew
    }

    fn request(&self, table: &str, now: Timestamp) -> Result<TransactWriteItem, TableError> {
        let mut at = Placeholders::default();
        let builder = TransactWriteItem::builder();
        let builder = match self.op {
            Op::Put { item, condition } => {
                let condition = condition.as_ref().map(|condition| at.condition(condition, now));
                builder.put(put(table, item, condition, &at)?)
            }
            Op::Update { key, set, add, expires, .. } if self.begins_anew => {
                let added = add.iter().map(|(name, n)| (name.clone(), Value::from(*n)));
                let attributes = set.clone().into_iter().chain(added).collect();
                let condition = at.condition(&Condition::Absent, now);
                builder.put(put(table, &Item { key: key.clone(), attributes, expires: *expires }, Some(condition), &at)?)
            }
            Op::Update { key, set, add, expires, condition } => {
                let (change, condition) = (at.update(set, add, *expires), at.condition_of_update(condition.as_ref(), now));
                let update = Update::builder().table_name(table).set_key(Some(of_key(key)));
                let update = update
                    .update_expression(change)
                    .condition_expression(condition)
                    .set_expression_attribute_names(at.names())
                    .set_expression_attribute_values(at.values())
                    .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
                builder.update(update.build().map_err(incomplete)?)
            }
            Op::Delete { key, condition } => {
                let condition = condition.as_ref().map(|condition| at.condition(condition, now));
                let delete = Delete::builder().table_name(table).set_key(Some(of_key(key)));
                let delete = delete
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(at.names())
                    .set_expression_attribute_values(at.values());
                builder.delete(delete.build().map_err(incomplete)?)
            }
            Op::Check { key, condition } => {
                let condition = at.condition(condition, now);
                let check = ConditionCheck::builder().table_name(table).set_key(Some(of_key(key)));
                let check = check
                    .condition_expression(condition)
                    .set_expression_attribute_names(at.names())
                    .set_expression_attribute_values(at.values());
                builder.condition_check(check.build().map_err(incomplete)?)
            }
        };
        Ok(builder.build())
    }
}

fn put(table: &str, item: &Item, condition: Option<String>, at: &Placeholders) -> Result<Put, TableError> {
    let put = Put::builder().table_name(table).set_item(Some(of_item(item)));
    let put = put
        .set_condition_expression(condition)
        .set_expression_attribute_names(at.names())
        .set_expression_attribute_values(at.values());
    put.build().map_err(incomplete)
}

fn incomplete(error: aws_sdk_dynamodb::error::BuildError) -> TableError {
    TableError::Invalid(error.to_string())
}
