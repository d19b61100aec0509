//! The clients of the registries that jobs name, kept as long as their instance does not change.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use transship_model::{Credentials, Instance, InstanceName, Place, TcrSettings};
use transship_registry::{Authorities, Ecr, Endpoint, Http, InvalidAuthorities, Login, Registry, RegistryConfig, Tcr};
use transship_state::{Secrets, Snapshot};

use crate::trouble::Trouble;

/// For so long a registry that did not answer is left alone at first; longer each time that it does not answer again.
const PAUSE: Duration = Duration::from_secs(1);
/// And for no longer than this.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A registry that did not answer.
#[derive(Debug, Clone, Copy)]
struct Down {
    until: Instant,
    pause: Duration,
}

pub(crate) struct Registries {
    http: Http,
    /// Jobs for a registry that does not answer go back to the queue at once, so that they do not keep the workers from others.
    down: Mutex<HashMap<String, Down>>,
    secrets: Arc<dyn Secrets>,
    /// The passwords of Amazon ECR, if an instance needs them.
    ecr: Ecr,
    known: Mutex<HashMap<InstanceName, (Arc<Instance>, Registry)>>,
}

impl Registries {
    pub(crate) fn new(http: Http, secrets: Arc<dyn Secrets>) -> Self {
        Self { http, down: Mutex::default(), secrets, ecr: Ecr::default(), known: Mutex::default() }
    }

    /// The repository of a place.
    pub(crate) async fn endpoint(&self, catalog: &Snapshot, place: &Place) -> Result<Endpoint, Trouble> {
        let registry = self.registry(catalog, &place.instance).await?;
        Ok(Endpoint { registry, repository: place.repository.clone() })
    }

    /// The client of an instance.
    pub(crate) async fn registry(&self, catalog: &Snapshot, name: &InstanceName) -> Result<Registry, Trouble> {
        if let Some(down) = self.down.lock().unwrap_or_else(PoisonError::into_inner).get(name.as_str())
            && let Some(wait) = down.until.checked_duration_since(Instant::now())
        {
            return Err(Trouble::Down { registry: name.to_string(), wait });
        }
        let gone = || Trouble::Refused(format!("there is no instance {name} (any more)"));
        let instance = catalog.instance(name).ok_or_else(gone)?;
        if let Some((known, registry)) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name)
            && *known == *instance
        {
            return Ok(registry.clone());
        }
        let credentials = match &instance.credentials {
            Credentials::Anonymous => Login::Anonymous,
            Credentials::DockerConfig => Login::DockerConfig,
            Credentials::Password { username, password } => {
                Login::Password { username: username.clone(), password: self.secrets.read(password).await? }
            }
            Credentials::RefreshToken(token) => Login::RefreshToken(self.secrets.read(token).await?),
            Credentials::Ecr { role } => self.ecr.login(&instance.endpoint, role.as_ref()),
        };
        let tcr = match &instance.tcr {
            None => None,
            Some(TcrSettings { registry_id, region, secret_id, secret_key }) => Some(Tcr {
                registry_id: registry_id.clone(),
                region: region.clone(),
                secret_id: secret_id.clone(),
                secret_key: self.secrets.read(secret_key).await?,
            }),
        };
        let authorities = |text: &String| match text.trim_start().starts_with("-----BEGIN") {
            true => Authorities::from_pem(text.as_bytes()),
            false => Authorities::read(Path::new(text)),
        };
        let ca = instance.ca.as_ref().map(authorities).transpose();
        let ca = ca.map_err(|error| {
            let problem = format!("the authorities of {name}: {error}");
            match error {
                InvalidAuthorities::Unreadable(_) => Trouble::Unreadable(problem),
                InvalidAuthorities::Invalid(_) => Trouble::Refused(problem),
            }
        })?;
        let config = RegistryConfig {
            name: name.to_string(),
            endpoint: instance.endpoint.clone(),
            kind: instance.kind,
            credentials,
            token_realm: instance.token_realm.clone(),
            api: instance.api.clone(),
            ecr: instance.ecr.clone(),
            tcr,
            ca,
            plain_http: instance.plain_http,
        };
        let registry = Registry::new(&self.http, config)?;
        let entry = (instance.clone(), registry.clone());
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), entry);
        Ok(registry)
    }

    /// Takes note of what keeps a job from being done: a registry that did not answer is left alone, for as long as is returned.
    pub(crate) fn note(&self, trouble: &Trouble) -> Duration {
        let Trouble::Registry(error) = trouble else { return Duration::ZERO };
        if !error.is_retry() || error.failure().status().is_some() {
            return Duration::ZERO;
        }
        let mut known = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let down = known.entry(error.failure().registry().to_owned()).or_insert(Down { until: now, pause: PAUSE / 2 });
        // What fails together counts once.
        if down.until <= now {
            let since = now.duration_since(down.until);
            down.pause = if since > MAX_PAUSE { PAUSE } else { (down.pause * 2).min(MAX_PAUSE) };
            down.until = now + down.pause;
        }
        down.until - now
    }

    /// Forgets a client that was refused: its password may have been replaced, and is read anew.
    pub(crate) fn forget(&self, registry: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, (instance, _)| {
            if name.as_str() != registry {
                return true;
            }
            let of_api = instance.tcr.as_ref().map(|tcr| &tcr.secret_key);
            for secret in instance.credentials.secret().into_iter().chain(of_api) {
                self.secrets.forget(secret);
            }
            false
        });
    }
}
