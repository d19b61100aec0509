//! Lists of tasks by instance, rule, status and time, the newest first.
//!
//! Partition `history/<instance>`: each task whose source that instance is. Partition `open`: each task that has not ended. Partition
//! `outcomes/<instance>/<status>`: tasks that ended otherwise than by success. The sort key is the task's place in time, and across
//! partitions: its ordinal, then its rule. An entry is there before its task is and may outlive it; what counts is the task.

use std::collections::{BTreeSet, HashMap, VecDeque};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde_json::{Map, Value};
use transship_model::{InstanceName, RuleId, Task, TaskHead, TaskId, TaskStatus};

use super::{Listing, TaskLog, read_task, task_key};
use crate::{Item, Key, Op, Query, StateError, TableError};

/// Which tasks are wanted.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Of these source instances.
    pub instances: BTreeSet<InstanceName>,
    /// Of this rule, whose source is one of them.
    pub rule: Option<RuleId>,
    /// With this status.
    pub status: Option<TaskStatus>,
    /// Triggered then or later, to the millisecond.
    pub since: Option<Timestamp>,
    /// Triggered before that, to the millisecond.
    pub until: Option<Timestamp>,
}

/// Tasks that have not ended.
const OPEN: &str = "open";
/// So many entries are looked at for one page: where few of them are wanted, a page may hold fewer than it could.
const MAX_EXAMINED: usize = 2000;
/// So many partitions are read at the same time.
const AT_ONCE: usize = 16;

/// An entry of a list: its place, and the task where the list is that of a rule.
struct Entry {
    place: String,
    task: Option<Item>,
}

/// A partition that is read from the newest entry down.
struct Reader {
    partition: String,
    /// The rule whose own tasks the partition holds.
    rule: Option<RuleId>,
    entries: VecDeque<Entry>,
    /// Where the next page begins; `None` where there is none.
    after: Option<Option<String>>,
}

impl Selection {
    fn readers(&self, from: Option<&str>) -> Vec<Reader> {
        let reader = |partition: String, rule: Option<RuleId>| {
            // A rule's tasks have their ordinals only.
            let after = from.map(|from| if rule.is_some() { from.split('-').next().unwrap_or(from) } else { from }.to_owned());
            Reader { partition, rule, entries: VecDeque::new(), after: Some(after) }
        };
        match (self.status, self.rule) {
            (Some(TaskStatus::Queued | TaskStatus::Running), _) => vec![reader(OPEN.to_owned(), None)],
            (Some(status @ (TaskStatus::Failed | TaskStatus::PartlyFailed | TaskStatus::Cancelled)), _) => {
                self.instances.iter().map(|instance| reader(outcomes(instance, status), None)).collect()
            }
            (_, Some(rule)) => vec![reader(format!("tasks/{rule}"), Some(rule))],
            (_, None) => self.instances.iter().map(|instance| reader(history(instance), None)).collect(),
        }
    }

    fn wants(&self, task: &Task) -> bool {
        self.instances.contains(&task.head.instance)
            && self.rule.is_none_or(|rule| task.head.id.rule() == rule)
            && self.status.is_none_or(|status| task.status() == status)
    }
}

