//! The log of a task, written as workers' events come in on the embedded store: in any order, more than once, by several
//! loggers, and with a store that fails in between.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use fastrand::Rng;
use jiff::Timestamp;
use transship_model::{
    ArtifactType, Counts, Digest, Happening, Outcome, Place, Progress, Resource, ResourceState, Route, RuleId, SkipReason,
    Task, TaskEvent, TaskHead, TaskId, TaskStatus, Trigger,
};
use transship_state::{
    Item, Key, Op, Page, Query, Recorded, Selection, StateError, Table, TableError, TaskLog, Unannounced, sqlite::SqliteStore,
};

/// A table in a folder that goes away with it.
struct Scratch {
    table: Arc<dyn Table>,
    _dir: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let table = Arc::new(SqliteStore::open(dir.path()).unwrap().table());
        Self { table, _dir: dir }
    }

    fn log(&self) -> TaskLog {
        TaskLog::new(self.table.clone())
    }
}

/// Another seed with each run, unless `SEED` says which.
fn rng() -> Rng {
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("SEED={seed} repeats this run");
    Rng::with_seed(seed)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(4_000_000_000 + second).unwrap()
}

fn head(rule: u64, trigger: Trigger, identity: &str) -> TaskHead {
    let (instance, name) = ("a".parse().unwrap(), format!("r{rule}").parse().unwrap());
    TaskHead { id: TaskId::derive(RuleId(rule), at(0), identity), instance, rule: name, trigger, created: at(0) }
}

fn manual(identity: &str) -> TaskHead {
    head(1, Trigger::Manual, identity)
}

fn push(identity: &str) -> TaskHead {
    head(1, Trigger::Push { resource: route(0).source.name() }, identity)
}

fn route(n: usize) -> Route {
    let place = |instance: &str, namespace: &str| Place {
        instance: instance.parse().unwrap(),
        repository: format!("{namespace}/app-{}", n % 7).parse().unwrap(),
        reference: format!("v{n}").parse().unwrap(),
    };
    Route { source: place("a", "team"), target: place("b", "mirror") }
}

fn progress(n: usize, attempts: u32, bytes_moved: u64) -> Progress {
    Progress {
        digest: Some(Digest::of(&n.to_be_bytes())),
        artifact: Some(ArtifactType::Image),
        bytes_moved,
        bytes_mounted: 2,
        bytes_present: 3,
        bytes_total: 5000 + n as u64,
        attempts,
        started: Some(at(100 + n as i64)),
        ..Progress::default()
    }
}

fn outcome(n: usize) -> Outcome {
    match n % 5 {
        0 | 1 => Outcome::Copied,
        2 => Outcome::Unchanged,
        3 => Outcome::Skipped { reason: SkipReason::Gone },
        _ => Outcome::Failed { reason: format!("no {n}") },
    }
}

fn found(of: std::ops::Range<usize>) -> Happening {
    Happening::Found { resources: of.map(route).collect() }
}

fn ended(n: usize, outcome: Outcome) -> Happening {
    Happening::Ended { route: route(n), progress: progress(n, 1 + u32::from(n % 3 == 2), 1000 + n as u64), outcome }
}

/// What the worker tells of one resource.
fn work(n: usize) -> Vec<(i64, Happening)> {
    let mut events = Vec::new();
    let mut tell = |second, progress| events.push((second, Happening::Progress { route: route(n), progress }));
    if !n.is_multiple_of(3) {
        tell(200, progress(n, 1, 10));
        tell(205, progress(n, 1, 700));
    }
    if n % 3 == 2 {
        let error = Some("connection reset".to_owned());
        tell(210, Progress { error, retry_at: Some(at(220)), ..progress(n, 1, 700) });
        tell(220, progress(n, 2, 700));
    }
    events.push((300 + n as i64, ended(n, outcome(n))));
    events
}

/// A task's events, and the log that they are to make, which is worked out from what they are about and not by merging them.
struct Story {
    events: Vec<TaskEvent>,
    task: Task,
    resources: Vec<Resource>,
}

impl Story {
    fn new(head: TaskHead, count: usize, happenings: Vec<(i64, Happening)>) -> Self {
        let done = |n: usize| Resource {
            route: route(n),
            state: ResourceState::Done,
            progress: progress(n, 1 + u32::from(n % 3 == 2), 1000 + n as u64),
            result: Some(outcome(n)),
            queued: at(0),
            ended: Some(at(300 + n as i64)),
        };
        let mut resources: Vec<_> = (0..count).map(done).collect();
        resources.sort_by_key(|resource| resource.route.source.name());
        let events = happenings.into_iter().map(|(second, what)| TaskEvent { task: head.clone(), at: at(second), what });
        let counts = count_again(&resources);
        let (total, repositories) = (Some(count as u64), count.min(7) as u64);
        let (started, ended) = (Some(at(50)), None);
        Self {
            events: events.collect(),
            task: Task {
                head,
                counts,
                total,
                repositories,
                started,
                ended,
                error: None,
                compared: 0,
                cancelled: None,
                stopped: false,
            },
            resources,
        }
    }

    /// A scan that finds so many resources, in pages.
    fn scan(identity: &str, count: usize, error: Option<&str>) -> Self {
        let mut happenings = vec![(0, Happening::Created)];
        let page = 50;
        for start in (0..count).step_by(page) {
            happenings.push((60 + start as i64, found(start..count.min(start + page))));
        }
        happenings.push((50, Happening::Scanned { repositories: 0, compared: 0, error: Some("timed out".into()) }));
        happenings.push((70, Happening::Scanned { repositories: 3.min(count as u64), compared: 0, error: None }));
        happenings.extend((0..count).flat_map(work));
        let (total, repositories) = (count as u64, count.min(7) as u64);
        happenings.push((250, Happening::ScanEnded { total, repositories, compared: 0, error: error.map(str::to_owned) }));
        let mut story = Self::new(manual(identity), count, happenings);
        story.task.error = error.map(str::to_owned);
        story
    }

