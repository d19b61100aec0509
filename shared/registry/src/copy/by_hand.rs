//! Copies by hand: one artifact, or all that a repository has. Nobody else is expected to be at work on the same tags, so that source and
//! target are looked at once.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::{time::Instant, try_join};
use transship_model::{Digest, Reference, Tag};

use super::{Attached, Copier, Endpoint, Listed, Moved, Progress, Resolved, Way};
use crate::{Error, Failure};

/// A look at the target that is older than this is taken again before a tag is set that is not to be overwritten. One that is not is as good as
/// the last one could be: registries have no compare-and-set.
const FRESH: Duration = Duration::from_secs(2);
/// How many tags are copied at the same time.
const TAGS_AT_ONCE: usize = 32;
/// How many tags a repository may have: their names are in memory together.
const MANY_TAGS: usize = 1_000_000;

/// What a copy by hand may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Replace a tag that the target has with another digest.
    pub overwrite: bool,
    /// Bring what refers to the artifact, too.
    pub referrers: bool,
}

/// What became of a copy by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The target's reference now points to the artifact.
    Copied {
        /// The artifact.
        digest: Digest,
        /// What it took.
        moved: Moved,
        /// What followed it.
        attached: Attached,
    },
    /// It did before.
    Unchanged {
        /// The artifact.
        digest: Digest,
        /// What followed it now.
        attached: Attached,
    },
    /// The target has the tag with another digest, and was not to be overwritten.
    Exists {
        /// What the target's tag points to.
        digest: Digest,
    },
}

/// What became of one tag of many.
pub type Tagged = (Tag, Result<Outcome, Error>);

impl Copier {
    /// Brings what a reference points to, and what refers to that.
    ///
    /// # Errors
    /// [`Error::Refused`] if the source does not have it, among others; [`Error::Schema1`], [`Error::Immutable`]: see there.
    pub async fn copy(
        &self,
        source: &Endpoint,
        from: &Reference,
        target: &Endpoint,
        to: &Reference,
        options: Options,
        progress: &dyn Progress,
    ) -> Result<Outcome, Error> {
        let way = Way::new(source, target, progress);
        // Both sides at the same time: connecting and logging in is most of the time that an unchanged tag costs.
        let there = async {
            // First, because Harbor answers 401 rather than 404 for a project that is not there.
            target.registry.ensure_namespace(&target.repository).await?;
            target.registry.head_manifest_as(target.push(), &target.repository, to).await
        };
        let looked = Instant::now();
        let (resolved, there) = try_join!(self.wanted(source, from), there)?;
        match there {
            Some(there) if there.digest == *resolved.digest() => self.unchanged(&way, there.digest, options).await,
            Some(there) if !options.overwrite => Ok(Outcome::Exists { digest: there.digest }),
            _ => self.bring_whole(&way, &resolved, to, options, looked).await,
        }
    }

    /// Brings every tag of a repository under its own name, many at a time, and tells of each as it ends. Signatures and the like are no
    /// tags of their own: they follow what they belong to. What a repository holds is asked for once, so that a tag that is there
    /// already costs one request on each side.
    ///
    /// # Errors
    /// Only what keeps the tags from being listed, see [`Error`]. What keeps a tag from being copied is told with the tag, and keeps no
    /// other.
    pub async fn copy_all(
        &self,
        source: &Endpoint,
        target: &Endpoint,
        options: Options,
        progress: &dyn Progress,
        mut tell: impl FnMut(Tagged),
    ) -> Result<(), Error> {
        let there = async {
            target.registry.ensure_namespace(&target.repository).await?;
            tags(target).await
        };
        let looked = Instant::now();
        let (listed, there) = try_join!(tags(source), there)?;
        if listed.tags.is_empty() {
            let action = format!("listing tags of {}", source.repository);
            return Err(
                Failure::new(source.registry.name(), action, "there are none, or there is no such repository").refused()
            );
        }
        let way = Way { empty: there.tags.is_empty(), listed: Some(&listed), ..Way::new(source, target, progress) };
        let wanted = listed.tags.iter().filter(|tag| tag.subject().is_none());
        let mut copies = stream::iter(wanted)
            .map(|tag| {
                let is_there = there.tags.contains(tag);
                Box::pin(async move { (tag.clone(), self.copy_tag(&way, tag, is_there, options, looked).await) })
            })
            .buffer_unordered(TAGS_AT_ONCE);
        while let Some(tagged) = copies.next().await {
            tell(tagged);
        }
        Ok(())
    }

