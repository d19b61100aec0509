//! What the commands take from around them: Docker's logins, proxies, the AWS identity, authorities. Each is asked of the real
//! binary, because an environment belongs to a process.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, http::HeaderMap, routing::post};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use transship_tests::*;

/// `alice:wonderland`, as Docker keeps it, and as ECR gives it.
const ALICE_BASE64: &str = "YWxpY2U6d29uZGVybGFuZA==";
/// `bob:carpenter`.
const BOB_BASE64: &str = "Ym9iOmNhcnBlbnRlcg==";

/// `transship copy` with a folder that has Docker's `config.json` and in which commands are looked for first.
async fn copy(folder: &Path, source: &str, target: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary());
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    command.env("DOCKER_CONFIG", folder).env("PATH", path).envs(environment.iter().copied());
    command.args(["copy", source, target]);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A server that answers every POST; its URL.
async fn server<F>(answer: F) -> String
where
    F: Fn(HeaderMap, String) -> String + Clone + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let handler =
        post(move |headers: HeaderMap, body: Bytes| async move { answer(headers, String::from_utf8(body.to_vec()).unwrap()) });
    let app = Router::new().route("/", handler.clone()).route("/token", handler);
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

#[tokio::test]
async fn each_registry_gets_the_password_that_docker_has_for_it() {
    let a = DockerRegistry::builder().login(ALICE).start().await;
    let b = DockerRegistry::builder().login(BOB).start().await;
    Image::random(1).build().push(&a.at("app", "v1")).await;
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (format!("{}/app:v1", a.host()), format!("{}/app", b.host()));
    let refused = copy(folder.path(), &source, &target, &[]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("check what `docker login` knows about"), "{}", said(&refused));

    let auths = json!({"auths": {a.host(): {"auth": ALICE_BASE64}, b.host(): {"auth": BOB_BASE64}}});
    fs::write(folder.path().join("config.json"), auths.to_string()).unwrap();
    let output = copy(folder.path(), &source, &target, &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_same(&a.at("app", "v1"), &b.at("app", "v1")).await;
}

#[tokio::test]
async fn an_identity_token_of_docker_s_is_exchanged_for_tokens() {
    let posted = Arc::<Mutex<Vec<String>>>::default();
    let record = posted.clone();
    let service = server(move |_, form| {
        let good = form.contains("refresh_token=the-identity") && form.contains("grant_type=refresh_token");
        record.lock().unwrap().push(form);
        if good { r#"{"access_token":"good","expires_in":300}"#.into() } else { "{}".into() }
    })
    .await;
    let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
    Image::random(1).build().push(&a.at("app", "v1")).await;
    let challenge = format!(r#"Bearer realm="{service}/token",service="reg""#);
    let door = Proxy::start(a.url(), move |request| match request.header("authorization") {
        "Bearer good" => Action::Pass,
        _ => Action::status(401, &[("www-authenticate", &challenge)], ""),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let auths = json!({"auths": {door.host(): {"auth": "PHRva2VuPjo=", "identitytoken": "the-identity"}}});
    fs::write(folder.path().join("config.json"), auths.to_string()).unwrap();
    let output = copy(folder.path(), &format!("{}/app:v1", door.host()), &format!("{}/app", b.host()), &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_same(&a.at("app", "v1"), &b.at("app", "v1")).await;
    let posted = posted.lock().unwrap();
    assert_eq!(posted.len(), 1, "{posted:?}");
}

#[tokio::test]
async fn a_credential_helper_is_asked_once_and_what_it_says_stays_with_us() {
    let a = DockerRegistry::builder().login(ALICE).start().await;
    let b = DockerRegistry::builder().login(BOB).start().await;
    Index::random(1).build().push(&a.at("app", "v1")).await;
    let folder = tempfile::tempdir().unwrap();
    let asked = folder.path().join("asked");
    let script = |name: &str, text: String| {
        let path = folder.path().join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\nread host\necho \"$1 $host\" >> {}\n{text}\n", asked.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    script("one", format!(r#"echo '{{"Username":"alice","Secret":"{}"}}'"#, ALICE.password));
    script("store", format!(r#"echo '{{"Username":"bob","Secret":"{}"}}'"#, BOB.password));
    // One for this host alone, and one for all others.
    let config = json!({"credHelpers": {a.host(): "one"}, "credsStore": "store"});
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let (source, target) = (format!("{}/app:v1", a.host()), format!("{}/app", b.host()));
    let output = copy(folder.path(), &source, &target, &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_same(&a.at("app", "v1"), &b.at("app", "v1")).await;
    let mut calls: Vec<_> = fs::read_to_string(&asked).unwrap().lines().map(str::to_owned).collect();
    calls.sort();
    let mut wanted = [format!("get {}", a.host()), format!("get {}", b.host())];
    wanted.sort();
    assert_eq!(calls, wanted);

    script("one", "echo half-a-secret; echo half-a-secret >&2; exit 1".into());
    let output = copy(folder.path(), &source, &target, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("the credential helper docker-credential-one failed"), "{}", said(&output));
    assert!(!said(&output).contains("half-a-secret"), "{}", said(&output));
}

/// A proxy as companies have one: it connects to where it is told, by CONNECT or by the URL of a request.
struct ForwardProxy {
    url: String,
    connected: Arc<Mutex<Vec<String>>>,
}

impl ForwardProxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connected = Arc::<Mutex<Vec<String>>>::default();
        let record = connected.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(tunnel(client, record.clone()));
            }
        });
        Self { url, connected }
    }

    /// The methods and hosts of the connections so far, each once.
    fn connected(&self) -> Vec<String> {
        let mut connected = self.connected.lock().unwrap().clone();
        connected.sort();
        connected.dedup();
        connected
    }
}

async fn tunnel(mut client: TcpStream, record: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match client.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let text = String::from_utf8(head.clone()).unwrap();
    let mut words = text.split(' ');
    let (method, to) = (words.next().unwrap(), words.next().unwrap());
    let host = to.trim_start_matches("http://").split('/').next().unwrap();
    let kind = if method == "CONNECT" { "tunnel" } else { "plain" };
    record.lock().unwrap().push(format!("{kind} {host}"));
    let Ok(mut server) = TcpStream::connect(host).await else { return };
    if kind == "tunnel" {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    } else {
        // Go takes a request with a whole URL, and what follows on the connection is for the same host.
        server.write_all(&head).await.unwrap();
    }
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

#[tokio::test]
async fn proxies_of_the_environment_are_used_but_for_what_is_excepted() {
    let authority = Authority::new("ours");
    let secure = DockerRegistry::builder().tls(authority.sign(&["127.0.0.1"]), &authority.pem()).start().await;
    let (plain, near, proxy) = (DockerRegistry::start().await, DockerRegistry::start().await, ForwardProxy::start().await);
    Image::random(1).build().push(&plain.at("app", "v1")).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    let environment = [
        ("HTTP_PROXY", &*proxy.url),
        ("HTTPS_PROXY", &*proxy.url),
        ("NO_PROXY", "localhost"),
        // The system's roots, for this process.
        ("SSL_CERT_FILE", ca.to_str().unwrap()),
    ];
    let (there, here) = (format!("https://{}/app:v1", secure.host()), format!("http://localhost:{}/app", near.port()));
    let output = copy(folder.path(), &format!("http://{}/app:v1", plain.host()), &there, &environment).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_same(&plain.at("app", "v1"), &secure.at("app", "v1")).await;
    let both = [format!("plain {}", plain.host()), format!("tunnel {}", secure.host())];
    assert_eq!(proxy.connected(), both);

    let output = copy(folder.path(), &there, &here, &environment).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_same(&plain.at("app", "v1"), &near.at("app", "v1")).await;
    assert_eq!(proxy.connected(), both);
}

#[tokio::test]
async fn copy_trusts_the_authority_that_is_named_and_says_how_to_name_one() {
    let authority = Authority::new("ours");
    let secure = DockerRegistry::builder().tls(authority.sign(&["127.0.0.1"]), &authority.pem()).start().await;
    let (plain, transship) = (DockerRegistry::start().await, Transship::reserve());
    Image::random(1).build().push(&plain.at("app", "v1")).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    let (source, target) = (plain.at("app", "v1").to_string(), format!("https://{}/app:v1", secure.host()));

    let refused = transship.run(&["copy", &source, &target]).await;
    assert!(refused.status.code() == Some(1) && said(&refused).contains("--ca"), "{}", said(&refused));
    let copied = transship.run(&["copy", "--ca", ca.to_str().unwrap(), &source, &target]).await;
    assert!(copied.status.success(), "{}", said(&copied));
    assert_same(&plain.at("app", "v1"), &secure.at("app", "v1")).await;
    let missing = transship.run(&["copy", "--ca", "none.pem", &source, &target]).await;
    assert!(missing.status.code() == Some(1) && said(&missing).contains("none.pem can't be read"), "{}", said(&missing));
}

#[tokio::test]
async fn serve_logs_in_to_ecr_with_the_environment_s_identity_and_trusts_the_authority_that_is_named() {
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let image = Image::random(1).build();
    let listed = json!({"imageIds": [{"imageTag": "v1", "imageDigest": image.digest()}]}).to_string();
    let aws = server(move |headers, _| {
        assert!(headers["authorization"].to_str().unwrap().contains("AKIATEST/"));
        match headers["x-amz-target"].to_str().unwrap().rsplit('.').next().unwrap() {
            "GetAuthorizationToken" => {
                *count.lock().unwrap() += 1;
                let token = json!({"authorizationToken": ALICE_BASE64, "expiresAt": 4_102_444_800_u64});
                json!({"authorizationData": [token]}).to_string()
            }
            "DescribeRepositories" => json!({"repositories": [{"repositoryName": "team/app"}]}).to_string(),
            "ListImages" => listed.clone(),
            other => unreachable!("nobody needs {other} so far"),
        }
    })
    .await;
    let authority = Authority::new("ours");
    let certificate = authority.sign(&["127.0.0.1"]);
    let build = DockerRegistry::builder().login(ALICE).tls(certificate, &authority.pem()).start().await;
    let prod = DockerRegistry::start().await;
    image.push(&build.at("team/app", "v1")).await;
    let mut transship = Transship::reserve();
    let ca = transship.data().with_extension("pem");
    fs::write(&ca, authority.pem()).unwrap();
    for (name, value) in [
        ("AWS_ENDPOINT_URL_ECR", &*aws),
        ("AWS_ACCESS_KEY_ID", "AKIATEST"),
        ("AWS_SECRET_ACCESS_KEY", "aws-secret-key"),
        ("AWS_REGION", "eu-central-1"),
        // All that can be logged.
        ("TRANSSHIP_LOG", "trace"),
    ] {
        transship.set(name, value);
    }
    let first = format!(
        "  - {{ name: build, endpoint: '{}', credentials: ecr, ca: 'file:{}', webhook_auth: none }}\n",
        build.url(),
        ca.display()
    );
    let rule = rule("all", "instance: build, namespace: '*'", "instance: prod", "");
    transship.start(&config(&[first, instance("prod", prod.url())], &[rule])).await;
    let output = transship.run(&["sync", "build/all", "--wait"]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_same(&build.at("team/app", "v1"), &prod.at("team/app", "v1")).await;
    assert_eq!(*asked.lock().unwrap(), 1);
    let log = transship.log();
    for secret in [ALICE.password, ALICE_BASE64, "aws-secret-key"] {
        assert!(!log.contains(secret), "the log shows {secret}");
    }
}
