//! How fast it is on this machine's disk: `cargo test -p transship-state --test sqlite measure -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use serde_json::json;
use transship_state::sqlite::QueueKind;
use transship_state::{Item, Key, Op, Queue, Table};

use crate::scratch::{LONG, Scratch, in_group};

/// The middle, the 99th of a hundred and the greatest.
fn summary(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    format!("p50 {:?}, p99 {:?}, max {:?}", at(50), at(99), at(100))
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_sends() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for senders in [1, 64, 1000] {
        let begun = Instant::now();
        let each = if senders == 1000 { 20 } else { 200 };
        let tasks: Vec<_> = (0..senders)
            .map(|task| {
                let queue = store.queue("jobs", QueueKind::Fifo);
                tokio::spawn(async move {
                    let mut times = Vec::new();
                    for _ in 0..each {
                        let message = in_group(&format!("{task:x}"), "x".repeat(1000));
                        let begun = Instant::now();
                        queue.send(vec![message]).await.unwrap();
                        times.push(begun.elapsed());
                    }
                    times
                })
            })
            .collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.unwrap());
        }
        let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
        eprintln!("{senders} senders, 1 KB: {rate:.0} sends/s, {}", summary(times));
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_table() {
    let scratch = Scratch::new();
    let table = scratch.open().table();
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for n in 0..2000 {
        let key = Key::new("measure", n.to_string());
        let attributes = json!({"filling": "x".repeat(300)}).as_object().unwrap().clone();
        let begun = Instant::now();
        table
            .write(vec![Op::Put { item: Item { key: key.clone(), attributes, expires: None }, condition: None }])
            .await
            .unwrap();
        writes.push(begun.elapsed());
        let begun = Instant::now();
        table.get(&key).await.unwrap();
        reads.push(begun.elapsed());
    }
    eprintln!("one write at a time: {}", summary(writes));
    eprintln!("one get at a time: {}", summary(reads));
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_wake_up() {
    let scratch = Scratch::new();
    let queue = scratch.open().queue("jobs", QueueKind::Fifo);
    let (mut from_send, mut from_answer) = (Vec::new(), Vec::new());
    for _ in 0..500 {
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { (queue.receive(1, LONG).await.unwrap(), Instant::now()) }
        });
        tokio::time::sleep(Duration::from_millis(2)).await;
        let begun = Instant::now();
        queue.send(vec![in_group("a", "wake")]).await.unwrap();
        let answered = Instant::now();
        let (received, at) = waiting.await.unwrap();
        from_send.push(at.duration_since(begun));
        from_answer.push(at.saturating_duration_since(answered));
        queue.delete(&received[0].receipt).await.unwrap();
    }
    eprintln!("from the begin of send to receive: {}", summary(from_send));
    eprintln!("from the answer of send to receive: {}", summary(from_answer));
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_a_long_queue() {
    let scratch = Scratch::new();
    let queue = scratch.open().queue("jobs", QueueKind::Fifo);
    for batch in 0..10 {
        let begun = Instant::now();
        let message = |n: usize| in_group(&format!("{:x}", n % 10_000), "x".repeat(1000));
        queue.send((0..10_000).map(message).collect()).await.unwrap();
        if batch % 9 == 0 {
            eprintln!("10,000 messages in one call, with {}0,000 there: {:?}", batch, begun.elapsed());
        }
    }
    let (mut receives, mut deletes, mut releases) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..3000 {
        let begun = Instant::now();
        let message = queue.receive(1, LONG).await.unwrap().remove(0);
        receives.push(begun.elapsed());
        let begun = Instant::now();
        if n % 2 == 0 {
            queue.delete(&message.receipt).await.unwrap();
            deletes.push(begun.elapsed());
        } else {
            queue.release(&message.receipt, LONG).await.unwrap();
            releases.push(begun.elapsed());
        }
    }
    eprintln!("100,000 in 10,000 groups: receive {}", summary(receives));
    eprintln!("delete {}", summary(deletes));
    eprintln!("release {}", summary(releases));
    let mut tens = Vec::new();
    for _ in 0..500 {
        let begun = Instant::now();
        queue.receive(10, LONG).await.unwrap();
        tens.push(begun.elapsed());
    }
    eprintln!("receive ten {}", summary(tens));
    let begun = Instant::now();
    let depth = queue.depth().await.unwrap();
    eprintln!("depth {:?}: {depth:?}", begun.elapsed());
}
