//! `transship tasks` with what is below it, `transship task` and `transship sync`.

use std::{num::NonZeroUsize, time::Duration};

use anyhow::bail;
use transship_api::view::{ProgressView, TaskView};
use transship_model::{InstanceName, ResourceState, RulePath, TaskId, TaskStatus};

use crate::{
    client::{Client, Refusal},
    commands::Printed,
    output::{self, Format},
    progress::{Meter, Unit},
    time::When,
};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    // `transship tasks build/release` is `transship tasks list build/release`.
    #[command(flatten)]
    list: ListArguments,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List tasks, the newest first
    List(ListArguments),
    /// Show one task and its resources
    Show(ShowArguments),
    /// End a task before its time: what has an outcome keeps it, the rest is skipped
    Cancel(CancelArguments),
    /// Make again, in a new task, what failed or was cancelled in a task
    Retry(RetryArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    /// Only a rule's tasks
    #[arg(value_name = "INSTANCE/RULE", conflicts_with = "instance")]
    rule: Option<RulePath>,
    /// Only tasks of rules of this source instance
    #[arg(long, value_name = "NAME")]
    instance: Option<InstanceName>,
    /// Only tasks with this status
    #[arg(long, value_name = "STATUS")]
    status: Option<Status>,
    /// Only tasks that were triggered then or later: a time like 2026-11-21T08:00:00Z, or how long ago, like 90m, 12h or 7d
    #[arg(long, value_name = "TIME")]
    since: Option<When>,
    /// Only tasks that were triggered before that
    #[arg(long, value_name = "TIME")]
    until: Option<When>,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "20")]
    limit: NonZeroUsize,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArguments {
    /// The task's ID
    #[arg(value_name = "ID")]
    task: TaskId,
    /// Wait for its end and show how far it is; the exit status is 1 if anything failed
    #[arg(long)]
    follow: bool,
    /// Only resources in this state
    #[arg(long, value_name = "STATE")]
    state: Option<State>,
    /// Only resources with this text in their name at the source or at the target
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// At most so many resources
    #[arg(long, value_name = "N", default_value = "1000")]
    limit: NonZeroUsize,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
struct CancelArguments {
    /// The task's ID
    #[arg(value_name = "ID")]
    task: TaskId,
    /// Wait until work on it has ended
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
struct RetryArguments {
    /// The ID of the task in which something failed or was cancelled
    #[arg(value_name = "ID")]
    task: TaskId,
    /// Wait for the end of the new one and show how far it is; the exit status is 1 if anything failed
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    printed: Printed,
}

/// A status as it is asked for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Status {
    Queued,
    Running,
    Succeeded,
    PartlyFailed,
    Failed,
    Cancelled,
}

/// A resource's state as it is asked for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum State {
    Queued,
    Running,
    Copied,
    Unchanged,
    Deleted,
    Skipped,
    Failed,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SyncArguments {
    /// The rule to run
    #[arg(value_name = "INSTANCE/RULE")]
    rule: RulePath,
    /// Wait for its end and show how far it is; the exit status is 1 if anything failed
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    printed: Printed,
}

/// How often a running task is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// So often a task that is not there is looked for: one that has just been triggered is in the log a moment later.
const PATIENCE: u32 = 30;

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        None => list(arguments.list).await,
        Some(Command::List(list_arguments)) => list(list_arguments).await,
        Some(Command::Show(arguments)) => show(arguments).await,
        Some(Command::Cancel(arguments)) => cancel(arguments).await,
        Some(Command::Retry(arguments)) => retry(arguments).await,
    }
}

