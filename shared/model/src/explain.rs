//! Why a rule does, or does not, copy something: the decision of the webhook, with its reasons.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ArtifactType, Origin, Place, Reference, Rule};

/// What a rule has to say to something in its source instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// It is copied.
    Selected,
    /// It is copied if it is of one of these types, which is known when a worker has looked at it.
    SelectedByType {
        /// The rule's types.
        types: Vec<ArtifactType>,
    },
    /// It has no tag of its own, or belongs to something else by its name: it is brought where the target has what it belongs to.
    Attached,
    /// The rule is disabled.
    Disabled,
    /// The repository does not lie in the rule's namespace.
    Namespace,
    /// The path below the namespace does not meet the repository pattern.
    Repository {
        /// The path.
        path: String,
    },
    /// The tag does not meet the tag pattern.
    Tag,
    /// The rule leaves behind what refers to something else.
    Referrers,
    /// The repository's name at the target would be too long.
    TargetName {
        /// What is wrong with it.
        problem: String,
    },
    /// What is there was put there by transship, and has passed this rule or its target on its way.
    Echo,
}

impl Reason {
    /// Whether the rule selects it.
    pub fn is_selected(&self) -> bool {
        matches!(self, Self::Selected | Self::SelectedByType { .. } | Self::Attached)
    }

    /// The reason in words, for a rule.
    pub fn words(&self, rule: &Rule) -> String {
        let source = &rule.source;
        match self {
            Self::Selected => "the rule selects it".into(),
            Self::SelectedByType { types } => {
                let types: Vec<&str> = types.iter().map(|artifact| artifact.as_str()).collect();
                format!("the rule selects it if it is one of: {}; a worker finds out when it looks", types.join(", "))
            }
            Self::Attached => "it is brought where the target has what it belongs to".into(),
            Self::Disabled => "the rule is disabled".into(),
            Self::Namespace => match source.namespace.as_str() {
                "" => "the rule is for repositories without a slash".into(),
                namespace => format!("the repository is not in the namespace {namespace}"),
            },
            Self::Repository { path } => format!("{path} does not meet the repository pattern {}", source.repository),
            Self::Tag => format!("the tag does not meet the pattern {}, which has to meet all of it", source.tag),
            Self::Referrers => "the rule leaves signatures and whatever else refers to an artifact behind".into(),
            Self::TargetName { problem } => format!("it has no place at the target: {problem}"),
            Self::Echo => {
                "what is there was put there by transship, and this rule or its target is on the way that it has come".into()
            }
        }
    }
}

/// What a rule has to say to a place in its source instance, given what is known of where its content came from.
pub fn explain(rule: &Rule, place: &Place, origin: &Origin) -> Reason {
    if !rule.enabled {
        return Reason::Disabled;
    }
    let Some(path) = place.repository.below(&rule.source.namespace) else { return Reason::Namespace };
    let meets =
        |pattern: &crate::Pattern, text: &str| pattern.is_any() || pattern.compile().is_ok_and(|regex| regex.is_match(text));
    if !meets(&rule.source.repository, path) {
        return Reason::Repository { path: path.to_owned() };
    }
    let target = match rule.target_repository(&place.repository) {
        Some(Ok(target)) => target,
        Some(Err(error)) => return Reason::TargetName { problem: error.to_string() },
        None => return Reason::Namespace,
    };
    let tag = match &place.reference {
        Reference::Tag(tag) if tag.subject().is_none() => tag,
        _ if rule.referrers => return Reason::Attached,
        _ => return Reason::Referrers,
    };
    if !meets(&rule.source.tag, tag.as_str()) {
        return Reason::Tag;
    }
    if origin.newest_write().is_some_and(|written| !written.trail.allows(rule, &target)) {
        return Reason::Echo;
    }
    match &rule.source.types[..] {
        [] => Reason::Selected,
        types => Reason::SelectedByType { types: types.to_vec() },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{RuleId, RuleIndex, rule::tests::rule};

    fn place(repository: &str, reference: &str) -> Place {
        Place { instance: "a".parse().unwrap(), repository: repository.parse().unwrap(), reference: reference.parse().unwrap() }
    }

    /// Would break: an explanation that is not what the webhook does.
    #[test]
    fn what_is_explained_is_what_the_index_finds() {
        let sources = [
            ("team", ".*", ".*"),
            ("team", "app-.*", r"v\d+"),
            ("*", ".*/app", "v1"),
            ("", ".*", ".*"),
            ("team/base", "", "v.*"),
        ];
        let rules: Vec<Arc<Rule>> = sources
            .iter()
            .enumerate()
            .flat_map(|(at, (namespace, repository, tag))| {
                [true, false].map(|enabled| {
                    let mut rule = rule(("a", namespace), repository, tag, ("b", Some("mirror")));
                    (rule.id, rule.enabled) = (RuleId(at as u64 * 2 + u64::from(enabled)), enabled);
                    Arc::new(rule)
                })
            })
            .collect();
        let index = RuleIndex::new(rules.iter().cloned());
        let mut selected = 0;
        for repository in ["team/app", "team/app-1", "team/base/app", "app", "teams/app-1", "x/y/z/app"] {
            for tag in ["v1", "v12", "latest", "V1"] {
                let place = place(repository, tag);
                let found = index.of_tag(&place.instance, &place.repository, place.reference.tag().unwrap());
                for rule in &rules {
                    let reason = explain(rule, &place, &Origin::default());
                    let is_found = found.iter().any(|found| found.id == rule.id);
                    assert_eq!(reason.is_selected(), is_found, "{place} {:?} {reason:?}", rule.source);
                    selected += usize::from(is_found);
                }
            }
        }
        assert!(selected > 10);
    }

    #[test]
    fn a_reason_names_what_does_not_fit() {
        let of = |rule: &Rule, repository: &str, reference: &str| {
            explain(rule, &place(repository, reference), &Origin::default()).words(rule)
        };
        let mut rule = rule(("a", "team"), "app-.*", r"v\d+", ("b", None));
        assert_eq!(of(&rule, "other/app-1", "v1"), "the repository is not in the namespace team");
        assert_eq!(of(&rule, "team/web", "v1"), "web does not meet the repository pattern app-.*");
        assert_eq!(of(&rule, "team/app-1", "v1.2"), r"the tag does not meet the pattern v\d+, which has to meet all of it");
        let signature = format!("sha256-{}.sig", "0".repeat(64));
        assert!(of(&rule, "team/app-1", &signature).starts_with("it is brought where"));
        rule.referrers = false;
        assert!(of(&rule, "team/app-1", &signature).contains("leaves signatures"));
        rule.source.types = vec![ArtifactType::Chart];
        assert!(of(&rule, "team/app-1", "v1").contains("if it is one of: chart"));
        rule.enabled = false;
        assert_eq!(of(&rule, "team/app-1", "v1"), "the rule is disabled");
    }
}