    /// A push, with one resource.
    fn push(identity: &str) -> Self {
        let mut happenings = vec![(60, found(0..1))];
        happenings.push((200, Happening::Progress { route: route(0), progress: progress(0, 1, 10) }));
        happenings.push((205, Happening::Progress { route: route(0), progress: progress(0, 1, 700) }));
        happenings.extend(work(0));
        let mut story = Self::new(push(identity), 1, happenings);
        story.task.started = Some(at(100));
        story
    }

    /// All events once, some of them again, in any order, cut into batches.
    fn batches(&self, rng: &mut Rng) -> Vec<Vec<TaskEvent>> {
        let mut events = self.events.clone();
        let repeated = rng.usize(..=events.len());
        events.extend(rng.choose_multiple(self.events.iter(), repeated).into_iter().cloned());
        rng.shuffle(&mut events);
        let most = [1, 10, 100, events.len()][rng.usize(..4)].max(events.len() / 40);
        let mut batches = Vec::new();
        while !events.is_empty() {
            let size = rng.usize(1..=most.min(events.len()));
            batches.push(events.drain(..size).collect());
        }
        batches
    }

    /// Fails unless the log is what these events are to make.
    async fn assert_told(&self, log: &TaskLog) {
        let (task, resources) = read(log, &self.task.head.id).await;
        assert_eq!(task.counts, count_again(&resources), "the counters are not those of the resources");
        assert_eq!(resources.len(), self.resources.len());
        for (resource, expected) in resources.into_iter().zip(&self.resources) {
            assert_eq!(Resource { queued: at(0), ..resource }, *expected);
        }
        assert!(task.ended.is_some(), "the task is not closed: {task:?}");
        assert_eq!(Task { ended: None, ..task }, self.task);
    }
}

fn count_again(resources: &[Resource]) -> Counts {
    let number = |is_so: fn(&Outcome) -> bool| resources.iter().filter(|r| r.result.as_ref().is_some_and(is_so)).count() as u64;
    let bytes = |of: fn(&Progress) -> u64| resources.iter().filter(|r| r.result.is_some()).map(|r| of(&r.progress)).sum();
    Counts {
        found: resources.len() as u64,
        copied: number(|outcome| matches!(outcome, Outcome::Copied)),
        unchanged: number(|outcome| matches!(outcome, Outcome::Unchanged)),
        deleted: number(|outcome| matches!(outcome, Outcome::Deleted)),
        skipped: number(|outcome| matches!(outcome, Outcome::Skipped { .. })),
        failed: number(|outcome| matches!(outcome, Outcome::Failed { .. })),
        bytes_moved: bytes(|progress| progress.bytes_moved),
        cancelled: number(|outcome| *outcome == Outcome::Skipped { reason: SkipReason::Cancelled }),
        bytes_mounted: bytes(|progress| progress.bytes_mounted),
        bytes_present: bytes(|progress| progress.bytes_present),
    }
}

async fn read(log: &TaskLog, id: &TaskId) -> (Task, Vec<Resource>) {
    let task = log.task(id).await.unwrap().unwrap();
    let mut resources = Vec::new();
    let mut after = None;
    loop {
        let page = log.resources(id, after, 37).await.unwrap();
        resources.extend(page.items);
        after = page.next;
        if after.is_none() {
            return (task, resources);
        }
    }
}

/// Records the batches and checks what can be checked after each: counters, and that the task closes once and stays as closed.
async fn record(log: &TaskLog, story: &Story, batches: &[Vec<TaskEvent>]) {
    let mut closed: Option<Task> = None;
    for batch in batches {
        for task in log.record(batch).await.unwrap() {
            assert_eq!(task.head.id, story.task.head.id);
            assert!(closed.replace(task).is_none(), "closed twice");
        }
        let (task, resources) = read(log, &story.task.head.id).await;
        assert_eq!(task.counts, count_again(&resources), "the counters are not those of the resources");
        assert_eq!(task.ended.is_some(), closed.is_some(), "closed without telling it, or the reverse: {task:?}");
        if let Some(closed) = &closed {
            // What is told late may still say that work had begun earlier.
            assert_eq!(
                (task.counts, task.ended, task.status()),
                (closed.counts, closed.ended, closed.status()),
                "a closed task changes"
            );
        }
    }
    assert!(closed.is_some(), "never closed");
    story.assert_told(log).await;
}

/// Would break: counting an event twice, a task that never closes or closes twice, a counter or time that depends on who was first;
/// writes of more resources than one transaction holds.
#[tokio::test]
async fn a_scans_log_is_the_same_for_any_order_and_repetition_of_its_events() {
    let (scratch, mut rng) = (Scratch::new(), rng());
    let mut orders = tokio::task::JoinSet::new();
    for order in 0..60 {
        let count = [1, 2, 30, 130][order % 4];
        let story = Story::scan(&format!("order {order}"), count, (order % 3 == 0).then_some("the list is not complete"));
        let batches = story.batches(&mut rng);
        let log = scratch.log();
        orders.spawn(async move { record(&log, &story, &batches).await });
    }
    while let Some(order) = orders.join_next().await {
        order.unwrap();
    }
}

/// All orders of so many things.
fn orders(rest: Vec<usize>) -> Vec<Vec<usize>> {
    if rest.is_empty() {
        return vec![Vec::new()];
    }
    let beginning_with = |first: usize| {
        let others = orders(rest.iter().copied().filter(|n| *n != first).collect());
        others.into_iter().map(move |others| [vec![first], others].concat()).collect::<Vec<_>>()
    };
    rest.iter().copied().flat_map(beginning_with).collect()
}

