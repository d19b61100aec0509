//! Rules that may write the same tag at one target from different sources.
//!
//! That is allowed, and may be meant: where both have a tag, the newer push wins, or without `overwrite` the one that came first stays.
//! It is mostly a mistake, and so it is warned of. Whether two regular expressions meet a common name is judged by what all names begin and
//! end with that they meet. What that leaves in doubt is taken for an overlap: a warning that was not needed is read once, and one that was
//! missing is a tag that changes under somebody's hands.

use std::collections::HashSet;

use regex_syntax::hir::literal::{ExtractKind, Extractor};

use crate::{ArtifactType, Namespace, Pattern, Rule, flatten};

/// Another rule that may write what a rule writes.
#[derive(Debug, Clone, Copy)]
pub struct Overlap<'a> {
    /// The rule that is warned of.
    pub rule: &'a Rule,
    /// The other.
    pub other: &'a Rule,
}

impl Overlap<'_> {
    /// What to tell whoever has written the rule.
    pub fn warning(&self) -> String {
        warning_of(self.rule, &format!("the rule {}", self.other.path()))
    }
}

/// What to tell whoever has written the rule; `others` says which may write the same tags.
pub fn warning_of(rule: &Rule, others: &str) -> String {
    format!(
        "may write the same tags at '{}' as {others}, from another source: a tag of both holds the newer push, or the first where \
         overwrite is off. Narrow namespace, repository or tag of one of them, if that is not meant",
        rule.target.instance
    )
}

/// Whether two rules are enabled and may write the same tag from different sources.
pub fn overlaps(one: &Rule, other: &Rule) -> bool {
    one.enabled && other.enabled && one.id_or_name() != other.id_or_name() && {
        let (one, other) = (Claim::new(one), Claim::new(other));
        one.begins_like(&other) && one.may_meet(&other)
    }
}

/// So many rules with targets near a rule's are compared with it: the rest of a catalogue that has more is `check`'s to find.
const COMPARED: usize = 1000;

/// The rules among these that overlap with one; of very many near ones not all are looked at.
pub fn overlapping<'a>(rule: &'a Rule, rules: impl IntoIterator<Item = &'a Rule>) -> Vec<Overlap<'a>> {
    if !rule.enabled {
        return Vec::new();
    }
    let claim = Claim::new(rule);
    let is_near = |other: &&Rule| {
        let (here, there) = (below(rule.target_namespace()), below(other.target_namespace()));
        other.enabled
            && other.id_or_name() != rule.id_or_name()
            && other.target.instance == rule.target.instance
            && (here.starts_with(&there) || there.starts_with(&here))
    };
    let meets = |other: &&Rule| {
        let other = Claim::new(other);
        claim.begins_like(&other) && claim.may_meet(&other)
    };
    rules.into_iter().filter(is_near).take(COMPARED).filter(meets).map(|other| Overlap { rule, other }).collect()
}

/// At most `limit` pairs of rules that overlap, by their places in the list, in its order.
pub fn pairs(rules: &[Rule], limit: usize) -> Vec<(usize, usize)> {
    let claims: Vec<(usize, Claim<'_>)> =
        rules.iter().enumerate().filter(|(_, rule)| rule.enabled).map(|(at, rule)| (at, Claim::new(rule))).collect();
    // In the order of instance and beginning, all that begin with a text follow it.
    let mut beginnings: Vec<(&str, &Literal, usize)> = claims
        .iter()
        .enumerate()
        .flat_map(|(n, (_, claim))| claim.beginnings.iter().map(move |literal| (claim.instance(), literal, n)))
        .collect();
    beginnings.sort_unstable_by_key(|(instance, literal, n)| (*instance, &*literal.text, *n));
    let mut found = HashSet::new();
    'search: for (at, (instance, literal, n)) in beginnings.iter().enumerate() {
        let follows = |(where_, next, _): &&(&str, &Literal, usize)| where_ == instance && next.text.starts_with(&literal.text);
        for (_, next, m) in beginnings[at + 1..].iter().take_while(follows) {
            let ((place, one), (other_place, other)) = (&claims[*n], &claims[*m]);
            if n != m && literal.agrees(next, starts) && one.may_meet(other) {
                found.insert((*place.min(other_place), *place.max(other_place)));
                if found.len() >= limit {
                    break 'search;
                }
            }
        }
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_unstable();
    found
}

impl Rule {
    /// What tells two rules apart, whether the catalogue has given them an ID or not.
    fn id_or_name(&self) -> (&str, &str) {
        (self.source.instance.as_str(), self.name.as_str())
    }
}

/// A text that names begin or end with, or are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Literal {
    text: String,
    /// It is the whole name.
    whole: bool,
}

