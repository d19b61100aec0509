//! How a registry takes the content of a blob. No one way suits all; each is described where it is chosen.

use std::time::Duration;

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
/// What is streamed with the request that ends its upload, where a registry takes streams: a request less, and distribution does not store
/// the digest's state and read it again. More than this is worth being gone on with when it breaks; ACR takes 20 MB at once.
const IN_ONE: u64 = 16 << 20;
/// The greatest chunk that is kept in memory because a registry asks for chunks of some size at least.
const MAX_CHUNK: usize = 16 * MIB;
/// The first streamed `PATCH` ends after so many bytes, and none that follows is shorter.
pub(crate) const PART: u64 = 128 << 20;
/// The longest streamed `PATCH`: 10 seconds at 400 Mbit/s.
const LONGEST_PART: u64 = 512 << 20;
/// A streamed `PATCH` takes so many times as long as the round trip at its end, in which nothing flows.
const WORTH_A_ROUND_TRIP: u32 = 100;

/// How long the next streamed `PATCH` is to be, after one of so many bytes took so long.
///
/// The end of each costs a round trip: at 400 Mbit/s and 80 ms those of 128 MiB cost 3 %, and these cost 1 %. But its end is also what can be
/// gone on from. A registry whose session outlives a broken `PATCH` without what it carried is sent all of one again, and after a
/// process is killed as much is: so where registries are near, parts stay short. Where a broken `PATCH` is the end of the session
/// (distribution), the whole blob starts again, however long its parts are.
pub(crate) fn part_after(sent: u64, took: Duration, round_trip: Duration) -> u64 {
    let flowed = took.saturating_sub(round_trip).max(Duration::from_millis(1));
    let worth = (round_trip * WORTH_A_ROUND_TRIP).as_secs_f64() / flowed.as_secs_f64() * sent as f64;
    // A float that is too large becomes the largest integer.
    (worth as u64).clamp(PART, LONGEST_PART)
}

impl Strategy {
    /// What to begin with.
    pub(crate) fn of(kind: Kind) -> Self {
        match kind {
            Kind::Ecr | Kind::Acr => Self::Chunks(CHUNK),
            Kind::Ghcr => Self::Chunks(SMALL_CHUNK),
            Kind::Google => Self::Whole,
            // Distribution and what is built on it or takes what Docker's own client sends: a long PATCH.
            Kind::Distribution | Kind::Harbor | Kind::Quay | Kind::DockerHub | Kind::Gitlab | Kind::Tcr | Kind::Oci => {
                Self::Stream
            }
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
            Self::Stream => IN_ONE,
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
        self.0.host.strategy().unwrap_or_else(|| Strategy::of(self.service()))
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
    fn far_away_parts_are_longer() {
        let millis = Duration::from_millis;
        let at_400_mbit = |round_trip| part_after(PART, millis(2684) + round_trip, round_trip);
        assert_eq!(at_400_mbit(millis(1)), PART);
        assert_eq!(at_400_mbit(millis(20)), PART);
        let far = at_400_mbit(millis(80));
        assert!((380 << 20..385 << 20).contains(&far), "{far}");
        assert_eq!(at_400_mbit(millis(300)), LONGEST_PART);
        // Where little flows, even a long way is little.
        assert_eq!(part_after(PART, millis(100_300), millis(300)), PART);
        assert_eq!(part_after(1, Duration::ZERO, Duration::ZERO), PART);
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
