//! Listing the source of a rule, a step at a time.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use regex::Regex;
use tokio::{sync::Notify, time::Instant};
use transship_model::{Happening, Job, Repository, RetryJob, Route, Rule, ScanCursor, ScanJob, Tag, TaskHead};
use transship_registry::{Cursor, Endpoint, Page, Registry};
use transship_state::{Attempts, Beginning, Pause, Snapshot, StateError, StepDone, dispatch};

use crate::{
    Disposition, MAX_UNFINISHED, Worker,
    compare::{AT_ONCE, Comparison, Finding, Tagged},
    delete::is_ours,
    in_time,
    preview::Foresight,
    trouble::Trouble,
};

/// So many tags are compared, and their copies sent, at a time.
const SLICE: usize = 250;
/// And so many where somebody waits for the answer.
const FORESEEN: usize = 50;
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

/// How many attempts have been made, those that came to nothing included.
fn made(attempts: &Attempts) -> u32 {
    attempts.begun + attempts.waits
}

/// What a scan has found so far.
#[derive(Clone, Copy)]
struct Found {
    /// Resources that have a job each.
    resources: u64,
    /// Those that were equal at both ends, and have none.
    compared: u64,
    repositories: u64,
}

impl Found {
    fn by(cursor: &ScanCursor) -> Self {
        Self { resources: cursor.resources, compared: cursor.compared, repositories: cursor.repositories }
    }
}

/// What has come of a step.
enum Step {
    Made(Attempts, Result<Progress, Trouble>),
    /// Somebody wants the task to end.
    Cancelled,
}

/// A scan at work.
pub(crate) struct Scan<'a> {
    pub(crate) purpose: Purpose<'a>,
    pub(crate) catalog: &'a Snapshot,
    pub(crate) rule: &'a Rule,
    pub(crate) source: Registry,
    pub(crate) target: Registry,
    pub(crate) tags: Regex,
    pub(crate) until: Instant,
    /// A part of the step may have been done before. What is equal by now may be what was sent then, which is in the log.
    pub(crate) is_repeated: bool,
}

