//! What can be said of the templates without deploying them.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::path::Path;

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
        let is_everything = |line: &str| {
            let resource = line.trim().trim_start_matches("- ").strip_prefix("Resource:").map(str::trim);
            let listed = matches!(line.trim(), "- '*'" | "- \"*\"" | "- *");
            listed || resource.is_some_and(|what| matches!(what.trim_matches(['[', ']', ' ', '\'', '"']), "*"))
        };
        let everything = lines.iter().enumerate().filter(|(_, line)| is_everything(line) || line.contains("Resource: '*'"));
        for (at, _) in everything {
            let statement = lines[at.saturating_sub(1)..=at].concat();
            let known = ["ecr:GetAuthorizationToken", "xray:PutTraceSegments"].iter().any(|action| statement.contains(action));
            assert!(known, "{template}, line {}: {statement}", at + 1);
        }
    }
}

/// Would break: a function behind a public URL, or one that speaks with strangers, that is taken over gives away the passwords of all
/// registries.
#[test]
fn passwords_that_the_api_keeps_are_the_workers_only() {
    let text = std::fs::read_to_string(root().join("template.yaml")).unwrap();
    let name = std::fs::read_to_string(root().join("functions/api/src/wanted.rs")).unwrap();
    assert!(name.contains("Self::Credentials => \"credentials\""), "the names of passwords have their purpose");
    let written = std::fs::read_to_string(root().join("shared/state/src/written.rs")).unwrap();
    assert!(written.contains("{owner}/_{purpose}-"), "what an instance or subscription is called can't look like it");
    for (role, may) in [("WebhookRole", false), ("NotifierRole", false), ("WorkerRole", true)] {
        let role_text = text.split(&format!("\n  {role}:\n")).nth(1).unwrap().split("Logs:\n").next().unwrap();
        let denied = role_text.split("- Effect: Deny").nth(1).unwrap_or_default();
        let is_denied = denied.contains("Action: secretsmanager:GetSecretValue")
            && denied.contains("secret:${SecretPrefix}instances/*/_credentials-*");
        assert_eq!(is_denied, !may, "{role}");
    }
}

/// Would break: a table whose log is lost with the stack or never expires, a queue that delivers a job twice while it runs, a message
/// that is tried for ever, a batch that fails whole because of one message.
#[test]
fn what_is_deployed_keeps_its_promises() {
    let text = std::fs::read_to_string(root().join("template.yaml")).unwrap();
    let block = |name: &str| {
        let rest = text.split(&format!("\n  {name}:\n")).nth(1).unwrap_or_else(|| panic!("no {name}"));
        rest.lines().take_while(|line| line.is_empty() || line.starts_with("    ")).collect::<Vec<_>>().join("\n")
    };
    let has = |name: &str, properties: &[&str]| {
        let block = block(name);
        for property in properties {
            assert!(block.contains(property), "{name} has no {property}:\n{block}");
        }
    };
    has(
        "Table",
        &[
            "PAY_PER_REQUEST",
            "PointInTimeRecoveryEnabled: true",
            "DeletionProtectionEnabled: true",
            "AttributeName: expires, Enabled: true",
            "DeletionPolicy: Retain",
        ],
    );
    has(
        "JobsQueue",
        &["FifoQueue: true", "FifoThroughputLimit: perMessageGroupId", "maxReceiveCount: 1000", "VisibilityTimeout: "],
    );
    for queue in ["EventsQueue", "InboxQueue", "NotificationsQueue"] {
        has(queue, &["deadLetterTargetArn: ", "maxReceiveCount: ", "MessageRetentionPeriod: 1209600", "VisibilityTimeout: "]);
    }
    for function in ["WebhookFunction", "WorkerFunction", "LoggerFunction", "NotifierFunction"] {
        let block = block(function);
        let mappings = block.matches("Type: SQS").count();
        assert!(mappings > 0 && block.matches("ReportBatchItemFailures").count() == mappings, "{function}:\n{block}");
    }
    has("WorkerFunction", &["MaximumConcurrency: "]);
    assert!(!text.contains("ReservedConcurrentExecutions"), "a throttled FIFO message is counted without having run");
}

/// Would break: an alarm, or a graph, on a metric that nothing writes any more: it would be silent for ever.
#[test]
fn alarms_and_dashboard_are_of_metrics_that_exist() {
    let sources = ["shared/lambda/src", "functions"].map(|folder| root().join(folder));
    let code: String = sources.iter().map(|folder| all_code(folder)).collect();
    let of_alarms = std::fs::read_to_string(root().join("infra/alarms.yaml")).unwrap();
    let mut named: Vec<String> = of_alarms
        .split("Namespace: transship\n")
        .skip(1)
        .map(|rest| rest.trim_start().strip_prefix("MetricName: ").unwrap().lines().next().unwrap().to_owned())
        .collect();
    assert!(named.len() >= 4, "{named:?}");
    let dashboard = std::fs::read_to_string(root().join("infra/dashboard.yaml")).unwrap();
    for namespace in ["[\"transship\", \"", "[\".\", \""] {
        named.extend(dashboard.split(namespace).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
    }
    assert!(named.len() >= 10, "{named:?}");
    for metric in named {
        assert!(code.contains(&format!("Metric::{metric}")), "nothing writes {metric}");
    }
}

/// What is in the files of Rust below a folder, without the list of all metrics and their units.
fn all_code(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut code = String::new();
    for path in entries.filter(|path| !path.ends_with("metrics.rs") && !path.ends_with("tests")) {
        if path.is_dir() {
            code += &all_code(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code += &std::fs::read_to_string(&path).unwrap();
        }
    }
    code
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
