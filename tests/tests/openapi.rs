//! The API's own document: that it is one, and that the API does what it says.

use std::process::Command;

use serde_json::Value;
use transship_tests::*;

const BUILD: &str = "instance: build, namespace: team";
const MIRROR: &str = "instance: prod, namespace: mirror";

/// The deployment's own token.
const OWN: &str = "token-of-the-deployment";
/// The same requests in every run.
const SEED: &str = "20260304";
/// So many requests for each operation and phase.
const EXAMPLES: &str = "10";

/// Would break: a document that generators of clients and viewers can't read.
#[tokio::test]
async fn the_document_is_openapi_and_complete() {
    let mut transship = Transship::reserve();
    transship.set("TRANSSHIP_TOKEN", "not-needed");
    transship.start(&config(&[instance("build", "https://build.example")], &[])).await;
    let document = transship.get("/v1/openapi.json").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("openapi.json");
    std::fs::write(&file, document.to_string()).unwrap();
    let validator = tokio::task::spawn_blocking(|| tool("openapi-spec-validator")).await.unwrap();
    let output = Command::new(validator).arg(&file).output().unwrap();
    assert!(output.status.success(), "{output:?}");

    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
    assert!(document["servers"][0]["url"].is_string());
    let tags: Vec<&Value> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{what}");
            let own = operation["tags"].as_array().unwrap();
            assert!(
                !own.is_empty() && own.iter().all(|tag| tags.contains(&tag)),
                "{what}: a tag that is not described: {own:?}"
            );
            let responses = operation["responses"].as_object().unwrap();
            for (status, response) in responses {
                assert!(response["headers"]["x-request-id"].is_object(), "{what}: {status}");
                if status.starts_with(['4', '5']) {
                    let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                    assert_eq!(schema, "#/components/schemas/Problem", "{what}: {status}");
                }
            }
            assert!(responses.keys().any(|status| status.starts_with('2')) && responses.contains_key("5XX"), "{what}");
        }
    }
}

/// Requests made from the document, sensible and not, by a caller who may do everything, and with something there.
///
/// Would break: any request that is answered with 5xx, or otherwise than the document says; one that the document forbids and the API
/// takes.
#[tokio::test]
async fn the_api_does_what_its_document_says() {
    let (build, prod) = (DockerRegistry::start().await, DockerRegistry::start().await);
    Image::random(1).build().push(&build.at("team/app", "v1")).await;
    let mut transship = Transship::reserve();
    transship.set("TRANSSHIP_TOKEN", OWN);
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    transship.start(&config(&instances, &[rule("release", BUILD, MIRROR, "")])).await;
    assert!(transship.run(&["sync", "build/release", "--wait"]).await.status.success());
    for name in ["one", "two"] {
        assert!(transship.run(&["tokens", "create", name]).await.status.success());
    }
    let program = tokio::task::spawn_blocking(|| tool("schemathesis")).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let checks = [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
        "unsupported_method",
        "allow_header_conformance",
    ];
    // Also 413 and 414, which it does not expect by itself.
    let settings = "[checks]\nnegative_data_rejection.expected-statuses = [\"4XX\"]\n";
    std::fs::write(dir.path().join("schemathesis.toml"), settings).unwrap();
    let mut command = tokio::process::Command::new(program);
    command.arg("run").arg(format!("{}/v1/openapi.json", transship.url())).args(["--checks", &checks.join(",")]);
    command.args(["--seed", SEED, "--max-examples", EXAMPLES, "--continue-on-failure", "--no-color"]);
    command
        .args(["--header", &format!("Authorization: Bearer {OWN}"), "--warnings", "off"])
        .current_dir(dir.path())
        .kill_on_drop(true);
    command.env("NO_PROXY", "127.0.0.1").env("HYPOTHESIS_STORAGE_DIRECTORY", dir.path());
    let output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("Tested: "), "it was at work: {said}");
}
