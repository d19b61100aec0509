//! Rules: what to sync from one source to one target.

use std::{fmt, str::FromStr};

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use url::Url;
use utoipa::ToSchema;

use crate::{InstanceName, InvalidName, Namespace, Repository, RuleId, RuleName, Schedule, flatten};

/// What to sync from one source instance and namespace to one target instance and namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its identity, given once.
    pub id: RuleId,
    /// Grows with each change, from 1.
    pub revision: u64,
    /// Its name, unique within the source instance.
    pub name: RuleName,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it selects.
    pub source: Source,
    /// Where that goes.
    pub target: Target,
    /// Whether a tag that the target has with another digest is replaced.
    #[serde(default)]
    pub overwrite: bool,
    /// Whether a tag that is deleted at the source is deleted at the target, if that still has what transship put there.
    #[serde(default)]
    pub propagate_deletions: bool,
    /// Whether signatures, SBOMs and whatever else refers to an artifact go with it.
    #[serde(default = "yes")]
    pub referrers: bool,
    /// When it runs by itself, besides the pushes that it hears of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Whether it does anything.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

/// What a rule selects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// The instance that is pushed to.
    pub instance: InstanceName,
    /// The namespace whose repositories are meant.
    pub namespace: Namespace,
    /// Meets the path of a repository below the namespace.
    #[serde(default)]
    pub repository: Pattern,
    /// Meets the tag.
    #[serde(default)]
    pub tag: Pattern,
    /// The artifact types that are meant; empty for all.
    #[serde(default)]
    pub types: Vec<ArtifactType>,
}

/// Where a rule copies to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Target {
    /// The instance that is written to.
    pub instance: InstanceName,
    /// The namespace there; by default the source's. With `*`, or empty, repositories keep their whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Whether the path below the namespace becomes one segment, with hyphens for its slashes: `base/app` becomes `base-app`. For
    /// registries that limit how deep names are. Of two repositories that become the same, the one that came first has the name; what is
    /// copied from the other fails.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flatten: bool,
}

/// What an artifact is, as its manifest says; an index is what its children are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactType {
    /// A container image, for one platform or several.
    Image,
    /// A Helm chart.
    Chart,
    /// Anything else: signatures, SBOMs, WebAssembly modules, models.
    Other,
}

impl ArtifactType {
    /// The name in configuration files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Chart => "chart",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ArtifactType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A regular expression that meets a whole name. It is checked when it is parsed from text that somebody wrote. Deserialized it
/// comes from the table, where only checked ones are: it is compiled where it is first used, so that ten thousand rules cost a
/// cold start nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = Regex, max_length = 1024)]
pub struct Pattern(String);

/// A pattern that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// Its syntax is wrong; the message points at the place.
    #[error("not a regular expression: {0}")]
    Syntax(String),
    /// It is longer than [`Pattern::MAX_LENGTH`] or compiles to more than [`Pattern::SIZE_LIMIT`].
    #[error("the regular expression is too large: at most {max} characters, and no more than 1 MiB when compiled", max = Pattern::MAX_LENGTH)]
    TooLarge,
}

impl Pattern {
    /// The greatest length of a pattern, in bytes.
    pub const MAX_LENGTH: usize = 1024;
    /// The greatest size of a compiled pattern, in bytes.
    pub const SIZE_LIMIT: usize = 1 << 20;

    /// Compiles the pattern to meet whole names.
    ///
    /// # Errors
    /// None for a pattern that was checked; see [`InvalidPattern`] for what a table of somebody else's may hold.
    pub fn compile(&self) -> Result<Regex, InvalidPattern> {
        compile(&format!("^(?:{})$", self.0))
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it meets every name.
    pub fn is_any(&self) -> bool {
        self.0 == ".*"
    }

    /// Whether the pattern meets the whole of `name`: the plain way, for tests of the faster one.
    #[cfg(test)]
    pub(crate) fn matches(&self, name: &str) -> bool {
        self.is_any() || self.compile().is_ok_and(|regex| regex.is_match(name))
    }

    /// The only name that the pattern meets, if it is a plain text: a registry need not be searched for it.
    pub fn literal(&self) -> Option<String> {
        let hir = regex_syntax::parse(&self.0).ok()?;
        match hir.kind() {
            regex_syntax::hir::HirKind::Literal(literal) => String::from_utf8(literal.0.to_vec()).ok(),
            _ => None,
        }
    }
}

fn compile(text: &str) -> Result<Regex, InvalidPattern> {
    RegexBuilder::new(text).size_limit(Pattern::SIZE_LIMIT).dfa_size_limit(Pattern::SIZE_LIMIT).build().map_err(|error| {
        match error {
            regex::Error::CompiledTooBig(_) => InvalidPattern::TooLarge,
            // The last line says what is wrong, the ones before it draw a picture that fits no one-line message.
            other => InvalidPattern::Syntax(other.to_string().lines().last().unwrap_or_default().replace("error: ", "")),
        }
    })
}

impl Default for Pattern {
    fn default() -> Self {
        Self(".*".into())
    }
}

impl FromStr for Pattern {
    type Err = InvalidPattern;
    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        if text.len() > Self::MAX_LENGTH {
            return Err(InvalidPattern::TooLarge);
        }
        // Bare first: `a)|(?:b` is no expression, but would be one inside the group that anchors it, and unanchored.
        compile(text)?;
        let pattern = Self(text.into());
        pattern.compile()?;
        Ok(pattern)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a rule can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// What it writes it would read again.
    #[error(
        "the target lies within the rule's own source, so that it would copy its own copies: \
         name a target namespace outside of {0:?}, or a repository pattern that can't meet the copies"
    )]
    TargetWithinSource(Namespace),
    /// The source's namespace is `*`, so is the target's, on one instance.
    #[error("source and target are the same place: name another target instance or namespace")]
    OntoItself,
}

