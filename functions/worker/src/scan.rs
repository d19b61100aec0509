//! Listing the source of a rule, a step at a time.

use std::time::Duration;

use regex::Regex;
use tokio::{sync::Notify, time::Instant};
use transship_model::{
    Happening, Job, Place, Reference, Repository, RetryJob, Route, Rule, ScanCursor, ScanJob, Tag, TaskHead,
};
use transship_registry::{Cursor, Page, Registry};
use transship_state::{Attempts, Pause, StateError, dispatch};

use crate::{Disposition, MAX_UNFINISHED, Worker, in_time, trouble::Trouble};

/// So many resources are sent at a time.
const SLICE: usize = 1000;
/// A step ends when it has taken so long, after a slice or a repository; the job then sends itself on. A crash repeats one step, not the
/// whole scan.
const STEP: Duration = Duration::from_secs(15);

/// What a scan's attempts are counted under.
const SCAN: &str = "scan";

/// When a step that begins now is to end.
fn end_of_step(deadline: Option<Instant>) -> Instant {
    let until = Instant::now() + STEP;
    deadline.map_or(until, |deadline| deadline.min(until))
}

/// What has come of a step.
enum Step {
    Made(Attempts, Result<Progress, Trouble>),
    /// Somebody wants the task to end.
    Cancelled,
}

/// A scan at work.
struct Scan<'a> {
    job: &'a ScanJob,
    rule: &'a Rule,
    source: Registry,
    tags: Regex,
    until: Instant,
}

/// Whether a list has come to its end, or the step to its.
pub(crate) enum Progress {
    Ended,
    Interrupted,
}

impl Worker {
    /// A scan job, from the count of its attempts to the event that tells how far it is.
    pub(crate) async fn scan_job(
        &self,
        job: &ScanJob,
        deadline: Option<Instant>,
        cancelled: &Notify,
    ) -> Result<Disposition, StateError> {
        let mut cursor = job.cursor.clone();
        let until = end_of_step(deadline);
        let step = self.step(&job.task, deadline, cancelled, self.scan(job, &mut cursor, until)).await?;
        let found = (cursor.resources, cursor.repositories);
        let trouble = cursor.trouble.clone();
        let next = || Job::Scan(ScanJob { task: job.task.clone(), cursor, continuation: job.continuation + 1 });
        self.end_step(&job.task, step, job.cursor.repositories, found, trouble, next).await
    }

    /// A retry job: the same, over what failed in another task.
    pub(crate) async fn retry_job(
        &self,
        job: &RetryJob,
        deadline: Option<Instant>,
        cancelled: &Notify,
    ) -> Result<Disposition, StateError> {
        let mut next = RetryJob { continuation: job.continuation + 1, ..job.clone() };
        let until = end_of_step(deadline);
        let step = self.step(&job.task, deadline, cancelled, self.retry(&mut next, until)).await?;
        let found = (next.resources, next.repositories);
        self.end_step(&job.task, step, job.repositories, found, None, || Job::Retry(next)).await
    }

    /// Makes a step, unless the task is to end.
    async fn step(
        &self,
        task: &TaskHead,
        deadline: Option<Instant>,
        cancelled: &Notify,
        work: impl Future<Output = Result<Progress, Trouble>>,
    ) -> Result<Step, StateError> {
        let Some(attempts) = self.attempts.begin_of(&task.id, SCAN).await? else { return Ok(Step::Cancelled) };
        if attempts.unfinished > MAX_UNFINISHED {
            return Ok(Step::Made(attempts, Err(Trouble::crashed())));
        }
        tokio::select! {
            result = in_time(deadline, work) => Ok(Step::Made(attempts, result)),
            () = cancelled.notified() => Ok(Step::Cancelled),
        }
    }

    /// Tells the log how far a step has come, and sends the next one.
    async fn end_step(
        &self,
        head: &TaskHead,
        step: Step,
        before: u64,
        (total, repositories): (u64, u64),
        trouble: Option<String>,
        next: impl FnOnce() -> Job,
    ) -> Result<Disposition, StateError> {
        let task = head.id.to_string();
        let error = match step {
            Step::Cancelled => {
                tracing::info!(task, "a scan is left undone: its task was cancelled");
                self.tell(head, Happening::ScanStopped { total, repositories }).await?;
                return Ok(Disposition::Done);
            }
            Step::Made(_, Ok(Progress::Ended)) => trouble,
            Step::Made(attempts, Ok(Progress::Interrupted)) => {
                self.tell(head, Happening::Scanned { repositories, error: None }).await?;
                self.jobs.send(&[next()]).await?;
                self.attempts.pause(&task, SCAN, attempts, Pause::Stopped).await?;
                return Ok(Disposition::Done);
            }
            Step::Made(attempts, Err(trouble)) => {
                if let Some(wait) = self.next_try(&task, SCAN, attempts, &trouble).await? {
                    tracing::warn!(task, %trouble, ?wait, "a scan is tried again");
                    let error = Some(trouble.to_string());
                    self.tell(head, Happening::Scanned { repositories: before, error }).await?;
                    return Ok(Disposition::Again(wait));
                }
                tracing::error!(task, %trouble, "a scan failed");
                Some(trouble.to_string())
            }
        };
        self.tell(head, Happening::ScanEnded { total, repositories, error }).await?;
        self.attempts.end(&task, SCAN).await?;
        Ok(Disposition::Done)
    }

