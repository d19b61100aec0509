//! An entry of `subscriptions`.

use std::collections::BTreeSet;

use transship_model::{EventPattern, EventType, InstanceName, RulePath, Subscription, SubscriptionName, input};

use super::{
    instance::notify,
    rule::no_instance,
    spelling::nearest,
    yaml::{Node, Notes, quoted},
};

const KEYS: &[&str] = &["name", "description", "instances", "rules", "events", "webhook", "enabled"];

/// Reads subscriptions, one after the other.
pub(super) struct Reader<'a> {
    /// What they may name, if that is known here.
    known: Option<Known<'a>>,
}

struct Known<'a> {
    instances: BTreeSet<&'a InstanceName>,
    rules: BTreeSet<RulePath>,
}

impl<'a> Reader<'a> {
    /// A reader of subscriptions that may name these instances and rules.
    pub(super) fn new(instances: impl Iterator<Item = &'a InstanceName>, rules: impl Iterator<Item = RulePath>) -> Self {
        Self { known: Some(Known { instances: instances.collect(), rules: rules.collect() }) }
    }

    /// A reader of subscriptions of which somebody else knows what they may name.
    pub(super) fn of_others() -> Self {
        Self { known: None }
    }

    /// Reads a subscription. `None` if it has mistakes, which are noted then.
    pub(super) fn read(&self, node: &Node<'_>, notes: &mut Notes) -> Option<Subscription> {
        let keys = node.mapping(KEYS, notes)?;
        let name = keys.need("name", "a short name, like 'ci'", notes).and_then(|node| name(node, notes));
        let description = keys.get("description").map_or(Some(String::new()), |node| node.checked(input::description, notes));
        let instances =
            keys.get("instances").map_or(Some(Vec::new()), |node| each(node, notes, |n, notes| self.instance(n, notes)));
        let rules = keys.get("rules").map_or(Some(Vec::new()), |node| each(node, notes, |n, notes| self.rule(n, notes)));
        let events = keys.get("events").map_or(Some(EventPattern::tasks()), |node| events(node, notes));
        let webhook = keys
            .need("webhook", "where it is told, like '{ url: https://ci.example.com/transship }'", notes)
            .and_then(|node| notify(node, notes));
        let enabled = keys.get("enabled").map_or(Some(true), |node| node.flag(notes));
        Some(Subscription {
            name: name?,
            description: description?,
            instances: instances?,
            rules: rules?,
            events: events?,
            webhook: webhook?,
            enabled: enabled?,
        })
    }

    fn instance(&self, node: &Node<'_>, notes: &mut Notes) -> Option<InstanceName> {
        let name: InstanceName = node.parsed(notes)?;
        match &self.known {
            Some(known) if !known.instances.contains(&name) => {
                notes.mistake(node, no_instance(&name, &known.instances));
                None
            }
            _ => Some(name),
        }
    }

    fn rule(&self, node: &Node<'_>, notes: &mut Notes) -> Option<RulePath> {
        let path: RulePath = node.parsed(notes)?;
        let Some(known) = self.known.as_ref().filter(|known| !known.rules.contains(&path)) else { return Some(path) };
        let paths: Vec<String> = known.rules.iter().map(ToString::to_string).collect();
        let text = path.to_string();
        let meant = nearest(&text, paths.iter().map(String::as_str)).map(|meant| format!(": did you mean '{meant}'?"));
        notes.mistake(
            node,
            format!("there is no rule '{text}'{}", meant.unwrap_or_else(|| ": describe it under 'rules'".into())),
        );
        None
    }
}

fn name(node: &Node<'_>, notes: &mut Notes) -> Option<SubscriptionName> {
    let name: SubscriptionName = node.parsed(notes)?;
    if name.instance().is_some() {
        notes.mistake(node, "names that begin with 'instance:' stand for what instances' own 'notify' says: choose another");
        return None;
    }
    Some(name)
}

/// Reads a list whose entries are different.
fn each<T: PartialEq>(
    node: &Node<'_>,
    notes: &mut Notes,
    mut read: impl FnMut(&Node<'_>, &mut Notes) -> Option<T>,
) -> Option<Vec<T>> {
    let items = node.items(Subscription::MAX_FILTER, notes)?;
    let found: Vec<_> = items.iter().map(|item| read(item, notes)).collect();
    let mut entries: Vec<T> = Vec::with_capacity(found.len());
    for entry in found.into_iter().collect::<Option<Vec<T>>>()? {
        if entries.contains(&entry) {
            notes.mistake(node, "something is given twice");
            return None;
        }
        entries.push(entry);
    }
    Some(entries)
}

fn events(node: &Node<'_>, notes: &mut Notes) -> Option<Vec<EventPattern>> {
    let events = each(node, notes, event)?;
    if events.is_empty() {
        notes.mistake(
            node,
            "a subscription to nothing: leave 'events' out for the ends of all tasks, or name at least one type",
        );
        return None;
    }
    Some(events)
}

fn event(node: &Node<'_>, notes: &mut Notes) -> Option<EventPattern> {
    let text = node.text(notes)?;
    let found = text.parse().ok();
    if found.is_none() {
        let names = || EventPattern::GROUPS.into_iter().chain(EventType::ALL.into_iter().map(EventType::as_str));
        let meant = nearest(text, names()).map(|meant| format!("did you mean '{meant}'? ")).unwrap_or_default();
        let all = names().collect::<Vec<_>>().join(", ");
        notes.mistake(node, format!("{} is no type of events: {meant}The types are {all}", quoted(text)));
    }
    found
}
