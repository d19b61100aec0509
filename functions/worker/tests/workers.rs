//! Several workers over one table and one queue, as processes that know nothing else of each other, with real registries.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on has failed")]

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;
use transship_model::{
    CopyJob, Happening, Instance, Job, Outcome, Place, Progress, PushEvent, Pushed, Reference, RetryJob, Route, Rule, RuleId,
    ScanCursor, ScanJob, SkipReason, TaskEvent, TaskHead, TaskId, TaskStatus, Told, Trigger,
};
use transship_registry::Http;
use transship_state::{
    AttemptLog, Catalog, DeadLetters, Dispatcher, Events, Item, Jobs, Key, LocalSecrets, Op, Origins, Outgoing, Page, Previews,
    Query, Queue, QueueError, Table, TableError, TaskLog, Uploads, messages,
    sqlite::{QueueKind, SqliteQueue, SqliteStore, SqliteTable},
};
use transship_tests::*;
use transship_worker::{Disposition, HOLD, Stores, Worker};

const MIB: u64 = 1 << 20;

/// What came of the attempt to work on a message.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
enum Step {
    /// None was there.
    Nothing,
    /// It was given back.
    Back,
    /// It is done with; this was its job.
    Done(Job),
}

/// Two registries, a rule from one to the other, and what is shared by all workers.
struct World {
    jobs: SqliteQueue,
    events: SqliteQueue,
    store: SqliteStore,
    catalog: Arc<Catalog>,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(source: &str, target: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let (jobs, events) = (store.queue("jobs", QueueKind::Fifo), store.queue("events", QueueKind::Standard));
        let catalog = Arc::new(Catalog::new(Arc::new(store.table())));
        let instance = |name: &str, endpoint: &str| -> Instance {
            serde_json::from_value(json!({"name": name, "endpoint": endpoint, "kind": "distribution"})).unwrap()
        };
        let rule = rule("all", ("a", "team"), ("b", "mirror"), false);
        catalog.replace(&[instance("a", source), instance("b", target)], &[rule]).await.unwrap();
        Self { jobs, events, store, catalog, _dir: dir }
    }

    /// From now on there are these rules.
    async fn rules(&self, rules: &[Rule]) {
        let instances: Vec<Instance> =
            self.catalog.snapshot().await.unwrap().instances().map(|instance| Instance::clone(instance)).collect();
        self.catalog.replace(&instances, rules).await.unwrap();
    }

    /// A push is told to a webhook that can send jobs, and ends before it has noted anything.
    async fn told_to_one_that_crashes(&self, event: &PushEvent) {
        let (jobs, events) = self.queues();
        let origins = Origins::new(Arc::new(Unwritable(self.store.table())));
        let catalog = self.catalog.snapshot().await.unwrap();
        Dispatcher::new(origins, jobs, events).dispatch(&catalog, event, "").await.unwrap_err();
    }

    fn queues(&self) -> (Jobs, Events) {
        (Jobs(Arc::new(self.jobs.clone())), Events(Arc::new(self.events.clone())))
    }

    fn origins(&self) -> Origins {
        Origins::new(Arc::new(self.store.table()) as Arc<dyn Table>)
    }

    /// A push to the source is told.
    async fn told(&self, repository: &str, tag: &str) {
        let event = PushEvent {
            instance: "a".parse().unwrap(),
            repository: repository.parse().unwrap(),
            tag: Some(tag.parse().unwrap()),
            digest: None,
            id: Some(format!("{repository}:{tag}")),
            time: None,
            received: Timestamp::now(),
        };
        let (jobs, events) = self.queues();
        let dispatcher = Dispatcher::new(self.origins(), jobs, events);
        let dispatched = dispatcher.dispatch(&self.catalog.snapshot().await.unwrap(), &event, "").await.unwrap();
        assert_eq!(dispatched.tasks.len(), 1);
    }

    /// A full run of the rule is asked for.
    async fn scan(&self, round: usize) -> TaskHead {
        let catalog = self.catalog.snapshot().await.unwrap();
        let rule = catalog.rules_from(&Place {
            instance: "a".parse().unwrap(),
            repository: "team/app".parse().unwrap(),
            reference: "v1".parse().unwrap(),
        })[0]
            .0
            .clone();
        let task = TaskHead {
            id: TaskId::derive(rule.id, Timestamp::now(), &round.to_string()),
            instance: rule.source.instance.clone(),
            rule: rule.name.clone(),
            trigger: Trigger::Manual,
            created: Timestamp::now(),
        };
        let (jobs, _) = self.queues();
        let job = ScanJob { task: task.clone(), cursor: ScanCursor::default(), continuation: 0, attempts: 0 };
        jobs.send(&[Job::Scan(job)]).await.unwrap();
        task
    }

