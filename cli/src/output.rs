//! What the command line prints: tables for people, JSON for scripts.

use std::io::{self, IsTerminal, Write};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use indicatif::{BinaryBytes, HumanDuration};
use serde::Serialize;
use serde_json::Value;
use transship_api::view::{
    AuditView, DeliveryView, ProgressView, ResourceView, SubscriptionView, TaskView, TokenStatus, TokenView,
};
use transship_model::{
    Attempt, Counts, DeliveryState, Digest, Foreseen, InstanceName, Outcome, ResourceState, input::is_control,
};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables for people
    Table,
    /// JSON for scripts
    Json,
}

impl Format {
    /// Prints something that was asked for.
    pub(crate) fn show<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        match self {
            Self::Json => print_json(value),
            Self::Table => print(&text(value)),
        }
    }

    /// Prints a list; people are told what it means that there is `nothing` in it.
    pub(crate) fn list<T: Serialize>(
        self,
        items: &[T],
        nothing: &str,
        table: impl FnOnce(&[T]) -> String,
    ) -> anyhow::Result<()> {
        match self {
            Self::Json => print_json(&items),
            Self::Table if items.is_empty() => {
                eprintln!("{nothing}");
                Ok(())
            }
            Self::Table => print(&table(items)),
        }
    }

    /// Tells people what was done, as a sentence on standard error; scripts get what it was done to.
    pub(crate) fn done<T: Serialize>(self, value: &T, sentence: &str) -> anyhow::Result<()> {
        match self {
            Self::Json => print_json(value),
            Self::Table => {
                eprintln!("{sentence}");
                Ok(())
            }
        }
    }
}

/// Writes to standard output. A reader that has gone away, as `head` does, ends the process quietly.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let result = writeln!(io::stdout().lock(), "{}", clean(text));
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Writes a value as JSON.
pub(crate) fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print(&escaped(&serde_json::to_string_pretty(value)?))
}

/// Text as a terminal may have it: registries, and whoever wrote before it was refused, may have put anything into it.
pub(crate) fn clean(text: &str) -> String {
    let shown = |c: char| match c {
        '\r' => None,
        '\n' | '\t' => Some(c),
        c if is_control(c) => Some(char::REPLACEMENT_CHARACTER),
        c => Some(c),
    };
    text.chars().filter_map(shown).collect()
}

