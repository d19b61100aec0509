//! Google Artifact Registry, whose list of tags has all manifests beside them, as go-containerregistry's `google.List` reads it.

use std::collections::HashMap;

use serde::Deserialize;
use transship_model::{Digest, Repository, Tag};

use super::super::{
    Registry,
    digests::Digests,
    list::{Cursor, Names, PAGE, Page},
};
use crate::{auth::Scope, error::Error};

impl Registry {
    /// The list of tags that every registry has, at `path`.
    pub(in crate::registry) async fn google_digests(
        &self,
        repository: &Repository,
        path: &str,
        cursor: Option<&Cursor>,
    ) -> Result<Digests, Error> {
        #[derive(Deserialize)]
        struct Answer {
            tags: Option<Names<Tag>>,
            #[serde(default)]
            manifest: HashMap<String, Manifest>,
        }
        #[derive(Deserialize)]
        struct Manifest {
            #[serde(default)]
            tag: Vec<String>,
        }
        let action = format!("GET tags of {repository}");
        let scope = Scope::Pull(repository.clone());
        let Some((response, at)) = self.page(&action, self.path(path), PAGE, cursor, scope).await? else {
            return Ok(Page::empty());
        };
        let next = at.next(self, &action, &response)?;
        let Answer { tags, manifest } = self.json(&action, response).await?;
        let manifests = manifest.iter().filter_map(|(digest, manifest)| Some((digest.parse::<Digest>().ok()?, manifest)));
        let digests: HashMap<&str, Digest> = manifests
            .flat_map(|(digest, manifest)| manifest.tag.iter().map(move |tag| (tag.as_str(), digest.clone())))
            .collect();
        let with_digest = |tag: Tag| {
            let digest = digests.get(tag.as_str()).cloned();
            (tag, digest)
        };
        Ok(Page { items: self.items(&action, tags).into_iter().map(with_digest).collect(), next })
    }
}
