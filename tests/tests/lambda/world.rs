//! A deployment: table, queues, secrets and functions, as `template.yaml` connects them.

use std::{collections::HashMap, path::Path, process::Command, sync::Arc, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName, QueueAttributeName};
use base64::Engine as _;
use serde_json::{Value, json};
use transship_model::{Instance, Rule, WebhookAuth};
use transship_state::{Catalog, aws::DynamoDbTable};
use transship_tests::{Aws, HOOK_SECRET, Image, Rie, binary};

/// The token of the API.
pub(crate) const TOKEN: &str = "t0ken-of-the-api";
/// More than any test takes.
const LONG: Duration = Duration::from_secs(120);

pub(crate) struct World {
    aws: Aws,
    sqs: aws_sdk_sqs::Client,
    secrets: aws_sdk_secretsmanager::Client,
    catalog: Catalog,
    urls: HashMap<&'static str, String>,
}

impl World {
    /// An empty deployment.
    pub(crate) async fn start() -> Self {
        let aws = Aws::start().await;
        let sdk: SdkConfig = aws.sdk().await;
        let dynamodb = aws_sdk_dynamodb::Client::new(&sdk);
        let text = |name: &str| {
            let attribute = AttributeDefinition::builder().attribute_name(name);
            attribute.attribute_type(ScalarAttributeType::S).build().unwrap()
        };
        let key = |name: &str, of: KeyType| KeySchemaElement::builder().attribute_name(name).key_type(of).build().unwrap();
        let create = dynamodb.create_table().table_name("stack-table").billing_mode(BillingMode::PayPerRequest);
        let create = create.attribute_definitions(text("partition")).attribute_definitions(text("sort"));
        create.key_schema(key("partition", KeyType::Hash)).key_schema(key("sort", KeyType::Range)).send().await.unwrap();

        let sqs = aws_sdk_sqs::Client::new(&sdk);
        let mut urls = HashMap::new();
        for name in ["jobs.fifo", "jobs-dead.fifo", "events", "inbox", "notifications"] {
            let mut create = sqs.create_queue().queue_name(format!("stack-{name}"));
            if name.ends_with(".fifo") {
                create = create.attributes(QueueAttributeName::FifoQueue, "true");
            }
            // As in the template: hours, which the worker cuts short.
            create = create.attributes(QueueAttributeName::VisibilityTimeout, "5400");
            urls.insert(name, create.send().await.unwrap().queue_url.unwrap());
        }
        aws_sdk_sns::Client::new(&sdk).create_topic().name("stack-topic").send().await.unwrap();
        let secrets = aws_sdk_secretsmanager::Client::new(&sdk);
        let catalog = Catalog::new(Arc::new(DynamoDbTable::new(dynamodb, "stack-table")));
        let world = Self { aws, sqs, secrets, catalog, urls };
        world.secret("transship/api-token", TOKEN).await;
        world.secret("transship/hook", HOOK_SECRET).await;
        world
    }

    /// A secret in Secrets Manager.
    pub(crate) async fn secret(&self, name: &str, value: &str) {
        self.secrets.create_secret().name(name).secret_string(value).send().await.unwrap();
    }

    /// The names of secrets that begin like this.
    pub(crate) async fn secrets_below(&self, prefix: &str) -> Vec<String> {
        let all = self.secrets.list_secrets().max_results(100).send().await.unwrap().secret_list.unwrap_or_default();
        all.into_iter().filter_map(|secret| secret.name).filter(|name| name.starts_with(prefix)).collect()
    }

    /// With the instances `build` and `mirror` at these endpoints, and a rule that copies `team` from one to the other.
    pub(crate) async fn syncing(build: &str, mirror: &str) -> Self {
        let world = Self::start().await;
        let rule = json!({
            "id": 0, "revision": 0, "name": "release", "overwrite": true,
            "source": { "instance": "build", "namespace": "team" }, "target": { "instance": "mirror" },
        });
        world.apply(&[instance("build", build), instance("mirror", mirror)], &[serde_json::from_value(rule).unwrap()]).await;
        world
    }

    pub(crate) async fn apply(&self, instances: &[Instance], rules: &[Rule]) {
        self.catalog.replace(instances, rules).await.unwrap();
    }

    /// What a file of the repository says, by `transship apply`.
    pub(crate) async fn apply_file(&self, path: &str) {
        let mut command = Command::new(tokio::task::spawn_blocking(binary).await.unwrap());
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        command.args(["apply", "--table", "stack-table", "--config"]).arg(file).envs(self.aws.env());
        let done = command.output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    /// The function's variables, as the template sets them; all functions get all of them.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let arn = |service: &str, name: &str| format!("arn:aws:{service}:{}:000000000000:{name}", Aws::REGION);
        let variables = [
            ("TRANSSHIP_TABLE", "stack-table".to_owned()),
            ("TRANSSHIP_JOBS_URL", self.urls["jobs.fifo"].clone()),
            ("TRANSSHIP_EVENTS_URL", self.urls["events"].clone()),
            ("TRANSSHIP_NOTIFICATIONS_URL", self.urls["notifications"].clone()),
            ("TRANSSHIP_TOPIC_ARN", arn("sns", "stack-topic")),
            ("TRANSSHIP_DEAD_LETTERS_ARN", arn("sqs", "stack-jobs-dead.fifo")),
            ("TRANSSHIP_SECRET_PREFIX", "transship/".into()),
            ("TRANSSHIP_API_TOKEN", "secretsmanager:api-token".into()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value));
        self.aws.env().into_iter().chain(variables).collect()
    }

    /// A function of the deployment.
    pub(crate) async fn function(&self, name: &str) -> Rie {
        Rie::start(name, &self.environment(), LONG).await
    }

