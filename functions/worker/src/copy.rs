//! Bringing one resource to one target.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::{sync::Notify, time::Instant};
use transship_model::{
    CopyJob, Digest, Happening, Job, Origin, Outcome, Place, Precedence, Reference, RestoreJob, Route, Rule, SkipReason, Told,
    Written, origin::precedence,
};
use transship_registry::{Bounds, Endpoint, Error as RegistryError, Resolved, Way};
use transship_state::{Attempts, Beginning, Pause, StateError};

use crate::{Disposition, MAX_UNFINISHED, Worker, flatten::Name, in_time, report::Report, retry, trouble::Trouble};

/// So often the source may move while it is copied, before the job is sent on to wait its turn again.
const ROUNDS: usize = 3;

/// For so long after a push its tag is waited for. Distribution tells of a push when it has the manifest, and sets the tag then.
pub(crate) const FRESH: SignedDuration = SignedDuration::from_secs(5);

/// So long a registry may take to tell what a copy that was cancelled had come to.
const LAST_LOOK: Duration = Duration::from_secs(10);

/// Whether the source does not show yet what was pushed a moment ago. After that, what it shows is what is meant.
fn is_early(job: &CopyJob, shown: Option<&Digest>) -> bool {
    let is_other = job.pushed.as_ref().is_some_and(|pushed| shown != Some(pushed));
    is_other && Timestamp::now().duration_since(job.task.created) < FRESH
}

/// How a copy ended.
pub(crate) enum Finish {
    /// With an outcome for the log.
    Outcome(Outcome),
    /// Not yet: the source moves faster than it is copied, or the time is over.
    SendOn,
}

impl Finish {
    pub(crate) fn skipped(reason: SkipReason) -> Result<Self, Trouble> {
        Ok(Self::Outcome(Outcome::Skipped { reason }))
    }
}

/// What is to be done with the target's tag.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Set,
    Unchanged,
    Skip(SkipReason),
}

/// A copy at work: what is known when it begins and holds until it ends.
pub(crate) struct Copy<'a> {
    pub(crate) job: &'a CopyJob,
    pub(crate) rule: &'a Rule,
    pub(crate) source: Endpoint,
    pub(crate) target: Endpoint,
    /// Several sources lead to the target, or rules lead back: versions decide.
    pub(crate) contested: bool,
    /// Versions decide about what the source holds, too: its newest content is what is meant.
    source_has_versions: bool,
    /// Rules lead on from the target.
    pub(crate) leads_on: bool,
    bounds: Bounds<'a>,
    pub(crate) report: &'a Report,
}

impl Copy<'_> {
    /// Whether it is to be remembered where the target's content came from: for what leads on from there, or to know what may be deleted.
    fn is_remembered(&self) -> bool {
        self.contested || self.leads_on || self.rule.propagate_deletions
    }

    fn way(&self) -> Way<'_> {
        Way::new(&self.source, &self.target, self.report).within(self.bounds)
    }
}

impl Worker {
    /// A copy job, from the count of its attempts to the event that tells its outcome.
    pub(crate) async fn copy_job(
        &self,
        job: &CopyJob,
        bounds: Bounds<'_>,
        deadline: Option<Instant>,
        cancelled: &Notify,
    ) -> Result<Disposition, StateError> {
        let (task, what) = (job.task.id.to_string(), job.source.name());
        let route = Route { source: job.source.clone(), target: job.target.clone() };
        let attempts = match self.attempts.begin_of(&job.task.id, &what).await? {
            Beginning::Begun(attempts) => attempts,
            Beginning::Cancelled(before) => {
                tracing::info!(task, source = %job.source, "a copy goes no further: its task was cancelled");
                let report = Report::new(&before);
                // One that was killed can't tell how far it came.
                let may_have_set = report.is_setting() || before.unfinished > 0;
                let outcome = self.cancelled(job, &report, may_have_set).await;
                self.tell(&job.task, Happening::Ended { route, progress: report.progress(), outcome }).await?;
                return Ok(Disposition::Done);
            }
        };
        let report = Report::new(&attempts);

        let result = if attempts.unfinished > MAX_UNFINISHED {
            Err(Trouble::crashed())
        } else {
            tokio::select! {
                result = in_time(deadline, self.copy(job, bounds, &report)) => result,
                never = self.tell_progress(&job.task, &route, &report) => match never {},
                () = cancelled.notified() => {
                    let may_have_set = report.is_setting() || attempts.unfinished > 1;
                    Ok(Finish::Outcome(self.cancelled(job, &report, may_have_set).await))
                }
            }
        };
        let outcome = match result {
            Ok(Finish::Outcome(outcome)) => outcome,
            Ok(Finish::SendOn) | Err(Trouble::Registry(RegistryError::Interrupted { .. })) => {
                self.jobs.send(&[Job::Copy(CopyJob { continuation: job.continuation + 1, ..job.clone() })]).await?;
                let attempts = Attempts { done: report.done(), ..attempts };
                self.attempts.pause(&task, &what, attempts, Pause::Stopped).await?;
                return Ok(Disposition::Done);
            }
            Err(Trouble::Registry(RegistryError::Schema1(_))) => Outcome::Skipped { reason: SkipReason::Schema1 },
            Err(Trouble::Registry(RegistryError::Immutable(_))) => Outcome::Skipped { reason: SkipReason::Exists },
            Err(trouble) => {
                let attempts = Attempts { done: report.done(), ..attempts };
                if let Some(wait) = self.next_try(&task, &what, attempts, &trouble).await? {
                    tracing::warn!(task, source = %job.source, target = %job.target, %trouble, ?wait, "a copy is tried again");
                    let mut progress = report.progress();
                    progress.error = Some(trouble.to_string());
                    progress.retry_at = Timestamp::now().checked_add(wait).ok();
                    self.tell(&job.task, Happening::Progress { route, progress }).await?;
                    return Ok(Disposition::Again(wait));
                }
                Outcome::Failed { reason: trouble.to_string() }
            }
        };
        match &outcome {
            Outcome::Failed { .. } => {
                tracing::warn!(task, source = %job.source, target = %job.target, %outcome, "a copy ended");
            }
            _ => tracing::info!(task, source = %job.source, target = %job.target, %outcome, "a copy ended"),
        }
        // The count of its attempts expires by itself, which costs nothing.
        self.tell(&job.task, Happening::Ended { route, progress: report.progress(), outcome }).await?;
        Ok(Disposition::Done)
    }

