//! Uploading one blob: filling a session in the way that the target takes it, and again if that fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    join,
    sync::Mutex as AsyncMutex,
    time::{Instant, sleep},
};

use super::{
    Bounds, Checkpoint, Endpoint, Progress,
    content::{Content, Mark, stream_of, stream_of_chunk},
};
use crate::{
    Descriptor, Error, Failure,
    registry::{Blob, CHUNK, PART, Part, Registry, Strategy, Told, Upload, at, part_after},
};

/// How often progress is told.
const TICK: Duration = Duration::from_millis(250);

/// A blob on its way from source to target.
pub(super) struct Transfer<'a> {
    source: &'a Endpoint,
    target: &'a Endpoint,
    blob: &'a Descriptor,
    bounds: &'a Bounds<'a>,
    progress: &'a dyn Progress,
    /// What has been told of it.
    told: u64,
    /// What another process had brought.
    found: u64,
    /// How much of it the target had acknowledged at its checkpoint, if there is one.
    kept: Option<u64>,
    /// What the source has begun to send.
    opened: Option<Blob>,
}

/// An upload, and what the target has of it.
struct Session {
    upload: Upload,
    /// What it is known to have.
    acknowledged: Mark,
    /// Where it goes on: there, or a little further, as the target said after a break.
    offset: u64,
    /// Places that have been sent and not been acknowledged.
    sent: Vec<Mark>,
    /// Whether it comes from a checkpoint.
    loaded: bool,
    /// Whether it has to be asked what it has before it is gone on with.
    broken: bool,
    /// Whether it has been gone on with, and not been seen to work since.
    resumed: bool,
    /// Whether it was gone on with where it was known to be, because the target tells nothing.
    assumed: bool,
    /// Whether what the target tells of it has been wrong: ECR's `Range` stays at the first chunk.
    misleading: bool,
    /// How long the target took to answer a request without content, if there has been one.
    round_trip: Duration,
}

impl Session {
    fn acknowledge(&mut self, mark: Mark, told: Option<u64>) {
        self.misleading |= told.is_some_and(|told| told != mark.offset);
        self.resumed = false;
        self.sent.clear();
        self.offset = mark.offset;
        self.acknowledged = mark;
    }

    /// Goes on behind the chunk that was sent last, if that is where it may be.
    fn skip(&mut self) -> bool {
        let sent = self.sent.pop().filter(|_| std::mem::take(&mut self.assumed));
        let Some(mark) = sent else { return false };
        self.offset = mark.offset;
        self.acknowledged = mark;
        true
    }
}

impl<'a> Transfer<'a> {
    pub(super) fn new(
        source: &'a Endpoint,
        target: &'a Endpoint,
        blob: &'a Descriptor,
        bounds: &'a Bounds<'a>,
        progress: &'a dyn Progress,
    ) -> Self {
        Self { source, target, blob, bounds, progress, told: 0, found: 0, kept: None, opened: None }
    }

