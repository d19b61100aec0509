//! What an operator does, at the deployed functions: each with its role's rights and no others.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test needs and does not get is its failure")]

use std::{process::Output, time::Duration};

use aws_config::{Region, SdkConfig, sts::AssumeRoleProvider};
use aws_credential_types::provider::ProvideCredentials as _;
use reqwest::Method;
use serde_json::{Value, json};
use transship_tests::*;

use crate::{events::pushes_and_deletions_are_taken_from_ecr, queues::put_into};

/// Far longer than it takes, on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(240);

/// Two registries and a subscriber, whose secrets are all given by value, and a rule that runs every minute.
fn sync(build: &str, prod: &str, sink: &str) -> String {
    let instance = |name: &str, url: &str, login: &Login| {
        format!(
            "  - {{ name: {name}, endpoint: '{url}', kind: distribution, webhook_secret: env:HOOK_SECRET, \
             credentials: {{ username: {}, password: env:{}_PASSWORD }} }}\n",
            login.user,
            login.user.to_uppercase()
        )
    };
    let rules = [
        rule("release", "instance: build, namespace: team", "instance: prod, namespace: mirror", ""),
        rule("nightly", "instance: build, namespace: team", "instance: prod, namespace: nightly", "schedule: '* * * * *'"),
    ];
    let subscription = format!(
        "subscriptions:\n  - {{ name: ci, rules: [build/release], webhook: {{ url: '{sink}/ci', secret: env:CI_SECRET, \
         private_network: true }} }}\n"
    );
    config(&[instance("build", build, &ALICE), instance("prod", prod, &BOB)], &rules) + &subscription
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(output)))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Would break: a right that a function lacks to change the catalogue, to keep and to take away secrets, to preview, to cancel, to
/// retry, to start scheduled rules, to mark what nobody could do as failed; a schedule or a mapping that leads nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_do_everything_by_the_deployed_api() {
    let mut stack = Stack::deploy(&[]).await;
    let sink = Sink::start().await;
    let secrets = [("HOOK_SECRET", HOOK_SECRET), ("ALICE_PASSWORD", ALICE.password), ("BOB_PASSWORD", BOB.password)];
    for (name, value) in secrets.into_iter().chain([("CI_SECRET", "a s3cret of the receiver")]) {
        stack.set(name, value);
    }
    let build = stack.registry("build").login(ALICE).start().await;
    let prod = DockerRegistry::builder().login(BOB).start().await;
    let target = Proxy::passing(prod.url()).await;
    let file = stack.aws().dir().join("operated.yaml");
    std::fs::write(&file, sync(build.url(), target.url(), sink.url())).unwrap();
    let file = file.to_str().unwrap();

    // All that the file says, by the API; the second time there is nothing to do.
    for (n, expected) in [(1, "created"), (2, "unchanged")] {
        let applied = stack.run(&["apply", "-f", file]).await;
        assert!(applied.status.success() && said(&applied).contains(expected), "{n}: {}", said(&applied));
    }
    assert!(stack.kept_secrets().await.iter().any(|name| name.contains("instances/build/_credentials-")));

    Image::random(1).layers(1, 4 << 10).build().push(&build.at("team/app", "v1")).await;
    let pushed = stack.ended_by("build/release", "push team/app:v1", PATIENCE).await;
    assert_eq!(pushed["status"], "succeeded", "{pushed}");
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
    sink.wait_for("the subscriber is told", PATIENCE, |told| {
        told.header("webhook-id") == format!("{}-ended", text(&pushed["id"]))
    })
    .await;
    let run = stack.ended_by("build/nightly", "schedule", PATIENCE).await;
    assert_eq!(run["status"], "succeeded", "{run}");

    // What would be done, and why it was.
    let preview = stack.run(&["preview", "build/release", "--output", "json"]).await;
    assert_eq!(json_of(&preview)["items"][0]["would"], "unchanged", "{}", said(&preview));
    let explained = stack.run(&["explain", "build/team/app:v1", "--output", "json"]).await;
    assert!(said(&explained).contains(text(&pushed["id"])), "{}", said(&explained));

    // A test delivery, and one by hand.
    let tested = stack.run(&["subscriptions", "test", "ci"]).await;
    assert!(tested.status.success(), "{}", said(&tested));
    let (status, log) = stack.call(Method::GET, "/v1/subscriptions/ci/deliveries").await;
    let deliveries = log["items"].as_array().unwrap_or_else(|| panic!("{status} {log}"));
    let delivered = deliveries.iter().find(|one| one["state"] == "delivered").unwrap_or_else(|| panic!("{log}"));
    let (before, id) = (sink.deliveries().len(), text(&delivered["id"]));
    let again = stack.run(&["subscriptions", "redeliver", "ci", id]).await;
    assert!(again.status.success(), "{}", said(&again));
    wait_until("it is delivered again", PATIENCE, async || sink.deliveries().len() > before).await;

    // A job that nobody could do is marked as failed, and is made again by hand.
    let gate = Gate::new();
    let held = gate.clone();
    target.on(
        move |request| if request.is("PUT", "/mirror/app/manifests/v2") { Action::Hold(held.clone()) } else { Action::Pass },
    );
    Image::random(2).layers(1, 4 << 10).build().push(&build.at("team/app", "v2")).await;
    gate.reached(1).await;
    let task = stack.running("build/release", "push team/app:v2", PATIENCE).await;
    let place = |instance: &str, repository: &str| json!({ "instance": instance, "repository": repository, "reference": "v2" });
    let head = json!({
        "id": task["id"], "instance": "build", "rule": "release", "created": task["created"],
        "trigger": { "kind": "push", "resource": "team/app:v2" },
    });
    let job =
        json!({ "job": "copy", "task": head, "source": place("build", "team/app"), "target": place("prod", "mirror/app") });
    put_into(&stack, "-jobs-dead.fifo", &job).await;
    let failed = stack.ended_by("build/release", "push team/app:v2", PATIENCE).await;
    assert_eq!((&failed["status"], &failed["counts"]["failed"]), (&json!("failed"), &json!(1)), "{failed}");
    gate.open();
    let retried = stack.run(&["tasks", "retry", text(&failed["id"]), "--wait"]).await;
    assert!(retried.status.success(), "{}", said(&retried));
    assert_same(&build.at("team/app", "v2"), &prod.at("mirror/app", "v2")).await;

    // One that is not to go on.
    let gate = Gate::new();
    let held = gate.clone();
    target.on(
        move |request| if request.is("PUT", "/mirror/app/manifests/v3") { Action::Hold(held.clone()) } else { Action::Pass },
    );
    Image::random(3).layers(1, 4 << 10).build().push(&build.at("team/app", "v3")).await;
    gate.reached(1).await;
    let task = stack.running("build/release", "push team/app:v3", PATIENCE).await;
    let cancelled = stack.run(&["tasks", "cancel", text(&task["id"])]).await;
    assert!(cancelled.status.success(), "{}", said(&cancelled));
    let ended = stack.ended_by("build/release", "push team/app:v3", PATIENCE).await;
    assert_eq!(ended["status"], "cancelled", "{ended}");
    gate.open();

    // And away with it all.
    for name in ["rules delete build/release", "rules delete build/nightly", "subscriptions delete ci", "instances delete prod"]
    {
        let deleted = stack.run(&name.split(' ').collect::<Vec<_>>()).await;
        assert!(deleted.status.success(), "{name}: {}", said(&deleted));
    }
    let kept = stack.kept_secrets().await;
    assert!(!kept.iter().any(|name| name.contains("instances/prod/") || name.contains("subscriptions/ci")), "{kept:?}");
}