    /// How a copy ends that nobody wants any more. Where the tag has been set, what was wanted is there, and is told as copied, also if
    /// whoever has set it could not tell any more: `may_have_set` says that there is reason to look.
    async fn cancelled(&self, job: &CopyJob, report: &Report, may_have_set: bool) -> Outcome {
        let is_set = report.has_set() || (may_have_set && self.is_there(job).await);
        if is_set { Outcome::Copied } else { retry::cancelled() }
    }

    /// Whether the target's tag is what the source's is. What can't be found out soon is not worth the wait.
    async fn is_there(&self, job: &CopyJob) -> bool {
        if job.subject.is_some() {
            return false;
        }
        let look = async {
            let catalog = self.catalog.snapshot().await?;
            let source = self.registries.endpoint(&catalog, &job.source).await?;
            let target = self.registries.endpoint(&catalog, &job.target).await?;
            let (ours, theirs) = tokio::try_join!(
                source.registry.head_manifest(&source.repository, &job.source.reference),
                target.registry.head_manifest(&target.repository, &job.target.reference),
            )?;
            Ok::<_, Trouble>(ours.zip(theirs).is_some_and(|(ours, theirs)| ours.digest == theirs.digest))
        };
        matches!(tokio::time::timeout(LAST_LOOK, look).await, Ok(Ok(true)))
    }

    async fn copy(&self, job: &CopyJob, bounds: Bounds<'_>, report: &Report) -> Result<Finish, Trouble> {
        // First of all: who looks at the source before its push is known could miss that it has been overwritten, and nobody else would
        // look again.
        let (catalog, ()) = tokio::try_join!(self.catalog.snapshot(), self.note(&job.source, job.told.as_ref()))?;
        let in_force = catalog.rule_in_force(job.task.id.rule(), &job.source, &job.target, job.subject.is_some());
        let Some(rule) = in_force else { return Finish::skipped(SkipReason::RuleChanged) };
        if let Some(target) = catalog.instance(&job.target.instance) {
            rule.check_depth(target.kind, &job.target.repository).map_err(|error| Trouble::Refused(error.to_string()))?;
        }
        // It is taken when there is something to be copied: what is skipped needs no name.
        if let Name::Taken(problem) = self.name(rule, &job.source, &job.target).await? {
            let source = self.registries.endpoint(&catalog, &job.source).await?;
            return match job.may_be_deletion && !Self::has(&source, &job.source).await? {
                true => Finish::skipped(SkipReason::NotOurs),
                false => Err(Trouble::Refused(problem)),
            };
        }
        let contested = catalog.is_contested(rule, &job.source, &job.target);
        let copy = Copy {
            job,
            rule,
            source: self.registries.endpoint(&catalog, &job.source).await?,
            target: self.registries.endpoint(&catalog, &job.target).await?,
            contested,
            source_has_versions: catalog.has_versions(&job.source),
            leads_on: !catalog.rules_from(&job.target).is_empty(),
            bounds,
            report,
        };
        match &job.subject {
            Some(subject) => self.bring_attachments(&copy, subject).await,
            None if job.may_be_deletion => self.delete(&copy).await,
            None => self.bring_tag(&copy).await,
        }
    }

