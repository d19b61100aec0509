//! Finding the rules that an event meets, among very many.
//!
//! Rules are sorted by the namespace of their source, and of their target, then by a literal text that every name has that their
//! repository pattern meets, then so by their tag pattern. What has that text is compiled on first use and tried. An event thus
//! costs a few hash look-ups and the expressions that have a chance to match, not one trial a rule.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use regex::{Regex, RegexSet, RegexSetBuilder};
use regex_syntax::hir::{
    Hir, HirKind,
    literal::{ExtractKind, Extractor},
};

use crate::{InstanceName, Pattern, Reference, Repository, Rule, Tag, flatten};

/// The literals one of which every name that the pattern meets begins with; `None` where it has no such.
pub(crate) fn prefixes(pattern: &Pattern) -> Option<Vec<String>> {
    affixes(&regex_syntax::parse(pattern.as_str()).ok()?, ExtractKind::Prefix)
}

fn affixes(hir: &Hir, kind: ExtractKind) -> Option<Vec<String>> {
    let mut extractor = Extractor::new();
    extractor.kind(kind).limit_total(16);
    let found = extractor.extract(hir);
    let texts: Option<Vec<String>> = found.literals()?.iter().map(|l| String::from_utf8(l.as_bytes().to_vec()).ok()).collect();
    texts.filter(|texts| !texts.is_empty() && texts.iter().all(|text| !text.is_empty()))
}

/// The longest text that every name has somewhere.
fn inner(hir: &Hir) -> Option<String> {
    match hir.kind() {
        HirKind::Literal(literal) => String::from_utf8(literal.0.to_vec()).ok(),
        HirKind::Capture(capture) => inner(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => inner(&repetition.sub),
        HirKind::Concat(parts) => parts.iter().filter_map(inner).max_by_key(String::len),
        _ => None,
    }
}

/// Where in a name a literal stands.
#[derive(Debug, Clone, Copy)]
enum Position {
    Start,
    End,
    Anywhere,
}

impl Position {
    const ALL: [Self; 3] = [Self::Start, Self::End, Self::Anywhere];

    fn has(self, name: &str, text: &str) -> bool {
        match self {
            Self::Start => name.starts_with(text),
            Self::End => name.ends_with(text),
            Self::Anywhere => name.contains(text),
        }
    }

    /// The texts of this length that a name has there. Names are ASCII.
    fn texts(self, name: &str, length: usize) -> impl Iterator<Item = &str> {
        let last = name.len() - length;
        let starts = match self {
            Self::Start => 0..=0,
            Self::End => last..=last,
            Self::Anywhere => 0..=last,
        };
        starts.filter_map(move |start| name.get(start..start + length))
    }
}

/// A pattern shared by all rules that have the same one, compiled once and only when it is first needed.
#[derive(Debug)]
struct Compiled {
    pattern: Pattern,
    /// What every name that it meets has at a position: one of these texts. The most telling position, that is the one with the
    /// longest texts, comes first.
    needs: Vec<(Position, Vec<String>)>,
    regex: OnceLock<Option<Regex>>,
}

impl Compiled {
    fn new(pattern: &Pattern) -> Self {
        let mut needs = Vec::new();
        if let Ok(hir) = regex_syntax::parse(pattern.as_str()) {
            needs.extend(affixes(&hir, ExtractKind::Prefix).map(|texts| (Position::Start, texts)));
            needs.extend(affixes(&hir, ExtractKind::Suffix).map(|texts| (Position::End, texts)));
            needs.extend(inner(&hir).map(|text| (Position::Anywhere, vec![text])));
            let shortest = |texts: &[String]| texts.iter().map(String::len).min();
            needs.sort_by_key(|(_, texts)| std::cmp::Reverse(shortest(texts)));
        }
        Self { pattern: pattern.clone(), needs, regex: OnceLock::new() }
    }

    fn matches(&self, name: &str) -> bool {
        self.pattern.is_any()
            || self.needs.iter().all(|(position, texts)| texts.iter().any(|text| position.has(name, text)))
                && self.regex.get_or_init(|| self.pattern.compile().ok()).as_ref().is_some_and(|regex| regex.is_match(name))
    }
}

/// Positions in [`ByPattern::values`] by a literal, and the lengths that those literals have.
#[derive(Debug, Default)]
struct Literals {
    values: HashMap<String, Vec<usize>>,
    lengths: BTreeSet<usize>,
}

impl Literals {
    fn insert(&mut self, text: String, value: usize) {
        self.lengths.insert(text.len());
        self.values.entry(text).or_default().push(value);
    }

    fn find(&self, position: Position, name: &str) -> impl Iterator<Item = usize> {
        let lengths = self.lengths.iter().take_while(|length| **length <= name.len());
        lengths
            .flat_map(move |length| position.texts(name, *length))
            .filter_map(|text| self.values.get(text))
            .flatten()
            .copied()
    }
}

/// So few expressions without a literal are tried one by one, each compiled only when it is needed.
const FEW: usize = 20;
/// So many are tried at a time: more make an automaton too large to be quick.
const SET: usize = 100;

/// Values by the pattern that they are for.
#[derive(Debug)]
struct ByPattern<T> {
    values: Vec<(Arc<Compiled>, T)>,
    known: HashMap<Pattern, usize>,
    /// By a literal at each of [`Position::ALL`].
    literals: [Literals; 3],
    /// Those that have none,
    others: Vec<usize>,
    /// and their expressions, tried many at a time; `None` for those that are too large for that.
    sets: OnceLock<Vec<Option<RegexSet>>>,
}

impl<T> Default for ByPattern<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            known: HashMap::new(),
            literals: Default::default(),
            others: Vec::new(),
            sets: OnceLock::new(),
        }
    }
}

