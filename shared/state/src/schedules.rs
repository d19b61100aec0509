//! Schedules: a tick starts the rules whose time has come.
//!
//! Partition `schedules`, sort key the rule's ID: up to which time the rule's schedule has been done. An item a rule, written when a run
//! begins and when a schedule is seen for the first time.
//!
//! Ticks come every minute, twice, late or several at once. A scheduled time makes one task all the same: its ID derives from the rule and
//! that time, so that its job is de-duplicated and its log is one; and a time that is noted as done is not begun again. After an outage only
//! the newest time that was missed is made up. A time that comes while the rule's last scheduled run is still at work waits for its end, and of
//! several such only the newest is left.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use transship_model::{Rule, RuleId, Schedule, TaskHead, TaskId, Trigger};

use crate::{
    Catalog, Condition, Events, Item, Jobs, Key, Op, StateError, Table, TableError, TaskLog, dispatch, document, first_runs,
};

/// Starts the rules whose time has come.
pub struct Scheduler {
    catalog: Arc<Catalog>,
    table: Arc<dyn Table>,
    log: TaskLog,
    jobs: Jobs,
    events: Events,
    /// When a rule is to be looked at next, as this process knows it: until then it costs nothing.
    next: Mutex<HashMap<RuleId, Next>>,
}

struct Next {
    /// The schedule that this is about.
    schedule: Schedule,
    at: Timestamp,
}

/// What is remembered of a rule's schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    /// As it was then: times before it was changed are not its times.
    schedule: Schedule,
    /// Times up to this one are done, or were before the rule had the schedule.
    done: Timestamp,
    /// The last run that it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task: Option<TaskId>,
}

/// What is to be done about a rule.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// Its schedule is new: what comes from now on is to be done.
    Begin,
    /// This time has come.
    Run(Timestamp),
    /// Nothing before the next time.
    Wait,
}

/// An item is kept for as long after it was written: longer than a year, because there are yearly schedules.
const KEEP: Duration = Duration::from_secs(400 * 24 * 3600);
/// A run that has begun longer ago holds no other back, whatever its log says.
const HOLDS_BACK: Duration = Duration::from_secs(48 * 3600);
/// A run that is not in the log yet is taken to be under way for so long: its event waits its turn.
const UNLOGGED: Duration = Duration::from_secs(3600);
/// So many items are read at once, and so many written.
const AT_ONCE: usize = 50;

impl Scheduler {
    /// A scheduler over these stores.
    pub fn new(catalog: Arc<Catalog>, table: Arc<dyn Table>, jobs: Jobs, events: Events) -> Self {
        let log = TaskLog::new(table.clone());
        Self { catalog, table, log, jobs, events, next: Mutex::default() }
    }

    /// Starts what is due at `now`, and returns its tasks. It costs one read where nothing is.
    ///
    /// # Errors
    /// See [`StateError`]; another tick makes good what is missing.
    pub async fn tick(&self, now: Timestamp) -> Result<Vec<TaskId>, StateError> {
        let catalog = self.catalog.snapshot().await?;
        let due = self.due(catalog.rules().filter(|rule| rule.enabled), now);
        let mut begun = Vec::new();
        for rules in due.chunks(AT_ONCE) {
            begun.extend(self.start(rules, now).await?);
        }
        // Whoever has made a rule begins its first run; what a crash has come in between is begun here, after the others.
        if catalog.rules().any(|rule| catalog.begins(rule).is_some()) {
            first_runs::start_all(&self.catalog, &self.jobs, &self.events).await?;
        }
        Ok(begun)
    }

