//! Bringing one blob to the target: find it there, mount it, or stream it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::{join, time::sleep};

use super::{Copier, Endpoint, Limits, Moved, Progress, memory::Belief};
use crate::{
    Descriptor, Error, Failure,
    digest::Hasher,
    registry::{Blob, Upload, UploadStart, at, pause},
};

/// How often progress is told.
const TICK: Duration = Duration::from_millis(250);

impl Copier {
    /// Brings a blob to the target, whichever way costs least.
    ///
    /// Whoever needs a blob takes its turn: of several copies that need the same one at the same registry, the first uploads it
    /// and the others mount it from there. Where mounts are refused there is nothing to wait for, and the turn is the
    /// repository's alone. No permit is held while waiting for a turn, so that copies wait for each other but never in a circle.
    pub(super) async fn blob(
        &self,
        source: &Endpoint,
        target: &Endpoint,
        blob: Descriptor,
        belief: Belief,
        progress: &dyn Progress,
    ) -> Result<Moved, Error> {
        let (registry, repository, digest) = (&target.registry, &target.repository, &blob.digest);
        let what = if registry.refuses_mounts() { at(repository, digest) } else { digest.to_string() };
        let _turn = self.memory.turn(registry, &what).await;

        let believed = belief == Belief::Memory && self.memory.has(target, digest);
        if believed || registry.has_blob_as(target.push(), repository, digest).await? {
            if !believed {
                self.memory.saw(target, digest);
            }
            progress.saved(blob.size);
            return Ok(Moved { blobs_present: 1, bytes_saved: blob.size, ..Moved::default() });
        }
        let begun = match self.mount(source, target, &blob).await {
            Some(UploadStart::Mounted) => {
                self.memory.saw(target, digest);
                progress.saved(blob.size);
                return Ok(Moved { blobs_mounted: 1, bytes_saved: blob.size, ..Moved::default() });
            }
            Some(UploadStart::Begun(upload)) => Some(upload),
            None => None,
        };
        self.transfer(source, target, &blob, begun, progress).await?;
        self.memory.saw(target, digest);
        Ok(Moved { blobs_copied: 1, bytes_moved: blob.size, ..Moved::default() })
    }

    /// Tries to mount a blob from a repository that has it. Whatever goes wrong, it can be uploaded: Harbor answers 401 where
    /// the specification wants 202, Docker Hub refuses what the token does not cover.
    async fn mount(&self, source: &Endpoint, target: &Endpoint, blob: &Descriptor) -> Option<UploadStart> {
        let same = source.registry.origin() == target.registry.origin();
        let known = self.memory.repositories(&target.registry, &blob.digest);
        let from = same.then(|| source.repository.clone()).into_iter().chain(known).find(|from| *from != target.repository)?;
        if target.registry.refuses_mounts() {
            return None;
        }
        let answer = target.registry.mount_blob(&target.repository, &blob.digest, &from).await;
        target.registry.learn_about_mounts(matches!(answer, Ok(UploadStart::Mounted)));
        match answer {
            Ok(start) => Some(start),
            Err(error) => {
                tracing::debug!(registry = target.registry.name(), %error, "not mounted");
                None
            }
        }
    }

    /// Streams a blob from source to target, starting again a few times after a broken connection and once after content that
    /// was not what the descriptor says.
    async fn transfer(
        &self,
        source: &Endpoint,
        target: &Endpoint,
        blob: &Descriptor,
        mut begun: Option<Upload>,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let weight = usize::try_from(blob.size).unwrap_or(usize::MAX).min(Limits::BUFFERED).min(self.limits.bytes_in_flight);
        let weight = u32::try_from(weight >> 10).unwrap_or(u32::MAX).max(1);
        // In this order for everybody, or two could wait for each other. The semaphores are never closed; if they were, nothing
        // would be limited and nothing lost.
        let _blob = self.blobs.acquire().await;
        let _bytes = self.kibibytes.acquire_many(weight).await;
        let (mut tried, mut mismatched) = (1, false);
        loop {
            let sent = Arc::new(AtomicU64::new(0));
            let error = match stream_once(source, target, blob, begun.take(), &sent, progress).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            progress.lost(sent.load(Ordering::Relaxed));
            if error.is_mismatch() && !mismatched {
                mismatched = true;
            } else {
                let Some(pause) = pause(&error, tried) else { return Err(error) };
                tried += 1;
                sleep(pause).await;
            }
            tracing::debug!(registry = target.registry.name(), %error, "starting a blob again");
        }
    }
}

