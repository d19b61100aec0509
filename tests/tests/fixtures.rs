//! The fixtures keep their promises: what they start is real, and a test that uses them can fail.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use transship_tests::*;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn skopeo_and_the_plain_client_push_the_same() {
    let registry = DockerRegistry::start().await;
    let all = [
        Image::random(1).layers(3, 10_000).build(),
        Image::random(2).layers(1, 70_000).docker().build(),
        Index::random(3).layers(2, 1000).base(9, 1, 5000).attested().build(),
        Index::random(4).platforms(3).layers(1, 1000).docker().build(),
        chart(5, "web", "1.2.3"),
    ];
    for (i, artifact) in all.iter().enumerate() {
        let (plain, skopeo) = (registry.at(format!("plain/a{i}"), "v1"), registry.at(format!("skopeo/a{i}"), "v1"));
        artifact.push(&plain).await;
        artifact.push_with_skopeo(&skopeo).await;
        assert_eq!(skopeo.manifest().await, *artifact.root());
        let walked = assert_same(&plain, &skopeo).await;
        assert_eq!(walked.manifests.len(), artifact.manifests().len());
        assert_eq!(walked.blobs.keys().collect::<Vec<_>>(), artifact.blobs().keys().collect::<Vec<_>>());
    }
    assert_eq!(registry.client().catalog().await.len(), 2 * all.len());
    assert_eq!(registry.client().tags("plain/a0").await, ["v1"]);
    assert_eq!(registry.client().tags("no/such").await, [""; 0]);
}

#[tokio::test]
async fn content_depends_on_its_seed_alone_and_layers_are_archives() {
    let image = |seed| Image::random(seed).layers(1, 100_000).build();
    assert_eq!(image(1).digest(), image(1).digest());
    assert_ne!(image(1).digest(), image(2).digest());
    let index = Index::random(1).platforms(2).layers(1, 10).base(7, 1, 10).build();
    assert_eq!(index.blobs().len(), 2 + 2 + 1, "two configs, two layers of their own, one in common");
    assert!(index.blobs().keys().any(|digest| Image::random(5).base(7, 1, 10).build().blobs().contains_key(digest)));

    // gzip checks the checksum, tar its headers.
    let dir = tempfile::tempdir().unwrap();
    let image = image(1);
    std::fs::write(dir.path().join("layer.tgz"), &image.blobs()[image.largest_blob()]).unwrap();
    let tar = std::process::Command::new("tar").args(["-xzvf", "layer.tgz"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&tar.stdout), "data\n", "{tar:?}");
    assert_eq!(std::fs::metadata(dir.path().join("data")).unwrap().len(), 100_000);
}

#[tokio::test]
async fn artifacts_signatures_and_referrers_can_be_pushed() {
    let (registry, image) = (DockerRegistry::start().await, Image::random(1).layers(1, 1000).build());
    let at = registry.at("team/app", "v1");
    image.push(&at).await;
    artifact(1, "application/vnd.example.thing", 100).push(&at.with("thing")).await;
    cosign_signature(&image).push(&at.with(image.digest().as_tag(".sig"))).await;
    let referrers = [1, 2].map(|n| referrer(n, &image, "application/vnd.example.sbom"));
    referrers_index(&referrers).push(&at.with(image.digest().as_tag(""))).await;
    image.push_by_digest(&registry.at("by/digest", "unused")).await;

    assert_eq!(registry.client().tags("team/app").await.len(), 4);
    let referrer = at.with(referrers[0].digest()).manifest().await.json();
    assert_eq!(referrer["subject"]["digest"], image.digest().as_str());
    let listed = at.with(image.digest().as_tag("")).manifest().await.json();
    assert_eq!(listed["manifests"][1]["digest"], referrers[1].digest().as_str());
    assert!(registry.at("by/digest", image.digest()).find_manifest().await.is_some());
    assert_eq!(registry.client().tags("by/digest").await, [""; 0]);
}

