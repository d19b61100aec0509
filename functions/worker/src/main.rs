//! Starts **worker** on AWS Lambda.

use std::{process::ExitCode, sync::Arc, time::Duration};

use tokio::time::Instant;
use transship_lambda::{
    Answer, Aws, Call, Event, Function, Message, Metric, Settings as _, StartError, Unhandled, in_order,
    settings::{EVENTS, JOBS, SECRETS, TABLE},
};
use transship_registry::{Bounds, Http, Throttling};
use transship_state::{
    AttemptLog, Catalog, DeadLetters, Events, Jobs, Origins, Previews, Queue, QueueError, Table, TaskLog, Uploads,
    aws::SqsQueue, messages,
};
use transship_worker::{Disposition, HOLD, Stores, Worker};

/// What is left of an invocation when a job has come to its end in time: to note how far it has come and to send itself on. A request
/// or two, each of which may have to be made again.
const SENDING_ON: Duration = Duration::from_secs(7);
/// A job that has less than this is hardly worth beginning.
const LEAST: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    transship_lambda::run(start()).await
}

async fn start() -> Result<Jobber, StartError> {
    let (table, jobs, events, secrets) = (TABLE, JOBS, EVENTS, SECRETS).read()?;
    let aws = Aws::connect().await;
    let table: Arc<dyn Table> = Arc::new(aws.table(table));
    let [queue, events] = aws.queues([jobs, events]);
    let stores = Stores {
        catalog: Arc::new(Catalog::new(table.clone())),
        origins: Origins::new(table.clone()),
        attempts: AttemptLog::new(table.clone()),
        previews: Previews::new(table.clone()),
        log: TaskLog::new(table.clone()),
        dead_letters: DeadLetters::new(table.clone()),
        // Leases belong to the environment: it does one job at a time, and one that it was killed in it begins again.
        uploads: Uploads::new(table, format!("{:032x}", fastrand::u128(..))),
        jobs: Jobs(Arc::new(queue.clone())),
        events: Events(Arc::new(events)),
        secrets: Arc::new(aws.secrets(secrets)),
    };
    let http = Http::new().map_err(|error| StartError::Other(error.to_string()))?;
    Ok(Jobber { worker: Worker::new(stores, http.clone()), queue, http })
}

struct Jobber {
    worker: Worker,
    queue: SqsQueue,
    /// What registries have asked for is known there.
    http: Http,
}

impl Function for Jobber {
    async fn handle(&self, event: Event, call: &Call) -> Result<Answer, Unhandled> {
        let messages = event.messages("the worker")?;
        let before = self.throttling();
        let answer = in_order(messages, async |message| self.job(message, call).await).await;
        let after = self.throttling();
        call.count(Metric::Throttled, after.answers - before.answers);
        let waited = after.waited.saturating_sub(before.waited);
        call.count(Metric::ThrottleWait, u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
        Ok(answer)
    }
}

impl Jobber {
    /// What all registries together have asked for since the environment began.
    fn throttling(&self) -> Throttling {
        self.http.throttling().into_iter().map(|(_, of_one)| of_one).sum()
    }

    /// Works on a job. Whether its message is done with.
    async fn job(&self, message: &Message, call: &Call) -> bool {
        call.count(Metric::Jobs, 1);
        if let Ok(job) = messages::read_job(message.body())
            && let Some(task) = job.task()
        {
            call.concerns(&task.id, task.id.rule());
        }
        // The queue holds it back for hours, so that batches are not delivered twice; but a crashed worker's job is to be taken up soon.
        match self.queue.extend(&message.incoming.receipt, HOLD).await {
            Ok(()) => {}
            Err(error @ QueueError::Lost) => {
                tracing::warn!(%error, "a job came too late");
                call.ended("lost");
                return false;
            }
            // It is held for long enough as it is.
            Err(error) => tracing::warn!(%error, "a job's hold could not be shortened"),
        }
        match self.worker.deliver(&self.queue, &message.incoming, Some(end_of_work(call)), std::future::pending()).await {
            Disposition::Done => {
                call.ended("done");
                true
            }
            Disposition::Again(wait) => {
                if let Err(error) = self.queue.release(&message.incoming.receipt, wait).await {
                    tracing::warn!(%error, "a job comes again when its hold is over");
                }
                call.ended("again");
                false
            }
            Disposition::Lost => {
                call.ended("lost");
                false
            }
        }
    }
}

/// When work on a job is to end, so that it can be sent on in time.
fn end_of_work(call: &Call) -> Instant {
    let left = call.deadline().duration_since(Instant::now());
    let work = left.checked_sub(Bounds::ENDING + SENDING_ON).filter(|work| *work >= LEAST).unwrap_or_else(|| {
        tracing::warn!(?left, "the function's time-out is short: give it a minute at least");
        left / 2
    });
    Instant::now() + work
}
