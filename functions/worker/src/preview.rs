//! What a rule would do now, for somebody who waits for the answer. Nothing is moved, and nothing is written but the answer.
//!
//! A worker finds it out, and not the API, because workers alone have the registries' credentials.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout_at};
use transship_model::{
    Digest, Foreseen, InstanceName, Place, Precedence, Preview, PreviewJob, Reference, Repository, Route, Rule, SkipReason,
    Tag, Would, origin::precedence,
};
use transship_registry::{Error as RegistryError, Way};
use transship_state::{Origins, StateError};

use crate::{
    Disposition, Worker,
    compare::{AT_ONCE, Comparison, Finding, Tagged, is_silent},
    flatten::{Name, collision},
    scan::{Progress, Purpose, Scan},
    trouble::Trouble,
};

/// A page is made in so long.
const PAGE: Duration = Duration::from_secs(12);
/// A registry that has not answered so long after that is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Nobody waits any more for what was asked for so long ago.
const STALE: SignedDuration = SignedDuration::from_mins(10);

/// What has been foreseen.
pub(crate) struct Foresight {
    limit: usize,
    found: Mutex<Vec<Foreseen>>,
    /// Which repository of this page has a flattened name.
    names: Mutex<HashMap<Repository, Repository>>,
}

impl Foresight {
    /// Adds what would become of some tags; if there is a reason why nothing can be copied there, that.
    pub(crate) fn add(&self, some: Vec<Foreseen>, refused: Option<&str>) {
        let would_act = |would: &Would| matches!(would, Would::Copy | Would::Replace | Would::Attach);
        let some = some.into_iter().map(|foreseen| match refused {
            Some(reason) if would_act(&foreseen.would) => {
                Foreseen { would: Would::Fail { reason: reason.to_owned() }, ..foreseen }
            }
            _ => foreseen,
        });
        self.found.lock().unwrap_or_else(PoisonError::into_inner).extend(some);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).len() >= self.limit
    }
}

impl Worker {
    /// Finds out what a rule would do, a page of it. It is not tried again: somebody waits, and may ask again.
    pub(crate) async fn preview_job(&self, job: &PreviewJob, deadline: Option<Instant>) -> Result<Disposition, StateError> {
        if Timestamp::now().duration_since(job.asked) > STALE {
            return Ok(Disposition::Done);
        }
        let until = Instant::now() + PAGE;
        let until = deadline.map_or(until, |deadline| deadline.min(until));
        let foresight = Foresight { limit: job.limit, found: Mutex::default(), names: Mutex::default() };
        let mut cursor = job.cursor.clone();
        let walked = timeout_at(until + PATIENCE, self.foresee(job, &foresight, &mut cursor, until)).await;
        let (next, error) = match walked {
            Ok(Ok(Progress::Ended)) => (None, cursor.trouble.take()),
            Ok(Ok(Progress::Interrupted)) => (Some(cursor), None),
            Ok(Err(trouble)) => {
                if let Some(registry) = trouble.denied_by() {
                    self.registries.forget(registry);
                }
                self.registries.note(&trouble);
                (None, Some(trouble.to_string()))
            }
            Err(_) if cursor == job.cursor => (None, Some(Trouble::Late.to_string())),
            // It goes on where it is.
            Err(_) => (Some(cursor), None),
        };
        let items = foresight.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let preview = Preview { rule: job.rule.clone(), items, next, error };
        match self.previews.put(&job.id, &preview).await {
            // Made again it would be as large.
            Err(error @ StateError::Corrupt { .. }) => {
                tracing::error!(%error, "a preview");
                let error = format!("a page of {} resources can't be kept: ask for fewer at a time", preview.items.len());
                let told = Preview { items: Vec::new(), next: None, error: Some(error), ..preview };
                self.previews.put(&job.id, &told).await?;
            }
            kept => kept?,
        }
        Ok(Disposition::Done)
    }

