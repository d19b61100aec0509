//! Everything that registries hold comes over byte for byte: every kind of artifact, with logins at both ends, and to Harbor.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test needs and does not get is its failure")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, head},
};
use serde_json::{Value, json};
use transship_tests::*;

const BUILD: &str = "instance: build, namespace: team";
const MIRROR: &str = "instance: prod, namespace: mirror";

/// Would break: a manifest that is encoded anew, a media type that is guessed, a child or a blob that is left out.
#[tokio::test]
async fn every_kind_of_artifact_arrives_byte_for_byte() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let all = [
        ("oci-image", Image::random(1).layers(3, 70_000).build(), "image"),
        ("oci-index", Index::random(2).platforms(3).layers(2, 20_000).base(9, 1, 50_000).attested().build(), "image"),
        ("docker-image", Image::random(3).layers(2, 70_000).docker().build(), "image"),
        ("docker-list", Index::random(4).platforms(2).layers(1, 20_000).docker().build(), "image"),
        ("chart", chart(5, "web", "1.2.3"), "chart"),
        ("policy", artifact(6, "application/vnd.example.policy", 5_000), "other"),
    ];
    for (name, artifact, _) in &all {
        artifact.push(&build.at(format!("team/{name}"), "v1")).await;
    }
    let transship = running(&[instance("build", build.url()), instance("prod", prod.url())], "").await;

    let (task, resources) = sync(&transship).await;

    assert_eq!((task["status"].as_str(), task["counts"]["copied"].as_u64()), (Some("succeeded"), Some(6)), "{task}");
    for (name, artifact, kind) in &all {
        let walked = assert_same(&build.at(format!("team/{name}"), "v1"), &prod.at(format!("mirror/{name}"), "v1")).await;
        assert_eq!(walked.manifests.len(), artifact.manifests().len(), "{name}");
        assert_eq!(walked.blobs.keys().collect::<Vec<_>>(), artifact.blobs().keys().collect::<Vec<_>>(), "{name}");
        let resource = find(&resources, name);
        assert_eq!((&resource["type"], &resource["digest"]), (&json!(kind), &json!(artifact.digest())), "{name}");
    }
}

/// Would break: a type that is read from the name; an index that has no type; a skipped resource that counts as a failure.
#[tokio::test]
async fn types_come_from_the_manifest_and_others_are_skipped_with_the_reason() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    chart(1, "web", "1.0.0").push(&build.at("team/image", "v1")).await;
    Image::random(2).layers(1, 1_000).build().push(&build.at("team/chart", "v1")).await;
    Index::random(3).layers(1, 1_000).build().push(&build.at("team/other", "v1")).await;
    artifact(4, "application/vnd.oci.image.config.v1+json", 100).push(&build.at("team/images", "v1")).await;
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    let mut transship = Transship::reserve();
    let rules = [
        rule("charts", &format!("{BUILD}, types: [chart]"), "instance: prod, namespace: charts", ""),
        rule("all", &format!("{BUILD}, types: [image, chart]"), MIRROR, ""),
    ];
    transship.start(&config(&instances, &rules)).await;

    let (task, resources) = sync(&transship).await;
    assert_eq!(prod.client().catalog().await, ["mirror/chart", "mirror/image", "mirror/other"]);
    let skipped = find(&resources, "images");
    assert_eq!([&skipped["type"], &skipped["outcome"], &skipped["reason"]], ["other", "skipped", "type"]);
    assert_eq!((task["status"].as_str(), task["success_rate"].as_f64()), (Some("succeeded"), Some(1.0)));
    assert_eq!((task["counts"]["copied"].as_u64(), task["counts"]["skipped"].as_u64()), (Some(3), Some(1)));

    let output = transship.run(&["sync", "build/charts", "--wait"]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(prod.client().catalog().await, ["charts/image", "mirror/chart", "mirror/image", "mirror/other"]);
}