    /// The same with a time-out of its own.
    pub(crate) async fn function_for(&self, name: &str, timeout: Duration) -> Rie {
        Rie::start(name, &self.environment(), timeout).await
    }

    /// Sends a message as it is.
    pub(crate) async fn send(&self, queue: &str, body: &str) {
        let mut send = self.sqs.send_message().queue_url(&self.urls[queue]).message_body(body);
        if queue.ends_with(".fifo") {
            send = send.message_group_id("a").message_deduplication_id(format!("{:016x}", fastrand::u64(..)));
        }
        send.send().await.unwrap();
    }

    /// The messages that a queue has now, at most `n`, as a function receives them. Without records there are none.
    pub(crate) async fn receive(&self, queue: &str, n: i32) -> Value {
        let receive = self.sqs.receive_message().queue_url(&self.urls[queue]).max_number_of_messages(n);
        let receive = receive.message_system_attribute_names(MessageSystemAttributeName::All).wait_time_seconds(1);
        let messages = receive.send().await.unwrap().messages.unwrap_or_default();
        json!({ "Records": messages.iter().map(|message| record(queue, message)).collect::<Vec<_>>() })
    }

    /// What the event source mapping does: receives, invokes, and deletes what need not come again. How many were done; none if the
    /// queue was empty.
    pub(crate) async fn deliver(&self, queue: &str, n: i32, to: &Rie) -> Option<usize> {
        let event = self.receive(queue, n).await;
        let records = event["Records"].as_array().unwrap();
        if records.is_empty() {
            return None;
        }
        let answer = to.invoke(&event).await.unwrap();
        let again = answer["batchItemFailures"].as_array().unwrap_or_else(|| panic!("no partial response: {answer}"));
        let comes_again = |record: &Value| again.iter().any(|failure| failure["itemIdentifier"] == record["messageId"]);
        let mut done = 0;
        for record in records.iter().filter(|record| !comes_again(record)) {
            self.delete(queue, record).await;
            done += 1;
        }
        Some(done)
    }

    pub(crate) async fn delete(&self, queue: &str, record: &Value) {
        let delete = self.sqs.delete_message().queue_url(&self.urls[queue]);
        delete.receipt_handle(record["receiptHandle"].as_str().unwrap()).send().await.unwrap();
    }

    /// Delivers until the queue is empty. How many deliveries it took.
    pub(crate) async fn drain(&self, queue: &str, n: i32, to: &Rie) -> usize {
        let mut deliveries = 0;
        while let Some(done) = self.deliver(queue, n, to).await {
            assert!(done > 0, "a message of {queue} was not done");
            deliveries += 1;
        }
        deliveries
    }
}

/// An instance whose notifications bear the secret.
pub(crate) fn instance(name: &str, endpoint: &str) -> Instance {
    let instance = json!({ "name": name, "endpoint": endpoint, "kind": "distribution" });
    let instance: Instance = serde_json::from_value(instance).unwrap();
    Instance { webhook: WebhookAuth::Secret("secretsmanager:hook".parse().unwrap()), ..instance }
}

/// A message as a function receives it.
fn record(queue: &str, message: &Message) -> Value {
    let attributes = message.attributes.iter().flatten().map(|(name, value)| (name.as_str().to_owned(), json!(value)));
    json!({
        "messageId": message.message_id, "receiptHandle": message.receipt_handle, "body": message.body,
        "attributes": attributes.collect::<serde_json::Map<_, _>>(), "messageAttributes": {}, "md5OfBody": message.md5_of_body,
        "eventSource": "aws:sqs", "eventSourceARN": format!("arn:aws:sqs:{}:000000000000:stack-{queue}", Aws::REGION),
        "awsRegion": Aws::REGION,
    })
}

/// A request as a function URL hands it over, with its body encoded.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Value {
    let headers: serde_json::Map<_, _> = headers.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    json!({
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "", "headers": headers,
        "requestContext": {
            "accountId": "anonymous", "apiId": "abc", "domainName": "abc.lambda-url.us-east-1.on.aws", "domainPrefix": "abc",
            "requestId": "11111111-2222-3333-4444-555555555555", "routeKey": "$default", "stage": "$default",
            "time": "01/Jan/2026:00:00:00 +0000", "timeEpoch": 1_767_225_600_000_i64,
            "http": { "method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "test" },
        },
        "body": base64::engine::general_purpose::STANDARD.encode(body), "isBase64Encoded": true,
    })
}

/// The notification of a push to `build`.
pub(crate) fn push(repository: &str, tag: &str, image: &transship_tests::Artifact) -> Value {
    let body = json!({ "events": [{
        "id": format!("{:032x}", fastrand::u128(..)), "timestamp": "2026-01-01T00:00:00Z", "action": "push",
        "target": {
            "mediaType": image.root().media_type, "digest": image.digest(), "repository": repository, "tag": tag,
        },
    }] });
    let bearer = format!("Bearer {HOOK_SECRET}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/vnd.docker.distribution.events.v1+json")];
    request("POST", "/hooks/build", &headers, &body.to_string())
}

/// A call of the API with its token.
pub(crate) fn call(method: &str, path: &str) -> Value {
    request(method, path, &[("authorization", &format!("Bearer {TOKEN}"))], "")
}

/// The status and the body of an HTTP answer.
pub(crate) fn answer(response: &Value) -> (u64, Value) {
    let body = response["body"].as_str().unwrap_or_default();
    (response["statusCode"].as_u64().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

/// A small image.
pub(crate) fn image(seed: u64) -> transship_tests::Artifact {
    Image::random(seed).layers(2, 64 << 10).build()
}
