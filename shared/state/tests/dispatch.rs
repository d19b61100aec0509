//! From an event to jobs, with a catalogue, a memory of origins and queues in the embedded store.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use jiff::{Timestamp, ToSpan};
use transship_model::{
    CopyJob, Credentials, Digest, EcrSettings, FanOutJob, Happening, Instance, Job, Kind, LookJob, Origin, Pattern, Place,
    PushEvent, Pushed, Repository, RestoreJob, Rule, RuleId, Source, Target, TaskEvent, TaskId, Told, Trail, Trigger, Version,
    WebhookAuth, Written,
};
use transship_state::{
    Applied, Catalog, Dispatched, Dispatcher, Events, Item, Jobs, Key, Op, Origins, Outgoing, Page, Query, Queue, QueueError,
    Snapshot, StateError, Table, TableError, messages,
    sqlite::{QueueKind, SqliteQueue, SqliteStore},
};

/// A store in a folder that goes away with it, and a dispatcher over it.
struct World {
    store: SqliteStore,
    jobs: SqliteQueue,
    events: SqliteQueue,
    catalog: Catalog,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let (jobs, events) = (store.queue("jobs", QueueKind::Fifo), store.queue("events", QueueKind::Standard));
        let catalog = Catalog::new(Arc::new(store.table()));
        Self { store, jobs, events, catalog, _dir: dir }
    }

    /// A world with these rules.
    async fn with(rules: &[Rule]) -> Self {
        let world = Self::new();
        world.replace(rules).await;
        world
    }

    async fn replace(&self, rules: &[Rule]) -> Applied {
        self.catalog.replace(&[instance("a"), instance("b")], rules).await.unwrap()
    }

    async fn snapshot(&self) -> Arc<Snapshot> {
        self.catalog.snapshot().await.unwrap()
    }

    fn origins(&self) -> Origins {
        Origins::new(Arc::new(self.store.table()) as Arc<dyn Table>)
    }

    fn dispatcher(&self) -> Dispatcher {
        Dispatcher::new(self.origins(), Jobs(Arc::new(self.jobs.clone())), Events(Arc::new(self.events.clone())))
    }

    async fn dispatch(&self, event: &PushEvent, nonce: &str) -> Dispatched {
        self.dispatcher().dispatch(&*self.snapshot().await, event, nonce).await.unwrap()
    }

    /// The jobs that were sent, which are not in the queue any more.
    async fn jobs(&self) -> Vec<Job> {
        drain(&self.jobs).await.iter().map(|body| messages::read_job(body).unwrap()).collect()
    }

    /// The events for the log, likewise.
    async fn events(&self) -> Vec<TaskEvent> {
        drain(&self.events).await.iter().map(|body| messages::read_event(body).unwrap()).collect()
    }

    /// Does the fan-outs that are in the queue, each of them as often as said, and returns the copies and the number of steps.
    async fn fan_out(&self, times: usize) -> (Vec<CopyJob>, usize) {
        let (mut copies, mut steps) = (Vec::new(), 0);
        loop {
            let jobs = self.jobs().await;
            if jobs.is_empty() {
                return (copies, steps);
            }
            for job in jobs {
                match job {
                    Job::Copy(copy) => copies.push(copy),
                    Job::FanOut(job) => {
                        steps += 1;
                        for _ in 0..times {
                            self.dispatcher().fan_out(&*self.snapshot().await, &job).await.unwrap();
                        }
                    }
                    other => unreachable!("{other:?}"),
                }
            }
        }
    }
}

async fn drain(queue: &SqliteQueue) -> Vec<String> {
    let mut bodies = Vec::new();
    // All that is there is visible: nobody holds anything.
    while queue.depth().await.unwrap().visible > 0 {
        let messages = queue.receive(1000, Duration::from_secs(600)).await.unwrap();
        let lost = queue.delete_all(messages.iter().map(|message| message.receipt.clone()).collect()).await.unwrap();
        assert!(lost.is_empty());
        bodies.extend(messages.into_iter().map(|message| message.body));
    }
    bodies
}

