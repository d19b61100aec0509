//! Where the digest of a tag came from: the memory that ends echoes and lets two-way rules converge.
//!
//! For a tag that some rule writes, the table keeps an [`Origin`]: what transship wrote there last, and the newest push by
//! anybody else. With it the webhook tells an echo (the target's own notification of our push) from a push, and the
//! worker tells which of two digests is the newer one.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Digest, InstanceName, Repository, Rule, RuleId};

/// The version of a tag's content: the time of the last push that was not ours, and the instance that it was made to. Copies carry
/// the version of what they copy. Versions are ordered by time, then by name, so that two of them never tie.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// By the sender's clock, or of receipt where the payload has none.
    pub time: Timestamp,
    /// The instance that was pushed to.
    pub instance: InstanceName,
}

/// The way that a copy has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// The rules that were applied.
    pub rules: Vec<RuleId>,
    /// The repositories passed, the first source first, the place of this copy last.
    pub places: Vec<(InstanceName, Repository)>,
    /// It was put back where it had been overwritten, and its own push has been sent on from here already.
    #[serde(default)]
    pub ends: bool,
}

impl Trail {
    /// No copy is sent on after so many steps.
    pub const MAX_STEPS: usize = 16;

    /// Whether a copy that came this way may go on by `rule` to `target`: never by a rule or to a place for the second time.
    pub fn allows(&self, rule: &Rule, target: &Repository) -> bool {
        !self.ends
            && self.rules.len() < Self::MAX_STEPS
            && !self.rules.contains(&rule.id)
            && !self.places.iter().any(|(instance, repository)| *instance == rule.target.instance && repository == target)
    }

    /// Where the last step came from.
    pub fn last_source(&self) -> Option<&(InstanceName, Repository)> {
        self.places.iter().nth_back(1)
    }

    /// The trail one step on.
    pub fn extended(&self, rule: RuleId, source: (InstanceName, Repository), target: (InstanceName, Repository)) -> Self {
        let mut trail = Self { ends: false, ..self.clone() };
        trail.rules.push(rule);
        if trail.places.last() != Some(&source) {
            trail.places.push(source);
        }
        trail.places.push(target);
        trail
    }
}

/// A tag as transship set it. It is recorded before the tag is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// What the tag was set to.
    pub digest: Digest,
    /// When, by our clock.
    pub at: Timestamp,
    /// The version of what was copied, where rules need one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// The way it came.
    pub trail: Trail,
    /// The time that the registry's own notification of it gives; none has been seen yet without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echoed: Option<Timestamp>,
}

/// A push by somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// What was pushed.
    pub digest: Digest,
    /// When and where.
    pub version: Version,
}

/// A tag that was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// When and where it was deleted first. What was pushed before that is not to come back.
    pub version: Version,
    /// The way that the deletion has come, if transship has deleted it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trail: Option<Trail>,
}

/// A push as its registry told of it. Jobs carry it, because they are sent while the webhook still notes it: who does one notes it first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// What was pushed, and the version that this gives it.
    #[serde(flatten)]
    pub pushed: Pushed,
    /// When that was by the registry's clock, be it ahead or not.
    pub time: Timestamp,
}

/// What is known of where a tag's content came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What transship set, the newest last; [`Origin::MEMORY`] entries at most.
    #[serde(default)]
    pub written: Vec<Written>,
    /// The newest push by somebody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<Pushed>,
    /// It was deleted, and nobody has pushed it since, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Tombstone>,
}

/// What an event for a tag is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The registry's notification of what transship did; the trail says where it may go on.
    Echo(Trail),
    /// A push by somebody else.
    Push,
    /// It can't be told. A look is sent, but the tag's version is left alone.
    Doubt,
}

impl Origin {
    /// How many of our own writes are remembered: enough that a late echo is known when newer copies have been made since.
    pub const MEMORY: usize = 8;

