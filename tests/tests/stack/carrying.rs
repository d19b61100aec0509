//! Large layers that the deployed functions carry.

use std::{process::Command, time::Duration};

use tokio::sync::Mutex;
use transship_tests::*;

/// The layers are kept in memory several times over: not two tests with them at once.
static LARGE: Mutex<()> = Mutex::const_new(());
/// A layer that takes a while.
const LAYER: usize = 512 << 20;
/// Bytes a second from the source: ten seconds and more for the layer.
const RATE: u64 = 48 << 20;
/// Far longer than it takes, on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(240);

/// Instances `build` and `prod`, and a rule from one to the other.
fn sync(build: &str, prod: &str) -> String {
    let instance = |name: &str, url: &str| instance(name, url).replace("env:HOOK_SECRET", "secretsmanager:hook");
    let rule = rule("release", "instance: build, namespace: team", "instance: prod, namespace: mirror", "");
    config(&[instance("build", build), instance("prod", prod)], &[rule])
}

/// Would break: a right that the API's function lacks to make tokens, to revoke them, to write the audit or to keep an answer; a second
/// URL that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_used_and_revoked_by_the_deployed_api() {
    let stack = Stack::deploy(&["IamRole=operator"]).await;
    let own = stack.token();
    let wanted = serde_json::json!({ "name": "a test", "role": "viewer" });
    let (status, made) = stack.call_with(own, Method::POST, "/v1/tokens", Some(&wanted)).await;
    assert_eq!(status, 201, "{made}");
    let (token, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    let (status, body) = stack.call_as(token, Method::GET, "/v1/instances").await;
    assert_eq!(status, 200, "{body}");
    let (status, body) = stack.call_as(token, Method::GET, "/v1/tokens").await;
    assert_eq!(status, 403, "{body}");
    let (status, body) = stack.call(Method::DELETE, &format!("/v1/tokens/{id}")).await;
    assert_eq!(status, 204, "{body}");
    wait_until("the token lets nobody in", PATIENCE, async || {
        stack.call_as(token, Method::GET, "/v1/instances").await.0 == 401
    })
    .await;
    let (status, audit) = stack.call(Method::GET, "/v1/audit").await;
    assert_eq!(status, 200, "{audit}");
    let actions: Vec<&str> = audit["items"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["token.revoke", "token.create"]);
    assert_ne!(stack.output("ApiIamUrl"), stack.output("ApiUrl"));
}

/// Would break: a job that stays hidden for as long as its queue hides what a worker has (an hour and a half), or for good; an
/// upload of the dead that stands in the way of the next.
#[tokio::test(flavor = "multi_thread")]
async fn the_job_of_a_killed_worker_is_taken_up_within_90_seconds() {
    let _alone = LARGE.lock().await;
    let stack = Stack::deploy(&[]).await;
    let (build, prod) = (stack.registry("build").start().await, DockerRegistry::start().await);
    let link = Wan::start(build.url(), Link { rate: Some(RATE), ..Link::default() }).await;
    stack.apply(&sync(link.url(), prod.url())).await;
    Image::random(2).layers(1, LAYER).build().push(&build.at("team/app", "v1")).await;

    wait_until("a quarter of the layer has been read", PATIENCE, async || link.received() > LAYER as u64 / 4).await;
    let killed = stack.processes("Worker");
    for process in &killed {
        assert!(Command::new("kill").args(["-KILL", &process.to_string()]).status().unwrap().success());
    }
    assert!(!killed.is_empty(), "there is a worker");
    assert!(prod.at("mirror/app", "v1").find_manifest().await.is_none(), "it was killed in the middle");
    let before = link.connections();
    wait_until("the source is read again", Duration::from_secs(90), async || link.connections() > before).await;

    let task = stack.ended("build/release", PATIENCE).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
}

/// An invocation of fifteen seconds ends its work after three, to have time to end what is under way and to send itself on.
///
/// Would break: an upload that begins again with each invocation; one that is cut off by the time-out instead of being ended; a job that
/// does not send itself on, or whose continuation is taken for a repetition and dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_longer_than_an_invocation_arrives_over_several_and_no_byte_is_sent_twice() {
    let _alone = LARGE.lock().await;
    let stack = Stack::deploy(&["WorkerTimeout=15"]).await;
    let (build, prod) = (stack.registry("build").start().await, DockerRegistry::start().await);
    let link = Wan::start(build.url(), Link { rate: Some(RATE), ..Link::default() }).await;
    let (source, target) = (Proxy::passing(link.url()).await, Proxy::passing(prod.url()).await);
    stack.apply(&sync(source.url(), target.url())).await;
    let image = Image::random(3).layers(1, LAYER).build();
    image.push(&build.at("team/app", "v1")).await;

    let task = stack.ended("build/release", PATIENCE).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    let layer = image.largest_blob().to_string();
    let reads = source.count("GET", &layer);
    assert!(reads >= 3, "the layer came in {reads} pieces");
    let uploads = target.exchanges().into_iter().filter(|exchange| exchange.request.path.contains("/blobs/uploads/"));
    let sent: u64 = uploads.map(|exchange| exchange.uploaded).sum();
    assert_eq!(sent, image.size() as u64, "bytes of blobs that were sent");
    drop(source);
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
}