fn instance(name: &str) -> Instance {
    Instance {
        name: name.parse().unwrap(),
        endpoint: format!("https://{name}.example.com").parse().unwrap(),
        kind: Kind::Oci,
        region: None,
        zone: None,
        credentials: Credentials::Anonymous,
        webhook: WebhookAuth::Open,
        notify: None,
        token_realm: None,
        api: None,
        ecr: EcrSettings::default(),
        tcr: None,
        ca: None,
        plain_http: false,
    }
}

/// A rule from `a/team` to a namespace in `b`.
fn rule(name: &str, target: &str) -> Rule {
    Rule {
        id: RuleId(0),
        revision: 0,
        name: name.parse().unwrap(),
        description: String::new(),
        source: Source {
            instance: "a".parse().unwrap(),
            namespace: "team".parse().unwrap(),
            repository: "app.*".parse().unwrap(),
            tag: "v.*".parse().unwrap(),
            types: Vec::new(),
        },
        target: Target { instance: "b".parse().unwrap(), namespace: Some(target.parse().unwrap()), flatten: false },
        overwrite: false,
        propagate_deletions: false,
        referrers: true,
        schedule: None,
        enabled: true,
    }
}

fn rules(count: usize) -> Vec<Rule> {
    // The order of the names is not that of the IDs.
    (0..count).map(|n| rule(&format!("r{}", count - n), &format!("mirror-{n}"))).collect()
}

fn push(repository: &str, tag: Option<&str>) -> PushEvent {
    PushEvent {
        instance: "a".parse().unwrap(),
        repository: repository.parse().unwrap(),
        tag: tag.map(|tag| tag.parse().unwrap()),
        digest: Some(Digest::of(b"content")),
        id: Some("event-1".into()),
        time: Some("2026-01-02T03:04:05Z".parse().unwrap()),
        received: Timestamp::now(),
    }
}

/// Each delivery has its own time of receipt, and its own nonce.
fn again(event: &PushEvent) -> PushEvent {
    PushEvent { received: Timestamp::now(), ..event.clone() }
}

fn tasks(copies: &[CopyJob]) -> BTreeSet<TaskId> {
    copies.iter().map(|copy| copy.task.id.clone()).collect()
}

fn targets(copies: &[CopyJob]) -> BTreeSet<Repository> {
    copies.iter().map(|copy| copy.target.repository.clone()).collect()
}

/// Would break: a webhook that takes long to answer because very many rules are met; a copy that is left out or sent twice where
/// one step of a fan-out ends and the next begins; a log that does not know of all tasks.
#[tokio::test]
async fn an_event_for_very_many_rules_is_fanned_out_and_sends_each_copy_once() {
    // At the ends of a step as well.
    for (count, expected_steps) in [(1200, 3), (1000, 2), (501, 2), (500, 1), (51, 1)] {
        let world = World::with(&rules(count)).await;
        let event = push("team/app", Some("v1"));
        assert_eq!(world.dispatch(&event, "n").await, Dispatched { tasks: Vec::new(), pending: true });
        let job = FanOutJob { event: event.clone(), nonce: "n".into(), push: false, after: 0 };
        let sent = world.jobs().await;
        assert_eq!(sent, [Job::FanOut(job.clone())]);
        assert!(world.events().await.is_empty());

        world.dispatcher().fan_out(&*world.snapshot().await, &job).await.unwrap();
        let (copies, steps) = world.fan_out(1).await;
        assert_eq!((copies.len(), steps + 1), (count, expected_steps));
        assert_eq!((tasks(&copies).len(), targets(&copies).len()), (count, count));
        for copy in &copies {
            assert_eq!((copy.source.name(), copy.target.reference.to_string()), ("team/app:v1".to_owned(), "v1".to_owned()));
            let known = world.snapshot().await;
            let rule = known.rule(copy.task.id.rule()).unwrap();
            assert_eq!(rule.name, copy.task.rule);
            assert_eq!(copy.target.repository.to_string(), format!("{}/app", rule.target_namespace()));
        }
        let told: BTreeSet<TaskId> = world.events().await.into_iter().map(|event| event.task.id).collect();
        assert_eq!(told, tasks(&copies));
    }
}

