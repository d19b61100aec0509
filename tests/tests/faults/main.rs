//! Proof of patience: copies through everything that goes wrong on the way, at random.
//!
//! `cargo test` runs a short one. For a long one, with a few hundred copies:
//!
//! ```text
//! TRANSSHIP_FAULTS_COPIES=300 cargo test -p transship-tests --test faults -- --nocapture any_weather
//! ```
//!
//! Each run prints its seed; `TRANSSHIP_FAULTS_SEED` repeats what is pushed and what is done to the nth request of a kind for a
//! repository. Which request that is depends on how the processes take turns, as it does out there.
#![expect(clippy::unwrap_used, reason = "what a test does not expect is a failed test")]

mod memory;
mod observer;
mod pushes;
mod setting;
mod weather;

use std::time::{Duration, Instant};

use transship_tests::*;

use crate::{observer::Observer, pushes::Push, weather::Weather};

/// Copies in a short run.
const SHORT: usize = 24;
/// So many copies make it certain that each kind of fault has occurred.
const LONG: usize = 200;
/// Copies that begin together. All have ended before the next begin.
const WAVE: usize = 12;
/// Kills in one wave. A job lives in one wave only, and is given up when it was at work in more than five kills: so it never is.
const KILLS: usize = 4;
/// So much more goes wrong in every other wave.
const STORM: u32 = 3;
/// How long a registry may stall. Stalls are shorter, and longer.
const STALL: &str = "2";

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Would break: an upload that goes on at a wrong offset, or is believed to be whole and is not; a tag before what it needs; an
/// error that may pass and is taken for good; an answer that got lost and is taken for a failure; a job, an event or a signature that a
/// kill makes be forgotten; work that waits for ever.
#[tokio::test(flavor = "multi_thread")]
async fn in_any_weather_everything_arrives_and_nothing_incomplete_is_ever_seen() {
    let seed = number("TRANSSHIP_FAULTS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let copies = number("TRANSSHIP_FAULTS_COPIES").map_or(SHORT, |copies| usize::try_from(copies).unwrap());
    eprintln!("TRANSSHIP_FAULTS_SEED={seed} TRANSSHIP_FAULTS_COPIES={copies}");
    let mut random = fastrand::Rng::with_seed(seed);
    let began = Instant::now();

    let mut transship = Transship::reserve();
    transship.set("TRANSSHIP_STALL_TIMEOUT", STALL);
    let (build, prod) = (transship.registry("build").await, DockerRegistry::start().await);
    // The same registry, taking what it gets as one stream and in small pieces.
    let from = Weather::over(build.url(), seed ^ 1).await;
    let (whole, pieces) = (Weather::over(prod.url(), seed ^ 2).await, Weather::over(prod.url(), seed ^ 3).await);
    let instances = [
        instance("build", from.url()),
        instance("whole", whole.url()),
        instance("pieces", pieces.url()).replace("kind: distribution", "kind: ghcr"),
    ];
    let rule = |name, to, namespace| {
        let source = format!("instance: build, namespace: {namespace}");
        rule(name, &source, &format!("instance: {to}, namespace: mirror/{namespace}"), "overwrite: true")
    };
    transship.start(&config(&instances, &[rule("a", "whole", "team"), rule("b", "pieces", "parts")])).await;

    let observer = Observer::of(&prod);
    let (mut pushed, mut kills, mut tags) = (Vec::<Push>::new(), 0, 0);
    while pushed.len() < copies {
        let is_storm = pushed.len() / WAVE % 2 == 1;
        for weather in [&from, &whole, &pieces] {
            weather.blow(if is_storm { STORM } else { 1 });
        }
        let wave: Vec<Push> = (pushed.len()..copies.min(pushed.len() + WAVE)).map(|n| Push::random(n, &mut random)).collect();
        let pushing = tokio::spawn({
            let (wave, build) = (wave.clone(), build.client().clone());
            async move {
                for push in &wave {
                    push.push(&build).await;
                }
            }
        });
        tags += wave.len();
        pushed.extend(wave);
        for _ in 0..KILLS {
            tokio::time::sleep(Duration::from_millis(random.u64(500..3000))).await;
            if pushing.is_finished() && is_done(&transship, tags).await {
                break;
            }
            transship.kill();
            kills += 1;
            tokio::time::sleep(Duration::from_millis(random.u64(0..500))).await;
            transship.restart().await;
        }
        pushing.await.unwrap();
        wait_until("the tasks of all pushes to end", Duration::from_secs(300), async || is_done(&transship, tags).await).await;
        // What has no task, too.
        transship.quiet().await;
        eprintln!("{} of {copies} copies, {kills} kills, {:.0?}", pushed.len(), began.elapsed());
    }
    let looks = observer.stop().await;
    for target in [&whole, &pieces] {
        let refused = target.refused_manifests();
        assert!(refused.is_empty(), "put before what they need: {refused:?}");
    }

    for rule in ["build/a", "build/b"] {
        for task in transship.tasks(rule).await {
            assert_eq!((&task["status"], task.get("ended").is_some()), (&"succeeded".into(), true), "{task}");
        }
    }
    for push in &pushed {
        push.assert_arrived(&build, &prod).await;
    }
    assert!(looks > copies, "{looks}");
    assert!(kills > 0, "no kill met any work");
    let dealt = weather::dealt(&[&from, &whole, &pieces]);
    eprintln!("{copies} copies, {kills} kills, {looks} looks in {:.0?}; {dealt:?}", began.elapsed());
    if copies >= LONG {
        for fault in weather::FAULTS {
            assert!(dealt.contains_key(&fault), "{fault:?} has not occurred");
        }
    }
}

/// Whether each push of a tag has a task and all tasks have ended.
async fn is_done(transship: &Transship, tags: usize) -> bool {
    let mut by_tag = 0;
    for rule in ["build/a", "build/b"] {
        for task in transship.tasks(rule).await {
            if task.get("ended").is_none() {
                return false;
            }
            by_tag += usize::from(task["trigger"].as_str().is_some_and(|trigger| trigger.starts_with("push ")));
        }
    }
    by_tag >= tags
}
