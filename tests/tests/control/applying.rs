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

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
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

    let told = |done: bool| {
        let entries = [("instance", "build"), ("instance", "prod"), ("rule", "build/all")];
        let changes = entries.map(|(what, name)| json!({ "change": "create", "what": what, "name": name, "done": done }));
        json!({ "dry_run": !done, "changes": changes, "unchanged": 0, "left": 1 })
    };
    assert_eq!(json_of(&apply(&transship, &first, &["--dry-run", "--output", "json"]).await), told(false));

    let applied = apply(&transship, &first, &["--output", "json"]).await;
    assert_eq!(json_of(&applied), told(true));
    let tasks = transship.ended("build/all", 1).await;
    assert_eq!((&tasks[0]["trigger"], &tasks[0]["status"]), (&json!("new rule"), &json!("succeeded")), "{}", transship.log());
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;

    let before = transship.get("/v1/instances").await;
    let again = apply(&transship, &first, &[]).await;
    let summary = "0 created, 0 changed, 0 deleted, 3 unchanged; 1 that the file does not name stay: --prune deletes them; the secrets of \
                   2 that stay as they are were not sent again: --rotate sends them";
    assert_eq!(lines(&again), [summary]);
    assert_eq!(String::from_utf8_lossy(&again.stderr), "3 unchanged\n", "told before it begins");
    assert_eq!(transship.get("/v1/instances").await, before, "a second run has changed something");

    let both = config(&instances, &[mirror(""), mirror("").replace("name: all", "name: same")]);
    let warned = apply(&transship, &both, &["--no-first-run"]).await;
    let said = String::from_utf8_lossy(&warned.stderr);
    assert!(said.contains("warning: rule build/same may write") && said.contains("build/all"), "{said}");

    let changed = apply(&transship, &config(&instances, &[mirror("overwrite: true")]), &["--prune"]).await;
    assert_eq!(lines(&changed)[..2], ["~ rule build/all", "- rule build/same"]);
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
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("#/target/namespace: "), "{refused:?}");
    fs::write(&file, r#"{"source": {"namespace": "team"}, "target": {"instance": "prod"}}"#).unwrap();
    assert_eq!(said(&run(&create).await), "rule build/release is made\n");
    let again = run(&create).await;
    assert!(
        again.status.code() == Some(3) && said(&again).contains("there is rule build/release already: --replace"),
        "{again:?}"
    );

    assert_eq!(said(&run(&["rules", "disable", "build/release"]).await), "rule build/release is disabled\n");
    let listed = run(&["rules", "list"]).await;
    let row: Vec<&str> = lines(&listed)[1].split_whitespace().collect();
    assert_eq!(row, ["build/release", "build/team", "prod/team", "no", "-", "the", "API"]);
    assert_eq!(said(&run(&["rules", "enable", "build/release"]).await), "rule build/release is enabled\n");
    let shown: Value =
        serde_json::from_slice(&run(&["rules", "show", "build/release", "--output", "json"]).await.stdout).unwrap();
    assert_eq!((&shown["enabled"], &shown["revision"]), (&json!(true), &json!(3)));
    let listed: Value = serde_json::from_slice(&run(&["instances", "list", "--output", "json"]).await.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let shown = run(&["instances", "show", "build"]).await;
    assert!(lines(&shown).iter().any(|line| line.split_whitespace().eq(["region", "eu-central-1"])), "{shown:?}");
    let refused = run(&["instances", "delete", "prod"]).await;
    assert!(refused.status.code() == Some(3) && said(&refused).contains("rule build/release"));
    assert_eq!(said(&run(&["rules", "delete", "build/release"]).await), "rule build/release is deleted\n");
    assert_eq!(said(&run(&["instances", "delete", "prod"]).await), "instance prod is deleted\n");
    assert_eq!(send(&transship, Method::GET, "/v1/instances/prod", None, &[]).await.status, 404);
    assert_eq!(run(&["rules", "show", "build"]).await.status.code(), Some(2), "wrong usage");
}

/// What a command said on standard error, having printed nothing else.
#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Would break: a change that has to be made by hand-written requests; a file that one command reads and another does not; a secret that
/// is printed, or that stays when it is taken away; what scripts read of a change.
#[tokio::test]
async fn instances_rules_and_their_secrets_are_made_and_changed_by_commands() {
    let mut transship = bare().await;
    transship.set("PROD_PASSWORD", "a-password-of-prod");
    let file = transship.data().join("one.yaml");
    let file_name = file.to_str().unwrap();
    let json = |output: &Output| serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let run = async |document: &str, arguments: &[&str]| {
        fs::write(&file, document).unwrap();
        transship.run(arguments).await
    };
    let create = ["instances", "create", "-f", file_name];
    let made = run("name: build\nendpoint: https://build.example\nwebhook_auth: none\n", &create).await;
    assert_eq!((made.status.code(), said(&made).as_str()), (Some(0), "instance build is made\n"));
    let prod = "name: prod\nendpoint: https://prod.example\ncredentials: { username: ci, password: env:PROD_PASSWORD }\n";
    let made = json(&run(prod, &[&create[..], &["--output", "json"]].concat()).await);
    assert_eq!((&made["name"], &made["credentials"]["password"]), (&json!("prod"), &json!({ "from": "stored" })));
    let again = run(prod, &create).await;
    assert!(again.status.code() == Some(3) && said(&again).contains("--replace"), "{again:?}");
    assert!(run(prod, &[&create[..], &["--replace"]].concat()).await.status.success());

    let changed = run("region: eu-central-1\n", &["instances", "change", "prod", "-f", file_name, "--output", "json"]).await;
    assert_eq!((&json(&changed)["region"], &json(&changed)["credentials"]["username"]), (&json!("eu-central-1"), &json!("ci")));
    let moved = run("endpoint: https://elsewhere.example\n", &["instances", "change", "prod", "-f", file_name]).await;
    assert!(said(&moved).contains("has lost its secrets for credentials"), "{moved:?}");
    let set = ["instances", "set-secret", "prod", "credentials", "--username", "ci", "--secret", "env:PROD_PASSWORD"];
    assert_eq!(said(&transship.run(&set).await), "instance prod has a secret for credentials now\n");
    let mut by_hand = transship.command(&["instances", "set-secret", "build", "webhook", "--output", "json"]);
    fs::write(&file, "a-secret-of-the-hook\n").unwrap();
    let by_hand = by_hand.stdin(fs::File::open(&file).unwrap()).output().unwrap();
    assert_eq!(json(&by_hand)["webhook_secret"], json!({ "from": "stored" }));
    let kept = || crate::secrets::files(&transship.data().join("secrets")).len();
    assert_eq!(kept(), 2, "a password and a webhook's secret");
    let empty = transship.run(&["instances", "set-secret", "build", "webhook"]).await;
    assert!(empty.status.code() == Some(1) && said(&empty).contains("--secret"), "{empty:?}");
    assert!(transship.run(&["instances", "delete-secret", "build", "webhook"]).await.status.success());
    assert_eq!(kept(), 1);

    // A rule by the forms in which a configuration file has it, and by JSON.
    let create = ["rules", "create", "build/release", "-f", file_name, "--no-first-run", "--output", "json"];
    let entry = "name: release\nsource: { instance: build, namespace: team }\ntarget: { instance: prod }\n";
    assert_eq!(json(&run(entry, &create).await)["revision"], 1);
    let replace = [&create[..], &["--replace"]].concat();
    let replaced =
        run(r#"{"source": {"namespace": "team"}, "target": {"instance": "prod"}, "overwrite": true}"#, &replace).await;
    assert_eq!((&json(&replaced)["overwrite"], &json(&replaced)["revision"]), (&json!(true), &json!(2)));
    let change = ["rules", "change", "build/release", "-f", file_name];
    let changed = run("source: { tag: 'v.*' }\nschedule: '0 3 * * *'\n", &change).await;
    assert_eq!((changed.status.code(), said(&changed).as_str()), (Some(0), "rule build/release is changed\n"));
    let shown = json(&transship.run(&["rules", "show", "build/release", "--output", "json"]).await);
    assert_eq!((&shown["source"]["tag"], &shown["source"]["namespace"]), (&json!("v.*"), &json!("team")));
    let wrong = run("- a list\n", &change).await;
    assert!(said(&wrong).starts_with(&format!("{file_name}:1:1: keys and values are needed")), "{wrong:?}");
    let none = transship.run(&["rules", "show", "build/none"]).await;
    assert!(none.status.code() == Some(4) && said(&none).contains("`transship rules list build` lists them"), "{none:?}");

    let document = json(&transship.run(&["openapi"]).await);
    assert!(document["openapi"].is_string());
    let token = transship.run(&["tokens", "create", "ci"]).await;
    let token = std::str::from_utf8(&token.stdout).unwrap().trim();
    let shown = transship.run(&["tokens", "show", token]).await;
    assert!(lines(&shown)[1].starts_with(&format!(" {}", &token[4..20])), "{shown:?}");
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
    assert_eq!(list(nowhere, &[], &[]).await, Some(5));
    assert_eq!(list(nowhere, &[("TRANSSHIP_API", &here)], &[]).await, Some(0));
    assert_eq!(list(&here, &[("TRANSSHIP_API", nowhere)], &[]).await, Some(5));
    assert_eq!(list(&here, &[("TRANSSHIP_API", nowhere)], &["--api", &here]).await, Some(0));
    assert_eq!(list(&here, &[("TRANSSHIP_TOKEN", "another")], &[]).await, Some(3));
}
