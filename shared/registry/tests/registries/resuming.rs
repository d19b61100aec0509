//! Uploads that break and go on.

use transship_model::{Digest, Kind};
use transship_registry::{Copier, Endpoint, Options};

use crate::{fixture::*, peculiar::*};

const OPTIONS: Options = Options { overwrite: true, referrers: false };

/// A registry with an image of one layer.
async fn source_of(layer: &[u8]) -> (Distribution, Endpoint) {
    let a = Distribution::start();
    let source = endpoint("source", &a.url, "app");
    push(&source, Some("v1"), (OCI_CONFIG, b"{}"), &[(OCI_LAYER, layer)], serde_json::json!({})).await;
    (a, source)
}

fn target_of(proxy: &Peculiar, kind: Kind) -> Endpoint {
    Endpoint::new(&registry_with(&proxy.url, |config| config.kind = kind), repo("app"))
}

/// Breaks the nth `PATCH` in a way.
fn breaking(nth: usize, deed: impl Fn() -> Deed + Send + Sync + 'static) -> impl Fn(&Seen) -> Deed + Send + Sync + 'static {
    let patches = std::sync::atomic::AtomicUsize::new(0);
    move |seen| match seen.is("PATCH", UPLOADS) && patches.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == nth {
        true => deed(),
        false => Deed::Pass,
    }
}

/// Would break: a copy that fails because a connection did, or counts bytes that were lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_is_no_error() {
    let layer = much(1, 20 * MIB);
    let (_a, source) = source_of(&layer).await;
    let tag = reference("v1");
    for deed in [|| Deed::Break(1 << 20), || Deed::LoseAnswer, || refuse(500, "UNKNOWN"), || refuse(404, "BLOB_UPLOAD_INVALID")]
    {
        for kind in [Kind::Ghcr, Kind::Distribution] {
            let b = Distribution::start();
            let proxy = Peculiar::with(&b.url, breaking(1, deed)).await;
            let (target, progress) = (target_of(&proxy, kind), Counter::default());
            Copier::default().copy(&source, &tag, &target, &tag, OPTIONS, &progress).await.unwrap();
            assert_arrived(&b, &layer).await;
            assert!(proxy.received() >= layer.len() as u64);
            let (planned, moved, _, lost) = progress.read();
            assert_eq!(planned, moved - lost);
        }
    }
}

/// Copies with the nth `PATCH` broken, and gives what the target's side and the source's have seen.
async fn broken_copy(size: usize, kind: Kind, nth: usize, deed: fn() -> Deed) -> (u64, Vec<Option<String>>) {
    let layer = much(1, size);
    let (a, _) = source_of(&layer).await;
    let (before, b) = (Peculiar::with(&a.url, |_| Deed::Pass).await, Distribution::start());
    let proxy = Peculiar::with(&b.url, breaking(nth, deed)).await;
    let (source, target) = (endpoint("source", &before.url, "app"), target_of(&proxy, kind));
    let (tag, progress) = (reference("v1"), Counter::default());
    Copier::default().copy(&source, &tag, &target, &tag, OPTIONS, &progress).await.unwrap();
    assert_arrived(&b, &layer).await;
    let (planned, moved, _, lost) = progress.read();
    assert_eq!(planned, moved - lost);
    assert_eq!(b.unfinished_uploads(), 0);
    assert_eq!(proxy.count("POST", UPLOADS), 2, "one session for each of the two blobs");
    let sent = proxy.seen().iter().filter(|seen| seen.is("PATCH", UPLOADS)).map(|seen| seen.received).sum();
    let name = Digest::of(&layer);
    let read = before.seen().into_iter().filter(|seen| seen.is("GET", name.as_str())).map(|seen| seen.range).collect();
    (sent, read)
}

/// Would break: chunks that were acknowledged and are read or sent again.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_broken_upload_less_than_a_chunk_is_sent_again() {
    let (size, chunk) = (64 * MIB, 4 * MIB as u64);
    let (sent, read) = broken_copy(size, Kind::Ghcr, 9, || Deed::Break(1_000_000)).await;
    assert_eq!(sent, size as u64 + 1_000_000);
    assert_eq!(read, [None, Some(format!("bytes={}-", 8 * chunk))]);
}

/// Would break: a client that does not ask how much the registry has.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_chunk_whose_answer_got_lost_nothing_is_sent_again() {
    let size = 18 * MIB;
    let (sent, read) = broken_copy(size, Kind::Ghcr, 2, || Deed::LoseAnswer).await;
    assert_eq!(sent, size as u64);
    assert_eq!(read, [None, Some("bytes=8388608-".into())]);
    // The last: nothing is left to be read.
    let (sent, read) = broken_copy(size, Kind::Ghcr, 5, || Deed::LoseAnswer).await;
    assert_eq!((sent, read), (size as u64, vec![None]));
}

/// Would break: a whole upload that is started again because of one refusal that passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_fails_is_all_that_is_sent_again() {
    for deed in [|| refuse(500, "UNKNOWN"), || Deed::Answer(answer(503, &[("retry-after", "1")], ""))] {
        let (sent, _) = broken_copy(18 * MIB, Kind::Ghcr, 3, deed).await;
        assert_eq!(sent, 22 << 20);
    }
}

