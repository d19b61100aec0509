//! Ticks with a clock of the test's own, over the embedded store.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::json;
use transship_model::{Happening, Instance, Job, Owner, Rule, TaskEvent, TaskId, Trigger};
use transship_state::{
    Catalog, Draft, Events, Item, Jobs, Key, Op, Page, Query, Scheduler, Snapshot, StateError, Table, TableError, TaskLog,
    messages,
    sqlite::{QueueKind, SqliteQueue, SqliteStore, SqliteTable},
};

/// A table that counts what is asked of it.
struct Counted(SqliteTable, AtomicUsize);

#[async_trait]
impl Table for Counted {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.get(key).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, TableError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.get_many(keys).await
    }

    async fn query(&self, query: Query) -> Result<Page, TableError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.query(query).await
    }

    async fn write(&self, ops: Vec<Op>) -> Result<(), TableError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.write(ops).await
    }
}

struct World {
    store: SqliteStore,
    table: Arc<Counted>,
    jobs: SqliteQueue,
    events: SqliteQueue,
    _dir: tempfile::TempDir,
}

impl World {
    async fn with(rules: &[Rule]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let (jobs, events) = (store.queue("jobs", QueueKind::Fifo), store.queue("events", QueueKind::Standard));
        let table = Arc::new(Counted(store.table(), AtomicUsize::new(0)));
        let world = Self { store, table, jobs, events, _dir: dir };
        world.replace(rules).await;
        world
    }

    async fn replace(&self, rules: &[Rule]) {
        let instance = |name: &str| -> Instance {
            serde_json::from_value(json!({"name": name, "endpoint": "https://r.example", "kind": "oci"})).unwrap()
        };
        let catalog = Catalog::new(Arc::new(self.store.table()));
        catalog.replace(&[instance("a"), instance("b")], rules).await.unwrap();
    }

    /// That of a process that has just been started.
    fn scheduler(&self) -> Scheduler {
        let (jobs, events) = (Jobs(Arc::new(self.jobs.clone())), Events(Arc::new(self.events.clone())));
        Scheduler::new(Arc::new(Catalog::new(self.table.clone())), self.table.clone(), jobs, events)
    }

    /// The calls of the table since this was asked last.
    fn calls(&self) -> usize {
        self.table.1.swap(0, Ordering::Relaxed)
    }

    /// The tasks of the scans that wait in the queue, which are not there any more.
    async fn scans(&self) -> Vec<TaskId> {
        let mut tasks = Vec::new();
        while self.jobs.depth().await.unwrap().visible > 0 {
            for message in self.jobs.receive(100, Duration::from_secs(600)).await.unwrap() {
                match messages::read_job(&message.body).unwrap() {
                    Job::Scan(job) => {
                        assert_eq!(job.task.trigger, Trigger::Schedule);
                        tasks.push(job.task.id);
                    }
                    other => unreachable!("{other:?}"),
                }
                self.jobs.delete(&message.receipt).await.unwrap();
            }
        }
        tasks
    }

    /// The log takes in what it was told, and that the scans of these tasks have ended.
    async fn log(&self, ended: &[TaskId]) {
        let log = TaskLog::new(Arc::new(self.store.table()));
        let mut events: Vec<TaskEvent> = Vec::new();
        while self.events.depth().await.unwrap().visible > 0 {
            for message in self.events.receive(100, Duration::from_secs(600)).await.unwrap() {
                events.push(messages::read_event(&message.body).unwrap());
            }
        }
        log.record(&events).await.unwrap();
        for id in ended {
            let task = log.task(id).await.unwrap().unwrap().head;
            let what = Happening::ScanEnded { total: 0, repositories: 0, compared: 0, error: None };
            log.record(&[TaskEvent { at: task.created, task, what }]).await.unwrap();
        }
    }
}

fn rule(name: &str, schedule: Option<&str>) -> Rule {
    serde_json::from_value(json!({
        "id": 0, "revision": 0, "name": name, "schedule": schedule,
        "source": {"instance": "a", "namespace": name}, "target": {"instance": "b"},
    }))
    .unwrap()
}

/// A moment of a day to come: the log of the past has expired.
fn at(time: &str) -> Timestamp {
    format!("2126-01-02T{time}Z").parse().unwrap()
}

/// Would break: a run that is made twice or never, because ticks come twice, late or side by side; one for a time before the rule was
/// there; a rule without a schedule, or switched off, that runs.
#[tokio::test]
async fn each_time_is_done_once_however_often_ticks_come() {
    let disabled = Rule { enabled: false, ..rule("off", Some("* * * * *")) };
    let world = World::with(&[rule("hourly", Some("0 * * * *")), rule("none", None), disabled]).await;
    let scheduler = world.scheduler();
    for time in ["10:30:00", "10:31:00", "10:59:59.9"] {
        assert_eq!(scheduler.tick(at(time)).await.unwrap(), [], "10:00 was before the rule was there");
    }
    // Several at once, in two processes, and one that has seen nothing yet.
    let (other, third) = (world.scheduler(), world.scheduler());
    let eleven = at("11:00:00.2");
    let ticks = futures_util::future::join3(scheduler.tick(eleven), other.tick(eleven), third.tick(eleven)).await;
    let begun: Vec<TaskId> = [ticks.0, ticks.1, ticks.2].into_iter().flat_map(Result::unwrap).collect();
    assert!(!begun.is_empty() && begun.iter().all(|task| *task == begun[0]), "{begun:?}");
    assert_eq!(world.scans().await, begun[..1], "one job");
    for time in ["11:00:30", "11:01:00", "11:59:00"] {
        assert_eq!(
            (scheduler.tick(at(time)).await.unwrap(), world.scheduler().tick(at(time)).await.unwrap()),
            (vec![], vec![])
        );
    }
    world.log(&begun[..1]).await;
    // The tick of twelve is late.
    let twelve = scheduler.tick(at("12:07:00")).await.unwrap();
    assert_eq!((twelve.len(), world.scans().await), (1, twelve.clone()));
    assert_ne!(twelve[0], begun[0]);
    world.log(&twelve).await;
    assert_eq!(TaskLog::new(world.table.clone()).task(&twelve[0]).await.unwrap().unwrap().head.created, at("12:07:00"));
}