impl<T: Default> ByPattern<T> {
    /// The value for a pattern.
    fn of(&mut self, pattern: &Arc<Compiled>) -> &mut T {
        let at = *self.known.entry(pattern.pattern.clone()).or_insert_with(|| {
            let at = self.values.len();
            match pattern.needs.first() {
                Some((position, texts)) => {
                    texts.iter().for_each(|text| self.literals[*position as usize].insert(text.clone(), at));
                }
                None => self.others.push(at),
            }
            self.values.push((pattern.clone(), T::default()));
            at
        });
        &mut self.values[at].1
    }

    /// The values whose pattern meets a name.
    fn matches(&self, name: &str) -> impl Iterator<Item = &T> {
        let found =
            Position::ALL.into_iter().zip(&self.literals).flat_map(|(position, literals)| literals.find(position, name));
        let mut candidates: Vec<usize> = found.collect();
        // A pattern with several literals may be found by two of them.
        candidates.sort_unstable();
        candidates.dedup();
        candidates.retain(|at| self.values[*at].0.matches(name));
        self.find_others(name, &mut candidates);
        candidates.into_iter().map(|at| &self.values[at].1)
    }

    fn find_others(&self, name: &str, found: &mut Vec<usize>) {
        let pattern = |at: &usize| &self.values[*at].0;
        if self.others.len() < FEW {
            return found.extend(self.others.iter().filter(|at| pattern(at).matches(name)));
        }
        let set = |some: &[usize]| {
            let texts = some.iter().map(|at| format!("^(?:{})$", pattern(at).pattern.as_str()));
            RegexSetBuilder::new(texts).size_limit(Pattern::SIZE_LIMIT).dfa_size_limit(Pattern::SIZE_LIMIT).build().ok()
        };
        let sets = self.sets.get_or_init(|| self.others.chunks(SET).map(set).collect());
        for (some, set) in self.others.chunks(SET).zip(sets) {
            match set {
                Some(set) => found.extend(set.matches(name).into_iter().map(|n| some[n])),
                None => found.extend(some.iter().filter(|at| pattern(at).matches(name))),
            }
        }
    }
}

/// Rules by the pattern of their repository, then by that of their tag.
type Rules = ByPattern<ByPattern<Vec<Arc<Rule>>>>;
/// Rules by instance and namespace.
type Places = HashMap<InstanceName, HashMap<String, Rules>>;

/// The enabled rules of all instances, ready to be asked which of them an event meets.
#[derive(Debug, Default)]
pub struct RuleIndex {
    by_source: Places,
    by_target: Places,
    /// Those that flatten, by the target that they put one segment in.
    by_flat_target: Places,
}

impl RuleIndex {
    /// An index of the rules that are enabled.
    pub fn new(rules: impl IntoIterator<Item = Arc<Rule>>) -> Self {
        let mut index = Self::default();
        let mut patterns: HashMap<Pattern, Arc<Compiled>> = HashMap::new();
        for rule in rules.into_iter().filter(|rule| rule.enabled) {
            let mut compiled = |pattern: &Pattern| {
                let known = patterns.get(pattern).cloned();
                known.unwrap_or_else(|| patterns.entry(pattern.clone()).or_insert(Arc::new(Compiled::new(pattern))).clone())
            };
            let (repository, tag) = (compiled(&rule.source.repository), compiled(&rule.source.tag));
            // Below the empty namespace a copy keeps its whole path, as below `*`.
            let target = Some(rule.target_namespace().as_str()).filter(|namespace| !namespace.is_empty()).unwrap_or("*");
            let by_target = if rule.target.flatten { &mut index.by_flat_target } else { &mut index.by_target };
            for (places, instance, namespace) in [
                (&mut index.by_source, &rule.source.instance, rule.source.namespace.as_str()),
                (by_target, &rule.target.instance, target),
            ] {
                let rules = places.entry(instance.clone()).or_default().entry(namespace.to_owned()).or_default();
                rules.of(&repository).of(&tag).push(rule.clone());
            }
        }
        index
    }

