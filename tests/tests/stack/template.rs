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

/// Would break: a second URL of the API that asks nobody, or that is the function's own and not the alias's by which the function knows
/// it; a policy that lets its bearers write the function's events themselves.
#[test]
fn the_url_for_iam_is_an_alias_s_and_asks_iam() {
    let text = std::fs::read_to_string(root().join("template.yaml")).unwrap();
    let block = |name: &str| {
        let rest = text.split(&format!("\n  {name}:\n")).nth(1).unwrap_or_else(|| panic!("no {name}"));
        let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
        lines.collect::<Vec<_>>().join("\n")
    };
    let main = std::fs::read_to_string(root().join("functions/api/src/main.rs")).unwrap();
    assert!(main.contains("IAM_ALIAS: &str = \"iam\""), "the function's own name for it");
    assert!(block("ApiIamAlias").contains("Name: iam"));
    let url = block("ApiIamUrl");
    assert!(url.contains("AuthType: AWS_IAM") && url.contains("Qualifier: iam"), "{url}");
    let policy = block("ApiAccessPolicy");
    let invoking = policy.split("Action: lambda:InvokeFunction\n").nth(1).unwrap();
    assert!(invoking.contains("'lambda:InvokedViaFunctionUrl': 'true'"), "{policy}");
    assert!(policy.contains("'lambda:FunctionUrlAuthType': AWS_IAM"), "{policy}");
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

/// Would break: a target whose repositories are not made, a reconciliation that asks for each tag, or tags that are never deleted,
/// because a role lacks what the worker asks ECR for.
#[test]
fn who_may_push_to_ecr_may_make_list_and_delete() {
    let asked = ["CreateRepository", "TagResource", "DescribeRepositories", "ListImages", "BatchDeleteImage"];
    for template in ["template.yaml", "infra/cross-account-role.yaml"] {
        let text = std::fs::read_to_string(root().join(template)).unwrap();
        for action in asked {
            let line = format!("- ecr:{action}");
            assert_eq!(text.lines().filter(|found| found.trim() == line).count(), 1, "{template}: {line}");
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
