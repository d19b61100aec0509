//! The catalogue: instances and rules.
//!
//! Partition `catalog`: one item `version` that changes with every change. Partitions `catalog/instances` and
//! `catalog/rules`: an item each. A reader keeps a whole snapshot and asks only for the version, so that a rule that was
//! switched off is off in every warm environment at the next request.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Map, Value};
use transship_model::{Instance, InstanceName, Place, Repository, Rule, RuleId, RuleIndex, RuleName, TaskHead};

use crate::{
    Condition, Item, Key, Op, Query, StateError, Table, TableError, document,
    origins::{self, Recalled},
    table::{
        MAX_OPS,
        limits::{MAX_WRITE, size},
    },
};

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

    /// All rules, enabled or not.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.values()
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
        Ok(self.recall(|_| Vec::new()).await?.0)
    }

    /// The instances and rules as they were when they were read last, without a call. A decision that begins with them asks
    /// [`Catalog::snapshot`] or [`Catalog::recall`] whether they still hold: then that gives the same `Arc`.
    pub fn last(&self) -> Arc<Snapshot> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The instances and rules as they are now, and the origins of some places, all in one read of the table where nothing has
    /// changed since the last time.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn recall(&self, places: impl Fn(&Snapshot) -> Vec<Place>) -> Result<(Arc<Snapshot>, Recalled), StateError> {
        let cached = self.last();
        let wanted = places(&cached);
        let mut items = self.read(std::iter::once(version_key()).chain(wanted.iter().map(origins::key)).collect()).await?;
        let version = items.next().flatten().as_ref().map_or(0, |item| document::number(item, "version"));
        if cached.version == version {
            return Ok((cached, Recalled::read(wanted, items)?));
        }
        let fresh = Arc::new(self.load(version).await?);
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        let wanted = places(&fresh);
        let items = self.read(wanted.iter().map(origins::key).collect()).await?;
        Ok((fresh, Recalled::read(wanted, items)?))
    }

    async fn read(&self, keys: Vec<Key>) -> Result<std::vec::IntoIter<Option<Item>>, StateError> {
        let items = match &keys[..] {
            [] => Vec::new(),
            [key] => vec![self.table.get(key).await?],
            keys => self.table.get_many(keys).await?,
        };
        Ok(items.into_iter())
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

    /// Brings the catalogue to exactly these instances and rules: carries out what [`Catalog::plan`] finds.
    ///
    /// # Errors
    /// See [`StateError`]; a part may have been written then, and the same call again completes it.
    pub async fn replace(&self, instances: &[Instance], rules: &[Rule]) -> Result<Applied, StateError> {
        self.carry_out(self.plan(instances, rules).await?).await
    }

    /// Finds out what is to be done so that the catalogue has exactly these instances and rules. A rule keeps its ID as long as its
    /// name stays, and gets a new revision when anything else of it changes; the IDs and revisions given are ignored.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn plan(&self, instances: &[Instance], rules: &[Rule]) -> Result<Plan, StateError> {
        let state = self.table.get(&version_key()).await?;
        let version = state.as_ref().map_or(0, |item| document::number(item, "version"));
        let mut next_rule = state.as_ref().map_or(1, |item| document::number(item, "next_rule"));
        let old = self.load(version).await?;
        let mut steps = Vec::new();
        let mut put = |what: Entry, attributes: Map<String, Value>, is_new: bool| {
            let op = Op::Put { item: Item { key: what.key(), attributes, expires: None }, condition: None };
            steps.push((if is_new { Change::Created } else { Change::Changed }, what, op));
        };
        for instance in instances {
            let known = old.instances.get(&instance.name);
            if known.is_none_or(|known| **known != *instance) {
                put(Entry::Instance(instance.name.clone()), document::attributes(instance)?, known.is_none());
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
            let what = Entry::Rule(rule.source.instance.clone(), rule.name.clone());
            put(what, document::attributes(&rule)?, known.is_none());
        }
        let kept: HashSet<Entry> = instances
            .iter()
            .map(|instance| Entry::Instance(instance.name.clone()))
            .chain(rules.iter().map(|rule| Entry::Rule(rule.source.instance.clone(), rule.name.clone())))
            .collect();
        // Rules go before the instances that they name.
        let known_rules = old.names.keys().map(|(instance, rule)| Entry::Rule(instance.clone(), rule.clone()));
        let known = known_rules.chain(old.instances.keys().cloned().map(Entry::Instance));
        for what in known.filter(|what| !kept.contains(what)) {
            let op = Op::Delete { key: what.key(), condition: None };
            steps.push((Change::Deleted, what, op));
        }
        Ok(Plan { version, next_rule, steps })
    }

    /// Does what a plan says, unless the catalogue has changed since it was made.
    ///
    /// # Errors
    /// See [`StateError`]; a part may have been written then, and another plan completes it.
    pub async fn carry_out(&self, plan: Plan) -> Result<Applied, StateError> {
        let applied = plan.applied();
        let Plan { mut version, next_rule, steps } = plan;
        for mut chunk in chunks(steps.into_iter().map(|(_, _, op)| op)) {
            let unchanged =
                if version == 0 { Condition::Absent } else { Condition::Equals("version".into(), Value::from(version)) };
            version += 1;
            let set = [("version", version), ("next_rule", next_rule)].map(|(name, n)| (name.to_owned(), Value::from(n)));
            let item = Item { key: version_key(), attributes: Map::from_iter(set), expires: None };
            chunk.push(Op::Put { item, condition: Some(unchanged) });
            self.table.write(chunk).await.map_err(|error| match error {
                TableError::Condition(_) => StateError::Contended("the catalogue".into()),
                other => other.into(),
            })?;
        }
        Ok(applied)
    }
}

