//! Amazon ECR, as its SDK knows it: an AWS of the test's own gives passwords for a real registry.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ecr::config::Credentials;
use axum::{Router, body::to_bytes, extract::Request, http::request::Parts, response::Response};
use base64::Engine as _;
use transship_model::RoleArn;
use transship_registry::{Ecr, Error, Http, Login, Registry};
use transship_tests::{ALICE, DockerRegistry};

use crate::fixture::*;

const ROLE: &str = "arn:aws:iam::210987654321:role/mirror/puller";
const BASE_SECRET: &str = "base-Secret-Key";
const ROLE_SECRET: &str = "role-Secret-Key";

/// ECR and STS.
struct Aws {
    url: String,
    /// What ECR was asked with: the access key, and the region.
    asked: Arc<Mutex<Vec<(String, String)>>>,
    /// What STS was asked.
    assumed: Arc<Mutex<Vec<HashMap<String, String>>>>,
    /// How long a password is good for, in seconds.
    life: Arc<AtomicU64>,
    /// Whether ECR and STS deny everything.
    denies: (Arc<AtomicBool>, Arc<AtomicBool>),
}

impl Aws {
    /// `password` makes `user:password` of how many there have been.
    async fn start(password: impl Fn(usize) -> String + Clone + Send + Sync + 'static) -> Self {
        let aws = Self {
            url: String::new(),
            asked: Arc::default(),
            assumed: Arc::default(),
            life: Arc::new(AtomicU64::new(12 * 3600)),
            denies: Default::default(),
        };
        let (asked, assumed, life, denies) = (aws.asked.clone(), aws.assumed.clone(), aws.life.clone(), aws.denies.clone());
        let app = Router::new().fallback(move |request: Request| {
            let (asked, assumed, life, denies) = (asked.clone(), assumed.clone(), life.clone(), denies.clone());
            let password = password.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = to_bytes(body, 1 << 16).await.unwrap();
                if head
                    .headers
                    .get("x-amz-target")
                    .is_some_and(|target| target.to_str().unwrap().ends_with(".GetAuthorizationToken"))
                {
                    let mut asked = asked.lock().unwrap();
                    asked.push(signed_by(&head));
                    ecr(&password(asked.len() - 1), life.load(Ordering::SeqCst), denies.0.load(Ordering::SeqCst))
                } else {
                    let form: HashMap<_, _> = url::form_urlencoded::parse(&body).into_owned().collect();
                    assert_eq!(form["Action"], "AssumeRole");
                    assumed.lock().unwrap().push(form);
                    sts(denies.1.load(Ordering::SeqCst))
                }
            }
        });
        Self { url: Fake::serve(app).await.url, ..aws }
    }

    async fn config(&self) -> SdkConfig {
        let base = Credentials::new("AKIABASE", BASE_SECRET, None, None, "test");
        let config = aws_config::defaults(BehaviorVersion::latest()).endpoint_url(&self.url).credentials_provider(base);
        config.region(Region::new("eu-north-1")).load().await
    }

    fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().unwrap().clone()
    }
}

/// Access key and region of a signature: `Credential=KEY/DATE/REGION/SERVICE/aws4_request`.
fn signed_by(head: &Parts) -> (String, String) {
    let signature = head.headers["authorization"].to_str().unwrap();
    let scope: Vec<&str> = signature.split("Credential=").nth(1).unwrap().split('/').collect();
    (scope[0].to_owned(), scope[2].to_owned())
}

