//! Starts **api** on AWS Lambda.

use std::{process::ExitCode, sync::Arc};

use transship_api::{Api, Guarded};
use transship_lambda::{
    Answer, Aws, Call, Event, Function, Settings as _, StartError, Unhandled,
    settings::{API_TOKEN, EVENTS, JOBS, REGISTRY_SECRETS, SECRETS, TABLE},
};
use transship_state::{Catalog, Events, Jobs, Table, TaskLog, WrittenSecrets};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    transship_lambda::run(start()).await
}

async fn start() -> Result<Calls, StartError> {
    let (table, jobs, events, secrets, registries, token) =
        (TABLE, JOBS, EVENTS, SECRETS, REGISTRY_SECRETS, API_TOKEN).read()?;
    let aws = Aws::connect().await;
    let table: Arc<dyn Table> = Arc::new(aws.table(table));
    let [jobs, events] = aws.queues([jobs, events]);
    let catalog = Arc::new(Catalog::new(table.clone()));
    let written = WrittenSecrets::new(table.clone(), Arc::new(aws.secrets(registries)));
    let api = Api::new(catalog, TaskLog::new(table), Jobs(Arc::new(jobs)), Events(Arc::new(events)), written);
    Ok(Calls(Guarded::new(api, Arc::new(aws.secrets(secrets)), token)))
}

struct Calls(Guarded);

impl Function for Calls {
    async fn handle(&self, event: Event, _: &Call) -> Result<Answer, Unhandled> {
        Ok(Answer::response(self.0.handle(event.request("the API")?).await))
    }
}
