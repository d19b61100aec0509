//! Messages as the logger gets them, and the log that it makes of them on the embedded store.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};
use transship_logger::{Logger, Outlets};
use transship_model::{
    Counts, Digest, EventType, FanOutJob, Happening, Instance, Job, LookJob, Outcome, Owner, Place, Progress, PushEvent,
    Resource, ResourceState, RestoreJob, Route, Rule, RuleId, ScanCursor, ScanJob, SkipReason, Subscription, Task, TaskEvent,
    TaskHead, TaskId, TaskStatus, Trigger,
};
use transship_state::{
    Announcement, Catalog, DeadLetter, DeadLetters, Draft, Item, Key, Notifications, Op, Outgoing, Page, Query, Queue,
    QueueError, Recorded, Snapshot, StateError, Table, TableError, TaskLog, Topic, TopicError, dispatch, messages,
    sqlite::SqliteStore,
};

/// A logger over a store in a folder that goes away with it, with a topic and with instances `a` and `b` that have webhooks.
struct World {
    table: Arc<dyn Table>,
    log: TaskLog,
    logger: Logger,
    dead_letters: DeadLetters,
    topic: Arc<Heard>,
    notifications: Arc<Kept>,
    _dir: tempfile::TempDir,
}

impl World {
    /// Without listeners.
    fn new() -> Self {
        Self::over(|table| table, false)
    }

    /// With a topic, and what the logger sees of the table.
    fn over(seen: impl FnOnce(Arc<dyn Table>) -> Arc<dyn Table>, has_topic: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let table: Arc<dyn Table> = Arc::new(SqliteStore::open(dir.path()).unwrap().table());
        let (log, dead_letters) = (TaskLog::new(table.clone()), DeadLetters::new(table.clone()));
        let (topic, notifications) = (Arc::new(Heard::default()), Arc::new(Kept::default()));
        let outlets = Outlets {
            catalog: Arc::new(Catalog::new(table.clone())),
            topic: has_topic.then(|| topic.clone() as Arc<dyn Topic>),
            topic_resources: Vec::new(),
            notifications: Notifications(notifications.clone()),
        };
        let logger = Logger::new(TaskLog::new(seen(table.clone())), dead_letters.clone(), outlets);
        Self { table, log, logger, dead_letters, topic, notifications, _dir: dir }
    }

    /// Instances with these webhooks, and the rule 1 from the first to the second.
    async fn with_webhooks(self, urls: [Option<&str>; 2]) -> Self {
        let instance = |(name, url): (&str, Option<&str>)| -> Instance {
            let notify = url.map(|url| json!({ "url": url }));
            let instance = json!({"name": name, "endpoint": "https://x.test", "kind": "oci", "notify": notify});
            serde_json::from_value(instance).unwrap()
        };
        let rule: Rule = serde_json::from_value(json!({
            "id": 0, "revision": 0, "name": "r", "description": "", "overwrite": false, "enabled": true,
            "source": {"instance": "a", "namespace": "team", "repository": ".*", "tag": ".*", "types": []},
            "target": {"instance": "b"},
        }))
        .unwrap();
        let instances: Vec<_> = ["a", "b"].into_iter().zip(urls).map(instance).collect();
        Catalog::new(self.table.clone()).replace(&instances, &[rule]).await.unwrap();
        self
    }

    /// A subscription, beside what there is.
    async fn subscribe(&self, name: &str, mut more: Value) {
        (more["name"], more["webhook"]) = (json!(name), json!({"url": "https://ci.test/"}));
        let subscription: Subscription = serde_json::from_value(more).unwrap();
        let put = |_: &Snapshot, draft: &mut Draft<'_>| Ok::<_, StateError>(draft.put_subscription(&subscription, &Owner::Api));
        Catalog::new(self.table.clone()).edit(put).await.unwrap();
    }

