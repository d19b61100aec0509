//! A client of the distribution API.
//!
//! One [`Registry`] stands for one instance and is cheap to clone. What it learns (how to log in, which API is missing) it
//! remembers as long as it lives, so a process keeps one for each instance.

mod blob;
mod delete;
mod digests;
mod flow;
mod list;
mod manifests;
mod referrers;
mod send;
mod service;
mod strategy;
mod upload;

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use tokio::sync::{Mutex as AsyncMutex, OnceCell};
use transship_model::{Digest, EcrSettings, Kind, Reference, Repository, instance::is_loopback};
use url::Url;

use self::send::Call;
pub use self::{
    blob::Blob,
    delete::Deletion,
    list::{Cursor, Page},
    manifests::PutOutcome,
    upload::{Upload, UploadStart},
};
pub(crate) use self::{
    send::wait_of,
    strategy::{CHUNK, PART, Strategy, part_after},
    upload::{Part, Told},
};
use crate::{
    Authorities, Http, Login,
    address::Reach,
    auth::{Auth, Scope},
    error::{Error, Failure},
    host::Host,
    http::Patience,
    tc3::Tcr,
};

/// How to reach a registry.
#[derive(Clone)]
pub struct RegistryConfig {
    /// What messages call it: an instance's name, or the host.
    pub name: String,
    /// Scheme, host and port.
    pub endpoint: Url,
    /// What software or service it is, where that makes a difference.
    pub kind: Kind,
    /// How to log in.
    pub credentials: Login,
    /// A token service besides those that are trusted by themselves.
    pub token_realm: Option<Url>,
    /// The host of the service's own API, where it is not the registry's or the known one of its kind. It gets the same credentials.
    pub api: Option<Url>,
    /// What repositories of ECR are like that have to be made.
    pub ecr: EcrSettings,
    /// What Tencent's API is asked with, to make namespaces of TCR.
    pub tcr: Option<Tcr>,
    /// Authorities that may have signed its certificate, that of its token service and of hosts that it redirects to, besides
    /// the system's.
    pub ca: Option<Authorities>,
    /// Talk plain http to a host that is not the loopback.
    pub plain_http: bool,
}

impl fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConfig")
            .field("name", &self.name)
            // Not the whole URL: somebody may have written a password into it.
            .field("endpoint", &self.endpoint.origin().ascii_serialization())
            .field("kind", &self.kind)
            .field("credentials", &self.credentials)
            .field("ca", &self.ca)
            .field("plain_http", &self.plain_http)
            .finish_non_exhaustive()
    }
}

/// A registry.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    name: String,
    endpoint: Url,
    /// `https://host:port`, what two configurations of one registry have in common.
    origin: Arc<str>,
    kind: Kind,
    /// The same, known by the host where the operator has not said it.
    service: Kind,
    http: Http,
    /// For blobs of its own host, and for others that the operator has named.
    client: reqwest::Client,
    /// For all else of its own host.
    messages: reqwest::Client,
    ca: Option<Authorities>,
    /// What is known about its host, by all clients of it.
    host: Arc<Host>,
    auth: Arc<Auth>,
    reach: OnceCell<Reach>,
    /// Whether the realm is one that the operator has named.
    token_realm: Option<Url>,
    referrers_api: Mutex<referrers::Api>,
    /// Held while it is found out.
    referrers_question: AsyncMutex<()>,
    /// How often it has refused to mount a blob, or that it does not.
    mounts: AtomicU8,
    /// Whether asking to mount a blob from its own repository tells that it is there.
    own_mounts: AtomicU8,
    /// Namespaces that are known to exist, where they have to be made.
    namespaces: Mutex<HashSet<String>>,
    /// Repositories that had to be made; held while one is.
    created: AsyncMutex<HashSet<Repository>>,
    /// What repositories of ECR are made like.
    ecr: EcrSettings,
    /// What Tencent's API is asked with.
    tcr: Option<Tcr>,
    /// Where the service's own API is, if it has one that is used.
    api_endpoint: Option<Url>,
    /// The client of that, where it is another host.
    api: OnceLock<Option<Registry>>,
    plain_http: bool,
    /// Namespaces whose tags are not told with their digests.
    without_digests: Mutex<HashSet<String>>,
}

/// So many namespaces are remembered; with more, all are forgotten, which costs a request each.
const MANY_NAMESPACES: usize = 1000;

