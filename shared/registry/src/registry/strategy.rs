//! How a registry takes the content of a blob. No one way suits all; each is described where it is chosen.

use transship_model::Kind;

use super::Registry;

/// A way to upload a blob. Whatever it is, a blob of up to [`Strategy::in_one`] bytes goes with the `PUT` that ends the session:
/// that saves a round trip, and nobody has been seen to refuse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// Few long `PATCH`es, streamed: nothing is kept in memory, and a round trip is rare.
    Stream,
    /// `PATCH`es of so many bytes, each from memory: read the next while this one is written.
    Chunks(usize),
    /// All of it in one `PUT`.
    Whole,
}

const MIB: usize = 1 << 20;
/// What fits ECR, which takes chunks of 5 to 10 MiB, and ACR, which takes no more than about 20 MB at once.
pub(crate) const CHUNK: usize = 8 * MIB;
/// What fits GHCR, which answers 416 to more.
const SMALL_CHUNK: usize = 4 * MIB;
/// The greatest chunk that is kept in memory because a registry asks for chunks of some size at least.
const MAX_CHUNK: usize = 16 * MIB;
/// A streamed `PATCH` ends after so many bytes. Where a session outlives a broken `PATCH` but not what it carried, this is the most
/// that is sent again; at 400 Mbit/s and 80 ms a round trip for each costs 3 %.
pub(crate) const PART: u64 = 128 << 20;

impl Strategy {
    /// What to begin with.
    pub(crate) fn of(kind: Kind) -> Self {
        match kind {
            Kind::Ecr | Kind::Acr => Self::Chunks(CHUNK),
            Kind::Ghcr => Self::Chunks(SMALL_CHUNK),
            Kind::Google => Self::Whole,
            // Distribution and what is built on it or takes what Docker's own client sends: a long PATCH.
            Kind::Distribution | Kind::Harbor | Kind::Quay | Kind::DockerHub | Kind::Gitlab | Kind::Oci => Self::Stream,
        }
    }

    /// What to try where this is refused: smaller pieces, at last none.
    pub(crate) fn next(self) -> Option<Self> {
        match self {
            Self::Stream => Some(Self::Chunks(CHUNK)),
            Self::Chunks(size) if size > SMALL_CHUNK => Some(Self::Chunks(SMALL_CHUNK)),
            Self::Chunks(_) => Some(Self::Whole),
            Self::Whole => None,
        }
    }

    /// The same with chunks of at least so many bytes: `OCI-Chunk-Min-Length`. More than memory is meant for is streamed.
    pub(crate) fn at_least(self, bytes: u64) -> Self {
        match self {
            Self::Chunks(size) if bytes > size as u64 => match usize::try_from(bytes) {
                Ok(bytes) if bytes <= MAX_CHUNK => Self::Chunks(bytes),
                _ => Self::Stream,
            },
            other => other,
        }
    }

    /// The greatest blob that goes with the `PUT`.
    pub(crate) fn in_one(self) -> u64 {
        match self {
            Self::Stream => SMALL_CHUNK as u64,
            // A chunk would be the whole blob.
            Self::Chunks(size) => size as u64,
            Self::Whole => u64::MAX,
        }
    }

    /// How much of a blob of this size is in memory at the same time, besides what sockets and HTTP buffer.
    pub(crate) fn memory(self, size: u64) -> u64 {
        match self {
            // One is being written while the next is being read.
            Self::Chunks(chunk) if size > chunk as u64 => size.min(2 * chunk as u64),
            _ => 0,
        }
    }
}

impl Registry {
    /// How this registry takes blobs: as its host has been found to, or as its kind does.
    pub(crate) fn strategy(&self) -> Strategy {
        let kind = match self.kind() {
            Kind::Oci => self.0.endpoint.host_str().and_then(Kind::of_host).unwrap_or_default(),
            kind => kind,
        };
        self.0.host.strategy().unwrap_or_else(|| Strategy::of(kind))
    }

    /// A blob has got there in a way that is not the one tried first.
    pub(crate) fn learn_strategy(&self, strategy: Strategy) {
        if self.strategy() != strategy {
            tracing::info!(registry = self.name(), ?strategy, "learnt how it takes blobs");
            self.0.host.learn_strategy(strategy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_leads_to_one_put() {
        for kind in Kind::ALL {
            let mut strategy = Strategy::of(kind);
            for _ in 0..4 {
                strategy = strategy.next().unwrap_or(strategy);
            }
            assert_eq!(strategy, Strategy::Whole, "{kind}");
        }
    }

    #[test]
    fn chunks_grow_to_what_a_registry_asks_for_within_memory() {
        assert_eq!(Strategy::Chunks(CHUNK).at_least(1), Strategy::Chunks(CHUNK));
        assert_eq!(Strategy::Chunks(SMALL_CHUNK).at_least(5 << 20), Strategy::Chunks(5 << 20));
        assert_eq!(Strategy::Chunks(CHUNK).at_least(1 << 40), Strategy::Stream);
        assert_eq!(Strategy::Stream.at_least(1 << 40), Strategy::Stream);
        assert_eq!(Strategy::Chunks(CHUNK).memory(1 << 40), 2 * CHUNK as u64);
    }
}
