//! `transship subscriptions`.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use anyhow::bail;
use transship_api::view::{DeliveryView, SentView, SubscriptionView};
use transship_model::{DeliveryId, DeliveryState, SubscriptionName};

use crate::{
    NotDone,
    client::{Client, Connection, Refusal},
    config,
    output::{self, Format},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List subscriptions, and how they get on with their receivers. `instance:NAME` is an instance's own `notify`
    List(Printed),
    /// Show one subscription
    Show(Named),
    /// Make a subscription
    Create(CreateArguments),
    /// Enable a subscription, also one that was disabled because its receiver took nothing for days
    Enable(Named),
    /// Disable a subscription: it is told nothing until it is enabled
    Disable(Named),
    /// Delete a subscription
    Delete(Named),
    /// Send a test and wait for what comes of it; the exit status is 1 if it was not taken
    Test(Named),
    /// List what a subscription was told, the newest events first
    Deliveries(DeliveriesArguments),
    /// Send an event again and wait for what comes of it; the exit status is 1 if it was not taken
    Redeliver(RedeliverArguments),
}

#[derive(Debug, clap::Args)]
struct Printed {
    /// How the answer is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The subscription's name
    #[arg(value_name = "NAME")]
    name: SubscriptionName,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
struct CreateArguments {
    /// A file with the subscription, written as an entry of `subscriptions` in a configuration file (YAML, or JSON)
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Replace the one that has this name already
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
struct DeliveriesArguments {
    /// The subscription's name
    #[arg(value_name = "NAME")]
    name: SubscriptionName,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "20")]
    limit: NonZeroUsize,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
struct RedeliverArguments {
    /// The subscription's name
    #[arg(value_name = "NAME")]
    name: SubscriptionName,
    /// The delivery's ID
    #[arg(value_name = "ID")]
    delivery: DeliveryId,
    #[command(flatten)]
    printed: Printed,
}

/// How often a delivery is looked at that is on its way.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// So long the first attempt is waited for: more than it may take, and than the queue needs.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.action {
        Action::List(Printed { output, connection }) => list(&Client::new(connection)?, output).await,
        Action::Show(Named { name, printed: Printed { output, connection } }) => {
            let subscription = Client::new(connection)?.subscription(&name).await?;
            print(&subscription, output)
        }
        Action::Create(CreateArguments { file, replace, printed: Printed { output, connection } }) => {
            let subscription = config::load_subscription(&file)?;
            let made = Client::new(connection)?.put_subscription(&subscription, replace).await?;
            print(&made, output)
        }
        Action::Enable(Named { name, printed: Printed { output, connection } }) => {
            print(&Client::new(connection)?.enable_subscription(&name).await?, output)
        }
        Action::Disable(Named { name, printed: Printed { output, connection } }) => {
            print(&Client::new(connection)?.disable_subscription(&name).await?, output)
        }
        Action::Delete(Named { name, printed: Printed { connection, .. } }) => {
            Client::new(connection)?.delete_subscription(&name).await?;
            eprintln!("subscription {name} is deleted");
            Ok(())
        }
        Action::Test(Named { name, printed: Printed { output, connection } }) => {
            let client = Client::new(connection)?;
            let sent = client.test_subscription(&name).await?;
            follow(&client, &name, &sent, output).await
        }
        Action::Deliveries(DeliveriesArguments { name, limit, printed: Printed { output, connection } }) => {
            let deliveries = Client::new(connection)?.deliveries(&name, limit.get()).await?;
            match output {
                Format::Json => output::print_json(&deliveries),
                Format::Table if deliveries.is_empty() => {
                    eprintln!("{name} has been told nothing in the last 30 days");
                    Ok(())
                }
                Format::Table => output::print(&output::deliveries(&deliveries)),
            }
        }
        Action::Redeliver(RedeliverArguments { name, delivery, printed: Printed { output, connection } }) => {
            let client = Client::new(connection)?;
            let sent = client.redeliver(&name, &delivery).await?;
            follow(&client, &name, &sent, output).await
        }
    }
}

async fn list(client: &Client, format: Format) -> anyhow::Result<()> {
    let subscriptions = client.subscriptions().await?;
    match format {
        Format::Json => output::print_json(&subscriptions),
        Format::Table if subscriptions.is_empty() => {
            eprintln!("nobody is told of anything: `transship subscriptions create -f FILE` makes a subscription");
            Ok(())
        }
        Format::Table => output::print(&output::subscriptions(&subscriptions)),
    }
}

fn print(subscription: &SubscriptionView, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => output::print_json(subscription),
        Format::Table => output::print(&output::subscription(subscription)),
    }
}

/// Waits for what comes of the first attempt.
async fn follow(client: &Client, name: &SubscriptionName, sent: &SentView, format: Format) -> anyhow::Result<()> {
    let began = tokio::time::Instant::now();
    let delivery = loop {
        match client.delivery(name, &sent.delivery).await {
            Ok(delivery) if has_been_tried(&delivery, sent) => break delivery,
            Ok(_) => {}
            // It is in the log once the first attempt has ended.
            Err(error) if error.downcast_ref().is_some_and(|Refusal(problem)| problem.status == 404) => {}
            Err(error) => return Err(error),
        }
        if began.elapsed() > PATIENCE {
            bail!(
                "it is on its way, and not yet known what comes of it: `transship subscriptions deliveries {name}` shows it later"
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    match format {
        Format::Json => output::print_json(&delivery)?,
        Format::Table => output::print(&output::deliveries(std::slice::from_ref(&delivery)))?,
    }
    if delivery.state == DeliveryState::Delivered { Ok(()) } else { Err(NotDone.into()) }
}

/// Whether there is an attempt of this round.
fn has_been_tried(delivery: &DeliveryView, sent: &SentView) -> bool {
    delivery.redeliveries >= sent.redeliveries && (delivery.state != DeliveryState::Waiting || !delivery.attempts.is_empty())
}