impl Rule {
    /// The name that people use: `instance/rule`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.source.instance, self.name)
    }

    /// Where the target is, as a namespace that a path is put below.
    pub fn target_namespace(&self) -> &Namespace {
        self.target.namespace.as_ref().unwrap_or(&self.source.namespace)
    }

    /// The repository at the target for a repository at the source that lies in the rule's namespace, whatever its pattern says.
    /// `None` where it does not lie there.
    ///
    /// # Errors
    /// The name at the target may be too long.
    pub fn target_repository(&self, source: &Repository) -> Option<Result<Repository, InvalidName>> {
        source.below(&self.source.namespace).map(|path| self.place_of(path))
    }

    /// The repository at the target for a path below the source's namespace.
    pub(crate) fn place_of(&self, path: &str) -> Result<Repository, InvalidName> {
        match self.target.flatten {
            true => self.target_namespace().join(&flatten::flat(path)),
            false => self.target_namespace().join(path),
        }
    }

    /// Whether a repository lies in the rule's namespace and its path there meets the pattern.
    pub fn selects_repository(&self, source: &Repository) -> bool {
        let Some(path) = source.below(&self.source.namespace) else { return false };
        self.source.repository.is_any() || self.source.repository.compile().is_ok_and(|regex| regex.is_match(path))
    }

    /// The repository at the source that the rule, which does not flatten, copies to `target`, if there can be one.
    pub(crate) fn source_repository(&self, target: &Repository) -> Option<Repository> {
        if *self.target_namespace() == self.source.namespace {
            return target.below(&self.source.namespace).map(|_| target.clone());
        }
        let path = match self.target_namespace().as_str() {
            "" | "*" => target.as_str(),
            _ => target.below(self.target_namespace())?,
        };
        let source = self.source.namespace.join(path).ok()?;
        source.below(&self.source.namespace).is_some_and(|below| below == path).then_some(source)
    }

    /// Whether an artifact of this type is meant.
    pub fn selects_type(&self, artifact: ArtifactType) -> bool {
        self.source.types.is_empty() || self.source.types.contains(&artifact)
    }

    /// Checks what can be seen from the rule alone.
    ///
    /// # Errors
    /// [`InvalidRule`] says which promise it would break.
    pub fn check(&self) -> Result<(), InvalidRule> {
        if self.source.instance == self.target.instance { self.check_within() } else { Ok(()) }
    }

    /// The same for two instances that may be one registry under two names: copies are not to be copied on and on there. That a copy is what
    /// it is of does no harm.
    ///
    /// # Errors
    /// [`InvalidRule`]
    pub fn check_between(&self, source: &Url, target: &Url) -> Result<(), InvalidRule> {
        match self.check_within() {
            Err(error @ InvalidRule::TargetWithinSource(_)) if source.origin() == target.origin() => Err(error),
            _ => Ok(()),
        }
    }

    fn check_within(&self) -> Result<(), InvalidRule> {
        let (source, target) = (&self.source.namespace, self.target_namespace());
        if source == target || (source.is_all() && target.as_str().is_empty()) {
            return Err(InvalidRule::OntoItself);
        }
        // The path below the source's namespace that every copy begins with, if copies lie there at all.
        let nested = match (source.as_str(), target.as_str()) {
            ("*", target) => format!("{target}/"),
            ("", _) => return Ok(()),
            // One segment lies in no namespace.
            (_, "" | "*") if self.target.flatten => return Ok(()),
            (source, "" | "*") => {
                // A copy `source/x` would need a path that begins with the namespace again.
                if self.may_meet_below(&format!("{source}/")) {
                    return Err(InvalidRule::TargetWithinSource(self.source.namespace.clone()));
                }
                return Ok(());
            }
            (source, target) => match target.strip_prefix(source).and_then(|rest| rest.strip_prefix('/')) {
                Some(rest) => format!("{rest}/"),
                None => return Ok(()),
            },
        };
        if self.may_meet_below(&nested) {
            return Err(InvalidRule::TargetWithinSource(self.source.namespace.clone()));
        }
        Ok(())
    }

    /// Whether the repository pattern may meet a path that begins with `prefix`: judged by the literals that the pattern begins
    /// with, so that a doubt counts as yes.
    fn may_meet_below(&self, prefix: &str) -> bool {
        let literals = crate::matching::prefixes(&self.source.repository);
        literals.is_none_or(|literals| literals.iter().any(|l| l.starts_with(prefix) || prefix.starts_with(l.as_str())))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn rule(source: (&str, &str), repository: &str, tag: &str, target: (&str, Option<&str>)) -> Rule {
        Rule {
            id: RuleId(1),
            revision: 1,
            name: "r".parse().unwrap(),
            description: String::new(),
            source: Source {
                instance: source.0.parse().unwrap(),
                namespace: source.1.parse().unwrap(),
                repository: repository.parse().unwrap(),
                tag: tag.parse().unwrap(),
                types: Vec::new(),
            },
            target: Target {
                instance: target.0.parse().unwrap(),
                namespace: target.1.map(|n| n.parse().unwrap()),
                flatten: false,
            },
            overwrite: false,
            propagate_deletions: false,
            referrers: true,
            schedule: None,
            enabled: true,
        }
    }

    #[test]
    fn a_pattern_meets_whole_names_only() {
        let pattern: Pattern = "v1|v2".parse().unwrap();
        assert!(pattern.matches("v1") && pattern.matches("v2"));
        assert!(!pattern.matches("v1x") && !pattern.matches("xv2"));
        // Valid inside the group that anchors it, and then it would meet anything that begins with foo.
        assert!("foo)|(?:bar".parse::<Pattern>().is_err());
        assert_eq!("a{1000}{1000}".parse::<Pattern>(), Err(InvalidPattern::TooLarge));
        assert!("a".repeat(2000).parse::<Pattern>().is_err());
        assert_eq!("app-1".parse::<Pattern>().unwrap().literal().as_deref(), Some("app-1"));
        assert_eq!("app.1".parse::<Pattern>().unwrap().literal(), None);
    }

    #[test]
    fn a_repository_is_mapped_below_the_target_namespace_and_back() {
        let repo = |s: &str| s.parse::<Repository>().unwrap();
        for (source, target, from, to) in [
            ("team", Some("mirror"), "team/base/app", "mirror/base/app"),
            ("team", None, "team/app", "team/app"),
            ("*", None, "team/app", "team/app"),
            ("*", Some("mirror"), "team/app", "mirror/team/app"),
            ("", Some("mirror"), "app", "mirror/app"),
            ("team", Some(""), "team/app", "app"),
            ("team/base", Some("x/y"), "team/base/app", "x/y/app"),
        ] {
            let rule = rule(("a", source), ".*", ".*", ("b", target));
            assert_eq!(rule.target_repository(&repo(from)).unwrap().unwrap(), repo(to), "{source} {target:?}");
            assert_eq!(rule.source_repository(&repo(to)), Some(repo(from)), "{source} {target:?} back");
        }
        let rule = rule(("a", "team"), ".*", ".*", ("b", Some("mirror")));
        assert!(rule.target_repository(&repo("other/app")).is_none());
        assert!(rule.source_repository(&repo("other/app")).is_none());
    }

    #[test]
    fn a_rule_that_would_copy_its_own_copies_is_refused() {
        let check = |source, pattern, target| rule(("a", source), pattern, ".*", ("a", target)).check();
        assert!(check("*", ".*", Some("mirror")).is_err());
        assert!(check("*", ".*", None).is_err());
        assert!(check("*", "mirror/.*", Some("mirror")).is_err());
        assert!(check("*", "team/.*", Some("mirror")).is_ok());
        assert!(check("team", ".*", None).is_err());
        assert!(check("team", ".*", Some("team")).is_err());
        assert!(check("team", ".*", Some("team/copy")).is_err());
        assert!(check("team", "app-.*", Some("team/copy")).is_ok());
        assert!(check("team", ".*", Some("teams")).is_ok());
        assert!(check("dev", ".*", Some("test")).is_ok());
        assert!(check("", ".*", Some("mirror")).is_ok());
        assert!(check("team", ".*", Some("")).is_err());
        assert!(check("team", "app", Some("")).is_ok());
        assert!(rule(("a", "*"), ".*", ".*", ("b", None)).check().is_ok());
    }

    /// Would break: a push that is copied deeper and deeper, because one registry has two names.
    #[test]
    fn two_names_of_one_registry_hide_nothing() {
        let url = |text: &str| Url::parse(text).unwrap();
        let check = |target, from, to| rule(("a", "team"), ".*", ".*", ("b", target)).check_between(&url(from), &url(to));
        let (one, same, other) = ("https://r.example.com", "https://r.example.com:443/", "https://r.example.com:5000");
        assert!(check(Some("team/copy"), one, same).is_err());
        assert!(check(Some("team/copy"), one, other).is_ok());
        assert!(check(Some("copy"), one, same).is_ok());
        assert!(check(None, one, same).is_ok(), "a copy onto itself goes no further");
    }
}
