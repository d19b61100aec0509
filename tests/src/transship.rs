//! The product as its users have it: the real binary, serving on loopback with a store of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::OnceLock,
    time::Duration,
};

use reqwest::{Method, Response};
use serde_json::Value;
use tempfile::TempDir;

use crate::{DockerRegistry, free_port, wait_until};

/// The webhook secret of every instance that names `env:HOOK_SECRET`.
pub const HOOK_SECRET: &str = "s3cret-of-the-hook";

/// A running `transship serve`; it is killed, and its store removed, on drop.
pub struct Transship {
    dir: TempDir,
    port: u16,
    environment: Vec<(String, String)>,
    first_runs: bool,
    process: Option<Child>,
    http: reqwest::Client,
}

/// The binary, built with the profile of the tests the first time that one of a process's tests asks for it.
pub fn binary() -> PathBuf {
    binaries().join("transship")
}

/// The folder of all binaries of the workspace: `transship`, and the functions `transship-webhook` and so on.
pub(crate) fn binaries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let this = std::env::current_exe().expect("the path of this test");
        // target/<profile>/deps/<test>
        let folder = this.parent().and_then(Path::parent).expect("the folder of the build").to_owned();
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // Of the workspace: a package alone would have other features, and all that it needs would be built a second time.
        cargo.args(["build", "--quiet", "--workspace", "--bins", "--profile", profile]);
        let target = folder.parent().expect("the target folder");
        let status =
            cargo.env("CARGO_TARGET_DIR", target).current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
        assert!(status.success(), "the binaries do not build");
        folder
    };
    FOLDER.get_or_init(build)
}

impl Transship {
    /// A process that has a port and a folder, and does not run yet: registries that send notifications need its URL first.
    pub fn reserve() -> Self {
        let dir = tempfile::Builder::new().prefix("transship-").tempdir().expect("a folder");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { dir, port: free_port(), environment: Vec::new(), first_runs: false, process: None, http }
    }

