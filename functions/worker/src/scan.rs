//! Listing the source of a rule, a step at a time.

use std::time::Duration;

use tokio::time::Instant;
use transship_model::{Happening, Job, Place, Reference, Repository, Route, Rule, ScanCursor, ScanJob};
use transship_registry::{Cursor, Registry};
use transship_state::{StateError, dispatch};

use crate::{Disposition, MAX_UNFINISHED, Worker, trouble::Trouble};

/// A step ends when it has found so many resources,
const STEP_RESOURCES: u64 = 1000;
/// or has taken so long; the job then sends itself on. A crash repeats one step, not the whole scan.
const STEP_TIME: Duration = Duration::from_secs(15);

impl Worker {
    /// A scan job, from the count of its attempts to the event that tells how far it is.
    pub(crate) async fn scan_job(&self, job: &ScanJob) -> Result<Disposition, StateError> {
        let (task, what) = (job.task.id.to_string(), "scan");
        let attempts = self.attempts.begin(&task, what).await?;
        let mut cursor = job.cursor.clone();
        let result =
            if attempts.unfinished > MAX_UNFINISHED { Err(Trouble::crashed()) } else { self.scan(job, &mut cursor).await };
        let error = match result {
            Ok(true) => cursor.trouble.take(),
            Ok(false) => {
                self.tell(&job.task, Happening::Scanned { repositories: cursor.repositories, error: None }).await?;
                let next = ScanJob { task: job.task.clone(), cursor, continuation: job.continuation + 1 };
                self.jobs.send(&[Job::Scan(next)]).await?;
                self.attempts.end(&task, what).await?;
                return Ok(Disposition::Done);
            }
            Err(trouble) => {
                if let Some(wait) = self.next_try(&task, what, attempts, &trouble).await? {
                    tracing::warn!(task, %trouble, ?wait, "a scan is tried again");
                    let (repositories, error) = (job.cursor.repositories, Some(trouble.to_string()));
                    self.tell(&job.task, Happening::Scanned { repositories, error }).await?;
                    return Ok(Disposition::Again(wait));
                }
                tracing::error!(task, %trouble, "a scan failed");
                Some(trouble.to_string())
            }
        };
        let (total, repositories) = (cursor.resources, cursor.repositories);
        self.tell(&job.task, Happening::ScanEnded { total, repositories, error }).await?;
        self.attempts.end(&task, what).await?;
        Ok(Disposition::Done)
    }

    /// One step; true at the end of the list.
    async fn scan(&self, job: &ScanJob, cursor: &mut ScanCursor) -> Result<bool, Trouble> {
        let started = Instant::now();
        let catalog = self.catalog.snapshot().await?;
        let rule = catalog.rule(job.task.id.rule()).filter(|rule| rule.enabled);
        let Some(rule) = rule else { return Err(Trouble::Refused("the rule has been disabled or deleted".into())) };
        let source = self.registries.registry(&catalog, &rule.source.instance).await?;
        let first = cursor.resources;
        loop {
            match cursor.pending.last().cloned() {
                Some(repository) => match self.scan_tags(job, rule, &source, &repository, cursor).await {
                    // One repository that may not be read does not keep the others from being synchronised.
                    Err(trouble) if trouble.retry().is_none() => {
                        tracing::warn!(%repository, %trouble, "a repository could not be listed");
                        cursor.trouble.get_or_insert_with(|| trouble.to_string());
                        cursor.finish_repository();
                    }
                    result => result?,
                },
                None if cursor.listed => return Ok(true),
                None => next_repositories(rule, &source, cursor).await?,
            }
            if cursor.resources - first >= STEP_RESOURCES || started.elapsed() >= STEP_TIME {
                return Ok(cursor.listed && cursor.pending.is_empty());
            }
        }
    }

    /// One page of a repository's tags.
    async fn scan_tags(
        &self,
        job: &ScanJob,
        rule: &Rule,
        source: &Registry,
        repository: &Repository,
        cursor: &mut ScanCursor,
    ) -> Result<(), Trouble> {
        let position = cursor.tags.take().map(Cursor::from);
        let page = source.list_tags(repository, position.as_ref()).await?;
        let pattern = rule.source.tag.compile().map_err(|error| Trouble::Refused(error.to_string()))?;
        let mut jobs = Vec::new();
        let mut routes = Vec::new();
        let no_place = |error| Trouble::Refused(format!("{repository} has no place at the target: {error}"));
        let Some(to) = rule.target_repository(repository).transpose().map_err(no_place)? else {
            cursor.finish_repository();
            return Ok(());
        };
        for tag in page.items.into_iter().filter(|tag| tag.subject().is_none() && pattern.is_match(tag.as_str())) {
            let (instance, repository) = (rule.source.instance.clone(), repository.clone());
            let place = Place { instance, repository, reference: Reference::Tag(tag) };
            let to = dispatch::target_place(rule, &place, &to);
            routes.push(Route { source: place.clone(), target: to.clone() });
            jobs.push(dispatch::copy(job.task.clone(), place, to, None).0);
        }
        if !jobs.is_empty() {
            self.jobs.send(&jobs).await?;
            cursor.resources += jobs.len() as u64;
            self.tell(&job.task, Happening::Found { resources: routes }).await?;
            cursor.repositories += u64::from(!std::mem::replace(&mut cursor.counted, true));
        }
        cursor.tags = page.next.map(|next| next.as_str().to_owned());
        if cursor.tags.is_none() {
            cursor.finish_repository();
        }
        Ok(())
    }
}

/// The next page of repositories, those that the rule selects.
async fn next_repositories(rule: &Rule, source: &Registry, cursor: &mut ScanCursor) -> Result<(), Trouble> {
    // A pattern that is a plain name needs no list, which some registries do not have.
    if let Some(path) = rule.source.repository.literal() {
        cursor.pending = rule.source.namespace.join(&path).into_iter().collect();
        cursor.listed = true;
        return Ok(());
    }
    let position = cursor.catalog.take().map(Cursor::from);
    let page = source.list_repositories(&rule.source.namespace, position.as_ref()).await?;
    let pattern = rule.source.repository.compile().map_err(|error| Trouble::Refused(error.to_string()))?;
    let selected =
        |repository: &Repository| repository.below(&rule.source.namespace).is_some_and(|path| pattern.is_match(path));
    cursor.pending = page.items.into_iter().filter(selected).collect();
    // The next one is the last, so that taking it off costs nothing.
    cursor.pending.reverse();
    cursor.catalog = page.next.map(|next| next.as_str().to_owned());
    cursor.listed = cursor.catalog.is_none();
    Ok(())
}
