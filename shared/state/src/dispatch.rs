//! From a push event to jobs: which rules it meets, whether it is an echo, and what the workers are asked for.
//!
//! The webhook does this for an event as it comes; a worker does it for an event that meets so many rules that the webhook
//! only notes it ([`Job::FanOut`]).

use jiff::Timestamp;
use transship_model::{
    CopyJob, FanOutJob, Happening, Job, LookJob, Place, PushEvent, Pushed, Repository, RestoreJob, Route, Rule, TaskEvent,
    TaskHead, TaskId, Trigger, Verdict, origin::Origin,
};

use crate::{Events, Jobs, Origins, StateError, catalog::Snapshot};

/// Sends what an event asks for.
#[derive(Clone)]
pub struct Dispatcher {
    origins: Origins,
    jobs: Jobs,
    events: Events,
}

/// What has been sent for an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dispatched {
    /// The tasks, in the order of their rules' IDs.
    pub tasks: Vec<TaskId>,
    /// Workers will match the event, or look at what it belongs to, and there may be more tasks.
    pub pending: bool,
}

impl Dispatcher {
    /// So many rules are matched by the webhook itself; of more a worker sends the copies.
    pub const DIRECT: usize = 50;
    /// So many copies a step of a fan-out sends.
    pub const STEP: usize = 500;

    /// A dispatcher over these stores.
    pub fn new(origins: Origins, jobs: Jobs, events: Events) -> Self {
        Self { origins, jobs, events }
    }

    /// Sends what an event asks for; when it returns, that is durable. `nonce` tells apart the deliveries of an event that has no
    /// identity of its own.
    ///
    /// # Errors
    /// See [`StateError`]. Part of it may have been sent then; the same event again makes the same tasks.
    pub async fn dispatch(&self, catalog: &Snapshot, event: &PushEvent, nonce: &str) -> Result<Dispatched, StateError> {
        let Some(place) = event.place() else { return Ok(Dispatched::default()) };
        match &event.tag {
            Some(tag) if tag.subject().is_none() => {
                let routes = self.routes(catalog, event, &place).await?;
                if routes.len() > Self::DIRECT {
                    let job = FanOutJob { event: event.clone(), nonce: nonce.to_owned(), after: 0 };
                    self.jobs.send(&[Job::FanOut(job)]).await?;
                    return Ok(Dispatched { tasks: Vec::new(), pending: true });
                }
                let tasks = self.send(event, &place, &routes, nonce).await?;
                Ok(Dispatched { tasks, pending: false })
            }
            // What it belongs to can't be told without the registry.
            _ if catalog.index.of_repository(&place.instance, &place.repository).is_empty() => Ok(Dispatched::default()),
            _ => {
                self.jobs.send(&[Job::Look(LookJob { event: event.clone() })]).await?;
                Ok(Dispatched { tasks: Vec::new(), pending: true })
            }
        }
    }

    /// One step of a fan-out: sends the copies for the next rules, then itself on if there are more.
    ///
    /// # Errors
    /// See [`StateError`]; the same step again is safe.
    pub async fn fan_out(&self, catalog: &Snapshot, job: &FanOutJob) -> Result<(), StateError> {
        let Some(place) = job.event.place() else { return Ok(()) };
        let mut routes = self.routes(catalog, &job.event, &place).await?;
        routes.retain(|(rule, _)| rule.id.0 > job.after);
        let rest = routes.len().saturating_sub(Self::STEP);
        routes.truncate(Self::STEP);
        self.send(&job.event, &place, &routes, &job.nonce).await?;
        match routes.last() {
            Some((last, _)) if rest > 0 => self.jobs.send(&[Job::FanOut(FanOutJob { after: last.id.0, ..job.clone() })]).await,
            _ => Ok(()),
        }
    }

