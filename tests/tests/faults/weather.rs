//! What goes wrong on the way to a registry.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use transship_tests::*;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The connection is reset, and the registry has not seen the request.
    Reset,
    /// The registry has done it, and the connection is reset instead of its answer.
    LostAnswer,
    /// The connection is reset somewhere in an answer's body.
    TruncatedBody,
    /// The connection is reset somewhere in an upload.
    CutUpload,
    /// For a while nothing happens.
    Stall,
    /// The same in an answer's body.
    StalledBody,
    /// The same in an upload.
    StalledUpload,
    /// 500.
    Error,
    /// 503.
    Unavailable,
    /// The same with `Retry-After` in seconds.
    UnavailableForSeconds,
    /// The same with `Retry-After` as a date.
    UnavailableUntil,
    /// 429.
    TooMany,
    /// The same with `Retry-After` in seconds.
    TooManyForSeconds,
    /// The same with `Retry-After` as a date.
    TooManyUntil,
}

pub(crate) const FAULTS: [Fault; 14] = [
    Fault::Reset,
    Fault::LostAnswer,
    Fault::TruncatedBody,
    Fault::CutUpload,
    Fault::Stall,
    Fault::StalledBody,
    Fault::StalledUpload,
    Fault::Error,
    Fault::Unavailable,
    Fault::UnavailableForSeconds,
    Fault::UnavailableUntil,
    Fault::TooMany,
    Fault::TooManyForSeconds,
    Fault::TooManyUntil,
];

/// Of a thousand requests of a kind, how many get which fault.
const BLOB_READS: &[(Fault, u32)] = &[(Fault::TruncatedBody, 60), (Fault::StalledBody, 15)];
const UPLOADS: &[(Fault, u32)] = &[(Fault::CutUpload, 60), (Fault::StalledUpload, 15)];
const ALL: &[(Fault, u32)] =
    &[(Fault::Reset, 15), (Fault::LostAnswer, 20), (Fault::Stall, 8), (Fault::Error, 10), (Fault::Unavailable, 4)];
/// Few, because with each the registry is left alone for seconds, or half as much is asked of it from there on.
const BUSY: &[(Fault, u32)] = &[
    (Fault::UnavailableForSeconds, 1),
    (Fault::UnavailableUntil, 1),
    (Fault::TooMany, 1),
    (Fault::TooManyForSeconds, 1),
    (Fault::TooManyUntil, 1),
];

/// A proxy in bad weather.
pub(crate) struct Weather {
    proxy: Proxy,
    force: Arc<AtomicU32>,
    dealt: Arc<Mutex<Vec<Dealt>>>,
}

/// A fault, and the request and the place in a body that it is meant for.
struct Dealt {
    fault: Fault,
    number: usize,
    after: u64,
}

impl Weather {
    /// Before the registry at `upstream`.
    pub(crate) async fn over(upstream: &str, seed: u64) -> Self {
        let dealt: Arc<Mutex<Vec<Dealt>>> = Arc::default();
        let force = Arc::new(AtomicU32::new(1));
        let (dealing, times, blowing) = (dealt.clone(), Mutex::new(HashMap::<String, u32>::new()), force.clone());
        let hook = move |request: &Request| {
            // An upload has another name each time.
            let path = request.path.split_inclusive("/uploads/").next().unwrap_or_default();
            let what = format!("{} {path}", request.method);
            let nth = {
                let mut times = times.lock().unwrap();
                let nth = times.entry(what.clone()).or_default();
                *nth += 1;
                *nth
            };
            let mut hasher = DefaultHasher::new();
            (seed, what, nth).hash(&mut hasher);
            let mut random = fastrand::Rng::with_seed(hasher.finish());
            let Some(fault) = choose(request, blowing.load(Ordering::SeqCst), &mut random) else {
                // Everything takes its time, so that a kill meets copies at each of their steps.
                return Action::Delay(Duration::from_millis(random.u64(0..15)));
            };
            // How long an answer will be is not known: near its beginning as often as far in a large one.
            let length = request.header("content-length").parse().unwrap_or_else(|_| 1 << random.u32(0..24));
            let after = random.u64(0..length.max(1));
            dealing.lock().unwrap().push(Dealt { fault, number: request.number, after });
            deal(fault, after, &mut random)
        };
        Self { proxy: Proxy::start(upstream, hook).await, force, dealt }
    }