    /// Tells what an event is that says `digest` was pushed at `time` by the registry's clock.
    pub fn classify(&self, digest: Option<&Digest>, time: Timestamp) -> Verdict {
        let Some(digest) = digest else {
            return if self.written.is_empty() { Verdict::Push } else { Verdict::Doubt };
        };
        let Some(at) = self.written.iter().rposition(|written| written.digest == *digest) else { return Verdict::Push };
        let written = &self.written[at];
        let echo = Verdict::Echo(written.trail.clone());
        let pushed_since = |then: Timestamp| self.pushed.as_ref().is_some_and(|pushed| pushed.version.time > then);
        match written.echoed {
            // Our clock against the registry's: a push in between may be one that we overwrote, or one that overwrote us.
            None if pushed_since(written.at) => Verdict::Doubt,
            None => echo,
            // Some registries send several events for one push.
            Some(echoed) if time <= echoed => echo,
            Some(echoed) if at + 1 == self.written.len() && !pushed_since(echoed) => echo,
            Some(_) => Verdict::Push,
        }
    }

    /// Takes note of an echo. True if that changes anything.
    pub fn note_echo(&mut self, digest: &Digest, time: Timestamp) -> bool {
        match self.written.iter_mut().rev().find(|written| written.digest == *digest) {
            Some(written) if written.echoed.is_none() => {
                written.echoed = Some(time);
                true
            }
            _ => false,
        }
    }

    /// Takes note of a push by somebody else, which the registry says was at `time`, unless a newer one is known. True if that
    /// changes anything.
    ///
    /// The registry's own clock tells whether it came after what we wrote there. If it did it is newer than that, also where
    /// that clock is behind the one that dated what we wrote.
    pub fn note_push(&mut self, mut pushed: Pushed, time: Timestamp) -> bool {
        let before = self.written.iter().filter(|written| written.echoed.is_some_and(|echoed| echoed < time));
        if let Some(version) = before.filter_map(|written| written.version.as_ref()).max()
            && *version >= pushed.version
        {
            pushed.version.time = version.time.saturating_add(SignedDuration::from_nanos(1)).unwrap_or(version.time);
        }
        if self.pushed.as_ref().is_some_and(|known| known.version >= pushed.version) {
            return false;
        }
        self.deleted.take_if(|deleted| deleted.version < pushed.version);
        self.pushed = Some(pushed);
        true
    }

    /// Takes note of a deletion. `trail` is its way, if it is one of ours. True if that changes anything.
    pub fn note_deletion(&mut self, version: Version, trail: Option<Trail>) -> bool {
        // Our own deletion is told by the registry as well, later.
        if self.deleted.as_ref().is_some_and(|known| known.version >= version || (known.trail.is_some() && trail.is_none())) {
            return false;
        }
        self.deleted = Some(Tombstone { version, trail });
        true
    }

    /// Whether something of this version was deleted here since.
    pub fn has_deleted(&self, version: Option<&Version>) -> bool {
        self.deleted.as_ref().is_some_and(|deleted| version.is_none_or(|version| *version < deleted.version))
    }

    /// Takes note of a push that the webhook has told of, if it is one by what is known now. True if that changes anything.
    ///
    /// Whoever does a job cannot take its event for an echo: our own write may be newer than the push, and would never again be told
    /// from one.
    pub fn note_told(&mut self, told: &Told) -> bool {
        self.classify(Some(&told.pushed.digest), told.time) == Verdict::Push && self.note_push(told.pushed.clone(), told.time)
    }

    /// Takes note of what transship is about to set. Another try to set the same takes the place of the one before.
    pub fn note_write(&mut self, written: Written) {
        self.deleted = None;
        self.written.pop_if(|last| last.digest == written.digest && last.echoed.is_none());
        self.written.push(written);
        let excess = self.written.len().saturating_sub(Self::MEMORY);
        self.written.drain(..excess);
    }

    /// The version of a digest at this place, if one is known.
    pub fn version_of(&self, digest: &Digest) -> Option<&Version> {
        let written = self.written.iter().rev().find(|w| w.digest == *digest).and_then(|written| written.version.as_ref());
        let pushed = self.pushed.as_ref().filter(|pushed| pushed.digest == *digest).map(|pushed| &pushed.version);
        written.max(pushed)
    }

