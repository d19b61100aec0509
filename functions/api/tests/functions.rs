//! The API as a function has it: an answer is sent when it is whole.

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use jiff::Timestamp;
use tower::ServiceExt as _;
use transship_api::{Api, access};
use transship_model::{Happening, Problem, RuleId, TaskEvent, TaskHead, TaskId, Trigger};
use transship_state::{
    Catalog, Events, Jobs, Table, TaskLog,
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
    let api = Api::new(Arc::new(Catalog::new(table)), log, Jobs(queue("jobs")), Events(queue("events")));

    let path = format!("/v1/tasks/{}/events", task.id);
    let request = Request::get(&path).extension(access::all_powerful("test")).body(Body::empty()).unwrap();
    let answer = api.router().oneshot(request).await.unwrap();

    assert_eq!(answer.status(), 501);
    let problem: Problem = serde_json::from_slice(&to_bytes(answer.into_body(), 10_000).await.unwrap()).unwrap();
    assert!(problem.detail.ends_with(&format!("poll GET /v1/tasks/{}", task.id)), "{}", problem.detail);
}
