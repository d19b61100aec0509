//! `transship rules`.

use std::path::PathBuf;

use serde_json::json;
use transship_api::view::RuleView;
use transship_model::{InstanceName, RulePath};

use crate::{
    client::{Client, Connection, Known},
    commands::Printed,
    config,
    output::{self, Format},
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the rules of an instance, or all
    List(ListArguments),
    /// Show a rule
    Show(ShowArguments),
    /// Make a rule as a file describes it. It begins with a full run
    Create(CreateArguments),
    /// Change some keys of a rule
    Change(ChangeArguments),
    /// Enable a rule. If it never was, it begins with a full run
    Enable(EnableArguments),
    /// Disable a rule: what waits is skipped, and a copy that has begun is ended
    Disable(ShowArguments),
    /// Delete a rule, and with it its log
    Delete(DeleteArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    /// The source instance; all without it
    #[arg(value_name = "INSTANCE")]
    instance: Option<InstanceName>,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArguments {
    /// The rule
    #[arg(value_name = "INSTANCE/RULE")]
    rule: RulePath,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArguments {
    /// The rule's source instance and name
    #[arg(value_name = "INSTANCE/RULE")]
    rule: RulePath,
    /// The file, or - for standard input: YAML or JSON, written as an entry of `rules` in a configuration file; its name and source
    /// instance may be left out
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Replace the one that has this name already
    #[arg(long)]
    replace: bool,
    /// Wait for pushes: do not begin with a full run
    #[arg(long)]
    no_first_run: bool,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ChangeArguments {
    /// The rule
    #[arg(value_name = "INSTANCE/RULE")]
    rule: RulePath,
    /// The file, or - for standard input: YAML or JSON with the keys that are to be others; null takes one away
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    printed: Printed,
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
    printed: Printed,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArguments {
    /// The rule
    #[arg(value_name = "INSTANCE/RULE")]
    rule: RulePath,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(arguments) => list(arguments).await,
        Command::Show(ShowArguments { rule, printed }) => {
            let (client, format) = printed.open()?;
            let mut shown = client.rule(&rule).await?;
            warn(&rule, &shown);
            if format == Format::Table {
                shown.warnings.clear();
            }
            format.show(&shown, output::fields)
        }
        Command::Create(CreateArguments { rule, file, replace, no_first_run, printed }) => {
            let document = config::load_document(&file)?;
            let (client, format) = printed.open()?;
            let known = if replace { Known::Anything } else { Known::Nothing };
            say(&rule, "is made", &client.put_rule(&rule, &document, known, !no_first_run).await?, format)
        }
        Command::Change(ChangeArguments { rule, file, printed }) => {
            let patch = config::load_document(&file)?;
            let (client, format) = printed.open()?;
            say(&rule, "is changed", &client.patch_rule(&rule, &patch, true).await?, format)
        }
        Command::Enable(EnableArguments { rule, no_first_run, printed }) => {
            let (client, format) = printed.open()?;
            let enabled = client.patch_rule(&rule, &json!({ "enabled": true }), !no_first_run).await?;
            say(&rule, "is enabled", &enabled, format)
        }
        Command::Disable(ShowArguments { rule, printed }) => {
            let (client, format) = printed.open()?;
            say(&rule, "is disabled", &client.patch_rule(&rule, &json!({ "enabled": false }), true).await?, format)
        }
        Command::Delete(DeleteArguments { rule, connection }) => {
            Client::new(connection)?.delete_rule(&rule, Known::Anything).await?;
            eprintln!("rule {rule} is deleted");
            Ok(())
        }
    }
}

/// Tells what may not be meant.
pub(crate) fn warn(path: &RulePath, rule: &RuleView) {
    for warning in &rule.warnings {
        eprintln!("{}", output::clean(&format!("warning: rule {path} {warning}")));
    }
}

async fn list(ListArguments { instance, printed }: ListArguments) -> anyhow::Result<()> {
    let (client, format) = printed.open()?;
    let instances = match instance {
        Some(instance) => vec![instance],
        None => client.instances().await?.into_iter().filter_map(|view| view.written.name).collect(),
    };
    let mut rules = Vec::new();
    for instance in &instances {
        rules.extend(client.rules(instance).await?);
    }
    format.list(&rules, "there are no rules yet: `transship rules create` makes one", table)
}

fn say(path: &RulePath, what: &str, rule: &RuleView, format: Format) -> anyhow::Result<()> {
    let run = rule.first_run.as_ref().map(|task| format!(", and begins with task {task}")).unwrap_or_default();
    warn(path, rule);
    format.done(rule, &format!("rule {path} {what}{run}"))
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