    /// The rules that may be due as far as this process knows, which forgets those that have no schedule any more.
    fn due<'a>(&self, rules: impl Iterator<Item = &'a Arc<Rule>>, now: Timestamp) -> Vec<(&'a Rule, &'a Schedule)> {
        let mut known = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = HashMap::new();
        let mut due = Vec::new();
        for rule in rules {
            let Some(schedule) = &rule.schedule else { continue };
            match known.remove(&rule.id).filter(|next| next.schedule == *schedule) {
                Some(next) if next.at > now => drop(kept.insert(rule.id, next)),
                _ => due.push((rule.as_ref(), schedule)),
            }
        }
        *known = kept;
        due
    }

    /// Decides about some rules, and starts those that are due.
    async fn start(&self, rules: &[(&Rule, &Schedule)], now: Timestamp) -> Result<Vec<TaskId>, StateError> {
        let keys: Vec<Key> = rules.iter().map(|(rule, _)| key(rule.id)).collect();
        let items = self.table.get_many(&keys).await?;
        let (mut jobs, mut events, mut begun, mut writes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for ((rule, schedule), item) in rules.iter().copied().zip(items) {
            let known: Option<Stored> = item.map(document::value).transpose()?;
            let (done, task) = match decide(schedule, known.as_ref(), now) {
                Decision::Wait => {
                    self.wait(rule.id, schedule, now);
                    continue;
                }
                Decision::Begin => (now, None),
                Decision::Run(_) if self.is_running(known.as_ref(), now).await? => {
                    tracing::info!(rule = rule.path(), "its schedule's time has come, and waits for the end of its last run");
                    continue;
                }
                Decision::Run(time) => (time, Some(task(rule, time, now))),
            };
            let task_id = task.as_ref().map(|task| task.id.clone());
            if let Some(task) = task {
                tracing::info!(rule = rule.path(), task = %task.id, time = %done, "its schedule's time has come");
                begun.push(task.id.clone());
                let (job, event) = dispatch::full_run(task);
                jobs.push(job);
                events.push(event);
            }
            writes.push((rule.id, known, Stored { schedule: schedule.clone(), done, task: task_id }));
        }
        if !jobs.is_empty() {
            // The job first, as everywhere; noted last, so that a crash in between leaves it to be begun again, as the same task.
            self.jobs.send(&jobs).await?;
            self.events.send(&events).await?;
        }
        let noted = stream::iter(writes).map(|(id, known, now)| self.note(id, known, now)).buffer_unordered(AT_ONCE);
        let noted: Vec<(RuleId, Schedule)> = noted.try_collect().await?;
        noted.iter().for_each(|(id, schedule)| self.wait(*id, schedule, now));
        Ok(begun)
    }

    /// There is nothing to be done for this rule before its next time.
    fn wait(&self, id: RuleId, schedule: &Schedule, now: Timestamp) {
        let Some(at) = schedule.next_after(now) else { return };
        self.next.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Next { schedule: schedule.clone(), at });
    }

    /// Notes what is done, unless another tick has: then that has done the same.
    async fn note(&self, id: RuleId, known: Option<Stored>, now: Stored) -> Result<(RuleId, Schedule), StateError> {
        let condition = match known {
            None => Condition::Absent,
            Some(known) => Condition::Equals("done".into(), Value::from(known.done.to_string())),
        };
        let item =
            Item { key: key(id), attributes: document::attributes(&now)?, expires: Timestamp::now().checked_add(KEEP).ok() };
        match self.table.write(vec![Op::Put { item, condition: Some(condition) }]).await {
            Ok(()) | Err(TableError::Condition(_)) => Ok((id, now.schedule)),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the last run that a schedule has begun is still at work.
    async fn is_running(&self, known: Option<&Stored>, now: Timestamp) -> Result<bool, StateError> {
        let Some(Stored { done, task: Some(task), .. }) = known else { return Ok(false) };
        let age = now.duration_since(*done).unsigned_abs();
        if age > HOLDS_BACK {
            return Ok(false);
        }
        Ok(match self.log.task(task).await? {
            Some(task) => task.ended.is_none(),
            None => age < UNLOGGED,
        })
    }
}

/// What is to be done about a schedule, of which that much is known.
fn decide(schedule: &Schedule, known: Option<&Stored>, now: Timestamp) -> Decision {
    let Some(known) = known.filter(|known| known.schedule == *schedule) else { return Decision::Begin };
    match schedule.latest(now) {
        Some(latest) if latest > known.done => Decision::Run(latest),
        _ => Decision::Wait,
    }
}

/// The task of a scheduled time: the same whoever begins it.
fn task(rule: &Rule, time: Timestamp, now: Timestamp) -> TaskHead {
    TaskHead {
        id: TaskId::derive(rule.id, time, &format!("schedule\n{time}")),
        instance: rule.source.instance.clone(),
        rule: rule.name.clone(),
        trigger: Trigger::Schedule,
        created: now,
    }
}

fn key(rule: RuleId) -> Key {
    Key::new("schedules", rule.to_string())
}
