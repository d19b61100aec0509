//! The catalogue as it was at one version.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, LazyLock},
};

use transship_model::{
    Instance, InstanceName, Place, Repository, Rule, RuleId, RuleIndex, RuleName, Subscription, SubscriptionName,
};

use super::{
    Entry, Stamp,
    draft::{Content, Step},
};

/// The instances and rules as they were at one version.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) version: i64,
    /// The ID that the next rule gets.
    pub(super) next_rule: u64,
    pub(super) instances: BTreeMap<InstanceName, Arc<Instance>>,
    pub(super) rules: HashMap<RuleId, Arc<Rule>>,
    pub(super) names: BTreeMap<(InstanceName, RuleName), RuleId>,
    pub(super) subscriptions: BTreeMap<SubscriptionName, Arc<Subscription>>,
    pub(super) stamps: HashMap<Entry, Stamp>,
    /// The enabled rules, ready to be matched. It is made when it is first looked at: who changes one rule after the other needs none.
    pub index: LazyIndex,
}

/// An index that is made when it is first looked at.
type LazyIndex = LazyLock<RuleIndex, Box<dyn FnOnce() -> RuleIndex + Send>>;

pub(super) fn index_of(rules: impl Iterator<Item = Arc<Rule>>) -> LazyIndex {
    let rules: Vec<_> = rules.collect();
    LazyLock::new(Box::new(move || RuleIndex::new(rules)))
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            version: 0,
            next_rule: 1,
            instances: BTreeMap::new(),
            rules: HashMap::new(),
            names: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            stamps: HashMap::new(),
            index: index_of(std::iter::empty()),
        }
    }
}

impl Snapshot {
    /// What is known about an entry besides what it is, if it is there.
    pub fn stamp(&self, entry: &Entry) -> Option<&Stamp> {
        self.stamps.get(entry)
    }

