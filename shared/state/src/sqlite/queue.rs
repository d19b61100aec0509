//! The port [`Queue`] in SQLite, with the receiving side that on AWS is the event source mapping's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::Notify;

use super::Inner;
use super::clock::Moment;
use super::writer::{Durability, Handle, PURGE_ROWS, Work};
use crate::queue::limits::check;
use crate::{Incoming, Outgoing, Queue, QueueError};

const DEDUPLICATION_WINDOW: Duration = Duration::from_secs(300);
/// So many messages are sent in one transaction, so that others get their turn in between.
const SEND_AT_ONCE: usize = 1000;
/// So many are received in one transaction, for the same reason and so that an answer fits into memory.
const RECEIVE_AT_ONCE: usize = 1000;
/// What SQS calls `maxReceiveCount`: a last net, which work of the usual kinds of failure never reaches.
const MAX_DELIVERIES: u32 = 1000;

/// What a queue promises about order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    /// Messages have groups, and each group is worked on in order and one at a time; repeated messages are dropped.
    Fifo,
    /// Messages come in about the order of sending, each by itself.
    Standard,
}

/// How many messages a queue has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Those that wait to be received, if only for another of their group.
    pub visible: u32,
    /// Those that a receiver has, or gave back for later.
    pub held: u32,
    /// Those in its dead-letter queue.
    pub dead: u32,
}

/// A queue of a [`SqliteStore`](super::SqliteStore).
#[derive(Clone)]
pub struct SqliteQueue {
    store: Arc<Inner>,
    name: Arc<str>,
    kind: QueueKind,
    max_deliveries: u32,
    signal: Arc<Notify>,
}

impl SqliteQueue {
    pub(super) fn new(store: Arc<Inner>, name: &str, kind: QueueKind) -> Self {
        let signal = store.signals.of(name);
        Self { store, name: name.into(), kind, max_deliveries: MAX_DELIVERIES, signal }
    }

    /// The same queue, with another number of deliveries after which a message goes to the dead letters (1000 if not said).
    /// It applies to what is received through this handle.
    #[must_use]
    pub fn with_max_deliveries(self, max_deliveries: u32) -> Self {
        Self { max_deliveries, ..self }
    }

    /// The queue of the messages that were delivered too often, with their groups: `{name}-dead`. It has no dead letters of
    /// its own, and a message's deliveries are counted anew in it.
    pub fn dead_letters(&self) -> Self {
        Self::new(Arc::clone(&self.store), &dead_name(&self.name), self.kind).with_max_deliveries(u32::MAX)
    }

    /// Waits until there is a message, then takes up to `max` (at least one), oldest first, and holds each back for `hold`.
    /// Of a group it takes one message, and no other until that is deleted.
    ///
    /// Dropping the future loses nothing: what was taken for it is visible again at once, and was not delivered.
    pub async fn receive(&self, max: usize, hold: Duration) -> Result<Vec<Incoming>, QueueError> {
        loop {
            // Registered before looking: what becomes ready after the look wakes it.
            let mut woken = std::pin::pin!(self.signal.notified());
            woken.as_mut().enable();
            let claim = self.claim(max.clamp(1, RECEIVE_AT_ONCE), hold).await?;
            if !claim.messages.is_empty() {
                return Ok(claim.accept());
            }
            woken.await;
        }
    }

    /// Removes a received message for good. [`QueueError::Lost`] if its hold is over: it will be delivered again.
    pub async fn delete(&self, receipt: &str) -> Result<(), QueueError> {
        match self.delete_all(vec![receipt.to_owned()]).await?.is_empty() {
            true => Ok(()),
            false => Err(QueueError::Lost),
        }
    }

