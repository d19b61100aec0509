//! Starts **logger** on AWS Lambda.

use std::{process::ExitCode, sync::Arc};

use transship_lambda::{
    Answer, Aws, Call, Event, Function, Message, Metric, Settings as _, StartError, Unhandled, each,
    settings::{Arn, DEAD_LETTERS, KEEP_TASKS, NOTIFICATIONS, TABLE, TOPIC, TOPIC_RESOURCES},
};
use transship_logger::{Logger, Outlets};
use transship_model::TaskStatus;
use transship_state::{Catalog, DeadLetters, Notifications, Recorded, Table, TaskLog, messages};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    transship_lambda::run(start()).await
}

async fn start() -> Result<Log, StartError> {
    let (table, notifications, topic, topic_resources, dead_letters, keep) =
        (TABLE, NOTIFICATIONS, TOPIC, TOPIC_RESOURCES, DEAD_LETTERS, KEEP_TASKS).read()?;
    let aws = Aws::connect().await;
    let table: Arc<dyn Table> = Arc::new(aws.table(table));
    let [notifications] = aws.queues([notifications]);
    let outlets = Outlets {
        catalog: Arc::new(Catalog::new(table.clone())),
        topic: Some(Arc::new(aws.topic(topic))),
        topic_resources,
        notifications: Notifications(Arc::new(notifications)),
    };
    let (log, letters) = (TaskLog::new(table.clone()).keeping(keep), DeadLetters::new(table).keeping(keep));
    Ok(Log { logger: Logger::new(log, letters, outlets), dead_letters })
}

struct Log {
    logger: Logger,
    /// The queue of jobs that nobody could do.
    dead_letters: Arn,
}

impl Function for Log {
    async fn handle(&self, event: Event, call: &Call) -> Result<Answer, Unhandled> {
        let messages = event.messages("the logger")?;
        // A batch is of one queue.
        let are_dead = messages.iter().all(|message| message.queue == self.dead_letters.as_str());
        if are_dead { Ok(self.bury(messages, call).await) } else { self.record(messages, call).await }
    }
}

impl Log {
    /// Takes in events: all at once, because what they add to a counter is added up first. What can't be read is of another version,
    /// which may be on its way: it comes again, until this one is gone or it is among the dead letters.
    async fn record(&self, messages: Vec<Message>, call: &Call) -> Result<Answer, Unhandled> {
        let (known, unknown): (Vec<&Message>, Vec<&Message>) = messages.iter().partition(|message| {
            let read = messages::read_report(message.body());
            read.inspect_err(|error| tracing::error!(%error, body = message.body(), "a message of the events queue")).is_ok()
        });
        let bodies = known.iter().map(|message| message.body());
        let recorded = self.logger.record(bodies).await.map_err(Unhandled::because)?;
        call.count(Metric::Events, known.len() as u64);
        count(call, &recorded);
        Ok(Answer::done_but(unknown))
    }

    /// Takes in jobs that nobody could do.
    async fn bury(&self, messages: Vec<Message>, call: &Call) -> Answer {
        each(messages, async |message| {
            let buried = self.logger.bury(message.body()).await;
            if let Ok(recorded) = &buried {
                call.count(Metric::DeadLetters, 1);
                count(call, recorded);
            }
            buried.inspect_err(|error| tracing::error!(%error, "a dead letter comes again")).is_ok()
        })
        .await
    }
}

/// What has changed in the log.
fn count(call: &Call, recorded: &Recorded) {
    for task in &recorded.closed {
        match task.status() {
            TaskStatus::Succeeded => call.count(Metric::TasksSucceeded, 1),
            TaskStatus::PartlyFailed => call.count(Metric::TasksPartlyFailed, 1),
            TaskStatus::Failed => call.count(Metric::TasksFailed, 1),
            TaskStatus::Cancelled => call.count(Metric::TasksCancelled, 1),
            // No state of a task that has ended.
            TaskStatus::Queued | TaskStatus::Running => {}
        }
    }
    let counts = &recorded.counts;
    call.count(Metric::Copied, counts.copied);
    call.count(Metric::Unchanged, counts.unchanged);
    call.count(Metric::Deleted, counts.deleted);
    call.count(Metric::Skipped, counts.skipped);
    call.count(Metric::Failed, counts.failed);
    call.count(Metric::BytesMoved, counts.bytes_moved);
    call.count(Metric::BytesSaved, counts.bytes_saved());
}
