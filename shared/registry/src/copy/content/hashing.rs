//! The digest of what flows, computed beside it: while one thread hashes, another reads and writes.

use bytes::Bytes;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::Mark;

/// What is handed to the other thread at a time: enough that waking it costs nothing, and little enough to be still in the processor's
/// cache. What is less, and with it a small blob, is hashed where it is.
const BATCH: usize = 1 << 20;
/// The same in pieces: each holds on to the buffer that it was read into, however few bytes of it are its own.
const PIECES: usize = 256;
/// A place is noted after so many bytes. What is between it and where the target goes on is read again, and not sent.
const NOTED_EVERY: u64 = 4 << 20;

/// The digest up to a place. In memory are at most two batches, one being hashed and one being gathered.
///
/// A batch is hashed by a job that takes no longer than a millisecond, and not by a thread of its own: dropping this at any time leaves
/// nothing behind.
pub(super) struct Hashing {
    /// How far it has come, as far as is known here.
    mark: Mark,
    /// What comes after that, on another thread.
    job: Option<JoinHandle<Mark>>,
    /// What comes after that.
    batch: Vec<Bytes>,
    size: usize,
    /// Places passed.
    passed: Vec<Mark>,
}

impl Hashing {
    pub(super) fn from(mark: Mark) -> Self {
        Self { mark, job: None, batch: Vec::new(), size: 0, passed: Vec::new() }
    }

    /// Waits until there is room for another piece. If it is dropped while it waits, nothing is lost.
    pub(super) async fn room(&mut self) -> Result<(), JoinError> {
        if self.size >= BATCH || self.batch.len() >= PIECES {
            self.wait().await?;
            let (mark, batch) = (self.mark.clone(), std::mem::take(&mut self.batch));
            self.size = 0;
            self.job = Some(spawn_blocking(move || hash(mark, batch)));
        }
        Ok(())
    }

    /// Takes the next piece.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.size += piece.len();
        self.batch.push(piece);
    }

    /// Waits until no other thread has to do with it. If it is dropped while it waits, nothing is lost.
    pub(super) async fn wait(&mut self) -> Result<(), JoinError> {
        if let Some(job) = &mut self.job {
            let done = job.await;
            self.job = None;
            self.mark = done?;
            self.note();
        }
        Ok(())
    }

    /// The digest of all there is up to here. There must be no other thread that has to do with it: [`Hashing::wait`].
    pub(super) fn mark(&mut self) -> &Mark {
        debug_assert!(self.job.is_none(), "another thread has what comes first");
        self.mark = hash(self.mark.clone(), std::mem::take(&mut self.batch));
        self.size = 0;
        &self.mark
    }

    /// As [`Hashing::mark`], at the end of all.
    pub(super) fn end(&mut self) -> Mark {
        let mark = self.mark().clone();
        self.passed.push(mark.clone());
        mark
    }

    /// Places passed since the last time, from which a broken upload can be gone on with.
    pub(super) fn passed(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.passed)
    }

    fn note(&mut self) {
        if self.passed.last().map_or(0, |last| last.offset) + NOTED_EVERY <= self.mark.offset {
            self.passed.push(self.mark.clone());
        }
    }
}

fn hash(mut mark: Mark, batch: Vec<Bytes>) -> Mark {
    for piece in batch {
        mark.hasher.update(&piece);
        mark.offset += piece.len() as u64;
    }
    mark
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use transship_model::Digest;

    use super::*;
    use crate::digest::Hasher;

    fn start() -> Hashing {
        Hashing::from(Mark { offset: 0, hasher: Hasher::like(&Digest::of(b"")) })
    }

    fn content() -> Bytes {
        let mut content = vec![0; 10_000_000];
        fastrand::Rng::with_seed(1).fill(&mut content);
        content.into()
    }

    fn assert_right(mark: &Mark, content: &[u8]) {
        let offset = usize::try_from(mark.offset).unwrap();
        assert!(mark.hasher.clone().is(&Digest::of(&content[..offset])), "{offset}");
    }

    #[tokio::test]
    async fn at_every_place_the_digest_is_of_all_that_is_before() {
        let content = content();
        for size in [1000, 65_537, 3 << 20] {
            let (mut hashing, mut offset, mut passed) = (start(), 0, Vec::new());
            for (n, piece) in content.chunks(size).enumerate() {
                hashing.room().await.unwrap();
                hashing.push(content.slice_ref(piece));
                offset += piece.len() as u64;
                if n % 1111 == 37 {
                    hashing.wait().await.unwrap();
                    let mark = hashing.mark();
                    assert_eq!(mark.offset, offset);
                    assert_right(mark, &content);
                }
                passed.append(&mut hashing.passed());
            }
            hashing.wait().await.unwrap();
            let end = hashing.end();
            assert_eq!(end.offset, content.len() as u64);
            passed.append(&mut hashing.passed());
            assert!(passed.len() > 2, "places on the way, and the end");
            passed.iter().for_each(|mark| assert_right(mark, &content));
        }
    }

    #[tokio::test]
    async fn waits_that_are_dropped_lose_nothing_and_memory_is_bounded() {
        let (content, mut hashing) = (content(), start());
        for piece in content.chunks(50_000) {
            while hashing.room().now_or_never().is_none() {
                tokio::task::yield_now().await;
            }
            hashing.push(content.slice_ref(piece));
            assert!(hashing.size < BATCH + piece.len());
        }
        while hashing.wait().now_or_never().is_none() {
            tokio::task::yield_now().await;
        }
        assert_right(&hashing.end(), &content);
        // However small they are.
        for piece in content.chunks(1).take(10_000) {
            hashing.room().await.unwrap();
            hashing.push(content.slice_ref(piece));
            assert!(hashing.batch.len() <= PIECES);
        }
    }
}
