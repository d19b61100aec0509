//! Registries that want to be asked less.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use transship_model::Digest;
use transship_registry::{Copier, Endpoint, Http, Options, Outcome, Registry};

use crate::{fixture::*, peculiar::*};

/// Takes so many requests a second, and a few more at once after a rest.
fn bucket(a_second: f64, burst: f64) -> impl Fn() -> bool + Send + Sync {
    let state = Mutex::new((burst, Instant::now()));
    move || {
        let mut state = state.lock().unwrap();
        let (left, then) = *state;
        let left = (left + then.elapsed().as_secs_f64() * a_second).min(burst);
        let taken = left >= 1.0;
        *state = (if taken { left - 1.0 } else { left }, Instant::now());
        taken
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_answers_429_above_a_rate_is_asked_less_and_all_arrives() {
    let (a, b) = (Distribution::start(), Distribution::start());
    let source = endpoint("source", &a.url, "app");
    push_index(&source, "v1", &(1..=15).collect::<Vec<_>>()).await;
    let takes = bucket(30.0, 10.0);
    let proxy = Peculiar::with(&b.url, move |_| match takes() {
        true => Deed::Pass,
        false => refuse(429, "TOOMANYREQUESTS"),
    })
    .await;
    let (target, tag) = (endpoint("target", &proxy.url, "app"), reference("v1"));
    let options = Options { overwrite: true, referrers: false };
    let outcome = Copier::default().copy(&source, &tag, &target, &tag, options, &()).await.unwrap();
    assert!(matches!(outcome, Outcome::Copied { .. }));
    let (busy, all) = (proxy.seen().iter().filter(|seen| seen.status == 429).count(), proxy.seen().len());
    assert!(busy > 0, "it was never too much");
    // The first burst is too much for it, and what follows is too much only now and then.
    assert!(busy * 3 < all, "{busy} of {all} requests were too many");
}

/// Two clients of one registry, in one process.
fn two_clients(url: &str) -> [Registry; 2] {
    let http = Http::new().unwrap();
    ["one", "other"].map(|name| Registry::new(&http, config(name, url)).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_wait_that_is_asked_for_is_made_by_all() {
    for status in [429, 503] {
        let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let seen = times.clone();
        let fake = Fake::start(move |_, _| {
            let mut seen = seen.lock().unwrap();
            seen.push(Instant::now());
            if seen.len() == 1 { answer(status, &[("retry-after", "1")], "") } else { answer(200, &[], "") }
        })
        .await;
        let [one, other] = two_clients(&fake.url);
        let (app, digest) = (repo("app"), Digest::of(b"x"));
        let first = tokio::spawn(async move { one.has_blob(&repo("app"), &Digest::of(b"y")).await });
        while times.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The answer has to have arrived.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let asked = stream::iter(0..4).map(|_| other.has_blob(&app, &digest)).buffer_unordered(4).collect::<Vec<_>>().await;
        assert!(asked.into_iter().all(|there| there.unwrap()));
        assert!(first.await.unwrap().unwrap());
        let times = times.lock().unwrap();
        assert!(times.len() == 6 && times[1..].iter().all(|time| *time - times[0] >= Duration::from_millis(990)), "{times:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_wait_that_is_asked_for_is_handed_to_all_callers_and_nothing_is_sent() {
    let fake = Fake::start(|_, _| answer(503, &[("retry-after", "60")], "")).await;
    let [one, other] = two_clients(&fake.url);
    assert_eq!(one.ping().await.unwrap_err().retry_after(), Some(Duration::from_secs(60)));
    let error = other.ping().await.unwrap_err();
    assert!(error.retry_after().is_some_and(|wait| (58..=60).contains(&wait.as_secs())), "{error:?}");
    assert_eq!(error.failure().status(), Some(429));
    assert_eq!(fake.asked().len(), 1);
    assert!(error.to_string().contains("asked to be left alone for another"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_429_less_is_asked_at_once() {
    let (now, peaks) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let b = Distribution::start();
    let proxy = {
        let (now, peaks) = (now.clone(), peaks.clone());
        let taken = AtomicUsize::new(0);
        Peculiar::with(&b.url, move |_| {
            let number = taken.fetch_add(1, Ordering::SeqCst);
            peaks.lock().unwrap().push(now.fetch_add(1, Ordering::SeqCst) + 1);
            let now = now.clone();
            if number == 31 {
                now.fetch_sub(1, Ordering::SeqCst);
                return refuse(429, "TOOMANYREQUESTS");
            }
            Deed::After(Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                now.fetch_sub(1, Ordering::SeqCst);
            }))
        })
        .await
    };
    let target = Endpoint::new(&registry("target", &proxy.url), repo("app"));
    let ask = |count: u8| {
        let target = target.clone();
        async move {
            let asking = (0..count).map(|n| {
                let target = target.clone();
                async move { target.registry.has_blob(&target.repository, &Digest::of(&[n])).await.unwrap() }
            });
            futures_util::future::join_all(asking).await
        }
    };
    ask(32).await;
    let before = peaks.lock().unwrap().drain(..).max().unwrap();
    ask(32).await;
    let after = peaks.lock().unwrap().drain(..).max().unwrap();
    assert!(before >= 16 && after * 4 <= before * 3, "{before} at once, and then {after}");
}
