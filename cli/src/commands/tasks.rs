//! `transship tasks`, `transship task` and `transship sync`.

use std::{num::NonZeroUsize, time::Duration};

use transship_api::view::{ResourceView, TaskView};
use transship_model::{ResourceState, TaskId, TaskStatus};

use crate::{
    NotDone,
    client::{Client, Connection, Refusal, RulePath},
    output::{self, Format},
    progress::{Meter, Unit},
};

#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    /// The rule whose tasks are meant
    #[arg(value_name = "INSTANCE/RULE")]
    rule: RulePath,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "20")]
    limit: NonZeroUsize,
    /// How the answer is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArguments {
    /// The task's ID
    #[arg(value_name = "ID")]
    task: TaskId,
    /// Wait for its end and show how far it is; the exit status is 1 if anything failed
    #[arg(long)]
    follow: bool,
    /// At most so many resources
    #[arg(long, value_name = "N", default_value = "1000")]
    limit: NonZeroUsize,
    /// How the answer is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SyncArguments {
    /// The rule to run
    #[arg(value_name = "INSTANCE/RULE")]
    rule: RulePath,
    /// Wait for its end and show how far it is; the exit status is 1 if anything failed
    #[arg(long)]
    wait: bool,
    /// How the answer is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

/// How often a running task is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// So often a task that is not there is looked for: one that has just been triggered is in the log a moment later.
const PATIENCE: u32 = 30;
/// Of so many resources the bytes are added up; of more only the resources are counted.
const FEW: u64 = 50;

pub(crate) async fn list(arguments: ListArguments) -> anyhow::Result<()> {
    let client = Client::new(arguments.connection)?;
    let tasks = client.tasks(&arguments.rule, arguments.limit.get()).await?;
    match arguments.output {
        Format::Json => output::print_json(&tasks),
        Format::Table if tasks.is_empty() => {
            eprintln!("the rule has no tasks yet");
            Ok(())
        }
        Format::Table => output::print(&output::tasks(&tasks)),
    }
}

pub(crate) async fn show(arguments: ShowArguments) -> anyhow::Result<()> {
    let client = Client::new(arguments.connection)?;
    let task = if arguments.follow { follow(&client, &arguments.task).await? } else { client.task(&arguments.task).await? };
    print(&client, &task, arguments.limit.get(), arguments.output).await?;
    if arguments.follow { verdict(&task) } else { Ok(()) }
}

pub(crate) async fn sync(arguments: SyncArguments) -> anyhow::Result<()> {
    let client = Client::new(arguments.connection)?;
    let id = client.sync(&arguments.rule).await?;
    if !arguments.wait {
        return match arguments.output {
            Format::Json => output::print_json(&serde_json::json!({ "task": id })),
            Format::Table => output::print(id.as_str()),
        };
    }
    let task = follow(&client, &id).await?;
    match arguments.output {
        Format::Json => output::print_json(&task)?,
        Format::Table => {
            output::print(&output::task(&task))?;
            if task.counts.found == 0 && task.error.is_none() {
                eprintln!("the source has nothing that the rule selects: are namespace and patterns what you mean?");
            }
            let resources = client.resources(&id, usize::MAX).await?;
            let failed: Vec<ResourceView> =
                resources.into_iter().filter(|r| r.outcome.as_ref().is_some_and(|outcome| !output::is_fine(outcome))).collect();
            if !failed.is_empty() {
                output::print(&format!("\n{}", output::resources(&failed)))?;
            }
        }
    }
    verdict(&task)
}

fn verdict(task: &TaskView) -> anyhow::Result<()> {
    if task.status == TaskStatus::Succeeded { Ok(()) } else { Err(NotDone.into()) }
}

async fn print(client: &Client, task: &TaskView, limit: usize, format: Format) -> anyhow::Result<()> {
    let resources = client.resources(&task.id, limit).await?;
    match format {
        Format::Json => output::print_json(&serde_json::json!({ "task": task, "resources": resources })),
        Format::Table => {
            output::print(&output::task(task))?;
            if resources.is_empty() {
                return Ok(());
            }
            output::print(&format!("\n{}", output::resources(&resources)))?;
            let rest = (task.counts.found - task.compared).saturating_sub(resources.len() as u64);
            if rest > 0 {
                eprintln!("and {rest} more: --limit shows them");
            }
            Ok(())
        }
    }
}

/// Waits for a task's end and shows how far it is.
pub(crate) async fn follow(client: &Client, id: &TaskId) -> anyhow::Result<TaskView> {
    let mut meters: [Option<Meter>; 2] = [None, None];
    let mut patience = PATIENCE;
    loop {
        let task = match client.task(id).await {
            Err(error) if patience > 0 && error.downcast_ref().is_some_and(|Refusal(problem)| problem.status == 404) => {
                patience -= 1;
                tokio::time::sleep(LOOK_EVERY / 3).await;
                continue;
            }
            other => other?,
        };
        if task.ended.is_some() {
            meters.iter().flatten().for_each(Meter::finish);
            return Ok(task);
        }
        let name = format!("{}/{}", task.instance, task.rule);
        let known = task.total.unwrap_or(task.counts.found);
        if task.total.is_some() && known <= FEW {
            let resources = client.resources(id, usize::MAX).await?;
            let (done, total) = resources.iter().fold((0, 0), |(done, total), r| {
                let here = r.bytes_moved + r.bytes_saved;
                (done + here, total + r.bytes_total.max(here))
            });
            let waiting = resources.iter().filter(|r| r.state != ResourceState::Done).count();
            let message = resources.iter().find_map(|r| r.error.clone()).unwrap_or_else(|| format!("{waiting} to go"));
            meters[0].get_or_insert_with(|| Meter::new(name, Unit::Bytes)).set(done, total, &message);
        } else {
            let moved = output::bytes(task.counts.bytes_moved);
            let message = match (&task.error, task.total) {
                (Some(error), _) => format!("{moved} moved; the list is tried again: {error}"),
                (None, None) => format!("{moved} moved, still listing"),
                (None, Some(_)) => format!("{moved} moved"),
            };
            let counts = &task.counts;
            meters[1].get_or_insert_with(|| Meter::new(name, Unit::Resources)).set(counts.done(), known, &message);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
