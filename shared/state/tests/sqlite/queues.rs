//! What the embedded queues promise beyond the port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::task::Poll;
use std::time::Duration;

use transship_state::sqlite::{Depth, QueueKind};
use transship_state::{Queue, QueueError};

use crate::scratch::{LONG, Scratch, bodies, fifo, in_group, plain, receive_ready};

#[tokio::test]
async fn receiving_takes_one_message_of_each_group_oldest_first() {
    let scratch = Scratch::new();
    let queue = fifo(&scratch.open(), &[("c", "1"), ("a", "2"), ("c", "3"), ("b", "4"), ("a", "5")]).await;
    let first = queue.receive(10, LONG).await.unwrap();
    assert_eq!(bodies(&first), ["1", "2", "4"], "not the oldest of each group");
    queue.delete(&first[1].receipt).await.unwrap();
    queue.delete(&first[0].receipt).await.unwrap();
    let second = queue.receive(1, LONG).await.unwrap();
    assert_eq!(bodies(&second), ["3"], "the group with the older message is not first");
}

#[tokio::test]
async fn a_dropped_receive_loses_no_message() {
    let scratch = Scratch::new();
    let queue = fifo(&scratch.open(), &[("a", "kept")]).await;
    let mut delivered = 0;
    for n in 0..40 {
        let mut receive = std::pin::pin!(queue.receive(1, LONG));
        match std::future::poll_fn(|context| Poll::Ready(receive.as_mut().poll(context))).await {
            // Dropped before its message is taken, or with the answer waiting.
            Poll::Pending => std::thread::sleep(Duration::from_millis(n % 4)),
            // On a busy machine the writer may answer before the first look: then this was a delivery like any other.
            Poll::Ready(received) => {
                delivered += 1;
                queue.release(&received.unwrap()[0].receipt, Duration::ZERO).await.unwrap();
            }
        }
    }
    assert!(delivered < 40, "no receive was dropped: the test shows nothing");
    let message = tokio::time::timeout(Duration::from_secs(5), queue.receive(1, LONG)).await;
    let message = message.expect("a message went to a receiver that was gone").unwrap().remove(0);
    assert_eq!(message.deliveries, delivered + 1, "a delivery to nobody is counted");
}

