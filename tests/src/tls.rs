//! TLS for the time of a test: an authority of its own, certificates that it signs, and a front that speaks TLS for a server
//! that does not.

use std::{fs, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

/// A certificate authority that nobody knows.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A server's certificate and its key, both in PEM form.
#[derive(Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A new authority of this name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    /// Its certificate in PEM form: what is trusted by whom it is given to.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Signs a certificate for these hosts, names or addresses.
    pub fn sign(&self, hosts: &[&str]) -> Certificate {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().expect("a key");
        let signed = CertificateParams::new(hosts).and_then(|params| params.signed_by(&key, &self.0));
        Certificate { certificate: signed.expect("a certificate").pem(), key: key.serialize_pem() }
    }
}

impl Certificate {
    /// The certificate that an authority has made for itself, used by a server as people do.
    pub fn of_an_authority(host: &str) -> Self {
        let mut params = CertificateParams::new([host.to_owned()]).expect("a host");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Writes `tls.pem` and `tls.key` into a folder.
    pub(crate) fn write(&self, folder: &Path) {
        fs::write(folder.join("tls.pem"), &self.certificate).expect("the certificate's file");
        fs::write(folder.join("tls.key"), &self.key).expect("the key's file");
    }
}

/// Speaks TLS for a server that does not; it ends on drop.
pub struct TlsFront {
    url: String,
    server: JoinHandle<()>,
}

impl TlsFront {
    /// Starts one before `upstream` (`http://host:port`).
    pub async fn start(upstream: &str, certificate: &Certificate) -> Self {
        let upstream = upstream.strip_prefix("http://").expect("an http URL").to_owned();
        let chain = CertificateDer::pem_slice_iter(certificate.certificate.as_bytes()).map(|der| der.expect("a certificate"));
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain.collect(), key);
        let acceptor = TlsAcceptor::from(Arc::new(config.expect("a TLS server")));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let server = tokio::spawn(async move {
            // Dropped with this task, and the connections with it.
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
                connections.spawn(async move {
                    // A client that does not trust us goes away: nothing to do about it here.
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { url, server }
    }

    /// `https://127.0.0.1:<port>`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.server.abort();
    }
}
