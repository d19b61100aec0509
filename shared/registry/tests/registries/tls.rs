//! TLS with authorities of one's own.

use transship_model::Digest;
use transship_registry::{Authorities, Copier, Endpoint, Error, Options, Outcome};
use transship_tests::{ALICE, Authority, Certificate, DockerRegistry, Image, Link, TlsFront, Wan};

use crate::fixture::*;

const HERE: &[&str] = &["127.0.0.1", "localhost"];

fn trusting(pem: &str) -> Option<Authorities> {
    Some(Authorities::from_pem(pem.as_bytes()).unwrap())
}

/// Would break: an authority that is trusted by all, or by none; a certificate that is not checked.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_of_one_s_own_authority_is_trusted_where_that_is_named() {
    let authority = Authority::new("ours");
    let registry = DockerRegistry::builder().login(ALICE).tls(authority.sign(HERE), &authority.pem()).start().await;
    let login =
        || transship_registry::Login::Password { username: ALICE.user.into(), password: ALICE.password.to_owned().into() };

    let stranger = registry_with(registry.url(), |config| config.credentials = login());
    let error = stranger.ping().await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("UnknownIssuer") && text.contains("name that authority's certificate as the ca of test"), "{text}");

    // One file may hold several, of which others are for other registries.
    let both = Authority::new("another").pem() + &authority.pem();
    let friend = registry_with(registry.url(), |config| {
        (config.credentials, config.ca) = (login(), trusting(&both));
    });
    let (target, plain) = (Endpoint::new(&friend, repo("app")), Distribution::start());
    let source = endpoint("source", &plain.url, "app");
    push_index(&source, "v1", &[1, 2]).await;
    let (options, tag) = (Options { overwrite: false, referrers: true }, reference("v1"));
    let outcome = Copier::default().copy(&source, &tag, &target, &tag, options, &()).await.unwrap();
    assert!(matches!(outcome, Outcome::Copied { .. }));
    assert!(registry.client().find_manifest("app", "v1").await.is_some());

    let wrong = registry_with(registry.url(), |config| config.ca = trusting(&Authority::new("another").pem()));
    assert!(wrong.ping().await.unwrap_err().to_string().contains("UnknownIssuer"));
}

/// Would break: a handshake for each of the many small requests that are under way at a time, or blobs that go in frames.
#[tokio::test(flavor = "multi_thread")]
async fn small_requests_share_a_connection_and_blobs_have_their_own() {
    let authority = Authority::new("ours");
    let (a, b) =
        (DockerRegistry::start().await, DockerRegistry::builder().tls(authority.sign(HERE), &authority.pem()).start().await);
    for n in 0..30 {
        Image::random(n).layers(1, 1000).build().push(&a.at("app", format!("v{n}"))).await;
    }
    let mut connections = Vec::new();
    for _ in 0..2 {
        let wan = Wan::start(&format!("http://{}", b.host()), Link::default()).await;
        let url = wan.url().replace("http:", "https:");
        let target = Endpoint::new(&registry_with(&url, |config| config.ca = trusting(&authority.pem())), repo("app"));
        let options = Options { overwrite: false, referrers: true };
        let mut failed = Vec::new();
        let tell =
            |(tag, outcome): transship_registry::Tagged| failed.extend(outcome.err().map(|error| format!("{tag}: {error}")));
        Copier::default().copy_all(&endpoint("a", a.url(), "app"), &target, options, &(), tell).await.unwrap();
        assert!(failed.is_empty(), "{failed:?}");
        connections.push(wan.connections());
    }
    // Sixteen blobs are sent at a time, and a connection that has just become free may be seen too late.
    assert!((2..=40).contains(&connections[0]), "{connections:?}");
    assert_eq!(connections[1], 1, "where no blob is sent");
}

/// Would break: a certificate whose host name nobody checks.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_host_is_refused() {
    let authority = Authority::new("ours");
    let registry = DockerRegistry::builder().tls(authority.sign(&["registry.test"]), &authority.pem()).start().await;
    let error = registry_with(registry.url(), |config| config.ca = trusting(&authority.pem())).ping().await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("registry.test") && text.contains("use a host name for test that its certificate is for"), "{text}");
}

/// Would break: an error that says only that the certificate is bad, where the command that made it is the reason.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_poses_as_a_server_is_refused_with_what_to_do() {
    let own = Certificate::of_an_authority("127.0.0.1");
    let registry = DockerRegistry::builder().tls(own.clone(), &own.certificate).start().await;
    let error = registry_with(registry.url(), |config| config.ca = trusting(&own.certificate)).ping().await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    assert!(error.to_string().contains("basicConstraints=critical,CA:FALSE"), "{error}");
}

/// Would break: an authority that counts for the registry, and not for where it sends its clients.
#[tokio::test(flavor = "multi_thread")]
async fn token_service_and_storage_may_have_certificates_of_the_same_authority() {
    let authority = Authority::new("ours");
    let certificate = authority.sign(HERE);
    let service = Fake::start(|_, _| answer(200, &[], r#"{"token":"good","expires_in":300}"#)).await;
    let storage = Fake::start(|_, _| answer(200, &[], "content")).await;
    let (service_front, storage_front) =
        (TlsFront::start(&service.url, &certificate).await, TlsFront::start(&storage.url, &certificate).await);
    let (realm, content) = (service_front.url().to_owned(), storage_front.url().to_owned());
    let fake = Fake::start(move |asked, _| match &asked.authorization {
        Some(_) => answer(307, &[("location", &format!("{content}/there?sig=s"))], ""),
        None => answer(401, &[("www-authenticate", &format!(r#"Bearer realm="{realm}/token""#))], ""),
    })
    .await;
    let front = TlsFront::start(&fake.url, &certificate).await;
    let registry = registry_with(front.url(), |config| config.ca = trusting(&authority.pem()));
    let blob = registry.get_blob(&repo("app"), &Digest::of(b"content")).await.unwrap();
    assert_eq!(blob.read(100).await.unwrap(), "content");
    assert_eq!((service.asked().len(), storage.asked().len()), (1, 1));
    assert_eq!(storage.asked()[0].authorization, None);
}
