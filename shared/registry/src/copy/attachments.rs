//! What refers to an artifact and follows it: referrers by `subject`, and cosign's tags.
//!
//! Looked at are the artifact and, if it is an index, its children, because `cosign sign --recursive` signs each of them;
//! and of each referrer its own referrers (a signed SBOM). For the former that is four requests each at the source, three
//! HEADs for cosign's tags and one for the referrers; they run side by side, and nothing is asked of the target until something is
//! found. The source's tags are not listed: a repository may have a hundred thousand.

use std::collections::HashSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE;
use serde_json::{Value, json};
use tokio::try_join;
use transship_model::{Digest, Reference, Tag};

use super::{Copier, Endpoint, Moved, Way, bounds::Answer};
use crate::{
    Descriptor, Error, Manifest,
    auth::Scope,
    manifest::{Content, MAX_SIZE, Parsed},
};

/// How many digests are looked at for one artifact.
const MANY: usize = 1000;
/// How often a referrer is listed that others may have written over.
const LISTED_AGAIN: usize = 4;
/// How many are looked at at the same time.
const AT_ONCE: usize = 8;

/// What followed an artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attached {
    /// Referrers and cosign tags brought to the target.
    pub manifests: u32,
    /// What they took.
    pub moved: Moved,
    /// Cosign tags of the target that differ from the source's and hold signatures that the source does not have.
    pub left: Vec<Tag>,
}

/// What is looked at for one digest.
#[derive(Debug, Clone)]
struct Subject {
    digest: Digest,
    /// Whether it can have cosign's tags: an image, not another referrer.
    cosign: bool,
}

/// What refers to one digest at the source.
pub(super) struct Found {
    subject: Digest,
    referrers: Vec<Descriptor>,
    tags: Vec<(Tag, Descriptor)>,
}

impl Copier {
    /// Brings what refers to an artifact. Whatever is there at the target stays: a listing is merged, and a cosign tag with other
    /// signatures is replaced only if `overwrite` is set or its signatures are all among the source's.
    ///
    /// # Errors
    /// The first that occurred, after all the others have been tried; see [`Error`].
    pub async fn attachments(&self, way: &Way<'_>, subject: &Digest, overwrite: bool) -> Result<Attached, Error> {
        let found = self.survey(way, subject).await?;
        self.attach(way, found, overwrite).await
    }

