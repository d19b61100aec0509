//! Secrets of Secrets Manager and of the Parameter Store.

use secrecy::{ExposeSecret, SecretString};
use transship_model::{SecretName, SecretRef};
use transship_state::{SecretError, SecretStore as _, Secrets, aws::AwsSecrets};

use crate::{cloud::Cloud, replay::Replay};

async fn read(secrets: &AwsSecrets, reference: &str) -> Result<String, SecretError> {
    let secret = secrets.read(&reference.parse::<SecretRef>().unwrap()).await;
    secret.map(|secret: SecretString| secret.expose_secret().to_owned())
}

/// Would break: a function without its passwords; a secret outside of the prefix that an instance's editor can read.
#[tokio::test]
async fn secrets_are_read_below_the_prefix_and_errors_say_how_to_mend_them() {
    let cloud = Cloud::start().await;
    let (manager, ssm) = (aws_sdk_secretsmanager::Client::new(&cloud.sdk), aws_sdk_ssm::Client::new(&cloud.sdk));
    for (name, value) in
        [("transship/ci/password", "s3cret-ü"), ("transship/line", "with its line break\n"), ("elsewhere", "no")]
    {
        manager.create_secret().name(name).secret_string(value).send().await.unwrap();
    }
    let secure = aws_sdk_ssm::types::ParameterType::SecureString;
    ssm.put_parameter().name("/transship/token").value("t0ken").r#type(secure).send().await.unwrap();
    let secrets = AwsSecrets::new(manager, ssm, "transship/");

    assert_eq!(read(&secrets, "secretsmanager:ci/password").await.unwrap(), "s3cret-ü");
    assert_eq!(read(&secrets, "secretsmanager:line").await.unwrap(), "with its line break");
    assert_eq!(read(&secrets, "ssm:token").await.unwrap(), "t0ken", "a SecureString is decrypted");

    for (reference, parts) in [
        (
            "secretsmanager:elsewhere",
            ["there is no secret transship/elsewhere in us-east-1", "create-secret --name transship/elsewhere"],
        ),
        ("ssm:nothing", ["there is no parameter /transship/nothing in us-east-1", "put-parameter --type SecureString"]),
        ("env:HOME", ["the secret env:HOME can't be read", "secretsmanager:NAME or ssm:NAME"]),
        ("file:/etc/hostname", ["the secret file:/etc/hostname can't be read", "secretsmanager:NAME or ssm:NAME"]),
    ] {
        let error = read(&secrets, reference).await.unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

/// Would break: what is given to the API on AWS can't be used, or is still there when its instance is gone.
#[tokio::test]
async fn a_secret_that_is_given_is_kept_below_the_prefix_until_it_is_taken_away() {
    let cloud = Cloud::start().await;
    let (manager, ssm) = (aws_sdk_secretsmanager::Client::new(&cloud.sdk), aws_sdk_ssm::Client::new(&cloud.sdk));
    // Who puts it there, and a worker, which has its own memory of what it has read.
    let secrets = || AwsSecrets::new(manager.clone(), ssm.clone(), "transship/");
    let (api, worker) = (secrets(), secrets());
    let name = |text: &str| text.parse::<SecretName>().unwrap();
    let (first, second) = (name("instances/build/credentials-1"), name("instances/build/credentials-2"));
    for (name, value) in [(&first, "old"), (&second, "new-ü")] {
        api.create(name, &SecretString::from(value)).await.unwrap();
    }
    let read = async |secrets: &AwsSecrets, name: &SecretName| {
        secrets.read(&SecretRef::Stored(name.clone())).await.map(|secret| secret.expose_secret().to_owned())
    };
    assert_eq!(read(&worker, &first).await.unwrap(), "old");
    assert_eq!(read(&worker, &second).await.unwrap(), "new-ü");
    manager.get_secret_value().secret_id("transship/instances/build/credentials-2").send().await.unwrap();
    assert!(api.create(&first, &SecretString::from("other")).await.is_err(), "a name stands for one value for ever");
    api.delete(&first).await.unwrap();
    api.delete(&first).await.unwrap();
    assert!(read(&secrets(), &first).await.is_err(), "a secret that was taken away is still there");
    assert_eq!(read(&secrets(), &second).await.unwrap(), "new-ü");
}

fn answer(secret: &str) -> (u16, serde_json::Value) {
    (200, serde_json::json!({ "Name": "transship/a", "SecretString": secret }))
}

async fn replayed(answers: Vec<(u16, serde_json::Value)>) -> (AwsSecrets, Replay) {
    let replay = Replay::start(answers).await;
    let sdk = replay.sdk().await;
    (AwsSecrets::new(aws_sdk_secretsmanager::Client::new(&sdk), aws_sdk_ssm::Client::new(&sdk), "transship/"), replay)
}

/// Would break: each webhook request and each job pays for a call of Secrets Manager; a hundred at once make a hundred.
#[tokio::test]
async fn a_secret_is_read_once_for_all_who_ask() {
    let (secrets, replay) = replayed(vec![answer("one"), answer("two")]).await;
    let asking = (0..100).map(|_| read(&secrets, "secretsmanager:a"));
    let read_by_all = futures_util::future::join_all(asking).await;
    assert!(read_by_all.iter().all(|secret| secret.as_ref().unwrap() == "one"));
    assert_eq!(replay.asked().len(), 1);
}

/// Would break: a stranger who sends wrong secrets makes the webhook call Secrets Manager for each of them.
#[tokio::test]
async fn what_was_just_read_or_just_not_there_is_not_asked_for_again() {
    let missing = (400, serde_json::json!({ "__type": "ResourceNotFoundException", "Message": "no" }));
    for (answers, is_there) in [(vec![answer("one"), answer("two")], true), (vec![missing, answer("two")], false)] {
        let (secrets, replay) = replayed(answers).await;
        for _ in 0..5 {
            assert_eq!(read(&secrets, "secretsmanager:a").await.is_ok(), is_there);
            secrets.forget(&"secretsmanager:a".parse().unwrap());
        }
        assert_eq!(replay.asked().len(), 1);
    }
}

/// Would break: a denied or empty secret that looks like a wrong password of the registry.
#[tokio::test]
async fn a_secret_that_is_denied_binary_or_empty_says_so() {
    let denied = (400, serde_json::json!({ "__type": "AccessDeniedException", "Message": "not authorized" }));
    let binary = (200, serde_json::json!({ "Name": "transship/a", "SecretBinary": "aGk=" }));
    for (answer, part) in [
        (
            denied,
            "this AWS identity may not read the secret transship/a in eu-central-1, or not decrypt it: Secrets Manager answered",
        ),
        (binary, "the secret transship/a is binary"),
        (answer("\n"), "it is empty"),
    ] {
        let (secrets, _replay) = replayed(vec![answer]).await;
        let error = read(&secrets, "secretsmanager:a").await.unwrap_err().to_string();
        assert!(error.starts_with("the secret secretsmanager:a can't be read") && error.contains(part), "{error}");
    }
}
