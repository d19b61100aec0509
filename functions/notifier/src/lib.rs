//! **notifier**: a notification reaches its subscriber.
//!
//! *Triggered by* a message of the notifications queue, which says what the webhook of one instance is to be told. *Reads* the
//! catalogue, for where that is, and the secret that it is signed with. *Writes* nothing: it sends one POST, a CloudEvent with the headers
//! of Standard Webhooks 1.0. *When it fails* the message comes again after waits that grow to hours, for about a day; after the last of
//! [`Notifier::MAX_DELIVERIES`] the queue moves it to its dead letters.

mod signature;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};
use jiff::Timestamp;
use transship_model::{Notification, Notify};
use transship_registry::{Answer, Outward, Unanswered};
use transship_state::{Catalog, Incoming, SecretError, Secrets, StateError, messages};

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It is done with: delete it.
    Done,
    /// It is to come again after so long: release it.
    Again(Duration),
}

/// Tells subscribers.
pub struct Notifier {
    catalog: Arc<Catalog>,
    secrets: Arc<dyn Secrets>,
    outward: Outward,
}

/// Why a notification has not been taken.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// The store can't be read.
    #[error(transparent)]
    State(#[from] StateError),
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

/// The waits between deliveries, 23 hours in all. A receiver that is being deployed is back within minutes, one whose people sleep
/// within hours.
const WAITS: [u64; 11] = [5, 30, 120, 600, 1800, 3600, 7200, 10_800, 14_400, 21_600, 21_600];

impl Notifier {
    /// So often a message is delivered before it goes to the dead letters: the queue's `maxReceiveCount`.
    pub const MAX_DELIVERIES: u32 = WAITS.len() as u32 + 1;
    /// The longest that one delivery takes, answer included, the store's time not.
    pub const PATIENCE: Duration = Duration::from_secs(15);

    /// A notifier that finds instances and secrets there.
    pub fn new(catalog: Arc<Catalog>, secrets: Arc<dyn Secrets>) -> Self {
        Self { catalog, secrets, outward: Outward::default() }
    }

    /// Delivers one message. The receiver may get it more than once, always with the same `webhook-id`.
    ///
    /// Any status of 2xx means that it has been taken, and 410 that nobody wants it any more. All others are tried again, client errors
    /// as well: a receiver that is being set up or mended answers so, and it costs a dozen requests a day.
    pub async fn deliver(&self, message: &Incoming) -> Disposition {
        let notification = match messages::read_notification(&message.body) {
            Ok(notification) => notification,
            Err(error) => {
                // Perhaps of a newer version that is being deployed; if not, it ends among the dead letters.
                tracing::error!(%error, body = message.body, "a message of the notifications queue");
                return Disposition::Again(wait(message.deliveries, None));
            }
        };
        let Notification { instance, id, .. } = &notification;
        let trouble = match self.tell(&notification).await {
            Ok(true) => {
                tracing::info!(%instance, id, deliveries = message.deliveries, "told the instance's webhook");
                return Disposition::Done;
            }
            Ok(false) => {
                tracing::info!(%instance, id, "not told: the instance has no webhook any more");
                return Disposition::Done;
            }
            Err(Trouble::Refused(answer)) if answer.status == StatusCode::GONE => {
                tracing::warn!(%instance, id, "not told: the webhook answers 410 Gone. Take it out of the configuration");
                return Disposition::Done;
            }
            Err(trouble) => trouble,
        };
        if message.deliveries >= Self::MAX_DELIVERIES {
            tracing::error!(%instance, id, %trouble, "given up: the instance's webhook has not taken it for a day");
            return Disposition::Again(Duration::ZERO);
        }
        let asked = match &trouble {
            Trouble::Refused(answer) => answer.retry_after,
            _ => None,
        };
        let wait = wait(message.deliveries, asked);
        tracing::warn!(%instance, id, %trouble, ?wait, deliveries = message.deliveries, "the webhook is told again");
        Disposition::Again(wait)
    }

    /// Sends a notification; false if there is nobody to send it to.
    async fn tell(&self, notification: &Notification) -> Result<bool, Trouble> {
        let catalog = self.catalog.snapshot().await?;
        let instance = catalog.instance(&notification.instance);
        let Some(notify) = instance.and_then(|instance| instance.notify.as_ref()) else { return Ok(false) };
        let headers = self.headers(notify, notification).await?;
        let body = Bytes::from(notification.body.clone());
        let answer = self.outward.post(&notify.url, notify.private_network, headers, body, Self::PATIENCE).await?;
        if answer.status.is_success() { Ok(true) } else { Err(Trouble::Refused(answer)) }
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

/// How long to wait after so many deliveries: as the schedule says, ±10 % so that what failed together does not come back together,
/// and no shorter than was asked for.
fn wait(deliveries: u32, asked: Option<Duration>) -> Duration {
    let at = usize::try_from(deliveries.saturating_sub(1)).unwrap_or(usize::MAX).min(WAITS.len() - 1);
    let planned = Duration::from_secs(WAITS[at]).mul_f64(0.9 + 0.2 * fastrand::f64());
    planned.max(asked.unwrap_or_default())
}
