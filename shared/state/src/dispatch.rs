//! From a push event to jobs: which rules it meets, whether it is an echo, and what the workers are asked for.
//!
//! The webhook does this for an event as it comes; a worker does it for an event that meets so many rules that the webhook
//! only notes it ([`Job::FanOut`]).

use jiff::Timestamp;
use transship_model::{
    CopyJob, FanOutJob, Happening, Job, LookJob, Place, PushEvent, Pushed, Repository, RestoreJob, Route, Rule, TaskEvent,
    TaskHead, TaskId, Trigger, Verdict, origin::Origin,
};

use crate::{Events, Jobs, Origins, StateError, catalog::Snapshot, origins::Recalled};

/// Sends what an event asks for.
#[derive(Clone)]
pub struct Dispatcher {
    origins: Origins,
    jobs: Jobs,
    events: Events,
}

/// An event as it was delivered once. The nonce tells apart the deliveries of an event that has no identity of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The event.
    pub event: PushEvent,
    /// What no other delivery has.
    pub nonce: String,
}

/// What is to be sent for an event.
#[derive(Default)]
struct Plan {
    jobs: Vec<Job>,
    events: Vec<TaskEvent>,
    pending: bool,
}

impl Plan {
    /// A job whose tasks, if there will be any, are not known yet.
    fn pending(job: Job) -> Self {
        Self { jobs: vec![job], events: Vec::new(), pending: true }
    }
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

    /// Sends what an event asks for; when it returns, that is durable. `nonce` is as in [`Delivery`].
    ///
    /// # Errors
    /// See [`StateError`]. Part of it may have been sent then; the same event again makes the same tasks.
    pub async fn dispatch(&self, catalog: &Snapshot, event: &PushEvent, nonce: &str) -> Result<Dispatched, StateError> {
        let plan = self.plan(catalog, event, nonce, &Recalled::default()).await?;
        Ok(self.send(vec![plan]).await?.remove(0))
    }

    /// Sends what several events ask for, all jobs in one call of the queue and then all events; when it returns, that is durable.
    /// `recalled` has the origins of the places that [`Dispatcher::remembered`] names, so that they need not be read.
    ///
    /// # Errors
    /// As for [`Dispatcher::dispatch`].
    pub async fn dispatch_all(
        &self,
        catalog: &Snapshot,
        deliveries: &[Delivery],
        recalled: &Recalled,
    ) -> Result<Vec<Dispatched>, StateError> {
        let mut plans = Vec::with_capacity(deliveries.len());
        for Delivery { event, nonce } in deliveries {
            plans.push(self.plan(catalog, event, nonce, recalled).await?);
        }
        self.send(plans).await
    }

    /// The place whose origin decides what becomes of an event, if it does: it is read, and mostly written.
    pub fn remembered(catalog: &Snapshot, event: &PushEvent) -> Option<Place> {
        let place = event.place()?;
        event.tag.as_ref().filter(|tag| tag.subject().is_none())?;
        let leads_on = !catalog.rules_from(&place).is_empty();
        is_remembered(catalog, &place, leads_on).then_some(place)
    }