#[tokio::test]
async fn receivers_wake_for_what_came_while_they_looked() {
    let scratch = Scratch::new();
    let queue = scratch.open().queue("events", QueueKind::Standard);
    let mut receives = [Box::pin(queue.receive(1, LONG)), Box::pin(queue.receive(1, LONG))];
    for receive in &mut receives {
        let polled = std::future::poll_fn(|context| Poll::Ready(receive.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    }
    // The writer looks for both, finds nothing, and then sends; only then the receivers learn that there was nothing.
    queue.send(vec![plain("1"), plain("2")]).await.unwrap();
    for receive in receives {
        let message = tokio::time::timeout(Duration::from_secs(5), receive).await;
        assert!(message.is_ok(), "a receiver sleeps beside a message");
    }
}

#[tokio::test]
async fn every_waiting_receiver_gets_its_message() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let queue = store.queue("events", QueueKind::Standard);
    let receivers: Vec<_> = (0..20)
        .map(|n| {
            let queue = queue.clone();
            tokio::spawn(async move {
                if n % 3 == 0 {
                    // This one gives up, perhaps just when it is woken.
                    let _ = tokio::time::timeout(Duration::from_millis(50), queue.receive(1, LONG)).await;
                }
                queue.receive(1, LONG).await.unwrap()
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    queue.send((0..20).map(|n| plain(n.to_string())).collect()).await.unwrap();
    // Some were taken by the first attempts of those that gave up a moment later.
    queue.send((0..7).map(|n| plain(format!("more {n}"))).collect()).await.unwrap();
    for receiver in receivers {
        let message = tokio::time::timeout(Duration::from_secs(5), receiver).await;
        assert!(message.is_ok(), "a receiver sleeps beside a message");
    }
}

#[tokio::test]
async fn a_receiver_wakes_when_a_hold_ends_that_began_after_it_waited() {
    let scratch = Scratch::new();
    let queue = scratch.open().queue("events", QueueKind::Standard);
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { (queue.receive(1, Duration::from_millis(300)).await.unwrap(), queue.receive(1, LONG).await.unwrap()) }
    });
    queue.send(vec![plain("twice")]).await.unwrap();
    let (first, second) = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert_eq!((first[0].deliveries, second[0].deliveries), (1, 2));
}

#[tokio::test]
async fn an_old_receipt_is_lost() {
    let scratch = Scratch::new();
    let queue = scratch.open().queue("events", QueueKind::Standard);
    queue.send(vec![plain("a")]).await.unwrap();
    let old = queue.receive(1, Duration::from_millis(20)).await.unwrap().remove(0).receipt;
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Nobody else has it yet: but somebody may have it soon.
    assert!(matches!(queue.delete(&old).await, Err(QueueError::Lost)));
    assert!(matches!(queue.extend(&old, LONG).await, Err(QueueError::Lost)));
    assert!(matches!(queue.release(&old, LONG).await, Err(QueueError::Lost)));
    let new = queue.receive(1, LONG).await.unwrap().remove(0).receipt;
    for receipt in [old.as_str(), "", "1", "x.y", "1.-1", "99999999999999999999.1", "7.1"] {
        assert!(matches!(queue.delete(receipt).await, Err(QueueError::Lost)), "{receipt:?}");
    }
    let lost = queue.delete_all(vec![old.clone(), new]).await.unwrap();
    assert_eq!(lost, [old], "one lost message keeps others from being deleted, or is not told");
    assert_eq!(queue.depth().await.unwrap(), Depth { visible: 0, held: 0, dead: 0 });
}

#[tokio::test]
async fn a_message_delivered_too_often_goes_to_the_dead_letters() {
    let scratch = Scratch::new();
    let queue = fifo(&scratch.open(), &[("a", "deadly"), ("a", "next"), ("b", "other")]).await.with_max_deliveries(3);
    for deliveries in 1..=3 {
        let message = queue.receive(1, LONG).await.unwrap().remove(0);
        assert_eq!((message.body.as_str(), message.deliveries), ("deadly", deliveries));
        queue.release(&message.receipt, Duration::ZERO).await.unwrap();
    }
    let received = queue.receive(10, LONG).await.unwrap();
    assert_eq!(bodies(&received), ["other", "next"], "a dead letter is delivered, or its group stops with it");
    assert_eq!(queue.depth().await.unwrap(), Depth { visible: 0, held: 2, dead: 1 });

    let letters = queue.dead_letters();
    let letter = letters.receive(1, LONG).await.unwrap().remove(0);
    assert_eq!((letter.body.as_str(), letter.deliveries), ("deadly", 1));
    letters.delete(&letter.receipt).await.unwrap();
    assert_eq!(queue.depth().await.unwrap().dead, 0);
}

#[tokio::test]
async fn depth_counts_what_waits_and_what_is_held() {
    let scratch = Scratch::new();
    let queue = fifo(&scratch.open(), &[("a", "1"), ("a", "2"), ("b", "3"), ("c", "4")]).await;
    assert_eq!(queue.depth().await.unwrap(), Depth { visible: 4, held: 0, dead: 0 });
    let taken = queue.receive(2, LONG).await.unwrap();
    queue.release(&taken[1].receipt, LONG).await.unwrap();
    assert_eq!(queue.depth().await.unwrap(), Depth { visible: 2, held: 2, dead: 0 });
}

/// Would break: an age that begins anew with each delivery, or is that of another queue.
#[tokio::test]
async fn the_oldest_message_is_the_one_sent_first_until_it_is_done_with() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let queue = store.queue("events", QueueKind::Standard);
    store.queue("others", QueueKind::Standard).send(vec![plain("other")]).await.unwrap();
    assert_eq!(queue.oldest().await.unwrap(), None);
    queue.send(vec![plain("a")]).await.unwrap();
    let first = queue.oldest().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    queue.send(vec![plain("b")]).await.unwrap();
    let taken = queue.receive(1, LONG).await.unwrap().remove(0);
    assert_eq!(queue.oldest().await.unwrap(), Some(first), "it is held");
    queue.release(&taken.receipt, LONG).await.unwrap();
    assert_eq!(queue.oldest().await.unwrap(), Some(first), "it was given back for later");
    let second = queue.receive(1, LONG).await.unwrap().remove(0);
    assert_eq!(second.body, "b");
    queue.delete(&second.receipt).await.unwrap();
    assert_eq!(queue.oldest().await.unwrap(), Some(first));
}

#[tokio::test]
async fn queues_do_not_mix() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let (a, b) = (store.queue("a", QueueKind::Fifo), store.queue("b", QueueKind::Fifo));
    let message = in_group("aa", "for both");
    a.send(vec![message.clone()]).await.unwrap();
    b.send(vec![message]).await.unwrap();
    let from_a = a.receive(10, LONG).await.unwrap();
    assert_eq!(bodies(&from_a), ["for both"]);
    assert!(matches!(b.delete(&from_a[0].receipt).await, Err(QueueError::Lost)), "a receipt is good for another queue");
    assert_eq!(bodies(&b.receive(10, LONG).await.unwrap()), ["for both"], "de-duplication reaches beyond a queue");
}

#[tokio::test]
async fn deduplication_ends_after_five_minutes() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let queue = store.queue("jobs", QueueKind::Fifo);
    let message = in_group("a", "again");
    queue.send(vec![message.clone()]).await.unwrap();
    // The clock can't be moved, but what it has written can.
    let age = async |milliseconds: i64| {
        let other = rusqlite::Connection::open(scratch.path().join("transship.db")).unwrap();
        other.execute("UPDATE sent SET until = until - ?1", [milliseconds]).unwrap();
        queue.send(vec![message.clone()]).await.unwrap();
        queue.depth().await.unwrap().visible
    };
    assert_eq!(age(290_000).await, 1, "a message can be repeated within five minutes");
    assert_eq!(age(11_000).await, 2, "a message can't be repeated after five minutes");
    assert_eq!(age(0).await, 2, "the second message is not remembered");
}

