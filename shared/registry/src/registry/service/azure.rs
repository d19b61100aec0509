//! Azure Container Registry, by its data plane's API beside the specification:
//! <https://learn.microsoft.com/rest/api/containerregistry/tag>. It takes the registry's own tokens.

use http::Method;
use serde::Deserialize;
use transship_model::{Repository, Tag};

use super::super::{
    Registry,
    delete::Deletion,
    digests::{Digests, Tagged},
    list::{Cursor, Names, PAGE},
    send::Call,
};
use crate::{auth::Scope, error::Error};

impl Registry {
    /// In pages by `Link`, as the specification has them.
    pub(super) async fn azure_digests(
        &self,
        repository: &Repository,
        cursor: Option<&Cursor>,
    ) -> Result<Option<Digests>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            tags: Option<Names<Tagged>>,
        }
        let action = format!("GET tags of {repository} with digests");
        let first = self.path(&format!("/acr/v1/{repository}/_tags"));
        let scope = Scope::Metadata(repository.clone());
        let Some((response, at)) = self.page(&action, first, PAGE, cursor, scope).await? else { return Ok(None) };
        let next = at.next(self, &action, &response)?;
        let Answer { tags } = self.json(&action, response).await?;
        Ok(Some(self.tagged(&action, tags, next)))
    }

    /// Takes the tag away; by the specification a whole manifest would go.
    pub(super) async fn azure_delete(&self, repository: &Repository, tag: &Tag) -> Result<Deletion, Error> {
        let action = format!("DELETE tag {repository}:{tag}");
        let url = self.path(&format!("/acr/v1/{repository}/_tags/{tag}"));
        // A tag, or its repository, can be locked: then 405.
        let call = Call::new(Method::DELETE, &action, url, Scope::Untag(repository.clone())).expecting(&[404, 405]);
        let response = self.send(&call).await?;
        Ok(match response.status().as_u16() {
            404 => Deletion::Gone,
            405 => Deletion::NotSupported(self.answer(&action, response).await.to_string()),
            _ => Deletion::Deleted,
        })
    }
}
