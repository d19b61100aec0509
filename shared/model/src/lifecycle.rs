//! Lifecycle policies of Amazon ECR: which images of a repository expire.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A lifecycle policy as AWS words it: a JSON document, which is given to each repository that is made. What can be told without AWS is
/// checked when it is read; the rest is AWS's to refuse.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, min_length = 1, max_length = 30720)]
pub struct LifecyclePolicy(String);

/// What is no lifecycle policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// `PutLifecyclePolicy` takes no more.
    #[error("is longer than the {max} characters that ECR takes", max = LifecyclePolicy::MAX_LENGTH)]
    TooLong,
    /// It can't be read.
    #[error("is not JSON: {0}")]
    NotJson(String),
    /// It has no rules.
    #[error(
        "has no rules: write {{\"rules\": [{{\"rulePriority\": 1, \"selection\": {{…}}, \"action\": {{\"type\": \"expire\"}}}}]}}"
    )]
    NoRules,
    /// Something in a rule.
    #[error("rules[{rule}].{what}")]
    Rule {
        /// Its place, from 0.
        rule: usize,
        /// Which key, and what it has to be.
        what: &'static str,
    },
}

impl LifecyclePolicy {
    /// The greatest length, in characters: `lifecyclePolicyText` of PutLifecyclePolicy.
    pub const MAX_LENGTH: usize = 30_720;

    /// The document.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LifecyclePolicy {
    type Err = InvalidPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        if text.chars().count() > Self::MAX_LENGTH {
            return Err(InvalidPolicy::TooLong);
        }
        let document: Value = serde_json::from_str(text).map_err(|error| InvalidPolicy::NotJson(error.to_string()))?;
        let rules = document["rules"].as_array().filter(|rules| !rules.is_empty()).ok_or(InvalidPolicy::NoRules)?;
        let mut priorities = BTreeSet::new();
        for (at, rule) in rules.iter().enumerate() {
            let needed = |is_so: bool, what| if is_so { Ok(()) } else { Err(InvalidPolicy::Rule { rule: at, what }) };
            let selection = &rule["selection"];
            let is_one_of = |value: &Value, words: &[&str]| value.as_str().is_some_and(|word| words.contains(&word));
            let priority = rule["rulePriority"].as_u64().filter(|priority| *priority > 0);
            needed(priority.is_some(), "rulePriority is to be a number from 1")?;
            needed(priorities.insert(priority), "rulePriority is another rule's, too")?;
            needed(
                is_one_of(&selection["tagStatus"], &["tagged", "untagged", "any"]),
                "selection.tagStatus is to be tagged, untagged or any",
            )?;
            needed(selection["countType"].is_string(), "selection.countType is missing, as in imageCountMoreThan")?;
            needed(selection["countNumber"].as_u64().is_some_and(|n| n > 0), "selection.countNumber is to be a number from 1")?;
            needed(rule["action"]["type"].is_string(), "action.type is missing, as in expire")?;
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for LifecyclePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: a policy that AWS refuses when the first image is copied, at night; one that it takes and that is refused here.
    #[test]
    fn what_is_wrong_with_a_policy_is_told_before_a_repository_is_made() {
        let selection = r#"{"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 14}"#;
        let rule = |priority: u32| {
            format!(r#"{{"rulePriority": {priority}, "selection": {selection}, "action": {{"type": "expire"}}}}"#)
        };
        let policy = |rules: &str| format!(r#"{{"rules": [{rules}]}}"#).parse::<LifecyclePolicy>();
        assert!(policy(&rule(1)).is_ok() && policy(&format!("{}, {}", rule(1), rule(2))).is_ok());
        for (wrong, part) in [
            ("rules: []", "is not JSON"),
            (r#"{"rules": []}"#, "has no rules"),
            (&format!(r#"{{"rules": [{}, {}]}}"#, rule(1), rule(1)), "rules[1].rulePriority is another"),
            (&format!(r#"{{"rules": [{}]}}"#, rule(0)), "rules[0].rulePriority is to be"),
            (&format!(r#"{{"rules": [{}]}}"#, rule(1).replace("untagged", "some")), "selection.tagStatus"),
            (&format!(r#"{{"rules": [{}]}}"#, rule(1).replace("14", "0")), "selection.countNumber"),
            (&format!("\"{}\"", "x".repeat(31_000)), "longer"),
        ] {
            let error = wrong.parse::<LifecyclePolicy>().unwrap_err().to_string();
            assert!(error.contains(part), "{error:?} has no {part:?}");
        }
    }
}