    /// Has the logger look for ends of tasks that were not told.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn sweep(&self) -> Result<(), StateError> {
        self.events.sweep().await
    }

    async fn plan(&self, catalog: &Snapshot, event: &PushEvent, nonce: &str, recalled: &Recalled) -> Result<Plan, StateError> {
        let Some(place) = event.place() else { return Ok(Plan::default()) };
        match &event.tag {
            Some(tag) if tag.subject().is_none() => {
                let (routes, put_back) = self.routes(catalog, event, &place, recalled).await?;
                let mut plan = if routes.len() > Self::DIRECT {
                    Plan::pending(Job::FanOut(FanOutJob { event: event.clone(), nonce: nonce.to_owned(), after: 0 }))
                } else {
                    copies(event, &place, &routes, nonce)
                };
                plan.jobs.extend(put_back);
                Ok(plan)
            }
            // What it belongs to can't be told without the registry.
            _ if catalog.index.of_repository(&place.instance, &place.repository).is_empty() => Ok(Plan::default()),
            _ => Ok(Plan::pending(Job::Look(LookJob { event: event.clone() }))),
        }
    }

    /// One step of a fan-out: sends the copies for the next rules, then itself on if there are more.
    ///
    /// # Errors
    /// See [`StateError`]; the same step again is safe.
    pub async fn fan_out(&self, catalog: &Snapshot, job: &FanOutJob) -> Result<(), StateError> {
        let Some(place) = job.event.place() else { return Ok(()) };
        let (mut routes, put_back) = self.routes(catalog, &job.event, &place, &Recalled::default()).await?;
        routes.retain(|(rule, _)| rule.id.0 > job.after);
        let rest = routes.len().saturating_sub(Self::STEP);
        routes.truncate(Self::STEP);
        let mut plan = copies(&job.event, &place, &routes, &job.nonce);
        plan.jobs.extend(put_back);
        self.send(vec![plan]).await?;
        match routes.last() {
            Some((last, _)) if rest > 0 => self.jobs.send(&[Job::FanOut(FanOutJob { after: last.id.0, ..job.clone() })]).await,
            _ => Ok(()),
        }
    }

    /// The rules that the event goes to, by ID, with the repositories that they lead to; and the memory of where the tag's content
    /// comes from brought up to date, with the job to put something back if that shows that it is needed.
    async fn routes<'a>(
        &self,
        catalog: &'a Snapshot,
        event: &PushEvent,
        place: &Place,
        recalled: &Recalled,
    ) -> Result<(Vec<(&'a Rule, Repository)>, Option<Job>), StateError> {
        let mut routes: Vec<(&Rule, Repository)> =
            catalog.rules_from(place).into_iter().map(|(rule, to)| (rule.as_ref(), to)).collect();
        routes.sort_unstable_by_key(|(rule, _)| rule.id);
        if !is_remembered(catalog, place, !routes.is_empty()) {
            return Ok((routes, None));
        }
        let mut verdict = Verdict::Push;
        let note = |origin: &mut Origin| {
            let changed;
            (verdict, changed) = note(origin, event);
            changed
        };
        let origin = self.origins.change_recalled(place, recalled, note).await?;
        let mut restore = None;
        match verdict {
            Verdict::Echo(trail) => routes.retain(|(rule, to)| trail.allows(rule, to)),
            // A copy that it asks for would see to it.
            Verdict::Push if routes.is_empty() && catalog.has_versions(place) => restore = put_back(place, &origin),
            Verdict::Push | Verdict::Doubt => {}
        }
        Ok((routes, restore))
    }

    async fn send(&self, plans: Vec<Plan>) -> Result<Vec<Dispatched>, StateError> {
        let (mut jobs, mut events) = (Vec::new(), Vec::new());
        let mut dispatched = Vec::with_capacity(plans.len());
        for plan in plans {
            let tasks = plan.events.iter().map(|event| event.task.id.clone()).collect();
            dispatched.push(Dispatched { tasks, pending: plan.pending });
            jobs.extend(plan.jobs);
            events.extend(plan.events);
        }
        // The job first: it carries all that the log needs, so that a crash between the two leaves no task that nobody works on.
        if !jobs.is_empty() {
            self.jobs.send(&jobs).await?;
        }
        if !events.is_empty() {
            self.events.send(&events).await?;
        }
        Ok(dispatched)
    }
}

/// Only where rules write and lead on can there be an echo that matters, and only there, or where versions decide, is there
/// anything to remember. Elsewhere, as at the end of a plain mirror, the webhook spares the table.
fn is_remembered(catalog: &Snapshot, place: &Place, leads_on: bool) -> bool {
    let is_written = || catalog.index.that_write(&place.instance, &place.repository, &place.reference).next().is_some();
    (leads_on && is_written()) || catalog.has_versions(place) || catalog.leads_to_versions(place)
}

/// Asks for a look whether a push that has just become known was overwritten by a copy of something older.
fn put_back(place: &Place, origin: &Origin) -> Option<Job> {
    let last = origin.written.last()?;
    let (digest, _) = origin.overwritten(&last.digest)?;
    Some(Job::Restore(RestoreJob { place: place.clone(), digest: digest.clone(), overwritten_by: last.at }))
}

/// The copies that an event asks for, and the events that tell of them.
fn copies(event: &PushEvent, place: &Place, routes: &[(&Rule, Repository)], nonce: &str) -> Plan {
    let mut plan = Plan::default();
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
        plan.jobs.push(job);
        plan.events.push(found);
    }
    plan
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
