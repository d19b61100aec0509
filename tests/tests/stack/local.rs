//! `sam local invoke`, as somebody who has no AWS account tries a function.

use std::process::Command;

use serde_json::Value;
use transship_tests::{architecture, built, root, tool};

/// As the README has it, with a sender's sample. Nothing of AWS can be reached from the container, and so the answer is that the
/// notification could not be stored.
///
/// Would break: a template that the SAM CLI can't run locally; a binary that does not start where nothing but the C library is; settings in
/// `events/local.json` that a function does not take; an answer that Lambda does not take for an HTTP response.
#[test]
fn a_function_answers_in_a_container_of_the_sam_cli() {
    let mut invoke = Command::new(root().join("tests/sam-local"));
    invoke.arg(built().join("template.yaml")).arg("WebhookFunction").arg(root().join("events/webhook/harbor-push.json"));
    invoke.arg("--env-vars").arg(root().join("events/local.json"));
    invoke.arg("--parameter-overrides").arg(format!("Architecture={}", architecture()));
    let output = invoke.env("SAM", tool("sam")).output().unwrap();
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{log}");
    // The function's line of metrics is there, too.
    let values = serde_json::Deserializer::from_str(&said).into_iter::<Value>().map_while(Result::ok);
    let answers: Vec<Value> = values.filter(|value| value.get("statusCode").is_some()).collect();
    let [answer] = &answers[..] else { panic!("{said}\n{log}") };
    assert_eq!(answer["statusCode"], 503, "{answer}\n{log}");
    assert_eq!(answer["headers"]["content-type"], "application/problem+json", "{answer}\n{log}");
}
