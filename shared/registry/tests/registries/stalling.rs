//! Registries that show no progress: what has stalled is given up and made again, and what is merely slow is not.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use transship_model::{Digest, Kind};
use transship_registry::{Copier, Endpoint, Http, Options, Patience, Registry};
use transship_tests::{Action, Exchange, Gate, Proxy, Request};

use crate::{
    fixture::*,
    peculiar::{MIB, UPLOADS, assert_arrived, much},
};

const OPTIONS: Options = Options { overwrite: true, referrers: false };
/// Longer than a busy machine lets a healthy registry wait.
const STALL: Duration = Duration::from_secs(2);

/// Two registries with a proxy before each, the first with an image of one layer.
struct World {
    _a: Distribution,
    b: Distribution,
    before_a: Proxy,
    before_b: Proxy,
    layer: Vec<u8>,
}

impl World {
    async fn with(layer: Vec<u8>) -> Self {
        let (a, b) = (Distribution::start(), Distribution::start());
        push(&endpoint("a", &a.url, "app"), Some("v1"), (OCI_CONFIG, b"{}"), &[(OCI_LAYER, &layer)], serde_json::json!({}))
            .await;
        let (before_a, before_b) = (Proxy::passing(&a.url).await, Proxy::passing(&b.url).await);
        Self { _a: a, b, before_a, before_b, layer }
    }

    /// Copies it, with little patience.
    async fn copy(&self, kind: Kind, patience: Patience) {
        let http = Http::with_patience(patience).unwrap();
        let at = |url: &str, kind| {
            Endpoint::new(
                &Registry::new(&http, {
                    let mut c = config("x", url);
                    c.kind = kind;
                    c
                })
                .unwrap(),
                repo("app"),
            )
        };
        let (source, target) = (at(self.before_a.url(), Kind::Distribution), at(self.before_b.url(), kind));
        let (tag, progress) = (reference("v1"), Counter::default());
        Copier::default().copy(&source, &tag, &target, &tag, OPTIONS, &progress).await.unwrap();
        let (planned, moved, saved, lost) = progress.read();
        assert_eq!(planned, moved + saved - lost);
        assert_arrived(&self.b, &self.layer).await;
    }

    /// The reads of the layer: from where, and how many bytes.
    fn reads(&self) -> Vec<(String, u64)> {
        let name = Digest::of(&self.layer);
        let exchanges = self.before_a.exchanges().into_iter();
        let reads = exchanges.filter(|exchange| exchange.request.is("GET", name.as_str()));
        reads.map(|exchange| (exchange.request.header("range").to_owned(), exchange.downloaded)).collect()
    }
}

fn patience() -> Patience {
    Patience { stall: STALL, work: Duration::from_secs(60), trouble: Duration::ZERO }
}

/// Does something with the first request that is such.
fn first(is: impl Fn(&Request) -> bool + Send + Sync + 'static, action: Action) -> impl Fn(&Request) -> Action + Send + Sync {
    let once = Mutex::new(Some(action));
    move |request| match is(request) {
        true => once.lock().unwrap().take().unwrap_or(Action::Pass),
        false => Action::Pass,
    }
}

/// Would break: a body that stalls and is waited for for ever, read again from its beginning, or held against the target.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_stalls_in_a_body_is_asked_for_the_rest() {
    let world = World::with(much(1, 20 * MIB)).await;
    let name = Digest::of(&world.layer).to_string();
    world.before_a.on(first(move |request| request.is("GET", &name), Action::HoldBody(3_000_000, Gate::new())));
    world.copy(Kind::Distribution, patience()).await;
    let rest = world.layer.len() as u64 - 3_000_000;
    assert_eq!(world.reads(), [(String::new(), 3_000_000), ("bytes=3000000-".into(), rest)], "no byte is read twice");
    assert_eq!(world.before_b.count("PATCH", UPLOADS), 1, "it is not the target's fault");
}

