//! What the command line prints: tables for people, JSON for scripts.

use std::io::{self, IsTerminal, Write};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use indicatif::{BinaryBytes, HumanDuration};
use serde::Serialize;
use transship_api::view::{ResourceView, TaskView};
use transship_model::{Counts, Digest, Foreseen, Outcome, ResourceState};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables for people
    Table,
    /// JSON for scripts
    Json,
}

/// Writes to standard output. A reader that has gone away, as `head` does, ends the process quietly.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let result = writeln!(io::stdout().lock(), "{text}");
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Writes a value as JSON.
pub(crate) fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// A number of bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    BinaryBytes(n).to_string()
}

/// A time for people: milliseconds where it is short.
pub(crate) fn seconds(seconds: f64) -> String {
    match std::time::Duration::try_from_secs_f64(seconds) {
        Ok(time) if time.as_secs() >= 60 => HumanDuration(time).to_string(),
        Ok(time) if time.as_secs() >= 10 => format!("{} s", time.as_secs()),
        _ => format!("{seconds:.1} s"),
    }
}

fn percent(rate: Option<f64>) -> String {
    // Not rounded up: 100 % is said only of 100 %.
    rate.map_or_else(|| "-".into(), |rate| format!("{} %", (rate * 1000.0).floor() / 10.0))
}

/// Columns of numbers, which are compared from the right.
const NUMBERS: [&str; 6] = ["time", "success", "repositories", "moved", "saved", "attempts"];
/// Columns that may be folded where a terminal is narrow. The others are names and numbers that people copy and compare.
const FOLDED: [&str; 5] = ["trigger", "resources", "source", "target", "outcome"];
/// How narrow they may become.
const LEAST: ColumnConstraint = ColumnConstraint::LowerBoundary(Width::Fixed(16));

fn table(headers: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headers.iter().map(|header| header.to_uppercase()));
    // Only a terminal has a width to keep to; a file is read by line.
    let arrangement = if io::stdout().is_terminal() { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
    table.set_content_arrangement(arrangement);
    for (column, header) in table.column_iter_mut().zip(headers) {
        if NUMBERS.contains(header) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        column.set_constraint(if FOLDED.contains(header) { LEAST } else { ColumnConstraint::ContentWidth });
    }
    table
}

