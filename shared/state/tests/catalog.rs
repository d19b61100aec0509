//! The catalogue over the embedded store: what older versions have left, and first runs.

use std::{path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use transship_model::{Instance, Job, Owner, Rule, TaskEvent};
use transship_state::{
    Applied, Catalog, Events, Item, Jobs, Key, Op, StateError, Table, first_runs,
    sqlite::{QueueKind, SqliteQueue, SqliteStore},
};

struct World {
    store: SqliteStore,
    jobs: SqliteQueue,
    events: SqliteQueue,
    catalog: Catalog,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
        let store = SqliteStore::open(folder.path()).unwrap();
        let (jobs, events) = (store.queue("jobs", QueueKind::Fifo), store.queue("events", QueueKind::Standard));
        let catalog = Catalog::new(Arc::new(store.table()));
        Self { store, jobs, events, catalog, _folder: folder }
    }

    async fn start_all(&self) -> usize {
        let (jobs, events) = (Jobs(Arc::new(self.jobs.clone())), Events(Arc::new(self.events.clone())));
        first_runs::start_all(&self.catalog, &jobs, &events).await.unwrap()
    }

    async fn put(&self, rule: &Rule, first_run: bool) {
        let put =
            async || self.catalog.edit(|_, draft| Ok::<_, StateError>(draft.put_rule(rule, &Owner::Api, first_run))).await;
        put().await.unwrap();
    }
}

/// All messages that are there.
async fn messages(queue: &SqliteQueue) -> Vec<String> {
    let received = tokio::time::timeout(Duration::from_millis(300), queue.receive(100, Duration::from_secs(600))).await;
    let received = received.map(Result::unwrap).unwrap_or_default();
    for message in &received {
        queue.delete(&message.receipt).await.unwrap();
    }
    received.into_iter().map(|message| message.body).collect()
}

fn instance(name: &str) -> Value {
    json!({ "name": name, "endpoint": format!("https://{name}.test"), "kind": "oci" })
}

fn rule(name: &str, enabled: bool) -> Value {
    json!({
        "id": 7, "revision": 3, "name": name, "enabled": enabled,
        "source": { "instance": "a", "namespace": "team" }, "target": { "instance": "b" },
    })
}

/// Would break: after an update the rules of a file are taken for somebody else's, run from the beginning, or lose their logs.
#[tokio::test]
async fn what_an_older_version_has_stored_is_the_file_s_and_has_run() {
    let world = World::new();
    let put = |partition: &str, sort: &str, value: Value| {
        let item = Item { key: Key::new(partition, sort), attributes: value.as_object().unwrap().clone(), expires: None };
        Op::Put { item, condition: None }
    };
    let version = json!({ "version": 5, "next_rule": 8 });
    let ops = vec![
        put("catalog", "version", version),
        put("catalog/instances", "a", instance("a")),
        put("catalog/instances", "b", instance("b")),
        put("catalog/rules", "a/r", rule("r", true)),
    ];
    world.store.table().write(ops).await.unwrap();
    let before = world.catalog.snapshot().await.unwrap();
    let entry = transship_state::Entry::of_rule(before.rules().next().unwrap());
    let stamp = before.stamp(&entry).unwrap();
    assert_eq!((stamp.revision, &stamp.owner, stamp.first_run), (3, &None, None));
    assert_eq!(before.stamp(&transship_state::Entry::Instance("a".parse().unwrap())).unwrap().revision, 1);

    let instances: Vec<Instance> = ["a", "b"].map(|name| serde_json::from_value(instance(name)).unwrap()).into();
    let rules: Vec<Rule> = vec![serde_json::from_value(rule("r", true)).unwrap()];
    let owner = Owner::File("/etc/sync.yaml".into());
    let plan = world.catalog.plan(&owner, &instances, &rules, true).await.unwrap();
    assert!(plan.refusals().is_empty() && plan.changes().next().is_none(), "{plan:?}");
    assert_eq!(world.catalog.carry_out(plan).await.unwrap(), Applied::default());
    let after = world.catalog.snapshot().await.unwrap();
    let rule = after.rules().next().unwrap();
    assert_eq!((rule.id.0, rule.revision, after.stamp(&entry).unwrap().file()), (7, 3, Some("/etc/sync.yaml")));
    assert_eq!(world.start_all().await, 0, "a rule that has run for long begins anew");
    // The file has another name now, and is still the one file that there is.
    let renamed = world.catalog.plan(&Owner::File("/srv/sync.yaml".into()), &instances, &rules, true).await.unwrap();
    assert!(renamed.refusals().is_empty(), "{:?}", renamed.refusals());
}

/// Would break: after a crash between a new rule and its first run, nobody starts that run; or it is started twice, as two tasks.
#[tokio::test]
async fn a_first_run_that_a_crash_has_kept_from_starting_is_started_later_and_once() {
    let world = World::new();
    let instances: Vec<Instance> = ["a", "b"].map(|name| serde_json::from_value(instance(name)).unwrap()).into();
    world.catalog.replace(&instances, &[]).await.unwrap();
    for (name, enabled, first_run) in [("new", true, true), ("later", false, true), ("quiet", true, false)] {
        world.put(&serde_json::from_value(rule(name, enabled)).unwrap(), first_run).await;
    }
    // The crash is here: nothing has been sent.
    let scans = async || {
        let job = |body: &String| match serde_json::from_str(body).unwrap() {
            Job::Scan(scan) => scan.task,
            other => panic!("{other:?}"),
        };
        messages(&world.jobs).await.iter().map(job).collect::<Vec<_>>()
    };
    assert_eq!(world.start_all().await, 1);
    let tasks = scans().await;
    assert_eq!(tasks.iter().map(|task| task.rule.as_str()).collect::<Vec<_>>(), ["new"]);
    let events: Vec<TaskEvent> = messages(&world.events).await.iter().map(|body| serde_json::from_str(body).unwrap()).collect();
    assert_eq!(events.iter().map(|event| &event.task.id).collect::<Vec<_>>(), [&tasks[0].id]);
    assert_eq!((world.start_all().await, scans().await.len()), (0, 0), "it runs again at each start");

    world.put(&serde_json::from_value(rule("later", true)).unwrap(), true).await;
    let waiting = world.catalog.snapshot().await.unwrap();
    assert_eq!(world.start_all().await, 1);
    let later = scans().await;
    assert_eq!(later[0].rule.as_str(), "later");
    // The same again, by somebody who has not seen that it was started.
    let rule = waiting.rules().find(|rule| rule.name.as_str() == "later").unwrap();
    let (jobs, events) = (Jobs(Arc::new(world.jobs.clone())), Events(Arc::new(world.events.clone())));
    let again = first_runs::start_one(&world.catalog, &waiting, &jobs, &events, rule).await.unwrap();
    assert_eq!(again.as_ref(), Some(&later[0].id), "one first run is two tasks");
}
