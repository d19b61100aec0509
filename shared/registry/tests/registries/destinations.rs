//! The engine against destinations that take blobs each in a way of its own, in front of a real registry. A known kind is begun
//! with rightly: nothing is refused. An unknown one is learnt: something is refused once, and nobody hears of it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde_json::json;
use transship_model::{Digest, Kind};
use transship_registry::{Copier, Endpoint, Error, Http, Options, Outcome, Registry};

use crate::{fixture::*, peculiar::*};

const OPTIONS: Options = Options { overwrite: true, referrers: false };
const MIB: usize = 1 << 20;
const UPLOADS: &str = "/blobs/uploads/";

/// A destination of a kind, seen by clients that know what their process has learnt.
fn target(http: &Http, url: &str, kind: Kind) -> Endpoint {
    let mut config = config("target", url);
    config.kind = kind;
    Endpoint::new(&Registry::new(http, config).unwrap(), repo("app"))
}

async fn push_layer(at: &Endpoint, tag: &str, layer: &[u8]) {
    push(at, Some(tag), (OCI_CONFIG, b"{}"), &[(OCI_LAYER, layer)], json!({})).await;
}

/// Copies a layer to a destination and sees it arrive.
async fn carry(source: &Endpoint, target: &Endpoint, behind: &Distribution, tag: &str, layer: &[u8]) {
    push_layer(source, tag, layer).await;
    let by = reference(tag);
    let progress = Counter::default();
    let outcome = Copier::default().copy(source, &by, target, &by, OPTIONS, &progress).await.unwrap();
    assert!(matches!(outcome, Outcome::Copied { .. }), "{outcome:?}");
    let there = registry("behind", &behind.url).get_blob(&target.repository, &Digest::of(layer)).await.unwrap();
    assert_eq!(there.length(), Some(layer.len() as u64));
    assert!(there.read(layer.len()).await.unwrap() == layer);
    let (planned, moved, saved, lost) = progress.read();
    assert_eq!(planned, moved + saved - lost);
    assert_eq!(behind.unfinished_uploads(), 0);
}

/// What is refused of uploads where the kind is known, and where it is not: at first, and after that.
async fn refused(proxy: &Peculiar, behind: &Distribution, kind: Kind, size: usize) -> [usize; 3] {
    let a = Distribution::start();
    let source = endpoint("source", &a.url, "app");
    let mut refused = Vec::new();
    let (knowing, learning) = (Http::new().unwrap(), Http::new().unwrap());
    let tries = [(&knowing, kind), (&learning, Kind::Oci), (&learning, Kind::Oci)];
    for (seed, (http, kind)) in (1..).zip(tries) {
        proxy.forget();
        carry(&source, &target(http, &proxy.url, kind), behind, &format!("v{seed}"), &much(seed, size)).await;
        refused.push(proxy.refusals().iter().filter(|seen| seen.target.contains(UPLOADS)).count());
    }
    refused.try_into().unwrap()
}

/// As Amazon's: chunks of at most 10 MiB, and of at least 5 but for the last; 201; a `Range` that stays at the first chunk; no
/// asking; no repository that has not been made.
async fn ecr(behind: &Distribution) -> Peculiar {
    ecr_that_breaks(behind, usize::MAX).await
}

