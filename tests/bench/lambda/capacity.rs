//! What requests cost.

use std::{collections::BTreeMap, fmt, ops::AddAssign};

use serde_json::Value;
use transship_tests::relay::Call;

/// Units of DynamoDB, and requests of the others, by operation.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Cost {
    pub(crate) write_units: f64,
    pub(crate) read_units: f64,
    pub(crate) requests: BTreeMap<String, usize>,
}

impl Cost {
    pub(crate) fn of(calls: &[Call]) -> Self {
        let mut cost = Self::default();
        for call in calls {
            cost.write_units += write_units(call);
            cost.read_units += read_units(call);
            *cost.requests.entry(call.operation.clone()).or_default() += 1;
        }
        cost
    }

    /// Requests to a service.
    pub(crate) fn of_service(&self, service: &str) -> usize {
        self.requests.iter().filter(|(operation, _)| operation.starts_with(service)).map(|(_, count)| count).sum()
    }
}

impl AddAssign<&Self> for Cost {
    fn add_assign(&mut self, other: &Self) {
        self.write_units += other.write_units;
        self.read_units += other.read_units;
        for (operation, count) in &other.requests {
            *self.requests.entry(operation.clone()).or_default() += count;
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} write units, {} read units", self.write_units, self.read_units)?;
        self.requests.iter().try_for_each(|(operation, count)| write!(f, ", {count} {operation}"))
    }
}

/// What the service says; of a write that it refused because of a condition, one unit an item, since all of ours are below 1 KB, and
/// twice that in a transaction.
fn write_units(call: &Call) -> f64 {
    let is_transaction = match call.operation.as_str() {
        "DynamoDB.PutItem" | "DynamoDB.UpdateItem" | "DynamoDB.DeleteItem" | "DynamoDB.BatchWriteItem" => false,
        "DynamoDB.TransactWriteItems" => true,
        _ => return 0.0,
    };
    if !call.is_done {
        let items = call.asked["TransactItems"].as_array().map_or(1, Vec::len) as f64;
        return if is_transaction { items * 2.0 } else { items };
    }
    let consumed = &call.answered["ConsumedCapacity"];
    let units = |consumed: &Value| consumed["CapacityUnits"].as_f64().expect("the service tells its units");
    consumed.as_array().map_or_else(|| units(consumed), |tables| tables.iter().map(units).sum())
}

/// By the sizes of what was read: the emulator says one unit, whatever the size.
fn read_units(call: &Call) -> f64 {
    let consistency = |asked: &Value| if asked["ConsistentRead"] == true { 1.0 } else { 0.5 };
    match call.operation.as_str() {
        "DynamoDB.GetItem" => blocks(size(&call.answered["Item"])) * consistency(&call.asked),
        "DynamoDB.Query" => {
            let items = call.answered["Items"].as_array().into_iter().flatten();
            blocks(items.map(size).sum()) * consistency(&call.asked)
        }
        "DynamoDB.BatchGetItem" => {
            let tables = call.asked["RequestItems"].as_object().into_iter().flatten();
            tables
                .map(|(name, asked)| {
                    let keys = asked["Keys"].as_array().map_or(0, Vec::len);
                    let items = call.answered["Responses"][name].as_array().map_or(&[][..], Vec::as_slice);
                    // What is not there is paid for, too.
                    let missing = (keys - items.len()) as f64;
                    (items.iter().map(|item| blocks(size(item))).sum::<f64>() + missing) * consistency(asked)
                })
                .sum()
        }
        "DynamoDB.TransactGetItems" => {
            let items = call.answered["Responses"].as_array().into_iter().flatten();
            items.map(|item| blocks(size(&item["Item"])) * 2.0).sum()
        }
        _ => 0.0,
    }
}

/// 4 KB are a unit, and nothing is less.
fn blocks(bytes: usize) -> f64 {
    bytes.div_ceil(4096).max(1) as f64
}

/// The size of an item.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>
fn size(item: &Value) -> usize {
    item.as_object().into_iter().flatten().map(|(name, value)| name.len() + value_size(value)).sum()
}

fn value_size(value: &Value) -> usize {
    let Some((kind, value)) = value.as_object().and_then(|value| value.iter().next()) else { return 0 };
    match (kind.as_str(), value) {
        ("S", Value::String(text)) => text.len(),
        ("N", Value::String(digits)) => digits.len().div_ceil(2) + 1,
        ("B", Value::String(base64)) => base64.len() / 4 * 3,
        ("L", Value::Array(values)) => 3 + values.iter().map(|value| 1 + value_size(value)).sum::<usize>(),
        ("M", Value::Object(values)) => {
            3 + values.iter().map(|(name, value)| 1 + name.len() + value_size(value)).sum::<usize>()
        }
        (_, Value::Array(set)) => set.iter().filter_map(Value::as_str).map(str::len).sum(),
        _ => 1,
    }
}
