//! Notifications as the notifier gets them, and receivers on loopback that take them, or don't.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{StatusCode, header::LOCATION, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use transship_model::{
    CloudEvent, DeliveryId, DeliveryState, Envelope, Instance, Notification, Owner, SecretRef, Subscription,
};
use transship_notifier::{Disposition, Notifier};
use transship_state::{
    Catalog, DeliveryLog, DeliveryRecord, Draft, Incoming, Key, Notifications, Op, SecretError, Secrets, Snapshot, Standing,
    StateError, Table,
    sqlite::{QueueKind, SqliteQueue, SqliteStore},
};
use transship_tests::{Delivery, Sink};

/// One secret, whatever it is called.
struct Known(&'static str);

#[async_trait::async_trait]
impl Secrets for Known {
    async fn read(&self, _: &SecretRef) -> Result<SecretString, SecretError> {
        Ok(SecretString::from(self.0))
    }
}

/// A notifier, and the subscription `ci`.
struct World {
    notifier: Notifier,
    catalog: Arc<Catalog>,
    deliveries: DeliveryLog,
    table: Arc<dyn Table>,
    queue: SqliteQueue,
    events: AtomicU32,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(webhook: Value, secret: &'static str) -> Self {
        Self::with(webhook, Arc::new(Known(secret))).await
    }

    async fn with(webhook: Value, secrets: Arc<dyn Secrets>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let queue = store.queue("notifications", QueueKind::Standard);
        let table: Arc<dyn Table> = Arc::new(store.table());
        let (catalog, deliveries) = (Arc::new(Catalog::new(table.clone())), DeliveryLog::new(table.clone()));
        let notifier = Notifier::new(catalog.clone(), deliveries.clone(), secrets);
        let world = Self { notifier, catalog, deliveries, table, queue, events: AtomicU32::new(0), _dir: dir };
        world.set(json!({ "webhook": webhook })).await;
        world
    }

    /// With a receiver on loopback, without a secret.
    async fn to(url: &str) -> Self {
        Self::new(near(url), "").await
    }

    /// The subscription as it is from now on.
    async fn set(&self, mut subscription: Value) {
        subscription["name"] = json!("ci");
        let subscription: Subscription = serde_json::from_value(subscription).unwrap();
        let put = |_: &Snapshot, draft: &mut Draft<'_>| Ok::<_, StateError>(draft.put_subscription(&subscription, &Owner::Api));
        self.catalog.edit(put).await.unwrap();
    }

    /// An event that nobody has heard of.
    fn event(&self) -> Notification {
        let n = self.events.fetch_add(1, Ordering::Relaxed);
        Notification { id: format!("7-{n:04x}-ended"), ..notification() }
    }

    /// A notification, as it comes from the queue.
    async fn sent(&self, notification: &Notification) -> Incoming {
        Notifications(Arc::new(self.queue.clone())).send(std::slice::from_ref(notification)).await.unwrap();
        self.queue.receive(1, Duration::from_secs(600)).await.unwrap().remove(0)
    }

    /// Delivers an event that nobody has heard of.
    async fn deliver(&self) -> Disposition {
        self.tell(&self.event()).await
    }

    async fn tell(&self, notification: &Notification) -> Disposition {
        self.notifier.deliver(&self.sent(notification).await).await
    }

    /// What the log has of an event.
    async fn record(&self, notification: &Notification) -> Option<DeliveryRecord> {
        self.deliveries.delivery(&notification.subscription, &key(notification)).await.unwrap()
    }

    async fn subscription(&self) -> Arc<Subscription> {
        self.catalog.snapshot().await.unwrap().subscription(&notification().subscription).unwrap()
    }

    async fn standing(&self) -> Option<Standing> {
        let subscription = self.subscription().await;
        self.deliveries.standing(&subscription.name, &subscription.webhook).await.unwrap()
    }

    /// Time goes by: what was to wait need not.
    async fn later(&self, notification: &Notification) {
        self.change(&Key::new("subscribers", "ci"), "retry_at", None).await;
        self.change(&Key::new("deliveries/ci", key(notification).as_str()), "retry_at", None).await;
    }

    /// Changes an attribute of an item, if the item is there.
    async fn change(&self, key: &Key, name: &str, value: Option<Value>) {
        let Some(mut item) = self.table.get(key).await.unwrap() else { return };
        match value {
            Some(value) => item.attributes.insert(name.into(), value),
            None => item.attributes.remove(name),
        };
        self.table.write(vec![Op::Put { item, condition: None }]).await.unwrap();
    }
}

fn near(url: &str) -> Value {
    json!({ "url": url, "private_network": true })
}

fn key(notification: &Notification) -> DeliveryId {
    DeliveryId::derive(Envelope::read(&notification.body).unwrap().time, &notification.id)
}

fn notification() -> Notification {
    Notification {
        subscription: "ci".parse().unwrap(),
        id: "7-0193-ended".into(),
        body: r#"{"specversion":"1.0","type":"io.transship.task.failed","time":"2026-11-21T22:00:00Z","data":"ä"}"#.into(),
        round: 0,
    }
}

/// RFC 2104, written out.
fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    assert!(key.len() <= 64);
    let pad = |with: u8| -> Vec<u8> { (0..64).map(|n| key.get(n).copied().unwrap_or(0) ^ with).collect() };
    let inner = Sha256::digest([pad(0x36), text.as_bytes().to_vec()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

/// What a server answers, whatever it is asked; its URL.
async fn server(answer: impl Fn() -> Response + Clone + Send + Sync + 'static) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let app = Router::new().fallback(move |_: Request| async move { answer() });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    url
}

fn seconds(disposition: Disposition) -> u64 {
    let Disposition::Again(wait) = disposition else { unreachable!("it is told again") };
    wait.as_secs()
}

/// Would break: a receiver that can't tell our notifications from anybody's; one that is sent other bytes than were signed.
#[tokio::test]
async fn a_subscriber_can_verify_what_it_gets() {
    let sink = Sink::start().await;
    let whsec = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
    let bytes: Vec<u8> = (0..24).collect();
    for (secret, key) in [(whsec, bytes), ("a secret of any kind", b"a secret of any kind".to_vec())] {
        let world = World::new(
            json!({ "url": format!("{}/hook?token=7", sink.url()), "secret": {"env": "X"}, "private_network": true }),
            secret,
        );
        assert_eq!(world.await.tell(&notification()).await, Disposition::Done);
        let delivery = sink.deliveries().pop().unwrap();
        assert_eq!((delivery.path.as_str(), &delivery.body[..]), ("/hook?token=7", notification().body.as_bytes()));
        assert_eq!(delivery.header("content-type"), "application/cloudevents+json");
        assert_eq!(delivery.header("webhook-id"), notification().id);
        let timestamp: i64 = delivery.header("webhook-timestamp").parse().unwrap();
        assert!((Timestamp::now().as_second() - timestamp).abs() < 300, "receivers refuse what is older than five minutes");
        let signed = format!("{}.{timestamp}.{}", notification().id, notification().body);
        let expected = format!("v1,{}", STANDARD.encode(hmac(&key, &signed)));
        assert_eq!(delivery.header("webhook-signature"), expected);
    }
    let world = World::to(sink.url()).await;
    assert_eq!(world.deliver().await, Disposition::Done);
    assert!(!sink.deliveries().pop().unwrap().headers.contains_key("webhook-signature"));
}

/// Would break: a notification that is lost because the receiver was being deployed; one that is told again and again to somebody
/// who has taken it.
#[tokio::test]
async fn what_is_not_taken_is_told_again_and_the_log_says_why() {
    let sink = Sink::start().await;
    for status in [400, 401, 404, 408, 429, 500, 503] {
        sink.answer(move |_: &Delivery| status);
        let world = World::to(sink.url()).await;
        assert!((1..60).contains(&seconds(world.tell(&notification()).await)), "{status}");
        let record = world.record(&notification()).await.unwrap();
        assert_eq!((record.state, record.attempts[0].status), (DeliveryState::Waiting, Some(status)));
        assert!(record.attempts[0].error.as_ref().is_some_and(|error| error.contains(&status.to_string())));
    }
    for status in [200, 201, 202, 204] {
        sink.answer(move |_: &Delivery| status);
        let world = World::to(sink.url()).await;
        assert_eq!(world.tell(&notification()).await, Disposition::Done, "{status}");
        let record = world.record(&notification()).await.unwrap();
        assert_eq!((record.state, record.attempts.len()), (DeliveryState::Delivered, 1));
        assert_eq!((record.attempts[0].status, &record.attempts[0].error), (Some(status), &None));
        // The queue brings it again.
        let before = sink.deliveries().len();
        assert_eq!(world.tell(&notification()).await, Disposition::Done);
        assert_eq!(sink.deliveries().len(), before, "told twice");
    }
    // Nobody listens at all.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let world = World::to(&format!("http://{closed}/")).await;
    assert!((1..60).contains(&seconds(world.tell(&notification()).await)));
    assert_eq!(world.record(&notification()).await.unwrap().attempts[0].status, None);
}

/// Would break: a receiver that is asked all the time while it is down; one that is not asked for a day and then forgotten; what was
/// given up, gone without a trace or for good; what is sent again by hand and is another event, or comes twice.
#[tokio::test]
async fn the_waits_grow_for_a_day_then_it_is_given_up_and_can_be_sent_again_by_hand() {
    let sink = Sink::start().await;
    sink.answer(|_: &Delivery| 500);
    let world = World::to(sink.url()).await;
    let event = world.event();
    let message = world.sent(&event).await;
    let mut waits = Vec::new();
    while let Disposition::Again(wait) = world.notifier.deliver(&message).await {
        waits.push(wait.as_secs());
        // Too early: whoever let it come has not asked the receiver.
        let tries = sink.deliveries().len();
        assert!(matches!(world.notifier.deliver(&message).await, Disposition::Again(_)));
        assert_eq!(sink.deliveries().len(), tries);
        world.later(&event).await;
    }
    let all: u64 = waits.iter().sum();
    assert!((18 * 3600..30 * 3600).contains(&all), "{all} s in all");
    assert!(waits.windows(2).all(|pair| pair[1] * 5 > pair[0] * 4), "{waits:?} do not grow");
    assert!(waits.iter().all(|wait| *wait <= 11 * 3600), "longer than a queue can hold a message back");
    assert_eq!((waits.len() + 1, sink.deliveries().len()), (12, 12));
    let record = world.record(&event).await.unwrap();
    assert_eq!((record.state, record.refused, record.body.as_str()), (DeliveryState::GivenUp, 12, event.body.as_str()));

    sink.answer(|_: &Delivery| 200);
    world.later(&event).await;
    let again = Notification { round: record.round + 1, body: record.body, ..event.clone() };
    assert_eq!(world.tell(&again).await, Disposition::Done);
    let record = world.record(&event).await.unwrap();
    assert_eq!((record.state, record.round, record.attempts.len()), (DeliveryState::Delivered, 1, 13));
    let deliveries = sink.deliveries();
    assert!(deliveries.iter().all(|delivery| delivery.header("webhook-id") == event.id && delivery.body == event.body));
    // What is left of the first round, and the second message of somebody who was impatient.
    assert_eq!((world.tell(&event).await, world.tell(&again).await), (Disposition::Done, Disposition::Done));
    assert_eq!(sink.deliveries().len(), 13);
}

/// Would break: an outage of ours that uses up what the receiver has in patience.
#[tokio::test]
async fn what_is_in_our_own_way_spends_no_attempt() {
    /// A store of secrets that does not answer.
    struct Down;
    #[async_trait::async_trait]
    impl Secrets for Down {
        async fn read(&self, reference: &SecretRef) -> Result<SecretString, SecretError> {
            Err(SecretError { reference: reference.clone(), why: "a test".into() })
        }
    }
    let sink = Sink::start().await;
    let mut webhook = near(sink.url());
    webhook["secret"] = json!({"env": "X"});
    let world = World::with(webhook, Arc::new(Down)).await;
    let event = world.event();
    for deliveries in 1..=30 {
        let message = Incoming { deliveries, ..world.sent(&event).await };
        assert!(seconds(world.notifier.deliver(&message).await) > 0);
        world.later(&event).await;
    }
    let record = world.record(&event).await.unwrap();
    assert_eq!((record.state, record.refused), (DeliveryState::Waiting, 0));
    assert_eq!(record.attempts.len(), DeliveryRecord::MAX_ATTEMPTS, "it is seen why it waits, and is bounded");
    assert!(world.standing().await.is_none() && sink.deliveries().is_empty());
}

/// Would break: a receiver that is down, and keeps the notifier from the others by all that waits for it.
#[tokio::test]
async fn of_a_receiver_that_is_down_one_event_at_a_time_finds_out() {
    let sink = Sink::start().await;
    sink.answer(|_: &Delivery| 500);
    let world = World::to(sink.url()).await;
    for _ in 0..50 {
        assert!(seconds(world.deliver().await) > 0);
    }
    let tries = sink.deliveries().len();
    assert!(tries <= 6, "{tries} attempts");
    let log = world.deliveries.deliveries(&notification().subscription, None, 100).await.unwrap();
    assert_eq!(log.items.len(), 50, "what waits is not seen");

    // It is back: the first that gets through lets all others through.
    sink.answer(|_: &Delivery| 200);
    world.change(&Key::new("subscribers", "ci"), "retry_at", None).await;
    assert_eq!(world.deliver().await, Disposition::Done);
    assert!(world.standing().await.is_none());
    for _ in 0..5 {
        assert_eq!(world.deliver().await, Disposition::Done);
    }
}

/// Would break: a receiver that is told for ever although it has gone; one that is given up without anybody seeing it, or for good
/// although it is back; what it has missed, lost.
#[tokio::test]
async fn a_receiver_that_takes_nothing_for_days_or_has_gone_is_told_nothing_more() {
    let sink = Sink::start().await;
    for (status, reason) in [(500, "nothing has been taken since"), (410, "410 Gone")] {
        let world = World::to(sink.url()).await;
        sink.answer(move |_: &Delivery| status);
        if status == 500 {
            let first = world.event();
            assert!(seconds(world.tell(&first).await) > 0);
            let key = Key::new("subscribers", "ci");
            world.change(&key, "failing_since", Some(json!("2026-01-01T00:00:00Z"))).await;
            world.change(&key, "failed", Some(json!(Standing::MIN_FAILED - 1))).await;
        }
        let last = world.event();
        assert_eq!(world.tell(&last).await, Disposition::Disabled, "which an alarm counts");
        assert_eq!(world.record(&last).await.unwrap().state, DeliveryState::GivenUp);
        let disabled = world.standing().await.unwrap().disabled.unwrap();
        assert!(disabled.reason.contains(reason), "{}", disabled.reason);

        sink.answer(|_: &Delivery| 200);
        let tries = sink.deliveries().len();
        let missed = world.event();
        assert_eq!(world.tell(&missed).await, Disposition::Done);
        assert_eq!(sink.deliveries().len(), tries, "told although it is disabled");
        assert_eq!(world.record(&missed).await.unwrap().state, DeliveryState::GivenUp);

        // A test finds out that it is back, and somebody enables it.
        let subscription = world.subscription().await;
        let ping = CloudEvent::ping(&subscription.name, Timestamp::now(), 7);
        let ping = Notification { id: ping.id.clone(), body: serde_json::to_string(&ping).unwrap(), ..notification() };
        assert_eq!(world.tell(&ping).await, Disposition::Done);
        assert_eq!(sink.deliveries().len(), tries + 1);
        assert!(world.standing().await.unwrap().disabled.is_some(), "a test enabled it");
        assert!(world.deliveries.forgive(&subscription.name, &subscription.webhook).await.unwrap());
        assert_eq!(world.tell(&Notification { round: 1, ..missed }).await, Disposition::Done);
        assert_eq!(world.deliver().await, Disposition::Done);
        assert_eq!(sink.deliveries().len(), tries + 3);
    }
    // It moves: of the new one nothing is known.
    let world = World::to(sink.url()).await;
    sink.answer(|_: &Delivery| 410);
    assert_eq!(world.deliver().await, Disposition::Done);
    sink.answer(|_: &Delivery| 200);
    world.set(json!({ "webhook": near(&format!("{}/moved", sink.url())) })).await;
    assert!(world.standing().await.is_none());
    assert_eq!(world.deliver().await, Disposition::Done);
    assert_eq!(sink.deliveries().pop().unwrap().path, "/moved");
}

/// Would break: a test that goes on for a day, or counts against the receiver.
#[tokio::test]
async fn a_test_is_one_attempt() {
    let sink = Sink::start().await;
    sink.answer(|_: &Delivery| 500);
    let world = World::to(sink.url()).await;
    let name = notification().subscription;
    let ping = CloudEvent::ping(&name, Timestamp::now(), 1);
    let ping = Notification { id: ping.id.clone(), body: serde_json::to_string(&ping).unwrap(), ..notification() };
    assert_eq!(world.tell(&ping).await, Disposition::Done);
    let record = world.record(&ping).await.unwrap();
    assert_eq!((record.state, record.kind.as_str()), (DeliveryState::GivenUp, "io.transship.ping"));
    assert!(world.standing().await.is_none());
}

/// Would break: a token in a URL, given away by a receiver that repeats what it was asked for.
#[tokio::test]
async fn the_log_does_not_repeat_what_a_url_keeps_secret() {
    let url = server(|| (StatusCode::NOT_FOUND, "no hook at /hook/T0/s3cr3t-token, nor s3cr3t-token").into_response()).await;
    let world = World::to(&format!("{url}/T0/s3cr3t-token")).await;
    assert!(seconds(world.tell(&notification()).await) > 0);
    let record = world.record(&notification()).await.unwrap();
    let error = record.attempts[0].error.clone().unwrap();
    assert!(error.contains("no hook at") && !error.contains("s3cr3t"), "{error}");
}

/// Would break: what the version before has sent, when there were webhooks of instances only.
#[tokio::test]
async fn a_message_for_an_instance_s_own_webhook_is_understood() {
    let sink = Sink::start().await;
    let world = World::to("http://localhost:1/").await;
    let instance = json!({"name": "a", "endpoint": "https://x.test", "kind": "oci", "notify": near(sink.url())});
    let instance: Instance = serde_json::from_value(instance).unwrap();
    let put = |_: &Snapshot, draft: &mut Draft<'_>| Ok::<_, StateError>(draft.put_instance(&instance, &Owner::Api));
    world.catalog.edit(put).await.unwrap();
    let body = json!({"instance": "a", "id": notification().id, "body": notification().body}).to_string();
    let message = Incoming { body, ..world.sent(&notification()).await };
    assert_eq!(world.notifier.deliver(&message).await, Disposition::Done);
    assert_eq!(sink.deliveries().pop().unwrap().body, notification().body);
}

/// Would break: a receiver that says when it is back, and is asked long before; one that would be asked in a year.
#[tokio::test]
async fn a_receiver_may_say_when_it_is_to_be_asked_again() {
    for (asked, from, to) in [("900", 900, 901), ("0", 1, 60), ("99999999", 600, 11 * 3600), ("soon", 1, 60)] {
        let url = server(move || (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, asked)]).into_response()).await;
        let wait = seconds(World::to(&url).await.deliver().await);
        assert!((from..=to).contains(&wait), "{asked:?}: {wait} s");
    }
}

/// Would break: a receiver that makes transship talk to somebody else, by a redirect.
#[tokio::test]
async fn a_redirect_is_not_followed() {
    let sink = Sink::start().await;
    for status in [301, 302, 307, 308] {
        let (status, to) = (StatusCode::from_u16(status).unwrap(), sink.url().to_owned());
        let url = server(move || (status, [(LOCATION, to.clone())]).into_response()).await;
        assert!((1..60).contains(&seconds(World::to(&url).await.deliver().await)));
    }
    assert!(sink.deliveries().is_empty());
}

/// Would break: a webhook by which whoever may name one reads what the network answers that transship runs in.
#[tokio::test]
async fn an_address_near_us_is_refused_unless_it_is_allowed() {
    let sink = Sink::start().await;
    let port = sink.url().rsplit_once(':').unwrap().1.to_owned();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{host}:{port}/");
        let world = World::new(json!({ "url": url }), "").await;
        assert!((1..60).contains(&seconds(world.deliver().await)), "{host}");
        assert!(sink.deliveries().is_empty(), "{host} was reached");
    }
    // A metadata service is nobody's webhook.
    let world = World::to("http://169.254.169.254/latest").await;
    assert!((1..60).contains(&seconds(world.deliver().await)));
    let world = World::to(&format!("http://localhost:{port}/")).await;
    assert_eq!(world.deliver().await, Disposition::Done);
}