    async fn copy_tag(
        &self,
        way: &Way<'_>,
        tag: &Tag,
        is_there: bool,
        options: Options,
        mut looked: Instant,
    ) -> Result<Outcome, Error> {
        let Way { source, target, .. } = *way;
        let tag = Reference::Tag(tag.clone());
        if is_there {
            looked = Instant::now();
            let (ours, theirs) = try_join!(
                target.registry.head_manifest_as(target.push(), &target.repository, &tag),
                source.registry.head_manifest(&source.repository, &tag)
            )?;
            match (ours, theirs) {
                (Some(ours), Some(theirs)) if ours.digest == theirs.digest => {
                    return self.unchanged(way, ours.digest, options).await;
                }
                (Some(ours), Some(_)) if !options.overwrite => return Ok(Outcome::Exists { digest: ours.digest }),
                _ => {}
            }
        }
        let resolved = self.wanted(source, &tag).await?;
        self.bring_whole(way, &resolved, &tag, options, looked).await
    }

    async fn wanted(&self, source: &Endpoint, from: &Reference) -> Result<Resolved, Error> {
        let resolved = self.read(source, from).await?;
        resolved.ok_or_else(|| source.failure("copying", from, "it is not there").refused())
    }

    async fn unchanged(&self, way: &Way<'_>, digest: Digest, options: Options) -> Result<Outcome, Error> {
        let attached =
            if options.referrers { self.attachments(way, &digest, options.overwrite).await? } else { Attached::default() };
        Ok(Outcome::Unchanged { digest, attached })
    }

    /// Content, tag, attachments. These are looked for while the content is on its way, and brought when it is there.
    async fn bring_whole(
        &self,
        way: &Way<'_>,
        resolved: &Resolved,
        to: &Reference,
        options: Options,
        looked: Instant,
    ) -> Result<Outcome, Error> {
        let digest = resolved.digest().clone();
        let survey = async { if options.referrers { self.survey(way, &digest).await } else { Ok(Vec::new()) } };
        // Tags often are names of one thing: the first brings it, the others find it there.
        let what = format!("manifest {}", crate::registry::at(&way.target.repository, &digest));
        let turn = self.memory.turn(&way.target.registry, &what).await;
        // What the survey has to complain of keeps nothing from being copied.
        let (mut moved, found) = try_join!(self.content(way, resolved), async { Ok(survey.await) })?;
        drop(turn);
        if !options.overwrite
            && looked.elapsed() > FRESH
            && let Some(there) = way.target.registry.head_manifest_as(way.target.push(), &way.target.repository, to).await?
            && there.digest != digest
        {
            return Ok(Outcome::Exists { digest: there.digest });
        }
        moved += self.publish(way, resolved, to).await?;
        let attached = self.attach(way, found?, options.overwrite).await?;
        Ok(Outcome::Copied { digest, moved, attached })
    }
}

/// All tags of a repository; none if there is no such repository.
async fn tags(of: &Endpoint) -> Result<Listed, Error> {
    let (mut listed, mut cursor) = (Listed::default(), None);
    loop {
        let page = of.registry.list_tags(&of.repository, cursor.as_ref()).await?;
        listed.extend(page.items);
        if listed.tags.len() > MANY_TAGS {
            let action = format!("listing tags of {}", of.repository);
            return Err(Failure::new(of.registry.name(), action, format!("more than {MANY_TAGS} tags")).refused());
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(listed),
        }
    }
}
