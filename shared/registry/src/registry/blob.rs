//! Blobs: reading them as a stream, looking for them, mounting and uploading them.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{
    HeaderValue, Method,
    header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE},
};
use reqwest::{Body, Response};
use tokio::time::{Instant, sleep_until, timeout};
use transship_model::{Digest, Repository};
use url::Url;

use super::{Registry, at, send::Call};
use crate::{
    auth::Scope,
    digest::verify,
    error::{Error, Failure},
    http::{STALL, WORK},
};

/// How often a broken read is gone on with before it is given up.
const MAX_RESUMES: u32 = 3;
/// How much longer than the source's the target's patience is, so that a stalled source is not blamed on the target.
const GRACE: Duration = Duration::from_secs(10);
/// How long giving an upload up may take; the registry forgets it by itself one day.
const FAREWELL: Duration = Duration::from_secs(5);

/// A blob being read. A connection that breaks is replaced and the read goes on where it was.
pub struct Blob {
    registry: Registry,
    repository: Repository,
    digest: Digest,
    response: Response,
    /// How many bytes the registry says the blob has.
    length: Option<u64>,
    offset: u64,
    resumes: u32,
}

/// An upload that has begun.
#[derive(Debug)]
pub struct Upload {
    /// Where to go on: always the newest `Location`, whole, with its query.
    location: Url,
    repository: Repository,
    digest: Digest,
}

/// What came of asking to mount a blob.
#[derive(Debug)]
pub enum UploadStart {
    /// The blob is there now.
    Mounted,
    /// The registry did not mount it and has begun an upload instead.
    Begun(Upload),
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

    /// Begins to read a blob.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is not there; otherwise see [`Error`].
    pub async fn get_blob(&self, repository: &Repository, digest: &Digest) -> Result<Blob, Error> {
        let response = self.open_blob(repository, digest, 0).await?;
        Ok(Blob {
            registry: self.clone(),
            repository: repository.clone(),
            digest: digest.clone(),
            length: response.content_length(),
            response,
            offset: 0,
            resumes: 0,
        })
    }

    async fn open_blob(&self, repository: &Repository, digest: &Digest, offset: u64) -> Result<Response, Error> {
        let action = format!("GET blob {}", at(repository, digest));
        let mut call = Call::get(&action, self.blob_url(repository, digest), Scope::Pull(repository.clone()));
        if offset > 0 {
            let range = HeaderValue::try_from(format!("bytes={offset}-"));
            call = call.header(RANGE, range.map_err(|_| self.failure(action, "no Range can be made").refused())?);
        }
        self.send(&call).await
    }

    /// Stores a blob that is in memory, unless it is there already.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn push_blob(&self, repository: &Repository, bytes: Bytes) -> Result<Digest, Error> {
        let digest = Digest::of(&bytes);
        if self.has_blob_as(Scope::Push(repository.clone()), repository, &digest).await? {
            return Ok(digest);
        }
        let upload = self.start_upload(repository, &digest).await?;
        let call = Call::new(Method::PUT, upload.action("PUT"), upload.end(), Scope::Push(repository.clone()))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .body(bytes)
            .patience(WORK);
        self.send(&call).await?;
        Ok(digest)
    }

    /// Asks the registry to take a blob from another of its repositories.
    ///
    /// # Errors
    /// See [`Error`]; whatever it is, the blob can still be uploaded.
    pub async fn mount_blob(&self, repository: &Repository, digest: &Digest, from: &Repository) -> Result<UploadStart, Error> {
        let action = format!("mounting blob {} from {from}", at(repository, digest));
        let mut url = self.uploads_url(repository);
        // `from` always: Quay answers 400 without.
        url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", from.as_str());
        let scope = Scope::Mount { into: repository.clone(), from: from.clone() };
        let response = self.send(&Call::new(Method::POST, &action, url, scope)).await?;
        if response.status() == 201 {
            return Ok(UploadStart::Mounted);
        }
        self.begun(&action, &response, repository, digest).map(UploadStart::Begun)
    }

    /// Begins to upload a blob.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start_upload(&self, repository: &Repository, digest: &Digest) -> Result<Upload, Error> {
        let action = format!("POST upload of blob {}", at(repository, digest));
        let call = Call::new(Method::POST, &action, self.uploads_url(repository), Scope::Push(repository.clone()));
        let response = self.send(&call).await?;
        self.begun(&action, &response, repository, digest)
    }

    fn begun(&self, action: &str, response: &Response, repository: &Repository, digest: &Digest) -> Result<Upload, Error> {
        let location = self.location(action, response)?;
        let location = location.ok_or_else(|| self.failure(action, "the answer has no Location").refused())?;
        Ok(Upload { location, repository: repository.clone(), digest: digest.clone() })
    }

    /// Sends the content of an upload in one `PATCH`, as a stream. It is sent once: distribution 2.8 appends what is sent
    /// again.
    ///
    /// # Errors
    /// The stream's own error, if that is what ended it; otherwise see [`Error`].
    pub(crate) async fn send_content<S>(&self, upload: Upload, size: u64, content: S) -> Result<Upload, (Upload, Error)>
    where
        S: Stream<Item = Result<Bytes, Error>> + Send + 'static,
    {
        match self.patch(&upload, size, content).await {
            Ok(location) => Ok(Upload { location, ..upload }),
            Err(error) => Err((upload, error)),
        }
    }

    async fn patch<S>(&self, upload: &Upload, size: u64, content: S) -> Result<Url, Error>
    where
        S: Stream<Item = Result<Bytes, Error>> + Send + 'static,
    {
        let action = upload.action("PATCH");
        let (flow, content) = Flow::watch(content);
        let request = self
            .client(&action, &upload.location)
            .await?
            .patch(upload.location.clone())
            .header(CONTENT_TYPE, "application/octet-stream")
            // Object storage, to which a Location may lead, takes no body of unknown length.
            .header(CONTENT_LENGTH, size)
            .body(Body::wrap_stream(content));
        let request = match self.authorization(&Scope::Push(upload.repository.clone())).await? {
            Some(authorization) if self.is_own(&upload.location) => authorization.apply(request),
            _ => request,
        };
        let sent = tokio::select! {
            sent = request.send() => sent.map_err(|error| self.unreachable(&action, error)),
            waited = flow.stalled() => Err(self.stalled(&action, waited)),
        };
        // What ended the content ended the request: the former is the cause.
        let response = match (sent, flow.failure()) {
            (_, Some(error)) => return Err(error),
            (sent, None) => sent?,
        };
        let response = self.judged(&action, response, &[]).await?;
        // ECR answers 201, others 202 or 204. Without a new Location the old one holds.
        Ok(self.location(&action, &response)?.unwrap_or_else(|| upload.location.clone()))
    }

    /// Ends an upload: the registry compares the digest, and from then on has the blob.
    pub(crate) async fn finish_upload(&self, upload: Upload) -> Result<(), Error> {
        let Upload { repository, digest, .. } = &upload;
        let scope = Scope::Push(repository.clone());
        let call = Call::new(Method::PUT, upload.action("PUT"), upload.end(), scope.clone()).patience(WORK);
        match self.send(&call).await {
            Ok(_) => Ok(()),
            // An answer that got lost, or a second try that found the upload ended by the first.
            Err(_) if self.has_blob_as(scope, repository, digest).await.unwrap_or(false) => Ok(()),
            Err(error) if error.failure().has_code("DIGEST_INVALID") => {
                let problem = "the registry finds another digest in it";
                Err(Failure::mismatch(self.name(), upload.action("PUT"), problem).refused())
            }
            Err(error) => Err(error),
        }
    }

    /// Gives an upload up. Whether that works makes no difference: unfinished uploads are invisible, and registries purge them.
    pub(crate) async fn abandon_upload(&self, upload: Upload) {
        let call = Call::new(Method::DELETE, upload.action("DELETE"), upload.location, Scope::Push(upload.repository));
        if let Ok(Err(error)) = timeout(FAREWELL, self.send(&call)).await {
            tracing::debug!(registry = self.name(), %error, "an upload could not be given up");
        }
    }

    fn blob_url(&self, repository: &Repository, digest: &Digest) -> Url {
        self.path(&format!("/v2/{repository}/blobs/{digest}"))
    }

    fn uploads_url(&self, repository: &Repository) -> Url {
        self.path(&format!("/v2/{repository}/blobs/uploads/"))
    }
}

