//! Digests computed on the way.

use sha2::{
    Digest as _, Sha256, Sha512,
    digest::common::hazmat::{SerializableState, SerializedState},
};
use transship_model::{Digest, names::hex};

/// A digest that is being computed with the algorithm of the one that is expected.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn like(expected: &Digest) -> Self {
        match expected.algorithm() {
            "sha512" => Self::Sha512(Sha512::new()),
            _ => Self::Sha256(Sha256::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The state after what has been read, in hex, to go on with in another process.
    pub(crate) fn save(&self) -> String {
        match self {
            Self::Sha256(hasher) => hex(&SerializableState::serialize(hasher)),
            Self::Sha512(hasher) => hex(&SerializableState::serialize(hasher)),
        }
    }

    /// The state that was saved on the way to a digest; `None` if it is none.
    pub(crate) fn restore(expected: &Digest, saved: &str) -> Option<Self> {
        fn state<H: SerializableState>(saved: &str) -> Option<H> {
            let digits: Option<Vec<u32>> = saved.chars().map(|digit| digit.to_digit(16)).collect();
            let bytes: Option<Vec<u8>> = digits?.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair.get(1)?).ok()).collect();
            H::deserialize(&SerializedState::<H>::try_from(bytes?.as_slice()).ok()?).ok()
        }
        match expected.algorithm() {
            "sha512" => state(saved).map(Self::Sha512),
            _ => state(saved).map(Self::Sha256),
        }
    }

    /// Whether all that was read has this digest.
    pub(crate) fn is(self, expected: &Digest) -> bool {
        let (algorithm, bytes) = match self {
            Self::Sha256(hasher) => ("sha256", hasher.finalize().to_vec()),
            Self::Sha512(hasher) => ("sha512", hasher.finalize().to_vec()),
        };
        algorithm == expected.algorithm() && hex(&bytes) == expected.hex()
    }
}

/// Whether these bytes have this digest.
pub(crate) fn verify(bytes: &[u8], expected: &Digest) -> bool {
    let mut hasher = Hasher::like(expected);
    hasher.update(bytes);
    hasher.is(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_algorithms_are_checked() {
        assert!(verify(b"x", &Digest::of(b"x")));
        assert!(!verify(b"y", &Digest::of(b"x")));
        let sha512: Digest = format!("sha512:{}", hex(&Sha512::digest(b"x"))).parse().unwrap();
        assert!(verify(b"x", &sha512));
        assert!(!verify(b"y", &sha512));
    }

    #[test]
    fn a_digest_goes_on_from_where_it_was_saved() {
        let sha512: Digest = format!("sha512:{}", hex(&Sha512::digest(b"one two"))).parse().unwrap();
        for digest in [Digest::of(b"one two"), sha512] {
            let mut hasher = Hasher::like(&digest);
            hasher.update(b"one ");
            let mut hasher = Hasher::restore(&digest, &hasher.save()).unwrap();
            hasher.update(b"two");
            assert!(hasher.is(&digest));
            for damaged in ["", "0", "xy", "00"] {
                assert!(Hasher::restore(&digest, damaged).is_none());
            }
        }
    }
}
