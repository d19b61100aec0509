//! A client of the management API.

mod refusal;

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use jiff::Timestamp;
use reqwest::{
    Method, RequestBuilder, Response,
    header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use transship_api::{
    TokenInput,
    explain::{ExplainInput, ExplainView},
    preview::{PendingView, PreviewView},
    view::{
        AuditView, DeliveryView, InstanceInput, InstanceView, ListView, MintedTokenView, ResourceView, RuleInput, RuleView,
        SecretInput, SentView, StartedView, SubscriptionInput, SubscriptionView, TaskView, TokenView,
    },
};
use transship_model::{
    DeliveryId, Foreseen, InstanceName, PreviewId, Problem, Rule, RulePath, SecretRef, Subscription, SubscriptionName, TaskId,
    TokenId,
};
use transship_state::{LocalSecrets, Secrets as _};
use url::Url;

pub(crate) use self::refusal::{Refusal, Unanswered};
use crate::config;

/// The path of a rule in the API.
fn segments(rule: &RulePath) -> [&str; 5] {
    ["v1", "instances", rule.instance.as_str(), "rules", rule.rule.as_str()]
}

/// Where the API is and how to be let in.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Connection {
    /// The address of the API, which lets in who has the token that TRANSSHIP_TOKEN is set to. Without it, what
    /// ~/.config/transship/config.yaml says, or else http://127.0.0.1:8080
    #[arg(long, env = "TRANSSHIP_API", value_name = "URL")]
    api: Option<Url>,
}

/// Where the API is if nobody says so.
const DEFAULT: &str = "http://127.0.0.1:8080";

/// Which entries of the audit are asked for.
#[derive(Debug, Serialize)]
pub(crate) struct AuditFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) who: Option<String>,
}

/// The API, as the command line calls it.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<SecretString>,
}

impl Client {
    pub(crate) fn new(connection: Connection) -> anyhow::Result<Self> {
        let file = config::client::load()?;
        let base = match connection.api.or(file.api) {
            Some(base) => base,
            None => DEFAULT.parse()?,
        };
        if base.cannot_be_a_base() {
            bail!("the address of the API has to be an http or https URL, not {base}");
        }
        let http = reqwest::Client::builder().timeout(std::time::Duration::from_secs(30)).build()?;
        let token = match (token(), file.token_file) {
            (None, Some(path)) => Some(token_in(&path)?),
            (token, _) => token,
        };
        Ok(Self { http, base, token })
    }

    /// The API at an address of this process.
    pub(crate) fn at(base: &str) -> anyhow::Result<Self> {
        Ok(Self { http: reqwest::Client::builder().no_proxy().build()?, base: base.parse()?, token: None })
    }

    /// The tasks of a rule that is at hand.
    pub(crate) async fn tasks_of(&self, rule: &Rule, limit: usize) -> anyhow::Result<Vec<TaskView>> {
        self.tasks(&RulePath { instance: rule.source.instance.clone(), rule: rule.name.clone() }, limit).await
    }

    /// A rule's tasks, the newest first, at most `limit`.
    pub(crate) async fn tasks(&self, rule: &RulePath, limit: usize) -> anyhow::Result<Vec<TaskView>> {
        self.list(&["v1", "instances", rule.instance.as_str(), "rules", rule.rule.as_str(), "tasks"], limit).await
    }

    /// A task.
    pub(crate) async fn task(&self, id: &TaskId) -> anyhow::Result<TaskView> {
        read(self.request(Method::GET, &["v1", "tasks", id.as_str()])?).await
    }

    /// Those of a task's resources that a query of the API selects, at most `limit`.
    pub(crate) async fn resources(
        &self,
        id: &TaskId,
        query: &[(&str, String)],
        limit: usize,
    ) -> anyhow::Result<Vec<ResourceView>> {
        self.list_with(&["v1", "tasks", id.as_str(), "resources"], &query, limit).await
    }

    /// Starts a full run of a rule.
    pub(crate) async fn sync(&self, rule: &RulePath) -> anyhow::Result<TaskId> {
        let path = ["v1", "instances", rule.instance.as_str(), "rules", rule.rule.as_str(), "sync"];
        let started: StartedView = read_once(self.request(Method::POST, &path)?).await?;
        Ok(started.task)
    }

