//! Harbor, by its API 2.0: <https://github.com/goharbor/harbor/blob/main/api/v2.0/swagger.yaml>. A repository's first segment is its
//! project, which has to be there before the first push.

use std::sync::PoisonError;

use bytes::Bytes;
use http::{HeaderValue, Method, header::CONTENT_TYPE};
use serde::Deserialize;
use serde_json::value::RawValue;
use transship_model::{Digest, Namespace, Repository, Tag};

use super::super::{
    Registry,
    delete::Deletion,
    digests::{Digests, Tagged},
    list::{Cursor, Item, Names, Page},
    send::Call,
};
use crate::{auth::Scope, error::Error};

/// It gives no more at once.
const PAGE: usize = 100;

/// An artifact with all its tags.
struct Artifact(Vec<Tagged>);

impl Item for Artifact {
    fn read(item: &RawValue, found: &mut Vec<Self>) -> bool {
        #[derive(Deserialize)]
        struct Raw {
            digest: Option<String>,
            tags: Option<Vec<Named>>,
        }
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        let Ok(Raw { digest, tags }) = serde_json::from_str(item.get()) else { return false };
        let digest: Option<Digest> = digest.and_then(|digest| digest.parse().ok());
        let tags = tags.unwrap_or_default().into_iter().filter_map(|tag| tag.name.parse().ok());
        found.push(Self(tags.map(|tag| Tagged(tag, digest.clone())).collect()));
        true
    }
}

impl Registry {
    pub(super) async fn harbor_digests(
        &self,
        repository: &Repository,
        cursor: Option<&Cursor>,
    ) -> Result<Option<Digests>, Error> {
        let Some(path) = path_of(repository) else { return Ok(None) };
        let action = format!("GET artifacts of {repository}");
        // Of what it lists by itself (tags) and what it would add (accessories) only the tags are wanted.
        let query = format!("page_size={PAGE}&q=tags%3D*&with_tag=true&with_accessory=false");
        let Some((response, page)) =
            self.counted(&action, &format!("{path}/artifacts"), &query, cursor, Scope::Service).await?
        else {
            return Ok(None);
        };
        let artifacts: Names<Artifact> = self.json(&action, response).await?;
        let next = page.next(self, &action, artifacts.length == PAGE)?;
        let items = self.items(&action, Some(artifacts)).into_iter().flat_map(|Artifact(tags)| tags);
        Ok(Some(Page { items: items.map(|Tagged(tag, digest)| (tag, digest)).collect(), next }))
    }

    /// Of a project, or of all that the login may see.
    pub(super) async fn harbor_repositories(
        &self,
        namespace: &Namespace,
        cursor: Option<&Cursor>,
    ) -> Result<Option<Page<Repository>>, Error> {
        let project = namespace.as_str().split('/').next().unwrap_or_default();
        let (action, path) = match namespace.is_all() {
            true => ("GET repositories".to_owned(), "/api/v2.0/repositories".to_owned()),
            // Every repository lies in a project.
            false if project.is_empty() => return Ok(Some(Page::empty())),
            false => (format!("GET repositories of project {project}"), format!("/api/v2.0/projects/{project}/repositories")),
        };
        let query = format!("page_size={PAGE}&sort=name");
        let Some((response, page)) = self.counted(&action, &path, &query, cursor, Scope::Service).await? else {
            // A Harbor before 2.2 has no list of all: its catalogue has.
            return Ok((!namespace.is_all()).then(Page::empty));
        };
        let names: Names<Repository> = self.json(&action, response).await?;
        // One that is not full is the last.
        let next = page.next(self, &action, names.length == PAGE)?;
        Ok(Some(Page { items: self.items(&action, Some(names)), next }))
    }

    /// The tag of this very artifact: Harbor compares, so that one that has moved is not there.
    pub(super) async fn harbor_delete(
        &self,
        repository: &Repository,
        tag: &Tag,
        expected: &Digest,
    ) -> Result<Option<Deletion>, Error> {
        let Some(path) = path_of(repository) else { return Ok(None) };
        let action = format!("DELETE tag {repository}:{tag}");
        let url = self.path(&format!("{path}/artifacts/{expected}/tags/{tag}"));
        let call = Call::new(Method::DELETE, &action, url, Scope::Service).expecting(&[404, 412]);
        let response = self.send(&call).await?;
        Ok(match response.status().as_u16() {
            // It has gone or moved since it was looked at: whichever it is, another look tells.
            404 => None,
            412 => Some(Deletion::NotSupported(self.answer(&action, response).await.to_string())),
            _ => Some(Deletion::Deleted),
        })
    }

    /// Makes sure that the project of a repository is there: private, if it is made.
    pub(super) async fn ensure_harbor_project(&self, repository: &Repository) -> Result<(), Error> {
        let action = format!("preparing {repository}");
        let Some((project, _)) = repository.as_str().split_once('/') else {
            return Err(self
                .failure(action, "on Harbor a repository lies in a project, so that its name has at least two segments")
                .hint("give the rule a target namespace")
                .refused());
        };
        if self.0.namespaces.lock().unwrap_or_else(PoisonError::into_inner).contains(project) {
            return Ok(());
        }
        self.ensure_project(project).await?;
        self.0.namespaces.lock().unwrap_or_else(PoisonError::into_inner).insert(project.into());
        Ok(())
    }

    pub(super) async fn has_harbor_project(&self, project: &str) -> Result<bool, Error> {
        let mut url = self.path("/api/v2.0/projects");
        url.query_pairs_mut().append_pair("project_name", project);
        let head = Call::head(format!("HEAD project {project}"), url, Scope::Service).expecting(&[404]);
        Ok(self.send(&head).await?.status() != 404)
    }

    async fn ensure_project(&self, project: &str) -> Result<(), Error> {
        let action = format!("creating project {project}");
        let post = Call::new(Method::POST, &action, self.path("/api/v2.0/projects"), Scope::Service)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Bytes::from(serde_json::json!({"project_name": project, "metadata": {"public": "false"}}).to_string()))
            // Somebody else has created it in the meantime.
            .expecting(&[409]);
        if !self.has_harbor_project(project).await? {
            self.send(&post).await.map_err(|error| match error {
                Error::Refused(failure) if matches!(failure.status(), Some(401 | 403)) => failure
                    .hint(format!(
                        "let the account create projects (a robot account needs the system permission to create them), or create \
                         {project} beforehand"
                    ))
                    .refused(),
                other => other,
            })?;
            tracing::info!(registry = self.name(), project, "created a project");
        }
        Ok(())
    }
}

/// The API's path of a repository, whose name within its project is encoded twice: the documentation of each operation says so.
fn path_of(repository: &Repository) -> Option<String> {
    let (project, name) = repository.as_str().split_once('/')?;
    Some(format!("/api/v2.0/projects/{project}/repositories/{}", name.replace('/', "%252F")))
}
