//! A function as AWS Lambda runs it: its real binary, under AWS's own runtime interface emulator.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::{free_port, tool, transship::binaries};

/// A function that can be invoked. Its process starts with the first invocation, and again with the next one after it has ended; all
/// of it is killed on drop.
pub struct Rie {
    dir: TempDir,
    port: u16,
    process: Child,
    http: reqwest::Client,
    /// The emulator crashes if it is called twice at once.
    turn: Mutex<()>,
}

impl Rie {
    /// The function `name` (`"webhook"`), called `stack-NAME`, with these variables and no others. After `timeout` an invocation is
    /// killed.
    pub async fn start(name: &str, environment: &[(String, String)], timeout: Duration) -> Self {
        let binary = tokio::task::spawn_blocking(binaries).await.expect("the functions").join(format!("transship-{name}"));
        Self::run(&binary, name, environment, timeout).await
    }

    /// The same as an alias of the function, which is what Lambda says then that was invoked.
    pub async fn start_alias(name: &str, alias: &str, environment: &[(String, String)], timeout: Duration) -> Self {
        let binary = tokio::task::spawn_blocking(binaries).await.expect("the functions").join(format!("transship-{name}"));
        // The emulator makes the name that was invoked of the function's own.
        Self::launch(&binary, &format!("stack-{name}:{alias}"), environment, timeout).await
    }

    /// The same with this program, which may have been built otherwise.
    pub async fn run(binary: &Path, name: &str, environment: &[(String, String)], timeout: Duration) -> Self {
        Self::launch(binary, &format!("stack-{name}"), environment, timeout).await
    }

    async fn launch(binary: &Path, name: &str, environment: &[(String, String)], timeout: Duration) -> Self {
        let program = tokio::task::spawn_blocking(emulator).await.expect("the emulator");
        let dir = tempfile::Builder::new().prefix("transship-function-").tempdir().expect("a folder");
        let log = File::create(dir.path().join("log")).expect("the function's log");
        let (port, runtime) = (free_port(), free_port());
        let mut command = Command::new(program);
        // Without these it listens to everybody.
        command.args(["--runtime-interface-emulator-address", &format!("127.0.0.1:{port}")]);
        command.args(["--runtime-api-address", &format!("127.0.0.1:{runtime}")]).arg(binary);
        command.env_clear().envs(environment.iter().cloned()).env("PATH", "/usr/bin:/bin");
        command.env("AWS_LAMBDA_FUNCTION_NAME", name).env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256");
        command.env("AWS_LAMBDA_FUNCTION_TIMEOUT", timeout.as_secs().to_string());
        command.current_dir(dir.path()).stdin(Stdio::null()).stdout(log.try_clone().expect("a handle")).stderr(log);
        let process = command.spawn().expect("the emulator starts");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let rie = Self { dir, port, process, http, turn: Mutex::new(()) };
        crate::wait_until("the runtime interface emulator listens", Duration::from_secs(60), async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        rie
    }

    /// Calls the function.
    ///
    /// # Errors
    /// What Lambda says of an invocation that failed: `errorType` and `errorMessage`.
    pub async fn invoke(&self, event: &Value) -> Result<Value, Value> {
        let _turn = self.turn.lock().await;
        let url = format!("http://127.0.0.1:{}/2015-03-31/functions/function/invocations", self.port);
        let answer = self.http.post(url).body(event.to_string()).send().await.expect("the emulator answers");
        let text = answer.text().await.expect("a whole answer");
        // A time-out is told as bare text; other errors with the status 200.
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| serde_json::json!({ "errorMessage": text }));
        if answer.get("errorMessage").is_some() { Err(answer) } else { Ok(answer) }
    }

    /// What the function, and the emulator, have written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The lines of JSON that the function has written.
    pub fn lines(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The ID of the function's process, once it has been invoked.
    pub fn pid(&self) -> u32 {
        *children(self.process.id()).first().expect("a function that has been invoked")
    }

    /// The most memory that the function's process has had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process's status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
        1024 * peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB")
    }

    /// Sends the function's process a signal: `"KILL"`; `"STOP"` and `"CONT"` are what a frozen environment does to it.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{signal} could not be sent");
    }
}

impl Drop for Rie {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of a function:\n{}", self.log());
        }
        for child in children(self.process.id()) {
            let _ = Command::new("kill").arg("-KILL").arg(child.to_string()).status();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The processes that one has started.
fn children(of: u32) -> Vec<u32> {
    // The emulator starts it in any of its threads.
    let threads = fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    children.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// The runtime interface emulator, which comes with the SAM CLI.
fn emulator() -> PathBuf {
    let sam = tool("sam");
    let lib = sam.ancestors().nth(2).expect("the tool's environment").join("lib");
    let pythons = fs::read_dir(lib).expect("the tool's packages").flatten();
    let file = |python: &Path| python.join("site-packages/samcli/local/rapid/aws-lambda-rie-x86_64");
    pythons.map(|python| file(&python.path())).find(|file| file.is_file()).expect("the emulator in the package of the SAM CLI")
}