/// Would break: a notification that is delivered again, or a step that is done again after a crash, and copies everything twice.
#[tokio::test]
async fn a_repeated_delivery_of_an_event_makes_no_second_task() {
    for count in [3, 1200] {
        let world = World::with(&rules(count)).await;
        let event = push("team/app", Some("v1"));
        let first = world.dispatch(&event, "first").await;
        let second = world.dispatch(&again(&event), "second").await;
        assert_eq!(first, second);
        // Within minutes the queue drops what it has had already.
        let (copies, _) = world.fan_out(2).await;
        assert_eq!((copies.len(), tasks(&copies).len()), (count, count));

        // Later it does not; then the tasks are the same.
        let later = World::with(&rules(count)).await;
        later.dispatch(&again(&event), "third").await;
        let (repeated, _) = later.fan_out(1).await;
        assert_eq!(tasks(&repeated), tasks(&copies));
        if !first.pending {
            assert_eq!(first.tasks.iter().cloned().collect::<BTreeSet<_>>(), tasks(&copies));
        }
    }
}

/// Would break: the same where the sender's clock is wrong: what two deliveries have in common is what the sender says, not when
/// they come.
#[tokio::test]
async fn a_repeated_delivery_makes_no_second_task_whatever_the_senders_clock() {
    let now = Timestamp::now();
    for hours in [-48, 0, 48] {
        let world = World::with(&rules(3)).await;
        let time = now.checked_add(hours.hours()).unwrap();
        let event = PushEvent { time: Some(time), received: now, ..push("team/app", Some("v1")) };
        let first = world.dispatch(&event, "first").await;
        let repeated = PushEvent { received: now.checked_add(30.seconds()).unwrap(), ..event };
        assert_eq!(world.dispatch(&repeated, "second").await, first, "{hours} hours");
        assert_eq!(world.fan_out(1).await.0.len(), 3, "{hours} hours");
    }
}

/// Would break: a registry that tells neither an event's ID nor its time, and whose second push would be taken for the first; or
/// a step of a fan-out that, done again, would be taken for another push.
#[tokio::test]
async fn deliveries_without_an_identity_are_told_apart_by_their_nonce_alone() {
    for count in [3, 600] {
        let world = World::with(&rules(count)).await;
        let event = PushEvent { id: None, time: None, ..push("team/app", Some("v1")) };
        world.dispatch(&event, "first").await;
        let (first, _) = world.fan_out(2).await;
        assert_eq!((first.len(), tasks(&first).len()), (count, count));
        world.dispatch(&event, "second").await;
        let (second, _) = world.fan_out(2).await;
        assert_eq!((second.len(), tasks(&second).len()), (count, count));
        assert!(tasks(&first).is_disjoint(&tasks(&second)));
    }
}

/// Would break: rules that change between the steps of a fan-out, and so shift what is left to be done.
#[tokio::test]
async fn rules_that_come_and_go_during_a_fan_out_leave_the_others_alone() {
    let mut rules = rules(700);
    let world = World::with(&rules).await;
    world.dispatch(&push("team/app", Some("v1")), "n").await;
    let Job::FanOut(job) = world.jobs().await.remove(0) else { unreachable!() };
    world.dispatcher().fan_out(&*world.snapshot().await, &job).await.unwrap();
    let mut gone = rules.split_off(600);
    gone.extend(rules.drain(..100));
    rules.insert(0, rule("a-new-one", "new"));
    world.replace(&rules).await;
    let (copies, _) = world.fan_out(1).await;
    assert_eq!(copies.len(), tasks(&copies).len());
    let copied: BTreeSet<_> = copies.iter().map(|copy| &copy.task.rule).collect();
    let left_out: Vec<_> = rules.iter().filter(|rule| !copied.contains(&rule.name)).collect();
    assert!(left_out.is_empty(), "{left_out:?}");
    assert_eq!(gone.iter().filter(|rule| copied.contains(&rule.name)).count(), 100, "those that had been sent before");
}

