//! Deleting at the target what was deleted at the source.

use transship_model::{Outcome, Place, Reference, Rule, SkipReason, Trail, Version};
use transship_registry::Deletion;

use crate::{
    Worker,
    copy::{Copy, Finish},
    trouble::Trouble,
};

/// Whether it was this rule that has written last what is at its target. Of what is flattened, another repository's tags may lie there,
/// too: then it has to come from the source, besides.
pub(crate) fn is_ours(rule: &Rule, source: &Place, trail: &Trail) -> bool {
    let is_from = |place: &Place| trail.last_source() == Some(&(place.instance.clone(), place.repository.clone()));
    trail.rules.last() == Some(&rule.id) && (!rule.target.flatten || is_from(source))
}

impl Worker {
    /// Deletes the target's tag, if the source's is gone and the target's is what this rule has put there. There again at the source, it is
    /// copied: what the source shows now is what is meant.
    pub(crate) async fn delete(&self, copy: &Copy<'_>) -> Result<Finish, Trouble> {
        let Copy { job, rule, source, target, report, .. } = copy;
        let Reference::Tag(tag) = &job.target.reference else { return Finish::skipped(SkipReason::RuleChanged) };
        if !rule.propagate_deletions {
            return Finish::skipped(SkipReason::RuleChanged);
        }
        if Self::has(source, &job.source).await? {
            return self.bring_tag(copy).await;
        }
        let origin = self.origins.get(&job.target).await?;
        // Of several rules that write a place only the one that has written last may take it away.
        let ours = origin.newest_write().filter(|written| is_ours(rule, &job.source, &written.trail));
        let Some(ours) = ours else {
            let there = target.registry.head_manifest(&target.repository, &job.target.reference).await?;
            return match there {
                Some(_) => Finish::skipped(SkipReason::NotOurs),
                None => Ok(Finish::Outcome(Outcome::Unchanged)),
            };
        };
        report.resolved(&ours.digest, None);
        if copy.contested || copy.leads_on {
            self.bury(copy).await?;
        }
        Ok(Finish::Outcome(match target.registry.delete_tag(&target.repository, tag, &ours.digest).await? {
            Deletion::Deleted => Outcome::Deleted,
            Deletion::Gone => Outcome::Unchanged,
            Deletion::Changed(_) => Outcome::Skipped { reason: SkipReason::NotOurs },
            Deletion::Shared { with } => {
                tracing::info!(target = %job.target, %with, "not deleted: another tag needs it");
                Outcome::Skipped { reason: SkipReason::Shared }
            }
            Deletion::NotSupported(reason) => {
                tracing::warn!(target = %job.target, reason, "not deleted");
                Outcome::Skipped { reason: SkipReason::NoDeletion }
            }
        }))
    }

    /// Notes the deletion at the target before it is made, so that its own notification is known, and what is older does not come back.
    async fn bury(&self, copy: &Copy<'_>) -> Result<(), Trouble> {
        let job = copy.job;
        let known = self.origins.get(&job.source).await?.deleted;
        let version = || Version { time: job.task.created, instance: job.source.instance.clone() };
        let (version, before) = known.map_or_else(|| (version(), None), |known| (known.version, known.trail));
        let place = |place: &Place| (place.instance.clone(), place.repository.clone());
        let trail = before.unwrap_or_default().extended(copy.rule.id, place(&job.source), place(&job.target));
        self.origins.change(&job.target, |origin| origin.note_deletion(version.clone(), Some(trail.clone()))).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Would break: a deletion in one repository that takes away what another, flattened to the same name, has put there.
    #[test]
    fn of_what_is_flattened_only_the_repository_that_it_came_from_deletes_it() {
        let mut rule: Rule = serde_json::from_value(json!({
            "id": 1, "revision": 0, "name": "flat", "description": "", "overwrite": true, "enabled": true,
            "source": {"instance": "a", "namespace": "team", "repository": ".*", "tag": ".*", "types": []},
            "target": {"instance": "b", "namespace": "mirror", "flatten": true},
        }))
        .unwrap();
        let place = |instance: &str, repository: &str| Place {
            instance: instance.parse().unwrap(),
            repository: repository.parse().unwrap(),
            reference: "v1".parse().unwrap(),
        };
        let (ours, theirs) = (place("a", "team/base/app"), place("a", "team/base-app"));
        let at = |place: &Place| (place.instance.clone(), place.repository.clone());
        let trail = Trail::default().extended(rule.id, at(&ours), at(&place("b", "mirror/base-app")));
        assert!(is_ours(&rule, &ours, &trail) && !is_ours(&rule, &theirs, &trail));
        rule.target.flatten = false;
        assert!(is_ours(&rule, &theirs, &trail), "there a name is one repository's");
        rule.id = transship_model::RuleId(2);
        assert!(!is_ours(&rule, &ours, &trail));
    }
}
