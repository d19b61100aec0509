//! The clients of the registries that jobs name, kept as long as their instance does not change.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use transship_model::{Credentials, Instance, InstanceName, Place};
use transship_registry::{Endpoint, Http, Login, Registry, RegistryConfig};
use transship_state::{Secrets, Snapshot};

use crate::trouble::Trouble;

pub(crate) struct Registries {
    http: Http,
    secrets: Arc<dyn Secrets>,
    known: Mutex<HashMap<InstanceName, (Arc<Instance>, Registry)>>,
}

impl Registries {
    pub(crate) fn new(http: Http, secrets: Arc<dyn Secrets>) -> Self {
        Self { http, secrets, known: Mutex::default() }
    }

    /// The repository of a place.
    pub(crate) async fn endpoint(&self, catalog: &Snapshot, place: &Place) -> Result<Endpoint, Trouble> {
        let registry = self.registry(catalog, &place.instance).await?;
        Ok(Endpoint { registry, repository: place.repository.clone() })
    }

    /// The client of an instance.
    pub(crate) async fn registry(&self, catalog: &Snapshot, name: &InstanceName) -> Result<Registry, Trouble> {
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
        };
        let config = RegistryConfig {
            name: name.to_string(),
            endpoint: instance.endpoint.clone(),
            kind: instance.kind,
            credentials,
            token_realm: instance.token_realm.clone(),
            plain_http: instance.plain_http,
        };
        let registry = Registry::new(&self.http, config)?;
        let entry = (instance.clone(), registry.clone());
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), entry);
        Ok(registry)
    }

    /// Forgets all clients after one was refused: a password may have been replaced, and is read anew.
    pub(crate) fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
