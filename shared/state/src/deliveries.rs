//! What was delivered to subscriptions, and how they get on with their receivers.
//!
//! Partition `deliveries/<subscription>`, sort key the delivery's ID, which begins with the event's time: one event for one
//! subscription, with what came of each attempt and the event itself, kept for 30 days. Partition `subscribers`, sort key the
//! subscription's name: since when its receiver has taken nothing, or why it was disabled; nothing is there while all is well. That is
//! no part of the catalogue, which only people change.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use transship_model::{Attempt, DeliveryId, DeliveryState, Disabled, Health, Notify, SubscriptionName, names::hex};

use crate::{Condition, Item, Key, Listing, Op, Query, StateError, Table, TableError, document};

/// One event for one subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryRecord {
    /// The event's ID.
    pub event: String,
    /// The event's type.
    pub kind: String,
    /// The event's time.
    pub time: Timestamp,
    /// Where it is.
    pub state: DeliveryState,
    /// How often it has been sent again by hand.
    #[serde(default)]
    pub round: u32,
    /// When this round began.
    pub since: Timestamp,
    /// How many attempts of this round the receiver has not taken.
    #[serde(default)]
    pub refused: u32,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// What came of the attempts, of all rounds; the last [`DeliveryRecord::MAX_ATTEMPTS`] of them.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// The event, as it is sent.
    pub body: String,
}

impl DeliveryRecord {
    /// So many attempts are kept.
    pub const MAX_ATTEMPTS: usize = 20;

    /// Notes an attempt.
    pub fn note(&mut self, attempt: Attempt) {
        if self.attempts.len() >= Self::MAX_ATTEMPTS {
            self.attempts.remove(0);
        }
        self.attempts.push(attempt);
    }
}

/// How a subscription gets on with its receiver, if not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whom this was found out about: a hash of the URL. Of another receiver nothing is known.
    receiver: String,
    /// Since when nothing has been taken.
    pub failing_since: Timestamp,
    /// How many attempts have not been taken since then.
    pub failed: u32,
    /// Before that nobody tries, so that a receiver which is down costs the others nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// That it was disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
    /// Grows with each change.
    revision: i64,
}

impl Standing {
    /// A subscription is disabled when nothing has been taken for so long …
    pub const DISABLED_AFTER: Duration = Duration::from_secs(3 * 24 * 3600);
    /// … and so many attempts were made.
    pub const MIN_FAILED: u32 = 20;
    /// After so many attempts in a row one at a time is made, with pauses.
    const HELD_AFTER: u32 = 5;
    /// The first of those pauses; each is twice the one before.
    const FIRST_PAUSE: Duration = Duration::from_secs(30);
    /// The longest of them.
    const LONGEST_PAUSE: Duration = Duration::from_secs(600);

    /// That of a receiver which has just not taken something.
    fn new(webhook: &Notify, now: Timestamp) -> Self {
        Self { receiver: fingerprint(webhook), failing_since: now, failed: 0, retry_at: None, disabled: None, revision: 0 }
    }

    /// Whether it is about this receiver.
    pub fn is_of(&self, webhook: &Notify) -> bool {
        self.receiver == fingerprint(webhook)
    }

    /// In a word.
    pub fn health(&self) -> Health {
        if self.disabled.is_some() { Health::Disabled } else { Health::Failing }
    }

    /// Whether its attempts are made one at a time.
    pub fn is_held(&self) -> bool {
        self.failed >= Self::HELD_AFTER
    }

    /// An attempt was not taken.
    fn refuse(&mut self, now: Timestamp, is_gone: bool) {
        self.failed += 1;
        if self.is_held() {
            let doubled = Self::FIRST_PAUSE.saturating_mul(1 << (self.failed - Self::HELD_AFTER).min(16));
            self.retry_at = now.checked_add(doubled.min(Self::LONGEST_PAUSE)).ok();
        }
        let lasted = Duration::try_from(now.duration_since(self.failing_since)).unwrap_or_default();
        let reason = if is_gone {
            "the receiver answered 410 Gone: it wants no more".to_owned()
        } else if lasted >= Self::DISABLED_AFTER && self.failed >= Self::MIN_FAILED {
            format!("nothing has been taken since {}: {} attempts failed", seconds(self.failing_since), self.failed)
        } else {
            return;
        };
        self.disabled.get_or_insert(Disabled { at: now, reason });
    }
}

/// A time without fractions, for people.
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn fingerprint(webhook: &Notify) -> String {
    hex(&Sha256::digest(webhook.url.as_str()))[..16].to_owned()
}

