//! Who may do what.

use std::{collections::BTreeSet, fmt};

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
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
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
}

impl Caller {
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
        };
        let some = caller(Role::Operator, Some(&["build"]));
        assert!(some.may_with(Role::Viewer, &name("build")) && some.may_with(Role::Operator, &name("build")));
        assert!(!some.may_with(Role::Admin, &name("build")) && !some.may_with(Role::Viewer, &name("prod")));
        assert!(!some.may(Role::Viewer));
        let all = caller(Role::Operator, None);
        assert!(all.may(Role::Operator) && all.may_with(Role::Operator, &name("prod")) && !all.may(Role::Admin));
    }
}
