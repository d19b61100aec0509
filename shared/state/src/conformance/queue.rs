//! What a [`Queue`] must do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::unique;
use crate::{Incoming, Outgoing, Queue, QueueError};

/// The receiving side of the queue under test, which is not part of the port: on AWS the event source mapping is it.
#[async_trait]
pub trait Receiver: Send + Sync {
    /// Receives up to `max` messages and holds each for `hold`. It returns as soon as there is one, and none if none has come
    /// after about `wait`.
    async fn receive(&self, max: usize, hold: Duration, wait: Duration) -> Vec<Incoming>;

    /// Deletes a received message.
    async fn delete(&self, receipt: &str);
}

/// Long enough not to end during a check.
const LONG: Duration = Duration::from_secs(60);
/// A hold whose end a check waits for. Longer than [`QUIET`].
const SHORT: Duration = Duration::from_secs(2);
/// After so long without a message none is taken to come.
const QUIET: Duration = Duration::from_millis(800);
/// How long a message may take that is there.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs all checks against a FIFO queue. Nobody else may receive from it meanwhile, and it must be empty.
pub async fn fifo_queue(queue: &dyn Queue, receiver: &dyn Receiver) {
    let fixture = Fixture { queue, receiver, run: unique(), fifo: true };
    fixture.a_message_arrives_as_it_was_sent().await;
    fixture.a_deleted_message_does_not_come_back().await;
    fixture.a_message_comes_back_when_its_hold_ends().await;
    fixture.an_extended_hold_lasts().await;
    fixture.a_released_message_comes_back_at_once().await;
    fixture.a_released_message_waits_for_its_delay().await;
    fixture.a_wrong_receipt_is_lost().await;
    fixture.impossible_messages_are_refused().await;
    fixture.groups_keep_their_order_and_do_not_wait_for_each_other().await;
    fixture.a_group_waits_for_its_first_message().await;
    fixture.a_repeated_message_is_dropped().await;
    fixture.the_delivery_before_the_last_is_lost().await;
}

/// Runs all checks against a standard queue. Nobody else may receive from it meanwhile, and it must be empty.
pub async fn standard_queue(queue: &dyn Queue, receiver: &dyn Receiver) {
    let fixture = Fixture { queue, receiver, run: unique(), fifo: false };
    fixture.a_message_arrives_as_it_was_sent().await;
    fixture.a_deleted_message_does_not_come_back().await;
    fixture.a_message_comes_back_when_its_hold_ends().await;
    fixture.an_extended_hold_lasts().await;
    fixture.a_released_message_comes_back_at_once().await;
    fixture.a_released_message_waits_for_its_delay().await;
    fixture.a_wrong_receipt_is_lost().await;
    fixture.impossible_messages_are_refused().await;
    fixture.many_messages_all_arrive().await;
}

struct Fixture<'a> {
    queue: &'a dyn Queue,
    receiver: &'a dyn Receiver,
    run: String,
    fifo: bool,
}