/// The same, whose connection breaks in the nth chunk.
async fn ecr_that_breaks(behind: &Distribution, nth: usize) -> Peculiar {
    let patches = AtomicUsize::new(0);
    let before: Arc<Mutex<HashMap<String, u64>>> = Arc::default();
    let ends: Arc<Mutex<HashMap<String, String>>> = Arc::default();
    let rule = move |seen: &Seen| {
        let length = seen.length.unwrap_or(u64::MAX);
        match seen.method.as_str() {
            "POST" if !seen.target.starts_with("/v2/app/") => refuse(404, "NAME_UNKNOWN"),
            "PATCH" if patches.fetch_add(1, Ordering::SeqCst) + 1 == nth => Deed::Break(1_000_000),
            "PATCH" if length > 10 << 20 => refuse(400, "BLOB_UPLOAD_INVALID"),
            "PATCH" => match before.lock().unwrap().insert(seen.session().into(), length) {
                Some(before) if before < 5 << 20 => refuse(400, "BLOB_UPLOAD_INVALID"),
                _ => Deed::Pass,
            },
            "GET" if seen.target.contains(UPLOADS) => refuse(405, "UNSUPPORTED"),
            _ => Deed::Pass,
        }
    };
    let turn = move |seen: &Seen, mut response: Response| {
        if seen.method == "PATCH" && response.status() == 202 {
            *response.status_mut() = http::StatusCode::CREATED;
            let range = response.headers()["range"].to_str().unwrap().to_owned();
            let first = ends.lock().unwrap().entry(seen.session().into()).or_insert(range).clone();
            response.headers_mut().insert("range", first.parse().unwrap());
        }
        response
    };
    Peculiar::start(&behind.url, rule, turn).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ecr_gets_parts_within_its_bounds() {
    let b = Distribution::start();
    let proxy = ecr(&b).await;
    assert_eq!(refused(&proxy, &b, Kind::Ecr, 21 * MIB + 5).await, [0, 1, 0]);
    let chunks: Vec<_> =
        proxy.seen().into_iter().filter(|seen| seen.method == "PATCH").map(|seen| seen.content_range).collect();
    let expected = ["0-8388607", "8388608-16777215", "16777216-22020100"].map(|range| Some(range.to_owned()));
    assert_eq!(chunks, expected);
    // Nothing but the config and the chunks: what is small goes with the PUT.
    assert_eq!(proxy.count("PATCH", UPLOADS), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ecr_tells_of_an_upload_is_not_believed_when_it_breaks() {
    for nth in [1, 2, 3] {
        let (a, b) = (Distribution::start(), Distribution::start());
        let proxy = ecr_that_breaks(&b, nth).await;
        let layer = much(1, 21 * MIB);
        let target = target(&Http::new().unwrap(), &proxy.url, Kind::Ecr);
        carry(&endpoint("source", &a.url, "app"), &target, &b, "v1", &layer).await;
        let sent: u64 = proxy.seen().iter().filter(|seen| seen.method == "PATCH").map(|seen| seen.received).sum();
        assert_eq!((sent, proxy.count("POST", UPLOADS)), (layer.len() as u64 + 1_000_000, 2), "broken in chunk {nth}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_ecr_does_not_have_is_named() {
    let (a, b) = (Distribution::start(), Distribution::start());
    let proxy = ecr(&b).await;
    let source = endpoint("source", &a.url, "app");
    push_layer(&source, "v1", b"layer").await;
    let mut target = target(&Http::new().unwrap(), &proxy.url, Kind::Ecr);
    target.repository = repo("missing");
    let tag = reference("v1");
    let error = Copier::default().copy(&source, &tag, &target, &tag, OPTIONS, &()).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)) && error.to_string().contains("404 NAME_UNKNOWN"), "{error}");
    // For each of the two blobs once.
    assert!(proxy.refusals().len() <= 2, "{:?}", proxy.refusals());
}

#[tokio::test(flavor = "multi_thread")]
async fn ghcr_gets_small_chunks() {
    let b = Distribution::start();
    let proxy = Peculiar::with(&b.url, |seen| match seen.length {
        Some(length) if seen.method == "PATCH" && length > 4 << 20 => refuse(416, "BLOB_UPLOAD_INVALID"),
        _ => Deed::Pass,
    })
    .await;
    assert_eq!(refused(&proxy, &b, Kind::Ghcr, 20 * MIB).await, [0, 2, 0]);
    assert_eq!(proxy.count("PATCH", UPLOADS), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn google_gets_one_put() {
    let b = Distribution::start();
    let proxy = Peculiar::with(&b.url, |seen| match seen.method.as_str() {
        "PATCH" => refuse(405, "UNSUPPORTED"),
        _ => Deed::Pass,
    })
    .await;
    assert_eq!(refused(&proxy, &b, Kind::Google, 20 * MIB).await, [0, 3, 0]);
    let puts: Vec<_> = proxy.seen().into_iter().filter(|seen| seen.is("PUT", UPLOADS)).map(|seen| seen.length).collect();
    assert!(puts.contains(&Some(20 << 20)), "{puts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn acr_gets_chunks_with_a_length() {
    let b = Distribution::start();
    let proxy = Peculiar::with(&b.url, |seen| match seen.length {
        None if seen.method == "PATCH" => refuse(411, "SIZE_INVALID"),
        Some(length) if length > 20_000_000 => refuse(413, "SIZE_INVALID"),
        _ => Deed::Pass,
    })
    .await;
    assert_eq!(refused(&proxy, &b, Kind::Acr, 25 * MIB).await, [0, 1, 0]);
}

/// As Azure's: a session whose chunk has broken is gone, and the answer is the one of a wrong upload.
#[tokio::test(flavor = "multi_thread")]
async fn acr_forgets_a_broken_session_and_gets_another_in_the_same_way() {
    for kind in [Kind::Acr, Kind::Oci] {
        let (a, b) = (Distribution::start(), Distribution::start());
        let (patches, gone) = (AtomicUsize::new(0), Mutex::<Option<String>>::default());
        let proxy = Peculiar::with(&b.url, move |seen| match (seen.method.as_str(), seen.length) {
            // The registry behind has not forgotten it.
            ("DELETE", _) => Deed::Pass,
            _ if gone.lock().unwrap().as_deref() == Some(seen.session()) => refuse(404, "BLOB_UPLOAD_INVALID"),
            ("PATCH", None) => refuse(411, "SIZE_INVALID"),
            (_, Some(length)) if length > 20_000_000 => refuse(413, "SIZE_INVALID"),
            ("PATCH", _) if patches.fetch_add(1, Ordering::SeqCst) == 1 => {
                *gone.lock().unwrap() = Some(seen.session().to_owned());
                Deed::Break(1_000_000)
            }
            _ => Deed::Pass,
        })
        .await;
        let http = Http::new().unwrap();
        let (source, target) = (endpoint("source", &a.url, "app"), target(&http, &proxy.url, kind));
        carry(&source, &target, &b, "v1", &much(1, 21 * MIB)).await;
        let chunks: Vec<_> = proxy.seen().into_iter().filter(|seen| seen.is("PATCH", UPLOADS) && seen.status < 300).collect();
        assert!(chunks.iter().all(|seen| seen.length.is_some_and(|length| length <= 8 << 20)), "{kind}: {chunks:?}");
        // What went wrong once was not the way in which it was sent.
        proxy.forget();
        carry(&source, &target, &b, "v2", &much(2, 21 * MIB)).await;
        assert!(proxy.refusals().is_empty(), "{kind}: {:?}", proxy.refusals());
        assert_eq!(proxy.count("PATCH", UPLOADS), 3, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_least_chunk_is_honoured() {
    let b = Distribution::start();
    let least = 6 << 20;
    let rule = {
        let before: Mutex<HashMap<String, u64>> = Mutex::default();
        move |seen: &Seen| match seen.method.as_str() {
            "PATCH" => match before.lock().unwrap().insert(seen.session().into(), seen.length.unwrap_or(0)) {
                Some(before) if before < least => refuse(416, "BLOB_UPLOAD_INVALID"),
                _ => Deed::Pass,
            },
            _ => Deed::Pass,
        }
    };
    let turn = move |seen: &Seen, mut response: Response| {
        if seen.method == "POST" {
            response.headers_mut().insert("oci-chunk-min-length", least.into());
        }
        response
    };
    let proxy = Peculiar::start(&b.url, rule, turn).await;
    assert_eq!(refused(&proxy, &b, Kind::Ghcr, 20 * MIB).await[0], 0);
}

/// Copies one layer after the other from one repository of a registry to another, and gives how many blobs were copied and
/// mounted, and how many mounts were asked for, with each.
async fn carry_within(proxy: &Peculiar, kind: Kind) -> Vec<(u32, u32, usize)> {
    let registry = registry_with(&proxy.url, |config| (config.kind, config.credentials) = (kind, password()));
    let (source, target) = (Endpoint::new(&registry, repo("team/app")), Endpoint::new(&registry, repo("mirror/app")));
    let mut carried = Vec::new();
    for seed in 1..=4 {
        let (tag, config) = (format!("v{seed}"), format!(r#"{{"seed":{seed}}}"#));
        push(&source, Some(&tag), (OCI_CONFIG, config.as_bytes()), &[(OCI_LAYER, &much(seed, MIB))], json!({})).await;
        proxy.forget();
        let by = reference(&tag);
        let outcome = Copier::default().copy(&source, &by, &target, &by, OPTIONS, &()).await.unwrap();
        let Outcome::Copied { moved, .. } = outcome else { panic!("{outcome:?}") };
        carried.push((moved.blobs_copied, moved.blobs_mounted, proxy.count("POST", "mount=")));
    }
    carried
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_harbor_answers_with_401_becomes_an_upload_and_is_soon_asked_for_no_more() {
    for kind in [Kind::Harbor, Kind::Oci] {
        let b = Distribution::start();
        let proxy = Peculiar::with(&b.url, |seen| match seen.target.contains("mount=") {
            true => Deed::Answer(answer(401, &[("www-authenticate", "Basic realm=harbor")], "")),
            false if seen.target.starts_with("/api/v2.0/projects") => Deed::Answer(answer(200, &[], "")),
            false => Deed::Pass,
        })
        .await;
        let carried = carry_within(&proxy, kind).await;
        assert!(carried.iter().all(|(copied, mounted, _)| (*copied, *mounted) == (2, 0)), "{kind}: {carried:?}");
        assert!(carried[0].2 >= 2 && carried[3].2 == 0, "{kind}: {carried:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quay_is_always_told_where_to_mount_from() {
    for kind in [Kind::Quay, Kind::Oci] {
        let b = Distribution::start();
        let proxy =
            Peculiar::with(&b.url, |seen| match seen.target.contains("mount=") && !seen.target.contains("from=team%2Fapp") {
                true => refuse(400, "NAME_INVALID"),
                false => Deed::Pass,
            })
            .await;
        assert_eq!(carry_within(&proxy, kind).await, [(0, 2, 2); 4], "{kind}");
        assert!(proxy.refusals().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_is_read_while_the_one_before_is_written_and_no_further() {
    let b = Distribution::start();
    let layer = much(1, 40 * MIB);
    let served = Arc::new(AtomicU64::new(0));
    let source = {
        let value = json!({"config": descriptor(OCI_CONFIG, b"{}"), "layers": [descriptor(OCI_LAYER, &layer)]});
        let (image, name, served) = (manifest(OCI_MANIFEST, value), Digest::of(&layer), served.clone());
        let layer = Bytes::from(layer);
        Fake::start(move |asked, _| match asked.target.as_str() {
            "/v2/app/manifests/v1" => answer(200, &[("content-type", OCI_MANIFEST)], image.bytes.clone()),
            target if target.ends_with(name.as_str()) => {
                let (layer, served) = (layer.clone(), served.clone());
                let pieces = stream::iter((0..layer.len()).step_by(64 << 10)).map(move |at| {
                    let piece = layer.slice(at..layer.len().min(at + (64 << 10)));
                    served.fetch_add(piece.len() as u64, Ordering::SeqCst);
                    Ok::<_, std::io::Error>(piece)
                });
                answer(200, &[], Body::from_stream(pieces))
            }
            _ => answer(200, &[], "{}"),
        })
        .await
    };
    let seen_then = Arc::new(AtomicU64::new(0));
    let proxy = {
        let (served, seen_then) = (served.clone(), seen_then.clone());
        Peculiar::with(&b.url, move |seen| match seen.content_range.as_deref() {
            Some(range) if range.starts_with("0-") => {
                let (served, seen_then) = (served.clone(), seen_then.clone());
                // Long enough for all to be read that will be.
                let wait = async move {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    seen_then.store(served.load(Ordering::SeqCst), Ordering::SeqCst);
                };
                Deed::After(wait.boxed())
            }
            _ => Deed::Pass,
        })
        .await
    };
    let tag = reference("v1");
    let target = target(&Http::new().unwrap(), &proxy.url, Kind::Ecr);
    Copier::default().copy(&endpoint("source", &source.url, "app"), &tag, &target, &tag, OPTIONS, &()).await.unwrap();
    let then = seen_then.load(Ordering::SeqCst) >> 20;
    // Two chunks, and what sockets hold.
    assert!((15..28).contains(&then), "{then} MiB had been read when the first chunk was answered");
}
