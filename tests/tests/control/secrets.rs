//! Secrets that are given to the API.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use reqwest::Method;
use serde_json::{Value, json};
use transship_tests::*;

use crate::{bare, done, send, to_prod};

const BUILD: &str = "/v1/instances/build";

/// All files of a folder.
pub(crate) fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let entries = entries.map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Whether a text is in a file of a folder, in plain.
fn is_in(folder: &Path, text: &str) -> bool {
    files(folder).iter().any(|file| fs::read(file).unwrap().windows(text.len()).any(|part| part == text.as_bytes()))
}

/// A registry that asks for a login, lets nobody in and keeps what it is told.
async fn capturing() -> Proxy {
    let ask = [("www-authenticate", "Basic realm=\"r\""), ("docker-distribution-api-version", "registry/2.0")];
    Proxy::start("http://127.0.0.1:1", move |_| Action::status(401, &ask, "")).await
}

/// What a capturing registry has been told.
fn told(registry: &Proxy) -> String {
    registry.exchanges().iter().map(|exchange| format!("{}\n", exchange.request.header("authorization"))).collect()
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))
}

/// Runs the rule and waits for its end.
async fn run(transship: &Transship, n: usize) -> Value {
    transship.call(Method::POST, "/v1/instances/build/rules/all/sync").await;
    transship.ended("build/all", n).await.remove(0)
}

/// Would break: a password that can't be used, is shown, is in the table, in a log or in a file for everybody, or outlives its instance.
#[tokio::test]
async fn a_password_is_used_and_never_shown_and_goes_with_its_instance() {
    let (build, prod) = (DockerRegistry::builder().login(ALICE).start().await, DockerRegistry::start().await);
    Image::random(1).build().push(&build.at("team/app", "v1")).await;
    let transship = bare().await;
    let with = |password: &str| {
        let credentials = json!({ "username": ALICE.user, "password": { "value": password } });
        json!({
            "endpoint": build.url(), "kind": "distribution", "credentials": credentials,
            "webhook_secret": { "value": HOOK_SECRET },
            "notify": { "url": "https://ci.example/T0KEN", "secret": { "value": "s1gning" } },
        })
    };
    let first = done(&transship, Method::PUT, BUILD, with("a-wrong-one")).await;
    done(&transship, Method::PUT, "/v1/instances/prod", json!({ "endpoint": prod.url(), "kind": "distribution" })).await;
    done(&transship, Method::PUT, "/v1/instances/build/rules/all?start=false", to_prod()).await;
    assert_eq!(run(&transship, 1).await["status"], "failed");

    let credentials = json!({ "username": ALICE.user, "password": { "value": ALICE.password } });
    let second = done(&transship, Method::PUT, "/v1/instances/build/secrets/credentials", credentials).await;
    assert_eq!(run(&transship, 2).await["status"], "succeeded", "{}", transship.log());
    assert_same(&build.at("team/app", "v1"), &prod.at("mirror/app", "v1")).await;
    assert_eq!(transship.notify("build", &json!({ "events": [] })).await.status(), 200, "the webhook's secret is in use");

    let shown = transship.get(BUILD).await;
    assert_eq!(shown["credentials"], json!({ "username": ALICE.user, "password": { "from": "stored" } }));
    assert_eq!(shown["notify"], json!({ "origin": "https://ci.example", "secret": { "from": "stored" } }));
    let kept = transship.data().join("secrets");
    for secret in ["a-wrong-one", ALICE.password, HOOK_SECRET, "s1gning"] {
        let answers = format!("{:?} {:?} {shown} {}", first, second, transship.get("/v1/instances").await);
        assert!(!answers.contains(secret) && !transship.log().contains(secret), "{secret}: {answers}");
        let elsewhere = files(&transship.data()).into_iter().filter(|file| !file.starts_with(&kept));
        for file in elsewhere {
            let bytes = fs::read(&file).unwrap();
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret} is in {}", file.display());
        }
    }
    assert!(is_in(&kept, ALICE.password), "or else the test looks in the wrong place");
    assert!(!is_in(&kept, "a-wrong-one"), "a password that was replaced is still there");
    assert_eq!(files(&kept).len(), 3);
    for file in files(&kept) {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }

    for path in ["/v1/instances/build/rules/all", BUILD] {
        assert_eq!(send(&transship, Method::DELETE, path, None, &[]).await.status, 204);
    }
    assert_eq!(files(&kept), Vec::<std::path::PathBuf>::new(), "a secret outlives its instance");
}

