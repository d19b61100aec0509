//! The task log. Only the logger writes it.
//!
//! Partition `tasks/<rule ID>`, sort key the rest of the task's ID: a task, so that a rule's tasks are one query and any task is one
//! get. Partition `resources/<task ID>`, sort key the source's `repository:tag`: a resource. A task's counters grow in the
//! transaction that moves its resources, so that an event that arrives twice is counted once, and the one that moves the last of them
//! closes the task. The one resource of a push is in the task's own item as long as nobody works on it. Partition `unannounced`, sort
//! key the task's ID: a task whose end is still to be told; it is put there by the transaction that closes the task and removed when it has
//! been told. Partition `cancelling`, sort key the task's ID: a task that somebody wants to end, until it has.

mod item;
mod lists;
mod note;
mod search;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Map, Value};
use transship_model::{Counts, Happening, Place, Resource, Route, RuleId, Task, TaskEvent, TaskHead, TaskId};

use item::{counters, read_task, task};
pub(crate) use item::{is_cancelled, task_key};
pub use lists::{OpenTask, Selection};
use note::{Entry, Note};

use crate::{Condition, Item, Key, Op, Query, StateError, Table, TableError, document, table::MAX_OPS};

/// A page of a listing.
#[derive(Debug, Clone)]
pub struct Listing<T> {
    /// What is on the page.
    pub items: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// What a batch of events has changed. Events that arrive again change nothing.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// The tasks that it has closed.
    pub closed: Vec<Task>,
    /// What it has added to the counters of all tasks.
    pub counts: Counts,
}

/// A task whose end is still to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unannounced {
    /// The task.
    pub task: TaskId,
    /// Subscriptions have been told; the topic has not.
    pub notified: bool,
}

impl Unannounced {
    fn read(item: &Item) -> Option<Self> {
        let notified = item.attributes.get("notified") == Some(&Value::from(true));
        Some(Self { task: item.key.sort.parse().ok()?, notified })
    }
}

/// Reads and writes the log.
#[derive(Clone)]
pub struct TaskLog {
    table: Arc<dyn Table>,
    keep: Duration,
}

/// A resource and the revision of its item.
#[derive(serde::Serialize, serde::Deserialize)]
struct Stored {
    #[serde(flatten)]
    resource: Resource,
    revision: i64,
}

/// The one resource of a task, of which nothing is known but that it was found.
#[derive(serde::Serialize, serde::Deserialize)]
struct Waiting {
    route: Route,
    queued: Timestamp,
}

impl Waiting {
    fn of(task: &Item) -> Option<Resource> {
        let waiting: Self = serde_json::from_value(task.attributes.get("waiting")?.clone()).ok()?;
        Some(Resource::new(waiting.route, waiting.queued))
    }
}

/// Tasks that somebody wants to end.
const CANCELLING: &str = "cancelling";
/// What a write has besides resources: the task, that its end is to be told, that it is to end, and an entry of a list.
const BESIDES: usize = 4;

/// Tasks whose end is still to be told.
const UNANNOUNCED: &str = "unannounced";

/// How often a write is tried again when others change the same task.
const TRIES: usize = 20;

impl TaskLog {
    /// How long tasks are kept after their beginning, unless another time is said.
    pub const KEEP: Duration = Duration::from_secs(90 * 24 * 3600);

    /// The log in a table.
    pub fn new(table: Arc<dyn Table>) -> Self {
        Self { table, keep: Self::KEEP }
    }

    /// The same, which keeps tasks for so long after their beginning.
    #[must_use]
    pub fn keeping(self, keep: Duration) -> Self {
        Self { keep, ..self }
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

    /// One of a task's resources, by its source.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn resource(&self, id: &TaskId, source: &Place) -> Result<Option<Resource>, StateError> {
        match self.table.get(&Key::new(format!("resources/{id}"), source.name())).await? {
            Some(item) => Ok(Some(document::value::<Stored>(item)?.resource)),
            None => Ok(self.waiting(id).await?.filter(|resource| resource.route.source == *source)),
        }
    }

