//! Who may do what through the API, as `serve` has it: tokens, roles, the audit, and what every answer has.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use reqwest::{Method, Response};
use serde_json::{Value, json};
use transship_tests::*;

const BUILD: &str = "instance: build, namespace: team";
const MIRROR: &str = "instance: prod, namespace: mirror";
/// The deployment's own.
const OWN: &str = "token-of-the-deployment";

/// A deployment with the rule `build/all`, from one of its three instances to another, whose registries nobody answers for.
async fn deployment() -> Transship {
    let mut transship = Transship::reserve();
    transship.set("TRANSSHIP_TOKEN", OWN);
    let instances = ["build", "prod", "third"].map(|name| instance(name, &format!("http://127.0.0.1:{}", free_port())));
    transship.start(&config(&instances, &[rule("all", BUILD, MIRROR, "")])).await;
    transship
}

struct Call<'a>(&'a Transship, &'a str);

impl Call<'_> {
    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Response {
        let Self(transship, token) = self;
        let mut request = reqwest::Client::new().request(method, format!("{}{path}", transship.url()));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
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

    async fn get(&self, path: &str) -> (u16, Value) {
        self.json(Method::GET, path, None).await
    }

    /// A new token, and its ID.
    async fn token(&self, role: &str, instances: Option<&[&str]>) -> (String, String) {
        let mut wanted = json!({ "name": format!("{role} of {instances:?}"), "role": role });
        if let Some(instances) = instances {
            wanted["instances"] = json!(instances);
        }
        let (status, made) = self.json(Method::POST, "/v1/tokens", Some(wanted)).await;
        assert_eq!(status, 201, "{made}");
        (made["token"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned())
    }
}

/// Would break: an operation that says nothing of who may call it, or does not do what it says; a list or an answer that shows what
/// belongs to an instance that is not the caller's.
#[tokio::test]
async fn every_operation_asks_for_the_role_that_it_declares() {
    let transship = deployment().await;
    let own = Call(&transship, OWN);
    let document = Call(&transship, "").get("/v1/openapi.json").await.1;
    let (_, started) = own.json(Method::POST, "/v1/instances/build/rules/all/sync", None).await;
    let task = started["task"].as_str().unwrap().to_owned();
    wait_until("the task is in the log", Duration::from_secs(60), async || {
        own.get(&format!("/v1/tasks/{task}")).await.0 == 200
    })
    .await;
    let roles = ["viewer", "operator", "admin"];
    let mut tokens = Vec::new();
    for role in roles {
        for scope in [None, Some(&["build", "prod"][..]), Some(&["build"]), Some(&["third"])] {
            tokens.push((role, scope, own.token(role, scope).await.0));
        }
    }
    let mut checked = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{what} has no summary");
            let security = operation["security"].as_array().unwrap_or_else(|| panic!("{what} says nothing of who may call it"));
            if security == &[json!({})] {
                checked.insert(what);
                continue;
            }
            let declared =
                security.iter().find_map(|one| one["token"][0].as_str()).unwrap_or_else(|| panic!("{what}: no role"));
            let needed = roles.iter().position(|role| *role == declared).unwrap_or_else(|| panic!("{what}: {declared}"));
            assert!(security.iter().any(|one| one["aws"] == json!([declared])), "{what}: not for callers of AWS");
            let method: Method = method.to_uppercase().parse().unwrap();
            // A body for those that want one; what it says is wrong for all of them.
            let body = operation.get("requestBody").map(|_| json!({ "no such field": true }));
            let fill = |token: &str| {
                let known = [("instance", "build"), ("rule", "all"), ("task", &task), ("token", token), ("secret", "webhook")];
                known.iter().fold(path.clone(), |path, (name, value)| path.replace(&format!("{{{name}}}"), value))
            };
            let anybody = Call(&transship, "").json(method.clone(), &fill("0000000000000000"), body.clone()).await;
            assert_eq!(anybody.0, 401, "{what} without a token: {}", anybody.1);
            for (role, scope, token) in &tokens {
                // One that may be revoked.
                let victim = own.token("viewer", Some(&["build"])).await.1;
                let call = Call(&transship, token);
                let (status, answer) = call.json(method.clone(), &fill(&victim), body.clone()).await;
                let who = format!("{what} by {role} of {scope:?}: {status} {answer}");
                let is_high_enough = roles.iter().position(|known| known == role).unwrap() >= needed;
                let sees_build = scope.is_none_or(|names| names.contains(&"build"));
                let is_about_build = ["{instance}", "{task}", "{token}"].iter().any(|part| path.contains(part));
                if !is_high_enough {
                    assert_eq!(status, 403, "{who}");
                    assert!(answer["detail"].as_str().unwrap().contains(&format!("the role {declared}")), "{who}");
                } else if is_about_build && !sees_build {
                    assert_eq!(status, 404, "{who}");
                } else if scope.is_none() {
                    // Of these there is none.
                    let is_there = !["{subscription}", "{preview}"].iter().any(|part| path.contains(part));
                    assert!(![401, 403].contains(&status) && (status != 404 || !is_there), "{who}");
                }
                if status < 300 && !sees_build {
                    assert!(!answer.to_string().contains("\"build\""), "{who}");
                }
                assert!(status < 500, "{who}");
            }
            checked.insert(what);
        }
    }
    for known in
        ["get /v1/instances", "post /v1/instances/{instance}/rules/{rule}/sync", "delete /v1/tokens/{token}", "get /v1/audit"]
    {
        assert!(checked.contains(known), "{known} is not in the document");
    }
    // A rule takes the role for both its ends.
    for (role, scope, token) in &tokens {
        let sync = Call(&transship, token).json(Method::POST, "/v1/instances/build/rules/all/sync", None).await.0;
        let wanted = match (*role, *scope) {
            ("viewer", _) => 403,
            (_, None) => 202,
            (_, Some(names)) if names.contains(&"prod") => 202,
            (_, Some(names)) if names.contains(&"build") => 403,
            _ => 404,
        };
        assert_eq!(sync, wanted, "{role} of {scope:?}");
        let audit = Call(&transship, token).get("/v1/audit").await.0;
        assert_eq!(audit, if *role == "admin" && scope.is_none() { 200 } else { 403 }, "{role} of {scope:?}");
    }
}

