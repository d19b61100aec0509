//! transship as `sam deploy` puts it on AWS: template.yaml on the emulator, each function with its role's rights and no others.
//!
//! What the emulator can't do, or does in its own way:
//! - A function URL's host can't be resolved here, and docker-registry sends no `Host` of one's choosing; the emulator has the same
//!   function at a path of its own address, too.
//! - A FIFO queue's messages go to one worker at a time, whatever `MaximumConcurrency` says: workers side by side are tested on
//!   the embedded store.
//! - Alarms are kept and not judged.
//! - Its ECR gives passwords and holds no images: a docker-registry stands in for that, as the proxy by which the functions reach
//!   ECR's hosts, whose names can't be resolved here.
//! - Its EventBridge has no events of services of its own making: what it would put into the inbox is put there by the test. It is
//!   asked whether the rule's pattern meets them; that it may put them there is seen on AWS only.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use aws_sdk_secretsmanager::Client as Secrets;
use aws_sdk_ssm::{Client as Parameters, types::ParameterType};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::{
    Aws, Builder, DockerRegistry, HOOK_SECRET, binary,
    sam::{architecture, built, said, sam},
    wait_until,
};

/// The stack's name.
const NAME: &str = "tested";

/// A deployed stack in an emulator of its own; both go on drop.
pub struct Stack {
    aws: Aws,
    http: reqwest::Client,
    outputs: BTreeMap<String, String>,
    token: String,
    environment: Vec<(String, String)>,
}

impl Stack {
    /// Builds the functions, deploys them with these parameters (`"WorkerTimeout=15"`), and puts [`HOOK_SECRET`] where
    /// `secretsmanager:hook` finds it.
    pub async fn deploy(parameters: &[&str]) -> Self {
        Self::deploy_in(Aws::with_iam(None).await, parameters).await
    }

    /// The same, with functions that reach all hosts that are not this machine by a proxy.
    pub async fn deploy_behind(proxy: &str, parameters: &[&str]) -> Self {
        Self::deploy_in(Aws::with_iam(Some(proxy)).await, parameters).await
    }

    async fn deploy_in(aws: Aws, parameters: &[&str]) -> Self {
        let parameters: Vec<String> = parameters.iter().map(|&parameter| parameter.to_owned()).collect();
        let environment = aws.env();
        let deploy = move || {
            let template = built().join("template.yaml");
            let mut deploy =
                sam(&["deploy", "--stack-name", NAME, "--resolve-s3", "--no-confirm-changeset", "--no-progressbar"]);
            deploy.args(["--capabilities", "CAPABILITY_IAM", "--template-file"]).arg(template);
            deploy.arg("--parameter-overrides").arg(format!("Architecture={}", architecture())).args(parameters);
            said(&deploy.envs(environment.clone()).output().expect("sam starts"), "sam deploy");
            let mut list = sam(&["list", "stack-outputs", "--stack-name", NAME, "--output", "json"]);
            let outputs = said(&list.envs(environment).output().expect("sam starts"), "sam list stack-outputs");
            let outputs: Vec<Value> = serde_json::from_str(&outputs).expect("the stack's outputs as JSON");
            let text = |output: &Value, key: &str| output[key].as_str().expect("an output").to_owned();
            outputs.iter().map(|output| (text(output, "OutputKey"), text(output, "OutputValue"))).collect()
        };
        let outputs: BTreeMap<String, String> = tokio::task::spawn_blocking(deploy).await.expect("the deployment");

        let secrets = Secrets::new(&aws.sdk().await);
        let token = secrets.get_secret_value().secret_id(&outputs["ApiTokenSecret"]).send().await.expect("the API's token");
        let token = token.secret_string().expect("a token in text").to_owned();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let stack = Self { aws, http, outputs, token, environment: Vec::new() };
        stack.secret("hook", HOOK_SECRET).await;
        stack
    }

    /// Makes a secret that `secretsmanager:NAME` finds.
    pub async fn secret(&self, name: &str, value: &str) {
        let name = format!("transship/{name}");
        let secrets = Secrets::new(&self.aws.sdk().await);
        secrets.create_secret().name(name).secret_string(value).send().await.expect("a secret");
    }

    /// Makes a secret that `ssm:NAME` finds.
    pub async fn parameter(&self, name: &str, value: &str) {
        let name = format!("/transship/{name}");
        let parameters = Parameters::new(&self.aws.sdk().await);
        let put = parameters.put_parameter().name(name).value(value).r#type(ParameterType::SecureString);
        put.send().await.expect("a parameter");
    }

    /// The names of the secrets that there are, in Secrets Manager.
    pub async fn kept_secrets(&self) -> Vec<String> {
        let secrets = Secrets::new(&self.aws.sdk().await);
        let listed = secrets.list_secrets().max_results(100).send().await.expect("a list of secrets");
        listed.secret_list().iter().filter_map(|secret| secret.name().map(str::to_owned)).collect()
    }