    /// Those of a task's resources that have these sources, as far as they are known.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn resources_at(&self, id: &TaskId, sources: &[&Place]) -> Result<Vec<Resource>, StateError> {
        // Each once: DynamoDB refuses a key that is asked for twice.
        let names: BTreeSet<String> = sources.iter().map(|source| source.name()).collect();
        let keys: Vec<Key> = names.into_iter().map(|name| Key::new(format!("resources/{id}"), name)).collect();
        let items = self.table.get_many(&keys).await?;
        items.into_iter().flatten().map(|item| document::value::<Stored>(item).map(|stored| stored.resource)).collect()
    }

    /// A task's resources, in the order of their names at the source.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn resources(&self, id: &TaskId, after: Option<String>, limit: usize) -> Result<Listing<Resource>, StateError> {
        let is_first = after.is_none();
        let query = Query { partition: format!("resources/{id}"), prefix: String::new(), after, descending: false, limit };
        let page = self.table.query(query).await?;
        if is_first && page.items.is_empty() && page.next.is_none() {
            return Ok(Listing { items: self.waiting(id).await?.into_iter().collect(), next: None });
        }
        let read = |item| document::value::<Stored>(item).map(|stored| stored.resource);
        Ok(Listing { items: page.items.into_iter().map(read).collect::<Result<_, _>>()?, next: page.next })
    }

    async fn waiting(&self, id: &TaskId) -> Result<Option<Resource>, StateError> {
        Ok(self.table.get(&task_key(id)).await?.as_ref().and_then(Waiting::of))
    }

    /// When an event has changed a task last, by the logger's clock, to the second; `None` where there is none.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn moved(&self, id: &TaskId) -> Result<Option<Timestamp>, StateError> {
        let Some(item) = self.table.get(&task_key(id)).await? else { return Ok(None) };
        let moved = item.attributes.get("moved").and_then(Value::as_i64).and_then(|moved| Timestamp::from_second(moved).ok());
        // Of what an older version wrote only the beginning is known.
        Ok(Some(moved.unwrap_or(read_task(&item)?.head.created)))
    }

    /// Tasks that somebody wants to end, and that were not known to have ended yet, by their IDs.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn cancelling(&self, after: Option<String>, limit: usize) -> Result<Listing<TaskId>, StateError> {
        let query = Query { partition: CANCELLING.into(), prefix: String::new(), after, descending: false, limit };
        let page = self.table.query(query).await?;
        Ok(Listing { items: page.items.iter().filter_map(|item| item.key.sort.parse().ok()).collect(), next: page.next })
    }

    /// A task is in none of the lists of those that have not ended: it has, or is gone.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn settled(&self, id: &TaskId) -> Result<(), StateError> {
        self.leave_open(id).await;
        Ok(self.table.write(vec![Op::Delete { key: Key::new(CANCELLING, id.as_str()), condition: None }]).await?)
    }

    /// Closes a task all of whose known resources have an outcome, although there should be more of them: what was to tell of these is lost.
    /// Returns the task if this has closed it.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn close_short(&self, id: &TaskId, why: &str, is_announced: bool) -> Result<Option<Task>, StateError> {
        let Some(item) = self.table.get(&task_key(id)).await? else { return Ok(None) };
        let task = read_task(&item)?;
        if task.ended.is_some() || task.total.is_none() || task.counts.done() < task.counts.found {
            return Ok(None);
        }
        let mut note = Note::new(Some(&item), &task.head);
        // As it is stored: without what was compared.
        note.set("total", Value::from(task.counts.found - task.compared));
        if task.cancelled.is_some() {
            note.set("stopped", Value::from(true));
        } else {
            note.set("error", Value::from(why));
        }
        let (set, condition) = note.finish();
        let update = Op::Update { key: task_key(id), set, add: BTreeMap::new(), expires: None, condition };
        match self.table.write(vec![update]).await {
            Ok(()) => {}
            // It goes on after all.
            Err(TableError::Condition(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        Ok(self.close(id, &[], false, is_announced.then_some(self.expires(&task.head))).await?)
    }

    fn expires(&self, head: &TaskHead) -> Option<Timestamp> {
        head.created.checked_add(self.keep).ok()
    }

    /// Takes in events, of any tasks, in any order, for the first or the second time. Returns the tasks that they have closed.
    ///
    /// What can't be stored, or does not fit what is, is reported and left out, so that it does not keep the others from the log.
    ///
    /// # Errors
    /// See [`StateError`]; giving it the same events again is safe.
    pub async fn record(&self, events: &[TaskEvent]) -> Result<Vec<Task>, StateError> {
        Ok(self.record_for(events, &|_| false).await?.closed)
    }

    /// As [`TaskLog::record`]; a task whose end somebody is to be told is noted as [`TaskLog::unannounced`] in the transaction that
    /// closes it.
    ///
    /// # Errors
    /// As there.
    pub async fn record_for(&self, events: &[TaskEvent], has_listeners: HasListeners<'_>) -> Result<Recorded, StateError> {
        let mut by_task: BTreeMap<&TaskId, Vec<&TaskEvent>> = BTreeMap::new();
        for event in events {
            by_task.entry(&event.task.id).or_default().push(event);
        }
        let mut recorded = Recorded::default();
        for (id, events) in by_task {
            let is_announced = has_listeners(&events[0].task);
            let mut tries = 0;
            loop {
                match self.record_task(id, &events, is_announced, &mut recorded.counts).await {
                    Ok(task) => break recorded.closed.extend(task),
                    Err(TableError::Condition(_)) if tries < TRIES => tries += 1,
                    Err(TableError::Condition(_)) => return Err(StateError::Contended(format!("task {id}"))),
                    Err(error @ TableError::Invalid(_)) => break tracing::error!(task = %id, %error, "events are lost"),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(recorded)
    }

    /// Those of these tasks whose end is still to be told.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn unannounced(&self, tasks: &[TaskId]) -> Result<Vec<Unannounced>, StateError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<Key> = tasks.iter().map(unannounced_key).collect();
        let items = self.table.get_many(&keys).await?;
        Ok(items.iter().flatten().filter_map(Unannounced::read).collect())
    }

    /// All tasks that have been closed before that time, by the logger's clock, and whose end is still to be told.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn unannounced_since(
        &self,
        before: Timestamp,
        after: Option<String>,
        limit: usize,
    ) -> Result<Listing<Unannounced>, StateError> {
        let query = Query { partition: UNANNOUNCED.into(), prefix: String::new(), after, descending: false, limit };
        let page = self.table.query(query).await?;
        let is_due = |item: &&Item| {
            let closed = item.attributes.get("closed").and_then(|value| value.as_str()?.parse::<Timestamp>().ok());
            closed.is_none_or(|closed| closed < before)
        };
        Ok(Listing { items: page.items.iter().filter(is_due).filter_map(Unannounced::read).collect(), next: page.next })
    }

    /// The end of a task has been told to webhooks, and is still to be told to the topic, which did not take it.
    ///
    /// # Errors
    /// See [`StateError`]; webhooks are told again then, with the same ID.
    pub async fn notified(&self, task: &TaskId) -> Result<(), StateError> {
        let set = Map::from_iter([("notified".to_owned(), Value::from(true))]);
        let (key, condition) = (unannounced_key(task), Some(Condition::Present));
        match self.table.write(vec![Op::Update { key, set, add: BTreeMap::new(), expires: None, condition }]).await {
            // Somebody else has told it all.
            Ok(()) | Err(TableError::Condition(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The end of a task has been told.
    ///
    /// # Errors
    /// See [`StateError`]; it is told again then, with the same ID.
    pub async fn announced(&self, task: &TaskId) -> Result<(), StateError> {
        Ok(self.table.write(vec![Op::Delete { key: unannounced_key(task), condition: None }]).await?)
    }

    /// One task's events: reads what is known, merges, and writes what has changed of it. What has been added to its counters is added to
    /// `counted`.
    async fn record_task(
        &self,
        id: &TaskId,
        events: &[&TaskEvent],
        is_announced: bool,
        counted: &mut Counts,
    ) -> Result<Option<Task>, TableError> {
        let head = &events[0].task;
        let task = self.table.get(&task_key(id)).await?;
        let mut resources = self.read_resources(id, events, task.as_ref()).await?;
        let mut note = Note::new(task.as_ref(), head);
        for event in events {
            note.take_in(event, &mut resources);
        }
        let expires = self.expires(head);
        let mut changed: Vec<_> = resources.into_iter().filter(|(_, entry)| entry.now != entry.before).collect();
        // What fits one transaction closes the task as well, where it was the last of it.
        let closes = changed.len() <= MAX_OPS - BESIDES && note.is_last(&changed);
        if closes {
            note.close(events);
        }
        if task.is_none() {
            self.enter(head, expires, !closes).await?;
            note.keep_waiting(&mut changed);
        }
        let mut besides = note.listed(&changed, head, closes, expires);
        // They are read as unchanged, see [`task`], and so they are counted.
        let mut compared = note.compared();
        let (mut set, mut condition) = note.finish();
        // So that what does not move any more is found.
        let moved = Value::from(Timestamp::now().as_second());
        // At least one write where anything at all is to be set.
        let chunks =
            changed.chunks(MAX_OPS - BESIDES).map(<[_]>::to_vec).chain((changed.is_empty() && !set.is_empty()).then(Vec::new));
        for chunk in chunks {
            let mut counts = Counts::default();
            let mut ops = Vec::with_capacity(chunk.len() + BESIDES);
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
            set.insert("moved".into(), moved.clone());
            ops.push(Op::Update {
                key: task_key(id),
                set: std::mem::take(&mut set),
                add: counters(&counts),
                expires,
                condition: condition.take(),
            });
            ops.extend((closes && is_announced).then(|| to_announce(id, expires)));
            ops.append(&mut besides);
            self.table.write(ops).await?;
            let compared = std::mem::take(&mut compared);
            *counted += Counts { found: counts.found + compared, unchanged: counts.unchanged + compared, ..counts };
        }
        if closes && task.is_some() {
            self.leave_open(id).await;
        }
        self.close(id, events, closes, is_announced.then_some(expires)).await
    }

    async fn read_resources(
        &self,
        id: &TaskId,
        events: &[&TaskEvent],
        task: Option<&Item>,
    ) -> Result<BTreeMap<String, Entry>, TableError> {
        let mut names: Vec<String> = events
            .iter()
            .flat_map(|event| match &event.what {
                Happening::Found { resources } => resources.iter().map(|route| route.source.name()).collect(),
                Happening::Progress { route, .. } | Happening::Ended { route, .. } => vec![route.source.name()],
                _ => Vec::new(),
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        let keys: Vec<Key> = names.iter().map(|name| Key::new(format!("resources/{id}"), name)).collect();
        let items = self.table.get_many(&keys).await?;
        let waiting = task.and_then(Waiting::of);
        let entry = |name: &str, item: Option<Item>| -> Result<Entry, TableError> {
            let Some(item) = item else {
                let waiting = waiting.clone().filter(|resource| resource.route.source.name() == name);
                return Ok(Entry { before: waiting.clone(), now: waiting, revision: 0 });
            };
            let stored: Stored = document::value(item).map_err(|error| TableError::Invalid(error.to_string()))?;
            Ok(Entry { before: Some(stored.resource.clone()), now: Some(stored.resource), revision: stored.revision })
        };
        names.into_iter().zip(items).map(|(name, item)| entry(&name, item).map(|entry| (name, entry))).collect()
    }

    /// The task if it is closed by these events: by the write before, or now, if nothing is left to do. Of several writers none of which
    /// knew of the others, at least the last one sees here that all is there, and the condition lets only one close it.
    async fn close(
        &self,
        id: &TaskId,
        events: &[&TaskEvent],
        is_closed: bool,
        announce: Option<Option<Timestamp>>,
    ) -> Result<Option<Task>, TableError> {
        let Some(item) = self.table.get(&task_key(id)).await? else { return Ok(None) };
        let mut task = read_task(&item).map_err(|error| TableError::Invalid(error.to_string()))?;
        if is_closed {
            return Ok(Some(task));
        }
        if task.ended.is_some() || !task.is_complete() {
            return Ok(None);
        }
        let mut note = Note::new(Some(&item), &task.head);
        task.ended = Some(note.close(events));
        let condition = Some(Condition::Equals("open".into(), Value::from(true)));
        let expires = self.expires(&task.head);
        let mut ops = vec![Op::Update { key: task_key(id), set: note.set, add: BTreeMap::new(), expires: None, condition }];
        ops.extend(announce.map(|expires| to_announce(id, expires)));
        ops.extend(lists::ending(&task, expires));
        match self.table.write(ops).await {
            Ok(()) => {
                self.leave_open(id).await;
                Ok(Some(task))
            }
            Err(TableError::Condition(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether anybody is to be told of a task's end.
pub type HasListeners<'a> = &'a (dyn Fn(&TaskHead) -> bool + Sync);

fn unannounced_key(id: &TaskId) -> Key {
    Key::new(UNANNOUNCED, id.as_str())
}

fn to_announce(id: &TaskId, expires: Option<Timestamp>) -> Op {
    let attributes = Map::from_iter([("closed".to_owned(), Value::from(Timestamp::now().to_string()))]);
    Op::Put { item: Item { key: unannounced_key(id), attributes, expires }, condition: None }
}
