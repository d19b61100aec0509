//! Starts **api** on AWS Lambda.

use std::{process::ExitCode, sync::Arc};

use transship_api::{Api, Guarded};
use transship_lambda::{
    Answer, Aws, Call, Event, Function, Settings as _, StartError, Unhandled,
    settings::{API_TOKEN, EVENTS, JOBS, SECRETS, TABLE},
};
use transship_state::{Catalog, Events, Jobs, Origins, Previews, Table, TaskLog};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    transship_lambda::run(start()).await
}

async fn start() -> Result<Calls, StartError> {
    let (table, jobs, events, secrets, token) = (TABLE, JOBS, EVENTS, SECRETS, API_TOKEN).read()?;
    let aws = Aws::connect().await;
    let table: Arc<dyn Table> = Arc::new(aws.table(table));
    let [jobs, events] = aws.queues([jobs, events]);
    let catalog = Arc::new(Catalog::new(table.clone()));
    let (previews, origins) = (Previews::new(table.clone()), Origins::new(table.clone()));
    let api = Api::new(catalog, TaskLog::new(table), Jobs(Arc::new(jobs)), Events(Arc::new(events)), previews, origins);
    Ok(Calls(Guarded::new(api, Arc::new(aws.secrets(secrets)), token)))
}

struct Calls(Guarded);

impl Function for Calls {
    async fn handle(&self, event: Event, _: &Call) -> Result<Answer, Unhandled> {
        Ok(Answer::response(self.0.handle(event.request("the API")?).await))
    }
}