    /// The log has heard what has been told until now. Returns it.
    async fn log(&self) -> Vec<TaskEvent> {
        let mut events = Vec::new();
        while self.events.depth().await.unwrap().visible > 0 {
            for message in self.events.receive(100, HOLD).await.unwrap() {
                events.push(messages::read_event(&message.body).unwrap());
                self.events.delete(&message.receipt).await.unwrap();
            }
        }
        self.task_log().record(&events).await.unwrap();
        events
    }

    fn task_log(&self) -> TaskLog {
        TaskLog::new(Arc::new(self.store.table()))
    }

    /// A worker of a process of its own.
    fn worker(&self, process: &str) -> Worker {
        self.worker_telling(process, self.queues().1)
    }

    /// One that tells the log there.
    fn worker_telling(&self, process: &str, events: Events) -> Worker {
        let table: Arc<dyn Table> = Arc::new(self.store.table());
        let (jobs, _) = self.queues();
        let stores = Stores {
            catalog: self.catalog.clone(),
            origins: self.origins(),
            attempts: AttemptLog::new(table.clone()),
            previews: Previews::new(table.clone()),
            log: TaskLog::new(table.clone()),
            dead_letters: DeadLetters::new(table.clone()),
            uploads: Uploads::new(table, process),
            jobs,
            events,
            secrets: Arc::new(LocalSecrets),
        };
        Worker::new(stores, Http::new().unwrap())
    }

    /// Takes one message, if there is one, and has it worked on.
    async fn step(&self, worker: &Worker, deadline: Option<Duration>) -> Step {
        // What is held back, or held by another, comes when it comes.
        let receive = tokio::time::timeout(Duration::from_millis(200), self.jobs.receive(1, HOLD));
        let Some(message) = receive.await.map_or(None, |received| received.unwrap().pop()) else { return Step::Nothing };
        let deadline = deadline.map(|time| Instant::now() + time);
        match worker.deliver(&self.jobs, &message, deadline, std::future::pending()).await {
            Disposition::Done => {
                self.jobs.delete(&message.receipt).await.unwrap();
                Step::Done(messages::read_job(&message.body).unwrap())
            }
            Disposition::Again(wait) => {
                self.jobs.release(&message.receipt, wait).await.unwrap();
                Step::Back
            }
            Disposition::Lost => panic!("the message was lost"),
        }
    }

    /// Waits for a message, and has it worked on: whether it was given back or is done with.
    async fn next(&self, worker: &Worker, deadline: Option<Duration>) -> Step {
        let mut step = Step::Nothing;
        wait_until("a message", Duration::from_secs(30), async || {
            step = self.step(worker, deadline).await;
            step != Step::Nothing
        })
        .await;
        step
    }

    /// Works until nothing is left in the queue, `at_once` jobs at a time.
    async fn work(&self, worker: &Worker, at_once: usize) {
        let one = async || {
            loop {
                let depth = self.jobs.depth().await.unwrap();
                if depth.visible + depth.held == 0 {
                    return;
                }
                self.step(worker, None).await;
            }
        };
        futures_util::future::join_all((0..at_once).map(|_| one())).await;
    }

    /// How everything ended.
    async fn outcomes(&self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while self.events.depth().await.unwrap().visible > 0 {
            for message in self.events.receive(100, HOLD).await.unwrap() {
                if let Happening::Ended { outcome, .. } = messages::read_event(&message.body).unwrap().what {
                    outcomes.push(outcome);
                }
            }
        }
        outcomes
    }
}

fn rule(name: &str, source: (&str, &str), target: (&str, &str), overwrite: bool) -> Rule {
    serde_json::from_value(json!({
        "id": 0, "revision": 0, "name": name, "description": "", "overwrite": overwrite, "enabled": true,
        "source": {"instance": source.0, "namespace": source.1, "repository": ".*", "tag": ".*", "types": []},
        "target": {"instance": target.0, "namespace": target.1},
    }))
    .unwrap()
}

/// A push of an image, told as a registry tells it.
fn push(instance: &str, repository: &str, image: &Artifact) -> PushEvent {
    PushEvent {
        instance: instance.parse().unwrap(),
        repository: repository.parse().unwrap(),
        tag: Some("v1".parse().unwrap()),
        digest: Some(image.digest().clone()),
        id: Some(format!("{instance}/{repository}@{}", image.digest())),
        time: None,
        received: Timestamp::now(),
    }
}

/// A table that takes no writes.
struct Unwritable(SqliteTable);

#[async_trait::async_trait]
impl Table for Unwritable {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.0.get(key).await
    }
    async fn query(&self, query: Query) -> Result<Page, TableError> {
        self.0.query(query).await
    }
    async fn write(&self, _: Vec<Op>) -> Result<(), TableError> {
        Err(TableError::Unavailable("a test".into()))
    }
}