    /// Removes received messages for good, and returns the receipts of those whose hold is over: they will be delivered again.
    pub async fn delete_all(&self, receipts: Vec<String>) -> Result<Vec<String>, QueueError> {
        let queue = Arc::clone(&self.name);
        let work = move |work: &mut Work<'_>| {
            let mut lost = Vec::new();
            for receipt in receipts {
                let removed = match Receipt::parse(&receipt) {
                    Some(parsed) if is_held(work, &queue, parsed)? => remove(work, &queue, parsed.id)?,
                    _ => false,
                };
                if !removed {
                    lost.push(receipt);
                }
            }
            Ok(lost)
        };
        self.store.writer.handle().run(Durability::Synced, work).await
    }

    /// How many messages there are. It counts them, so it is for people and metrics, not for every request.
    pub async fn depth(&self) -> Result<Depth, QueueError> {
        let name = Arc::clone(&self.name);
        let read = move |db: &Connection| {
            let sql = "SELECT (SELECT count(*) FROM messages WHERE queue = ?1),
                              (SELECT count(*) FROM messages INDEXED BY messages_until WHERE until > ?2 AND queue = ?1),
                              (SELECT count(*) FROM messages WHERE queue = ?3)";
            let parameters = params![name, Moment::now().0, dead_name(&name)];
            Ok(db.prepare_cached(sql)?.query_one(parameters, |row| {
                let (all, held, dead): (u32, u32, u32) = row.try_into()?;
                Ok(Depth { visible: all - held, held, dead })
            })?)
        };
        self.store.readers.run(read).await
    }

    /// When the oldest message of those that are not done with was sent, whether it waits, is held, or was given back for later. What
    /// lay in the file before that was noted does not count.
    pub async fn oldest(&self) -> Result<Option<Timestamp>, QueueError> {
        let name = Arc::clone(&self.name);
        let read = move |db: &Connection| {
            // Messages are numbered in the order of sending, and an index has the numbers.
            let sql = "SELECT sent FROM messages WHERE id = (SELECT min(id) FROM messages WHERE queue = ?1)";
            let sent: Option<Option<i64>> = db.prepare_cached(sql)?.query_row([&name], |row| row.get(0)).optional()?;
            Ok(sent.flatten().and_then(|sent| Timestamp::from_millisecond(sent).ok()))
        };
        self.store.readers.run(read).await
    }

    /// Takes what is ready, without waiting.
    async fn claim(&self, max: usize, hold: Duration) -> Result<Claim, QueueError> {
        let (queue, max_deliveries) = (Arc::clone(&self.name), self.max_deliveries);
        let writer = self.store.writer.handle().clone();
        let work = move |work: &mut Work<'_>| {
            let messages = deliver(work, &queue, max, max_deliveries, hold)?;
            Ok(Claim { messages, queue, writer })
        };
        self.store.writer.handle().run(Durability::Seen, work).await
    }

    /// Does something to a message that is held with this receipt.
    async fn with_held(
        &self,
        receipt: &str,
        change: impl FnOnce(&mut Work<'_>, &str, i64) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), QueueError> {
        let receipt = Receipt::parse(receipt).ok_or(QueueError::Lost)?;
        let queue = Arc::clone(&self.name);
        let work = move |work: &mut Work<'_>| {
            if !is_held(work, &queue, receipt)? {
                return Err(QueueError::Lost);
            }
            Ok(change(work, &queue, receipt.id)?)
        };
        self.store.writer.handle().run(Durability::Seen, work).await
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn send(&self, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        for message in &messages {
            check(message, self.kind == QueueKind::Fifo)?;
        }
        let mut rest = messages.into_iter();
        loop {
            let some: Vec<_> = rest.by_ref().take(SEND_AT_ONCE).collect();
            if some.is_empty() {
                return Ok(());
            }
            let queue = Arc::clone(&self.name);
            let work = move |work: &mut Work<'_>| -> Result<(), QueueError> {
                Ok(some.iter().try_for_each(|message| accept(work, &queue, message))?)
            };
            self.store.writer.handle().run(Durability::Synced, work).await?;
        }
    }

    async fn extend(&self, receipt: &str, hold: Duration) -> Result<(), QueueError> {
        let change = move |work: &mut Work<'_>, _: &str, id| {
            let sql = "UPDATE messages SET until = ?2 WHERE id = ?1";
            work.db.prepare_cached(sql)?.execute([id, work.now.after(hold).0]).map(|_| ())
        };
        self.with_held(receipt, change).await
    }

    async fn release(&self, receipt: &str, delay: Duration) -> Result<(), QueueError> {
        let change = move |work: &mut Work<'_>, queue: &str, id| {
            if delay.is_zero() {
                work.db.prepare_cached("UPDATE messages SET state = 'ready', until = NULL WHERE id = ?1")?.execute([id])?;
                work.ready(queue, 1);
            } else {
                let sql = "UPDATE messages SET state = 'delayed', until = ?2 WHERE id = ?1";
                work.db.prepare_cached(sql)?.execute([id, work.now.after(delay).0])?;
            }
            Ok(())
        };
        self.with_held(receipt, change).await
    }
}

