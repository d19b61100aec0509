//! The commands as people and scripts use them: what they print and where, and the exit status.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test needs and does not get is its failure")]

use std::{
    net::TcpListener,
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use transship_tests::*;

const BUILD: &str = "instance: build, namespace: team";
const MIRROR: &str = "instance: prod, namespace: mirror";

/// Would break: a page of repositories or tags that is left out; a task that ends too early; fields that scripts rely on.
#[tokio::test]
async fn sync_wait_brings_all_pages_and_scripts_read_the_outcome() {
    // Three pages of tags, and more repositories than one step of a scan takes.
    let bulk = Bulk::new("team", 12, 110);
    let (build, prod) = (DockerRegistry::builder().filled(bulk.clone()).start().await, DockerRegistry::start().await);
    let mut transship = Transship::reserve();
    transship.start(&two(&build, &prod, "")).await;

    let output = transship.run(&["sync", "build/all", "--wait", "--output", "json"]).await;

    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let task = json_of(&output);
    let n = bulk.len() as u64;
    assert_eq!([&task["instance"], &task["rule"], &task["trigger"], &task["status"]], ["build", "all", "by hand", "succeeded"]);
    let counts = &task["counts"];
    assert_eq!([&task["total"], &counts["found"], &counts["copied"]].map(Value::as_u64), [Some(n); 3], "{task}");
    assert_eq!([&counts["unchanged"], &counts["skipped"], &counts["failed"]].map(Value::as_u64), [Some(0); 3], "{task}");
    assert_eq!((task["repositories"].as_u64(), task["success_rate"].as_f64()), (Some(12), Some(1.0)));
    assert!(task["seconds"].as_f64().unwrap() > 0.0);
    assert_in_order(&task, &["created", "started", "ended"]);
    for repository in bulk.repositories() {
        let mirrored = repository.replace("team/", "mirror/");
        assert_eq!(prod.client().tags(&mirrored).await, bulk.tags(), "{mirrored}");
    }

    let id = task["id"].as_str().unwrap();
    let shown = json_of(&transship.run(&["task", id, "--output", "json", "--limit", "5000"]).await);
    assert_eq!(shown["task"], task, "every command shows a task alike");
    let resources = shown["resources"].as_array().unwrap();
    assert_eq!(resources.len() as u64, n);
    for resource in resources {
        let [source, target] = [&resource["source"], &resource["target"]];
        assert_eq!([&source["instance"], &target["instance"]], ["build", "prod"]);
        let (repository, tag) = (source["repository"].as_str().unwrap(), source["reference"].as_str().unwrap());
        assert_eq!(target["repository"], json!(repository.replace("team/", "mirror/")));
        assert_eq!(target["reference"], tag);
        assert_eq!(resource["digest"], json!(bulk.manifest(repository, tag).digest), "{repository}:{tag}");
        assert_eq!([&resource["state"], &resource["outcome"], &resource["type"]], ["done", "copied", "image"]);
        assert_eq!(resource["attempts"], 1);
        assert_in_order(resource, &["queued", "started", "ended"]);
    }
    let sum = |name: &str| resources.iter().map(|resource| resource[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(
        ["bytes_moved", "bytes_mounted", "bytes_present"].map(|n| Some(sum(n))),
        ["bytes_moved", "bytes_mounted", "bytes_present"].map(|n| counts[n].as_u64())
    );

    // By default people get a table, and are told of what it leaves out.
    let output = transship.run(&["task", id]).await;
    assert_eq!(text(&output.stdout).lines().filter(|line| line.contains("build/team/repo-")).count(), 1000);
    assert_eq!(text(&output.stderr), "and 320 more: --limit shows them\n");
}

/// Would break: the exit status that scripts rely on; a failure that is not shown, or only in the log of `serve`.
#[tokio::test]
async fn a_failed_resource_fails_the_command_and_is_shown() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let target = Proxy::start(prod.url(), |request| {
        let denied = r#"{"errors":[{"code":"DENIED","message":"the quota is used up"}]}"#;
        if request.is("PUT", "mirror/bad/manifests") { Action::status(403, &[], denied) } else { Action::Pass }
    })
    .await;
    for repository in ["team/good", "team/bad"] {
        Image::random(1).layers(1, 1_000).build().push(&build.at(repository, "v1")).await;
    }
    let mut transship = Transship::reserve();
    let instances = [instance("build", build.url()), instance("prod", target.url())];
    transship.start(&config(&instances, &[rule("all", BUILD, MIRROR, "")])).await;

    let output = transship.run(&["sync", "build/all", "--wait"]).await;

    assert_eq!(output.status.code(), Some(1));
    let out = text(&output.stdout);
    assert!(out.contains("status        partly failed") && out.contains("success rate  50 %"), "{out}");
    assert!(out.contains("1 copied, 1 failed"), "{out}");
    assert!(out.contains("the quota is used up") && !out.contains("team/good:v1"), "only what failed is listed: {out}");
    let id = transship.ended("build/all", 1).await[0]["id"].as_str().unwrap().to_owned();
    let why =
        format!("transship: task {id} partly failed: 1 of 2 resources failed; `transship tasks retry {id}` makes them again\n");
    assert_eq!(text(&output.stderr), why);
    assert_eq!(transship.run(&["task", &id, "--follow"]).await.status.code(), Some(1), "following tells how it ended");
    assert_eq!(transship.run(&["task", &id]).await.status.code(), Some(0), "showing a failed task is no failure");
    let json = transship.run(&["sync", "build/all", "--wait", "--output", "json"]).await;
    assert_eq!((json.status.code(), &json_of(&json)["status"]), (Some(1), &json!("partly-failed")));
}

/// Would break: the log of a rule in its order and columns; digests that make a table wider than any screen.
#[tokio::test]
async fn tasks_lists_what_pushes_and_people_have_triggered_in_lines_that_can_be_read() {
    let mut transship = Transship::reserve();
    let (build, prod) = (transship.registry("build").await, DockerRegistry::start().await);
    transship.start(&two(&build, &prod, "overwrite: true")).await;
    let none = transship.run(&["tasks", "build/all"]).await;
    assert_eq!((none.status.code(), text(&none.stdout), text(&none.stderr)), (Some(0), "", "there are no such tasks\n"));
    let image = Image::random(1).layers(1, 5_000).build();
    image.push(&build.at("team/app", "v1")).await;
    transship.ended("build/all", 1).await;
    let signature = image.digest().as_tag(".sig");
    cosign_signature(&image).push(&build.at("team/app", &signature)).await;
    transship.ended("build/all", 2).await;
    let id = text(&transship.run(&["sync", "build/all"]).await.stdout).trim().to_owned();
    transship.ended("build/all", 3).await;

    let output = transship.run(&["tasks", "build/all"]).await;

    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    let columns: Vec<&str> = lines[0].split_whitespace().collect();
    let wanted = "TASK RULE STATUS TRIGGER CREATED TIME SUCCESS REPOSITORIES RESOURCES MOVED";
    assert_eq!(columns, wanted.split(' ').collect::<Vec<_>>());
    assert_eq!(lines.len(), 4, "{lines:#?}");
    let triggers = ["by hand", &format!("attachment team/app:{}….sig", &signature.as_str()[..19]), "push team/app:v1"];
    for (line, trigger) in lines[1..].iter().zip(triggers) {
        assert!(line.contains(trigger) && line.contains("succeeded") && line.contains("100 %"), "{line} is not {trigger}");
    }
    assert!(lines[1].contains(&id), "the newest first, by the ID that sync has printed");
    assert!(lines.iter().all(|line| line.chars().count() <= 200), "{lines:#?}");
    let one = transship.run(&["tasks", "build/all", "--limit", "1"]).await;
    assert_eq!(text(&one.stdout).lines().count(), 2);
    let all = json_of(&transship.run(&["tasks", "build/all", "--output", "json"]).await);
    assert_eq!((all.as_array().unwrap().len(), &all[0]["id"]), (3, &json!(id)));
    assert_eq!(all[1]["trigger"], json!(format!("attachment team/app:{signature}")), "scripts get whole names");

    let attachment = all[1]["id"].as_str().unwrap();
    let output = transship.run(&["task", attachment]).await;
    let row = text(&output.stdout).lines().last().unwrap();
    assert!(row.contains("….sig") && row.contains("copied") && row.chars().count() <= 200, "{row}");
}

/// Would break: following that shows nothing until the end, that draws bars into a file, or that ends before the task.
#[tokio::test]
async fn following_a_running_task_shows_plain_lines_where_there_is_no_terminal() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let gate = Gate::new();
    let held = gate.clone();
    let image = Image::random(1).layers(1, 3 << 20).build();
    image.push(&build.at("team/app", "v1")).await;
    let large = image.largest_blob().to_string();
    let source = Proxy::start(build.url(), move |request| {
        if request.is("GET", &large) { Action::HoldBody(1 << 20, held.clone()) } else { Action::Pass }
    })
    .await;
    let mut transship = Transship::reserve();
    let instances = [instance("build", source.url()), instance("prod", prod.url())];
    transship.start(&config(&instances, &[rule("all", BUILD, MIRROR, "")])).await;
    let id = text(&transship.run(&["sync", "build/all"]).await.stdout).trim().to_owned();
    gate.reached(1).await;

    let lines = tempfile::NamedTempFile::new().unwrap();
    let mut command = transship.command(&["task", &id, "--follow"]);
    let follow = command.stdout(Stdio::piped()).stderr(lines.reopen().unwrap()).spawn().unwrap();
    let said = || std::fs::read_to_string(lines.path()).unwrap();
    wait_until("a line of progress", Duration::from_secs(30), async || said().contains("3.00 MiB, 1 to go\n")).await;
    gate.open();
    let output = tokio::task::spawn_blocking(|| follow.wait_with_output().unwrap()).await.unwrap();

    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("status        succeeded"), "{output:?}");
    let said = said();
    assert!(said.lines().all(|line| line.starts_with("build/all: ")), "{said}");
    assert!(!said.contains(['\r', '\u{1b}']), "no control characters: {said:?}");
}

