//! Uploads: beginning a session or mounting instead, filling it, ending it.

use std::fmt;

use bytes::Bytes;
use futures_util::Stream;
use http::{
    HeaderName, HeaderValue, Method,
    header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE},
};
use reqwest::{Body, RequestBuilder, Response};
use tokio::time::timeout;
use transship_model::{Digest, Repository};
use url::Url;

use super::{Registry, at, flow::Flow, send::Call};
use crate::{
    auth::Scope,
    error::{Error, Failure},
};

/// How long giving an upload up may take; the registry forgets it by itself one day.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(5);
const CHUNK_MIN: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// An upload that has begun.
pub struct Upload {
    /// Where to go on: always the newest `Location`, whole, with its query.
    location: Url,
    repository: Repository,
    digest: Digest,
    chunk_min: u64,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the location, whose query may be a signature.
        f.debug_struct("Upload").field("repository", &self.repository).field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// What came of asking to mount a blob.
#[derive(Debug)]
pub enum UploadStart {
    /// The blob is there now.
    Mounted,
    /// The registry did not mount it and has begun an upload instead.
    Begun(Upload),
}

/// What a registry tells of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It has so many bytes.
    Bytes(u64),
    /// It does not tell.
    Nothing,
    /// It has forgotten it.
    Gone,
}

/// What one `PATCH` carries.
pub(crate) struct Part<S> {
    pub(crate) content: S,
    /// The first byte's place in the blob.
    pub(crate) offset: u64,
    /// How many bytes follow; `None` if that shows when it ends.
    pub(crate) length: Option<u64>,
    /// Whether it is told which bytes these are. Where one `PATCH` has them all, Docker's own client does not.
    pub(crate) ranged: bool,
}

