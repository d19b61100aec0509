//! Finding the rules that an event meets, among very many.
//!
//! Rules are sorted by the namespace of their source, then by the literal text that their repository pattern begins or ends
//! with; what is left is compiled on first use and tried. An event thus costs a few hash look-ups and the expressions that
//! have a chance to match, not one trial a rule.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use regex::Regex;
use regex_syntax::hir::literal::{ExtractKind, Extractor};

use crate::{InstanceName, Pattern, Reference, Repository, Rule, Tag};

/// The literals one of which every name that the pattern meets begins with; `None` where it has no such.
pub(crate) fn prefixes(pattern: &Pattern) -> Option<Vec<String>> {
    literals(pattern, ExtractKind::Prefix)
}

fn literals(pattern: &Pattern, kind: ExtractKind) -> Option<Vec<String>> {
    let hir = regex_syntax::parse(pattern.as_str()).ok()?;
    let mut extractor = Extractor::new();
    extractor.kind(kind).limit_total(16);
    let found = extractor.extract(&hir);
    let texts: Option<Vec<String>> = found.literals()?.iter().map(|l| String::from_utf8(l.as_bytes().to_vec()).ok()).collect();
    texts.filter(|texts| !texts.is_empty() && texts.iter().all(|text| !text.is_empty()))
}

/// A pattern shared by all rules that have the same one, compiled once and only when it is first needed.
#[derive(Debug)]
struct Compiled {
    pattern: Pattern,
    regex: OnceLock<Option<Regex>>,
}

impl Compiled {
    fn matches(&self, name: &str) -> bool {
        self.pattern.is_any()
            || self.regex.get_or_init(|| self.pattern.compile().ok()).as_ref().is_some_and(|regex| regex.is_match(name))
    }
}

#[derive(Debug)]
struct Entry {
    rule: Arc<Rule>,
    tag: Arc<Compiled>,
}

/// Rules that share a repository pattern.
#[derive(Debug)]
struct Group {
    repository: Arc<Compiled>,
    entries: Vec<Entry>,
}

/// Positions in `groups` by a literal, and the lengths that those literals have.
#[derive(Debug, Default)]
struct Literals {
    groups: HashMap<String, Vec<usize>>,
    lengths: BTreeSet<usize>,
}

impl Literals {
    fn insert(&mut self, literal: String, group: usize) {
        self.lengths.insert(literal.len());
        self.groups.entry(literal).or_default().push(group);
    }

    fn find<'a>(&self, part: impl Fn(usize) -> Option<&'a str>) -> impl Iterator<Item = usize> {
        self.lengths.iter().map_while(move |length| part(*length)).filter_map(|text| self.groups.get(text)).flatten().copied()
    }
}

/// The rules of one namespace.
#[derive(Debug, Default)]
struct Bucket {
    groups: Vec<Group>,
    by_prefix: Literals,
    by_suffix: Literals,
    others: Vec<usize>,
}

impl Bucket {
    fn insert(&mut self, repository: Arc<Compiled>, entry: Entry, known: &mut HashMap<Pattern, usize>) {
        let group = *known.entry(repository.pattern.clone()).or_insert_with(|| {
            let group = self.groups.len();
            if let Some(literals) = literals(&repository.pattern, ExtractKind::Prefix) {
                literals.into_iter().for_each(|literal| self.by_prefix.insert(literal, group));
            } else if let Some(literals) = literals(&repository.pattern, ExtractKind::Suffix) {
                literals.into_iter().for_each(|literal| self.by_suffix.insert(literal, group));
            } else {
                self.others.push(group);
            }
            self.groups.push(Group { repository, entries: Vec::new() });
            group
        });
        self.groups[group].entries.push(entry);
    }

    fn matches<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a Entry> {
        // Names are ASCII, and a length beyond the name ends the search.
        let starts = self.by_prefix.find(|length| path.get(..length));
        let ends = self.by_suffix.find(|length| path.get(path.len().checked_sub(length)?..));
        let mut candidates: Vec<usize> = starts.chain(ends).chain(self.others.iter().copied()).collect();
        // A pattern with several literals may be found by two of them.
        candidates.sort_unstable();
        candidates.dedup();
        candidates
            .into_iter()
            .map(|group| &self.groups[group])
            .filter(move |group| group.repository.matches(path))
            .flat_map(|group| &group.entries)
    }
}