    /// From now on everything goes wrong so many times as often, but for what asks to be left alone.
    pub(crate) fn blow(&self, force: u32) {
        self.force.store(force, Ordering::SeqCst);
    }

    pub(crate) fn url(&self) -> &str {
        self.proxy.url()
    }

    /// Manifests that the registry refused, as it does with one that names what it does not have.
    pub(crate) fn refused_manifests(&self) -> Vec<Exchange> {
        let is_refused = |exchange: &Exchange| matches!(exchange.status, Some(400..=428));
        let exchanges = self.proxy.exchanges().into_iter();
        exchanges.filter(|exchange| exchange.request.is("PUT", "/manifests/") && is_refused(exchange)).collect()
    }
}

fn choose(request: &Request, force: u32, random: &mut fastrand::Rng) -> Option<Fault> {
    let is_upload = request.path.contains("/uploads/") && !matches!(request.header("content-length"), "" | "0");
    let own = match request.method.as_str() {
        "GET" if request.path.contains("/blobs/sha256:") => BLOB_READS,
        "PATCH" | "PUT" if is_upload => UPLOADS,
        _ => &[],
    };
    let mut dice = random.u32(0..1000);
    let mut meet = |(fault, share): &(Fault, u32), force: u32| match dice.checked_sub(share * force) {
        Some(rest) => {
            dice = rest;
            None
        }
        None => Some(*fault),
    };
    let hard = own.iter().chain(ALL).find_map(|entry| meet(entry, force));
    hard.or_else(|| BUSY.iter().find_map(|entry| meet(entry, 1)))
}

fn deal(fault: Fault, after: u64, random: &mut fastrand::Rng) -> Action {
    let wait = random.u64(1..=3);
    let date = || {
        let then = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(wait.cast_signed());
        jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&then).unwrap()
    };
    let busy = |status, wait: Option<String>| {
        let wait: Vec<(&str, &str)> = wait.iter().map(|wait| ("Retry-After", wait.as_str())).collect();
        Action::status(status, &wait, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"not now"}]}"#)
    };
    let mut gate = || {
        let gate = Gate::new();
        let (opened, stall) = (gate.clone(), Duration::from_millis(random.u64(100..3500)));
        tokio::spawn(async move {
            tokio::time::sleep(stall).await;
            opened.open();
        });
        gate
    };
    match fault {
        Fault::Reset => Action::Reset,
        Fault::LostAnswer => Action::LoseAnswer,
        Fault::TruncatedBody => Action::TruncateBody(after),
        Fault::CutUpload => Action::TruncateUpload(after),
        Fault::Stall => Action::Hold(gate()),
        Fault::StalledBody => Action::HoldBody(after, gate()),
        Fault::StalledUpload => Action::HoldUpload(after, gate()),
        Fault::Error => Action::status(500, &[], r#"{"errors":[{"code":"UNKNOWN","message":"unknown error"}]}"#),
        Fault::Unavailable => busy(503, None),
        Fault::UnavailableForSeconds => busy(503, Some(wait.to_string())),
        Fault::UnavailableUntil => busy(503, Some(date())),
        Fault::TooMany => busy(429, None),
        Fault::TooManyForSeconds => busy(429, Some(wait.to_string())),
        Fault::TooManyUntil => busy(429, Some(date())),
    }
}

/// How often each fault has really occurred: a body may have ended before its place.
pub(crate) fn dealt(all: &[&Weather]) -> BTreeMap<Fault, usize> {
    let mut counts = BTreeMap::new();
    for weather in all {
        let exchanges = weather.proxy.exchanges();
        for Dealt { fault, number, after } in &*weather.dealt.lock().unwrap() {
            let exchange = &exchanges[*number];
            let has_occurred = match fault {
                Fault::LostAnswer => exchange.status.is_some(),
                Fault::TruncatedBody | Fault::StalledBody => exchange.status == Some(200) && exchange.downloaded >= *after,
                Fault::CutUpload | Fault::StalledUpload => exchange.uploaded >= *after,
                _ => true,
            };
            *counts.entry(*fault).or_default() += usize::from(has_occurred);
        }
    }
    counts.retain(|_, count| *count > 0);
    counts
}
