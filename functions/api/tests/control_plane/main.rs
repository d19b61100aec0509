//! The API in this process, over a store of its own: who may do what, what the audit has of it, and where it ends.

mod audit;
mod bounds;
mod conditions;
mod retries;
mod rights;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    http::{HeaderMap, Method, Request},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use transship_api::{
    Api, Guarded, Stores,
    access::{Deployment as Own, Gate, Origin},
};
use transship_model::{Caller, Happening, InstanceName, Preview, PreviewId, Role, Rule, TaskEvent, TaskHead, TaskId, Trigger};
use transship_state::{
    Catalog, DeliveryLog, Events, FolderSecrets, Jobs, Notifications, Previews, Query, Table, TaskLog, Tokens, WrittenSecrets,
    sqlite::{QueueKind, SqliteQueue, SqliteStore},
};

/// Where its callers are.
const FROM: &str = "198.51.100.7";

/// A deployment whose queues nobody empties.
struct Deployment {
    api: Guarded,
    jobs: Arc<SqliteQueue>,
    catalog: Arc<Catalog>,
    log: TaskLog,
    deliveries: DeliveryLog,
    previews: Previews,
    tokens: Arc<Tokens>,
    table: Arc<dyn Table>,
    _folder: tempfile::TempDir,
}

impl Deployment {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path()).unwrap();
        let table: Arc<dyn Table> = Arc::new(store.table());
        let (catalog, log) = (Arc::new(Catalog::new(table.clone())), TaskLog::new(table.clone()));
        let jobs = Arc::new(store.queue("jobs", QueueKind::Fifo));
        let api = Api::new(Stores {
            catalog: catalog.clone(),
            log: log.clone(),
            jobs: Jobs(jobs.clone()),
            events: Events(Arc::new(store.queue("events", QueueKind::Standard))),
            notifications: Notifications(Arc::new(store.queue("notifications", QueueKind::Standard))),
            written: WrittenSecrets::new(table.clone(), Arc::new(FolderSecrets::new(folder.path().join("secrets")))),
            table: table.clone(),
        });
        let tokens = api.tokens();
        let gate = Gate::new(Own::None, tokens.clone());
        let (deliveries, previews) = (DeliveryLog::new(table.clone()), Previews::new(table.clone()));
        Self { api: Guarded::new(api, gate), jobs, catalog, log, deliveries, previews, tokens, table, _folder: folder }
    }

    /// One with the instances `build`, `prod` and `third` and the rules `build/all` to `prod` and `build/near` to `third`.
    async fn filled() -> Self {
        let deployment = Self::start();
        for name in ["build", "prod", "third"] {
            let endpoint = json!({ "endpoint": format!("https://{name}.example") });
            deployment.done(Method::PUT, &format!("/v1/instances/{name}"), endpoint).await;
        }
        for (rule, target) in [("all", "prod"), ("near", "third")] {
            deployment.done(Method::PUT, &format!("/v1/instances/build/rules/{rule}?start=false"), to(target)).await;
        }
        deployment
    }

    async fn call(
        &self,
        caller: &Caller,
        method: Method,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> (u16, HeaderMap, Value) {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let origin = Origin { vouched: Some(caller.clone()), from: Some(FROM.into()), ..Origin::default() };
        let response = self.api.handle(request.body(body).unwrap(), origin).await;
        let (head, body) = response.into_parts();
        (head.status.as_u16(), head.headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// By who may do everything.
    async fn done(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, _, answer) = self.call(&admin(), method.clone(), path, &body, &[]).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Everything of a list, page by page.
    async fn all(&self, path: &str, limit: usize) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.done(Method::GET, &format!("{path}?limit={limit}{cursor}"), Value::Null).await;
            all.extend(page["items"].as_array().unwrap().clone());
            let Some(next) = page["next"].as_str() else { return all };
            cursor = format!("&cursor={next}");
        }
    }

    async fn rule(&self, name: &str) -> Rule {
        let catalog = self.catalog.snapshot().await.unwrap();
        Rule::clone(catalog.rule_named(&"build".parse().unwrap(), &name.parse().unwrap()).unwrap())
    }

    /// A task of `build/all` in the log, to which this has happened.
    async fn task(&self, identity: &str, happenings: &[Happening]) -> TaskId {
        let (rule, created) = (self.rule("all").await, Timestamp::now());
        let id = TaskId::derive(rule.id, created, identity);
        let (instance, name) = (rule.source.instance, rule.name);
        let head = TaskHead { id: id.clone(), instance, rule: name, trigger: Trigger::Manual, created };
        let event = |what| TaskEvent { task: head.clone(), at: created, what };
        let events: Vec<TaskEvent> = std::iter::once(Happening::Created).chain(happenings.to_vec()).map(event).collect();
        self.log.record(&events).await.unwrap();
        id
    }

    /// What a worker does about previews: makes all that are waited for.
    async fn make_previews(&self) -> ! {
        let rule = self.rule("all").await;
        loop {
            for id in self.awaited().await {
                let made = Preview { rule: rule.clone(), items: Vec::new(), next: None, error: None };
                self.previews.put(&id, &made).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The previews that have been asked for and are not made.
    async fn awaited(&self) -> Vec<PreviewId> {
        let partition = "previews".to_owned();
        let query = Query { partition, prefix: String::new(), after: None, descending: false, limit: 1000 };
        let items = self.table.query(query).await.unwrap().items;
        let awaited = items.into_iter().filter(|item| item.attributes.contains_key("awaited"));
        awaited.map(|item| item.key.sort.parse().unwrap()).collect()
    }
}

fn admin() -> Caller {
    Caller::all_powerful("the test")
}

/// Somebody who may do what the role may with some instances.
fn somebody(role: Role, instances: &[&str]) -> Caller {
    let instances: BTreeSet<InstanceName> = instances.iter().map(|name| name.parse().unwrap()).collect();
    Caller { name: format!("{role} of {instances:?}"), role, instances: Some(instances), from: None, request: None }
}

fn to(target: &str) -> Value {
    json!({ "source": { "namespace": "team" }, "target": { "instance": target, "namespace": "mirror" } })
}
