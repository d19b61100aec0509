//! The catalogue: instances, rules and subscriptions.
//!
//! Partition `catalog`: one item `version` that changes with every change. Partitions `catalog/instances`, `catalog/rules` and
//! `catalog/subscriptions`: an item each. A reader keeps a whole snapshot and asks only for the version, so that a rule that was
//! switched off is off in every warm environment at the next request.
//!
//! A change is decided on a snapshot and written on condition that the version is still the snapshot's ([`Catalog::edit`]): what was
//! true of the whole catalogue when it was decided (no rule names the instance that goes) is true when it is written.

mod draft;
mod subscribers;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use transship_model::{
    Caller, Instance, InstanceName, Owner, Place, Repository, Rule, RuleId, RuleIndex, RuleName, Subscription, SubscriptionName,
};

pub use draft::{Change, Draft, Saved, Stamp};
use draft::{Content, Step};

use crate::{
    AuditEntry, AuditLog, Condition, Item, Key, Op, Query, StateError, Table, TableError, document,
    origins::{self, Recalled},
    table::{
        MAX_OPS,
        limits::{MAX_WRITE, size},
    },
};

/// The instances and rules as they were at one version.
#[derive(Debug)]
pub struct Snapshot {
    version: i64,
    /// The ID that the next rule gets.
    next_rule: u64,
    instances: BTreeMap<InstanceName, Arc<Instance>>,
    rules: HashMap<RuleId, Arc<Rule>>,
    names: BTreeMap<(InstanceName, RuleName), RuleId>,
    subscriptions: BTreeMap<SubscriptionName, Arc<Subscription>>,
    stamps: HashMap<Entry, Stamp>,
    /// The enabled rules, ready to be matched. It is made when it is first looked at: who changes one rule after the other needs none.
    pub index: LazyIndex,
}

/// An index that is made when it is first looked at.
type LazyIndex = LazyLock<RuleIndex, Box<dyn FnOnce() -> RuleIndex + Send>>;

