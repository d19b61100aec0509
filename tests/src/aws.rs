//! AWS on loopback: an emulator that answers the services' own APIs, in a process of its own.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use tempfile::TempDir;

use crate::{free_port, tool};

/// A running emulator, empty at first; it and the functions that run in it are killed on drop.
pub struct Aws {
    port: u16,
    dir: TempDir,
    process: Child,
}

impl Aws {
    /// The region that everything is in.
    pub const REGION: &str = "us-east-1";

    /// Starts one that lets everybody do everything.
    pub async fn start() -> Self {
        Self::launch(false, None).await
    }

    /// Starts one in which each function may do what its role allows, and no more. Where a proxy is given, functions find hosts that are
    /// not this machine by it, and speak plain http to it.
    pub async fn with_iam(proxy: Option<&str>) -> Self {
        Self::launch(true, proxy).await
    }

    async fn launch(iam: bool, proxy: Option<&str>) -> Self {
        let program = tokio::task::spawn_blocking(|| tool("ministack")).await.expect("the emulator");
        let dir = tempfile::Builder::new().prefix("transship-aws-").tempdir().expect("a folder");
        let port = free_port();
        let log = File::create(dir.path().join("log")).expect("the emulator's log");
        let mut command = Command::new(program);
        command.env("BIND_HOST", "127.0.0.1").env("MINISTACK_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string());
        // What it would start besides, on ports and sockets of its own choice.
        command.env("IOT_MTLS_ENABLED", "0").env("SFTP_ENABLED", "0").env("DOCKER_HOST", "unix:///nonexistent");
        command.env("AUTH", if iam { "true" } else { "false" }).env("TMPDIR", dir.path());
        command.envs(proxy.map(|proxy| ("HTTP_PROXY", proxy)));
        command.envs(variables(port)).stdin(Stdio::null()).stdout(log.try_clone().expect("a handle")).stderr(log);
        // A group of its own, with the functions that it starts.
        let process = command.current_dir(dir.path()).process_group(0).spawn().expect("the emulator starts");
        let mut aws = Self { port, dir, process };
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let health = format!("{}/_ministack/health", aws.endpoint());
        for _ in 0..1200 {
            if let Some(status) = aws.process.try_wait().expect("the emulator's state") {
                panic!("the emulator ended with {status}:\n{}", aws.log());
            }
            if http.get(&health).send().await.is_ok_and(|response| response.status() == 200) {
                return aws;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the emulator does not answer:\n{}", aws.log());
    }

    /// `http://127.0.0.1:<port>`, the endpoint of every service.
    pub fn endpoint(&self) -> String {
        endpoint(self.port)
    }

    /// The variables by which the SDKs and AWS's own tools find it, and nothing of this machine's AWS.
    pub fn env(&self) -> Vec<(String, String)> {
        variables(self.port)
    }

    /// The same for clients in this process.
    pub async fn sdk(&self) -> SdkConfig {
        let identity = Credentials::new("test", "test", None, None, "a test");
        let config = aws_config::defaults(BehaviorVersion::latest()).region(Region::from_static(Self::REGION));
        config.endpoint_url(self.endpoint()).credentials_provider(identity).load().await
    }

    /// A folder that goes when it goes.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it, and the functions in it, have written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn variables(port: u16) -> Vec<(String, String)> {
    let nowhere = "/dev/null".to_owned();
    let variables = [
        ("AWS_ENDPOINT_URL", endpoint(port)),
        ("AWS_ACCESS_KEY_ID", "test".into()),
        ("AWS_SECRET_ACCESS_KEY", "test".into()),
        ("AWS_REGION", Aws::REGION.into()),
        ("AWS_DEFAULT_REGION", Aws::REGION.into()),
        ("AWS_EC2_METADATA_DISABLED", "true".into()),
        ("AWS_CONFIG_FILE", nowhere.clone()),
        ("AWS_SHARED_CREDENTIALS_FILE", nowhere),
        ("NO_PROXY", "127.0.0.1,localhost".into()),
    ];
    variables.map(|(name, value)| (name.to_owned(), value)).into()
}

impl Drop for Aws {
    fn drop(&mut self) {
        let group = format!("-{}", self.process.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
