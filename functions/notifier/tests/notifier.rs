//! Notifications as the notifier gets them, and receivers on loopback that take them, or don't.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    sync::{Arc, Mutex},
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
use transship_model::{Instance, Notification, SecretRef};
use transship_notifier::{Disposition, Notifier};
use transship_state::{
    Catalog, Incoming, Notifications, SecretError, Secrets,
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

/// A notifier, and the instance `a` with its webhook.
struct World {
    notifier: Notifier,
    catalog: Arc<Catalog>,
    queue: SqliteQueue,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(notify: Value, secret: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let queue = store.queue("notifications", QueueKind::Standard).with_max_deliveries(Notifier::MAX_DELIVERIES);
        let catalog = Arc::new(Catalog::new(Arc::new(store.table())));
        let world = Self { notifier: Notifier::new(catalog.clone(), Arc::new(Known(secret))), catalog, queue, _dir: dir };
        world.set(notify).await;
        world
    }

    /// With a receiver on loopback, without a secret.
    async fn to(url: &str) -> Self {
        Self::new(json!({ "url": url, "private_network": true }), "").await
    }

    async fn set(&self, notify: Value) {
        let instance = json!({"name": "a", "endpoint": "https://x.test", "kind": "oci", "notify": notify});
        let instance: Instance = serde_json::from_value(instance).unwrap();
        self.catalog.replace(&[instance], &[]).await.unwrap();
    }

    /// A notification, as it comes from the queue.
    async fn sent(&self) -> Incoming {
        Notifications(Arc::new(self.queue.clone())).send(&[notification()]).await.unwrap();
        self.queue.receive(1, Duration::from_secs(600)).await.unwrap().remove(0)
    }

    async fn deliver(&self) -> Disposition {
        self.notifier.deliver(&self.sent().await).await
    }
}

fn notification() -> Notification {
    Notification {
        instance: "a".parse().unwrap(),
        id: "7-0193-ended".into(),
        body: r#"{"specversion":"1.0","data":"ä"}"#.into(),
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
        assert_eq!(world.await.deliver().await, Disposition::Done);
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
/// who has said that nobody is there.
#[tokio::test]
async fn what_is_not_taken_is_told_again_except_to_who_is_gone() {
    let sink = Sink::start().await;
    let world = World::to(sink.url()).await;
    for status in [400, 401, 404, 408, 429, 500, 503] {
        sink.answer(move |_: &Delivery| status);
        assert!((1..60).contains(&seconds(world.deliver().await)), "{status}");
    }
    for status in [410, 200, 201, 202, 204] {
        sink.answer(move |_: &Delivery| status);
        assert_eq!(world.deliver().await, Disposition::Done, "{status}");
    }
    // Nobody listens at all.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    world.set(json!({ "url": format!("http://{closed}/"), "private_network": true })).await;
    assert!((1..60).contains(&seconds(world.deliver().await)));
}

/// Would break: a receiver that is asked all the time while it is down; one that is not asked for a day and then forgotten; what was
/// given up, gone without a trace.
#[tokio::test]
async fn the_waits_grow_for_a_day_and_then_it_is_a_dead_letter() {
    let sink = Sink::start().await;
    sink.answer(|_: &Delivery| 500);
    let world = World::to(sink.url()).await;
    let mut message = world.sent().await;
    let mut waits = Vec::new();
    loop {
        let wait = seconds(world.notifier.deliver(&message).await);
        // No test waits for a day.
        transship_state::Queue::release(&world.queue, &message.receipt, Duration::ZERO).await.unwrap();
        if wait == 0 {
            break;
        }
        waits.push(wait);
        message = world.queue.receive(1, Duration::from_secs(600)).await.unwrap().remove(0);
    }
    let all: u64 = waits.iter().sum();
    assert!((18 * 3600..30 * 3600).contains(&all), "{all} s in all");
    assert!(waits.windows(2).all(|pair| pair[1] * 5 > pair[0] * 4), "{waits:?} do not grow");
    assert!(waits.iter().all(|wait| *wait <= 11 * 3600), "longer than a queue can hold a message back");
    assert_eq!(sink.deliveries().len(), waits.len() + 1);
    let dead = world.queue.dead_letters();
    // The queue looks at its messages when somebody wants one.
    let next = tokio::time::timeout(Duration::from_millis(200), world.queue.receive(1, Duration::from_secs(600))).await;
    assert!(next.is_err(), "it came again");
    let letter = dead.receive(1, Duration::from_secs(600)).await.unwrap().remove(0);
    assert_eq!(letter.body, message.body);
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
async fn who_has_no_webhook_any_more_is_not_told_and_what_nobody_understands_is_kept() {
    let sink = Sink::start().await;
    let world = World::to(sink.url()).await;
    world.set(Value::Null).await;
    assert_eq!(world.deliver().await, Disposition::Done);
    assert!(sink.deliveries().is_empty());
    let unknown = Incoming { body: r#"{"of":"a newer version"}"#.into(), ..world.sent().await };
    assert!((1..60).contains(&seconds(world.notifier.deliver(&unknown).await)));
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
