//! A change of the catalogue that is being decided about, and what it leaves behind.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use transship_model::{Instance, Owner, Rule, RuleId, Subscription};

use super::{Entry, Snapshot};
use crate::{Item, Op, StateError, document};

/// What the catalogue knows about an entry besides what it is. It lies in the entry's own item; an item without it has the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Grows with each change of what the entry is, from 1.
    #[serde(default = "one")]
    pub revision: u64,
    /// Whose it is. Of an entry that was stored before this was noted it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Of a rule whose first full run is still to be started: when it was made, or enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_run: Option<Timestamp>,
}

fn one() -> u64 {
    1
}

impl Stamp {
    /// The configuration file that it belongs to, if it does.
    pub fn file(&self) -> Option<&str> {
        self.owner.as_ref().and_then(Owner::file)
    }
}

/// What an entry is.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Instance(Arc<Instance>),
    Rule(Arc<Rule>),
    Subscription(Arc<Subscription>),
}

impl Content {
    pub(super) fn entry(&self) -> Entry {
        match self {
            Self::Instance(instance) => Entry::Instance(instance.name.clone()),
            Self::Rule(rule) => Entry::of_rule(rule),
            Self::Subscription(subscription) => Entry::Subscription(subscription.name.clone()),
        }
    }

    /// Whether both are the same, whatever IDs and revisions say.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Instance(a), Self::Instance(b)) => a == b,
            (Self::Rule(a), Self::Rule(b)) => **a == Rule { id: a.id, revision: a.revision, ..(**b).clone() },
            (Self::Subscription(a), Self::Subscription(b)) => a == b,
            _ => false,
        }
    }

    fn attributes(&self) -> Result<Map<String, Value>, StateError> {
        match self {
            Self::Instance(instance) => document::attributes(&**instance),
            Self::Rule(rule) => document::attributes(&**rule),
            Self::Subscription(subscription) => document::attributes(&**subscription),
        }
    }
}

/// What becomes of an entry.
#[derive(Debug)]
pub(super) enum Step {
    Put(Content, Stamp),
    Delete(Entry),
}

impl Step {
    pub(super) fn op(&self) -> Result<Op, StateError> {
        Ok(match self {
            Self::Put(content, stamp) => {
                let mut attributes = content.attributes()?;
                attributes.extend(document::attributes(stamp)?);
                Op::Put { item: Item { key: content.entry().key(), attributes, expires: None }, condition: None }
            }
            Self::Delete(entry) => Op::Delete { key: entry.key(), condition: None },
        })
    }
}

/// What a put comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// The entry's revision from then on.
    pub revision: u64,
    /// What it does to the entry; `None` where it was the same before.
    pub change: Option<Change>,
}

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// It is there, and is to be another.
    Changed,
    /// It is there as it should be, and only its owner is noted.
    Claimed,
    /// It is there, and is to go.
    Deleted,
}

/// A change of the catalogue that is being decided about: it is written whole or not at all, and only if the catalogue is still what
/// the decision was based on. It names each entry once, and has at most [`Draft::MAX_STEPS`] steps.
#[derive(Debug)]
pub struct Draft<'a> {
    at: &'a Snapshot,
    now: Timestamp,
    pub(super) next_rule: u64,
    pub(super) steps: Vec<Step>,
    pub(super) also: Vec<Op>,
}

impl<'a> Draft<'a> {
    /// The greatest number of steps in one change, with room for what else is written.
    pub const MAX_STEPS: usize = 50;

    pub(super) fn new(at: &'a Snapshot) -> Self {
        Self { at, now: Timestamp::now(), next_rule: at.next_rule, steps: Vec::new(), also: Vec::new() }
    }

    /// Makes an instance, or replaces it.
    pub fn put_instance(&mut self, instance: &Instance, owner: &Owner) -> Saved {
        let known = self.at.instance(&instance.name).cloned().map(Content::Instance);
        self.put(Content::Instance(Arc::new(instance.clone())), known, owner, None)
    }

    /// Makes a rule, or replaces it. A rule keeps its ID as long as its name stays; the ID and revision given are ignored. With
    /// `first_run` a new rule is one whose first full run is to be started, once it is enabled; without, no rule is.
    pub fn put_rule(&mut self, rule: &Rule, owner: &Owner, first_run: bool) -> Saved {
        let known = self.at.rule_named(&rule.source.instance, &rule.name).cloned();
        let stamp = self.at.stamp(&Entry::of_rule(rule));
        let mut rule = rule.clone();
        (rule.id, rule.revision) = match &known {
            Some(known) => (known.id, known.revision),
            None => (RuleId(self.next_rule), 0),
        };
        let begins = match &known {
            _ if !first_run => None,
            // It is triggered by being enabled.
            Some(known) if rule.enabled && !known.enabled => stamp.and_then(|stamp| stamp.first_run).map(|_| self.now),
            Some(_) => stamp.and_then(|stamp| stamp.first_run),
            None => Some(self.now),
        };
        let known = known.map(Content::Rule);
        if known.as_ref().is_none_or(|known| !known.is(&Content::Rule(Arc::new(rule.clone())))) {
            rule.revision += 1;
        }
        if known.is_none() {
            self.next_rule += 1;
        }
        self.put(Content::Rule(Arc::new(rule)), known, owner, begins)
    }

    /// Makes a subscription, or replaces it.
    pub fn put_subscription(&mut self, subscription: &Subscription, owner: &Owner) -> Saved {
        let known = self.at.subscriptions.get(&subscription.name).cloned().map(Content::Subscription);
        self.put(Content::Subscription(Arc::new(subscription.clone())), known, owner, None)
    }

    /// Notes that a rule's first full run has been started.
    pub fn has_begun(&mut self, rule: &Rule) {
        let Some(stamp) = self.at.stamp(&Entry::of_rule(rule)) else { return };
        let Some(rule) = self.at.rule(rule.id).filter(|_| stamp.first_run.is_some()) else { return };
        self.steps.push(Step::Put(Content::Rule(rule.clone()), Stamp { first_run: None, ..stamp.clone() }));
    }

    /// Deletes an entry, if it is there.
    pub fn delete(&mut self, entry: &Entry) {
        if self.at.stamp(entry).is_some() {
            self.steps.push(Step::Delete(entry.clone()));
        }
    }

    /// What else is to be written in the same transaction, under its own conditions.
    pub fn also(&mut self, op: Op) {
        self.also.push(op);
    }

    /// Makes or replaces what an entry is, of whatever kind.
    fn put(&mut self, content: Content, known: Option<Content>, owner: &Owner, first_run: Option<Timestamp>) -> Saved {
        let before = self.at.stamp(&content.entry());
        let is_same = known.is_some_and(|known| known.is(&content));
        let revision = before.map_or(0, |stamp| stamp.revision) + u64::from(!is_same);
        let stamp = Stamp { revision, owner: Some(owner.clone()), first_run };
        let change = match before {
            None => Some(Change::Created),
            Some(_) if !is_same => Some(Change::Changed),
            Some(before) if *before != stamp => Some(Change::Claimed),
            Some(_) => None,
        };
        if change.is_some() {
            self.steps.push(Step::Put(content, stamp));
        }
        Saved { revision, change }
    }
}