    /// One step.
    async fn scan(&self, job: &ScanJob, cursor: &mut ScanCursor, until: Instant) -> Result<Progress, Trouble> {
        let catalog = self.catalog.snapshot().await?;
        let rule = catalog.rule(job.task.id.rule()).filter(|rule| rule.enabled);
        let Some(rule) = rule else { return Err(Trouble::Refused("the rule has been disabled or deleted".into())) };
        let source = self.registries.registry(&catalog, &rule.source.instance).await?;
        let tags = rule.source.tag.compile().map_err(|error| Trouble::Refused(error.to_string()))?;
        let scan = Scan { job, rule, source, tags, until };
        loop {
            let page = scan.repositories(cursor).await?;
            for repository in cursor.repository.rest(page.items) {
                match self.scan_repository(&scan, &repository, cursor).await {
                    Ok(Progress::Ended) => {}
                    Ok(Progress::Interrupted) => return Ok(Progress::Interrupted),
                    // One repository that may not be read does not keep the others from being synchronised.
                    Err(trouble) if trouble.retry().is_none() => {
                        tracing::warn!(%repository, %trouble, "a repository could not be listed");
                        cursor.trouble.get_or_insert_with(|| trouble.to_string());
                    }
                    Err(trouble) => return Err(trouble),
                }
                cursor.repository.note(repository.as_str());
                (cursor.tags, cursor.tag, cursor.counted) = Default::default();
                if Instant::now() >= scan.until {
                    return Ok(Progress::Interrupted);
                }
            }
            cursor.repository.turn();
            cursor.catalog = page.next.map(|next| next.as_str().to_owned());
            if cursor.catalog.is_none() {
                return Ok(Progress::Ended);
            }
            if Instant::now() >= scan.until {
                return Ok(Progress::Interrupted);
            }
        }
    }

    /// The tags of one repository, from where the last step stopped.
    async fn scan_repository(
        &self,
        scan: &Scan<'_>,
        repository: &Repository,
        cursor: &mut ScanCursor,
    ) -> Result<Progress, Trouble> {
        let no_place = |error| Trouble::Refused(format!("{repository} has no place at the target: {error}"));
        let Some(to) = scan.rule.target_repository(repository).transpose().map_err(no_place)? else {
            return Ok(Progress::Ended);
        };
        loop {
            let page = scan.source.list_tags(repository, cursor.tags.clone().map(Cursor::from).as_ref()).await?;
            let is_whole = cursor.tags.is_none() && page.next.is_none();
            let unattached = is_whole && page.items.iter().all(|tag| tag.subject().is_none());
            for slice in cursor.tag.rest(page.items).chunks(SLICE) {
                self.send_slice(scan, repository, &to, slice, unattached, cursor).await?;
                slice.iter().for_each(|tag| cursor.tag.note(tag.as_str()));
                // After a slice and not before it: each step gets on, however long its lists take.
                if Instant::now() >= scan.until {
                    return Ok(Progress::Interrupted);
                }
            }
            cursor.tag.turn();
            cursor.tags = page.next.map(|next| next.as_str().to_owned());
            if cursor.tags.is_none() {
                return Ok(Progress::Ended);
            }
        }
    }

    /// Sends the copies of those tags that the rule selects, and tells the log.
    async fn send_slice(
        &self,
        scan: &Scan<'_>,
        repository: &Repository,
        to: &Repository,
        tags: &[Tag],
        unattached: bool,
        cursor: &mut ScanCursor,
    ) -> Result<(), Trouble> {
        let mut jobs = Vec::new();
        let mut routes = Vec::new();
        for tag in tags.iter().filter(|tag| tag.subject().is_none() && scan.tags.is_match(tag.as_str())) {
            let (instance, repository) = (scan.rule.source.instance.clone(), repository.clone());
            let source = Place { instance, repository, reference: Reference::Tag(tag.clone()) };
            let target = dispatch::target_place(scan.rule, &source, to);
            routes.push(Route { source: source.clone(), target: target.clone() });
            let (mut job, _) = dispatch::copy(scan.job.task.clone(), source, target, None);
            if let Job::Copy(job) = &mut job {
                job.unattached = unattached;
            }
            jobs.push(job);
        }
        if jobs.is_empty() {
            return Ok(());
        }
        self.jobs.send(&jobs).await?;
        self.tell(&scan.job.task, Happening::Found { resources: routes }).await?;
        cursor.resources += jobs.len() as u64;
        cursor.repositories += u64::from(!std::mem::replace(&mut cursor.counted, true));
        Ok(())
    }
}

impl Scan<'_> {
    /// The page of repositories at hand, those that the rule selects.
    async fn repositories(&self, cursor: &ScanCursor) -> Result<Page<Repository>, Trouble> {
        let Rule { source, .. } = self.rule;
        // A pattern that is a plain name needs no list, which some registries do not have.
        if let Some(path) = source.repository.literal() {
            return Ok(Page { items: source.namespace.join(&path).into_iter().collect(), next: None });
        }
        let mut page =
            self.source.list_repositories(&source.namespace, cursor.catalog.clone().map(Cursor::from).as_ref()).await?;
        let pattern = source.repository.compile().map_err(|error| Trouble::Refused(error.to_string()))?;
        page.items.retain(|repository| repository.below(&source.namespace).is_some_and(|path| pattern.is_match(path)));
        Ok(page)
    }
}
