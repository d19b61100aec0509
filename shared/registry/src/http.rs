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
};

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
}

impl Default for Patience {
    fn default() -> Self {
        Self { stall: Duration::from_secs(30), work: Duration::from_secs(300) }
    }
}

impl Patience {
    /// With a peer that shows no progress for so long.
    pub fn with_stalls_of(stall: Duration) -> Self {
        let Self { work, .. } = Self::default();
        Self { stall, work: work.max(stall) }
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
    /// How far a registry may send us, for hosts that a registry has named.
    reach: Option<Reach>,
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
        Ok(Self(Arc::new(Inner { patience, named: build(builder())?, others: Mutex::default(), hosts: Mutex::default() })))
    }

    pub(crate) fn patience(&self) -> Patience {
        self.0.patience
    }

    /// For hosts that the operator has named.
    pub(crate) fn named(&self, ca: Option<&Authorities>) -> Result<Client, Error> {
        match ca {
            None => Ok(self.0.named.clone()),
            Some(_) => self.other(ca, None),
        }
    }

    /// For hosts that a registry has named.
    pub(crate) fn elsewhere(&self, reach: Reach, ca: Option<&Authorities>) -> Result<Client, Error> {
        self.other(ca, Some(reach))
    }

    /// What the process knows about a host, by its origin.
    pub(crate) fn host(&self, origin: &Arc<str>) -> Arc<Host> {
        self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner).entry(origin.clone()).or_default().clone()
    }

    fn other(&self, ca: Option<&Authorities>, reach: Option<Reach>) -> Result<Client, Error> {
        let purpose = Purpose { ca: ca.map(|ca| ca.digest().clone()), reach };
        let mut clients = self.0.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&purpose) {
            return Ok(client.clone());
        }
        let mut builder = builder();
        if let Some(ca) = ca {
            builder = builder.tls_certs_merge(ca.certificates());
        }
        if let Some(reach) = reach {
            builder = builder.dns_resolver(Guard { reach, proxies: proxies() });
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

fn builder() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("transship/", env!("CARGO_PKG_VERSION")))
        // Blobs over HTTP/2 cost twice the CPU and have flow control that one slow stream can hold up.
        .http1_only()
        // Redirects are followed by `Registry`, which knows what may follow them.
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(CONNECT)
        .tcp_keepalive(Duration::from_secs(30))
}

fn build(builder: ClientBuilder) -> Result<Client, Error> {
    builder.build().map_err(|error| Failure::new("transship", "setting up HTTP", network(error)).refused())
}