impl Literal {
    /// Whether one name can have both at that end.
    fn agrees(&self, other: &Self, has: fn(&str, &str) -> bool) -> bool {
        match (self.whole, other.whole) {
            (true, true) => self.text == other.text,
            (true, false) => has(&self.text, &other.text),
            (false, true) => has(&other.text, &self.text),
            (false, false) => has(&self.text, &other.text) || has(&other.text, &self.text),
        }
    }

    fn some_agree(some: &[Self], others: &[Self], has: fn(&str, &str) -> bool) -> bool {
        some.iter().any(|one| others.iter().any(|other| one.agrees(other, has)))
    }
}

/// `str::starts_with` and `str::ends_with` as one type.
fn starts(name: &str, text: &str) -> bool {
    name.starts_with(text)
}

fn ends(name: &str, text: &str) -> bool {
    name.ends_with(text)
}

/// The texts one of which every name that the pattern meets has at that end. Where there are none, that is the empty one.
fn literals(pattern: &Pattern, kind: ExtractKind) -> Vec<Literal> {
    let any = || vec![Literal { text: String::new(), whole: false }];
    // Names are ASCII, and a class of Unicode is a hundred times as large.
    let ascii = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(pattern.as_str());
    let Some(hir) = ascii.ok().or_else(|| regex_syntax::parse(pattern.as_str()).ok()) else { return any() };
    let mut extractor = Extractor::new();
    extractor.kind(kind).limit_class(16).limit_total(64);
    let found = extractor.extract(&hir);
    let Some(found) = found.literals() else { return any() };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let literals = found.iter().map(|l| Some(Literal { text: text(l.as_bytes())?, whole: l.is_exact() }));
    literals.collect::<Option<_>>().unwrap_or_else(any)
}

/// What repositories begin with that lie in a namespace.
fn below(namespace: &Namespace) -> String {
    match namespace.as_str() {
        "" | "*" => String::new(),
        path => format!("{path}/"),
    }
}

/// What a rule may write.
struct Claim<'a> {
    rule: &'a Rule,
    /// What the target's repositories begin with, by the namespace.
    target: String,
    /// What the source's begin with.
    source: String,
    /// What the target's repositories begin with, by namespace and pattern,
    beginnings: Vec<Literal>,
    /// and what they end with.
    ends: Vec<Literal>,
    /// What tags begin with,
    tag_beginnings: Vec<Literal>,
    /// and what they end with.
    tag_ends: Vec<Literal>,
}

impl<'a> Claim<'a> {
    fn new(rule: &'a Rule) -> Self {
        let (repository, tag) = (&rule.source.repository, &rule.source.tag);
        let target = below(rule.target_namespace());
        let flatten = |literal: Literal| match rule.target.flatten {
            true => Literal { text: flatten::flat(&literal.text), ..literal },
            false => literal,
        };
        let placed = |literal: Literal| Literal { text: format!("{target}{}", literal.text), ..literal };
        let beginnings = literals(repository, ExtractKind::Prefix).into_iter().map(flatten).map(placed).collect();
        // The end of a name is an end wherever it is put; a whole name is not.
        let ends = literals(repository, ExtractKind::Suffix);
        let ends = ends.into_iter().map(flatten).map(|literal| if literal.whole { placed(literal) } else { literal }).collect();
        Self {
            rule,
            source: below(&rule.source.namespace),
            beginnings,
            ends,
            tag_beginnings: literals(tag, ExtractKind::Prefix),
            tag_ends: literals(tag, ExtractKind::Suffix),
            target,
        }
    }

    fn instance(&self) -> &str {
        self.rule.target.instance.as_str()
    }

    fn begins_like(&self, other: &Self) -> bool {
        self.instance() == other.instance() && Literal::some_agree(&self.beginnings, &other.beginnings, starts)
    }

