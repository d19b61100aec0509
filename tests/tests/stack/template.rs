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
