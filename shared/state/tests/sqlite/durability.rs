//! What survives, and who may open a directory.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use transship_state::sqlite::{OpenError, QueueKind, SqliteStore};
use transship_state::{Item, Key, Op, Queue, Table};

use crate::scratch::{LONG, Scratch, bodies, fifo, in_group, plain, receive_ready};

/// Names the directory to the process that a test starts and kills.
const CHILD_DIR: &str = "TRANSSHIP_STATE_CHILD_DIR";

/// A process that does not outlive its test, even if that fails: it would keep the output open, and a CI run waiting.
struct KilledInTheEnd(Child);

impl Drop for KilledInTheEnd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts this test program again, to run only `test` on `dir`.
fn child(test: &str, dir: &Path) -> KilledInTheEnd {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    KilledInTheEnd(child)
}

/// Says something to the test that started this process, in one write.
fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\nsaid {what}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

#[tokio::test]
async fn every_answered_write_survives_a_kill() {
    let scratch = Scratch::new();
    let (mut written, mut sent, mut done) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for round in 0..5 {
        let mut child = child("durability::child_that_writes", scratch.path());
        let mut answered = 0;
        for line in BufReader::new(child.0.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some((what, name)) = line.strip_prefix("said ").and_then(|said| said.split_once(' ')) else { continue };
            match what {
                "written" => written.insert(name.to_owned()),
                "sent" => sent.insert(name.to_owned()),
                _ => done.insert(name.to_owned()),
            };
            answered += 1;
            if answered == 300 {
                // SIGKILL. What the child has said until then is still read.
                child.0.kill().unwrap();
            }
        }
        assert!(!child.0.wait().unwrap().success(), "round {round}: the child ended by itself");
        assert!(answered >= 300, "round {round}: the child said only {answered} things");
    }

    let store = scratch.open();
    for name in &written {
        let item = store.table().get(&Key::new("kill", name)).await.unwrap();
        assert!(item.is_some_and(|item| item.attributes["name"] == json!(name)), "an answered write is gone: {name}");
    }
    let there = receive_ready(&store.queue("jobs", QueueKind::Fifo), LONG).await;
    let there: BTreeSet<_> = bodies(&there).into_iter().map(str::to_owned).collect();
    let missing: Vec<_> = sent.difference(&done).filter(|name| !there.contains(*name)).collect();
    // The child may have been killed after a deletion and before it could say so, once for each of its tasks.
    assert!(missing.len() <= 5 * 8, "answered messages are gone: {missing:?}");
    let unexplained: Vec<_> = missing.iter().filter(|name| !name.ends_with("-deleted")).collect();
    assert!(unexplained.is_empty(), "answered messages are gone: {unexplained:?}");
    let back: Vec<_> = there.intersection(&done).collect();
    assert!(back.is_empty(), "deleted messages are back: {back:?}");
    assert!(!there.is_empty() && !done.is_empty() && !written.is_empty(), "the test shows nothing");
}