impl Fixture<'_> {
    /// A message that fits the queue, of a group of this run. On a standard queue the group is left out.
    fn message(&self, group: &str, body: &str) -> Outgoing {
        Outgoing {
            body: body.to_owned(),
            group: self.fifo.then(|| format!("{}{group}", self.run)),
            deduplication: self.fifo.then(unique),
        }
    }

    async fn send(&self, group: &str, body: &str) {
        self.queue.send(vec![self.message(group, body)]).await.unwrap();
    }

    /// The next message, which must be this one.
    async fn receive(&self, body: &str, hold: Duration, what: &str) -> Incoming {
        let received = self.receiver.receive(1, hold, PATIENCE).await;
        let message = received.into_iter().next().unwrap_or_else(|| panic!("{what}: {body:?} does not arrive"));
        assert_eq!(message.body, body, "{what}");
        message
    }

    async fn nothing_comes(&self, what: &str) {
        let received = self.receiver.receive(1, LONG, QUIET).await;
        assert!(received.is_empty(), "{what}: {received:?}");
    }

    async fn a_message_arrives_as_it_was_sent(&self) {
        let body = "{\"text\": \"line\nline\ttab, ü \u{1f40b} \u{fffd}\"}";
        self.send("a", body).await;
        let message = self.receive(body, LONG, "a message is not delivered as it was sent").await;
        assert_eq!(message.deliveries, 1, "the first delivery is not counted as one");
        self.receiver.delete(&message.receipt).await;

        let large = "x".repeat(256 << 10);
        self.send("a", &large).await;
        let message = self.receive(&large, LONG, "a message of 256 KiB").await;
        self.receiver.delete(&message.receipt).await;
    }

    async fn a_deleted_message_does_not_come_back(&self) {
        self.send("b", "deleted").await;
        let message = self.receive("deleted", SHORT, "a message").await;
        self.receiver.delete(&message.receipt).await;
        tokio::time::sleep(SHORT).await;
        self.nothing_comes("a deleted message comes back: work would be done again for ever").await;
    }

    async fn a_message_comes_back_when_its_hold_ends(&self) {
        self.send("c", "held").await;
        let taken = Instant::now();
        let first = self.receive("held", SHORT, "a message").await;
        self.nothing_comes("a message is delivered twice at a time: two workers would do one job").await;
        let second = self.receive("held", LONG, "a crashed worker's message does not come back").await;
        assert!(taken.elapsed() >= SHORT - Duration::from_millis(200), "a message comes back before its hold ends");
        assert_eq!(second.deliveries, 2, "deliveries are not counted");
        assert_ne!(first.receipt, second.receipt, "two deliveries have one receipt: the first receiver would interfere");
        self.receiver.delete(&second.receipt).await;
    }

    async fn an_extended_hold_lasts(&self) {
        self.send("d", "extended").await;
        let message = self.receive("extended", SHORT, "a message").await;
        self.queue.extend(&message.receipt, LONG).await.unwrap();
        tokio::time::sleep(SHORT).await;
        self.nothing_comes("an extended hold ends at its first time: long copies would be done twice").await;
        // It can be made shorter, too.
        self.queue.extend(&message.receipt, Duration::from_secs(1)).await.unwrap();
        let message = self.receive("extended", LONG, "a hold can't be made shorter: takeover would take too long").await;
        self.receiver.delete(&message.receipt).await;
    }

    async fn a_released_message_comes_back_at_once(&self) {
        self.send("e", "released").await;
        let message = self.receive("released", LONG, "a message").await;
        self.queue.release(&message.receipt, Duration::ZERO).await.unwrap();
        let message = self.receive("released", LONG, "a released message does not come back").await;
        assert_eq!(message.deliveries, 2, "deliveries are not counted");
        self.receiver.delete(&message.receipt).await;
    }

    async fn a_released_message_waits_for_its_delay(&self) {
        self.send("f", "delayed").await;
        let message = self.receive("delayed", LONG, "a message").await;
        let released = Instant::now();
        self.queue.release(&message.receipt, SHORT).await.unwrap();
        self.nothing_comes("a released message does not wait for its delay: a registry that asks for time gets none").await;
        let message = self.receive("delayed", LONG, "a released message does not come back").await;
        assert!(released.elapsed() >= SHORT - Duration::from_millis(200), "a released message comes back before its delay");
        self.receiver.delete(&message.receipt).await;
    }

    async fn a_wrong_receipt_is_lost(&self) {
        self.send("aa", "gone").await;
        let message = self.receive("gone", LONG, "a message").await;
        self.receiver.delete(&message.receipt).await;
        let extended = self.queue.extend(&message.receipt, LONG).await;
        assert!(matches!(extended, Err(QueueError::Lost)), "a deleted message can be held: {extended:?}");
        let released = self.queue.release(&message.receipt, Duration::ZERO).await;
        assert!(matches!(released, Err(QueueError::Lost)), "a deleted message can be given back: {released:?}");
        self.nothing_comes("a deleted message was given back").await;
    }

    async fn impossible_messages_are_refused(&self) {
        let message = self.message("ab", "body");
        let other_way = |group: bool, deduplication: bool| Outgoing {
            body: "body".to_owned(),
            group: group.then(|| "ab".to_owned()),
            deduplication: deduplication.then(unique),
        };
        let mut cases = vec![
            ("an empty body", Outgoing { body: String::new(), ..message.clone() }),
            ("a body of 256 KiB and one byte", Outgoing { body: "x".repeat((256 << 10) + 1), ..message.clone() }),
            ("a body with a NUL", Outgoing { body: "a\0b".to_owned(), ..message.clone() }),
        ];
        if self.fifo {
            cases.push(("no group on a FIFO queue", other_way(false, true)));
            cases.push(("no de-duplication ID on a FIFO queue", other_way(true, false)));
            cases.push(("a group of 129 digits", Outgoing { group: Some("a".repeat(129)), ..message.clone() }));
            cases.push(("a group with a space", Outgoing { group: Some("a b".to_owned()), ..message.clone() }));
        } else {
            cases.push(("a group on a standard queue", other_way(true, false)));
            cases.push(("a de-duplication ID on a standard queue", other_way(false, true)));
        }
        for (what, message) in cases {
            let result = self.queue.send(vec![message]).await;
            assert!(matches!(result, Err(QueueError::Invalid(_))), "{what}: {result:?}");
        }
        self.queue.send(vec![]).await.unwrap();
        self.nothing_comes("an impossible message was sent").await;
    }

    async fn groups_keep_their_order_and_do_not_wait_for_each_other(&self) {
        let bodies: Vec<_> = (0..25).map(|n| format!("first {n}")).collect();
        let mut messages: Vec<_> = bodies.iter().map(|body| self.message("ac", body)).collect();
        messages.push(self.message("ad", "second"));
        self.queue.send(messages).await.unwrap();

        let first = self.receive("first 0", LONG, "a group does not begin with its first message").await;
        let second = self.receive("second", LONG, "a group waits for another: one slow target would stop all").await;
        self.nothing_comes("two messages of a group are worked on at once: two jobs would write one tag").await;
        self.receiver.delete(&second.receipt).await;
        self.receiver.delete(&first.receipt).await;
        for body in &bodies[1..] {
            let message = self.receive(body, LONG, "a group loses its order").await;
            self.receiver.delete(&message.receipt).await;
        }
        self.nothing_comes("a message comes twice").await;
    }

    async fn a_group_waits_for_its_first_message(&self) {
        self.queue.send(vec![self.message("ae", "first"), self.message("ae", "second")]).await.unwrap();
        let first = self.receive("first", SHORT, "a group").await;
        let first_again = self.receive("first", LONG, "a group goes on without a message whose hold has ended").await;
        assert_ne!(first.receipt, first_again.receipt);
        self.queue.release(&first_again.receipt, SHORT).await.unwrap();
        self.nothing_comes("a group goes on without a message that was released for later").await;
        let first = self.receive("first", LONG, "a released message loses its place in the group").await;
        self.receiver.delete(&first.receipt).await;
        let second = self.receive("second", LONG, "a group does not go on after a deletion").await;
        self.receiver.delete(&second.receipt).await;
    }

    async fn a_repeated_message_is_dropped(&self) {
        let message = self.message("af", "once");
        self.queue.send(vec![message.clone(), message.clone()]).await.unwrap();
        self.queue.send(vec![message.clone()]).await.unwrap();
        let once = self.receive("once", LONG, "a message").await;
        self.receiver.delete(&once.receipt).await;
        self.nothing_comes("a repeated message is delivered").await;
        // Another body or group makes no difference.
        self.queue.send(vec![Outgoing { body: "twice".to_owned(), ..message }]).await.unwrap();
        self.nothing_comes("a message can be repeated once it is deleted: a repeated webhook would copy again").await;
    }

    async fn the_delivery_before_the_last_is_lost(&self) {
        self.send("ba", "taken over").await;
        let first = self.receive("taken over", LONG, "a message").await;
        self.queue.release(&first.receipt, Duration::ZERO).await.unwrap();
        let second = self.receive("taken over", LONG, "a message").await;
        let extended = self.queue.extend(&first.receipt, LONG).await;
        assert!(matches!(extended, Err(QueueError::Lost)), "a worker that lost its job believes to have it: {extended:?}");
        let released = self.queue.release(&first.receipt, Duration::ZERO).await;
        assert!(matches!(released, Err(QueueError::Lost)), "a worker gives back what another has: {released:?}");
        self.nothing_comes("a worker has given back what another has").await;
        self.receiver.delete(&second.receipt).await;
    }

    async fn many_messages_all_arrive(&self) {
        let bodies: BTreeSet<_> = (0..35).map(|n| format!("many {n}")).collect();
        self.queue.send(bodies.iter().map(|body| self.message("a", body)).collect()).await.unwrap();
        let mut arrived = BTreeSet::new();
        let begun = Instant::now();
        while arrived.len() < bodies.len() {
            assert!(begun.elapsed() < 3 * PATIENCE, "of 35 messages only these arrive: {arrived:?}");
            for message in self.receiver.receive(10, LONG, PATIENCE).await {
                self.receiver.delete(&message.receipt).await;
                // A standard queue may deliver one twice.
                arrived.insert(message.body);
            }
        }
        assert_eq!(arrived, bodies, "other messages arrive than were sent");
    }
}
