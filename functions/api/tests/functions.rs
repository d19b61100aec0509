//! The API as a function has it: an answer is sent when it is whole.

use std::sync::Arc;

use axum::{body::Bytes, http::Request};
use jiff::Timestamp;
use transship_api::{
    Api, Guarded, Stores,
    access::{Deployment, Gate, Origin},
};
use transship_model::{Caller, Happening, Problem, RuleId, TaskEvent, TaskHead, TaskId, Trigger};
use transship_state::{
    Catalog, Events, FolderSecrets, Jobs, Notifications, Table, TaskLog, WrittenSecrets,
    sqlite::{QueueKind, SqliteStore},
};

/// Would break: a function that waits for its own time limit because somebody wants to watch a task.
#[tokio::test]
async fn what_can_t_be_streamed_is_refused_with_the_way_that_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let table: Arc<dyn Table> = Arc::new(store.table());
    let queue = |name| Arc::new(store.queue(name, QueueKind::Standard));
    let log = TaskLog::new(table.clone());
    let task = TaskHead {
        id: TaskId::derive(RuleId(1), Timestamp::now(), "x"),
        instance: "a".parse().unwrap(),
        rule: "r".parse().unwrap(),
        trigger: Trigger::Manual,
        created: Timestamp::now(),
    };
    let begun = TaskEvent { task: task.clone(), at: Timestamp::now(), what: Happening::Created };
    log.record(&[begun]).await.unwrap();
    let api = Api::new(Stores {
        catalog: Arc::new(Catalog::new(table.clone())),
        log,
        jobs: Jobs(queue("jobs")),
        events: Events(queue("events")),
        notifications: Notifications(queue("notifications")),
        written: WrittenSecrets::new(table.clone(), Arc::new(FolderSecrets::new(dir.path().join("secrets")))),
        table,
    });
    let gate = Gate::new(Deployment::None, api.tokens());

    let request = Request::get(format!("/v1/tasks/{}/events", task.id)).body(Bytes::new()).unwrap();
    let vouched = Origin { vouched: Some(Caller::all_powerful("test")), ..Origin::default() };
    let answer = Guarded::new(api, gate).handle(request, vouched).await;

    assert_eq!(answer.status(), 501);
    let problem: Problem = serde_json::from_slice(answer.body()).unwrap();
    assert!(problem.detail.ends_with(&format!("poll GET /v1/tasks/{}", task.id)), "{}", problem.detail);
}
