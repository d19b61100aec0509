//! What refers to a manifest: by the referrers API, or by the tag that stands in for it.

use std::{
    collections::HashSet,
    sync::PoisonError,
    time::{Duration, Instant},
};

use http::{HeaderValue, header::ACCEPT};
use oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE;
use transship_model::{Digest, Reference, Repository};

use super::{Registry, at, send::Call};
use crate::{
    auth::Scope,
    error::Error,
    manifest::{Content, Descriptor, MAX_SIZE, Parsed},
};

/// How many pages of referrers are read.
const MAX_PAGES: usize = 100;
/// How many referrers a manifest may have: ten times as many as are copied with it.
const MAX_REFERRERS: usize = 10_000;

/// For so long a registry is believed not to have the API: an answer may have been a proxy's, in the middle of an upgrade.
const MISSING: Duration = Duration::from_secs(300);

/// What is known of a registry's referrers API.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Api {
    #[default]
    Unknown,
    /// It has answered, and nothing makes us doubt that again.
    Present,
    MissingSince(Instant),
}

impl Api {
    pub(super) fn is_present(self) -> bool {
        matches!(self, Self::Present)
    }

    fn is_missing(self) -> bool {
        matches!(self, Self::MissingSince(since) if since.elapsed() < MISSING)
    }
}

impl Registry {
    /// What refers to a manifest, by the referrers API or, where the registry has none, by the referrers tag. Of the descriptors
    /// media type, digest, size and artifact type are kept.
    ///
    /// # Errors
    /// [`Error::Refused`] if the pages lead in a circle or elsewhere, or there is no end of them; otherwise see [`Error`].
    pub async fn referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        match self.referrers_by_api_alone(repository, subject).await? {
            Some(referrers) => Ok(referrers),
            None => self.referrers_by_tag(repository, subject).await,
        }
    }

    /// What refers to a manifest by the referrers API; `None` if the registry has none. Whether it has is asked by one, and the others wait
    /// for the answer.
    pub(crate) async fn referrers_by_api_alone(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<Option<Vec<Descriptor>>, Error> {
        if self.referrers_api().is_missing() {
            return Ok(None);
        }
        if self.referrers_api().is_present() {
            return self.referrers_by_api(repository, subject).await;
        }
        let _asking = self.0.referrers_question.lock().await;
        if self.referrers_api().is_missing() {
            return Ok(None);
        }
        self.referrers_by_api(repository, subject).await
    }

    /// Whether the registry is known to have no referrers API, or is found out to have none by asking for a manifest's referrers.
    pub(crate) async fn lacks_referrers_api(&self, repository: &Repository, subject: &Digest) -> Result<bool, Error> {
        let is_open = || !self.referrers_api().is_missing() && !self.referrers_api().is_present();
        if is_open() {
            let _asking = self.0.referrers_question.lock().await;
            if is_open() {
                self.referrers_by_api(repository, subject).await?;
            }
        }
        Ok(self.referrers_api().is_missing())
    }

    pub(super) fn referrers_api(&self) -> Api {
        *self.0.referrers_api.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn_about_referrers(&self, api: Api) {
        let mut known = self.0.referrers_api.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.is_present() {
            *known = api;
        }
    }

    /// `None` if the registry has no such API.
    async fn referrers_by_api(&self, repository: &Repository, subject: &Digest) -> Result<Option<Vec<Descriptor>>, Error> {
        let action = format!("GET referrers of {}", at(repository, subject));
        let mut url = self.path(&format!("/v2/{repository}/referrers/{subject}"));
        let mut referrers = Vec::new();
        let mut seen = HashSet::new();
        while seen.insert(url.clone()) {
            if seen.len() > MAX_PAGES {
                return Err(self.failure(action, format!("more than {MAX_PAGES} pages")).refused());
            }
            let is_first = seen.len() == 1;
            let call = Call::get(&action, url.clone(), Scope::Pull(repository.clone()))
                .header(ACCEPT, HeaderValue::from_static(OCI_IMAGE_INDEX_MEDIA_TYPE))
                // Not only the specification's 404: registries without the API answer whatever their router does with the path.
                .expecting(if is_first { &[400, 404, 405, 406, 501] } else { &[] });
            let response = self.send(&call).await?;
            if !response.status().is_success() {
                // 404 may also mean that there is no such repository: that says nothing about the API.
                if response.status() != 404 || !self.knows_the_error(&action, response).await {
                    self.learn_about_referrers(Api::MissingSince(Instant::now()));
                }
                return Ok(None);
            }
            let next = self.next_page(&action, &response)?;
            let body = self.read(&action, response, MAX_SIZE).await?;
            // A page for people, or a proxy's, is no index.
            let Ok(Parsed { content: Content::Index(found), .. }) = Parsed::read(&body) else {
                if is_first {
                    self.learn_about_referrers(Api::MissingSince(Instant::now()));
                    return Ok(None);
                }
                return Err(self.failure(action, "a page of referrers that is no index").refused());
            };
            self.learn_about_referrers(Api::Present);
            referrers.extend(found);
            if referrers.len() > MAX_REFERRERS {
                return Err(self.failure(action, format!("more than {MAX_REFERRERS} referrers")).refused());
            }
            match next {
                Some(next) => url = next,
                None => return Ok(Some(referrers)),
            }
        }
        Err(self.failure(action, "its pages lead in a circle").refused())
    }

    async fn knows_the_error(&self, action: &str, response: reqwest::Response) -> bool {
        match self.judged(action, response, &[]).await {
            Err(error) => ["NAME_UNKNOWN", "MANIFEST_UNKNOWN"].iter().any(|code| error.failure().has_code(code)),
            Ok(_) => false,
        }
    }

    /// The index of the referrers tag: distribution specification 1.1, "Referrers Tag Schema".
    pub(crate) async fn referrers_by_tag(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        let tag = Reference::Tag(subject.as_tag(""));
        let Some(manifest) = self.get_manifest(repository, &tag).await? else { return Ok(Vec::new()) };
        match Parsed::read(&manifest.bytes) {
            Ok(Parsed { content: Content::Index(referrers), .. }) => Ok(referrers),
            // Somebody's own tag that happens to have this name.
            _ => Ok(Vec::new()),
        }
    }
}