/// Would break: the same for a push, whose number of resources is known from the beginning: in all orders and all cuts.
#[tokio::test]
async fn a_pushs_log_is_the_same_for_every_order_and_cut_of_its_events() {
    let scratch = Scratch::new();
    let mut all = tokio::task::JoinSet::new();
    for order in orders((0..4).collect()) {
        for cuts in 0..8u32 {
            let story = Story::push(&format!("{order:?} {cuts}"));
            let mut batches = vec![Vec::new()];
            for (n, event) in order.iter().enumerate() {
                if n > 0 && cuts & (1 << (n - 1)) != 0 {
                    batches.push(Vec::new());
                }
                batches.last_mut().unwrap().push(story.events[*event].clone());
            }
            // Everything once more.
            batches.extend(batches.clone());
            let log = scratch.log();
            all.spawn(async move { record(&log, &story, &batches).await });
        }
    }
    while let Some(order) = all.join_next().await {
        order.unwrap();
    }
}

/// Would break: batches of events of many tasks, that the logger takes as they come.
#[tokio::test]
async fn a_batch_may_hold_events_of_many_tasks() {
    let (scratch, mut rng) = (Scratch::new(), rng());
    let mut stories: Vec<_> = (0..20).map(|n| Story::push(&format!("push {n}"))).collect();
    stories.extend((0..5).map(|n| Story::scan(&format!("scan {n}"), 3, None)));
    let mut events: Vec<_> = stories.iter().flat_map(|story| story.events.iter().chain(&story.events)).cloned().collect();
    rng.shuffle(&mut events);
    let mut closed = Vec::new();
    for batch in events.chunks(40) {
        closed.extend(scratch.log().record(batch).await.unwrap().into_iter().map(|task| task.head.id));
    }
    closed.sort();
    let mut all: Vec<_> = stories.iter().map(|story| story.task.head.id.clone()).collect();
    all.sort();
    assert_eq!(closed, all, "each is told once");
    for story in &stories {
        story.assert_told(&scratch.log()).await;
    }
}

/// What goes wrong with a write.
enum Trouble {
    /// It is not done.
    Refused,
    /// It is done, and the answer is lost.
    Unanswered,
    /// Another logger has taken in a batch in the time between this one's reading and writing.
    Overtaken(Vec<TaskEvent>),
}

/// A table whose writes meet trouble, one after the other, and then none.
struct Troubled {
    table: Arc<dyn Table>,
    troubles: Mutex<VecDeque<Option<Trouble>>>,
}

#[async_trait]
impl Table for Troubled {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.table.get(key).await
    }

    async fn query(&self, query: Query) -> Result<Page, TableError> {
        self.table.query(query).await
    }

    async fn write(&self, ops: Vec<Op>) -> Result<(), TableError> {
        let trouble = self.troubles.lock().unwrap().pop_front().flatten();
        match trouble {
            None => self.table.write(ops).await,
            Some(Trouble::Refused) => Err(TableError::Unavailable("a test".into())),
            Some(Trouble::Unanswered) => {
                self.table.write(ops).await?;
                Err(TableError::Unavailable("a test".into()))
            }
            Some(Trouble::Overtaken(events)) => {
                TaskLog::new(self.table.clone()).record(&events).await.unwrap();
                self.table.write(ops).await
            }
        }
    }
}

/// Would break: a logger that dies between two writes, or does not hear that one was done; the batch is delivered again.
#[tokio::test]
async fn a_batch_delivered_again_after_a_failed_write_makes_the_same_log() {
    let (scratch, mut rng) = (Scratch::new(), rng());
    let mut orders = tokio::task::JoinSet::new();
    for order in 0..30 {
        let story = Story::scan(&format!("order {order}"), [3, 130][order % 2], None);
        let batches = story.batches(&mut rng);
        let trouble = |rng: &mut Rng| match rng.u8(..4) {
            0 => Some(Trouble::Refused),
            1 => Some(Trouble::Unanswered),
            _ => None,
        };
        let troubles = (0..300).map(|_| trouble(&mut rng)).collect();
        let table = Troubled { table: scratch.table.clone(), troubles: Mutex::new(troubles) };
        let (log, plain) = (TaskLog::new(Arc::new(table)), scratch.log());
        orders.spawn(async move {
            for batch in batches {
                while let Err(error) = log.record(&batch).await {
                    assert!(matches!(error, StateError::Unavailable(_)), "{error}");
                }
            }
            story.assert_told(&plain).await;
        });
    }
    while let Some(order) = orders.join_next().await {
        order.unwrap();
    }
}

/// Would break: two loggers that take in batches of one task at the same time, each having read before the other wrote. There are
/// two even in one process: that of the events, and that of the dead letters.
#[tokio::test]
async fn loggers_that_overtake_each_other_make_the_same_log() {
    let (scratch, mut rng) = (Scratch::new(), rng());
    for order in 0..100 {
        let story = Story::scan(&format!("order {order}"), [2, 8][order % 2], None);
        let mut batches = story.batches(&mut rng);
        let overtaking = batches.split_off(batches.len() / 2);
        let mut troubles: VecDeque<_> = overtaking.into_iter().map(|batch| Some(Trouble::Overtaken(batch))).collect();
        // One of the first writes may go undisturbed. What is left over, where there were fewer writes, is recorded at the end.
        troubles.insert(rng.usize(..=troubles.len().min(2)), None);
        let table = Arc::new(Troubled { table: scratch.table.clone(), troubles: Mutex::new(troubles) });
        let log = TaskLog::new(table.clone());
        for batch in &batches {
            log.record(batch).await.unwrap();
        }
        let left: Vec<_> = table.troubles.lock().unwrap().drain(..).flatten().collect();
        for trouble in left {
            let Trouble::Overtaken(batch) = trouble else { unreachable!() };
            scratch.log().record(&batch).await.unwrap();
        }
        story.assert_told(&scratch.log()).await;
    }
}

