//! Bringing one blob to the target: find it there, mount it, or upload it.

use std::time::Duration;

use tokio::{
    join,
    sync::{OwnedSemaphorePermit, SemaphorePermit},
};
use transship_model::{Reference, Repository};

use super::{BUFFERED, BYTES_IN_FLIGHT, Copier, Moved, Way, bounds::Answer, memory::Belief, upload::Transfer};
use crate::{
    Descriptor, Error,
    registry::{Blob, Upload, UploadStart, at},
};

/// From this size on a blob is worth asking all other processes for a turn, which costs two writes of the table. In one process even the smallest
/// blob is in flight once.
const LEASED: u64 = 1 << 20;
/// Up to this size a blob is asked for at the source while the target is asked whether it has it: it saves a round trip, and where
/// the target has it, what is thrown away is not worth a word.
const PREFETCHED: u64 = 256 << 10;
/// Up to this size it saves a round trip worth saving to begin the upload with the same request that asks whether it is needed.
const SMALL: u64 = 4 << 20;

/// Where a blob that the target may have was found.
enum Found {
    /// In its place a short time ago: it is not asked for again, and not believed for longer because of that.
    Remembered,
    /// In its place.
    Present,
    /// In another repository, and it is in its place now.
    Mounted,
    /// Nowhere. Asking to mount it may have begun an upload, and the source may have begun to send it.
    Nowhere(Option<Box<Upload>>, Option<Opened>),
}

/// A blob that the source has begun to send, and its place among those.
type Opened = (Box<Blob>, OwnedSemaphorePermit);

impl Copier {
    /// Brings a blob to the target, whichever way costs least.
    ///
    /// Whoever needs a blob takes its turn: of several copies that need the same one at the same registry, the first uploads it
    /// and the others mount it from there. Where mounts are refused there is nothing to wait for, and the turn is the
    /// repository's alone. No permit is held while waiting for a turn, so that copies wait for each other but never in a circle.
    /// For other processes nobody waits here: [`Error::Busy`].
    pub(super) async fn blob(&self, way: &Way<'_>, blob: &Descriptor, belief: Belief) -> Result<Moved, Error> {
        let Way { target, bounds, .. } = *way;
        let (registry, digest) = (&target.registry, &blob.digest);
        let interrupted = || {
            let problem = "there was no time to begin with it";
            target.failure("bringing", &Reference::Digest(digest.clone()), problem).interrupted(0, blob.size)
        };
        if bounds.are_over_after(Duration::ZERO) {
            return Err(interrupted());
        }
        let what = if registry.refuses_mounts() { at(&target.repository, digest) } else { digest.to_string() };
        let _turn = bounds.wait(self.memory.turn(registry, &what)).await.ok_or_else(interrupted)?;

        let (mut begun, opened) = match self.find(way, blob, belief).await? {
            Found::Remembered => return Ok(Self::already_there(way, blob)),
            Found::Present => return Ok(self.present(way, blob)),
            Found::Mounted => return Ok(self.mounted(way, blob)),
            Found::Nowhere(begun, opened) => (begun.map(|begun| *begun), opened),
        };
        let lease = if blob.size < LEASED { None } else { Some(bounds.lease(target, &what).await) };
        let held = match lease {
            None => None,
            Some(Answer::Ours(held)) => Some(held),
            Some(Answer::Busy) => {
                self.abandon(way, begun);
                let problem = "another process is bringing it";
                return Err(Error::Busy(Box::new(target.failure("bringing", &Reference::Digest(digest.clone()), problem))));
            }
            // Since we looked. Should it not be mounted from there, it is uploaded once for each repository.
            Some(Answer::Brought(from)) if from == target.repository => {
                if registry.has_this_blob(target.push(), &from, blob).await? {
                    self.abandon(way, begun);
                    return Ok(self.present(way, blob));
                }
                None
            }
            Some(Answer::Brought(from)) => {
                match self.mount(way, blob, &from).await? {
                    Some(UploadStart::Mounted) => {
                        self.abandon(way, begun);
                        return Ok(self.mounted(way, blob));
                    }
                    Some(UploadStart::Begun(another)) => self.abandon(way, begun.replace(another)),
                    None => {}
                }
                None
            }
        };
        let bring = async {
            let transfer = Transfer::new(way.source, target, blob, &bounds, way.progress);
            let permits = bounds.wait(self.permits(way, blob)).await.ok_or_else(interrupted)?;
            // Its place is kept until all of it is there.
            let (opened, _place) = opened.map(|(opened, place)| (*opened, place)).unzip();
            let present = Box::pin(transfer.run(begun, opened)).await?;
            drop(permits);
            Ok(present)
        };
        let present = match held {
            Some(held) => held.during(bring, Result::is_ok).await?,
            None => bring.await?,
        };
        self.memory.saw(target, blob);
        Ok(Moved { blobs_copied: 1, bytes_moved: blob.size - present, bytes_present: present, ..Moved::default() })
    }