    /// Sets a variable for the commands that are run from here on.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.environment.push((variable.to_owned(), value.to_owned()));
    }

    /// Runs a command of the binary against the deployed API, with the stack's own token, and waits for its end.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        let api = self.local(self.output("ApiUrl"));
        command.args(arguments).stdin(Stdio::null()).env("TRANSSHIP_API", api).env("TRANSSHIP_TOKEN", &self.token);
        // Not the configuration of whoever runs the tests.
        command.env("XDG_CONFIG_HOME", self.aws.dir()).env("NO_PROXY", "*").envs(self.environment.iter().cloned());
        tokio::task::spawn_blocking(move || command.output().expect("the command runs")).await.expect("the command ends")
    }

    /// Loads these instances and rules past the API, with the rights of whoever owns the table.
    pub async fn apply(&self, config: &str) {
        let file = self.aws.dir().join("sync.yaml");
        fs::write(&file, config).expect("the configuration");
        let mut command = Command::new(binary());
        command.args(["apply", "--table", self.output("TableName"), "--config"]).arg(file).envs(self.aws.env());
        let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output().expect("the command runs"));
        said(&output.await.expect("the command ends"), "transship apply");
    }

    /// A registry whose notifications go to the webhook of `instance`, with the secret that `secretsmanager:hook` names.
    pub fn registry(&self, instance: &str) -> Builder {
        DockerRegistry::builder().notify(self.hook(instance), &[("Authorization", &format!("Bearer {HOOK_SECRET}"))])
    }

    /// Sends a notification with any secret.
    pub async fn notify(&self, instance: &str, secret: &str, body: &Value) -> StatusCode {
        let request = self.http.post(self.hook(instance)).bearer_auth(secret).body(body.to_string());
        request.send().await.expect("the webhook answers").status()
    }

    /// Where an instance's notifications go.
    fn hook(&self, instance: &str) -> String {
        self.local(&self.output("WebhookUrl").replace("INSTANCE", instance))
    }

    /// Calls the API with the stack's own token; the answer's status and body.
    pub async fn call(&self, method: Method, path: &str) -> (StatusCode, Value) {
        self.call_as(&self.token, method, path).await
    }

    /// Calls the API with any token.
    pub async fn call_as(&self, token: &str, method: Method, path: &str) -> (StatusCode, Value) {
        self.call_with(token, method, path, None).await
    }

    /// Calls the API with any token and a body.
    pub async fn call_with(&self, token: &str, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let url = format!("{}{path}", self.local(self.output("ApiUrl")).trim_end_matches('/'));
        let mut request = self.http.request(method, url).bearer_auth(token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await.expect("the API answers");
        let status = response.status();
        let text = response.text().await.expect("a whole answer");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// The stack's own token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The tasks of `INSTANCE/RULE`, the newest first.
    pub async fn tasks(&self, rule: &str) -> Vec<Value> {
        let (instance, rule) = rule.split_once('/').expect("INSTANCE/RULE");
        let (status, tasks) = self.call(Method::GET, &format!("/v1/instances/{instance}/rules/{rule}/tasks")).await;
        assert_eq!(status, 200, "{tasks}");
        tasks["items"].as_array().expect("items").clone()
    }

    /// Waits until `INSTANCE/RULE` has a task that has ended.
    pub async fn ended(&self, rule: &str, patience: Duration) -> Value {
        let mut ended = None;
        wait_until(&format!("a task of {rule} has ended"), patience, async || {
            ended = self.tasks(rule).await.into_iter().find(|task| task.get("ended").is_some());
            ended.is_some()
        })
        .await;
        ended.expect("a task")
    }

    /// Waits until `INSTANCE/RULE` has a task that has ended and whose trigger begins so.
    pub async fn ended_by(&self, rule: &str, trigger: &str, patience: Duration) -> Value {
        self.found(&format!("the task of {rule} by {trigger} has ended"), rule, trigger, patience, |task| {
            task.get("ended").is_some()
        })
        .await
    }

    /// Waits until `INSTANCE/RULE` has a task whose trigger begins so.
    pub async fn running(&self, rule: &str, trigger: &str, patience: Duration) -> Value {
        self.found(&format!("{rule} has a task by {trigger}"), rule, trigger, patience, |_| true).await
    }

    async fn found(&self, what: &str, rule: &str, trigger: &str, patience: Duration, is: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        wait_until(what, patience, async || {
            let is_it = |task: &Value| task["trigger"].as_str().is_some_and(|by| by.starts_with(trigger)) && is(task);
            found = self.tasks(rule).await.into_iter().find(is_it);
            found.is_some()
        })
        .await;
        found.expect("a task")
    }

    /// The processes of a function (`"Worker"`).
    pub fn processes(&self, function: &str) -> Vec<u32> {
        let (function, endpoint) = (format!("-{function}Function-"), self.aws.endpoint());
        let is_it = |process: &Path| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            let mut variables = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            let name =
                variables.clone().find_map(|variable| variable.strip_prefix("AWS_LAMBDA_FUNCTION_NAME=").map(str::to_owned));
            name.is_some_and(|name| name.contains(&function)) && variables.any(|variable| variable.ends_with(&endpoint))
        };
        let processes = fs::read_dir("/proc").expect("the list of processes").flatten().filter(|entry| is_it(&entry.path()));
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// An output of the stack.
    pub fn output(&self, name: &str) -> &str {
        &self.outputs[name]
    }

    /// The emulator.
    pub fn aws(&self) -> &Aws {
        &self.aws
    }

    /// A function URL, as it can be reached from here.
    fn local(&self, url: &str) -> String {
        let (host, path) = url.trim_start_matches("https://").split_once('/').expect("a URL with a path");
        let id = host.split('.').next().expect("a host");
        format!("{}/_aws/lambda-url/{id}/{path}", self.aws.endpoint())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the emulator:\n{}", self.aws.log());
        }
    }
}
