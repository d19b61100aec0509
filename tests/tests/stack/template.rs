//! What can be said of the templates without deploying them.

use transship_tests::{root, sam};

/// Would break: a misspelt property, a reference to what is not there, a value that CloudFormation refuses.
#[test]
fn every_template_is_valid() {
    for template in ["template.yaml", "infra/alarms.yaml", "infra/dashboard.yaml", "infra/cross-account-role.yaml"] {
        let output = sam(&["validate", "--lint", "--template-file", template]).output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success(), "{template}: {said}");
    }
}

/// Would break: a policy that allows something on everything although it could name what it is for. ECR's passwords and X-Ray's
/// traces can't: their actions know no resource.
#[test]
fn no_policy_names_everything_that_could_name_something() {
    for template in ["template.yaml", "infra/cross-account-role.yaml"] {
        let text = std::fs::read_to_string(root().join(template)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let everything =
            lines.iter().enumerate().filter(|(_, line)| line.contains("Resource: '*'") || line.contains("Resource: \"*\""));
        for (at, _) in everything {
            let statement = lines[at.saturating_sub(1)..=at].concat();
            let known = ["ecr:GetAuthorizationToken", "xray:PutTraceSegments"].iter().any(|action| statement.contains(action));
            assert!(known, "{template}, line {}: {statement}", at + 1);
        }
    }
}

/// Would break: an API that is taken over gives away the passwords of all registries.
#[test]
fn the_api_can_put_registries_secrets_there_and_read_none() {
    let text = std::fs::read_to_string(root().join("template.yaml")).unwrap();
    let role = text.split("\n  ApiRole:").nth(1).unwrap().split("\n  ApiLogs:").next().unwrap();
    let statements: Vec<&str> =
        role.split("- Effect: Allow").filter(|statement| statement.contains("secretsmanager:")).collect();
    assert_eq!(statements.len(), 2, "{statements:#?}");
    for statement in statements {
        if statement.contains("GetSecretValue") {
            assert!(statement.contains("${AWS::StackName}-api/"), "it reads its own secrets only: {statement}");
            assert!(!statement.contains("SecretPrefix"), "{statement}");
        } else {
            assert!(statement.contains("[secretsmanager:CreateSecret, secretsmanager:DeleteSecret]"), "{statement}");
            assert!(statement.contains("secret:${SecretPrefix}instances/*"), "{statement}");
        }
    }
    assert!(!role.contains("ssm:"), "{role}");
}
