//! `transship rules`.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use transship_api::view::RuleView;
use transship_model::{InstanceName, Problem, RulePath};

use crate::{
    client::{Client, Connection, Refusal},
    output::{self, Format},
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the rules of an instance, or all
    List(ListArguments),
    /// Show a rule
    Show(ShowArguments),
    /// Make a rule as a JSON file describes it. It begins with a full run
    Create(CreateArguments),
    /// Enable a rule. If it never was, it begins with a full run
    Enable(EnableArguments),
    /// Disable a rule: what is on its way by it is skipped
    Disable(NamedArguments),
    /// Delete a rule, and with it its log
    Delete(NamedArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    /// The source instance; all without it
    #[arg(value_name = "INSTANCE")]
    instance: Option<InstanceName>,
    /// How the answer is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArguments {
    /// The rule
    #[arg(value_name = "INSTANCE/RULE")]
    rule: RulePath,
    /// How the answer is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArguments {
    /// The rule's source instance and name
    #[arg(value_name = "INSTANCE/RULE")]
    rule: RulePath,
    /// The file, or - for standard input: {"source": {"namespace": "team"}, "target": {"instance": "prod"}}
    #[arg(short = 'f', long, value_name = "FILE")]
    file: PathBuf,
    /// Wait for pushes: do not begin with a full run
    #[arg(long)]
    no_first_run: bool,
    /// Replace the rule of this name, if there is one
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EnableArguments {
    /// The rule
    #[arg(value_name = "INSTANCE/RULE")]
    rule: RulePath,
    /// Wait for pushes: do not begin with a full run
    #[arg(long)]
    no_first_run: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub(crate) struct NamedArguments {
    /// The rule
    #[arg(value_name = "INSTANCE/RULE")]
    rule: RulePath,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(arguments) => list(arguments).await,
        Command::Show(ShowArguments { rule, output, connection }) => {
            let mut shown = Client::new(connection)?.rule(&rule).await?;
            warn(&rule, &shown);
            match output {
                Format::Json => output::print_json(&shown),
                Format::Table => {
                    shown.warnings.clear();
                    output::print(&output::fields(&shown)?)
                }
            }
        }
        Command::Create(arguments) => create(arguments).await,
        Command::Enable(EnableArguments { rule, no_first_run, connection }) => {
            let enabled = Client::new(connection)?.patch_rule(&rule, &json!({ "enabled": true }), !no_first_run).await?;
            say(&rule, "is enabled", &enabled)
        }
        Command::Disable(NamedArguments { rule, connection }) => {
            let disabled = Client::new(connection)?.patch_rule(&rule, &json!({ "enabled": false }), true).await?;
            say(&rule, "is disabled", &disabled)
        }
        Command::Delete(NamedArguments { rule, connection }) => {
            Client::new(connection)?.delete_rule(&rule, None).await?;
            output::print(&format!("rule {rule} is deleted"))
        }
    }
}

async fn create(arguments: CreateArguments) -> anyhow::Result<()> {
    let CreateArguments { rule, file, no_first_run, replace, connection } = arguments;
    let document = document(&file)?;
    let client = Client::new(connection)?;
    let known = if replace { client.rule_if_any(&rule).await?.map(|known| known.revision) } else { None };
    let made = match client.put_rule(&rule, &document, known, !no_first_run).await {
        Err(error) if is(&error, Problem::EXISTS) => bail!("there is a rule {rule} already: --replace replaces it"),
        Err(error) if is(&error, Problem::CHANGED) => bail!("rule {rule} is being changed by others: try again"),
        other => other?,
    };
    say(&rule, if known.is_some() { "is replaced" } else { "is made" }, &made)
}

/// Whether the API has refused something for this reason.
fn is(error: &anyhow::Error, code: &str) -> bool {
    error.downcast_ref().is_some_and(|Refusal(problem)| problem.code.as_deref() == Some(code))
}

/// Tells what may not be meant.
pub(crate) fn warn(path: &RulePath, rule: &RuleView) {
    for warning in &rule.warnings {
        eprintln!("{}", output::clean(&format!("warning: rule {path} {warning}")));
    }
}

async fn list(ListArguments { instance, output, connection }: ListArguments) -> anyhow::Result<()> {
    let client = Client::new(connection)?;
    let instances = match instance {
        Some(instance) => vec![instance],
        None => client.instances().await?.into_iter().filter_map(|view| view.written.name).collect(),
    };
    let mut rules = Vec::new();
    for instance in &instances {
        rules.extend(client.rules(instance).await?);
    }
    match output {
        Format::Json => output::print_json(&rules),
        Format::Table if rules.is_empty() => {
            eprintln!("there are no rules yet");
            Ok(())
        }
        Format::Table => output::print(&table(&rules)),
    }
}

fn say(path: &RulePath, what: &str, rule: &RuleView) -> anyhow::Result<()> {
    let run = rule.first_run.as_ref().map(|task| format!(", and begins with task {task}")).unwrap_or_default();
    warn(path, rule);
    output::print(&format!("rule {path} {what}{run}"))
}

/// A JSON document in a file, or from standard input.
fn document(path: &Path) -> anyhow::Result<Value> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(path).map(|read| text = read)
    };
    read.with_context(|| format!("{} can't be read", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

fn table(rules: &[RuleView]) -> String {
    let row = |view: &RuleView| {
        let rule = &view.written;
        let name = |name: Option<&str>| name.unwrap_or_default().to_owned();
        let instance = name(rule.source.instance.as_ref().map(InstanceName::as_str));
        let namespace = rule.target.namespace.as_ref().unwrap_or(&rule.source.namespace);
        vec![
            format!("{instance}/{}", name(rule.name.as_ref().map(transship_model::RuleName::as_str))),
            format!("{instance}/{}", rule.source.namespace),
            format!("{}/{namespace}", rule.target.instance),
            if rule.enabled { "yes" } else { "no" }.to_owned(),
            rule.schedule.as_ref().map_or_else(|| "-".into(), ToString::to_string),
            view.file.clone().unwrap_or_else(|| "the API".into()),
        ]
    };
    output::rows(&["rule", "from", "to", "enabled", "schedule", "managed by"], rules.iter().map(row))
}
