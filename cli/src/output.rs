//! What the command line prints: tables for people, JSON for scripts.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use indicatif::{BinaryBytes, HumanDuration};
use serde::Serialize;
use transship_api::view::{ResourceView, TaskView};
use transship_model::{Outcome, ResourceState};

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

fn table(headers: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headers.iter().map(|header| header.to_uppercase()));
    // Only a terminal has a width to keep to; a file is read by line.
    let arrangement = if io::stdout().is_terminal() { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
    table.set_content_arrangement(arrangement);
    table
}

fn text(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A list of tasks.
pub(crate) fn tasks(tasks: &[TaskView]) -> String {
    let headers = [
        "task",
        "status",
        "trigger",
        "created",
        "time",
        "success",
        "repositories",
        "copied",
        "unchanged",
        "skipped",
        "failed",
        "moved",
    ];
    let mut table = table(&headers);
    for task in tasks {
        let number = |n: u64| Cell::new(n).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(&task.id),
            Cell::new(task.status),
            Cell::new(&task.trigger),
            Cell::new(task.created.strftime("%F %T UTC")),
            Cell::new(seconds(task.seconds)),
            Cell::new(percent(task.success_rate)),
            number(task.repositories),
            number(task.counts.copied),
            number(task.counts.unchanged),
            number(task.counts.skipped),
            number(task.counts.failed),
            Cell::new(bytes(task.counts.bytes_moved)),
        ]);
    }
    text(&table)
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
        (
            "outcomes",
            format!(
                "{} copied, {} unchanged, {} skipped, {} failed",
                counts.copied, counts.unchanged, counts.skipped, counts.failed
            ),
        ),
        ("bytes", format!("{} moved, {} saved", bytes(counts.bytes_moved), bytes(counts.bytes_saved))),
    ];
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
                Some(at) => format!("tried again at {}: {error}", at.strftime("%T UTC")),
                None => error.clone(),
            },
            (None, None) => "-".into(),
        };
        let took = resource.started.map(|started| {
            let until = resource.ended.unwrap_or_else(jiff::Timestamp::now);
            seconds(until.duration_since(started).as_secs_f64().max(0.0))
        });
        table.add_row([
            Cell::new(&resource.source),
            Cell::new(&resource.target),
            Cell::new(digest),
            Cell::new(resource.artifact.map_or("-", transship_model::ArtifactType::as_str)),
            Cell::new(state),
            Cell::new(bytes(resource.bytes_moved)),
            Cell::new(bytes(resource.bytes_saved)),
            Cell::new(resource.attempts).set_alignment(CellAlignment::Right),
            Cell::new(took.unwrap_or_else(|| "-".into())),
            Cell::new(outcome),
        ]);
    }
    text(&table)
}

/// A digest as people compare it: its algorithm and its first twelve digits.
pub(crate) fn short(digest: &str) -> String {
    digest
        .split_once(':')
        .map_or_else(|| digest.to_owned(), |(algorithm, hex)| format!("{algorithm}:{}", hex.get(..12).unwrap_or(hex)))
}

/// Whether nothing of an outcome has to be looked at by anybody.
pub(crate) fn is_fine(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Failed { .. })
}
