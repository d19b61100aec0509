//! Notifications through the handler: what proves them, what becomes of them, and how many calls that takes. The stores are real
//! ones, and calls are counted before they get there.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod world;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use transship_model::{Digest, Job, Trail, Version, WebhookAuth, Written};

use world::{SECRET, World, body_of, instance, mac, rule};

fn push(tag: &str) -> String {
    json!({"events": [{
        "id": format!("e-{tag}"), "timestamp": "2026-03-04T05:06:07Z", "action": "push",
        "target": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(tag.as_bytes()),
            "repository": "shop/cart", "tag": tag
        }
    }]})
    .to_string()
}

fn request(path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Bytes> {
    let mut request = Request::builder().method(Method::POST).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).unwrap()
}

impl World {
    async fn status(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> StatusCode {
        self.webhook.handle(request(path, headers, body)).await.status()
    }
}

/// `user:SECRET` and the like, as the scheme `Basic` has it.
fn basic(credentials: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    format!("Basic {}", STANDARD.encode(credentials))
}

#[tokio::test]
async fn a_secret_is_told_in_the_path_or_in_the_header() {
    let world = World::with(&[instance("a", "https://a.test", Some(SECRET))], &[]).await;
    let authorized = async |value: &str| world.status("/hooks/a", &[("authorization", value)], push("v1")).await;
    for right in
        [SECRET.to_owned(), format!("Bearer {SECRET}"), basic(&format!("transship:{SECRET}")), basic(&format!(":{SECRET}"))]
    {
        assert_eq!(authorized(&right).await, StatusCode::ACCEPTED, "{right}");
    }
    for wrong in
        ["", "Bearer", "Bearer no", "no", &*basic(SECRET), &basic(&format!("{SECRET}:x")), "Basic ?", &format!("{SECRET} ")]
    {
        // The http crate trims values; the last one is the secret with something behind it.
        let wrong = if wrong.ends_with(' ') { format!("{wrong}x") } else { wrong.to_owned() };
        assert_eq!(authorized(&wrong).await, StatusCode::UNAUTHORIZED, "{wrong}");
    }
    let alone = async |value: &str| world.status("/hooks/a", &[("x-webhook-secret", value)], push("v1")).await;
    assert_eq!(alone(SECRET).await, StatusCode::ACCEPTED);
    for wrong in ["", "no", &*format!("Bearer {SECRET}"), &basic(&format!(":{SECRET}"))] {
        assert_eq!(alone(wrong).await, StatusCode::UNAUTHORIZED, "{wrong}");
    }
    let in_path = SECRET.replace(' ', "%20");
    assert_eq!(world.status(&format!("/hooks/a/{in_path}"), &[], push("v1")).await, StatusCode::ACCEPTED);
    assert_eq!(world.status(&format!("/hooks/a/{in_path}x"), &[], push("v1")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(world.status("/hooks/a", &[], push("v1")).await, StatusCode::UNAUTHORIZED);
}

/// Would break: a registry that can't authenticate is not heard although its instance says so; what one instance leaves open, others do.
#[tokio::test]
async fn an_instance_that_is_open_asks_for_no_proof_and_no_other_does() {
    let mut open = instance("a", "https://a.test", None);
    open.webhook = WebhookAuth::Open;
    let instances = [open, instance("b", "https://b.test", Some(SECRET))];
    let world = World::with(&instances, &[rule("there", "a", "b"), rule("back", "b", "a")]).await;
    assert_eq!(world.status("/hooks/b", &[], push("v1")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(world.jobs().await, []);
    assert_eq!(world.status("/hooks/a", &[], push("v1")).await, StatusCode::ACCEPTED);
    let jobs = world.jobs().await;
    let [Job::Copy(job)] = &jobs[..] else { panic!("{jobs:?}") };
    assert_eq!(job.source.to_string(), "a/shop/cart:v1");
}

/// Would break: a body that somebody else wrote, sent to a path that is known from a log.
#[tokio::test]
async fn a_signature_has_to_be_right_whatever_else_is() {
    let world = World::with(&[instance("a", "https://a.test", Some(SECRET))], &[]).await;
    let in_path = format!("/hooks/a/{}", SECRET.replace(' ', "%20"));
    let body = push("v1");
    let (right, wrong) = (mac(SECRET, body.as_bytes()), mac("another", body.as_bytes()));
    let hub = |digits: &str| format!("sha256={digits}");
    for path in ["/hooks/a", &in_path] {
        for (headers, expected) in [
            (vec![("x-hub-signature-256", hub(&right))], StatusCode::ACCEPTED),
            (vec![("x-hub-signature-256", hub(&wrong))], StatusCode::UNAUTHORIZED),
            (vec![("x-hub-signature-256", hub(&wrong)), ("authorization", SECRET.to_owned())], StatusCode::UNAUTHORIZED),
            (vec![("x-hub-signature-256", hub(&right)), ("x-gitea-signature", right.clone())], StatusCode::ACCEPTED),
            (vec![("x-hub-signature-256", hub(&right)), ("x-gitea-signature", wrong.clone())], StatusCode::UNAUTHORIZED),
            (vec![("x-jfrog-event-auth", right.clone())], StatusCode::ACCEPTED),
            (vec![("x-jfrog-event-auth", SECRET.to_owned())], StatusCode::ACCEPTED),
            (vec![("x-jfrog-event-auth", wrong.clone())], StatusCode::UNAUTHORIZED),
        ] {
            let given: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(world.status(path, &given, body.clone()).await, expected, "{path} {headers:?}");
        }
    }
    let changed = body.replace("shop/cart", "shop/card");
    let signed = [("x-hub-signature-256", &*hub(&right))];
    assert_eq!(world.status("/hooks/a", &signed, changed).await, StatusCode::UNAUTHORIZED);
}

/// Would break: a stranger finds out which instances there are.
#[tokio::test]
async fn unknown_closed_and_wrong_are_answered_alike() {
    let world =
        World::with(&[instance("a", "https://a.test", Some(SECRET)), instance("closed", "https://c.test", None)], &[]).await;
    let mut answers = Vec::new();
    for name in ["a", "closed", "unknown", "NO NAME", ""] {
        for headers in [vec![], vec![("authorization", "Bearer wrong")], vec![("x-hub-signature-256", "sha256=00")]] {
            let path = format!("/hooks/{}", name.replace(' ', "%20"));
            let response = world.webhook.handle(request(&path, &headers, push("v1"))).await;
            answers.push((response.status(), response.headers().clone(), body_of(&response)));
        }
    }
    assert_eq!(answers[0].0, StatusCode::UNAUTHORIZED);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[tokio::test]
async fn event_grid_is_given_what_it_waits_for() {
    let world = World::with(&[instance("a", "https://a.test", Some(SECRET))], &[]).await;
    let path = format!("/hooks/a/{}", SECRET.replace(' ', "%20"));
    let asked = json!([{
        "id": "1", "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "eventTime": "2026-03-04T05:06:07Z",
        "data": {"validationCode": "c0de"}
    }]);
    let response =
        world.webhook.handle(request(&path, &[("aeg-event-type", "SubscriptionValidation")], asked.to_string())).await;
    assert_eq!((response.status(), body_of(&response)), (StatusCode::OK, json!({"validationResponse": "c0de"})));
    let mut options = request(&path, &[("webhook-request-origin", "eventgrid.azure.net")], "");
    *options.method_mut() = Method::OPTIONS;
    let response = world.webhook.handle(options).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["webhook-allowed-origin"], "eventgrid.azure.net");
    // Neither is told to a stranger, and a browser's OPTIONS is not one of these.
    assert_eq!(world.status("/hooks/a", &[], asked.to_string()).await, StatusCode::UNAUTHORIZED);
    for (path, headers, expected) in [
        ("/hooks/a", vec![("webhook-request-origin", "eventgrid.azure.net")], StatusCode::UNAUTHORIZED),
        (&*path, vec![("origin", "https://example.com")], StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let mut options = request(path, &headers, "");
        *options.method_mut() = Method::OPTIONS;
        assert_eq!(world.webhook.handle(options).await.status(), expected);
    }
}

/// Would break: a secret or a rule that was changed while a warm environment holds an older catalogue.
#[tokio::test]
async fn a_change_of_the_catalogue_holds_for_the_next_request() {
    let rules = [rule("copy", "a", "b")];
    let world =
        World::with(&[instance("a", "https://a.test", Some(SECRET)), instance("b", "https://b.test", None)], &rules).await;
    let signed = |body: &str| format!("sha256={}", mac(SECRET, body.as_bytes()));
    let body = push("v1");
    assert_eq!(world.status("/hooks/a", &[("authorization", SECRET)], body.clone()).await, StatusCode::ACCEPTED);
    assert_eq!(world.jobs().await.len(), 1);

    world.replace(&[instance("a", "https://a.test", Some("new")), instance("b", "https://b.test", None)], &rules).await;
    assert_eq!(world.status("/hooks/a", &[("authorization", SECRET)], push("v2")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(world.jobs().await, []);
    world.replace(&[instance("a", "https://a.test", Some("newer")), instance("b", "https://b.test", None)], &rules).await;
    let signature = signed(&body);
    assert_eq!(world.status("/hooks/a", &[("x-hub-signature-256", &signature)], body).await, StatusCode::UNAUTHORIZED);
    assert_eq!(world.status("/hooks/a", &[("authorization", "newer")], push("v3")).await, StatusCode::ACCEPTED);
    assert_eq!(world.jobs().await.len(), 1);

    world.replace(&[instance("a", "https://a.test", Some("newer")), instance("b", "https://b.test", None)], &[]).await;
    assert_eq!(world.status("/hooks/a", &[("authorization", "newer")], push("v4")).await, StatusCode::ACCEPTED);
    assert_eq!(world.jobs().await, []);
}

/// The calls to services that a warm webhook makes for a notification, one after the other: three at most, whatever it tells.
#[tokio::test]
async fn a_warm_webhook_makes_three_calls_at_most() {
    let instances = [instance("a", "https://a.test", Some(SECRET)), instance("b", "https://b.test", Some(SECRET))];
    let world = World::with(&instances, &[rule("copy", "a", "b")]).await;
    let calls = async |world: &World, path: &str, body: String| {
        world.calls();
        let response = world.webhook.handle(request(path, &[("authorization", SECRET)], body)).await;
        assert!(response.status().is_success(), "{response:?}");
        let calls = world.calls();
        assert!(calls.len() <= 3, "{calls:?}");
        calls
    };
    warm(&world).await;

    assert_eq!(calls(&world, "/hooks/a", push("v1")).await, ["get", "send jobs", "send events"]);
    let other = push("v1").replace("shop/cart", "elsewhere");
    assert_eq!(calls(&world, "/hooks/a", other).await, ["get"]);
    assert_eq!(calls(&world, "/hooks/b", push("v1")).await, ["get"], "the end of a plain mirror");
    assert_eq!(calls(&world, "/hooks/a", push("v1").replace("push", "pull")).await, [""; 0], "nothing was pushed");
    let tags = json!({"repository": "shop/cart", "docker_url": "a.test/shop/cart", "updated_tags": ["v2", "v3", "v4"]});
    assert_eq!(calls(&world, "/hooks/a", tags.to_string()).await, ["get", "send jobs", "send events"], "several at once");
    let rules: Vec<_> = (0..60).map(|n| rule(&format!("copy-{n}"), "a", &format!("b{n}"))).collect();
    let targets = (0..60).map(|n| instance(&format!("b{n}"), "https://b.test", None));
    let many: Vec<_> = instances.iter().cloned().chain(targets).collect();
    world.replace(&many, &rules).await;
    warm(&world).await;
    assert_eq!(calls(&world, "/hooks/a", push("v6")).await, ["get", "send jobs"], "for a worker to fan out");

    // Where rules lead both ways, it is remembered where a tag's content came from.
    let world = World::with(&instances, &[rule("there", "a", "b"), rule("back", "b", "a")]).await;
    warm(&world).await;
    assert_eq!(calls(&world, "/hooks/a", push("v1")).await, ["get many", "send jobs + write", "send events"]);
    assert_eq!(calls(&world, "/hooks/a", push("v1")).await, ["get many", "send jobs", "send events"], "the same once more");
    world.wrote("b", "shop/cart", "v1").await;
    assert_eq!(calls(&world, "/hooks/b", push("v1")).await, ["get many", "write"], "the echo of our own push");
    let bodies = ["v2", "v3", "v2"].map(|tag| serde_json::from_str::<Value>(&push(tag)).unwrap()["events"][0].take());
    let calls_of_three = calls(&world, "/hooks/a", json!({ "events": bodies }).to_string()).await;
    assert_eq!(calls_of_three, ["get many", "send jobs + write + write", "send events"], "one write for each of two tags");

    // What is carried on along a chain, and what is put back.
    let chain = [rule("there", "a", "b"), rule("on", "b", "c"), rule("back", "d", "b")];
    let ends = ["c", "d"].map(|name| instance(name, "https://c.test", None));
    let world = World::with(&[&instances[..], &ends[..]].concat(), &chain).await;
    warm(&world).await;
    world.wrote("b", "shop/cart", "v1").await;
    assert_eq!(calls(&world, "/hooks/b", push("v1")).await, ["get many", "send jobs + write", "send events"], "an echo");
    assert_eq!(calls(&world, "/hooks/b", push("v2")).await, ["get many", "send jobs + write", "send events"], "a push");
    world.replace(&[&instances[..], &ends[..]].concat(), &[chain[0].clone(), chain[2].clone()]).await;
    warm(&world).await;
    world.wrote("b", "shop/cart", "v3").await;
    let other = push("v3").replace(&Digest::of(b"v3").to_string(), Digest::of(b"newer").as_ref());
    assert_eq!(calls(&world, "/hooks/b", other).await, ["get many", "send jobs + write"], "what is to be put back");
}

#[tokio::test]
async fn a_message_of_the_inbox_goes_to_every_instance_of_its_account_and_region() {
    let ecr = |name: &str, account: &str| {
        let mut ecr = instance(name, &format!("https://{account}.dkr.ecr.eu-central-1.amazonaws.com"), None);
        ecr.kind = transship_model::Kind::Ecr;
        ecr
    };
    let instances = [
        ecr("one", "123456789012"),
        ecr("two", "123456789012"),
        ecr("other", "210987654321"),
        instance("b", "https://b.test", None),
    ];
    let world = World::with(&instances, &[rule("one", "one", "b"), rule("two", "two", "b"), rule("other", "other", "b")]).await;
    let message = |account: &str, action: &str| {
        json!({
            "version": "0", "id": "5b0fa9c8", "detail-type": "ECR Image Action", "source": "aws.ecr", "account": account,
            "time": "2026-03-04T05:06:07Z", "region": "eu-central-1", "resources": [],
            "detail": {
                "result": "SUCCESS", "repository-name": "shop/cart", "image-digest": Digest::of(b"1"), "action-type": action,
                "image-tag": "v1"
            }
        })
        .to_string()
    };
    let sources = async |world: &World| {
        let mut sources: Vec<String> = world
            .jobs()
            .await
            .into_iter()
            .map(|job| match job {
                Job::Copy(job) => job.source.to_string(),
                other => panic!("{other:?}"),
            })
            .collect();
        sources.sort();
        sources
    };
    world.webhook.take_in(&message("123456789012", "PUSH")).await.unwrap();
    assert_eq!(sources(&world).await, ["one/shop/cart:v1", "two/shop/cart:v1"]);
    for nothing in [
        message("123456789012", "DELETE"),
        message("123456789012", "UPDATE_STORAGE_CLASS"),
        message("999999999999", "PUSH"),
        message("123456789012", "PUSH").replace("shop/cart", "Shop"),
        "{".to_owned(),
        Value::Null.to_string(),
    ] {
        world.webhook.take_in(&nothing).await.unwrap();
        assert_eq!(world.jobs().await, [], "{nothing}");
    }
    // A deletion is for the rules that carry it on, and no others.
    let mut deleting = rule("one", "one", "b");
    deleting.propagate_deletions = true;
    world.replace(&instances, &[deleting, rule("two", "two", "b"), rule("other", "other", "b")]).await;
    world.webhook.take_in(&message("123456789012", "DELETE")).await.unwrap();
    let jobs = world.jobs().await;
    let [Job::Copy(job)] = &jobs[..] else { panic!("{jobs:?}") };
    assert_eq!(
        (job.may_be_deletion, job.source.to_string(), job.target.to_string()),
        (true, "one/shop/cart:v1".into(), "b/shop/cart:v1".into())
    );
    world.replace(&instances, &[rule("one", "one", "b"), rule("two", "two", "b"), rule("other", "other", "b")]).await;
    // EventBridge delivers at least once: the same event makes the same tasks.
    world.webhook.take_in(&message("123456789012", "PUSH")).await.unwrap();
    assert_eq!(sources(&world).await, [""; 0], "the queue has had these messages");
    // A store that does not answer has the message delivered again.
    world.break_table();
    world.webhook.take_in(&message("123456789012", "PUSH")).await.unwrap_err();
}

/// Has the webhook read the catalogue of this moment.
async fn warm(world: &World) {
    let other = push("v5").replace("shop/cart", "elsewhere");
    world.status("/hooks/a", &[("authorization", SECRET)], other).await;
    world.calls();
}

impl World {
    /// As if a copy had just set a tag to what [`push`] tells.
    async fn wrote(&self, instance: &str, repository: &str, tag: &str) {
        let place = self.place(instance, repository, tag);
        let written = Written {
            digest: Digest::of(tag.as_bytes()),
            at: "2026-03-04T05:06:06Z".parse().unwrap(),
            version: Some(Version { time: "2026-03-04T05:06:05Z".parse().unwrap(), instance: "a".parse().unwrap() }),
            trail: Trail::default(),
            echoed: None,
        };
        let note = |origin: &mut transship_model::Origin| {
            let mut written = written.clone();
            // It came from the other one, so that it does not go back there.
            written.trail = Trail::default().extended(
                transship_model::RuleId(1),
                ("a".parse().unwrap(), "shop/cart".parse().unwrap()),
                ("b".parse().unwrap(), "shop/cart".parse().unwrap()),
            );
            origin.note_write(written);
            true
        };
        self.origins.change(&place, note).await.unwrap();
    }
}