    /// Brings the blob to the target. A broken upload goes on where the target has it, or starts again if it has forgotten it: a few
    /// times without getting further. Content that was not what the descriptor says is fetched once more; and where the target
    /// refuses the way in which it was sent, the next way follows. What worked is remembered.
    ///
    /// Gives back how much of it had been brought before.
    pub(super) async fn run(mut self, begun: Option<Upload>, opened: Option<Blob>) -> Result<u64, Error> {
        self.opened = opened;
        let mut strategy = self.registry().strategy();
        let mut session = self.load(begun, strategy).await;
        let (mut tried, mut mismatched, mut furthest, mut troubled) = (1, false, 0, None);
        loop {
            let began = Instant::now();
            let bounds = self.bounds;
            let error = match bounds.end(self.attempt(&mut session, strategy)).await {
                Some(Ok(())) => {
                    self.registry().learn_strategy(strategy);
                    self.clear().await;
                    return Ok(self.found);
                }
                Some(Err(error @ Error::Interrupted { .. })) => return Err(error),
                Some(Err(error)) => error,
                None if strategy == Strategy::Whole && bounds.gave_most_since(began) => return Err(self.never()),
                None => return Err(self.interrupted()),
            };
            let reached = session.as_ref().map_or(0, |session| session.acknowledged.offset);
            let resumed = session.as_ref().is_some_and(|session| session.resumed);
            if error.is_mismatch() && !mismatched {
                mismatched = true;
                self.give_up(session.take()).await;
            } else if error.is_about_form() && resumed {
                // It is not where it said that it was. If it said nothing, the chunk that broke had been taken.
                if !session.as_mut().is_some_and(Session::skip) {
                    self.give_up(session.take()).await;
                }
            } else if error.is_about_form()
                && let Some(next) = strategy.next()
            {
                tracing::debug!(registry = self.registry().name(), %error, ?next, "sending a blob in another way");
                strategy = next;
                self.give_up(session.take()).await;
                continue;
            } else {
                if reached > furthest {
                    (furthest, tried, troubled) = (reached, 1, None);
                }
                let Some(pause) = self.registry().pause(&error, tried, *troubled.get_or_insert_with(Instant::now)) else {
                    // What has a checkpoint is worth coming back to, if that is of use.
                    if !(self.kept.is_some() && error.is_retry()) {
                        self.give_up(session.take()).await;
                    }
                    return Err(error);
                };
                if bounds.are_over_after(pause) {
                    return Err(self.interrupted());
                }
                tried += 1;
                if let Some(session) = &mut session {
                    session.broken = true;
                }
                sleep(pause).await;
            }
            tracing::debug!(registry = self.registry().name(), %error, reached, "going on with a broken upload");
        }
    }

    /// What to begin with: where another process had to stop, or what the target has begun.
    async fn load(&mut self, begun: Option<Upload>, strategy: Strategy) -> Option<Session> {
        let begun = begun.map(|upload| self.session(upload));
        // What goes with one request has no middle.
        let large = self.blob.size > strategy.in_one();
        let Some(checkpoints) = self.bounds.checkpoints().filter(|_| large) else { return begun };
        let Some(checkpoint) = checkpoints.load(self.target, &self.blob.digest).await else { return begun };
        self.kept = Some(0);
        let Some((upload, acknowledged, misleading)) = checkpoint.restore(self.target, self.blob) else { return begun };
        if let Some(begun) = begun {
            self.registry().abandon_upload(begun.upload).await;
        }
        let offset = acknowledged.offset;
        self.kept = Some(offset);
        Some(Session { acknowledged, offset, loaded: true, broken: true, misleading, ..self.session(upload) })
    }

    /// Keeps how far an upload has come.
    async fn keep(&mut self, session: &Session) {
        if let Some(checkpoints) = self.bounds.checkpoints() {
            self.kept = Some(session.acknowledged.offset);
            let checkpoint = Checkpoint::new(&session.upload, &session.acknowledged, session.misleading);
            checkpoints.save(self.target, &self.blob.digest, &checkpoint).await;
        }
    }

    async fn clear(&mut self) {
        if let Some(checkpoints) = self.bounds.checkpoints().filter(|_| self.kept.take().is_some()) {
            checkpoints.clear(self.target, &self.blob.digest).await;
        }
    }

    /// The time is over.
    fn interrupted(&self) -> Error {
        let (done, size) = (self.kept.unwrap_or(0), self.blob.size);
        self.failure(format!("the time was over after {done} of {size} bytes")).interrupted(done, size)
    }

    /// The time was over, and would be the next time.
    fn never(&self) -> Error {
        self.failure("the registry takes it in one request only, and that does not end in the time there is")
            .hint("copy it with `transship serve` or `transship copy`, which have no limit of time")
            .refused()
    }

    fn failure(&self, problem: impl Into<String>) -> Failure {
        let Endpoint { registry, repository } = self.target;
        Failure::new(registry.name(), format!("uploading blob {}", at(repository, &self.blob.digest)), problem)
    }

