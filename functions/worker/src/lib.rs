//! **worker**: a job becomes a copy.
//!
//! *Triggered by* a message of the jobs queue, one at a time. *Reads* the catalogue, both registries, and where tags came from.
//! *Writes* the target registry, events for the log, and jobs that follow from this one; never task state. *When it fails* the
//! message comes back: at once after a crash, after a wait where a registry asked for one or an error may pass, and what was
//! done already is found done. It gives up what will not get better, and says so in the log.

mod compare;
mod copy;
mod delete;
mod flatten;
mod look;
mod preview;
mod registries;
mod report;
mod restore;
mod retry;
mod scan;
mod trouble;
mod uploads;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use transship_model::{CopyJob, Happening, Job, RetryJob, ScanJob, TaskEvent, TaskHead, TaskId};
use transship_registry::{Bounds, Copier, Http};
use transship_state::{
    AttemptLog, Attempts, Catalog, DeadLetters, Dispatcher, Events, Incoming, Jobs, Origins, Pause, Previews, Queue,
    QueueError, Secrets, StateError, TaskLog, Uploads, messages,
};

use crate::{registries::Registries, trouble::Trouble, uploads::Shared};

/// How long a message is held back at first, and again with each [`HEARTBEAT`]: a crashed worker's job is taken up after that.
pub const HOLD: Duration = Duration::from_secs(60);
/// How often the hold is renewed.
pub const HEARTBEAT: Duration = Duration::from_secs(20);
/// So long before a hold ends the work on its message does.
const MARGIN: Duration = Duration::from_secs(5);
/// So many attempts that began and did not end are enough: something about the job kills its worker.
const MAX_UNFINISHED: u32 = 5;
/// For so long an error that may pass is tried again.
const ERROR_BUDGET: Duration = Duration::from_secs(24 * 3600);
/// A message is not delivered more often than this, and a queue gives it up at 1000.
const MANY: u32 = 900;
/// The longest wait between two attempts, unless a registry asks for more.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// The longest hold that every queue understands.
const MAX_WAIT: Duration = Duration::from_secs(11 * 3600);

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It is done with: delete it.
    Done,
    /// It is to come again after so long: release it.
    Again(Duration),
    /// Somebody else may have it by now: leave it alone.
    Lost,
}

/// The stores and clients that a worker works with.
pub struct Worker {
    catalog: Arc<Catalog>,
    registries: Registries,
    copier: Copier,
    uploads: Shared,
    origins: Origins,
    previews: Previews,
    attempts: AttemptLog,
    log: TaskLog,
    dead_letters: DeadLetters,
    dispatcher: Dispatcher,
    jobs: Jobs,
    events: Events,
}

/// Where a worker's state is.
#[derive(Clone)]
pub struct Stores {
    /// Instances and rules.
    pub catalog: Arc<Catalog>,
    /// Where tags came from.
    pub origins: Origins,
    /// How often jobs have been begun.
    pub attempts: AttemptLog,
    /// What rules would do, for those who have asked.
    pub previews: Previews,
    /// What other tasks have come to, for those that make it again. It is only read.
    pub log: TaskLog,
    /// Jobs that were given up, which may be made again.
    pub dead_letters: DeadLetters,
    /// Uploads under way, in all processes.
    pub uploads: Uploads,
    /// The queue of jobs, for those that follow from one.
    pub jobs: Jobs,
    /// The queue of the log's events.
    pub events: Events,
    /// Where registries' passwords are.
    pub secrets: Arc<dyn Secrets>,
}

impl Worker {
    /// A worker over these stores. Workers of one process share what they learn about registries if they share the worker.
    pub fn new(stores: Stores, http: Http) -> Self {
        let Stores { catalog, origins, attempts, previews, log, dead_letters, uploads, jobs, events, secrets } = stores;
        let dispatcher = Dispatcher::new(origins.clone(), jobs.clone(), events.clone());
        let (registries, copier) = (Registries::new(http, secrets), Copier::default());
        Self {
            catalog,
            registries,
            copier,
            uploads: Shared(uploads),
            origins,
            previews,
            attempts,
            log,
            dead_letters,
            dispatcher,
            jobs,
            events,
        }
    }