/// Would break: a push that has no version, and so loses against whatever the target holds, because the webhook has sent its job and
/// ended before it could note it; a worker that looks at the source first, and misses that the push has been overwritten.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_the_webhook_never_noted_is_copied_with_its_version() {
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let gate = Gate::new();
    let held = gate.clone();
    let source = Proxy::start(a.url(), move |request| match request.is("GET", "/manifests/v1") {
        true => Action::Hold(held.clone()),
        false => Action::Pass,
    })
    .await;
    let world = World::new(source.url(), b.url()).await;
    world.rules(&[rule("there", ("a", "team"), ("b", "team"), true), rule("back", ("b", "team"), ("a", "team"), true)]).await;
    // Neither side would have a version, and they differ.
    let (image, other) = (Image::random(1).layers(1, 1000).build(), Image::random(2).layers(1, 1000).build());
    other.push(&b.at("team/app", "v1")).await;
    image.push(&a.at("team/app", "v1")).await;
    let event = push("a", "team/app", &image);
    world.told_to_one_that_crashes(&event).await;

    let worker = world.worker("one");
    let look = async {
        gate.reached(1).await;
        let noted = world.origins().get(&event.place().unwrap()).await.unwrap().pushed;
        gate.open();
        noted
    };
    let ((), noted) = tokio::join!(world.work(&worker, 1), look);
    assert_eq!(noted, Some(Pushed { digest: image.digest().clone(), version: event.version() }));
    assert_eq!(world.outcomes().await, [Outcome::Copied]);
    assert_same(&a.at("team/app", "v1"), &b.at("team/app", "v1")).await;
    let target = Place { instance: "b".parse().unwrap(), ..event.place().unwrap() };
    let written = world.origins().get(&target).await.unwrap().written;
    assert_eq!(written[0].version, Some(event.version()));
}

/// Would break: a newer push that stays overwritten, because who is to put it back does not know of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_the_webhook_never_noted_is_put_back() {
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let world = World::new(a.url(), b.url()).await;
    // Several sources of one target, from where nothing leads on.
    world.rules(&[rule("one", ("a", "team"), ("b", "mirror"), true), rule("two", ("a", "more"), ("b", "mirror"), true)]).await;
    let (older, newer) = (Image::random(1).layers(1, 1000).build(), Image::random(2).layers(1, 1000).build());
    older.push(&a.at("team/app", "v1")).await;
    newer.push(&b.at("mirror/app", "v1")).await;
    let worker = world.worker("one");
    world.told_to_one_that_crashes(&push("a", "team/app", &older)).await;
    world.work(&worker, 1).await;
    assert_eq!(b.at("mirror/app", "v1").manifest().await.digest, *older.digest(), "nothing was known of the newer one");

    world.told_to_one_that_crashes(&push("b", "mirror/app", &newer)).await;
    world.work(&worker, 1).await;
    assert_eq!(b.at("mirror/app", "v1").manifest().await.digest, *newer.digest());
}

/// A queue that does not answer.
struct Down;

#[async_trait::async_trait]
impl Queue for Down {
    async fn send(&self, _: Vec<Outgoing>) -> Result<(), QueueError> {
        Err(QueueError::Unavailable("a test".into()))
    }
    async fn extend(&self, _: &str, _: Duration) -> Result<(), QueueError> {
        Err(QueueError::Unavailable("a test".into()))
    }
    async fn release(&self, _: &str, _: Duration) -> Result<(), QueueError> {
        Err(QueueError::Unavailable("a test".into()))
    }
}

/// Would break: a copy that is at the target and is told as cancelled, because who made it was killed before it could tell, or was told to
/// end while it waited for the answer; one that is told as copied although nothing was ever begun.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_copied_before_its_task_was_cancelled_is_told_as_copied() {
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let gate = Gate::new();
    let held = gate.clone();
    // After the target's tag has been set the source's is looked at once more.
    let source = Proxy::start(a.url(), move |request| match request.is("HEAD", "/manifests/v1") {
        true => Action::Hold(held.clone()),
        false => Action::Pass,
    })
    .await;
    let world = World::new(source.url(), b.url()).await;
    let image = Image::random(1).layers(1, 4 << 10).build();
    for (tag, is_begun) in [("v1", true), ("v2", false)] {
        image.push(&a.at("team/app", tag)).await;
        world.told("team/app", tag).await;
        let task = world.log().await[0].task.clone();
        let worker = world.worker("one");
        if is_begun {
            let message = world.jobs.receive(1, HOLD).await.unwrap().remove(0);
            tokio::select! {
                // It is not told to stop: it is gone.
                ended = worker.deliver(&world.jobs, &message, None, std::future::pending()) => panic!("{ended:?}"),
                () = gate.reached(1) => {}
            }
            gate.open();
            world.jobs.release(&message.receipt, Duration::ZERO).await.unwrap();
        }
        let what = Happening::Cancelled { by: "somebody".into() };
        world.task_log().record(&[TaskEvent { task, at: Timestamp::now(), what }]).await.unwrap();
        let worker = world.worker("two");
        assert!(matches!(world.next(&worker, None).await, Step::Done(_)));
        let expected = if is_begun { Outcome::Copied } else { Outcome::Skipped { reason: SkipReason::Cancelled } };
        assert_eq!(world.outcomes().await, [expected], "{tag}");
    }
    assert_eq!(b.client().tags("mirror/app").await, ["v1"]);
}

