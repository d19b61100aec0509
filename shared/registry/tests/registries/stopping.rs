//! Stopping in time, and going on in another process.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tokio::time::Instant;
use transship_model::{Digest, Kind};
use transship_registry::{Bounds, Checkpoint, Checkpoints, Copier, Endpoint, Error, Moved, Way};
use transship_tests::{Action, DockerRegistry, Gate, Proxy};

use crate::{fixture::*, peculiar::*};

/// Checkpoints as a table keeps them: as text.
#[derive(Default)]
struct Kept(Mutex<HashMap<String, String>>);

fn key(target: &Endpoint, digest: &Digest) -> String {
    format!("{} {} {digest}", target.registry.name(), target.repository)
}

#[async_trait::async_trait]
impl Checkpoints for Kept {
    async fn load(&self, target: &Endpoint, digest: &Digest) -> Option<Checkpoint> {
        self.0.lock().unwrap().get(&key(target, digest)).map(|text| serde_json::from_str(text).unwrap())
    }
    async fn save(&self, target: &Endpoint, digest: &Digest, checkpoint: &Checkpoint) {
        self.0.lock().unwrap().insert(key(target, digest), serde_json::to_string(checkpoint).unwrap());
    }
    async fn clear(&self, target: &Endpoint, digest: &Digest) {
        self.0.lock().unwrap().remove(&key(target, digest));
    }
}

/// A source that gives a layer no faster than 16 MiB a second, and notes what parts of it were asked for.
async fn slow_source(layer: &[u8]) -> (Fake, Endpoint) {
    source_with_pauses(Bytes::copy_from_slice(layer), Duration::from_millis(16)).await
}

/// A source that waits before each 256 KiB of a layer.
async fn source_with_pauses(layer: Bytes, pause: Duration) -> (Fake, Endpoint) {
    let name = Digest::of(&layer);
    let value = json!({"config": descriptor(OCI_CONFIG, b"{}"), "layers": [descriptor(OCI_LAYER, &layer)]});
    let image = manifest(OCI_MANIFEST, value);
    let fake = Fake::start(move |asked, _| match asked.target.as_str() {
        "/v2/app/manifests/v1" => answer(200, &[("content-type", OCI_MANIFEST)], image.bytes.clone()),
        target if target.ends_with(name.as_str()) => {
            let from: usize = asked.range.as_deref().map_or(0, |range| range["bytes=".len()..range.len() - 1].parse().unwrap());
            let layer = layer.clone();
            let (length, range) =
                ((layer.len() - from).to_string(), format!("bytes {from}-{}/{}", layer.len() - 1, layer.len()));
            let pieces = stream::iter((from..layer.len()).step_by(256 << 10)).then(move |at| {
                let piece = layer.slice(at..layer.len().min(at + (256 << 10)));
                async move {
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                    Ok::<_, std::io::Error>(piece)
                }
            });
            let headers = [("content-length", length.as_str()), ("content-range", range.as_str())];
            answer(if from > 0 { 206 } else { 200 }, &headers, Body::from_stream(pieces))
        }
        _ => answer(200, &[], "{}"),
    })
    .await;
    let source = endpoint("source", &fake.url, "app");
    (fake, source)
}

fn asked_of(source: &Fake, layer: &[u8]) -> Vec<Option<String>> {
    let name = Digest::of(layer);
    source.asked().into_iter().filter(|asked| asked.target.ends_with(name.as_str())).map(|asked| asked.range).collect()
}

/// What a process does that knows nothing but the checkpoints, and has so much time.
async fn process(source: &Endpoint, url: &str, kind: Kind, kept: &Kept, time: Option<Duration>) -> Result<Moved, Error> {
    let target = Endpoint::new(&registry_with(url, |config| config.kind = kind), repo("app"));
    let (copier, progress) = (Copier::default(), Counter::default());
    let resolved = copier.resolve(source, &reference("v1")).await?.unwrap();
    let began = Instant::now();
    let bounds = Bounds::default().until(time.map(|time| began + time)).keeping(kept);
    let way = Way::new(source, &target, &progress).within(bounds);
    let moved = copier.content(&way, &resolved).await;
    if let Some(time) = time {
        assert!(began.elapsed() < time + Bounds::ENDING + Duration::from_secs(1));
    }
    let moved = moved?;
    copier.publish(&way, &resolved, &reference("v1")).await?;
    let (planned, transferred, saved, lost) = progress.read();
    assert_eq!(planned, transferred + saved - lost);
    Ok(moved)
}