/// The enabled rules of all instances, ready to be asked which of them an event meets.
#[derive(Debug, Default)]
pub struct RuleIndex {
    by_source: HashMap<InstanceName, HashMap<String, Bucket>>,
    by_target: HashMap<InstanceName, Vec<Entry>>,
    repository_patterns: HashMap<Pattern, Arc<Compiled>>,
}

impl RuleIndex {
    /// An index of the rules that are enabled.
    pub fn new(rules: impl IntoIterator<Item = Arc<Rule>>) -> Self {
        let mut index = Self::default();
        let mut patterns: HashMap<Pattern, Arc<Compiled>> = HashMap::new();
        let mut known: HashMap<(InstanceName, String), HashMap<Pattern, usize>> = HashMap::new();
        for rule in rules.into_iter().filter(|rule| rule.enabled) {
            let mut shared = |pattern: &Pattern| {
                let entry = patterns.entry(pattern.clone());
                entry.or_insert_with(|| Arc::new(Compiled { pattern: pattern.clone(), regex: OnceLock::new() })).clone()
            };
            let (repository, tag) = (shared(&rule.source.repository), shared(&rule.source.tag));
            let (instance, namespace) = (rule.source.instance.clone(), rule.source.namespace.to_string());
            let bucket = index.by_source.entry(instance.clone()).or_default().entry(namespace.clone()).or_default();
            let known = known.entry((instance, namespace)).or_default();
            bucket.insert(repository, Entry { rule: rule.clone(), tag: tag.clone() }, known);
            index.by_target.entry(rule.target.instance.clone()).or_default().push(Entry { rule, tag });
        }
        index.repository_patterns = patterns;
        index
    }

    /// The rules that a repository meets, whatever their tag pattern: for manifests without a tag.
    pub fn of_repository(&self, instance: &InstanceName, repository: &Repository) -> Vec<&Arc<Rule>> {
        self.entries(instance, repository).map(|entry| &entry.rule).collect()
    }

    /// The rules that a tag of a repository meets. Tags that belong to a subject meet none.
    pub fn of_tag(&self, instance: &InstanceName, repository: &Repository, tag: &Tag) -> Vec<&Arc<Rule>> {
        if tag.subject().is_some() {
            return Vec::new();
        }
        self.entries(instance, repository).filter(|entry| entry.tag.matches(tag.as_str())).map(|entry| &entry.rule).collect()
    }

