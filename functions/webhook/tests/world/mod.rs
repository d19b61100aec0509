//! A webhook over embedded stores, and secrets that stand where they are named.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]
#![allow(dead_code, clippy::allow_attributes, reason = "each of the tests needs a part of it")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::Response;
use secrecy::SecretString;
use serde_json::Value;
use transship_model::{
    Credentials, EcrSettings, Instance, Job, Kind, Place, Rule, RuleId, SecretRef, Source, Target, WebhookAuth,
};
use transship_state::{
    Catalog, Dispatcher, Events, Item, Jobs, Key, Op, Origins, Outgoing, Page, Query, Queue, QueueError, Scheduler,
    SecretError, Secrets, Table, TableError, messages,
    sqlite::{QueueKind, SqliteQueue, SqliteStore},
};
use transship_webhook::Webhook;

/// The webhook secret of most instances here.
pub(crate) const SECRET: &str = "a secret of the tests";

pub(crate) struct World {
    pub(crate) webhook: Webhook,
    pub(crate) origins: Origins,
    catalog: Catalog,
    jobs: SqliteQueue,
    events: SqliteQueue,
    calls: Arc<Calls>,
    _dir: tempfile::TempDir,
}

/// The calls of stores, in their order.
#[derive(Default)]
struct Calls {
    made: Mutex<Made>,
    is_table_broken: AtomicBool,
}

/// Calls, those together that were made side by side: neither waited for the other.
#[derive(Default)]
struct Made {
    steps: Vec<Vec<String>>,
    /// So many steps have a call that is over: what is called now waited for it.
    over: usize,
}

impl Calls {
    async fn note<T>(&self, call: &str, inner: impl Future<Output = T>) -> T {
        let step = {
            let mut made = self.made.lock().unwrap();
            let step = made.over;
            if made.steps.len() == step {
                made.steps.push(Vec::new());
            }
            made.steps[step].push(call.to_owned());
            step
        };
        // What does not wait for this is called now.
        tokio::task::yield_now().await;
        let result = inner.await;
        let mut made = self.made.lock().unwrap();
        made.over = made.over.max(step + 1);
        result
    }

    async fn note_table<T>(&self, call: &str, inner: impl Future<Output = Result<T, TableError>>) -> Result<T, TableError> {
        if self.is_table_broken.load(Ordering::SeqCst) {
            return Err(TableError::Unavailable("broken by the test".to_owned()));
        }
        self.note(call, inner).await
    }
}

impl World {
    pub(crate) async fn with(instances: &[Instance], rules: &[Rule]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let calls = Arc::new(Calls::default());
        let (jobs, events) = (store.queue("jobs", QueueKind::Fifo), store.queue("events", QueueKind::Standard));
        let queue = |queue: &SqliteQueue, name| Arc::new(Counted { inner: queue.clone(), name, calls: calls.clone() });
        let table: Arc<dyn Table> = Arc::new(Counted { inner: store.table(), name: "", calls: calls.clone() });
        let (to_jobs, to_events) = (Jobs(queue(&jobs, "send jobs")), Events(queue(&events, "send events")));
        let its = Arc::new(Catalog::new(table.clone()));
        let scheduler = Scheduler::new(its.clone(), table.clone(), to_jobs.clone(), to_events.clone());
        let dispatcher = Dispatcher::new(Origins::new(table), to_jobs, to_events);
        let webhook = Webhook::new(its, dispatcher, Arc::new(scheduler), Arc::new(Told));
        let (origins, catalog) = (Origins::new(Arc::new(store.table())), Catalog::new(Arc::new(store.table())));
        let world = Self { webhook, origins, catalog, jobs, events, calls, _dir: dir };
        world.replace(instances, rules).await;
        world
    }

    pub(crate) async fn replace(&self, instances: &[Instance], rules: &[Rule]) {
        self.catalog.replace(instances, rules).await.unwrap();
    }

    /// The calls since this was asked last, those in one line that were made side by side.
    pub(crate) fn calls(&self) -> Vec<String> {
        let mut made = std::mem::take(&mut *self.calls.made.lock().unwrap());
        made.steps.iter_mut().for_each(|calls| calls.sort());
        made.steps.iter().map(|calls| calls.join(" + ")).collect()
    }

    /// From now on the webhook's table does not answer.
    pub(crate) fn break_table(&self) {
        self.calls.is_table_broken.store(true, Ordering::SeqCst);
    }