    /// All rules, enabled or not, in the order of their paths.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.names.values().filter_map(|id| self.rules.get(id))
    }

    /// The rules that copy from an instance or to it, in the order of their paths.
    pub fn rules_naming(&self, instance: &InstanceName) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules().filter(move |rule| [&rule.source.instance, &rule.target.instance].contains(&instance))
    }

    /// If a rule's first full run is to be started: since when.
    pub fn begins(&self, rule: &Rule) -> Option<jiff::Timestamp> {
        self.stamp(&Entry::of_rule(rule))?.first_run.filter(|_| rule.enabled)
    }

    pub(super) fn insert(&mut self, content: Content, stamp: Stamp) {
        self.stamps.insert(content.entry(), stamp);
        match content {
            Content::Instance(instance) => drop(self.instances.insert(instance.name.clone(), instance)),
            Content::Rule(rule) => {
                self.names.insert((rule.source.instance.clone(), rule.name.clone()), rule.id);
                self.rules.insert(rule.id, rule);
            }
            Content::Subscription(subscription) => {
                self.subscriptions.insert(subscription.name.clone(), subscription);
            }
        }
    }

    fn remove(&mut self, entry: &Entry) {
        self.stamps.remove(entry);
        match entry {
            Entry::Instance(name) => drop(self.instances.remove(name)),
            Entry::Rule(instance, name) => {
                let id = self.names.remove(&(instance.clone(), name.clone()));
                id.map(|id| self.rules.remove(&id));
            }
            Entry::Subscription(name) => drop(self.subscriptions.remove(name)),
        }
    }

    /// The same after a change.
    pub(super) fn after(&self, next_rule: u64, steps: Vec<Step>) -> Self {
        let mut next = Self {
            version: self.version + 1,
            next_rule,
            instances: self.instances.clone(),
            rules: self.rules.clone(),
            names: self.names.clone(),
            subscriptions: self.subscriptions.clone(),
            stamps: self.stamps.clone(),
            index: index_of(std::iter::empty()),
        };
        for step in steps {
            match step {
                Step::Put(content, stamp) => next.insert(content, stamp),
                Step::Delete(entry) => next.remove(&entry),
            }
        }
        next.index = index_of(next.rules.values().cloned());
        next
    }

    /// An instance by name.
    pub fn instance(&self, name: &InstanceName) -> Option<&Arc<Instance>> {
        self.instances.get(name)
    }

    /// All instances, in the order of their names.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.values()
    }

    /// A rule by ID, enabled or not.
    pub fn rule(&self, id: RuleId) -> Option<&Arc<Rule>> {
        self.rules.get(&id)
    }

    /// A rule by name, enabled or not.
    pub fn rule_named(&self, instance: &InstanceName, name: &RuleName) -> Option<&Arc<Rule>> {
        self.names.get(&(instance.clone(), name.clone())).and_then(|id| self.rules.get(id))
    }

    /// An instance's rules, in the order of their names.
    pub fn rules_of(&self, instance: &InstanceName) -> impl Iterator<Item = &Arc<Rule>> {
        let of_instance = move |entry: &(&(InstanceName, RuleName), &RuleId)| entry.0.0 == *instance;
        self.names.iter().filter(of_instance).filter_map(|(_, id)| self.rules.get(id))
    }

    /// The rule if it is enabled and still leads from `source` to `target`. An attachment is asked for without regard to tags.
    pub fn rule_in_force(&self, id: RuleId, source: &Place, target: &Place, attachment: bool) -> Option<&Arc<Rule>> {
        let rule = self.rules.get(&id)?;
        let leads_there = rule.target.instance == target.instance
            && rule.target_repository(&source.repository).is_some_and(|to| to.as_ref() == Ok(&target.repository));
        let selecting = match source.reference.tag().filter(|_| !attachment) {
            Some(tag) => self.index.of_tag(&source.instance, &source.repository, tag),
            None => self.index.of_repository(&source.instance, &source.repository),
        };
        // The index holds enabled rules only.
        (leads_there && selecting.iter().any(|rule| rule.id == id)).then_some(rule)
    }

    /// The rules that copy a tag of `place` on, with the repositories that they copy it to.
    pub fn rules_from(&self, place: &Place) -> Vec<(&Arc<Rule>, Repository)> {
        let rules = match place.reference.tag() {
            Some(tag) => self.index.of_tag(&place.instance, &place.repository, tag),
            None => self.index.of_repository(&place.instance, &place.repository),
        };
        let with_target = |rule| {
            let rule: &Arc<Rule> = rule;
            rule.target_repository(&place.repository)?.ok().map(|to| (rule, to))
        };
        rules.into_iter().filter_map(with_target).collect()
    }

    /// Whether versions decide about a copy by `rule`: where another source is copied to the same target, or rules lead from the
    /// target back to the source.
    pub fn is_contested(&self, rule: &Rule, source: &Place, target: &Place) -> bool {
        let from_elsewhere = |(other, repository): (&Arc<Rule>, Repository)| {
            other.id != rule.id && (&other.source.instance, &repository) != (&source.instance, &source.repository)
        };
        self.index.that_write(&target.instance, &target.repository, &target.reference).any(from_elsewhere)
            || self.leads_back(target, source)
    }

    /// Whether versions decide about what is copied to `place`, so that it has a newest content, which it should hold.
    pub fn has_versions(&self, place: &Place) -> bool {
        self.index.that_write(&place.instance, &place.repository, &place.reference).any(|(rule, repository)| {
            let source = Place { instance: rule.source.instance.clone(), repository, reference: place.reference.clone() };
            self.is_contested(rule, &source, place)
        })
    }

    /// Whether versions decide about a copy that a push to `place` leads to, however many steps away: what is pushed there needs
    /// a version from the beginning.
    pub fn leads_to_versions(&self, place: &Place) -> bool {
        self.any_step(place, |rule, source, target| self.is_contested(rule, source, target))
    }

    fn leads_back(&self, from: &Place, to: &Place) -> bool {
        self.any_step(from, |_, _, target| target == to)
    }

    /// Whether there is such a step, by a rule from a source to a target, among all that a push to `from` may lead to.
    fn any_step(&self, from: &Place, is_such: impl Fn(&Rule, &Place, &Place) -> bool) -> bool {
        let mut seen = HashSet::from([from.clone()]);
        let mut next = vec![from.clone()];
        while let Some(source) = next.pop() {
            for (rule, repository) in self.rules_from(&source) {
                let (instance, reference) = (rule.target.instance.clone(), from.reference.clone());
                let target = Place { instance, repository, reference };
                if is_such(rule, &source, &target) {
                    return true;
                }
                if seen.insert(target.clone()) {
                    next.push(target);
                }
            }
        }
        false
    }
}
