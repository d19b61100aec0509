//! Bringing the catalogue to what an owner wants of it: what is to be done first, and then doing it.

use std::collections::HashSet;

use transship_model::{Caller, Instance, Owner, Rule, Subscription};

use super::{Catalog, Change, Draft, Entry, Saved, move_on, version_key};
use crate::{
    AuditLog, Op, StateError, TableError,
    table::{
        MAX_OPS,
        limits::{MAX_WRITE, size},
    },
};

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

impl Catalog {
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

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::{super::RULES, *};
    use crate::{Item, Key};

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
