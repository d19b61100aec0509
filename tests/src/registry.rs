//! A real registry: Debian's `docker-registry`, for the time of a test.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use tempfile::TempDir;

use crate::{At, Bulk, Certificate, Client, free_port, install};

/// A user that a registry can be told to know; the hash is fixed, so that no tool has to make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: &'static str,
    /// The password.
    pub password: &'static str,
    bcrypt: &'static str,
}

/// A user.
pub const ALICE: Login =
    Login { user: "alice", password: "wonderland", bcrypt: "$2y$04$abcdefghijklmnopqrstuujZkTwHUiJ9XdZPwKfcfDo7dMp5DjlTu" };

/// Another user, so that credentials that went to the wrong registry are noticed.
pub const BOB: Login =
    Login { user: "bob", password: "carpenter", bcrypt: "$2y$04$012345678901234567890uwK1vgPifhdzCAd3mwEC/.QUptKBM6e2" };

/// The password that the emulator's ECR gives to everybody whose role lets them ask for one.
pub const ECR: Login = Login {
    user: "AWS",
    password: "ministack-auth-token",
    bcrypt: "$2y$04$abcdefghijklmnopqrstuuiFmBv/9Mcu1OansfXyDfsdGqryTgAAO",
};

/// A running `docker-registry`: filesystem storage, deletes enabled. It is killed, and its storage removed, on drop.
pub struct DockerRegistry {
    client: Client,
    port: u16,
    process: Option<Child>,
    dir: TempDir,
}

/// What a [`DockerRegistry`] is to be like.
#[derive(Default)]
pub struct Builder {
    port: Option<u16>,
    host: Option<String>,
    relative: bool,
    keeps: bool,
    login: Option<Login>,
    tls: Option<(Certificate, String)>,
    endpoints: Vec<(String, Vec<(String, String)>)>,
    bulk: Vec<Bulk>,
}

impl Builder {
    /// Listens on this port of loopback, for example one that [`free_port`] gave beforehand.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Names itself `url` in a `Location`, whatever the request's host was.
    #[must_use]
    pub fn host(mut self, url: impl Into<String>) -> Self {
        self.host = Some(url.into());
        self
    }

    /// Answers with a relative `Location`, as the specification allows.
    #[must_use]
    pub fn relative_locations(mut self) -> Self {
        self.relative = true;
        self
    }

    /// Deletes nothing, as a registry that nobody has tuned.
    #[must_use]
    pub fn without_deletion(mut self) -> Self {
        self.keeps = true;
        self
    }

    /// Lets only this user in (basic authentication).
    #[must_use]
    pub fn login(mut self, login: Login) -> Self {
        self.login = Some(login);
        self
    }

    /// Speaks TLS with this certificate; `authority` (PEM) is who has signed it.
    #[must_use]
    pub fn tls(mut self, certificate: Certificate, authority: &str) -> Self {
        self.tls = Some((certificate, authority.into()));
        self
    }

    /// Sends notifications to `url` with these headers: pushes, pulls and mounts, as a registry does that nobody has tuned.
    #[must_use]
    pub fn notify(mut self, url: impl Into<String>, headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        self.endpoints.push((url.into(), headers));
        self
    }

    /// Begins with this content, written straight into the storage.
    #[must_use]
    pub fn filled(mut self, bulk: Bulk) -> Self {
        self.bulk.push(bulk);
        self
    }

    /// Starts it and waits until it answers.
    pub async fn start(self) -> DockerRegistry {
        let dir = tempfile::Builder::new().prefix("transship-registry-").tempdir_in(storage_root()).expect("a directory");
        let port = self.port.unwrap_or_else(free_port);
        for bulk in &self.bulk {
            bulk.write(&dir.path().join("data"));
        }
        if let Some(login) = self.login {
            fs::write(dir.path().join("htpasswd"), format!("{}:{}\n", login.user, login.bcrypt)).expect("the htpasswd file");
        }
        fs::write(dir.path().join("config.yml"), self.config(dir.path(), port)).expect("the registry's configuration");
        let mut client = match &self.tls {
            Some((certificate, authority)) => {
                certificate.write(dir.path());
                Client::new(format!("https://127.0.0.1:{port}")).trusting(authority)
            }
            None => Client::new(format!("http://127.0.0.1:{port}")),
        };
        if let Some(login) = self.login {
            client = client.with_login(login.user, login.password);
        }
        let mut registry = DockerRegistry { client, port, process: None, dir };
        registry.restart().await;
        registry
    }