fn done(outcome: Result<Moved, Error>) -> u64 {
    match outcome {
        Err(Error::Interrupted { done, .. }) => done,
        other => panic!("not interrupted: {other:?}"),
    }
}

/// How much of the layer has come, and how often its upload has begun.
fn uploaded(proxy: &Peculiar) -> u64 {
    proxy.seen().iter().filter(|seen| seen.is("PATCH", UPLOADS)).map(|seen| seen.received).sum()
}

/// Would break: an upload that starts again in each process, or sends what the target has acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn another_process_goes_on_at_the_byte_where_one_had_to_stop() {
    let layer = much(1, 40 * MIB);
    let (fake, source) = slow_source(&layer).await;
    let (b, kept) = (Distribution::start(), Kept::default());
    let proxy = Peculiar::with(&b.url, |_| Deed::Stream).await;
    let first = done(process(&source, &proxy.url, Kind::Distribution, &kept, Some(Duration::from_millis(800))).await);
    assert!(first > 2 && first < 30 << 20, "{first}");
    assert_eq!(uploaded(&proxy), first - 2, "all that was sent is acknowledged; two bytes are the config's");
    let second = done(process(&source, &proxy.url, Kind::Distribution, &kept, Some(Duration::from_millis(800))).await);
    assert!(second > first);
    let moved = process(&source, &proxy.url, Kind::Distribution, &kept, None).await.unwrap();
    assert_arrived(&b, &layer).await;
    assert_eq!(b.unfinished_uploads(), 0);
    assert_eq!(uploaded(&proxy), layer.len() as u64, "no byte was sent twice");
    assert_eq!((moved.bytes_present, moved.bytes_moved), (second, layer.len() as u64 + 2 - second));
    let offsets = [None, Some(first - 2), Some(second - 2)].map(|at| at.map(|at| format!("bytes={at}-")));
    assert_eq!(asked_of(&fake, &layer), offsets);
    assert!(kept.0.lock().unwrap().is_empty());
}

/// Would break: a checkpoint that is trusted more than the registry, and fails for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_target_has_forgotten_starts_again() {
    let layer = much(1, 20 * MIB);
    let (fake, source) = slow_source(&layer).await;
    let (b, kept) = (Distribution::start(), Kept::default());
    done(process(&source, &b.url, Kind::Distribution, &kept, Some(Duration::from_millis(600))).await);
    std::fs::remove_dir_all(b.storage.path().join("data/docker/registry/v2/repositories/app/_uploads")).unwrap();
    let moved = process(&source, &b.url, Kind::Distribution, &kept, None).await.unwrap();
    assert_eq!((moved.bytes_present, moved.bytes_moved), (2, layer.len() as u64));
    assert_arrived(&b, &layer).await;
    assert_eq!(b.unfinished_uploads(), 0);
    assert_eq!(asked_of(&fake, &layer), [None, None]);
    assert!(kept.0.lock().unwrap().is_empty());
}

/// Would break: a checkpoint that makes a copy fail, or content that is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_damaged_costs_no_more_than_the_bytes() {
    let layer = much(1, 20 * MIB);
    let (_fake, source) = slow_source(&layer).await;
    let (b, kept) = (Distribution::start(), Kept::default());
    done(process(&source, &b.url, Kind::Distribution, &kept, Some(Duration::from_millis(400))).await);
    for text in kept.0.lock().unwrap().values_mut() {
        let mut checkpoint: serde_json::Value = serde_json::from_str(text).unwrap();
        // Another state of the right form: what is wrong shows at the end only.
        let state = checkpoint["state"].as_str().unwrap().replacen(|digit: char| digit != '1', "1", 1);
        checkpoint["state"] = state.into();
        *text = checkpoint.to_string();
    }
    process(&source, &b.url, Kind::Distribution, &kept, None).await.unwrap();
    assert_arrived(&b, &layer).await;
}

/// Would break: a deadline in the middle of a chunk, which is then sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_stop_in_time_and_go_on() {
    let layer = much(1, 30 * MIB);
    let (fake, source) = slow_source(&layer).await;
    let (b, kept) = (Distribution::start(), Kept::default());
    let proxy = Peculiar::with(&b.url, |_| Deed::Pass).await;
    let first = done(process(&source, &proxy.url, Kind::Ghcr, &kept, Some(Duration::from_secs(1))).await);
    assert_eq!((first - 2) % (4 << 20), 0);
    process(&source, &proxy.url, Kind::Ghcr, &kept, None).await.unwrap();
    assert_arrived(&b, &layer).await;
    assert_eq!(b.unfinished_uploads(), 0);
    assert_eq!(uploaded(&proxy), layer.len() as u64);
    assert_eq!(asked_of(&fake, &layer), [None, Some(format!("bytes={}-", first - 2))]);
}