fn ecr(password: &str, life: u64, denies: bool) -> Response {
    if denies {
        let text =
            r#"{"__type":"AccessDeniedException","message":"User: x is not authorized to perform: ecr:GetAuthorizationToken"}"#;
        return answer(400, &[("content-type", "application/x-amz-json-1.1")], text);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let token = base64::engine::general_purpose::STANDARD.encode(password);
    let expires = now + life as f64;
    let text = format!(r#"{{"authorizationData":[{{"authorizationToken":"{token}","expiresAt":{expires:.3}}}]}}"#);
    answer(200, &[("content-type", "application/x-amz-json-1.1")], text)
}

fn sts(denies: bool) -> Response {
    if denies {
        let text = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not authorized to perform: \
                    sts:AssumeRole</Message></Error><RequestId>1</RequestId></ErrorResponse>";
        return answer(403, &[("content-type", "text/xml")], text);
    }
    let text = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><AssumedRoleUser><Arn>arn:aws:sts::210987654321:assumed-role/puller/transship</Arn>\
         <AssumedRoleId>b:transship</AssumedRoleId></AssumedRoleUser><Credentials><AccessKeyId>ASIAROLE</AccessKeyId>\
         <SecretAccessKey>{ROLE_SECRET}</SecretAccessKey><SessionToken>role-Session-Token</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    );
    answer(200, &[("content-type", "text/xml")], text)
}

fn client(http: &Http, url: &str, credentials: Login) -> Registry {
    let mut config = config("account", url);
    config.credentials = credentials;
    Registry::new(http, config).unwrap()
}

fn role() -> RoleArn {
    ROLE.parse().unwrap()
}

fn alice() -> String {
    format!("{}:{}", ALICE.user, ALICE.password)
}

/// Would break: AWS asked by each request until it throttles, or a password that is shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_takes_the_password_and_aws_is_asked_once_for_all_who_wait() {
    let aws = Aws::start(|_| alice()).await;
    let registry = DockerRegistry::builder().login(ALICE).start().await;
    let (http, ecr) = (Http::new().unwrap(), Ecr::with(aws.config().await));
    let login = || ecr.login(&registry.url().parse().unwrap(), None);
    assert_eq!(aws.asked(), [], "nothing is asked before it is needed");
    let asking: Vec<_> = (0..16)
        .map(|_| {
            // Each with a client of its own: what is known belongs to the process.
            let client = client(&http, registry.url(), login());
            tokio::spawn(async move { client.ping().await })
        })
        .collect();
    for asking in asking {
        asking.await.unwrap().unwrap();
    }
    client(&http, registry.url(), login()).ping().await.unwrap();
    assert_eq!(aws.asked(), [("AKIABASE".to_owned(), "eu-north-1".to_owned())]);
    let shown = format!("{:?} {ecr:?} {:?}", login(), config("x", registry.url()));
    assert!(!shown.contains(ALICE.password) && !shown.contains(BASE_SECRET), "{shown}");
}

/// Would break: a process that can't log in any more after twelve hours.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_has_expired_is_asked_for_again() {
    let aws = Aws::start(|_| alice()).await;
    aws.life.store(1, Ordering::SeqCst);
    let registry = DockerRegistry::builder().login(ALICE).start().await;
    let ecr = Ecr::with(aws.config().await);
    let client = client(&Http::new().unwrap(), registry.url(), ecr.login(&registry.url().parse().unwrap(), None));
    client.ping().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.ping().await.unwrap();
    assert_eq!(aws.asked().len(), 2);
}