    /// The jobs that were sent, which are not in the queue any more.
    pub(crate) async fn jobs(&self) -> Vec<Job> {
        drain(&self.jobs).await.iter().map(|body| messages::read_job(body).unwrap()).collect()
    }

    /// The bodies of the messages for the log, likewise.
    pub(crate) async fn events(&self) -> Vec<String> {
        drain(&self.events).await
    }

    pub(crate) fn place(&self, instance: &str, repository: &str, tag: &str) -> Place {
        let (instance, repository) = (instance.parse().unwrap(), repository.parse().unwrap());
        Place { instance, repository, reference: tag.parse().unwrap() }
    }
}

async fn drain(queue: &SqliteQueue) -> Vec<String> {
    let mut bodies = Vec::new();
    // All that is there is visible: nobody holds anything.
    while queue.depth().await.unwrap().visible > 0 {
        let messages = queue.receive(1000, Duration::from_secs(600)).await.unwrap();
        queue.delete_all(messages.iter().map(|message| message.receipt.clone()).collect()).await.unwrap();
        bodies.extend(messages.into_iter().map(|message| message.body));
    }
    bodies
}

/// An instance with a webhook secret, or one that refuses notifications.
pub(crate) fn instance(name: &str, endpoint: &str, secret: Option<&str>) -> Instance {
    Instance {
        name: name.parse().unwrap(),
        endpoint: endpoint.parse().unwrap(),
        kind: Kind::Oci,
        region: None,
        zone: None,
        credentials: Credentials::Anonymous,
        webhook: secret.map_or(WebhookAuth::Closed, |secret| WebhookAuth::Secret(SecretRef::Env(secret.to_owned()))),
        token_realm: None,
        api: None,
        ecr: EcrSettings::default(),
        tcr: None,
        ca: None,
        plain_http: false,
        notify: None,
    }
}

/// A rule that copies `shop` from one instance to another.
pub(crate) fn rule(name: &str, from: &str, to: &str) -> Rule {
    Rule {
        id: RuleId(0),
        revision: 0,
        name: name.parse().unwrap(),
        description: String::new(),
        source: Source {
            instance: from.parse().unwrap(),
            namespace: "shop".parse().unwrap(),
            repository: ".*".parse().unwrap(),
            tag: ".*".parse().unwrap(),
            types: Vec::new(),
        },
        target: Target { instance: to.parse().unwrap(), namespace: None, flatten: false },
        overwrite: true,
        propagate_deletions: false,
        referrers: true,
        schedule: None,
        enabled: true,
    }
}

/// HMAC-SHA256 in hexadecimal digits.
pub(crate) fn mac(secret: &str, body: &[u8]) -> String {
    let mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(body).finalize();
    mac.into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn body_of(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

/// Secrets that are the names of their variables.
struct Told;

#[async_trait]
impl Secrets for Told {
    async fn read(&self, reference: &SecretRef) -> Result<SecretString, SecretError> {
        match reference {
            SecretRef::Env(secret) => Ok(SecretString::from(secret.clone())),
            other => Err(SecretError { reference: other.clone(), why: "the tests name variables".to_owned() }),
        }
    }
}

/// A store whose calls are noted.
struct Counted<T> {
    inner: T,
    name: &'static str,
    calls: Arc<Calls>,
}

#[async_trait]
impl<T: Table> Table for Counted<T> {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.calls.note_table("get", self.inner.get(key)).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, TableError> {
        self.calls.note_table("get many", self.inner.get_many(keys)).await
    }

    async fn query(&self, query: Query) -> Result<Page, TableError> {
        self.calls.note_table("query", self.inner.query(query)).await
    }

    async fn write(&self, ops: Vec<Op>) -> Result<(), TableError> {
        self.calls.note_table("write", self.inner.write(ops)).await
    }
}

#[async_trait]
impl Queue for Counted<SqliteQueue> {
    async fn send(&self, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        self.calls.note(self.name, self.inner.send(messages)).await
    }

    async fn extend(&self, receipt: &str, hold: Duration) -> Result<(), QueueError> {
        self.inner.extend(receipt, hold).await
    }

    async fn release(&self, receipt: &str, delay: Duration) -> Result<(), QueueError> {
        self.inner.release(receipt, delay).await
    }
}