    /// Looks for a blob at the target. `HEAD` tells whether it is there; asking to mount it from where it is known to be, or
    /// else from its own repository, tells the same and does the next step as well, whatever it is. Where that is known to work, it is
    /// all that is asked; where it is not known, both are asked side by side.
    async fn find(&self, way: &Way<'_>, blob: &Descriptor, belief: Belief) -> Result<Found, Error> {
        let Way { source, target, .. } = *way;
        let (registry, repository, digest) = (&target.registry, &target.repository, &blob.digest);
        if belief == Belief::Memory && self.memory.has(target, blob) {
            return Ok(Found::Remembered);
        }
        let look = registry.has_this_blob(target.push(), repository, blob);
        let elsewhere = self.elsewhere(way, blob);
        let opened = async {
            match elsewhere {
                None if blob.size <= PREFETCHED => {
                    let place = self.opened.clone().try_acquire_owned().ok()?;
                    let blob = source.registry.get_blob(&source.repository, digest).await.ok()?;
                    Some((Box::new(blob), place))
                }
                // It is likely not to be needed.
                _ => None,
            }
        };
        // What a registry has said to be missing is not asked for in a way that it might take for a wish.
        let from = self.mountable(way, blob, elsewhere.as_ref()).filter(|_| belief == Belief::Memory);
        let sure = blob.size <= SMALL && way.empty;
        let Some((from, trusted)) = from else {
            let (there, opened) = join!(async { if sure { Ok(false) } else { look.await } }, opened);
            return Ok(if there? { Found::Present } else { Found::Nowhere(None, opened) });
        };
        let here = elsewhere.is_none();
        let begun_or = |start: Option<UploadStart>| match start {
            Some(UploadStart::Begun(begun)) => Some(Box::new(begun)),
            _ => None,
        };
        if trusted || sure {
            let (start, opened) = join!(self.mount(way, blob, from), opened);
            let start = start?;
            return Ok(match &start {
                Some(UploadStart::Mounted) if !here => Found::Mounted,
                Some(UploadStart::Begun(_)) => Found::Nowhere(begun_or(start), opened),
                None if sure => Found::Nowhere(None, opened),
                // That it is there is not all: of another size it is not this blob.
                said => {
                    let there = look.await?;
                    if said.is_some() {
                        registry.learn_about_own_mounts(there);
                    }
                    if there { Found::Present } else { Found::Nowhere(None, opened) }
                }
            });
        }
        let (there, start, opened) = join!(look, self.mount(way, blob, from), opened);
        let (there, start) = match (there, start) {
            (Ok(there), Ok(start)) => (there, start),
            (Err(error), Ok(start)) => {
                self.abandon(way, begun_or(start).map(|begun| *begun));
                return Err(error);
            }
            (_, Err(error)) => return Err(error),
        };
        let is_mounted = matches!(start, Some(UploadStart::Mounted));
        // That nothing is mounted where nothing is tells nothing.
        if here && start.is_some() && (there || is_mounted) {
            registry.learn_about_own_mounts(there && is_mounted);
        }
        // The look may have come after the mount.
        if is_mounted && !here {
            return Ok(Found::Mounted);
        }
        let begun = begun_or(start);
        if !there {
            return Ok(Found::Nowhere(begun, opened));
        }
        self.abandon(way, begun.map(|begun| *begun));
        Ok(Found::Present)
    }

