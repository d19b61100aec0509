//! Names that are flattened: of two repositories that become the same, the one that came first has the name.

use transship_model::{Place, Rule};

use crate::{Worker, trouble::Trouble};

/// So often somebody else may have taken a name between a look and the taking of it.
const TRIES: usize = 3;

/// Who may have a flattened name.
pub(crate) enum Name {
    /// The source has it, or the rule does not flatten.
    Ours,
    /// Nobody has it, or what the rule does not copy to it any more.
    Free,
    /// Another repository of the rule has it: why nothing may be copied there.
    Taken(String),
}

impl Worker {
    /// Whose the name of the target's repository is.
    pub(crate) async fn name(&self, rule: &Rule, source: &Place, target: &Place) -> Result<Name, Trouble> {
        Ok(self.look_up(rule, source, target).await?.0)
    }

    /// Takes the name of the target's repository for the source's, if that is possible.
    pub(crate) async fn take_name(&self, rule: &Rule, source: &Place, target: &Place) -> Result<Name, Trouble> {
        for _ in 0..TRIES {
            let (name, holder) = self.look_up(rule, source, target).await?;
            let Name::Free = name else { return Ok(name) };
            if self.origins.hold(rule.id, target, &source.repository, holder.as_ref()).await? {
                return Ok(Name::Ours);
            }
        }
        Err(transship_state::StateError::Contended(format!("the name {}", target.repository)).into())
    }

    async fn look_up(
        &self,
        rule: &Rule,
        source: &Place,
        target: &Place,
    ) -> Result<(Name, Option<transship_model::Repository>), Trouble> {
        if !rule.target.flatten {
            return Ok((Name::Ours, None));
        }
        let Some(holder) = self.origins.holder(rule.id, target).await? else { return Ok((Name::Free, None)) };
        let leads_here = rule.target_repository(&holder).is_some_and(|to| to.as_ref() == Ok(&target.repository));
        let name = if holder == source.repository {
            Name::Ours
        } else if leads_here && rule.selects_repository(&holder) {
            Name::Taken(collision(source, target, &holder))
        } else {
            Name::Free
        };
        Ok((name, Some(holder)))
    }
}

/// What is said of two repositories that are one when they are flattened.
pub(crate) fn collision(source: &Place, target: &Place, holder: &transship_model::Repository) -> String {
    format!(
        "{source} and {holder} are both {target} when they are flattened, and that is {holder}'s: leave one of them out by the rule's \
         repository pattern, and copy it by a rule with another target namespace",
        source = source.repository,
        target = target.repository,
    )
}
