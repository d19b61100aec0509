//! Messages as the logger gets them, and the log that it makes of them on the embedded store.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use transship_logger::Logger;
use transship_model::{
    Counts, Digest, FanOutJob, Happening, Job, LookJob, Outcome, Place, Progress, PushEvent, Resource, ResourceState,
    RestoreJob, Route, RuleId, ScanCursor, ScanJob, SkipReason, Task, TaskEvent, TaskHead, TaskId, TaskStatus, Trigger,
};
use transship_state::{Key, Outgoing, Queue, QueueError, Table, TaskLog, dispatch, messages, sqlite::SqliteStore};

/// A logger over a store in a folder that goes away with it.
struct World {
    table: Arc<dyn Table>,
    log: TaskLog,
    logger: Logger,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let table: Arc<dyn Table> = Arc::new(SqliteStore::open(dir.path()).unwrap().table());
        let log = TaskLog::new(table.clone());
        Self { table, logger: Logger::new(log.clone()), log, _dir: dir }
    }

    async fn tell(&self, events: &[TaskEvent]) -> Vec<Task> {
        let bodies = bodies(events).await;
        self.logger.record(bodies.iter().map(String::as_str)).await.unwrap()
    }

    async fn bury(&self, job: Job) {
        // As the queue has it.
        let kept = Arc::new(Kept::default());
        messages_of(kept.clone(), job).await;
        let bodies = kept.0.lock().unwrap().clone();
        self.logger.bury(&bodies[0]).await.unwrap();
    }

    async fn task(&self) -> Task {
        self.log.task(&id()).await.unwrap().unwrap()
    }

    async fn resources(&self) -> Vec<Resource> {
        self.log.resources(&id(), None, 100).await.unwrap().items
    }

    /// Fails unless nothing at all has been written.
    async fn assert_empty(&self) {
        for rule in [0, 1] {
            assert!(self.log.tasks(RuleId(rule), None, 100).await.unwrap().items.is_empty());
        }
        assert!(self.resources().await.is_empty());
        assert_eq!(self.table.get(&Key::new("tasks/1", id().ordinal())).await.unwrap(), None);
    }
}

/// A queue that keeps the bodies of its messages.
#[derive(Default)]
struct Kept(Mutex<Vec<String>>);

#[async_trait::async_trait]
impl Queue for Kept {
    async fn send(&self, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        self.0.lock().unwrap().extend(messages.into_iter().map(|message| message.body));
        Ok(())
    }
    async fn extend(&self, _: &str, _: Duration) -> Result<(), QueueError> {
        Err(QueueError::Lost)
    }
    async fn release(&self, _: &str, _: Duration) -> Result<(), QueueError> {
        Err(QueueError::Lost)
    }
}

async fn bodies(events: &[TaskEvent]) -> Vec<String> {
    let kept = Arc::new(Kept::default());
    transship_state::Events(kept.clone()).send(events).await.unwrap();
    let bodies = kept.0.lock().unwrap();
    assert!(bodies.iter().all(|body| messages::read_event(body).is_ok()));
    bodies.clone()
}

async fn messages_of(kept: Arc<Kept>, job: Job) {
    transship_state::Jobs(kept).send(&[job]).await.unwrap();
}

/// So many seconds after an hour ago: the logger's own clock comes in where it buries.
fn at(second: i64) -> Timestamp {
    static BEGINNING: LazyLock<Timestamp> = LazyLock::new(|| Timestamp::now() - Duration::from_secs(3600));
    *BEGINNING + Duration::from_secs(second.unsigned_abs())
}

fn id() -> TaskId {
    TaskId::derive(RuleId(1), at(0), "x")
}

fn head(trigger: Trigger) -> TaskHead {
    TaskHead { id: id(), instance: "a".parse().unwrap(), rule: "r".parse().unwrap(), trigger, created: at(0) }
}

fn push() -> TaskHead {
    head(Trigger::Push { resource: "team/app:v1".into() })
}

fn place(instance: &str, tag: &str) -> Place {
    let (repository, reference) = ("team/app".parse().unwrap(), tag.parse().unwrap());
    Place { instance: instance.parse().unwrap(), repository, reference }
}

fn route(tag: &str) -> Route {
    Route { source: place("a", tag), target: place("b", tag) }
}

