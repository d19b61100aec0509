//! `transship preview`: what a rule would do now, without doing it.

use std::{num::NonZeroUsize, path::PathBuf};

use transship_api::view::RuleInput;
use transship_model::{RulePath, Would};

use crate::{
    client::{Client, Connection},
    config, output,
    output::Format,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The rule, if it is stored
    #[arg(value_name = "INSTANCE/RULE", required_unless_present = "file", conflicts_with = "file")]
    rule: Option<RulePath>,
    /// A file with a rule that need not be stored, written as an entry of `rules`; its instances have to be known to the API
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// At most about so many resources
    #[arg(long, value_name = "N", default_value = "1000")]
    limit: NonZeroUsize,
    /// How the answer is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let rule: Result<RulePath, RuleInput> = match (&arguments.file, arguments.rule) {
        (Some(file), _) => Err(RuleInput::of(&config::load_rule(file)?)),
        (None, Some(rule)) => Ok(rule),
        (None, None) => anyhow::bail!("name a rule, or a file with one"),
    };
    let client = Client::new(arguments.connection)?;
    let (items, is_all, error) = client.preview(rule.as_ref(), arguments.limit.get()).await?;
    match arguments.output {
        Format::Json => {
            output::print_json(&serde_json::json!({ "items": items, "complete": is_all && error.is_none(), "error": error }))?;
        }
        Format::Table if items.is_empty() && error.is_none() => {
            eprintln!("the source has nothing that the rule selects: are namespace and patterns what you mean?");
        }
        Format::Table => {
            if !items.is_empty() {
                output::print(&output::foreseen(&items))?;
            }
            let counts = [
                (items.iter().filter(|item| item.would == Would::Copy).count(), "to copy"),
                (items.iter().filter(|item| item.would == Would::Replace).count(), "to replace"),
                (
                    items.iter().filter(|item| item.would == Would::Attach).count(),
                    "with something to bring that refers to them",
                ),
                (items.iter().filter(|item| item.would == Would::Unchanged).count(), "unchanged"),
                (items.iter().filter(|item| item.would == Would::Delete).count(), "to delete"),
                (items.iter().filter(|item| matches!(item.would, Would::Skip { .. })).count(), "to skip"),
                (items.iter().filter(|item| matches!(item.would, Would::Fail { .. })).count(), "that can't be told"),
            ];
            let words: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
            eprintln!("{}", words.join(", "));
            if !is_all {
                eprintln!("and there are more: --limit shows them");
            }
        }
    }
    match error {
        Some(error) => anyhow::bail!("not all could be found out: {error}"),
        None => Ok(()),
    }
}