fn text(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A list of tasks.
pub(crate) fn tasks(tasks: &[TaskView]) -> String {
    let headers = ["task", "status", "trigger", "created", "time", "success", "repositories", "resources", "moved"];
    let mut table = table(&headers);
    for task in tasks {
        table.add_row([
            task.id.to_string(),
            task.status.to_string(),
            short(&task.trigger),
            task.created.strftime("%F %T UTC").to_string(),
            seconds(task.seconds),
            percent(task.success_rate),
            task.repositories.to_string(),
            outcomes(&task.counts),
            bytes(task.counts.bytes_moved),
        ]);
    }
    text(&table)
}

/// What became of a task's resources: what there is none of is not told.
fn outcomes(counts: &Counts) -> String {
    let Counts { found, copied, unchanged, deleted, skipped, failed, .. } = *counts;
    let waiting = found.saturating_sub(counts.done());
    let all = [
        (copied, "copied"),
        (unchanged, "unchanged"),
        (deleted, "deleted"),
        (skipped, "skipped"),
        (failed, "failed"),
        (waiting, "to go"),
    ];
    let some: Vec<String> = all.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if some.is_empty() { "-".into() } else { some.join(", ") }
}

/// A task by itself.
pub(crate) fn task(task: &TaskView) -> String {
    let counts = &task.counts;
    let total = task.total.map_or_else(|| format!("{} so far", counts.found), |total| total.max(counts.found).to_string());
    let time = |time: Option<jiff::Timestamp>| time.map_or_else(|| "-".into(), |time| time.strftime("%F %T UTC").to_string());
    let mut lines = vec![
        ("task", task.id.to_string()),
        ("rule", format!("{}/{}", task.instance, task.rule)),
        ("trigger", task.trigger.clone()),
        ("status", task.status.to_string()),
        ("success rate", percent(task.success_rate)),
        ("created", time(Some(task.created))),
        ("started", time(task.started)),
        ("ended", time(task.ended)),
        ("time", seconds(task.seconds)),
        ("repositories", task.repositories.to_string()),
        ("resources", total),
        ("outcomes", outcomes(counts)),
        ("bytes", format!("{} moved, {} saved", bytes(counts.bytes_moved), bytes(counts.bytes_saved))),
    ];
    if task.compared > 0 {
        lines.push(("compared", format!("{} were equal by digest, and are not listed", task.compared)));
    }
    lines.extend(task.error.clone().map(|error| ("error", error)));
    lines.iter().map(|(name, value)| format!("{name:<13} {value}")).collect::<Vec<_>>().join("\n")
}

/// A task's resources.
pub(crate) fn resources(resources: &[ResourceView]) -> String {
    let mut table = table(&["source", "target", "digest", "type", "state", "moved", "saved", "attempts", "time", "outcome"]);
    for resource in resources {
        let digest = resource.digest.as_ref().map_or_else(|| "-".into(), |digest| short(digest.as_str()));
        let state = match resource.state {
            ResourceState::Queued => "queued".to_owned(),
            ResourceState::Running if resource.bytes_total > 0 => {
                format!("running {} %", 100 * (resource.bytes_moved + resource.bytes_saved) / resource.bytes_total)
            }
            ResourceState::Running => "running".to_owned(),
            ResourceState::Done => "done".to_owned(),
        };
        let outcome = match (&resource.outcome, &resource.error) {
            (Some(outcome), _) => outcome.to_string(),
            (None, Some(error)) => match resource.retry_at {
                Some(at) => format!("next try at {}: {error}", at.strftime("%T UTC")),
                None => error.clone(),
            },
            (None, None) => "-".into(),
        };
        let took = resource.started.map(|started| {
            let until = resource.ended.unwrap_or_else(jiff::Timestamp::now);
            seconds(until.duration_since(started).as_secs_f64().max(0.0))
        });
        table.add_row([
            short(&resource.source.to_string()),
            short(&resource.target.to_string()),
            digest,
            resource.artifact.map_or("-", transship_model::ArtifactType::as_str).to_owned(),
            state,
            bytes(resource.bytes_moved),
            bytes(resource.bytes_saved),
            resource.attempts.to_string(),
            took.unwrap_or_else(|| "-".into()),
            outcome,
        ]);
    }
    text(&table)
}

/// What would become of resources.
pub(crate) fn foreseen(items: &[Foreseen]) -> String {
    let mut table = table(&["source", "target", "digest", "there", "type", "outcome"]);
    let digest = |digest: &Option<Digest>| digest.as_ref().map_or_else(|| "-".into(), |digest| short(digest.as_str()));
    for item in items {
        table.add_row([
            short(&item.source.to_string()),
            short(&item.target.to_string()),
            digest(&item.digest),
            digest(&item.target_digest),
            item.artifact.map_or("-", transship_model::ArtifactType::as_str).to_owned(),
            item.would.to_string(),
        ]);
    }
    text(&table)
}

/// A text in which digests are as long as people compare them: the first twelve digits.
pub(crate) fn short(text: &str) -> String {
    let no_digit = |c: char| !c.is_ascii_hexdigit();
    let shortened = |part: &str| {
        let digits = part.trim_end_matches(no_digit);
        if digits.len() < 64 { part.to_owned() } else { format!("{}…{}", &digits[..12], &part[digits.len()..]) }
    };
    text.split_inclusive(no_digit).map(shortened).collect()
}

/// A number of things: `1 rule`, `2 rules`.
pub(crate) fn count(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// Whether nothing of an outcome has to be looked at by anybody.
pub(crate) fn is_fine(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Failed { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_short_wherever_they_stand_and_nothing_else_is() {
        let hex = "52fc791aade8cfd06f6dfdc8347dd0df602f5364ce9e8a37f48403bf60b66b63";
        assert_eq!(short(&format!("build/a/b:sha256-{hex}.sig")), "build/a/b:sha256-52fc791aade8….sig");
        assert_eq!(short(&format!("a@sha256:{hex}")), "a@sha256:52fc791aade8…");
        let commit = "build/cafe/app:0123456789abcdef0123456789abcdef01234567";
        assert_eq!(short(commit), commit);
        assert_eq!(short(""), "");
    }
}