/// Would break: a password that was revoked and is used to its end, or AWS asked for ever for one that is no better.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_refused_is_replaced_once() {
    let aws = Aws::start(|number| format!("AWS:hunter{number}")).await;
    let valid = Arc::new(AtomicUsize::new(0));
    let least = valid.clone();
    let registry = Fake::start(move |asked, _| {
        let basic = asked.authorization.as_deref().and_then(|value| value.strip_prefix("Basic "));
        let text = basic.map(|text| base64::engine::general_purpose::STANDARD.decode(text).unwrap()).unwrap_or_default();
        let number =
            String::from_utf8(text).unwrap().strip_prefix("AWS:hunter").and_then(|number| number.parse::<usize>().ok());
        match number.is_some_and(|number| number >= least.load(Ordering::SeqCst)) {
            true => answer(200, &[], "{}"),
            false => answer(401, &[("www-authenticate", r#"Basic realm="x",service="ecr.amazonaws.com""#)], ""),
        }
    })
    .await;
    let ecr = Ecr::with(aws.config().await);
    let client = client(&Http::new().unwrap(), &registry.url, ecr.login(&registry.url.parse().unwrap(), Some(&role())));
    client.ping().await.unwrap();
    valid.store(1, Ordering::SeqCst);
    client.ping().await.unwrap();
    assert_eq!(aws.asked().len(), 2);
    valid.store(1000, Ordering::SeqCst);
    let error = client.ping().await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    assert!(error.to_string().contains(&format!("check what the role {ROLE} may do in ECR")), "{error}");
    assert!(!format!("{error} {error:?} {client:?}").contains("hunter"));
    assert_eq!(aws.asked().len(), 3);
}

/// Would break: another account's registry asked with the process's own identity, or their passwords mixed up.
#[tokio::test(flavor = "multi_thread")]
async fn another_account_s_role_is_assumed_first() {
    let aws = Aws::start(|_| alice()).await;
    let registry = DockerRegistry::builder().login(ALICE).start().await;
    let (http, ecr) = (Http::new().unwrap(), Ecr::with(aws.config().await));
    let login = ecr.login(&registry.url().parse().unwrap(), Some(&role()));
    client(&http, registry.url(), login.clone()).ping().await.unwrap();
    // The process's own identity is another one, with passwords of its own.
    client(&http, registry.url(), ecr.login(&registry.url().parse().unwrap(), None)).ping().await.unwrap();
    let keys: Vec<_> = aws.asked().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["ASIAROLE", "AKIABASE"]);
    let assumed = aws.assumed.lock().unwrap().clone();
    assert_eq!(assumed.len(), 1);
    assert_eq!((&*assumed[0]["RoleArn"], &*assumed[0]["RoleSessionName"]), (ROLE, "transship"));
    let shown = format!("{login:?}");
    assert!(shown.contains(ROLE) && !shown.contains("Secret") && !shown.contains(ALICE.password), "{shown}");
}

/// Would break: a registry of another region, whose passwords come from the process's own.
#[tokio::test(flavor = "multi_thread")]
async fn the_region_is_that_of_the_host() {
    let aws = Aws::start(|_| "AWS:x".into()).await;
    let ecr = Ecr::with(aws.config().await);
    let host = "https://123456789012.dkr.ecr.sa-east-1.amazonaws.com";
    // Its API is asked, because its host is not to be reached.
    let registry = client(&Http::new().unwrap(), host, ecr.login(&host.parse().unwrap(), None));
    registry.list_repositories(&"*".parse().unwrap(), None).await.unwrap_err();
    assert_eq!(aws.asked(), [("AKIABASE".to_owned(), "sa-east-1".to_owned())]);
}

/// Would break: a denial that is tried again for ever, or leaves who reads it without a hint.
#[tokio::test(flavor = "multi_thread")]
async fn what_aws_denies_is_said_with_who_may_mend_it() {
    let aws = Aws::start(|_| alice()).await;
    let registry = DockerRegistry::builder().login(ALICE).start().await;
    let (http, ecr) = (Http::new().unwrap(), Ecr::with(aws.config().await));
    let ping = async |ecr: &Ecr, role: Option<&RoleArn>| {
        let login = ecr.login(&registry.url().parse().unwrap(), role);
        client(&http, registry.url(), login).ping().await.unwrap_err()
    };
    aws.denies.0.store(true, Ordering::SeqCst);
    let error = ping(&ecr, None).await;
    assert!(matches!(error, Error::Refused(_)), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("account: getting a password: ECR answered 400 AccessDeniedException: User: x is not"), "{text}");
    assert!(text.ends_with("(check that the AWS identity of this process may do ecr:GetAuthorizationToken)"), "{text}");

    aws.denies.1.store(true, Ordering::SeqCst);
    let error = ping(&ecr, Some(&role())).await;
    assert!(matches!(error, Error::Refused(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("STS answered 403 AccessDenied: not authorized") && text.contains("may assume it"), "{text}");
    assert!(text.contains(ROLE) && !format!("{error:?}").contains(BASE_SECRET), "{text}");

    // Without a region, in the host or around it, there is nobody to ask.
    let lost = aws.config().await.into_builder().region(None::<Region>).build();
    let error = ping(&Ecr::with(lost), None).await;
    assert!(matches!(error, Error::Refused(_)) && error.to_string().contains("set AWS_REGION"), "{error}");
    // An AWS that is not there may come back.
    let away = aws.config().await.into_builder().endpoint_url("http://127.0.0.1:1").build();
    let error = ping(&Ecr::with(away), None).await;
    assert!(error.is_retry() && error.to_string().contains("AWS can't be asked: "), "{error}");
}
