//! Secrets that AWS keeps, read by `serve`.

use serde_json::json;
use transship_tests::*;

/// Would break: an operator who keeps the secrets of `serve` in AWS has notifications refused; a secret outside of the prefix is
/// readable; a missing one lets everybody in.
#[tokio::test]
async fn serve_reads_secrets_that_aws_keeps_below_its_prefix() {
    let aws = Aws::start().await;
    let client = aws_sdk_secretsmanager::Client::new(&aws.sdk().await);
    for name in ["mirrors/build-hook", "elsewhere"] {
        client.create_secret().name(name).secret_string(HOOK_SECRET).send().await.unwrap();
    }
    let mut transship = Transship::reserve();
    for (name, value) in aws.env() {
        transship.set(&name, &value);
    }
    transship.set("TRANSSHIP_SECRET_PREFIX", "mirrors/");
    let instance = |name: &str, secret: &str| {
        format!(
            "  - {{ name: {name}, endpoint: 'https://{name}.example.com', kind: distribution, webhook_secret: '{secret}' }}\n"
        )
    };
    let instances = [instance("build", "secretsmanager:build-hook"), instance("lost", "secretsmanager:elsewhere")];
    transship.start(&config(&instances, &[])).await;

    let event = json!({ "events": [] });
    assert_eq!(transship.notify("build", &event).await.status(), 200);
    assert_eq!(transship.notify("lost", &event).await.status(), 503, "so that it is sent again");
    let log = transship.log();
    assert!(log.contains("there is no secret mirrors/elsewhere in us-east-1"), "{log}");
    assert!(!log.contains(HOOK_SECRET));
}
