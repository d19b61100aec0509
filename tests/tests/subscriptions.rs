//! Subscriptions as people have them: by configuration file, API and command line, with the real binary and receivers on loopback.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test needs and does not get is its failure")]

use std::{fs, process::Output, time::Duration};

use reqwest::{Method, Response};
use serde_json::{Value, json};
use transship_tests::*;

const BUILD: &str = "instance: build, namespace: team";
const MIRROR: &str = "instance: prod, namespace: mirror";
/// The deployment's own.
const OWN: &str = "token-of-the-deployment";
const LONG: Duration = Duration::from_secs(120);

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(output)))
}

/// Would break: a subscription that hears nothing of what was copied; a log that does not show what came of it; a test that says that
/// it was taken although it was not; what is sent again by hand, and is something else.
#[tokio::test]
async fn a_subscriber_hears_of_resources_and_tasks_and_it_is_seen_what_came_of_it() {
    let mut transship = Transship::reserve();
    transship.set("CI_SECRET", "a s3cret of the receiver");
    let (build, prod) = (transship.registry("build").await, DockerRegistry::start().await);
    let sink = Sink::start().await;
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    transship.start(&config(&instances, &[rule("release", BUILD, MIRROR, "")])).await;
    let file = transship.config_file().with_file_name("ci.yaml");
    let wanted = format!(
        "name: ci\ndescription: the release channel\ninstances: [prod]\nevents: [resource.copied, task.*]\n\
         webhook: {{ url: '{}/hook?token=s3cret', secret: env:CI_SECRET, private_network: true }}\n",
        sink.url()
    );
    fs::write(&file, wanted).unwrap();
    let file = file.to_str().unwrap();
    let run = async |arguments: &[&str]| transship.run(&[&["subscriptions"], arguments].concat()).await;

    let made = run(&["create", "-f", file, "--output", "json"]).await;
    assert_eq!(made.status.code(), Some(0), "{}", text(&made));
    assert_eq!((&json_of(&made)["revision"], &json_of(&made)["health"]), (&json!(1), &json!("fine")));
    let again = run(&["create", "-f", file]).await;
    assert!(again.status.code() == Some(3) && text(&again).contains("--replace"), "{}", text(&again));
    assert_eq!(run(&["create", "-f", file, "--replace"]).await.status.code(), Some(0));

    let tested = run(&["test", "ci", "--output", "json"]).await;
    assert_eq!((tested.status.code(), &json_of(&tested)["state"]), (Some(0), &json!("delivered")), "{}", text(&tested));
    let ping = sink.deliveries().remove(0);
    assert_eq!(ping.json()["type"], "io.transship.ping");
    // The secret was given by its value, twice, and is never shown.
    assert!(ping.header("webhook-signature").starts_with("v1,"));
    assert_eq!(transship.get("/v1/subscriptions/ci").await["webhook"]["secret"], json!({"from": "stored"}));

    Image::random(1).layers(1, 4 << 10).build().push(&build.at("team/app", "v1")).await;
    let task = transship.ended("build/release", 1).await.remove(0);
    let of_type = |delivery: &Delivery, kind: &str| delivery.json()["type"] == format!("io.transship.{kind}");
    let copied = sink.wait_for("the resource's end", LONG, |delivery| of_type(delivery, "resource.copied")).await;
    sink.wait_for("the task's end", LONG, |delivery| of_type(delivery, "task.succeeded")).await;
    assert!(copied.header("webhook-id").starts_with(task["id"].as_str().unwrap()));
    assert_eq!((&copied.json()["subject"], copied.path.as_str()), (&json!("team/app:v1"), "/hook?token=s3cret"));

    let mut log = Value::Null;
    wait_until("three deliveries in the log", LONG, async || {
        log = json_of(&run(&["deliveries", "ci", "--output", "json"]).await);
        log.as_array().is_some_and(|all| all.len() == 3 && all.iter().all(|one| one["state"] == "delivered"))
    })
    .await;
    let all = log.as_array().unwrap();
    assert!(all.windows(2).all(|pair| pair[0]["time"].as_str() >= pair[1]["time"].as_str()), "the newest first: {log}");
    let delivery = all.iter().find(|delivery| delivery["type"] == "io.transship.resource.copied").unwrap();
    assert_eq!((&delivery["attempts"][0]["status"], &delivery["event"]), (&json!(200), &json!(copied.header("webhook-id"))));

    let id = delivery["id"].as_str().unwrap();
    let whole = transship.get(&format!("/v1/subscriptions/ci/deliveries/{id}")).await;
    assert_eq!(whole["body"], copied.json());
    sink.answer(|_| 503);
    let refused = run(&["redeliver", "ci", id, "--output", "json"]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.lines().count() == 1 && said.contains("did not take it") && said.contains("503"), "{said}");
    let shown = json_of(&refused);
    assert_eq!((&shown["state"], &shown["attempts"][1]["status"]), (&json!("waiting"), &json!(503)));
    sink.answer(|_| 200);
    let taken = run(&["redeliver", "ci", id]).await;
    assert!(taken.status.success() && text(&taken).contains("delivered"), "{}", text(&taken));
    let sent: Vec<_> =
        sink.deliveries().into_iter().filter(|one| one.header("webhook-id") == copied.header("webhook-id")).collect();
    assert!(sent.len() >= 3 && sent.iter().all(|one| one.body == copied.body));

    // What is disabled by hand is told nothing, but for a test.
    assert!(run(&["disable", "ci"]).await.status.success());
    let tells = sink.deliveries().len();
    Image::random(2).layers(1, 4 << 10).build().push(&build.at("team/app", "v2")).await;
    transship.ended("build/release", 2).await;
    transship.quiet().await;
    assert_eq!(sink.deliveries().len(), tells);
    assert!(run(&["test", "ci"]).await.status.success());
    let shown = run(&["list"]).await;
    assert!(text(&shown).contains("ci") && text(&shown).contains("no"), "{}", text(&shown));
    assert!(run(&["delete", "ci"]).await.status.success());
    assert_eq!(run(&["show", "ci"]).await.status.code(), Some(4));
    assert!(!transship.log().contains("s3cret"), "the log tells the token in the URL");
}