/// Many senders and receivers on several threads: groups stay in order and single file, nothing is lost or doubled.
#[test]
fn groups_stay_in_order_under_load() {
    const GROUPS: usize = 20;
    const EACH: usize = 50;
    let scratch = Scratch::new();
    let store = scratch.open();
    let queue = store.queue("jobs", QueueKind::Fifo);
    let working = Mutex::new(BTreeSet::new());
    let done: Mutex<BTreeMap<String, Vec<usize>>> = Mutex::default();

    let receive = async |seed: usize| {
        let mut attempts = 0;
        while done.lock().unwrap().values().map(Vec::len).sum::<usize>() < GROUPS * EACH {
            let received = tokio::time::timeout(Duration::from_millis(200), queue.receive(1 + seed % 3, LONG)).await;
            for message in received.map(Result::unwrap).unwrap_or_default() {
                let (group, number) = message.body.split_once(' ').unwrap();
                assert!(working.lock().unwrap().insert(group.to_owned()), "two messages of group {group} are worked on");
                tokio::task::yield_now().await;
                attempts += 1;
                let finished = attempts % 5 != 0;
                if finished {
                    done.lock().unwrap().entry(group.to_owned()).or_default().push(number.parse().unwrap());
                }
                assert!(working.lock().unwrap().remove(group));
                if finished {
                    queue.delete(&message.receipt).await.unwrap();
                } else {
                    let delay = Duration::from_millis(if attempts % 2 == 0 { 0 } else { 5 });
                    queue.release(&message.receipt, delay).await.unwrap();
                }
            }
        }
    };
    let send = async |seed: usize| {
        for number in 0..EACH {
            for group in (0..GROUPS).filter(|group| group % 3 == seed) {
                let message = in_group(&format!("{group:x}"), format!("{group:x} {number}"));
                queue.send(vec![message.clone(), message]).await.unwrap();
            }
        }
    };
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (receive, send) = (&receive, &send);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(async { tokio::join!(send(seed), receive(seed), receive(seed + 1), receive(seed + 2)) });
            });
        }
    });

    let done = done.into_inner().unwrap();
    assert_eq!(done.len(), GROUPS);
    for (group, numbers) in done {
        assert_eq!(numbers, (0..EACH).collect::<Vec<_>>(), "group {group} lost its order, or a message");
    }
}

#[tokio::test]
async fn many_messages_are_sent_in_one_call() {
    let scratch = Scratch::new();
    let queue = scratch.open().queue("events", QueueKind::Standard);
    queue.send((0..10_000).map(|n| plain(n.to_string())).collect()).await.unwrap();
    let received = receive_ready(&queue, LONG).await;
    let numbers: Vec<usize> = received.iter().map(|message| message.body.parse().unwrap()).collect();
    assert_eq!(numbers, (0..10_000).collect::<Vec<_>>());
}
