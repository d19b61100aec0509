//! Flattening: the path below a rule's namespace becomes one segment at the target, where registries limit how deep names are.

use std::fmt;

use crate::{Kind, Repository, Rule};

/// What a slash becomes.
const JOINT: &str = "-";
/// Of a flattened name with more places where a slash may have been, not all are tried.
const MAX_JOINTS: usize = 8;

/// The path as one segment: `base/app` becomes `base-app`.
pub(crate) fn flat(path: &str) -> String {
    path.replace('/', JOINT)
}

/// The paths that become this segment, the segment itself among them. Segments begin and end with a letter or digit, so that a slash was
/// only where one hyphen stands by itself.
pub(crate) fn paths(segment: &str) -> Vec<String> {
    let bytes = segment.as_bytes();
    let is_joint = |at: &usize| {
        let near = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_alphanumeric);
        near(at.checked_sub(1)) && near(at.checked_add(1))
    };
    let joints = segment.match_indices(JOINT).map(|(at, _)| at).filter(is_joint).take(MAX_JOINTS);
    joints.fold(vec![segment.to_owned()], |paths, at| {
        let with_slash = |path: &String| format!("{}/{}", &path[..at], &path[at + 1..]);
        let more: Vec<String> = paths.iter().map(with_slash).collect();
        paths.into_iter().chain(more).collect()
    })
}

/// A name is deeper than the target's registry allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooDeep {
    name: String,
    max: usize,
    kind: Kind,
    /// Whether the rule's target namespace alone leaves no place for a repository.
    is_namespace: bool,
}

impl fmt::Display for TooDeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, max, kind, is_namespace } = self;
        match is_namespace {
            true => write!(
                f,
                "the target namespace {name} leaves no segment for a repository: on {kind} its name has {max} segments at most, so \
                 name a target namespace of {}, and set flatten: true in the rule's target if paths below it may be deeper",
                max - 1
            ),
            false => write!(
                f,
                "{name} would be the name at the target, and on {kind} a repository's name has {max} segments at most: set \
                 flatten: true in the rule's target, by which the path below the namespace becomes one segment"
            ),
        }
    }
}

impl std::error::Error for TooDeep {}

impl Kind {
    /// How many segments a repository's name can have, where the service has a limit that is its own.
    pub fn max_segments(self) -> Option<usize> {
        match self {
            // `user/name`, and nothing below.
            Self::DockerHub => Some(2),
            _ => None,
        }
    }
}

impl Rule {
    /// Checks that a repository at the target, an instance of this kind, is not too deep for it.
    ///
    /// # Errors
    /// [`TooDeep`] names the setting that mends it.
    pub fn check_depth(&self, kind: Kind, target: &Repository) -> Result<(), TooDeep> {
        self.check_at(kind)?;
        let too_deep = |max: &usize| target.as_str().split('/').count() > *max;
        match kind.max_segments().filter(too_deep) {
            Some(max) => Err(TooDeep { name: target.to_string(), max, kind, is_namespace: false }),
            None => Ok(()),
        }
    }

    /// Checks what can be told of depth before there is a repository: whether the target namespace, or the one path that the repository
    /// pattern meets, has a place on an instance of this kind.
    ///
    /// # Errors
    /// As [`Rule::check_depth`].
    pub fn check_at(&self, kind: Kind) -> Result<(), TooDeep> {
        let Some(max) = kind.max_segments() else { return Ok(()) };
        let namespace = self.target_namespace();
        let has_none = matches!(namespace.as_str(), "" | "*");
        if !has_none && namespace.as_str().split('/').count() >= max {
            return Err(TooDeep { name: namespace.to_string(), max, kind, is_namespace: true });
        }
        let only = self.source.repository.literal().and_then(|path| self.place_of(&path).ok());
        match only.filter(|only| only.as_str().split('/').count() > max) {
            Some(only) => Err(TooDeep { name: only.to_string(), max, kind, is_namespace: false }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::*;
    use crate::{RuleIndex, rule::tests::rule};

    fn repo(text: &str) -> Repository {
        text.parse().unwrap()
    }

    /// Would break: a flattened name that the webhook does not know as written by its rule, or that is taken for one of another namespace.
    #[test]
    fn a_path_becomes_one_segment_and_is_found_again() {
        for (source, target, from, to) in [
            ("team", Some("mirror"), "team/base/app", "mirror/base-app"),
            ("team", Some("mirror"), "team/base-app", "mirror/base-app"),
            ("team", None, "team/a/b/c-d--e", "team/a-b-c-d--e"),
            ("*", Some("mirror"), "team/app", "mirror/team-app"),
            ("*", None, "team/app", "team-app"),
            ("team", Some(""), "team/base/app", "base-app"),
        ] {
            let mut rule = rule(("a", source), ".*", ".*", ("b", target));
            rule.target.flatten = true;
            assert_eq!(rule.target_repository(&repo(from)), Some(Ok(repo(to))), "{source} {target:?}");
            let index = RuleIndex::new([Arc::new(rule)]);
            let writers = |place: &str| -> Vec<Repository> {
                let (instance, place, tag) = ("b".parse().unwrap(), repo(place), "v1".parse().unwrap());
                index.that_write(&instance, &place, &tag).map(|(_, source)| source).collect()
            };
            assert!(writers(to).contains(&repo(from)), "{source} {target:?} back: {:?}", writers(to));
            assert_eq!(writers("mirror/base/app"), [], "no flattened name is as deep");
        }
        let mut narrow = rule(("a", "team"), "base/.*", "v.*", ("b", Some("mirror")));
        narrow.target.flatten = true;
        let index = RuleIndex::new([Arc::new(narrow)]);
        let writers = |place: &str, tag: &str| {
            index.that_write(&"b".parse().unwrap(), &repo(place), &tag.parse().unwrap()).map(|(_, from)| from).collect()
        };
        let found: BTreeSet<Repository> = writers("mirror/base-my-app", "v1");
        assert_eq!(found, BTreeSet::from(["team/base/my-app", "team/base/my/app"].map(repo)));
        assert!(writers("mirror/other-app", "v1").is_empty() && writers("mirror/base-app", "w1").is_empty());
    }

    /// Would break: a copy to Docker Hub that fails with whatever it answers, or not before it has been tried for a day.
    #[test]
    fn what_is_too_deep_is_told_with_what_mends_it() {
        let hub = Kind::DockerHub;
        let to = |namespace: Option<&str>, pattern: &str, flatten: bool| {
            let mut rule = rule(("a", "team"), pattern, ".*", ("hub", namespace));
            rule.target.flatten = flatten;
            rule
        };
        let problem = |rule: &Rule| rule.check_at(hub).unwrap_err().to_string();
        assert!(problem(&to(Some("me/base"), ".*", true)).contains("name a target namespace of 1"));
        assert!(problem(&to(Some("me"), "base/app", false)).contains("flatten: true"));
        assert_eq!(to(Some("me"), "base/app", true).check_at(hub), Ok(()));
        let open = to(Some("me"), ".*", false);
        assert_eq!(open.check_at(hub), Ok(()), "it can't be told yet");
        assert_eq!(open.check_depth(hub, &repo("me/app")), Ok(()));
        assert!(open.check_depth(hub, &repo("me/base/app")).unwrap_err().to_string().contains("flatten: true"));
        assert_eq!(open.check_depth(Kind::Harbor, &repo("me/base/app")), Ok(()));
    }
}
