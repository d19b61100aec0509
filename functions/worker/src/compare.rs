//! Comparing what a rule selects with what the target has, before there is a job for it.
//!
//! A full run finds most of a source at the target already. Where both registries tell digests in their lists, that takes no request for a
//! single tag; where one does not, a `HEAD` there. Only what differs or is missing gets a job, and so do signatures and the like that the
//! target lacks: those with tags of their own are compared as tags are, and those that only the source's referrers API lists are asked for,
//! because no list shows them.

use std::collections::HashMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::try_join;
use transship_model::{AttachmentKind, Digest, Place, Reference, Rule, Tag};
use transship_registry::{Copier, Endpoint, Error as RegistryError, Way};
use transship_state::{Snapshot, dispatch};

use crate::trouble::Trouble;

/// So many tags are compared at a time, where that takes requests.
pub(crate) const AT_ONCE: usize = 32;
/// A target's list is kept in memory up to so many tags. Of a longer one each tag is asked for.
const MAX_LISTED: usize = 200_000;

/// A tag as a list tells it, with its digest if the list has it.
pub(crate) type Tagged = (Tag, Option<Digest>);

/// What is to be done about a tag of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The rule does not select it, or it belongs to something else, for which nothing is to be done.
    Nothing,
    /// The target has it, and what refers to it.
    Equal,
    /// It is to be looked at by a job.
    Differs,
    /// It belongs to this, which the target has without it.
    Attachment(Digest),
}

/// A repository at both ends of a rule.
pub(crate) struct Comparison<'a> {
    pub(crate) catalog: &'a Snapshot,
    pub(crate) copier: &'a Copier,
    pub(crate) rule: &'a Rule,
    pub(crate) source: Endpoint,
    pub(crate) target: Endpoint,
    /// The target's tags; `None` where they can't be listed, or are too many.
    listed: Option<HashMap<Tag, Option<Digest>>>,
}

impl<'a> Comparison<'a> {
    /// Lists the target.
    pub(crate) async fn begin(
        catalog: &'a Snapshot,
        copier: &'a Copier,
        rule: &'a Rule,
        source: Endpoint,
        target: Endpoint,
    ) -> Result<Self, Trouble> {
        let listed = match list(&target).await {
            Ok(listed) => listed,
            // Who may not list may be allowed to look.
            Err(error) if !error.is_retry() => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { catalog, copier, rule, source, target, listed })
    }

    /// Of a target whose namespace is still to be made: it has no tags.
    pub(crate) fn with_nothing(
        catalog: &'a Snapshot,
        copier: &'a Copier,
        rule: &'a Rule,
        source: Endpoint,
        target: Endpoint,
    ) -> Self {
        Self { catalog, copier, rule, source, target, listed: Some(HashMap::new()) }
    }

    /// What is to be done about some tags of the source, in their order. `is_selected` is what the rule's tag pattern says.
    pub(crate) async fn find(&self, tags: &[Tagged], is_selected: impl Fn(&Tag) -> bool) -> Result<Vec<Finding>, Trouble> {
        let looks: Vec<_> = tags.iter().map(|(tag, digest)| self.look(tag, digest.as_ref(), is_selected(tag))).collect();
        stream::iter(looks).buffered(AT_ONCE).try_collect().await
    }

    pub(crate) async fn look(&self, tag: &Tag, digest: Option<&Digest>, is_selected: bool) -> Result<Finding, Trouble> {
        match tag.subject() {
            Some((subject, kind)) if self.rule.referrers => self.attachment(tag, digest, subject, kind).await,
            None if is_selected => self.tag(tag, digest).await,
            Some(_) | None => Ok(Finding::Nothing),
        }
    }

    async fn tag(&self, tag: &Tag, digest: Option<&Digest>) -> Result<Finding, Trouble> {
        if self.lists(tag) == Some(false) || self.versions_decide(tag) {
            return Ok(Finding::Differs);
        }
        let Some(digest) = self.equal(tag, digest, self.listed_digest(tag)).await? else { return Ok(Finding::Differs) };
        if !self.rule.referrers {
            return Ok(Finding::Equal);
        }
        let way = Way::new(&self.source, &self.target, &());
        Ok(match known(self.copier.lists_more(&way, &digest).await)? {
            Some(false) => Finding::Equal,
            Some(true) | None => Finding::Differs,
        })
    }

    /// Whether the target has a tag by its list; `None` if it could not be listed.
    pub(crate) fn lists(&self, tag: &Tag) -> Option<bool> {
        self.listed.as_ref().map(|listed| listed.contains_key(tag))
    }

    /// The tags that the target's list has; none if it could not be listed.
    pub(crate) fn target_tags(&self) -> impl Iterator<Item = &Tag> {
        self.listed.iter().flat_map(HashMap::keys)
    }

