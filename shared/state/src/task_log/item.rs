//! A task as its item has it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use transship_model::{Counts, Task, TaskHead, TaskId};

use crate::{Item, Key, StateError};

const COUNTERS: [&str; 10] = [
    "found",
    "copied",
    "unchanged",
    "deleted",
    "skipped",
    "cancelled_resources",
    "failed",
    "bytes_moved",
    "bytes_mounted",
    "bytes_present",
];

pub(super) fn counters(counts: &Counts) -> BTreeMap<String, i64> {
    let Counts { found, copied, unchanged, deleted, skipped, cancelled, failed, .. } = *counts;
    let Counts { bytes_moved, bytes_mounted, bytes_present, .. } = *counts;
    let values = [found, copied, unchanged, deleted, skipped, cancelled, failed, bytes_moved, bytes_mounted, bytes_present];
    let amounts = COUNTERS.into_iter().zip(values).filter(|(_, value)| *value > 0);
    amounts.map(|(name, value)| (name.to_owned(), i64::try_from(value).unwrap_or(i64::MAX))).collect()
}

pub(super) fn read_counts(attributes: &Map<String, Value>) -> Counts {
    let number = |name: &str| attributes.get(name).and_then(Value::as_u64).unwrap_or(0);
    let [found, copied, unchanged, deleted, skipped, cancelled, failed, bytes_moved, bytes_mounted, bytes_present] =
        COUNTERS.map(number);
    // An older version did not tell what was mounted from what was there.
    let bytes_present = bytes_present + number("bytes_saved");
    Counts { found, copied, unchanged, deleted, skipped, cancelled, failed, bytes_moved, bytes_mounted, bytes_present }
}

pub(crate) fn task_key(id: &TaskId) -> Key {
    Key::new(format!("tasks/{}", id.rule()), id.ordinal())
}

/// Whether somebody wants the task to end whose item this is.
pub(crate) fn is_cancelled(task: &Item) -> bool {
    task.attributes.contains_key("cancelled")
}

pub(super) fn read_task(item: &Item) -> Result<Task, StateError> {
    let head = item.attributes.get("head").cloned().unwrap_or_default();
    let head: TaskHead = serde_json::from_value(head).map_err(|error| {
        let what = format!("the item {} / {}", item.key.partition, item.key.sort);
        StateError::Corrupt { what, why: error.to_string() }
    })?;
    Ok(task(head, &item.attributes, read_counts(&item.attributes)))
}

pub(super) fn task(head: TaskHead, attributes: &Map<String, Value>, mut counts: Counts) -> Task {
    let number = |name: &str| attributes.get(name).and_then(Value::as_u64);
    let time = |name: &str| attributes.get(name).and_then(|value| value.as_str()?.parse().ok());
    let compared = number("compared").unwrap_or(0);
    counts.found += compared;
    counts.unchanged += compared;
    Task {
        head,
        counts,
        compared,
        total: number("total").map(|total| total + compared),
        repositories: number("repositories").unwrap_or(0),
        started: time("started"),
        ended: time("ended"),
        error: attributes.get("error").and_then(|error| error.as_str().map(str::to_owned)),
        cancelled: attributes.get("cancelled").and_then(|value| serde_json::from_value(value.clone()).ok()),
        stopped: attributes.get("stopped") == Some(&Value::from(true)),
    }
}
