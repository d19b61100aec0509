//! Each file of `events/webhook`, as AWS hands it to the function, and what becomes of it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on has failed")]

mod world;

use std::{collections::BTreeSet, path::Path};

use bytes::Bytes;
use http::Request;
use lambda_http::Body;
use serde_json::Value;
use transship_model::{Instance, Job, Kind, Rule};
use transship_state::messages;

use world::{World, body_of, instance, rule};

/// The secret that `events/README.md` names.
const SECRET: &str = "transship-sample-events";

/// The instances of `events/sync.yaml` with an endpoint and a kind, and the namespace of their rule.
const INSTANCES: [(&str, &str, Kind, &str); 15] = [
    ("acr", "https://shop.azurecr.io", Kind::Acr, "shop"),
    ("alibaba", "https://shop-registry.cn-hangzhou.cr.aliyuncs.com", Kind::Oci, "shop"),
    ("distribution", "https://registry.example.com", Kind::Distribution, "shop"),
    ("docker-hub", "https://registry-1.docker.io", Kind::DockerHub, "shop"),
    ("ecr", "https://123456789012.dkr.ecr.eu-central-1.amazonaws.com", Kind::Ecr, "shop"),
    ("generic", "https://other.example.com", Kind::Oci, "shop"),
    ("ghcr", "https://ghcr.io", Kind::Ghcr, "shop"),
    ("gitea", "https://gitea.example.com", Kind::Oci, "shop"),
    ("gitlab", "https://gitlab.example.com", Kind::Gitlab, "shop"),
    ("google", "https://europe-docker.pkg.dev", Kind::Google, "shop"),
    ("harbor", "https://harbor.example.com", Kind::Harbor, "shop"),
    ("jfrog", "https://shop.jfrog.io", Kind::Oci, "images"),
    ("quay", "https://quay.io", Kind::Quay, "shop"),
    ("tcr", "https://shop.tencentcloudcr.com", Kind::Oci, "shop"),
    ("zot", "https://zot.example.com", Kind::Oci, "shop"),
];

/// What a file comes to: the answer's status, and each job as what it is, where it looks, and the digit that the digest is made of,
/// if the sender tells one. A message of the inbox has no answer.
const EVENTS: [(&str, u16, &[&str]); 32] = [
    ("acr-ping", 200, &[]),
    ("acr-push", 202, &["copy acr/shop/cart:v3 f"]),
    ("alibaba-push", 202, &["copy alibaba/shop/cart:v3 4"]),
    ("cloudevents-binary-push", 202, &["copy generic/shop/cart:v3 5"]),
    ("cloudevents-push", 202, &["copy generic/shop/cart:v3 5"]),
    ("distribution-pull", 200, &[]),
    ("distribution-push", 202, &["copy distribution/shop/cart:v3 a"]),
    ("docker-hub-push", 202, &["copy docker-hub/shop/cart:v3 -"]),
    ("ecr-delete", INBOX, &[]),
    ("ecr-push", INBOX, &["copy ecr/shop/cart:v3 c"]),
    ("ecr-push-untagged", INBOX, &["look ecr/shop/cart c"]),
    ("ecr-storage-class", INBOX, &[]),
    ("event-grid-cloudevents-push", 202, &["copy acr/shop/cart:v3 f"]),
    ("event-grid-options", 200, &[]),
    ("event-grid-push", 202, &["copy acr/shop/cart:v3 f"]),
    ("event-grid-validation", 200, &[]),
    ("ghcr-form-push", 202, &["copy ghcr/shop/cart:v3 d"]),
    ("ghcr-ping", 200, &[]),
    ("ghcr-push", 202, &["copy ghcr/shop/cart:v3 d"]),
    ("gitea-push", 202, &["copy gitea/shop/cart:v3 -"]),
    ("gitlab-push", 202, &["copy gitlab/shop/web/cart:v3 a"]),
    ("google-push", 202, &["copy google/shop/images/web/cart:v3 1"]),
    ("harbor-cloudevents-push", 202, &["copy harbor/shop/web/cart:v3 b"]),
    ("harbor-push", 202, &["copy harbor/shop/web/cart:v3 b"]),
    ("http-api-push", 202, &["copy distribution/shop/cart:v3 a"]),
    ("jfrog-push", 202, &["copy jfrog/images/shop/cart:v3 3"]),
    ("quay-push", 202, &["copy quay/shop/cart:latest -", "copy quay/shop/cart:v3 -"]),
    ("tcr-push", 202, &["copy tcr/shop/web/cart:v3 b"]),
    ("zot-push", 202, &["copy zot/shop/cart:v3 2"]),
    ("zot-repository-created", 200, &[]),
    ("sweep", INBOX, &[]),
    // No rule has a schedule.
    ("tick", INBOX, &[]),
];

/// It comes by the inbox queue.
const INBOX: u16 = 0;

fn instances() -> Vec<Instance> {
    let of = |(name, endpoint, kind, _): (&str, &str, Kind, &str)| Instance { kind, ..instance(name, endpoint, Some(SECRET)) };
    INSTANCES.into_iter().map(of).chain([instance("mirror", "https://mirror.example.com", None)]).collect()
}