impl TaskLog {
    /// A page of the tasks that are wanted, the newest first, and the task after which the next page begins. Tasks that come while pages are
    /// read are newer than what has been read: no page loses or repeats anything by them. A page may hold fewer than `limit`, even none,
    /// before the end.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn list(&self, wanted: &Selection, after: Option<&TaskId>, limit: usize) -> Result<Listing<Task>, StateError> {
        let until = wanted.until.map(instant);
        let after = after.map(place);
        let from = after.iter().chain(&until).min().map(String::as_str);
        let since = wanted.since.map(instant);
        let mut readers = wanted.readers(from);
        let page = (2 * limit / readers.len().max(1)).clamp(10, limit.max(10));
        let (mut items, mut examined, mut last) = (Vec::new(), 0, None);
        let mut is_over = false;
        while items.len() < limit && examined < MAX_EXAMINED && !is_over {
            let mut entries = Vec::new();
            while entries.len() < limit - items.len() && examined < MAX_EXAMINED {
                self.fill(&mut readers, page).await?;
                let newest = readers.iter_mut().max_by(|one, other| one.place().cmp(&other.place()));
                let entry = newest.and_then(|reader| reader.entries.pop_front());
                let Some(entry) = entry.filter(|entry| since.as_ref().is_none_or(|since| entry.place >= *since)) else {
                    is_over = true;
                    break;
                };
                examined += 1;
                last = Some(entry.place.clone());
                entries.push(entry);
            }
            items.extend(self.read(entries).await?.into_iter().filter(|task| wanted.wants(task)));
        }
        let has_more = !is_over && readers.iter().any(|reader| !reader.entries.is_empty() || reader.after.is_some());
        let next = last.filter(|_| has_more).and_then(|place| Some(task_at(&place)?.to_string()));
        Ok(Listing { items, next })
    }

    /// Sees to it that each reader has an entry, or is at its end.
    async fn fill(&self, readers: &mut [Reader], page: usize) -> Result<(), StateError> {
        let empty = readers.iter_mut().filter(|reader| reader.entries.is_empty() && reader.after.is_some());
        stream::iter(empty).map(Ok).try_for_each_concurrent(AT_ONCE, |reader| reader.turn(self, page)).await
    }

    /// The tasks of these entries, in their order.
    async fn read(&self, entries: Vec<Entry>) -> Result<Vec<Task>, StateError> {
        let ids = entries.iter().map(|entry| task_at(&entry.place).filter(|_| entry.task.is_none()));
        let keys: Vec<Key> = ids.flatten().map(|id| task_key(&id)).collect();
        let mut read: HashMap<Key, Item> = HashMap::new();
        if !keys.is_empty() {
            read.extend(self.table.get_many(&keys).await?.into_iter().flatten().map(|item| (item.key.clone(), item)));
        }
        let items = entries.into_iter().filter_map(|entry| match entry.task {
            Some(task) => Some(task),
            None => read.remove(&task_key(&task_at(&entry.place)?)),
        });
        items.map(|item| read_task(&item)).collect()
    }

    /// Enters a task that begins into the lists. Each entry is a write by itself, which costs half of what it would in a transaction with
    /// the task; without the task it is nothing.
    pub(super) async fn enter(&self, head: &TaskHead, expires: Option<Timestamp>, is_open: bool) -> Result<(), TableError> {
        let put = |partition: String, attributes: Map<String, Value>| {
            let item = Item { key: Key::new(partition, place(&head.id)), attributes, expires };
            self.table.write(vec![Op::Put { item, condition: None }])
        };
        let open = async {
            if is_open {
                put(OPEN.to_owned(), Map::from_iter([("instance".to_owned(), Value::from(head.instance.as_str()))])).await?;
            }
            Ok(())
        };
        tokio::try_join!(put(history(&head.instance), Map::new()), open)?;
        Ok(())
    }

    /// A task is not open any more. Where that can't be noted the sweep does it later.
    pub(super) async fn leave_open(&self, id: &TaskId) {
        let delete = Op::Delete { key: Key::new(OPEN, place(id)), condition: None };
        if let Err(error) = self.table.write(vec![delete]).await {
            tracing::warn!(task = %id, %error, "a task that has ended stays in the list of the open ones for a while");
        }
    }

    /// Tasks in the list of the open ones that were triggered before that time, the oldest first.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn open_before(
        &self,
        before: Timestamp,
        after: Option<String>,
        limit: usize,
    ) -> Result<Listing<OpenTask>, StateError> {
        let query = Query { partition: OPEN.into(), prefix: String::new(), after, descending: false, limit };
        let page = self.table.query(query).await?;
        let before = instant(before);
        let is_over = page.items.last().is_some_and(|item| item.key.sort >= before);
        let read = |item: &Item| {
            let suspect = item.attributes.get("suspect").and_then(|value| value.as_str()?.parse().ok());
            Some(OpenTask { task: task_at(&item.key.sort)?, suspect })
        };
        let items = page.items.iter().filter(|item| item.key.sort < before).filter_map(read).collect();
        Ok(Listing { items, next: page.next.filter(|_| !is_over) })
    }

    /// Notes since when an open task has been taken for lost.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn suspect(&self, id: &TaskId, since: Option<Timestamp>) -> Result<(), StateError> {
        let set = Map::from_iter([("suspect".to_owned(), since.map_or(Value::Null, |since| Value::from(since.to_string())))]);
        let (key, condition) = (Key::new(OPEN, place(id)), Some(crate::Condition::Present));
        match self.table.write(vec![Op::Update { key, set, add: Default::default(), expires: None, condition }]).await {
            // It has ended meanwhile.
            Ok(()) | Err(TableError::Condition(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A task in the list of the open ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTask {
    /// The task.
    pub task: TaskId,
    /// Since when it has been taken for lost.
    pub suspect: Option<Timestamp>,
}

impl Reader {
    fn place(&self) -> Option<&String> {
        self.entries.front().map(|entry| &entry.place)
    }

    /// Reads on until there is an entry, or none any more.
    async fn turn(&mut self, log: &TaskLog, limit: usize) -> Result<(), StateError> {
        while let Some(after) = self.after.take() {
            let query = Query { partition: self.partition.clone(), prefix: String::new(), after, descending: true, limit };
            let page = log.table.query(query).await?;
            self.after = page.next.map(Some);
            let rule = self.rule;
            self.entries.extend(page.items.into_iter().map(|item| match rule {
                Some(rule) => Entry { place: format!("{}-{rule}", item.key.sort), task: Some(item) },
                None => Entry { place: item.key.sort, task: None },
            }));
            if !self.entries.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// The entry of a task that ends otherwise than by success.
pub(super) fn ending(task: &Task, expires: Option<Timestamp>) -> Option<Op> {
    let status = task.status();
    let is_listed = matches!(status, TaskStatus::Failed | TaskStatus::PartlyFailed | TaskStatus::Cancelled);
    let key = || Key::new(outcomes(&task.head.instance, status), place(&task.head.id));
    is_listed.then(|| Op::Put { item: Item { key: key(), attributes: Map::new(), expires }, condition: None })
}

fn history(instance: &InstanceName) -> String {
    format!("history/{instance}")
}

fn outcomes(instance: &InstanceName, status: TaskStatus) -> String {
    format!("outcomes/{instance}/{}", status.as_str().replace(' ', "-"))
}

/// A task's place in lists of many rules' tasks.
fn place(id: &TaskId) -> String {
    format!("{}-{}", id.ordinal(), id.rule())
}

fn task_at(place: &str) -> Option<TaskId> {
    let (ordinal, rule) = place.split_once('-')?;
    format!("{rule}-{ordinal}").parse().ok()
}

/// What the places of all tasks of a time and after it come after, and those before it before. Ordinals begin with milliseconds.
fn instant(at: Timestamp) -> String {
    format!("{:012x}", at.as_millisecond().max(0))
}
