//! `transship apply`: the real binary against DynamoDB's API.
#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use aws_sdk_dynamodb::{
    Client,
    operation::scan::builders::ScanFluentBuilder,
    types::{AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType},
};
use transship_tests::*;

/// An emulator with a deployment's table, and a place for the file.
struct Deployment {
    aws: Aws,
    client: Client,
}

impl Deployment {
    async fn start() -> Self {
        let aws = Aws::start().await;
        let client = Client::new(&aws.sdk().await);
        let text = |name: &str| {
            let definition = AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S);
            definition.build().unwrap()
        };
        let key = |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap();
        let create = client.create_table().table_name("catalogue").billing_mode(BillingMode::PayPerRequest);
        let create = create.attribute_definitions(text("partition")).attribute_definitions(text("sort"));
        create.key_schema(key("partition", KeyType::Hash)).key_schema(key("sort", KeyType::Range)).send().await.unwrap();
        Self { aws, client }
    }

    async fn apply(&self, config: &str, more: &[&str]) -> Output {
        let file = self.aws.dir().join("sync.yaml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(tokio::task::spawn_blocking(binary).await.unwrap());
        command.args(["apply", "-f"]).arg(file).args(more).envs(self.aws.env()).stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// How many items the table has.
    async fn items(&self) -> i32 {
        self.count(self.client.scan()).await
    }

    /// How many of them are entries of the audit that say who has applied what.
    async fn noted(&self) -> i32 {
        let of_audit = self.client.scan().filter_expression("begins_with(#p, :audit) AND begins_with(who, :user)");
        let of_audit = of_audit.expression_attribute_names("#p", "partition");
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let of_audit = of_audit.expression_attribute_values(":audit", text("audit/"));
        self.count(of_audit.expression_attribute_values(":user", text("user "))).await
    }

    async fn count(&self, scan: ScanFluentBuilder) -> i32 {
        let mut pages = scan.table_name("catalogue").consistent_read(true).into_paginator().send();
        let mut items = 0;
        while let Some(page) = pages.next().await {
            items += page.unwrap().count();
        }
        items
    }
}

fn lines(output: &Output) -> Vec<&str> {
    std::str::from_utf8(&output.stdout).unwrap().lines().collect()
}

fn complaint(output: &Output) -> &str {
    assert!(!output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stderr).unwrap().trim_end()
}

fn registry(name: &str, more: &str) -> String {
    format!("  - {{ name: {name}, endpoint: 'https://{name}.example.com'{more} }}\n")
}

const FROM: &str = "instance: build, namespace: team";
const TO: &str = "instance: prod, namespace: mirror";
const TABLE: [&str; 2] = ["--table", "catalogue"];

/// Would break: a deployment that does not get, keeps or loses what its file says; a look that changes something.
#[tokio::test]
async fn apply_brings_the_table_to_what_the_file_says_and_a_dry_run_only_tells() {
    let deployment = Deployment::start().await;
    let secret = ", webhook_secret: 'secretsmanager:build-hook'";
    let instances = [registry("build", secret), registry("prod", ""), registry("old", "")];
    let first = config(&instances, &[rule("all", FROM, TO, ""), rule("gone", FROM, "instance: old", "")]);

    let dry = deployment.apply(&first, &["--table", "catalogue", "--dry-run"]).await;
    let told = ["+ instance build", "+ instance prod", "+ instance old", "+ rule build/all", "+ rule build/gone"];
    let summary = "catalogue: 5 to be created, 0 to be changed, 0 to be deleted; nothing was changed";
    assert_eq!(lines(&dry), [&told[..], &[summary]].concat(), "{dry:?}");
    assert_eq!(deployment.items().await, 0);

    let done = deployment.apply(&first, &TABLE).await;
    assert_eq!(lines(&done), [&told[..], &["catalogue: 5 created, 0 changed, 0 deleted"]].concat(), "{done:?}");
    assert_eq!((deployment.items().await, deployment.noted().await), (11, 5), "with the catalogue's version and the audit");
    assert_eq!(lines(&deployment.apply(&first, &TABLE).await), ["catalogue: 0 created, 0 changed, 0 deleted"]);

    // A file that was cut off, or is empty, takes nothing away unless that is said.
    let stay = "catalogue: 0 created, 0 changed, 0 deleted; 5 that the file does not name stay: --prune deletes them";
    assert_eq!(lines(&deployment.apply("", &TABLE).await), [stay]);

    let second = config(&instances[..2], &[rule("all", FROM, TO, "overwrite: true"), rule("new", FROM, TO, "enabled: false")]);
    let told = ["~ rule build/all", "+ rule build/new", "- rule build/gone", "- instance old"];
    let dry = deployment.apply(&second, &["--table", "catalogue", "--dry-run", "--prune"]).await;
    assert_eq!(lines(&dry)[..4], told, "{dry:?}");
    let done = deployment.apply(&second, &["--table", "catalogue", "--prune"]).await;
    assert_eq!(lines(&done), [&told[..], &["catalogue: 1 created, 1 changed, 2 deleted"]].concat());
    // Besides: that the secrets of the instance that has gone are to be looked for.
    assert_eq!((deployment.items().await, deployment.noted().await), (15, 9));
}

/// Would break: a catalogue with more entries than DynamoDB writes at once can't be applied, or not changed.
#[tokio::test]
async fn a_large_catalogue_is_written_in_parts() {
    let deployment = Deployment::start().await;
    let instances = [registry("build", ", webhook_auth: none"), registry("prod", "")];
    let rules = |more: &str| (0..450).map(|n| rule(&format!("r{n}"), FROM, TO, more)).collect::<Vec<_>>();
    let done = deployment.apply(&config(&instances, &rules("")), &TABLE).await;
    assert_eq!(lines(&done).last(), Some(&"catalogue: 452 created, 0 changed, 0 deleted"), "{done:?}");
    assert_eq!((deployment.items().await, deployment.noted().await), (905, 452));
    let done =
        deployment.apply(&config(&instances, &rules("overwrite: true")[..225]), &["--table", "catalogue", "--prune"]).await;
    assert_eq!(lines(&done).last(), Some(&"catalogue: 0 created, 225 changed, 225 deleted"), "{done:?}");
    assert_eq!((deployment.items().await, deployment.noted().await), (1130, 902));
}

/// Would break: functions that fail at run time with secrets they can't read, which the person who applied the file could have
/// been told with the line.
#[tokio::test]
async fn what_functions_cannot_read_is_refused_with_its_line() {
    let deployment = Deployment::start().await;
    let text = config(
        &[
            registry("build", ", webhook_secret: 'env:HOOK'"),
            registry("prod", ", credentials: { username: ci, password: 'file:/run/secrets/prod' }"),
            registry("lab", ", credentials: docker-config"),
        ],
        &[rule("all", FROM, TO, "")],
    );
    let output = deployment.apply(&text, &TABLE).await;
    let complaints: Vec<_> = complaint(&output).lines().collect();
    assert_eq!(complaints.len(), 3, "{complaints:#?}");
    for (complaint, (line, part)) in complaints.iter().zip([
        ("sync.yaml:2:", "instances[0].webhook_secret: functions on AWS have no variables or files of yours"),
        ("sync.yaml:3:", "instances[1].credentials.password: functions on AWS have no variables or files of yours"),
        ("sync.yaml:4:", "instances[2].credentials: functions on AWS have no Docker configuration"),
    ]) {
        assert!(complaint.contains(line) && complaint.contains(part), "{complaint} has no {line} or {part}");
    }
    assert_eq!(deployment.items().await, 0);
}

/// Would break: a stranger's puzzle where a name, a region or a service is wrong.
#[tokio::test]
async fn a_table_that_is_not_there_or_does_not_answer_is_named() {
    let deployment = Deployment::start().await;
    let text = config(&[registry("build", "")], &[]);
    let output = deployment.apply(&text, &["--table", "nowhere"]).await;
    let expected = "transship: the catalogue in the table nowhere can't be read: the table did not answer: there is no table \
                    nowhere in us-east-1: DynamoDB answered GetItem with 400 ResourceNotFoundException";
    assert!(complaint(&output).starts_with(expected), "{}", complaint(&output));

    let nobody = format!("http://127.0.0.1:{}", free_port());
    for (part, set, removed) in [
        ("DynamoDB can't be asked to GetItem: ", Some(nobody), &[][..]),
        (
            "DynamoDB can't be asked to GetItem: this process has no AWS identity: give it one",
            None,
            &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        ),
        ("no region of AWS is chosen: set AWS_REGION", None, &["AWS_REGION", "AWS_DEFAULT_REGION"]),
    ] {
        let mut command = Command::new(binary());
        command.args(["apply", "--table", "catalogue", "--config"]).arg(deployment.aws.dir().join("sync.yaml"));
        command.envs(deployment.aws.env()).envs(set.map(|url| ("AWS_ENDPOINT_URL", url))).stdin(Stdio::null());
        for variable in removed {
            command.env_remove(variable);
        }
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let complaint = complaint(&output);
        assert!(complaint.contains(part) && complaint.lines().count() == 1, "{complaint} has no {part}, or too much");
    }
}
