//! The API over a store whose answers get lost.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use axum::{
    body::Bytes,
    http::{Request, StatusCode},
};
use serde_json::{Value, json};
use transship_api::{
    Api, Guarded, Stores,
    access::{Deployment, Gate, Origin},
};
use transship_model::{Caller, Credentials, SecretRef};
use transship_state::{
    Catalog, Events, FolderSecrets, Item, Jobs, Key, Notifications, Op, Page, Query, Secrets as _, Table, TableError, TaskLog,
    WrittenSecrets,
    sqlite::{QueueKind, SqliteStore},
};

/// A table that does what it is asked for and, for a while, does not say so when the catalogue changes.
struct Silent {
    table: Arc<dyn Table>,
    is_silent: AtomicBool,
}

#[async_trait]
impl Table for Silent {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.table.get(key).await
    }

    async fn query(&self, query: Query) -> Result<Page, TableError> {
        self.table.query(query).await
    }

    async fn write(&self, ops: Vec<Op>) -> Result<(), TableError> {
        let is_of_catalog = ops.iter().any(|op| op.key().partition == "catalog");
        self.table.write(ops).await?;
        if is_of_catalog && self.is_silent.load(Ordering::Relaxed) {
            return Err(TableError::Unavailable("no answer".into()));
        }
        Ok(())
    }
}

/// Would break: an instance whose password is deleted although it was changed to need it, because the store's answer was lost.
#[tokio::test]
async fn a_secret_stays_if_it_is_not_sure_that_nobody_names_it() {
    let folder = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    let table = Arc::new(Silent { table: Arc::new(store.table()), is_silent: AtomicBool::new(true) });
    let secrets = FolderSecrets::new(folder.path().join("secrets"));
    let catalog = Arc::new(Catalog::new(table.clone()));
    let api = Api::new(Stores {
        log: TaskLog::new(table.clone()),
        jobs: Jobs(Arc::new(store.queue("jobs", QueueKind::Fifo))),
        events: Events(Arc::new(store.queue("events", QueueKind::Standard))),
        notifications: Notifications(Arc::new(store.queue("notifications", QueueKind::Standard))),
        written: WrittenSecrets::new(table.clone(), Arc::new(secrets.clone())),
        catalog: catalog.clone(),
        table: table.clone(),
    });
    let gate = Gate::new(Deployment::None, api.tokens());
    let api = Guarded::new(api, gate);
    let put = async |password: &str| {
        let credentials = json!({ "username": "ci", "password": { "value": password } });
        let instance = json!({ "endpoint": "https://build.example", "credentials": credentials });
        let request = Request::put("/v1/instances/build").header("content-type", "application/json");
        let request = request.body(Bytes::from(instance.to_string())).unwrap();
        let vouched = Origin { vouched: Some(Caller::all_powerful("test")), ..Origin::default() };
        let response = api.handle(request, vouched).await;
        (response.status(), serde_json::from_slice::<Value>(response.body()).unwrap())
    };
    let in_use = async || {
        let snapshot = catalog.snapshot().await.unwrap();
        let Credentials::Password { password: stored @ SecretRef::Stored(_), .. } =
            snapshot.instance(&"build".parse().unwrap()).unwrap().credentials.clone()
        else {
            return None;
        };
        Some(secrets.read(&stored).await.map(|secret| secrecy::ExposeSecret::expose_secret(&secret).to_owned()))
    };

    assert_eq!(put("first").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(in_use().await.unwrap().unwrap(), "first", "the instance names a secret that is gone");
    table.is_silent.store(false, Ordering::Relaxed);
    let (status, again) = put("second").await;
    assert_eq!(status, StatusCode::OK, "{again}");
    assert_eq!(in_use().await.unwrap().unwrap(), "second");
}