/// Would break: a receiver that has gone and is told for ever; one that is disabled, and nobody sees it; one that can't be enabled, because
/// its subscription is in the configuration file; what the API changes although a file says it.
#[tokio::test]
async fn a_receiver_that_has_gone_is_seen_and_enabled_by_hand_also_where_a_file_names_it() {
    let mut transship = Transship::reserve();
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let sink = Sink::start().await;
    sink.answer(|_| 410);
    let notify = format!(", notify: {{ url: '{}/own', private_network: true }} }}", sink.url());
    let instances = [instance("build", build.url()), instance("prod", prod.url()).replace(" }", &notify)];
    let subscriptions =
        format!("subscriptions:\n  - {{ name: ci, webhook: {{ url: '{}/ci', private_network: true }} }}\n", sink.url());
    transship.start(&(config(&instances, &[rule("release", BUILD, MIRROR, "")]) + &subscriptions)).await;
    let run = async |arguments: &[&str]| transship.run(&[&["subscriptions"], arguments].concat()).await;

    assert!(transship.run(&["sync", "build/release", "--wait"]).await.status.success());
    for name in ["ci", "instance:prod"] {
        let path = format!("/v1/subscriptions/{name}");
        wait_until("it is disabled", LONG, async || transship.get(&path).await["health"] == "disabled").await;
        let shown = run(&["show", name]).await;
        assert!(text(&shown).contains("410 Gone") && text(&shown).contains("disabled since"), "{}", text(&shown));
        let listed = run(&["list"]).await;
        assert!(text(&listed).contains(name), "{}", text(&listed));

        let deliveries = json_of(&run(&["deliveries", name, "--output", "json"]).await);
        let id = deliveries[0]["id"].as_str().unwrap();
        let refused = run(&["redeliver", name, id]).await;
        assert!(
            refused.status.code() == Some(3) && text(&refused).contains("transship subscriptions enable"),
            "{}",
            text(&refused)
        );
    }
    let http = reqwest::Client::new();
    let url = |name: &str| format!("{}/v1/subscriptions/{name}", transship.url());
    for (name, part) in [("ci", "sync.yaml"), ("instance:prod", "change the instance")] {
        let patch = http.patch(url(name)).json(&json!({"enabled": false})).send().await.unwrap();
        let delete = http.delete(url(name)).send().await.unwrap();
        for refused in [patch, delete] {
            assert_eq!(refused.status(), 409);
            assert!(refused.text().await.unwrap().contains(part));
        }
        sink.answer(|_| 200);
        assert!(run(&["enable", name]).await.status.success());
        assert_eq!(transship.get(&format!("/v1/subscriptions/{name}")).await["health"], "fine");
        let deliveries = json_of(&run(&["deliveries", name, "--output", "json"]).await);
        assert!(run(&["redeliver", name, deliveries[0]["id"].as_str().unwrap()]).await.status.success());
    }
    assert!(transship.log().contains("the subscription is disabled"));
}

