//! Digests computed on the way.

use sha2::{Digest as _, Sha256, Sha512};
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
}
