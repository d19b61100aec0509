//! What a batch of events makes of a task.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};
use transship_model::{Cancellation, Counts, Happening, Resource, ResourceState, TaskEvent, TaskHead};

use super::{CANCELLING, Waiting, item::read_counts, lists, task};
use crate::{Condition, Item, Key, Op, document};

/// A resource before and after a batch of events.
#[derive(Clone, Default)]
pub(super) struct Entry {
    pub(super) before: Option<Resource>,
    pub(super) now: Option<Resource>,
    pub(super) revision: i64,
}

/// What a batch of events sets on the task itself.
pub(super) struct Note<'a> {
    known: Option<&'a Item>,
    pub(super) set: Map<String, Value>,
}

impl<'a> Note<'a> {
    pub(super) fn new(known: Option<&'a Item>, head: &TaskHead) -> Self {
        let mut note = Self { known, set: Map::new() };
        if known.is_none() {
            note.set("head", serde_json::to_value(head).unwrap_or_default());
            note.set("open", Value::from(true));
            if !head.trigger.scans() {
                note.set("total", Value::from(1));
                note.set("repositories", Value::from(1));
            }
        }
        note
    }

    /// Takes in an event: what it sets on the task, and what becomes of its resources.
    pub(super) fn take_in(&mut self, event: &TaskEvent, resources: &mut BTreeMap<String, Entry>) {
        let head = &event.task;
        match &event.what {
            Happening::Created => {}
            Happening::Found { resources: routes } => {
                for route in routes {
                    let entry = resources.entry(route.source.name()).or_default();
                    let resource = entry.now.get_or_insert_with(|| Resource::new(route.clone(), event.at));
                    resource.found(event.at, head.created);
                }
            }
            Happening::Progress { route, progress } | Happening::Ended { route, progress, .. } => {
                self.started(progress.started.unwrap_or(event.at));
                if matches!(event.what, Happening::Ended { .. }) {
                    self.worked(event.at);
                }
                let entry = resources.entry(route.source.name()).or_default();
                entry.now.get_or_insert_with(|| Resource::new(route.clone(), head.created)).merge(event.at, &event.what);
            }
            Happening::Scanned { repositories, compared, error } => {
                self.started(event.at);
                self.most("repositories", *repositories);
                // What is told late, after the end, is no news.
                if self.current("total").is_none() {
                    self.most("compared", *compared);
                    self.error(error.as_deref());
                }
            }
            // The first end of a scan stands, as the first outcome of a resource does.
            Happening::ScanEnded { .. } | Happening::ScanStopped { .. } if self.current("total").is_some() => {}
            Happening::ScanStopped { total, compared, repositories } => {
                self.started(event.at);
                self.worked(event.at);
                self.most("repositories", *repositories);
                self.set("total", Value::from(*total));
                if *compared > 0 {
                    self.set("compared", Value::from(*compared));
                }
                self.set("stopped", Value::from(true));
                self.error(None);
            }
            Happening::Cancelled { by } => self.cancelled(by, event.at),
            Happening::ScanEnded { total, compared, repositories, error } => {
                self.started(event.at);
                self.worked(event.at);
                self.most("repositories", *repositories);
                self.set("total", Value::from(*total));
                if *compared > 0 {
                    self.set("compared", Value::from(*compared));
                }
                self.error(error.as_deref());
            }
        }
    }

    /// Where all that is to be noted of a new task is that its one resource was found, that goes into the task's own item: another would
    /// be one of a transaction, at four times the price.
    pub(super) fn keep_waiting(&mut self, changed: &mut Vec<(String, Entry)>) {
        let [(_, Entry { now: Some(resource), .. })] = &changed[..] else { return };
        // Of a push the number is known.
        if resource.state == ResourceState::Queued && self.current("total") == Some(&Value::from(1)) {
            let waiting = Waiting { route: resource.route.clone(), queued: resource.queued };
            self.set("waiting", serde_json::to_value(waiting).unwrap_or_default());
            self.set("found", Value::from(1));
            changed.clear();
        }
    }