/// Reads and writes [`DeliveryRecord`] and [`Standing`].
#[derive(Clone)]
pub struct DeliveryLog {
    table: Arc<dyn Table>,
}

const STANDINGS: &str = "subscribers";

/// How often a change is made again because somebody else was faster.
const TRIES: u32 = 10;

impl DeliveryLog {
    /// How long a delivery is kept after its event.
    pub const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);

    /// The log in a table.
    pub fn new(table: Arc<dyn Table>) -> Self {
        Self { table }
    }

    /// A delivery, if it is known, and how its subscription gets on with this receiver, if not well: one call.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn read(
        &self,
        name: &SubscriptionName,
        webhook: &Notify,
        id: &DeliveryId,
    ) -> Result<(Option<DeliveryRecord>, Option<Standing>), StateError> {
        let items = self.table.get_many(&[delivery_key(name, id), standing_key(name)]).await?;
        let [delivery, standing] = <[_; 2]>::try_from(items).unwrap_or_default();
        Ok((delivery.map(document::value).transpose()?, standing_of(standing, webhook)?))
    }

    /// A delivery, if it is known.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn delivery(&self, name: &SubscriptionName, id: &DeliveryId) -> Result<Option<DeliveryRecord>, StateError> {
        self.table.get(&delivery_key(name, id)).await?.map(document::value).transpose()
    }

    /// A subscription's deliveries, the newest events first.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn deliveries(
        &self,
        name: &SubscriptionName,
        after: Option<String>,
        limit: usize,
    ) -> Result<Listing<(DeliveryId, DeliveryRecord)>, StateError> {
        let query = Query { partition: format!("deliveries/{name}"), prefix: String::new(), after, descending: true, limit };
        let page = self.table.query(query).await?;
        let read = |item: Item| {
            let id = item.key.sort.parse();
            let id = id.map_err(|error| StateError::Corrupt { what: "a delivery's key".into(), why: format!("{error}") })?;
            Ok((id, document::value(item)?))
        };
        Ok(Listing { items: page.items.into_iter().map(read).collect::<Result<_, StateError>>()?, next: page.next })
    }

    /// Writes a delivery as it is now.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn put(&self, name: &SubscriptionName, id: &DeliveryId, delivery: &DeliveryRecord) -> Result<(), StateError> {
        // An old event that is sent again is kept as long as a new one.
        let expires = delivery.since.max(delivery.time).checked_add(Self::KEEP).ok();
        let item = Item { key: delivery_key(name, id), attributes: document::attributes(delivery)?, expires };
        Ok(self.table.write(vec![Op::Put { item, condition: None }]).await?)
    }

    /// How a subscription gets on with its receiver, if not well.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn standing(&self, name: &SubscriptionName, webhook: &Notify) -> Result<Option<Standing>, StateError> {
        standing_of(self.table.get(&standing_key(name)).await?, webhook)
    }

    /// All that is known of subscriptions' receivers that do not get on well with them.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn standings(&self) -> Result<HashMap<SubscriptionName, Standing>, StateError> {
        let mut standings = HashMap::new();
        let mut after = None;
        loop {
            let (partition, prefix) = (STANDINGS.to_owned(), String::new());
            let page = self.table.query(Query { partition, prefix, after, descending: false, limit: 1000 }).await?;
            for item in page.items {
                if let Ok(name) = item.key.sort.parse() {
                    standings.insert(name, document::value(item)?);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(standings);
            }
        }
    }

    /// Takes the turn of a receiver whose attempts are made one at a time: false if somebody else has it. It is given back by what
    /// comes of the attempt, or after `patience`.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn take_turn(
        &self,
        name: &SubscriptionName,
        standing: &Standing,
        patience: Duration,
    ) -> Result<bool, StateError> {
        let mut next = standing.clone();
        next.retry_at = Timestamp::now().checked_add(patience).ok();
        self.replace(name, Some(standing.revision), next).await
    }

    /// An attempt was taken: what was known of the receiver is forgotten, unless it has been disabled.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn taken(&self, name: &SubscriptionName, webhook: &Notify) -> Result<(), StateError> {
        for _ in 0..TRIES {
            let Some(standing) = self.standing(name, webhook).await?.filter(|standing| standing.disabled.is_none()) else {
                return Ok(());
            };
            if self.remove(name, standing.revision).await? {
                return Ok(());
            }
        }
        Err(StateError::Contended(format!("the subscription {name}")))
    }

    /// An attempt was not taken; `is_gone` says that none ever will be. Returns how the subscription gets on with its receiver now.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn refused(&self, name: &SubscriptionName, webhook: &Notify, is_gone: bool) -> Result<Standing, StateError> {
        for _ in 0..TRIES {
            let stored = self.table.get(&standing_key(name)).await?;
            let revision = stored.as_ref().map(|item| document::number(item, "revision"));
            let now = Timestamp::now();
            let mut standing = standing_of(stored, webhook)?.unwrap_or_else(|| Standing::new(webhook, now));
            standing.refuse(now, is_gone);
            if self.replace(name, revision, standing.clone()).await? {
                return Ok(standing);
            }
        }
        Err(StateError::Contended(format!("the subscription {name}")))
    }

    /// Somebody enables a subscription: what was known of its receiver is forgotten. True if it had been disabled.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn forgive(&self, name: &SubscriptionName, webhook: &Notify) -> Result<bool, StateError> {
        let was_disabled = self.standing(name, webhook).await?.is_some_and(|standing| standing.disabled.is_some());
        self.table.write(vec![Op::Delete { key: standing_key(name), condition: None }]).await?;
        Ok(was_disabled)
    }

    /// Puts a standing in the place of that with this revision, or of none; false if another is there.
    async fn replace(&self, name: &SubscriptionName, known: Option<i64>, mut next: Standing) -> Result<bool, StateError> {
        next.revision = known.unwrap_or(0) + 1;
        let condition = known.map_or(Condition::Absent, |revision| Condition::Equals("revision".into(), Value::from(revision)));
        let item = Item { key: standing_key(name), attributes: document::attributes(&next)?, expires: None };
        written(self.table.write(vec![Op::Put { item, condition: Some(condition) }]).await)
    }

    async fn remove(&self, name: &SubscriptionName, revision: i64) -> Result<bool, StateError> {
        let condition = Some(Condition::Equals("revision".into(), Value::from(revision)));
        written(self.table.write(vec![Op::Delete { key: standing_key(name), condition }]).await)
    }
}