/// Would break: an answer without the tasks for an event that meets as many rules as the webhook does itself.
#[tokio::test]
async fn fifty_rules_are_sent_at_once_and_their_tasks_are_told() {
    let world = World::with(&rules(50)).await;
    let event = push("team/app", Some("v1"));
    let sent = world.dispatch(&event, "n").await;
    assert_eq!((sent.tasks.len(), sent.pending), (50, false));
    assert!(sent.tasks.is_sorted_by_key(TaskId::rule), "{:?}", sent.tasks);
    let (copies, steps) = world.fan_out(1).await;
    assert_eq!((copies.len(), steps), (50, 0));
    assert_eq!(tasks(&copies), sent.tasks.into_iter().collect());
    let told = world.events().await;
    assert_eq!(told.len(), 50);
    for told in told {
        assert_eq!(told.task.trigger, Trigger::Push { resource: "team/app:v1".into() });
        assert_eq!(told.task.created, event.received);
        let Happening::Found { resources } = told.what else { unreachable!("{told:?}") };
        let copy = copies.iter().find(|copy| copy.task == told.task).unwrap();
        assert_eq!((resources.len(), &resources[0].source, &resources[0].target), (1, &copy.source, &copy.target));
    }
}

/// Would break: pushes that no rule is for, of which there are the most, and which are to cost nothing.
#[tokio::test]
async fn an_event_that_nobody_selects_sends_and_writes_nothing() {
    let disabled = Rule { enabled: false, ..rule("off", "off") };
    let mut elsewhere = rule("elsewhere", "elsewhere");
    elsewhere.source.instance = "b".parse().unwrap();
    elsewhere.source.repository = Pattern::default();
    elsewhere.target.instance = "a".parse().unwrap();
    let world = World::with(&[rule("on", "on"), disabled, elsewhere]).await;
    let nobody = [
        push("team/other", Some("v1")),
        push("team/app", Some("latest")),
        push("teams/app", Some("v1")),
        push("app", Some("v1")),
        PushEvent { tag: None, digest: None, ..push("team/app", None) },
    ];
    for event in &nobody {
        assert_eq!(world.dispatch(event, "n").await, Dispatched::default(), "{event:?}");
        if let Some(place) = event.place() {
            assert_eq!(world.origins().get(&place).await.unwrap(), Origin::default(), "{event:?}");
        }
    }
    assert!(world.jobs().await.is_empty());
    assert!(world.events().await.is_empty());
    assert_eq!(world.dispatch(&push("team/app", Some("v1")), "n").await.tasks.len(), 1);
}

/// Would break: signatures and untagged manifests, which a worker has to look at, and only where a rule may be for them.
#[tokio::test]
async fn what_has_no_tag_of_its_own_is_looked_at_once_where_a_rule_is_for_its_repository() {
    let subject = Digest::of(b"subject");
    let attachments = [None, Some(subject.as_tag("")), Some(subject.as_tag(".sig"))];
    for tag in attachments {
        // Very many rules are no reason for more than one look.
        let world = World::with(&rules(60)).await;
        let event = PushEvent { tag, ..push("team/app", None) };
        for event in [&event, &again(&event)] {
            assert_eq!(world.dispatch(event, "n").await, Dispatched { tasks: Vec::new(), pending: true });
        }
        assert_eq!(world.jobs().await, [Job::Look(LookJob { event: event.clone() })]);
        let nobodys = PushEvent { repository: "team/other".parse().unwrap(), ..event };
        assert_eq!(world.dispatch(&nobodys, "n").await, Dispatched::default());
        assert!(world.jobs().await.is_empty());
        assert!(world.events().await.is_empty());
    }
}

/// Two rules that lead both ways between `a/team` and `b/team`: it is remembered where tags came from.
fn both_ways() -> [Rule; 2] {
    let there = Rule { overwrite: true, ..rule("there", "team") };
    let mut back = Rule { name: "back".parse().unwrap(), ..there.clone() };
    std::mem::swap(&mut back.source.instance, &mut back.target.instance);
    [there, back]
}

