//! What workers of all processes know of each other's uploads, as the copy engine asks for it.
//!
//! None of it is needed for a copy to be right. Where the table does not answer, bytes are sent that might have been spared.

use async_trait::async_trait;
use transship_model::Digest;
use transship_registry::{Checkpoint, Checkpoints, Endpoint, Lease, Leases};
use transship_state::{LeaseAnswer, StateError, Uploads};

pub(crate) struct Shared(pub(crate) Uploads);

#[async_trait]
impl Checkpoints for Shared {
    async fn load(&self, target: &Endpoint, digest: &Digest) -> Option<Checkpoint> {
        let found = self.0.checkpoint(target.registry.origin(), &target.repository, digest).await;
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, %digest, "a checkpoint can't be read; the upload starts again");
            None
        })
    }

    async fn save(&self, target: &Endpoint, digest: &Digest, checkpoint: &Checkpoint) {
        noted(self.0.keep(target.registry.origin(), &target.repository, digest, checkpoint).await);
    }

    async fn clear(&self, target: &Endpoint, digest: &Digest) {
        noted(self.0.forget(target.registry.origin(), &target.repository, digest).await);
    }
}

#[async_trait]
impl Leases for Shared {
    async fn take(&self, target: &Endpoint, what: &str) -> Lease {
        match self.0.take(target.registry.origin(), &target.repository, what).await {
            Ok(LeaseAnswer::Taken) => Lease::Taken,
            Ok(LeaseAnswer::Busy) => Lease::Busy,
            Ok(LeaseAnswer::Brought(repository)) => Lease::Brought(repository),
            Err(error) => {
                tracing::warn!(%error, what, "a lease can't be had; others may send the same");
                Lease::Taken
            }
        }
    }

    async fn give_back(&self, target: &Endpoint, what: &str, brought: bool) {
        noted(self.0.give_back(target.registry.origin(), &target.repository, what, brought).await);
    }
}

fn noted(written: Result<(), StateError>) {
    if let Err(error) = written {
        tracing::warn!(%error, "an upload's state can't be written; some of it may be sent again");
    }
}
