//! **notifier**: a notification reaches its subscriber.
//!
//! *Triggered by* a message of the notifications queue, which says what one subscription is to be told. *Reads* the catalogue, for where
//! that is, the secret that it is signed with, and what is known of the delivery and of the receiver. *Sends* one POST, a CloudEvent with
//! the headers of Standard Webhooks 1.0, and *writes* what came of it. *When it fails* the message comes again after waits that grow to
//! hours, for about a day; attempts are counted in the table, so that neither a wait nor an outage of our own spends any. A receiver that
//! takes nothing for days, or says 410, is told nothing more until somebody enables its subscription again.

mod signature;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};
use jiff::Timestamp;
use transship_model::{Attempt, DeliveryId, DeliveryState, Envelope, Notification, Notify, Subscription, TaskId};
use transship_registry::{Answer, Outward, Unanswered};
use transship_state::{Catalog, DeliveryLog, DeliveryRecord, Incoming, SecretError, Secrets, Standing, StateError, messages};
use url::Url;

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It is done with: delete it.
    Done,
    /// The same, and so is its subscription: it has been disabled now.
    Disabled,
    /// It is to come again after so long: release it.
    Again(Duration),
}

/// Tells subscribers.
pub struct Notifier {
    catalog: Arc<Catalog>,
    deliveries: DeliveryLog,
    secrets: Arc<dyn Secrets>,
    outward: Outward,
}

/// Why a notification has not been taken.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// The secret can't be read.
    #[error(transparent)]
    Unreadable(#[from] SecretError),
    /// The secret is not what it says to be.
    #[error("the secret begins with whsec_ and is no base64 after that")]
    Secret,
    /// There was no answer.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// The answer was no success.
    #[error("{} {}", .0.status, .0.text)]
    Refused(Answer),
    /// An ID that no header can hold; only another version's can be so.
    #[error("the notification's ID can't be sent")]
    Id,
}

impl Trouble {
    /// Whether the receiver has no part in it: no attempt is spent.
    fn is_ours(&self) -> bool {
        matches!(self, Self::Unreadable(_))
    }

    fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused(answer) => Some(answer.status),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(answer) => answer.retry_after,
            _ => None,
        }
    }

    /// In words, without what the receiver's own words may repeat of its URL.
    fn told(&self, url: &Url) -> String {
        let secret = [Some(url.path()), url.query()].into_iter().flatten().filter(|part| part.len() > 1);
        let told = secret.fold(self.to_string(), |text, part| text.replace(part, "…"));
        // A receiver may name only the last part, which is where tokens are.
        let last = url.path_segments().and_then(|mut segments| segments.next_back()).filter(|segment| segment.len() >= 8);
        last.map_or_else(|| told.clone(), |segment| told.replace(segment, "…"))
    }
}

/// The waits between attempts, 23 hours in all. A receiver that is being deployed is back within minutes, one whose people sleep
/// within hours.
const WAITS: [u64; 11] = [5, 30, 120, 600, 1800, 3600, 7200, 10_800, 14_400, 21_600, 21_600];

impl Notifier {
    /// So often a receiver may not take an event before it is given up.
    pub const MAX_ATTEMPTS: u32 = WAITS.len() as u32 + 1;
    /// The longest that one delivery takes, answer included, the store's time not.
    pub const PATIENCE: Duration = Duration::from_secs(15);
    /// The longest wait where something of our own is in the way.
    const OURS: Duration = Duration::from_secs(600);
    /// For so long an event is tried at most, whatever has kept it from being sent.
    const LONGEST: Duration = Duration::from_secs(3 * 24 * 3600);

    /// A notifier that finds subscriptions and secrets there, and notes what comes of deliveries.
    pub fn new(catalog: Arc<Catalog>, deliveries: DeliveryLog, secrets: Arc<dyn Secrets>) -> Self {
        Self { catalog, deliveries, secrets, outward: Outward::default() }
    }

    /// Delivers one message. The receiver may get it more than once, always with the same `webhook-id`.
    ///
    /// Any status of 2xx means that it has been taken, and 410 that nobody wants any more. All others are tried again, client errors
    /// as well: a receiver that is being set up or mended answers so, and it costs a dozen requests a day.
    pub async fn deliver(&self, message: &Incoming) -> Disposition {
        // Short enough that the queue's thousand deliveries come before its fourteen days: what nobody understands ends among the dead
        // letters, and not nowhere.
        let ours = wait(message.deliveries, None).min(Self::OURS);
        let notification = match messages::read_notification(&message.body) {
            Ok(notification) => notification,
            Err(error) => {
                // Perhaps of a newer version that is being deployed; if not, it ends among the dead letters.
                tracing::error!(%error, body = message.body, "a message of the notifications queue");
                return Disposition::Again(ours);
            }
        };
        let Some(event) = Envelope::read(&notification.body) else {
            tracing::error!(id = notification.id, "a notification that is no event");
            return Disposition::Again(ours);
        };
        match self.work(&notification, &event, ours).await {
            Ok(disposition) => disposition,
            Err(error) => {
                let (Notification { subscription, id, .. }, (task, rule)) = (&notification, about(&event));
                tracing::warn!(%subscription, id, task, rule, %error, wait = ?ours, "the store does not answer: the subscriber is told later");
                Disposition::Again(ours)
            }
        }
    }

