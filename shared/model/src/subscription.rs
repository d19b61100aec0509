//! Subscriptions: who is told of what.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{InstanceName, Notify, Outcome, Route, RuleName, RulePath, SubscriptionName, TaskStatus, names::text};

/// Who is told of what: a webhook, and the events that it wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its name, unique in the deployment.
    pub name: SubscriptionName,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The instances whose events are meant, those that are copied from and those that are copied to; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceName>,
    /// The rules whose events are meant; empty for all. Where there are instances too, an event has to fit both.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RulePath>,
    /// The types of events that are meant.
    #[serde(default = "EventPattern::tasks")]
    pub events: Vec<EventPattern>,
    /// Where they are told.
    pub webhook: Notify,
    /// Whether anything is told.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

/// What a subscription may be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// A task has ended, and nothing failed.
    TaskSucceeded,
    /// A task has ended; some resources failed, some did not.
    TaskPartlyFailed,
    /// A task has ended; everything that was to be copied failed, or the search for it did.
    TaskFailed,
    /// A task was ended before its time.
    TaskCancelled,
    /// A resource is at the target now.
    ResourceCopied,
    /// A resource was at the target already.
    ResourceUnchanged,
    /// A resource was deleted at the source, and is deleted at the target.
    ResourceDeleted,
    /// A resource was not meant to be copied.
    ResourceSkipped,
    /// A resource could not be copied.
    ResourceFailed,
}

impl EventType {
    /// All types, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::TaskSucceeded,
        Self::TaskPartlyFailed,
        Self::TaskFailed,
        Self::TaskCancelled,
        Self::ResourceCopied,
        Self::ResourceUnchanged,
        Self::ResourceDeleted,
        Self::ResourceSkipped,
        Self::ResourceFailed,
    ];

    /// The type in filters; as a CloudEvent's type `io.transship.` stands before it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TaskSucceeded => "task.succeeded",
            Self::TaskPartlyFailed => "task.partly-failed",
            Self::TaskFailed => "task.failed",
            Self::TaskCancelled => "task.cancelled",
            Self::ResourceCopied => "resource.copied",
            Self::ResourceUnchanged => "resource.unchanged",
            Self::ResourceDeleted => "resource.deleted",
            Self::ResourceSkipped => "resource.skipped",
            Self::ResourceFailed => "resource.failed",
        }
    }

    /// That of a task which has ended so; `None` for one that has not.
    pub fn of_task(status: TaskStatus) -> Option<Self> {
        match status {
            TaskStatus::Queued | TaskStatus::Running => None,
            TaskStatus::Succeeded => Some(Self::TaskSucceeded),
            TaskStatus::PartlyFailed => Some(Self::TaskPartlyFailed),
            TaskStatus::Failed => Some(Self::TaskFailed),
            TaskStatus::Cancelled => Some(Self::TaskCancelled),
        }
    }

    /// That of a resource with this outcome.
    pub fn of_resource(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Copied => Self::ResourceCopied,
            Outcome::Unchanged => Self::ResourceUnchanged,
            Outcome::Deleted => Self::ResourceDeleted,
            Outcome::Skipped { .. } => Self::ResourceSkipped,
            Outcome::Failed { .. } => Self::ResourceFailed,
        }
    }

    /// Whether it tells of a task, and not of a resource.
    pub fn is_of_task(self) -> bool {
        self.as_str().starts_with("task.")
    }
}

/// A type of events, or all that begin alike: `task.failed`, `task.*`, `resource.*`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventPattern(String);

text!(EventPattern, "a type of events like 'task.failed', or 'task.*' or 'resource.*'");

/// A text that is no type of events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no type of events: the types are task.*, resource.*, {all}", all = EventType::ALL.map(EventType::as_str).join(", "))]
pub struct InvalidEventPattern(String);

impl EventPattern {
    /// The patterns that stand for more than one type.
    pub const GROUPS: [&'static str; 2] = ["task.*", "resource.*"];

    /// The ends of all tasks: what a subscription is told of that names nothing.
    pub fn tasks() -> Vec<Self> {
        vec![Self("task.*".to_owned())]
    }

    /// Whether it means this type.
    pub fn selects(&self, event: EventType) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => event.as_str().starts_with(prefix),
            None => event.as_str() == self.0,
        }
    }
}

impl FromStr for EventPattern {
    type Err = InvalidEventPattern;