    /// Works on one message that is held for [`HOLD`] from now on, and keeps it held. A worker that could not keep it stops before
    /// it touches the target again. When `stop` is ready the work ends where it is, to go on with another delivery; that is not
    /// counted as an attempt that failed to end.
    ///
    /// Where there is a deadline the work ends by itself, at most [`Bounds::ENDING`] after it: what the target has by then is noted,
    /// and the job sends itself on to go on at that byte.
    pub async fn deliver(
        &self,
        queue: &dyn Queue,
        message: &Incoming,
        deadline: Option<Instant>,
        stop: impl Future<Output = ()> + Send,
    ) -> Disposition {
        let job = match messages::read_job(&message.body) {
            Ok(job) => job,
            Err(error) => {
                // Perhaps of a newer version that is being deployed; if not, it ends among the dead letters.
                tracing::error!(%error, body = message.body, "a message of the jobs queue");
                return Disposition::Again(HOLD);
            }
        };
        let cancelled = Notify::new();
        tokio::select! {
            disposition = self.work(&job, deadline, &cancelled) => self.renew(&job, message.deliveries, disposition).await,
            () = self.hold(queue, &message.receipt, job.task().map(|task| &task.id), &cancelled) => {
                tracing::warn!(?job, "the job's message could not be held any longer; its work stops here");
                Disposition::Lost
            }
            () = stop => {
                self.forgive(&job).await;
                Disposition::Again(Duration::ZERO)
            }
        }
    }

    /// A message that has come very often is soon taken for a dead letter, whatever it has waited for. Long before, its job goes on in a
    /// message of its own; how often and how long it has been tried is counted in the table, and goes on too.
    async fn renew(&self, job: &Job, deliveries: u32, disposition: Disposition) -> Disposition {
        if deliveries < MANY || !matches!(disposition, Disposition::Again(_)) {
            return disposition;
        }
        let next = match job {
            Job::Copy(job) => Job::Copy(CopyJob { continuation: job.continuation + 1, ..job.clone() }),
            Job::Scan(job) => Job::Scan(ScanJob { continuation: job.continuation + 1, ..job.clone() }),
            Job::Retry(job) => Job::Retry(RetryJob { continuation: job.continuation + 1, ..job.clone() }),
            Job::Look(_) | Job::FanOut(_) | Job::Restore(_) | Job::Preview(_) => return disposition,
        };
        match self.jobs.send(&[next]).await {
            Ok(()) => Disposition::Done,
            Err(error) => {
                tracing::warn!(%error, ?job, deliveries, "a job could not be sent anew");
                disposition
            }
        }
    }

    /// Does what a job asks for.
    async fn work(&self, job: &Job, deadline: Option<Instant>, cancelled: &Notify) -> Disposition {
        let bounds = Bounds::default().until(deadline).keeping(&self.uploads).sharing(&self.uploads);
        let result = match job {
            Job::Copy(job) => self.copy_job(job, bounds, deadline, cancelled).await,
            Job::Scan(job) => self.scan_job(job, deadline, cancelled).await,
            Job::Retry(job) => self.retry_job(job, deadline, cancelled).await,
            Job::Preview(job) => self.preview_job(job, deadline).await,
            Job::Look(look) => self.untasked(job, in_time(deadline, self.look(look))).await,
            Job::Restore(restore) => self.untasked(job, in_time(deadline, self.restore_job(restore))).await,
            Job::FanOut(fan_out) => self.untasked(job, in_time(deadline, self.fan_out(fan_out))).await,
        };
        match result {
            Ok(disposition) => disposition,
            Err(error) => {
                tracing::error!(%error, "the state store");
                // Nothing about the job has killed its worker.
                self.forgive(job).await;
                Disposition::Again(jittered(Duration::from_secs(2)))
            }
        }
    }

    /// An attempt that ends before its job does, without anybody's fault.
    async fn forgive(&self, job: &Job) {
        let (task, what) = attempt_key(job);
        if let Err(error) = self.attempts.forgive(&task, &what).await {
            tracing::warn!(%error, "an attempt that was stopped counts");
        }
    }

    async fn fan_out(&self, job: &transship_model::FanOutJob) -> Result<(), Trouble> {
        let catalog = self.catalog.snapshot().await?;
        Ok(self.dispatcher.fan_out(&catalog, job).await?)
    }

