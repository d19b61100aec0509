//! Who is let in, and what nobody gets to see.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::{fs, path::Path};

use reqwest::{RequestBuilder, header};
use serde_json::{Value, json};
use transship_tests::*;

const BUILD: &str = "instance: build, namespace: team";
const MIRROR: &str = "instance: prod, namespace: mirror";
const TOKEN: &str = "token-of-the-operator";

/// Would break: a path of the API that asks for no token; a webhook or a health check that asks for the API's.
#[tokio::test]
async fn with_a_token_the_api_answers_its_bearer_only() {
    let mut transship = Transship::reserve();
    transship.set("TRANSSHIP_TOKEN", TOKEN);
    transship.start(&all_of(&DockerRegistry::start().await, &DockerRegistry::start().await)).await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}{path}", transship.url());
    let paths = [
        "/v1/instances",
        "/v1/instances/build/rules",
        "/v1/instances/build/rules/all/tasks",
        "/v1/tasks/7",
        "/v1/none",
        "/",
        "/metrics",
    ];
    let mut requests: Vec<RequestBuilder> = paths.iter().map(|path| http.get(url(path))).collect();
    requests.push(http.post(url("/v1/instances/build/rules/all/sync")));
    for request in requests {
        let with = |value: &str| request.try_clone().unwrap().header(header::AUTHORIZATION, value);
        let wrong = [
            request.try_clone().unwrap(),
            with("Bearer wrong"),
            with("Bearer "),
            with(TOKEN),
            with(&format!("Basic {TOKEN}")),
            with(&format!("Bearer {HOOK_SECRET}")),
            with(&format!("Bearer {TOKEN}x")),
            request.try_clone().unwrap().query(&[("token", TOKEN)]),
        ];
        for wrong in wrong {
            let response = wrong.send().await.unwrap();
            let headers = response.headers().clone();
            assert_eq!((response.status().as_u16(), &headers["www-authenticate"]), (401, &"Bearer".parse().unwrap()));
            assert_eq!(headers["content-type"], "application/problem+json");
            let problem: Value = response.json().await.unwrap();
            assert!(problem["detail"].as_str().unwrap().contains("TRANSSHIP_TOKEN"), "{problem}");
        }
        let right = with(&format!("Bearer {TOKEN}")).header("x-forwarded-for", "192.0.2.1").send().await.unwrap();
        assert_ne!(right.status(), 401, "the token counts wherever its bearer is");
    }
    let answer = http.get(url("/v1/instances")).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["items"].as_array().unwrap().len(), 2);
    assert_eq!(http.get(url("/health")).send().await.unwrap().status(), 200);
    assert_eq!(transship.notify("build", &nothing()).await.status(), 200, "a sender needs its own secret only");
    let as_sender = http.post(transship.hook("build")).bearer_auth(TOKEN).body(nothing().to_string()).send().await.unwrap();
    assert_eq!(as_sender.status(), 401, "and the token is none");
    for path in ["/hooks", "/hooks/", "/hooks/nobody"] {
        let lost = http.post(url(path)).bearer_auth(HOOK_SECRET).body(nothing().to_string()).send().await.unwrap();
        assert_eq!(lost.status(), 401, "{path}");
        let said = lost.text().await.unwrap();
        assert!(said.contains("no such instance"), "a wrong path is not taken for a call of the API: {said}");
    }

    assert!(transship.run(&["tasks", "build/all"]).await.status.success(), "the commands send it");
    for token in ["wrong", ""] {
        let mut command = transship.command(&["tasks", "build/all"]);
        let output = command.env("TRANSSHIP_TOKEN", token).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(3) && said.lines().count() == 1 && said.contains("TRANSSHIP_TOKEN"), "{said}");
    }
}

/// Would break: a page in a browser, or a proxy on this machine, that speaks to the API for somebody else.
#[tokio::test]
async fn without_a_token_the_api_answers_this_machine_only() {
    let mut transship = Transship::reserve();
    transship.start(&all_of(&DockerRegistry::start().await, &DockerRegistry::start().await)).await;
    let http = reqwest::Client::new();
    for (name, value, status) in [
        ("accept", "application/json", 200),
        ("host", "localhost:8080", 200),
        ("host", "[::1]:8080", 200),
        ("host", "evil.example", 403),
        ("host", "localhost.evil.example:8080", 403),
        ("host", "127.0.0.1.evil.example", 403),
        ("x-forwarded-for", "192.0.2.1", 403),
        ("x-forwarded-for", "127.0.0.1", 403),
        ("forwarded", "for=192.0.2.1", 403),
        ("x-real-ip", "192.0.2.1", 403),
        ("via", "1.1 proxy", 403),
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
    ] {
        for request in [http.get(transship.url() + "/v1/instances"), http.get(transship.url() + "/v1/none")] {
            let response = request.header(name, value).send().await.unwrap();
            // What is not there is told to those who are let in.
            let wanted = if status == 200 && response.url().path().ends_with("none") { 404 } else { status };
            assert_eq!(response.status(), wanted, "{name}: {value}");
            if wanted == 403 {
                assert_eq!(response.headers()["content-type"], "application/problem+json");
                let problem: Value = response.json().await.unwrap();
                assert!(problem["detail"].as_str().unwrap().contains("TRANSSHIP_TOKEN"), "{problem}");
            }
        }
    }
    let sync = http.post(transship.url() + "/v1/instances/build/rules/all/sync").header("origin", "https://evil.example");
    assert_eq!(sync.send().await.unwrap().status(), 403);
    assert_eq!(transship.tasks("build/all").await, [] as [Value; 0], "and nothing has begun");

    // Notifications come from elsewhere, through proxies: their secret is what counts.
    let hook = http.post(transship.hook("build")).header("x-forwarded-for", "192.0.2.1").header("host", "transship.example");
    let response = hook.bearer_auth(HOOK_SECRET).body(nothing().to_string()).send().await.unwrap();
    assert_eq!(response.status(), 200);
}