#[tokio::test]
async fn a_difference_is_found() {
    let (source, target) = (DockerRegistry::start().await, DockerRegistry::start().await);
    let old = Image::random(1).layers(1, 1000);
    old.clone().build().push(&target.at("team/app", "v1")).await;
    old.annotation("a", "b").build().push(&source.at("team/app", "v1")).await;
    let walk = tokio::spawn({
        let (source, target) = (source.at("team/app", "v1"), target.at("team/app", "v1"));
        async move { assert_same(&source, &target).await }
    });
    assert!(walk.await.is_err_and(|error| error.is_panic()));
}

#[tokio::test]
async fn a_push_is_notified_with_the_headers_that_were_asked_for() {
    let port = free_port();
    let hook = format!("http://127.0.0.1:{port}/hooks/source");
    let registry = DockerRegistry::builder().notify(hook, &[("Authorization", "Bearer s3cret")]).start().await;
    let image = Image::random(1).layers(1, 1000).build();
    image.push(&registry.at("team/app", "v1")).await;

    // The receiver comes later than the event, and fails at first: docker-registry tries again.
    let sink = Sink::start_on(port).await;
    let mut failures = 2;
    sink.answer(move |_| {
        failures -= i32::from(failures > 0);
        if failures > 0 { 503 } else { 202 }
    });
    let is_push = |delivery: &Delivery| delivery.json()["events"][0]["target"]["tag"] == "v1";
    let delivery = sink.wait_for("the push is notified", SOON, is_push).await;
    assert_eq!(delivery.path, "/hooks/source");
    assert_eq!(delivery.header("authorization"), "Bearer s3cret");
    assert_eq!(delivery.header("content-type"), "application/vnd.docker.distribution.events.v1+json");
    assert_eq!(delivery.json()["events"][0]["target"]["digest"], image.digest().as_str());
}

#[tokio::test]
async fn a_login_is_asked_for_and_others_are_refused() {
    let registry = DockerRegistry::builder().login(ALICE).start().await;
    let image = Image::random(1).layers(1, 1000).build();
    image.push(&registry.at("team/app", "v1")).await;
    image.push_with_skopeo(&registry.at("team/app", "v2")).await;
    assert_same(&registry.at("team/app", "v1"), &registry.at("team/app", "v2")).await;

    let anonymous = Client::new(registry.url());
    let bob = anonymous.clone().with_login(BOB.user, BOB.password);
    for stranger in [anonymous, bob] {
        let answer = stranger.request(Method::GET, "/v2/").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert!(answer.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic realm="));
    }
    let other = DockerRegistry::builder().login(BOB).start().await;
    assert_eq!(other.client().catalog().await, [""; 0]);
}

#[tokio::test]
async fn a_restart_keeps_content_port_and_uploads() {
    let mut registry = DockerRegistry::start().await;
    let image = Image::random(1).layers(1, 1000).build();
    image.push(&registry.at("team/app", "v1")).await;
    let client = registry.client().clone();
    let begun = client.request(Method::POST, "/v2/team/app/blobs/uploads/").send().await.unwrap();
    let location = begun.headers()["location"].to_str().unwrap().to_owned();

    registry.stop();
    assert!(client.request(Method::GET, "/v2/").send().await.is_err());
    registry.restart().await;
    assert_eq!(registry.at("team/app", "v1").manifest().await, *image.root());
    let status = client.request(Method::GET, &location).send().await.unwrap().status();
    assert_eq!(status, StatusCode::NO_CONTENT, "the session outlives the registry");
    assert_eq!(client.delete_manifest("team/app", image.digest().as_str()).await, StatusCode::ACCEPTED);
    assert!(registry.at("team/app", "v1").find_manifest().await.is_none());
}

#[tokio::test]
async fn locations_are_as_they_were_asked_for() {
    let location = async |registry: &DockerRegistry| {
        let begun = registry.client().request(Method::POST, "/v2/a/b/blobs/uploads/").send().await.unwrap();
        begun.headers()["location"].to_str().unwrap().to_owned()
    };
    let port = free_port();
    let fixed = DockerRegistry::builder().port(port).start().await;
    assert!(location(&fixed).await.starts_with(&format!("http://127.0.0.1:{port}/v2/")));
    let named = DockerRegistry::builder().host("http://other.example:1").start().await;
    assert!(location(&named).await.starts_with("http://other.example:1/v2/"));
    let relative = DockerRegistry::builder().relative_locations().start().await;
    assert!(location(&relative).await.starts_with("/v2/"));
}

#[tokio::test]
async fn ten_thousand_tags_are_there_in_seconds() {
    let (bulk, start) = (Bulk::new("team", 100, 100), Instant::now());
    let registry = DockerRegistry::builder().filled(bulk.clone()).start().await;
    println!("{} tags in {:?}", bulk.len(), start.elapsed());
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());

    assert_eq!(registry.client().catalog().await, bulk.repositories());
    assert_eq!(registry.client().tags("team/repo-0042").await, bulk.tags());
    let at = registry.at("team/repo-0099", "v0099");
    assert_eq!(at.manifest().await, bulk.manifest("team/repo-0099", "v0099"));
    assert_eq!(assert_same(&at, &at.with(at.manifest().await.digest)).await.blobs.len(), 2);
    // It is storage like any other: what is there can be deleted and added to.
    assert_eq!(registry.client().delete_manifest(&at.repository, at.manifest().await.digest.as_str()).await, 202);
    assert_eq!(registry.client().tags("team/repo-0099").await.len(), 99);
    Image::random(1).layers(1, 10).build().push(&at).await;
}

