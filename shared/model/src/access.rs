//! Who may do what.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::InstanceName;

/// What a caller of the API may do. Each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look at everything but secrets.
    Viewer,
    /// Make and change rules and subscriptions; start, cancel and retry tasks.
    Operator,
    /// Make and change instances, their secrets, and tokens; read the audit.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The role in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role: there are viewer, operator and admin")]
pub struct InvalidRole(String);

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, InvalidRole> {
        let named = Self::ALL.into_iter().find(|role| role.as_str() == text);
        named.ok_or_else(|| InvalidRole(text.chars().take(80).collect()))
    }
}

/// Whom a request comes from, and what that lets it do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who it is, for the audit: `token:7f3a…`, `local`, or an identity of AWS.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The instances that they may do it with; all without it.
    pub instances: Option<BTreeSet<InstanceName>>,
    /// The address that the request came from, as far as it is known.
    pub from: Option<String>,
    /// The request's ID, as the answer and the log have it.
    pub request: Option<String>,
}

impl Caller {
    /// Who may do everything with everything.
    pub fn all_powerful(name: impl Into<String>) -> Self {
        Self { name: name.into(), role: Role::Admin, instances: None, from: None, request: None }
    }

    /// Whether somebody with this role and these instances may do nothing that they may not.
    pub fn covers(&self, role: Role, instances: Option<&BTreeSet<InstanceName>>) -> bool {
        let has_all = match (&self.instances, instances) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(others)) => others.is_subset(own),
        };
        self.role >= role && has_all
    }

    /// Whether they may do what this role may, with everything.
    pub fn may(&self, role: Role) -> bool {
        self.role >= role && self.instances.is_none()
    }

    /// Whether they may do what this role may, with an instance and what belongs to it.
    pub fn may_with(&self, role: Role, instance: &InstanceName) -> bool {
        self.role >= role && self.sees(instance)
    }

    /// Whether an instance is one of theirs.
    pub fn sees(&self, instance: &InstanceName) -> bool {
        self.instances.as_ref().is_none_or(|instances| instances.contains(instance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: a token for one instance that changes another, or what belongs to no instance.
    #[test]
    fn a_role_counts_for_the_caller_s_own_instances() {
        let name = |text: &str| text.parse::<InstanceName>().unwrap();
        let caller = |role, instances: Option<&[&str]>| Caller {
            name: "token:1".into(),
            role,
            instances: instances.map(|names| names.iter().map(|text| name(text)).collect()),
            from: None,
            request: None,
        };
        let some = caller(Role::Operator, Some(&["build"]));
        assert!(some.may_with(Role::Viewer, &name("build")) && some.may_with(Role::Operator, &name("build")));
        assert!(!some.may_with(Role::Admin, &name("build")) && !some.may_with(Role::Viewer, &name("prod")));
        assert!(!some.may(Role::Viewer));
        let all = caller(Role::Operator, None);
        assert!(some.covers(Role::Operator, some.instances.as_ref()) && !some.covers(Role::Operator, None));
        assert!(!some.covers(Role::Viewer, caller(Role::Viewer, Some(&["build", "prod"])).instances.as_ref()));
        assert!(!some.covers(Role::Admin, some.instances.as_ref()));
        assert!(all.covers(Role::Operator, None) && all.covers(Role::Viewer, some.instances.as_ref()));
        assert!(all.may(Role::Operator) && all.may_with(Role::Operator, &name("prod")) && !all.may(Role::Admin));
    }
}
