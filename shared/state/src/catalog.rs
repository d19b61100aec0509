//! The catalogue: instances and rules.
//!
//! Partition `catalog`: one item `version` that changes with every change. Partitions `catalog/instances` and
//! `catalog/rules`: an item each. A reader keeps a whole snapshot and asks only for the version, so that a rule that was
//! switched off is off in every warm environment at the next request.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Map, Value};
use transship_model::{Instance, InstanceName, Place, Repository, Rule, RuleId, RuleIndex, RuleName, TaskHead};

use crate::{Condition, Item, Key, Op, Query, StateError, Table, document, table::MAX_OPS};

/// The instances and rules as they were at one version.
#[derive(Debug, Default)]
pub struct Snapshot {
    version: i64,
    instances: BTreeMap<InstanceName, Arc<Instance>>,
    rules: HashMap<RuleId, Arc<Rule>>,
    names: BTreeMap<(InstanceName, RuleName), RuleId>,
    /// The enabled rules, ready to be matched.
    pub index: RuleIndex,
}

impl Snapshot {
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

    /// The instances whose webhooks are told of a task's end: those of its source and its target that have one, or the first of them
    /// where both have the same. Of a rule that is gone by then only the source is known.
    pub fn listeners(&self, task: &TaskHead) -> Vec<&Arc<Instance>> {
        let target = self.rule(task.id.rule()).map(|rule| &rule.target.instance);
        let mut urls = HashSet::new();
        let named = std::iter::once(&task.instance).chain(target).filter_map(|name| self.instance(name));
        named.filter(|instance| instance.notify.as_ref().is_some_and(|notify| urls.insert(&notify.url))).collect()
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

/// What a change of the catalogue did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Instances and rules that are new.
    pub created: usize,
    /// Those that were changed.
    pub changed: usize,
    /// Those that are gone.
    pub deleted: usize,
}

/// Reads and writes instances and rules.
pub struct Catalog {
    table: Arc<dyn Table>,
    cached: Mutex<Arc<Snapshot>>,
}

const INSTANCES: &str = "catalog/instances";
const RULES: &str = "catalog/rules";

fn version_key() -> Key {
    Key::new("catalog", "version")
}

impl Catalog {
    /// The catalogue in a table.
    pub fn new(table: Arc<dyn Table>) -> Self {
        Self { table, cached: Mutex::default() }
    }

    /// The instances and rules as they are now: one read of the table where nothing has changed since the last time.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>, StateError> {
        let item = self.table.get(&version_key()).await?;
        let version = item.as_ref().map_or(0, |item| document::number(item, "version"));
        let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if cached.version == version {
            return Ok(cached);
        }
        let fresh = Arc::new(self.load(version).await?);
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        Ok(fresh)
    }

    async fn load(&self, version: i64) -> Result<Snapshot, StateError> {
        let mut snapshot = Snapshot { version, ..Snapshot::default() };
        for item in self.all(INSTANCES).await? {
            let instance: Instance = document::value(item)?;
            snapshot.instances.insert(instance.name.clone(), Arc::new(instance));
        }
        for item in self.all(RULES).await? {
            let rule: Rule = document::value(item)?;
            snapshot.names.insert((rule.source.instance.clone(), rule.name.clone()), rule.id);
            snapshot.rules.insert(rule.id, Arc::new(rule));
        }
        snapshot.index = RuleIndex::new(snapshot.rules.values().cloned());
        Ok(snapshot)
    }

    async fn all(&self, partition: &str) -> Result<Vec<Item>, StateError> {
        let mut items = Vec::new();
        let mut after = None;
        loop {
            let partition = partition.to_owned();
            let query = Query { partition, prefix: String::new(), after, descending: false, limit: 1000 };
            let page = self.table.query(query).await?;
            items.extend(page.items);
            after = page.next;
            if after.is_none() {
                return Ok(items);
            }
        }
    }

    /// Brings the catalogue to exactly these instances and rules. A rule keeps its ID as long as its name stays, and gets a new
    /// revision when anything else of it changes; the IDs and revisions given are ignored.
    ///
    /// # Errors
    /// See [`StateError`]; a part may have been written then, and the same call again completes it.
    pub async fn replace(&self, instances: &[Instance], rules: &[Rule]) -> Result<Applied, StateError> {
        let state = self.table.get(&version_key()).await?;
        let mut version = state.as_ref().map_or(0, |item| document::number(item, "version"));
        let mut next_rule = state.as_ref().map_or(1, |item| document::number(item, "next_rule"));
        let old = self.load(version).await?;
        let mut applied = Applied::default();
        let mut ops = Vec::new();
        let mut put = |key: Key, attributes: Map<String, Value>, is_new: bool| {
            *if is_new { &mut applied.created } else { &mut applied.changed } += 1;
            ops.push(Op::Put { item: Item { key, attributes, expires: None }, condition: None });
        };
        for instance in instances {
            let known = old.instances.get(&instance.name);
            if known.is_none_or(|known| **known != *instance) {
                put(instance_key(&instance.name), document::attributes(instance)?, known.is_none());
            }
        }
        for rule in rules {
            let mut rule = rule.clone();
            let known = old.rule_named(&rule.source.instance, &rule.name);
            (rule.id, rule.revision) = match known {
                Some(known) => (known.id, known.revision),
                None => (RuleId(next_rule.unsigned_abs()), 1),
            };
            match known {
                None => next_rule += 1,
                Some(known) if **known == rule => continue,
                Some(_) => rule.revision += 1,
            }
            put(rule_key(&rule.source.instance, &rule.name), document::attributes(&rule)?, known.is_none());
        }
        let kept: std::collections::BTreeSet<Key> = instances
            .iter()
            .map(|instance| instance_key(&instance.name))
            .chain(rules.iter().map(|rule| rule_key(&rule.source.instance, &rule.name)))
            .collect();
        let keys =
            old.instances.keys().map(instance_key).chain(old.names.keys().map(|(instance, rule)| rule_key(instance, rule)));
        for key in keys.filter(|key| !kept.contains(key)) {
            applied.deleted += 1;
            ops.push(Op::Delete { key, condition: None });
        }
        for chunk in ops.chunks(MAX_OPS - 1) {
            let mut chunk = chunk.to_vec();
            let unchanged =
                if version == 0 { Condition::Absent } else { Condition::Equals("version".into(), Value::from(version)) };
            version += 1;
            let set = [("version", version), ("next_rule", next_rule)].map(|(name, n)| (name.to_owned(), Value::from(n)));
            let item = Item { key: version_key(), attributes: Map::from_iter(set), expires: None };
            chunk.push(Op::Put { item, condition: Some(unchanged) });
            self.table.write(chunk).await?;
        }
        Ok(applied)
    }
}

fn instance_key(name: &InstanceName) -> Key {
    Key::new(INSTANCES, name.as_str())
}

fn rule_key(instance: &InstanceName, rule: &RuleName) -> Key {
    Key::new(RULES, format!("{instance}/{rule}"))
}