    /// Another repository of the target's registry that has the blob.
    fn elsewhere(&self, way: &Way<'_>, blob: &Descriptor) -> Option<Repository> {
        let same = way.source.registry.origin() == way.target.registry.origin();
        let known = self.memory.repositories(&way.target.registry, &blob.digest);
        let own = same.then(|| way.source.repository.clone());
        own.into_iter().chain(known).find(|from| *from != way.target.repository)
    }

    /// Where to mount a blob from, if that is worth asking, and whether the answer will tell all.
    fn mountable<'a>(
        &self,
        way: &Way<'a>,
        blob: &Descriptor,
        elsewhere: Option<&'a Repository>,
    ) -> Option<(&'a Repository, bool)> {
        let registry = &way.target.registry;
        if registry.refuses_mounts() {
            return None;
        }
        match (elsewhere, registry.mounts_its_own()) {
            (Some(from), _) => Some((from, registry.mounts() && blob.size <= SMALL)),
            // An upload of something large may have begun long ago, and another would be in its way.
            (None, known) if blob.size <= SMALL && known != Some(false) => Some((&way.target.repository, known.is_some())),
            (None, _) => None,
        }
    }

    /// Tries to mount a blob. Whatever goes wrong, it can be uploaded: Harbor answers 401 where the specification wants 202, Docker
    /// Hub refuses what the token does not cover. Only if the target's own repository is not there, nothing can.
    async fn mount(&self, way: &Way<'_>, blob: &Descriptor, from: &Repository) -> Result<Option<UploadStart>, Error> {
        let Way { target, .. } = *way;
        let here = *from == target.repository;
        let answer = target.registry.mount_blob(&target.repository, &blob.digest, from).await;
        if !here {
            target.registry.learn_about_mounts(matches!(answer, Ok(UploadStart::Mounted)));
        }
        match answer {
            Ok(start) => Ok(Some(start)),
            Err(error) if here && error.failure().has_code("NAME_UNKNOWN") => Err(error),
            Err(error) => {
                if here && !error.is_passing() {
                    target.registry.learn_about_own_mounts(false);
                }
                tracing::debug!(registry = target.registry.name(), %error, "not mounted");
                Ok(None)
            }
        }
    }

    fn present(&self, way: &Way<'_>, blob: &Descriptor) -> Moved {
        self.memory.saw(way.target, blob);
        Self::already_there(way, blob)
    }

    fn already_there(way: &Way<'_>, blob: &Descriptor) -> Moved {
        way.progress.present(blob.size);
        Moved { blobs_present: 1, bytes_present: blob.size, ..Moved::default() }
    }

    fn mounted(&self, way: &Way<'_>, blob: &Descriptor) -> Moved {
        self.memory.saw(way.target, blob);
        way.progress.mounted(blob.size);
        Moved { blobs_mounted: 1, bytes_mounted: blob.size, ..Moved::default() }
    }

    /// Leaves an upload that is not needed, without waiting for it.
    fn abandon(&self, way: &Way<'_>, begun: Option<Upload>) {
        if let Some(begun) = begun {
            let registry = way.target.registry.clone();
            tokio::spawn(async move { registry.abandon_upload(begun).await });
        }
    }

    /// What an upload takes of the process's limits.
    async fn permits(&self, way: &Way<'_>, blob: &Descriptor) -> [Option<SemaphorePermit<'_>>; 2] {
        let memory = way.target.registry.strategy().memory(blob.size).max(blob.size.min(BUFFERED as u64));
        let weight = usize::try_from(memory).unwrap_or(usize::MAX).min(BYTES_IN_FLIGHT);
        let weight = u32::try_from(weight >> 10).unwrap_or(u32::MAX).max(1);
        // In this order for everybody, or two could wait for each other. The semaphores are never closed; if they were, nothing
        // would be limited and nothing lost.
        let blob = self.blobs.acquire().await.ok();
        [blob, self.kibibytes.acquire_many(weight).await.ok()]
    }
}
