//! All that the deployed functions do in the course of pushes, each with its role's rights and no others.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use transship_tests::*;

use crate::queues::put_into;

/// Far longer than it takes, on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(240);
/// The emulator's account.
const ACCOUNT: &str = "000000000000";
/// Secrets of two webhooks, in both forms that Standard Webhooks has.
const NOTIFY: [(&str, &str); 2] = [("build", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"), ("prod", "in plain words")];

/// Two registries with a password and a webhook each, one secret of each in the Secrets Manager and the other in the Parameter Store,
/// so that each function needs both its rights to read them; and the account's own ECR.
fn sync(build: &str, prod: &str, sink: &str) -> String {
    let notify =
        |path: &str, secret: &str| format!("notify: {{ url: '{sink}/{path}', secret: '{secret}', private_network: true }}");
    let instances = [
        format!(
            "  - {{ name: build, endpoint: '{build}', kind: distribution, webhook_secret: 'secretsmanager:hook', {}, \
             credentials: {{ username: {}, password: 'secretsmanager:password' }} }}\n",
            notify("build", "ssm:notify"),
            ALICE.user
        ),
        format!(
            "  - {{ name: prod, endpoint: '{prod}', kind: distribution, webhook_secret: 'ssm:hook', {}, \
             credentials: {{ username: {}, password: 'ssm:password' }} }}\n",
            notify("prod", "secretsmanager:notify"),
            BOB.user
        ),
        format!(
            "  - {{ name: shop, endpoint: 'http://{ACCOUNT}.dkr.ecr.{}.amazonaws.com', kind: ecr, credentials: ecr, \
             plain_http: true }}\n",
            Aws::REGION
        ),
    ];
    let rules = [
        rule("release", "instance: build, namespace: team", "instance: prod, namespace: mirror", ""),
        rule("carts", "instance: shop, namespace: shop", "instance: prod, namespace: shop", ""),
    ];
    config(&instances, &rules)
}

/// Would break: a setting or a right that a function lacks; a mapping, a URL or a secret that leads nowhere; a message that one
/// function sends and the next can't read; a push to ECR that nobody hears of; an end that topic or webhooks are not told, or told in
/// other words than the log has; an API that answers without the token.
#[tokio::test(flavor = "multi_thread")]
async fn the_deployed_functions_can_do_all_that_they_have_to() {
    let ecr = DockerRegistry::builder().login(ECR).start().await;
    let stack = Stack::deploy_behind(ecr.url(), &[]).await;
    let sink = Sink::start().await;
    stack.secret("password", ALICE.password).await;
    stack.parameter("password", BOB.password).await;
    stack.parameter("hook", "another hook's").await;
    stack.parameter("notify", NOTIFY[0].1).await;
    stack.secret("notify", NOTIFY[1].1).await;
    let build = stack.registry("build").login(ALICE).start().await;
    let prod = DockerRegistry::builder().login(BOB).start().await;
    stack.apply(&sync(build.url(), prod.url(), sink.url())).await;
    let topic = Subscriber::new(&stack).await;

    // A push that the registry itself notifies, and one to ECR.
    let (image, cart) = (Index::random(1).build(), Image::random(2).build());
    image.push_with_skopeo(&build.at("team/app", "v1")).await;
    cart.push(&ecr.at("shop/cart", "v3")).await;
    // As EventBridge does it on AWS: the emulator's has no events of services.
    put_into(&stack, "-InboxQueue-", &ecr_event(&cart)).await;

    let released = stack.ended("build/release", PATIENCE).await;
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
    let carted = stack.ended("shop/carts", PATIENCE).await;
    assert_same(&ecr.at("shop/cart", "v3"), &prod.at("shop/cart", "v3")).await;
    for (task, pushed, target) in [(&released, "team/app:v1", "mirror/app"), (&carted, "shop/cart:v3", "shop/cart")] {
        assert_eq!((&task["status"], &task["counts"]["copied"]), (&json!("succeeded"), &json!(1)), "{task}");
        assert_eq!(task["trigger"], format!("push {pushed}"), "{task}");
        let (status, resources) = stack.call(Method::GET, &format!("/v1/tasks/{}/resources", text(&task["id"]))).await;
        assert_eq!(status, 200, "{resources}");
        assert_eq!(resources["items"][0]["target"]["repository"], target, "{resources}");
    }

    // Both ends of a task hear of it, each with its own secret; so does whoever has subscribed to the topic.
    for (path, secret, task) in
        [("/build", NOTIFY[0].1, &released), ("/prod", NOTIFY[1].1, &released), ("/prod", NOTIFY[1].1, &carted)]
    {
        let id = format!("{}-ended", text(&task["id"]));
        let is_it = |delivery: &Delivery| delivery.path == path && delivery.header("webhook-id") == id;
        let delivery = sink.wait_for(&format!("{path} is told of {}", task["rule"]), PATIENCE, is_it).await;
        assert_eq!(delivery.header("webhook-signature"), signature(secret, &delivery), "{path}");
        let told = &delivery.json()["data"];
        assert_eq!(told["status"], task["status"]);
        for (name, count) in task["counts"].as_object().unwrap() {
            assert_eq!(told["counts"][name], *count, "{name}");
        }
        let announced = topic.told_of(&id).await;
        assert_eq!(announced["Message"], String::from_utf8_lossy(&delivery.body).as_ref(), "{announced}");
        assert_eq!(announced["MessageAttributes"]["rule"]["Value"], task["rule"], "{announced}");
    }

    // A notification that is proven by a parameter, and one that is not.
    for (secret, expected) in [("another hook's", 200), (HOOK_SECRET, 401)] {
        assert_eq!(stack.notify("prod", secret, &json!({ "events": [] })).await, expected, "{secret}");
    }
    // What the API starts.
    let (status, started) = stack.call(Method::POST, "/v1/instances/build/rules/release/sync").await;
    assert_eq!(status, 202, "{started}");
    let mut run = Value::Null;
    wait_until("the full run has ended", PATIENCE, async || {
        run = stack.tasks("build/release").await.remove(0);
        run["id"] == started["task"] && run.get("ended").is_some()
    })
    .await;
    assert_eq!((&run["status"], &run["counts"]["unchanged"]), (&json!("succeeded"), &json!(1)), "{run}");
    for token in ["", "wrong"] {
        let (status, body) = stack.call_as(token, Method::GET, "/v1/instances").await;
        assert_eq!(status, 401, "{body}");
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// What EventBridge tells of a push: ECR user guide, "Sample events from Amazon ECR".
fn ecr_event(image: &Artifact) -> Value {
    json!({
        "version": "0", "id": "13cde686-328b-6117-af20-0e5566167482", "detail-type": "ECR Image Action", "source": "aws.ecr",
        "account": ACCOUNT, "time": Timestamp::now(), "region": Aws::REGION, "resources": [],
        "detail": {
            "result": "SUCCESS", "repository-name": "shop/cart", "image-digest": image.digest(), "action-type": "PUSH",
            "image-tag": "v3"
        }
    })
}

/// Standard Webhooks 1.0, "Signature scheme".
fn signature(secret: &str, delivery: &Delivery) -> String {
    let key = secret.strip_prefix("whsec_").map_or_else(|| secret.as_bytes().to_vec(), |key| STANDARD.decode(key).unwrap());
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{}.{}.", delivery.header("webhook-id"), delivery.header("webhook-timestamp")).as_bytes());
    mac.update(&delivery.body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// A queue that is subscribed to the deployed topic.
struct Subscriber {
    sqs: aws_sdk_sqs::Client,
    queue: String,
}

impl Subscriber {
    async fn new(stack: &Stack) -> Self {
        let sdk = stack.aws().sdk().await;
        let (sns, sqs) = (aws_sdk_sns::Client::new(&sdk), aws_sdk_sqs::Client::new(&sdk));
        let (topic, arn) = (stack.output("TopicArn"), format!("arn:aws:sqs:{}:{ACCOUNT}:subscriber", Aws::REGION));
        let policy = json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": { "Service": "sns.amazonaws.com" }, "Action": "sqs:SendMessage", "Resource": arn,
            "Condition": { "ArnEquals": { "aws:SourceArn": topic } }
        }] });
        let create = sqs.create_queue().queue_name("subscriber").attributes(QueueAttributeName::Policy, policy.to_string());
        // What has been seen is seen again at once by whoever asks next.
        let queue = create.attributes(QueueAttributeName::VisibilityTimeout, "0").send().await.unwrap().queue_url.unwrap();
        sns.subscribe().topic_arn(topic).protocol("sqs").endpoint(arn).send().await.unwrap();
        Self { sqs, queue }
    }

    /// Waits for the event with this ID, and returns its envelope.
    async fn told_of(&self, id: &str) -> Value {
        let mut found = None;
        wait_until(&format!("the topic tells {id}"), PATIENCE, async || {
            let receive = self.sqs.receive_message().queue_url(&self.queue).max_number_of_messages(10).wait_time_seconds(1);
            let messages = receive.send().await.unwrap().messages.unwrap_or_default();
            let envelopes = messages.iter().map(|message| serde_json::from_str::<Value>(message.body().unwrap()).unwrap());
            found = envelopes.into_iter().find(|envelope| text(&envelope["Message"]).contains(id));
            found.is_some()
        })
        .await;
        found.unwrap()
    }
}
