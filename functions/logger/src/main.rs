//! Starts **logger** on AWS Lambda.

use std::{process::ExitCode, sync::Arc};

use transship_lambda::{
    Answer, Aws, Call, Event, Function, Message, Metric, Settings as _, StartError, Unhandled, each,
    settings::{Arn, DEAD_LETTERS, TABLE},
};
use transship_logger::Logger;
use transship_state::{Table, TaskLog};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    transship_lambda::run(start()).await
}

async fn start() -> Result<Log, StartError> {
    let (table, dead_letters) = (TABLE, DEAD_LETTERS).read()?;
    let table: Arc<dyn Table> = Arc::new(Aws::connect().await.table(table));
    Ok(Log { logger: Logger::new(TaskLog::new(table)), dead_letters })
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
    /// Takes in events: all at once, because what they add to a counter is added up first.
    async fn record(&self, messages: Vec<Message>, call: &Call) -> Result<Answer, Unhandled> {
        let closed = self.logger.record(messages.iter().map(Message::body)).await.map_err(Unhandled::because)?;
        call.count(Metric::Events, messages.len() as u64);
        for task in &closed {
            call.count(Metric::Tasks, 1);
            let counts = &task.counts;
            call.count(Metric::Copied, counts.copied);
            call.count(Metric::Unchanged, counts.unchanged);
            call.count(Metric::Skipped, counts.skipped);
            call.count(Metric::Failed, counts.failed);
            call.count(Metric::BytesMoved, counts.bytes_moved);
        }
        Ok(Answer::all_done())
    }

    /// Takes in jobs that nobody could do.
    async fn bury(&self, messages: Vec<Message>, call: &Call) -> Answer {
        each(messages, async |message| {
            let buried = self.logger.bury(message.body()).await;
            if buried.is_ok() {
                call.count(Metric::DeadLetters, 1);
            }
            buried.inspect_err(|error| tracing::error!(%error, "a dead letter comes again")).is_ok()
        })
        .await
    }
}