/// Would break: a token with which its maker gets at more than they have; a list that tells of tokens that can do more.
#[tokio::test]
async fn a_token_can_do_no_more_than_who_makes_it() {
    let transship = deployment().await;
    let own = Call(&transship, OWN);
    let (some, some_id) = own.token("admin", Some(&["build", "third"])).await;
    let (_, all_id) = own.token("viewer", None).await;
    let some = Call(&transship, &some);
    for (wanted, status) in [
        (json!({ "role": "admin", "instances": ["build"] }), 201),
        (json!({ "role": "viewer", "instances": ["third", "build"] }), 201),
        (json!({ "role": "viewer" }), 403),
        (json!({ "role": "viewer", "instances": ["build", "prod"] }), 422),
        (json!({ "role": "viewer", "instances": ["nowhere"] }), 422),
        (json!({ "role": "viewer", "instances": [] }), 422),
        (json!({ "role": "king", "instances": ["build"] }), 422),
        (json!({ "role": "viewer", "instances": ["build"], "expires": "2020-01-01T00:00:00Z" }), 422),
        (json!({ "role": "viewer", "instances": ["build"], "expires": "soon" }), 422),
        (json!({ "role": "viewer", "instances": ["build"], "expiry": "2099-01-01T00:00:00Z" }), 422),
    ] {
        let mut wanted = wanted;
        wanted["name"] = json!("a test");
        let (answered, answer) = some.json(Method::POST, "/v1/tokens", Some(wanted.clone())).await;
        assert_eq!(answered, status, "{wanted}: {answer}");
    }
    let seen: BTreeSet<String> =
        some.get("/v1/tokens").await.1["items"].as_array().unwrap().iter().map(|t| t["id"].as_str().unwrap().into()).collect();
    assert!(seen.len() == 3 && seen.contains(&some_id) && !seen.contains(&all_id), "{seen:?}");
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(some.json(method, &format!("/v1/tokens/{all_id}"), None).await.0, 404);
    }
    let mut pages = Vec::new();
    let mut path = "/v1/tokens?limit=1".to_owned();
    loop {
        let (_, page) = some.get(&path).await;
        pages.extend(page["items"].as_array().unwrap().iter().map(|t| t["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/tokens?limit=1&cursor={next}");
    }
    assert_eq!(pages.iter().cloned().collect::<BTreeSet<_>>(), seen, "page by page");
    assert_eq!(pages.len(), seen.len());
}

/// Would break: a token that works after it was revoked; an answer that tells an unknown token from a wrong, expired or revoked one; a
/// log that does not; a token in a log, on the disk or in an answer but its first.
#[tokio::test]
async fn refused_tokens_look_the_same_from_outside_and_are_kept_nowhere() {
    let transship = deployment().await;
    let own = Call(&transship, OWN);
    let expires = "2999-01-01T00:00:00Z";
    let wanted = json!({ "name": "a test", "role": "viewer", "expires": expires });
    let response = own.send(Method::POST, "/v1/tokens", &[], Some(wanted)).await;
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let made: Value = response.json().await.unwrap();
    let (token, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert_eq!((location.as_str(), &made["expires"]), (format!("/v1/tokens/{id}").as_str(), &json!(expires)));
    assert_eq!(Call(&transship, token).get("/v1/instances").await.0, 200);
    let (_, shown) = own.get(&location).await;
    assert_eq!((&shown["status"], shown.get("token")), (&json!("active"), None), "{shown}");
    assert!(shown["last_used"].is_string(), "{shown}");

    assert_eq!(own.json(Method::DELETE, &location, None).await.0, 204);
    assert_eq!(own.json(Method::DELETE, &location, None).await.0, 204, "once more is no mistake");
    let mut answers = BTreeSet::new();
    for wrong in [token, "wrong", &token.replace("tsh_", "tsh"), &format!("{}0", &token[..token.len() - 1]), ""] {
        let response = Call(&transship, wrong).send(Method::GET, "/v1/instances", &[("x-request-id", "same")], None).await;
        let challenge = response.headers()["www-authenticate"].to_str().unwrap().to_owned();
        answers.insert((response.status().as_u16(), challenge, response.text().await.unwrap()));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers.first().unwrap().0, 401);
    let log = transship.log();
    assert!(log.contains("it has been revoked") && log.contains("it is no API token") && log.contains(id), "{log}");
    assert_eq!(own.get(&location).await.1["status"], "revoked");
    let secret = token.rsplit('_').next().unwrap();
    assert!(!log.contains(secret));
    for file in std::fs::read_dir(transship.data()).unwrap().flatten().filter(|file| file.path().is_file()) {
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{:?}", file.path());
    }
}

/// Would break: a change that is in no audit, or without who, from where and by which request.
#[tokio::test]
async fn what_is_changed_is_in_the_audit() {
    let transship = deployment().await;
    let own = Call(&transship, OWN);
    let (token, id) = own.token("operator", None).await;
    let operator = Call(&transship, &token);
    let sync = operator.send(Method::POST, "/v1/instances/build/rules/all/sync", &[("x-request-id", "req-7")], None).await;
    assert_eq!(sync.headers()["x-request-id"], "req-7");
    let task = sync.json::<Value>().await.unwrap()["task"].as_str().unwrap().to_owned();
    assert_eq!(own.json(Method::DELETE, &format!("/v1/tokens/{id}"), None).await.0, 204);

    let (_, audit) = own.get("/v1/audit").await;
    let rows: Vec<Value> =
        audit["items"].as_array().unwrap().iter().map(|e| json!([e["who"], e["action"], e["what"]])).collect();
    let who = format!("token:{id}");
    let wanted = [
        json!(["deployment", "token.revoke", id]),
        json!([who, "rule.sync", "build/all"]),
        json!(["deployment", "token.create", id]),
    ];
    assert_eq!(rows, wanted);
    let entry = &audit["items"][1];
    assert_eq!((&entry["request"], &entry["from"]), (&json!("req-7"), &json!("127.0.0.1")), "{entry}");
    assert!(entry["details"].as_str().unwrap().contains(&task), "{entry}");
    let (_, his) = own.get(&format!("/v1/audit?who={who}&since={}", entry["at"].as_str().unwrap())).await;
    assert_eq!(his["items"].as_array().unwrap().len(), 1, "{his}");
    let (status, wrong) = own.get("/v1/audit?since=yesterday").await;
    assert!(status == 400 && wrong["detail"].as_str().unwrap().contains("since"), "{wrong}");

    let said = transship.run(&["audit", "--since", "1h", "--output", "json"]).await;
    assert_eq!(serde_json::from_slice::<Value>(&said.stdout).unwrap(), audit["items"]);
    let table = String::from_utf8(transship.run(&["audit"]).await.stdout).unwrap();
    assert!(table.contains("rule.sync") && table.contains(&who), "{table}");
}

/// Would break: a run that is started twice because an answer was lost on its way.
#[tokio::test]
async fn a_sync_that_is_sent_again_starts_nothing() {
    let transship = deployment().await;
    let own = Call(&transship, OWN);
    let sync = async |call: &Call<'_>, key: &str, path: &str| {
        let response = call.send(Method::POST, path, &[("idempotency-key", key)], None).await;
        let replayed = response.headers().contains_key("idempotency-replayed");
        let location = response.headers().get("location").cloned();
        (response.status().as_u16(), location, replayed, response.json::<Value>().await.unwrap())
    };
    let path = "/v1/instances/build/rules/all/sync";
    let first = sync(&own, "key-1", path).await;
    assert_eq!((first.0, first.2), (202, false));
    let again = sync(&own, "\"key-1\"", path).await;
    assert_eq!(again, (202, first.1.clone(), true, first.3.clone()));
    assert_eq!(sync(&own, "key-1", "/v1/instances/build/rules/all/sync?x=1").await.0, 422, "another request");
    let (token, _) = own.token("admin", None).await;
    let other = sync(&Call(&transship, &token), "key-1", path).await;
    assert!(other.0 == 202 && other.3 != first.3, "another caller's key is another key");
    assert_eq!(sync(&own, "key 1", path).await.0, 400);
    // What failed has started nothing, and may be sent again.
    for _ in 0..2 {
        assert_eq!(sync(&own, "key-2", "/v1/instances/build/rules/none/sync").await.0, 404);
    }
    let many = futures_util::future::join_all((0..8).map(|_| sync(&own, "key-3", path))).await;
    let started: BTreeSet<String> = many.iter().filter(|a| a.0 == 202).map(|a| a.3["task"].to_string()).collect();
    assert_eq!(started.len(), 1, "eight at once start one: {many:?}");
    assert!(many.iter().all(|answer| [202, 409].contains(&answer.0)), "{many:?}");
}

/// Would break: an answer that can't be found in the log, or that a cache keeps for somebody else; a request without a bound.
#[tokio::test]
async fn every_answer_has_an_id_and_every_request_a_limit() {
    let transship = deployment().await;
    let own = Call(&transship, OWN);
    for (path, sent, kept) in [
        ("/v1/instances", "abc-1", true),
        ("/v1/none", "abc-2", true),
        ("/v1/instances", "two words", false),
        ("/v1/instances", &"x".repeat(129), false),
    ] {
        let response = own.send(Method::GET, path, &[("x-request-id", sent)], None).await;
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(id == sent, kept, "{path} {sent}");
        assert!(!id.is_empty());
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body.get("request").is_some_and(|request| *request == id), body.get("status").is_some(), "{body}");
    }
    let options = own.send(Method::OPTIONS, "/v1/tokens", &[], None).await;
    assert_eq!(options.status(), 204);
    let allowed: BTreeSet<&str> = options.headers()["allow"].to_str().unwrap().split(',').map(str::trim).collect();
    assert_eq!(allowed, BTreeSet::from(["GET", "HEAD", "POST"]));
    let head = own.send(Method::HEAD, "/v1/tokens", &[], None).await;
    assert_eq!((head.status().as_u16(), head.bytes().await.unwrap().len()), (200, 0));
    let long = own.get(&format!("/v1/instances?cursor={}", "x".repeat(9000))).await;
    assert_eq!(long.0, 414, "{}", long.1);
    let large = json!({ "name": "x".repeat(2 << 20) });
    let (status, answer) = own.json(Method::POST, "/v1/tokens", Some(large)).await;
    assert_eq!(status, 413, "{answer}");
    let form = own.send(Method::POST, "/v1/tokens", &[("content-type", "text/plain")], None).await;
    assert_eq!(form.status(), 415);
}

