//! What refers to a manifest: by the referrers API, or by the tag that stands in for it.

use std::sync::atomic::{AtomicU8, Ordering};

use http::{HeaderValue, header::ACCEPT};
use oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE;
use transship_model::{Digest, Reference, Repository};

use super::{Registry, at, list::next_link, send::Call};
use crate::{
    auth::Scope,
    error::Error,
    manifest::{Content, Descriptor, MAX_SIZE, Parsed},
};

/// How many pages of referrers are read.
const MAX_PAGES: usize = 100;

/// What is known about the API: 0 is nothing yet.
const PRESENT: u8 = 1;
const MISSING: u8 = 2;

pub(super) fn is_present(api: &AtomicU8) -> bool {
    api.load(Ordering::Relaxed) == PRESENT
}

impl Registry {
    /// What refers to a manifest, by the referrers API or, where the registry has none, by the referrers tag.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        if self.0.referrers_api.load(Ordering::Relaxed) != MISSING
            && let Some(referrers) = self.referrers_by_api(repository, subject).await?
        {
            return Ok(referrers);
        }
        self.referrers_by_tag(repository, subject).await
    }

    /// `None` if the registry has no such API.
    async fn referrers_by_api(&self, repository: &Repository, subject: &Digest) -> Result<Option<Vec<Descriptor>>, Error> {
        let action = format!("GET referrers of {}", at(repository, subject));
        let mut url = self.path(&format!("/v2/{repository}/referrers/{subject}"));
        let mut referrers = Vec::new();
        for page in 0..MAX_PAGES {
            // Not only the specification's 404: registries without the API answer whatever their router does with the path.
            let call = Call::get(&action, url.clone(), Scope::Pull(repository.clone()))
                .header(ACCEPT, HeaderValue::from_static(OCI_IMAGE_INDEX_MEDIA_TYPE))
                .expecting(&[400, 404, 405, 406, 501]);
            let response = self.send(&call).await?;
            if !response.status().is_success() {
                // 404 may also mean that there is no such repository: that says nothing about the API.
                if response.status() != 404 || !self.knows_the_error(&action, response).await {
                    self.0.referrers_api.store(MISSING, Ordering::Relaxed);
                }
                return Ok(None);
            }
            let next = next_link(&response).and_then(|link| response.url().join(&link).ok());
            let next = next.filter(|next| self.is_own(next) && *next != url);
            let body = self.read(&action, response, MAX_SIZE).await?;
            // A page for people, or a proxy's, is no index.
            let Ok(Parsed { content: Content::Index(found), .. }) = Parsed::read(&body) else {
                if page == 0 {
                    self.0.referrers_api.store(MISSING, Ordering::Relaxed);
                    return Ok(None);
                }
                return Err(self.failure(action, "a page of referrers that is no index").refused());
            };
            self.0.referrers_api.store(PRESENT, Ordering::Relaxed);
            referrers.extend(found);
            match next {
                Some(next) => url = next,
                None => return Ok(Some(referrers)),
            }
        }
        Err(self.failure(action, format!("more than {MAX_PAGES} pages")).refused())
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