    /// Whether both may write one tag from different sources, as far as the beginnings of repositories do not tell.
    fn may_meet(&self, other: &Self) -> bool {
        let (deeper, flatter) = if self.target.len() >= other.target.len() { (self, other) } else { (other, self) };
        // What the deeper target is below the other.
        let Some(step) = deeper.target.strip_prefix(&*flatter.target) else { return false };
        let is_same_source = deeper.rule.target.flatten == flatter.rule.target.flatten
            && deeper.rule.source.instance == flatter.rule.source.instance
            && deeper.source.strip_prefix(&*flatter.source).is_some_and(|rest| rest == step);
        // The empty namespace has repositories without a slash only, and so has a target that paths are flattened in.
        let is_one_segment = flatter.rule.source.namespace.as_str().is_empty() || flatter.rule.target.flatten;
        let is_out_of_reach = is_one_segment && !step.is_empty();
        !is_same_source
            && !is_out_of_reach
            && types_meet(&self.rule.source.types, &other.rule.source.types)
            && Literal::some_agree(&self.tag_beginnings, &other.tag_beginnings, starts)
            && Literal::some_agree(&self.tag_ends, &other.tag_ends, ends)
            && Literal::some_agree(&self.ends, &other.ends, ends)
            && self.has_names_for(other)
            && other.has_names_for(self)
    }

    /// Whether the other's patterns meet one of the names that this one's are, where they are a few names.
    fn has_names_for(&self, other: &Self) -> bool {
        let (repository, tag) = (&other.rule.source.repository, &other.rule.source.tag);
        let meets = |pattern: &Pattern, names: &mut dyn Iterator<Item = Option<&str>>| {
            let Ok(regex) = pattern.compile() else { return true };
            pattern.is_any() || names.flatten().any(|name| regex.is_match(name))
        };
        let are_names = |literals: &[Literal]| literals.iter().all(|literal| literal.whole);
        let repositories = &mut self.beginnings.iter().map(|name| name.text.strip_prefix(&*other.target));
        let tags = &mut self.tag_beginnings.iter().map(|name| Some(&*name.text));
        // What a flattened name was before is not known.
        let is_flattened = self.rule.target.flatten || other.rule.target.flatten;
        (is_flattened || !are_names(&self.beginnings) || meets(repository, repositories))
            && (!are_names(&self.tag_beginnings) || meets(tag, tags))
    }
}