fn copy_job(task: TaskHead, tag: &str) -> Job {
    let Route { source, target } = route(tag);
    dispatch::copy(task, source, target, None).0
}

fn scan_job(repositories: u64, resources: u64) -> Job {
    let cursor = ScanCursor { repositories, resources, ..ScanCursor::default() };
    Job::Scan(ScanJob { task: head(Trigger::Manual), cursor, continuation: 3 })
}

fn event(task: TaskHead, second: i64, what: Happening) -> TaskEvent {
    TaskEvent { task, at: at(second), what }
}

fn found(tags: &[&str]) -> Happening {
    Happening::Found { resources: tags.iter().map(|tag| route(tag)).collect() }
}

fn ended(tag: &str, outcome: Outcome) -> Happening {
    Happening::Ended { route: route(tag), progress: Progress { bytes_moved: 7, ..Progress::default() }, outcome }
}

fn push_event() -> PushEvent {
    PushEvent {
        instance: "a".parse().unwrap(),
        repository: "team/app".parse().unwrap(),
        tag: None,
        digest: Some(Digest::of(b"x")),
        id: None,
        time: None,
        received: at(0),
    }
}

/// Would break: a copy whose message is given up, and whose task then runs forever in the log.
#[tokio::test]
async fn a_copy_among_the_dead_letters_has_failed_and_its_task_is_over() {
    // With the event that the task has begun, and without it.
    for is_known in [true, false] {
        let world = World::new();
        if is_known {
            assert!(world.tell(&[event(push(), 1, found(&["v1"]))]).await.is_empty());
        }
        // A dead letter may be delivered twice as well.
        for _ in 0..2 {
            world.bury(copy_job(push(), "v1")).await;
            let task = world.task().await;
            assert_eq!(task.counts, Counts { found: 1, failed: 1, ..Counts::default() });
            assert_eq!((task.status(), task.total, task.ended.is_some()), (TaskStatus::Failed, Some(1), true));
            let resources = world.resources().await;
            assert_eq!((resources.len(), &resources[0].route, resources[0].state), (1, &route("v1"), ResourceState::Done));
            let Some(Outcome::Failed { reason }) = &resources[0].result else { unreachable!("{resources:?}") };
            assert!(reason.contains("by hand"), "it says what to do: {reason}");
        }
        assert!(world.tell(&[event(push(), 1, found(&["v1"]))]).await.is_empty(), "closed already");
    }
}

/// Would break: a copy that was made, of which the message came back until it was given up: it is not a failure.
#[tokio::test]
async fn a_dead_letter_of_a_copy_that_had_ended_changes_nothing() {
    for outcome in [Outcome::Copied, Outcome::Skipped { reason: SkipReason::Exists }] {
        let world = World::new();
        let closed = world.tell(&[event(push(), 5, ended("v1", outcome.clone()))]).await;
        world.bury(copy_job(push(), "v1")).await;
        assert_eq!(world.task().await, closed[0]);
        assert_eq!(world.resources().await[0].result, Some(outcome));
    }
}

/// Would break: one copy of a scan that is given up, and takes the others with it, or keeps the task open.
#[tokio::test]
async fn a_dead_letter_counts_as_one_failure_among_a_scans_copies() {
    let world = World::new();
    let manual = || head(Trigger::Manual);
    let over = Happening::ScanEnded { total: 2, repositories: 1, error: None };
    world.tell(&[event(manual(), 1, found(&["v1", "v2"])), event(manual(), 2, over)]).await;
    world.bury(copy_job(manual(), "v1")).await;
    assert_eq!((world.task().await.status(), world.task().await.ended), (TaskStatus::Running, None));
    let closed = world.tell(&[event(manual(), 3, ended("v2", Outcome::Copied))]).await;
    assert_eq!((closed.len(), closed[0].status()), (1, TaskStatus::PartlyFailed));
    assert_eq!(closed[0].counts, Counts { found: 2, copied: 1, failed: 1, bytes_moved: 7, ..Counts::default() });
}

/// Would break: a scan whose message is given up, and whose task waits forever for the end of it.
#[tokio::test]
async fn a_scan_among_the_dead_letters_ends_its_task_with_an_error() {
    let world = World::new();
    for _ in 0..2 {
        world.bury(scan_job(0, 0)).await;
        let task = world.task().await;
        assert_eq!((task.status(), task.total, task.counts.found), (TaskStatus::Failed, Some(0), 0));
        assert!(task.error.is_some_and(|error| error.contains("by hand")) && task.ended.is_some());
    }
}

