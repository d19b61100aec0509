//! Previews: what a rule would do now, without doing it.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ArtifactType, Digest, InvalidName, Place, Rule, ScanCursor, SkipReason};

/// A preview's identity: 32 hexadecimal digits that nobody can guess.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[0-9a-f]{32}$")]
pub struct PreviewId(String);

impl PreviewId {
    /// An identity of 128 bits that are random.
    pub fn of(random: u128) -> Self {
        Self(format!("{random:032x}"))
    }

    /// The identity as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PreviewId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_one = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let invalid =
            || InvalidName { text: text.chars().take(80).collect(), what: "a preview", rule: "32 hexadecimal digits" };
        is_one.then(|| Self(text.to_owned())).ok_or_else(invalid)
    }
}

impl TryFrom<String> for PreviewId {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<PreviewId> for String {
    fn from(id: PreviewId) -> Self {
        id.0
    }
}

impl fmt::Display for PreviewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Find out what a rule would do now. The rule may be stored or not; nothing is moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewJob {
    /// Under which the answer is kept.
    pub id: PreviewId,
    /// The rule.
    pub rule: Rule,
    /// Where the page before stopped.
    #[serde(default)]
    pub cursor: ScanCursor,
    /// At most about so many resources.
    pub limit: usize,
    /// When somebody asked; nobody waits for long.
    pub asked: Timestamp,
}

/// A page of a preview, as it is kept for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// The rule.
    pub rule: Rule,
    /// What would become of each resource, in the order in which a run would find them.
    pub items: Vec<Foreseen>,
    /// Where the next page begins; nothing follows without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<ScanCursor>,
    /// Why it is not all that there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a run would do about a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Foreseen {
    /// Where it would be looked for.
    pub source: Place,
    /// What would be set.
    pub target: Place,
    /// What the source tag points to, where that had to be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What the target's tag points to, where that had to be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_digest: Option<Digest>,
    /// What it is, where the rule is for some types only.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactType>,
    /// What would become of it.
    #[serde(flatten)]
    pub would: Would,
}

/// What would become of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "would", rename_all = "kebab-case")]
pub enum Would {
    /// The target does not have the tag: it would be copied.
    Copy,
    /// The target has another digest there, which would be replaced.
    Replace,
    /// The target has it, and what refers to it is still to be brought: a signature, an SBOM.
    Attach,
    /// The target has it.
    Unchanged,
    /// The source does not have it any more, and the rule has put it there: it would be deleted. That is told of a repository whose tags
    /// are all on one page of the preview.
    Delete,
    /// It would be left alone.
    Skip {
        /// Why.
        reason: SkipReason,
    },
    /// It can't be told.
    Fail {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Would {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy => f.write_str("copy"),
            Self::Replace => f.write_str("replace"),
            Self::Attach => f.write_str("bring what refers to it"),
            Self::Unchanged => f.write_str("unchanged"),
            Self::Delete => f.write_str("delete"),
            Self::Skip { reason } => write!(f, "skip: {}", reason.as_str()),
            Self::Fail { reason } => write!(f, "can't be told: {reason}"),
        }
    }
}