/// Whether a conditional write was done.
fn written(result: Result<(), TableError>) -> Result<bool, StateError> {
    match result {
        Ok(()) => Ok(true),
        Err(TableError::Condition(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn standing_of(item: Option<Item>, webhook: &Notify) -> Result<Option<Standing>, StateError> {
    let standing: Option<Standing> = item.map(document::value).transpose()?;
    Ok(standing.filter(|standing| standing.is_of(webhook)))
}

fn delivery_key(name: &SubscriptionName, id: &DeliveryId) -> Key {
    Key::new(format!("deliveries/{name}"), id.as_str())
}

fn standing_key(name: &SubscriptionName) -> Key {
    Key::new(STANDINGS, name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(since: Duration) -> (Standing, Timestamp) {
        let now = Timestamp::now();
        let webhook = Notify { url: "https://x.test".parse().unwrap(), secret: None, private_network: false };
        (Standing::new(&webhook, now - since), now)
    }

    /// Would break: a receiver that is disabled because one night's deployment failed often, or because few attempts were made; one
    /// that stays although it has taken nothing for days.
    #[test]
    fn a_receiver_is_given_up_only_after_long_and_often() {
        let (mut short, now) = standing(Duration::from_secs(2 * 24 * 3600));
        (0..1000).for_each(|_| short.refuse(now, false));
        assert_eq!(short.health(), Health::Failing);

        let (mut long, now) = standing(Duration::from_secs(4 * 24 * 3600));
        (1..Standing::MIN_FAILED).for_each(|_| long.refuse(now, false));
        assert_eq!(long.health(), Health::Failing);
        long.refuse(now, false);
        let first = long.disabled.clone().unwrap();
        assert!(first.reason.contains("20 attempts"), "{}", first.reason);
        long.refuse(now, true);
        assert_eq!(long.disabled, Some(first), "why it was disabled stands");

        let (mut gone, now) = standing(Duration::ZERO);
        gone.refuse(now, true);
        assert_eq!(gone.health(), Health::Disabled);
    }

    /// Would break: a receiver that is down and keeps all who tell others busy.
    #[test]
    fn after_a_few_attempts_they_are_made_one_at_a_time_with_growing_pauses() {
        let (mut standing, now) = standing(Duration::ZERO);
        let pauses: Vec<_> = (0..14)
            .map(|_| {
                standing.refuse(now, false);
                standing.retry_at.map_or(0, |at| at.duration_since(now).as_secs())
            })
            .collect();
        assert_eq!(pauses, [0, 0, 0, 0, 30, 60, 120, 240, 480, 600, 600, 600, 600, 600]);
    }
}
