//! A place for one test, and short ways to say what tests often say.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use transship_state::sqlite::{QueueKind, SqliteQueue, SqliteStore};
use transship_state::{Incoming, Outgoing, Queue};

/// Long enough not to end during a test.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// A directory that goes away with the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("transship-state-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Not under /tmp, which may be in memory: these tests are about a disk.
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A message for a FIFO queue that is like no other.
pub(crate) fn in_group(group: &str, body: impl Into<String>) -> Outgoing {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let deduplication = format!("{:x}{:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    Outgoing { body: body.into(), group: Some(group.to_owned()), deduplication: Some(deduplication) }
}

/// A message for a standard queue.
pub(crate) fn plain(body: impl Into<String>) -> Outgoing {
    Outgoing { body: body.into(), group: None, deduplication: None }
}

/// A FIFO queue with these messages, each of its group.
pub(crate) async fn fifo(store: &SqliteStore, messages: &[(&str, &str)]) -> SqliteQueue {
    let queue = store.queue("jobs", QueueKind::Fifo);
    queue.send(messages.iter().map(|(group, body)| in_group(group, *body)).collect()).await.unwrap();
    queue
}

/// All that is ready now.
pub(crate) async fn receive_ready(queue: &SqliteQueue, hold: Duration) -> Vec<Incoming> {
    let mut all = Vec::new();
    while let Ok(received) = tokio::time::timeout(Duration::from_millis(200), queue.receive(100, hold)).await {
        all.extend(received.unwrap());
    }
    all
}

pub(crate) fn bodies(messages: &[Incoming]) -> Vec<&str> {
    messages.iter().map(|message| message.body.as_str()).collect()
}
