//! Uploading one blob: filling a session in the way that the target takes it, and again if that fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{join, sync::Mutex as AsyncMutex, time::sleep};

use super::{
    Endpoint, Progress,
    content::{Content, Mark, stream_of, stream_of_chunk},
};
use crate::{
    Descriptor, Error,
    registry::{PART, Part, Registry, Strategy, Upload, pause},
};

/// How often progress is told.
const TICK: Duration = Duration::from_millis(250);

/// A blob on its way from source to target.
pub(super) struct Transfer<'a> {
    source: &'a Endpoint,
    target: &'a Endpoint,
    blob: &'a Descriptor,
    progress: &'a dyn Progress,
    /// What has been told of it.
    told: u64,
}

/// An upload, and what the target has of it.
struct Session {
    upload: Upload,
    acknowledged: Mark,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(source: &'a Endpoint, target: &'a Endpoint, blob: &'a Descriptor, progress: &'a dyn Progress) -> Self {
        Self { source, target, blob, progress, told: 0 }
    }

    /// Brings the blob to the target. A broken connection is tried again a few times, content that was not what the descriptor says
    /// once, and where the target refuses the way in which it was sent, the next way follows; what worked is remembered.
    pub(super) async fn run(mut self, begun: Option<Upload>) -> Result<(), Error> {
        let mut strategy = self.registry().strategy();
        let mut session = begun.map(|upload| self.session(upload));
        let (mut tried, mut mismatched) = (1, false);
        loop {
            let error = match self.attempt(&mut session, strategy).await {
                Ok(()) => {
                    self.registry().learn_strategy(strategy);
                    return Ok(());
                }
                Err(error) => error,
            };
            if let Some(session) = session.take() {
                self.registry().abandon_upload(session.upload).await;
            }
            self.tell(0);
            if error.is_mismatch() && !mismatched {
                mismatched = true;
            } else if error.is_about_form()
                && let Some(next) = strategy.next()
            {
                tracing::debug!(registry = self.registry().name(), %error, ?next, "sending a blob in another way");
                strategy = next;
                continue;
            } else {
                let Some(pause) = pause(&error, tried) else { return Err(error) };
                tried += 1;
                sleep(pause).await;
            }
            tracing::debug!(registry = self.registry().name(), %error, "starting a blob again");
        }
    }

    /// One try.
    async fn attempt(&mut self, session: &mut Option<Session>, strategy: Strategy) -> Result<(), Error> {
        // Both sides at the same time: what is waited for is the slower of the two round trips, not their sum.
        let going = session.take();
        let begin = async {
            match going {
                Some(going) => Ok(going),
                None => {
                    let started = self.registry().start_upload(&self.target.repository, &self.blob.digest).await;
                    started.map(|upload| self.session(upload))
                }
            }
        };
        let (reader, begun) = join!(self.source.registry.get_blob(&self.source.repository, &self.blob.digest), begin);
        let session = session.insert(begun?);
        let content = Content::new(self.source, self.blob, reader?, session.acknowledged.clone())?;
        if self.blob.size <= strategy.in_one() {
            return self.put(session, content).await;
        }
        match strategy.at_least(session.upload.chunk_min()) {
            Strategy::Chunks(size) => self.send_chunks(session, content, size).await?,
            Strategy::Stream | Strategy::Whole => self.send_parts(session, content).await?,
        }
        self.registry().finish_upload(&session.upload).await
    }

    /// All of it with the request that ends the session.
    async fn put(&mut self, session: &Session, content: Content) -> Result<(), Error> {
        let sent = Arc::new(AtomicU64::new(0));
        let body = stream_of(Arc::new(AsyncMutex::new(content)), self.blob.size, sent.clone());
        let put = self.target.registry.put_content(&session.upload, self.blob.size, body);
        self.telling(&sent, put).await
    }

    /// Long streamed parts.
    async fn send_parts(&mut self, session: &mut Session, content: Content) -> Result<(), Error> {
        let (size, part) = (self.blob.size, PART.max(session.upload.chunk_min()));
        let content = Arc::new(AsyncMutex::new(content));
        while session.acknowledged.offset < size {
            let offset = session.acknowledged.offset;
            let length = part.min(size - offset);
            let sent = Arc::new(AtomicU64::new(offset));
            let body = stream_of(content.clone(), length, sent.clone());
            let part = Part { content: body, offset, length, ranged: length < size };
            let patch = self.target.registry.patch(&mut session.upload, part);
            self.telling(&sent, patch).await?;
            session.acknowledged = content.lock().await.mark();
        }
        Ok(())
    }

    /// Chunks from memory: the next is read while one is being written.
    async fn send_chunks(&mut self, session: &mut Session, mut content: Content, size: usize) -> Result<(), Error> {
        let mut bytes = content.fill(size).await?;
        while !bytes.is_empty() {
            let end = content.mark();
            let offset = session.acknowledged.offset;
            let sent = Arc::new(AtomicU64::new(offset));
            let length = bytes.len() as u64;
            let part = Part { content: stream_of_chunk(bytes, sent.clone()), offset, length, ranged: true };
            let patch = self.target.registry.patch(&mut session.upload, part);
            // Not one or the other: a chunk that is on its way arrives, whatever has become of the source.
            let (written, next) = join!(self.telling(&sent, patch), content.fill(size));
            written?;
            session.acknowledged = end;
            bytes = next?;
        }
        Ok(())
    }

    /// Tells progress while something is done that counts what it sends.
    async fn telling<T>(&mut self, sent: &AtomicU64, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => {
                    self.tell(sent.load(Ordering::Relaxed));
                    return done;
                }
                () = sleep(TICK) => self.tell(sent.load(Ordering::Relaxed)),
            }
        }
    }

    /// Tells that so many bytes have been transferred, more or fewer than before.
    fn tell(&mut self, now: u64) {
        match now.checked_sub(self.told) {
            Some(more) => self.progress.moved(more),
            None => self.progress.lost(self.told - now),
        }
        self.told = now;
    }

    fn session(&self, upload: Upload) -> Session {
        Session { upload, acknowledged: Mark::start(self.blob) }
    }

    fn registry(&self) -> &'a Registry {
        &self.target.registry
    }
}