/// Would break: tries that are counted although each got on, or an upload that begins anew with each read.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_breaks_again_and_again_but_gets_on_is_read_to_its_end() {
    let world = World::with(much(1, 20 * MIB)).await;
    let name = Digest::of(&world.layer).to_string();
    world.before_a.on(move |request| match request.is("GET", &name) {
        true => Action::TruncateBody(3_000_000),
        false => Action::Pass,
    });
    // Nothing stalls here, and nothing is to look as if it did: one upload that is given up, and there is a session more.
    world.copy(Kind::Distribution, Patience { stall: 15 * STALL, ..patience() }).await;
    assert_eq!(world.before_b.count("POST", UPLOADS), 2, "one session for each of the two blobs");
    let again = world.reads().iter().map(|(_, read)| read).sum::<u64>() - world.layer.len() as u64;
    // What was in the sockets when they were reset.
    assert!(again < 7 * 3_000_000, "{again} bytes were read again");
}

/// Would break: an upload that is given up, and all that was sent with it, because its source is away for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_restarted_is_waited_for_and_the_upload_goes_on() {
    let world = World::with(much(1, 20 * MIB)).await;
    let name = Digest::of(&world.layer).to_string();
    let (reads, restarting) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    let is_down = restarting.clone();
    world.before_a.on(move |request| {
        if is_down.load(Ordering::SeqCst) {
            return Action::Reset;
        }
        if request.is("GET", &name) && reads.fetch_add(1, Ordering::SeqCst) == 0 {
            is_down.store(true, Ordering::SeqCst);
            return Action::TruncateBody(3_000_000);
        }
        Action::Pass
    });
    let back = async {
        // More than the tries of one request.
        let refused = |exchange: &Exchange| exchange.request.is("GET", "/blobs/") && exchange.status.is_none();
        while world.before_a.exchanges().iter().filter(|exchange| refused(exchange)).count() < 6 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        restarting.store(false, Ordering::SeqCst);
    };
    tokio::join!(world.copy(Kind::Distribution, Patience::default()), back);
    assert_eq!(world.before_b.count("PATCH", UPLOADS), 1, "what had been sent is not lost");
}

/// Would break: an upload that waits for ever for a target that takes no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_stalls_in_an_upload_is_sent_it_again() {
    for kind in [Kind::Distribution, Kind::Ghcr, Kind::Google] {
        let world = World::with(much(1, 12 * MIB)).await;
        let is = |request: &Request| {
            request.path.contains(UPLOADS)
                && request.header("content-length") != "2"
                && matches!(request.method.as_str(), "PATCH" | "PUT")
        };
        world.before_b.on(first(is, Action::HoldUpload(1_000_000, Gate::new())));
        world.copy(kind, patience()).await;
        let stalled = world.before_b.exchanges().into_iter().find(|exchange| exchange.uploaded == 1_000_000).unwrap();
        assert_eq!(stalled.status, None);
    }
}

/// Would break: a kind of request that has no bound and hangs for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_comes_is_asked_for_again() {
    let world = World::with(much(1, 20 * MIB)).await;
    let held: Arc<Mutex<HashSet<String>>> = Arc::default();
    for proxy in [&world.before_a, &world.before_b] {
        let (held, own) = (held.clone(), proxy.host().to_owned());
        proxy.on(move |request| {
            let what = request.path.split('/').rev().nth(1).unwrap_or_default();
            match held.lock().unwrap().insert(format!("{own} {} {what}", request.method)) {
                true => Action::Hold(Gate::new()),
                false => Action::Pass,
            }
        });
    }
    world.copy(Kind::Distribution, Patience { stall: STALL, work: STALL, trouble: Duration::ZERO }).await;
    let held = held.lock().unwrap();
    for what in [
        (&world.before_a, "GET manifests"),
        (&world.before_a, "GET blobs"),
        (&world.before_b, "HEAD manifests"),
        (&world.before_b, "HEAD blobs"),
        (&world.before_b, "POST uploads"),
        (&world.before_b, "PATCH uploads"),
        (&world.before_b, "PUT uploads"),
        (&world.before_b, "PUT manifests"),
    ] {
        assert!(held.contains(&format!("{} {}", what.0.host(), what.1)), "{} is not among {held:?}", what.1);
    }
}