    fn from_str(text: &str) -> Result<Self, InvalidEventPattern> {
        let is_known = Self::GROUPS.contains(&text) || EventType::ALL.iter().any(|event| event.as_str() == text);
        if is_known { Ok(Self(text.to_owned())) } else { Err(InvalidEventPattern(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for EventPattern {
    type Error = InvalidEventPattern;
    fn try_from(text: String) -> Result<Self, InvalidEventPattern> {
        text.parse()
    }
}

impl From<EventPattern> for String {
    fn from(pattern: EventPattern) -> String {
        pattern.0
    }
}

impl fmt::Display for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What an event is about, for filters.
#[derive(Debug, Clone, Copy)]
pub struct Concern<'a> {
    /// The source instance.
    pub instance: &'a InstanceName,
    /// The rule's name there.
    pub rule: &'a RuleName,
    /// The target instance, if it is known.
    pub target: Option<&'a InstanceName>,
}

impl Subscription {
    /// The greatest number of entries in each of its filters.
    pub const MAX_FILTER: usize = 100;

    /// What an instance's own `notify` stands for: the ends of all tasks that copy from it or to it.
    pub fn of_instance(instance: &InstanceName, webhook: Notify) -> Self {
        Self {
            name: SubscriptionName::of_instance(instance),
            description: String::new(),
            instances: vec![instance.clone()],
            rules: Vec::new(),
            events: EventPattern::tasks(),
            webhook,
            enabled: true,
        }
    }

    /// Whether it is told anything about this.
    pub fn concerns(&self, about: Concern<'_>) -> bool {
        let fits_instance =
            self.instances.is_empty() || self.instances.iter().any(|name| name == about.instance || Some(name) == about.target);
        let fits_rule = || {
            let is_meant = |path: &RulePath| &path.instance == about.instance && &path.rule == about.rule;
            self.rules.is_empty() || self.rules.iter().any(is_meant)
        };
        self.enabled && fits_instance && fits_rule()
    }

    /// Whether it is told events of this type.
    pub fn wants(&self, event: EventType) -> bool {
        self.events.iter().any(|pattern| pattern.selects(event))
    }

    /// The instances that its filters name; `None` where it hears of all.
    pub fn named_instances(&self) -> Option<Vec<&InstanceName>> {
        let named: Vec<_> = self.instances.iter().chain(self.rules.iter().map(|path| &path.instance)).collect();
        if named.is_empty() { None } else { Some(named) }
    }
}

impl Notify {
    /// The URL without what may be a token: scheme, host and port, and that there is more.
    pub fn masked_url(&self) -> String {
        let origin = self.url.origin().ascii_serialization();
        let has_more = self.url.path() != "/" || self.url.query().is_some();
        format!("{origin}/{}", if has_more { "…" } else { "" })
    }
}

impl<'a> Concern<'a> {
    /// A resource of a rule.
    pub fn of_route(route: &'a Route, rule: &'a RuleName) -> Self {
        Self { instance: &route.source.instance, rule, target: Some(&route.target.instance) }
    }
}

/// How a subscription gets on with its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// The last delivery was taken, or there was none.
    Fine,
    /// Nothing has been taken lately; it is tried again.
    Failing,
    /// It was switched off, because nothing was taken for long or the receiver is gone for good.
    Disabled,
}

/// Where a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeliveryState {
    /// It is tried again.
    Waiting,
    /// The receiver has taken it.
    Delivered,
    /// It was tried for as long as there is sense in it, or the subscription is disabled. It can be sent again by hand.
    GivenUp,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub milliseconds: u64,
    /// The HTTP status, if there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it was not taken, with the beginning of the receiver's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// That a subscription was disabled because of its receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Disabled {
    /// Since when.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(instances: &[&str], rules: &[&str], events: &[&str]) -> Subscription {
        serde_json::from_value(serde_json::json!({
            "name": "ci", "instances": instances, "rules": rules, "events": events,
            "webhook": {"url": "https://ci.example.com/hook?token=7"},
        }))
        .unwrap()
    }

    /// Would break: a subscriber that hears of what it did not ask for, or not of what it did.
    #[test]
    fn a_subscription_hears_of_what_all_its_filters_let_through() {
        let name = |text: &str| text.parse::<InstanceName>().unwrap();
        let hears = |subscription: &Subscription, path: &str, target: &str| {
            let path: RulePath = path.parse().unwrap();
            subscription.concerns(Concern { instance: &path.instance, rule: &path.rule, target: Some(&name(target)) })
        };
        for (instances, rules, build, other) in [
            (&[][..], &[][..], true, true),
            (&["build"], &[], true, false),
            (&["prod"], &[], true, false),
            (&["other"], &[], false, true),
            (&[], &["build/release"], true, false),
            (&[], &["build/nightly"], false, false),
            (&["prod"], &["build/release", "other/x"], true, false),
            (&["elsewhere"], &["build/release"], false, false),
        ] {
            let subscription = subscription(instances, rules, &["task.*"]);
            let heard = (hears(&subscription, "build/release", "prod"), hears(&subscription, "other/x", "elsewhere2"));
            assert_eq!(heard, (build, other), "{instances:?} {rules:?}");
            assert!(!hears(&Subscription { enabled: false, ..subscription }, "build/release", "prod"));
        }
    }

    /// Would break: a pattern that means another type than it says, or is taken although it means none.
    #[test]
    fn a_pattern_means_one_type_or_all_of_a_kind() {
        let types = |pattern: &str| {
            let subscription = subscription(&[], &[], &[pattern]);
            EventType::ALL.into_iter().filter(|event| subscription.wants(*event)).map(EventType::as_str).collect::<Vec<_>>()
        };
        assert_eq!(types("task.*"), ["task.succeeded", "task.partly-failed", "task.failed", "task.cancelled"]);
        assert_eq!(types("resource.failed"), ["resource.failed"]);
        assert_eq!(types("resource.*").len(), 5);
        for wrong in
            ["*", "task", "task.", "task.fail*", "resource.ended", "", "io.transship.task.failed", "task.failed\r\nx: y"]
        {
            let error = wrong.parse::<EventPattern>().unwrap_err().to_string();
            assert!(error.contains("resource.copied") && !error.contains('\n'), "{error}");
        }
    }

    /// Would break: a token in a chat service's URL, shown to whoever may look.
    #[test]
    fn a_masked_url_says_where_and_no_more() {
        let masked = |url: &str| {
            let webhook = Notify { url: url.parse().unwrap(), secret: None, private_network: false };
            (webhook.masked_url(), format!("{webhook:?}"))
        };
        for (url, shown) in [
            ("https://hooks.example.com/services/T0/B0/s3cr3t", "https://hooks.example.com/…"),
            ("https://user:s3cr3t@ci.example.com:8443/?s3cr3t", "https://ci.example.com:8443/…"),
            ("https://ci.example.com", "https://ci.example.com/"),
        ] {
            let (masked, debug) = masked(url);
            assert_eq!(masked, shown);
            assert!(!debug.contains("s3cr3t"), "{debug}");
        }
    }
}