/// Operations in chunks that each fit one write, with room for the version.
fn chunks(ops: impl Iterator<Item = Op>) -> Vec<Vec<Op>> {
    const ROOM: usize = MAX_WRITE - 1024;
    let mut chunks: Vec<Vec<Op>> = Vec::new();
    let mut bytes = 0;
    for op in ops {
        let size = size(&op);
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < MAX_OPS - 1 && bytes + size <= ROOM => {
                bytes += size;
                chunk.push(op);
            }
            _ => {
                bytes = size;
                chunks.push(vec![op]);
            }
        }
    }
    chunks
}

/// Something that the catalogue has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Entry {
    /// An instance.
    Instance(InstanceName),
    /// A rule, by its source instance and its name.
    Rule(InstanceName, RuleName),
}

impl Entry {
    fn key(&self) -> Key {
        match self {
            Self::Instance(name) => Key::new(INSTANCES, name.as_str()),
            Self::Rule(instance, rule) => Key::new(RULES, format!("{instance}/{rule}")),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(name) => write!(f, "instance {name}"),
            Self::Rule(instance, rule) => write!(f, "rule {instance}/{rule}"),
        }
    }
}

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// It is there, and is to be another.
    Changed,
    /// It is there, and is to go.
    Deleted,
}

/// What is to be done to bring the catalogue to what it should be.
#[derive(Debug)]
pub struct Plan {
    /// The version that it was made for.
    version: i64,
    next_rule: i64,
    steps: Vec<(Change, Entry, Op)>,
}

impl Plan {
    /// The same without its deletions, and how many there were.
    pub fn without_deletions(mut self) -> (Self, usize) {
        let all = self.steps.len();
        self.steps.retain(|(change, ..)| *change != Change::Deleted);
        let left = all - self.steps.len();
        (self, left)
    }

    /// What becomes of what, in the order in which it is done. What stays as it is is left out.
    pub fn changes(&self) -> impl Iterator<Item = (Change, &Entry)> {
        self.steps.iter().map(|(change, entry, _)| (*change, entry))
    }

    /// How much there is to do.
    pub fn applied(&self) -> Applied {
        let count = |wanted| self.steps.iter().filter(|(change, ..)| *change == wanted).count();
        Applied { created: count(Change::Created), changed: count(Change::Changed), deleted: count(Change::Deleted) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: large rules, fewer than a hundred of them, that DynamoDB refuses to write at once.
    #[test]
    fn a_chunk_fits_one_write_by_number_and_by_bytes() {
        let put = |n: usize, bytes: usize| {
            let attributes = Map::from_iter([("text".to_owned(), Value::from("x".repeat(bytes)))]);
            Op::Put { item: Item { key: Key::new(RULES, n.to_string()), attributes, expires: None }, condition: None }
        };
        let lengths = |ops: Vec<Op>| chunks(ops.into_iter()).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths((0..200).map(|n| put(n, 10)).collect()), [99, 99, 2]);
        assert_eq!(lengths((0..25).map(|n| put(n, 399 << 10)).collect()), [10, 10, 5]);
        assert_eq!(lengths(vec![]), Vec::<usize>::new());
    }
}
