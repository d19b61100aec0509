use transship_model::{DeliveryId, DeliveryState, SubscriptionName};
use transship_state::DeliveryRecord;

use super::*;

/// The operations that change nothing although they are no `GET`.
const LOOKS: [&str; 3] = ["previewRule", "preview", "explain"];

/// Would break: a change that is not in the audit, or twice, or without who, what and from where; an operation that is new and that nobody
/// has thought of here.
#[tokio::test]
async fn every_change_is_in_the_audit_once() {
    let deployment = Deployment::filled().await;
    let running = deployment.task("running", &[]).await;
    let broken = Happening::ScanEnded { total: 0, compared: 0, repositories: 0, error: Some("no answer".into()) };
    let ended = deployment.task("ended", &[broken]).await;
    let (now, subscription): (_, SubscriptionName) = (Timestamp::now(), "ci".parse().unwrap());
    let delivery = DeliveryId::derive(now, "event");
    let revoked = json!({ "name": "to be revoked", "role": "viewer" });
    let revoked = deployment.done(Method::POST, "/v1/tokens", revoked).await["id"].as_str().unwrap().to_owned();
    let record = DeliveryRecord {
        event: "event".into(),
        kind: "io.transship.ping".into(),
        time: now,
        state: DeliveryState::Delivered,
        round: 0,
        since: now,
        refused: 0,
        retry_at: None,
        attempts: Vec::new(),
        body: "{}".into(),
    };
    deployment.deliveries.put(&subscription, &delivery, &record).await.unwrap();

    let (lab, rule, ci) = ("/v1/instances/lab", "/v1/instances/build/rules/new", "/v1/subscriptions/ci");
    let (put, patch, post, delete) = (Method::PUT, Method::PATCH, Method::POST, Method::DELETE);
    let what = json!({ "instance": "build", "repository": "team/app", "tag": "v1" });
    let given = json!({ "source": { "instance": "build", "namespace": "x" }, "target": { "instance": "prod" } });
    let none = Value::Null;
    let steps = [
        ("putInstance", &put, lab.to_owned(), json!({ "endpoint": "https://lab.example" }), "lab"),
        ("patchInstance", &patch, lab.into(), json!({ "region": "eu-central-1" }), "lab"),
        ("putSecret", &put, format!("{lab}/secrets/webhook"), json!({ "value": "s3cret-of-the-hook" }), "lab"),
        ("deleteSecret", &delete, format!("{lab}/secrets/webhook"), none.clone(), "lab"),
        ("putRule", &put, format!("{rule}?start=false"), to("prod"), "build/new"),
        ("patchRule", &patch, rule.into(), json!({ "description": "other words" }), "build/new"),
        ("previewRule", &post, format!("{rule}/preview"), none.clone(), ""),
        ("preview", &post, "/v1/preview".into(), given, ""),
        ("explain", &post, "/v1/explain".into(), what, ""),
        ("syncRule", &post, format!("{rule}/sync"), none.clone(), "build/new"),
        ("cancelTask", &post, format!("/v1/tasks/{running}/cancel"), none.clone(), running.as_str()),
        ("retryTask", &post, format!("/v1/tasks/{ended}/retry"), none.clone(), ended.as_str()),
        ("putSubscription", &put, ci.into(), json!({ "webhook": { "url": "https://receiver.example/hook" } }), "ci"),
        ("changeSubscription", &patch, ci.into(), json!({ "enabled": false }), "ci"),
        ("enableSubscription", &post, format!("{ci}/enable"), none.clone(), "ci"),
        ("testSubscription", &post, format!("{ci}/test"), none.clone(), "ci"),
        ("redeliver", &post, format!("{ci}/deliveries/{delivery}/redeliver"), none.clone(), "ci"),
        ("deleteSubscription", &delete, ci.into(), none.clone(), "ci"),
        ("createToken", &post, "/v1/tokens".into(), json!({ "name": "a test", "role": "viewer" }), ""),
        ("revokeToken", &delete, format!("/v1/tokens/{revoked}"), none.clone(), &revoked),
        ("deleteRule", &delete, rule.into(), none.clone(), "build/new"),
        ("deleteInstance", &delete, lab.into(), none.clone(), "lab"),
    ];
    let driven = async {
        let mut before = deployment.all("/v1/audit", 1000).await;
        for (operation, method, path, body, what) in &steps {
            let answer = deployment.done((*method).clone(), path, body.clone()).await;
            let after = deployment.all("/v1/audit", 1000).await;
            let new: Vec<&Value> = after.iter().filter(|entry| !before.contains(entry)).collect();
            assert_eq!(new.len(), usize::from(!LOOKS.contains(operation)), "{operation}: {new:?}");
            for entry in new {
                assert_eq!((&entry["who"], &entry["from"]), (&json!("the test"), &json!(FROM)), "{operation}: {entry}");
                let what = if what.is_empty() { answer["id"].as_str().unwrap() } else { what };
                assert_eq!(entry["what"], what, "{operation}: {entry}");
                assert!(entry["request"].is_string(), "{operation}: {entry}");
            }
            before = after;
        }
    };
    tokio::select! { () = driven => {}, _ = deployment.make_previews() => {} }

    let document = Api::document();
    let items = document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap());
    let changing = items.filter(|(method, _)| *method != "get" && *method != "head");
    let known: BTreeSet<&str> = changing.map(|(_, operation)| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!(known, steps.iter().map(|(operation, ..)| *operation).collect(), "an operation is not driven here");
}