    /// Tasks that a query of the API selects, the newest first, at most `limit`.
    pub(crate) async fn select_tasks(&self, query: &[(&str, String)], limit: usize) -> anyhow::Result<Vec<TaskView>> {
        self.list_with(&["v1", "tasks"], &query, limit).await
    }

    /// Ends a task before its time.
    pub(crate) async fn cancel(&self, id: &TaskId) -> anyhow::Result<()> {
        let StartedView { .. } = read(self.request(Method::POST, &["v1", "tasks", id.as_str(), "cancel"])?).await?;
        Ok(())
    }

    /// Makes again what failed in a task: the new task.
    pub(crate) async fn retry(&self, id: &TaskId) -> anyhow::Result<TaskId> {
        let started: StartedView = read_once(self.request(Method::POST, &["v1", "tasks", id.as_str(), "retry"])?).await?;
        Ok(started.task)
    }

    /// Makes a token.
    pub(crate) async fn create_token(&self, token: &TokenInput) -> anyhow::Result<MintedTokenView> {
        read(self.request(Method::POST, &["v1", "tokens"])?.json(token)).await
    }

    /// The tokens that the caller may know of, the newest first, at most `limit`.
    pub(crate) async fn tokens(&self, limit: usize) -> anyhow::Result<Vec<TokenView>> {
        self.list(&["v1", "tokens"], limit).await
    }

    /// A token, without what lets in by it.
    pub(crate) async fn token(&self, id: &TokenId) -> anyhow::Result<TokenView> {
        read(self.request(Method::GET, &["v1", "tokens", id.as_str()])?).await
    }

    /// Revokes a token.
    pub(crate) async fn revoke_token(&self, id: &TokenId) -> anyhow::Result<()> {
        answer(self.request(Method::DELETE, &["v1", "tokens", id.as_str()])?).await.map(drop)
    }

    /// Who changed what, the newest first, at most `limit`.
    pub(crate) async fn audit(&self, filter: &AuditFilter, limit: usize) -> anyhow::Result<Vec<AuditView>> {
        self.list_with(&["v1", "audit"], filter, limit).await
    }

    /// All subscriptions that the caller may see, by name.
    pub(crate) async fn subscriptions(&self) -> anyhow::Result<Vec<SubscriptionView>> {
        self.list(&["v1", "subscriptions"], usize::MAX).await
    }

    /// A subscription.
    pub(crate) async fn subscription(&self, name: &SubscriptionName) -> anyhow::Result<SubscriptionView> {
        read(self.request(Method::GET, &["v1", "subscriptions", name.as_str()])?).await
    }

    /// Makes a subscription, or replaces the one of its name.
    pub(crate) async fn put_subscription(&self, subscription: &Subscription, known: Known) -> anyhow::Result<SubscriptionView> {
        let request = self.request(Method::PUT, &["v1", "subscriptions", subscription.name.as_str()])?;
        let mut input = SubscriptionInput::written(subscription);
        if let Some(secret @ (SecretRef::Env(_) | SecretRef::File(_))) = &subscription.webhook.secret {
            // It is of this machine: the deployment keeps what it is.
            let value = LocalSecrets.read(secret).await?.expose_secret().to_owned();
            input.webhook.secret = Some(SecretInput { value: Some(value), ..SecretInput::default() });
        }
        known.met(read(known.asked_of(request.json(&input))).await, || format!("subscription {}", subscription.name))
    }

    /// Enables a subscription.
    pub(crate) async fn enable_subscription(&self, name: &SubscriptionName) -> anyhow::Result<SubscriptionView> {
        read(self.request(Method::POST, &["v1", "subscriptions", name.as_str(), "enable"])?).await
    }

    /// Disables a subscription.
    pub(crate) async fn disable_subscription(&self, name: &SubscriptionName) -> anyhow::Result<SubscriptionView> {
        self.patch_subscription(name, &serde_json::json!({ "enabled": false })).await
    }

    /// Changes a subscription by a merge patch.
    pub(crate) async fn patch_subscription(&self, name: &SubscriptionName, patch: &Value) -> anyhow::Result<SubscriptionView> {
        read(merge(self.request(Method::PATCH, &["v1", "subscriptions", name.as_str()])?, patch)).await
    }

    /// Deletes a subscription.
    pub(crate) async fn delete_subscription(&self, name: &SubscriptionName, known: Known) -> anyhow::Result<()> {
        let request = self.request(Method::DELETE, &["v1", "subscriptions", name.as_str()])?;
        known.met(answer(known.asked_of(request)).await.map(drop), || format!("subscription {name}"))
    }

