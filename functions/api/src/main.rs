//! Starts **api** on AWS Lambda.

use std::{process::ExitCode, sync::Arc};

use transship_api::{
    Api, Guarded, Stores,
    access::{Deployment, Gate, Origin},
};
use transship_lambda::{
    Answer, Aws, Call, Event, Function, Sender, Settings as _, StartError, Unhandled,
    settings::{API_TOKEN, EVENTS, IAM_ROLE, JOBS, NOTIFICATIONS, REGISTRY_SECRETS, SECRETS, TABLE},
};
use transship_model::{Caller, Role};
use transship_state::{Catalog, Events, Jobs, Notifications, Table, TaskLog, WrittenSecrets};

/// The alias whose URL asks IAM who may call it: template.yaml. Lambda itself says which alias was invoked.
const IAM_ALIAS: &str = "iam";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    transship_lambda::run(start()).await
}

async fn start() -> Result<Calls, StartError> {
    let (table, jobs, events, notifications, secrets, registries, token, iam) =
        (TABLE, JOBS, EVENTS, NOTIFICATIONS, SECRETS, REGISTRY_SECRETS, API_TOKEN, IAM_ROLE).read()?;
    let aws = Aws::connect().await;
    let table: Arc<dyn Table> = Arc::new(aws.table(table));
    let [jobs, events, notifications] = aws.queues([jobs, events, notifications]);
    let catalog = Arc::new(Catalog::new(table.clone()));
    let api = Api::new(Stores {
        log: TaskLog::new(table.clone()),
        jobs: Jobs(Arc::new(jobs)),
        events: Events(Arc::new(events)),
        notifications: Notifications(Arc::new(notifications)),
        written: WrittenSecrets::new(table.clone(), Arc::new(aws.secrets(registries))),
        catalog,
        table,
    });
    let gate = Gate::new(Deployment::Kept(Arc::new(aws.secrets(secrets)), token), api.tokens());
    Ok(Calls { api: Guarded::new(api, gate), iam })
}

struct Calls {
    api: Guarded,
    iam: Option<Role>,
}

impl Function for Calls {
    async fn handle(&self, event: Event, call: &Call) -> Result<Answer, Unhandled> {
        let request = event.request("the API")?;
        let Sender { address, identity } = request.extensions().get::<Sender>().cloned().unwrap_or_default();
        let identity = identity.filter(|_| call.qualifier() == Some(IAM_ALIAS));
        let vouched = self.iam.zip(identity).map(|(role, arn)| Caller { role, ..Caller::all_powerful(format!("iam:{arn}")) });
        let origin = Origin { from: address, request: Some(call.request().to_owned()), vouched };
        Ok(Answer::response(self.api.handle(request, origin).await))
    }
}