/// Would break: a receiver that keeps a notifier for ever, by an answer that does not come or does not end.
#[tokio::test]
async fn an_answer_has_a_limit_in_time_and_size() {
    let endless = || {
        let body = Body::from_stream(futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 1 << 16])));
        (StatusCode::OK, body).into_response()
    };
    assert_eq!(World::to(&server(endless).await).await.deliver().await, Disposition::Done);

    // It takes connections, and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::to(&format!("http://{}/", silent.local_addr().unwrap())).await;
    let taken = Arc::new(Mutex::new(Vec::new()));
    let keep = taken.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = silent.accept().await {
            keep.lock().unwrap().push(connection);
        }
    });
    let began = tokio::time::Instant::now();
    assert!((1..60).contains(&seconds(world.deliver().await)));
    assert!(began.elapsed() >= Notifier::PATIENCE && !taken.lock().unwrap().is_empty());
}

/// Would break: a message for a webhook that was taken away, which comes back for a day; one of another version, which is lost.
#[tokio::test]
async fn who_is_not_subscribed_any_more_is_not_told_and_what_nobody_understands_is_kept() {
    let sink = Sink::start().await;
    let world = World::to(sink.url()).await;
    world.set(json!({ "webhook": near(sink.url()), "enabled": false })).await;
    assert_eq!(world.deliver().await, Disposition::Done);
    let other = Notification { subscription: "other".parse().unwrap(), ..notification() };
    assert_eq!(world.tell(&other).await, Disposition::Done);
    assert!(sink.deliveries().is_empty());
    for body in [r#"{"of":"a newer version"}"#.to_owned(), json!({"subscription": "ci", "id": "x", "body": "{}"}).to_string()] {
        let unknown = Incoming { body, ..world.sent(&notification()).await };
        assert!((1..60).contains(&seconds(world.notifier.deliver(&unknown).await)));
    }
}

/// Would break: a secret that is written down wrongly, and notifications that go out signed with something else.
#[tokio::test]
async fn a_secret_that_can_t_be_used_sends_nothing() {
    let sink = Sink::start().await;
    let notify = json!({ "url": sink.url(), "secret": {"env": "X"}, "private_network": true });
    let world = World::new(notify, "whsec_this is no base64").await;
    assert!((1..60).contains(&seconds(world.deliver().await)));
    assert!(sink.deliveries().is_empty());
}
