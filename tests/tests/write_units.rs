//! What a small sync writes to the table, in the units that DynamoDB counts: 1 KB or a part of it each, twice that in a transaction.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};
use transship_logger::{Logger, Outlets};
use transship_model::{PushEvent, TaskStatus};
use transship_registry::Http;
use transship_state::{
    Announcement, AttemptLog, Catalog, DeadLetters, Dispatcher, Events, Item, Jobs, Key, LocalSecrets, Notifications, Op,
    Origins, Page, Previews, Query, Table, TableError, TaskLog, Topic, TopicError, Uploads,
    sqlite::{QueueKind, SqliteQueue, SqliteStore},
};
use transship_tests::*;
use transship_worker::{Disposition, HOLD, Stores, Worker};

/// Counts what is written, by the first word of the partition.
struct Counting {
    table: Arc<dyn Table>,
    units: Mutex<BTreeMap<String, usize>>,
}

#[async_trait]
impl Table for Counting {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.table.get(key).await
    }

    async fn query(&self, query: Query) -> Result<Page, TableError> {
        self.table.query(query).await
    }

    async fn write(&self, ops: Vec<Op>) -> Result<(), TableError> {
        let keys: Vec<Key> = ops.iter().map(|op| op.key().clone()).collect();
        let before = self.table.get_many(&keys).await?;
        let result = self.table.write(ops).await;
        let after = self.table.get_many(&keys).await?;
        // What a condition refuses is paid for as well.
        for ((key, before), after) in keys.iter().zip(before).zip(after) {
            let size = before.iter().chain(&after).map(size).max().unwrap_or(1);
            let units = size.div_ceil(1024) * if keys.len() > 1 { 2 } else { 1 };
            let kind = key.partition.split('/').next().unwrap_or_default().to_owned();
            *self.units.lock().unwrap().entry(kind).or_default() += units;
        }
        result
    }
}

/// An item's size as DynamoDB counts it: DynamoDB Developer Guide, "DynamoDB item sizes and formats".
fn size(item: &Item) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::Null | Value::Bool(_) => 1,
            Value::Number(number) => number.to_string().len().div_ceil(2) + 1,
            Value::String(text) => text.len(),
            Value::Array(values) => 3 + values.iter().map(|value| 1 + of(value)).sum::<usize>(),
            Value::Object(fields) => 3 + fields.iter().map(|(name, value)| 1 + name.len() + of(value)).sum::<usize>(),
        }
    }
    let keys = "partition".len() + item.key.partition.len() + "sort".len() + item.key.sort.len() + "expires".len() + 6;
    keys + item.attributes.iter().map(|(name, value)| name.len() + of(value)).sum::<usize>()
}

/// A topic that takes everything.
struct Taking;

#[async_trait]
impl Topic for Taking {
    async fn publish(&self, _: &Announcement) -> Result<(), TopicError> {
        Ok(())
    }
}

/// Takes in what the queue has, each message as a batch of its own: the dearest way.
async fn record(logger: &Logger, events: &SqliteQueue) -> usize {
    let messages = events.receive(100, HOLD).await.unwrap();
    for message in &messages {
        logger.record([message.body.as_str()]).await.unwrap();
        events.delete(&message.receipt).await.unwrap();
    }
    messages.len()
}

/// Would break: the price of a sync, by a write that somebody adds to the way of every push.
#[tokio::test]
async fn a_small_sync_costs_at_most_twelve_write_units() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let image = Image::random(1).layers(2, 64 << 10).build();
    image.push(&build.at("platform/backend/orders", "v2026.11.21")).await;

    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let counting = Arc::new(Counting { table: Arc::new(store.table()), units: Mutex::default() });
    let table: Arc<dyn Table> = counting.clone();
    let instance = |name: &str, url: &str| {
        let notify = json!({ "url": "https://ci.example.com/transship" });
        serde_json::from_value(json!({"name": name, "endpoint": url, "kind": "distribution", "notify": notify})).unwrap()
    };
    let rule = serde_json::from_value(json!({
        "id": 0, "revision": 0, "name": "releases-to-production", "description": "", "overwrite": false, "enabled": true,
        "source": {"instance": "build-eu-central-1", "namespace": "platform", "repository": ".*", "tag": ".*", "types": []},
        "target": {"instance": "prod-ap-southeast-1", "namespace": "mirror"},
    }))
    .unwrap();
    let instances = [instance("build-eu-central-1", build.url()), instance("prod-ap-southeast-1", prod.url())];
    let catalog = Arc::new(Catalog::new(table.clone()));
    catalog.replace(&instances, &[rule]).await.unwrap();
    counting.units.lock().unwrap().clear();

    let (jobs_queue, events_queue) = (store.queue("jobs", QueueKind::Fifo), store.queue("events", QueueKind::Standard));
    let notifications_queue = store.queue("notifications", QueueKind::Standard);
    let (jobs, events) = (Jobs(Arc::new(jobs_queue.clone())), Events(Arc::new(events_queue.clone())));
    let (log, origins) = (TaskLog::new(table.clone()), Origins::new(table.clone()));
    let outlets = Outlets {
        catalog: catalog.clone(),
        topic: Some(Arc::new(Taking)),
        topic_resources: Vec::new(),
        notifications: Notifications(Arc::new(notifications_queue.clone())),
    };
    let logger = Logger::new(log.clone(), DeadLetters::new(table.clone()), outlets);
    let stores = Stores {
        catalog: catalog.clone(),
        origins: origins.clone(),
        attempts: AttemptLog::new(table.clone()),
        previews: Previews::new(table.clone()),
        log: log.clone(),
        dead_letters: DeadLetters::new(table.clone()),
        uploads: Uploads::new(table.clone(), "test"),
        jobs: jobs.clone(),
        events: events.clone(),
        secrets: Arc::new(LocalSecrets),
    };
    let worker = Worker::new(stores, Http::new().unwrap());

    let event = PushEvent {
        instance: "build-eu-central-1".parse().unwrap(),
        repository: "platform/backend/orders".parse().unwrap(),
        tag: Some("v2026.11.21".parse().unwrap()),
        digest: Some(image.digest().clone()),
        id: Some("320678d8-ca14-430f-8bb6-4ca139cd83f7".into()),
        time: None,
        received: Timestamp::now(),
    };
    let dispatched = Dispatcher::new(origins, jobs, events).dispatch(&catalog.snapshot().await.unwrap(), &event, "").await;
    let task = dispatched.unwrap().tasks.remove(0);
    // The log hears of the push before it hears of its end.
    assert_eq!(record(&logger, &events_queue).await, 1);
    let message = jobs_queue.receive(1, HOLD).await.unwrap().remove(0);
    assert_eq!(worker.deliver(&jobs_queue, &message, None, std::future::pending()).await, Disposition::Done);
    record(&logger, &events_queue).await;

    assert_eq!(log.task(&task).await.unwrap().unwrap().status(), TaskStatus::Succeeded);
    let sent = notifications_queue.receive(100, Duration::from_secs(60)).await.unwrap().len();
    assert_eq!(sent, 1, "both instances have the same webhook");
    let units = counting.units.lock().unwrap().clone();
    let all: usize = units.values().sum();
    println!("write units: {all}, {units:?}");
    assert!((1..=12).contains(&all), "{all} write units: {units:?}");
}