    /// Sends a test to a subscription's receiver.
    pub(crate) async fn test_subscription(&self, name: &SubscriptionName) -> anyhow::Result<SentView> {
        read(self.request(Method::POST, &["v1", "subscriptions", name.as_str(), "test"])?).await
    }

    /// What a subscription was told, the newest events first, at most `limit`.
    pub(crate) async fn deliveries(&self, name: &SubscriptionName, limit: usize) -> anyhow::Result<Vec<DeliveryView>> {
        self.list(&["v1", "subscriptions", name.as_str(), "deliveries"], limit).await
    }

    /// One delivery.
    pub(crate) async fn delivery(&self, name: &SubscriptionName, id: &DeliveryId) -> anyhow::Result<DeliveryView> {
        read(self.request(Method::GET, &["v1", "subscriptions", name.as_str(), "deliveries", id.as_str()])?).await
    }

    /// Sends an event again.
    pub(crate) async fn redeliver(&self, name: &SubscriptionName, id: &DeliveryId) -> anyhow::Result<SentView> {
        let path = ["v1", "subscriptions", name.as_str(), "deliveries", id.as_str(), "redeliver"];
        read_once(self.request(Method::POST, &path)?).await
    }

    /// What a rule that is stored, or is given here, would do now: about `limit` resources, whether these are all, and what kept the rest
    /// from being found out.
    pub(crate) async fn preview(
        &self,
        rule: Result<&RulePath, &RuleInput>,
        limit: usize,
    ) -> anyhow::Result<(Vec<Foreseen>, bool, Option<String>)> {
        let mut items = Vec::new();
        let mut cursor: Option<PreviewId> = None;
        loop {
            let request = match rule {
                Ok(RulePath { instance, rule }) => {
                    self.request(Method::POST, &["v1", "instances", instance.as_str(), "rules", rule.as_str(), "preview"])?
                }
                Err(rule) => self.request(Method::POST, &["v1", "preview"])?.json(rule),
            };
            let page = (limit - items.len()).clamp(1, 200).to_string();
            let request = request.query(&[("limit", page)]).query(&[("cursor", cursor)]);
            let mut answer: Previewed = read(request).await?;
            for _ in 0..PREVIEW_PATIENCE {
                let Previewed::Pending(PendingView { preview }) = &answer else { break };
                answer = read(self.request(Method::GET, &["v1", "previews", preview.as_str()])?).await?;
            }
            let Previewed::Page(PreviewView { items: page, next, error }) = answer else {
                return Err(Unanswered("the workers are too busy to find it out: try again later".into()).into());
            };
            items.extend(page);
            if next.is_none() || error.is_some() || items.len() >= limit {
                return Ok((items, next.is_none(), error));
            }
            cursor = next;
        }
    }

    /// Why something was, or was not, synchronised.
    pub(crate) async fn explain(&self, what: &ExplainInput) -> anyhow::Result<ExplainView> {
        read(self.request(Method::POST, &["v1", "explain"])?.json(what)).await
    }

    // Instances and rules.

    /// All instances.
    pub(crate) async fn instances(&self) -> anyhow::Result<Vec<InstanceView>> {
        self.list(&["v1", "instances"], usize::MAX).await
    }

    /// An instance.
    pub(crate) async fn instance(&self, name: &InstanceName) -> anyhow::Result<InstanceView> {
        read(self.request(Method::GET, &["v1", "instances", name.as_str()])?).await
    }

    /// Makes an instance, or replaces it.
    pub(crate) async fn put_instance(
        &self,
        name: &InstanceName,
        instance: &InstanceInput,
        known: Known,
    ) -> anyhow::Result<InstanceView> {
        let request = self.request(Method::PUT, &["v1", "instances", name.as_str()])?.json(instance);
        known.met(read(known.asked_of(request)).await, || format!("instance {name}"))
    }

    /// Changes an instance by a merge patch.
    pub(crate) async fn patch_instance(&self, name: &InstanceName, patch: &Value) -> anyhow::Result<InstanceView> {
        read(merge(self.request(Method::PATCH, &["v1", "instances", name.as_str()])?, patch)).await
    }

    /// Deletes an instance.
    pub(crate) async fn delete_instance(&self, name: &InstanceName, known: Known) -> anyhow::Result<()> {
        let request = self.request(Method::DELETE, &["v1", "instances", name.as_str()])?;
        known.met(answer(known.asked_of(request)).await.map(drop), || format!("instance {name}"))
    }