    /// The trail of a digest that transship brought here; empty for one that it did not bring.
    pub fn trail_of(&self, digest: &Digest) -> Trail {
        let written = self.written.iter().rev().find(|written| written.digest == *digest);
        match (written, &self.pushed) {
            (Some(written), Some(pushed)) if pushed.digest == *digest && Some(&pushed.version) > written.version.as_ref() => {
                Trail::default()
            }
            (Some(written), _) => written.trail.clone(),
            (None, _) => Trail::default(),
        }
    }

    /// What transship set last, unless somebody else has pushed since.
    pub fn newest_write(&self) -> Option<&Written> {
        let last = self.written.last()?;
        let since = |pushed: &Pushed| pushed.digest != last.digest && pushed.version.time > last.at;
        (!self.pushed.as_ref().is_some_and(since)).then_some(last)
    }

    /// The newest content that this place has had: what the tag should hold.
    pub fn newest(&self) -> Option<(&Digest, &Version)> {
        let written = self.written.iter().rev().find_map(|written| Some((&written.digest, written.version.as_ref()?)));
        let pushed = self.pushed.as_ref().map(|pushed| (&pushed.digest, &pushed.version));
        written.into_iter().chain(pushed).max_by_key(|(_, version)| *version)
    }

    /// The digest that has to be put back, if the tag, holding `current`, was overwritten with something older. A digest whose
    /// version is not known may be a push that has not been told yet, and is left alone.
    pub fn overwritten(&self, current: &Digest) -> Option<(&Digest, &Version)> {
        let known = self.version_of(current)?;
        self.newest().filter(|(digest, version)| *digest != current && *version > known)
    }
}

/// Whether a copy may replace what the target holds, where versions decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precedence {
    /// The source is newer.
    Source,
    /// The target is newer, or as new.
    Target,
    /// Neither has a version.
    Unknown,
}