/// Would break: the copies of what a scan had found before it was given up: they go on, and the task is over when they are.
#[tokio::test]
async fn the_copies_that_a_dead_scan_had_found_go_on_to_their_ends() {
    let world = World::new();
    let manual = || head(Trigger::Manual);
    world.tell(&[event(manual(), 1, found(&["v1", "v2"]))]).await;
    world.tell(&[event(manual(), 2, ended("v1", Outcome::Copied))]).await;
    // The step that was given up had found one more than its message says.
    world.bury(scan_job(1, 1)).await;
    let task = world.task().await;
    assert_eq!((task.status(), task.ended), (TaskStatus::Running, None));
    let closed = world.tell(&[event(manual(), 3, ended("v2", Outcome::Unchanged))]).await;
    assert_eq!((closed.len(), closed[0].status()), (1, TaskStatus::PartlyFailed));
    assert_eq!((closed[0].counts.found, closed[0].repositories), (2, 1));
}

/// Would break: a scan that was complete, and is called a failure because its message had not been deleted.
#[tokio::test]
async fn a_dead_letter_of_a_scan_that_had_ended_changes_nothing() {
    let world = World::new();
    let over = Happening::ScanEnded { total: 1, repositories: 1, error: None };
    let manual = || head(Trigger::Manual);
    let events = [event(manual(), 2, over), event(manual(), 3, ended("v1", Outcome::Copied))];
    let closed = world.tell(&events).await;
    assert_eq!(closed[0].status(), TaskStatus::Succeeded);
    world.bury(scan_job(0, 0)).await;
    assert_eq!(world.task().await, closed[0]);
}

/// Would break: dead letters that come back forever because nobody can read them; jobs without a task that get one.
#[tokio::test]
async fn a_dead_letter_that_is_nobodys_task_is_left_out() {
    let world = World::new();
    let Job::Copy(copy) = copy_job(push(), "v1") else { unreachable!() };
    let event = bodies(&[event(copy.task, 1, Happening::Created)]).await.remove(0);
    for body in ["", "no job", "null", "{}", "[]", r#"{"job":"of-a-newer-version"}"#, r#"{"job":"copy"}"#, &event] {
        world.logger.bury(body).await.unwrap();
    }
    world.bury(Job::Look(LookJob { event: push_event() })).await;
    world.bury(Job::FanOut(FanOutJob { event: push_event(), nonce: "n".into(), after: 0 })).await;
    world.bury(Job::Restore(RestoreJob { place: place("b", "v1"), digest: Digest::of(b"x"), overwritten_by: at(0) })).await;
    world.assert_empty().await;
}

/// Would break: one message of another version that keeps all others of its batch from being recorded.
#[tokio::test]
async fn a_message_that_is_no_event_is_left_out_of_its_batch() {
    let world = World::new();
    let good = bodies(&[event(push(), 1, found(&["v1"])), event(push(), 5, ended("v1", Outcome::Copied))]).await;
    let newer = good[0].replace(r#""event":"found""#, r#""event":"of-a-newer-version""#);
    assert_ne!(newer, good[0]);
    let batch = ["", &good[0], "no event", &newer, "{}", &good[1], "null"];
    let closed = world.logger.record(batch).await.unwrap();
    assert_eq!((closed.len(), closed[0].status(), closed[0].counts.copied), (1, TaskStatus::Succeeded, 1));
    assert!(world.logger.record(["no event"]).await.unwrap().is_empty());
    assert!(world.logger.record([]).await.unwrap().is_empty());
}

/// Would break: a scan's page of very many resources, which is sent as several messages.
#[tokio::test]
async fn a_large_page_of_a_scan_is_recorded_whole() {
    let world = World::new();
    let tags: Vec<String> = (0..1000).map(|n| format!("v{n}")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let page = event(head(Trigger::Manual), 1, found(&tags));
    let messages = bodies(std::slice::from_ref(&page)).await;
    assert!(messages.len() > 1 && messages.iter().all(|body| body.len() < 200 << 10), "{}", messages.len());
    world.tell(&[page.clone(), page]).await;
    assert_eq!(world.task().await.counts.found, 1000);
}
