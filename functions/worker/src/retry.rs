//! Making again what failed or was cancelled in another task, a step at a time.

use tokio::time::Instant;
use transship_model::{
    CopyJob, Happening, Job, Outcome, Place, Reference, Repository, Resource, RetryJob, Route, Rule, SkipReason,
};
use transship_registry::Endpoint;
use transship_state::{Snapshot, dispatch};

use crate::{Worker, scan::Progress, trouble::Trouble};

/// So many resources of the other task are looked at, at a time.
const PAGE: usize = 200;

impl Worker {
    /// One step: sends the copies of what failed or was cancelled in the other task, under the rule as it is now. A step that is made again sends the same.
    pub(crate) async fn retry(&self, job: &mut RetryJob, until: Instant) -> Result<Progress, Trouble> {
        let catalog = self.catalog.snapshot().await?;
        let rule = catalog.rule(job.task.id.rule()).filter(|rule| rule.enabled);
        let Some(rule) = rule else { return Err(Trouble::Refused("the rule has been disabled or deleted".into())) };
        loop {
            let page = self.log.resources(&job.of, job.after.clone(), PAGE).await?;
            let (mut jobs, mut routes, mut buried) = (Vec::new(), Vec::new(), Vec::new());
            let (mut resources, mut repository) = (job.resources, job.repository.clone());
            let mut repositories = job.repositories;
            for failed in page.items.iter().filter(|resource| is_undone(resource.result.as_ref())) {
                let letter = self.dead_letters.of_resource(&job.of, &failed.route.source).await?;
                let copy = self.again(&catalog, rule, job, failed, letter.as_ref().map(|letter| &letter.job)).await?;
                resources += 1;
                let source = copy.source.repository.clone();
                repositories += u64::from(repository.as_ref() != Some(&source));
                repository = Some(source);
                routes.push(Route { source: copy.source.clone(), target: copy.target.clone() });
                jobs.push(Job::Copy(copy));
                buried.extend(letter.map(|letter| letter.job));
            }
            if !jobs.is_empty() {
                self.jobs.send(&jobs).await?;
                self.tell(&job.task, Happening::Found { resources: routes }).await?;
                // They have been made again.
                for letter in &buried {
                    self.dead_letters.remove(letter).await?;
                }
            }
            (job.resources, job.repositories, job.repository) = (resources, repositories, repository);
            job.after = page.next;
            if job.after.is_none() {
                return Ok(Progress::Ended);
            }
            if Instant::now() >= until {
                return Ok(Progress::Interrupted);
            }
        }
    }

    /// The job to bring a resource that failed. Where the rule leads elsewhere by now, that is where it is brought; what it does not select
    /// any more is skipped by the job itself, with that reason.
    async fn again(
        &self,
        catalog: &Snapshot,
        rule: &Rule,
        job: &RetryJob,
        failed: &Resource,
        letter: Option<&Job>,
    ) -> Result<CopyJob, Trouble> {
        let Route { source, target } = failed.route.clone();
        let to = rule.target_repository(&source.repository).and_then(Result::ok);
        let target = to.map_or(target, |to: Repository| dispatch::target_place(rule, &source, &to));
        let buried = match letter {
            Some(Job::Copy(copy)) => Some(copy),
            _ => None,
        };
        let subject = match buried {
            Some(copy) => copy.subject.clone(),
            None => self.subject(catalog, &source).await?,
        };
        // A push that nobody has noted, because its job was given up, is still to be noted.
        let told = buried.and_then(|copy| copy.told.clone());
        let task = job.task.clone();
        // What failed may have been a deletion; if the source has it, it is copied.
        let may_be_deletion = rule.propagate_deletions && subject.is_none();
        Ok(CopyJob { task, source, target, pushed: None, told, subject, may_be_deletion, continuation: 0 })
    }

    /// What an attachment belongs to. Its tag tells it, or else its manifest.
    async fn subject(&self, catalog: &Snapshot, source: &Place) -> Result<Option<transship_model::Digest>, Trouble> {
        match &source.reference {
            Reference::Tag(tag) => Ok(tag.subject().map(|(subject, _)| subject)),
            Reference::Digest(_) => {
                let registry = self.registries.registry(catalog, &source.instance).await?;
                let endpoint = Endpoint::new(&registry, source.repository.clone());
                let resolved = self.copier.resolve(&endpoint, &source.reference).await?;
                Ok(resolved.and_then(|resolved| resolved.subject().cloned()))
            }
        }
    }
}

/// Whether a resource ended without having been brought, and may be.
fn is_undone(outcome: Option<&Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Failed { .. } | Outcome::Skipped { reason: SkipReason::Cancelled }))
}

/// How a resource ends that nobody wants any more.
pub(crate) fn cancelled() -> Outcome {
    Outcome::Skipped { reason: SkipReason::Cancelled }
}