/// So many refusals in a row, and it is not asked again.
const MOUNTS_REFUSED: u8 = 3;
const MOUNTS_WORK: u8 = u8::MAX;
/// What a registry has answered that was asked to mount a blob from its own repository; nothing yet is 0, and the greater stays.
const OWN_MOUNTS_TELL: u8 = 1;
const OWN_MOUNTS_MISLEAD: u8 = 2;

impl Registry {
    /// A client for a registry; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Refused`] if the endpoint is no http or https URL, holds credentials, or wants plain http without
    /// [`RegistryConfig::plain_http`] to a host that is not the loopback; and if there can be no client with its authorities.
    pub fn new(http: &Http, config: RegistryConfig) -> Result<Self, Error> {
        let RegistryConfig { name, endpoint, kind, credentials, token_realm, api, ecr, tcr, ca, plain_http } = config;
        check(&name, "the endpoint", &endpoint, plain_http)?;
        if let Some(api) = &api {
            check(&name, "the api", api, plain_http)?;
        }
        let service = match kind {
            Kind::Oci => endpoint.host_str().and_then(Kind::of_host).unwrap_or_default(),
            kind => kind,
        };
        let api = service::api_of(service, &endpoint, api);
        let host = http.host(&origin_of(&endpoint));
        let api_or_own = api.clone().unwrap_or_else(|| endpoint.clone());
        let auth = Auth::new(name.clone(), endpoint.clone(), (service, api_or_own), credentials, token_realm.clone(), host);
        Self::with(
            http.clone(),
            (name, endpoint, kind, service),
            (Arc::new(auth), token_realm, ca, plain_http),
            (api, ecr, tcr),
        )
    }

    /// A client of another host of the same service, with the same login and rules.
    fn beside(&self, endpoint: Url) -> Result<Self, Error> {
        let Inner { name, kind, service, http, auth, token_realm, ca, plain_http, .. } = &*self.0;
        let login = (auth.clone(), token_realm.clone(), ca.clone(), *plain_http);
        Self::with(http.clone(), (name.clone(), endpoint, *kind, *service), login, (None, EcrSettings::default(), None))
    }

    fn with(
        http: Http,
        (name, endpoint, kind, service): (String, Url, Kind, Kind),
        (auth, token_realm, ca, plain_http): (Arc<Auth>, Option<Url>, Option<Authorities>, bool),
        (api_endpoint, ecr, tcr): (Option<Url>, EcrSettings, Option<Tcr>),
    ) -> Result<Self, Error> {
        let origin = origin_of(&endpoint);
        Ok(Self(Arc::new(Inner {
            auth,
            host: http.host(&origin),
            messages: if endpoint.scheme() == "https" { http.for_messages(ca.as_ref())? } else { http.for_blobs(ca.as_ref())? },
            client: http.for_blobs(ca.as_ref())?,
            ca,
            name,
            origin,
            endpoint,
            kind,
            service,
            http,
            reach: OnceCell::new(),
            token_realm,
            referrers_api: Mutex::default(),
            referrers_question: AsyncMutex::default(),
            mounts: AtomicU8::new(0),
            own_mounts: AtomicU8::new(0),
            namespaces: Mutex::default(),
            created: AsyncMutex::default(),
            ecr,
            tcr,
            api_endpoint,
            api: OnceLock::new(),
            plain_http,
            without_digests: Mutex::default(),
        })))
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What software or service it is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The same, known by the host where the operator has not said it.
    pub(crate) fn service(&self) -> Kind {
        self.0.service
    }

    /// Whether it is worth asking for a repository's tags with digests.
    fn may_list_digests(&self, repository: &Repository) -> bool {
        let refused = self.0.without_digests.lock().unwrap_or_else(PoisonError::into_inner);
        !refused.contains(first_segment(repository))
    }

    /// What was asked for digests has refused them: mostly a whole project does, whose credentials may not read its lists.
    fn list_no_digests(&self, repository: &Repository) {
        let mut refused = self.0.without_digests.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= MANY_NAMESPACES {
            refused.clear();
        }
        refused.insert(first_segment(repository).into());
    }

    /// Scheme, host and port as text: equal for two clients of one registry.
    pub fn origin(&self) -> &Arc<str> {
        &self.0.origin
    }

    /// Asks whether the registry is there and takes the credentials.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ping(&self) -> Result<(), Error> {
        let call = Call::get("GET /v2/", self.path("/v2/"), Scope::Ping);
        self.send(&call).await.map(drop)
    }

