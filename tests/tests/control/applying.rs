//! `transship apply` through the API, and the commands for instances and rules.

use std::{fs, process::Output};

use reqwest::Method;
use serde_json::{Value, json};
use transship_tests::*;

use crate::{bare, done, send};

/// Runs `apply` on a file with this text.
async fn apply(transship: &Transship, config: &str, more: &[&str]) -> Output {
    let file = transship.data().join("to-apply.yaml");
    fs::write(&file, config).unwrap();
    transship.run(&[&["apply", "-f", file.to_str().unwrap()], more].concat()).await
}

fn lines(output: &Output) -> Vec<&str> {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap().lines().collect()
}

async fn task_count(transship: &Transship, rule: &str) -> usize {
    transship.quiet().await;
    transship.tasks(rule).await.len()
}

/// Would break: what a file says is not what is there afterwards; a second run that changes something; a plan that is not what is
/// done; what nobody has asked to delete is deleted.
#[tokio::test]
async fn apply_brings_the_api_to_what_the_file_says_and_shows_it_first() {
    let (build, prod) = (DockerRegistry::builder().login(ALICE).start().await, DockerRegistry::start().await);
    Image::random(1).build().push(&build.at("team/app", "v1")).await;
    let mut transship = Transship::reserve();
    transship.set("ALICE_PASSWORD", ALICE.password);
    transship.set("HOOK_SECRET", HOOK_SECRET);
    transship.restart().await;
    let kept = json!({ "endpoint": "https://by-hand.example" });
    done(&transship, Method::PUT, "/v1/instances/by-hand", kept).await;
    let with_login = format!(
        "  - {{ name: build, endpoint: '{}', kind: distribution, webhook_secret: 'env:HOOK_SECRET', credentials: {{ username: {}, \
         password: 'env:ALICE_PASSWORD' }} }}\n",
        build.url(),
        ALICE.user
    );
    let instances = [with_login, instance("prod", prod.url())];
    let mirror = |more: &str| rule("all", "instance: build, namespace: team", "instance: prod, namespace: mirror", more);
    let first = config(&instances, &[mirror("")]);

    let planned = apply(&transship, &first, &["--dry-run"]).await;
    let plan = ["+ instance build", "+ instance prod", "+ rule build/all"];
    assert_eq!(lines(&planned)[..3], plan);
    let summary = "3 to be created, 0 to be changed, 0 to be deleted, 0 unchanged; nothing was changed; 1 that the file does not name \
                   stay: --prune deletes them";
    assert_eq!(lines(&planned)[3], summary);
    assert_eq!(transship.get("/v1/instances").await["items"].as_array().unwrap().len(), 1, "--dry-run has changed something");

    let applied = apply(&transship, &first, &[]).await;
    assert_eq!(lines(&applied)[..3], plan);
    let tasks = transship.ended("build/all", 1).await;
    assert_eq!((&tasks[0]["trigger"], &tasks[0]["status"]), (&json!("new rule"), &json!("succeeded")), "{}", transship.log());
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;

    let before = transship.get("/v1/instances").await;
    let again = apply(&transship, &first, &[]).await;
    let summary = "0 created, 0 changed, 0 deleted, 3 unchanged; 1 that the file does not name stay: --prune deletes them; the secrets of \
                   2 that stay as they are were not sent again: --rotate sends them";
    assert_eq!(lines(&again), [summary]);
    assert_eq!(transship.get("/v1/instances").await, before, "a second run has changed something");

    let changed = apply(&transship, &config(&instances, &[mirror("overwrite: true")]), &["--prune"]).await;
    assert_eq!(lines(&changed)[..2], ["~ rule build/all", "- instance by-hand"]);
    let rotated = apply(&transship, &config(&instances, &[]), &["--rotate", "--prune"]).await;
    assert_eq!(lines(&rotated)[..3], ["~ instance build", "~ instance prod", "- rule build/all"]);
    assert_eq!(transship.get("/v1/instances/build").await["revision"], 2);

    let quiet = apply(&transship, &first, &["--no-first-run"]).await;
    assert_eq!(lines(&quiet)[0], "+ rule build/all");
    assert_eq!(task_count(&transship, "build/all").await, 0);
    assert!(!transship.log().contains(ALICE.password));
}

