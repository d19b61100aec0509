//! Blobs: looking for them, and reading them as a stream.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderValue,
    header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE},
};
use reqwest::Response;
use tokio::time::{Instant, sleep, timeout};
use transship_model::{Digest, Repository};
use url::Url;

use super::{Registry, at, send::Call};
use crate::{
    Descriptor,
    auth::Scope,
    digest::verify,
    error::{Error, Failure},
};

/// How often in a row a read that breaks is gone on with before it is given up.
const MAX_RESUMES: u32 = 3;
/// A read that has got on by so many bytes since it broke is in no row.
const GOT_ON: u64 = 1 << 20;

/// How often a registry is looked for that is being restarted.
const RESTART: Duration = Duration::from_secs(1);

/// A blob being read. A connection that breaks is replaced and the read goes on where it was.
pub struct Blob {
    registry: Registry,
    repository: Repository,
    digest: Digest,
    response: Response,
    /// How many bytes the registry says the blob has.
    length: Option<u64>,
    offset: u64,
    /// Read already, and not yet handed out.
    rest: Bytes,
    resumes: u32,
    /// Where it broke last.
    broken_at: u64,
}

impl Registry {
    /// Whether a repository has a blob.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn has_blob(&self, repository: &Repository, digest: &Digest) -> Result<bool, Error> {
        self.has_blob_as(Scope::Pull(repository.clone()), repository, digest).await
    }

    /// As [`Registry::has_blob`], with the token that writing will need anyway.
    pub(crate) async fn has_blob_as(&self, scope: Scope, repository: &Repository, digest: &Digest) -> Result<bool, Error> {
        let action = format!("HEAD blob {}", at(repository, digest));
        let call = Call::head(action, self.blob_url(repository, digest), scope).expecting(&[404]);
        Ok(self.send(&call).await?.status() != 404)
    }

    /// As [`Registry::has_blob`], with the token for writing: whether it has the blob with the size that its descriptor says. One that was cut
    /// short by a broken disk, or that a descriptor lies about, is not the blob.
    pub(crate) async fn has_this_blob(&self, scope: Scope, repository: &Repository, blob: &Descriptor) -> Result<bool, Error> {
        let action = format!("HEAD blob {}", at(repository, &blob.digest));
        let call = Call::head(action, self.blob_url(repository, &blob.digest), scope).expecting(&[404]);
        let response = self.send(&call).await?;
        let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(response.status() != 404 && length.is_none_or(|length: u64| length == blob.size))
    }

    /// Begins to read a blob.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is not there; otherwise see [`Error`].
    pub async fn get_blob(&self, repository: &Repository, digest: &Digest) -> Result<Blob, Error> {
        self.get_blob_from(repository, digest, 0).await
    }

    /// As [`Registry::get_blob`], from a byte on. Of a registry that does not know `Range` the bytes before it are read, too.
    pub(crate) async fn get_blob_from(&self, repository: &Repository, digest: &Digest, from: u64) -> Result<Blob, Error> {
        let response = self.open_blob(repository, digest, from).await?;
        let offset = if starts_at(&response, from) { from } else { 0 };
        let mut blob = Blob {
            registry: self.clone(),
            repository: repository.clone(),
            digest: digest.clone(),
            length: response.content_length().map(|length| length.saturating_add(offset)),
            response,
            offset,
            rest: Bytes::new(),
            resumes: 0,
            broken_at: offset,
        };
        if offset < from && blob.response.status() == 206 {
            return Err(self.failure(blob.action(), "it sends another part than it was asked for").retry(None));
        }
        while blob.offset < from {
            let before = blob.offset;
            let Some(mut chunk) = blob.chunk().await? else { break };
            blob.rest = chunk.split_off(usize::try_from(from - before).unwrap_or(usize::MAX).min(chunk.len()));
        }
        Ok(blob)
    }

    async fn open_blob(&self, repository: &Repository, digest: &Digest, offset: u64) -> Result<Response, Error> {
        let action = format!("GET blob {}", at(repository, digest));
        let mut call = Call::get(&action, self.blob_url(repository, digest), Scope::Pull(repository.clone())).of_blob();
        if offset > 0 {
            let range = HeaderValue::try_from(format!("bytes={offset}-"));
            call = call.header(RANGE, range.map_err(|_| self.failure(action, "no Range can be made").refused())?);
        }
        self.send(&call).await
    }

    fn blob_url(&self, repository: &Repository, digest: &Digest) -> Url {
        self.path(&format!("/v2/{repository}/blobs/{digest}"))
    }
}

impl Blob {
    /// How many bytes the registry says there are, if it says so.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next bytes; `None` at the end. They have not been compared with the digest: see [`Blob::read`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        loop {
            let stall = self.registry.patience().stall;
            let error = match timeout(stall, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    self.offset += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => self.registry.unreachable(&self.action(), error),
                Err(_) => self.registry.stalled(&self.action(), stall),
            };
            if self.offset - self.broken_at >= GOT_ON {
                self.resumes = 0;
            }
            self.broken_at = self.offset;
            if self.resumes == MAX_RESUMES {
                return Err(error);
            }
            self.resumes += 1;
            tracing::debug!(registry = self.registry.name(), %error, offset = self.offset, "going on with a broken read");
            self.resume(error).await?;
        }
    }

    /// Opens the blob again at the offset. A registry that does not know `Range` ends it with the error that broke it.
    async fn resume(&mut self, broken: Error) -> Result<(), Error> {
        let since = Instant::now();
        let response = loop {
            let error = match self.registry.open_blob(&self.repository, &self.digest, self.offset).await {
                Ok(response) => break response,
                Err(error) => error,
            };
            // A registry that is being restarted is soon back, and many a target loses what it has of a body that breaks.
            if !error.is_retry() || error.retry_after().is_some() || since.elapsed() >= self.registry.patience().stall {
                return Err(error);
            }
            sleep(RESTART).await;
        };
        if !starts_at(&response, self.offset) {
            return Err(broken);
        }
        self.response = response;
        Ok(())
    }

    /// Reads all of it into memory and compares it with the digest: for configs and the like.
    ///
    /// # Errors
    /// [`Error::Refused`] if it has more than `limit` bytes or another digest; otherwise see [`Error`].
    pub async fn read(mut self, limit: usize) -> Result<Bytes, Error> {
        let mut bytes = bytes::BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() + chunk.len() > limit {
                return Err(self.registry.failure(self.action(), format!("it has more than {limit} bytes")).refused());
            }
            bytes.extend_from_slice(&chunk);
        }
        if verify(&bytes, &self.digest) {
            return Ok(bytes.freeze());
        }
        Err(Failure::mismatch(self.registry.name(), self.action(), "its content has another digest").refused())
    }

    fn action(&self) -> String {
        format!("GET blob {} from byte {}", at(&self.repository, &self.digest), self.offset)
    }
}

/// Whether an answer begins with this byte of what was asked for.
fn starts_at(response: &Response, offset: u64) -> bool {
    if response.status() != 206 {
        return offset == 0;
    }
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes "));
    range.and_then(|range| range.split('-').next()) == Some(offset.to_string().as_str())
}