    /// Whether the source's referrers API lists something for an artifact, its children or what refers to these, that the target does not
    /// list. What has a tag of its own is not looked at, and nothing is brought.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn lists_more(&self, way: &Way<'_>, subject: &Digest) -> Result<bool, Error> {
        let target = way.target;
        for found in self.survey(&way.without_attachment_tags(), subject).await? {
            if found.referrers.is_empty() {
                continue;
            }
            let there = target.registry.referrers(&target.repository, &found.subject).await?;
            if found.referrers.iter().any(|referrer| !there.iter().any(|known| known.digest == referrer.digest)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks for what refers to an artifact at the source, and to that, and so on; in the order in which it is to be brought.
    pub(super) async fn survey(&self, way: &Way<'_>, subject: &Digest) -> Result<Vec<Found>, Error> {
        let source = way.source;
        let mut all = Vec::new();
        if way.listed.is_some_and(|listed| !listed.attachments) {
            // All that there can be is what its API lists, if it has one.
            if source.registry.lacks_referrers_api(&source.repository, subject).await? {
                return Ok(all);
            }
        }
        let children = self.children_of(source, subject).await?;
        let mut seen: HashSet<Digest> = HashSet::new();
        let mut level: Vec<Subject> =
            std::iter::once(subject).chain(children.iter()).map(|d| Subject { digest: d.clone(), cosign: true }).collect();
        while !level.is_empty() {
            level.retain(|subject| seen.insert(subject.digest.clone()));
            if seen.len() > MANY {
                let problem = format!("more than {MANY} digests to look for referrers of");
                return Err(source.failure("reading", &Reference::Digest(subject.clone()), problem).refused());
            }
            // Collected before anything else is asked for: a look that nobody polled would keep its place among the requests that the
            // source is asked at a time, and what is brought might wait for that place.
            let looks = stream::iter(level).map(|subject| look(way, subject)).buffered(AT_ONCE);
            let found: Vec<Found> = looks.try_collect().await?;
            let referrers = found.iter().flat_map(|found| &found.referrers);
            level = referrers.map(|r| Subject { digest: r.digest.clone(), cosign: false }).collect();
            all.extend(found);
        }
        Ok(all)
    }

    /// Brings what a survey has found.
    pub(super) async fn attach(&self, way: &Way<'_>, found: Vec<Found>, overwrite: bool) -> Result<Attached, Error> {
        let mut attached = Attached::default();
        let mut failed = None;
        for found in found {
            failed = failed.or(self.bring_referrers(way, &found, &mut attached).await?);
            failed = failed.or(self.bring_cosign_tags(way, &found, overwrite, &mut attached).await?);
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(attached),
        }
    }

    async fn children_of(&self, source: &Endpoint, subject: &Digest) -> Result<std::sync::Arc<[Digest]>, Error> {
        if let Some(children) = self.memory.children(subject) {
            return Ok(children);
        }
        let reference = Reference::Digest(subject.clone());
        // A subject that is not there, or no manifest, may have referrers all the same.
        let manifest = source.registry.get_manifest(&source.repository, &reference).await?;
        if let Some(parsed) = manifest.and_then(|manifest| Parsed::read(&manifest.bytes).ok()) {
            self.memory.learn_children(subject, &parsed);
        }
        Ok(self.memory.children(subject).unwrap_or_default())
    }

    /// Brings the referrers that the target does not list. One that can't be brought is the answer, and keeps no other; what asks for
    /// patience asks it for everything that follows, and is the error.
    async fn bring_referrers(&self, way: &Way<'_>, found: &Found, attached: &mut Attached) -> Result<Option<Error>, Error> {
        let target = way.target;
        if found.referrers.is_empty() {
            return Ok(None);
        }
        let there = target.registry.referrers(&target.repository, &found.subject).await?;
        let mut failed = None;
        for referrer in found.referrers.iter().filter(|r| !there.iter().any(|t| t.digest == r.digest)) {
            let reference = Reference::Digest(referrer.digest.clone());
            match Box::pin(self.bring(way, &reference, Some(&found.subject), attached)).await {
                Err(error) if error.is_passing() => return Err(error),
                Err(error) => failed = failed.or(Some(error)),
                Ok(()) => {}
            }
        }
        Ok(failed)
    }

    /// Brings cosign's tags, likewise.
    async fn bring_cosign_tags(
        &self,
        way: &Way<'_>,
        found: &Found,
        overwrite: bool,
        attached: &mut Attached,
    ) -> Result<Option<Error>, Error> {
        let Way { source, target, .. } = *way;
        let mut failed = None;
        for (tag, theirs) in &found.tags {
            let reference = Reference::Tag(tag.clone());
            let attempt = async {
                let ours = target.registry.head_manifest_as(target.push(), &target.repository, &reference).await?;
                match ours {
                    Some(ours) if ours.digest == theirs.digest => Ok(true),
                    Some(_) if !overwrite && !self.is_outgrown(source, target, &reference).await? => Ok(false),
                    _ => match Box::pin(self.bring(way, &reference, None, attached)).await {
                        // Where the registry's tags can't be moved, neither can this one.
                        Err(Error::Immutable(_)) => Ok(false),
                        other => other.map(|()| true),
                    },
                }
            };
            match attempt.await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::info!(registry = target.registry.name(), %tag, "left: it has signatures that the source does not have");
                    attached.left.push(tag.clone());
                }
                Err(error) if error.is_passing() => return Err(error),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Ok(failed)
    }

    /// Whether every signature of the target's tag is in the source's: cosign appends layers, so nothing would be lost.
    async fn is_outgrown(&self, source: &Endpoint, target: &Endpoint, tag: &Reference) -> Result<bool, Error> {
        let (theirs, ours) = try_join!(
            source.registry.get_manifest(&source.repository, tag),
            target.registry.get_manifest(&target.repository, tag)
        )?;
        let layers = |manifest: Option<Manifest>| match Parsed::read(&manifest?.bytes).ok()?.content {
            Content::Image { layers, .. } => Some(layers.into_iter().map(|layer| layer.digest).collect::<HashSet<_>>()),
            _ => None,
        };
        Ok(matches!((layers(theirs), layers(ours)), (Some(theirs), Some(ours)) if ours.is_subset(&theirs)))
    }

    /// Copies an attachment under the same name, if it refers to what it is said to refer to.
    async fn bring(
        &self,
        way: &Way<'_>,
        reference: &Reference,
        subject: Option<&Digest>,
        attached: &mut Attached,
    ) -> Result<(), Error> {
        let source = way.source;
        // A listing may name what has been deleted since.
        let resolved = match self.read(source, reference).await {
            Ok(Some(resolved)) => resolved,
            // Of no use to anybody who looks for referrers.
            Ok(None) | Err(Error::Schema1(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        // The target would not list it, and each copy would bring it again.
        if subject.is_some_and(|subject| resolved.subject() != Some(subject)) {
            tracing::debug!(registry = source.registry.name(), %reference, "left: it does not refer to what it is listed for");
            return Ok(());
        }
        attached.moved += self.content(way, &resolved).await?;
        attached.moved += self.publish(way, &resolved, reference).await?;
        attached.manifests += 1;
        Ok(())
    }

    /// Adds a referrer to the tag that stands in for the referrers API: distribution specification 1.1, "Referrers Tag Schema".
    /// What is in it stays, with all its fields.
    pub(super) async fn add_to_referrers_tag(
        &self,
        way: &Way<'_>,
        subject: &Digest,
        referrer: Descriptor,
    ) -> Result<(), Error> {
        let target = way.target;
        let tag = Reference::Tag(subject.as_tag(""));
        // Read and written by one at a time, in this process and in all: registries have no means against a lost update.
        let what = format!("{}:{tag}", target.repository);
        let _turn = self.memory.turn(&target.registry, &what).await;
        let Answer::Ours(held) = way.bounds.lease(target, &what).await else {
            return Err(Error::Busy(Box::new(target.failure("updating", &tag, "another process is at work on it"))));
        };
        match held.during(Self::list(way, &tag, referrer), |_| false).await {
            // It is not the artifact's own tag that can't be moved.
            Err(Error::Immutable(failure)) => Err(Error::Refused(failure)),
            other => other,
        }
    }

    /// Lists a referrer, and where no lease keeps others away sees to it that it stays: two that read the same list write each
    /// without the other's.
    async fn list(way: &Way<'_>, tag: &Reference, referrer: Descriptor) -> Result<(), Error> {
        for _ in 0..LISTED_AGAIN {
            let has_changed = Self::list_once(way.target, tag, &referrer).await?;
            if !has_changed || way.bounds.are_shared() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Lists a referrer, if it is not. Whether it was not.
    async fn list_once(target: &Endpoint, tag: &Reference, referrer: &Descriptor) -> Result<bool, Error> {
        let refused = |problem: &str| target.failure("updating", tag, problem).refused();
        let there = target.registry.get_manifest(&target.repository, tag).await?;
        let mut index = match there {
            Some(manifest) => serde_json::from_slice(&manifest.bytes).map_err(|_| refused("it is no index of referrers"))?,
            None => json!({"schemaVersion": 2, "mediaType": OCI_IMAGE_INDEX_MEDIA_TYPE, "manifests": []}),
        };
        let listed =
            index.get_mut("manifests").and_then(Value::as_array_mut).ok_or_else(|| refused("it is no index of referrers"))?;
        if listed.iter().any(|entry| entry["digest"] == referrer.digest.as_str()) {
            return Ok(false);
        }
        listed.push(serde_json::to_value(referrer).map_err(|_| refused("a referrer can't be listed"))?);
        let bytes = serde_json::to_vec(&index).map_err(|_| refused("a referrer can't be listed"))?;
        if bytes.len() > MAX_SIZE {
            return Err(refused("it has no room for another referrer"));
        }
        let manifest = Manifest::new(OCI_IMAGE_INDEX_MEDIA_TYPE, bytes);
        target.registry.put_manifest(&target.repository, tag, &manifest).await.map(|_| true)
    }
}

/// What refers to a digest at the source.
async fn look(way: &Way<'_>, subject: Subject) -> Result<Found, Error> {
    let Way { source, listed, .. } = *way;
    let Subject { digest, cosign } = subject;
    let may_be_there = |tag: &Tag| listed.is_none_or(|listed| listed.tags.contains(tag));
    let tag = |suffix: &'static str| {
        let tag = digest.as_tag(suffix);
        async move {
            if !cosign || !may_be_there(&tag) {
                return Ok(None);
            }
            let scope = Scope::Pull(source.repository.clone());
            let reference = Reference::Tag(tag.clone());
            let found = source.registry.head_manifest_as(scope, &source.repository, &reference).await?;
            Ok::<_, Error>(found.map(|descriptor| (tag, descriptor)))
        }
    };
    let referrers = async {
        match source.registry.referrers_by_api_alone(&source.repository, &digest).await? {
            Some(referrers) => Ok(referrers),
            None if may_be_there(&digest.as_tag("")) => source.registry.referrers_by_tag(&source.repository, &digest).await,
            None => Ok(Vec::new()),
        }
    };
    let (referrers, signature, attestation, sbom) = try_join!(referrers, tag(".sig"), tag(".att"), tag(".sbom"))?;
    let tags = [signature, attestation, sbom].into_iter().flatten().collect();
    Ok(Found { subject: digest, referrers, tags })
}