/// Would break: a deployment that was down for a night and then makes up each hour of it; one that makes up nothing.
#[tokio::test]
async fn after_an_outage_only_the_newest_missed_time_runs() {
    let world = World::with(&[rule("hourly", Some("0 * * * *"))]).await;
    world.scheduler().tick(at("01:30:00")).await.unwrap();
    let after = world.scheduler();
    assert_eq!(after.tick(at("09:20:00")).await.unwrap().len(), 1);
    let begun = world.scans().await;
    assert_eq!(begun.len(), 1);
    world.log(&begun).await;
    assert_eq!(after.tick(at("09:21:00")).await.unwrap(), []);
    assert_eq!(after.tick(at("10:00:00")).await.unwrap().len(), 1, "and then it goes on as before");
}

/// Would break: runs of one rule that pile up because each takes longer than its time between two.
#[tokio::test]
async fn a_run_waits_for_the_end_of_the_last_and_only_the_newest_is_left() {
    let world = World::with(&[rule("often", Some("*/5 * * * *"))]).await;
    let scheduler = world.scheduler();
    scheduler.tick(at("10:01:00")).await.unwrap();
    let first = scheduler.tick(at("10:05:00")).await.unwrap();
    assert_eq!(first.len(), 1);
    // The log has not heard of it yet, then it has.
    assert_eq!(scheduler.tick(at("10:10:00")).await.unwrap(), []);
    world.log(&[]).await;
    for time in ["10:15:00", "10:20:00", "10:21:00"] {
        assert_eq!(scheduler.tick(at(time)).await.unwrap(), [], "{time}");
    }
    world.log(&first).await;
    let second = scheduler.tick(at("10:22:00")).await.unwrap();
    assert_eq!(second.len(), 1, "that of 10:20");
    world.log(&second).await;
    assert_eq!(scheduler.tick(at("10:23:00")).await.unwrap(), [], "those of 10:10 and 10:15 are not made up");
    assert_eq!(scheduler.tick(at("10:25:00")).await.unwrap().len(), 1);
}

/// Would break: a schedule that is changed at noon and runs at once for eleven o'clock; a process that goes by the old one.
#[tokio::test]
async fn a_schedule_that_is_changed_begins_anew() {
    let world = World::with(&[rule("r", Some("0 3 * * *"))]).await;
    let scheduler = world.scheduler();
    scheduler.tick(at("12:00:00")).await.unwrap();
    world.replace(&[rule("r", Some("0 * * * *"))]).await;
    assert_eq!(scheduler.tick(at("12:30:00")).await.unwrap(), [], "12:00 was not its time then");
    assert_eq!(scheduler.tick(at("13:00:00")).await.unwrap().len(), 1);
    world.replace(&[rule("r", None)]).await;
    assert_eq!(scheduler.tick(at("14:00:00")).await.unwrap(), []);
}

/// Would break: the price of ten thousand rules with schedules, ticked each minute.
#[tokio::test]
async fn a_tick_costs_one_read_where_nothing_is_due() {
    let names: Vec<String> = (0..120).map(|n| format!("r{n}")).collect();
    let rules: Vec<Rule> = names.iter().map(|name| rule(name, Some("0 3 * * *"))).collect();
    let world = World::with(&rules).await;
    let scheduler = world.scheduler();
    scheduler.tick(at("01:00:00")).await.unwrap();
    world.calls();
    for minute in 1..60 {
        assert_eq!(scheduler.tick(at(&format!("01:{minute:02}:00"))).await.unwrap(), []);
    }
    assert_eq!(world.calls(), 59);
    assert_eq!(scheduler.tick(at("03:00:00")).await.unwrap().len(), 120);
    assert_eq!(world.scans().await.len(), 120);
    world.calls();
    assert_eq!(scheduler.tick(at("03:01:00")).await.unwrap(), []);
    assert_eq!(world.calls(), 1);
}

/// Would break: a new rule whose first full run never begins, because the process that made it ended in between; one that begins twice.
#[tokio::test]
async fn a_first_run_that_was_left_to_begin_is_begun_once() {
    let world = World::with(&[]).await;
    let catalog = Catalog::new(Arc::new(world.store.table()));
    let new = rule("new", None);
    let make = |_: &Snapshot, draft: &mut Draft<'_>| {
        draft.put_rule(&new, &Owner::Api, true);
        Ok::<_, StateError>(())
    };
    catalog.edit(make).await.unwrap();

    world.scheduler().tick(Timestamp::now()).await.unwrap();
    world.scheduler().tick(Timestamp::now()).await.unwrap();

    let jobs = world.jobs.receive(100, Duration::from_secs(600)).await.unwrap();
    let triggers: Vec<_> =
        jobs.iter().map(|job| messages::read_job(&job.body).unwrap().task().unwrap().trigger.clone()).collect();
    assert_eq!(triggers, [Trigger::Created]);
}