impl Registry {
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
            .of_work();
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
        let scope = match from == repository {
            true => Scope::Push(repository.clone()),
            false => Scope::Mount { into: repository.clone(), from: from.clone() },
        };
        let call = Call::new(Method::POST, &action, url, scope);
        let response = self.send_push(repository, &call).await?;
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
        let response = self.send_push(repository, &call).await?;
        self.begun(&action, &response, repository, digest)
    }

    fn begun(&self, action: &str, response: &Response, repository: &Repository, digest: &Digest) -> Result<Upload, Error> {
        let location = self.location(action, response)?;
        let location = location.ok_or_else(|| self.failure(action, "the answer has no Location").refused())?;
        let chunk_min = response.headers().get(CHUNK_MIN).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Ok(Upload { location, repository: repository.clone(), digest: digest.clone(), chunk_min: chunk_min.unwrap_or(0) })
    }

    /// Sends a part of an upload's content. It is sent once: distribution 2.8 appends what is sent again. Gives back how many
    /// bytes the registry says it has; ECR says so of the first part and repeats it ever after.
    ///
    /// # Errors
    /// The content's own error, if that is what ended it; otherwise see [`Error`].
    pub(crate) async fn patch<S>(&self, upload: &mut Upload, part: Part<S>) -> Result<Option<u64>, Error>
    where
        S: Stream<Item = Result<Bytes, Error>> + Send + 'static,
    {
        let Part { content, offset, length, ranged } = part;
        let action = upload.action("PATCH");
        let mut request = self.client(&action, &upload.location).await?.patch(upload.location.clone());
        if let Some(length) = length {
            request = request.header(CONTENT_LENGTH, length);
            if ranged {
                request = request.header(CONTENT_RANGE, format!("{offset}-{}", (offset + length).saturating_sub(1)));
            }
        }
        let response = self.send_content(upload, &action, request, content).await?;
        // ECR answers 201, others 202 or 204. Without a new Location the old one holds.
        if let Some(location) = self.location(&action, &response)? {
            upload.location = location;
        }
        Ok(end_of_range(&response))
    }

    /// Whether a part of an upload may have a length that shows when it ends. Object storage, to which a `Location` may lead, takes none.
    pub(crate) fn takes_open_ends(&self, upload: &Upload) -> bool {
        self.is_own(&upload.location)
    }

    /// The registry has answered a `PATCH` before it had all of it: what it has is anybody's guess.
    pub(crate) fn early(&self, upload: &Upload) -> Error {
        self.failure(upload.action("PATCH"), "it was answered before it had ended").retry(None)
    }

    /// Asks where a broken upload is to be gone on with.
    ///
    /// # Errors
    /// See [`Error`]: nobody is to be reached.
    pub(crate) async fn ask_upload(&self, upload: &mut Upload) -> Result<Told, Error> {
        let action = upload.action("GET");
        let scope = Scope::Push(upload.repository.clone());
        let response = match self.send(&Call::get(&action, upload.location.clone(), scope)).await {
            Ok(response) => response,
            Err(error) if error.is_retry() => return Err(error),
            // Object storage has its own way with a GET, and ECR has none.
            Err(error) => return Ok(if error.failure().status() == Some(404) { Told::Gone } else { Told::Nothing }),
        };
        if let Some(location) = self.location(&action, &response)? {
            upload.location = location;
        }
        Ok(end_of_range(&response).map_or(Told::Nothing, Told::Bytes))
    }

    /// Sends all the content of an upload with the request that ends it.
    ///
    /// # Errors
    /// As for [`Registry::patch`].
    pub(crate) async fn put_content<S>(&self, upload: &Upload, size: u64, content: S) -> Result<(), Error>
    where
        S: Stream<Item = Result<Bytes, Error>> + Send + 'static,
    {
        let (action, url) = (upload.action("PUT"), upload.end());
        let request = self.client(&action, &url).await?.put(url).header(CONTENT_LENGTH, size);
        match self.send_content(upload, &action, request, content).await {
            Ok(_) => Ok(()),
            Err(error) => self.unless_there(upload, error).await,
        }
    }

    /// Sends a request with a body that can't be sent again.
    async fn send_content<S>(
        &self,
        upload: &Upload,
        action: &str,
        request: RequestBuilder,
        content: S,
    ) -> Result<Response, Error>
    where
        S: Stream<Item = Result<Bytes, Error>> + Send + 'static,
    {
        let (flow, content) = Flow::watch(content, self.patience());
        let request = request.header(CONTENT_TYPE, "application/octet-stream").body(Body::wrap_stream(content));
        let scope = Scope::Push(upload.repository.clone());
        let own = self.is_own(&upload.location);
        let authorization = if own { self.authorization(&scope).await? } else { None };
        let request = match &authorization {
            Some(authorization) => authorization.apply(request),
            None => request,
        };
        // Its turn is over as soon as it has begun: content may take long, and to come it may need a turn of its own.
        let ticket = if own { Some(self.enter(action).await?.ticket()) } else { None };
        let sent = tokio::select! {
            sent = request.send() => sent.map_err(|error| self.unreachable(action, error)),
            waited = flow.stalled() => Err(self.stalled(action, waited)),
        };
        // What ended the content ended the request: the former is the cause.
        let response = match (sent, flow.failure()) {
            (_, Some(error)) => return Err(error),
            (sent, None) => sent?,
        };
        if let Some(ticket) = ticket {
            self.answered(ticket, &response);
        }
        if response.status() == 401 && own {
            let headers = response.headers().clone();
            let refusal = self.answer(action, response).await;
            // The login has ended on the way: with a fresh one, if there is one to be had, the upload goes on.
            Box::pin(self.0.auth.after_401(&headers, &scope, authorization, self, refusal)).await?;
            return Err(self.failure(action, "the login has expired").retry(None));
        }
        self.judged(action, response, &[]).await.map_err(Error::of_upload)
    }

    /// Ends an upload: the registry compares the digest, and from then on has the blob.
    pub(crate) async fn finish_upload(&self, upload: &Upload) -> Result<(), Error> {
        let scope = Scope::Push(upload.repository.clone());
        let call = Call::new(Method::PUT, upload.action("PUT"), upload.end(), scope).of_work();
        match self.send(&call).await {
            Ok(_) => Ok(()),
            Err(error) => self.unless_there(upload, error.of_upload()).await,
        }
    }

    /// What a failure to end an upload means: nothing if the blob is there, because an answer got lost or a second try found the
    /// upload ended by the first.
    async fn unless_there(&self, upload: &Upload, error: Error) -> Result<(), Error> {
        let Upload { repository, digest, .. } = upload;
        // What the source did wrong has not made the blob be there, and content that was refused has not been stored.
        if error.is_mismatch() || error.is_about_form() {
            return Err(error);
        }
        let scope = Scope::Push(repository.clone());
        if self.has_blob_as(scope, repository, digest).await.unwrap_or(false) {
            return Ok(());
        }
        if error.failure().has_code("DIGEST_INVALID") {
            let problem = "the registry finds another digest in it";
            return Err(Failure::mismatch(self.name(), upload.action("PUT"), problem).refused());
        }
        Err(error)
    }

    /// Gives an upload up. Whether that works makes no difference: unfinished uploads are invisible, and registries purge them.
    pub(crate) async fn abandon_upload(&self, upload: Upload) {
        let call = Call::new(Method::DELETE, upload.action("DELETE"), upload.location, Scope::Push(upload.repository));
        if let Ok(Err(error)) = timeout(FAREWELL, self.send(&call)).await {
            tracing::debug!(registry = self.name(), %error, "an upload could not be given up");
        }
    }

    fn uploads_url(&self, repository: &Repository) -> Url {
        self.path(&format!("/v2/{repository}/blobs/uploads/"))
    }
}

impl Upload {
    /// The least that the registry wants a chunk to have, unless it is the last: `OCI-Chunk-Min-Length`.
    pub(crate) fn chunk_min(&self) -> u64 {
        self.chunk_min
    }

    /// An upload that was begun elsewhere.
    pub(crate) fn at(location: Url, repository: Repository, digest: Digest, chunk_min: u64) -> Self {
        Self { location, repository, digest, chunk_min }
    }

    /// Where it goes on.
    pub(crate) fn location(&self) -> &Url {
        &self.location
    }

    fn action(&self, verb: &str) -> String {
        format!("{verb} upload of blob {}", at(&self.repository, &self.digest))
    }

    fn end(&self) -> Url {
        let mut url = self.location.clone();
        url.query_pairs_mut().append_pair("digest", self.digest.as_str());
        url
    }
}

/// How many bytes an upload has, as its `Range` says: inclusive, with or without a unit. `0-0` is what nothing looks like.
fn end_of_range(response: &Response) -> Option<u64> {
    let range = response.headers().get(RANGE)?.to_str().ok()?;
    let (start, last) = range.trim().trim_start_matches("bytes=").split_once('-')?;
    match (start.parse::<u64>().ok()?, last.parse::<u64>().ok()?) {
        (0, 0) => Some(0),
        (0, last) => last.checked_add(1),
        _ => None,
    }
}
