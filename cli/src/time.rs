//! Times as people write them: one of the clock, or so long from now.

use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

/// A time, or a distance of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// `2026-03-04T05:06:07Z`
    At(Timestamp),
    /// `90d`, `12h`, `30m`, `45s`
    Distance(SignedDuration),
}

impl When {
    /// Counted from now on.
    pub(crate) fn ahead(self) -> anyhow::Result<Timestamp> {
        match self {
            Self::At(time) => Ok(time),
            Self::Distance(distance) => Ok(Timestamp::now().checked_add(distance)?),
        }
    }

    /// Counted back from now.
    pub(crate) fn ago(self) -> anyhow::Result<Timestamp> {
        match self {
            Self::At(time) => Ok(time),
            Self::Distance(distance) => Ok(Timestamp::now().checked_sub(distance)?),
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let distance = || {
            let (number, seconds) = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)]
                .into_iter()
                .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))?;
            let number: u32 = number.parse().ok()?;
            Some(Self::Distance(SignedDuration::from_secs(i64::from(number) * seconds)))
        };
        let wrong = || format!("{text:?} is no time: write one like 2026-03-04T05:06:07Z, or a distance like 90d, 12h, 30m");
        text.parse().ok().map(Self::At).or_else(distance).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: a token for ninety minutes that was meant for ninety days.
    #[test]
    fn a_distance_has_its_unit() {
        assert_eq!("90d".parse(), Ok(When::Distance(SignedDuration::from_hours(90 * 24))));
        assert_eq!("12h".parse(), Ok(When::Distance(SignedDuration::from_hours(12))));
        assert_eq!("30m".parse(), Ok(When::Distance(SignedDuration::from_mins(30))));
        assert!(matches!("2026-03-04T05:06:07Z".parse(), Ok(When::At(_))));
        for wrong in ["90", "d", "-1d", "1.5h", "tomorrow", "99999999999d", ""] {
            assert!(wrong.parse::<When>().is_err(), "{wrong}");
        }
    }
}