/// Would break: a tag that was there all along, and is told as copied because an attempt has waited; a look at the registries after a cancel
/// for which there is no reason.
#[tokio::test]
async fn what_only_waited_before_its_task_was_cancelled_is_told_as_cancelled() {
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let source = Proxy::passing(a.url()).await;
    let world = World::new(source.url(), b.url()).await;
    let image = Image::random(1).layers(1, 4 << 10).build();
    image.push(&a.at("team/app", "v1")).await;
    image.push(&b.at("mirror/app", "v1")).await;
    source.on(|_| Action::status(429, &[("retry-after", "1")], ""));
    world.told("team/app", "v1").await;
    let task = world.log().await[0].task.clone();
    assert_eq!(world.next(&world.worker("one"), None).await, Step::Back);
    source.on(|_| Action::Pass);
    let what = Happening::Cancelled { by: "somebody".into() };
    world.task_log().record(&[TaskEvent { task, at: Timestamp::now(), what }]).await.unwrap();
    let asked = source.exchanges().len();
    assert!(matches!(world.next(&world.worker("two"), None).await, Step::Done(_)));
    assert_eq!(world.outcomes().await, [Outcome::Skipped { reason: SkipReason::Cancelled }]);
    assert_eq!(source.exchanges().len(), asked);
}

/// Would break: a flattened name that is lost to a repository of which nothing is copied; one that is left free by what was deleted and
/// pushed again, so that a second repository is mixed with the first.
#[tokio::test]
async fn a_flattened_name_is_taken_by_what_is_copied_and_nothing_else() {
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let world = World::new(a.url(), b.url()).await;
    let mut flat = rule("all", ("a", "team"), ("b", "mirror"), true);
    (flat.target.flatten, flat.propagate_deletions) = (true, true);
    flat.source.types = vec![transship_model::ArtifactType::Chart];
    world.rules(&[flat]).await;
    let worker = world.worker("one");
    Image::random(1).layers(1, 1000).build().push(&a.at("team/base/app", "v1")).await;
    let chart = chart(1, "app", "1.0.0");
    for repository in ["team/base-app", "team/x/y", "team/x-y"] {
        chart.push(&a.at(repository, "v1")).await;
    }

    world.told("team/base/app", "v1").await;
    world.told("team/base-app", "v1").await;
    world.work(&worker, 1).await;
    assert_eq!(world.outcomes().await, [Outcome::Skipped { reason: SkipReason::Type }, Outcome::Copied]);

    let rule = world.catalog.snapshot().await.unwrap().rules().next().unwrap().clone();
    let task = TaskHead {
        id: TaskId::derive(rule.id, Timestamp::now(), "deleted"),
        instance: rule.source.instance.clone(),
        rule: rule.name.clone(),
        trigger: Trigger::Manual,
        created: Timestamp::now(),
    };
    let place = |instance: &str, repository: &str| Place {
        instance: instance.parse().unwrap(),
        repository: repository.parse().unwrap(),
        reference: "v1".parse().unwrap(),
    };
    let (job, _) = transship_state::dispatch::deletion(task, place("a", "team/x/y"), place("b", "mirror/x-y"));
    world.queues().0.send(&[job]).await.unwrap();
    world.work(&worker, 1).await;
    assert_eq!(world.outcomes().await, [Outcome::Copied]);
    world.told("team/x-y", "v1").await;
    world.work(&worker, 1).await;
    let [Outcome::Failed { reason }] = &world.outcomes().await[..] else { panic!("two repositories are mixed") };
    assert!(reason.contains("team/x/y"), "{reason}");
}

/// Would break: a copy that was made, and is called the crash of its worker because the log could not be told for a while.
#[tokio::test]
async fn a_log_that_can_t_be_told_is_no_crash() {
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let world = World::new(a.url(), b.url()).await;
    Image::random(1).layers(1, 4 << 10).build().push(&a.at("team/app", "v1")).await;
    world.told("team/app", "v1").await;
    world.outcomes().await;
    let message = world.jobs.receive(1, Duration::from_secs(600)).await.unwrap().remove(0);
    let troubled = world.worker_telling("one", Events(Arc::new(Down)));
    // More often than a job may crash.
    for _ in 0..8 {
        let disposition = troubled.deliver(&world.jobs, &message, None, std::future::pending()).await;
        assert!(matches!(disposition, Disposition::Again(_)), "{disposition:?}");
    }
    let worker = world.worker("two");
    assert_eq!(worker.deliver(&world.jobs, &message, None, std::future::pending()).await, Disposition::Done);
    assert_eq!(world.outcomes().await, [Outcome::Unchanged], "the first attempt has copied it");
}

