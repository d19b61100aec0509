//! Making, changing and deleting.

use reqwest::Method;
use serde_json::{Value, json};
use transship_tests::*;

use crate::{bare, done, send, to_prod};

const BUILD: &str = "/v1/instances/build";
const RULE: &str = "/v1/instances/build/rules/release";

async fn two_instances(transship: &Transship) {
    for name in ["build", "prod"] {
        let endpoint = format!("https://{name}.example");
        done(transship, Method::PUT, &format!("/v1/instances/{name}"), json!({ "endpoint": endpoint })).await;
    }
}

/// Would break: a change that is not there after the next start; a revision that moves without a change, or does not with one; what is
/// shown and can't be sent back.
#[tokio::test]
async fn an_instance_is_made_read_replaced_patched_and_deleted() {
    let mut transship = bare().await;
    let wanted =
        json!({ "endpoint": "https://build.example", "kind": "harbor", "region": "eu-central-1", "webhook_auth": "none" });
    let made = send(&transship, Method::PUT, BUILD, Some(&wanted), &[("if-none-match", "*")]).await;
    assert_eq!((made.status, made.etag.as_deref()), (201, Some("\"1\"")), "{made:?}");
    let again = done(&transship, Method::PUT, BUILD, wanted).await;
    assert_eq!((again.status, again.etag.as_deref()), (200, Some("\"1\"")), "the same is no change");

    let patched = done(&transship, Method::PATCH, BUILD, json!({ "zone": "global", "region": null })).await;
    assert_eq!(patched.etag.as_deref(), Some("\"2\""));
    transship.restart().await;
    let shown = send(&transship, Method::GET, BUILD, None, &[]).await;
    let expected = json!({
        "name": "build", "endpoint": "https://build.example/", "kind": "harbor", "zone": "global", "webhook_auth": "none",
        "webhook": "/hooks/build", "revision": 2,
    });
    assert_eq!((shown.body.clone(), shown.etag.as_deref()), (expected, Some("\"2\"")));
    assert_eq!(send(&transship, Method::GET, BUILD, None, &[("if-none-match", "\"2\"")]).await.status, 304);

    let mut back = shown.body;
    back.as_object_mut().unwrap().retain(|key, _| !["webhook", "revision"].contains(&key.as_str()));
    assert_eq!(done(&transship, Method::PUT, BUILD, back).await.etag.as_deref(), Some("\"2\""), "sent back as it was shown");

    let stale = send(&transship, Method::DELETE, BUILD, None, &[("if-match", "\"1\"")]).await;
    assert_eq!(stale.status, 412, "{stale:?}");
    assert_eq!(send(&transship, Method::DELETE, BUILD, None, &[("if-match", "\"2\"")]).await.status, 204);
    assert_eq!(send(&transship, Method::GET, BUILD, None, &[]).await.status, 404);
    assert_eq!(send(&transship, Method::PATCH, BUILD, Some(&json!({})), &[]).await.status, 404);
}

/// Would break: of two people who change the same rule, one's change is lost without a word.
#[tokio::test]
async fn of_many_who_change_the_same_revision_one_succeeds() {
    let transship = bare().await;
    two_instances(&transship).await;
    done(&transship, Method::PUT, &format!("{RULE}?start=false"), to_prod()).await;
    let change = async |n: usize| {
        let patch = json!({ "description": format!("by {n}") });
        send(&transship, Method::PATCH, RULE, Some(&patch), &[("if-match", "\"1\"")]).await
    };
    let answers = futures_util::future::join_all((0..8).map(change)).await;
    let won: Vec<&Value> = answers.iter().filter(|answer| answer.status == 200).map(|answer| &answer.body).collect();
    assert_eq!((won.len(), answers.iter().filter(|answer| answer.status == 412).count()), (1, 7), "{answers:?}");
    assert_eq!(transship.get(RULE).await, *won[0]);
    assert_eq!(won[0]["revision"], 2);
    for (query, n) in [("target=prod&enabled=true", 1), ("enabled=false", 0), ("target=build", 0), ("limit=1", 1)] {
        let listed = transship.get(&format!("/v1/instances/build/rules?{query}")).await;
        assert_eq!(listed["items"].as_array().unwrap().len(), n, "{query}");
    }
}

/// Would break: a rule that names nothing; a message that does not say what is in the way.
#[tokio::test]
async fn an_instance_that_rules_name_stays_until_they_are_gone() {
    let transship = bare().await;
    two_instances(&transship).await;
    let nowhere = json!({ "source": { "namespace": "team" }, "target": { "instance": "none" } });
    let refused = send(&transship, Method::PUT, RULE, Some(&nowhere), &[]).await;
    assert_eq!((refused.status, &refused.body["errors"][0]["pointer"]), (422, &json!("#/target/instance")), "{refused:?}");
    done(&transship, Method::PUT, &format!("{RULE}?start=false"), to_prod()).await;
    for instance in ["build", "prod"] {
        let refused = send(&transship, Method::DELETE, &format!("/v1/instances/{instance}"), None, &[]).await;
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(refused.status == 409 && detail.contains("rule build/release"), "{refused:?}");
    }
    assert_eq!(send(&transship, Method::DELETE, RULE, None, &[]).await.status, 204);
    for instance in ["build", "prod"] {
        assert_eq!(send(&transship, Method::DELETE, &format!("/v1/instances/{instance}"), None, &[]).await.status, 204);
    }
}

