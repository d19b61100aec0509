//! `transship apply`.

mod through_api;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use aws_config::{BehaviorVersion, timeout::TimeoutConfig};
use serde::Serialize;
use transship_model::{Caller, Owner};
use transship_state::{Applied, Catalog, Change, Entry, aws::DynamoDbTable};

use crate::{
    client::{Client, Connection},
    config::{self, Config, LoadError},
    output::{self, Format},
};

pub(crate) use through_api::{takes, with_values};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file: instances, rules and subscriptions
    #[arg(short = 'f', long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    connection: Connection,
    /// Write into a deployment's DynamoDB table, without its API: for whoever has an AWS identity and no token. Region and identity are
    /// those of the environment or the AWS profile; secrets have to be AWS's, and new rules do not begin with a full run
    #[arg(long, env = "TRANSSHIP_TABLE", value_name = "NAME")]
    table: Option<String>,
    /// Delete what the file does not name. A rule that is deleted loses its log, even if it comes back under the same name
    #[arg(long)]
    prune: bool,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Send the values of all secrets again, not only those of instances that are new or changed
    #[arg(long)]
    rotate: bool,
    /// Wait for pushes: rules that are new do not begin with a full run
    #[arg(long)]
    no_first_run: bool,
    /// How it is told what is changed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// How it is to be done.
struct Options {
    prune: bool,
    dry_run: bool,
    rotate: bool,
    no_first_run: bool,
    output: Format,
}

/// What is to become of an entry of the catalogue, for scripts.
#[derive(Debug, Serialize)]
struct Told {
    change: &'static str,
    what: &'static str,
    name: String,
    /// Whether it has.
    done: bool,
}

/// A plan and what has become of it, for scripts.
#[derive(Debug, Serialize)]
struct Outcome {
    dry_run: bool,
    changes: Vec<Told>,
    unchanged: usize,
    /// What the file does not name, and stays.
    left: usize,
}

/// How long one request may take; people wait for it.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { config: path, connection, table, prune, dry_run, rotate, no_first_run, output } = arguments;
    let config = config::load(&path)?;
    for config::Mistake { line, column, message } in &config.warnings {
        eprintln!("{}:{line}:{column}: warning: {message}", path.display());
    }
    // A file that was cut off, or came out of a template empty, is not meant to delete all there is.
    if prune && config.instances.is_empty() && config.rules.is_empty() && config.subscriptions.is_empty() {
        bail!("{}: names nothing, and --prune would delete everything: delete what is there by its name", path.display());
    }
    let options = Options { prune, dry_run, rotate, no_first_run, output };
    match table {
        Some(table) => into_table(path, config, &table, &options).await,
        None => through_api::run(&path, &config, &Client::new(connection)?, &options).await,
    }
}

async fn into_table(path: PathBuf, config: Config, table: &str, options: &Options) -> anyhow::Result<()> {
    let Options { prune, dry_run, output, .. } = *options;
    let all = config.instances.len() + config.rules.len() + config.subscriptions.len();
    if !config.local.is_empty() {
        return Err(LoadError::Mistakes { path, mistakes: config.local }.into());
    }
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(PATIENCE).build();
    let sdk = aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts).load().await;
    if sdk.region().is_none() {
        bail!("no region of AWS is chosen: set AWS_REGION, or AWS_PROFILE to a profile that has one");
    }
    let catalog = Catalog::new(Arc::new(DynamoDbTable::new(aws_sdk_dynamodb::Client::new(&sdk), table)));
    // A first run of new rules is started by the API, which has the queues.
    let plan = catalog.plan_all(&Owner::Api, &config.instances, &config.rules, &config.subscriptions, false).await;
    let plan = plan.with_context(|| format!("the catalogue in the table {table} can't be read"))?;
    let plan = plan.by(local_user(), format!("apply --table, of {}", path.display()));
    let (plan, left) = if prune { (plan, 0) } else { plan.without_deletions() };
    if !plan.refusals().is_empty() {
        bail!("{}: {}", path.display(), plan.refusals().join("; "));
    }
    let Applied { created, changed, .. } = plan.applied();
    let unchanged = all.saturating_sub(created + changed);
    let changes = |done| plan.changes().map(|(change, entry)| told(change, entry, done)).collect();
    let outcome = Outcome { dry_run, changes: changes(!dry_run), unchanged, left };
    if output == Format::Table {
        for (change, entry) in plan.changes() {
            let sign = sign(change);
            output::print(&format!("{sign} {entry}"))?;
        }
        eprintln!("{unchanged} unchanged");
    }
    let left = match left {
        0 => String::new(),
        left => format!("; {left} that the file does not name stay: --prune deletes them"),
    };
    if dry_run && output == Format::Json {
        return output::print_json(&outcome);
    }
    if dry_run {
        return output::print(&format!("{table}: {}; nothing was changed{left}", summary(plan.applied(), "to be ")));
    }
    let applied = catalog.carry_out(plan).await;
    let applied = applied.with_context(|| {
        format!("the catalogue in the table {table} was not brought up to date, or only in part; the same command completes it")
    })?;
    match output {
        Format::Json => output::print_json(&outcome),
        Format::Table => output::print(&format!("{table}: {}{left}", summary(applied, ""))),
    }
}

/// Who calls, as far as this machine knows: what AWS lets in is for AWS's own log.
fn local_user() -> Caller {
    let name = ["USER", "LOGNAME", "USERNAME"].iter().filter_map(|name| std::env::var(name).ok()).find(|name| !name.is_empty());
    Caller::all_powerful(format!("user {}", name.as_deref().unwrap_or("unknown")))
}

fn summary(applied: Applied, to_be: &str) -> String {
    let Applied { created, changed, deleted } = applied;
    format!("{created} {to_be}created, {changed} {to_be}changed, {deleted} {to_be}deleted")
}

fn told(change: Change, entry: &Entry, done: bool) -> Told {
    let (what, name) = match entry {
        Entry::Instance(name) => ("instance", name.to_string()),
        Entry::Rule(instance, rule) => ("rule", format!("{instance}/{rule}")),
        Entry::Subscription(name) => ("subscription", name.to_string()),
    };
    Told { change: word(change), what, name, done }
}

/// The same for scripts.
fn word(change: Change) -> &'static str {
    match change {
        Change::Created => "create",
        Change::Changed | Change::Claimed => "change",
        Change::Deleted => "delete",
    }
}

/// How a change is shown in a plan.
fn sign(change: Change) -> char {
    match change {
        Change::Created => '+',
        Change::Changed | Change::Claimed => '~',
        Change::Deleted => '-',
    }
}