/// Would break: copying by hand, in each of its endings.
#[tokio::test]
async fn copy_says_in_one_line_what_it_did_or_why_not() {
    let (one, two, transship) = (DockerRegistry::start().await, DockerRegistry::start().await, Transship::reserve());
    let (old, new) = (Index::random(1).layers(1, 9_000).build(), Image::random(2).layers(1, 9_000).build());
    old.push(&one.at("team/app", "v1")).await;
    cosign_signature(&old).push(&one.at("team/app", old.digest().as_tag(".sig"))).await;
    new.push(&one.at("team/new", "v1")).await;
    let (source, target) = (one.at("team/app", "v1").to_string(), two.at("mirror/app", "v1").to_string());

    let copied = transship.run(&["copy", &source, &target]).await;
    assert_eq!(copied.status.code(), Some(0), "{copied:?}");
    let line = text(&copied.stdout);
    assert!(line.starts_with(&format!("copied {} in ", old.digest())) && line.ends_with(", 1 attachment\n"), "{line}");
    assert_eq!((line.lines().count(), text(&copied.stderr)), (1, ""));
    assert_same(&one.at("team/app", "v1"), &two.at("mirror/app", "v1")).await;
    assert!(two.at("mirror/app", old.digest().as_tag(".sig")).find_manifest().await.is_some());

    // Without a tag at the target, it is the source's.
    let again = transship.run(&["copy", &source, target.trim_end_matches(":v1"), "--output", "json"]).await;
    let json = json_of(&again);
    assert_eq!((again.status.code(), &json["outcome"], &json["digest"]), (Some(0), &json!("unchanged"), &json!(old.digest())));
    assert_eq!(json["bytes_moved"], 0);

    let newer = one.at("team/new", "v1").to_string();
    let kept = transship.run(&["copy", &newer, &target]).await;
    assert_one_line(&kept, &[old.digest().as_str(), "--overwrite"]);
    assert_eq!(two.at("mirror/app", "v1").manifest().await.digest, *old.digest());
    let kept = transship.run(&["copy", &newer, &target, "--output", "json"]).await;
    assert_eq!((kept.status.code(), &json_of(&kept)["outcome"]), (Some(1), &json!("exists")));

    let replaced = transship.run(&["copy", &newer, &target, "--overwrite"]).await;
    assert_eq!(replaced.status.code(), Some(0), "{replaced:?}");
    assert_eq!(two.at("mirror/app", "v1").manifest().await.digest, *new.digest());

    let by_digest = one.at("team/app", old.digest()).to_string();
    let copied = transship.run(&["copy", &by_digest, &two.at("by", "digest").to_string()]).await;
    assert_eq!(copied.status.code(), Some(0), "{copied:?}");
    assert_same(&one.at("team/app", "v1"), &two.at("by", "digest")).await;
}