/// Would break: whoever mends one mistake is told of the next; a password that stands in a wrong place is shown in an answer or a log.
#[tokio::test]
async fn all_mistakes_are_told_at_once_and_where_they_are() {
    let transship = bare().await;
    two_instances(&transship).await;
    let pointers = async |path: &str, document: &Value| {
        let answer = send(&transship, Method::PUT, path, Some(document), &[]).await;
        assert_eq!(answer.status, 422, "{document}: {answer:?}");
        assert!(!answer.body.to_string().contains("hunter2"), "{answer:?}");
        let errors = answer.body["errors"].as_array().unwrap();
        let mut pointers: Vec<String> = errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect();
        pointers.sort();
        pointers
    };
    let instance = json!({
        "name": "other", "endpoint": "https://ci:hunter2@build.example", "kind": "harbour", "region": "", "colour": "red",
        "credentials": { "username": "a:hunter2", "password": { "value": "" } },
        "webhook_secret": { "reference": "env:HUNTER" }, "token_realm": "nonsense", "ca": "file:/etc/passwd", "plain_http": "yes",
        "notify": { "url": "http://ci:hunter2@10.0.0.1/" },
    });
    let expected = [
        "#/ca",
        "#/colour",
        "#/endpoint",
        "#/kind",
        "#/name",
        "#/notify/url",
        "#/plain_http",
        "#/region",
        "#/token_realm",
        "#/webhook_secret/reference",
    ];
    assert_eq!(pointers(BUILD, &instance).await, expected);
    for (credentials, pointer) in [
        (json!({ "username": "a:hunter2", "password": { "value": "x" } }), "#/credentials/username"),
        (json!({ "username": "a", "password": "hunter2" }), "#/credentials/password"),
        (json!({ "username": "a", "password": { "value": "hun\nter2" } }), "#/credentials/password/value"),
        (json!({ "username": "a", "password": { "reference": "file:/hunter2" } }), "#/credentials/password/reference"),
        (json!({ "username": "a", "password": { "from": "stored" } }), "#/credentials/password/from"),
        (json!({ "username": "a" }), "#/credentials/password"),
        (json!({ "ecr": {} }), "#/credentials/ecr"),
        (json!({ "docker_config": true }), "#/credentials/docker_config"),
        (json!({ "ecr": {}, "refresh_token": { "value": "x" } }), "#/credentials"),
    ] {
        let instance = json!({ "endpoint": "https://build.example", "credentials": credentials });
        assert_eq!(pointers(BUILD, &instance).await, [pointer], "{credentials}");
    }
    let rule = json!({
        "description": "x".repeat(1001), "source": { "instance": "prod", "namespace": "No!", "repository": "(", "types": ["picture"] },
        "target": { "instance": "none", "namespace": "/" }, "overwrite": 1, "schedule": "daily", "enabled": null,
    });
    let expected = [
        "#/description",
        "#/overwrite",
        "#/schedule",
        "#/source/instance",
        "#/source/namespace",
        "#/source/repository",
        "#/source/types",
        "#/target/instance",
        "#/target/namespace",
    ];
    assert_eq!(pointers(RULE, &rule).await, expected);
    let own = json!({ "source": { "namespace": "team" }, "target": { "instance": "build" } });
    assert_eq!(pointers(RULE, &own).await, ["#/target"]);
    assert_eq!(transship.get("/v1/instances/build/rules").await, json!({ "items": [] }), "nothing was made");
    assert!(!transship.log().contains("hunter2"));
}

/// Would break: a text that paints over the terminal of who reads it; an authority that is none, and is noticed when nothing can be copied.
#[tokio::test]
async fn what_would_do_harm_where_it_is_shown_or_used_is_not_taken() {
    let transship = bare().await;
    two_instances(&transship).await;
    let with = |key: &str, value: &str| {
        let mut rule = to_prod();
        rule[key] = json!(value);
        rule
    };
    let instance = |key: &str, value: &str| json!({ "endpoint": "https://build.example", key: value });
    let nonsense = "-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n";
    let key = "-----BEGIN CERTIFICATE-----\nMAgwADAAAwIA/w==\n-----END CERTIFICATE-----\n\
               -----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for (path, document, pointer) in [
        (RULE, with("description", "\u{1b}]0;owned\u{7}"), "#/description"),
        (RULE, with("description", "\u{202e}dlrow"), "#/description"),
        (BUILD, instance("region", "eu\u{9b}2J"), "#/region"),
        (BUILD, instance("zone", "two\nlines"), "#/zone"),
        (BUILD, instance("ca", nonsense), "#/ca"),
        (BUILD, instance("ca", key), "#/ca"),
    ] {
        let refused = send(&transship, Method::PUT, path, Some(&document), &[]).await;
        assert_eq!((refused.status, &refused.body["errors"][0]["pointer"]), (422, &json!(pointer)), "{document}: {refused:?}");
        assert!(!refused.body.to_string().contains("hunter2"), "{refused:?}");
    }
    done(&transship, Method::PUT, &format!("{RULE}?start=false"), with("description", "two\n\tlines")).await;
}