/// One try: one session, one streamed `PATCH`, one `PUT`.
async fn stream_once(
    source: &Endpoint,
    target: &Endpoint,
    blob: &Descriptor,
    begun: Option<Upload>,
    sent: &Arc<AtomicU64>,
    progress: &dyn Progress,
) -> Result<(), Error> {
    // Both sides at the same time: what is waited for is the slower of the two round trips, not their sum.
    let open = source.registry.get_blob(&source.repository, &blob.digest);
    let start = async {
        match begun {
            Some(upload) => Ok(upload),
            None => target.registry.start_upload(&target.repository, &blob.digest).await,
        }
    };
    let (reader, upload) = match join!(open, start) {
        (Ok(reader), Ok(upload)) => (reader, upload),
        (Err(error), Ok(upload)) => {
            target.registry.abandon_upload(upload).await;
            return Err(error);
        }
        (_, Err(error)) => return Err(error),
    };
    let checked = Checked::new(source, blob, reader, sent.clone());
    let upload = match checked {
        Err(error) => Err((upload, error)),
        // Some registries refuse a PATCH without a byte in it.
        Ok(checked) if blob.size == 0 => match checked.next().await {
            Ok(_) => Ok(upload),
            Err(error) => Err((upload, error)),
        },
        Ok(checked) => {
            let content = stream::try_unfold(Some(checked), |checked| async move {
                match checked {
                    Some(checked) => checked.next().await,
                    None => Ok(None),
                }
            });
            tell(progress, sent, target.registry.send_content(upload, blob.size, boxed(content))).await
        }
    };
    match upload {
        Ok(upload) => target.registry.finish_upload(upload).await,
        Err((upload, error)) => {
            target.registry.abandon_upload(upload).await;
            Err(error)
        }
    }
}

fn boxed<S>(content: S) -> std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>
where
    S: Stream<Item = Result<Bytes, Error>> + Send + 'static,
{
    Box::pin(content)
}

/// Tells progress while something is done: the content is a stream that outlives no borrow, so it counts and this reports.
async fn tell<T>(progress: &dyn Progress, sent: &AtomicU64, work: impl Future<Output = T>) -> T {
    let mut told = 0;
    let mut tell = || {
        let now = sent.load(Ordering::Relaxed);
        progress.moved(now - told);
        told = now;
    };
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                tell();
                return done;
            }
            () = sleep(TICK) => tell(),
        }
    }
}

/// A blob's content on its way, compared with its descriptor. The last chunk is let go only when nothing follows it and the
/// digest is right: an upload of anything else never becomes whole.
struct Checked {
    reader: Blob,
    registry: String,
    action: String,
    blob: Descriptor,
    hasher: Hasher,
    read: u64,
    sent: Arc<AtomicU64>,
}

impl Checked {
    fn new(source: &Endpoint, blob: &Descriptor, reader: Blob, sent: Arc<AtomicU64>) -> Result<Self, Error> {
        let length = reader.length();
        let checked = Self {
            reader,
            registry: source.registry.name().to_owned(),
            action: format!("GET blob {}", at(&source.repository, &blob.digest)),
            hasher: Hasher::like(&blob.digest),
            blob: blob.clone(),
            read: 0,
            sent,
        };
        match length {
            Some(length) if length != blob.size => {
                Err(checked.mismatch(format!("it has {length} bytes, and its descriptor says {}", blob.size)))
            }
            _ => Ok(checked),
        }
    }

    fn mismatch(&self, problem: impl Into<String>) -> Error {
        Failure::mismatch(&self.registry, &self.action, problem).refused()
    }

    /// The next chunk, and what is left to read after it.
    async fn next(mut self) -> Result<Option<(Bytes, Option<Self>)>, Error> {
        let size = self.blob.size;
        let chunk = self.chunk().await?;
        if let Some(chunk) = &chunk {
            self.read += chunk.len() as u64;
            self.hasher.update(chunk);
        }
        if self.read > size {
            return Err(self.mismatch(format!("it has more than the {size} bytes that its descriptor says")));
        }
        if self.read < size {
            let Some(chunk) = chunk else {
                return Err(self.mismatch(format!("it ends after {} bytes, and its descriptor says {size}", self.read)));
            };
            self.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            return Ok(Some((chunk, Some(self))));
        }
        if chunk.is_some() && self.chunk().await?.is_some() {
            return Err(self.mismatch(format!("it has more than the {size} bytes that its descriptor says")));
        }
        let Self { hasher, registry, action, blob, sent, .. } = self;
        if !hasher.is(&blob.digest) {
            return Err(Failure::mismatch(&registry, action, "its content has another digest").refused());
        }
        Ok(chunk.map(|chunk| {
            sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            (chunk, None)
        }))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.reader.chunk().await? {
                Some(chunk) if chunk.is_empty() => {}
                other => return Ok(other),
            }
        }
    }
}
