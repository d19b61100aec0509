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
use serde_json::{Value, json};
use transship_model::{EcrSettings, Kind, Reference, RoleArn};
use transship_registry::{Deletion, Ecr, Endpoint, Error, Http, Login, Registry, RegistryConfig};
use transship_tests::{ALICE, DockerRegistry};

use crate::fixture::*;

const ROLE: &str = "arn:aws:iam::210987654321:role/mirror/puller";
const BASE_SECRET: &str = "base-Secret-Key";
const ROLE_SECRET: &str = "role-Secret-Key";

/// Operation and input to status and output.
type Api = Box<dyn Fn(&str, &Value) -> (u16, Value) + Send>;

fn denial(who: &str) -> (u16, Value) {
    (400, json!({"__type": "AccessDeniedException", "message": format!("{who} is not authorized to perform this")}))
}

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
    /// What ECR's API was asked for, and what it answers: nobody may do anything, at first.
    done: Arc<Mutex<Vec<(String, Value)>>>,
    api: Arc<Mutex<Api>>,
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
            done: Arc::default(),
            api: Arc::new(Mutex::new(Box::new(|_, _| denial("you")))),
        };
        let (done, api) = (aws.done.clone(), aws.api.clone());
        let (asked, assumed, life, denies) = (aws.asked.clone(), aws.assumed.clone(), aws.life.clone(), aws.denies.clone());
        let app = Router::new().fallback(move |request: Request| {
            let (asked, assumed, life, denies) = (asked.clone(), assumed.clone(), life.clone(), denies.clone());
            let (password, done, api) = (password.clone(), done.clone(), api.clone());
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
                } else if let Some(target) = head.headers.get("x-amz-target") {
                    asked.lock().unwrap().push(signed_by(&head));
                    let operation = target.to_str().unwrap().rsplit('.').next().unwrap().to_owned();
                    let input: Value = serde_json::from_slice(&body).unwrap();
                    let (status, output) = api.lock().unwrap()(&operation, &input);
                    done.lock().unwrap().push((operation, input));
                    answer(status, &[("content-type", "application/x-amz-json-1.1")], output.to_string())
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

    fn on(&self, api: impl Fn(&str, &Value) -> (u16, Value) + Send + 'static) {
        *self.api.lock().unwrap() = Box::new(api);
    }

    fn done(&self) -> Vec<(String, Value)> {
        self.done.lock().unwrap().clone()
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

/// The settings of an operator who has thought about them.
fn settings() -> EcrSettings {
    let tags = [("team".to_owned(), "platform".to_owned())].into();
    let lifecycle_policy = Some(POLICY.parse().unwrap());
    EcrSettings { immutable_tags: true, scan_on_push: true, kms_key: Some("alias/registry".into()), lifecycle_policy, tags }
}

const POLICY: &str = r#"{"rules":[{"rulePriority":1,"selection":{"tagStatus":"untagged","countType":"sinceImagePushed","countUnit":"days","countNumber":14},"action":{"type":"expire"}}]}"#;

fn client_of_kind(http: &Http, url: &str, credentials: Login, ecr: EcrSettings) -> Registry {
    Registry::new(http, RegistryConfig { kind: Kind::Ecr, credentials, ecr, ..config("account", url) }).unwrap()
}

/// Would break: a push to a repository that nobody has made, or one that is made with what ECR makes by default instead of what the
/// instance says; a list without digests; a tag that stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_made_when_a_push_needs_it_and_listed_and_its_tag_deleted() {
    let aws = transship_tests::Aws::start().await;
    let sdk = aws.sdk().await;
    let login = Ecr::with(sdk.clone()).login(&aws.endpoint().parse().unwrap(), None);
    let registry = client_of_kind(&Http::new().unwrap(), &aws.endpoint(), login, settings());
    let at = Endpoint::new(&registry, repo("team/app"));
    let namespace = "*".parse().unwrap();
    assert!(registry.list_repositories(&namespace, None).await.unwrap().items.is_empty());
    assert!(registry.list_digests(&at.repository, None).await.unwrap().items.is_empty());
    // Looking makes nothing.
    assert_eq!(registry.head_manifest(&at.repository, &reference("v1")).await.unwrap(), None);
    assert!(registry.list_repositories(&namespace, None).await.unwrap().items.is_empty());

    let image = push_image(&at, Some("v1"), 1).await;
    let digest = image.descriptor.digest.clone();
    let ecr = aws_sdk_ecr::Client::new(&sdk);
    let made = ecr.describe_repositories().send().await.unwrap().repositories.unwrap().remove(0);
    assert_eq!(made.image_tag_mutability().unwrap().as_str(), "IMMUTABLE");
    assert!(made.image_scanning_configuration().unwrap().scan_on_push());
    assert_eq!(made.encryption_configuration().unwrap().kms_key(), Some("alias/registry"));
    let policy = ecr.get_lifecycle_policy().repository_name("team/app").send().await.unwrap();
    let policy: serde_json::Value = serde_json::from_str(policy.lifecycle_policy_text().unwrap()).unwrap();
    assert_eq!(policy, serde_json::from_str::<serde_json::Value>(POLICY).unwrap());
    let tags = ecr.list_tags_for_resource().resource_arn(made.repository_arn().unwrap()).send().await.unwrap();
    let tags: Vec<_> = tags.tags().iter().map(|tag| (tag.key(), tag.value())).collect();
    assert_eq!(tags, [("team", "platform")]);

    let page = registry.list_repositories(&namespace, None).await.unwrap();
    assert_eq!((page.items, page.next), (vec![repo("team/app")], None));
    let page = registry.list_digests(&at.repository, None).await.unwrap();
    assert_eq!((page.items, page.next), (vec![("v1".parse().unwrap(), Some(digest.clone()))], None));
    let other = transship_model::Digest::of(b"x");
    let delete = async |expected| registry.delete_tag(&at.repository, &"v1".parse().unwrap(), expected).await.unwrap();
    assert_eq!(delete(&other).await, Deletion::Changed(digest.clone()));
    assert_eq!(delete(&digest).await, Deletion::Deleted);
    assert_eq!(registry.head_manifest(&at.repository, &Reference::Tag("v1".parse().unwrap())).await.unwrap(), None);
    assert_eq!(delete(&digest).await, Deletion::Gone);
}

/// A registry that knows no repository before it has been made, and the answer to a HEAD of a tag.
async fn without_repositories(aws: &Aws) -> Fake {
    let done = aws.done.clone();
    Fake::start(move |asked, fake| {
        let made = done.lock().unwrap().iter().any(|(operation, _)| operation == "CreateRepository");
        match (asked.method.as_str(), made) {
            ("POST", true) => answer(202, &[("location", &format!("{}/v2/upload", fake.url))], ""),
            // As ECR words it.
            _ => answer(
                404,
                &[],
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"The repository with name 'team/app' does not exist in the registry with id '123456789012'"}]}"#,
            ),
        }
    })
    .await
}