#[tokio::test]
async fn the_proxy_passes_and_records_and_uploads_lead_through_it() {
    let registry = DockerRegistry::start().await;
    let proxy = Proxy::passing(registry.url()).await;
    let image = Image::random(1).layers(2, 200_000).build();
    image.push(&proxy.at("team/app", "v1")).await;
    image.push_with_skopeo(&proxy.at("team/app", "v2")).await;
    assert_same(&proxy.at("team/app", "v1"), &registry.at("team/app", "v2")).await;

    let puts: Vec<Exchange> =
        proxy.exchanges().into_iter().filter(|exchange| exchange.request.is("PUT", "/blobs/uploads/")).collect();
    assert_eq!(puts.len(), image.blobs().len(), "skopeo finds the blobs there");
    assert_eq!(puts.iter().map(|put| put.uploaded).sum::<u64>(), image.size() as u64);
    assert!(puts.iter().all(|put| put.status == Some(201) && put.request.query.contains("digest=sha256:")));
    assert_eq!(proxy.count("PUT", "/manifests/v2"), 1);
    let user_agents = proxy.exchanges().into_iter().filter(|e| e.request.header("user-agent").contains("skopeo")).count();
    assert!(user_agents > 0);
}

#[tokio::test]
async fn the_proxy_knows_how_many_requests_were_under_way_at_once() {
    let registry = DockerRegistry::start().await;
    let gate = Gate::new();
    let proxy = Proxy::start(registry.url(), {
        let gate = gate.clone();
        move |request| if request.is("PUT", "/blobs/") { Action::Hold(gate.clone()) } else { Action::Pass }
    })
    .await;
    let image = Image::random(1).layers(2, 1000).build();
    let at = proxy.at("team/app", "v1");
    let push = tokio::spawn(async move { image.push(&at).await });
    gate.reached(3).await;
    gate.open();
    push.await.unwrap();
    assert_eq!(proxy.peak(|request| request.is("PUT", "/blobs/")), 3);
    assert_eq!(proxy.peak(|request| request.is("PUT", "/manifests/")), 1);
}

