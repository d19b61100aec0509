//! An entry of `rules`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    num::NonZero,
    thread,
};

use transship_model::{ArtifactType, InstanceName, InvalidPattern, Namespace, Pattern, Rule, RuleId, Source, Target, input};

use super::{
    spelling::nearest,
    yaml::{Node, Notes, quoted},
};

const KEYS: &[&str] =
    &["name", "description", "source", "target", "overwrite", "propagate_deletions", "referrers", "schedule", "enabled"];
const SOURCE_KEYS: &[&str] = &["instance", "namespace", "repository", "tag", "types"];
const TARGET_KEYS: &[&str] = &["instance", "namespace", "flatten"];

/// How many instances a message lists.
const MAX_LISTED: usize = 20;

const TYPES: [ArtifactType; 3] = [ArtifactType::Image, ArtifactType::Chart, ArtifactType::Other];

/// A pattern that has been checked, or why it can't be used.
type Checked = Result<Pattern, InvalidPattern>;

/// Reads rules, one after the other.
pub(super) struct Reader<'a> {
    /// Those that rules may name; `None` where they are not known here.
    instances: Option<BTreeSet<&'a InstanceName>>,
    /// What has been found out about a text.
    patterns: HashMap<&'a str, Checked>,
}

impl<'a> Reader<'a> {
    /// A reader of these rules, which may name these instances.
    pub(super) fn new(rules: &[Node<'a>], instances: impl Iterator<Item = &'a InstanceName>) -> Self {
        Self { instances: Some(instances.collect()), patterns: checked_patterns(rules) }
    }

    /// A reader of a rule by itself, which may name any instance.
    pub(super) fn of_one() -> Self {
        Self { instances: None, patterns: HashMap::new() }
    }

    /// Reads a rule. `None` if it has mistakes, which are noted then.
    pub(super) fn read(&mut self, node: &Node<'a>, notes: &mut Notes) -> Option<Rule> {
        let keys = node.mapping(KEYS, notes)?;
        let name = keys.need("name", "a short name, like 'release'", notes).and_then(|node| node.parsed(notes));
        let description = keys.get("description").map_or(Some(String::new()), |node| node.checked(input::description, notes));
        let source = keys
            .need("source", "what to copy, like '{ instance: build, namespace: team }'", notes)
            .and_then(|node| self.source(node, notes));
        let target_node = keys.need("target", "where to copy it, like '{ instance: prod }'", notes);
        let target = target_node.and_then(|node| self.target(node, notes));
        let mut flag = |key, default| keys.get(key).map_or(Some(default), |node| node.flag(notes));
        let (overwrite, enabled) = (flag("overwrite", false), flag("enabled", true));
        let (propagate_deletions, referrers) = (flag("propagate_deletions", false), flag("referrers", true));
        let schedule = keys.get("schedule").map_or(Some(None), |node| node.parsed(notes).map(Some));
        let rule = Rule {
            id: RuleId(0),
            revision: 0,
            name: name?,
            description: description?,
            source: source?,
            target: target?,
            overwrite: overwrite?,
            propagate_deletions: propagate_deletions?,
            referrers: referrers?,
            schedule: schedule?,
            enabled: enabled?,
        };
        if let Err(error) = rule.check() {
            notes.mistake(target_node?, error);
            return None;
        }
        Some(rule)
    }

    fn source(&mut self, node: &Node<'a>, notes: &mut Notes) -> Option<Source> {
        let keys = node.mapping(SOURCE_KEYS, notes)?;
        let instance = keys.need("instance", "the instance that is pushed to", notes);
        let instance = instance.and_then(|node| self.instance(node, notes));
        let example = "a path like 'team', '*' for all repositories, or '' for those without a slash";
        let namespace = keys.need("namespace", example, notes).and_then(|node| namespace(node, notes));
        let mut pattern = |key| keys.get(key).map_or(Some(Pattern::default()), |node| self.pattern(node, notes));
        let (repository, tag) = (pattern("repository"), pattern("tag"));
        let types = keys.get("types").map_or(Some(Vec::new()), |node| types(node, notes));
        Some(Source { instance: instance?, namespace: namespace?, repository: repository?, tag: tag?, types: types? })
    }

    fn target(&self, node: &Node<'_>, notes: &mut Notes) -> Option<Target> {
        let keys = node.mapping(TARGET_KEYS, notes)?;
        let instance = keys.need("instance", "the instance that is written to", notes);
        let instance = instance.and_then(|node| self.instance(node, notes));
        let namespace = match keys.get("namespace") {
            Some(node) => namespace(node, notes).map(Some),
            None => Some(None),
        };
        let flatten = keys.get("flatten").map_or(Some(false), |node| node.flag(notes));
        Some(Target { instance: instance?, namespace: namespace?, flatten: flatten? })
    }

    fn instance(&self, node: &Node<'_>, notes: &mut Notes) -> Option<InstanceName> {
        let name: InstanceName = node.parsed(notes)?;
        let Some(instances) = self.instances.as_ref().filter(|instances| !instances.contains(&name)) else {
            return Some(name);
        };
        notes.mistake(node, no_instance(&name, instances));
        None
    }

    fn pattern(&mut self, node: &Node<'a>, notes: &mut Notes) -> Option<Pattern> {
        let text = node.text(notes)?;
        match self.patterns.entry(text).or_insert_with(|| text.parse()) {
            Ok(pattern) => Some(pattern.clone()),
            Err(error) => {
                // What people write who know patterns from the shell.
                let shell = matches!(error, InvalidPattern::Syntax(_)) && text.starts_with(['*', '?']);
                let hint = if shell { ". In a regular expression any text is '.*'" } else { "" };
                notes.mistake(node, format!("{error}{hint}"));
                None
            }
        }
    }
}

/// What is said about a name that no instance has.
pub(super) fn no_instance(name: &InstanceName, instances: &BTreeSet<&InstanceName>) -> String {
    let names = || instances.iter().map(|name| name.as_str());
    let mut list = names().take(MAX_LISTED).collect::<Vec<_>>().join(", ");
    if names().len() > MAX_LISTED {
        list += ", …";
    }
    match nearest(name.as_str(), names()) {
        Some(meant) => format!("there is no instance '{name}': did you mean '{meant}'? The instances are {list}"),
        None if list.is_empty() => format!("there is no instance '{name}': describe it under 'instances'"),
        None => format!("there is no instance '{name}': the instances are {list}"),
    }
}

/// Checks the patterns of rules, each different one once and on all processors: it means compiling them, and ten thousand rules
/// with patterns of their own would take seconds. What is left out here is checked when its rule is read.
fn checked_patterns<'a>(rules: &[Node<'a>]) -> HashMap<&'a str, Checked> {
    /// Fewer are not worth a thread.
    const MIN_SHARE: usize = 200;
    let sources = rules.iter().filter_map(|rule| rule.peek("source"));
    let patterns = sources.flat_map(|source| [source.peek("repository"), source.peek("tag")]).flatten();
    let texts: Vec<&str> = patterns.filter_map(|node| node.peek_text()).collect::<HashSet<_>>().into_iter().collect();
    let share = texts.len().div_ceil(thread::available_parallelism().map_or(1, NonZero::get)).max(MIN_SHARE);
    thread::scope(|scope| {
        let check = |share: &'_ [&'a str]| share.iter().map(|text| (*text, text.parse())).collect::<Vec<_>>();
        let start = |share| thread::Builder::new().spawn_scoped(scope, move || check(share)).ok();
        let threads: Vec<_> = texts.chunks(share).filter_map(start).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    })
}