    /// Entries of the lists of tasks that are to end, and of those that ended otherwise than by success.
    pub(super) fn listed(
        &self,
        changed: &[(String, Entry)],
        head: &TaskHead,
        closes: bool,
        expires: Option<Timestamp>,
    ) -> Vec<Op> {
        let mut ops = Vec::new();
        if self.set.contains_key("cancelled") && self.current("open") == Some(&Value::from(true)) {
            let item = Item { key: Key::new(CANCELLING, head.id.as_str()), attributes: Map::new(), expires };
            ops.push(Op::Put { item, condition: None });
        }
        if closes {
            let mut attributes = self.known.map_or_else(Map::new, |item| item.attributes.clone());
            attributes.extend(self.set.clone());
            let task = task(head.clone(), &attributes, self.counts(changed));
            ops.extend(lists::ending(&task, expires));
        }
        ops
    }

    fn counts(&self, changed: &[(String, Entry)]) -> Counts {
        let mut counts = self.known.map_or_else(Counts::default, |item| read_counts(&item.attributes));
        for (_, entry) in changed {
            if let Some(now) = &entry.now {
                counts.note(entry.before.as_ref(), now);
            }
        }
        counts
    }

    /// Whether nothing is left to do once these changes are made, as far as is known here.
    pub(super) fn is_last(&self, changed: &[(String, Entry)]) -> bool {
        let counts = self.counts(changed);
        self.current("open") == Some(&Value::from(true)) && counts.is_complete(self.current("total").and_then(Value::as_u64))
    }

    /// The task ends, when the last of its work did.
    pub(super) fn close(&mut self, events: &[&TaskEvent]) -> Timestamp {
        let ended = self.time("worked").or_else(|| events.iter().map(|event| event.at).max()).unwrap_or_else(Timestamp::now);
        self.set("ended", Value::from(ended.to_string()));
        self.set("open", Value::from(false));
        ended
    }

    pub(super) fn set(&mut self, name: &str, value: Value) {
        if self.known.and_then(|item| item.attributes.get(name)) == Some(&value) {
            self.set.remove(name);
        } else {
            self.set.insert(name.to_owned(), value);
        }
    }

    /// What is to be set, and the condition that nobody else has set anything since it was read. Counters need none.
    pub(super) fn finish(mut self) -> (Map<String, Value>, Option<Condition>) {
        if self.set.is_empty() {
            return (self.set, None);
        }
        let revision = self.known.map(|item| document::number(item, "revision"));
        self.set.insert("revision".into(), Value::from(revision.unwrap_or(0) + 1));
        let condition = match revision {
            None => Condition::Absent,
            Some(revision) => Condition::Equals("revision".into(), Value::from(revision)),
        };
        (self.set, Some(condition))
    }

    /// How many more have been compared than was known.
    pub(super) fn compared(&self) -> u64 {
        let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or(0);
        let known = number(self.known.and_then(|item| item.attributes.get("compared")));
        number(self.current("compared")).saturating_sub(known)
    }

    fn current(&self, name: &str) -> Option<&Value> {
        self.set.get(name).or_else(|| self.known?.attributes.get(name))
    }

    fn started(&mut self, at: Timestamp) {
        if self.time("started").is_none_or(|known| at < known) {
            self.set("started", Value::from(at.to_string()));
        }
    }

    /// Something ended: the task ends with the last of it.
    fn worked(&mut self, at: Timestamp) {
        if self.time("worked").is_none_or(|known| at > known) {
            self.set("worked", Value::from(at.to_string()));
        }
    }

    /// Somebody wants the task to end. The first wish counts; of two at the same time the name's order decides, so that it is one for
    /// all orders of events.
    fn cancelled(&mut self, by: &str, at: Timestamp) {
        let known = self.current("cancelled").and_then(|value| serde_json::from_value::<Cancellation>(value.clone()).ok());
        if known.is_none_or(|known| (at, by) < (known.at, known.by.as_str())) {
            let cancellation = Cancellation { by: by.to_owned(), at };
            self.set("cancelled", serde_json::to_value(cancellation).unwrap_or_default());
        }
    }

    fn time(&self, name: &str) -> Option<Timestamp> {
        self.current(name)?.as_str()?.parse().ok()
    }

    fn error(&mut self, error: Option<&str>) {
        if error != self.current("error").and_then(Value::as_str) {
            self.set("error", Value::from(error));
        }
    }

    /// What a scan has counted so far; it counts from its beginning on, so that what is told twice is counted once.
    fn most(&mut self, name: &str, so_far: u64) {
        if self.current(name).and_then(Value::as_u64).unwrap_or(0) < so_far {
            self.set(name, Value::from(so_far));
        }
    }
}