    /// To whom something was sent, with what.
    fn notified(&self) -> Vec<(String, Value)> {
        let bodies = self.notifications.0.lock().unwrap();
        let read = |body: &String| {
            let notification = messages::read_notification(body).unwrap();
            let event: Value = serde_json::from_str(&notification.body).unwrap();
            assert_eq!(event["id"], notification.id);
            (
                notification
                    .subscription
                    .instance()
                    .map_or_else(|| notification.subscription.to_string(), |name| name.to_string()),
                event,
            )
        };
        bodies.iter().map(read).collect()
    }

    /// The ends that were published.
    fn announced(&self) -> Vec<Announcement> {
        self.topic.said.lock().unwrap().clone()
    }

    /// Time goes by: the sweep tells what nobody else will.
    async fn sweep_later(&self) {
        let key = Key::new("unannounced", id().as_str());
        if let Some(mut item) = self.table.get(&key).await.unwrap() {
            item.attributes.insert("closed".into(), json!("2026-01-01T00:00:00Z"));
            self.table.write(vec![Op::Put { item, condition: None }]).await.unwrap();
        }
        let kept = Arc::new(Kept::default());
        transship_state::Events(kept.clone()).sweep().await.unwrap();
        let body = kept.0.lock().unwrap().remove(0);
        self.logger.record([body.as_str()]).await.unwrap();
    }

