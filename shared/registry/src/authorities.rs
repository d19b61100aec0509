//! Certificate authorities besides the system's.

use std::{fmt, fs, io::Read as _, path::Path, sync::Arc};

use reqwest::{Certificate, Client};
use transship_model::Digest;

use crate::error::network;

/// The largest file that is read, in bytes: the bundle of all public authorities has a quarter of that.
const MAX_SIZE: u64 = 1 << 20;

/// Certificate authorities that may have signed the certificate of a registry, besides those that the system trusts. Cloning is
/// cheap.
#[derive(Clone)]
pub struct Authorities(Arc<Bundle>);

struct Bundle {
    certificates: Vec<Certificate>,
    digest: Digest,
}

/// Why there are no certificates of authorities.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthorities {
    /// The file can't be read: here and now, which says nothing about what is in it.
    #[error("{0}")]
    Unreadable(String),
    /// It holds none that can be used.
    #[error("{0}")]
    Invalid(String),
}

impl Authorities {
    /// Reads a file with one or more certificates in PEM form (RFC 7468).
    ///
    /// # Errors
    /// [`InvalidAuthorities`] says what is wrong with it, and how to mend it.
    pub fn read(path: &Path) -> Result<Self, InvalidAuthorities> {
        let mut pem = Vec::new();
        fs::File::open(path)
            .and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut pem))
            .map_err(|error| InvalidAuthorities::Unreadable(format!("the file {} can't be read: {error}", path.display())))?;
        let invalid = |problem| InvalidAuthorities::Invalid(format!("the file {}: {problem}", path.display()));
        Self::from_pem(&pem).map_err(invalid)
    }

    /// Takes one or more certificates in PEM form.
    ///
    /// # Errors
    /// [`InvalidAuthorities`] says what is wrong with them.
    pub fn from_pem(pem: &[u8]) -> Result<Self, InvalidAuthorities> {
        const WANTED: &str = "one or more certificates are needed, as text that begins with -----BEGIN CERTIFICATE----- (openssl \
                              x509 -inform der makes it of a .der or .cer file)";
        if pem.len() as u64 > MAX_SIZE {
            return Err(InvalidAuthorities::Invalid(format!("larger than {} MiB: {WANTED}", MAX_SIZE >> 20)));
        }
        let certificates = Certificate::from_pem_bundle(pem)
            .map_err(|_| InvalidAuthorities::Invalid(format!("what is between BEGIN and END is not whole: {WANTED}")))?;
        if certificates.is_empty() {
            return Err(InvalidAuthorities::Invalid(format!("no certificate is in it: {WANTED}")));
        }
        // They are first looked into when a client is made of them.
        if let Err(error) = Client::builder().tls_certs_only(certificates.clone()).build() {
            return Err(InvalidAuthorities::Invalid(format!("a certificate in it can't be used: {}", network(error))));
        }
        Ok(Self(Arc::new(Bundle { certificates, digest: Digest::of(pem) })))
    }

    pub(crate) fn certificates(&self) -> impl Iterator<Item = Certificate> {
        self.0.certificates.iter().cloned()
    }

    /// What two readings of one file have in common.
    pub(crate) fn digest(&self) -> &Digest {
        &self.0.digest
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.0.certificates.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused_with_what_to_do() {
        let problem = |pem: &str| Authorities::from_pem(pem.as_bytes()).unwrap_err().to_string();
        for pem in ["", "hello", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "\u{30}\u{82}"] {
            assert!(problem(pem).starts_with("no certificate is in it: one or more certificates are needed"), "{pem}");
        }
        assert!(problem("-----BEGIN CERTIFICATE-----\nAAAA\n").contains("is not whole"));
        let nonsense = problem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert!(nonsense.starts_with("a certificate in it can't be used: "), "{nonsense}");
        assert!(problem(&" ".repeat(MAX_SIZE as usize + 1)).starts_with("larger than 1 MiB"));
        let missing = Authorities::read(Path::new("/nowhere/ca.pem")).unwrap_err().to_string();
        assert!(missing.starts_with("the file /nowhere/ca.pem can't be read: "), "{missing}");
    }
}