/// Would break: signatures that stay behind, that come as resources of their own, or that a tag pattern can leave out.
#[tokio::test]
async fn signatures_and_referrers_follow_their_subject() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let image = Index::random(1).layers(1, 10_000).build();
    let (source, target) = (build.at("team/app", "v1"), prod.at("mirror/app", "v1"));
    image.push(&source).await;
    let signature = image.digest().as_tag(".sig");
    cosign_signature(&image).push(&source.with(&signature)).await;
    let referrers = [1, 2].map(|n| referrer(n, &image, "application/vnd.example.sbom"));
    referrers_index(&referrers).push(&source.with(image.digest().as_tag(""))).await;
    let left = Image::random(2).build();
    left.push(&source.with("latest")).await;
    cosign_signature(&left).push(&source.with(left.digest().as_tag(".sig"))).await;
    let mut transship = Transship::reserve();
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    transship.start(&config(&instances, &[rule("all", &format!(r"{BUILD}, tag: 'v\d+'"), MIRROR, "")])).await;

    let (task, _) = sync(&transship).await;

    assert_eq!(task["counts"]["found"], 1, "an attachment is no resource of a full run: {task}");
    assert_same(&source, &target).await;
    assert_same(&source.with(&signature), &target.with(&signature)).await;
    for referrer in &referrers {
        assert_same(&source.with(referrer.digest()), &target.with(referrer.digest())).await;
    }
    let listed = target.with(image.digest().as_tag("")).manifest().await.json();
    let listed: BTreeSet<&str> = listed["manifests"].as_array().unwrap().iter().filter_map(|m| m["digest"].as_str()).collect();
    assert_eq!(listed, referrers.iter().map(|r| r.digest().as_str()).collect(), "found as a client finds them");
    assert_eq!(prod.client().tags("mirror/app").await.len(), 3, "nothing of what the rule does not select");
}

/// Would break: credentials that go to the wrong registry or to none; a second look that uploads anything.
#[tokio::test]
async fn both_ends_ask_for_a_login_and_a_second_sync_moves_no_byte() {
    let (build, prod) = (login(ALICE).await, login(BOB).await);
    let (source, target) = (Proxy::passing(build.url()).await, Proxy::passing(prod.url()).await);
    let image = Index::random(1).layers(2, 40_000).build();
    image.push(&build.at("team/app", "v1")).await;
    let instances = [known("build", source.url(), ALICE), known("prod", target.url(), BOB)];
    let transship = running(&instances, "overwrite: true").await;

    let (first, resources) = sync(&transship).await;
    assert_eq!(first["counts"]["copied"], 1, "{first}");
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
    let bytes = ["bytes_moved", "bytes_present"].map(|name| resources[0][name].as_u64().unwrap());
    assert_eq!(bytes, [image.size() as u64, 0]);

    target.forget();
    let (second, resources) = sync(&transship).await;
    assert_eq!((second["counts"]["unchanged"].as_u64(), second["success_rate"].as_f64()), (Some(1), Some(1.0)));
    assert!(resources.is_empty(), "what is equal has no job");
    assert_eq!(second["counts"]["bytes_moved"], 0);
    let writes = target.exchanges().into_iter().filter(|e| !matches!(e.request.method.as_str(), "GET" | "HEAD")).count();
    assert_eq!(writes, 0, "nothing is even begun");
    let sent = |proxy: &Proxy, login: Login| {
        let exchanges = proxy.exchanges();
        exchanges.iter().any(|e| e.request.header("authorization") == basic(login))
    };
    assert!(sent(&source, ALICE) && !sent(&source, BOB), "each login goes to its own registry");
    assert!(sent(&target, BOB) && !sent(&target, ALICE), "each login goes to its own registry");
}

