//! What registries can do by APIs of their own, beside the specification: one file each.

mod azure;
mod docker_hub;
mod ecr;
mod gitlab;
mod google;
mod harbor;
mod quay;
mod tencent;

use reqwest::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use transship_model::{Digest, Kind, Namespace, Repository, Tag};
use url::Url;

use super::{
    Registry,
    delete::Deletion,
    digests::Digests,
    list::{At, Cursor, Item, Page},
    send::Call,
};
use crate::{
    auth::{Scope, is_docker_hub},
    error::Error,
};

/// Where a service's own API is, if it has one that is used here and its place is known: where the operator has said, beside the
/// registry, or on the host that is known to be the same service's. Never where a registry says.
pub(super) fn api_of(kind: Kind, endpoint: &Url, named: Option<Url>) -> Option<Url> {
    let known = |is_known: bool, url: &str| if is_known { Url::parse(url).ok() } else { None };
    let host = endpoint.host_str().unwrap_or_default();
    match kind {
        _ if named.is_some() => named,
        Kind::Harbor | Kind::Quay => Some(endpoint.clone()),
        // Its accounts are accounts of both hosts, as they are of the token service's, auth.docker.io.
        Kind::DockerHub => known(endpoint.scheme() == "https" && is_docker_hub(host), "https://hub.docker.com"),
        Kind::Tcr => known(Kind::of_host(host) == Some(Kind::Tcr), "https://tcr.tencentcloudapi.com"),
        Kind::Gitlab => known(endpoint.scheme() == "https" && host == "registry.gitlab.com", "https://gitlab.com"),
        _ => None,
    }
}

/// A repository that is listed in two fields.
struct InNamespace(Repository);

impl InNamespace {
    fn into_repository(self) -> Repository {
        self.0
    }
}

impl Item for InNamespace {
    fn read(item: &RawValue, found: &mut Vec<Self>) -> bool {
        #[derive(Deserialize)]
        struct Raw {
            namespace: String,
            name: String,
        }
        let raw = serde_json::from_str::<Raw>(item.get()).ok();
        let repository = raw.and_then(|Raw { namespace, name }| format!("{namespace}/{name}").parse().ok());
        let is_one = repository.is_some();
        found.extend(repository.map(Self));
        is_one
    }
}

/// A page of a list that counts its pages.
struct Counted {
    at: At,
    /// The address of the page behind it.
    behind: String,
}

impl Registry {
    /// The service's own API: a client of its host, with what that is to be sent.
    fn api(&self) -> Option<&Self> {
        let endpoint = self.0.api_endpoint.as_ref()?;
        if self.is_own(endpoint) {
            return Some(self);
        }
        // Its settings were looked at when the registry's were.
        self.0.api.get_or_init(|| self.beside(endpoint.clone()).ok()).as_ref()
    }

    /// Whether the API shows what the registry would: to who has a login that it takes, and to who has none at all.
    async fn api_knows_login(&self) -> Result<bool, Error> {
        Ok(self.0.auth.is_anonymous().await? || self.0.auth.has_login_for_service(self).await?)
    }

    /// Whether the namespace of a repository is there, where [`Registry::ensure_namespace`] would make it beforehand; true elsewhere.
    ///
    /// # Errors
    /// As there.
    pub async fn has_namespace(&self, repository: &Repository) -> Result<bool, Error> {
        match (self.service(), self.api(), repository.as_str().split_once('/')) {
            (Kind::Harbor, Some(api), Some((project, _))) => api.has_harbor_project(project).await,
            (Kind::Tcr, Some(api), Some((namespace, _))) => match &self.0.tcr {
                Some(tcr) => Box::pin(api.has_tcr_namespace(tcr, namespace)).await,
                None => Ok(true),
            },
            _ => Ok(true),
        }
    }

