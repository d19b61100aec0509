//! A blob's content on its way, compared with its descriptor.

mod hashing;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::{
    sync::Mutex as AsyncMutex,
    task::JoinError,
    time::{Instant, timeout_at},
};

use self::hashing::Hashing;
use super::Endpoint;
use crate::{
    Descriptor, Error, Failure,
    digest::Hasher,
    registry::{Blob, at},
};

/// A place in a blob, and the digest of all that is before it.
#[derive(Clone)]
pub(super) struct Mark {
    pub(super) offset: u64,
    pub(super) hasher: Hasher,
}

impl Mark {
    /// The beginning.
    pub(super) fn start(blob: &Descriptor) -> Self {
        Self { offset: 0, hasher: Hasher::like(&blob.digest) }
    }
}

/// What is read of a blob. The last byte is let go only when nothing follows it and the digest is right: an upload of anything
/// else never becomes whole.
pub(super) struct Content {
    reader: Blob,
    registry: String,
    action: String,
    blob: Descriptor,
    /// How much of it has been let go.
    offset: u64,
    /// The digest of that.
    hashing: Hashing,
    /// What has been read and not let go.
    rest: Bytes,
    ended: bool,
}

/// Content that several requests take their parts of, one after the other.
pub(super) type Shared = Arc<AsyncMutex<Content>>;

impl Content {
    /// The content from a place on, which is where `reader` is.
    pub(super) fn new(source: &Endpoint, blob: &Descriptor, reader: Blob, mark: Mark) -> Result<Self, Error> {
        let length = reader.length();
        let content = Self {
            reader,
            registry: source.registry.name().to_owned(),
            action: format!("GET blob {}", at(&source.repository, &blob.digest)),
            blob: blob.clone(),
            offset: mark.offset,
            hashing: Hashing::from(mark),
            rest: Bytes::new(),
            ended: false,
        };
        match length {
            Some(length) if length != blob.size => {
                Err(content.mismatch(format!("it has {length} bytes, and its descriptor says {}", blob.size)))
            }
            _ => Ok(content),
        }
    }

    /// How far it has been let go. From here on no place before counts.
    pub(super) async fn mark(&mut self) -> Result<Mark, Error> {
        self.hashing.wait().await.map_err(|error| self.unhashed(error))?;
        self.hashing.passed();
        Ok(self.hashing.mark().clone())
    }

    /// Places passed since the last time, from which a broken upload can be gone on with.
    pub(super) fn passed(&mut self) -> Vec<Mark> {
        self.hashing.passed()
    }

    /// Reads what the target has already.
    pub(super) async fn skip_to(&mut self, offset: u64) -> Result<(), Error> {
        while self.offset < offset && self.next(offset - self.offset).await?.is_some() {}
        Ok(())
    }

    /// Compares a blob of no bytes: HTTP does not ask for what an empty body has.
    pub(super) async fn compare_empty(&mut self) -> Result<(), Error> {
        self.next(0).await.map(drop)
    }

    /// The next bytes, not more than `limit`; `None` at the end. If it is dropped while it waits, nothing is lost.
    async fn next(&mut self, limit: u64) -> Result<Option<Bytes>, Error> {
        let (size, offset) = (self.blob.size, self.offset);
        let left = size - offset;
        if self.rest.is_empty() && left > 0 {
            self.rest = self
                .chunk()
                .await?
                .ok_or_else(|| self.mismatch(format!("it ends after {offset} bytes, and its descriptor says {size}")))?;
        }
        let here = self.rest.len() as u64;
        // A blob of no bytes is compared, too.
        if here > left || (here == left && !self.ended && self.chunk().await?.is_some()) {
            return Err(self.mismatch(format!("it has more than the {size} bytes that its descriptor says")));
        }
        self.ended = here == left;
        let taken = here.min(limit);
        let is_last = taken == left;
        // All waiting comes before anything is taken.
        let ready = if is_last { self.hashing.wait().await } else { self.hashing.room().await };
        ready.map_err(|error| self.unhashed(error))?;
        let piece = self.rest.split_to(usize::try_from(taken).unwrap_or(usize::MAX));
        self.hashing.push(piece.clone());
        self.offset += taken;
        if is_last && !self.hashing.end().hasher.is(&self.blob.digest) {
            return Err(self.mismatch("its content has another digest"));
        }
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// The next `size` bytes, or what is left, in one piece.
    pub(super) async fn fill(&mut self, size: usize) -> Result<Bytes, Error> {
        let left = self.blob.size - self.offset;
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(size);
        let mut filled = BytesMut::with_capacity(wanted);
        while filled.len() < wanted {
            let Some(piece) = self.next((wanted - filled.len()) as u64).await? else { break };
            filled.extend_from_slice(&piece);
        }
        Ok(filled.freeze())
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.reader.chunk().await? {
                Some(chunk) if chunk.is_empty() => {}
                other => return Ok(other),
            }
        }
    }

    fn mismatch(&self, problem: impl Into<String>) -> Error {
        Failure::mismatch(&self.registry, &self.action, problem).refused()
    }

    /// The process is about to end: nothing else ends the hashing.
    fn unhashed(&self, error: JoinError) -> Error {
        Failure::new(&self.registry, &*self.action, format!("comparing it was ended: {error}")).retry(None)
    }
}

/// So many bytes of some content, as a request's body that outlives no borrow. It counts what it lets go.
/// It ends early, and well, when its time is over.
pub(super) fn stream_of(
    content: Shared,
    length: u64,
    until: Option<Instant>,
    sent: Arc<AtomicU64>,
) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    let pieces = stream::try_unfold((content, length), move |(content, left)| async move {
        // Asked for here as well, because a time-out is not looked at while there is always something to do.
        if left == 0 || until.is_some_and(|until| Instant::now() >= until) {
            return Ok(None);
        }
        let next = async { content.lock().await.next(left).await };
        let piece = match until {
            Some(until) => timeout_at(until, next).await.unwrap_or(Ok(None))?,
            None => next.await?,
        };
        Ok(piece.map(|piece| {
            let left = left - piece.len() as u64;
            (piece, (content, left))
        }))
    });
    // Boxed, because a body has to be `Unpin` somewhere down in the client.
    counted(pieces, sent).boxed()
}

/// How much of a chunk is handed to the client at a time: what is counted as sent is at most that much ahead of the truth.
const SLICE: usize = 128 << 10;

/// A chunk in memory, as a request's body. It counts what it lets go.
pub(super) fn stream_of_chunk(mut chunk: Bytes, sent: Arc<AtomicU64>) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    let slices = std::iter::from_fn(move || {
        let slice = chunk.slice(..chunk.len().min(SLICE));
        chunk.advance(slice.len());
        (!slice.is_empty()).then_some(Ok(slice))
    });
    counted(stream::iter(slices), sent)
}

fn counted<S>(pieces: S, sent: Arc<AtomicU64>) -> impl Stream<Item = Result<Bytes, Error>> + Send
where
    S: Stream<Item = Result<Bytes, Error>> + Send,
{
    pieces.inspect(move |piece| {
        if let Ok(piece) = piece {
            sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    })
}