/// A queue that does not answer.
struct Down;

#[async_trait]
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

/// Something that another process does to an origin.
type Change = Box<dyn FnMut(&mut Origin) + Send>;

/// A table whose first write others are quicker than, or, where nothing is to be done by them, that takes no writes.
struct Overtaken {
    table: Arc<dyn Table>,
    by: Option<Mutex<Option<(Place, Change)>>>,
}

#[async_trait]
impl Table for Overtaken {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.table.get(key).await
    }
    async fn query(&self, query: Query) -> Result<Page, TableError> {
        self.table.query(query).await
    }
    async fn write(&self, ops: Vec<Op>) -> Result<(), TableError> {
        let Some(by) = &self.by else { return Err(TableError::Unavailable("a test".into())) };
        let change = by.lock().unwrap().take();
        if let Some((place, mut change)) = change {
            let note = |origin: &mut Origin| {
                change(origin);
                true
            };
            Origins::new(self.table.clone()).change(&place, note).await.unwrap();
        }
        self.table.write(ops).await
    }
}

impl World {
    /// A dispatcher that can't note anything.
    fn forgetful(&self) -> Dispatcher {
        self.dispatcher_with(Overtaken { table: Arc::new(self.store.table()), by: None })
    }

    /// A dispatcher whose first note comes too late.
    fn overtaken(&self, place: Place, by: impl FnMut(&mut Origin) + Send + 'static) -> Dispatcher {
        let by: (Place, Change) = (place, Box::new(by));
        self.dispatcher_with(Overtaken { table: Arc::new(self.store.table()), by: Some(Mutex::new(Some(by))) })
    }

    fn dispatcher_with(&self, table: Overtaken) -> Dispatcher {
        let (jobs, events) = (Jobs(Arc::new(self.jobs.clone())), Events(Arc::new(self.events.clone())));
        Dispatcher::new(Origins::new(Arc::new(table)), jobs, events)
    }

    async fn told_of(&self, event: &PushEvent) -> Option<Pushed> {
        self.origins().get(&event.place().unwrap()).await.unwrap().pushed
    }
}

fn told(event: &PushEvent) -> Option<Told> {
    let pushed = Pushed { digest: event.digest.clone().unwrap(), version: event.version() };
    Some(Told { pushed, time: event.time() })
}

/// What a copy has set, as it came from one place to another.
fn written(content: &[u8], at: Timestamp, from: (&str, &str), to: (&str, &str), rule: RuleId) -> Written {
    let place = |(instance, repository): (&str, &str)| (instance.parse().unwrap(), repository.parse().unwrap());
    let trail = Trail::default().extended(rule, place(from), place(to));
    let version = Some(Version { time: at, instance: from.0.parse().unwrap() });
    Written { digest: Digest::of(content), at, version, trail, echoed: None }
}

/// Would break: an answer that says that a push is taken when half of what it needs is stored; a job that a crash has left alone, and
/// that does not tell what it is for.
#[tokio::test]
async fn of_job_and_note_each_alone_is_refused_and_made_good_by_the_next_delivery() {
    // The job alone.
    let world = World::with(&both_ways()).await;
    let event = push("team/app", Some("v1"));
    let catalog = world.snapshot().await;
    let refused = world.forgetful().dispatch(&catalog, &event, "first").await;
    assert!(matches!(refused, Err(StateError::Unavailable(_))), "{refused:?}");
    let [Job::Copy(job)] = &world.jobs().await[..] else { panic!("the job does not wait for the note") };
    assert_eq!(job.told, told(&event), "whoever does it can note it");
    assert_eq!((world.told_of(&event).await, world.events().await), (None, vec![]));
    let second = world.dispatch(&again(&event), "second").await;
    assert_eq!(second.tasks, std::slice::from_ref(&job.task.id));
    assert_eq!(world.told_of(&event).await, told(&event).map(|told| told.pushed));
    assert_eq!((world.jobs().await.len(), world.events().await.len()), (0, 1), "the queue has had the job");

    // The note alone.
    let world = World::with(&both_ways()).await;
    let events = Events(Arc::new(world.events.clone()));
    let refused = Dispatcher::new(world.origins(), Jobs(Arc::new(Down)), events).dispatch(&catalog, &event, "first").await;
    assert!(matches!(refused, Err(StateError::Unavailable(_))), "{refused:?}");
    assert_eq!(world.told_of(&event).await, told(&event).map(|told| told.pushed), "the note does not wait for the job");
    assert!(world.events().await.is_empty());
    assert_eq!(world.dispatch(&again(&event), "second").await, second);
    let [Job::Copy(job)] = &world.jobs().await[..] else { panic!("the job is sent now") };
    assert_eq!((job.told.clone(), world.events().await.len()), (told(&event), 1));
}