async fn list(arguments: ListArguments) -> anyhow::Result<()> {
    let (client, format) = arguments.printed.open()?;
    let (instance, rule) = match arguments.rule {
        Some(path) => (Some(path.instance), Some(path.rule)),
        None => (arguments.instance, None),
    };
    let status = arguments.status.as_ref().and_then(clap::ValueEnum::to_possible_value);
    let query: Vec<(&str, String)> = [
        ("instance", instance.map(|instance| instance.to_string())),
        ("rule", rule.map(|rule| rule.to_string())),
        ("status", status.map(|status| status.get_name().to_owned())),
        ("since", arguments.since.map(When::ago).transpose()?.map(|since| since.to_string())),
        ("until", arguments.until.map(When::ago).transpose()?.map(|until| until.to_string())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect();
    let tasks = client.select_tasks(&query, arguments.limit.get()).await?;
    format.list(&tasks, "there are no such tasks", output::tasks)
}

pub(crate) async fn show(arguments: ShowArguments) -> anyhow::Result<()> {
    let (client, format) = arguments.printed.open()?;
    let task = if arguments.follow { follow(&client, &arguments.task).await? } else { client.task(&arguments.task).await? };
    let state = arguments.state.as_ref().and_then(clap::ValueEnum::to_possible_value);
    let query = [("state", state.map(|state| state.get_name().to_owned())), ("name", arguments.name)];
    let query: Vec<(&str, String)> = query.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    print(&client, &task, &query, arguments.limit.get(), format).await?;
    if arguments.follow { verdict(&task) } else { Ok(()) }
}

pub(crate) async fn sync(arguments: SyncArguments) -> anyhow::Result<()> {
    let (client, format) = arguments.printed.open()?;
    let id = client.sync(&arguments.rule).await?;
    started(&client, &id, arguments.wait, format).await
}

/// What is printed of a task that has been started, at once or when it has ended.
async fn started(client: &Client, id: &TaskId, waits: bool, format: Format) -> anyhow::Result<()> {
    if !waits {
        return format.show(&serde_json::json!({ "task": id }), |_| id.to_string());
    }
    let task = follow(client, id).await?;
    match format {
        Format::Json => output::print_json(&task)?,
        Format::Table => {
            output::print(&output::task(&task))?;
            let is_whole = task.status == TaskStatus::Succeeded && task.retry_of.is_none();
            if task.counts.found == 0 && is_whole {
                eprintln!("the source has nothing that the rule selects: are namespace and patterns what you mean?");
            }
            let failed = client.resources(id, &[("state", "failed".to_owned())], usize::MAX).await?;
            if !failed.is_empty() {
                output::print(&format!("\n{}", output::resources(&failed)))?;
            }
        }
    }
    verdict(&task)
}

async fn cancel(arguments: CancelArguments) -> anyhow::Result<()> {
    let (client, format) = arguments.printed.open()?;
    client.cancel(&arguments.task).await?;
    if arguments.wait {
        return format.show(&follow(&client, &arguments.task).await?, output::task);
    }
    format.show(&serde_json::json!({ "task": arguments.task }), |_| arguments.task.to_string())
}

async fn retry(arguments: RetryArguments) -> anyhow::Result<()> {
    let (client, format) = arguments.printed.open()?;
    let id = client.retry(&arguments.task).await?;
    started(&client, &id, arguments.wait, format).await
}

/// Whether a task that has ended succeeded, and if not, why in a sentence.
fn verdict(task: &TaskView) -> anyhow::Result<()> {
    let TaskView { id, status, counts, .. } = task;
    match (status, &task.error, &task.cancelled) {
        (TaskStatus::Succeeded, ..) => Ok(()),
        (TaskStatus::Cancelled, _, Some(cancelled)) => bail!("task {id} was cancelled by {}", cancelled.by),
        (_, Some(error), _) => bail!("task {id} {status}: {error}"),
        (..) => bail!(
            "task {id} {status}: {} of {} failed; `transship tasks retry {id}` makes them again",
            counts.failed,
            output::count(counts.found, "resource")
        ),
    }
}

/// Prints a task, and those of its resources that the query selects.
async fn print(client: &Client, task: &TaskView, query: &[(&str, String)], limit: usize, format: Format) -> anyhow::Result<()> {
    let resources = client.resources(&task.id, query, limit).await?;
    match format {
        Format::Json => output::print_json(&serde_json::json!({ "task": task, "resources": resources })),
        Format::Table => {
            output::print(&output::task(task))?;
            if resources.is_empty() {
                if !query.is_empty() {
                    eprintln!("there are no such resources");
                }
                return Ok(());
            }
            output::print(&format!("\n{}", output::resources(&resources)))?;
            let rest = (task.counts.found - task.compared).saturating_sub(resources.len() as u64);
            if !query.is_empty() && resources.len() >= limit {
                eprintln!("and perhaps more: --limit shows them");
            } else if query.is_empty() && rest > 0 {
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
        if task.total.is_some() && known.saturating_sub(task.compared) <= ProgressView::FEW {
            let resources = client.resources(id, &[], usize::MAX).await?;
            let (done, total) = resources.iter().fold((0, 0), |(done, total), r| {
                let here = r.bytes_done();
                (done + here, total + r.bytes_total.max(here))
            });
            let waiting = resources.iter().filter(|r| r.state != ResourceState::Done).count();
            let message = resources.iter().find_map(|r| r.error.clone()).unwrap_or_else(|| {
                let left = task.progress.as_ref().and_then(|progress| progress.seconds_left);
                let left = left.map_or_else(String::new, |left| format!(", about {} left", output::duration(left)));
                format!("{waiting} to go{left}")
            });
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
