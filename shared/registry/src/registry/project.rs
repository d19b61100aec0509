//! What has to be there before the first push.

use std::sync::PoisonError;

use bytes::Bytes;
use http::{HeaderValue, Method, header::CONTENT_TYPE};
use transship_model::{Kind, Repository};

use super::{Registry, send::Call};
use crate::{auth::Scope, error::Error};

impl Registry {
    /// Makes sure that a repository can be pushed to. On Harbor its first segment is a project, which is created, private, if
    /// it is not there; elsewhere there is nothing to do.
    ///
    /// # Errors
    /// [`Error::Refused`] if the name has one segment only on Harbor, or the credentials may not create the project.
    pub async fn ensure_namespace(&self, repository: &Repository) -> Result<(), Error> {
        if self.kind() != Kind::Harbor {
            return Ok(());
        }
        let action = format!("preparing {repository}");
        let Some((project, _)) = repository.as_str().split_once('/') else {
            return Err(self
                .failure(action, "on Harbor a repository lies in a project, so that its name has at least two segments")
                .hint("give the rule a target namespace")
                .refused());
        };
        if self.0.projects.lock().unwrap_or_else(PoisonError::into_inner).contains(project) {
            return Ok(());
        }
        self.ensure_project(project).await?;
        self.0.projects.lock().unwrap_or_else(PoisonError::into_inner).insert(project.into());
        Ok(())
    }

    async fn ensure_project(&self, project: &str) -> Result<(), Error> {
        let mut url = self.path("/api/v2.0/projects");
        let action = format!("creating project {project}");
        let post = Call::new(Method::POST, &action, url.clone(), Scope::Harbor)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Bytes::from(serde_json::json!({"project_name": project, "metadata": {"public": "false"}}).to_string()))
            // Somebody else has created it in the meantime.
            .expecting(&[409]);
        url.query_pairs_mut().append_pair("project_name", project);
        let head = Call::head(format!("HEAD project {project}"), url, Scope::Harbor).expecting(&[404]);
        if self.send(&head).await?.status() == 404 {
            self.send(&post).await?;
            tracing::info!(registry = self.name(), project, "created a project");
        }
        Ok(())
    }
}
