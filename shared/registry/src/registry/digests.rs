//! A repository's tags together with what they point to: one request where a comparison of two registries would need one for each
//! tag.

use serde::Deserialize;
use serde_json::value::RawValue;
use transship_model::{Digest, Kind, Repository, Tag};

use super::{
    Registry,
    list::{Cursor, Item, Names, Page},
};
use crate::error::Error;

/// A tag and, where the list tells it, the digest that it points to.
pub(super) struct Tagged(pub(super) Tag, pub(super) Option<Digest>);

impl Item for Tagged {
    /// As most services' own lists have it: `{"name": "v1", "digest": "sha256:…"}`.
    fn read(item: &RawValue, found: &mut Vec<Self>) -> bool {
        #[derive(Deserialize)]
        struct Raw {
            name: String,
            /// Quay's name for it is the longer one.
            #[serde(default, alias = "manifest_digest")]
            digest: Option<String>,
        }
        let Ok(raw) = serde_json::from_str::<Raw>(item.get()) else { return false };
        let tag = raw.name.parse().ok().map(|tag| Self(tag, raw.digest.and_then(|digest| digest.parse().ok())));
        let is_one = tag.is_some();
        found.extend(tag);
        is_one
    }
}

/// A page of tags with digests.
pub(super) type Digests = Page<(Tag, Option<Digest>)>;

impl Registry {
    /// A page of a repository's tags, in the registry's order, with the digest that each points to where the registry tells it in its
    /// list: Harbor, ECR, Docker Hub, Quay, Google and Azure do. It is the digest that [`Registry::head_manifest`] gives. Elsewhere, and
    /// where the credentials do not allow the list, there are the tags alone, and each has to be asked for. Empty if there is no
    /// such repository. Names that are no tags are left out.
    ///
    /// # Errors
    /// As for [`Registry::list_tags`].
    pub async fn list_digests(&self, repository: &Repository, cursor: Option<&Cursor>) -> Result<Digests, Error> {
        let path = format!("/v2/{repository}/tags/list");
        if self.service() == Kind::Google {
            return self.google_digests(repository, &path, cursor).await;
        }
        let is_plain = cursor.is_some_and(|cursor| cursor.is_in(&path));
        if !is_plain && self.may_list_digests(repository) {
            match Box::pin(self.service_digests(repository, cursor)).await {
                Ok(Some(page)) => return Ok(page),
                // The list that it is a position in is not there any more.
                Ok(None) if cursor.is_some() => return Ok(Page::empty()),
                Ok(None) => {}
                // Nobody has begun yet: what the credentials do not allow, the other list may tell.
                Err(Error::Refused(failure)) if cursor.is_none() => {
                    tracing::info!(registry = self.name(), %repository, %failure, "its tags are listed without digests");
                    self.list_no_digests(repository);
                }
                Err(error) => return Err(error),
            }
        }
        let Page { items, next } = self.list_tags(repository, cursor).await?;
        Ok(Page { items: items.into_iter().map(|tag| (tag, None)).collect(), next })
    }

    pub(super) fn tagged(&self, action: &str, tags: Option<Names<Tagged>>, next: Option<Cursor>) -> Digests {
        Page { items: self.items(action, tags).into_iter().map(|Tagged(tag, digest)| (tag, digest)).collect(), next }
    }
}
