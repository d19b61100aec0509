//! Going on in another process.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use transship_model::Digest;
use url::Url;

use super::{Endpoint, content::Mark};
use crate::{Descriptor, digest::Hasher, registry::Upload};

/// A place in an upload from which any process can go on, because it holds all that is known of it: where the upload is, how much
/// of it the target has, and the digest of that so far. Whoever can read one can write to the upload it names, and to nothing else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    location: Url,
    offset: u64,
    /// The digest's mid-state, in hex.
    state: String,
    #[serde(default)]
    misleading: bool,
    #[serde(default)]
    chunk_min: u64,
}

impl Checkpoint {
    pub(super) fn new(upload: &Upload, mark: &Mark, misleading: bool) -> Self {
        Self {
            location: upload.location().clone(),
            offset: mark.offset,
            state: mark.hasher.save(),
            misleading,
            chunk_min: upload.chunk_min(),
        }
    }

    /// The upload and the place in it; `None` if this is not about such a blob, or is damaged.
    pub(super) fn restore(self, target: &Endpoint, blob: &Descriptor) -> Option<(Upload, Mark, bool)> {
        let hasher = Hasher::restore(&blob.digest, &self.state)?;
        let upload = Upload::at(self.location, target.repository.clone(), blob.digest.clone(), self.chunk_min);
        (self.offset <= blob.size).then_some((upload, Mark { offset: self.offset, hasher }, self.misleading))
    }

    /// How many bytes the target has acknowledged.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the location, whose query may be a signature.
        f.debug_struct("Checkpoint").field("offset", &self.offset).finish_non_exhaustive()
    }
}

/// Where checkpoints are kept, each by the repository that a blob goes to and by its digest. None of them is needed: what can't be
/// saved or loaded is sent again, so an implementation that fails says so in its log and goes on.
#[async_trait]
pub trait Checkpoints: Send + Sync {
    /// The newest that was saved and not cleared.
    async fn load(&self, target: &Endpoint, digest: &Digest) -> Option<Checkpoint>;
    /// Keeps one in place of the one before. Called whenever the target has acknowledged something, so that a process that is killed
    /// loses no more than what was under way.
    async fn save(&self, target: &Endpoint, digest: &Digest, checkpoint: &Checkpoint);
    /// Forgets it: the blob is there, or the upload is no more.
    async fn clear(&self, target: &Endpoint, digest: &Digest);
}