/// Would break: what the target kept of a broken request sent to it once more, or left out.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_in_the_middle_where_the_target_kept_it() {
    let (sent, read) = broken_copy(20 * MIB, Kind::Distribution, 1, || Deed::Keep(9_000_001)).await;
    assert_eq!(sent, 20 << 20);
    // At the last place before, of which the digest is known.
    assert_eq!(read.len(), 2);
    let from: u64 = read[1].as_deref().unwrap()["bytes=".len()..].trim_end_matches('-').parse().unwrap();
    assert!((1..9_000_001).contains(&from), "{from}");
    // A part of a chunk, too.
    let (sent, _) = broken_copy(20 * MIB, Kind::Ghcr, 2, || Deed::Keep(1_000_001)).await;
    assert_eq!(sent, 20 << 20);
}

/// Would break: an offset that is believed although it can't be, and a blob with a hole or bytes twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_tells_a_wrong_offset_is_started_again_with() {
    let layer = much(1, 18 * MIB);
    let (_a, source) = source_of(&layer).await;
    // Two chunks of 4 MiB have been acknowledged: more than the blob has, less than that, more than has been sent.
    for told in ["0-1234567890", "0-4194303", "0-16999999"] {
        let b = Distribution::start();
        let turn = move |seen: &Seen, mut response: axum::response::Response| {
            if seen.is("GET", UPLOADS) {
                response.headers_mut().insert("range", told.parse().unwrap());
            }
            response
        };
        let proxy = Peculiar::start(&b.url, breaking(3, || Deed::Break(5)), turn).await;
        let (target, tag) = (target_of(&proxy, Kind::Ghcr), reference("v1"));
        Copier::default().copy(&source, &tag, &target, &tag, OPTIONS, &()).await.unwrap();
        assert_arrived(&b, &layer).await;
        assert_eq!(proxy.count("POST", UPLOADS), 3, "{told}");
    }
}

/// Would break: tries that are counted although each got on.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_again_and_again_but_gets_on_arrives() {
    let layer = much(1, 32 * MIB);
    let (_a, source) = source_of(&layer).await;
    let b = Distribution::start();
    let patches = std::sync::atomic::AtomicUsize::new(0);
    let proxy = Peculiar::with(&b.url, move |seen| match seen.is("PATCH", UPLOADS) {
        true if patches.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 2 == 1 => Deed::Break(1000),
        _ => Deed::Pass,
    })
    .await;
    let (target, tag) = (target_of(&proxy, Kind::Ghcr), reference("v1"));
    Copier::default().copy(&source, &tag, &target, &tag, OPTIONS, &()).await.unwrap();
    assert_arrived(&b, &layer).await;
    assert_eq!(proxy.count("POST", UPLOADS), 2);
}

/// Would break: a whole body taken for the rest of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_knows_no_range_is_read_again_from_its_beginning() {
    let layer = much(1, 18 * MIB);
    let (served, name) = (layer.clone(), Digest::of(&layer));
    let value = serde_json::json!({"config": descriptor(OCI_CONFIG, b"{}"), "layers": [descriptor(OCI_LAYER, &layer)]});
    let image = manifest(OCI_MANIFEST, value);
    let source = Fake::start(move |asked, _| match asked.target.as_str() {
        "/v2/app/manifests/v1" => answer(200, &[("content-type", OCI_MANIFEST)], image.bytes.clone()),
        target if target.ends_with(name.as_str()) => answer(200, &[], served.clone()),
        _ => answer(200, &[], "{}"),
    })
    .await;
    let b = Distribution::start();
    let proxy = Peculiar::with(&b.url, breaking(3, || Deed::Break(5))).await;
    let (source, target, tag) = (endpoint("source", &source.url, "app"), target_of(&proxy, Kind::Ghcr), reference("v1"));
    Copier::default().copy(&source, &tag, &target, &tag, OPTIONS, &()).await.unwrap();
    assert_arrived(&b, &layer).await;
    assert_eq!(proxy.received(), layer.len() as u64 + 5 + 2 + proxy_manifest(&proxy));
}

/// What of the bytes that came is the manifest's.
fn proxy_manifest(proxy: &Peculiar) -> u64 {
    proxy.seen().iter().filter(|seen| seen.is("PUT", "/manifests/")).map(|seen| seen.received).sum()
}

/// Would break: a token that ends during a long upload, and the upload with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_ends_on_the_way_is_renewed_and_the_upload_goes_on() {
    let layer = much(1, 18 * MIB);
    let (_a, source) = source_of(&layer).await;
    // In chunks and in one stream.
    for (kind, nth) in [(Kind::Ghcr, 3), (Kind::Distribution, 1)] {
        let b = Distribution::start();
        let own: std::sync::Arc<std::sync::OnceLock<String>> = std::sync::Arc::default();
        let url = own.clone();
        let end = breaking(nth, move || {
            let challenge = format!(r#"Bearer realm="{}/token",service="x""#, url.get().unwrap());
            Deed::Answer(answer(401, &[("www-authenticate", &challenge)], ""))
        });
        let proxy = Peculiar::with(&b.url, move |seen| match seen.target.starts_with("/token") {
            true => Deed::Answer(answer(200, &[], r#"{"token":"fresh"}"#)),
            false => end(seen),
        })
        .await;
        own.set(proxy.url.clone()).unwrap();
        let (target, tag) = (target_of(&proxy, kind), reference("v1"));
        Copier::default().copy(&source, &tag, &target, &tag, OPTIONS, &()).await.unwrap();
        assert_arrived(&b, &layer).await;
        assert_eq!((proxy.count("POST", UPLOADS), proxy.count("GET", "/token")), (2, 1));
    }
}