fn rules() -> Vec<Rule> {
    let of = |(name, _, _, namespace): (&str, &str, Kind, &str)| {
        let mut rule = rule("copy", name, "mirror");
        rule.source.namespace = namespace.parse().unwrap();
        rule.target.namespace = Some(name.parse().unwrap());
        rule
    };
    INSTANCES.into_iter().map(of).collect()
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events")
}

/// A request as the function's runtime makes it of an event.
fn request(event: &str) -> Request<Bytes> {
    let mut request = lambda_http::request::from_str(event).unwrap().map(|body| match body {
        Body::Text(text) => text.into(),
        Body::Binary(bytes) => bytes.into(),
        _ => Bytes::new(),
    });
    // AWS's crate leaves the stage of an HTTP API in the path. That the function takes it off is seen where its binary gets these files.
    if let Some(path) = request.uri().path().strip_prefix("/prod/") {
        *request.uri_mut() = format!("/{path}").parse().unwrap();
    }
    request
}

fn told(job: &Job) -> String {
    let digit = |digest: Option<&transship_model::Digest>| {
        digest.map_or("-".to_owned(), |digest| {
            let digit = &digest.hex()[..1];
            assert_eq!(digest.hex(), digit.repeat(64), "the sample's digests are made of one digit");
            digit.to_owned()
        })
    };
    match job {
        Job::Copy(job) => format!("copy {} {}", job.source, digit(job.pushed.as_ref())),
        Job::Look(job) => {
            format!("look {}/{} {}", job.event.instance, job.event.repository, digit(job.event.digest.as_ref()))
        }
        other => panic!("{other:?}"),
    }
}

/// Would break: an event file that nobody reads, or a sender that is not understood as AWS hands its request on.
#[tokio::test]
async fn every_event_of_the_folder_comes_to_what_is_written_here() {
    let files: BTreeSet<_> = std::fs::read_dir(folder().join("webhook"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(files, EVENTS.iter().map(|(name, ..)| (*name).to_owned()).collect(), "the files and the table");

    for (name, status, expected) in EVENTS {
        let world = World::with(&instances(), &rules()).await;
        let event = std::fs::read_to_string(folder().join("webhook").join(name).with_extension("json")).unwrap();
        if status == INBOX {
            let event: Value = serde_json::from_str(&event).unwrap();
            for record in event["Records"].as_array().unwrap() {
                world.webhook.take_in(record["body"].as_str().unwrap()).await.unwrap();
            }
        } else {
            let response = world.webhook.handle(request(&event)).await;
            assert_eq!(response.status(), status, "{name}: {}", body_of(&response));
            let tasks = body_of(&response)["tasks"].as_array().map_or(0, Vec::len);
            assert_eq!(tasks, expected.len(), "{name}: a task for each copy");
        }
        let is_sweep = |message: &String| matches!(messages::read_report(message), Ok(messages::Report::Sweep));
        let sweeps = world.events().await.iter().filter(|message| is_sweep(message)).count();
        assert_eq!(sweeps, usize::from(name == "sweep"), "{name}");
        let mut jobs: Vec<_> = world.jobs().await.iter().map(told).collect();
        jobs.sort();
        assert_eq!(jobs, expected, "{name}");
    }
}

/// Would break: a sample that is let in without its proof, so that it shows nothing about it.
#[tokio::test]
async fn no_event_is_let_in_with_another_secret() {
    let mut instances = instances();
    for other in &mut instances {
        let (name, endpoint) = (other.name.to_string(), other.endpoint.to_string());
        *other = Instance { kind: other.kind, ..instance(&name, &endpoint, Some("another")) };
    }
    let world = World::with(&instances, &rules()).await;
    for (name, ..) in EVENTS.into_iter().filter(|(_, status, _)| *status != INBOX) {
        let event = std::fs::read_to_string(folder().join("webhook").join(name).with_extension("json")).unwrap();
        assert_eq!(world.webhook.handle(request(&event)).await.status(), 401, "{name}");
    }
}

/// Would break: instances and rules in `sync.yaml` that are not those that this test has checked the events with.
#[test]
fn the_configuration_beside_the_events_is_this_one() {
    let config = std::fs::read_to_string(folder().join("sync.yaml")).unwrap();
    for (name, endpoint, kind, namespace) in INSTANCES {
        let instance = format!(
            "  - {{ name: {name}, endpoint: {endpoint}, kind: {kind}, webhook_secret: secretsmanager:sample-events }}\n"
        );
        let rule = format!(
            "  - {{ name: copy, source: {{ instance: {name}, namespace: {namespace} }}, target: {{ instance: mirror, namespace: \
             {name} }} }}\n"
        );
        assert!(config.contains(&instance), "{instance}");
        assert!(config.contains(&rule), "{rule}");
    }
    assert_eq!(config.matches("instance: mirror").count(), INSTANCES.len());
    assert!(std::fs::read_to_string(folder().join("README.md")).unwrap().contains(&format!("\n{SECRET}\n")));
}