fn index_of(rules: impl Iterator<Item = Arc<Rule>>) -> LazyIndex {
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

    fn insert(&mut self, content: Content, stamp: Stamp) {
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
    fn after(&self, next_rule: u64, steps: Vec<Step>) -> Self {
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
    /// Changes by one process wait for each other here, and not in a contest for the table.
    changing: tokio::sync::Mutex<()>,
}

const INSTANCES: &str = "catalog/instances";
const RULES: &str = "catalog/rules";
const SUBSCRIPTIONS: &str = "catalog/subscriptions";

fn version_key() -> Key {
    Key::new("catalog", "version")
}

/// So often a change is decided again because others have changed the catalogue meanwhile.
const TRIES: u32 = 40;

impl Catalog {
    /// The greatest number of instances.
    pub const MAX_INSTANCES: usize = 1000;
    /// The greatest number of rules.
    pub const MAX_RULES: usize = 20_000;
    /// The greatest number of subscriptions.
    pub const MAX_SUBSCRIPTIONS: usize = 1000;

    /// The catalogue in a table.
    pub fn new(table: Arc<dyn Table>) -> Self {
        Self { table, cached: Mutex::default(), changing: tokio::sync::Mutex::default() }
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
        let state = items.next().flatten();
        if cached.version == state.as_ref().map_or(0, |item| document::number(item, "version")) {
            return Ok((cached, Recalled::read(wanted, items)?));
        }
        let fresh = Arc::new(self.load(state.as_ref()).await?);
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

    /// Reads all entries; `state` is what was at [`version_key`] before. What has changed since then shows in the version.
    async fn load(&self, state: Option<&Item>) -> Result<Snapshot, StateError> {
        let mut snapshot = Snapshot::default();
        if let Some(state) = state {
            snapshot.version = document::number(state, "version");
            snapshot.next_rule = document::number(state, "next_rule").max(1).unsigned_abs();
        }
        for item in self.all(INSTANCES).await? {
            let stamp = document::value(item.clone())?;
            snapshot.insert(Content::Instance(Arc::new(document::value(item)?)), stamp);
        }
        for item in self.all(RULES).await? {
            let stamp = document::value(item.clone())?;
            snapshot.insert(Content::Rule(Arc::new(document::value(item)?)), stamp);
        }
        for item in self.all(SUBSCRIPTIONS).await? {
            let stamp = document::value(item.clone())?;
            snapshot.insert(Content::Subscription(Arc::new(document::value(item)?)), stamp);
        }
        snapshot.index = index_of(snapshot.rules.values().cloned());
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

    /// Changes the catalogue: asks `decide` what is to be done, given what there is, and writes that on condition that the catalogue is
    /// still the same; if it is not, asks again. Returns what `decide` said in the end, and the catalogue after the change. A draft
    /// with no steps changes nothing; what it has besides is written all the same.
    ///
    /// # Errors
    /// What `decide` says, and [`StateError`]. Nothing has been written then, but of [`StateError::Unavailable`] that is not sure.
    pub async fn edit<T, E: From<StateError>>(
        &self,
        decide: impl Fn(&Snapshot, &mut Draft<'_>) -> Result<T, E>,
    ) -> Result<(Arc<Snapshot>, T), E> {
        let _turn = self.changing.lock().await;
        for n in 1..=TRIES {
            let before = self.snapshot().await?;
            let mut draft = Draft::new(&before);
            let decision = decide(&before, &mut draft)?;
            let Draft { next_rule, steps, also, .. } = draft;
            if steps.is_empty() && also.is_empty() {
                return Ok((before, decision));
            }
            let is_changed = !steps.is_empty();
            let state = if is_changed {
                move_on(before.version, next_rule)
            } else {
                Op::Check { key: version_key(), condition: is_at(before.version) }
            };
            let mut ops = vec![state];
            for step in &steps {
                ops.push(step.op()?);
            }
            ops.extend(also);
            match self.table.write(ops).await {
                Ok(()) if is_changed => {
                    let after = Arc::new(before.after(next_rule, steps));
                    let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
                    if cached.version == before.version {
                        *cached = after.clone();
                    }
                    return Ok((after, decision));
                }
                Ok(()) => return Ok((before, decision)),
                Err(TableError::Condition(0)) => {
                    // Another process was faster. Somebody of us always gets on.
                    let most = 10 * u64::from(n.min(10));
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=most))).await;
                }
                Err(TableError::Condition(_)) => return Err(StateError::Contended("what the change depends on".into()).into()),
                Err(error) => return Err(StateError::from(error).into()),
            }
        }
        Err(StateError::Contended("the catalogue".into()).into())
    }

    /// Brings what the API owns of the catalogue to exactly these instances and rules: carries out what [`Catalog::plan`] finds, without
    /// first runs.
    ///
    /// # Errors
    /// See [`StateError`]; a part may have been written then, and the same call again completes it.
    pub async fn replace(&self, instances: &[Instance], rules: &[Rule]) -> Result<Applied, StateError> {
        self.carry_out(self.plan(&Owner::Api, instances, rules, false).await?).await
    }

    /// Finds out what is to be done so that the owner has exactly these instances and rules. A rule keeps its ID as long as its
    /// name stays, and gets a new revision when anything else of it changes; the IDs and revisions given are ignored. What belongs to
    /// others stays: [`Plan::refusals`] says where that is in the way. An entry of which nobody knows whose it is, is the owner's, and
    /// so is for a configuration file what another file has left behind: there is one at a time. With `first_run` new rules are
    /// those whose first full run is to be started.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn plan(
        &self,
        owner: &Owner,
        instances: &[Instance],
        rules: &[Rule],
        first_run: bool,
    ) -> Result<Plan, StateError> {
        self.plan_for(owner, Wanted { instances, rules, subscriptions: None }, first_run, false).await
    }

    /// As [`Catalog::plan`], and so that the owner has exactly these subscriptions.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn plan_all(
        &self,
        owner: &Owner,
        instances: &[Instance],
        rules: &[Rule],
        subscriptions: &[Subscription],
        first_run: bool,
    ) -> Result<Plan, StateError> {
        self.plan_for(owner, Wanted { instances, rules, subscriptions: Some(subscriptions) }, first_run, false).await
    }

    /// As [`Catalog::plan_all`], but what belongs to others under the names that are given becomes the owner's. Rules keep their IDs, and
    /// so their logs.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn plan_adopting(
        &self,
        owner: &Owner,
        instances: &[Instance],
        rules: &[Rule],
        subscriptions: &[Subscription],
        first_run: bool,
    ) -> Result<Plan, StateError> {
        self.plan_for(owner, Wanted { instances, rules, subscriptions: Some(subscriptions) }, first_run, true).await
    }

    /// Finds out what is to be done so that all there is becomes the owner's, as it is.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn plan_handover(&self, owner: &Owner) -> Result<Plan, StateError> {
        let now = self.snapshot().await?;
        let instances: Vec<Instance> = now.instances().map(|instance| (**instance).clone()).collect();
        let rules: Vec<Rule> = now.rules().map(|rule| (**rule).clone()).collect();
        let subscriptions: Vec<Subscription> = now.subscriptions.values().map(|known| (**known).clone()).collect();
        // With first runs: those that are still to be started stay so, and nothing is new.
        self.plan_adopting(owner, &instances, &rules, &subscriptions, true).await
    }

    async fn plan_for(&self, owner: &Owner, wanted: Wanted<'_>, first_run: bool, adopts: bool) -> Result<Plan, StateError> {
        let Wanted { instances, rules, subscriptions } = wanted;
        let state = self.table.get(&version_key()).await?;
        let old = self.load(state.as_ref()).await?;
        let is_ours = |entry: &Entry| match old.stamp(entry).and_then(|stamp| stamp.owner.as_ref()) {
            None => true,
            Some(known) => known.file().is_some() == owner.file().is_some(),
        };
        let may_have = |entry: &Entry| adopts || is_ours(entry);
        let mut draft = Draft::new(&old);
        let mut changes = Vec::new();
        let (mut taken, mut needed) = (Vec::new(), Vec::new());
        let mut kept = HashSet::new();
        let mut note = |entry: Entry, saved: Option<Saved>| {
            match (saved, old.stamp(&entry)) {
                (Some(saved), _) => changes.extend(saved.change.map(|change| (change, entry.clone()))),
                (None, stamp) => {
                    let whose = stamp.and_then(|stamp| stamp.owner.as_ref()).map(Owner::to_string).unwrap_or_default();
                    taken.push(format!("{entry} is {owner}'s and {whose}'s: give one of the two another name, or delete one"));
                }
            }
            kept.insert(entry);
        };
        for instance in instances {
            let entry = Entry::Instance(instance.name.clone());
            let saved = may_have(&entry).then(|| draft.put_instance(instance, owner));
            note(entry, saved);
        }
        for rule in rules {
            let entry = Entry::of_rule(rule);
            let saved = may_have(&entry).then(|| draft.put_rule(rule, owner, first_run));
            note(entry, saved);
        }
        for subscription in subscriptions.unwrap_or_default() {
            let entry = Entry::Subscription(subscription.name.clone());
            let saved = may_have(&entry).then(|| draft.put_subscription(subscription, owner));
            note(entry, saved);
        }
        // Rules go before the instances that they name.
        let known_rules = old.rules().map(|rule| Entry::of_rule(rule));
        let known_subscriptions = subscriptions.map(|_| old.subscriptions.keys().cloned().map(Entry::Subscription));
        let known = known_subscriptions.into_iter().flatten().chain(known_rules);
        let known = known.chain(old.instances.keys().cloned().map(Entry::Instance));
        let gone: Vec<Entry> = known.filter(|entry| !kept.contains(entry) && is_ours(entry)).collect();
        let goes: HashSet<&Entry> = gone.iter().collect();
        for entry in &gone {
            if let Entry::Instance(name) = entry {
                let stay = old.rules_naming(name).map(|rule| Entry::of_rule(rule)).filter(|rule| !goes.contains(rule));
                let stay: Vec<String> = stay.filter(|rule| !kept.contains(rule)).map(|rule| rule.to_string()).collect();
                if !stay.is_empty() {
                    needed.push(format!("{entry} is to be deleted, and is named by {}: delete that first", stay.join(", ")));
                }
            }
            draft.delete(entry);
            changes.push((Change::Deleted, entry.clone()));
        }
        let Draft { next_rule, steps, .. } = draft;
        let steps = changes.into_iter().zip(steps).map(|((change, entry), step)| Ok((change, entry, step.op()?)));
        Ok(Plan { version: old.version, next_rule, steps: steps.collect::<Result<_, StateError>>()?, taken, needed, by: None })
    }

    /// Does what a plan says, unless the catalogue has changed since it was made.
    ///
    /// # Errors
    /// See [`StateError`]; a part may have been written then, and another plan completes it.
    pub async fn carry_out(&self, plan: Plan) -> Result<Applied, StateError> {
        let applied = plan.applied();
        let Plan { mut version, next_rule, steps, by, .. } = plan;
        let audit = AuditLog::new(self.table.clone());
        let noted = steps.into_iter().map(|(change, entry, op)| {
            let note = by.as_ref().and_then(|(caller, details)| entry.note(change, caller, details));
            let note = note.map(|note| audit.op(&note)).transpose()?;
            Ok(std::iter::once(op).chain(note).collect())
        });
        for mut chunk in chunks(noted.collect::<Result<Vec<_>, StateError>>()?) {
            chunk.push(move_on(version, next_rule));
            version += 1;
            self.table.write(chunk).await.map_err(|error| match error {
                TableError::Condition(_) => StateError::Contended("the catalogue".into()),
                other => other.into(),
            })?;
        }
        Ok(applied)
    }
}