/// Would break: a file whose subscriptions are left out, made anew each time, or stay when they are to go.
#[tokio::test]
async fn subscriptions_are_brought_to_what_the_file_says_too() {
    let mut transship = Transship::reserve();
    transship.set("CI_SECRET", "whsec_c2VjcmV0");
    transship.restart().await;
    let with = |more: &str| {
        let webhook = "{ url: 'https://ci.example.com/transship', secret: env:CI_SECRET }";
        let subscription = format!("subscriptions:\n  - {{ name: ci, webhook: {webhook}{more} }}\n");
        config(&[bare_instance("build"), bare_instance("prod")], &[]) + &subscription
    };
    assert_eq!(lines(&apply(&transship, &with(""), &[]).await)[2], "+ subscription ci");
    let made = transship.get("/v1/subscriptions/ci").await;
    assert_eq!((&made["webhook"]["secret"], &made["events"]), (&json!({ "from": "stored" }), &json!(["task.*"])));
    let again = apply(&transship, &with(""), &[]).await;
    assert!(lines(&again)[0].starts_with("0 created, 0 changed, 0 deleted, 3 unchanged"), "{again:?}");
    assert_eq!(lines(&apply(&transship, &with(", events: [task.failed]"), &[]).await)[0], "~ subscription ci");
    assert_eq!(transship.get("/v1/subscriptions/ci").await["events"], json!(["task.failed"]));
    let pruned = apply(&transship, &config(&[bare_instance("build"), bare_instance("prod")], &[]), &["--prune"]).await;
    assert_eq!(lines(&pruned)[0], "- subscription ci");
    let listed = transship.get("/v1/subscriptions").await;
    assert_eq!(listed["items"], json!([]));
}

fn bare_instance(name: &str) -> String {
    format!("  - {{ name: {name}, endpoint: 'https://{name}.example', webhook_auth: none }}\n")
}

/// Would break: a file that is applied to what another file rules; a mistake that is told after half of it is done.
#[tokio::test]
async fn what_can_not_be_applied_is_said_before_anything_is_done() {
    let mut transship = Transship::reserve();
    transship.set("HOOK_SECRET", HOOK_SECRET);
    transship.start(&config(&[instance("build", "https://build.example")], &[])).await;
    let theirs = transship.config_file().display().to_string();
    let two = config(&[instance("build", "https://build.example"), instance("more", "https://more.example")], &[]);
    let refused = apply(&transship, &two, &[]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("instance build") && said.contains(&theirs) && said.contains("to-apply.yaml"), "{said}");
    let empty = apply(&transship, "# nothing\n", &["--prune"]).await;
    let said = String::from_utf8_lossy(&empty.stderr).into_owned();
    assert!(empty.status.code() == Some(1) && said.contains("names nothing") && said.lines().count() == 1, "{said}");
    let missing = two.replace("HOOK_SECRET", "NO_SUCH_VARIABLE").replace("build", "third");
    let refused = apply(&transship, &missing, &[]).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("NO_SUCH_VARIABLE"), "{refused:?}");
    assert_eq!(transship.get("/v1/instances").await["items"].as_array().unwrap().len(), 1);
}