/// Would break: a copy that fails because another worker was faster, or that asks AWS as often as it has blobs.
#[tokio::test(flavor = "multi_thread")]
async fn two_who_make_a_repository_at_once_both_push() {
    let aws = Aws::start(|_| "AWS:x".into()).await;
    aws.on(|_, _| (400, json!({"__type": "RepositoryAlreadyExistsException", "message": "already exists"})));
    let fake = without_repositories(&aws).await;
    let login = Ecr::with(aws.config().await).login(&fake.url.parse().unwrap(), None);
    let registry = client_of_kind(&Http::new().unwrap(), &fake.url, login, EcrSettings::default());
    let blobs: Vec<_> = (0..8u8)
        .map(|n| {
            let registry = registry.clone();
            tokio::spawn(async move { registry.start_upload(&repo("team/app"), &transship_model::Digest::of(&[n])).await })
        })
        .collect();
    for blob in blobs {
        blob.await.unwrap().unwrap();
    }
    let done = aws.done();
    assert_eq!(done.len(), 1, "{done:?}");
    // Nothing is said that nobody has set.
    let input = json!({"repositoryName": "team/app"});
    assert_eq!(done[0], ("CreateRepository".to_owned(), input));
}

/// Would break: a repository that stays without its policy because AWS was asked too much for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_throttled_is_put_again() {
    let aws = Aws::start(|_| "AWS:x".into()).await;
    let done = aws.done.clone();
    aws.on(move |operation, _| {
        let before = done.lock().unwrap().iter().filter(|(before, _)| before == operation).count();
        match operation {
            // The SDK itself asks three times.
            "PutLifecyclePolicy" if before < 3 => (400, json!({"__type": "ThrottlingException", "message": "Rate exceeded"})),
            _ => (200, json!({})),
        }
    });
    let fake = without_repositories(&aws).await;
    let login = Ecr::with(aws.config().await).login(&fake.url.parse().unwrap(), None);
    let registry = client_of_kind(&Http::new().unwrap(), &fake.url, login, settings());
    registry.start_upload(&repo("team/app"), &transship_model::Digest::of(b"")).await.unwrap();
    let puts = aws.done().into_iter().filter(|(operation, _)| operation == "PutLifecyclePolicy").count();
    assert_eq!(puts, 4);
}

