//! The task log. Only the logger writes it.
//!
//! Partition `tasks/<rule ID>`, sort key the rest of the task's ID: a task, so that a rule's tasks are one query and any task is one
//! get. Partition `resources/<task ID>`, sort key the source's `repository:tag`: a resource. A task's counters grow in the
//! transaction that moves its resources, so that an event that arrives twice is counted once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Map, Value};
use transship_model::{Counts, Happening, Resource, RuleId, Task, TaskEvent, TaskHead, TaskId};

use crate::{Condition, Item, Key, Op, Query, StateError, Table, TableError, document, table::MAX_OPS};

/// A page of a listing.
#[derive(Debug, Clone)]
pub struct Listing<T> {
    /// What is on the page.
    pub items: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// Reads and writes the log.
#[derive(Clone)]
pub struct TaskLog {
    table: Arc<dyn Table>,
}

/// A resource and the revision of its item.
#[derive(serde::Serialize, serde::Deserialize)]
struct Stored {
    #[serde(flatten)]
    resource: Resource,
    revision: i64,
}

/// How often a write is tried again when others change the same task.
const TRIES: usize = 20;

impl TaskLog {
    /// How long tasks are kept after their beginning.
    pub const KEEP: Duration = Duration::from_secs(90 * 24 * 3600);

    /// The log in a table.
    pub fn new(table: Arc<dyn Table>) -> Self {
        Self { table }
    }

    /// A task.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn task(&self, id: &TaskId) -> Result<Option<Task>, StateError> {
        self.table.get(&task_key(id)).await?.map(|item| read_task(&item)).transpose()
    }

