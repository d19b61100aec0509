//! Deleting a tag, and nothing else.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use transship_model::{Digest, Kind, Reference, Repository, Tag};

use super::{Registry, at, place, send::Call};
use crate::{auth::Scope, error::Error, manifest::Parsed};

/// So many other tags are looked at to see whether one of them has what would be deleted.
const MAX_OTHERS: usize = 2000;
/// So many at the same time.
const LOOKS_AT_ONCE: usize = 8;
/// So many indexes are read below one tag. Mostly it is one.
const MAX_INDEXES: usize = 100;
/// What turns deletion on, where it is off.
const DELETE_ENABLED: &str = "in distribution's registry REGISTRY_STORAGE_DELETE_ENABLED=true turns it on";

/// What came of deleting a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// It is gone, by us.
    Deleted,
    /// It was not there.
    Gone,
    /// It points to something else than what was expected, and stays.
    Changed(Digest),
    /// The registry can delete only what the tag points to, not the tag, and another tag needs that: it stays.
    Shared {
        /// The other tag.
        with: Tag,
    },
    /// The registry does not delete tags, or not this one: why, and what to do about it.
    NotSupported(String),
}

/// What another tag has to do with a manifest.
enum Others {
    None,
    Need(Tag),
    Unknown(String),
}

impl Registry {
    /// Deletes a tag while it points to `expected`. Where a registry can delete only manifests (distribution 2), what it points to is
    /// deleted with it, unless another tag of the repository needs that.
    ///
    /// Registries have no compare-and-set: a push in the moment between the last look and the deletion is lost; Harbor alone compares.
    ///
    /// # Errors
    /// [`Error::Refused`] if the credentials may not; otherwise see [`Error`].
    pub async fn delete_tag(&self, repository: &Repository, tag: &Tag, expected: &Digest) -> Result<Deletion, Error> {
        if let Some(deletion) = self.unless_there_as(repository, tag, expected).await? {
            return Ok(deletion);
        }
        if let Some(deletion) = Box::pin(self.delete_by_service(repository, tag, expected)).await? {
            return Ok(deletion);
        }
        if self.delete_manifest(repository, &Reference::Tag(tag.clone())).await? {
            return Ok(Deletion::Deleted);
        }
        // Somebody may have been faster, which is answered so as well.
        if let Some(deletion) = self.unless_there_as(repository, tag, expected).await? {
            return Ok(deletion);
        }
        if let Some(deletion) = Box::pin(self.delete_by_service_instead(repository, tag)).await? {
            return Ok(deletion);
        }
        self.delete_with_manifest(repository, tag, expected).await
    }

    /// What is to be said if the tag is not there, or not as expected.
    pub(super) async fn unless_there_as(
        &self,
        repository: &Repository,
        tag: &Tag,
        expected: &Digest,
    ) -> Result<Option<Deletion>, Error> {
        Ok(match self.head_manifest(repository, &Reference::Tag(tag.clone())).await? {
            None => Some(Deletion::Gone),
            Some(found) if found.digest != *expected => Some(Deletion::Changed(found.digest)),
            Some(_) => None,
        })
    }

    /// Distribution specification, "Deleting tags" and "Deleting Manifests"; `false` where that is not supported.
    async fn delete_manifest(&self, repository: &Repository, reference: &Reference) -> Result<bool, Error> {
        let action = format!("DELETE manifest {}", place(repository, reference));
        let scope = match self.service() {
            // For it, who may push may delete.
            Kind::Quay => Scope::Push(repository.clone()),
            _ => Scope::Delete(repository.clone()),
        };
        let call = Call::new(Method::DELETE, action, self.manifest_url(repository, reference), scope)
            // By the book 400 or 405, if it deletes no tags; distribution 2 finds no digest in a tag, others have no such route.
            .expecting(&[400, 404, 405, 501])
            .of_work();
        Ok(self.send(&call).await?.status().is_success())
    }

    async fn delete_with_manifest(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<Deletion, Error> {
        match self.others(repository, tag, digest).await? {
            Others::None => {}
            Others::Need(with) => return Ok(Deletion::Shared { with }),
            Others::Unknown(reason) => return Ok(Deletion::NotSupported(reason)),
        }
        // Finding that out took its time.
        if let Some(deletion) = self.unless_there_as(repository, tag, digest).await? {
            return Ok(deletion);
        }
        if self.delete_manifest(repository, &Reference::Digest(digest.clone())).await? {
            return Ok(Deletion::Deleted);
        }
        Ok(match self.unless_there_as(repository, tag, digest).await? {
            Some(Deletion::Gone) => Deletion::Deleted,
            Some(other) => other,
            None => Deletion::NotSupported(format!("{} deletes nothing: {DELETE_ENABLED}", self.name())),
        })
    }

    /// Whether another tag of the repository points to a manifest, or to an index of it.
    async fn others(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<Others, Error> {
        let (mut unknown, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.list_digests(repository, cursor.as_ref()).await?;
            for (other, found) in page.items.into_iter().filter(|(other, _)| other != tag) {
                if found.as_ref() == Some(digest) {
                    return Ok(Others::Need(other));
                }
                unknown.push(other);
            }
            if unknown.len() > MAX_OTHERS {
                return Ok(Others::Unknown(format!(
                    "{} deletes manifests, not tags, and {repository} has more than {MAX_OTHERS} tags: too many to see whether one \
                     of the others needs {}",
                    self.name(),
                    at(repository, digest)
                )));
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        let needs = stream::iter(unknown)
            .map(|other| async {
                let needs = self.needs(repository, &other, digest).await?;
                Ok::<_, Error>(needs.then_some(other))
            })
            .buffer_unordered(LOOKS_AT_ONCE)
            .try_filter_map(|other| std::future::ready(Ok(other)));
        let mut needs = std::pin::pin!(needs);
        match needs.try_next().await {
            Ok(Some(other)) => Ok(Others::Need(other)),
            Ok(None) => Ok(Others::None),
            Err(Error::Refused(failure)) => Ok(Others::Unknown(format!(
                "{} deletes manifests, not tags, and it can't be found out whether another tag needs {}: {failure}",
                self.name(),
                at(repository, digest)
            ))),
            Err(error) => Err(error),
        }
    }

    /// Whether a tag points to a manifest, or to an index with it somewhere in it.
    async fn needs(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<bool, Error> {
        let Some(found) = self.head_manifest(repository, &Reference::Tag(tag.clone())).await? else { return Ok(false) };
        let (mut below, mut seen) = (vec![found], 0);
        while let Some(descriptor) = below.pop() {
            if descriptor.digest == *digest {
                return Ok(true);
            }
            if !descriptor.is_index() {
                continue;
            }
            let refused = |problem| self.failure(format!("reading {}", at(repository, &descriptor.digest)), problem).refused();
            seen += 1;
            if seen > MAX_INDEXES {
                return Err(refused(format!("there are more than {MAX_INDEXES} indexes below {tag}")));
            }
            let index = self.get_manifest(repository, &Reference::Digest(descriptor.digest.clone())).await?;
            let index = index.map(|index| Parsed::read(&index.bytes).map_err(refused)).transpose()?;
            below.extend(index.iter().flat_map(Parsed::children).cloned());
        }
        Ok(false)
    }
}