impl Upload {
    fn action(&self, verb: &str) -> String {
        format!("{verb} upload of blob {}", at(&self.repository, &self.digest))
    }

    fn end(&self) -> Url {
        let mut url = self.location.clone();
        url.query_pairs_mut().append_pair("digest", self.digest.as_str());
        url
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
        loop {
            let error = match timeout(STALL, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    self.offset += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => self.registry.unreachable(&self.action(), error),
                Err(_) => self.registry.stalled(&self.action(), STALL),
            };
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
        let response = self.registry.open_blob(&self.repository, &self.digest, self.offset).await?;
        let at_offset = match response.status().as_u16() {
            206 => response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).is_some_and(|range| {
                range.strip_prefix("bytes ").and_then(|range| range.split('-').next()) == Some(self.offset.to_string().as_str())
            }),
            _ => self.offset == 0,
        };
        if !at_offset {
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

/// How a body flows into a request: when it last moved, whether it has ended, and what broke it.
struct Flow {
    started: Instant,
    /// Milliseconds after `started`.
    moved: AtomicU64,
    ended: AtomicU64,
    failure: Mutex<Option<Error>>,
}

/// The error that a request body ends with; the real one is in the [`Flow`].
#[derive(Debug, thiserror::Error)]
#[error("the content broke off")]
struct Broken;

impl Flow {
    fn watch<S>(content: S) -> (Arc<Self>, impl Stream<Item = Result<Bytes, Broken>> + Send + 'static)
    where
        S: Stream<Item = Result<Bytes, Error>> + Send + 'static,
    {
        let flow = Arc::new(Self {
            started: Instant::now(),
            moved: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            failure: Mutex::default(),
        });
        let watched = {
            let flow = flow.clone();
            content.map(move |item| {
                flow.touch();
                item.map_err(|error| {
                    *flow.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Broken
                })
            })
        };
        let end = {
            let flow = flow.clone();
            futures_util::stream::poll_fn(move |_| {
                flow.touch();
                flow.ended.store(1, Ordering::Relaxed);
                std::task::Poll::Ready(None)
            })
        };
        (flow, watched.chain(end))
    }

    fn touch(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    /// Ends when nothing has moved for too long. After the last byte the registry may have work to do.
    async fn stalled(&self) -> Duration {
        loop {
            let patience = if self.ended.load(Ordering::Relaxed) == 0 { STALL + GRACE } else { WORK };
            let deadline = self.started + Duration::from_millis(self.moved.load(Ordering::Relaxed)) + patience;
            if Instant::now() >= deadline {
                return patience;
            }
            sleep_until(deadline.min(Instant::now() + STALL)).await;
        }
    }

    fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