    /// Why a repository can't have the name that it would be flattened to, if another has it or would have got it.
    pub(crate) async fn is_taken(
        &self,
        rule: &Rule,
        foresight: &Foresight,
        source: &Repository,
        to: &Repository,
    ) -> Result<Option<String>, Trouble> {
        if !rule.target.flatten {
            return Ok(None);
        }
        let place = |instance: &InstanceName, repository: &Repository| Place {
            instance: instance.clone(),
            repository: repository.clone(),
            reference: Reference::Digest(Digest::of(b"")),
        };
        let (from, to) = (place(&rule.source.instance, source), place(&rule.target.instance, to));
        if let Name::Taken(problem) = self.name(rule, &from, &to).await? {
            return Ok(Some(problem));
        }
        let mut names = foresight.names.lock().unwrap_or_else(PoisonError::into_inner);
        let holder = names.entry(to.repository.clone()).or_insert_with(|| source.clone());
        Ok((holder != source).then(|| collision(&from, &to, holder)))
    }

    async fn foresee(
        &self,
        job: &PreviewJob,
        foresight: &Foresight,
        cursor: &mut transship_model::ScanCursor,
        until: Instant,
    ) -> Result<Progress, Trouble> {
        let (catalog, rule) = (self.catalog.snapshot().await?, &job.rule);
        let source = self.registries.registry(&catalog, &rule.source.instance).await?;
        let target = self.registries.registry(&catalog, &rule.target.instance).await?;
        let tags = rule.source.tag.compile().map_err(|error| Trouble::Refused(error.to_string()))?;
        let purpose = Purpose::Foresee(foresight);
        self.walk(&Scan { purpose, catalog: &catalog, rule, source, target, tags, until, is_repeated: false }, cursor).await
    }
}

/// A reason why something can't be told, or trouble that keeps all else from being told, too.
type Told<T> = Result<Result<T, String>, Trouble>;