/// Would break: a job that waits for a registry for a day, and is a dead letter long before because each wait is a delivery.
#[tokio::test]
async fn a_job_that_was_delivered_very_often_goes_on_in_a_message_of_its_own() {
    // Nobody is there.
    let world = World::new("http://127.0.0.1:1", "http://127.0.0.1:1").await;
    world.told("team/app", "v1").await;
    let worker = world.worker("one");
    for (deliveries, disposition) in [(899, None), (900, Some(Disposition::Done))] {
        let mut message = world.jobs.receive(1, HOLD).await.unwrap().remove(0);
        message.deliveries = deliveries;
        let ended = worker.deliver(&world.jobs, &message, None, std::future::pending()).await;
        match disposition {
            Some(disposition) => assert_eq!(ended, disposition),
            None => assert!(matches!(ended, Disposition::Again(_)), "{ended:?}"),
        }
        match ended {
            Disposition::Done => world.jobs.delete(&message.receipt).await.unwrap(),
            _ => world.jobs.release(&message.receipt, Duration::ZERO).await.unwrap(),
        }
    }
    let next = world.jobs.receive(1, HOLD).await.unwrap().remove(0);
    let Job::Copy(job) = messages::read_job(&next.body).unwrap() else { panic!("{}", next.body) };
    assert_eq!((next.deliveries, job.continuation, job.source.name().as_str()), (1, 1, "team/app:v1"));
    assert!(world.outcomes().await.is_empty(), "it has not failed");
}

/// Would break: a registry that takes connections and answers nothing, and a function that is killed while it waits: five of those, and
/// the job is taken for one that crashes its worker.
#[tokio::test]
async fn what_waits_for_a_registry_at_the_deadline_is_told_and_tried_again() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let world = World::new(&url, &url).await;
    world.told("team/app", "v1").await;
    let worker = world.worker("one");
    let message = world.jobs.receive(1, HOLD).await.unwrap().remove(0);
    let deadline = Some(Instant::now() + Duration::from_millis(100));
    let ended = worker.deliver(&world.jobs, &message, deadline, std::future::pending()).await;
    assert!(matches!(ended, Disposition::Again(_)), "{ended:?}");
    let told = world.events.receive(100, HOLD).await.unwrap();
    let is_told = told.iter().any(|event| event.body.contains("the time of the invocation was over"));
    assert!(is_told, "{told:?}");
}

/// A proxy that holds the parts of large uploads until the gate is open.
async fn holding_parts(registry: &DockerRegistry) -> (Proxy, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let proxy = Proxy::start(registry.url(), move |request| match request.is("PATCH", "/blobs/uploads/") {
        true => Action::Hold(held.clone()),
        false => Action::Pass,
    })
    .await;
    (proxy, gate)
}

fn uploaded(proxy: &Proxy) -> u64 {
    proxy.exchanges().iter().map(|exchange| exchange.uploaded).sum()
}

/// Would break: a base layer that every worker sends for itself; a worker that sleeps on what another does, or never comes back to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_many_images_share_is_sent_once_by_all_workers_together() {
    const IMAGES: u64 = 8;
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    // Whoever sends the base layer takes long enough for all to want it.
    let (proxy, gate) = holding_parts(&b).await;
    let world = World::new(a.url(), proxy.url()).await;
    let mut size = 0;
    for n in 0..IMAGES {
        let image = Image::random(n).base(99, 1, 20 << 20).layers(1, 4 << 10).build();
        size = size.max(image.size() as u64);
        image.push(&a.at(format!("team/app-{n}"), "v1")).await;
        world.told(&format!("team/app-{n}"), "v1").await;
    }
    let workers: Vec<Worker> = ["one", "two", "three"].map(|process| world.worker(process)).into_iter().collect();
    let work = futures_util::future::join_all(workers.iter().map(|worker| world.work(worker, 1)));
    let open = async {
        gate.reached(1).await;
        // The others are at it, find it taken, and give their messages back.
        wait_until("all are looked at", Duration::from_secs(30), async || {
            proxy.count("PUT", "/blobs/uploads/") >= IMAGES as usize
        })
        .await;
        gate.open();
    };
    tokio::join!(work, open);
    for n in 0..IMAGES {
        assert_same(&a.at(format!("team/app-{n}"), "v1"), &b.at(format!("mirror/app-{n}"), "v1")).await;
    }
    assert_eq!(world.outcomes().await, vec![Outcome::Copied; IMAGES as usize]);
    let rest = uploaded(&proxy) - size;
    assert!(rest < MIB, "{rest} bytes besides the base layer and one image");
}