    /// Writes or replaces a secret of an instance.
    pub(crate) async fn put_secret(&self, name: &InstanceName, purpose: &str, secret: &Value) -> anyhow::Result<InstanceView> {
        read(self.request(Method::PUT, &["v1", "instances", name.as_str(), "secrets", purpose])?.json(secret)).await
    }

    /// Takes a secret away from an instance.
    pub(crate) async fn delete_secret(&self, name: &InstanceName, purpose: &str) -> anyhow::Result<()> {
        answer(self.request(Method::DELETE, &["v1", "instances", name.as_str(), "secrets", purpose])?).await.map(drop)
    }

    /// The API's own document.
    pub(crate) async fn document(&self) -> anyhow::Result<Value> {
        read(self.request(Method::GET, &["v1", "openapi.json"])?).await
    }

    /// All rules of an instance.
    pub(crate) async fn rules(&self, instance: &InstanceName) -> anyhow::Result<Vec<RuleView>> {
        self.list(&["v1", "instances", instance.as_str(), "rules"], usize::MAX).await
    }

    /// A rule.
    pub(crate) async fn rule(&self, rule: &RulePath) -> anyhow::Result<RuleView> {
        read(self.request(Method::GET, &segments(rule))?).await
    }

    /// Makes a rule, or replaces it. With `start` a new one begins with a full run.
    pub(crate) async fn put_rule(
        &self,
        rule: &RulePath,
        document: &impl Serialize,
        known: Known,
        start: bool,
    ) -> anyhow::Result<RuleView> {
        let request = self.request(Method::PUT, &segments(rule))?.query(&[("start", start)]).json(document);
        known.met(read(known.asked_of(request)).await, || format!("rule {rule}"))
    }

    /// Changes a rule by a merge patch.
    pub(crate) async fn patch_rule(&self, rule: &RulePath, patch: &Value, start: bool) -> anyhow::Result<RuleView> {
        read(merge(self.request(Method::PATCH, &segments(rule))?.query(&[("start", start)]), patch)).await
    }

    /// Deletes a rule.
    pub(crate) async fn delete_rule(&self, rule: &RulePath, known: Known) -> anyhow::Result<()> {
        let request = self.request(Method::DELETE, &segments(rule))?;
        known.met(answer(known.asked_of(request)).await.map(drop), || format!("rule {rule}"))
    }

    async fn list<T: DeserializeOwned>(&self, path: &[&str], limit: usize) -> anyhow::Result<Vec<T>> {
        self.list_with(path, &(), limit).await
    }

    async fn list_with<T: DeserializeOwned>(
        &self,
        path: &[&str],
        filter: &impl Serialize,
        limit: usize,
    ) -> anyhow::Result<Vec<T>> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = (limit - items.len()).min(1000).to_string();
            let request = self.request(Method::GET, path)?.query(filter).query(&[("limit", page)]).query(&[("cursor", cursor)]);
            let ListView { items: page, next } = read(request).await?;
            items.extend(page);
            cursor = next;
            if cursor.is_none() || items.len() >= limit {
                return Ok(items);
            }
        }
    }

    fn request(&self, method: Method, path: &[&str]) -> anyhow::Result<RequestBuilder> {
        let mut url = self.base.clone();
        url.path_segments_mut().map_err(|()| anyhow!("{} is no base of paths", self.base))?.pop_if_empty().extend(path);
        let request = self.http.request(method, url);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        })
    }
}

/// So often a preview that is not there yet is waited for, as long as the API waits each time.
const PREVIEW_PATIENCE: usize = 3;

/// What is answered to who asks for a preview.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Previewed {
    Page(PreviewView),
    Pending(PendingView),
}

/// The API's token, from the environment: an argument would be seen by everybody on the machine.
pub(crate) fn token() -> Option<SecretString> {
    std::env::var("TRANSSHIP_TOKEN").ok().filter(|token| !token.is_empty()).map(SecretString::from)
}

fn token_in(path: &Path) -> anyhow::Result<SecretString> {
    let text = std::fs::read_to_string(path).with_context(|| format!("the API's token in {} can't be read", path.display()))?;
    Ok(SecretString::from(text.trim_end()))
}

