//! The copy engine.
//!
//! A copy is four steps, which a caller may take one by one to look again in between:
//!
//! 1. [`Copier::resolve`]: what the source's reference points to, byte for byte.
//! 2. [`Copier::content`]: everything that it refers to is brought to the target, children first. Nothing of it can be seen there
//!    by a tag yet.
//! 3. [`Copier::publish`]: the manifest itself is put, by tag. From here on the copy can be seen, whole.
//! 4. [`Copier::attachments`]: what refers to it (signatures, SBOMs, attestations) follows.
//!
//! [`Copier::copy`] takes them all, and [`Copier::copy_all`] does so for each tag of a repository. Each future may be dropped at any time: what is at the target then is either whole or
//! cannot be seen by a tag.

mod attachments;
mod bounds;
mod by_hand;
mod checkpoint;
mod content;
mod graph;
mod memory;
mod transfer;
mod upload;

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Semaphore;
use transship_model::{ArtifactType, Digest, Reference, Repository, Tag};

use self::memory::{Belief, Memory};
pub use self::{
    attachments::Attached,
    bounds::{Bounds, Lease, Leases},
    by_hand::{Options, Outcome, Tagged},
    checkpoint::{Checkpoint, Checkpoints},
};
use crate::{
    Descriptor, Error, Failure, Manifest, Registry,
    auth::Scope,
    manifest::{Content, Parsed},
    registry::place,
};

/// A repository of a registry: where a copy comes from or goes to.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The registry.
    pub registry: Registry,
    /// The repository in it.
    pub repository: Repository,
}

impl Endpoint {
    /// A repository of a registry.
    pub fn new(registry: &Registry, repository: Repository) -> Self {
        Self { registry: registry.clone(), repository }
    }

    /// The scope of everything that is done at a target: reading it with the token for writing saves fetching another.
    fn push(&self) -> Scope {
        Scope::Push(self.repository.clone())
    }

    fn failure(&self, action: &str, reference: &Reference, problem: impl Into<String>) -> Failure {
        Failure::new(self.registry.name(), format!("{action} {}", place(&self.repository, reference)), problem)
    }
}

/// What a reference points to at the source.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The manifest's media type, digest and size.
    pub descriptor: Descriptor,
    /// The manifest, byte for byte.
    pub bytes: Bytes,
    /// What kind of artifact it is.
    pub artifact: ArtifactType,
    parsed: Parsed,
    /// Manifests below it that had to be read to tell its kind: they are not read again.
    below: Vec<Manifest>,
}

impl Resolved {
    /// The manifest's digest.
    pub fn digest(&self) -> &Digest {
        &self.descriptor.digest
    }

    /// What it is attached to, if to anything.
    pub fn subject(&self) -> Option<&Digest> {
        self.parsed.subject.as_ref()
    }

    /// The manifest as it is put.
    pub fn manifest(&self) -> Manifest {
        Manifest { descriptor: self.descriptor.clone(), bytes: self.bytes.clone() }
    }
}

/// What was done to bring content to a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes of blobs that were transferred.
    pub bytes_moved: u64,
    /// Bytes of blobs that were mounted from another repository of the target.
    pub bytes_mounted: u64,
    /// Bytes of blobs that were there already, or that an earlier try had brought.
    pub bytes_present: u64,
    /// Blobs transferred.
    pub blobs_copied: u32,
    /// Blobs mounted from another repository of the target.
    pub blobs_mounted: u32,
    /// Blobs that were there. Those of a child that was there whole are not looked at, and not counted.
    pub blobs_present: u32,
    /// Manifests put.
    pub manifests: u32,
}

impl std::ops::AddAssign for Moved {
    fn add_assign(&mut self, other: Self) {
        self.bytes_moved += other.bytes_moved;
        self.bytes_mounted += other.bytes_mounted;
        self.bytes_present += other.bytes_present;
        self.blobs_copied += other.blobs_copied;
        self.blobs_mounted += other.blobs_mounted;
        self.blobs_present += other.blobs_present;
        self.manifests += other.manifests;
    }
}

impl Moved {
    /// Bytes of blobs that did not have to be transferred.
    pub fn bytes_saved(&self) -> u64 {
        self.bytes_mounted + self.bytes_present
    }
}