    /// Sends a notification, if it is time; `ours` is how long to wait where something of our own is in the way.
    async fn work(&self, notification: &Notification, event: &Envelope, ours: Duration) -> Result<Disposition, StateError> {
        let Notification { subscription: name, id, round, .. } = notification;
        let (task, rule) = about(event);
        let Some(subscription) = self.catalog.snapshot().await?.subscription(name) else {
            tracing::info!(subscription = %name, id, task, rule, "not told: there is no such subscription any more");
            return Ok(Disposition::Done);
        };
        let webhook = &subscription.webhook;
        let key = DeliveryId::derive(event.time, id);
        let (known, standing) = self.deliveries.read(name, webhook, &key).await?;
        let now = Timestamp::now();
        let mut record = match known {
            // Sent again by hand meanwhile; or delivered already, and the queue brings it twice.
            Some(known) if known.round > *round => return Ok(Disposition::Done),
            Some(known) if known.round == *round && known.state != DeliveryState::Waiting => return Ok(Disposition::Done),
            Some(known) if known.round == *round => known,
            known => new_round(notification, event, known, now),
        };
        if let Some(reason) = silenced(&subscription, standing.as_ref(), event) {
            tracing::info!(subscription = %name, id, task, rule, reason, "not told");
            (record.state, record.retry_at) = (DeliveryState::GivenUp, None);
            self.deliveries.put(name, &key, &record).await?;
            return Ok(Disposition::Done);
        }
        if let Some(wait) = until(record.retry_at, now) {
            return Ok(Disposition::Again(wait));
        }
        if let Some(standing) = standing.as_ref().filter(|standing| standing.is_held() && !event.is_ping()) {
            let is_due = until(standing.retry_at, now).is_none();
            if !is_due || !self.deliveries.take_turn(name, standing, 2 * Self::PATIENCE).await? {
                if record.attempts.is_empty() && record.retry_at.is_none() {
                    // From here on it is seen that it waits.
                    record.retry_at = standing.retry_at.filter(|_| !is_due);
                    self.deliveries.put(name, &key, &record).await?;
                }
                let pause = until(standing.retry_at, now).unwrap_or(2 * Self::PATIENCE);
                return Ok(Disposition::Again(pause + Duration::from_secs(fastrand::u64(1..60))));
            }
        }
        let (began, clock) = (now, Instant::now());
        let answer = self.tell(&subscription, notification).await;
        let milliseconds = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        let status = answer.as_ref().map_or_else(Trouble::status, |status| Some(*status)).map(|status| status.as_u16());
        let error = answer.as_ref().err().map(|trouble| trouble.told(&webhook.url));
        record.note(Attempt { at: began, milliseconds, status, error });
        record.retry_at = None;
        match answer {
            Ok(_) => {
                self.told(&subscription, event, standing.as_ref(), &key, record).await;
                Ok(Disposition::Done)
            }
            Err(trouble) => self.not_told(&subscription, event, &key, record, &trouble, ours).await,
        }
    }

    /// It was taken. That this can't be noted is no reason to tell it again.
    async fn told(
        &self,
        subscription: &Subscription,
        event: &Envelope,
        standing: Option<&Standing>,
        key: &DeliveryId,
        mut record: DeliveryRecord,
    ) {
        let (name, id, (task, rule)) = (&subscription.name, record.event.clone(), about(event));
        record.state = DeliveryState::Delivered;
        tracing::info!(subscription = %name, id, task, rule, attempts = record.refused + 1, "told");
        let noted = async {
            self.deliveries.put(name, key, &record).await?;
            if standing.is_some() {
                self.deliveries.taken(name, &subscription.webhook).await?;
            }
            Ok::<_, StateError>(())
        };
        if let Err(error) = noted.await {
            tracing::warn!(subscription = %name, id, task, rule, %error, "told, but the delivery log does not say so");
        }
    }