impl Comparison<'_> {
    /// What would become of those of some tags that the rule selects, or that belong to what the target has.
    pub(crate) async fn foresee(
        &self,
        tags: &[Tagged],
        is_selected: impl Fn(&Tag) -> bool,
        origins: &Origins,
    ) -> Result<Vec<Foreseen>, Trouble> {
        let looks: Vec<_> =
            tags.iter().map(|(tag, digest)| self.foresee_one(tag, digest.as_ref(), is_selected(tag), origins)).collect();
        let found: Vec<Option<Foreseen>> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn foresee_one(
        &self,
        tag: &Tag,
        digest: Option<&Digest>,
        is_selected: bool,
        origins: &Origins,
    ) -> Result<Option<Foreseen>, Trouble> {
        let (source, target) = self.places(tag);
        let mut foreseen =
            Foreseen { source, target, digest: digest.cloned(), target_digest: None, artifact: None, would: Would::Copy };
        if tag.subject().is_some() {
            let Finding::Attachment(_) = self.look(tag, digest, false).await? else { return Ok(None) };
            return Ok(Some(Foreseen { would: Would::Attach, ..foreseen }));
        }
        if !is_selected {
            return Ok(None);
        }
        foreseen.would = match self.would(&mut foreseen, tag, origins).await? {
            Ok(would) => would,
            Err(reason) => Would::Fail { reason },
        };
        Ok(Some(foreseen))
    }

    /// What would become of tags that the source does not have any more, and the rule has set at the target to these digests.
    pub(crate) async fn foresee_deletions(&self, gone: Vec<(&Tag, Route, Digest)>) -> Result<Vec<Foreseen>, Trouble> {
        let looks: Vec<_> = gone.into_iter().map(|(tag, route, ours)| self.foresee_deletion(tag, route, ours)).collect();
        stream::iter(looks).buffered(AT_ONCE).try_collect().await
    }

    async fn foresee_deletion(&self, tag: &Tag, route: Route, ours: Digest) -> Result<Foreseen, Trouble> {
        let there = match self.listed_digest(tag) {
            Some(digest) => Ok(Some(digest.clone())),
            None => {
                let reference = Reference::Tag(tag.clone());
                told(self.target.registry.head_manifest(&self.target.repository, &reference).await)?
                    .map(|head| head.map(|head| head.digest))
            }
        };
        let (target_digest, would) = match there {
            Ok(Some(theirs)) if theirs == ours => (Some(theirs), Would::Delete),
            Ok(Some(theirs)) => (Some(theirs), Would::Skip { reason: SkipReason::NotOurs }),
            Ok(None) => (None, Would::Unchanged),
            Err(reason) => (None, Would::Fail { reason }),
        };
        let Route { source, target } = route;
        Ok(Foreseen { source, target, digest: None, target_digest, artifact: None, would })
    }

    async fn would(&self, foreseen: &mut Foreseen, tag: &Tag, origins: &Origins) -> Told<Would> {
        let reference = Reference::Tag(tag.clone());
        let is_absent = self.lists(tag) == Some(false);
        if !is_absent {
            foreseen.target_digest = match self.listed_digest(tag) {
                Some(digest) => Some(digest.clone()),
                None => match told(self.target.registry.head_manifest(&self.target.repository, &reference).await)? {
                    Ok(head) => head.map(|head| head.digest),
                    Err(reason) => return Ok(Err(reason)),
                },
            };
        }
        let (is_contested, has_versions) = (self.is_contested(tag), self.catalog.has_versions(&foreseen.source));
        // What is not there is copied whatever it is, unless its type or its version counts.
        let counts = is_contested || has_versions || !self.rule.source.types.is_empty();
        if foreseen.digest.is_none() && (foreseen.target_digest.is_some() || counts) {
            match told(self.source.registry.head_manifest(&self.source.repository, &reference).await)? {
                Ok(Some(head)) => foreseen.digest = Some(head.digest),
                Ok(None) => return Ok(Ok(Would::Skip { reason: SkipReason::Gone })),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        let (source, target) = match is_contested || has_versions {
            true => tokio::try_join!(origins.get(&foreseen.source), origins.get(&foreseen.target))?,
            false => Default::default(),
        };
        // What was overwritten with something older is put back, and brought.
        let newer = foreseen.digest.as_ref().filter(|_| has_versions).and_then(|digest| source.overwritten(digest));
        if let Some((digest, _)) = newer {
            foreseen.digest = Some(digest.clone());
        }
        if let (Some(ours), Some(theirs)) = (&foreseen.digest, &foreseen.target_digest)
            && ours == theirs
        {
            let way = Way::new(&self.source, &self.target, &());
            let is_more = self.rule.referrers && told(self.copier.lists_more(&way, ours).await)?.unwrap_or(false);
            return Ok(Ok(if is_more { Would::Attach } else { Would::Unchanged }));
        }
        if !self.rule.source.types.is_empty() {
            let resolved = match self.copier.resolve(&self.source, &reference).await {
                Err(RegistryError::Schema1(_)) => return Ok(Ok(Would::Skip { reason: SkipReason::Schema1 })),
                other => told(other)?,
            };
            match resolved {
                Ok(Some(resolved)) => foreseen.artifact = Some(resolved.artifact),
                Ok(None) => return Ok(Ok(Would::Skip { reason: SkipReason::Gone })),
                Err(reason) => return Ok(Err(reason)),
            }
            if !foreseen.artifact.is_some_and(|artifact| self.rule.selects_type(artifact)) {
                return Ok(Ok(Would::Skip { reason: SkipReason::Type }));
            }
        }
        let (Some(ours), Some(theirs)) = (&foreseen.digest, &foreseen.target_digest) else {
            let is_buried = |ours| is_contested && target.has_deleted(source.version_of(ours));
            return Ok(Ok(match foreseen.digest.as_ref().is_some_and(is_buried) {
                true => Would::Skip { reason: SkipReason::Deleted },
                false => Would::Copy,
            }));
        };
        if !self.rule.overwrite {
            return Ok(Ok(Would::Skip { reason: SkipReason::Exists }));
        }
        if !is_contested {
            return Ok(Ok(Would::Replace));
        }
        Ok(Ok(match precedence(source.version_of(ours), target.version_of(theirs)) {
            Precedence::Source => Would::Replace,
            Precedence::Target => Would::Skip { reason: SkipReason::Superseded },
            Precedence::Unknown => Would::Skip { reason: SkipReason::Conflict },
        }))
    }
}

/// What a registry has told, or why it has not; a registry that does not answer at all is trouble.
fn told<T>(answer: Result<T, RegistryError>) -> Told<T> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(error) if is_silent(&error) => Err(error.into()),
        Err(error) => Ok(Err(error.to_string())),
    }
}