/// Would break: somebody left to guess which right is missing, or a denial that is tried for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_creation_names_the_rights_that_are_missing() {
    let aws = Aws::start(|_| "AWS:x".into()).await;
    let fake = without_repositories(&aws).await;
    let login = Ecr::with(aws.config().await).login(&fake.url.parse().unwrap(), Some(&role()));
    let registry = client_of_kind(&Http::new().unwrap(), &fake.url, login, settings());
    let error = registry.start_upload(&repo("team/app"), &transship_model::Digest::of(b"")).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)) && error.is_denied(), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("account: creating repository team/app: ECR answered 400 AccessDeniedException"), "{text}");
    let hint = format!(
        "check that the role {ROLE} may do ecr:CreateRepository and ecr:TagResource, or create the repository beforehand"
    );
    assert!(text.ends_with(&format!("({hint})")), "{text}");
}

/// Would break: tags behind the first thousand, a registry of another account asked as one's own, or a list that fails where only
/// its digests are denied.
#[tokio::test(flavor = "multi_thread")]
async fn ecr_s_lists_go_on_and_where_they_are_denied_the_registry_s_own_does() {
    let aws = Aws::start(|_| "AWS:x".into()).await;
    let digest = transship_model::Digest::of(b"x");
    let shown = digest.to_string();
    aws.on(move |operation, input| match (operation, input["nextToken"].as_str()) {
        ("ListImages", None) => (200, json!({"imageIds": [{"imageTag": "v1", "imageDigest": shown}], "nextToken": "a+b/c?d="})),
        ("ListImages", Some("a+b/c?d=")) => (200, json!({"imageIds": [{"imageTag": "v2", "imageDigest": shown}]})),
        ("DescribeRepositories", None) => (200, json!({"repositories": [{"repositoryName": "a"}], "nextToken": "2"})),
        ("DescribeRepositories", Some("2")) => (200, json!({"repositories": [{"repositoryName": "team/app"}]})),
        other => panic!("{other:?}"),
    });
    let host = "https://123456789012.dkr.ecr.eu-north-1.amazonaws.com";
    let login = Ecr::with(aws.config().await).login(&host.parse().unwrap(), None);
    let registry = client_of_kind(&Http::new().unwrap(), host, login.clone(), EcrSettings::default());
    let first = registry.list_digests(&repo("team/app"), None).await.unwrap();
    assert_eq!(first.items, [("v1".parse().unwrap(), Some(digest.clone()))]);
    // As it comes back from a message.
    let cursor = first.next.unwrap().to_string().into();
    let second = registry.list_digests(&repo("team/app"), Some(&cursor)).await.unwrap();
    assert_eq!((second.items, second.next), (vec![("v2".parse().unwrap(), Some(digest))], None));
    let error = registry.list_digests(&repo("team/other"), Some(&cursor)).await.unwrap_err();
    assert!(error.to_string().contains("not one of this list"), "{error}");
    let team = "team".parse().unwrap();
    let first = registry.list_repositories(&team, None).await.unwrap();
    assert!(first.items.is_empty());
    let second = registry.list_repositories(&team, first.next.as_ref()).await.unwrap();
    assert_eq!((second.items, second.next), (vec![repo("team/app")], None));
    assert!(aws.done().iter().all(|(_, input)| input["registryId"] == "123456789012"), "{:?}", aws.done());

    aws.on(|_, _| denial("nobody"));
    let fake = Fake::start(|_, _| answer(200, &[], r#"{"tags":["v1"]}"#)).await;
    let registry = client_of_kind(&Http::new().unwrap(), &fake.url, login, EcrSettings::default());
    let asked = aws.done().len();
    for _ in 0..2 {
        let page = registry.list_digests(&repo("team/app"), None).await.unwrap();
        assert_eq!(page.items, [("v1".parse().unwrap(), None)]);
    }
    assert_eq!(aws.done().len(), asked + 1, "a denial is remembered");
}