/// Would break: a refusal that is tried again for a day, that does not say whose it is, or that tells the password.
#[tokio::test]
async fn a_wrong_password_fails_at_once_and_names_the_instance_but_not_the_password() {
    const WRONG: &str = "not-the-right-password";
    let (build, prod) = (login(ALICE).await, login(BOB).await);
    Image::random(1).layers(1, 1_000).build().push(&build.at("team/app", "v1")).await;
    for (variable, culprit) in [("ALICE_PASSWORD", "build"), ("BOB_PASSWORD", "prod")] {
        let mut transship = Transship::reserve();
        transship.set(variable, WRONG);
        let instances = [known("build", build.url(), ALICE), known("prod", prod.url(), BOB)];
        transship.start(&config(&instances, &[rule("all", BUILD, MIRROR, "")])).await;

        let output = transship.run(&["sync", "build/all", "--wait"]).await;

        assert_eq!(output.status.code(), Some(1));
        let task = transship.ended("build/all", 1).await.remove(0);
        assert_eq!(task["status"], "failed");
        let resources = transship.resources(task["id"].as_str().unwrap()).await;
        // Without the source's lists there are no resources; without the target each of them fails.
        let reason = task["error"].as_str().or_else(|| resources[0]["reason"].as_str()).unwrap();
        assert!(resources.iter().all(|resource| resource["attempts"] == 1 && resource["outcome"] == "failed"));
        assert!(reason.starts_with(&format!("{culprit}: ")) && reason.contains("401"), "{reason}");
        assert!(reason.contains(&format!("check the credentials of {culprit}")), "{reason}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(reason), "the command shows why: {output:?}");
        let all = format!("{output:?}{task}{}{}", json!(resources), transship.log());
        for secret in [WRONG, ALICE.password, BOB.password] {
            assert!(!all.contains(secret), "{secret} in {all}");
        }
    }
}

/// Would break: an old image that no registry takes any more, as a failure that is tried again and again.
#[tokio::test]
async fn docker_schema_1_is_skipped_and_named() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    Image::random(1).build().push(&build.at("team/app", "old")).await;
    // Today's registries don't take schema 1 any more, even to test with it.
    let old = json!({
        "schemaVersion": 1, "name": "team/app", "tag": "old", "architecture": "amd64",
        "fsLayers": [{"blobSum": format!("sha256:{}", "a".repeat(64))}], "history": [{"v1Compatibility": "{}"}],
        "signatures": [],
    });
    let old = old.to_string();
    let source = Proxy::start(build.url(), move |request| {
        let kind = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        let headers = [("content-type", kind)];
        if request.path.ends_with("/manifests/old") { Action::status(200, &headers, old.clone()) } else { Action::Pass }
    })
    .await;
    let transship = running(&[instance("build", source.url()), instance("prod", prod.url())], "").await;

    let (task, resources) = sync(&transship).await;

    assert_eq!([&resources[0]["outcome"], &resources[0]["reason"]], ["skipped", "schema1"], "{}", resources[0]);
    assert_eq!(task["status"], "succeeded");
    let shown = transship.run(&["task", task["id"].as_str().unwrap()]).await;
    assert!(String::from_utf8_lossy(&shown.stdout).contains("skipped: Docker schema 1 can't be copied"), "{shown:?}");
    assert_eq!(prod.client().catalog().await, [""; 0]);
}