/// Would break: an event for very many rules whose pushes nobody notes, or that is answered before that.
#[tokio::test]
async fn a_fan_out_tells_each_copy_of_the_push() {
    let mut rules = rules(60);
    rules.extend(both_ways());
    let world = World::with(&rules).await;
    let event = push("team/app", Some("v1"));
    let catalog = world.snapshot().await;
    world.forgetful().dispatch(&catalog, &event, "n").await.unwrap_err();
    let [Job::FanOut(job)] = &world.jobs().await[..] else { panic!("a fan-out") };
    world.forgetful().fan_out(&catalog, job).await.unwrap_err();
    assert_eq!(world.told_of(&event).await, None);
    let (copies, _) = world.fan_out(1).await;
    assert_eq!((copies.len(), job.push), (61, true));
    assert!(copies.iter().all(|copy| copy.told == told(&event)));
    world.dispatcher().fan_out(&catalog, job).await.unwrap();
    assert_eq!(world.told_of(&event).await, told(&event).map(|told| told.pushed));
}

/// Would break: a push that nobody carries on, because it was an echo by what was known a moment before.
#[tokio::test]
async fn what_turns_out_to_be_a_push_is_sent_as_one() {
    // Another registry's stage leads to a/team, which leads on.
    let mut stage = rule("stage", "team");
    (stage.source.namespace, stage.target.instance) = ("dev".parse().unwrap(), "a".parse().unwrap());
    for count in [1, 60] {
        let mut rules = rules(count);
        rules.push(stage.clone());
        let world = World::with(&rules).await;
        let event = push("team/app", Some("v1"));
        let (place, catalog) = (event.place().unwrap(), world.snapshot().await);
        let stage = catalog.rule_named(&"a".parse().unwrap(), &"stage".parse().unwrap()).unwrap().id;
        let earlier = event.time().checked_sub(1.hour()).unwrap();
        let wrote = |content: &[u8]| written(content, earlier, ("a", "dev/app"), ("a", "team/app"), stage);
        let (first, second) = (wrote(b"content"), wrote(b"another"));
        let wrote = |origin: &mut Origin| {
            origin.note_write(first.clone());
            origin.note_write(second.clone());
            true
        };
        world.origins().change(&place, wrote).await.unwrap();
        // Meanwhile the echo of the first comes, so that this one is somebody's.
        let digest = first.digest.clone();
        let dispatcher = world.overtaken(place, move |origin| assert!(origin.note_echo(&digest, earlier)));
        let tasks = dispatcher.dispatch(&catalog, &event, "n").await.unwrap().tasks;
        // A look more, and the push.
        let sent: Vec<_> = world
            .jobs()
            .await
            .into_iter()
            .map(|job| match job {
                Job::Copy(job) => (Some(job.task.id), job.told),
                Job::FanOut(job) => (None, job.push.then(|| told(&event)).flatten()),
                other => unreachable!("{other:?}"),
            })
            .collect();
        let task = tasks.first().cloned();
        assert_eq!(sent, [(task.clone(), None), (task, told(&event))]);
        assert_eq!(world.events().await.len(), tasks.len());
        assert_eq!(world.told_of(&event).await, told(&event).map(|told| told.pushed));
    }
}