/// Would break: a task that is told as ended by each of two loggers, which both bring what is left to do.
#[tokio::test]
async fn of_two_loggers_that_complete_a_task_one_closes_it() {
    let scratch = Scratch::new();
    let event = TaskEvent { task: push("both"), at: at(300), what: ended(0, Outcome::Copied) };
    let later = TaskEvent { at: at(301), ..event.clone() };
    let troubles = VecDeque::from([Some(Trouble::Overtaken(vec![later]))]);
    let table = Arc::new(Troubled { table: scratch.table.clone(), troubles: Mutex::new(troubles) });
    let closed = TaskLog::new(table.clone()).record(std::slice::from_ref(&event)).await.unwrap();
    assert!(table.troubles.lock().unwrap().is_empty(), "nobody was overtaken: the test shows nothing");
    assert!(closed.is_empty(), "the other one has closed it");
    assert_eq!(scratch.log().task(&event.task.id).await.unwrap().unwrap().ended, Some(at(301)));
}

/// Would break: a task that nobody closes, because each of two loggers brings a part of the rest and sees that the other's is missing;
/// and its end, which is noted as still to be told in this case, too.
#[tokio::test]
async fn of_two_loggers_that_know_nothing_of_each_other_the_last_closes_the_task() {
    let scratch = Scratch::new();
    let head = manual("halves");
    let event = |second, what| TaskEvent { task: head.clone(), at: at(second), what };
    // What comes after this sets no time of the task, so that the writes of its counters do not meet.
    let before = [
        event(1, Happening::ScanEnded { total: 3, repositories: 3, compared: 0, error: None }),
        event(2, found(0..3)),
        event(900, ended(2, Outcome::Copied)),
    ];
    scratch.log().record(&before).await.unwrap();
    let troubles = VecDeque::from([Some(Trouble::Overtaken(vec![event(301, ended(1, Outcome::Copied))]))]);
    let table = Arc::new(Troubled { table: scratch.table.clone(), troubles: Mutex::new(troubles) });
    let log = TaskLog::new(table.clone());
    let Recorded { closed, counts } = log.record_for(&[event(300, ended(0, Outcome::Copied))], &|_| true).await.unwrap();
    assert!(table.troubles.lock().unwrap().is_empty(), "nobody was overtaken: the test shows nothing");
    assert_eq!((closed.len(), closed[0].counts.copied, closed[0].ended), (1, 3, Some(at(900))));
    assert_eq!(counts.copied, 1, "what the other writer has counted is not counted again");
    assert_eq!(log.task(&head.id).await.unwrap().as_ref(), Some(&closed[0]));
    assert_eq!(log.unannounced(std::slice::from_ref(&head.id)).await.unwrap().len(), 1);
}

/// Would break: an end that is told although nobody listens, or is not found again although somebody does; one that has just been
/// closed, and is told by the sweep as well as by who closed it; one that stays in the list after it was told.
#[tokio::test]
async fn an_end_that_is_to_be_told_is_found_until_it_was_told() {
    let scratch = Scratch::new();
    let log = scratch.log();
    let heads: Vec<_> = (0..5).map(|n| push(&n.to_string())).collect();
    for head in &heads {
        let event = TaskEvent { task: head.clone(), at: at(300), what: ended(0, Outcome::Copied) };
        let has_listeners = |task: &TaskHead| *task != heads[0];
        assert_eq!(log.record_for(&[event], &has_listeners).await.unwrap().closed.len(), 1);
    }
    let ids: Vec<_> = heads.iter().map(|head| head.id.clone()).collect();
    let listed = |of: &[TaskId]| -> Vec<_> {
        of.iter().map(|task| Unannounced { task: task.clone(), notified: *task == ids[4] }).collect()
    };
    log.notified(&ids[4]).await.unwrap();
    log.notified(&ids[0]).await.unwrap();
    assert_eq!(log.unannounced(&ids).await.unwrap(), listed(&ids[1..]));
    log.announced(&ids[1]).await.unwrap();
    log.announced(&ids[1]).await.unwrap();
    assert_eq!(log.unannounced(&ids).await.unwrap(), listed(&ids[2..]));

    let mut expected = ids[2..].to_vec();
    expected.sort();
    let soon = Timestamp::now() + Duration::from_secs(10);
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = log.unannounced_since(soon, after, 2).await.unwrap();
        found.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, listed(&expected));
    let long_ago = Timestamp::now() - Duration::from_secs(60);
    assert!(log.unannounced_since(long_ago, None, 100).await.unwrap().items.is_empty(), "whoever closed it may be at it");
}

/// Would break: a time that comes from whichever batch happened to be the last.
#[tokio::test]
async fn a_task_ended_when_the_last_of_its_work_did_whatever_came_last() {
    let (scratch, mut rng) = (Scratch::new(), rng());
    for order in 0..20 {
        let story = Story::scan(&format!("order {order}"), 3, None);
        for batch in story.batches(&mut rng) {
            scratch.log().record(&batch).await.unwrap();
        }
        let task = scratch.log().task(&story.task.head.id).await.unwrap().unwrap();
        assert_eq!(task.ended, Some(at(302)), "the last resource ended then");
    }
}

/// Would break: a time that depends on which event of a resource is recorded first.
#[tokio::test]
async fn a_resource_was_queued_at_one_time_whichever_event_is_first() {
    let scratch = Scratch::new();
    let events = |head: TaskHead| {
        [(60, found(0..1)), (300, ended(0, Outcome::Copied))].map(|(s, what)| TaskEvent { task: head.clone(), at: at(s), what })
    };
    let mut queued = Vec::new();
    for is_reversed in [false, true] {
        let mut events = events(push(&is_reversed.to_string()));
        if is_reversed {
            events.reverse();
        }
        for event in &events {
            scratch.log().record(std::slice::from_ref(event)).await.unwrap();
        }
        queued.push(read(&scratch.log(), &events[0].task.id).await.1[0].queued);
    }
    assert_eq!(queued[0], queued[1]);
}

