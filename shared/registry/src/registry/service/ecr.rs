//! Amazon ECR, where the AWS identity may use its API.

use transship_model::{Digest, Repository, Tag};

use super::super::{
    Registry,
    delete::Deletion,
    digests::Digests,
    list::{At, Cursor, Page},
};
use crate::{
    ecr::{Denial, Ecr, EcrIdentity},
    error::{Error, Failure},
};

impl Registry {
    pub(super) async fn ecr_digests(&self, repository: &Repository, cursor: Option<&Cursor>) -> Result<Option<Digests>, Error> {
        let action = format!("listing images of {repository}");
        let list = format!("ecr:/images/{repository}");
        let at = self.at(&action, &list, cursor)?;
        let listed = self.ecr(&action)?.images(self.ecr_account(), repository, at.token()).await;
        let Some((images, next)) = listed.map_err(|denial| self.denied(&action, denial))? else { return Ok(None) };
        let images = images.into_iter().filter_map(|(tag, digest)| Some((tag.parse().ok()?, digest.parse::<Digest>().ok())));
        Ok(Some(Page { items: images.collect(), next: self.goes_on(&action, &list, &at, next)? }))
    }

    pub(super) async fn ecr_repositories(&self, cursor: Option<&Cursor>) -> Result<Page<Repository>, Error> {
        let (action, list) = ("listing repositories", "ecr:/repositories");
        let at = self.at(action, list, cursor)?;
        let listed = self.ecr(action)?.repositories(self.ecr_account(), at.token()).await;
        let (names, next) = listed.map_err(|denial| self.denied(action, denial))?;
        let items = names.into_iter().filter_map(|name| name.parse().ok()).collect();
        Ok(Page { items, next: self.goes_on(action, list, &at, next)? })
    }

    /// ECR takes the tag away, and the image with its last one. There is nothing to compare with.
    pub(super) async fn ecr_delete(&self, repository: &Repository, tag: &Tag) -> Result<Deletion, Error> {
        let action = format!("deleting tag {repository}:{tag}");
        let deleted = self.ecr(&action)?.delete_tag(self.ecr_account(), repository, tag).await;
        Ok(match deleted.map_err(|denial| self.denied(&action, denial))? {
            Ok(()) => Deletion::Deleted,
            Err(reason) if reason.starts_with("ImageNotFound") => Deletion::Gone,
            Err(reason) => Deletion::NotSupported(format!("ECR does not delete it: {reason}")),
        })
    }

    /// Makes a repository that a push has found missing. That somebody else has made it by now is as good.
    pub(super) async fn create_ecr_repository(&self, repository: &Repository) -> Result<(), Error> {
        let action = format!("creating repository {repository}");
        let created = self.ecr(&action)?.create_repository(self.ecr_account(), repository, &self.0.ecr).await;
        let created = created.map_err(|denial| {
            let denial = match denial.hint {
                Some(hint) => Denial { hint: Some(format!("{hint}, or create the repository beforehand")), ..denial },
                None => denial,
            };
            self.denied(&action, denial)
        })?;
        if created {
            tracing::info!(registry = self.name(), %repository, "created a repository");
        }
        Ok(())
    }

    fn ecr(&self, action: &str) -> Result<&EcrIdentity, Error> {
        self.0.auth.ecr().ok_or_else(|| self.failure(action, "there is no AWS identity to ask with").refused())
    }

    /// The account that the registry belongs to, where its host names it.
    fn ecr_account(&self) -> Option<&str> {
        Ecr::region_of(&self.0.endpoint)?;
        self.0.endpoint.host_str()?.split('.').next()
    }

    fn denied(&self, action: &str, denial: Denial) -> Error {
        let Denial { problem, hint, may_pass, code } = denial;
        let failure: Failure = self.failure(action, problem);
        match (may_pass, hint) {
            (true, _) => failure.retry(None),
            (false, Some(hint)) if code.is_some_and(|code| code.starts_with("AccessDenied")) => failure.denied(hint),
            (false, Some(hint)) => failure.hint(hint).refused(),
            (false, None) => failure.refused(),
        }
    }

    fn at(&self, action: &str, list: &str, cursor: Option<&Cursor>) -> Result<At, Error> {
        At::of(list, cursor).ok_or_else(|| self.failure(action, "the position to go on from is not one of this list").refused())
    }

    fn goes_on(&self, action: &str, list: &str, at: &At, next: Option<String>) -> Result<Option<Cursor>, Error> {
        next.map(|token| at.followed_by(self, action, format!("{list}?{token}"))).transpose()
    }
}
