//! Bringing one blob to the target: find it there, mount it, or upload it.

use std::time::Duration;

use tokio::sync::SemaphorePermit;
use transship_model::Reference;

use super::{Bounds, Copier, Endpoint, Limits, Moved, Progress, memory::Belief, upload::Transfer};
use crate::{
    Descriptor, Error,
    registry::{UploadStart, at},
};

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
        bounds: &Bounds<'_>,
        progress: &dyn Progress,
    ) -> Result<Moved, Error> {
        let (registry, repository, digest) = (&target.registry, &target.repository, &blob.digest);
        let interrupted = || {
            let problem = "there was no time to begin with it";
            target.failure("bringing", &Reference::Digest(digest.clone()), problem).interrupted(0, blob.size)
        };
        if bounds.are_over_after(Duration::ZERO) {
            return Err(interrupted());
        }
        let what = if registry.refuses_mounts() { at(repository, digest) } else { digest.to_string() };
        let _turn = bounds.wait(self.memory.turn(registry, &what)).await.ok_or_else(interrupted)?;

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
        let transfer = Transfer::new(source, target, &blob, bounds, progress);
        let permits = bounds.wait(self.permits(target, &blob)).await.ok_or_else(interrupted)?;
        let saved = transfer.run(begun).await?;
        drop(permits);
        self.memory.saw(target, digest);
        Ok(Moved { blobs_copied: 1, bytes_moved: blob.size - saved, bytes_saved: saved, ..Moved::default() })
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

    /// What an upload takes of the process's limits.
    async fn permits(&self, target: &Endpoint, blob: &Descriptor) -> [Option<SemaphorePermit<'_>>; 2] {
        let memory = target.registry.strategy().memory(blob.size).max(blob.size.min(Limits::BUFFERED as u64));
        let weight = usize::try_from(memory).unwrap_or(usize::MAX).min(self.limits.bytes_in_flight);
        let weight = u32::try_from(weight >> 10).unwrap_or(u32::MAX).max(1);
        // In this order for everybody, or two could wait for each other. The semaphores are never closed; if they were, nothing
        // would be limited and nothing lost.
        let blob = self.blobs.acquire().await.ok();
        [blob, self.kibibytes.acquire_many(weight).await.ok()]
    }
}
