//! The HTTP clients of the process and how long they wait.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Client, ClientBuilder, redirect};
use transship_model::Digest;

use crate::{
    address::{Guard, Reach, proxies},
    authorities::Authorities,
    error::{Error, Failure, network},
    host::Host,
    limit::Throttling,
};

/// How often a connection that waits for an answer is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How long registries may take. There is no limit in all, because a layer may have any size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long a peer may show no progress: no head of an answer, no further byte of a body.
    pub stall: Duration,
    /// How long an answer may take that is the end of real work: a registry on object storage hashes or moves the whole blob
    /// before it answers the last PUT, and walks many objects to list tags.
    pub work: Duration,
    /// For how long a registry that does not answer, or answers 5xx, is asked again; three times at least. Where a queue brings the work
    /// again, that is enough.
    pub trouble: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { stall: Duration::from_secs(30), work: Duration::from_secs(300), trouble: Duration::ZERO }
    }
}

impl Patience {
    /// With a peer that shows no progress for so long.
    pub fn with_stalls_of(stall: Duration) -> Self {
        let Self { work, trouble, .. } = Self::default();
        Self { stall, work: work.max(stall), trouble }
    }

    /// With a registry in trouble for as long as it may stall: for copies by hand, which nobody begins again.
    pub fn with_trouble(self) -> Self {
        Self { trouble: self.stall, ..self }
    }
}

/// Connections of the process, built once: TLS set-up and pools are shared by all registries. Cloning is cheap.
#[derive(Clone)]
pub struct Http(Arc<Inner>);

struct Inner {
    patience: Patience,
    /// For hosts that the operator has named.
    named: Client,
    /// All others, built when first needed, because a TLS client costs some milliseconds and most processes never meet a redirect.
    others: Mutex<HashMap<Purpose, Client>>,
    /// What has been found out about registries' hosts. Only endpoints that an operator has named get in: there are not many.
    hosts: Mutex<HashMap<Arc<str>, Arc<Host>>>,
}

/// What a client is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Purpose {
    /// The authorities that are trusted besides the system's.
    ca: Option<Digest>,
    /// Where hosts may be: how far a registry may send us, for those that a registry has named.
    reach: Reach,
    protocol: Protocol,
}

/// How requests are sent over TLS. Without TLS it is always HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    /// HTTP/1.1, for blobs: over HTTP/2, in frames of 16 KiB, they cost twice the CPU, and one slow stream can hold up the others.
    Http1,
    /// HTTP/2 where the host has it, for all else: many small requests share one connection, which is set up once.
    Any,
}

impl Http {
    /// Reads the system's certificates and proxy settings.
    ///
    /// # Errors
    /// [`Error::Refused`] if they can't be used.
    pub fn new() -> Result<Self, Error> {
        Self::with_patience(Patience::default())
    }

    /// As [`Http::new`], with a patience of its own.
    ///
    /// # Errors
    /// As there.
    pub fn with_patience(patience: Patience) -> Result<Self, Error> {
        Ok(Self(Arc::new(Inner {
            patience,
            named: build(guarded(Protocol::Http1, Reach::NEAR))?,
            others: Mutex::default(),
            hosts: Mutex::default(),
        })))
    }

    /// What each registry's host (its origin: `https://registry.example.com`) has asked for so far, in the order of their names; those
    /// that have asked for nothing as well.
    pub fn throttling(&self) -> Vec<(Arc<str>, Throttling)> {
        let hosts = self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = hosts.iter().map(|(origin, host)| (origin.clone(), host.limit().throttling())).collect();
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    pub(crate) fn patience(&self) -> Patience {
        self.0.patience
    }

    /// For blobs of hosts that the operator has named.
    pub(crate) fn for_blobs(&self, ca: Option<&Authorities>) -> Result<Client, Error> {
        match ca {
            None => Ok(self.0.named.clone()),
            Some(_) => self.other(ca, Reach::NEAR, Protocol::Http1),
        }
    }

    /// For all else of hosts that the operator has named, over TLS.
    pub(crate) fn for_messages(&self, ca: Option<&Authorities>) -> Result<Client, Error> {
        self.other(ca, Reach::NEAR, Protocol::Any)
    }

    /// For hosts that a registry has named.
    pub(crate) fn elsewhere(&self, reach: Reach, ca: Option<&Authorities>) -> Result<Client, Error> {
        self.other(ca, reach, Protocol::Http1)
    }

    /// What the process knows about a host, by its origin.
    pub(crate) fn host(&self, origin: &Arc<str>) -> Arc<Host> {
        self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner).entry(origin.clone()).or_default().clone()
    }

    fn other(&self, ca: Option<&Authorities>, reach: Reach, protocol: Protocol) -> Result<Client, Error> {
        let purpose = Purpose { ca: ca.map(|ca| ca.digest().clone()), reach, protocol };
        let mut clients = self.0.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&purpose) {
            return Ok(client.clone());
        }
        let mut builder = guarded(protocol, reach);
        if let Some(ca) = ca {
            builder = builder.tls_certs_merge(ca.certificates());
        }
        let client = build(builder)?;
        clients.insert(purpose, client.clone());
        Ok(client)
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

/// A client that connects to no address out of this reach, whatever name stands for it.
pub(crate) fn guarded(protocol: Protocol, reach: Reach) -> ClientBuilder {
    let builder = match protocol {
        Protocol::Http1 => Client::builder().http1_only(),
        // One connection has all the requests: a dead one has to be noticed before each of them has waited for itself.
        Protocol::Any => Client::builder().http2_keep_alive_interval(KEEP_ALIVE).http2_keep_alive_timeout(CONNECT),
    };
    builder
        .dns_resolver(Guard { reach, proxies: proxies() })
        .user_agent(concat!("transship/", env!("CARGO_PKG_VERSION")))
        // Redirects are followed by `Registry`, which knows what may follow them.
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(CONNECT)
        .tcp_keepalive(KEEP_ALIVE)
}

fn build(builder: ClientBuilder) -> Result<Client, Error> {
    builder.build().map_err(|error| Failure::new("transship", "setting up HTTP", network(error)).refused())
}