/// Is told how far a copy has come, in bytes of blobs. Calls are frequent and must be quick.
pub trait Progress: Send + Sync {
    /// So much more is to be looked at.
    fn planned(&self, _bytes: u64) {}
    /// So much has been transferred.
    fn moved(&self, _bytes: u64) {}
    /// So much is mounted from another repository of the target.
    fn mounted(&self, _bytes: u64) {}
    /// So much is there already.
    fn present(&self, _bytes: u64) {}
    /// So much of what has been transferred counts no more: the blob starts again.
    fn lost(&self, _bytes: u64) {}
    /// So much of what was there already counts no more: it has to be transferred after all.
    fn absent(&self, _bytes: u64) {}
}

/// Nobody wants to know.
impl Progress for () {}

/// From where to where something is brought, within which bounds, and who is told how far it has come.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// Where it is.
    pub source: &'a Endpoint,
    /// Where it goes.
    pub target: &'a Endpoint,
    /// How long it may take, and what is shared with other processes.
    pub bounds: Bounds<'a>,
    /// Who is told.
    pub progress: &'a dyn Progress,
    /// Whether the target's repository has no tags: then it is taken to hold nothing, and asked no more than is needed to find out if it
    /// does.
    empty: bool,
    /// The source's tags, where they have been listed: what is not among them is not asked for.
    listed: Option<&'a Listed>,
}

/// All tags of a repository.
#[derive(Debug, Default)]
struct Listed {
    tags: HashSet<Tag>,
    /// Whether signatures or the like are among them.
    attachments: bool,
}

impl Listed {
    fn extend(&mut self, tags: Vec<Tag>) {
        self.attachments |= tags.iter().any(|tag| tag.subject().is_some());
        self.tags.extend(tags);
    }
}

impl<'a> Way<'a> {
    /// A way without bounds.
    pub fn new(source: &'a Endpoint, target: &'a Endpoint, progress: &'a dyn Progress) -> Self {
        Self { source, target, bounds: Bounds::default(), progress, empty: false, listed: None }
    }

    /// The same where the source's tags are known to hold no signature or the like.
    pub fn without_attachment_tags(self) -> Self {
        static NONE: LazyLock<Listed> = LazyLock::new(Listed::default);
        Self { listed: Some(&NONE), ..self }
    }

    /// The same within bounds.
    pub fn within(self, bounds: Bounds<'a>) -> Self {
        Self { bounds, ..self }
    }
}

/// How many blobs are in transfer at the same time, in all copies of the process.
const TRANSFERS: usize = 16;
/// How many bytes of them are in memory at the same time: a large blob counts with [`BUFFERED`], or with two chunks where the target takes
/// chunks, a small one with its size, so that many small ones go side by side and few large ones.
const BYTES_IN_FLIGHT: usize = 32 << 20;
/// The most that a blob in transfer has in memory: what sockets and HTTP buffer on both sides. Generously rounded up.
const BUFFERED: usize = 4 << 20;
/// How many manifests are read or looked for at the same time.
const MANIFESTS_AT_ONCE: usize = 8;
/// How many blobs of one copy are looked for at the same time; transfers have limits of their own.
const BLOBS_AT_ONCE: usize = 32;

/// Copies artifacts. One lives as long as the process: it remembers which blobs are where, and sees to it that copies which run
/// at the same time transfer a common layer once.
#[derive(Debug)]
pub struct Copier {
    memory: Memory,
    /// One for each blob in transfer.
    blobs: Semaphore,
    /// One for each small blob that the source has been asked for before anybody knew whether it is needed.
    opened: Arc<Semaphore>,
    /// One for each KiB in flight.
    kibibytes: Semaphore,
}

impl Default for Copier {
    /// A copier that remembers nothing yet.
    fn default() -> Self {
        Self {
            memory: Memory::default(),
            blobs: Semaphore::new(TRANSFERS),
            opened: Arc::new(Semaphore::new(TRANSFERS)),
            kibibytes: Semaphore::new(BYTES_IN_FLIGHT >> 10),
        }
    }
}

impl Copier {
    /// What a reference points to; `None` if the source does not have it.
    ///
    /// # Errors
    /// [`Error::Schema1`] for Docker schema 1, [`Error::Refused`] for what is no manifest; otherwise see [`Error`].
    pub async fn resolve(&self, source: &Endpoint, reference: &Reference) -> Result<Option<Resolved>, Error> {
        let Some(read) = self.read(source, reference).await? else { return Ok(None) };
        let (artifact, below) = self.kind_of(source, &read.parsed).await?;
        Ok(Some(Resolved { artifact, below, ..read }))
    }