    /// The configuration file. JSON strings are YAML strings: `{:?}` quotes what comes from outside.
    fn config(&self, dir: &Path, port: u16) -> String {
        let data = dir.join("data");
        let mut text = format!(
            "version: 0.1\n\
             log: {{level: info, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {data:?}, maxthreads: 100}}, delete: {{enabled: {}}}}}\n\
             http:\n  addr: \"127.0.0.1:{port}\"\n  relativeurls: {}\n",
            !self.keeps, self.relative
        );
        let mut add = |line: std::fmt::Arguments<'_>| text.write_fmt(line).expect("writing to text");
        if self.tls.is_some() {
            let (certificate, key) = (dir.join("tls.pem"), dir.join("tls.key"));
            add(format_args!("  tls: {{certificate: {certificate:?}, key: {key:?}}}\n"));
        }
        if let Some(host) = &self.host {
            add(format_args!("  host: {host:?}\n"));
        }
        if self.login.is_some() {
            add(format_args!("auth: {{htpasswd: {{realm: transship, path: {:?}}}}}\n", dir.join("htpasswd")));
        }
        if !self.endpoints.is_empty() {
            add(format_args!("notifications:\n  endpoints:\n"));
        }
        for (number, (url, headers)) in self.endpoints.iter().enumerate() {
            add(format_args!(
                "  - name: endpoint-{number}\n    url: {url:?}\n    timeout: 5s\n    threshold: 5\n    backoff: 200ms\n"
            ));
            add(format_args!("    headers:\n      X-Endpoint: [\"{number}\"]\n"));
            for (name, value) in headers {
                add(format_args!("      {name:?}: [{value:?}]\n"));
            }
        }
        text
    }
}

impl DockerRegistry {
    /// An empty registry that lets everyone in.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// A registry with options.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> &str {
        self.client.url()
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> &str {
        self.client.host()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A client of it, with its login.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A place in it.
    pub fn at(&self, repository: impl Into<String>, reference: impl std::fmt::Display) -> At {
        self.client.at(repository, reference)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Kills it, as a crash does; the storage stays.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may be dead already; then there is nothing to do.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it again, on the same port and storage. Uploads that were under way can be gone on with.
    pub async fn restart(&mut self) {
        self.stop();
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the registry's log");
        let mut command = Command::new(install::program("docker-registry"));
        command.arg("serve").arg(self.dir.path().join("config.yml")).stdin(Stdio::null());
        // The same secret after a restart: `Location`s that were given out before are still valid.
        command.env("REGISTRY_HTTP_SECRET", "transship-tests").env("OTEL_TRACES_EXPORTER", "none");
        // With its few megabytes of heap it would spend half of its time collecting garbage.
        command.env("GOGC", "800");
        command.stdout(log.try_clone().expect("a handle")).stderr(log);
        let process = self.process.insert(command.spawn().expect("docker-registry starts"));
        for _ in 0..400 {
            if let Some(status) = process.try_wait().expect("the registry's state") {
                panic!("docker-registry on port {} ended with {status}:\n{}", self.port, self.log());
            }
            // With a certificate that the fixture's own client does not trust it answers all the same.
            match self.client.request(reqwest::Method::GET, "/v2/").send().await {
                Err(error) if !format!("{error:?}").contains("InvalidCertificate") => {}
                _ => return,
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("docker-registry on port {} does not answer:\n{}", self.port, self.log());
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where storage is made: in memory if there is room for it, because registries sync every file.
fn storage_root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let free = Command::new("df").args(["--output=avail", "--block-size=1M", "/dev/shm"]).output();
        let free = free.ok().and_then(|output| String::from_utf8(output.stdout).ok());
        let mebibytes = free.and_then(|text| text.lines().last()?.trim().parse::<u64>().ok());
        if mebibytes.is_some_and(|free| free >= 2048) { "/dev/shm".into() } else { std::env::temp_dir() }
    })
}