/// Would break: a command line with which the first token can't be made, or a token not be used or revoked.
#[tokio::test]
async fn tokens_by_command() {
    let transship = deployment().await;
    let made =
        transship.run(&["tokens", "create", "the ci", "--role", "operator", "--instance", "build", "--expires", "90d"]).await;
    assert!(made.status.success(), "{made:?}");
    let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    assert!(token.starts_with("tsh_") && token.len() == 93, "only the token is on standard output: {token}");
    let id = &token[4..20];
    let tasks = transship.command(&["tasks", "build/all"]).env("TRANSSHIP_TOKEN", &token).output().unwrap();
    assert!(tasks.status.success(), "{tasks:?}");
    let list = String::from_utf8(transship.run(&["tokens", "list"]).await.stdout).unwrap();
    assert!(list.contains(id) && list.contains("the ci") && list.contains("operator") && list.contains("active"), "{list}");
    let more = transship.command(&["tokens", "create", "more"]).env("TRANSSHIP_TOKEN", &token).output().unwrap();
    assert_eq!(more.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&more.stderr).contains("this needs the role admin"), "{more:?}");
    assert!(transship.run(&["tokens", "revoke", &token]).await.status.success(), "its ID is taken of it");
    assert!(transship.run(&["tokens", "revoke", id]).await.status.success(), "once more is no mistake");
    let refused = transship.command(&["tasks", "build/all"]).env("TRANSSHIP_TOKEN", &token).output().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = transship.run(&["completions", shell]).await;
        assert!(script.status.success() && String::from_utf8_lossy(&script.stdout).contains("tokens"), "{shell}");
        if shell == "bash" {
            // As a shell does for `transship subscriptions de` and a tabulator.
            let complete = "source /dev/stdin; COMP_WORDS=(transship subscriptions de); COMP_CWORD=2; \
                            _transship transship de subscriptions; echo ${COMPREPLY[@]}";
            let mut bash = std::process::Command::new("bash");
            let mut bash = bash.args(["-c", complete]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            std::io::Write::write_all(&mut bash.stdin.take().unwrap(), &script.stdout).unwrap();
            let offered = bash.wait_with_output().unwrap().stdout;
            assert_eq!(String::from_utf8(offered).unwrap(), "delete deliveries delivery\n");
        }
    }
}