/// Would break: a bound for the registry and none for its token service.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_service_that_stalls_is_asked_again() {
    let service = Fake::start(|_, _| answer(200, &[], r#"{"token":"t"}"#)).await;
    let before = Proxy::start(&service.url, first(|_| true, Action::Hold(Gate::new()))).await;
    let realm = format!(r#"Bearer realm="{}/token",service="x""#, before.url());
    let guarded = Fake::start(move |asked, _| match asked.authorization.as_deref() {
        Some("Bearer t") => answer(200, &[], "{}"),
        _ => answer(401, &[("www-authenticate", &realm)], ""),
    })
    .await;
    let client = Registry::new(&Http::with_patience(patience()).unwrap(), config("x", &guarded.url)).unwrap();
    client.ping().await.unwrap();
    assert_eq!((before.count("GET", "/token"), service.count("GET", "/token")), (2, 1));
}

/// Would break: a bound for the whole transfer instead of for its progress, which large layers on slow lines never keep to.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_slow_but_steady_may_take_as_long_as_it_takes() {
    // So long that no busy machine makes one of its own. 64 KiB every 50 ms: 12 MiB take at least as long, and half as long again.
    let patience = Patience { stall: 6 * STALL, ..patience() };
    let slow = |_: &Request| Action::Slow(Duration::from_millis(50));
    let copy = async |kind: Kind, source_is_slow: bool| {
        let world = World::with(much(1, 12 * MIB)).await;
        if source_is_slow {
            world.before_a.on(slow);
        } else {
            world.before_b.on(slow);
        };
        world.copy(kind, patience).await;
        assert_eq!(world.reads(), [(String::new(), world.layer.len() as u64)]);
        assert_eq!(world.before_b.count("POST", UPLOADS), 2, "one session for each of the two blobs");
    };
    tokio::join!(
        copy(Kind::Distribution, true),
        copy(Kind::Google, true),
        copy(Kind::Distribution, false),
        copy(Kind::Google, false)
    );
}

/// Would break: a registry that puts a large blob together and is taken for stalled, so that it is sent all of it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_ends_real_work_may_be_answered_late() {
    for kind in [Kind::Distribution, Kind::Google] {
        let world = World::with(much(1, 20 * MIB)).await;
        world.before_b.on(|request| {
            if !request.is("PUT", UPLOADS) {
                return Action::Pass;
            }
            let gate = Gate::new();
            let opened = gate.clone();
            tokio::spawn(async move {
                tokio::time::sleep(2 * STALL + STALL / 2).await;
                opened.open();
            });
            // The registry has not done it before then: to look whether it has would be of no use.
            match request.header("content-length").parse::<u64>() {
                Ok(length) if length > 0 => Action::HoldUpload(length - 1, gate),
                _ => Action::Hold(gate),
            }
        });
        world.copy(kind, patience()).await;
        assert_eq!((world.before_b.count("POST", UPLOADS), world.before_b.count("PUT", UPLOADS)), (2, 2));
    }
}

/// Would break: requests that keep their turn while they wait for others that get none: a deadlock after a 429.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_asked_less_does_not_wait_for_what_waits_for_it() {
    let (a, b) = (Distribution::start(), Distribution::start());
    let source = endpoint("a", &a.url, "app");
    let (index, children) = push_index(&source, "v1", &[1, 2]).await;
    let signature = index.descriptor.digest.as_tag(".sig");
    push_image(&source, Some(signature.as_str()), 3).await;
    // Of the looks for what refers to the index and its children, one is told that it is too much, the index's is answered soon,
    // and all others later.
    let root = index.descriptor.digest.hex().to_owned();
    let busy = children[0].descriptor.digest.as_tag(".att").to_string();
    let is_busy = AtomicBool::new(true);
    let proxy = Proxy::start(&a.url, move |request| {
        if !request.path.contains("sha256-") {
            return Action::Pass;
        }
        if request.path.ends_with(&busy) && is_busy.swap(false, Ordering::SeqCst) {
            return Action::status(429, &[], "");
        }
        Action::Delay(Duration::from_millis(if request.path.contains(&root) { 300 } else { 2000 }))
    })
    .await;
    let (source, target, tag) = (endpoint("a", proxy.url(), "app"), endpoint("b", &b.url, "app"), reference("v1"));
    let (copier, options) = (Copier::default(), Options { overwrite: true, referrers: true });
    let copy = copier.copy(&source, &tag, &target, &tag, options, &());
    tokio::time::timeout(Duration::from_secs(60), copy).await.expect("it ends").unwrap();
    let there = registry("b", &b.url).get_manifest(&repo("app"), &transship_model::Reference::Tag(signature)).await.unwrap();
    assert!(there.is_some());
}