/// Not a test: writes until it is killed. Each of eight tasks writes items, sends messages that stay and messages that it
/// deletes.
#[tokio::test]
#[ignore = "run by every_answered_write_survives_a_kill"]
async fn child_that_writes() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = SqliteStore::open(Path::new(&dir)).unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (table, staying) = (store.table(), store.queue("jobs", QueueKind::Fifo));
            tokio::spawn(async move {
                for n in 0.. {
                    let name = format!("{}-{task}-{n}", std::process::id());
                    let attributes = json!({"name": name, "filling": "x".repeat(500)}).as_object().unwrap().clone();
                    let item = Item { key: Key::new("kill", &name), attributes, expires: None };
                    table.write(vec![Op::Put { item, condition: None }]).await.unwrap();
                    say(&format!("written {name}"));

                    // A group of its own: it is ready, whatever else is.
                    let group = format!("{:x}{task:x}{n:x}", std::process::id());
                    staying.send(vec![in_group(&group, &name)]).await.unwrap();
                    say(&format!("sent {name}"));

                    let name = format!("{name}-deleted");
                    staying.send(vec![in_group(&format!("{group}d"), &name)]).await.unwrap();
                    say(&format!("sent {name}"));
                    for message in staying.receive(20, LONG).await.unwrap() {
                        if message.body.ends_with("-deleted") {
                            staying.delete(&message.receipt).await.unwrap();
                            say(&format!("deleted {}", message.body));
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_directory_belongs_to_one_process() {
    let scratch = Scratch::new();
    let mut child = child("durability::child_that_holds", scratch.path());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "said open"), "the child did not open the store");

    let refused = SqliteStore::open(scratch.path()).err().unwrap();
    let message = refused.to_string();
    assert!(matches!(refused, OpenError::Locked { .. }), "{message}");
    assert!(message.contains(&scratch.path().display().to_string()), "the directory is not named: {message}");
    assert!(message.contains(&format!("process {}", child.0.id())), "the process is not named: {message}");

    child.0.kill().unwrap();
    child.0.wait().unwrap();
    let store = scratch.open();
    let messages = receive_ready(&store.queue("jobs", QueueKind::Fifo), LONG).await;
    assert_eq!(bodies(&messages), ["held", "delayed"], "what a killed process held is not back at once");
    assert_eq!(messages[0].deliveries, 2, "the delivery to the killed process is not counted");
}

/// Not a test: opens the store, takes two messages and holds on to them.
#[tokio::test]
#[ignore = "run by a_directory_belongs_to_one_process"]
async fn child_that_holds() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = SqliteStore::open(Path::new(&dir)).unwrap();
    let queue = fifo(&store, &[("a", "held"), ("b", "delayed")]).await;
    let messages = queue.receive(2, LONG).await.unwrap();
    queue.release(&messages[1].receipt, LONG).await.unwrap();
    say("open");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_store() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let queue = store.queue("events", QueueKind::Standard);
    queue.send(vec![plain("kept")]).await.unwrap();
    let held = queue.receive(1, LONG).await.unwrap();
    drop(store);
    assert!(matches!(SqliteStore::open(scratch.path()), Err(OpenError::Locked { .. })), "a queue is a handle, too");
    drop(queue);
    let store = scratch.open();
    let again = store.queue("events", QueueKind::Standard).receive(1, LONG).await.unwrap();
    assert_eq!(bodies(&again), bodies(&held), "what was held is not visible after reopening");
}

#[tokio::test]
async fn a_store_that_works_says_so() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for _ in 0..3 {
        store.check().await.unwrap();
    }
}

#[cfg(unix)]
#[test]
fn the_directory_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let _store = scratch.open();
    assert_eq!(scratch.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

/// Would break: an update that can't open what is there, or loses what waits in it.
#[tokio::test]
async fn a_file_of_an_earlier_version_keeps_its_messages() {
    let scratch = Scratch::new();
    let queue = scratch.open().queue("events", QueueKind::Standard);
    queue.send(vec![plain("a")]).await.unwrap();
    drop(queue);
    let connection = rusqlite::Connection::open(scratch.path().join("transship.db")).unwrap();
    connection.execute_batch("ALTER TABLE messages DROP COLUMN sent; PRAGMA user_version = 1;").unwrap();
    drop(connection);
    let queue = scratch.open().queue("events", QueueKind::Standard);
    assert_eq!(queue.oldest().await.unwrap(), None, "nobody knows");
    assert_eq!(bodies(&queue.receive(1, LONG).await.unwrap()), ["a"]);
}

#[test]
fn a_newer_schema_is_left_alone() {
    let scratch = Scratch::new();
    drop(scratch.open());
    let file = scratch.path().join("transship.db");
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.pragma_update(None, "user_version", 1000).unwrap();
    drop(connection);
    let refused = SqliteStore::open(scratch.path()).err().unwrap();
    assert!(matches!(refused, OpenError::Newer { found: 1000, .. }), "{refused}");
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let scratch = Scratch::new();
    std::fs::create_dir_all(scratch.path()).unwrap();
    std::fs::write(scratch.path().join("transship.db"), "x".repeat(5000)).unwrap();
    assert!(matches!(SqliteStore::open(scratch.path()), Err(OpenError::Database { .. })));
}
