//! Registries for the tests: Debian's `docker-registry` as a process, `ferro-oci-server` in this one for the referrers API, and
//! servers that answer whatever a test wants.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::Request, response::Response};
use serde_json::{Value, json};
use transship_model::{Digest, EcrSettings, Kind, Reference, Repository};
use transship_registry::{Descriptor, Endpoint, Http, Login, Manifest, Progress, Registry, RegistryConfig};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A real registry in a process of its own, on a free port, with its storage in a directory that goes with it.
pub(crate) struct Distribution {
    child: Child,
    pub(crate) url: String,
    pub(crate) storage: tempfile::TempDir,
}

impl Distribution {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// With user `user` and password `secret`.
    pub(crate) fn with_password() -> Self {
        Self::with("auth:\n  htpasswd:\n    realm: test\n    path: htpasswd\n")
    }

    /// That takes manifests whose layers have `urls`: without this setting it takes none.
    pub(crate) fn with_foreign_layers() -> Self {
        Self::with("validation:\n  manifests:\n    urls:\n      allow:\n        - .*\n")
    }

    fn with(settings: &str) -> Self {
        let storage = tempfile::tempdir().unwrap();
        // Nobody else in this process gets the port, and no outgoing connection; another process may: try again.
        for _ in 0..5 {
            let address = SocketAddr::from(([127, 0, 0, 1], transship_tests::free_port()));
            let config = storage.path().join("config.yml");
            let root = storage.path().join("data");
            let text = format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  delete:\n    enabled: true\n  \
                 filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{settings}",
                root.display()
            );
            std::fs::write(&config, text).unwrap();
            // htpasswd -nbB user secret
            let users = "user:$2y$05$qSOPVrgeHWM6tGSd87y07eraRKB5evR1x.BSXKbDfnzlZfLk18Zci\n";
            std::fs::write(storage.path().join("htpasswd"), users).unwrap();
            let mut child = Command::new(transship_tests::program("docker-registry"))
                .current_dir(storage.path())
                .arg("serve")
                .arg(&config)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("docker-registry starts");
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(20) && child.try_wait().unwrap().is_none() {
                if std::net::TcpStream::connect(address).is_ok() {
                    return Self { child, url: format!("http://{address}"), storage };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("docker-registry does not start");
    }

    /// How many uploads have begun and not ended.
    pub(crate) fn unfinished_uploads(&self) -> usize {
        fn walk(path: &std::path::Path, found: &mut usize) {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    walk(&entry.path(), found);
                } else if entry.path().to_string_lossy().contains("_uploads") && entry.file_name() == "data" {
                    *found += 1;
                }
            }
        }
        let mut found = 0;
        walk(self.storage.path(), &mut found);
        found
    }
}

impl Drop for Distribution {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server in this process that answers as `answer` says and remembers what it was asked.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<String>,
    pub(crate) cookie: Option<String>,
}

