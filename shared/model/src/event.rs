//! Push events: what a registry's notification says, whatever its sender.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Digest, InstanceName, Place, Reference, Repository, RuleId, Tag, TaskId, origin::Version};

/// A manifest was pushed. The event says *look here*; what is there is known only to the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushEvent {
    /// The instance whose webhook was called; never taken from the payload.
    pub instance: InstanceName,
    /// The repository.
    pub repository: Repository,
    /// The tag, if the manifest was pushed by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// The manifest's digest, if the sender tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The sender's ID of the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// When it happened, by the sender's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// When it was received, by ours.
    pub received: Timestamp,
}

impl PushEvent {
    /// What a repeated delivery has in common with the first: the event's ID, or else its time and digest. `None` where the
    /// sender tells neither of these: then each delivery is new.
    pub fn identity(&self) -> Option<String> {
        let id = match (&self.id, self.time) {
            (Some(id), _) => id.clone(),
            (None, Some(time)) if self.digest.is_some() => time.to_string(),
            // A time alone is that of two pushes in one second as well.
            (None, _) => return None,
        };
        let text = |part: Option<String>| part.unwrap_or_default();
        let (tag, digest) = (text(self.tag.as_ref().map(Tag::to_string)), text(self.digest.as_ref().map(Digest::to_string)));
        Some(format!("{id}\n{}\n{}\n{tag}\n{digest}", self.instance, self.repository))
    }

    /// When it happened, as well as we know.
    pub fn time(&self) -> Timestamp {
        self.time.unwrap_or(self.received)
    }

    /// The version that the push gives its tag. A sender whose clock is ahead does not win over pushes that come after it.
    pub fn version(&self) -> Version {
        Version { time: self.time().min(self.received), instance: self.instance.clone() }
    }

    /// The task that the event triggers for a rule. `nonce` tells apart the deliveries of an event without an identity.
    pub fn task(&self, rule: RuleId, nonce: &str) -> TaskId {
        match self.identity() {
            Some(identity) => TaskId::derive(rule, self.time(), &identity),
            None => TaskId::derive(rule, self.received, nonce),
        }
    }

    /// The place that the event tells to look at: its tag, or its digest where there is no tag.
    pub fn place(&self) -> Option<Place> {
        let reference = match (&self.tag, &self.digest) {
            (Some(tag), _) => Reference::Tag(tag.clone()),
            (None, Some(digest)) => Reference::Digest(digest.clone()),
            (None, None) => return None,
        };
        Some(Place { instance: self.instance.clone(), repository: self.repository.clone(), reference })
    }
}