struct Call<'a>(&'a Transship, &'a str);

impl Call<'_> {
    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Response {
        let Self(transship, token) = self;
        let mut request = reqwest::Client::new().request(method, format!("{}{path}", transship.url())).bearer_auth(token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        request.send().await.unwrap()
    }

    async fn json(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let response = self.send(method, path, &[], body).await;
        (response.status().as_u16(), response.json().await.unwrap_or(Value::Null))
    }

    async fn token(&self, role: &str, instances: Option<&[&str]>) -> String {
        let mut wanted = json!({ "name": "a test", "role": role });
        if let Some(instances) = instances {
            wanted["instances"] = json!(instances);
        }
        let (status, made) = self.json(Method::POST, "/v1/tokens", Some(wanted)).await;
        assert_eq!(status, 201, "{made}");
        made["token"].as_str().unwrap().to_owned()
    }
}

/// Would break: an operator of one instance who hears of another's; one who reaches the network that transship runs in, or finds out what
/// a secret is by having it sign; a viewer who reads a token in a URL; a change of what somebody else has changed meanwhile.
#[tokio::test]
async fn who_may_have_what_told_where_is_checked() {
    let mut transship = Transship::reserve();
    transship.set("TRANSSHIP_TOKEN", OWN);
    let instances = ["build", "prod", "third"].map(|name| instance(name, &format!("http://127.0.0.1:{}", free_port())));
    transship.start(&config(&instances, &[rule("all", BUILD, MIRROR, "")])).await;
    let own = Call(&transship, OWN);
    let tokens = [
        own.token("operator", None).await,
        own.token("operator", Some(&["build"])).await,
        own.token("viewer", None).await,
        own.token("operator", Some(&["third"])).await,
    ];
    let [operator, of_build, viewer, of_third] = tokens.each_ref().map(|token| Call(&transship, token));
    let path = "/v1/subscriptions/ci";
    let url = "https://ci.example.com/hook/s3cret?token=s3cret";
    let wanted = |instances: &[&str]| json!({ "instances": instances, "webhook": { "url": url } });

    // What can't be is refused with what is wrong.
    for (document, part) in [
        (json!({}), "webhook"),
        (json!({"webhook": {}}), "url: is missing"),
        (json!({"webhook": {"url": url}, "events": []}), "events"),
        (json!({"webhook": {"url": url}, "events": ["task.ended"]}), "no type of events"),
        (json!({"webhook": {"url": url}, "instances": ["nobody"]}), "no instance nobody"),
        (json!({"webhook": {"url": url}, "rules": ["build/none"]}), "no rule build/none"),
        (json!({"webhook": {"url": url}, "rules": ["build/all", "build/all"]}), "twice"),
        (json!({"webhook": {"url": url}, "name": "other"}), "keeps its name"),
        (json!({"webhook": {"url": url}, "colour": 1}), "colour"),
        (json!({"webhook": {"url": "http://ci.example.com/s3cret"}}), "in the clear"),
        (json!({"webhook": {"url": "https://127.0.0.1/s3cret"}}), "private addresses"),
        (json!({"webhook": {"url": "http://169.254.169.254/s3cret", "private_network": true}}), "metadata"),
        (json!({"webhook": {"url": url}, "description": "a\u{1b}[2J"}), "control character"),
        (json!({"webhook": {"url": "https://me:s3cret@ci.example.com/"}}), "user name"),
        (json!({"webhook": {"url": url, "secret": {"reference": "env:HOOK_SECRET"}}}), "configuration file"),
        (json!({"webhook": {"url": url, "secret": {"reference": "s3cret"}}}), "secretsmanager:NAME"),
    ] {
        let (status, problem) = own.json(Method::PUT, path, Some(document.clone())).await;
        assert!(status == 422 && problem["detail"].as_str().unwrap().contains(part), "{document}: {problem}");
        assert!(!problem.to_string().contains("s3cret"), "{problem} tells a secret");
    }
    let crooked = own.json(Method::PUT, path, Some(json!({"webhook": {"url": "http://ci.example.com/"}}))).await.1;
    assert_eq!(crooked["errors"][0]["pointer"], "#/webhook/url", "{crooked}");

    // Who may not see all instances has to name their own.
    assert_eq!(of_build.json(Method::PUT, path, Some(wanted(&[]))).await.0, 403);
    assert_eq!(of_build.json(Method::PUT, path, Some(wanted(&["prod"]))).await.0, 422);
    assert_eq!(viewer.json(Method::PUT, path, Some(wanted(&[]))).await.0, 403);
    for admin_only in [
        json!({"webhook": {"url": "http://127.0.0.1:9/", "private_network": true}}),
        json!({"webhook": {"url": url, "secret": {"reference": "secretsmanager:ci"}}}),
    ] {
        assert_eq!(operator.json(Method::PUT, path, Some(admin_only.clone())).await.0, 403, "{admin_only}");
        assert!([200, 201].contains(&own.json(Method::PUT, "/v1/subscriptions/admin", Some(admin_only)).await.0));
    }
    // The secret does not follow the URL to another place; who sends back what was shown changes nothing.
    let admins = "/v1/subscriptions/admin";
    let moved = json!({"webhook": {"url": "https://evil.example.com/"}});
    assert_eq!(operator.json(Method::PATCH, admins, Some(moved)).await.0, 403);
    let described = json!({"description": "changed by an operator"});
    let (status, shown) = operator.json(Method::PATCH, admins, Some(described)).await;
    assert!(status == 200 && shown["webhook"]["secret"]["from"] == "secretsmanager", "{shown}");

    let made = of_build.send(Method::PUT, path, &[("if-none-match", "*")], Some(wanted(&["build"]))).await;
    assert_eq!(made.status(), 201);
    assert_eq!(made.headers()["etag"], "\"1\"");
    assert_eq!(made.headers()["location"], path);
    let taken = of_build.send(Method::PUT, path, &[("if-none-match", "*")], Some(wanted(&["build"]))).await;
    assert_eq!(taken.status(), 412);
    let (status, shown) = viewer.json(Method::GET, path, None).await;
    assert!(status == 200 && shown["webhook"]["url"] == "https://ci.example.com/…", "{shown}");
    assert_eq!(of_build.json(Method::GET, path, None).await.1["webhook"]["url"], url);
    for (method, path) in [
        (Method::GET, path.to_owned()),
        (Method::DELETE, path.to_owned()),
        (Method::POST, format!("{path}/test")),
        (Method::POST, format!("{path}/enable")),
        (Method::GET, format!("{path}/deliveries")),
        (Method::POST, format!("{path}/deliveries/{}/redeliver", "0".repeat(28))),
    ] {
        assert_eq!(of_third.json(method.clone(), &path, None).await.0, 404, "{method} {path}");
        let expected = if method == Method::GET { 200 } else { 403 };
        assert_eq!(viewer.json(method.clone(), &path, None).await.0, expected, "{method} {path}");
    }
    assert!(of_third.json(Method::GET, "/v1/subscriptions", None).await.1["items"].as_array().unwrap().is_empty());

    let patch = json!({ "description": "mine", "events": null });
    let changed = of_build.send(Method::PATCH, path, &[("if-match", "\"1\"")], Some(patch.clone())).await;
    assert_eq!(changed.status(), 200);
    assert_eq!(changed.headers()["etag"], "\"2\"");
    let shown: Value = changed.json().await.unwrap();
    assert_eq!((&shown["description"], &shown["events"]), (&json!("mine"), &json!(["task.*"])));
    let late = of_build.send(Method::PATCH, path, &[("if-match", "\"1\"")], Some(patch)).await;
    assert_eq!(late.status(), 412);
    assert_eq!(of_build.json(Method::PATCH, path, Some(json!({"instances": []}))).await.0, 403, "it would hear of all");
    assert_eq!(of_build.send(Method::DELETE, path, &[("if-match", "\"1\"")], None).await.status(), 412);
    assert_eq!(of_build.json(Method::DELETE, path, None).await.0, 204);
    assert_eq!(of_build.json(Method::GET, path, None).await.0, 404);

    let (_, audit) = own.json(Method::GET, "/v1/audit", None).await;
    let actions: Vec<&str> = audit["items"].as_array().unwrap().iter().filter_map(|entry| entry["action"].as_str()).collect();
    for action in ["subscription.create", "subscription.change", "subscription.delete"] {
        assert!(actions.contains(&action), "{actions:?}");
    }
    assert!(!audit.to_string().contains("s3cret"), "the audit tells the token in a URL");
}

