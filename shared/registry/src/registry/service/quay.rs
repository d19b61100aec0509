//! Quay, by its API 1: <https://docs.redhat.com/documentation/red_hat_quay/3/html/red_hat_quay_api_reference/>. It takes tokens of its
//! own, with which one can log in to the registry too, as the user `$oauthtoken`; with any other login, or with none, it is asked for
//! what is public.

use http::Method;
use serde::Deserialize;
use transship_model::{Namespace, Repository, Tag};

use super::{
    super::{
        Registry,
        delete::Deletion,
        digests::{Digests, Tagged},
        list::{Cursor, Names, Page},
        send::Call,
    },
    InNamespace,
};
use crate::{auth::Scope, error::Error};

/// It gives no more at once.
const PAGE: usize = 100;

impl Registry {
    /// `listRepoTags`. Its digests are those of the registry: lists have their own.
    pub(super) async fn quay_digests(
        &self,
        repository: &Repository,
        cursor: Option<&Cursor>,
    ) -> Result<Option<Digests>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            tags: Option<Names<Tagged>>,
            #[serde(default)]
            has_additional: bool,
        }
        let action = format!("GET tags of {repository} with digests");
        let (path, query) = (format!("/api/v1/repository/{repository}/tag/"), format!("limit={PAGE}&onlyActiveTags=true"));
        let Some((response, page)) = self.counted(&action, &path, &query, cursor, Scope::Service).await? else {
            return Ok(None);
        };
        let Answer { tags, has_additional } = self.json(&action, response).await?;
        let next = page.next(self, &action, has_additional)?;
        Ok(Some(self.tagged(&action, tags, next)))
    }

    /// `listRepos`. A robot, whom this API does not know, would be told of public repositories only: the registry's catalogue has all
    /// that it may see. For somebody without a login it is the other way round.
    pub(super) async fn quay_repositories(
        &self,
        namespace: &Namespace,
        cursor: Option<&Cursor>,
    ) -> Result<Option<Page<Repository>>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            repositories: Option<Names<InNamespace>>,
            next_page: Option<String>,
        }
        let account = namespace.as_str().split('/').next().unwrap_or_default();
        if namespace.is_all() || account.is_empty() || !self.api_knows_login().await? {
            return Ok(None);
        }
        let action = format!("GET repositories of {account}");
        let path = "/api/v1/repository";
        let query = format!("namespace={account}&public=true");
        let mut first = self.path(path);
        first.set_query(Some(&query));
        let Some((response, at)) = self.page(&action, first.clone(), 0, cursor, Scope::Service).await? else {
            return Ok(Some(Page::empty()));
        };
        let Answer { repositories, next_page } = self.json(&action, response).await?;
        let next = next_page.filter(|token| !token.is_empty()).map(|token| {
            let query = first.query_pairs_mut().append_pair("next_page", &token).finish().query().unwrap_or_default();
            at.followed_by(self, &action, format!("{path}?{query}"))
        });
        let items = self.items(&action, repositories).into_iter().map(InNamespace::into_repository).collect();
        Ok(Some(Page { items, next: next.transpose()? }))
    }

    /// `deleteFullTag`, for a Quay that does not delete tags by the specification.
    pub(super) async fn quay_delete(&self, repository: &Repository, tag: &Tag) -> Result<Option<Deletion>, Error> {
        if !self.0.auth.has_login_for_service(self).await? {
            return Ok(None);
        }
        let url = self.path(&format!("/api/v1/repository/{repository}/tag/{tag}"));
        let call = Call::new(Method::DELETE, format!("DELETE tag {repository}:{tag}"), url, Scope::Service).expecting(&[404]);
        Ok((self.send(&call).await?.status() != 404).then_some(Deletion::Deleted))
    }
}