/// Messages that were taken for a receiver. Unless it gets them they go back: it may have gone away before the answer
/// was sent, or after.
struct Claim {
    messages: Vec<Incoming>,
    queue: Arc<str>,
    writer: Handle,
}

impl Claim {
    fn accept(mut self) -> Vec<Incoming> {
        std::mem::take(&mut self.messages)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let receipts: Vec<_> = self.messages.iter().filter_map(|message| Receipt::parse(&message.receipt)).collect();
        if receipts.is_empty() {
            return;
        }
        let queue = Arc::clone(&self.queue);
        let give_back = move |work: &mut Work<'_>| -> Result<(), QueueError> {
            for receipt in receipts {
                if is_held(work, &queue, receipt)? {
                    // Nobody has seen the message, so it was not delivered, and its receipt may be used again.
                    let sql = "UPDATE messages SET state = 'ready', until = NULL, deliveries = deliveries - 1 WHERE id = ?1";
                    work.db.prepare_cached(sql)?.execute([receipt.id])?;
                    work.ready(&queue, 1);
                }
            }
            Ok(())
        };
        // Nobody waits for the answer.
        drop(self.writer.post(Durability::Seen, give_back));
    }
}

/// One delivery of one message.
#[derive(Clone, Copy)]
struct Receipt {
    id: i64,
    delivery: u32,
}

impl Receipt {
    fn parse(text: &str) -> Option<Self> {
        let (id, delivery) = text.split_once('.')?;
        Some(Self { id: id.parse().ok()?, delivery: delivery.parse().ok()? })
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.delivery)
    }
}

fn dead_name(queue: &str) -> String {
    format!("{queue}-dead")
}

/// Takes in a message, unless it is a repetition.
fn accept(work: &mut Work<'_>, queue: &str, message: &Outgoing) -> rusqlite::Result<()> {
    if let Some(deduplication) = &message.deduplication {
        let sql = "INSERT INTO sent (queue, deduplication, until) VALUES (?1, ?2, ?3)
                   ON CONFLICT DO UPDATE SET until = excluded.until WHERE until <= ?4";
        let until = work.now.after(DEDUPLICATION_WINDOW).0;
        if work.db.prepare_cached(sql)?.execute(params![queue, deduplication, until, work.now.0])? == 0 {
            return Ok(());
        }
    }
    insert(work, queue, message.group.as_deref(), &message.body)
}

/// Puts a message at the end of a queue.
fn insert(work: &mut Work<'_>, queue: &str, group: Option<&str>, body: &str) -> rusqlite::Result<()> {
    let sql = "INSERT INTO messages (queue, message_group, state, body, sent)
               VALUES (?1, ?2, iif(EXISTS (SELECT 1 FROM messages WHERE queue = ?1 AND message_group = ?2), 'waiting', 'ready'), ?3, ?4)
               RETURNING state = 'ready'";
    let ready: bool = work.db.prepare_cached(sql)?.query_one(params![queue, group, body, work.now.0], |row| row.get(0))?;
    work.ready(queue, usize::from(ready));
    Ok(())
}

/// Removes a message, and makes the next of its group ready.
fn remove(work: &mut Work<'_>, queue: &str, id: i64) -> rusqlite::Result<bool> {
    let sql = "DELETE FROM messages WHERE id = ?1 RETURNING message_group";
    let removed: Option<Option<String>> = work.db.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?;
    if let Some(Some(group)) = &removed {
        let sql = "UPDATE messages SET state = 'ready'
                   WHERE id = (SELECT min(id) FROM messages WHERE queue = ?1 AND message_group = ?2)";
        let ready = work.db.prepare_cached(sql)?.execute([queue, group])?;
        work.ready(queue, ready);
    }
    Ok(removed.is_some())
}