/// JSON that says the same without a character that a terminal would obey. Outside of texts it has none.
fn escaped(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut text, c| {
        match c {
            // All of them are one unit of UTF-16.
            c if is_control(c) && c != '\n' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
        text
    })
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
const NUMBERS: [&str; 8] = ["took", "time", "success", "repositories", "moved", "mounted", "there", "attempts"];
/// Columns that may be folded where a terminal is narrow. The others are names and numbers that people copy and compare.
const FOLDED: [&str; 12] =
    ["trigger", "resources", "source", "target", "outcome", "name", "instances", "what", "details", "events", "of", "webhook"];
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

/// A table of some kind.
pub(crate) fn rows(headers: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = table(headers);
    for row in rows {
        table.add_row(row);
    }
    text(&table)
}

/// One thing, a field a line, its name first: what is in another is named `credentials.username`; what is empty is left out.
pub(crate) fn fields(value: &impl Serialize) -> String {
    fn walk(name: &str, value: &Value, lines: &mut Vec<(String, String)>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                    walk(&name, value, lines);
                }
            }
            Value::Array(items) => {
                let word = |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
                lines.push((name.to_owned(), items.iter().map(word).collect::<Vec<_>>().join(", ")));
            }
            Value::String(text) => lines.push((name.to_owned(), text.clone())),
            other => lines.push((name.to_owned(), other.to_string())),
        }
    }
    let mut lines = Vec::new();
    // It was JSON when it came.
    walk("", &serde_json::to_value(value).unwrap_or_default(), &mut lines);
    lines.retain(|(_, value)| !value.is_empty());
    lines.sort_by_key(|(name, _)| name != "name");
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    // A further line of a value is no field.
    let below = format!("\n{:width$}  ", "");
    let line = |(name, value): &(String, String)| format!("{name:width$}  {}", value.replace('\n', &below));
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A list of tasks.
pub(crate) fn tasks(tasks: &[TaskView]) -> String {
    let headers = ["task", "rule", "status", "trigger", "created", "time", "success", "repositories", "resources", "moved"];
    let mut table = table(&headers);
    for task in tasks {
        table.add_row([
            task.id.to_string(),
            format!("{}/{}", task.instance, task.rule),
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
    let Counts { found, copied, unchanged, deleted, skipped, cancelled, failed, .. } = *counts;
    let skipped = skipped.saturating_sub(cancelled);
    let waiting = found.saturating_sub(counts.done());
    let all = [
        (copied, "copied"),
        (unchanged, "unchanged"),
        (deleted, "deleted"),
        (skipped, "skipped"),
        (cancelled, "cancelled"),
        (failed, "failed"),
        (waiting, "to go"),
    ];
    let some: Vec<String> = all.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if some.is_empty() { "-".into() } else { some.join(", ") }
}

/// A list of tokens.
pub(crate) fn tokens(tokens: &[TokenView]) -> String {
    let mut table = table(&["id", "name", "role", "instances", "status", "created", "expires", "last used"]);
    let time =
        |time: Option<jiff::Timestamp>, none: &str| time.map_or(none.to_owned(), |t| t.strftime("%F %H:%M UTC").to_string());
    for token in tokens {
        let names = token.instances.as_ref().map(|names| names.iter().map(InstanceName::as_str).collect::<Vec<_>>().join(", "));
        let status = match token.status {
            TokenStatus::Active => "active",
            TokenStatus::Expired => "expired",
            TokenStatus::Revoked => "revoked",
        };
        table.add_row([
            token.id.to_string(),
            short(&token.name),
            token.role.to_string(),
            names.unwrap_or_else(|| "all".into()),
            status.into(),
            time(Some(token.created), ""),
            time(token.expires, "never"),
            time(token.last_used, "never"),
        ]);
    }
    text(&table)
}

/// A list of subscriptions.
pub(crate) fn subscriptions(subscriptions: &[SubscriptionView]) -> String {
    let mut table = table(&["name", "events", "of", "webhook", "enabled", "receiver"]);
    for subscription in subscriptions {
        table.add_row([
            subscription.name.to_string(),
            joined(&subscription.events),
            about(subscription),
            short(&subscription.webhook.url),
            if subscription.enabled { "yes" } else { "no" }.into(),
            receiver(subscription),
        ]);
    }
    text(&table)
}

/// One subscription.
pub(crate) fn subscription(subscription: &SubscriptionView) -> String {
    let SubscriptionView { name, description, events, webhook, enabled, file, .. } = subscription;
    let mut lines = vec![("subscription", name.to_string())];
    if !description.is_empty() {
        lines.push(("description", description.clone()));
    }
    lines.push(("events", joined(events)));
    lines.push(("of", about(subscription)));
    let signed = if webhook.secret.is_some() { "signed" } else { "not signed" };
    lines.push(("webhook", format!("{} ({signed})", webhook.url)));
    lines.push(("enabled", if *enabled { "yes" } else { "no" }.into()));
    lines.push(("receiver", receiver(subscription)));
    if let Some(disabled) = &subscription.disabled {
        lines.push(("reason", disabled.reason.clone()));
    }
    if let Some(file) = file {
        lines.push(("file", file.clone()));
    }
    lines.iter().map(|(key, value)| format!("{key:<14}{value}")).collect::<Vec<_>>().join("\n")
}

/// A list of deliveries.
pub(crate) fn deliveries(deliveries: &[DeliveryView]) -> String {
    let mut table = table(&["id", "at", "event", "state", "attempts", "status", "took", "outcome"]);
    for delivery in deliveries {
        let last = delivery.attempts.last();
        let state = match (delivery.state, delivery.retry_at) {
            (DeliveryState::Waiting, Some(at)) => format!("again at {}", at.strftime("%H:%M:%S UTC")),
            (DeliveryState::Waiting, None) => "waiting".into(),
            (DeliveryState::Delivered, _) => "delivered".into(),
            (DeliveryState::GivenUp, _) => "given up".into(),
        };
        table.add_row([
            delivery.id.to_string(),
            delivery.time.strftime("%F %T UTC").to_string(),
            delivery.kind.trim_start_matches("io.transship.").to_owned(),
            state,
            delivery.attempts.len().to_string(),
            last.and_then(|last| last.status).map_or_else(|| "-".into(), |status| status.to_string()),
            last.map_or_else(|| "-".into(), |last| format!("{} ms", last.milliseconds)),
            last.and_then(|last| last.error.as_deref()).map(short).unwrap_or_default(),
        ]);
    }
    text(&table)
}

/// One delivery, with its attempts and what was sent.
pub(crate) fn delivery(delivery: &DeliveryView) -> String {
    let mut text = deliveries(std::slice::from_ref(delivery));
    for (n, attempt) in delivery.attempts.iter().enumerate() {
        let at = attempt.at.strftime("%F %T UTC");
        text += &format!("\nattempt {} at {at}, {} ms: {}", n + 1, attempt.milliseconds, answered(attempt));
    }
    if let Some(body) = &delivery.body {
        text += &format!("\n{}", serde_json::to_string_pretty(body).unwrap_or_default());
    }
    text
}

/// What a receiver answered.
pub(crate) fn answered(attempt: &Attempt) -> String {
    match (&attempt.error, attempt.status) {
        (Some(error), _) => short(error),
        (None, Some(status)) => format!("answered {status}"),
        (None, None) => "no answer".into(),
    }
}

fn joined<T: ToString>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whose events a subscription hears.
fn about(subscription: &SubscriptionView) -> String {
    match (joined(&subscription.instances), joined(&subscription.rules)) {
        (instances, rules) if instances.is_empty() && rules.is_empty() => "all".into(),
        (instances, rules) if instances.is_empty() || rules.is_empty() => instances + &rules,
        (instances, rules) => format!("{rules} at {instances}"),
    }
}

/// How a subscription gets on with its receiver.
fn receiver(subscription: &SubscriptionView) -> String {
    let time = |time: jiff::Timestamp| time.strftime("%F %H:%M UTC").to_string();
    match (&subscription.disabled, subscription.failing_since) {
        (Some(disabled), _) => format!("disabled since {}", time(disabled.at)),
        (None, Some(since)) => format!("failing since {}", time(since)),
        (None, None) => "fine".into(),
    }
}

/// A list of changes.
pub(crate) fn audit(entries: &[AuditView]) -> String {
    let mut table = table(&["at", "who", "from", "action", "what", "details"]);
    for entry in entries {
        table.add_row([
            entry.at.strftime("%F %T UTC").to_string(),
            entry.who.clone(),
            entry.from.clone().unwrap_or_else(|| "-".into()),
            entry.action.clone(),
            short(&entry.what),
            short(&entry.details),
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
        ("outcomes", outcomes(counts)),
        ("bytes", bytes_of(counts.bytes_moved, counts.bytes_mounted, counts.bytes_present)),
    ];
    if task.compared > 0 {
        lines.push(("compared", format!("{} were equal by digest, and are not listed", task.compared)));
    }
    if let (Some(cancelled), None) = (&task.cancelled, task.ended) {
        lines.push(("cancelled", format!("by {}; work on it is ending", cancelled.by)));
    } else if let Some(cancelled) = &task.cancelled {
        lines.push(("cancelled", format!("by {} at {}", cancelled.by, time(Some(cancelled.at)))));
    }
    lines.extend(task.progress.as_ref().and_then(left).map(|left| ("left", left)));
    let error = if task.ended.is_some() { "error" } else { "tried again" };
    lines.extend(task.error.clone().map(|why| (error, why)));
    lines.iter().map(|(name, value)| format!("{name:<13} {value}")).collect::<Vec<_>>().join("\n")
}

/// What became of bytes.
pub(crate) fn bytes_of(moved: u64, mounted: u64, present: u64) -> String {
    format!("{} moved, {} mounted, {} already there", bytes(moved), bytes(mounted), bytes(present))
}

/// How much of a task is left, where that can be said.
fn left(progress: &ProgressView) -> Option<String> {
    let left = duration(progress.seconds_left?);
    Some(match progress.bytes_total {
        Some(total) => format!("about {left}: {} of {}", bytes(progress.bytes_done), bytes(total)),
        None => format!("about {left}"),
    })
}

/// A time in whole seconds for people.
pub(crate) fn duration(seconds: u64) -> String {
    HumanDuration(std::time::Duration::from_secs(seconds)).to_string()
}

/// A task's resources.
pub(crate) fn resources(resources: &[ResourceView]) -> String {
    let mut table =
        table(&["source", "target", "digest", "type", "state", "moved", "mounted", "there", "attempts", "time", "outcome"]);
    for resource in resources {
        let digest = resource.digest.as_ref().map_or_else(|| "-".into(), |digest| short(digest.as_str()));
        let state = match resource.state {
            ResourceState::Queued => "queued".to_owned(),
            ResourceState::Running if resource.bytes_total > 0 => {
                let left = resource.seconds_left.map_or_else(String::new, |left| format!(", {} left", duration(left)));
                format!("running {} %{left}", 100 * resource.bytes_done() / resource.bytes_total)
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
            bytes(resource.bytes_mounted),
            bytes(resource.bytes_present),
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

    /// Would break: a description that somebody else has written, and that paints over what a table says; JSON that says something else.
    #[test]
    fn nothing_that_is_printed_moves_the_cursor() {
        let sly = "a\u{1b}[2J\u{9b}1A\u{202e}b\r\n\tc é";
        assert_eq!(clean(sly), "a\u{fffd}[2J\u{fffd}1A\u{fffd}b\n\tc é");
        let json = escaped(&serde_json::to_string_pretty(&serde_json::json!({ "a": sly })).unwrap());
        assert!(!json.chars().any(|c| is_control(c) && c != '\n'), "{json:?}");
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), serde_json::json!({ "a": sly }));
        let shown = fields(&serde_json::json!({ "description": "one\nrevision  7", "revision": 1 }));
        assert_eq!(shown.lines().filter(|line| line.starts_with("revision")).count(), 1, "{shown}");
    }

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