/// Would break: what the first attempt had found out is lost when its report comes after the outcome of a second one, which failed
/// before it had found it out again.
#[tokio::test]
async fn what_was_known_of_a_resource_stays_known_when_it_is_told_late() {
    let scratch = Scratch::new();
    let first = Happening::Progress { route: route(0), progress: Progress { error: Some("x".into()), ..progress(0, 1, 10) } };
    let known = Progress { attempts: 2, started: Some(at(100)), bytes_moved: 10, ..Progress::default() };
    let outcome = Outcome::Skipped { reason: SkipReason::Gone };
    let second = Happening::Ended { route: route(0), progress: known, outcome };
    let mut logs = Vec::new();
    for order in [[&first, &second], [&second, &first]] {
        let head = push(&logs.len().to_string());
        for (second, what) in (200..).zip(order) {
            let event = TaskEvent { task: head.clone(), at: at(second), what: what.clone() };
            scratch.log().record(&[event]).await.unwrap();
        }
        let resource = read(&scratch.log(), &head.id).await.1.remove(0);
        logs.push((resource.progress.digest, resource.progress.artifact, resource.progress.started));
    }
    assert_eq!(logs[0], logs[1]);
}

/// Would break: the reason why a scan is over, lost when it is the reason for which it had waited before.
#[tokio::test]
async fn the_error_that_ends_a_scan_is_kept_even_if_it_was_known_for_a_while() {
    let scratch = Scratch::new();
    let head = manual("scan");
    let event = |second, what| TaskEvent { task: head.clone(), at: at(second), what };
    let why = || Some("the registry does not answer".to_owned());
    scratch.log().record(&[event(1, Happening::Scanned { repositories: 1, compared: 0, error: why() })]).await.unwrap();
    assert_eq!(scratch.log().task(&head.id).await.unwrap().unwrap().error, why());
    let goes_on = event(2, Happening::Scanned { repositories: 1, compared: 0, error: None });
    let ends = event(3, Happening::ScanEnded { total: 0, repositories: 1, compared: 0, error: why() });
    let closed = scratch.log().record(&[goes_on, ends]).await.unwrap();
    assert_eq!(closed[0].error, why());
    assert_eq!(closed[0].status(), TaskStatus::Failed);
}

/// Would break: an outcome that waits for the event that tells of its resource, which may come later or never.
#[tokio::test]
async fn an_outcome_counts_even_if_nobody_told_that_the_resource_was_found() {
    let scratch = Scratch::new();
    let head = push("lost");
    let event = |second, what| TaskEvent { task: head.clone(), at: at(second), what };
    let closed = scratch.log().record(&[event(300, ended(0, Outcome::Copied))]).await.unwrap();
    assert_eq!((closed.len(), closed[0].counts.found, closed[0].counts.copied), (1, 1, 1));
    assert_eq!((closed[0].status(), closed[0].ended), (TaskStatus::Succeeded, Some(at(300))));
    assert!(scratch.log().record(&[event(60, found(0..1))]).await.unwrap().is_empty());
    let (task, resources) = read(&scratch.log(), &head.id).await;
    assert_eq!((task, resources.len()), (closed[0].clone(), 1));
}

/// Would break: a task that is closed while pages of its resources are still on their way.
#[tokio::test]
async fn a_scan_that_ended_waits_for_the_pages_that_are_still_on_their_way() {
    let scratch = Scratch::new();
    let head = manual("scan");
    let event = |second, what| TaskEvent { task: head.clone(), at: at(second), what };
    let log = scratch.log();
    assert!(log.record(&[event(1, Happening::Created)]).await.unwrap().is_empty());
    assert_eq!(log.task(&head.id).await.unwrap().unwrap().status(), TaskStatus::Queued);
    let over = event(9, Happening::ScanEnded { total: 3, repositories: 3, compared: 0, error: None });
    assert!(log.record(&[over]).await.unwrap().is_empty());
    assert!(log.record(&[event(2, found(0..2))]).await.unwrap().is_empty());
    for n in 0..2 {
        assert!(log.record(&[event(20, ended(n, Outcome::Unchanged))]).await.unwrap().is_empty());
    }
    let task = log.task(&head.id).await.unwrap().unwrap();
    assert_eq!((task.status(), task.total, task.counts.done()), (TaskStatus::Running, Some(3), 2));
    assert!(log.record(&[event(3, found(2..3))]).await.unwrap().is_empty());
    assert_eq!(log.record(&[event(21, ended(2, Outcome::Copied))]).await.unwrap().len(), 1);
}

/// Would break: a scan that finds nothing and runs forever.
#[tokio::test]
async fn a_scan_that_finds_nothing_is_over_at_once() {
    let scratch = Scratch::new();
    let over = Happening::ScanEnded { total: 0, repositories: 0, compared: 0, error: None };
    let closed = scratch.log().record(&[TaskEvent { task: manual("nothing"), at: at(1), what: over }]).await.unwrap();
    assert_eq!((closed[0].status(), closed[0].success_rate()), (TaskStatus::Succeeded, Some(1.0)));
}

/// Would break: what was compared without a job, counted twice because it was told twice or late; a task that waits for jobs that it has
/// none of.
#[tokio::test]
async fn what_was_compared_without_a_job_is_counted_once_whatever_the_order() {
    let head = manual("compared");
    let event = |second, what| TaskEvent { task: head.clone(), at: at(second), what };
    let scanned = |compared| Happening::Scanned { repositories: 1, compared, error: None };
    let over = Happening::ScanEnded { total: 1, repositories: 2, compared: 900, error: None };
    let events = [
        event(2, scanned(400)),
        event(3, scanned(800)),
        event(4, found(0..1)),
        event(5, over),
        event(6, ended(0, Outcome::Copied)),
    ];
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [3, 1, 4, 0, 2], [1, 0, 3, 2, 4]] {
        let scratch = Scratch::new();
        let mut closed = Vec::new();
        for at in order.into_iter().chain(order) {
            closed.extend(scratch.log().record(&[events[at].clone()]).await.unwrap());
        }
        let (task, resources) = read(&scratch.log(), &head.id).await;
        assert_eq!((closed.len(), resources.len()), (1, 1), "{order:?}");
        assert_eq!((task.compared, task.total, task.repositories), (900, Some(901), 2), "{order:?}");
        assert_eq!((task.counts.found, task.counts.unchanged, task.counts.copied), (901, 900, 1), "{order:?}");
        assert_eq!(task.success_rate(), Some(1.0));
    }
}