    /// Makes sure that a repository can be pushed to. On Harbor its first segment is a project, which is created, private, if
    /// it is not there, and so is Tencent's namespace, where the instance has a key for that; a repository of ECR is created when a
    /// push finds it missing; elsewhere there is nothing to do.
    ///
    /// # Errors
    /// [`Error::Refused`] if the name has one segment only on Harbor, or the credentials may not create the project.
    pub async fn ensure_namespace(&self, repository: &Repository) -> Result<(), Error> {
        match (self.service(), self.api()) {
            (Kind::Harbor, Some(api)) => api.ensure_harbor_project(repository).await,
            (Kind::Tcr, Some(api)) => match &self.0.tcr {
                Some(tcr) => Box::pin(self.ensure_tcr_namespace(api, tcr, repository)).await,
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Sends what pushes something; and once more, if the registry says that the repository has to be made first and that can be done.
    pub(super) async fn send_push(&self, repository: &Repository, call: &Call) -> Result<Response, Error> {
        let missing = match self.send(call).await {
            Err(error) if self.0.auth.ecr().is_some() && error.says_no_repository() => error,
            other => return other,
        };
        tracing::debug!(registry = self.name(), %missing, "a repository is missing");
        // On the heap: it is rare, and around it is all that a copy does.
        Box::pin(self.create_once(repository)).await?;
        match self.send(call).await {
            Err(error) if error.says_no_repository() => {
                // Deleted since, or not to be seen yet: whichever, the next try begins anew.
                self.0.created.lock().await.remove(repository);
                Err(error.failure().clone().retry(None))
            }
            other => other,
        }
    }

    /// One makes a repository for all who push there.
    async fn create_once(&self, repository: &Repository) -> Result<(), Error> {
        let mut created = self.0.created.lock().await;
        if !created.contains(repository) {
            self.create_ecr_repository(repository).await?;
            created.insert(repository.clone());
        }
        Ok(())
    }

    /// A page of tags with digests by the service's own API; `None` if it has none, or there is no such repository.
    pub(super) async fn service_digests(
        &self,
        repository: &Repository,
        cursor: Option<&Cursor>,
    ) -> Result<Option<Digests>, Error> {
        match (self.service(), self.api()) {
            (Kind::Acr, _) => self.azure_digests(repository, cursor).await,
            (Kind::Harbor, Some(api)) => api.harbor_digests(repository, cursor).await,
            (Kind::DockerHub, Some(api)) => api.docker_hub_digests(repository, cursor).await,
            (Kind::Quay, Some(api)) => api.quay_digests(repository, cursor).await,
            _ if self.0.auth.ecr().is_some() => self.ecr_digests(repository, cursor).await,
            _ => Ok(None),
        }
    }

    /// A page of repositories by the service's own API; `None` if it has none, or the catalogue tells as much.
    pub(super) async fn service_repositories(
        &self,
        namespace: &Namespace,
        cursor: Option<&Cursor>,
    ) -> Result<Option<Page<Repository>>, Error> {
        match (self.service(), self.api()) {
            (Kind::Harbor, Some(api)) => api.harbor_repositories(namespace, cursor).await,
            (Kind::DockerHub, Some(api)) => api.docker_hub_repositories(namespace, cursor).await.map(Some),
            (Kind::Quay, Some(api)) => api.quay_repositories(namespace, cursor).await,
            (Kind::Gitlab, api) => self.gitlab_repositories(api, namespace, cursor).await,
            _ if self.0.auth.ecr().is_some() => self.ecr_repositories(cursor).await.map(Some),
            _ => Ok(None),
        }
    }

    /// Deletes a tag by the service's own API, where that does it better than the specification's way.
    pub(super) async fn delete_by_service(
        &self,
        repository: &Repository,
        tag: &Tag,
        expected: &Digest,
    ) -> Result<Option<Deletion>, Error> {
        match (self.service(), self.api()) {
            (Kind::Acr, _) => self.azure_delete(repository, tag).await.map(Some),
            (Kind::Harbor, Some(api)) => match api.harbor_delete(repository, tag, expected).await? {
                Some(deletion) => Ok(Some(deletion)),
                None => match self.unless_there_as(repository, tag, expected).await? {
                    Some(deletion) => Ok(Some(deletion)),
                    None => Err(self.failure(format!("DELETE tag {repository}:{tag}"), "Harbor does not know it").refused()),
                },
            },
            (Kind::DockerHub, Some(api)) => api.docker_hub_delete(repository, tag).await.map(Some),
            _ if self.0.auth.ecr().is_some() => self.ecr_delete(repository, tag).await.map(Some),
            _ => Ok(None),
        }
    }

    /// The same where the registry does not delete tags by the specification.
    pub(super) async fn delete_by_service_instead(
        &self,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<Option<Deletion>, Error> {
        match (self.service(), self.api()) {
            (Kind::Quay, Some(api)) => api.quay_delete(repository, tag).await,
            (Kind::Gitlab, Some(api)) => api.gitlab_delete(repository, tag).await,
            (Kind::Ghcr, _) => Ok(Some(Deletion::NotSupported(
                "GitHub's registry deletes nothing: delete the package's version on GitHub".into(),
            ))),
            _ => Ok(None),
        }
    }

    /// A page of a list of the service's own, which counts its pages from 1; `None` if the list is not there.
    async fn counted(
        &self,
        action: &str,
        path: &str,
        query: &str,
        cursor: Option<&Cursor>,
        scope: Scope,
    ) -> Result<Option<(Response, Counted)>, Error> {
        let mut first = self.path(path);
        first.set_query(Some(&format!("page=1&{query}")));
        let Some((response, at)) = self.page(action, first, 0, cursor, scope).await? else { return Ok(None) };
        let behind = format!("{path}?page={}&{query}", at.number() + 1);
        Ok(Some((response, Counted { at, behind })))
    }
}

impl Counted {
    /// Where the list goes on, if it does.
    fn next(&self, registry: &Registry, action: &str, goes_on: bool) -> Result<Option<Cursor>, Error> {
        goes_on.then(|| self.at.followed_by(registry, action, self.behind.clone())).transpose()
    }
}
