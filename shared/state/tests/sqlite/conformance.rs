//! The suites that every adapter passes.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use transship_state::FolderSecrets;
use transship_state::Incoming;
use transship_state::conformance::{self, Receiver};
use transship_state::sqlite::{QueueKind, SqliteQueue};

use crate::scratch::Scratch;

struct Receiving(SqliteQueue);

#[async_trait]
impl Receiver for Receiving {
    async fn receive(&self, max: usize, hold: Duration, wait: Duration) -> Vec<Incoming> {
        match tokio::time::timeout(wait, self.0.receive(max, hold)).await {
            Ok(received) => received.unwrap(),
            Err(_) => Vec::new(),
        }
    }

    async fn delete(&self, receipt: &str) {
        self.0.delete(receipt).await.unwrap();
    }
}

#[tokio::test]
async fn the_table_conforms() {
    let scratch = Scratch::new();
    conformance::table(&scratch.open().table()).await;
}

/// Would break: of two changes at the same time one is lost; a rule that names nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_conforms() {
    let scratch = Scratch::new();
    let store = scratch.open();
    conformance::catalog(Arc::new(store.table()), Arc::new(store.table())).await;
}

/// Would break: a password that the API was given and no worker can use, or that outlives its instance.
#[tokio::test]
async fn the_secrets_conform() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = || FolderSecrets::new(folder.path().join("secrets"));
    conformance::secrets(&secrets(), secrets).await;
}

#[tokio::test]
async fn the_fifo_queue_conforms() {
    let scratch = Scratch::new();
    let queue = scratch.open().queue("jobs", QueueKind::Fifo);
    conformance::fifo_queue(&queue, &Receiving(queue.clone())).await;
}

#[tokio::test]
async fn the_standard_queue_conforms() {
    let scratch = Scratch::new();
    let queue = scratch.open().queue("events", QueueKind::Standard);
    conformance::standard_queue(&queue, &Receiving(queue.clone())).await;
}
