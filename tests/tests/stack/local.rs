//! `sam local invoke`, as somebody who has no AWS account tries a function.

use std::{fs, process::Command};

use serde_json::{Value, json};
use transship_tests::{architecture, built, root, tool};

/// The request is one that a function answers without its table, since nothing of AWS can be reached from the container.
///
/// Would break: a template that the SAM CLI can't run locally; a binary that does not start where nothing but the C library is; an answer
/// that Lambda does not take for an HTTP response.
#[test]
fn a_function_answers_in_a_container_of_the_sam_cli() {
    let dir = tempfile::tempdir().unwrap();
    let event = json!({
        "version": "2.0", "routeKey": "$default", "rawPath": "/hooks/build", "rawQueryString": "", "headers": {"host": "localhost"},
        "requestContext": {
            "accountId": "000000000000", "apiId": "local", "domainName": "localhost", "domainPrefix": "local", "requestId": "1",
            "routeKey": "$default", "stage": "$default", "time": "01/Nov/2026:00:00:00 +0000", "timeEpoch": 1_793_491_200_000_u64,
            "http": {"method": "GET", "path": "/hooks/build", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "test"},
        },
        "isBase64Encoded": false,
    });
    // What CloudFormation fills in when it is deployed.
    let variables = json!({"WebhookFunction": {
        "TRANSSHIP_TABLE": "table",
        "TRANSSHIP_JOBS_URL": "https://sqs.us-east-1.amazonaws.com/000000000000/jobs.fifo",
        "TRANSSHIP_EVENTS_URL": "https://sqs.us-east-1.amazonaws.com/000000000000/events",
    }});
    let [event_file, variables_file] = ["event.json", "variables.json"].map(|name| dir.path().join(name));
    fs::write(&event_file, event.to_string()).unwrap();
    fs::write(&variables_file, variables.to_string()).unwrap();

    let mut invoke = Command::new(root().join("tests/sam-local"));
    invoke.arg(built().join("template.yaml")).arg("WebhookFunction").arg(event_file).arg("--env-vars").arg(variables_file);
    invoke.arg("--parameter-overrides").arg(format!("Architecture={}", architecture()));
    let output = invoke.env("SAM", tool("sam")).output().unwrap();
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{log}");
    // The function's line of metrics is there, too.
    let values = serde_json::Deserializer::from_str(&said).into_iter::<Value>().map_while(Result::ok);
    let answers: Vec<Value> = values.filter(|value| value.get("statusCode").is_some()).collect();
    let [answer] = &answers[..] else { panic!("{said}\n{log}") };
    assert_eq!(answer["statusCode"], 405, "{answer}\n{log}");
    assert_eq!(answer["headers"]["allow"], "POST, OPTIONS", "{answer}\n{log}");
}