impl Fake {
    pub(crate) async fn start<F>(answer: F) -> Self
    where
        F: Fn(&Asked, &Self) -> Response + Clone + Send + Sync + 'static,
    {
        let (listener, fake) = Self::bind().await;
        let this = fake.clone();
        let app = Router::new().fallback(move |request: Request| {
            let asked = Asked::from(&request);
            this.asked.lock().unwrap().push(asked.clone());
            let response = answer(&asked, &this);
            async move {
                // An answer before the body has been read may break the connection before it is seen.
                let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
                response
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        fake
    }

    /// A server from routes of its own, not recorded.
    pub(crate) async fn serve(app: Router) -> Self {
        let (listener, fake) = Self::bind().await;
        tokio::spawn(async move { axum::serve(listener, app).await });
        fake
    }

    /// A registry with the referrers API.
    pub(crate) async fn ferro() -> Self {
        let state = ferro_oci_server::AppState::new(
            Arc::new(ferro_blob_store::InMemoryBlobStore::new()),
            Arc::new(ferro_oci_server::InMemoryRegistryMeta::new()),
        );
        Self::serve(ferro_oci_server::router(state)).await
    }

    async fn bind() -> (tokio::net::TcpListener, Self) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, Self { url: format!("http://{address}"), asked: Arc::default() })
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.asked().iter().filter(|asked| asked.method == method && asked.target.contains(part)).count()
    }
}

impl From<&Request> for Asked {
    fn from(request: &Request) -> Self {
        let header = |name| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        Self {
            method: request.method().to_string(),
            target: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
            authorization: header("authorization"),
            range: header("range"),
            cookie: header("cookie"),
        }
    }
}

pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

pub(crate) fn config(name: &str, url: &str) -> RegistryConfig {
    RegistryConfig {
        name: name.into(),
        endpoint: url.parse().unwrap(),
        kind: Kind::Distribution,
        credentials: Login::Anonymous,
        token_realm: None,
        api: None,
        ecr: EcrSettings::default(),
        tcr: None,
        ca: None,
        plain_http: false,
    }
}

pub(crate) fn password() -> Login {
    Login::Password { username: "user".into(), password: "secret".to_owned().into() }
}

pub(crate) fn registry(name: &str, url: &str) -> Registry {
    Registry::new(&Http::new().unwrap(), config(name, url)).unwrap()
}

pub(crate) fn registry_with(url: &str, change: impl FnOnce(&mut RegistryConfig)) -> Registry {
    let mut config = config("test", url);
    change(&mut config);
    Registry::new(&Http::new().unwrap(), config).unwrap()
}

pub(crate) fn endpoint(name: &str, url: &str, repository: &str) -> Endpoint {
    Endpoint::new(&registry(name, url), repo(repository))
}

pub(crate) fn repo(name: &str) -> Repository {
    name.parse().unwrap()
}

pub(crate) fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Bytes that no two seeds have in common.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

pub(crate) fn as_value(descriptor: &Descriptor) -> Value {
    serde_json::to_value(descriptor).unwrap()
}

/// Pretty-printed, with odd white space: whoever encodes it anew changes its digest.
pub(crate) fn manifest(media_type: &str, mut value: Value) -> Manifest {
    value["schemaVersion"] = json!(2);
    value["mediaType"] = json!(media_type);
    Manifest::new(media_type, serde_json::to_string_pretty(&value).unwrap() + " \n")
}

/// Pushes blobs and a manifest of them.
pub(crate) async fn push(
    at: &Endpoint,
    to: Option<&str>,
    config: (&str, &[u8]),
    layers: &[(&str, &[u8])],
    extra: Value,
) -> Manifest {
    let mut value = extra;
    value["config"] = descriptor(config.0, config.1);
    value["layers"] = layers.iter().map(|(media_type, bytes)| descriptor(media_type, bytes)).collect();
    for (_, bytes) in std::iter::once(&config).chain(layers) {
        at.registry.push_blob(&at.repository, bytes.to_vec().into()).await.unwrap();
    }
    put(at, to, manifest(OCI_MANIFEST, value)).await
}

pub(crate) async fn put(at: &Endpoint, to: Option<&str>, manifest: Manifest) -> Manifest {
    let by = to.map_or_else(|| Reference::Digest(manifest.descriptor.digest.clone()), reference);
    at.registry.put_manifest(&at.repository, &by, &manifest).await.unwrap();
    manifest
}

/// An image with a small config and one layer.
pub(crate) async fn push_image(at: &Endpoint, to: Option<&str>, seed: u64) -> Manifest {
    let config = format!(r#"{{"seed":{seed}}}"#);
    push(at, to, (OCI_CONFIG, config.as_bytes()), &[(OCI_LAYER, &noise(seed, 50_000))], json!({})).await
}

/// An index of images, for as many platforms as there are seeds.
pub(crate) async fn push_index(at: &Endpoint, to: &str, seeds: &[u64]) -> (Manifest, Vec<Manifest>) {
    let mut children = Vec::new();
    for seed in seeds {
        children.push(push_image(at, None, *seed).await);
    }
    let manifests: Vec<Value> = children.iter().map(|child| as_value(&child.descriptor)).collect();
    let index = put(at, Some(to), manifest(OCI_INDEX, json!({"manifests": manifests}))).await;
    (index, children)
}

/// Counts what it is told.
#[derive(Default)]
pub(crate) struct Counter {
    pub(crate) planned: AtomicU64,
    pub(crate) moved: AtomicU64,
    pub(crate) saved: AtomicU64,
    pub(crate) lost: AtomicU64,
}

impl Counter {
    pub(crate) fn read(&self) -> (u64, u64, u64, u64) {
        let of = |n: &AtomicU64| n.load(Ordering::SeqCst);
        (of(&self.planned), of(&self.moved), of(&self.saved), of(&self.lost))
    }
}

impl Progress for Counter {
    fn planned(&self, bytes: u64) {
        self.planned.fetch_add(bytes, Ordering::SeqCst);
    }
    fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::SeqCst);
    }
    fn mounted(&self, bytes: u64) {
        self.saved.fetch_add(bytes, Ordering::SeqCst);
    }
    fn present(&self, bytes: u64) {
        self.saved.fetch_add(bytes, Ordering::SeqCst);
    }
    fn lost(&self, bytes: u64) {
        self.lost.fetch_add(bytes, Ordering::SeqCst);
    }
    fn absent(&self, bytes: u64) {
        self.saved.fetch_sub(bytes, Ordering::SeqCst);
    }
}