/// Would break: checkpoints that are kept only by a process that ends well.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_killed_process_s_upload_less_than_a_chunk_is_sent_again() {
    let layer = much(1, 30 * MIB);
    let (_fake, source) = source_with_pauses(Bytes::copy_from_slice(&layer), Duration::ZERO).await;
    let (b, kept) = (Distribution::start(), Kept::default());
    let whole = Peculiar::with(&b.url, |_| Deed::Pass).await;
    let (patches, gate) = (AtomicUsize::new(0), Gate::new());
    let held = gate.clone();
    let proxy = Proxy::start(&whole.url, move |request| {
        match request.is("PATCH", UPLOADS) && patches.fetch_add(1, Ordering::SeqCst) == 3 {
            true => Action::HoldUpload(1_000_000, held.clone()),
            false => Action::Pass,
        }
    })
    .await;
    tokio::select! {
        outcome = process(&source, proxy.url(), Kind::Ghcr, &kept, None) => panic!("not held: {outcome:?}"),
        () = gate.reached(1) => {}
    }
    process(&source, proxy.url(), Kind::Ghcr, &kept, None).await.unwrap();
    let sent: u64 = proxy.exchanges().iter().filter(|e| e.request.is("PATCH", UPLOADS)).map(|e| e.uploaded).sum();
    assert_eq!(sent - layer.len() as u64, 1_000_000, "what the broken chunk had brought");
    assert_eq!(
        proxy.count("POST", UPLOADS),
        3,
        "one session for each of the two blobs, and one look at the config that is there"
    );
    assert_arrived(&b, &layer).await;
}

/// Would break: the same for a registry that tells nobody how far an upload has come.
/// `TRANSSHIP_LARGE_MIB=1024` makes it a gibibyte.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_large_upload_that_is_reset_and_killed_less_than_a_chunk_is_sent_again_each_time() {
    let mebibytes = std::env::var("TRANSSHIP_LARGE_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(128);
    let layer = Bytes::from(much(1, mebibytes * MIB));
    let (fake, source) = source_with_pauses(layer.clone(), Duration::ZERO).await;
    let (b, kept) = (Distribution::start(), Kept::default());
    // As Amazon's: a chunk is handed on when it is whole, within bounds, and nobody is told how much there is.
    let ecr = Peculiar::with(&b.url, |seen| match (seen.method.as_str(), seen.length) {
        ("PATCH", Some(5_242_880..=10_485_760)) => Deed::Pass,
        ("PATCH", _) => refuse(400, "BLOB_UPLOAD_INVALID"),
        ("GET", _) if seen.target.contains(UPLOADS) => refuse(405, "UNSUPPORTED"),
        _ => Deed::Pass,
    })
    .await;
    let (chunks, patches, gate) = (mebibytes / 8, AtomicUsize::new(0), Gate::new());
    let held = gate.clone();
    let proxy = Proxy::start(&ecr.url, move |request| {
        if !request.is("PATCH", UPLOADS) {
            return Action::Pass;
        }
        match patches.fetch_add(1, Ordering::SeqCst) {
            nth if nth == chunks / 4 => Action::TruncateUpload(2_000_000),
            nth if nth == chunks / 2 => Action::HoldUpload(3_000_000, held.clone()),
            _ => Action::Pass,
        }
    })
    .await;

    {
        let process = process(&source, proxy.url(), Kind::Ecr, &kept, None);
        tokio::select! {
            outcome = process => panic!("not held: {outcome:?}"),
            () = gate.reached(1) => {}
        }
        // It is killed here.
    }
    let moved = process(&source, proxy.url(), Kind::Ecr, &kept, None).await.unwrap();

    let sent: u64 = proxy.exchanges().iter().filter(|e| e.request.is("PATCH", UPLOADS)).map(|e| e.uploaded).sum();
    assert_eq!(sent - layer.len() as u64, 2_000_000 + 3_000_000, "what the broken chunks had brought, and nothing else");
    assert_eq!(
        proxy.count("POST", UPLOADS),
        3,
        "one session for each of the two blobs, and one look at the config that is there"
    );
    // Two bytes are the config's.
    let killed_at = (chunks as u64 / 2 - 1) * (8 << 20);
    assert_eq!((moved.bytes_present, moved.bytes_moved), (killed_at + 2, layer.len() as u64 - killed_at));
    assert_eq!(asked_of(&fake, &layer)[0], None);
    assert_eq!(asked_of(&fake, &layer).len(), 3);
    let mut there = registry("behind", &b.url).get_blob(&repo("app"), &Digest::of(&layer)).await.unwrap();
    let mut read = 0;
    while let Some(chunk) = there.chunk().await.unwrap() {
        assert!(layer[read..read + chunk.len()] == chunk);
        read += chunk.len();
    }
    assert_eq!(read, layer.len());
    assert!(kept.0.lock().unwrap().is_empty());
}