/// Would break: a large layer that starts again with each invocation and so never arrives, a deadline that counts as a failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_for_which_an_invocation_is_too_short_arrives_over_several_and_no_byte_goes_twice() {
    const INVOCATION: Duration = Duration::from_millis(600);
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    // 64 KiB every 5 ms at most: 24 MiB take longer than three invocations, however fast the machine.
    let slow = |request: &transship_tests::Request| match request.is("GET", "/blobs/") {
        true => Action::Slow(Duration::from_millis(5)),
        false => Action::Pass,
    };
    let (source, proxy) = (Proxy::start(a.url(), slow).await, Proxy::passing(b.url()).await);
    let world = World::new(source.url(), proxy.url()).await;
    let image = Image::random(1).layers(1, 24 << 20).build();
    image.push(&a.at("team/app", "v1")).await;
    world.told("team/app", "v1").await;
    let mut invocations = 0;
    while world.jobs.depth().await.unwrap().visible > 0 {
        // Each in a process of its own, which has learnt nothing.
        let worker = world.worker(&format!("invocation {invocations}"));
        let Step::Done(Job::Copy(CopyJob { continuation, .. })) = world.next(&worker, Some(INVOCATION)).await else {
            panic!("not a copy that has ended, or sent itself on");
        };
        assert_eq!(continuation, invocations);
        invocations += 1;
    }
    assert!(invocations > 3, "{invocations} invocations: the layer was too small");
    assert_same(&a.at("team/app", "v1"), &b.at("mirror/app", "v1")).await;
    assert_eq!(world.outcomes().await, [Outcome::Copied]);
    let manifest = image.root().bytes.len() as u64;
    assert_eq!(uploaded(&proxy), image.size() as u64 + manifest, "in {invocations} invocations");
}

/// Would break: a full run that asks again for all that it has found the last time, or uses up a registry's quota of pulls.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_run_that_finds_nothing_to_do_looks_once_at_each_side_of_a_tag() {
    const TAGS: usize = 10;
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let (source, target) = (Proxy::passing(a.url()).await, Proxy::passing(b.url()).await);
    let world = World::new(source.url(), target.url()).await;
    for n in 0..TAGS {
        Image::random(n as u64).layers(1, 1000).build().push(&a.at("team/app", format!("v{n}"))).await;
    }
    let worker = world.worker("one");
    // What is equal has no job.
    for (round, outcomes) in [vec![Outcome::Copied; TAGS], Vec::new()].into_iter().enumerate() {
        source.forget();
        target.forget();
        world.scan(round).await;
        world.work(&worker, 2).await;
        assert_eq!(world.outcomes().await, outcomes);
    }
    let heads = |proxy: &Proxy| proxy.count("HEAD", "/manifests/v");
    assert_eq!((heads(&source), heads(&target)), (TAGS, TAGS));
    // Besides: the lists of repositories and tags, and of the target's tags.
    assert_eq!((source.exchanges().len(), target.exchanges().len()), (TAGS + 2, TAGS + 1));

    // What is attached now makes the list another, and is brought.
    let signed = Image::random(3).layers(1, 1000).build();
    let signature = signed.digest().as_tag(".sig").to_string();
    cosign_signature(&signed).push(&a.at("team/app", &signature)).await;
    world.scan(2).await;
    world.work(&worker, 2).await;
    assert_same(&a.at("team/app", &signature), &b.at("mirror/app", &signature)).await;
}

/// Would break: a worker that was killed keeps its lease, and those that wait for it wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_takes_the_place_of_a_killed_one_finds_its_leases_its_own() {
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let (proxy, gate) = holding_parts(&b).await;
    let world = World::new(a.url(), proxy.url()).await;
    Image::random(1).layers(1, 20 << 20).build().push(&a.at("team/app", "v1")).await;
    world.told("team/app", "v1").await;
    let (killed, other, next) = (world.worker("serve"), world.worker("other"), world.worker("serve"));
    tokio::select! {
        _ = world.step(&killed, None) => panic!("it has ended"),
        () = gate.reached(1) => {}
    }
    gate.open();
    // Its message comes back when its hold is over; here another push asks for the same.
    Image::random(1).layers(1, 20 << 20).build().push(&a.at("team/copy", "v1")).await;
    world.told("team/copy", "v1").await;
    assert_eq!(world.next(&other, None).await, Step::Back, "the killed one has the lease");
    let Step::Done(Job::Copy(copy)) = world.next(&next, None).await else { panic!("the lease is not its own") };
    assert_eq!(copy.target.repository.to_string(), "mirror/copy");
    assert_same(&a.at("team/copy", "v1"), &b.at("mirror/copy", "v1")).await;
}