    /// Brings what the source tag points to, and looks again: before it sets the target's tag, at the target, because registries
    /// have no compare-and-set; after it has set it, at the source, because a push in between is a push to be brought as well.
    pub(crate) async fn bring_tag(&self, copy: &Copy<'_>) -> Result<Finish, Trouble> {
        let Copy { job, rule, source, target, report, .. } = copy;
        // First of all: Harbor answers a look into a project that is not there like one that is forbidden.
        target.registry.ensure_namespace(&target.repository).await?;
        for _ in 0..ROUNDS {
            let resolve = self.copier.resolve(source, &job.source.reference);
            let look = target.registry.head_manifest(&target.repository, &job.target.reference);
            let (resolved, mut current) = tokio::try_join!(resolve, look)?;
            let Some(mut resolved) = resolved else {
                if is_early(job, None) {
                    return Err(Trouble::Early);
                }
                return Self::finish(report.has_set(), Outcome::Skipped { reason: SkipReason::Gone });
            };
            let pointed_to = resolved.descriptor.digest.clone();
            let is_of_interest = copy.contested || copy.leads_on || copy.source_has_versions;
            let source_origin = if is_of_interest { self.origins.get(&job.source).await? } else { Origin::default() };
            if copy.source_has_versions
                && let Some(newer) = self.put_back(copy, &source_origin, &pointed_to).await?
            {
                resolved = newer;
            }
            if is_early(job, Some(&resolved.descriptor.digest)) {
                return Err(Trouble::Early);
            }
            copy.report.resolved(&resolved.descriptor.digest, Some(resolved.artifact));
            if !rule.selects_type(resolved.artifact) {
                return Self::finish(report.has_set(), Outcome::Skipped { reason: SkipReason::Type });
            }

            let mut judgement = self.judge(copy, &source_origin, &resolved, current.as_ref().map(|d| &d.digest)).await?;
            if matches!(judgement, Judgement::Set | Judgement::Unchanged)
                && let Name::Taken(problem) = self.take_name(rule, &job.source, &job.target).await?
            {
                return Err(Trouble::Refused(problem));
            }
            if judgement == Judgement::Set {
                self.copier.content(&copy.way(), &resolved).await?;
                let look = target.registry.head_manifest(&target.repository, &job.target.reference).await?;
                if look.as_ref().map(|d| &d.digest) != current.as_ref().map(|d| &d.digest) {
                    current = look;
                    judgement = self.judge(copy, &source_origin, &resolved, current.as_ref().map(|d| &d.digest)).await?;
                }
            }
            match judgement {
                Judgement::Skip(reason) => return Self::finish(report.has_set(), Outcome::Skipped { reason }),
                Judgement::Unchanged => {
                    // An attempt that ended between setting the tag and this look may have left it to be put back.
                    if copy.contested {
                        self.restore(&job.target).await?;
                    }
                    let brought = self.attachments(copy, &resolved.descriptor.digest).await?;
                    return Self::finish(report.has_set() || brought, Outcome::Unchanged);
                }
                Judgement::Set => {
                    self.remember(copy, &source_origin, &resolved.descriptor.digest).await?;
                    report.setting();
                    self.copier.publish(&copy.way(), &resolved, &job.target.reference).await?;
                    report.set();
                    // Listed only now: a signature pushed before this is in the list, one pushed later finds its subject here.
                    self.attachments(copy, &resolved.descriptor.digest).await?;
                    if copy.contested {
                        self.restore(&job.target).await?;
                    }
                }
            }
            let look = source.registry.head_manifest(&source.repository, &job.source.reference).await?;
            let still = look.is_none_or(|d| d.digest == pointed_to || d.digest == resolved.descriptor.digest);
            // Without overwriting, what this job has just set stays as well.
            if still || !rule.overwrite {
                return Ok(Finish::Outcome(Outcome::Copied));
            }
        }
        Ok(Finish::SendOn)
    }

    /// Whether a registry has the tag or the manifest at a place.
    pub(crate) async fn has(endpoint: &Endpoint, place: &Place) -> Result<bool, RegistryError> {
        Ok(endpoint.registry.head_manifest(&endpoint.repository, &place.reference).await?.is_some())
    }

    /// A job that has set the tag in an earlier round has copied, whatever the last round found.
    fn finish(has_set: bool, otherwise: Outcome) -> Result<Finish, Trouble> {
        Ok(Finish::Outcome(if has_set { Outcome::Copied } else { otherwise }))
    }