/// Would break: a repository that is copied in part and said to be whole; a tag that is left, and not named.
#[tokio::test]
async fn copy_all_tags_says_what_became_of_each() {
    let (one, two, transship) = (DockerRegistry::start().await, DockerRegistry::start().await, Transship::reserve());
    for n in 1..=3 {
        let image = Image::random(n).layers(1, 9_000).build();
        image.push(&one.at("team/app", format!("v{n}"))).await;
        cosign_signature(&image).push(&one.at("team/app", image.digest().as_tag(".sig"))).await;
    }
    let other = Image::random(9).layers(1, 9_000).build();
    other.push(&two.at("mirror/app", "v2")).await;
    let (source, target) = (format!("{}/team/app", one.host()), format!("{}/mirror/app", two.host()));
    let all = async |more: &[&str]| transship.run(&[&["copy", "--all-tags", &source, &target], more].concat()).await;

    let kept = all(&["--no-referrers"]).await;
    assert_eq!(kept.status.code(), Some(1), "{kept:?}");
    let line = text(&kept.stdout);
    assert!(line.starts_with("3 tags in ") && line.contains(": 2 copied, 0 unchanged, 1 left as they are; "), "{line}");
    assert!(text(&kept.stderr).starts_with("v2: the target has ") && text(&kept.stderr).contains("--overwrite"), "{kept:?}");
    assert_eq!(two.client().tags("mirror/app").await, ["v1", "v2", "v3"]);

    let copied = all(&["--overwrite", "--output", "json"]).await;
    let json = json_of(&copied);
    assert_eq!((copied.status.code(), &json["copied"], &json["unchanged"]), (Some(0), &json!(1), &json!(2)), "{copied:?}");
    assert_eq!((&json["attachments"], &json["tags"][1]["tag"]), (&json!(3), &json!("v2")));
    for n in 1..=3 {
        assert_same(&one.at("team/app", format!("v{n}")), &two.at("mirror/app", format!("v{n}"))).await;
    }

    for (source, target) in [(format!("{source}:v1"), target.clone()), (source.clone(), format!("{target}@sha256:12"))] {
        let refused = transship.run(&["copy", "--all-tags", &source, &target]).await;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    }
    let nothing = transship.run(&["copy", "--all-tags", &format!("{}/team/none", one.host()), &target]).await;
    assert_one_line(&nothing, &["team/none", "no such repository"]);
    let refused = transship.run(&["copy", "--all-tags", &format!("{source}:v1"), &target]).await;
    assert_one_line(&refused, &["--all-tags copies repositories", "team/app:v1", "leave that out"]);
}

