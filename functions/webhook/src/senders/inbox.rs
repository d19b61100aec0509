//! The inbox queue, into which EventBridge puts what it tells of Amazon ECR, and schedules their messages.

use http::HeaderMap;
use serde_json::Value;

use super::{
    Field, Push, Unreadable, deletions,
    ecr::{self, Origin},
};

/// What a message of the inbox says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// These manifests were pushed to this registry.
    Pushes(Origin, Vec<Push>),
    /// These were deleted from this registry.
    Deletions(Origin, Vec<Push>),
    /// It is time for the logger's sweep.
    Sweep,
    /// It is time for rules with a schedule.
    Tick,
    /// It was understood, and nothing was pushed.
    Nothing,
}

impl Message {
    /// Reads a message, which is an envelope of EventBridge.
    pub(crate) fn read(body: &str) -> Result<Self, Unreadable> {
        let json: Value = serde_json::from_str(body).map_err(|error| Unreadable::NotJson(error.to_string()))?;
        match json["detail-type"].as_str().filter(|_| json["source"] == "transship") {
            Some("Sweep") => return Ok(Self::Sweep),
            Some("Tick") => return Ok(Self::Tick),
            _ => {}
        }
        let event = Field { path: String::new(), value: &json };
        let pushes = ecr::pushes(&event)?;
        if !pushes.is_empty() {
            return Ok(Self::Pushes(Origin::read(&event)?, pushes));
        }
        let Some((_, told)) = deletions::as_pushes(&HeaderMap::new(), json.clone()) else { return Ok(Self::Nothing) };
        let deleted = ecr::pushes(&Field { path: String::new(), value: &told })?;
        Ok(if deleted.is_empty() { Self::Nothing } else { Self::Deletions(Origin::read(&event)?, deleted) })
    }
}
