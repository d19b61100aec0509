//! Docker Hub, by its API: <https://docs.docker.com/reference/api/hub/latest/>. It is on another host than the registry, and takes
//! tokens that it gives for the same accounts; without one it shows what is public.

use http::Method;
use serde::Deserialize;
use transship_model::{Namespace, Repository, Tag};

use super::{
    super::{
        Registry,
        delete::Deletion,
        digests::{Digests, Tagged},
        list::{Cursor, Names, Page},
        send::Call,
    },
    InNamespace,
};
use crate::{
    auth::Scope,
    error::{Error, Failure},
};

/// It gives no more at once.
const PAGE: usize = 100;

/// A page, as it has all of them.
#[derive(Deserialize)]
struct Answer<T> {
    #[serde(bound(deserialize = "Names<T>: Deserialize<'de>"))]
    results: Option<Names<T>>,
    /// The address of the next page. It is not followed: pages are counted.
    next: Option<String>,
}

impl Registry {
    /// `digest` is that of the index, or of the manifest where there is none. Images that were pushed long ago have none here.
    pub(super) async fn docker_hub_digests(
        &self,
        repository: &Repository,
        cursor: Option<&Cursor>,
    ) -> Result<Option<Digests>, Error> {
        let action = format!("GET tags of {repository} with digests");
        let Some(path) = path_of(repository) else { return Ok(None) };
        let (path, query) = (format!("{path}/tags"), format!("page_size={PAGE}"));
        let Some((response, page)) = self.counted(&action, &path, &query, cursor, Scope::Service).await? else {
            return Ok(None);
        };
        let Answer { results, next } = self.json::<Answer<Tagged>>(&action, response).await?;
        let next = page.next(self, &action, next.is_some())?;
        Ok(Some(self.tagged(&action, results, next)))
    }

    /// It has no list of all.
    pub(super) async fn docker_hub_repositories(
        &self,
        namespace: &Namespace,
        cursor: Option<&Cursor>,
    ) -> Result<Page<Repository>, Error> {
        let account = namespace.as_str().split('/').next().unwrap_or_default();
        if namespace.is_all() || account.is_empty() {
            return Err(self
                .failure("listing repositories", "Docker Hub lists the repositories of one account, not all that there are")
                .hint("give the rule the account as its namespace")
                .refused());
        }
        if !self.api_knows_login().await? {
            return Err(self
                .failure("listing repositories", "Docker Hub's API takes no such login, and would show what is public only")
                .hint("use a user name and an access token")
                .refused());
        }
        let action = format!("GET repositories of {account}");
        let (path, query) = (format!("/v2/namespaces/{account}/repositories"), format!("page_size={PAGE}"));
        let Some((response, page)) = self.counted(&action, &path, &query, cursor, Scope::Service).await? else {
            return Ok(Page::empty());
        };
        let Answer { results, next } = self.json::<Answer<InNamespace>>(&action, response).await?;
        let next = page.next(self, &action, next.is_some())?;
        Ok(Page { items: self.items(&action, results).into_iter().map(InNamespace::into_repository).collect(), next })
    }

    /// The registry itself deletes nothing.
    pub(super) async fn docker_hub_delete(&self, repository: &Repository, tag: &Tag) -> Result<Deletion, Error> {
        let action = format!("DELETE tag {repository}:{tag}");
        // Not in the documentation, but what Docker's own hub-tool and the web page use.
        let url = self.path(&format!("/v2/repositories/{repository}/tags/{tag}/"));
        let call = Call::new(Method::DELETE, action, url, Scope::Service).expecting(&[404]);
        match self.send(&call).await {
            Ok(response) if response.status() == 404 => Ok(Deletion::Gone),
            Ok(_) => Ok(Deletion::Deleted),
            Err(Error::Refused(failure)) if matches!(failure.status(), Some(401 | 403)) => Err(permitted(*failure).refused()),
            Err(error) => Err(error),
        }
    }
}

fn permitted(failure: Failure) -> Failure {
    failure.hint("use an access token that may read, write and delete, of an account that may write this repository")
}

fn path_of(repository: &Repository) -> Option<String> {
    let (account, name) = repository.as_str().split_once('/')?;
    Some(format!("/v2/namespaces/{account}/repositories/{name}"))
}