    /// Sets a variable for the process when it starts, and for the commands that are run against it.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.environment.push((variable.into(), value.into()));
    }

    /// Lets rules of its configuration that are new begin with a full run, as users have it. Most tests are about pushes and count
    /// tasks.
    pub fn with_first_runs(&mut self) {
        self.first_runs = true;
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where an instance's notifications go.
    pub fn hook(&self, instance: &str) -> String {
        format!("{}/hooks/{instance}", self.url())
    }

    /// A registry whose notifications go to the webhook of `instance`.
    pub async fn registry(&self, instance: &str) -> DockerRegistry {
        let bearer = format!("Bearer {HOOK_SECRET}");
        DockerRegistry::builder().notify(self.hook(instance), &[("Authorization", &bearer)]).start().await
    }

    /// The folder of its store.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The file with its configuration.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("sync.yaml")
    }

    /// Starts it with this configuration, and waits until it answers.
    pub async fn start(&mut self, config: &str) {
        fs::write(self.config_file(), config).expect("the configuration");
        self.restart().await;
    }

    /// Starts it again with the configuration that it had, if it had one.
    pub async fn restart(&mut self) {
        self.kill();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("the log");
        let mut command = Command::new(binary());
        command.arg("serve").arg("--data").arg(self.data());
        if self.config_file().exists() {
            command.arg("--config").arg(self.config_file()).args((!self.first_runs).then_some("--no-first-run"));
        }
        command.args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        command
            .env("HOOK_SECRET", HOOK_SECRET)
            .env("ALICE_PASSWORD", crate::ALICE.password)
            .env("BOB_PASSWORD", crate::BOB.password);
        command.env("TRANSSHIP_LOG", "info").env_remove("TRANSSHIP_TOKEN").envs(self.environment.iter().cloned());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("transship serve starts");
        self.process = Some(child);
        let health = format!("{}/health", self.url());
        for _ in 0..300 {
            if let Some(Ok(Some(status))) = self.process.as_mut().map(Child::try_wait) {
                panic!("transship serve ended with {status}:\n{}", self.log());
            }
            if self.http.get(&health).send().await.is_ok_and(|response| response.status() == 200) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("transship serve does not answer:\n{}", self.log());
    }

    /// Ends it with SIGKILL: nothing of it has time to tidy up.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Asks it to end, as a service manager does, and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("a process that runs");
        let sent = Command::new("kill").arg(process.id().to_string()).status().expect("kill runs");
        assert!(sent.success(), "SIGTERM could not be sent");
        tokio::task::spawn_blocking(move || process.wait().expect("the process's status")).await.expect("it ends")
    }

    /// The process's ID.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a process that runs").id()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Runs a command of the same binary against it and waits for its end.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output().expect("the command runs")).await.expect("the command ends")
    }

    /// A command of the same binary, to be run against it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).stdin(Stdio::null()).env("TRANSSHIP_API", self.url()).env_remove("TRANSSHIP_TOKEN");
        // Not the configuration of whoever runs the tests.
        command.env("XDG_CONFIG_HOME", self.dir.path());
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Sends a notification with the webhook's secret.
    pub async fn notify(&self, instance: &str, body: &Value) -> Response {
        let request = self.http.post(self.hook(instance)).bearer_auth(HOOK_SECRET);
        let request = request.header("Content-Type", "application/vnd.docker.distribution.events.v1+json");
        request.body(body.to_string()).send().await.expect("the webhook answers")
    }

    /// Calls the API; the answer's status and body.
    pub async fn call(&self, method: Method, path: &str) -> (u16, Value) {
        let response = self.http.request(method, format!("{}{path}", self.url())).send().await.expect("the API answers");
        let status = response.status().as_u16();
        (status, response.json().await.expect("the API answers with JSON"))
    }

    /// Reads from the API.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// The tasks of `INSTANCE/RULE`, the newest first.
    pub async fn tasks(&self, rule: &str) -> Vec<Value> {
        let (instance, rule) = rule.split_once('/').expect("INSTANCE/RULE");
        let tasks = self.get(&format!("/v1/instances/{instance}/rules/{rule}/tasks?limit=1000")).await;
        tasks["items"].as_array().expect("items").clone()
    }

    /// All resources of a task.
    pub async fn resources(&self, task: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("/v1/tasks/{task}/resources?limit=1000{cursor}")).await;
            all.extend(page["items"].as_array().expect("items").clone());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={}", next.replace('/', "%2F").replace(':', "%3A").replace('@', "%40")),
                None => return all,
            }
        }
    }

    /// Waits until `INSTANCE/RULE` has `n` tasks that have ended, and no others.
    pub async fn ended(&self, rule: &str, n: usize) -> Vec<Value> {
        let mut tasks = Vec::new();
        let what = format!("{n} tasks of {rule} to end");
        wait_until(&what, Duration::from_secs(60), async || {
            tasks = self.tasks(rule).await;
            tasks.len() == n && tasks.iter().all(|task| task.get("ended").is_some())
        })
        .await;
        tasks
    }

    /// Waits until nothing is to be done: both queues are empty, and stay so for a moment, so that echoes have come and gone.
    pub async fn quiet(&self) {
        let mut quiet = 0;
        wait_until("both queues to be empty", Duration::from_secs(120), async || {
            let health = self.get("/health").await;
            let waiting: u64 = ["jobs", "events"]
                .iter()
                .map(|queue| {
                    let depth = &health["queues"][queue];
                    depth["waiting"].as_u64().unwrap_or(1) + depth["held"].as_u64().unwrap_or(1)
                })
                .sum();
            quiet = if waiting == 0 { quiet + 1 } else { 0 };
            // Longer than a registry takes to send a notification.
            quiet >= 20
        })
        .await;
    }
}

impl Drop for Transship {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of transship serve:\n{}", self.log());
        }
        self.kill();
    }
}

/// The lines of `sync.yaml` for an instance.
pub fn instance(name: &str, registry: &str) -> String {
    format!("  - {{ name: {name}, endpoint: '{registry}', kind: distribution, webhook_secret: 'env:HOOK_SECRET' }}\n")
}

/// The lines of `sync.yaml` for a rule; `more` is put at its end, as in `overwrite: true`.
pub fn rule(name: &str, source: &str, target: &str, more: &str) -> String {
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    format!("  - {{ name: {name}, source: {{ {source} }}, target: {{ {target} }}{more} }}\n")
}

/// A whole `sync.yaml`.
pub fn config(instances: &[String], rules: &[String]) -> String {
    format!("instances:\n{}rules:\n{}", instances.concat(), rules.concat())
}