    /// A rule's tasks, the newest first.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn tasks(&self, rule: RuleId, after: Option<String>, limit: usize) -> Result<Listing<Task>, StateError> {
        let query = Query { partition: format!("tasks/{rule}"), prefix: String::new(), after, descending: true, limit };
        let page = self.table.query(query).await?;
        Ok(Listing { items: page.items.iter().map(read_task).collect::<Result<_, _>>()?, next: page.next })
    }

    /// A task's resources, in the order of their names at the source.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn resources(&self, id: &TaskId, after: Option<String>, limit: usize) -> Result<Listing<Resource>, StateError> {
        let query = Query { partition: format!("resources/{id}"), prefix: String::new(), after, descending: false, limit };
        let page = self.table.query(query).await?;
        let read = |item| document::value::<Stored>(item).map(|stored| stored.resource);
        Ok(Listing { items: page.items.into_iter().map(read).collect::<Result<_, _>>()?, next: page.next })
    }

    /// Takes in events, of any tasks, in any order, for the first or the second time. Returns the tasks that they have closed.
    ///
    /// What can't be stored, or does not fit what is, is reported and left out, so that it does not keep the others from the log.
    ///
    /// # Errors
    /// See [`StateError`]; giving it the same events again is safe.
    pub async fn record(&self, events: &[TaskEvent]) -> Result<Vec<Task>, StateError> {
        let mut by_task: BTreeMap<&TaskId, Vec<&TaskEvent>> = BTreeMap::new();
        for event in events {
            by_task.entry(&event.task.id).or_default().push(event);
        }
        let mut closed = Vec::new();
        for (id, events) in by_task {
            let mut tries = 0;
            loop {
                match self.record_task(id, &events).await {
                    Ok(task) => break closed.extend(task),
                    Err(TableError::Condition(_)) if tries < TRIES => tries += 1,
                    Err(TableError::Condition(_)) => return Err(StateError::Contended(format!("task {id}"))),
                    Err(error @ TableError::Invalid(_)) => break tracing::error!(task = %id, %error, "events are lost"),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(closed)
    }

    /// One task's events: reads what is known, merges, and writes what has changed of it.
    async fn record_task(&self, id: &TaskId, events: &[&TaskEvent]) -> Result<Option<Task>, TableError> {
        let head = &events[0].task;
        let mut resources = self.read_resources(id, events).await?;
        let task = self.table.get(&task_key(id)).await?;
        let mut note = Note::new(task.as_ref(), head);
        for event in events {
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
                    note.started(progress.started.unwrap_or(event.at));
                    if matches!(event.what, Happening::Ended { .. }) {
                        note.worked(event.at);
                    }
                    let entry = resources.entry(route.source.name()).or_default();
                    entry.now.get_or_insert_with(|| Resource::new(route.clone(), head.created)).merge(event.at, &event.what);
                }
                Happening::Scanned { repositories, error } => {
                    note.started(event.at);
                    note.repositories(*repositories);
                    // What is told late, after the end, is no news.
                    if note.current("total").is_none() {
                        note.error(error.as_deref());
                    }
                }
                // The first end of a scan stands, as the first outcome of a resource does.
                Happening::ScanEnded { .. } if note.current("total").is_some() => {}
                Happening::ScanEnded { total, repositories, error } => {
                    note.started(event.at);
                    note.worked(event.at);
                    note.repositories(*repositories);
                    note.set("total", Value::from(*total));
                    note.error(error.as_deref());
                }
            }
        }
        let expires = head.created.checked_add(Self::KEEP).ok();
        let changed: Vec<_> = resources.into_iter().filter(|(_, entry)| entry.now != entry.before).collect();
        let (mut set, mut condition) = note.finish();
        // At least one write where anything at all is to be set.
        let chunks =
            changed.chunks(MAX_OPS - 1).map(<[_]>::to_vec).chain((changed.is_empty() && !set.is_empty()).then(Vec::new));
        for chunk in chunks {
            let mut counts = Counts::default();
            let mut ops = Vec::with_capacity(chunk.len() + 1);
            for (name, entry) in chunk {
                let Some(now) = entry.now else { continue };
                counts.note(entry.before.as_ref(), &now);
                let condition = match entry.revision {
                    0 => Condition::Absent,
                    revision => Condition::Equals("revision".into(), Value::from(revision)),
                };
                let stored = Stored { resource: now, revision: entry.revision + 1 };
                let attributes = document::attributes(&stored).map_err(|error| TableError::Invalid(error.to_string()))?;
                let item = Item { key: Key::new(format!("resources/{id}"), name), attributes, expires };
                ops.push(Op::Put { item, condition: Some(condition) });
            }
            ops.push(Op::Update {
                key: task_key(id),
                set: std::mem::take(&mut set),
                add: counters(&counts),
                expires,
                condition: condition.take(),
            });
            self.table.write(ops).await?;
        }
        self.close(id, events).await
    }

    async fn read_resources(&self, id: &TaskId, events: &[&TaskEvent]) -> Result<BTreeMap<String, Entry>, TableError> {
        let mut names: Vec<String> = events
            .iter()
            .flat_map(|event| match &event.what {
                Happening::Found { resources } => resources.iter().map(|route| route.source.name()).collect(),
                Happening::Progress { route, .. } | Happening::Ended { route, .. } => vec![route.source.name()],
                Happening::Created | Happening::Scanned { .. } | Happening::ScanEnded { .. } => Vec::new(),
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        let keys: Vec<Key> = names.iter().map(|name| Key::new(format!("resources/{id}"), name)).collect();
        let items = self.table.get_many(&keys).await?;
        let entry = |item: Option<Item>| -> Result<Entry, TableError> {
            let Some(item) = item else { return Ok(Entry::default()) };
            let stored: Stored = document::value(item).map_err(|error| TableError::Invalid(error.to_string()))?;
            Ok(Entry { before: Some(stored.resource.clone()), now: Some(stored.resource), revision: stored.revision })
        };
        names.into_iter().zip(items).map(|(name, item)| Ok((name, entry(item)?))).collect()
    }

    /// Closes the task if nothing is left to do. It looks at the table after the write: of several writers at least the last one sees
    /// that all is there, and the condition lets only one close it.
    async fn close(&self, id: &TaskId, events: &[&TaskEvent]) -> Result<Option<Task>, TableError> {
        let Some(item) = self.table.get(&task_key(id)).await? else { return Ok(None) };
        let mut task = read_task(&item).map_err(|error| TableError::Invalid(error.to_string()))?;
        if task.ended.is_some() || !task.is_complete() {
            return Ok(None);
        }
        let worked = item.attributes.get("worked").and_then(|value| value.as_str()?.parse().ok());
        let ended = worked.or_else(|| events.iter().map(|event| event.at).max()).unwrap_or_else(Timestamp::now);
        let set =
            Map::from_iter([("ended".to_owned(), Value::from(ended.to_string())), ("open".to_owned(), Value::from(false))]);
        let condition = Some(Condition::Equals("open".into(), Value::from(true)));
        let op = Op::Update { key: task_key(id), set, add: BTreeMap::new(), expires: None, condition };
        match self.table.write(vec![op]).await {
            Ok(()) => {
                task.ended = Some(ended);
                Ok(Some(task))
            }
            Err(TableError::Condition(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A resource before and after a batch of events.
#[derive(Clone, Default)]
struct Entry {
    before: Option<Resource>,
    now: Option<Resource>,
    revision: i64,
}

/// What a batch of events sets on the task itself.
struct Note<'a> {
    known: Option<&'a Item>,
    set: Map<String, Value>,
}

impl<'a> Note<'a> {
    fn new(known: Option<&'a Item>, head: &TaskHead) -> Self {
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

    fn set(&mut self, name: &str, value: Value) {
        if self.known.and_then(|item| item.attributes.get(name)) == Some(&value) {
            self.set.remove(name);
        } else {
            self.set.insert(name.to_owned(), value);
        }
    }

    /// What is to be set, and the condition that nobody else has set anything since it was read. Counters need none.
    fn finish(mut self) -> (Map<String, Value>, Option<Condition>) {
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

    fn time(&self, name: &str) -> Option<Timestamp> {
        self.current(name)?.as_str()?.parse().ok()
    }

    fn error(&mut self, error: Option<&str>) {
        if error != self.current("error").and_then(Value::as_str) {
            self.set("error", Value::from(error));
        }
    }

    fn repositories(&mut self, repositories: u64) {
        if self.current("repositories").and_then(Value::as_u64).is_none_or(|known| repositories > known) {
            self.set("repositories", Value::from(repositories));
        }
    }
}

const COUNTERS: [&str; 7] = ["found", "copied", "unchanged", "skipped", "failed", "bytes_moved", "bytes_saved"];

fn counters(counts: &Counts) -> BTreeMap<String, i64> {
    let Counts { found, copied, unchanged, skipped, failed, bytes_moved, bytes_saved } = *counts;
    let values = [found, copied, unchanged, skipped, failed, bytes_moved, bytes_saved];
    let amounts = COUNTERS.into_iter().zip(values).filter(|(_, value)| *value > 0);
    amounts.map(|(name, value)| (name.to_owned(), i64::try_from(value).unwrap_or(i64::MAX))).collect()
}

fn task_key(id: &TaskId) -> Key {
    Key::new(format!("tasks/{}", id.rule()), id.ordinal())
}

fn read_task(item: &Item) -> Result<Task, StateError> {
    #[derive(serde::Deserialize)]
    struct Stored {
        head: TaskHead,
        #[serde(flatten)]
        rest: HashMap<String, Value>,
    }
    let stored: Stored = document::value(item.clone())?;
    let number = |name: &str| stored.rest.get(name).and_then(Value::as_u64);
    let time = |name: &str| stored.rest.get(name).and_then(|value| value.as_str()?.parse().ok());
    let [found, copied, unchanged, skipped, failed, bytes_moved, bytes_saved] = COUNTERS.map(|name| number(name).unwrap_or(0));
    Ok(Task {
        head: stored.head.clone(),
        counts: Counts { found, copied, unchanged, skipped, failed, bytes_moved, bytes_saved },
        total: number("total"),
        repositories: number("repositories").unwrap_or(0),
        started: time("started"),
        ended: time("ended"),
        error: stored.rest.get("error").and_then(|error| error.as_str().map(str::to_owned)),
    })
}