    /// The rules that the event goes to, by ID, with the repositories that they lead to; and the memory of where the tag's content
    /// comes from brought up to date.
    async fn routes<'a>(
        &self,
        catalog: &'a Snapshot,
        event: &PushEvent,
        place: &Place,
    ) -> Result<Vec<(&'a Rule, Repository)>, StateError> {
        let mut routes: Vec<(&Rule, Repository)> =
            catalog.rules_from(place).into_iter().map(|(rule, to)| (rule.as_ref(), to)).collect();
        routes.sort_unstable_by_key(|(rule, _)| rule.id);
        // Only where rules write and lead on can there be an echo that matters, and only there, or where versions decide, is
        // there anything to remember. Elsewhere, as at the end of a plain mirror, the webhook spares the table.
        let is_written = || catalog.index.that_write(&place.instance, &place.repository, &place.reference).next().is_some();
        let is_remembered =
            (!routes.is_empty() && is_written()) || catalog.has_versions(place) || catalog.leads_to_versions(place);
        if is_remembered {
            let mut verdict = Verdict::Push;
            let origin = self
                .origins
                .change(place, |origin| {
                    let changed;
                    (verdict, changed) = note(origin, event);
                    changed
                })
                .await?;
            match verdict {
                Verdict::Echo(trail) => routes.retain(|(rule, to)| trail.allows(rule, to)),
                // A copy that it asks for would see to it.
                Verdict::Push if routes.is_empty() && catalog.has_versions(place) => self.put_back(place, &origin).await?,
                Verdict::Push | Verdict::Doubt => {}
            }
        }
        Ok(routes)
    }

    /// Asks for a look whether a push that has just become known was overwritten by a copy of something older.
    async fn put_back(&self, place: &Place, origin: &Origin) -> Result<(), StateError> {
        let Some(last) = origin.written.last() else { return Ok(()) };
        let Some((digest, _)) = origin.overwritten(&last.digest) else { return Ok(()) };
        let job = RestoreJob { place: place.clone(), digest: digest.clone(), overwritten_by: last.at };
        self.jobs.send(&[Job::Restore(job)]).await
    }

    async fn send(
        &self,
        event: &PushEvent,
        place: &Place,
        routes: &[(&Rule, Repository)],
        nonce: &str,
    ) -> Result<Vec<TaskId>, StateError> {
        let mut jobs = Vec::with_capacity(routes.len());
        let mut events = Vec::with_capacity(routes.len());
        for (rule, to) in routes {
            let task = TaskHead {
                id: event.task(rule.id, nonce),
                instance: rule.source.instance.clone(),
                rule: rule.name.clone(),
                trigger: Trigger::Push { resource: place.name() },
                created: event.received,
            };
            let (mut job, found) = copy(task, place.clone(), target_place(rule, place, to), None);
            if let Job::Copy(job) = &mut job {
                job.pushed.clone_from(&event.digest);
            }
            jobs.push(job);
            events.push(found);
        }
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        // The job first: it carries all that the log needs, so that a crash between the two leaves no task that nobody works on.
        self.jobs.send(&jobs).await?;
        self.events.send(&events).await?;
        Ok(events.into_iter().map(|event| event.task.id).collect())
    }
}

/// The job to copy one resource, and the event that tells of it.
pub fn copy(task: TaskHead, source: Place, target: Place, subject: Option<transship_model::Digest>) -> (Job, TaskEvent) {
    let route = Route { source: source.clone(), target: target.clone() };
    let found = TaskEvent { task: task.clone(), at: Timestamp::now(), what: Happening::Found { resources: vec![route] } };
    (Job::Copy(CopyJob { task, source, target, pushed: None, subject, unattached: false, continuation: 0 }), found)
}

/// Where a rule copies a place to, given the repository there.
pub fn target_place(rule: &Rule, source: &Place, repository: &Repository) -> Place {
    let (instance, repository) = (rule.target.instance.clone(), repository.clone());
    Place { instance, repository, reference: source.reference.clone() }
}

/// Classifies an event and notes what it tells. True if there is something to write.
fn note(origin: &mut Origin, event: &PushEvent) -> (Verdict, bool) {
    let verdict = origin.classify(event.digest.as_ref(), event.time());
    let changed = match (&verdict, &event.digest) {
        (Verdict::Echo(_), Some(digest)) => origin.note_echo(digest, event.time()),
        (Verdict::Push, Some(digest)) => {
            origin.note_push(Pushed { digest: digest.clone(), version: event.version() }, event.time())
        }
        _ => false,
    };
    (verdict, changed)
}
