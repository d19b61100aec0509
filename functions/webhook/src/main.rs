//! Starts **webhook** on AWS Lambda.

use std::{process::ExitCode, sync::Arc};

use transship_lambda::{
    Answer, Aws, Call, Event, Function, Settings as _, StartError, Unhandled, each,
    settings::{EVENTS, JOBS, SECRETS, TABLE},
};
use transship_state::{Catalog, Dispatcher, Events, Jobs, Origins, Scheduler, Table};
use transship_webhook::Webhook;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    transship_lambda::run(start()).await
}

async fn start() -> Result<Notifications, StartError> {
    let (table, jobs, events, secrets) = (TABLE, JOBS, EVENTS, SECRETS).read()?;
    let aws = Aws::connect().await;
    let table: Arc<dyn Table> = Arc::new(aws.table(table));
    let [jobs, events] = aws.queues([jobs, events]);
    let catalog = Arc::new(Catalog::new(table.clone()));
    let (jobs, events) = (Jobs(Arc::new(jobs)), Events(Arc::new(events)));
    let scheduler = Scheduler::new(catalog.clone(), table.clone(), jobs.clone(), events.clone());
    let dispatcher = Dispatcher::new(Origins::new(table), jobs, events);
    Ok(Notifications(Webhook::new(catalog, dispatcher, Arc::new(scheduler), Arc::new(aws.secrets(secrets)))))
}

struct Notifications(Webhook);

impl Function for Notifications {
    async fn handle(&self, event: Event, _: &Call) -> Result<Answer, Unhandled> {
        match event {
            Event::Request(request) => Ok(Answer::response(self.0.handle(*request).await)),
            // The inbox: events of ECR, and schedules.
            Event::Messages(messages) => Ok(each(messages, async |message| {
                let taken = self.0.take_in(message.body()).await;
                taken.inspect_err(|error| tracing::error!(%error, "a message of the inbox comes again")).is_ok()
            })
            .await),
        }
    }
}
