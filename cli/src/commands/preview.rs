//! `transship preview`: what a rule would do now, without doing it.

use std::{num::NonZeroUsize, path::PathBuf};

use transship_api::view::RuleInput;
use transship_model::{Foreseen, RulePath, Would};

use crate::{commands::Printed, config, output, output::Format};

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
    #[command(flatten)]
    printed: Printed,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let rule: Result<RulePath, RuleInput> = match (&arguments.file, arguments.rule) {
        (Some(file), _) => Err(RuleInput::of(&config::load_rule(file)?)),
        (None, Some(rule)) => Ok(rule),
        (None, None) => anyhow::bail!("name a rule, or a file with one"),
    };
    let (client, format) = arguments.printed.open()?;
    let (mut items, is_all, error) = client.preview(rule.as_ref(), arguments.limit.get()).await?;
    // Registries list in orders of their own.
    items.sort_by_cached_key(|item| (item.source.to_string(), item.target.to_string()));
    match format {
        Format::Json => {
            output::print_json(&serde_json::json!({ "items": items, "complete": is_all && error.is_none(), "error": error }))?;
        }
        Format::Table if items.is_empty() && error.is_none() => {
            eprintln!("the source has nothing that the rule selects: are namespace and patterns what you mean?");
        }
        Format::Table => {
            if !items.is_empty() {
                output::print(&output::foreseen(&items))?;
                eprintln!("{}", summary(&items));
            }
            if !is_all && error.is_none() {
                eprintln!("and there are more: --limit shows them");
            }
        }
    }
    if let Some(error) = error {
        anyhow::bail!("not all could be found out: {error}");
    }
    match untold(&items) {
        (0, _) => Ok(()),
        (n, why) => anyhow::bail!("{n} of {} could not be told: {why}", items.len()),
    }
}

/// How many resources nothing can be told of, and why of the first.
fn untold(items: &[Foreseen]) -> (usize, &str) {
    let reasons = items.iter().filter_map(|item| match &item.would {
        Would::Fail { reason } => Some(reason.as_str()),
        _ => None,
    });
    (reasons.clone().count(), reasons.clone().next().unwrap_or_default())
}

fn summary(items: &[Foreseen]) -> String {
    let count = |is_such: fn(&Would) -> bool| items.iter().filter(|item| is_such(&item.would)).count();
    let counts = [
        (count(|would| *would == Would::Copy), "to copy"),
        (count(|would| *would == Would::Replace), "to replace"),
        (count(|would| *would == Would::Attach), "with something to bring that refers to them"),
        (count(|would| *would == Would::Unchanged), "unchanged"),
        (count(|would| *would == Would::Delete), "to delete"),
        (count(|would| matches!(would, Would::Skip { .. })), "to skip"),
        (untold(items).0, "that can't be told"),
    ];
    let words: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    words.join(", ")
}