fn namespace(node: &Node<'_>, notes: &mut Notes) -> Option<Namespace> {
    if node.is_null() {
        notes.mistake(
            node,
            "there is no value: write '*' for all repositories, '' for those without a slash, or a path like 'team'",
        );
        return None;
    }
    node.parsed(notes)
}

fn types(node: &Node<'_>, notes: &mut Notes) -> Option<Vec<ArtifactType>> {
    // Each type once: more entries than types are a mistake already.
    let items = node.items(TYPES.len(), notes)?;
    let found: Vec<_> = items.iter().map(|item| artifact_type(item, notes)).collect();
    let types: Vec<ArtifactType> = found.into_iter().collect::<Option<_>>()?;
    if types.iter().collect::<BTreeSet<_>>().len() < types.len() {
        notes.mistake(node, "a type is given twice");
        return None;
    }
    Some(types)
}

fn artifact_type(node: &Node<'_>, notes: &mut Notes) -> Option<ArtifactType> {
    let text = node.text(notes)?;
    let found = TYPES.into_iter().find(|kind| kind.as_str() == text);
    if found.is_none() {
        let names = TYPES.map(ArtifactType::as_str);
        let meant = nearest(text, names).map(|meant| format!("did you mean '{meant}'? ")).unwrap_or_default();
        notes.mistake(node, format!("{} is no artifact type: {meant}The types are {}", quoted(text), names.join(", ")));
    }
    found
}
