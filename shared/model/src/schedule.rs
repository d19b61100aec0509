//! Schedules: when a rule runs by itself.

use std::{fmt, str::FromStr};

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::names::text;

/// When a rule runs by itself: a cron expression of five fields (minute, hour, day of month, month, day of week) in UTC, or one of the
/// short forms like `@daily`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Schedule(String);

text!(Schedule, "a cron expression of five fields in UTC: minute, hour, day of month, month, day of week");

/// A text that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchedule {
    /// Its syntax is wrong.
    #[error(
        "not a cron expression: {0}. Five fields are needed, in UTC: minute, hour, day of month, month, day of week, as in '30 3 * * *'"
    )]
    Syntax(String),
    /// It is longer than [`Schedule::MAX_LENGTH`].
    #[error("a cron expression has at most {max} characters", max = Schedule::MAX_LENGTH)]
    TooLong,
    /// No date fits it, as with the 30th of February.
    #[error("the schedule never comes: no date fits it")]
    Never,
}

impl Schedule {
    /// The greatest length, in bytes.
    pub const MAX_LENGTH: usize = 100;

    /// The first time after `after`, to the second; `None` if there is none that the calendar knows.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let cron = parse(&self.0).ok()?;
        let next = cron.find_next_occurrence(&after.to_zoned(TimeZone::UTC).datetime(), false).ok()?;
        next.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    }

    /// The newest time that is not after `now`, to the second; `None` if there is none that the calendar knows.
    pub fn latest(&self, now: Timestamp) -> Option<Timestamp> {
        let cron = parse(&self.0).ok()?;
        // To the second: the fraction of one that has begun is not before it.
        let now = Timestamp::from_second(now.as_second()).ok()?;
        let latest = cron.find_previous_occurrence(&now.to_zoned(TimeZone::UTC).datetime(), true).ok()?;
        latest.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    }

    /// The schedule as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn parse(text: &str) -> Result<Cron, InvalidSchedule> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(text).map_err(|error| InvalidSchedule::Syntax(error.to_string().trim_end_matches('.').to_owned()))
}

impl FromStr for Schedule {
    type Err = InvalidSchedule;

    fn from_str(text: &str) -> Result<Self, InvalidSchedule> {
        if text.len() > Self::MAX_LENGTH {
            return Err(InvalidSchedule::TooLong);
        }
        parse(text)?;
        let schedule = Self(text.to_owned());
        // Any moment would do: what comes at all comes within some years of it.
        schedule.next_after(Timestamp::UNIX_EPOCH).ok_or(InvalidSchedule::Never)?;
        Ok(schedule)
    }
}

impl TryFrom<String> for Schedule {
    type Error = InvalidSchedule;
    fn try_from(text: String) -> Result<Self, InvalidSchedule> {
        text.parse()
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.0
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str) -> Timestamp {
        schedule.parse::<Schedule>().unwrap().next_after(after.parse().unwrap()).unwrap()
    }

    /// Would break: a run at the wrong hour, or two for one time.
    #[test]
    fn the_next_time_is_after_the_last_and_in_utc() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(next("30 3 * * *", "2026-01-02T03:29:59.9Z"), at("2026-01-02T03:30:00Z"));
        assert_eq!(next("30 3 * * *", "2026-01-02T03:30:00Z"), at("2026-01-03T03:30:00Z"));
        assert_eq!(next("@daily", "2026-01-02T03:30:00Z"), at("2026-01-03T00:00:00Z"));
        assert_eq!(next("0 0 29 2 *", "2026-01-02T03:30:00Z"), at("2028-02-29T00:00:00Z"));
    }

    /// Would break: a time that is done twice or never, because a tick comes exactly at it, or a moment after.
    #[test]
    fn the_latest_time_is_now_or_before() {
        let latest =
            |schedule: &str, now: &str| schedule.parse::<Schedule>().unwrap().latest(now.parse().unwrap()).unwrap().to_string();
        assert_eq!(latest("30 3 * * *", "2026-01-02T03:29:59.999Z"), "2026-01-01T03:30:00Z");
        assert_eq!(latest("30 3 * * *", "2026-01-02T03:30:00Z"), "2026-01-02T03:30:00Z");
        assert_eq!(latest("30 3 * * *", "2026-01-02T03:30:00.4Z"), "2026-01-02T03:30:00Z");
        assert_eq!(latest("* * * * *", "2026-01-02T03:30:59.9Z"), "2026-01-02T03:30:00Z");
        assert_eq!(latest("@monthly", "2026-01-01T00:00:01Z"), "2026-01-01T00:00:00Z");
        assert_eq!(latest("0 0 29 2 *", "2026-01-02T03:30:00Z"), "2024-02-29T00:00:00Z");
    }

    /// Would break: a rule that is stored with a schedule that never comes, or comes each second.
    #[test]
    fn what_is_no_schedule_is_refused_with_a_hint() {
        for text in ["", "daily", "* * * *", "* * * * * *", "61 * * * *", "0 0 30 2 *", &"1,".repeat(60)] {
            let error = text.parse::<Schedule>().expect_err(text).to_string();
            assert!(error.contains("cron expression") || error.contains("never comes"), "{text}: {error}");
        }
    }
}
