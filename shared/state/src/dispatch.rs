//! From a push event to jobs: which rules it meets, whether it is an echo, and what the workers are asked for.
//!
//! The webhook does this for an event as it comes; a worker does it for an event that meets so many rules that the webhook
//! only notes it ([`Job::FanOut`]).
//!
//! Where it is remembered where tags came from, an event is judged by what was read, and the jobs go out while that is brought up to
//! date. What makes this safe: a job that a push asks for carries it, and notes it before it looks at anything; the note holds only if
//! nobody has changed the origin in between, and else all is judged again; and nothing is answered before both are durable.

use std::{collections::HashSet, sync::Arc};

use futures_util::future::join;
use jiff::Timestamp;
use transship_model::{
    CopyJob, FanOutJob, Happening, Job, LookJob, Place, PushEvent, Pushed, Repository, RestoreJob, Route, Rule, ScanCursor,
    ScanJob, TaskEvent, TaskHead, TaskId, Told, Trigger, Verdict, origin::Origin,
};

use crate::{
    Events, Jobs, Origins, StateError,
    catalog::Snapshot,
    origins::{self, Recalled},
};

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
    /// The next step of a fan-out, to be sent when this one is done.
    next: Option<Job>,
}

impl Plan {
    /// A job whose tasks, if there will be any, are not known yet.
    fn pending(job: Job) -> Self {
        Self { jobs: vec![job], pending: true, ..Self::default() }
    }

    /// Takes over what the event asks for by what is known now, and returns the jobs that have not been sent for it before. What was sent
    /// in excess stays announced: it is a look that finds nothing to do.
    fn revise(&mut self, now: Self) -> Vec<Job> {
        let sent: HashSet<String> = self.jobs.iter().map(Job::deduplication).collect();
        let announced: HashSet<TaskId> = self.events.iter().map(|event| event.task.id.clone()).collect();
        let jobs: Vec<Job> = now.jobs.into_iter().filter(|job| !sent.contains(&job.deduplication())).collect();
        self.jobs.extend(jobs.iter().cloned());
        self.events.extend(now.events.into_iter().filter(|event| !announced.contains(&event.task.id)));
        self.pending |= now.pending;
        self.next = now.next;
        jobs
    }
}