/// Would break: a mistake that is answered with a riddle, a usage page or a panic.
#[tokio::test]
async fn copy_refuses_what_is_not_there_or_no_reference() {
    let (one, transship) = (DockerRegistry::start().await, Transship::reserve());
    let (host, nobody) = (one.host(), format!("127.0.0.1:{}", free_port()));
    let target = format!("{host}/mirror/app:v1");
    for (source, target, parts) in [
        (format!("{host}/team/none:v1"), target.clone(), &[host, "team/none", "v1", "not there"][..]),
        (format!("{nobody}/team/app:v1"), target.clone(), &[&nobody, "Connection refused"]),
        (format!("{host}/Team/App:v1"), target.clone(), &["the source", "Team/App"]),
        (format!("{host}/team/app:bad tag"), target.clone(), &["the source", "bad tag"]),
        (String::new(), target.clone(), &["the source"]),
        (format!("docker://{host}/team/app:v1"), target.clone(), &["without docker://"]),
        (format!("ftp://{host}/team/app"), target.clone(), &["the source", "http:// and https://"]),
        (format!("{host}/team/app@sha256:12"), target.clone(), &["the source", "sha256:12"]),
        (target.clone(), format!("{host}/"), &["the target", "is not a reference"]),
    ] {
        let output = transship.run(&["copy", &source, &target]).await;
        assert_one_line(&output, parts);
    }
    assert_eq!(transship.run(&["copy", "only-one"]).await.status.code(), Some(2), "clap's status for a wrong usage");
}