    /// The rules that a repository meets, whatever their tag pattern: for manifests without a tag.
    pub fn of_repository(&self, instance: &InstanceName, repository: &Repository) -> Vec<&Arc<Rule>> {
        find(&self.by_source, instance, repository, None).collect()
    }

    /// The rules that a tag of a repository meets. Tags that belong to a subject meet none.
    pub fn of_tag(&self, instance: &InstanceName, repository: &Repository, tag: &Tag) -> Vec<&Arc<Rule>> {
        if tag.subject().is_some() {
            return Vec::new();
        }
        find(&self.by_source, instance, repository, Some(tag)).collect()
    }

    /// The rules that write a place: with them, the repository at their source. A rule that flattens may write it from several.
    pub fn that_write<'a>(
        &'a self,
        instance: &InstanceName,
        repository: &Repository,
        reference: &Reference,
    ) -> impl Iterator<Item = (&'a Arc<Rule>, Repository)> {
        // The path below the target's namespace is that below the source's.
        find(&self.by_target, instance, repository, reference.tag())
            .filter_map(move |rule| Some((rule, rule.source_repository(repository)?)))
            .chain(self.that_flatten(instance, repository, reference.tag()))
    }

    fn that_flatten(&self, instance: &InstanceName, target: &Repository, tag: Option<&Tag>) -> Vec<(&Arc<Rule>, Repository)> {
        let Some(namespaces) = self.by_flat_target.get(instance) else { return Vec::new() };
        let (namespace, segment) = target.as_str().rsplit_once('/').unwrap_or(("*", target.as_str()));
        let Some(rules) = namespaces.get(namespace) else { return Vec::new() };
        let mut found = Vec::new();
        for path in flatten::paths(segment) {
            let of_path = rules.matches(&path).flat_map(|by_tag| tagged(by_tag, tag)).filter_map(|rule| {
                let source = rule.source.namespace.join(&path).ok()?;
                source.below(&rule.source.namespace).is_some_and(|below| below == path).then_some((rule, source))
            });
            found.extend(of_path);
        }
        found
    }

    /// Whether any rule reads from an instance.
    pub fn reads(&self, instance: &InstanceName) -> bool {
        self.by_source.contains_key(instance)
    }
}

/// The rules with a repository below their namespace that their patterns meet; without a tag, whatever their tag pattern.
fn find<'a>(
    places: &'a Places,
    instance: &InstanceName,
    repository: &Repository,
    tag: Option<&Tag>,
) -> impl Iterator<Item = &'a Arc<Rule>> {
    let namespaces = places.get(instance);
    let text = repository.as_str();
    // Every namespace that the repository lies in: `team` and `team/base` of `team/base/app`, "" of `app`.
    let slashes = text.match_indices('/').map(|(at, _)| (&text[..at], &text[at + 1..]));
    let below = slashes.chain((!text.contains('/')).then_some(("", text))).chain([("*", text)]);
    below
        .filter_map(move |(namespace, path)| Some((namespaces?.get(namespace)?, path)))
        .flat_map(|(rules, path)| rules.matches(path))
        .flat_map(move |by_tag| tagged(by_tag, tag))
}

/// The rules whose tag pattern a tag meets; all of them without one.
fn tagged<'a>(by_tag: &'a ByPattern<Vec<Arc<Rule>>>, tag: Option<&Tag>) -> impl Iterator<Item = &'a Arc<Rule>> + use<'a> {
    let found = match tag {
        Some(tag) => by_tag.matches(tag.as_str()).collect::<Vec<_>>(),
        None => by_tag.values.iter().map(|(_, rules)| rules).collect(),
    };
    found.into_iter().flatten()
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
            ".*b.*",
            "(b|x).*(ab)+.*",
            "[ab]+(c|-end)?",
            "a.*(foo|b)?.*c",
        ];
        let by_repository = index(&patterns.map(|pattern| ("n", pattern, ".*")));
        let by_tag = index(&patterns.map(|pattern| ("n", ".*", pattern)));
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
            assert_eq!(found(&by_repository, &format!("n/{name}"), "t"), expected, "{name}");
            assert_eq!(found(&by_tag, "n/x", name), expected, "{name}");
        }
    }

    /// Expressions without any literal are tried in sets once they are many; a set must not lose one, nor mistake one for another.
    #[test]
    fn very_many_expressions_without_a_literal_are_told_apart() {
        let patterns: Vec<String> = (0..350).map(|n| format!("[a-z]{{{}}}[0-9]{{{}}}", n % 20 + 1, n / 20)).collect();
        let rules: Vec<_> = patterns.iter().map(|pattern| ("n", pattern.as_str(), ".*")).collect();
        let index = index(&rules);
        for (letters, digits) in [(1, 0), (1, 1), (20, 16), (7, 11), (20, 17), (21, 1)] {
            let name = "a".repeat(letters) + &"1".repeat(digits);
            let expected: Vec<u64> = match digits * 20 + letters - 1 {
                n if letters <= 20 && n < 350 => vec![n as u64],
                _ => Vec::new(),
            };
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
