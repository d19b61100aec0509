//! Writing: one thread, one connection, one commit for all that waits.
//!
//! A commit waits for the disk. While it does, requests gather; the thread then carries out all of them in one transaction,
//! each within a savepoint of its own so that one that fails leaves no trace, commits once, and answers each. So a thousand
//! concurrent writers share a few waits, and nobody gets an answer before what it stands for is on the disk.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use super::clock::Moment;
use super::signals::{Ready, Signals};
use super::{Broken, queue, table};

/// At most so many requests share a transaction, so that the first of them does not wait for long.
const BATCH: usize = 1024;
/// How often expired rows are looked for.
const PURGE_EVERY: Duration = Duration::from_secs(30);
/// How soon it goes on, if there were more than are removed at once, or if the file could not be written.
const PAUSE: Duration = Duration::from_secs(1);
/// How many rows of a table are removed at once.
pub(super) const PURGE_ROWS: usize = 1000;

/// What has to be true when a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// It survives a power failure.
    Synced,
    /// Others see it. Enough for what opening the store undoes anyway: who holds which message.
    Seen,
}

/// What a request works with.
pub(super) struct Work<'a> {
    /// Inside the transaction, and inside a savepoint of the request's own: an error undoes all it did.
    pub(super) db: &'a Connection,
    /// When the transaction began.
    pub(super) now: Moment,
    ready: &'a mut Ready,
}

impl Work<'_> {
    /// Wakes receivers of a queue after the commit, because messages became ready.
    pub(super) fn ready(&mut self, queue: &str, messages: usize) {
        if messages > 0 {
            *self.ready.entry(queue.to_owned()).or_default() += messages;
        }
    }
}

/// The thread that writes. It ends, after what it was asked before, when this is dropped.
pub(super) struct Writer {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(connection: Connection, signals: Signals) -> std::io::Result<Self> {
        let (sender, requests) = mpsc::channel();
        let now = Moment::now();
        let thread = WriterThread { connection, signals, requests, synced: None, next_end: Some(now), next_purge: now };
        let thread = thread::Builder::new().name("store-writer".to_owned()).spawn(move || thread.run())?;
        Ok(Self { handle: Handle(sender), thread: Some(thread) })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A message and not a closed channel, because somebody may still have a handle.
        let _ = self.handle.0.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            // An error means that it panicked; its requests have been told.
            let _ = thread.join();
        }
    }
}

/// The way to the writer.
#[derive(Clone)]
pub(super) struct Handle(Sender<Message>);