/// Would break: a push to a Harbor project that is not there; a project that is created for each image, or that is public.
#[tokio::test]
async fn a_harbor_project_is_created_once_before_the_first_upload() {
    let (build, storage) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let harbor = Harbor::start(&storage).await;
    for n in 1..=4 {
        Image::random(n).layers(1, 20_000).build().push(&build.at(format!("team/app-{n}"), "v1")).await;
    }
    let url = harbor.url.as_str();
    let target = known("prod", url, BOB).replace("kind: distribution", "kind: harbor");
    let transship = running(&[instance("build", build.url()), target], "").await;

    let (task, _) = sync(&transship).await;

    assert_eq!(task["counts"]["copied"], 4, "{task}");
    for n in 1..=4 {
        assert_same(&build.at(format!("team/app-{n}"), "v1"), &storage.at(format!("mirror/app-{n}"), "v1")).await;
    }
    let requests = harbor.seen.lock().unwrap().clone();
    let created: Vec<&String> = requests.iter().filter(|request| request.starts_with("created")).collect();
    assert_eq!(created, [r#"created {"metadata":{"public":"false"},"project_name":"mirror"}"#]);
    let upload = requests.iter().position(|request| request.starts_with("POST /v2/")).unwrap();
    let project = requests.iter().position(|request| request.starts_with("created")).unwrap();
    assert!(project < upload, "{requests:#?}");
}

/// As much of Harbor as a client sees: projects have to be there before anything can be pushed below them.
struct Harbor {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

/// What the fake's handlers share.
#[derive(Clone)]
struct Projects {
    storage: String,
    seen: Arc<Mutex<Vec<String>>>,
    there: Arc<Mutex<BTreeSet<String>>>,
}

impl Harbor {
    async fn start(storage: &DockerRegistry) -> Self {
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let projects = Projects { storage: storage.url().into(), seen: seen.clone(), there: Arc::default() };
        let routes = Router::new()
            .route("/api/v2.0/projects", head(Projects::look).post(Projects::create))
            .route("/v2/{*path}", any(Projects::pass))
            .with_state(projects);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, seen }
    }
}

impl Projects {
    async fn look(State(projects): State<Self>, Query(query): Query<Vec<(String, String)>>) -> StatusCode {
        let there = projects.there.lock().unwrap();
        let known = query.iter().any(|(key, value)| key == "project_name" && there.contains(value));
        if known { StatusCode::OK } else { StatusCode::NOT_FOUND }
    }

    async fn create(State(projects): State<Self>, headers: HeaderMap, body: String) -> StatusCode {
        if headers.get(header::AUTHORIZATION).is_none_or(|value| *value != basic(BOB)) {
            return StatusCode::UNAUTHORIZED;
        }
        let project: Value = serde_json::from_str(&body).unwrap();
        if !projects.there.lock().unwrap().insert(project["project_name"].as_str().unwrap().to_owned()) {
            return StatusCode::CONFLICT;
        }
        projects.seen.lock().unwrap().push(format!("created {project}"));
        StatusCode::CREATED
    }

    /// What is below a project that is there goes on to the registry; elsewhere Harbor says neither yes nor no.
    async fn pass(State(projects): State<Self>, request: Request) -> Response {
        let (head, body) = request.into_parts();
        projects.seen.lock().unwrap().push(format!("{} {}", head.method, head.uri.path()));
        let project = head.uri.path().split('/').nth(2).unwrap_or_default();
        if !projects.there.lock().unwrap().contains(project) {
            let refusal = r#"{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized to access repository"}]}"#;
            let status = if head.method == Method::HEAD { StatusCode::NOT_FOUND } else { StatusCode::FORBIDDEN };
            return (status, refusal).into_response();
        }
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.request(head.method, format!("{}{}", projects.storage, head.uri)).headers(head.headers);
        let answer = request.body(reqwest::Body::wrap_stream(body.into_data_stream())).send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut response = Response::new(Body::from_stream(answer.bytes_stream()));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// A registry that lets one user in.
async fn login(user: Login) -> DockerRegistry {
    DockerRegistry::builder().login(user).start().await
}

/// The lines of `sync.yaml` for an instance that is logged in to.
fn known(name: &str, url: &str, login: Login) -> String {
    let (user, variable) = (login.user, format!("{}_PASSWORD", login.user.to_uppercase()));
    instance(name, url).replace(" }\n", &format!(", credentials: {{ username: {user}, password: 'env:{variable}' }} }}\n"))
}

/// `Authorization` as RFC 7617 has it.
fn basic(login: Login) -> String {
    let value = match login.user {
        "alice" => "YWxpY2U6d29uZGVybGFuZA==",
        _ => "Ym9iOmNhcnBlbnRlcg==",
    };
    format!("Basic {value}")
}

/// transship with one rule, `build/all`.
async fn running(instances: &[String], more: &str) -> Transship {
    let mut transship = Transship::reserve();
    transship.start(&config(instances, &[rule("all", BUILD, MIRROR, more)])).await;
    transship
}

/// Runs the rule; the task and its resources.
async fn sync(transship: &Transship) -> (Value, Vec<Value>) {
    let output = transship.run(&["sync", "build/all", "--wait", "--output", "json"]).await;
    let task: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let resources = transship.resources(task["id"].as_str().unwrap()).await;
    (task, resources)
}

/// The resource of a repository below `team`.
fn find<'a>(resources: &'a [Value], name: &str) -> &'a Value {
    let name = format!("team/{name}");
    resources.iter().find(|resource| resource["source"]["repository"] == name.as_str()).unwrap()
}