    /// A job that has no task to report to: what goes wrong for good is only in the process's own log.
    async fn untasked(&self, job: &Job, work: impl Future<Output = Result<(), Trouble>>) -> Result<Disposition, StateError> {
        let (task, what) = attempt_key(job);
        let attempts = self.attempts.begin(&task, &what).await?;
        let result = if attempts.unfinished > MAX_UNFINISHED { Err(Trouble::crashed()) } else { work.await };
        if let Err(trouble) = result {
            if let Some(wait) = self.next_try(&task, &what, attempts, &trouble).await? {
                tracing::warn!(?job, %trouble, ?wait, "a job is tried again");
                return Ok(Disposition::Again(wait));
            }
            tracing::error!(?job, %trouble, "a job failed");
        }
        self.attempts.end(&task, &what).await?;
        Ok(Disposition::Done)
    }

    /// When to try again after trouble; `None` if that is of no use, or has been of none for too long.
    async fn next_try(
        &self,
        task: &str,
        what: &str,
        attempts: Attempts,
        trouble: &Trouble,
    ) -> Result<Option<Duration>, StateError> {
        if let Some(registry) = trouble.denied_by() {
            self.registries.forget(registry);
        }
        let left_alone = self.registries.note(trouble);
        let Some(kind) = trouble.retry() else { return Ok(None) };
        let why = match trouble {
            _ if trouble.is_postponed() => Pause::Postponed,
            _ if kind.is_error => Pause::Failed,
            _ => Pause::Told,
        };
        let attempts = self.attempts.pause(task, what, attempts, why).await?;
        let over = |since: Timestamp| Timestamp::now().duration_since(since).unsigned_abs() > ERROR_BUDGET;
        if kind.is_error && attempts.failing_since.is_some_and(over) {
            return Ok(None);
        }
        let times = if kind.is_error { attempts.errors } else { attempts.waits };
        let backoff = Duration::from_secs(1 << times.saturating_sub(1).min(9)).min(MAX_BACKOFF);
        // Who asks for no time, or for none to speak of, again and again, gets it all the same.
        let floor = jittered(backoff / 8);
        let wait = kind.after.unwrap_or_else(|| jittered(backoff)).max(left_alone);
        Ok(Some(wait.clamp(floor, MAX_WAIT)))
    }

    /// Keeps a message held, and returns when it can't any longer. Looks each time whether somebody wants the task to end.
    async fn hold(&self, queue: &dyn Queue, receipt: &str, task: Option<&TaskId>, cancelled: &Notify) {
        let mut held_until = Instant::now() + HOLD;
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            let now = Instant::now();
            let is_cancelled = async {
                match task {
                    Some(task) => self.attempts.is_cancelled(task).await.unwrap_or_else(|error| {
                        tracing::warn!(%task, %error, "whether the task was cancelled is seen at the next heartbeat");
                        false
                    }),
                    None => false,
                }
            };
            let extend = timeout_at(held_until - MARGIN, queue.extend(receipt, HOLD));
            let (extended, is_cancelled) = tokio::join!(extend, timeout_at(held_until - MARGIN, is_cancelled));
            if is_cancelled == Ok(true) {
                cancelled.notify_one();
            }
            match extended {
                Ok(Ok(())) => held_until = now + HOLD,
                // There is time for another try before somebody else gets it.
                Ok(Err(QueueError::Unavailable(_))) if Instant::now() + HEARTBEAT + MARGIN < held_until => {}
                _ => return,
            }
        }
    }

    async fn tell(&self, task: &TaskHead, what: Happening) -> Result<(), StateError> {
        self.events.send(&[TaskEvent { task: task.clone(), at: Timestamp::now(), what }]).await
    }
}

/// What a job's attempts are counted under.
fn attempt_key(job: &Job) -> (String, String) {
    match job {
        Job::Copy(job) => (job.task.id.to_string(), job.source.name()),
        Job::Scan(ScanJob { task, .. }) | Job::Retry(RetryJob { task, .. }) => (task.id.to_string(), "scan".to_owned()),
        Job::Look(_) | Job::FanOut(_) | Job::Restore(_) | Job::Preview(_) => ("untasked".to_owned(), job.deduplication()),
    }
}

/// Work that is cut off where the invocation's time is over. What still waits for a registry then is no crash of ours, and is not to
/// be killed with the process and counted as one.
async fn in_time<T>(deadline: Option<Instant>, work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    match deadline {
        // What is being sent ends by itself, with a checkpoint, within this.
        Some(deadline) => timeout_at(deadline + Bounds::ENDING, work).await.unwrap_or(Err(Trouble::Late)),
        None => work.await,
    }
}

/// Spreads a wait over ±20 %, so that what failed together does not come back together.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.8 + 0.4 * fastrand::f64())
}