/// Nobody has changed the catalogue since it was at this version.
fn is_at(version: i64) -> Condition {
    if version == 0 { Condition::Absent } else { Condition::Equals("version".into(), Value::from(version)) }
}

/// The catalogue's version after this one, on condition that it is this one.
fn move_on(version: i64, next_rule: u64) -> Op {
    let set = [("version", Value::from(version + 1)), ("next_rule", Value::from(next_rule))];
    let attributes = set.map(|(name, number)| (name.to_owned(), number)).into_iter().collect();
    Op::Put { item: Item { key: version_key(), attributes, expires: None }, condition: Some(is_at(version)) }
}

/// Operations in chunks that each fit one write, with room for the version. What belongs together stays together.
fn chunks(groups: Vec<Vec<Op>>) -> Vec<Vec<Op>> {
    const ROOM: usize = MAX_WRITE - 1024;
    let mut chunks: Vec<Vec<Op>> = Vec::new();
    let mut bytes = 0;
    for group in groups {
        let size: usize = group.iter().map(size).sum();
        match chunks.last_mut() {
            Some(chunk) if chunk.len() + group.len() < MAX_OPS && bytes + size <= ROOM => {
                bytes += size;
                chunk.extend(group);
            }
            _ => {
                bytes = size;
                chunks.push(group);
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
    /// A subscription.
    Subscription(SubscriptionName),
}

impl Entry {
    /// A rule's.
    pub fn of_rule(rule: &Rule) -> Self {
        Self::Rule(rule.source.instance.clone(), rule.name.clone())
    }

    /// What the audit tells of a change, in the words that it has for the API's. A new owner is no change of what it is.
    fn note(&self, change: Change, caller: &Caller, details: &str) -> Option<AuditEntry> {
        let verb = match change {
            Change::Created => "create",
            Change::Changed => "change",
            Change::Deleted => "delete",
            Change::Claimed => return None,
        };
        let (kind, name) = match self {
            Self::Instance(name) => ("instance", name.to_string()),
            Self::Rule(instance, name) => ("rule", format!("{instance}/{name}")),
            Self::Subscription(name) => ("subscription", name.to_string()),
        };
        Some(AuditEntry::new(caller, &format!("{kind}.{verb}"), name, details))
    }

    fn key(&self) -> Key {
        match self {
            Self::Instance(name) => Key::new(INSTANCES, name.as_str()),
            Self::Rule(instance, rule) => Key::new(RULES, format!("{instance}/{rule}")),
            Self::Subscription(name) => Key::new(SUBSCRIPTIONS, name.as_str()),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(name) => write!(f, "instance {name}"),
            Self::Rule(instance, rule) => write!(f, "rule {instance}/{rule}"),
            Self::Subscription(name) => write!(f, "subscription {name}"),
        }
    }
}

/// What an owner is to have.
struct Wanted<'a> {
    instances: &'a [Instance],
    rules: &'a [Rule],
    /// `None`: whatever there is.
    subscriptions: Option<&'a [Subscription]>,
}

/// What is to be done to bring the catalogue to what it should be.
#[derive(Debug)]
pub struct Plan {
    /// The version that it was made for.
    version: i64,
    next_rule: u64,
    steps: Vec<(Change, Entry, Op)>,
    /// What belongs to somebody else.
    taken: Vec<String>,
    /// What can't be deleted, because somebody else names it.
    needed: Vec<String>,
    /// Who carries it out, for the audit, and how.
    by: Option<(Caller, String)>,
}

impl Plan {
    /// The same, which notes each change in the audit as this caller's.
    #[must_use]
    pub fn by(self, caller: Caller, how: impl Into<String>) -> Self {
        Self { by: Some((caller, how.into())), ..self }
    }

    /// The same without its deletions, and how many there were.
    pub fn without_deletions(mut self) -> (Self, usize) {
        let all = self.steps.len();
        self.steps.retain(|(change, ..)| *change != Change::Deleted);
        let left = all - self.steps.len();
        self.needed.clear();
        (self, left)
    }

    /// What becomes of what, in the order in which it is done. What stays as it is is left out.
    pub fn changes(&self) -> impl Iterator<Item = (Change, &Entry)> {
        self.steps.iter().map(|(change, entry, _)| (*change, entry)).filter(|(change, _)| *change != Change::Claimed)
    }

    /// Where somebody else's entries are in the way, in words for whoever has to mend it. A plan that has any is not to be carried out.
    pub fn refusals(&self) -> Vec<&str> {
        self.taken.iter().chain(&self.needed).map(String::as_str).collect()
    }

    /// Whether there are any of others' that [`Catalog::plan_adopting`] would take over.
    pub fn has_others(&self) -> bool {
        !self.taken.is_empty()
    }

    /// How much there is to do.
    pub fn applied(&self) -> Applied {
        let count = |wanted| self.steps.iter().filter(|(change, ..)| *change == wanted).count();
        Applied { created: count(Change::Created), changed: count(Change::Changed), deleted: count(Change::Deleted) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    /// Would break: large rules, fewer than a hundred of them, that DynamoDB refuses to write at once.
    #[test]
    fn a_chunk_fits_one_write_by_number_and_by_bytes() {
        let put = |n: usize, bytes: usize| {
            let attributes = Map::from_iter([("text".to_owned(), Value::from("x".repeat(bytes)))]);
            Op::Put { item: Item { key: Key::new(RULES, n.to_string()), attributes, expires: None }, condition: None }
        };
        let lengths =
            |ops: Vec<Op>| chunks(ops.into_iter().map(|op| vec![op]).collect()).iter().map(Vec::len).collect::<Vec<_>>();
        let pairs = (0..100).map(|n| vec![put(2 * n, 10), put(2 * n + 1, 10)]).collect();
        assert_eq!(chunks(pairs).iter().map(Vec::len).collect::<Vec<_>>(), [98, 98, 4], "no change without what tells of it");
        assert_eq!(lengths((0..200).map(|n| put(n, 10)).collect()), [99, 99, 2]);
        assert_eq!(lengths((0..25).map(|n| put(n, 399 << 10)).collect()), [10, 10, 5]);
        assert_eq!(lengths(vec![]), Vec::<usize>::new());
    }
}
