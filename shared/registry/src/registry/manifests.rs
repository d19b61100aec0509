//! Reading and writing manifests.

use http::{
    HeaderName, HeaderValue, Method,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE},
};
use reqwest::Response;
use transship_model::{Digest, Reference, Repository};

use super::{Registry, place, send::Call};
use crate::{
    auth::Scope,
    digest::verify,
    error::{Error, Failure},
    manifest::{self, Descriptor, MAX_SIZE, Manifest},
};

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// How long a media type may be: RFC 6838, section 4.2, 127 characters on both sides of the slash.
const MAX_MEDIA_TYPE: usize = 255;
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// What a registry answered to a manifest that it has stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutOutcome {
    /// The manifest's digest.
    pub digest: Digest,
    /// `OCI-Subject`: the registry lists the manifest as a referrer of this one by itself. Without it the referrers tag has
    /// to be kept up by us.
    pub subject: Option<Digest>,
}

impl Registry {
    /// What a reference points to; `None` if nothing is there. A registry that does not tell the digest is asked for the
    /// manifest itself.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn head_manifest(&self, repository: &Repository, reference: &Reference) -> Result<Option<Descriptor>, Error> {
        self.head_manifest_as(Scope::Pull(repository.clone()), repository, reference).await
    }

    /// As [`Registry::head_manifest`], with the token that writing will need anyway.
    pub(crate) async fn head_manifest_as(
        &self,
        scope: Scope,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<Descriptor>, Error> {
        let action = format!("HEAD manifest {}", place(repository, reference));
        let call = Call::head(action, self.manifest_url(repository, reference), scope)
            .header(ACCEPT, HeaderValue::from_static(manifest::ACCEPT))
            .expecting(&[404]);
        let response = self.send(&call).await?;
        if response.status() == 404 {
            return Ok(None);
        }
        let size = header(&response, &CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let digest = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => header(&response, &DIGEST).and_then(|text| text.parse().ok()),
        };
        match (header(&response, &CONTENT_TYPE), digest, size) {
            (Some(media_type), Some(digest), Some(size)) => {
                Ok(Some(Descriptor::new(manifest::media_type(Some(media_type), b""), digest, size)))
            }
            _ => Ok(self.get_manifest(repository, reference).await?.map(|manifest| manifest.descriptor)),
        }
    }

    /// A manifest, byte for byte, its digest verified; `None` if nothing is there.
    ///
    /// # Errors
    /// [`Error::Refused`] if it has more than 4 MiB, or twice in a row not the digest that was asked for or that the registry
    /// says it has; otherwise see [`Error`].
    pub async fn get_manifest(&self, repository: &Repository, reference: &Reference) -> Result<Option<Manifest>, Error> {
        match self.fetch_manifest(repository, reference).await {
            // A proxy may have cut it short; what is wrong at the registry stays wrong.
            Err(error) if error.is_mismatch() => self.fetch_manifest(repository, reference).await,
            other => other,
        }
    }

    async fn fetch_manifest(&self, repository: &Repository, reference: &Reference) -> Result<Option<Manifest>, Error> {
        let action = format!("GET manifest {}", place(repository, reference));
        let call = Call::get(&action, self.manifest_url(repository, reference), Scope::Pull(repository.clone()))
            .header(ACCEPT, HeaderValue::from_static(manifest::ACCEPT))
            .expecting(&[404]);
        let response = self.send(&call).await?;
        if response.status() == 404 {
            return Ok(None);
        }
        let media_type = header(&response, &CONTENT_TYPE).map(str::to_owned);
        let claimed = header(&response, &DIGEST).and_then(|text| text.parse::<Digest>().ok());
        let bytes = self.read(&action, response, MAX_SIZE).await?;
        let expected = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(_) => claimed.unwrap_or_else(|| Digest::of(&bytes)),
        };
        if !verify(&bytes, &expected) {
            let problem = format!("its content has not the digest {expected}");
            return Err(Failure::mismatch(self.name(), action, problem).refused());
        }
        let media_type = manifest::media_type(media_type.as_deref(), &bytes);
        Ok(Some(Manifest { descriptor: Descriptor::new(media_type, expected, bytes.len() as u64), bytes }))
    }

    /// Stores a manifest, byte for byte.
    ///
    /// # Errors
    /// [`Error::Immutable`] if the tag can't be moved; otherwise see [`Error`].
    pub async fn put_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        manifest: &Manifest,
    ) -> Result<PutOutcome, Error> {
        let action = format!("PUT manifest {}", place(repository, reference));
        let media_type = &manifest.descriptor.media_type;
        let content_type = HeaderValue::from_str(media_type).ok().filter(|_| media_type.len() <= MAX_MEDIA_TYPE);
        let content_type =
            content_type.ok_or_else(|| self.failure(&action, "its media type can't be sent in a header").refused())?;
        let scope = Scope::Push(repository.clone());
        let call = Call::new(Method::PUT, &action, self.manifest_url(repository, reference), scope)
            .header(CONTENT_TYPE, content_type)
            .body(manifest.bytes.clone());
        let response = self.send_push(repository, &call).await.map_err(|error| match error {
            Error::Refused(failure) if reference.tag().is_some() && failure.says_immutable() => Error::Immutable(failure),
            other => other,
        })?;
        let digest = manifest.descriptor.digest.clone();
        let stored = header(&response, &DIGEST).and_then(|text| text.parse::<Digest>().ok());
        if let Some(stored) = stored
            && stored.algorithm() == digest.algorithm()
            && stored != digest
        {
            let problem = format!("the registry stored it as {stored}, not as {digest}");
            return Err(self.failure(action, problem).refused());
        }
        Ok(PutOutcome { digest, subject: header(&response, &SUBJECT).and_then(|text| text.parse().ok()) })
    }

    pub(super) fn manifest_url(&self, repository: &Repository, reference: &Reference) -> url::Url {
        self.path(&format!("/v2/{repository}/manifests/{reference}"))
    }
}

fn header<'a>(response: &'a Response, name: &HeaderName) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}