/// As Amazon's: chunks in order and within bounds, and nobody is told how much there is.
async fn ecr_in_order(behind: &Distribution) -> Peculiar {
    let taken: Mutex<HashMap<String, u64>> = Mutex::default();
    let rule = move |seen: &Seen| {
        if seen.is("GET", UPLOADS) {
            return refuse(405, "UNSUPPORTED");
        }
        let (true, Some(length)) = (seen.method == "PATCH", seen.length) else { return Deed::Pass };
        let mut taken = taken.lock().unwrap();
        let taken = taken.entry(seen.session().into()).or_default();
        if seen.content_range.as_deref() != Some(&format!("{taken}-{}", *taken + length - 1)) {
            return refuse(416, "BLOB_UPLOAD_INVALID");
        }
        *taken += length;
        Deed::Pass
    };
    Peculiar::with(&behind.url, rule).await
}

/// Would break: an upload that starts again, or never ends, because the registry is one chunk further than its client knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_was_taken_and_is_not_known_to_be_is_all_that_is_sent_again() {
    let layer = much(1, 40 * MIB);
    let (_fake, source) = source_with_pauses(Bytes::copy_from_slice(&layer), Duration::ZERO).await;
    for is_killed in [false, true] {
        let (b, kept) = (Distribution::start(), Kept::default());
        let ecr = ecr_in_order(&b).await;
        let patches = AtomicUsize::new(0);
        let proxy = Proxy::start(&ecr.url, move |request| {
            match request.is("PATCH", UPLOADS) && patches.fetch_add(1, Ordering::SeqCst) == 2 {
                true if is_killed => Action::DelayAnswer(Duration::from_secs(3600)),
                true => Action::LoseAnswer,
                false => Action::Pass,
            }
        })
        .await;
        if is_killed {
            let taken = async {
                let answered = |seen: &&Seen| seen.is("PATCH", UPLOADS) && seen.status > 0;
                while ecr.seen().iter().filter(answered).count() < 3 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                outcome = process(&source, proxy.url(), Kind::Ecr, &kept, None) => panic!("not held: {outcome:?}"),
                () = taken => {}
            }
        }
        process(&source, proxy.url(), Kind::Ecr, &kept, None).await.unwrap();
        assert_arrived(&b, &layer).await;
        assert_eq!(b.unfinished_uploads(), 0);
        assert_eq!(uploaded(&ecr), (40 + 8) << 20);
        assert_eq!(
            ecr.count("POST", UPLOADS),
            2 + usize::from(is_killed),
            "one session for each of the two blobs, and one look at the config that is there"
        );
    }
}

/// Would break: a checkpoint that holds only as long as the registry runs.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_in_another_process_after_a_restart_of_the_registry() {
    let layer = much(1, 24 * MIB);
    let (fake, source) = slow_source(&layer).await;
    let (mut b, kept) = (DockerRegistry::start().await, Kept::default());
    let proxy = Peculiar::with(b.url(), |_| Deed::Stream).await;
    let first = done(process(&source, &proxy.url, Kind::Distribution, &kept, Some(Duration::from_millis(700))).await);
    assert!(first > 2, "{first}");
    b.restart().await;
    process(&source, &proxy.url, Kind::Distribution, &kept, None).await.unwrap();
    assert_eq!(uploaded(&proxy), layer.len() as u64, "no byte was sent twice");
    assert_eq!(asked_of(&fake, &layer), [None, Some(format!("bytes={}-", first - 2))]);
    assert!(b.client().blob("app", &Digest::of(&layer)).await == layer);
}

/// Would break: a layer that is begun again with each invocation and never arrives, without a word of why.
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_in_one_request_only_and_not_in_time_is_refused() {
    let layer = much(1, 128 * MIB);
    let (_fake, source) = slow_source(&layer).await;
    let (b, kept) = (Distribution::start(), Arc::new(Kept::default()));
    let error = process(&source, &b.url, Kind::Google, &kept, Some(Duration::from_millis(300))).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
    assert!(error.to_string().contains("in one request only") && error.to_string().contains("transship serve"), "{error}");
}