/// Would break: whoever may change an instance reads its password, by pointing it at a server of their own, or by any other change of
/// where the password goes.
#[tokio::test]
async fn a_password_is_not_sent_to_another_place_than_it_was_given_for() {
    const PASSWORD: &str = "kept-from-them";
    let (own, thief) = (capturing().await, capturing().await);
    let prod = DockerRegistry::start().await;
    let transship = bare().await;
    done(&transship, Method::PUT, "/v1/instances/prod", json!({ "endpoint": prod.url(), "kind": "distribution" })).await;
    let credentials = json!({ "username": "ci", "password": { "value": PASSWORD } });
    let instance = json!({ "endpoint": own.url(), "credentials": credentials });
    done(&transship, Method::PUT, BUILD, instance.clone()).await;
    done(&transship, Method::PUT, "/v1/instances/build/rules/all?start=false", to_prod()).await;
    run(&transship, 1).await;
    assert!(told(&own).contains(&basic("ci", PASSWORD)), "or else the test sees nothing: {}", told(&own));

    // By a change of the endpoint, and by a whole instance that says that the password stays.
    let kept = json!({ "username": "ci", "password": { "from": "stored" } });
    for (n, (method, document)) in [
        (Method::PATCH, json!({ "endpoint": thief.url() })),
        (Method::PUT, json!({ "endpoint": thief.url(), "credentials": kept })),
    ]
    .into_iter()
    .enumerate()
    {
        done(&transship, Method::PUT, BUILD, instance.clone()).await;
        let answer = done(&transship, method, BUILD, document).await;
        assert_eq!((&answer.body["dropped"], answer.body.get("credentials")), (&json!(["credentials"]), None), "{answer:?}");
        run(&transship, 2 + n).await;
    }
    // By all else that decides where it goes.
    let pem = Authority::new("authority").pem();
    for change in [
        json!({ "token_realm": format!("{}/token", thief.url()) }),
        json!({ "api": thief.url() }),
        json!({ "kind": "harbor" }),
        json!({ "ca": pem }),
        json!({ "plain_http": true }),
    ] {
        done(&transship, Method::PUT, BUILD, instance.clone()).await;
        let answer = done(&transship, Method::PATCH, BUILD, change.clone()).await;
        assert_eq!((&answer.body["dropped"], answer.body.get("credentials")), (&json!(["credentials"]), None), "{change}");
        let back = send(&transship, Method::PATCH, BUILD, Some(&json!({ "credentials": kept })), &[]).await;
        assert_eq!(back.status, 422, "what was dropped is gone: {back:?}");
    }
    // What the place does not depend on leaves it alone.
    done(&transship, Method::PUT, BUILD, instance.clone()).await;
    let answer = done(&transship, Method::PATCH, BUILD, json!({ "region": "x", "webhook_auth": "none" })).await;
    assert_eq!(answer.body["credentials"], kept, "{answer:?}");
    let thieves = told(&thief);
    assert!(!thief.exchanges().is_empty() && !thieves.contains(&basic("ci", PASSWORD)), "{thieves}");

    // With a new value, the new place gets the new one, in the same request, and never the old one.
    let moved = json!({ "endpoint": thief.url(), "credentials": { "username": "ci", "password": { "value": "another" } } });
    done(&transship, Method::PUT, BUILD, moved).await;
    run(&transship, 4).await;
    let thieves = told(&thief);
    assert!(thieves.contains(&basic("ci", "another")) && !thieves.contains(&basic("ci", PASSWORD)), "{thieves}");
}