/// Would break: somebody at a command line who is told of headers.
#[tokio::test]
async fn a_rule_that_is_there_is_replaced_by_who_says_so() {
    let transship = bare().await;
    two_instances(&transship).await;
    let file = transship.config_file().with_file_name("rule.json");
    std::fs::write(&file, to_prod().to_string()).unwrap();
    let create = async |more: &[&str]| {
        let file = file.to_str().unwrap();
        transship.run(&[&["rules", "create", "build/release", "--no-first-run", "-f", file], more].concat()).await
    };
    assert!(create(&["--replace"]).await.status.success(), "there is none to be replaced");
    let refused = create(&[]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--replace") && !said.contains("If-None-Match"), "{said}");
    let problem = send(&transship, Method::PUT, RULE, Some(&to_prod()), &[("if-none-match", "*")]).await;
    assert_eq!((problem.status, &problem.body["code"]), (412, &json!("exists")));
    let mut changed = to_prod();
    changed["overwrite"] = json!(true);
    std::fs::write(&file, changed.to_string()).unwrap();
    assert!(create(&["--replace"]).await.status.success());
    assert_eq!(transship.get(RULE).await["overwrite"], true);
}

/// Would break: a body that costs memory; one whose kind is not known.
#[tokio::test]
async fn a_body_that_is_no_small_json_document_is_refused() {
    let transship = bare().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}{BUILD}", transship.url());
    let large = json!({ "endpoint": "https://build.example", "region": "x".repeat(70_000) }).to_string();
    for (kind, body, status) in [
        ("application/json", "{", 400),
        ("application/json", "", 400),
        ("application/json", "[]", 422),
        ("application/json", large.as_str(), 413),
        ("text/plain", "{}", 415),
        ("application/json; charset=utf-8", r#"{"endpoint": "https://build.example"}"#, 201),
    ] {
        let response = http.put(&url).header("content-type", kind).body(body.to_owned()).send().await.unwrap();
        assert_eq!(response.status(), status, "{kind}: {body:.40}");
    }
}

/// Would break: a new rule that leaves what is there already; a run for each change of it; one that nobody wants.
#[tokio::test]
async fn a_new_rule_begins_with_a_full_run_unless_told_not_to() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    Image::random(1).build().push(&build.at("team/app", "v1")).await;
    let transship = bare().await;
    for (name, registry) in [("build", &build), ("prod", &prod)] {
        let instance = json!({ "endpoint": registry.url(), "kind": "distribution" });
        done(&transship, Method::PUT, &format!("/v1/instances/{name}"), instance).await;
    }
    let made = done(&transship, Method::PUT, RULE, to_prod()).await;
    let tasks = transship.ended("build/release", 1).await;
    assert_eq!((&tasks[0]["id"], &tasks[0]["trigger"]), (&made.body["first_run"], &json!("new rule")));
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
    for (patch, what) in [
        (json!({ "overwrite": true }), "changed"),
        (json!({ "enabled": false }), "disabled"),
        (json!({ "enabled": true }), "enabled again"),
    ] {
        let changed = done(&transship, Method::PATCH, RULE, patch).await;
        assert_eq!(changed.body.get("first_run"), None, "a rule that was {what}");
    }

    // One that is made disabled begins when it is enabled, for the first time.
    let at = |name: &str, query: &str| format!("/v1/instances/build/rules/{name}{query}");
    let mut later = to_prod();
    later["enabled"] = json!(false);
    assert_eq!(done(&transship, Method::PUT, &at("later", ""), later.clone()).await.body.get("first_run"), None);
    let enabled = done(&transship, Method::PATCH, &at("later", ""), json!({ "enabled": true })).await;
    assert_eq!(transship.ended("build/later", 1).await[0]["id"], enabled.body["first_run"]);

    // Or never, as its author wants.
    assert_eq!(done(&transship, Method::PUT, &at("quiet", "?start=false"), to_prod()).await.body.get("first_run"), None);
    done(&transship, Method::PATCH, &at("quiet", ""), json!({ "enabled": false })).await;
    let enabled = done(&transship, Method::PATCH, &at("quiet", ""), json!({ "enabled": true })).await;
    assert_eq!(enabled.body.get("first_run"), None);
    transship.quiet().await;
    assert_eq!((transship.tasks("build/release").await.len(), transship.tasks("build/quiet").await.len()), (1, 0));
}