/// What a scan is for.
pub(crate) enum Purpose<'a> {
    /// What is to be done is sent to the workers, as a part of this task.
    Send(&'a TaskHead),
    /// It is told, and nothing is done.
    Foresee(&'a Foresight),
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
        let here = &mut cursor;
        let scan = async move |attempts: Attempts| match attempts.step {
            // It may have been told of: then it is told again in the same words, or tags would be counted in two ways.
            Some(step) if step.continuation == job.continuation => {
                *here = step.cursor;
                Ok(if step.has_ended { Progress::Ended } else { Progress::Interrupted })
            }
            _ => self.scan(job, here, until, made(&attempts) > job.attempts + 1).await,
        };
        let mut step = self.step(&job.task, deadline, cancelled, scan).await?;
        if let Step::Made(attempts, Ok(progress)) = &mut step {
            let has_ended = matches!(progress, Progress::Ended);
            let done = StepDone { continuation: job.continuation, cursor: cursor.clone(), has_ended };
            self.attempts.note_step(job.task.id.as_str(), SCAN, attempts, done).await?;
        }
        let found = Found::by(&cursor);
        let trouble = cursor.trouble.clone();
        let next = |attempts| {
            let (task, continuation) = (job.task.clone(), job.continuation + 1);
            Job::Scan(ScanJob { task, cursor, continuation, attempts })
        };
        self.end_step(&job.task, step, Found::by(&job.cursor), found, trouble, next).await
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
        let here = &mut next;
        let retry = async move |_: Attempts| self.retry(here, until).await;
        let step = self.step(&job.task, deadline, cancelled, retry).await?;
        let found = Found { resources: next.resources, compared: 0, repositories: next.repositories };
        let before = Found { resources: job.resources, compared: 0, repositories: job.repositories };
        self.end_step(&job.task, step, before, found, None, |_| Job::Retry(next)).await
    }

    /// Makes a step, unless the task is to end. The work is told what is known of its attempts.
    async fn step(
        &self,
        task: &TaskHead,
        deadline: Option<Instant>,
        cancelled: &Notify,
        work: impl AsyncFnOnce(Attempts) -> Result<Progress, Trouble>,
    ) -> Result<Step, StateError> {
        let Beginning::Begun(attempts) = self.attempts.begin_of(&task.id, SCAN).await? else { return Ok(Step::Cancelled) };
        if attempts.unfinished > MAX_UNFINISHED {
            return Ok(Step::Made(attempts, Err(Trouble::crashed())));
        }
        tokio::select! {
            result = in_time(deadline, work(attempts.clone())) => Ok(Step::Made(attempts, result)),
            () = cancelled.notified() => Ok(Step::Cancelled),
        }
    }

    /// Tells the log how far a step has come, and sends the next one.
    async fn end_step(
        &self,
        head: &TaskHead,
        step: Step,
        before: Found,
        found: Found,
        trouble: Option<String>,
        next: impl FnOnce(u32) -> Job,
    ) -> Result<Disposition, StateError> {
        let task = head.id.to_string();
        let Found { resources: total, compared, repositories } = found;
        let error = match step {
            Step::Cancelled => {
                tracing::info!(task, "a scan is left undone: its task was cancelled");
                self.tell(head, Happening::ScanStopped { total, compared, repositories }).await?;
                return Ok(Disposition::Done);
            }
            Step::Made(_, Ok(Progress::Ended)) => trouble,
            Step::Made(attempts, Ok(Progress::Interrupted)) => {
                self.tell(head, Happening::Scanned { repositories, compared, error: None }).await?;
                self.jobs.send(&[next(made(&attempts))]).await?;
                self.attempts.pause(&task, SCAN, attempts, Pause::Stopped).await?;
                return Ok(Disposition::Done);
            }
            Step::Made(attempts, Err(trouble)) => {
                if let Some(wait) = self.next_try(&task, SCAN, attempts, &trouble).await? {
                    tracing::warn!(task, %trouble, ?wait, "a scan is tried again");
                    let Found { compared, repositories, .. } = before;
                    let error = Some(trouble.to_string());
                    self.tell(head, Happening::Scanned { repositories, compared, error }).await?;
                    return Ok(Disposition::Again(wait));
                }
                tracing::error!(task, %trouble, "a scan failed");
                Some(trouble.to_string())
            }
        };
        self.tell(head, Happening::ScanEnded { total, compared, repositories, error }).await?;
        self.attempts.end(&task, SCAN).await?;
        Ok(Disposition::Done)
    }

    /// One step.
    async fn scan(
        &self,
        job: &ScanJob,
        cursor: &mut ScanCursor,
        until: Instant,
        is_repeated: bool,
    ) -> Result<Progress, Trouble> {
        let catalog = self.catalog.snapshot().await?;
        let rule = catalog.rule(job.task.id.rule()).filter(|rule| rule.enabled);
        let Some(rule) = rule else { return Err(Trouble::Refused("the rule has been disabled or deleted".into())) };
        let source = self.registries.registry(&catalog, &rule.source.instance).await?;
        let target = self.registries.registry(&catalog, &rule.target.instance).await?;
        let tags = rule.source.tag.compile().map_err(|error| Trouble::Refused(error.to_string()))?;
        let purpose = Purpose::Send(&job.task);
        self.walk(&Scan { purpose, catalog: &catalog, rule, source, target, tags, until, is_repeated }, cursor).await
    }

    /// From where the cursor is to the end of the source, or of the step.
    pub(crate) async fn walk(&self, scan: &Scan<'_>, cursor: &mut ScanCursor) -> Result<Progress, Trouble> {
        loop {
            let page = scan.repositories(cursor).await?;
            for repository in cursor.repository.rest(page.items, Repository::as_str) {
                match self.scan_repository(scan, &repository, cursor).await {
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
                if scan.is_over() {
                    return Ok(Progress::Interrupted);
                }
            }
            cursor.repository.turn();
            cursor.catalog = page.next.map(|next| next.as_str().to_owned());
            if cursor.catalog.is_none() {
                return Ok(Progress::Ended);
            }
            if scan.is_over() {
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
        let no_place =
            |error: &dyn std::fmt::Display| Trouble::Refused(format!("{repository} has no place at the target: {error}"));
        let Some(to) = scan.rule.target_repository(repository).transpose().map_err(|error| no_place(&error))? else {
            return Ok(Progress::Ended);
        };
        if let Some(target) = scan.catalog.instance(&scan.rule.target.instance) {
            scan.rule.check_depth(target.kind, &to).map_err(|error| no_place(&error))?;
        }
        let taken = match &scan.purpose {
            Purpose::Foresee(foresight) => self.is_taken(scan.rule, foresight, repository, &to).await?,
            // That is told by the jobs, one by one.
            Purpose::Send(_) => None,
        };
        let source = Endpoint::new(&scan.source, repository.clone());
        let mut comparison = None;
        // All of the source's tags, where this step reads them from the first to the last: what is not among them is not there.
        let is_whole = cursor.tags.is_none() && cursor.tag.last.is_none();
        let mut seen = (is_whole && scan.rule.propagate_deletions).then(HashSet::new);
        loop {
            let page = scan.source.list_digests(repository, cursor.tags.clone().map(Cursor::from).as_ref()).await?;
            if let Some(seen) = &mut seen {
                seen.extend(page.items.iter().map(|(tag, _)| tag.clone()));
            }
            for slice in cursor.tag.rest(page.items, |(tag, _)| tag.as_str()).chunks(scan.slice()) {
                if slice.iter().any(|(tag, _)| scan.concerns(tag)) {
                    let known = match comparison.take() {
                        Some(known) => known,
                        None => self.comparison(scan, source.clone(), &to).await?,
                    };
                    let known = comparison.insert(known);
                    match scan.purpose {
                        Purpose::Send(task) => self.send_slice(scan, task, known, slice, cursor).await?,
                        Purpose::Foresee(foresight) => {
                            let found = known.foresee(slice, |tag| scan.selects(tag), &self.origins).await?;
                            foresight.add(found, taken.as_deref());
                        }
                    }
                }
                slice.iter().for_each(|(tag, _)| cursor.tag.note(tag.as_str()));
                // After a slice and not before it: each step gets on, however long its lists take.
                if scan.is_over() {
                    return Ok(Progress::Interrupted);
                }
            }
            cursor.tag.turn();
            cursor.tags = page.next.map(|next| next.as_str().to_owned());
            if cursor.tags.is_none() {
                break;
            }
        }
        // A repository that has no tags any more may as well be one that could not be read.
        if let Some(seen) = seen.filter(|seen| !seen.is_empty()) {
            let known = match comparison {
                Some(known) => known,
                None => self.comparison(scan, source, &to).await?,
            };
            self.delete_unseen(scan, &known, &seen, cursor).await?;
        }
        Ok(Progress::Ended)
    }

    /// Sends, or foretells, the deletions of those of the target's tags that this rule has put there and the source does not have any more.
    async fn delete_unseen(
        &self,
        scan: &Scan<'_>,
        comparison: &Comparison<'_>,
        seen: &HashSet<Tag>,
        cursor: &mut ScanCursor,
    ) -> Result<(), Trouble> {
        let mut candidates: Vec<&Tag> =
            comparison.target_tags().filter(|tag| scan.selects(tag) && !seen.contains(*tag)).collect();
        candidates.sort_unstable();
        let slices = candidates.chunks(scan.slice());
        let count = slices.len();
        for (index, some) in slices.enumerate() {
            let looks = some.iter().map(async |&tag| {
                let (source, target) = comparison.places(tag);
                let origin = self.origins.get(&target).await?;
                let written = origin.newest_write().filter(|written| is_ours(scan.rule, &source, &written.trail));
                Ok::<_, Trouble>(written.map(|written| (tag, Route { source, target }, written.digest.clone())))
            });
            let looks: Vec<_> = looks.collect();
            let found: Vec<Option<_>> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
            let found: Vec<_> = found.into_iter().flatten().collect();
            let task = match &scan.purpose {
                Purpose::Send(task) => task,
                Purpose::Foresee(foresight) => {
                    foresight.add(comparison.foresee_deletions(found).await?, None);
                    if scan.is_over() && index + 1 < count {
                        let repository = &comparison.source.repository;
                        let more = || format!("{repository}: there may be more deletions than a page of a preview can tell");
                        cursor.trouble.get_or_insert_with(more);
                        return Ok(());
                    }
                    continue;
                }
            };
            let routes: Vec<Route> = found.into_iter().map(|(_, route, _)| route).collect();
            let job = |Route { source, target }: Route| dispatch::deletion((*task).clone(), source, target).0;
            let jobs: Vec<Job> = routes.iter().cloned().map(job).collect();
            if !jobs.is_empty() {
                self.jobs.send(&jobs).await?;
                self.tell(task, Happening::Found { resources: routes }).await?;
                cursor.resources += jobs.len() as u64;
            }
        }
        Ok(())
    }

    async fn comparison<'a>(&'a self, scan: &Scan<'a>, source: Endpoint, to: &Repository) -> Result<Comparison<'a>, Trouble> {
        if let Purpose::Send(_) = scan.purpose {
            // First of all: Harbor answers a look into a project that is not there like one that is forbidden.
            match scan.target.ensure_namespace(to).await {
                // What keeps it from being made is told by the jobs, one by one.
                Err(error) if !error.is_retry() => tracing::debug!(%error, repository = %to, "no place at the target"),
                other => other?,
            }
        }
        let target = Endpoint::new(&scan.target, to.clone());
        // A run would make it.
        if matches!(scan.purpose, Purpose::Foresee(_)) && matches!(scan.target.has_namespace(to).await, Ok(false)) {
            return Ok(Comparison::with_nothing(scan.catalog, &self.copier, scan.rule, source, target));
        }
        Comparison::begin(scan.catalog, &self.copier, scan.rule, source, target).await
    }

    /// Sends the copies of those tags that the rule selects and the target does not have, and tells the log.
    async fn send_slice(
        &self,
        scan: &Scan<'_>,
        task: &TaskHead,
        comparison: &Comparison<'_>,
        slice: &[Tagged],
        cursor: &mut ScanCursor,
    ) -> Result<(), Trouble> {
        let findings = comparison.find(slice, |tag| scan.tags.is_match(tag.as_str())).await?;
        let mut jobs = Vec::new();
        let mut routes = Vec::new();
        let mut subjects = HashSet::new();
        for ((tag, _), finding) in slice.iter().zip(findings) {
            let subject = match finding {
                Finding::Nothing => continue,
                Finding::Equal if !scan.is_repeated => {
                    cursor.compared += 1;
                    continue;
                }
                // What is sent again is the same resource, and the first outcome of it stands.
                Finding::Equal | Finding::Differs => None,
                // One job brings all that refers to it.
                Finding::Attachment(subject) if !subjects.insert(subject.clone()) => continue,
                Finding::Attachment(subject) => Some(subject),
            };
            let (source, target) = comparison.places(tag);
            routes.push(Route { source: source.clone(), target: target.clone() });
            jobs.push(dispatch::copy(task.clone(), source, target, subject).0);
        }
        if slice.iter().any(|(tag, _)| scan.selects(tag)) {
            cursor.repositories += u64::from(!std::mem::replace(&mut cursor.counted, true));
        }
        if jobs.is_empty() {
            return Ok(());
        }
        self.jobs.send(&jobs).await?;
        self.tell(task, Happening::Found { resources: routes }).await?;
        cursor.resources += jobs.len() as u64;
        Ok(())
    }
}

impl Scan<'_> {
    fn is_over(&self) -> bool {
        let is_full = matches!(self.purpose, Purpose::Foresee(foresight) if foresight.is_full());
        is_full || Instant::now() >= self.until
    }

    fn slice(&self) -> usize {
        match self.purpose {
            Purpose::Send(_) => SLICE,
            Purpose::Foresee(_) => FORESEEN,
        }
    }

    fn selects(&self, tag: &Tag) -> bool {
        tag.subject().is_none() && self.tags.is_match(tag.as_str())
    }

    /// Whether anything may be to be done about a tag.
    fn concerns(&self, tag: &Tag) -> bool {
        self.selects(tag) || (self.rule.referrers && tag.subject().is_some())
    }

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