/// Would break: a receiver of somebody's choice gets what is signed with a secret that it does not know.
#[tokio::test]
async fn a_signing_secret_stays_with_its_receiver() {
    let transship = bare().await;
    let notify = json!({ "url": "https://ci.example/hook", "secret": { "value": "s1gning" } });
    done(&transship, Method::PUT, BUILD, json!({ "endpoint": "https://build.example", "notify": notify })).await;
    let kept = done(&transship, Method::PATCH, BUILD, json!({ "notify": { "private_network": true } })).await;
    assert_eq!(kept.body["notify"]["secret"], json!({ "from": "stored" }), "{kept:?}");
    let moved = done(&transship, Method::PATCH, BUILD, json!({ "notify": { "url": "https://thief.example/" } })).await;
    assert_eq!((&moved.body["dropped"], moved.body["notify"].get("secret")), (&json!(["notify"]), None), "{moved:?}");
    let again = json!({ "value": "another" });
    let given = done(&transship, Method::PUT, "/v1/instances/build/secrets/notify", again).await;
    assert_eq!(
        given.body["notify"],
        json!({ "origin": "https://thief.example", "secret": { "from": "stored" }, "private_network": true })
    );
    assert_eq!(send(&transship, Method::DELETE, "/v1/instances/build/secrets/notify", None, &[]).await.status, 204);
    assert_eq!(transship.get(BUILD).await["notify"].get("secret"), None);
}

/// Would break: a secret that AWS keeps is read by naming it for an instance of one's own.
#[tokio::test]
async fn a_reference_is_for_the_registry_that_it_was_first_named_for() {
    let transship = bare().await;
    let with = |host: &str, reference: &str| {
        let password = json!({ "reference": reference });
        json!({ "endpoint": format!("https://{host}"), "credentials": { "username": "ci", "password": password } })
    };
    let put = async |name: &str, document: &Value| {
        send(&transship, Method::PUT, &format!("/v1/instances/{name}"), Some(document), &[]).await
    };
    assert_eq!(put("build", &with("build.example", "secretsmanager:ci")).await.status, 201);
    let shown = transship.get(BUILD).await;
    assert_eq!(shown["credentials"]["password"], json!({ "from": "secretsmanager", "reference": "secretsmanager:ci" }));
    let patched = done(&transship, Method::PATCH, BUILD, json!({ "zone": "x" })).await;
    assert_eq!(patched.body["credentials"], shown["credentials"], "what is not patched stays");
    let value = json!({ "credentials": { "password": { "value": "given" } } });
    let given = done(&transship, Method::PATCH, BUILD, value).await;
    assert_eq!(given.body["credentials"]["password"], json!({ "from": "stored" }), "a value takes the place of a reference");
    assert_eq!(put("build", &with("build.example", "secretsmanager:ci")).await.status, 200);
    assert_eq!(put("same", &with("build.example", "secretsmanager:ci")).await.status, 201, "for the same registry");
    let refused = put("thief", &with("thief.example", "secretsmanager:ci")).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    let mut realm = with("build.example", "secretsmanager:ci");
    realm["token_realm"] = json!("https://thief.example/token");
    assert_eq!(put("thief", &realm).await.status, 409, "a token service is where a password goes, too");
    let hook = json!({ "endpoint": "https://thief.example", "webhook_secret": { "reference": "secretsmanager:ci" } });
    assert_eq!(put("thief", &hook).await.status, 409, "for another purpose");
    let moved = send(&transship, Method::PATCH, BUILD, Some(&json!({ "endpoint": "https://thief.example" })), &[]).await;
    assert_eq!((moved.status, &moved.body["dropped"]), (200, &json!(["credentials"])));
    // Nor when nobody uses it any more.
    for name in ["build", "same"] {
        assert_eq!(send(&transship, Method::DELETE, &format!("/v1/instances/{name}"), None, &[]).await.status, 204);
    }
    assert_eq!(put("thief", &with("thief.example", "secretsmanager:ci")).await.status, 409);
    assert_eq!(put("build", &with("build.example", "secretsmanager:ci")).await.status, 201);
    let foreign = put("thief", &with("thief.example", "secretsmanager:instances/build/credentials-1")).await;
    assert_eq!(foreign.status, 422, "{foreign:?}");
    assert_eq!(transship.get("/v1/instances").await["items"].as_array().unwrap().len(), 1);
}
