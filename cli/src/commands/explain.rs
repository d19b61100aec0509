//! `transship explain`: why something was, or was not, synchronised.

use transship_api::explain::{ExplainInput, ExplainView};
use transship_model::Reference;

use crate::commands::Printed;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What was pushed, as in build/team/app:v7, or with @sha256:… in place of the tag
    #[arg(value_name = "INSTANCE/REPOSITORY:TAG", value_parser = parse)]
    place: ExplainInput,
    #[command(flatten)]
    printed: Printed,
}

fn parse(text: &str) -> Result<ExplainInput, String> {
    let form = || format!("{text:?} is not INSTANCE/REPOSITORY:TAG, as in build/team/app:v7");
    let (instance, rest) = text.split_once('/').ok_or_else(form)?;
    let (repository, reference) = rest.split_once('@').or_else(|| rest.rsplit_once(':')).ok_or_else(form)?;
    let wrong = |error: &dyn std::fmt::Display| error.to_string();
    let (tag, digest) = match reference.parse::<Reference>().map_err(|error| wrong(&error))? {
        Reference::Tag(tag) => (Some(tag), None),
        Reference::Digest(digest) => (None, Some(digest)),
    };
    let instance = instance.parse().map_err(|error| wrong(&error))?;
    Ok(ExplainInput { instance, repository: repository.parse().map_err(|error| wrong(&error))?, tag, digest })
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let (client, format) = arguments.printed.open()?;
    format.show(&client.explain(&arguments.place).await?, text)
}

fn text(said: &ExplainView) -> String {
    let mut lines = vec![said.summary.clone()];
    if let Some(time) = said.last_push {
        lines.push(format!("its last push that is known was at {}", time.strftime("%F %T UTC")));
    }
    for rule in &said.rules {
        let mark = if rule.selected { "yes" } else { "no " };
        let target = rule.target.as_ref().map(|target| format!(" → {target}")).unwrap_or_default();
        lines.push(format!("{mark} {}{target}: {}", rule.rule, rule.words));
        if rule.tasks_not_read {
            lines.push(
                "    its tasks are not looked through, because many rules select it: `transship tasks` lists them".into(),
            );
        }
        for task in &rule.tasks {
            let outcome = match (&task.outcome, &task.error) {
                (Some(outcome), _) => outcome.to_string(),
                (None, Some(error)) => format!("is tried again: {error}"),
                (None, None) => "has not ended".into(),
            };
            let at = task.created.strftime("%F %T UTC");
            lines.push(format!("    task {} ({}, {at}): {outcome}", task.task, task.trigger));
        }
    }
    if said.more > 0 {
        lines.push(format!("and {} more rules that do not select it, or whose tasks `transship tasks` lists", said.more));
    }
    lines.join("\n")
}