    /// The rules that write a place: with them, the repository at their source.
    pub fn that_write<'a>(
        &'a self,
        instance: &InstanceName,
        repository: &Repository,
        reference: &Reference,
    ) -> impl Iterator<Item = (&'a Arc<Rule>, Repository)> {
        self.by_target.get(instance).into_iter().flatten().filter_map(move |entry| {
            let source = entry.rule.source_repository(repository)?;
            let path = source.below(&entry.rule.source.namespace)?;
            let repository_matches =
                self.repository_patterns.get(&entry.rule.source.repository).is_some_and(|pattern| pattern.matches(path));
            let tag_matches = reference.tag().is_none_or(|tag| entry.tag.matches(tag.as_str()));
            (repository_matches && tag_matches).then_some((&entry.rule, source))
        })
    }

    /// Whether any rule reads from an instance.
    pub fn reads(&self, instance: &InstanceName) -> bool {
        self.by_source.contains_key(instance)
    }

    fn entries<'a>(&'a self, instance: &InstanceName, repository: &Repository) -> impl Iterator<Item = &'a Entry> {
        let buckets = self.by_source.get(instance);
        let bucket = move |namespace: &str| buckets.and_then(|buckets| buckets.get(namespace));
        let all = bucket("*").into_iter().flat_map(|bucket| bucket.matches(repository.as_str()));
        let text = repository.as_str();
        // Every namespace that the repository lies in: `team` and `team/base` of `team/base/app`, "" of `app`.
        let slashes = text.match_indices('/').map(|(at, _)| (at, at + 1));
        let namespaces = slashes.chain((!text.contains('/')).then_some((0, 0)));
        let below = namespaces.filter_map(move |(end, start)| Some((bucket(&text[..end])?, &text[start..])));
        all.chain(below.flat_map(|(bucket, path)| bucket.matches(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::tests::rule;

    fn index(rules: &[(&str, &str, &str)]) -> RuleIndex {
        RuleIndex::new(rules.iter().enumerate().map(|(at, (namespace, repository, tag))| {
            let mut rule = rule(("a", namespace), repository, tag, ("b", None));
            rule.id = crate::RuleId(at as u64);
            Arc::new(rule)
        }))
    }

    fn found(index: &RuleIndex, repository: &str, tag: &str) -> Vec<u64> {
        let repository = repository.parse().unwrap();
        let mut ids: Vec<u64> =
            index.of_tag(&"a".parse().unwrap(), &repository, &tag.parse().unwrap()).iter().map(|r| r.id.0).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn an_event_meets_the_rules_of_every_namespace_it_lies_in() {
        let index = index(&[
            ("team", ".*", ".*"),
            ("team/base", "app", ".*"),
            ("*", "team/.*", r"v\d+"),
            ("", ".*", ".*"),
            ("team", "base/app|other", "v1"),
            ("team", ".*-app", ".*"),
            ("other", ".*", ".*"),
        ]);
        assert_eq!(found(&index, "team/base/app", "v1"), [0, 1, 2, 4]);
        assert_eq!(found(&index, "team/base/app", "latest"), [0, 1]);
        assert_eq!(found(&index, "team/my-app", "v1"), [0, 2, 5]);
        assert_eq!(found(&index, "app", "v1"), [3]);
        assert_eq!(found(&index, "teams/app", "v1"), [] as [u64; 0]);
        assert_eq!(found(&index, "team/base/app", &format!("sha256-{}", "0".repeat(64))), [] as [u64; 0]);
    }

    /// The index must never lose a rule that trying every expression would find.
    #[test]
    fn the_index_finds_what_trying_every_rule_finds() {
        let patterns = [
            ".*",
            "a.*",
            "(a|b)c",
            "[a-c]x",
            ".*z",
            "(?i)ABC",
            "a?b",
            "ab*",
            "(x|y)?.*-end",
            "abc",
            "",
            "a|",
            "[a-z]+-[0-9]",
            "b.*c",
            "(?:ab){2,3}",
            "a[^b]c",
            "^a",
            "c$",
            "^abc$",
            "(a+)+b",
            "(foo|foobar)-.*",
            "x*",
        ];
        let index = index(&patterns.map(|pattern| ("n", pattern, ".*")));
        let names = [
            "a", "ac", "bc", "ax", "cx", "zz", "abc", "b", "ab", "abb", "q-end", "x-end", "ab-1", "bac", "abab", "ababab",
            "axc", "aab", "foo-1", "foobar-1", "x", "xx",
        ];
        for name in names {
            let expected: Vec<u64> = (0u64..)
                .zip(patterns)
                .filter(|(_, pattern)| pattern.parse::<Pattern>().unwrap().matches(name))
                .map(|(at, _)| at)
                .collect();
            assert_eq!(found(&index, &format!("n/{name}"), "t"), expected, "{name}");
        }
    }

    #[test]
    fn the_rules_that_write_a_place_are_found_backwards() {
        let index = RuleIndex::new([
            Arc::new(rule(("a", "team"), "app-.*", "v.*", ("b", Some("mirror")))),
            Arc::new(rule(("c", "*"), ".*", ".*", ("b", None))),
        ]);
        let sources = |repository: &str, tag: &str| {
            let (repository, reference) = (repository.parse().unwrap(), tag.parse().unwrap());
            let mut found: Vec<String> = index
                .that_write(&"b".parse().unwrap(), &repository, &reference)
                .map(|(rule, source)| format!("{}/{source}", rule.source.instance))
                .collect();
            found.sort();
            found
        };
        assert_eq!(sources("mirror/app-1", "v1"), ["a/team/app-1", "c/mirror/app-1"]);
        assert_eq!(sources("mirror/app-1", "w1"), ["c/mirror/app-1"]);
        assert_eq!(sources("mirror/other", "v1"), ["c/mirror/other"]);
    }
}
