//! `transship subscriptions`.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use anyhow::bail;
use transship_api::view::{DeliveryView, SentView};
use transship_model::{DeliveryId, DeliveryState, SubscriptionName};

use crate::{
    client::{Client, Connection, Known, Refusal},
    commands::Printed,
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
    /// Change some keys of a subscription
    Change(ChangeArguments),
    /// Enable a subscription, also one that was disabled because its receiver took nothing for days
    Enable(Named),
    /// Disable a subscription: it is told nothing until it is enabled
    Disable(Named),
    /// Delete a subscription
    Delete(DeleteArguments),
    /// Send a test and wait for what comes of it; the exit status is 1 if it was not taken
    Test(Named),
    /// List what a subscription was told, the newest events first
    Deliveries(DeliveriesArguments),
    /// Show one delivery, with each attempt and what was sent
    Delivery(DeliveryArguments),
    /// Send an event again and wait for what comes of it; the exit status is 1 if it was not taken
    Redeliver(DeliveryArguments),
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
    /// The file, or - for standard input: YAML or JSON, written as an entry of `subscriptions` in a configuration file
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Replace the one that has this name already
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
struct ChangeArguments {
    /// The subscription's name
    #[arg(value_name = "NAME")]
    name: SubscriptionName,
    /// The file, or - for standard input: YAML or JSON with the keys that are to be others, as the API takes them; null takes one away
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
struct DeleteArguments {
    /// The subscription's name
    #[arg(value_name = "NAME")]
    name: SubscriptionName,
    #[command(flatten)]
    connection: Connection,
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
struct DeliveryArguments {
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
        Action::List(printed) => {
            let (client, format) = printed.open()?;
            let nothing = "nobody is told of anything: `transship subscriptions create -f FILE` makes a subscription";
            format.list(&client.subscriptions().await?, nothing, output::subscriptions)
        }
        Action::Show(Named { name, printed }) => {
            let (client, format) = printed.open()?;
            format.show(&client.subscription(&name).await?, output::subscription)
        }
        Action::Create(CreateArguments { file, replace, printed }) => {
            let subscription = config::load_subscription(&file)?;
            let (client, format) = printed.open()?;
            let known = if replace { Known::Anything } else { Known::Nothing };
            let made = client.put_subscription(&subscription, known).await?;
            format.done(&made, &format!("subscription {} is made", made.name))
        }
        Action::Change(ChangeArguments { name, file, printed }) => {
            let patch = config::load_document(&file)?;
            let (client, format) = printed.open()?;
            format.done(&client.patch_subscription(&name, &patch).await?, &format!("subscription {name} is changed"))
        }
        Action::Enable(Named { name, printed }) => {
            let (client, format) = printed.open()?;
            format.done(&client.enable_subscription(&name).await?, &format!("subscription {name} is enabled"))
        }
        Action::Disable(Named { name, printed }) => {
            let (client, format) = printed.open()?;
            format.done(&client.disable_subscription(&name).await?, &format!("subscription {name} is disabled"))
        }
        Action::Delete(DeleteArguments { name, connection }) => {
            Client::new(connection)?.delete_subscription(&name, Known::Anything).await?;
            eprintln!("subscription {name} is deleted");
            Ok(())
        }
        Action::Test(Named { name, printed }) => {
            let (client, format) = printed.open()?;
            let sent = client.test_subscription(&name).await?;
            follow(&client, &name, &sent, format).await
        }
        Action::Deliveries(DeliveriesArguments { name, limit, printed }) => {
            let (client, format) = printed.open()?;
            let nothing = format!("{name} has been told nothing in the last 30 days");
            format.list(&client.deliveries(&name, limit.get()).await?, &nothing, output::deliveries)
        }
        Action::Delivery(DeliveryArguments { name, delivery, printed }) => {
            let (client, format) = printed.open()?;
            format.show(&client.delivery(&name, &delivery).await?, output::delivery)
        }
        Action::Redeliver(DeliveryArguments { name, delivery, printed }) => {
            let (client, format) = printed.open()?;
            let sent = client.redeliver(&name, &delivery).await?;
            follow(&client, &name, &sent, format).await
        }
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
    format.show(&delivery, |delivery| output::deliveries(std::slice::from_ref(delivery)))?;
    if delivery.state == DeliveryState::Delivered {
        return Ok(());
    }
    let why = delivery.attempts.last().map(output::answered).unwrap_or_default();
    let next = if delivery.state == DeliveryState::Waiting { "; it is tried again" } else { "" };
    bail!("the receiver of {name} did not take it: {why}{next}")
}

/// Whether there is an attempt of this round.
fn has_been_tried(delivery: &DeliveryView, sent: &SentView) -> bool {
    delivery.redeliveries >= sent.redeliveries && (delivery.state != DeliveryState::Waiting || !delivery.attempts.is_empty())
}