/// Would break: an echo that is noted as a push, which would be newer than everything that came before it.
#[tokio::test]
async fn what_turns_out_to_be_an_echo_is_no_push() {
    let world = World::with(&both_ways()).await;
    let event = push("team/app", Some("v1"));
    let (place, catalog) = (event.place().unwrap(), world.snapshot().await);
    let back = catalog.rule_named(&"b".parse().unwrap(), &"back".parse().unwrap()).unwrap().id;
    let wrote = written(b"content", event.time(), ("b", "team/app"), ("a", "team/app"), back);
    let dispatcher = world.overtaken(place.clone(), move |origin| origin.note_write(wrote.clone()));
    let tasks = dispatcher.dispatch(&catalog, &event, "n").await.unwrap().tasks;
    let origin = world.origins().get(&place).await.unwrap();
    assert_eq!((origin.pushed.clone(), origin.written[0].echoed), (None, Some(event.time())));
    let [Job::Copy(job)] = &world.jobs().await[..] else { panic!("a job too many") };
    assert_eq!((world.events().await.len(), tasks), (1, vec![job.task.id.clone()]), "which is told, as every job");
    // Its worker finds what is known now.
    let told = job.told.clone().unwrap();
    assert!(!origin.clone().note_told(&told));
}

/// Would break: a push that was overwritten just before it became known, and that nobody puts back.
#[tokio::test]
async fn what_turns_out_to_be_overwritten_is_put_back() {
    // Two sources of one place, from where nothing leads on.
    let other = Source { namespace: "other".parse().unwrap(), ..rule("two", "mirror").source };
    let world = World::with(&[rule("one", "mirror"), Rule { source: other, ..rule("two", "mirror") }]).await;
    let event = PushEvent { instance: "b".parse().unwrap(), ..push("mirror/app", Some("v1")) };
    let (place, catalog) = (event.place().unwrap(), world.snapshot().await);
    let older = event.time().checked_sub(1.hour()).unwrap();
    let wrote = written(b"older", older, ("a", "team/app"), ("b", "mirror/app"), RuleId(1));
    let dispatcher = world.overtaken(place.clone(), move |origin| origin.note_write(wrote.clone()));
    dispatcher.dispatch(&catalog, &event, "n").await.unwrap();
    let restore =
        |told| RestoreJob { place: place.clone(), digest: event.digest.clone().unwrap(), overwritten_by: older, told };
    assert_eq!(world.jobs().await, [Job::Restore(restore(told(&event)))]);
    assert_eq!(world.told_of(&event).await, told(&event).map(|told| told.pushed));

    // And where that is known from the beginning, the job says what it is for, should nobody have noted it.
    let next = PushEvent { id: Some("event-2".into()), digest: Some(Digest::of(b"newest")), time: None, ..event.clone() };
    world.forgetful().dispatch(&catalog, &next, "n").await.unwrap_err();
    let [Job::Restore(job)] = &world.jobs().await[..] else { panic!("nothing is put back") };
    assert_eq!(job.told, told(&next));
}

/// What is known of the rules: ID and revision by name.
fn known(snapshot: &Snapshot) -> BTreeMap<String, (u64, u64)> {
    snapshot.rules_of(&"a".parse().unwrap()).map(|rule| (rule.name.to_string(), (rule.id.0, rule.revision))).collect()
}