/// Would break: a subscription that nobody can silence because a rule that it names is gone; a secret of AWS's that can't be replaced by a
/// value, or that signs what somebody else hears.
#[tokio::test]
async fn a_subscription_outlives_its_rules_keeps_its_instances_and_has_a_secret_for_one_receiver() {
    let mut transship = Transship::reserve();
    transship.set("TRANSSHIP_TOKEN", OWN);
    transship.restart().await;
    let own = Call(&transship, OWN);
    let put = async |path: &str, document: Value| own.json(Method::PUT, path, Some(document)).await;
    for name in ["build", "prod"] {
        let endpoint = json!({ "endpoint": format!("https://{name}.example") });
        assert_eq!(put(&format!("/v1/instances/{name}"), endpoint).await.0, 201);
    }
    let rule = "/v1/instances/build/rules/all?start=false";
    let to_prod = json!({ "source": { "namespace": "team" }, "target": { "instance": "prod" } });
    assert_eq!(put(rule, to_prod).await.0, 201);
    let (path, url) = ("/v1/subscriptions/ci", "https://ci.example.com/hook");
    let reference = json!({ "reference": "secretsmanager:ci" });
    let wanted = json!({
        "instances": ["build"], "rules": ["build/all"], "webhook": { "url": url, "secret": reference },
    });
    assert_eq!(put(path, wanted).await.0, 201);

    // What it signs is for its receiver, whoever else names it.
    let elsewhere = json!({ "webhook": { "url": "https://other.example.com/", "secret": reference } });
    let (status, problem) = put("/v1/subscriptions/other", elsewhere).await;
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains("subscription ci"), "{problem}");
    let credentials = json!({ "username": "ci", "password": reference });
    let (status, problem) =
        put("/v1/instances/prod", json!({ "endpoint": "https://prod.example", "credentials": credentials })).await;
    assert_eq!(status, 409, "{problem}");
    let same_place = json!({ "webhook": { "url": "https://ci.example.com/another", "secret": reference } });
    assert_eq!(put("/v1/subscriptions/other", same_place).await.0, 201);

    let patch = async |document: Value| own.json(Method::PATCH, path, Some(document)).await;
    let (status, shown) = patch(json!({ "webhook": { "secret": { "value": "s3cret" } } })).await;
    assert_eq!((status, &shown["webhook"]["secret"]), (200, &json!({ "from": "stored" })), "{shown}");
    // Its use stays what it was, although nothing names it.
    assert_eq!(own.json(Method::DELETE, "/v1/subscriptions/other", None).await.0, 204);
    let elsewhere = json!({ "webhook": { "url": "https://other.example.com/", "secret": reference } });
    assert_eq!(put("/v1/subscriptions/other", elsewhere).await.0, 409);

    assert_eq!(own.json(Method::DELETE, "/v1/instances/build/rules/all", None).await.0, 204);
    let (status, problem) = own.json(Method::DELETE, "/v1/instances/build", None).await;
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains("by subscription ci"), "{problem}");
    let (status, shown) = patch(json!({ "enabled": false, "description": "two\nlines" })).await;
    assert_eq!((status, &shown["enabled"]), (200, &json!(false)), "{shown}");
    assert_eq!(patch(json!({ "rules": ["build/all", "build/new"] })).await.0, 422);
    assert_eq!(patch(json!({ "instances": ["prod"], "rules": [] })).await.0, 200);
    assert_eq!(own.json(Method::DELETE, "/v1/instances/build", None).await.0, 204);
    assert_eq!(patch(json!({ "instances": ["build"] })).await.0, 422, "it names it no more");
}