/// Would break: mistakes that come one at a time, or without the place that an editor jumps to.
#[tokio::test]
async fn check_names_every_mistake_with_its_place() {
    let transship = Transship::reserve();
    let check = async |text: &str| {
        std::fs::write(transship.config_file(), text).unwrap();
        transship.run(&["check", "--config", transship.config_file().to_str().unwrap()]).await
    };
    let file = transship.config_file().display().to_string();
    let bad = "instances:\n  - { name: Build, endpoint: 'https://a.example' }\nrules:\n  - name: r\n    sorce: {}\n";
    let output = check(bad).await;
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""));
    let lines: Vec<&str> = text(&output.stderr).lines().collect();
    assert!(lines.iter().all(|line| line.starts_with(&format!("{file}:"))), "{lines:#?}");
    for part in [":2:13: ", ":5:5: ", "did you mean 'source'?", "the key 'target' is missing"] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part} in {lines:#?}");
    }

    let scripts = transship.run(&["check", "--config", &file, "--output", "json"]).await;
    assert_eq!(scripts.status.code(), Some(1));
    let mistakes = &json_of(&scripts)["mistakes"];
    assert_eq!(mistakes.as_array().unwrap().len(), lines.len(), "{mistakes}");
    assert_eq!((&mistakes[0]["file"], &mistakes[0]["line"], &mistakes[0]["column"]), (&json!(file), &json!(2), &json!(13)));
    assert!(mistakes[0]["message"].as_str().unwrap().contains("Build"), "{mistakes}");

    let output = check(&two_at("https://a.example", "https://b.example", "")).await;
    assert_eq!(output.status.code(), Some(0), "a secret that is missing here may be there where it runs");
    assert_eq!(text(&output.stdout), format!("{file}: 2 instances, 1 rule, no mistakes\n"));
    let warnings = text(&output.stderr);
    assert!(warnings.starts_with(&format!("{file}: warning: instance 'build': webhook_secret: ")), "{warnings}");
    let scripts = json_of(&transship.run(&["check", "--config", &file, "--output", "json"]).await);
    assert_eq!((&scripts["mistakes"], &scripts["instances"], &scripts["rules"]), (&json!([]), &json!(2), &json!(1)));
    let warning = &scripts["warnings"][0];
    assert_eq!((&warning["line"], warning["message"].as_str().unwrap().contains("webhook_secret")), (&Value::Null, true));

    std::fs::remove_file(transship.config_file()).unwrap();
    let output = transship.run(&["check", "--config", &file]).await;
    assert_one_line(&output, &[&file, "No such file"]);
    assert_eq!(text(&output.stderr).matches("No such file").count(), 1);
}

/// Would break: a process that starts although it can't work, or that ends without saying what to mend.
#[tokio::test]
async fn serve_refuses_to_start_with_one_clear_line() {
    let mut running = Transship::reserve();
    running.start(&two_at("https://a.example", "https://b.example", "")).await;
    let other = tempfile::tempdir().unwrap();
    let data = other.path().join("data");
    let file = other.path().join("sync.yaml");
    let (data, file) = (data.to_str().unwrap(), file.to_str().unwrap());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, free) = (taken.local_addr().unwrap().to_string(), format!("127.0.0.1:{}", free_port()));
    let good = two_at("https://a.example", "https://b.example", "");
    let good = good.replace("webhook_secret: 'env:HOOK_SECRET'", "webhook_auth: none");
    let secret = good.replacen("webhook_auth: none", "webhook_secret: 'env:NO_SUCH_VARIABLE'", 1);
    let locked = running.data();
    for (config, data, listen, parts) in [
        (good.replace("namespace: mirror", "namespace: Mirror"), data, &free, &[file, ":5:", "Mirror"][..]),
        (secret, data, &free, &["NO_SUCH_VARIABLE", "instance 'build'", file]),
        (good.clone(), data, &taken, &[&taken, "--listen", "in use"]),
        (good.clone(), locked.to_str().unwrap(), &free, &[locked.to_str().unwrap(), &running.pid().to_string()]),
        (good, "/dev/null/x", &free, &["/dev/null/x"]),
    ] {
        std::fs::write(file, config).unwrap();
        let output = running.run(&["serve", "--data", data, "--config", file, "--listen", listen]).await;
        assert_one_line(&output, parts);
    }
    assert_eq!(running.get("/health").await["status"], "ok", "the one that runs is not disturbed");
}

