//! A plain client of the distribution protocol, to set up content and to look at outcomes. It shares nothing with the
//! product's client.

use std::{fmt, time::Duration};

use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde_json::Value;
use transship_model::Digest;

/// Every kind of manifest that is known here: a registry that is not asked for a kind may convert or refuse it.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// A registry as a client sees it: its URL and, where it asks for one, a login.
#[derive(Clone)]
pub struct Client {
    url: String,
    login: Option<(String, String)>,
    http: reqwest::Client,
}

/// A manifest as it came over the wire.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its exact bytes.
    pub bytes: Bytes,
    /// The answer's `Content-Type`.
    pub media_type: String,
    /// The digest of the bytes, computed here.
    pub digest: Digest,
}

impl Manifest {
    /// The manifest as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("a manifest is JSON")
    }
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.digest, self.media_type, String::from_utf8_lossy(&self.bytes))
    }
}

/// A reference (tag or digest) of a repository in a registry.
#[derive(Clone)]
pub struct At {
    /// The registry.
    pub client: Client,
    /// The repository in it.
    pub repository: String,
    /// Tag or digest.
    pub reference: String,
}

impl At {
    /// The manifest that is there.
    ///
    /// # Panics
    /// If there is none.
    pub async fn manifest(&self) -> Manifest {
        self.client.get_manifest(&self.repository, &self.reference).await
    }

    /// The manifest that is there, if one is.
    pub async fn find_manifest(&self) -> Option<Manifest> {
        self.client.find_manifest(&self.repository, &self.reference).await
    }

    /// The same repository at another reference.
    pub fn with(&self, reference: impl fmt::Display) -> Self {
        self.client.at(&self.repository, reference)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.reference.contains(':') { '@' } else { ':' };
        write!(f, "{}/{}{separator}{}", self.client.host(), self.repository, self.reference)
    }
}

impl Client {
    /// A client of the registry at `url`, for example `http://127.0.0.1:1234`.
    pub fn new(url: impl Into<String>) -> Self {
        // A proxy of the environment has no business between a test and its loopback.
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        Self { url: url.into().trim_end_matches('/').to_owned(), login: None, http }
    }

    /// The same client, that trusts an authority (PEM) and no other.
    ///
    /// # Panics
    /// If that is no certificate.
    #[must_use]
    pub fn trusting(mut self, authority: &str) -> Self {
        let authority = reqwest::Certificate::from_pem(authority.as_bytes()).expect("a certificate");
        self.http = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build().expect("an HTTP client");
        self
    }