/// Would break: a scan that saw a part of the source only, and says that it has succeeded; an error that is over and is still shown.
#[tokio::test]
async fn a_task_whose_scan_has_an_error_is_no_success() {
    let scratch = Scratch::new();
    let log = scratch.log();
    for (n, (copies, error, status)) in [
        (1, Some("no right to list team/secret"), TaskStatus::PartlyFailed),
        (0, Some("no right to list team/secret"), TaskStatus::Failed),
        (1, None, TaskStatus::Succeeded),
    ]
    .into_iter()
    .enumerate()
    {
        let head = manual(&n.to_string());
        let event = |second, what| TaskEvent { task: head.clone(), at: at(second), what };
        let waits = Happening::Scanned { repositories: 0, compared: 0, error: Some("timed out".into()) };
        log.record(&[event(1, waits.clone())]).await.unwrap();
        let task = log.task(&head.id).await.unwrap().unwrap();
        assert_eq!((task.error.as_deref(), task.status()), (Some("timed out"), TaskStatus::Running));
        let end = Happening::ScanEnded { total: copies, compared: 0, repositories: copies, error: error.map(str::to_owned) };
        let mut events = vec![event(5, end)];
        events.extend((0..copies).map(|_| event(9, ended(0, Outcome::Copied))));
        // The old error again, late: it is over.
        events.push(event(1, waits.clone()));
        let closed = log.record(&events).await.unwrap();
        assert_eq!((closed[0].status(), closed[0].error.as_deref()), (status, error));
        log.record(&[event(1, waits)]).await.unwrap();
        assert_eq!(log.task(&head.id).await.unwrap().as_ref(), Some(&closed[0]));
    }
}

/// Would break: a job done a second time, which finds its own work and says "unchanged", or fails where the first had succeeded.
#[tokio::test]
async fn the_outcome_that_was_recorded_first_stands() {
    let scratch = Scratch::new();
    let log = scratch.log();
    for (n, is_one_batch) in [true, false].into_iter().enumerate() {
        let head = push(&n.to_string());
        let event = |second, what| TaskEvent { task: head.clone(), at: at(second), what };
        let first = event(300, ended(0, Outcome::Copied));
        let again = Progress { bytes_moved: 0, bytes_present: 9999, ..progress(0, 7, 0) };
        let others = [Outcome::Unchanged, Outcome::Failed { reason: "x".into() }]
            .map(|outcome| event(400, Happening::Ended { route: route(0), progress: again.clone(), outcome }));
        let late = event(350, Happening::Progress { route: route(0), progress: again.clone() });
        if is_one_batch {
            let batch = [vec![first.clone()], others.to_vec(), vec![late]].concat();
            assert_eq!(log.record(&batch).await.unwrap().len(), 1);
        } else {
            assert_eq!(log.record(std::slice::from_ref(&first)).await.unwrap().len(), 1);
            assert!(log.record(&others).await.unwrap().is_empty());
            assert!(log.record(&[late]).await.unwrap().is_empty());
        }
        let (task, resources) = read(&log, &head.id).await;
        assert_eq!(
            task.counts,
            Counts { found: 1, copied: 1, bytes_moved: 1000, bytes_mounted: 2, bytes_present: 3, ..Counts::default() }
        );
        assert_eq!((&resources[0].result, resources[0].ended), (&Some(Outcome::Copied), Some(at(300))));
        assert_eq!(resources[0].progress, progress(0, 1, 1000));
    }
}