    /// Asks the target what it has of a broken upload. If it is not to be gone on with, there is none from here on.
    async fn recover(&mut self, session: &mut Option<Session>, strategy: Strategy) -> Result<(), Error> {
        let Some(going) = session.as_mut().filter(|going| going.broken) else { return Ok(()) };
        let asked = Instant::now();
        let told = match self.blob.size <= strategy.in_one() {
            // Sent with the request that ends it, which leaves nothing to go on with.
            true => Told::Gone,
            false => self.registry().ask_upload(&mut going.upload).await?,
        };
        going.round_trip = asked.elapsed();
        let acknowledged = going.acknowledged.offset;
        let offset = match (told, strategy) {
            (Told::Bytes(offset), _) if !going.misleading => Some(offset),
            // A chunk is taken whole or not at all. If it was taken, the next try is refused, and the blob starts again.
            (Told::Bytes(_) | Told::Nothing, Strategy::Chunks(_)) => Some(acknowledged),
            _ => None,
        };
        // Less than it had acknowledged, or more than there is: it is not what we have sent.
        let Some(offset) = offset.filter(|offset| (acknowledged..=self.blob.size).contains(offset)) else {
            self.give_up(session.take()).await;
            return Ok(());
        };
        let known = going.sent.drain(..).filter(|mark| (acknowledged..=offset).contains(&mark.offset));
        if let Some(mark) = known.max_by_key(|mark| mark.offset) {
            going.acknowledged = mark;
        }
        (going.offset, going.resumed, going.broken) = (offset, true, false);
        going.assumed = going.misleading || told == Told::Nothing;
        if std::mem::take(&mut going.loaded) {
            self.progress.present(offset);
            (self.told, self.found) = (offset, offset);
        }
        self.tell(offset);
        Ok(())
    }

    /// Leaves a session, of which nothing counts any more.
    async fn give_up(&mut self, session: Option<Session>) {
        self.tell(self.found);
        self.progress.absent(self.found);
        (self.told, self.found) = (0, 0);
        self.clear().await;
        if let Some(session) = session {
            self.registry().abandon_upload(session.upload).await;
        }
    }

    /// One try: on with the session, or a new one.
    async fn attempt(&mut self, session: &mut Option<Session>, strategy: Strategy) -> Result<(), Error> {
        self.recover(session, strategy).await?;
        if let Some(Session { upload, acknowledged, .. }) = session
            && acknowledged.offset == self.blob.size
            && self.blob.size > 0
        {
            return self.registry().finish_upload(upload).await;
        }
        let from = session.as_ref().map_or(0, |session| session.acknowledged.offset);
        let opened = self.opened.take().filter(|_| from == 0);
        let open = async {
            match opened {
                Some(opened) => Ok(opened),
                None => self.source.registry.get_blob_from(&self.source.repository, &self.blob.digest, from).await,
            }
        };
        let going = session.take();
        let begin = async {
            match going {
                Some(going) => Ok(going),
                None => {
                    let asked = Instant::now();
                    let started = self.registry().start_upload(&self.target.repository, &self.blob.digest).await;
                    started.map(|upload| Session { round_trip: asked.elapsed(), ..self.session(upload) })
                }
            }
        };
        // Both sides at the same time: what is waited for is the slower of the two round trips, not their sum.
        let (reader, begun) = join!(open, begin);
        let session = session.insert(begun?);
        let mut content = Content::new(self.source, self.blob, reader?, session.acknowledged.clone())?;
        if self.blob.size <= strategy.in_one() {
            return self.put(session, content).await;
        }
        content.skip_to(session.offset).await?;
        session.acknowledged = content.mark().await?;
        match strategy.at_least(session.upload.chunk_min()) {
            Strategy::Chunks(size) => self.send_chunks(session, content, size).await?,
            Strategy::Stream | Strategy::Whole => self.send_parts(session, content).await?,
        }
        self.registry().finish_upload(&session.upload).await
    }