/// Would break: an admin of one instance who has transship speak to what is in its own network, or to a metadata service; one who learns of
/// another's rules by a warning, or is told that there are none; a token that is for what somebody else makes under an old name.
#[tokio::test]
async fn who_has_one_instance_has_no_more_than_that() {
    let mut transship = Transship::reserve();
    transship.set("TRANSSHIP_TOKEN", OWN);
    transship.restart().await;
    let own = Call(&transship, OWN);
    let done = async |call: &Call<'_>, method: Method, path: &str, body: Value| {
        let (status, answer) = call.json(method, path, Some(body)).await;
        assert!((200..300).contains(&status), "{path}: {answer}");
        answer
    };
    for name in ["build", "prod", "third"] {
        let endpoint = json!({ "endpoint": format!("https://{name}.example") });
        done(&own, Method::PUT, &format!("/v1/instances/{name}"), endpoint).await;
    }
    let (token, alone) = own.token("admin", Some(&["build"])).await;
    let of_build = Call(&transship, &token);
    let (token, both) = own.token("operator", Some(&["build", "prod"])).await;
    let of_both = Call(&transship, &token);

    let near = |url: &str| json!({ "notify": { "url": url, "private_network": true } });
    let build = "/v1/instances/build";
    let receiver = "http://10.1.2.3/hook";
    assert_eq!(of_build.json(Method::PATCH, build, Some(near(receiver))).await.0, 403);
    done(&own, Method::PATCH, build, near(receiver)).await;
    done(&of_build, Method::PATCH, build, json!({ "zone": "eu" })).await;
    assert_eq!(of_build.json(Method::PATCH, build, Some(near("http://10.1.2.4/hook"))).await.0, 403);
    for (wrong, pointer) in [
        (near("http://169.254.169.254/latest"), "#/notify/url"),
        (json!({ "endpoint": "http://169.254.170.2", "plain_http": true }), "#/endpoint"),
        (json!({ "token_realm": "https://[fd00:ec2::254]/token" }), "#/token_realm"),
    ] {
        let (status, problem) = own.json(Method::PATCH, build, Some(wrong.clone())).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)), "{wrong}: {problem}");
    }

    let rule = |namespace: &str| json!({ "source": { "namespace": namespace }, "target": { "instance": "prod", "namespace": "mirror" } });
    done(&own, Method::PUT, "/v1/instances/third/rules/hidden?start=false", rule("x")).await;
    let path = "/v1/instances/build/rules/all";
    let made = done(&of_both, Method::PUT, &format!("{path}?start=false"), rule("team")).await;
    let warnings = made["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{made}");
    assert!(warnings[0].as_str().unwrap().contains("a rule of an instance that is not yours"), "{made}");
    assert!(!made.to_string().contains("hidden") && !made.to_string().contains("third"), "{made}");
    let seen = own.get(path).await.1;
    assert!(seen["warnings"][0].as_str().unwrap().contains("third/hidden"), "{seen}");
    let shown = transship.run(&["rules", "show", "build/all"]).await;
    let said = String::from_utf8_lossy(&shown.stderr);
    assert!(said.contains("warning: rule build/all may write") && said.contains("third/hidden"), "{said}");
    let listed = own.get("/v1/instances/build/rules").await.1;
    assert_eq!(listed["items"][0].get("warnings"), None, "{listed}");

    let what = json!({ "instance": "build", "repository": "team/app", "tag": "v1" });
    let told = done(&of_build, Method::POST, "/v1/explain", what.clone()).await;
    assert!(told["summary"].as_str().unwrap().contains("1 lead to instances that are not yours"), "{told}");
    let told = done(&of_both, Method::POST, "/v1/explain", what).await;
    assert!(!told["summary"].as_str().unwrap().contains("not yours"), "{told}");

    assert_eq!(own.json(Method::DELETE, path, None).await.0, 204);
    assert_eq!(of_build.json(Method::DELETE, build, None).await.0, 204);
    done(&own, Method::PUT, build, json!({ "endpoint": "https://another.example" })).await;
    assert_eq!(of_build.get(build).await.0, 401);
    assert_eq!((of_both.get(build).await.0, of_both.get("/v1/instances/prod").await.0), (404, 200));
    assert_eq!(own.get(&format!("/v1/tokens/{both}")).await.1["instances"], json!(["prod"]));
    let (_, audit) = own.get("/v1/audit").await;
    let rows: Vec<Value> = audit["items"].as_array().unwrap().iter().map(|e| json!([e["action"], e["what"]])).collect();
    for row in [json!(["token.revoke", alone]), json!(["token.change", both])] {
        assert!(rows.contains(&row), "{row}: {rows:?}");
    }
}