    /// As [`Copier::resolve`], where nobody wants to know what kind of artifact an index is.
    async fn read(&self, source: &Endpoint, reference: &Reference) -> Result<Option<Resolved>, Error> {
        let Some(Manifest { descriptor, bytes }) = source.registry.get_manifest(&source.repository, reference).await? else {
            return Ok(None);
        };
        let parsed = parse(source, reference, &bytes)?;
        self.memory.learn_children(&descriptor.digest, &parsed);
        let artifact = parsed.artifact();
        Ok(Some(Resolved { descriptor, bytes, artifact, parsed, below: Vec::new() }))
    }

    /// Brings everything that a manifest refers to to the target, but not the manifest itself. What has been sent when the time is over
    /// is kept by the target, and noted in a [`Checkpoint`]: the next call, in whichever process, goes on at that byte.
    ///
    /// # Errors
    /// [`Error::Refused`] if the source lacks something or has it with another digest or size, and for a blob that the target takes
    /// in one request only, and that did not get there although it had most of the time. [`Error::Interrupted`] says how far it has come when
    /// the time was over, at most [`Bounds::ENDING`] later. [`Error::Busy`] if another process is at work on what is left.
    /// Otherwise see [`Error`].
    pub async fn content(&self, way: &Way<'_>, resolved: &Resolved) -> Result<Moved, Error> {
        match self.walk(way, resolved, Belief::Memory).await {
            Err(error) if misses_content(way.target, &error) => {
                self.forget(way.target, &error);
                self.walk(way, resolved, Belief::None).await
            }
            other => other,
        }
    }

    /// Puts the manifest, by tag or by its digest. If the target then misses something, what was believed about it is
    /// forgotten, everything is checked, and it is put once more.
    ///
    /// # Errors
    /// [`Error::Immutable`] if the tag can't be moved; otherwise see [`Error`].
    pub async fn publish(&self, way: &Way<'_>, resolved: &Resolved, reference: &Reference) -> Result<Moved, Error> {
        let target = way.target;
        if matches!(reference, Reference::Digest(digest) if digest != resolved.digest()) {
            let problem = format!("{} can't be put under another digest", resolved.digest());
            return Err(target.failure("putting", reference, problem).refused());
        }
        let manifest = resolved.manifest();
        let mut moved = Moved { manifests: 1, ..Moved::default() };
        match self.put(way, reference, &manifest, &resolved.parsed).await {
            Err(error) if misses_content(target, &error) => {
                self.forget(target, &error);
                moved += self.walk(way, resolved, Belief::None).await?;
                self.put(way, reference, &manifest, &resolved.parsed).await?;
            }
            other => other?,
        }
        Ok(moved)
    }

    /// The walk: which manifests below this one does the target lack, which blobs do these need; blobs first, then the
    /// manifests, children before their parents.
    async fn walk(&self, way: &Way<'_>, resolved: &Resolved, belief: Belief) -> Result<Moved, Error> {
        let target = way.target;
        target.registry.ensure_namespace(&target.repository).await?;
        let graph = self.missing(way, resolved, belief).await?;
        let blobs = graph.blobs();
        let planned = blobs.iter().map(|blob| blob.size).sum();
        way.progress.planned(planned);

        let mut bring = Bring { moved: Moved::default(), busy: Vec::new(), interrupted: None };
        bring.all(self, way, blobs, belief).await?;
        // The others first; by now what another process was at work on may be there.
        if !bring.busy.is_empty() && bring.interrupted.is_none() {
            let busy = std::mem::take(&mut bring.busy);
            bring.all(self, way, busy, belief).await?;
        }
        let Bring { mut moved, busy, interrupted } = bring;
        let reference = Reference::Digest(resolved.digest().clone());
        if let Some(under_way) = interrupted {
            let done = moved.bytes_moved + moved.bytes_saved() + under_way;
            let problem = format!("the time was over after {done} of {planned} bytes");
            return Err(target.failure("bringing", &reference, problem).interrupted(done, planned));
        }
        if let Some(blob) = busy.first() {
            let problem = format!("another process is at work on {} of its blobs, among them {}", busy.len(), blob.digest);
            return Err(Error::Busy(Box::new(target.failure("bringing", &reference, problem))));
        }

        for batch in graph.children_first() {
            moved.manifests += u32::try_from(batch.len()).unwrap_or(u32::MAX);
            stream::iter(batch)
                .map(|node| async move {
                    let reference = Reference::Digest(node.manifest.descriptor.digest.clone());
                    self.put(way, &reference, &node.manifest, &node.parsed).await?;
                    self.memory.saw(target, &node.manifest.descriptor);
                    Ok(())
                })
                .buffer_unordered(MANIFESTS_AT_ONCE)
                .try_collect::<()>()
                .await?;
        }
        Ok(moved)
    }