    async fn tell(&self, events: &[TaskEvent]) -> Vec<Task> {
        let bodies = bodies(events).await;
        self.logger.record(bodies.iter().map(String::as_str)).await.unwrap().closed
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

/// A topic that remembers what it was told, unless it does not answer or does not take it.
#[derive(Default)]
struct Heard {
    said: Mutex<Vec<Announcement>>,
    is_down: AtomicBool,
    is_choosy: AtomicBool,
    /// How often it was told something.
    asked: AtomicUsize,
}

#[async_trait::async_trait]
impl Topic for Heard {
    async fn publish(&self, announcement: &Announcement) -> Result<(), TopicError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.is_choosy.load(Ordering::Relaxed) {
            return Err(TopicError::Invalid("a test".into()));
        }
        if self.is_down.load(Ordering::Relaxed) {
            return Err(TopicError::Unavailable("a test".into()));
        }
        self.said.lock().unwrap().push(announcement.clone());
        Ok(())
    }
}

/// A table that is lost to a logger from some write on, as if its process had been killed there.
struct Dying {
    table: Arc<dyn Table>,
    is_last: fn(&[Op]) -> bool,
    is_dead: AtomicBool,
}

impl Dying {
    fn alive(&self) -> Result<(), TableError> {
        if self.is_dead.load(Ordering::Relaxed) { Err(TableError::Unavailable("killed".into())) } else { Ok(()) }
    }
}

#[async_trait::async_trait]
impl Table for Dying {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.alive()?;
        self.table.get(key).await
    }
    async fn query(&self, query: Query) -> Result<Page, TableError> {
        self.alive()?;
        self.table.query(query).await
    }
    async fn write(&self, ops: Vec<Op>) -> Result<(), TableError> {
        self.alive()?;
        // What removes the note is not done, what closes the task is.
        let is_last = (self.is_last)(&ops);
        let is_removal = ops.iter().all(|op| matches!(op, Op::Delete { .. }));
        self.is_dead.store(is_last, Ordering::Relaxed);
        if is_last && is_removal { self.alive() } else { self.table.write(ops).await }
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
    Job::Scan(ScanJob { task: head(Trigger::Manual), cursor, continuation: 3, attempts: 0 })
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

/// Would break: a job that is given up, and nobody knows what it has failed of each time.
#[tokio::test]
async fn a_dead_letter_fails_with_the_error_that_was_told_last() {
    let world = World::new();
    let progress = Progress { attempts: 3, bytes_moved: 7, error: Some("mirror: 503".into()), ..Progress::default() };
    world.tell(&[event(push(), 1, Happening::Progress { route: route("v1"), progress })]).await;
    world.bury(copy_job(push(), "v1")).await;
    let resource = world.resources().await.remove(0);
    let Some(Outcome::Failed { reason }) = &resource.result else { unreachable!("{resource:?}") };
    assert!(reason.ends_with("The last error: mirror: 503"), "{reason}");
    assert_eq!((resource.progress.attempts, resource.progress.bytes_moved), (3, 7), "what was done stays");
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
    let over = Happening::ScanEnded { total: 2, repositories: 1, compared: 0, error: None };
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
    let over = Happening::ScanEnded { total: 1, repositories: 1, compared: 0, error: None };
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
    world.bury(Job::FanOut(FanOutJob { event: push_event(), nonce: "n".into(), push: false, after: 0 })).await;
    world
        .bury(Job::Restore(RestoreJob { place: place("b", "v1"), digest: Digest::of(b"x"), overwritten_by: at(0), told: None }))
        .await;
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
    let Recorded { closed, counts } = world.logger.record(batch).await.unwrap();
    assert_eq!((counts.found, counts.copied), (1, 1), "what the batch has added");
    assert_eq!((closed.len(), closed[0].status(), closed[0].counts.copied), (1, TaskStatus::Succeeded, 1));
    // For the second time, and nothing at all.
    for nothing in [vec![good[1].as_str()], vec!["no event"], vec![]] {
        let Recorded { closed, counts } = world.logger.record(nothing).await.unwrap();
        assert_eq!((closed.len(), counts), (0, Counts::default()));
    }
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

/// Would break: a dead letter that is only marked in the log, so that nobody can make the job again; or that is kept for ever.
#[tokio::test]
async fn a_job_that_was_given_up_is_kept() {
    let world = World::new();
    let look = Job::Look(LookJob { event: push_event() });
    let jobs = [copy_job(push(), "v1"), copy_job(push(), "v2"), scan_job(1, 2)];
    for job in jobs.iter().chain([&look]) {
        for _ in 0..2 {
            world.bury(job.clone()).await;
        }
    }
    let kept = |letters: Vec<DeadLetter>| letters.into_iter().map(|letter| letter.job).collect::<Vec<_>>();
    let [v1, v2, scan] = jobs;
    let of_task = world.dead_letters.of(Some(&id()), None, 10).await.unwrap().items;
    assert!(of_task.iter().all(|letter| Timestamp::now().duration_since(letter.buried).as_secs() < 3600));
    assert_eq!(kept(of_task), [scan, v1, v2], "in the order of their names");
    assert_eq!(kept(world.dead_letters.of(None, None, 10).await.unwrap().items), [look]);
    let item = world.table.get(&Key::new(format!("dead/{}", id()), "scan")).await.unwrap().unwrap();
    assert!(item.expires.is_some_and(|expires| expires > Timestamp::now()));
}

/// Would break: an instance whose webhook is not told, or is told by each of the two that have the same one; a topic that is not told
/// of a failure; a notification that says something else than the log.
#[tokio::test]
async fn the_end_of_a_task_is_told_to_the_topic_and_to_the_webhooks_of_both_ends() {
    let (x, y) = (Some("https://x.test/"), Some("https://y.test/"));
    for (urls, names) in [([x, y], vec!["a", "b"]), ([x, x], vec!["a"]), ([None, y], vec!["b"]), ([None, None], vec![])] {
        for outcome in [Outcome::Copied, Outcome::Failed { reason: "no".into() }] {
            let world = World::over(|table| table, true).with_webhooks(urls).await;
            world.tell(&[event(push(), 1, found(&["v1"]))]).await;
            assert!(world.notified().is_empty() && world.announced().is_empty(), "it has not ended");
            world.tell(&[event(push(), 5, ended("v1", outcome.clone()))]).await;
            let kind = match outcome {
                Outcome::Copied => "io.transship.task.succeeded",
                _ => "io.transship.task.failed",
            };
            let notified = world.notified();
            assert_eq!(notified.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
            let [announcement] = &world.announced()[..] else { unreachable!("one announcement") };
            assert_eq!(announcement.attributes["type"], kind);
            assert!(announcement.subject.is_ascii() && announcement.subject.starts_with("transship: a/r "));
            let said: Value = serde_json::from_str(&announcement.body).unwrap();
            assert_eq!(said["data"]["resources"][0]["target"]["instance"], "b");
            assert!(notified.iter().all(|(_, event)| *event == said && event["type"] == kind));
            // What comes late, or again, tells nothing any more.
            world.tell(&[event(push(), 1, found(&["v1"])), event(push(), 5, ended("v1", outcome))]).await;
            world.sweep_later().await;
            assert_eq!((world.notified().len(), world.announced().len()), (names.len(), 1), "told again");
        }
    }
}

/// Would break: a subscription that hears of what it did not ask for, or not of what it did; a resource whose end is told to nobody,
/// because the notifications queue did not answer when it had just been logged; a second end of the same work, told as another.
#[tokio::test]
async fn the_end_of_a_resource_is_told_to_who_wants_it_before_its_event_is_done_with() {
    let world = World::new().with_webhooks([Some("https://x.test/"), None]).await;
    for (name, more) in [
        ("all", json!({"events": ["resource.*", "task.*"]})),
        ("copies", json!({"events": ["resource.copied"], "instances": ["b"], "rules": ["a/r"]})),
        ("pager", json!({"events": ["resource.failed", "task.failed"]})),
        ("elsewhere", json!({"events": ["resource.*"], "instances": ["c"]})),
        ("off", json!({"events": ["resource.*"], "enabled": false})),
    ] {
        world.subscribe(name, more).await;
    }
    let end = event(push(), 5, ended("v1", Outcome::Copied));
    let messages = bodies(std::slice::from_ref(&end)).await;
    let outlets = Outlets {
        catalog: Arc::new(Catalog::new(world.table.clone())),
        topic: None,
        topic_resources: Vec::new(),
        notifications: Notifications(Arc::new(Deaf)),
    };
    let deaf = Logger::new(world.log.clone(), world.dead_letters.clone(), outlets);
    assert!(deaf.record(messages.iter().map(String::as_str)).await.is_err(), "the event is done with, and nobody was told");
    assert_eq!(world.task().await.status(), TaskStatus::Succeeded);

    world.tell(std::slice::from_ref(&end)).await;
    let told = |kind: &str| -> Vec<(String, Value)> {
        let kind = format!("io.transship.{kind}");
        world.notified().into_iter().filter(|(_, event)| event["type"] == *kind).collect()
    };
    let names = |told: &[(String, Value)]| told.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let copied = told("resource.copied");
    assert_eq!(names(&copied), ["all", "copies"]);
    assert_eq!(names(&told("task.succeeded")), ["a", "all"]);
    let event_of = &copied[0].1;
    let word = event_of["id"].as_str().unwrap().strip_prefix(&format!("{}-", id())).unwrap();
    let (hash, outcome) = word.split_once('-').unwrap();
    assert_eq!((hash.len(), outcome), (16, "copied"));
    assert_eq!((&event_of["subject"], &event_of["source"]), (&json!("team/app:v1"), &json!("/v1/instances/a/rules/r")));
    assert_eq!(event_of["data"]["resource"]["target"]["instance"], "b");
    assert_eq!((&event_of["data"]["task"], &event_of["data"]["resource"]["bytes_moved"]), (&json!(id()), &json!(7)));

    // The event comes again: the same is told again. The same work ends a second time: nothing is.
    world.tell(std::slice::from_ref(&end)).await;
    let again = told("resource.copied");
    assert!(again.len() == 4 && again.iter().all(|(_, event)| event == event_of));
    world.tell(&[event(push(), 9, ended("v1", Outcome::Failed { reason: "no".into() }))]).await;
    assert!(told("resource.failed").is_empty() && told("resource.copied").len() == 4);

    // Another resource of another task fails.
    let other = TaskHead { id: TaskId::derive(RuleId(1), at(0), "y"), ..push() };
    world.tell(&[event(other, 9, ended("v2", Outcome::Failed { reason: "no".into() }))]).await;
    assert_eq!(names(&told("resource.failed")), ["all", "pager"]);
    assert_eq!(names(&told("task.failed")), ["a", "all", "pager"]);
}

/// Would break: a topic that hears of each resource although nobody has asked for that, or of none although somebody has; an end that is
/// done with although the topic did not take it.
#[tokio::test]
async fn the_topic_hears_of_resources_as_far_as_it_is_asked_for() {
    let world = World::new();
    let heard = Arc::new(Heard::default());
    let outlets = Outlets {
        catalog: Arc::new(Catalog::new(world.table.clone())),
        topic: Some(heard.clone()),
        topic_resources: vec![EventType::ResourceFailed],
        notifications: Notifications(Arc::new(Kept::default())),
    };
    let logger = Logger::new(world.log.clone(), world.dead_letters.clone(), outlets);
    let failed = Outcome::Failed { reason: "no".into() };
    let other = TaskHead { id: TaskId::derive(RuleId(1), at(0), "y"), ..push() };
    let copied = bodies(&[event(push(), 5, ended("v1", Outcome::Copied))]).await;
    let failed = bodies(&[event(other, 5, ended("v2", failed))]).await;
    heard.is_down.store(true, Ordering::Relaxed);
    assert!(logger.record(failed.iter().map(String::as_str)).await.is_err(), "it comes again");
    heard.is_down.store(false, Ordering::Relaxed);
    for messages in [&copied, &failed] {
        logger.record(messages.iter().map(String::as_str)).await.unwrap();
    }
    let said = heard.said.lock().unwrap().clone();
    let of_resources: Vec<_> = said.iter().filter(|said| said.attributes["type"].contains(".resource.")).collect();
    let [of_it] = of_resources[..] else { unreachable!("{said:?}") };
    assert_eq!(of_it.attributes["type"], "io.transship.resource.failed");
    assert_eq!((of_it.attributes["status"].as_str(), of_it.attributes["rule"].as_str()), ("failed", "r"));
    assert_eq!(of_it.subject, "transship: a/r team/app:v2 failed");
    assert_eq!(serde_json::from_str::<Value>(&of_it.body).unwrap()["data"]["resource"]["reason"], "no");
    assert_eq!(said.len(), 3, "and the ends of both tasks: {said:?}");
}

/// A queue that does not answer.
struct Deaf;

#[async_trait::async_trait]
impl Queue for Deaf {
    async fn send(&self, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        if messages.is_empty() { Ok(()) } else { Err(QueueError::Unavailable("a test".into())) }
    }
    async fn extend(&self, _: &str, _: Duration) -> Result<(), QueueError> {
        Err(QueueError::Lost)
    }
    async fn release(&self, _: &str, _: Duration) -> Result<(), QueueError> {
        Err(QueueError::Lost)
    }
}

/// Would break: a note of every task that is kept for nobody, which costs a third of the table's writes.
#[tokio::test]
async fn where_nobody_listens_nothing_is_told_and_nothing_noted() {
    let world = World::new().with_webhooks([None, None]).await;
    let dying = World::over(|table| never_noted(table), false).with_webhooks([None, None]).await;
    for world in [world, dying] {
        world.tell(&[event(push(), 5, ended("v1", Outcome::Copied))]).await;
        assert!(world.log.unannounced(&[id()]).await.unwrap().is_empty() && world.notified().is_empty());
    }
}

/// A table that fails whoever notes that something is to be told.
fn never_noted(table: Arc<dyn Table>) -> Arc<dyn Table> {
    Arc::new(Dying { table, is_last: |ops| ops.iter().any(|op| op.key().partition == "unannounced"), is_dead: false.into() })
}

/// Would break: a task whose end nobody hears of, because the logger was killed after it had closed the task and before it had told
/// it; that its two notifications can't be known as one where it was killed after it had told it.
#[tokio::test]
async fn a_logger_that_is_killed_around_the_telling_leaves_it_to_the_next() {
    let closes: fn(&[Op]) -> bool =
        |ops| ops.iter().any(|op| matches!(op, Op::Put { item, .. } if item.key.partition == "unannounced"));
    let forgets: fn(&[Op]) -> bool = |ops| matches!(ops, [Op::Delete { key, .. }] if key.partition == "unannounced");
    for (is_last, told_before) in [(closes, 0), (forgets, 1)] {
        for is_redelivered in [true, false] {
            let first = World::over(|table| Arc::new(Dying { table, is_last, is_dead: false.into() }), true);
            let first = first.with_webhooks([Some("https://x.test/"), None]).await;
            let end = event(push(), 5, ended("v1", Outcome::Copied));
            let messages = bodies(std::slice::from_ref(&end)).await;
            // Whether the batch is said to be done does not matter to the dead.
            let _ = first.logger.record(messages.iter().map(String::as_str)).await;
            assert_eq!((first.notified().len(), first.announced().len()), (told_before, told_before));
            assert_eq!(first.task().await.status(), TaskStatus::Succeeded, "it is closed");
            assert_eq!(first.log.unannounced(&[id()]).await.unwrap().len(), 1);

            let outlets = Outlets {
                catalog: Arc::new(Catalog::new(first.table.clone())),
                topic: Some(first.topic.clone()),
                topic_resources: Vec::new(),
                notifications: Notifications(first.notifications.clone()),
            };
            let logger = Logger::new(first.log.clone(), first.dead_letters.clone(), outlets);
            let next = World { logger, ..first };
            if is_redelivered {
                assert!(next.tell(&[end]).await.is_empty(), "it is closed only once");
            } else {
                next.logger.sweep().await.unwrap();
                assert_eq!(next.announced().len(), told_before, "the sweep leaves a fresh one to whoever closed it");
                next.sweep_later().await;
            }
            let (notified, announced) = (next.notified(), next.announced());
            assert_eq!((notified.len(), announced.len()), (told_before + 1, told_before + 1));
            assert!(notified.iter().all(|(_, event)| *event == notified[0].1), "not to be known as one");
            assert!(announced.iter().all(|announcement| *announcement == announced[0]));
            assert!(next.log.unannounced(&[id()]).await.unwrap().is_empty());
            next.sweep_later().await;
            assert_eq!(next.announced().len(), told_before + 1, "told, and told again");
        }
    }
}

/// Would break: a log that stands still because a topic does not answer; an end that is lost by it; webhooks that are told the same every
/// few minutes for as long as it does not answer.
#[tokio::test]
async fn a_topic_that_does_not_answer_is_told_later_and_keeps_nobody_else_from_anything() {
    let world = World::over(|table| table, true).with_webhooks([Some("https://x.test/"), None]).await;
    let told = || (world.notified().len(), world.announced().len());
    world.topic.is_down.store(true, Ordering::Relaxed);
    let closed = world.tell(&[event(push(), 5, ended("v1", Outcome::Copied))]).await;
    assert_eq!((closed.len(), told()), (1, (1, 0)));
    world.sweep_later().await;
    assert_eq!(told(), (1, 0));
    world.topic.is_down.store(false, Ordering::Relaxed);
    world.sweep_later().await;
    world.sweep_later().await;
    assert_eq!(told(), (1, 1));
}

/// Would break: an end that a topic will never take is sent to it every few minutes for ever, keeps the webhooks from hearing of it, or
/// has its events delivered again.
#[tokio::test]
async fn what_a_topic_will_never_take_is_told_it_once() {
    let mut world = World::over(|table| table, true).with_webhooks([Some("https://x.test/"), None]).await;
    let outlets = Outlets {
        catalog: Arc::new(Catalog::new(world.table.clone())),
        topic: Some(world.topic.clone()),
        topic_resources: vec![EventType::ResourceCopied],
        notifications: Notifications(world.notifications.clone()),
    };
    world.logger = Logger::new(world.log.clone(), world.dead_letters.clone(), outlets);
    world.topic.is_choosy.store(true, Ordering::Relaxed);
    let asked = || world.topic.asked.load(Ordering::Relaxed);
    let closed = world.tell(&[event(push(), 5, ended("v1", Outcome::Copied))]).await;
    // Of the resource and of the task.
    assert_eq!((closed.len(), world.notified().len(), asked()), (1, 1, 2));
    world.topic.is_choosy.store(false, Ordering::Relaxed);
    world.sweep_later().await;
    assert_eq!((world.notified().len(), asked()), (1, 2), "the sweep tells it again");
}

/// Would break: a full run of thousands of resources whose notification no queue takes.
#[tokio::test]
async fn of_a_large_task_the_counts_are_told_and_not_the_resources() {
    for (count, told) in [(10, 10), (11, 0)] {
        let world = World::over(|table| table, true).with_webhooks([None, None]).await;
        let tags: Vec<String> = (0..count).map(|n| format!("v{n}")).collect();
        let mut events: Vec<_> = tags.iter().map(|tag| event(head(Trigger::Manual), 5, ended(tag, Outcome::Copied))).collect();
        let over = Happening::ScanEnded { total: count, repositories: 1, compared: 0, error: None };
        events.push(event(head(Trigger::Manual), 6, over));
        world.tell(&events).await;
        let said: Value = serde_json::from_str(&world.announced()[0].body).unwrap();
        assert_eq!(said["data"]["counts"]["copied"], count);
        assert_eq!(said["data"]["resources"].as_array().map_or(0, Vec::len), told);
    }
}

fn later(hours: u64) -> Timestamp {
    Timestamp::now() + Duration::from_secs(hours * 3600)
}

/// Would break: a cancelled task that waits for ever for jobs that come up hours later, are among the dead letters, or were lost; one that
/// is wound up while workers may still be at it; what they tell late, counted a second time.
#[tokio::test]
async fn a_cancelled_task_ends_without_waiting_for_its_jobs() {
    let world = World::over(|table| table, true);
    let manual = || head(Trigger::Manual);
    let now = |what| TaskEvent { task: manual(), at: Timestamp::now(), what };
    world.tell(&[event(manual(), 1, found(&["v1", "v2", "v3"])), event(manual(), 2, ended("v1", Outcome::Copied))]).await;
    world.tell(&[now(Happening::Cancelled { by: "token:1".into() })]).await;
    world.logger.sweep_at(Timestamp::now() + Duration::from_secs(60)).await.unwrap();
    assert_eq!(world.task().await.ended, None, "workers may be at it");

    world.logger.sweep_at(later(1)).await.unwrap();

    let task = world.task().await;
    assert_eq!((task.status(), task.ended.is_some(), task.total), (TaskStatus::Cancelled, true, Some(3)));
    assert_eq!(task.counts, Counts { found: 3, copied: 1, skipped: 2, cancelled: 2, bytes_moved: 7, ..Counts::default() });
    assert_eq!(world.announced().len(), 1);
    assert_eq!(world.announced()[0].attributes["type"], "io.transship.task.cancelled");
    // A job that comes up, one that was given up, and a scan that says it has ended.
    let over = Happening::ScanEnded { total: 3, compared: 0, repositories: 1, error: None };
    world.tell(&[now(ended("v2", Outcome::Copied)), now(over)]).await;
    world.bury(copy_job(manual(), "v3")).await;
    world.logger.sweep_at(later(2)).await.unwrap();
    assert_eq!(world.task().await, task, "the first outcome stands");
    assert_eq!(world.announced().len(), 1);
    assert!(world.log.cancelling(None, 10).await.unwrap().items.is_empty(), "it is looked at no more");
}

/// Would break: a task that runs for ever because what was to tell of its end is lost; one that is given up while its job may be in a
/// queue, or at once after the logger itself was away for days; a late event that is counted a second time.
#[tokio::test]
async fn a_task_that_nothing_is_heard_of_is_closed_as_failed_and_only_then() {
    let world = World::over(|table| table, true);
    let manual = || head(Trigger::Manual);
    let begun = Happening::Progress { route: route("v1"), progress: Progress { attempts: 1, ..Progress::default() } };
    let over = Happening::ScanEnded { total: 3, compared: 0, repositories: 1, error: None };
    world.tell(&[event(manual(), 1, found(&["v1", "v2"])), event(manual(), 2, begun.clone()), event(manual(), 3, over)]).await;

    world.logger.sweep_at(later(20)).await.unwrap();
    // The first look after a long time tells nothing yet: the queue may be full of what it has to say.
    world.logger.sweep_at(later(100)).await.unwrap();
    assert_eq!(world.task().await.counts.failed, 0);
    world.logger.sweep_at(later(120)).await.unwrap();
    assert_eq!(world.task().await.counts.failed, 0, "it is watched for a day");

    world.logger.sweep_at(later(130)).await.unwrap();
    let task = world.task().await;
    assert_eq!((task.counts.failed, task.ended), (1, None), "a job that has not begun may be in its queue for two weeks");
    let resource = world.log.resource(&id(), &place("a", "v1")).await.unwrap().unwrap();
    let Some(Outcome::Failed { reason }) = &resource.result else { unreachable!("{resource:?}") };
    assert!(reason.contains("went astray"), "{reason}");

    // Of the third nothing was ever heard.
    for hours in [500, 530, 560, 590] {
        world.logger.sweep_at(later(hours)).await.unwrap();
    }
    let task = world.task().await;
    assert_eq!((task.status(), task.ended.is_some()), (TaskStatus::Failed, true), "{task:?}");
    assert_eq!((task.counts.found, task.counts.failed), (2, 2));
    assert!(task.error.as_ref().is_some_and(|error| error.contains("went astray")));
    assert_eq!(world.announced().len(), 1);
    world.tell(&[event(manual(), 9, ended("v1", Outcome::Copied)), event(manual(), 2, begun)]).await;
    let late = world.task().await;
    assert_eq!((late.counts, late.ended, late.status()), (task.counts, task.ended, task.status()), "the first outcome stands");
    assert!(world.log.open_before(later(1000), None, 10).await.unwrap().items.is_empty());
}

/// Would break: a task that is given up although it moves, slowly: a registry that asks for hours, a layer that takes days.
#[tokio::test]
async fn a_task_that_still_moves_is_left_alone_however_old_it_is() {
    let world = World::new();
    let waits = |attempts| {
        let progress = Progress { attempts, error: Some("503".into()), retry_at: Some(later(1)), ..Progress::default() };
        event(push(), 5, Happening::Progress { route: route("v1"), progress })
    };
    world.tell(&[waits(1)]).await;
    world.logger.sweep_at(later(30)).await.unwrap();
    let open = world.log.open_before(later(1000), None, 10).await.unwrap().items;
    assert!(open[0].suspect.is_some());
    // It is heard of again: as if a day and more after the first look.
    let key = Key::new("tasks/1", id().ordinal());
    let mut item = world.table.get(&key).await.unwrap().unwrap();
    item.attributes.insert("moved".into(), json!(later(53).as_second()));
    world.table.write(vec![Op::Put { item, condition: None }]).await.unwrap();
    world.logger.sweep_at(later(60)).await.unwrap();
    assert_eq!(world.task().await.ended, None);
    let open = world.log.open_before(later(1000), None, 10).await.unwrap().items;
    assert_eq!((open.len(), open[0].suspect), (1, None), "it is not suspected any more");
}

/// Would break: a log that is kept for ever, or for another time than was set.
#[tokio::test]
async fn tasks_are_kept_for_as_long_as_was_set() {
    let world = World::new();
    let day = Duration::from_secs(24 * 3600);
    let log = TaskLog::new(world.table.clone()).keeping(3 * day);
    log.record(&[event(push(), 1, found(&["v1"])), event(push(), 5, ended("v1", Outcome::Copied))]).await.unwrap();
    let place = format!("{}-1", id().ordinal());
    for key in [
        Key::new("tasks/1", id().ordinal()),
        Key::new(format!("resources/{}", id()), "team/app:v1"),
        Key::new("history/a", place),
    ] {
        let item = world.table.get(&key).await.unwrap().unwrap();
        assert_eq!(item.expires.map(Timestamp::as_second), Some((at(0) + 3 * day).as_second()), "{key:?}");
    }
}