/// Would break: a password that was replaced is read again only when the process starts anew, or with it those of all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_a_token_service_refuses_is_read_again_and_no_other() {
    // As the service wants them, in its words.
    const LOGINS: [&str; 2] = ["Basic dXNlcjpvbGQ=", "Basic dXNlcjpuZXc="];
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let source = Proxy::passing(a.url()).await;
    let world = World::new(source.url(), b.url()).await;
    let secrets = tempfile::tempdir().unwrap();
    let file = |name: &str| secrets.path().join(name).display().to_string();
    let instance = |name: &str, endpoint: &str| -> Instance {
        let credentials = json!({"password": {"username": "user", "password": {"file": file(name)}}});
        serde_json::from_value(json!({"name": name, "endpoint": endpoint, "kind": "distribution", "credentials": credentials}))
            .unwrap()
    };
    let catalog = world.catalog.snapshot().await.unwrap();
    let rules: Vec<Rule> = catalog.rules_of(&"a".parse().unwrap()).map(|rule| Rule::clone(rule)).collect();
    world.catalog.replace(&[instance("a", source.url()), instance("b", b.url())], &rules).await.unwrap();
    for tag in ["v1", "v2", "v3"] {
        Image::random(1).layers(1, 1000).build().push(&a.at("team/app", tag)).await;
    }
    let guard = |version: usize| {
        let challenge = format!(r#"Bearer realm="{}/token",service="reg""#, source.url());
        source.on(move |request| match (request.path.as_str(), request.header("authorization")) {
            ("/token", login) if login == LOGINS[version] => {
                Action::status(200, &[], format!(r#"{{"token":"good{version}","expires_in":300}}"#))
            }
            ("/token", _) => Action::status(400, &[], r#"{"error":"invalid_grant"}"#),
            (_, login) if login == format!("Bearer good{version}") => Action::Pass,
            _ => Action::status(401, &[("www-authenticate", &challenge)], ""),
        });
    };
    let worker = world.worker("one");
    std::fs::write(file("a"), "old").unwrap();
    std::fs::write(file("b"), "whatever").unwrap();
    guard(0);
    world.told("team/app", "v1").await;
    world.work(&worker, 1).await;
    assert_eq!(world.outcomes().await, [Outcome::Copied]);

    guard(1);
    world.told("team/app", "v2").await;
    world.work(&worker, 1).await;
    let [Outcome::Failed { reason }] = &world.outcomes().await[..] else { panic!("it was let in") };
    assert!(reason.contains("invalid_grant (check the credentials of a "), "{reason}");

    std::fs::write(file("a"), "new").unwrap();
    // Whoever asks for this one again does not get it.
    std::fs::remove_file(file("b")).unwrap();
    world.told("team/app", "v3").await;
    assert!(matches!(world.step(&worker, None).await, Step::Done(_)));
    assert_eq!(world.outcomes().await, [Outcome::Copied]);
}

/// Would break: a job of a cancelled task that comes up later, and brings what nobody wants; a scan that goes on finding; a task that is
/// never over; a read of the table more for each job than there was.
#[tokio::test]
async fn jobs_of_a_cancelled_task_ask_no_registry_and_end_it() {
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let (source, target) = (Proxy::passing(a.url()).await, Proxy::passing(b.url()).await);
    Image::random(1).layers(1, 1000).build().push(&a.at("team/app", "v1")).await;
    let world = World::new(source.url(), target.url()).await;
    let worker = world.worker("one");
    world.told("team/app", "v1").await;
    let push = world.log().await.remove(0).task;
    let scan = world.scan(1).await;
    for task in [&push, &scan] {
        let what = Happening::Cancelled { by: "token:1".into() };
        world.task_log().record(&[TaskEvent { task: task.clone(), at: Timestamp::now(), what }]).await.unwrap();
    }

    world.work(&worker, 1).await;

    assert_eq!((source.exchanges().len(), target.exchanges().len()), (0, 0));
    let told = world.log().await;
    assert!(told.iter().any(|event| matches!(event.what, Happening::ScanStopped { total: 0, .. })), "{told:?}");
    for (task, cancelled) in [(&push, 1), (&scan, 0)] {
        let task = world.task_log().task(&task.id).await.unwrap().unwrap();
        assert_eq!((task.status(), task.counts.cancelled), (TaskStatus::Cancelled, cancelled), "{task:?}");
        assert!(task.ended.is_some());
    }
}

/// Would break: a given-up job that nobody can make again, or whose push is forgotten; an attachment that is retried as if it were an image
/// of its own; a resource that the rule does not select any more, which is brought all the same.
#[tokio::test]
async fn a_retry_makes_jobs_again_as_they_were_meant() {
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let image = Image::random(1).layers(1, 1000).build();
    let sbom = referrer(1, &image, "application/vnd.example.sbom");
    image.push(&a.at("team/app", "v1")).await;
    image.push(&b.at("mirror/app", "v1")).await;
    referrers_index(std::slice::from_ref(&sbom)).push(&a.at("team/app", image.digest().as_tag(""))).await;
    image.push(&a.at("team/new", "v2")).await;
    image.push(&a.at("team/old", "v3")).await;
    let world = World::new(a.url(), b.url()).await;
    let mut narrow = rule("all", ("a", "team"), ("b", "mirror"), false);
    narrow.source.repository = "app|new".parse().unwrap();
    world.rules(&[narrow]).await;

    let head = |trigger: Trigger, name: &str| TaskHead {
        id: TaskId::derive(RuleId(1), Timestamp::now(), name),
        instance: "a".parse().unwrap(),
        rule: "all".parse().unwrap(),
        trigger,
        created: Timestamp::now(),
    };
    let route = |repository: &str, reference: &str| {
        let place = |instance: &str, namespace: &str| Place {
            instance: instance.parse().unwrap(),
            repository: format!("{namespace}/{repository}").parse().unwrap(),
            reference: reference.parse().unwrap(),
        };
        Route { source: place("a", "team"), target: place("b", "mirror") }
    };
    let old = head(Trigger::Manual, "old");
    let failed = Outcome::Failed { reason: "x".into() };
    let routes =
        [(route("app", sbom.digest().as_str()), &failed), (route("new", "v2"), &failed), (route("old", "v3"), &failed)];
    let fine = (route("app", "v1"), &Outcome::Copied);
    let mut events: Vec<TaskEvent> = routes
        .iter()
        .chain([&fine])
        .map(|(route, outcome)| {
            let what = Happening::Ended { route: route.clone(), progress: Progress::default(), outcome: (*outcome).clone() };
            TaskEvent { task: old.clone(), at: Timestamp::now(), what }
        })
        .collect();
    let over = Happening::ScanEnded { total: 4, compared: 0, repositories: 3, error: None };
    events.push(TaskEvent { task: old.clone(), at: Timestamp::now(), what: over });
    assert_eq!(world.task_log().record(&events).await.unwrap().len(), 1);
    // One of them was given up before its push was noted.
    let now = Timestamp::now();
    let version = transship_model::Version { time: now, instance: "a".parse().unwrap() };
    let told = Told { pushed: Pushed { digest: image.digest().clone(), version }, time: now };
    let route = routes[1].0.clone();
    let (job, _) = transship_state::dispatch::copy(old.clone(), route.source.clone(), route.target, None);
    let Job::Copy(job) = job else { unreachable!() };
    let letters = DeadLetters::new(Arc::new(world.store.table()));
    letters.keep(&Job::Copy(CopyJob { told: Some(told.clone()), ..job })).await.unwrap();

    let retry = head(Trigger::Retry { of: old.id.clone() }, "retry");
    let job = RetryJob {
        task: retry.clone(),
        of: old.id.clone(),
        after: None,
        resources: 0,
        repositories: 0,
        repository: None,
        continuation: 0,
    };
    world.queues().0.send(&[Job::Retry(job)]).await.unwrap();
    let worker = world.worker("one");
    let mut made = Vec::new();
    wait_until("all jobs to be done", Duration::from_secs(60), async || {
        if let Step::Done(Job::Copy(copy)) = world.step(&worker, None).await {
            made.push(copy);
        }
        made.len() == 3
    })
    .await;

    world.log().await;
    let log = world.task_log();
    let task = log.task(&retry.id).await.unwrap().unwrap();
    assert_eq!((task.total, task.repositories, task.counts.copied), (Some(3), 3, 2), "{task:?}");
    let left = log.resource(&retry.id, &routes[2].0.source).await.unwrap().unwrap();
    assert_eq!(left.result, Some(Outcome::Skipped { reason: SkipReason::RuleChanged }));
    made.sort_by_key(|job| job.source.to_string());
    assert_eq!(made[0].subject.as_ref(), Some(image.digest()), "{made:?}");
    assert!(matches!(made[0].source.reference, Reference::Digest(_)));
    assert_eq!(made[1].told.as_ref(), Some(&told), "{made:?}");
    assert_same(&a.at("team/app", sbom.digest()), &b.at("mirror/app", sbom.digest())).await;
    assert_same(&a.at("team/new", "v2"), &b.at("mirror/new", "v2")).await;
    assert!(b.at("mirror/old", "v3").find_manifest().await.is_none());
    assert!(letters.of(Some(&old.id), None, 10).await.unwrap().items.is_empty(), "it has been made again");
}