/// Where an event leads: the rules that it goes to, by ID, with the repositories that they lead to.
struct Course<'a> {
    routes: Vec<(&'a Rule, Repository)>,
    /// The push, if it is one that is to be remembered.
    told: Option<Told>,
    /// The job to put back what turns out to have been overwritten.
    put_back: Option<Job>,
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
        let delivery = Delivery { event: event.clone(), nonce: nonce.to_owned() };
        Ok(self.dispatch_all(catalog, &[delivery], Recalled::default()).await?.remove(0))
    }

    /// Sends what several events ask for; when it returns, that is durable. Jobs are sent while it is noted what was pushed, then the log
    /// is told: two calls, one after the other. `recalled` has the origins of the places that [`Dispatcher::remembered`] names; what it
    /// lacks is read.
    ///
    /// # Errors
    /// As for [`Dispatcher::dispatch`].
    pub async fn dispatch_all(
        &self,
        catalog: &Snapshot,
        deliveries: &[Delivery],
        recalled: Recalled,
    ) -> Result<Vec<Dispatched>, StateError> {
        let places: Vec<_> = deliveries.iter().map(|delivery| Self::remembered(catalog, &delivery.event)).collect();
        let plan = |at: usize, recalled: &mut Recalled| Self::plan(catalog, &deliveries[at], recalled);
        let plans = self.carry_out(&places, recalled, plan).await?;
        let tasks = |plan: &Plan| plan.events.iter().map(|event| event.task.id.clone()).collect();
        Ok(plans.iter().map(|plan| Dispatched { tasks: tasks(plan), pending: plan.pending }).collect())
    }

    /// The place whose origin decides what becomes of an event, if it does: it is read, and mostly written.
    pub fn remembered(catalog: &Snapshot, event: &PushEvent) -> Option<Place> {
        let place = event.place()?;
        event.tag.as_ref().filter(|tag| tag.subject().is_none())?;
        let leads_on = !catalog.rules_from(&place).is_empty();
        is_remembered(catalog, &place, leads_on).then_some(place)
    }

    /// Sends what the deletion of a tag asks for: rules that say so delete it at their targets. When it returns, that is durable. Without
    /// a tag it can't be told what was deleted; a full run finds it.
    ///
    /// # Errors
    /// See [`StateError`]; the same again makes the same tasks.
    pub async fn dispatch_deletion(
        &self,
        catalog: &Snapshot,
        event: &PushEvent,
        nonce: &str,
    ) -> Result<Dispatched, StateError> {
        let Some(place) = event.place().filter(|place| place.reference.tag().is_some_and(|tag| tag.subject().is_none())) else {
            return Ok(Dispatched::default());
        };
        let rules: Vec<(&Arc<Rule>, Repository)> = catalog.rules_from(&place);
        let mut routes: Vec<(&Rule, Repository)> =
            rules.into_iter().filter(|(rule, _)| rule.propagate_deletions).map(|(rule, to)| (rule.as_ref(), to)).collect();
        if routes.is_empty() {
            return Ok(Dispatched::default());
        }
        routes.sort_unstable_by_key(|(rule, _)| rule.id);
        if is_remembered(catalog, &place, true) {
            let origin = self.origins.change(&place, |origin| origin.note_deletion(event.version(), None)).await?;
            // Our own: it goes on only to where it has not been.
            if let Some(trail) = origin.deleted.and_then(|deleted| deleted.trail) {
                routes.retain(|(rule, to)| trail.allows(rule, to));
            }
        }
        let (mut jobs, mut events) = (Vec::new(), Vec::new());
        for (rule, to) in &routes {
            let identity = event.identity().unwrap_or_else(|| nonce.to_owned());
            let task = TaskHead {
                id: TaskId::derive(rule.id, event.time(), &format!("deletion\n{identity}")),
                instance: rule.source.instance.clone(),
                rule: rule.name.clone(),
                trigger: Trigger::Deletion { resource: place.name() },
                created: event.received,
            };
            let (job, found) = deletion(task, place.clone(), target_place(rule, &place, to));
            jobs.push(job);
            events.push(found);
        }
        let tasks = events.iter().map(|event| event.task.id.clone()).collect();
        self.send_jobs(&jobs).await?;
        if !events.is_empty() {
            self.events.send(&events).await?;
        }
        Ok(Dispatched { tasks, pending: false })
    }

    /// Has the logger look for ends of tasks that were not told.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn sweep(&self) -> Result<(), StateError> {
        self.events.sweep().await
    }

    fn plan(catalog: &Snapshot, Delivery { event, nonce }: &Delivery, recalled: &mut Recalled) -> Plan {
        let Some(place) = event.place() else { return Plan::default() };
        match &event.tag {
            Some(tag) if tag.subject().is_none() => {
                let course = course(catalog, event, &place, recalled);
                let mut plan = if course.routes.len() > Self::DIRECT {
                    let (event, nonce, push) = (event.clone(), nonce.clone(), course.told.is_some());
                    Plan::pending(Job::FanOut(FanOutJob { event, nonce, push, after: 0 }))
                } else {
                    copies(event, &place, &course, nonce)
                };
                plan.jobs.extend(course.put_back);
                plan
            }
            // What it belongs to can't be told without the registry.
            _ if !catalog.index.of_repository(&place.instance, &place.repository).iter().any(|rule| rule.referrers) => {
                Plan::default()
            }
            _ => Plan::pending(Job::Look(LookJob { event: event.clone() })),
        }
    }

    /// One step of a fan-out: sends the copies for the next rules, then itself on if there are more.
    ///
    /// # Errors
    /// See [`StateError`]; the same step again is safe.
    pub async fn fan_out(&self, catalog: &Snapshot, job: &FanOutJob) -> Result<(), StateError> {
        let Some(place) = job.event.place() else { return Ok(()) };
        let plan = |_: usize, recalled: &mut Recalled| {
            let mut course = course(catalog, &job.event, &place, recalled);
            course.routes.retain(|(rule, _)| rule.id.0 > job.after);
            let rest = course.routes.len().saturating_sub(Self::STEP);
            course.routes.truncate(Self::STEP);
            let mut plan = copies(&job.event, &place, &course, &job.nonce);
            let last = course.routes.last().filter(|_| rest > 0);
            plan.next = last.map(|(last, _)| Job::FanOut(FanOutJob { after: last.id.0, ..job.clone() }));
            plan.jobs.extend(course.put_back);
            plan
        };
        let plans = self.carry_out(&[Self::remembered(catalog, &job.event)], Recalled::default(), plan).await?;
        let next: Vec<Job> = plans.into_iter().filter_map(|plan| plan.next).collect();
        if next.is_empty() { Ok(()) } else { self.jobs.send(&next).await }
    }

    /// Does what is planned for several events, each of which may have a place that is remembered.
    ///
    /// Jobs are sent while it is noted what was pushed. Whatever of that a crash leaves undone, the event, which is delivered again, makes
    /// good: each half is safe alone, because a job notes the push that it is for before it looks at anything. Where others have changed
    /// an origin since it was read, the events for that place are planned again, and what is wanted now is sent as well.
    async fn carry_out(
        &self,
        places: &[Option<Place>],
        mut recalled: Recalled,
        plan: impl Fn(usize, &mut Recalled) -> Plan,
    ) -> Result<Vec<Plan>, StateError> {
        let unread: HashSet<&Place> = places.iter().flatten().filter(|place| !recalled.has(place)).collect();
        recalled.extend(self.origins.recall(unread.into_iter().cloned().collect()).await?);
        let mut plans: Vec<Plan> = places.iter().map(|_| Plan::default()).collect();
        let mut open: Vec<usize> = (0..places.len()).collect();
        for _ in 0..origins::TRIES {
            let jobs: Vec<Job> = open.iter().flat_map(|&at| plans[at].revise(plan(at, &mut recalled))).collect();
            // Neither is broken off because the other has failed.
            let (sent, overtaken) = join(self.send_jobs(&jobs), self.origins.write(&recalled)).await;
            let overtaken = sent.and(overtaken)?;
            if overtaken.is_empty() {
                // The job first: it carries all that the log needs, so that a crash between the two leaves no task that nobody works on.
                let events: Vec<TaskEvent> = plans.iter().flat_map(|plan| plan.events.iter().cloned()).collect();
                self.events.send(&events).await?;
                return Ok(plans);
            }
            open.retain(|&at| places[at].as_ref().is_some_and(|place| overtaken.contains(place)));
            recalled = self.origins.recall(overtaken).await?;
        }
        Err(StateError::Contended("where tags came from".into()))
    }

    async fn send_jobs(&self, jobs: &[Job]) -> Result<(), StateError> {
        if jobs.is_empty() { Ok(()) } else { self.jobs.send(jobs).await }
    }
}