/// Would break: every other test of rights here, if the emulator let everybody do everything; a worker that can read the API's token; a
/// role for another account that can't be made, or that the worker can't assume; a push to ECR that EventBridge does not hand on.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_allows_and_takes_what_it_has_to_and_no_more() {
    const CROSS_ACCOUNT: &str = "arn:aws:iam::000000000000:role/transship";
    let stack = Stack::deploy(&[&format!("CrossAccountRoles={CROSS_ACCOUNT}")]).await;
    pushes_and_deletions_are_taken_from_ecr(&stack).await;
    stack.secret("password", "a password").await;
    let sdk = stack.aws().sdk().await;
    let role = AssumeRoleProvider::builder(stack.output("WorkerRoleArn")).session_name("test").configure(&sdk);
    let worker = role.region(Region::from_static(Aws::REGION)).build().await;
    let as_worker = sdk
        .clone()
        .into_builder()
        .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(worker))
        .build();
    let secrets = aws_sdk_secretsmanager::Client::new(&as_worker);
    let read = secrets.get_secret_value().secret_id("transship/password").send().await.unwrap();
    assert_eq!(read.secret_string(), Some("a password"));
    let token = secrets.get_secret_value().secret_id(stack.output("ApiTokenSecret")).send().await;
    assert_eq!(token.unwrap_err().into_service_error().meta().code(), Some("AccessDeniedException"));
    let made = secrets.create_secret().name("transship/instances/x/_credentials-1").secret_string("x").send().await;
    assert_eq!(made.unwrap_err().into_service_error().meta().code(), Some("AccessDeniedException"));

    // In another account, which the emulator's one stands for.
    let (environment, worker) = (stack.aws().env(), stack.output("WorkerRoleArn").to_owned());
    let deploy = move || {
        let template = ["--template-file", "infra/cross-account-role.yaml", "--stack-name", "other-account"];
        let mut deploy =
            sam(&["deploy", "--no-confirm-changeset", "--no-progressbar", "--capabilities", "CAPABILITY_NAMED_IAM"]);
        deploy.args(template).args(["--parameter-overrides", &format!("WorkerRoleArn={worker}")]).envs(environment);
        deploy.output().unwrap()
    };
    let deployed = tokio::task::spawn_blocking(deploy).await.unwrap();
    assert!(deployed.status.success(), "{}", said(&deployed));
    let assumed = async |sdk: &SdkConfig| {
        let role = AssumeRoleProvider::builder(CROSS_ACCOUNT).session_name("test").configure(sdk);
        let role = role.region(Region::from_static(Aws::REGION)).build().await;
        role.provide_credentials().await
    };
    assumed(&as_worker).await.unwrap();
    // The other account trusts the worker alone, not all of this one.
    let refused = assumed(&sdk).await.unwrap_err();
    assert!(format!("{refused:?}").contains("AccessDenied"), "{refused:?}");
}