/// Would break: a command that does something else than it says, or that does not say what was refused.
#[tokio::test]
async fn rules_and_instances_have_commands() {
    let transship = bare().await;
    for name in ["build", "prod"] {
        let instance = json!({ "endpoint": format!("https://{name}.example"), "region": "eu-central-1" });
        done(&transship, Method::PUT, &format!("/v1/instances/{name}"), instance).await;
    }
    let run = async |arguments: &[&str]| transship.run(arguments).await;
    let file = transship.data().join("rule.json");
    let file_name = file.to_str().unwrap();
    fs::write(&file, r#"{"source": {"namespace": "team"}, "target": {"instance": "prod", "namespace": "/"}}"#).unwrap();
    let create = ["rules", "create", "build/release", "-f", file_name, "--no-first-run"];
    let refused = run(&create).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("#/target/namespace: "), "{refused:?}");
    fs::write(&file, r#"{"source": {"namespace": "team"}, "target": {"instance": "prod"}}"#).unwrap();
    assert_eq!(lines(&run(&create).await), ["rule build/release is made"]);
    let again = run(&create).await;
    assert!(again.status.code() == Some(1) && String::from_utf8_lossy(&again.stderr).contains("--replace"), "{again:?}");

    assert_eq!(lines(&run(&["rules", "disable", "build/release"]).await), ["rule build/release is disabled"]);
    let listed = run(&["rules", "list"]).await;
    let row: Vec<&str> = lines(&listed)[1].split_whitespace().collect();
    assert_eq!(row, ["build/release", "build/team", "prod/team", "no", "-", "the", "API"]);
    assert_eq!(lines(&run(&["rules", "enable", "build/release"]).await), ["rule build/release is enabled"]);
    let shown: Value =
        serde_json::from_slice(&run(&["rules", "show", "build/release", "--output", "json"]).await.stdout).unwrap();
    assert_eq!((&shown["enabled"], &shown["revision"]), (&json!(true), &json!(3)));
    let listed: Value = serde_json::from_slice(&run(&["instances", "list", "--output", "json"]).await.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let shown = run(&["instances", "show", "build"]).await;
    assert!(lines(&shown).iter().any(|line| line.split_whitespace().eq(["region", "eu-central-1"])), "{shown:?}");
    let refused = run(&["instances", "delete", "prod"]).await;
    assert!(refused.status.code() == Some(1) && String::from_utf8_lossy(&refused.stderr).contains("rule build/release"));
    assert_eq!(lines(&run(&["rules", "delete", "build/release"]).await), ["rule build/release is deleted"]);
    assert_eq!(lines(&run(&["instances", "delete", "prod"]).await), ["instance prod is deleted"]);
    assert_eq!(send(&transship, Method::GET, "/v1/instances/prod", None, &[]).await.status, 404);
    assert_eq!(run(&["rules", "show", "build"]).await.status.code(), Some(2), "wrong usage");
}

/// Would break: a token in a file that is not sent; a file that goes before the environment, or the environment before an argument.
#[tokio::test]
async fn the_client_s_file_is_used_where_nothing_else_is_said() {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let mut transship = Transship::reserve();
    transship.set("TRANSSHIP_TOKEN", TOKEN);
    transship.restart().await;
    let home = transship.data().join("home");
    fs::create_dir_all(home.join("transship")).unwrap();
    fs::write(home.join("transship/token"), format!("{TOKEN}\n")).unwrap();
    let list = async |api: &str, variables: &[(&str, &str)], arguments: &[&str]| {
        fs::write(home.join("transship/config.yaml"), format!("api: {api}\ntoken_file: token\n")).unwrap();
        let mut command = transship.command(&[&["instances", "list", "--output", "json"], arguments].concat());
        command.env_remove("TRANSSHIP_API").env_remove("TRANSSHIP_TOKEN").env("XDG_CONFIG_HOME", &home);
        command.envs(variables.iter().copied());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap().status.code()
    };
    let (here, nowhere) = (transship.url(), "http://127.0.0.1:1");
    assert_eq!(list(&here, &[], &[]).await, Some(0));
    assert_eq!(list(nowhere, &[], &[]).await, Some(1));
    assert_eq!(list(nowhere, &[("TRANSSHIP_API", &here)], &[]).await, Some(0));
    assert_eq!(list(&here, &[("TRANSSHIP_API", nowhere)], &[]).await, Some(1));
    assert_eq!(list(&here, &[("TRANSSHIP_API", nowhere)], &["--api", &here]).await, Some(0));
    assert_eq!(list(&here, &[("TRANSSHIP_TOKEN", "another")], &[]).await, Some(1));
}