/// Decides between a source's and a target's version. A version that is known is newer than one that is not.
pub fn precedence(source: Option<&Version>, target: Option<&Version>) -> Precedence {
    match (source, target) {
        (None, None) => Precedence::Unknown,
        (source, target) if source > target => Precedence::Source,
        _ => Precedence::Target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }
    fn version(second: i64, instance: &str) -> Version {
        Version { time: at(second), instance: instance.parse().unwrap() }
    }
    fn digest(n: u8) -> Digest {
        Digest::of(&[n])
    }
    fn written(n: u8, second: i64, version: Option<Version>) -> Written {
        Written { digest: digest(n), at: at(second), version, trail: Trail::default(), echoed: None }
    }
    fn pushed(n: u8, second: i64) -> Pushed {
        Pushed { digest: digest(n), version: version(second, "b") }
    }
    fn echo() -> Verdict {
        Verdict::Echo(Trail::default())
    }

    #[test]
    fn a_persons_d1_d2_d1_at_the_target_is_no_echo() {
        let mut origin = Origin::default();
        origin.note_write(written(1, 10, None));
        assert_eq!(origin.classify(Some(&digest(1)), at(10)), echo());
        assert!(origin.note_echo(&digest(1), at(10)));
        assert_eq!(origin.classify(Some(&digest(2)), at(20)), Verdict::Push);
        assert!(origin.note_push(pushed(2, 20), at(20)));
        assert_eq!(origin.classify(Some(&digest(1)), at(30)), Verdict::Push);
        // The echo delivered once more is still one.
        assert_eq!(origin.classify(Some(&digest(1)), at(10)), echo());
    }

    #[test]
    fn a_late_echo_of_an_older_copy_is_no_push() {
        let mut origin = Origin::default();
        origin.note_write(written(1, 10, None));
        origin.note_write(written(2, 11, None));
        assert_eq!(origin.classify(Some(&digest(1)), at(99)), echo(), "the registry's clock may be ahead of ours");
        assert!(origin.note_echo(&digest(1), at(99)));
        assert_eq!(origin.classify(Some(&digest(1)), at(100)), Verdict::Push, "but a second one, later, is somebody's");
    }

    #[test]
    fn an_event_without_a_digest_is_in_doubt_where_we_write() {
        let mut origin = Origin::default();
        assert_eq!(origin.classify(None, at(1)), Verdict::Push);
        origin.note_write(written(1, 10, None));
        assert_eq!(origin.classify(None, at(11)), Verdict::Doubt);
    }

    #[test]
    fn what_was_overwritten_by_something_older_is_known() {
        let mut origin = Origin::default();
        origin.note_write(written(1, 10, Some(version(1, "a"))));
        origin.note_push(pushed(2, 5), at(5));
        assert_eq!(origin.overwritten(&digest(1)).map(|(digest, _)| digest.clone()), Some(digest(2)));
        assert_eq!(origin.overwritten(&digest(2)), None);
        assert_eq!(origin.overwritten(&digest(3)), None, "may be a push that has not been told yet");
        origin.note_push(pushed(4, 3), at(3));
        assert_eq!(origin.pushed, Some(pushed(2, 5)), "a late event does not hide a newer one");
    }

    #[test]
    fn what_was_put_back_is_copied_on_like_any_other() {
        let place = |instance: &str| -> (InstanceName, Repository) { (instance.parse().unwrap(), "app".parse().unwrap()) };
        let came = Trail::default().extended(RuleId(1), place("a"), place("b"));
        let mut origin = Origin::default();
        let trail = Trail { ends: true, ..came };
        origin.note_write(Written { trail, ..written(1, 10, Some(version(1, "a"))) });
        let goes = origin.trail_of(&digest(1)).extended(RuleId(2), place("b"), place("c"));
        assert_eq!(goes, Trail { rules: vec![RuleId(1), RuleId(2)], places: ["a", "b", "c"].map(place).into(), ends: false });
    }

    /// Would break: a person's push to a registry whose clock is behind, undone by what it was pushed over.
    #[test]
    fn a_push_after_our_write_is_newer_whatever_the_clocks_say() {
        let mut origin = Origin::default();
        origin.note_write(written(1, 100, Some(version(100, "a"))));
        assert!(origin.note_echo(&digest(1), at(40)), "this registry's clock is a minute behind");
        assert!(origin.note_push(pushed(2, 48), at(48)));
        assert_eq!(origin.newest().map(|(digest, _)| digest.clone()), Some(digest(2)));
        assert!(!origin.note_push(pushed(2, 48), at(48)), "a repeated event changes nothing");
    }

    /// Would break: a push that each attempt of a job makes newer again, or that takes the place of one that came after it; our own
    /// write, whose echo is then taken for a push.
    #[test]
    fn a_push_that_a_job_tells_of_is_noted_once_and_never_as_an_echo() {
        let told = |n: u8, second: i64| Told { pushed: pushed(n, second), time: at(second) };
        let mut origin = Origin::default();
        assert!(origin.note_told(&told(1, 10)));
        assert!(!origin.note_told(&told(1, 10)));
        assert!(origin.note_told(&told(2, 20)));
        assert!(!origin.note_told(&told(1, 10)));
        assert_eq!(origin.pushed, Some(pushed(2, 20)));
        origin.note_write(written(1, 30, Some(version(25, "a"))));
        let before = origin.clone();
        assert!(!origin.note_told(&told(1, 10)), "the attempt that comes after our own write of the same");
        assert_eq!(origin, before);
        assert_eq!(origin.classify(Some(&digest(1)), at(30)), echo());
    }

    #[test]
    fn a_known_version_is_newer_than_an_unknown_one() {
        assert_eq!(precedence(Some(&version(1, "a")), None), Precedence::Source);
        assert_eq!(precedence(None, Some(&version(1, "a"))), Precedence::Target);
        assert_eq!(precedence(Some(&version(1, "b")), Some(&version(1, "a"))), Precedence::Source);
        assert_eq!(precedence(None, None), Precedence::Unknown);
    }
}
