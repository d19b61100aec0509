//! Starts **notifier** on AWS Lambda.

use std::{process::ExitCode, sync::Arc};

use transship_lambda::{
    Answer, Aws, Call, Event, Function, Message, Metric, Settings as _, StartError, Unhandled, each,
    settings::{NOTIFICATIONS, SECRETS, TABLE},
};
use transship_notifier::{Disposition, Notifier};
use transship_state::{Catalog, DeliveryLog, Queue as _, Table, aws::SqsQueue};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    transship_lambda::run(start()).await
}

async fn start() -> Result<Teller, StartError> {
    let (table, queue, secrets) = (TABLE, NOTIFICATIONS, SECRETS).read()?;
    let aws = Aws::connect().await;
    let table: Arc<dyn Table> = Arc::new(aws.table(table));
    let catalog = Arc::new(Catalog::new(table.clone()));
    let [queue] = aws.queues([queue]);
    Ok(Teller { notifier: Notifier::new(catalog, DeliveryLog::new(table), Arc::new(aws.secrets(secrets))), queue })
}

struct Teller {
    notifier: Notifier,
    queue: SqsQueue,
}

impl Function for Teller {
    async fn handle(&self, event: Event, call: &Call) -> Result<Answer, Unhandled> {
        let messages = event.messages("the notifier")?;
        Ok(each(messages, async |message| self.tell(message, call).await).await)
    }
}

impl Teller {
    /// Tells a subscriber. Whether the message is done with.
    async fn tell(&self, message: &Message, call: &Call) -> bool {
        call.count(Metric::Deliveries, 1);
        match self.notifier.deliver(&message.incoming).await {
            disposition @ (Disposition::Done | Disposition::Disabled) => {
                if disposition == Disposition::Disabled {
                    call.count(Metric::SubscriptionsDisabled, 1);
                }
                call.ended("done");
                true
            }
            Disposition::Again(wait) => {
                if let Err(error) = self.queue.release(&message.incoming.receipt, wait).await {
                    tracing::warn!(%error, "a notification comes again when the queue's hold is over");
                }
                call.ended("again");
                false
            }
        }
    }
}
