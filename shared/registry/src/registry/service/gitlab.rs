//! GitLab, by its API 4: <https://docs.gitlab.com/api/container_registry/>. It is on another host than the registry, and takes personal,
//! project and group access tokens, which are passwords of the registry too.

use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use transship_model::{Namespace, Repository, Tag};

use super::super::{
    Registry,
    delete::Deletion,
    list::{Cursor, Item, Names, Page},
    send::Call,
};
use crate::{
    auth::Scope,
    error::{Error, Failure},
};

/// It gives no more at once.
const PAGE: usize = 100;
/// So many pages are searched for a repository's number.
const MAX_PAGES: usize = 50;

/// A repository of the registry, with its number and its project's.
struct Found {
    repository: Repository,
    id: u64,
    project: u64,
}

impl Item for Found {
    fn read(item: &RawValue, found: &mut Vec<Self>) -> bool {
        #[derive(Deserialize)]
        struct Raw {
            path: String,
            id: u64,
            project_id: u64,
        }
        let raw = serde_json::from_str::<Raw>(item.get()).ok();
        let one =
            raw.and_then(|Raw { path, id, project_id }| Some(Self { repository: path.parse().ok()?, id, project: project_id }));
        let is_one = one.is_some();
        found.extend(one);
        is_one
    }
}

impl Registry {
    /// Of a group with all below it, or of a project. Which of them a path is, or what of a path is the project and what the repository
    /// in it, does not show: it is asked for from the longest on.
    pub(super) async fn gitlab_repositories(
        &self,
        api: Option<&Self>,
        namespace: &Namespace,
        cursor: Option<&Cursor>,
    ) -> Result<Option<Page<Repository>>, Error> {
        if namespace.is_all() || namespace.as_str().is_empty() {
            // The registry has a catalogue for administrators.
            return Ok(None);
        }
        let Some(api) = api else {
            return Err(self
                .failure("listing repositories", "a GitLab of one's own has its API on another host than its registry")
                .hint("say where in the instance's settings, as api: https://gitlab.example.com")
                .refused());
        };
        let page = api.gitlab_page(namespace.as_str(), cursor).await.map_err(explained)?;
        let Some(Page { items, next }) = page else {
            let problem = format!("GitLab has no group and no project {namespace}, or does not show it to this login");
            return Err(self.failure("listing repositories", problem).refused());
        };
        Ok(Some(Page { items: items.into_iter().map(|found| found.repository).collect(), next }))
    }

    /// For a GitLab whose registry does not delete tags by the specification: before 16.
    pub(super) async fn gitlab_delete(&self, repository: &Repository, tag: &Tag) -> Result<Option<Deletion>, Error> {
        let mut cursor = None;
        for _ in 0..MAX_PAGES {
            let Some(page) = self.gitlab_page(repository.as_str(), cursor.as_ref()).await.map_err(explained)? else { break };
            if let Some(Found { id, project, .. }) = page.items.iter().find(|found| found.repository == *repository) {
                let url = self.path(&format!("/api/v4/projects/{project}/registry/repositories/{id}/tags/{tag}"));
                let action = format!("DELETE tag {repository}:{tag}");
                let call = Call::new(Method::DELETE, action, url, Scope::Service).expecting(&[404]);
                let response = self.send(&call).await.map_err(explained)?;
                return Ok((response.status() != 404).then_some(Deletion::Deleted));
            }
            let Some(next) = page.next else { break };
            cursor = Some(next);
        }
        Ok(None)
    }

    async fn gitlab_page(&self, path: &str, cursor: Option<&Cursor>) -> Result<Option<Page<Found>>, Error> {
        let action = format!("GET repositories of {path}");
        let mut ends = vec![path.len()];
        ends.extend(path.rmatch_indices('/').map(|(at, _)| at));
        let encoded = ends.into_iter().map(|end| path[..end].replace('/', "%2F"));
        let places = encoded.flat_map(|path| ["groups", "projects"].map(|what| (what, path.clone())));
        // A longer path than the namespace is no group of it, and what is in a group above it is asked for in projects.
        let places = places.enumerate().filter(|(at, (what, _))| *at == 0 || *what == "projects");
        for (_, (what, id)) in places {
            let path = format!("/api/v4/{what}/{id}/registry/repositories");
            if cursor.is_some_and(|cursor| !cursor.is_in(&path)) {
                continue;
            }
            let query = format!("per_page={PAGE}");
            let Some((response, page)) = self.counted(&action, &path, &query, cursor, Scope::Service).await? else { continue };
            let names: Names<Found> = self.json(&action, response).await?;
            let next = page.next(self, &action, names.length == PAGE)?;
            return Ok(Some(Page { items: self.items(&action, Some(names)), next }));
        }
        Ok(None)
    }
}

fn explained(error: Error) -> Error {
    match error {
        Error::Refused(failure) if matches!(failure.status(), Some(401 | 403)) => permitted(*failure).refused(),
        other => other,
    }
}

fn permitted(failure: Failure) -> Failure {
    failure.hint(
        "the password has to be an access token with the scope read_api (to delete: api); deploy tokens know only the registry",
    )
}