    /// The same client, that logs in.
    #[must_use]
    pub fn with_login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.into(), password.into()));
        self
    }

    /// The URL without a trailing slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Host and port.
    pub fn host(&self) -> &str {
        self.url.split_once("://").map_or(&*self.url, |(_, host)| host)
    }

    pub(crate) fn login(&self) -> Option<(&str, &str)> {
        self.login.as_ref().map(|(user, password)| (&**user, &**password))
    }

    /// A place in this registry.
    pub fn at(&self, repository: impl Into<String>, reference: impl fmt::Display) -> At {
        At { client: self.clone(), repository: repository.into(), reference: reference.to_string() }
    }

    /// A request with the login; `path` begins with a slash or is an absolute URL. For what the other methods don't do.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = if path.starts_with('/') { format!("{}{path}", self.url) } else { path.to_owned() };
        let request = self.http.request(method, url);
        match self.login() {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }

    /// The manifest at a tag or digest.
    ///
    /// # Panics
    /// If there is none.
    pub async fn get_manifest(&self, repository: &str, reference: &str) -> Manifest {
        let manifest = self.find_manifest(repository, reference).await;
        manifest.unwrap_or_else(|| panic!("{} is not there", self.at(repository, reference)))
    }

    /// The manifest at a tag or digest, if there is one.
    pub async fn find_manifest(&self, repository: &str, reference: &str) -> Option<Manifest> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let response = send(self.request(Method::GET, &path).header(header::ACCEPT, ACCEPT)).await;
        if response.status() == StatusCode::NOT_FOUND {
            return None;
        }
        let response = expect(StatusCode::OK, response).await;
        let media_type = text_of(&response, header::CONTENT_TYPE.as_str());
        let claimed = text_of(&response, "docker-content-digest");
        let bytes = body(response).await;
        let digest = Digest::of(&bytes);
        assert_eq!(claimed, digest.as_str(), "the digest that the registry claims for {path}");
        Some(Manifest { bytes, media_type, digest })
    }

    /// All tags in order; none if the repository does not exist.
    pub async fn tags(&self, repository: &str) -> Vec<String> {
        self.list(format!("/v2/{repository}/tags/list?n=1000"), "tags").await
    }

    /// All repositories in order.
    pub async fn catalog(&self) -> Vec<String> {
        self.list("/v2/_catalog?n=1000".into(), "repositories").await
    }

    /// A blob; its bytes have been hashed.
    pub async fn blob(&self, repository: &str, digest: &Digest) -> Bytes {
        let response = send(self.request(Method::GET, &format!("/v2/{repository}/blobs/{digest}"))).await;
        let bytes = body(expect(StatusCode::OK, response).await).await;
        assert_eq!(Digest::of(&bytes), *digest, "the digest of what {} has for a blob of {repository}", self.url);
        bytes
    }

    /// Whether the repository has the blob.
    pub async fn has_blob(&self, repository: &str, digest: &Digest) -> bool {
        let response = send(self.request(Method::HEAD, &format!("/v2/{repository}/blobs/{digest}"))).await;
        if response.status() == StatusCode::NOT_FOUND {
            return false;
        }
        expect(StatusCode::OK, response).await;
        true
    }

    /// Pushes a blob in one request.
    pub async fn push_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let begun = send(self.request(Method::POST, &format!("/v2/{repository}/blobs/uploads/"))).await;
        let location = text_of(&expect(StatusCode::ACCEPTED, begun).await, "location");
        let separator = if location.contains('?') { '&' } else { '?' };
        let put = self.request(Method::PUT, &format!("{location}{separator}digest={digest}"));
        let put = put.header(header::CONTENT_TYPE, "application/octet-stream").body(bytes);
        expect(StatusCode::CREATED, send(put).await).await;
        digest
    }

    /// Pushes a manifest as it is, to a tag or to its digest.
    pub async fn put_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let put = self.request(Method::PUT, &format!("/v2/{repository}/manifests/{reference}"));
        let response = send(put.header(header::CONTENT_TYPE, media_type).body(bytes)).await;
        let response = expect(StatusCode::CREATED, response).await;
        assert_eq!(text_of(&response, "docker-content-digest"), digest.as_str(), "the digest of {repository}:{reference}");
        digest
    }

    /// Deletes a manifest, and with it the tags that have it; the answer's status.
    pub async fn delete_manifest(&self, repository: &str, reference: &str) -> StatusCode {
        send(self.request(Method::DELETE, &format!("/v2/{repository}/manifests/{reference}"))).await.status()
    }

    /// A paged list, followed to its end.
    async fn list(&self, mut path: String, field: &str) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let response = send(self.request(Method::GET, &path)).await;
            if response.status() == StatusCode::NOT_FOUND {
                return all;
            }
            let response = expect(StatusCode::OK, response).await;
            let next = text_of(&response, "link");
            let page: Value = serde_json::from_slice(&body(response).await).expect("a list is JSON");
            let entries = page[field].as_array().into_iter().flatten();
            all.extend(entries.map(|entry| entry.as_str().expect("a list of texts").to_owned()));
            let Some((_, rest)) = next.split_once('<') else { break };
            path = rest.split('>').next().unwrap_or_default().to_owned();
        }
        all.sort();
        all
    }
}

/// docker-registry rewrites a repository's link to a blob in place when the blob is pushed there again, and answers 500 to whoever reads it at
/// that moment.
const REREADS: usize = 5;

async fn send(request: RequestBuilder) -> Response {
    for _ in 0..REREADS {
        let Some(same) = request.try_clone() else { break };
        let (client, same) = same.build_split();
        let same = same.unwrap_or_else(|error| panic!("a request of the test itself: {error:?}"));
        let is_read = same.method() == Method::GET;
        let response = client.execute(same).await.unwrap_or_else(|error| panic!("a request of the test itself: {error:?}"));
        if !is_read || response.status() != StatusCode::INTERNAL_SERVER_ERROR {
            return response;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    request.send().await.unwrap_or_else(|error| panic!("a request of the test itself: {error:?}"))
}

/// The response, if its status is the one that the test needs.
async fn expect(status: StatusCode, response: Response) -> Response {
    if response.status() != status {
        let (got, url) = (response.status(), response.url().clone());
        panic!("{url} answered {got} instead of {status}: {}", response.text().await.unwrap_or_default());
    }
    response
}

async fn body(response: Response) -> Bytes {
    let url = response.url().clone();
    response.bytes().await.unwrap_or_else(|error| panic!("the body of {url}: {error:?}"))
}

fn text_of(response: &Response, name: &str) -> String {
    response.headers().get(name).map(|value| value.to_str().expect("a header is text").to_owned()).unwrap_or_default()
}