    /// Puts a manifest and, if it refers to another and the target does not list it by itself, lists it there.
    async fn put(&self, way: &Way<'_>, reference: &Reference, manifest: &Manifest, parsed: &Parsed) -> Result<(), Error> {
        let target = way.target;
        let outcome = target.registry.put_manifest(&target.repository, reference, manifest).await?;
        match &parsed.subject {
            Some(subject) if outcome.subject.is_none() && !target.registry.has_referrers_api() => {
                self.add_to_referrers_tag(way, subject, parsed.as_referrer(manifest)).await
            }
            _ => Ok(()),
        }
    }

    fn forget(&self, target: &Endpoint, error: &Error) {
        tracing::info!(registry = target.registry.name(), %error, "checking everything at the target");
        self.memory.forget(&target.registry);
    }

    /// An image, a chart or something else: what the manifest's config says, and an index is what its first child is that is
    /// one of the former. Also the manifests that had to be read for it.
    async fn kind_of(&self, source: &Endpoint, parsed: &Parsed) -> Result<(ArtifactType, Vec<Manifest>), Error> {
        let mut read = Vec::new();
        let mut at_hand = parsed.clone();
        for _ in 0..graph::MAX_DEPTH {
            let Content::Index(_) = &at_hand.content else { break };
            let Some(child) = at_hand.children().find(|child| !child.is_note()) else { break };
            let reference = Reference::Digest(child.digest.clone());
            // That a child is missing is found, and reported, by the walk.
            let Some(manifest) = source.registry.get_manifest(&source.repository, &reference).await? else { break };
            at_hand = parse(source, &reference, &manifest.bytes)?;
            read.push(manifest);
        }
        Ok((at_hand.artifact(), read))
    }
}

/// Blobs on their way to the target.
struct Bring {
    moved: Moved,
    /// Those that another process is at work on.
    busy: Vec<Descriptor>,
    /// The time is over, and so much has come of what was under way then.
    interrupted: Option<u64>,
}

impl Bring {
    async fn all(&mut self, copier: &Copier, way: &Way<'_>, blobs: Vec<Descriptor>, belief: Belief) -> Result<(), Error> {
        let mut transfers = stream::iter(blobs)
            // On the heap: what a transfer holds while it waits is large, and there are many.
            .map(|blob| Box::pin(async move { (copier.blob(way, &blob, belief).await, blob) }))
            .buffer_unordered(BLOBS_AT_ONCE);
        while let Some((one, blob)) = transfers.next().await {
            match one {
                Ok(one) => self.moved += one,
                // The others end as well as this one did: none of them is dropped.
                Err(Error::Interrupted { done, .. }) => *self.interrupted.get_or_insert(0) += done,
                Err(Error::Busy(_)) => self.busy.push(blob),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether it is the target that misses something: the source says the same of what it lacks.
fn misses_content(target: &Endpoint, error: &Error) -> bool {
    error.is_content_unknown() && error.failure().registry() == target.registry.name()
}

/// Understands a manifest of the source.
fn parse(source: &Endpoint, reference: &Reference, bytes: &[u8]) -> Result<Parsed, Error> {
    let parsed = Parsed::read(bytes).map_err(|problem| source.failure("reading", reference, problem).refused())?;
    if parsed.content == Content::Schema1 {
        let failure = source
            .failure("reading", reference, "it is a Docker schema 1 manifest, which current registries do not take")
            .hint("pull and push it with a current client to convert it");
        return Err(Error::Schema1(Box::new(failure)));
    }
    Ok(parsed)
}