    /// The digest that the target's list has for a tag.
    pub(crate) fn listed_digest(&self, tag: &Tag) -> Option<&Digest> {
        self.listed.as_ref()?.get(tag)?.as_ref()
    }

    /// A tag's places at source and target.
    pub(crate) fn places(&self, tag: &Tag) -> (Place, Place) {
        let (instance, repository) = (self.rule.source.instance.clone(), self.source.repository.clone());
        let source = Place { instance, repository, reference: Reference::Tag(tag.clone()) };
        let target = dispatch::target_place(self.rule, &source, &self.target.repository);
        (source, target)
    }

    /// Whether versions decide what the target's tag is.
    pub(crate) fn is_contested(&self, tag: &Tag) -> bool {
        let (source, target) = self.places(tag);
        self.catalog.is_contested(self.rule, &source, &target)
    }

    /// Whether more than the digest counts: that is for who holds the target's message group.
    fn versions_decide(&self, tag: &Tag) -> bool {
        self.is_contested(tag) || self.catalog.has_versions(&self.places(tag).0)
    }

    /// The digest, if a tag has the same at both ends. What the lists did not tell is asked for.
    async fn equal(&self, tag: &Tag, ours: Option<&Digest>, theirs: Option<&Digest>) -> Result<Option<Digest>, Trouble> {
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            return Ok((ours == theirs).then(|| ours.clone()));
        }
        let (ours, theirs) = try_join!(digest(&self.source, tag, ours), digest(&self.target, tag, theirs))?;
        Ok(ours.filter(|ours| theirs.as_ref() == Some(ours)))
    }

    /// A tag that belongs to a subject: whether the target has the subject and lacks this.
    async fn attachment(
        &self,
        tag: &Tag,
        digest: Option<&Digest>,
        subject: Digest,
        kind: AttachmentKind,
    ) -> Result<Finding, Trouble> {
        let there = self.listed_digest(tag);
        if digest.is_some() && there == digest {
            return Ok(Finding::Nothing);
        }
        let is_there = match kind {
            AttachmentKind::Cosign if self.lists(tag) == Some(false) => false,
            AttachmentKind::Cosign => self.equal(tag, digest, there).await?.is_some(),
            // The target's is written by us, of the same entries and not of the same bytes.
            AttachmentKind::Referrers => self.lists_all(&subject).await?,
        };
        if is_there {
            return Ok(Finding::Nothing);
        }
        // What the target does not have needs no signature there; when it is brought, its signatures follow.
        let reference = Reference::Digest(subject.clone());
        let subject_there = known(self.target.registry.head_manifest(&self.target.repository, &reference).await)?.flatten();
        Ok(if subject_there.is_some() { Finding::Attachment(subject) } else { Finding::Nothing })
    }

    /// Whether the target lists all referrers of a subject that the source lists.
    async fn lists_all(&self, subject: &Digest) -> Result<bool, Trouble> {
        let Some(wanted) = known(self.source.registry.referrers(&self.source.repository, subject).await)? else {
            return Ok(false);
        };
        if wanted.is_empty() {
            return Ok(true);
        }
        let there = known(self.target.registry.referrers(&self.target.repository, subject).await)?.unwrap_or_default();
        Ok(wanted.iter().all(|wanted| there.iter().any(|there| there.digest == wanted.digest)))
    }
}

/// All tags of a repository; `None` if they are too many.
async fn list(of: &Endpoint) -> Result<Option<HashMap<Tag, Option<Digest>>>, RegistryError> {
    let (mut listed, mut cursor) = (HashMap::new(), None);
    loop {
        let page = of.registry.list_digests(&of.repository, cursor.as_ref()).await?;
        listed.extend(page.items);
        if listed.len() > MAX_LISTED {
            return Ok(None);
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(Some(listed)),
        }
    }
}

/// What a tag points to, asked for if it is not known.
async fn digest(of: &Endpoint, tag: &Tag, known_already: Option<&Digest>) -> Result<Option<Digest>, Trouble> {
    if let Some(digest) = known_already {
        return Ok(Some(digest.clone()));
    }
    let head = known(of.registry.head_manifest(&of.repository, &Reference::Tag(tag.clone())).await)?;
    Ok(head.flatten().map(|head| head.digest))
}

/// What a registry has told. `None` for what it has refused to tell, or can't: that is the business of the job for it, which tries again and
/// reports it. A registry that does not answer at all, or asks for patience, is waited for.
fn known<T>(answer: Result<T, RegistryError>) -> Result<Option<T>, Trouble> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_silent(&error) => Err(error.into()),
        Err(error) => {
            tracing::debug!(%error, "a tag can't be compared, and gets a job");
            Ok(None)
        }
    }
}

/// Whether a registry has not answered at all, or asks for patience: then it makes no sense to ask it for more.
pub(crate) fn is_silent(error: &RegistryError) -> bool {
    error.is_retry() && matches!(error.failure().status(), None | Some(429))
}
