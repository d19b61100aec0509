//! The audit: who changed what, and when.
//!
//! Partition `audit/<year>-<month>`, sort key the time and a random number: an entry. The newest first is one query for each month
//! that an answer reaches into.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};
use transship_model::Caller;

use crate::{Item, Key, Op, Query, StateError, Table, document, task_log::Listing};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who: the caller's name.
    pub who: String,
    /// What was done: a kind of thing and a verb, as in `rule.create`.
    pub action: String,
    /// With which: its name, as in `build/release`.
    pub what: String,
    /// What changed, in a few words; never a secret.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
    /// From which address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// By which request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

impl AuditEntry {
    /// A change that a caller makes now. Details longer than 1,000 characters are cut.
    pub fn new(caller: &Caller, action: &str, what: impl fmt::Display, details: impl Into<String>) -> Self {
        let mut details: String = details.into();
        if let Some((end, _)) = details.char_indices().nth(MAX_DETAILS) {
            details.truncate(end);
        }
        Self {
            at: Timestamp::now(),
            who: caller.name.clone(),
            action: action.to_owned(),
            what: what.to_string(),
            details,
            from: caller.from.clone(),
            request: caller.request.clone(),
        }
    }
}

const MAX_DETAILS: usize = 1000;
/// So many entries are looked at for one page, whoever they are of.
const LOOKED_AT: usize = 10_000;

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// Older than this.
    pub until: Option<Timestamp>,
    /// Of this caller.
    pub who: Option<String>,
    /// After this one: `next` of the page before.
    pub after: Option<AuditCursor>,
    /// At most so many.
    pub limit: usize,
}

/// A place in the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditCursor(String);

/// Text that is no place in the audit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is the `next` of the page before")]
pub struct InvalidCursor;

impl FromStr for AuditCursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let is_one = text.len() == 23 && text.bytes().enumerate().all(|(at, b)| if at == 14 { b == b'-' } else { is_hex(b) });
        let cursor = Self(text.to_owned());
        if is_one && cursor.time().is_some() { Ok(cursor) } else { Err(InvalidCursor) }
    }
}

impl fmt::Display for AuditCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AuditCursor {
    fn time(&self) -> Option<Timestamp> {
        let micros = i64::from_str_radix(self.0.get(..14)?, 16).ok()?;
        Timestamp::from_microsecond(micros).ok()
    }
}

/// Reads and writes the audit.
#[derive(Clone)]
pub struct AuditLog {
    table: Arc<dyn Table>,
}

impl AuditLog {
    /// How long entries are kept.
    pub const KEEP: Duration = Duration::from_secs(365 * 24 * 3600);

    /// The audit in a table.
    pub fn new(table: Arc<dyn Table>) -> Self {
        Self { table }
    }

    /// Notes a change. Where it can't be written with the change itself ([`AuditLog::op`]), it comes before it: a change that failed
    /// may stand in the audit, one that was made may not be missing.
    ///
    /// # Errors
    /// See [`StateError`]; the change is not to be made then.
    pub async fn note(
        &self,
        caller: &Caller,
        action: &str,
        what: impl fmt::Display,
        details: impl Into<String>,
    ) -> Result<(), StateError> {
        let op = self.op(&AuditEntry::new(caller, action, what, details))?;
        Ok(self.table.write(vec![op]).await?)
    }

    /// An entry, to be written together with the change that it tells of.
    ///
    /// # Errors
    /// [`StateError::Corrupt`] if it can't be stored.
    pub fn op(&self, entry: &AuditEntry) -> Result<Op, StateError> {
        let key = Key::new(partition(date(entry.at)), format!("{}-{:08x}", digits(entry.at), fastrand::u32(..)));
        let expires = entry.at.checked_add(Self::KEEP).ok();
        Ok(Op::Put { item: Item { key, attributes: document::attributes(entry)?, expires }, condition: None })
    }

    /// A page of entries, the newest first.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn list(&self, query: &AuditQuery, now: Timestamp) -> Result<Listing<AuditEntry>, StateError> {
        let oldest = now.checked_sub(Self::KEEP).unwrap_or(Timestamp::MIN);
        let since = query.since.map_or(oldest, |since| since.max(oldest));
        let newest = query.until.unwrap_or(Timestamp::MAX).min(latest(now));
        let from_cursor = query.after.as_ref().and_then(AuditCursor::time).filter(|time| *time <= newest);
        let mut after =
            if from_cursor.is_some() { query.after.as_ref().map(|cursor| cursor.0.clone()) } else { Some(digits(newest)) };
        let mut month = date(from_cursor.unwrap_or(newest)).first_of_month();
        let (mut items, mut last, mut looked_at) = (Vec::new(), None::<String>, 0);
        while month >= date(since).first_of_month() {
            let limit = if query.who.is_some() { 1000 } else { query.limit + 1 - items.len() };
            let partition = partition(month);
            let page = self.table.query(Query { partition, prefix: String::new(), after, descending: true, limit }).await?;
            for item in page.items {
                let sort = item.key.sort.clone();
                let entry: AuditEntry = document::value(item)?;
                if entry.at < since {
                    return Ok(Listing { items, next: None });
                }
                looked_at += 1;
                let is_wanted = query.who.as_ref().is_none_or(|who| *who == entry.who);
                if is_wanted && items.len() == query.limit || looked_at > LOOKED_AT {
                    return Ok(Listing { items, next: last });
                }
                if is_wanted {
                    items.push(entry);
                }
                last = Some(sort);
            }
            after = page.next;
            if after.is_none() {
                let Ok(before) = month.yesterday() else { break };
                month = before.first_of_month();
            }
        }
        Ok(Listing { items, next: None })
    }
}

fn date(at: Timestamp) -> Date {
    TimeZone::UTC.to_datetime(at).date()
}

fn partition(date: Date) -> String {
    format!("audit/{:04}-{:02}", date.year(), date.month())
}

/// The time as text whose order is that of time.
fn digits(at: Timestamp) -> String {
    format!("{:014x}", at.as_microsecond().max(0))
}

/// Entries may be of processes whose clocks are ahead.
fn latest(now: Timestamp) -> Timestamp {
    now.checked_add(Duration::from_secs(3600)).unwrap_or(Timestamp::MAX)
}