/// Would break: a secret in the log, in an answer of the API, or on the disk, in clear or as HTTP sends it.
#[tokio::test]
async fn secrets_are_in_no_log_no_answer_and_not_in_the_store() {
    let bearer = format!("Bearer {HOOK_SECRET}");
    let mut transship = Transship::reserve();
    let build = DockerRegistry::builder().login(ALICE).notify(transship.hook("build"), &[("Authorization", &bearer)]);
    let (build, prod) = (build.start().await, DockerRegistry::builder().login(BOB).start().await);
    // The longest log is the one that says most.
    for (variable, value) in [("TRANSSHIP_TOKEN", TOKEN), ("TRANSSHIP_LOG", "trace"), ("ALICE_PASSWORD", ALICE.password)] {
        transship.set(variable, value);
    }
    let login = |name: &str, url: &str, login: Login| {
        let variable = format!("{}_PASSWORD", login.user.to_uppercase());
        let credentials = format!(", credentials: {{ username: {}, password: 'env:{variable}' }} }}\n", login.user);
        instance(name, url).replace(" }\n", &credentials)
    };
    let refused = login("refused", prod.url(), ALICE);
    let instances = [login("build", build.url(), ALICE), login("prod", prod.url(), BOB), refused];
    let rules = [rule("all", BUILD, MIRROR, ""), rule("bad", BUILD, "instance: refused, namespace: bad", "")];
    transship.start(&config(&instances, &rules)).await;

    // A push that succeeds for one rule and fails for the other, a sync, and notifications with right and wrong secrets.
    Image::random(1).layers(1, 10_000).build().push(&build.at("team/app", "v1")).await;
    let sync = transship.run(&["sync", "build/all", "--wait", "--output", "json"]).await;
    assert!(sync.status.success(), "{sync:?}");
    let failed = transship.run(&["sync", "build/bad", "--wait"]).await;
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let http = reqwest::Client::new();
    let in_path = http.post(format!("{}/{HOOK_SECRET}", transship.hook("build"))).body(nothing().to_string());
    assert_eq!(in_path.send().await.unwrap().status(), 200);
    for wrong in ["wrong-but-secret-too", &format!("{HOOK_SECRET}x")] {
        let response = http.post(format!("{}/{wrong}", transship.hook("build"))).body("{}").send().await.unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(http.get(transship.url() + "/v1/instances").bearer_auth(wrong).send().await.unwrap().status(), 401);
    }

    let mut seen = vec![("output".to_owned(), format!("{sync:?}{failed:?}").into_bytes())];
    let id = serde_json::from_slice::<Value>(&sync.stdout).unwrap()["id"].clone();
    let id = id.as_str().unwrap();
    for path in [
        "/v1/instances".to_owned(),
        "/v1/instances/build/rules".into(),
        "/v1/instances/build/rules/all/tasks".into(),
        "/v1/instances/build/rules/bad/tasks".into(),
        format!("/v1/tasks/{id}"),
        format!("/v1/tasks/{id}/resources"),
        "/health".into(),
    ] {
        let response = http.get(transship.url() + &path).bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        seen.push((path, response.bytes().await.unwrap().to_vec()));
    }
    // While it runs: what was just written is in the write-ahead log.
    files(&transship.data(), &mut seen);
    assert!(seen.iter().any(|(name, bytes)| name.starts_with('/') && contains(bytes, b"team/app")), "the store was looked at");
    transship.terminate().await;
    files(&transship.data(), &mut seen);
    let log = transship.log();
    assert!(log.contains("TRACE") && log.contains("a copy ended"), "the log was looked at");
    seen.push(("log".into(), log.into_bytes()));
    let basic = ["YWxpY2U6d29uZGVybGFuZA", "Ym9iOmNhcnBlbnRlcg"];
    for secret in [HOOK_SECRET, TOKEN, ALICE.password, BOB.password, "wrong-but-secret-too"].into_iter().chain(basic) {
        for (name, bytes) in &seen {
            assert!(!contains(bytes, secret.as_bytes()), "{secret} is in {name}: {}", around(bytes, secret));
        }
    }
}

/// A notification that tells of no push.
fn nothing() -> Value {
    json!({ "events": [] })
}

/// A configuration with the rule `build/all`.
fn all_of(build: &DockerRegistry, prod: &DockerRegistry) -> String {
    config(&[instance("build", build.url()), instance("prod", prod.url())], &[rule("all", BUILD, MIRROR, "")])
}

/// All files below a folder.
fn files(folder: &Path, seen: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, seen);
        } else {
            seen.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The line of a text that has the secret, for the message of a failed test.
fn around(bytes: &[u8], secret: &str) -> String {
    String::from_utf8_lossy(bytes).lines().find(|line| line.contains(secret)).unwrap_or_default().to_owned()
}