    /// Whether the target's tag, holding `current`, is to be set to what was resolved.
    async fn judge(
        &self,
        copy: &Copy<'_>,
        source_origin: &Origin,
        resolved: &Resolved,
        current: Option<&Digest>,
    ) -> Result<Judgement, Trouble> {
        let digest = &resolved.descriptor.digest;
        Ok(match current {
            None if copy.contested => {
                let target_origin = self.origins.get(&copy.job.target).await?;
                match target_origin.has_deleted(source_origin.version_of(digest)) {
                    true => Judgement::Skip(SkipReason::Deleted),
                    false => Judgement::Set,
                }
            }
            None => Judgement::Set,
            Some(current) if current == digest => Judgement::Unchanged,
            Some(_) if !copy.rule.overwrite => Judgement::Skip(SkipReason::Exists),
            Some(_) if !copy.contested => Judgement::Set,
            Some(current) => {
                let target_origin = self.origins.get(&copy.job.target).await?;
                match precedence(source_origin.version_of(digest), target_origin.version_of(current)) {
                    Precedence::Source => Judgement::Set,
                    Precedence::Target => Judgement::Skip(SkipReason::Superseded),
                    Precedence::Unknown => Judgement::Skip(SkipReason::Conflict),
                }
            }
        })
    }

    /// Where the source tag was overwritten with something older before its push became known: has that put back, and brings what
    /// was pushed instead of what the tag points to.
    async fn put_back(&self, copy: &Copy<'_>, origin: &Origin, pointed_to: &Digest) -> Result<Option<Resolved>, Trouble> {
        let Some((digest, _)) = origin.overwritten(pointed_to) else { return Ok(None) };
        let by = origin.written.iter().rfind(|written| written.digest == *pointed_to);
        let overwritten_by = by.map_or_else(Timestamp::now, |written| written.at);
        let restore = RestoreJob { place: copy.job.source.clone(), digest: digest.clone(), overwritten_by, told: None };
        self.jobs.send(&[Job::Restore(restore)]).await?;
        Ok(self.copier.resolve(&copy.source, &Reference::Digest(digest.clone())).await?)
    }

    /// Notes a push that a job tells of, unless the webhook has.
    pub(crate) async fn note(&self, place: &Place, told: Option<&Told>) -> Result<(), StateError> {
        if let Some(told) = told {
            self.origins.change(place, |origin| origin.note_told(told)).await?;
        }
        Ok(())
    }

    /// Notes what is about to be set, so that the target's own notification of it is known as an echo.
    async fn remember(&self, copy: &Copy<'_>, source_origin: &Origin, digest: &Digest) -> Result<(), Trouble> {
        if !copy.is_remembered() {
            return Ok(());
        }
        let repository = |place: &Place| (place.instance.clone(), place.repository.clone());
        let (source, target) = (repository(&copy.job.source), repository(&copy.job.target));
        let written = Written {
            digest: digest.clone(),
            at: Timestamp::now(),
            version: source_origin.version_of(digest).cloned(),
            trail: source_origin.trail_of(digest).extended(copy.rule.id, source, target),
            echoed: None,
        };
        let note = |origin: &mut Origin| {
            origin.note_write(written.clone());
            true
        };
        self.origins.change(&copy.job.target, note).await?;
        Ok(())
    }

    /// Brings what refers to a manifest, where the rule wants that. True if there was anything to bring.
    async fn attachments(&self, copy: &Copy<'_>, subject: &Digest) -> Result<bool, Trouble> {
        if !copy.rule.referrers {
            return Ok(false);
        }
        // Where rules lead both ways, two signature tags that replace each other would do so for ever.
        let overwrite = copy.rule.overwrite && !copy.contested;
        let attached = self.copier.attachments(&copy.way(), subject, overwrite).await?;
        if !attached.left.is_empty() {
            let (target, left) = (&copy.job.target, &attached.left);
            tracing::warn!(%target, ?left, "the target's signatures differ from the source's and are left as they are");
        }
        Ok(attached.manifests > 0)
    }

    /// A signature or the like was pushed after its subject had been brought.
    async fn bring_attachments(&self, copy: &Copy<'_>, subject: &Digest) -> Result<Finish, Trouble> {
        if !copy.rule.referrers {
            return Finish::skipped(SkipReason::RuleChanged);
        }
        let reference = Reference::Digest(subject.clone());
        if copy.target.registry.head_manifest(&copy.target.repository, &reference).await?.is_none() {
            return Finish::skipped(SkipReason::Subject);
        }
        let Some(attachment) = self.copier.resolve(&copy.source, &copy.job.source.reference).await? else {
            return Finish::skipped(SkipReason::Gone);
        };
        copy.report.resolved(&attachment.descriptor.digest, Some(attachment.artifact));
        let brought = self.attachments(copy, subject).await?;
        Self::finish(brought, Outcome::Unchanged)
    }
}