    /// All of it with the request that ends the session.
    async fn put(&mut self, session: &Session, mut content: Content) -> Result<(), Error> {
        if self.blob.size == 0 {
            content.compare_empty().await?;
        }
        let sent = Arc::new(AtomicU64::new(0));
        let body = stream_of(Arc::new(AsyncMutex::new(content)), self.blob.size, None, sent.clone());
        let put = self.target.registry.put_content(&session.upload, self.blob.size, body);
        self.telling(&sent, put).await
    }

    /// Long streamed parts.
    async fn send_parts(&mut self, session: &mut Session, content: Content) -> Result<(), Error> {
        let size = self.blob.size;
        let content = Arc::new(AsyncMutex::new(content));
        let mut part = PART;
        while session.acknowledged.offset < size {
            if self.bounds.are_over_after(Duration::ZERO) {
                return Err(self.interrupted());
            }
            // A part without a length ends when it has to; where it needs one, short ones end soon enough.
            let until = self.bounds.deadline().filter(|_| self.registry().takes_open_ends(&session.upload));
            let most = if until.is_none() && self.bounds.deadline().is_some() { CHUNK as u64 } else { part };
            let offset = session.acknowledged.offset;
            let length = most.max(session.upload.chunk_min()).min(size - offset);
            let sent = Arc::new(AtomicU64::new(offset));
            let body = stream_of(content.clone(), length, until, sent.clone());
            let known = until.is_none().then_some(length);
            let body = Part { content: body, offset, length: known, ranged: length < size };
            let began = Instant::now();
            let patch = self.target.registry.patch(&mut session.upload, body);
            let told = match self.telling(&sent, patch).await {
                Ok(told) => told,
                Err(error) => {
                    // Not at hand where the source still keeps us waiting: then more of it is read again.
                    session.sent = content.try_lock().map(|mut content| content.passed()).unwrap_or_default();
                    return Err(error);
                }
            };
            part = part_after(length, began.elapsed(), session.round_trip);
            let mark = content.lock().await.mark().await?;
            if until.is_none() && mark.offset != offset + length {
                return Err(self.registry().early(&session.upload));
            }
            session.acknowledge(mark, told);
            self.keep(session).await;
        }
        Ok(())
    }

    /// Chunks from memory: the next is read while one is being written.
    async fn send_chunks(&mut self, session: &mut Session, mut content: Content, size: usize) -> Result<(), Error> {
        let bounds = self.bounds;
        let mut next = bounds.wait(content.fill(size)).await;
        loop {
            let Some(bytes) = next.filter(|_| !bounds.are_over_after(Duration::ZERO)) else {
                return Err(self.interrupted());
            };
            let bytes = bytes?;
            if bytes.is_empty() {
                return Ok(());
            }
            let end = content.mark().await?;
            let offset = session.acknowledged.offset;
            let sent = Arc::new(AtomicU64::new(offset));
            let length = Some(bytes.len() as u64);
            let part = Part { content: stream_of_chunk(bytes, sent.clone()), offset, length, ranged: true };
            let patch = self.target.registry.patch(&mut session.upload, part);
            // Not one or the other: a chunk that is on its way arrives, whatever has become of the source.
            let (written, read) = join!(self.telling(&sent, patch), bounds.wait(content.fill(size)));
            match written {
                Ok(told) => session.acknowledge(end, told),
                Err(error) => {
                    session.sent = vec![end];
                    return Err(error);
                }
            }
            self.keep(session).await;
            next = read;
        }
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
        let acknowledged = Mark::start(self.blob);
        Session {
            upload,
            acknowledged,
            offset: 0,
            sent: Vec::new(),
            loaded: false,
            broken: false,
            resumed: false,
            assumed: false,
            misleading: false,
            round_trip: Duration::ZERO,
        }
    }

    fn registry(&self) -> &'a Registry {
        &self.target.registry
    }
}