/// What is there of what is to be written, as far as the caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing: it is to be new.
    Nothing,
    /// This revision, which is the only one that is meant.
    Revision(u64),
    /// Whatever is there.
    Anything,
}

impl Known {
    /// One that may be there already.
    pub(crate) fn of(revision: Option<u64>) -> Self {
        revision.map_or(Self::Nothing, Self::Revision)
    }

    fn asked_of(self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Nothing => request.header(IF_NONE_MATCH, "*"),
            Self::Revision(revision) => request.header(IF_MATCH, format!("\"{revision}\"")),
            Self::Anything => request,
        }
    }

    /// The API's answer; if that is that something else is there, in words that say what to do.
    fn met<T>(self, answer: anyhow::Result<T>, what: impl FnOnce() -> String) -> anyhow::Result<T> {
        answer.map_err(|error| match error.downcast::<Refusal>() {
            Ok(Refusal(problem)) if problem.status == 412 => {
                let detail = match self {
                    Self::Nothing => format!("there is {} already: --replace replaces it", what()),
                    _ => format!("somebody else has changed {} meanwhile: look at it, and try again", what()),
                };
                Refusal(Problem::new(412, detail)).into()
            }
            Ok(refusal) => refusal.into(),
            Err(error) => error,
        })
    }
}

/// A merge patch (RFC 7396).
fn merge(request: RequestBuilder, patch: &Value) -> RequestBuilder {
    request.header(CONTENT_TYPE, "application/merge-patch+json").body(patch.to_string())
}

async fn read<T: DeserializeOwned>(request: RequestBuilder) -> anyhow::Result<T> {
    let (base, body) = answer(request).await?;
    serde_json::from_slice(&body).with_context(|| format!("{base} does not answer as the API does"))
}

/// The same for a request that starts something: with a key by which the API knows it again, so that it may be sent a second time where
/// no answer comes, and starts nothing twice.
async fn read_once<T: DeserializeOwned>(request: RequestBuilder) -> anyhow::Result<T> {
    let request = request.header("Idempotency-Key", format!("{:032x}", fastrand::u128(..)));
    let again = request.try_clone();
    match (read(request).await, again) {
        (Err(error), Some(again)) if error.is::<Unanswered>() => read(again).await,
        (answer, _) => answer,
    }
}

/// The API's address and the body of its answer, if that is a good one.
async fn answer(request: RequestBuilder) -> anyhow::Result<(String, Bytes)> {
    let (client, request) = request.build_split();
    let request = request?;
    let base = request.url().origin().ascii_serialization();
    let unreachable = |error: reqwest::Error| {
        // The outer messages say little more than that a request was sent.
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        let cause = causes.last().map_or_else(String::new, ToString::to_string);
        Unanswered(format!("no answer from {base} ({cause}): is `transship serve` running there? --api names another address"))
    };
    let response: Response = client.execute(request).await.map_err(unreachable)?;
    let status = response.status();
    let body = response.bytes().await.map_err(unreachable)?;
    if status.is_success() {
        return Ok((base, body));
    }
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Err(Refusal(problem).into()),
        Err(_) => Err(Unanswered(format!("{base} answered {status}, and not as the API does")).into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Would break: two full runs, or none, where a connection broke before the answer came.
    #[tokio::test]
    async fn what_starts_something_is_sent_again_with_the_same_key_where_no_answer_comes() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::at(&format!("http://{}", server.local_addr().unwrap())).unwrap();
        let rule = "build/all".parse().unwrap();
        let answering = async {
            let mut keys = Vec::new();
            for has_answer in [false, true] {
                let (mut connection, _) = server.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(connection.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                assert!(head.starts_with("POST /v1/instances/build/rules/all/sync "), "{head}");
                keys.push(head.lines().find_map(|line| line.strip_prefix("idempotency-key: ").map(str::to_owned)).unwrap());
                if has_answer {
                    let body = r#"{"task":"1-01a1fe5f9e14b6273d00184eeaac"}"#;
                    let answer = format!("HTTP/1.1 202 Accepted\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    connection.write_all(answer.as_bytes()).await.unwrap();
                }
            }
            keys
        };
        let (task, keys) = tokio::join!(client.sync(&rule), answering);
        assert_eq!(task.unwrap().as_str(), "1-01a1fe5f9e14b6273d00184eeaac");
        assert_eq!(keys[0], keys[1]);
        assert_eq!(keys[0].len(), 32);
    }
}
