//! Whom the API on Lambda lets in: the bearer of a token at its public URL, and at the URL for IAM whom IAM has let in.

use std::time::Duration;

use serde_json::{Value, json};
use transship_tests::Rie;

use crate::world::{TOKEN, World, answer};

const TIME: Duration = Duration::from_secs(60);
const ARN: &str = "arn:aws:sts::123456789012:assumed-role/deployer/alice";

/// A request as a function URL hands it over; `iam` is what a URL with `AWS_IAM` puts there.
fn request(method: &str, path: &str, iam: bool, headers: Value) -> Value {
    let mut context = json!({
        "accountId": if iam { "123456789012" } else { "anonymous" }, "stage": "$default", "requestId": "r-1",
        "http": { "method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "198.51.100.4" },
    });
    if iam {
        context["authorizer"] = json!({ "iam": {
            "accessKey": "ASIAEXAMPLE", "accountId": "123456789012", "callerId": "AROAEXAMPLE:alice", "cognitoIdentity": null,
            "principalOrgId": null, "userArn": ARN, "userId": "AROAEXAMPLE:alice",
        } });
    }
    json!({ "version": "2.0", "rawPath": path, "rawQueryString": "", "headers": headers, "requestContext": context, "isBase64Encoded": false })
}

/// Would break: an identity that is believed at the public URL; one that is not believed at the other; a role that the parameter does
/// not give; an audit that does not say who it was.
#[tokio::test]
async fn iam_s_identity_counts_at_iam_s_url_only() {
    let world = World::syncing("https://build.example", "https://mirror.example").await;
    let with = |role: &str| {
        let mut environment = world.environment();
        environment.push(("TRANSSHIP_IAM_ROLE".into(), role.into()));
        environment
    };
    let signed = json!({ "authorization": "AWS4-HMAC-SHA256 Credential=ASIAEXAMPLE/20260304/eu-central-1/lambda/aws4_request, Signature=0" });
    let instances = |iam, headers: &Value| request("GET", "/v1/instances", iam, headers.clone());
    let bearer = json!({ "authorization": format!("Bearer {TOKEN}") });

    let public = Rie::start("api", &with("admin"), TIME).await;
    // The last is what only somebody can send who invokes the function past its URLs.
    for event in [instances(false, &json!({})), instances(false, &signed), instances(true, &signed)] {
        let (status, body) = answer(&public.invoke(&event).await.unwrap());
        assert_eq!(status, 401, "{body}");
    }
    assert_eq!(answer(&public.invoke(&instances(false, &bearer)).await.unwrap()).0, 200);

    let operator = Rie::start_alias("api", "iam", &with("operator"), TIME).await;
    assert_eq!(answer(&operator.invoke(&instances(true, &signed)).await.unwrap()).0, 200);
    assert_eq!(answer(&operator.invoke(&instances(false, &json!({}))).await.unwrap()).0, 401, "without an identity");
    let sync = request("POST", "/v1/instances/build/rules/release/sync", true, signed.clone());
    assert_eq!(answer(&operator.invoke(&sync).await.unwrap()).0, 202);
    assert_eq!(answer(&operator.invoke(&request("GET", "/v1/audit", true, signed.clone())).await.unwrap()).0, 403);
    drop(operator);

    let none = Rie::start_alias("api", "iam", &with("none"), TIME).await;
    assert_eq!(answer(&none.invoke(&instances(true, &signed)).await.unwrap()).0, 401, "switched off");
    drop(none);

    let admin = Rie::start_alias("api", "iam", &with("admin"), TIME).await;
    let (status, audit) = answer(&admin.invoke(&request("GET", "/v1/audit", true, signed)).await.unwrap());
    assert_eq!(status, 200, "{audit}");
    let entry = &audit["items"][0];
    assert_eq!((&entry["action"], &entry["what"]), (&json!("rule.sync"), &json!("build/release")));
    assert_eq!((&entry["who"], &entry["from"]), (&json!(format!("iam:{ARN}")), &json!("198.51.100.4")));
}