    /// Whether the registry is known to list referrers by itself.
    pub(crate) fn has_referrers_api(&self) -> bool {
        self.referrers_api().is_present()
    }

    /// Whether the registry seems never to mount a blob from another repository, so that asking only costs time.
    pub(crate) fn refuses_mounts(&self) -> bool {
        self.0.mounts.load(Ordering::Relaxed) == MOUNTS_REFUSED
    }

    /// Whether the registry has been seen to mount a blob from another repository.
    pub(crate) fn mounts(&self) -> bool {
        self.0.mounts.load(Ordering::Relaxed) == MOUNTS_WORK
    }

    /// Whether the registry, asked to mount a blob from the very repository, tells in this way that it has it; `None` if that is not
    /// known yet. A yes is checked all the same, because it tells no size.
    pub(crate) fn mounts_its_own(&self) -> Option<bool> {
        match self.0.own_mounts.load(Ordering::Relaxed) {
            0 => None,
            known => Some(known == OWN_MOUNTS_TELL),
        }
    }

    /// What came of asking for a blob that is there, or of an answer that was a lie or a refusal. One of those is enough.
    pub(crate) fn learn_about_own_mounts(&self, tells: bool) {
        self.0.own_mounts.fetch_max(if tells { OWN_MOUNTS_TELL } else { OWN_MOUNTS_MISLEAD }, Ordering::Relaxed);
    }

    /// What came of asking to mount. One refusal may be about one repository; several, and never a success, are a habit.
    pub(crate) fn learn_about_mounts(&self, mounted: bool) {
        let learn = |known| match (mounted, known) {
            (true, _) | (_, MOUNTS_WORK) => Some(MOUNTS_WORK),
            (false, refusals) => Some((refusals + 1).min(MOUNTS_REFUSED)),
        };
        // It never answers `None`, so this does not fail.
        let _ = self.0.mounts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, learn);
    }

    fn patience(&self) -> Patience {
        self.0.http.patience()
    }

    fn failure(&self, action: impl Into<String>, problem: impl Into<String>) -> Failure {
        Failure::new(self.name(), action, problem)
    }

    /// A URL of this registry. The path is made of names that follow their grammar: nothing in it needs escaping.
    fn path(&self, path: &str) -> Url {
        let mut url = self.0.endpoint.clone();
        url.set_path(path);
        url
    }

    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.0.endpoint.origin()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("name", &self.0.name).field("origin", &self.0.origin).finish_non_exhaustive()
    }
}

fn origin_of(endpoint: &Url) -> Arc<str> {
    endpoint.origin().ascii_serialization().into()
}

/// Whether a URL may be that of a registry, or of its API.
fn check(name: &str, what: &str, endpoint: &Url, plain_http: bool) -> Result<(), Error> {
    let refused = |problem: &str| Err(Failure::new(name, "reading its settings", format!("{what} {problem}")).refused());
    match endpoint.scheme() {
        "https" => {}
        "http" if plain_http || is_loopback(endpoint) => {}
        "http" => {
            let problem = "plain http would show the credentials to the network: use https, or set plain_http";
            return Err(Failure::new(name, "reading its settings", problem).refused());
        }
        _ => return refused("has to be an http or https URL"),
    }
    if endpoint.host().is_none() || !endpoint.username().is_empty() || endpoint.password().is_some() {
        return refused("has to be scheme, host and port; credentials have a setting of their own");
    }
    if endpoint.path() != "/" || endpoint.query().is_some() {
        return refused("has to be scheme, host and port, without a path");
    }
    Ok(())
}

fn first_segment(repository: &Repository) -> &str {
    repository.as_str().split('/').next().unwrap_or_default()
}

/// `app:v1` or `app@sha256:…`, for messages.
pub(crate) fn place(repository: &Repository, reference: &Reference) -> String {
    match reference {
        Reference::Tag(tag) => format!("{repository}:{tag}"),
        Reference::Digest(digest) => at(repository, digest),
    }
}

/// `app@sha256:…`, for messages.
pub(crate) fn at(repository: &Repository, digest: &Digest) -> String {
    format!("{repository}@{digest}")
}