/// Would break: work of a rule that goes on under another rule's name; jobs of a rule that was not changed, taken for stale ones.
#[tokio::test]
async fn rules_keep_their_identity_as_long_as_their_name_stays() {
    let world = World::new();
    let (one, two, three) = (rule("one", "m1"), rule("two", "m2"), rule("three", "m3"));
    let applied = world.replace(&[one.clone(), two.clone(), three.clone()]).await;
    assert_eq!(applied, Applied { created: 5, changed: 0, deleted: 0 });
    let first = known(&*world.snapshot().await);
    assert_eq!(first.values().map(|(id, _)| id).collect::<BTreeSet<_>>().len(), 3);
    assert!(first.values().all(|(_, revision)| *revision == 1), "{first:?}");

    // The same again, in another order, with IDs and revisions of somebody else's making.
    let foreign = Rule { id: RuleId(first["two"].0), revision: 77, ..three.clone() };
    assert_eq!(world.replace(&[foreign, two.clone(), one.clone()]).await, Applied::default());
    assert_eq!(known(&*world.snapshot().await), first);

    // One is changed, one deleted, one is new.
    let changed = Rule { overwrite: true, ..one.clone() };
    let applied = world.replace(&[changed.clone(), two.clone(), rule("four", "m4")]).await;
    assert_eq!(applied, Applied { created: 1, changed: 1, deleted: 1 });
    let second = known(&*world.snapshot().await);
    assert_eq!(second["one"], (first["one"].0, 2));
    assert_eq!(second["two"], first["two"]);
    assert!(!second.contains_key("three"));
    assert!(!first.values().any(|(id, _)| *id == second["four"].0), "{first:?} {second:?}");

    // The deleted one comes back, the same as it was: it is another rule.
    world.replace(&[changed.clone(), two.clone(), three.clone()]).await;
    let third = known(&*world.snapshot().await);
    assert!(!first.values().chain(second.values()).any(|(id, _)| *id == third["three"].0), "{third:?}");
    assert_eq!((third["three"].1, third["one"], third["two"]), (1, second["one"], second["two"]));

    // Even if it was the last that had been created, and nothing else was.
    world.replace(&[]).await;
    assert!(known(&*world.snapshot().await).is_empty());
    world.replace(&[three]).await;
    let fourth = known(&*world.snapshot().await);
    assert!(fourth["three"].0 > third["three"].0, "{third:?} {fourth:?}");

    // Switched off and on: the same rule, which changed twice.
    for enabled in [false, true] {
        world.replace(&[Rule { enabled, ..rule("three", "m3") }]).await;
    }
    assert_eq!(known(&*world.snapshot().await)["three"], (fourth["three"].0, 3));
}

/// Would break: one rule's change that is written as very many, or more of them than one transaction holds.
#[tokio::test]
async fn a_large_catalogue_is_replaced_whole_and_only_in_what_changed() {
    let world = World::new();
    let mut rules = rules(450);
    assert_eq!(world.replace(&rules).await, Applied { created: 452, changed: 0, deleted: 0 });
    let first = known(&*world.snapshot().await);
    let ids: BTreeSet<_> = first.values().map(|(id, _)| *id).collect();
    assert_eq!(ids.len(), 450);
    rules[123].description = "another".into();
    assert_eq!(world.replace(&rules).await, Applied { created: 0, changed: 1, deleted: 0 });
    let mut expected = first.clone();
    expected.get_mut(rules[123].name.as_str()).unwrap().1 += 1;
    assert_eq!(known(&*world.snapshot().await), expected);
    assert_eq!(world.replace(&[]).await, Applied { created: 0, changed: 0, deleted: 450 });
    assert!(known(&*world.snapshot().await).is_empty());
}

/// Would break: a rule that was switched off and goes on in a process that still has the catalogue in its memory.
#[tokio::test]
async fn a_rule_that_is_switched_off_is_off_at_the_next_event() {
    let world = World::with(&[rule("one", "m1")]).await;
    let other_process = Catalog::new(Arc::new(world.store.table()));
    let event = push("team/app", Some("v1"));
    let tasks = async |catalog: &Catalog| {
        let snapshot = catalog.snapshot().await.unwrap();
        world.dispatcher().dispatch(&snapshot, &event, "n").await.unwrap().tasks.len()
    };
    assert_eq!((tasks(&world.catalog).await, tasks(&other_process).await), (1, 1));
    world.replace(&[Rule { enabled: false, ..rule("one", "m1") }]).await;
    assert_eq!((tasks(&world.catalog).await, tasks(&other_process).await), (0, 0));
}