#[tokio::test]
async fn the_proxy_answers_delays_and_resets() {
    let registry = DockerRegistry::start().await;
    let proxy = Proxy::start(registry.url(), |request| match &*request.path {
        "/v2/slow" => Action::Delay(Duration::from_millis(300)),
        "/v2/late" => Action::DelayAnswer(Duration::from_millis(300)),
        "/v2/busy" => Action::status(429, &[("retry-after", "7")], "later"),
        "/v2/reset" => Action::Reset,
        "/v2/lost" => Action::LoseAnswer,
        _ => Action::Pass,
    })
    .await;
    let get = async |path| proxy.client().request(Method::GET, path).send().await;

    for path in ["/v2/slow", "/v2/late"] {
        let start = Instant::now();
        assert_eq!(get(path).await.unwrap().status(), 404);
        assert!(start.elapsed() >= Duration::from_millis(300));
    }
    for _ in 0..2 {
        let busy = proxy.client().request(Method::POST, "/v2/busy").body("x".repeat(100_000)).send().await.unwrap();
        assert_eq!((busy.status().as_u16(), &busy.headers()["retry-after"].to_str().unwrap()), (429, &"7"));
        assert_eq!(busy.text().await.unwrap(), "later");
    }
    for (path, status) in [("/v2/reset", None), ("/v2/lost", Some(404))] {
        let error = format!("{:?}", get(path).await.unwrap_err());
        assert!(error.contains("ConnectionReset"), "{error}");
        assert_eq!(proxy.exchanges().last().unwrap().status, status);
    }
    proxy.on(|_| Action::Pass);
    assert_eq!(get("/v2/").await.unwrap().status(), 200);
    drop(registry);
    assert!(get("/v2/").await.is_err(), "the proxy has nobody to pass to");
}