/// Would break: the list of a rule's tasks: its order, its pages, and that it holds no other rule's.
#[tokio::test]
async fn pages_of_a_rules_tasks_come_newest_first_and_leave_none_out() {
    let (scratch, mut rng) = (Scratch::new(), rng());
    let log = scratch.log();
    let mut heads: Vec<_> = (0..23i64)
        .flat_map(|n| [1, 11].map(|rule| (n, rule)))
        .map(|(n, rule)| {
            let identity = n.to_string();
            // Far enough apart that the times' hexadecimal digits differ in number of non-zero ones.
            let time = at(n * 70_000);
            TaskHead {
                id: TaskId::derive(RuleId(rule), time, &identity),
                created: time,
                ..head(rule, Trigger::Manual, &identity)
            }
        })
        .collect();
    rng.shuffle(&mut heads);
    for head in &heads {
        log.record(&[TaskEvent { task: head.clone(), at: head.created, what: Happening::Created }]).await.unwrap();
    }
    for rule in [1, 11] {
        let mut expected: Vec<_> =
            heads.iter().filter(|head| head.id.rule() == RuleId(rule)).map(|head| head.created).collect();
        expected.sort_by(|a, b| b.cmp(a));
        for limit in [1, 7, 23, 100] {
            let mut created = Vec::new();
            let mut after = None;
            loop {
                let page = log.tasks(RuleId(rule), after, limit).await.unwrap();
                assert!(page.items.len() <= limit);
                created.extend(page.items.iter().map(|task| task.head.created));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(created, expected, "in pages of {limit}");
        }
    }
    assert!(log.tasks(RuleId(2), None, 10).await.unwrap().items.is_empty());
}

/// Would break: the list of a task's resources, which is read while they are still being found.
#[tokio::test]
async fn pages_of_resources_come_in_the_order_of_their_names() {
    let scratch = Scratch::new();
    let head = manual("names");
    scratch.log().record(&[TaskEvent { task: head.clone(), at: at(1), what: found(0..120) }]).await.unwrap();
    let names: Vec<_> = read(&scratch.log(), &head.id).await.1.iter().map(|resource| resource.route.source.name()).collect();
    let expected: BTreeMap<String, ()> = (0..120).map(|n| (route(n).source.name(), ())).collect();
    assert!(names.iter().eq(expected.keys()), "{names:?}");
}

/// Would break: a page that reads a whole log to find little; pages that leave something out where one ended early, or never end.
#[tokio::test]
async fn of_many_resources_the_few_that_are_wanted_are_found_in_pages_with_a_bound() {
    let scratch = Scratch::new();
    let head = manual("few");
    for begin in (0..2600).step_by(100) {
        scratch.log().record(&[TaskEvent { task: head.clone(), at: at(1), what: found(begin..begin + 100) }]).await.unwrap();
    }
    let mut all: Vec<String> = (0..2600).map(|n| route(n).source.name()).collect();
    all.sort();
    let wanted: Vec<String> = [3, 4, 2500, 2599].iter().map(|n| all[*n].clone()).collect();
    for limit in [1, 2, 3, 100] {
        let (mut items, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let is_wanted = |resource: &Resource| wanted.contains(&resource.route.source.name());
            let page = scratch.log().resources_where(&head.id, after, limit, is_wanted).await.unwrap();
            assert!(page.items.len() <= limit);
            items.extend(page.items.iter().map(|resource| resource.route.source.name()));
            (after, pages) = (page.next, pages + 1);
            if after.is_none() {
                break;
            }
        }
        assert_eq!(items, wanted, "{limit}");
        assert!(pages > 1, "{limit}: a page looks at a part only");
    }
}

/// Would break: a cancelled task whose log depends on whether a worker, the scan or the wish was heard of first; one that is counted twice,
/// stays open, or is called a success; a wish that changes what had come to its end before.
#[tokio::test]
async fn a_cancelled_tasks_log_is_the_same_for_every_order_of_its_events() {
    let cancelled = || Outcome::Skipped { reason: SkipReason::Cancelled };
    let wish = |by: &str| Happening::Cancelled { by: by.to_owned() };
    let stopped = || Happening::ScanStopped { total: 2, compared: 0, repositories: 2 };
    let over = || Happening::ScanEnded { total: 2, compared: 0, repositories: 2, error: None };
    let none = |n| (303, ended(n, Outcome::Copied));
    for (n, (happenings, status, counts)) in [
        // In the middle of it.
        (
            vec![
                (60, found(0..2)),
                none(0),
                (310, ended(1, cancelled())),
                (305, stopped()),
                (302, wish("ann")),
                (302, wish("bob")),
            ],
            TaskStatus::Cancelled,
            [1, 1, 1],
        ),
        // Only the scan was still at work.
        (vec![none(0), none(1), (305, stopped()), (304, wish("ann"))], TaskStatus::Cancelled, [2, 0, 0]),
        // Too late.
        (vec![none(0), none(1), (250, over()), (304, wish("ann"))], TaskStatus::Succeeded, [2, 0, 0]),
    ]
    .into_iter()
    .enumerate()
    {
        let scratch = Scratch::new();
        let mut expected: Option<Task> = None;
        for order in orders((0..happenings.len()).collect()) {
            let head = manual(&format!("{n} {order:?}"));
            let events: Vec<_> = order.iter().map(|at| happenings[*at].clone()).collect();
            let mut closed = 0;
            for (second, what) in events.iter().chain(&events) {
                let event = TaskEvent { task: head.clone(), at: at(*second), what: what.clone() };
                closed += scratch.log().record(&[event]).await.unwrap().len();
            }
            assert_eq!(closed, 1, "{order:?}");
            let (task, resources) = read(&scratch.log(), &head.id).await;
            assert_eq!(task.counts, count_again(&resources), "{order:?}");
            assert_eq!([task.counts.copied, task.counts.skipped, task.counts.cancelled], counts, "{order:?}");
            assert_eq!((task.status(), task.total), (status, Some(2)), "{order:?}");
            assert_eq!(task.cancelled.as_ref().map(|cancelled| cancelled.by.as_str()), Some("ann"), "{order:?}");
            // The time of the end may be that of a wish which came after it; all else is the same.
            let task = Task { head: manual("any"), ended: None, ..task };
            assert_eq!(*expected.get_or_insert(task.clone()), task, "{order:?}");
        }
    }
}

/// Would break: logs that the version before has written, and events of it that are still in the queue.
#[tokio::test]
async fn what_the_version_before_stored_as_saved_was_there() {
    let scratch = Scratch::new();
    let head = push("old");
    let digest = Digest::of(b"x");
    let resource = serde_json::json!({
        "source": route(0).source, "target": route(0).target, "state": "running", "digest": digest, "bytes_moved": 7,
        "bytes_saved": 5, "bytes_total": 12, "attempts": 1, "queued": at(0), "revision": 1,
    });
    let task = serde_json::json!({
        "head": head, "open": true, "total": 1, "repositories": 1, "found": 1, "bytes_moved": 0, "bytes_saved": 40, "revision": 1,
    });
    for (partition, sort, value) in [
        (format!("resources/{}", head.id), route(0).source.name(), resource),
        ("tasks/1".to_owned(), head.id.ordinal().to_owned(), task),
    ] {
        let serde_json::Value::Object(attributes) = value else { unreachable!() };
        let item = Item { key: Key::new(partition, sort), attributes, expires: None };
        scratch.table.write(vec![Op::Put { item, condition: None }]).await.unwrap();
    }
    let (task, resources) = read(&scratch.log(), &head.id).await;
    assert_eq!((task.counts.bytes_mounted, task.counts.bytes_present), (0, 40));
    let known = &resources[0].progress;
    assert_eq!((known.bytes_mounted, known.bytes_present, known.bytes_saved()), (0, 5, 5));
    let body = serde_json::json!({
        "task": head, "at": at(300), "event": "ended", "route": route(0), "outcome": {"outcome": "copied"},
        "progress": {"bytes_moved": 8, "bytes_saved": 6, "bytes_total": 14, "attempts": 1},
    });
    let event = transship_state::messages::read_event(&body.to_string()).unwrap();
    let closed = scratch.log().record(&[event]).await.unwrap();
    assert_eq!((closed[0].counts.bytes_moved, closed[0].counts.bytes_present), (8, 46));
}

/// Would break: a push that waits for a worker, and whose resource nobody can see because it is only in the task's own item.
#[tokio::test]
async fn a_push_that_waits_shows_its_resource() {
    let (scratch, head) = (Scratch::new(), push("waits"));
    let log = scratch.log();
    log.record(&[TaskEvent { task: head.clone(), at: at(60), what: found(0..1) }]).await.unwrap();
    let (task, resources) = read(&log, &head.id).await;
    assert_eq!((task.counts.found, task.status()), (1, TaskStatus::Queued));
    assert_eq!(resources, [Resource::new(route(0), at(60))]);
    assert_eq!(log.resource(&head.id, &route(0).source).await.unwrap().as_ref(), Some(&resources[0]));
    assert_eq!(log.resource(&head.id, &route(1).source).await.unwrap(), None);
    let event = TaskEvent { task: head.clone(), at: at(300), what: ended(0, Outcome::Copied) };
    assert_eq!(log.record(&[event]).await.unwrap().len(), 1);
    let (task, resources) = read(&log, &head.id).await;
    assert_eq!((task.counts.found, resources.len(), resources[0].queued), (1, 1, at(60)));
}

/// Would break: a list by instance, rule, status or time that leaves a task out, has another's, shows one twice, or is not in the order of
/// time; and each of it while tasks are added.
#[tokio::test]
async fn lists_have_what_was_asked_for_whole_and_once_while_tasks_are_added() {
    let (scratch, mut rng) = (Scratch::new(), rng());
    let log = scratch.log();
    let names = ["a", "b", "c"];
    let add = async |time: i64, rule: u64, kind: usize| {
        let instance = names[usize::try_from(rule).unwrap() % 3].parse().unwrap();
        let id = TaskId::derive(RuleId(rule), at(time), &format!("{time} {kind}"));
        let head = TaskHead { id, instance, created: at(time), ..head(rule, Trigger::Manual, "x") };
        let event = |what| TaskEvent { task: head.clone(), at: at(time), what };
        let of = |n| ended(n, outcome(n));
        let over = |total| Happening::ScanEnded { total, compared: 0, repositories: 1, error: None };
        let events = match kind {
            0 => vec![event(Happening::Created)],
            1 => vec![event(Happening::Scanned { repositories: 0, compared: 0, error: None })],
            2 => vec![event(of(0)), event(over(1))],
            3 => vec![event(of(4)), event(over(1))],
            4 => vec![event(of(0)), event(of(4)), event(over(2))],
            _ => vec![event(Happening::ScanStopped { total: 0, compared: 0, repositories: 0 })],
        };
        for event in events {
            log.record(&[event]).await.unwrap();
        }
        log.task(&head.id).await.unwrap().unwrap()
    };
    let mut tasks = Vec::new();
    for n in 0..90 {
        tasks.push(add(n * 40, rng.u64(1..7), rng.usize(..6)).await);
    }
    tasks.sort_by_key(|task| std::cmp::Reverse(task.head.created));
    let statuses = tasks.iter().map(Task::status).collect::<std::collections::HashSet<_>>();
    assert_eq!(statuses.len(), 6, "too few to show anything");
    let mut newer = 0;
    for round in 0..120 {
        let instances: Vec<&str> = names.into_iter().filter(|_| rng.u8(..3) > 0).collect();
        let wanted = Selection {
            instances: instances.iter().map(|name| name.parse().unwrap()).collect(),
            rule: (rng.u8(..3) == 0).then(|| RuleId(rng.u64(1..7))),
            status: (round % 2 == 0).then(|| tasks[rng.usize(..tasks.len())].status()),
            since: rng.bool().then(|| at(rng.i64(0..3600))),
            until: rng.bool().then(|| at(rng.i64(0..3600))),
        };
        let expected: Vec<&TaskId> = tasks
            .iter()
            .filter(|task| wanted.instances.contains(&task.head.instance))
            .filter(|task| wanted.rule.is_none_or(|rule| task.head.id.rule() == rule))
            .filter(|task| wanted.status.is_none_or(|status| task.status() == status))
            .filter(|task| wanted.since.is_none_or(|since| task.head.created >= since))
            .filter(|task| wanted.until.is_none_or(|until| task.head.created < until))
            .map(|task| &task.head.id)
            .collect();
        let limit = [1, 3, 10, 100][round % 4];
        let (mut found, mut after): (Vec<TaskId>, Option<TaskId>) = (Vec::new(), None);
        loop {
            let page = log.list(&wanted, after.as_ref(), limit).await.unwrap();
            assert!(page.items.len() <= limit);
            found.extend(page.items.into_iter().map(|task| task.head.id));
            let Some(next) = page.next else { break };
            after = Some(next.parse().unwrap());
            if newer < 20 {
                newer += 1;
                add(100_000 + newer, rng.u64(1..7), rng.usize(..6)).await;
            }
        }
        // What was there already when the first page was read, of which some is newer than what the test began with.
        found.retain(|id| tasks.iter().any(|task| task.head.id == *id));
        assert!(found.iter().eq(expected.iter().copied()), "{wanted:?} in pages of {limit}");
    }
}