/// Would break: an end that loses what it was doing, or that a service manager takes for a crash.
#[tokio::test]
async fn sigterm_ends_serve_in_order_and_the_work_goes_on_at_the_next_start() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let gate = Gate::new();
    let held = gate.clone();
    let source =
        Proxy::start(
            build.url(),
            move |request| {
                if request.is("GET", "/blobs/") { Action::Hold(held.clone()) } else { Action::Pass }
            },
        )
        .await;
    Image::random(1).layers(2, 10_000).build().push(&build.at("team/app", "v1")).await;
    let mut transship = Transship::reserve();
    let instances = [instance("build", source.url()), instance("prod", prod.url())];
    transship.start(&config(&instances, &[rule("all", BUILD, MIRROR, "")])).await;
    transship.run(&["sync", "build/all"]).await;
    gate.reached(1).await;

    let status = transship.terminate().await;

    assert_eq!(status.code(), Some(0), "{}", transship.log());
    assert!(transship.log().trim_end().ends_with("stopping: what is not finished goes on at the next start"));
    gate.open();
    transship.restart().await;
    let tasks = transship.ended("build/all", 1).await;
    assert_eq!(tasks[0]["status"], "succeeded");
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
}

/// Would break: help that does not name what a command needs.
#[tokio::test]
async fn help_names_what_each_command_takes() {
    let transship = Transship::reserve();
    for (command, parts) in [
        ("", &["demo", "serve", "check", "apply", "instances", "rules", "tasks", "task", "sync", "copy", "--log-format"][..]),
        ("apply", &["--config <FILE>", "--api <URL>", "--table <NAME>", "--prune", "--dry-run", "--rotate", "--no-first-run"]),
        ("instances", &["list", "show", "delete"]),
        ("rules", &["list", "show", "create", "enable", "disable", "delete"]),
        ("demo", &["two registries in this process"]),
        ("serve", &["--data <DIR>", "--config <FILE>", "--listen <ADDR>", "127.0.0.1:8080", "--workers <N>", "--no-first-run"]),
        ("serve", &["--keep-tasks <DAYS>", "TRANSSHIP_KEEP_TASKS"]),
        ("check", &["--config <FILE>", "every mistake"]),
        (
            "tasks",
            &["[INSTANCE/RULE]", "list", "show", "cancel", "retry", "--status <STATUS>", "--since <TIME>", "--limit <N>"],
        ),
        ("tasks", &["--output <FORMAT>", "--api <URL>", "TRANSSHIP_API"]),
        ("task", &["<ID>", "--follow", "--limit <N>", "exit status is 1", "--api <URL>"]),
        ("sync", &["<INSTANCE/RULE>", "--wait", "exit status is 1", "--api <URL>"]),
        (
            "copy",
            &[
                "<SRC>",
                "<DST>",
                "--overwrite",
                "--all-tags",
                "--no-referrers",
                "--ca <FILE>",
                "HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]",
                "http://",
                "docker login",
            ],
        ),
    ] {
        let arguments: Vec<&str> = [command, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
        let output = transship.run(&arguments).await;
        let help = text(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(output.status.code(), Some(0));
        for part in parts {
            assert!(help.contains(part), "{part:?} is not in the help of {command:?}: {help}");
        }
    }
}

/// Would break: a network error in the words of a library, or a wrong name that is answered with nothing to go on.
#[tokio::test]
async fn what_the_api_can_not_do_is_one_line() {
    let mut transship = Transship::reserve();
    let port = transship.url().rsplit(':').next().unwrap().to_owned();
    for arguments in [&["tasks", "build/all"][..], &["sync", "build/all", "--wait"], &["task", NO_TASK, "--follow"]] {
        let output = transship.run(arguments).await;
        assert_one_line_of(5, &output, &[&port, "Connection refused", "transship serve", "--api"]);
        assert!(text(&output.stderr).len() < 200, "{output:?}");
    }
    let disabled = two_at("https://a.example", "https://b.example", "enabled: false");
    transship.start(&disabled).await;
    for (status, arguments, parts) in [
        (4, &["tasks", "build/none"][..], &["instance build has no rule none", "`transship rules list build`"][..]),
        (4, &["tasks", "none/all"], &["there is no instance none", "`transship instances list`"]),
        (4, &["task", NO_TASK], &["there is no task", NO_TASK]),
        (4, &["task", NO_TASK, "--follow"], &["there is no task", NO_TASK]),
        (3, &["sync", "build/all"], &["build/all", "disabled"]),
    ] {
        assert_one_line_of(status, &transship.run(arguments).await, parts);
    }
    let wrong: [&[&str]; 4] =
        [&["tasks", "build"], &["task", "7"], &["tasks", "build/all", "--limit", "0"], &["sync", "a/b", "--api", "x"]];
    for wrong in wrong {
        assert_eq!(transship.run(wrong).await.status.code(), Some(2), "{wrong:?}");
    }
}

/// Would break: the bar that people at a terminal see, and the lines that a log file gets instead.
#[tokio::test]
async fn a_long_copy_draws_a_bar_in_a_terminal_and_writes_lines_elsewhere() {
    let (one, two, transship) = (DockerRegistry::start().await, DockerRegistry::start().await, Transship::reserve());
    let image = Image::random(1).layers(1, 4 << 20).layers(1, 1_000).build();
    image.push(&one.at("team/app", "v1")).await;
    let (large, gate) = (image.largest_blob().to_string(), Gate::new());
    let held = gate.clone();
    let slow =
        Proxy::start(
            one.url(),
            move |request| {
                if request.is("GET", &large) { Action::HoldBody(2 << 20, held.clone()) } else { Action::Pass }
            },
        )
        .await;
    let source = slow.at("team/app", "v1").to_string();

    let (bar, lines) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let said = |file: &tempfile::NamedTempFile| String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned();
    let line = format!("{} copy {source} {}", binary().display(), two.at("a/app", "v1"));
    let mut in_terminal = Command::new("script");
    in_terminal.args(["-qefc", &line, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::null());
    let in_terminal = in_terminal.stdout(bar.reopen().unwrap()).spawn().unwrap();
    let mut elsewhere = transship.command(&["copy", &source, &two.at("b/app", "v1").to_string()]);
    let elsewhere = elsewhere.stdout(Stdio::piped()).stderr(lines.reopen().unwrap()).spawn().unwrap();
    gate.reached(2).await;
    wait_until("a bar", Duration::from_secs(30), async || said(&bar).contains("=>")).await;
    // A line says how far it is only if there is something to tell: bytes that move after the first two seconds.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    gate.open();
    let [drawn, written] = [in_terminal, elsewhere]
        .map(|process| tokio::task::spawn_blocking(|| process.wait_with_output().unwrap()))
        .map(async |output| output.await.unwrap());
    let (drawn, written) = tokio::join!(drawn, written);

    assert_eq!([drawn.status.code(), written.status.code()], [Some(0); 2]);
    let (bar, lines) = (said(&bar), said(&lines));
    assert!(bar.contains("team/app:v1 [") && bar.contains("MiB"), "{bar:?}");
    let last = bar.trim_end().rsplit(['\r', '\n', '\u{1b}']).next().unwrap();
    assert!(last.contains(&format!("copied {}", image.digest())), "the bar makes room for the outcome: {bar:?}");
    assert!(lines.starts_with("team/app:v1: ") && lines.contains(" of 4.0"), "{lines:?}");
    assert!(!lines.contains(['\r', '\u{1b}']), "{lines:?}");
    assert!(text(&written.stdout).starts_with("copied "));
}

/// A task's ID that no task has.
const NO_TASK: &str = "1-01a1fe5f9e14b6273d00184eeaac";

/// A configuration with the rule `build/all`.
fn two(build: &DockerRegistry, prod: &DockerRegistry, more: &str) -> String {
    two_at(build.url(), prod.url(), more)
}

fn two_at(build: &str, prod: &str, more: &str) -> String {
    config(&[instance("build", build), instance("prod", prod)], &[rule("all", BUILD, MIRROR, more)])
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Exit status 1, nothing on standard output, and one line on standard error that has all these parts.
#[track_caller]
fn assert_one_line(output: &Output, parts: &[&str]) {
    assert_one_line_of(1, output, parts);
}

/// The same with another exit status.
#[track_caller]
fn assert_one_line_of(status: i32, output: &Output, parts: &[&str]) {
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(status), ""), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.lines().count() == 1 && said.ends_with('\n'), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

/// These fields are times, none before the one that precedes it.
#[track_caller]
fn assert_in_order(value: &Value, fields: &[&str]) {
    let times: Vec<jiff::Timestamp> = fields.iter().map(|name| value[name].as_str().unwrap().parse().unwrap()).collect();
    assert!(times.is_sorted(), "{fields:?} of {value}");
}

/// Would break: the first command of the README, when a crate gets a binary and cargo no longer knows which one is meant.
#[test]
fn cargo_run_means_the_command_line() {
    binary();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["run", "--quiet", "--locked", "--", "--version"];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(said.starts_with("transship "), "{said}");
}