#[tokio::test]
async fn the_proxy_breaks_and_holds_bodies_at_the_byte() {
    let registry = DockerRegistry::start().await;
    let image = Image::random(1).layers(1, 300_000).build();
    image.push(&registry.at("team/app", "v1")).await;
    let digest = image.largest_blob().clone();
    let size = image.blobs()[&digest].len();
    let proxy = Proxy::start(registry.url(), |_| Action::TruncateBody(100_000)).await;
    let blob = format!("/v2/team/app/blobs/{digest}");

    let cut = proxy.client().request(Method::GET, &blob).send().await.unwrap();
    assert_eq!(cut.content_length(), Some(size as u64));
    assert!(cut.bytes().await.is_err());
    assert_eq!(proxy.exchanges()[0].downloaded, 100_000);

    let gate = Gate::new();
    proxy.on({
        let gate = gate.clone();
        move |_| Action::HoldBody(1, gate.clone())
    });
    let held = tokio::spawn({
        let (client, digest) = (proxy.client().clone(), digest.clone());
        async move { client.blob("team/app", &digest).await }
    });
    gate.reached(1).await;
    assert_eq!(proxy.exchanges()[1].downloaded, 1);
    assert!(!held.is_finished());
    gate.open();
    assert_eq!(held.await.unwrap().len(), size);

    // 300 000 bytes are five pieces.
    proxy.on(|_| Action::Slow(Duration::from_millis(100)));
    let start = Instant::now();
    assert_eq!(proxy.client().blob("team/app", &digest).await.len(), size);
    assert!(start.elapsed() >= Duration::from_millis(500));

    // Chunked, as a client uploads that does not know the size.
    let location = async || {
        let begun = registry.client().request(Method::POST, "/v2/team/app/blobs/uploads/").send().await.unwrap();
        begun.headers()["location"].to_str().unwrap().replace(registry.url(), proxy.url())
    };
    proxy.on(|_| Action::TruncateUpload(70_000));
    let chunks = || {
        let chunks = image.blobs()[&digest].chunks(9999).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()));
        reqwest::Body::wrap_stream(futures_util::stream::iter(chunks.collect::<Vec<_>>()))
    };
    let broken = proxy.client().request(Method::PATCH, &location().await).body(chunks()).send().await;
    assert!(broken.is_err());
    let last = proxy.exchanges().pop().unwrap();
    assert_eq!((last.uploaded, last.status), (70_000, None));

    let gate = Gate::new();
    proxy.on({
        let gate = gate.clone();
        move |request| if request.method == "PATCH" { Action::HoldUpload(5, gate.clone()) } else { Action::Pass }
    });
    let patch = tokio::spawn(proxy.client().request(Method::PATCH, &location().await).body(chunks()).send());
    gate.reached(1).await;
    assert_eq!(proxy.exchanges().pop().unwrap().uploaded, 5);
    gate.open();
    let patched = patch.await.unwrap().unwrap();
    assert_eq!(patched.headers()["range"], format!("0-{}", size - 1));
    let put = format!("{}&digest={digest}", patched.headers()["location"].to_str().unwrap());
    assert!(put.starts_with(proxy.url()), "the upload stays on the proxy: {put}");
    assert_eq!(proxy.client().request(Method::PUT, &put).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_held_request_of_a_client_that_is_gone_never_happens() {
    let registry = DockerRegistry::start().await;
    let gate = Gate::new();
    let proxy = Proxy::start(registry.url(), {
        let gate = gate.clone();
        move |_| Action::Hold(gate.clone())
    })
    .await;
    let client = proxy.client().clone();
    let push = tokio::spawn(async move { client.request(Method::POST, "/v2/a/blobs/uploads/").send().await });
    gate.reached(1).await;
    push.abort();
    wait_until("the proxy notices", SOON, async || proxy.exchanges()[0].ended.is_some()).await;
    gate.open();
    assert_eq!(proxy.exchanges()[0].status, None);
    assert!(!registry.log().contains("POST"));
}

#[tokio::test]
async fn a_link_takes_its_time_and_counts() {
    let registry = DockerRegistry::start().await;
    let image = Image::random(1).layers(1, 2 << 20).build();
    let size = image.size() as u64;

    // Without distance it only counts, and uploads stay on it.
    let near = Wan::start(registry.url(), Link::default()).await;
    image.push(&near.at("team/app", "v1")).await;
    assert_same(&near.at("team/app", "v1"), &registry.at("team/app", "v1")).await;
    assert!((size..size + 10_000).contains(&near.sent()), "{}", near.sent());
    assert!((size..size + 10_000).contains(&near.received()), "{}", near.received());

    // The first answer takes two round trips, because one opens the connection; the next takes one.
    let round_trip = Duration::from_millis(60);
    let far = Wan::start(registry.url(), Link { round_trip, rate: None }).await;
    for trips in [2, 1] {
        let start = Instant::now();
        assert_eq!(far.client().request(Method::GET, "/v2/").send().await.unwrap().text().await.unwrap(), "{}");
        assert!(start.elapsed() + Duration::from_millis(2) >= round_trip * trips, "{:?}", start.elapsed());
    }
    assert_eq!(far.connections(), 1);

    // Each direction of each connection has the rate for itself.
    let narrow = Wan::start(registry.url(), Link { round_trip: Duration::ZERO, rate: Some(8 << 20) }).await;
    let start = Instant::now();
    image.push(&narrow.at("team/narrow", "v1")).await;
    assert!(start.elapsed() >= Duration::from_millis(240), "{:?}", start.elapsed());
    let start = Instant::now();
    narrow.client().blob("team/narrow", image.largest_blob()).await;
    assert!(start.elapsed() >= Duration::from_millis(240), "{:?}", start.elapsed());

    let url = narrow.url().to_owned();
    drop(narrow);
    wait_until("the link is down", SOON, async || Client::new(&*url).request(Method::GET, "/v2/").send().await.is_err()).await;
}

#[tokio::test]
#[should_panic(expected = "in vain until pigs fly")]
async fn waiting_for_what_never_comes_ends() {
    wait_until("pigs fly", Duration::from_millis(60), async || false).await;
}