impl Handle {
    /// Has `work` done, and returns what it returned when that is as durable as asked. If the future is dropped, the work is
    /// done all the same and its result is dropped.
    pub(super) async fn run<T, E>(
        &self,
        durability: Durability,
        work: impl FnOnce(&mut Work<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Broken> + Send + 'static,
    {
        let answer = self.post(durability, work);
        answer.await.unwrap_or_else(|_| Err(Broken::closed().into()))
    }

    /// The same for somebody who can't wait. What is posted is done even if the answer is dropped.
    pub(super) fn post<T, E>(
        &self,
        durability: Durability,
        work: impl FnOnce(&mut Work<'_>) -> Result<T, E> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, E>>
    where
        T: Send + 'static,
        E: From<Broken> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        // If the thread is gone, the request and with it `reply` is dropped, which the waiting side sees.
        let _ = self.0.send(Message::Request(Box::new(Pending { durability, work: Some(work), outcome: None, reply })));
        answer
    }
}

enum Message {
    Request(Box<dyn Request>),
    Stop,
}

/// A request on its way through the thread.
trait Request: Send {
    fn durability(&self) -> Durability;
    /// Does it, and says whether its changes are to be kept.
    fn perform(&mut self, work: &mut Work<'_>) -> bool;
    /// Tells the one who waits, now that the transaction has ended so.
    fn answer(self: Box<Self>, ended: &Result<(), Broken>);
}

struct Pending<T, E, F> {
    durability: Durability,
    work: Option<F>,
    outcome: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Request for Pending<T, E, F>
where
    T: Send,
    E: From<Broken> + Send,
    F: FnOnce(&mut Work<'_>) -> Result<T, E> + Send,
{
    fn durability(&self) -> Durability {
        self.durability
    }

    fn perform(&mut self, work: &mut Work<'_>) -> bool {
        self.outcome = self.work.take().map(|perform| perform(work));
        matches!(self.outcome, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, ended: &Result<(), Broken>) {
        let answer = match (ended, self.outcome) {
            (Ok(()), Some(outcome)) => outcome,
            (Ok(()), None) => Err(Broken::closed().into()),
            (Err(broken), _) => Err(broken.clone().into()),
        };
        // Whoever asked may have stopped waiting. What was done stands; a result that matters undoes itself when dropped.
        let _ = self.reply.send(answer);
    }
}

struct WriterThread {
    connection: Connection,
    signals: Signals,
    requests: Receiver<Message>,
    /// Whether commits wait for the disk, as last set.
    synced: Option<bool>,
    /// When the first hold or delay of a message ends.
    next_end: Option<Moment>,
    next_purge: Moment,
}

impl WriterThread {
    fn run(mut self) {
        loop {
            let (batch, stop) = self.gather();
            self.carry_out(batch);
            if stop {
                return;
            }
            self.purge_if_due();
        }
    }

    /// Waits for requests, or for the time when something is to be done without one, and takes all that are there.
    fn gather(&mut self) -> (Vec<Box<dyn Request>>, bool) {
        let wake = self.next_end.map_or(self.next_purge, |end| end.min(self.next_purge));
        let mut batch = Vec::new();
        match self.requests.recv_timeout(Moment::now().until(wake)) {
            Ok(Message::Request(request)) => batch.push(request),
            Err(RecvTimeoutError::Timeout) => return (batch, false),
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return (batch, true),
        }
        while batch.len() < BATCH {
            match self.requests.try_recv() {
                Ok(Message::Request(request)) => batch.push(request),
                Ok(Message::Stop) => return (batch, true),
                Err(_) => break,
            }
        }
        (batch, false)
    }

    fn carry_out(&mut self, mut batch: Vec<Box<dyn Request>>) {
        let mut ready = Ready::new();
        let ended = self.transaction(&mut batch, &mut ready);
        if let Err(broken) = &ended {
            tracing::error!(error = %broken.0, requests = batch.len(), "the embedded store could not write");
            // Not at once: without a request nothing else slows the loop down.
            self.next_end = Some(Moment::now().after(PAUSE));
        }
        for request in batch {
            request.answer(&ended);
        }
        if ended.is_ok() {
            self.signals.wake(ready);
        }
    }

    fn transaction(&mut self, batch: &mut [Box<dyn Request>], ready: &mut Ready) -> Result<(), Broken> {
        self.sync_commits(batch.iter().any(|request| request.durability() == Durability::Synced))?;
        let now = Moment::now();
        let mut transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if self.next_end.is_some_and(|end| end <= now) {
            queue::end_holds(&mut Work { db: &transaction, now, ready })?;
        }
        for request in batch {
            let savepoint = transaction.savepoint()?;
            let keep = request.perform(&mut Work { db: &savepoint, now, ready });
            if savepoint.is_autocommit() {
                // Some errors make SQLite roll back everything, the requests before this one included.
                return Err(Broken("SQLite gave up the transaction: the disk may be full or broken".to_owned()));
            }
            if keep {
                savepoint.commit()?;
            } else {
                savepoint.finish()?;
            }
        }
        let next_end = queue::next_end(&transaction)?;
        transaction.commit()?;
        self.next_end = next_end;
        Ok(())
    }

    /// Has commits wait for the disk, or not. One that waits brings all before it to the disk, too: the log is one file.
    fn sync_commits(&mut self, synced: bool) -> rusqlite::Result<()> {
        if self.synced != Some(synced) {
            self.synced = None;
            self.connection.pragma_update(None, "synchronous", if synced { "FULL" } else { "NORMAL" })?;
            self.synced = Some(synced);
        }
        Ok(())
    }

    /// Removes some of what has expired. Nobody sees it any more, so nothing depends on when this is done.
    fn purge_if_due(&mut self) {
        let now = Moment::now();
        if now < self.next_purge {
            return;
        }
        let purged = table::purge(&self.connection, now).and_then(|items| Ok(items.max(queue::purge(&self.connection, now)?)));
        self.next_purge = now.after(match purged {
            Ok(rows) if rows >= PURGE_ROWS => PAUSE,
            Ok(_) => PURGE_EVERY,
            Err(error) => {
                tracing::warn!(%error, "the embedded store could not remove what has expired");
                PURGE_EVERY
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TableError;

    #[tokio::test]
    async fn a_request_is_answered_after_a_commit_as_durable_as_it_asked_for() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert!(crate::sqlite::schema::migrate(&mut connection).is_ok());
        let writer = Writer::start(connection, Signals::default()).unwrap();
        let level = |work: &mut Work<'_>| -> Result<i64, TableError> {
            Ok(work.db.pragma_query_value(None, "synchronous", |row| row.get(0))?)
        };
        let (seen, full, again) = (
            writer.handle().run(Durability::Seen, level).await.unwrap(),
            writer.handle().run(Durability::Synced, level).await.unwrap(),
            writer.handle().run(Durability::Seen, level).await.unwrap(),
        );
        assert_eq!((seen, full, again), (1, 2, 1), "NORMAL, FULL, NORMAL");
    }
}