/// Takes what is ready and holds it. What was delivered too often goes to the dead letters instead.
fn deliver(
    work: &mut Work<'_>,
    queue: &str,
    max: usize,
    max_deliveries: u32,
    hold: Duration,
) -> rusqlite::Result<Vec<Incoming>> {
    let mut messages = Vec::new();
    while messages.len() < max {
        let missing = i64::try_from(max - messages.len()).unwrap_or(i64::MAX);
        let ready = ready(work.db, queue, missing)?;
        if ready.is_empty() {
            break;
        }
        for message in ready {
            if message.deliveries >= max_deliveries {
                bury(work, queue, message)?;
            } else {
                let receipt = Receipt { id: message.id, delivery: message.deliveries + 1 };
                let sql = "UPDATE messages SET state = 'held', until = ?3, deliveries = ?2 WHERE id = ?1";
                work.db.prepare_cached(sql)?.execute(params![receipt.id, receipt.delivery, work.now.after(hold).0])?;
                let receipt_text = receipt.to_string();
                messages.push(Incoming { body: message.body, receipt: receipt_text, deliveries: receipt.delivery });
            }
        }
    }
    Ok(messages)
}

/// A message as it lies in the queue.
struct Stored {
    id: i64,
    group: Option<String>,
    deliveries: u32,
    body: String,
}

fn ready(db: &Connection, queue: &str, limit: i64) -> rusqlite::Result<Vec<Stored>> {
    let sql =
        "SELECT id, message_group, deliveries, body FROM messages WHERE queue = ?1 AND state = 'ready' ORDER BY id LIMIT ?2";
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map(params![queue, limit], |row| {
        Ok(Stored { id: row.get(0)?, group: row.get(1)?, deliveries: row.get(2)?, body: row.get(3)? })
    })?;
    rows.collect()
}

/// Moves a message to the dead letters.
fn bury(work: &mut Work<'_>, queue: &str, message: Stored) -> rusqlite::Result<()> {
    tracing::warn!(queue, deliveries = message.deliveries, "a message was delivered too often: it goes to the dead letters");
    insert(work, &dead_name(queue), message.group.as_deref(), &message.body)?;
    remove(work, queue, message.id).map(|_| ())
}

/// Whether the message is still with the receiver of this delivery.
fn is_held(work: &Work<'_>, queue: &str, receipt: Receipt) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM messages WHERE id = ?1 AND deliveries = ?2 AND queue = ?3 AND state = 'held' AND until > ?4";
    work.db.prepare_cached(sql)?.exists(params![receipt.id, receipt.delivery, queue, work.now.0])
}

/// Makes visible what was held or delayed until now.
pub(super) fn end_holds(work: &mut Work<'_>) -> rusqlite::Result<()> {
    let sql = "UPDATE messages SET state = 'ready', until = NULL WHERE until <= ?1 RETURNING queue";
    let mut statement = work.db.prepare_cached(sql)?;
    let mut rows = statement.query([work.now.0])?;
    while let Some(row) = rows.next()? {
        work.ready(row.get_ref(0)?.as_str()?, 1);
    }
    Ok(())
}

/// When the next hold or delay ends.
pub(super) fn next_end(db: &Connection) -> rusqlite::Result<Option<Moment>> {
    let sql = "SELECT min(until) FROM messages WHERE until IS NOT NULL";
    db.prepare_cached(sql)?.query_one([], |row| Ok(row.get::<_, Option<i64>>(0)?.map(Moment)))
}

/// Makes visible all that is held or delayed: whoever held it is gone.
pub(super) fn free_all(db: &Connection) -> rusqlite::Result<()> {
    db.execute("UPDATE messages SET state = 'ready', until = NULL WHERE until IS NOT NULL", []).map(|_| ())
}

/// Forgets a bounded number of messages that may be sent again by now, and says how many.
pub(super) fn purge(db: &Connection, now: Moment) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM sent WHERE (queue, deduplication) IN
               (SELECT queue, deduplication FROM sent WHERE until <= ?1 ORDER BY until LIMIT ?2)";
    db.prepare_cached(sql)?.execute(params![now.0, i64::try_from(PURGE_ROWS).unwrap_or(i64::MAX)])
}