/// Whether there is a type that both mean; none stands for all.
fn types_meet(some: &[ArtifactType], others: &[ArtifactType]) -> bool {
    some.is_empty() || others.is_empty() || some.iter().any(|one| others.contains(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::tests::rule;

    /// A rule from an instance of this name, so that all have different sources.
    fn from(instance: &str, namespace: &str, repository: &str, tag: &str, target: &str) -> Rule {
        rule((instance, namespace), repository, tag, ("prod", Some(target)))
    }

    fn meet(one: &Rule, other: &Rule) -> bool {
        let both = overlaps(one, other);
        assert_eq!(both, overlaps(other, one), "whichever comes first");
        let listed = pairs(&[one.clone(), other.clone()], 10);
        assert_eq!(both, listed == [(0, 1)], "{listed:?}");
        assert_eq!(both, overlapping(one, [one, other]).len() == 1);
        both
    }

    /// Would break: a warning of rules that can't meet, which teaches people to read over warnings; none of rules that do.
    #[test]
    fn namespaces_and_patterns_tell_whether_two_rules_meet() {
        let all = |target| from("a", "team", ".*", ".*", target);
        for (target, namespace, repository, tag, expected) in [
            ("mirror", "team", ".*", ".*", true),
            ("mirrors", "team", ".*", ".*", false),
            ("mirror/base", "team", ".*", ".*", true),
            ("", "team", ".*", ".*", true),
            ("", "team", "mirror/app", ".*", true),
            ("", "team", "other/.*", ".*", false),
            ("", "", ".*", ".*", false),
            ("mirror", "", ".*", ".*", true),
        ] {
            let other = from("b", namespace, repository, tag, target);
            assert_eq!(meet(&all("mirror"), &other), expected, "{target:?} {namespace:?} {repository}");
        }
        for (one, other, expected) in [
            ("app", "app", true),
            ("app", "app-.*", false),
            ("app", "app.*", true),
            ("app|web", "web|db", true),
            ("app|web", "db|cache", false),
            ("app-.*", "web-.*", false),
            (".*-api", ".*-web", false),
            ("app-.*", ".*-web", true),
            (r"v\d+", r"\d+", false),
            (r"v\d+\..*", r"v\d+", true),
            ("app", "[a-z]{5}", false),
            ("[a-z]+", "[0-9]+", true),
            ("nightly", ".*", true),
        ] {
            let of_repository = |instance, pattern| from(instance, "team", pattern, ".*", "mirror");
            assert_eq!(meet(&of_repository("a", one), &of_repository("b", other)), expected, "repositories {one} {other}");
            let of_tag = |instance, pattern| from(instance, "team", ".*", pattern, "mirror");
            assert_eq!(meet(&of_tag("a", one), &of_tag("b", other)), expected, "tags {one} {other}");
        }
    }

    /// Would break: rules that flatten two paths to one name without a warning, or one for what no flattened name can be.
    #[test]
    fn flattened_names_meet_others() {
        let flat = |mut rule: Rule| {
            rule.target.flatten = true;
            rule
        };
        let one = flat(from("a", "team", "base/.*", ".*", "mirror"));
        assert!(meet(&one, &from("b", "team", "base-app", ".*", "mirror")));
        assert!(meet(&one, &flat(from("b", "team", "base/web", ".*", "mirror"))));
        assert!(!meet(&one, &from("b", "team", "other", ".*", "mirror")));
        assert!(!meet(&one, &from("b", "team", ".*", ".*", "mirror/base")), "a flattened name is one segment");
        assert!(!meet(&one, &from("b", "team", "base/app", ".*", "mirror")));
        let mut whole = from("a", "team", ".*", ".*", "mirror");
        whole.name = "other".parse().unwrap();
        assert!(meet(&one, &whole), "base/app of one and base-app of the other");
        let mut again = flat(whole);
        again.name = "again".parse().unwrap();
        assert!(!meet(&one, &again), "the same from the same");
    }

    /// Would break: a warning of rules that bring the same thing, or that are not at work.
    #[test]
    fn one_source_is_no_overlap_and_neither_is_a_rule_that_does_nothing() {
        let whole = from("a", "team", ".*", ".*", "mirror");
        let named = |mut rule: Rule| {
            rule.name = "other".parse().unwrap();
            rule
        };
        assert!(!meet(&whole, &whole), "it is the same");
        assert!(!meet(&whole, &named(from("a", "team/base", ".*", ".*", "mirror/base"))));
        assert!(!meet(&from("a", "*", ".*", ".*", ""), &named(from("a", "team", ".*", ".*", "team"))));
        assert!(meet(&whole, &named(from("a", "team/base", ".*", ".*", "mirror"))), "team/x and team/base/x go to mirror/x");
        assert!(meet(&whole, &named(from("a", "dev", ".*", ".*", "mirror"))));
        let other = from("b", "team", ".*", ".*", "mirror");
        assert!(meet(&whole, &other));
        assert!(!meet(&whole, &Rule { enabled: false, ..other.clone() }));
        let of_types = |mut rule: Rule, types: &[ArtifactType]| {
            rule.source.types = types.to_vec();
            rule
        };
        let (image, chart) = (ArtifactType::Image, ArtifactType::Chart);
        assert!(!meet(&of_types(whole.clone(), &[image]), &of_types(other.clone(), &[chart])));
        assert!(meet(&of_types(whole, &[image]), &of_types(other, &[chart, image])));
    }

    /// Would break: a search that compares each rule with each other one, which takes minutes; one that finds none, or too many.
    #[test]
    fn ten_thousand_rules_are_searched_at_once() {
        let one = from("a", "team", "x", r"v\d+\..*", "mirror");
        let mut rules: Vec<Rule> = (0..10_000).map(|_| one.clone()).collect();
        for (n, rule) in rules.iter_mut().enumerate() {
            rule.source.instance = format!("a{n}").parse().unwrap();
            // As the table has it: not compiled.
            rule.source.repository = serde_json::from_value(format!("app{n}-.*").into()).unwrap();
        }
        assert_eq!(pairs(&rules, 10), []);
        rules[9000] = from("b", "team", "app17-x", ".*", "mirror");
        assert_eq!(pairs(&rules, 10), [(17, 9000)]);
        rules.iter_mut().for_each(|rule| rule.source.repository = Pattern::default());
        assert_eq!(pairs(&rules, 10).len(), 10, "as many as were asked for");
    }
}