    /// It was not taken: notes that, and whether there is sense in another attempt.
    async fn not_told(
        &self,
        subscription: &Subscription,
        event: &Envelope,
        key: &DeliveryId,
        mut record: DeliveryRecord,
        trouble: &Trouble,
        ours: Duration,
    ) -> Result<Disposition, StateError> {
        let (name, id, (task, rule)) = (&subscription.name, record.event.clone(), about(event));
        let error = trouble.told(&subscription.webhook.url);
        let is_gone = trouble.status() == Some(StatusCode::GONE);
        let mut is_over = event.is_ping() || is_gone;
        let mut done = Disposition::Done;
        if !trouble.is_ours() {
            record.refused += 1;
            is_over |= record.refused >= Self::MAX_ATTEMPTS;
            // A test finds out; it is nobody's failure to take what tells of nothing.
            if !event.is_ping() {
                let standing = self.deliveries.refused(name, &subscription.webhook, is_gone).await?;
                if let Some(disabled) = &standing.disabled {
                    (is_over, done) = (true, Disposition::Disabled);
                    let reason = &disabled.reason;
                    tracing::error!(subscription = %name, reason, "the subscription is disabled: enable it when its receiver is mended");
                }
            }
        }
        let now = Timestamp::now();
        let lasted = Duration::try_from(now.duration_since(record.since)).unwrap_or_default();
        if is_over || lasted >= Self::LONGEST {
            record.state = DeliveryState::GivenUp;
            self.deliveries.put(name, key, &record).await?;
            tracing::error!(subscription = %name, id, task, rule, error, attempts = record.refused, "given up");
            return Ok(done);
        }
        let wait = if trouble.is_ours() { ours } else { wait(record.refused, trouble.retry_after()) };
        record.retry_at = now.checked_add(wait).ok();
        self.deliveries.put(name, key, &record).await?;
        tracing::warn!(subscription = %name, id, task, rule, error, ?wait, attempts = record.refused, "not taken; told again");
        Ok(Disposition::Again(wait))
    }

    /// Sends a notification. The status says that it was taken.
    async fn tell(&self, subscription: &Subscription, notification: &Notification) -> Result<StatusCode, Trouble> {
        let webhook = &subscription.webhook;
        let headers = self.headers(webhook, notification).await?;
        let body = Bytes::from(notification.body.clone());
        let answer = self.outward.post(&webhook.url, webhook.private_network, headers, body, Self::PATIENCE).await?;
        if answer.status.is_success() { Ok(answer.status) } else { Err(Trouble::Refused(answer)) }
    }

    /// Standard Webhooks 1.0, "Webhook headers". The time is that of this attempt.
    async fn headers(&self, notify: &Notify, notification: &Notification) -> Result<HeaderMap, Trouble> {
        let Notification { id, body, .. } = notification;
        let timestamp = Timestamp::now().as_second();
        let text = |text: &str| HeaderValue::from_str(text).map_err(|_| Trouble::Id);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/cloudevents+json"));
        headers.insert(HeaderName::from_static("webhook-id"), text(id)?);
        headers.insert(HeaderName::from_static("webhook-timestamp"), HeaderValue::from(timestamp));
        if let Some(reference) = &notify.secret {
            let secret = self.secrets.read(reference).await?;
            let signature = signature::sign(&secret, id, timestamp, body)?;
            headers.insert(HeaderName::from_static("webhook-signature"), text(&signature)?);
        }
        Ok(headers)
    }
}

/// The task that an event tells of and the ID of its rule, for a line of the log.
fn about(event: &Envelope) -> (Option<&str>, Option<u64>) {
    let task = event.task.as_ref();
    (task.map(TaskId::as_str), task.map(|task| task.rule().0))
}

/// A delivery that begins, for the first time or again by hand.
fn new_round(notification: &Notification, event: &Envelope, known: Option<DeliveryRecord>, now: Timestamp) -> DeliveryRecord {
    DeliveryRecord {
        event: notification.id.clone(),
        kind: event.kind.clone(),
        time: event.time,
        state: DeliveryState::Waiting,
        round: notification.round,
        since: now,
        refused: 0,
        retry_at: None,
        attempts: known.map(|known| known.attempts).unwrap_or_default(),
        body: notification.body.clone(),
    }
}

/// Why a subscription is told nothing, if it is not. A test finds out whether it could be.
fn silenced(subscription: &Subscription, standing: Option<&Standing>, event: &Envelope) -> Option<&'static str> {
    if event.is_ping() {
        None
    } else if !subscription.enabled {
        Some("the subscription is not enabled")
    } else if standing.is_some_and(|standing| standing.disabled.is_some()) {
        Some("the subscription was disabled because of its receiver")
    } else {
        None
    }
}

/// How long it is until then, if that is still to come.
fn until(then: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    Duration::try_from(then?.duration_since(now)).ok().filter(|wait| !wait.is_zero())
}

/// How long to wait after so many attempts: as the schedule says, ±10 % so that what failed together does not come back together,
/// and no shorter than was asked for.
fn wait(attempts: u32, asked: Option<Duration>) -> Duration {
    let at = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX).min(WAITS.len() - 1);
    let planned = Duration::from_secs(WAITS[at]).mul_f64(0.9 + 0.2 * fastrand::f64());
    planned.max(asked.unwrap_or_default())
}