/// Finds out where an event leads, and brings the memory of where the tag's content comes from up to date.
fn course<'a>(catalog: &'a Snapshot, event: &PushEvent, place: &Place, recalled: &mut Recalled) -> Course<'a> {
    let mut routes: Vec<(&Rule, Repository)> =
        catalog.rules_from(place).into_iter().map(|(rule, to)| (rule.as_ref(), to)).collect();
    routes.sort_unstable_by_key(|(rule, _)| rule.id);
    if !is_remembered(catalog, place, !routes.is_empty()) {
        return Course { routes, told: None, put_back: None };
    }
    let told = event
        .digest
        .as_ref()
        .map(|digest| Told { pushed: Pushed { digest: digest.clone(), version: event.version() }, time: event.time() });
    let (verdict, origin) = recalled.change(place, |origin| note(origin, event, told.as_ref()));
    match verdict {
        Verdict::Echo(trail) => {
            routes.retain(|(rule, to)| trail.allows(rule, to));
            Course { routes, told: None, put_back: None }
        }
        // A copy that it asks for would see to it.
        Verdict::Push if routes.is_empty() && catalog.has_versions(place) => {
            let put_back = put_back(place, origin, told.as_ref());
            Course { routes, told, put_back }
        }
        Verdict::Push => Course { routes, told, put_back: None },
        Verdict::Doubt => Course { routes, told: None, put_back: None },
    }
}

/// Only where rules write and lead on can there be an echo that matters, and only there, or where versions decide, is there
/// anything to remember. Elsewhere, as at the end of a plain mirror, the webhook spares the table.
fn is_remembered(catalog: &Snapshot, place: &Place, leads_on: bool) -> bool {
    let is_written = || catalog.index.that_write(&place.instance, &place.repository, &place.reference).next().is_some();
    (leads_on && is_written()) || catalog.has_versions(place) || catalog.leads_to_versions(place)
}

/// Asks for a look whether a push that has just become known was overwritten by a copy of something older.
fn put_back(place: &Place, origin: &Origin, told: Option<&Told>) -> Option<Job> {
    let last = origin.written.last()?;
    let (digest, _) = origin.overwritten(&last.digest)?;
    let (place, digest, told) = (place.clone(), digest.clone(), told.cloned());
    Some(Job::Restore(RestoreJob { place, digest, overwritten_by: last.at, told }))
}

/// The copies that an event asks for, and the events that tell of them.
fn copies(event: &PushEvent, place: &Place, course: &Course<'_>, nonce: &str) -> Plan {
    let mut plan = Plan::default();
    for (rule, to) in &course.routes {
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
            job.told.clone_from(&course.told);
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
    (
        Job::Copy(CopyJob { task, source, target, pushed: None, told: None, subject, may_be_deletion: false, continuation: 0 }),
        found,
    )
}

/// The job to delete at the target what was deleted at the source, and the event that tells of it.
pub fn deletion(task: TaskHead, source: Place, target: Place) -> (Job, TaskEvent) {
    let (mut job, found) = copy(task, source, target, None);
    if let Job::Copy(job) = &mut job {
        job.may_be_deletion = true;
    }
    (job, found)
}

/// The job to find all that a rule selects, and the event that tells of it.
pub fn full_run(task: TaskHead) -> (Job, TaskEvent) {
    let begun = TaskEvent { task: task.clone(), at: task.created, what: Happening::Created };
    (Job::Scan(ScanJob { task, cursor: ScanCursor::default(), continuation: 0, attempts: 0 }), begun)
}

/// Where a rule copies a place to, given the repository there.
pub fn target_place(rule: &Rule, source: &Place, repository: &Repository) -> Place {
    let (instance, repository) = (rule.target.instance.clone(), repository.clone());
    Place { instance, repository, reference: source.reference.clone() }
}

/// Classifies an event and notes what it tells. True if there is something to write.
fn note(origin: &mut Origin, event: &PushEvent, told: Option<&Told>) -> (Verdict, bool) {
    let verdict = origin.classify(event.digest.as_ref(), event.time());
    let is_changed = match (&verdict, told) {
        (Verdict::Echo(_), Some(told)) => origin.note_echo(&told.pushed.digest, told.time),
        (Verdict::Push, Some(told)) => origin.note_push(told.pushed.clone(), told.time),
        _ => false,
    };
    (verdict, is_changed)
}
