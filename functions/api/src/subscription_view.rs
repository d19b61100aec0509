//! Subscriptions and deliveries, as the API shows them and takes them in.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use transship_model::{
    Attempt, DeliveryId, DeliveryState, Disabled, EventPattern, Health, InstanceName, Notify, RulePath, SecretRef,
    Subscription, SubscriptionName,
};
use transship_state::{DeliveryRecord, Stamp, Standing};
use url::Url;
use utoipa::ToSchema;

use crate::instance_view::{SecretInput, kept};

/// What a subscription is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubscriptionInput {
    /// Its name; the path's, if it is written out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<SubscriptionName>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub description: String,
    /// The instances whose events are meant, those that are copied from and those that are copied to; empty for all.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub instances: Vec<InstanceName>,
    /// The rules whose events are meant; empty for all. Where there are instances too, an event has to fit both.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub rules: Vec<RulePath>,
    /// The types of events that are meant: by default the ends of all tasks, `task.*`.
    #[serde(default = "EventPattern::tasks")]
    #[schema(min_items = 1, max_items = 100)]
    pub events: Vec<EventPattern>,
    /// Where they are told.
    pub webhook: WebhookInput,
    /// Whether anything is told; by default it is.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

/// A receiver of events.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookInput {
    /// Where the POSTs go. Left out, it stays; a new subscription needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2000)]
    pub url: Option<Url>,
    /// What the POSTs are signed with (Standard Webhooks 1.0): `whsec_` and base64, or any other text. Left out, nothing is signed. A
    /// reference is for admins to name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretInput>,
    /// The receiver may be at a private address, and be spoken to by plain http: an admin says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private_network: bool,
}

/// A URL may hold a token.
impl fmt::Debug for WebhookInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookInput").field("private_network", &self.private_network).finish_non_exhaustive()
    }
}

impl SubscriptionInput {
    /// What has to be written to have such a subscription made; its secret by reference.
    pub fn written(subscription: &Subscription) -> Self {
        let mut input = Self::of(subscription);
        let reference = |secret: &SecretRef| SecretInput { reference: Some(secret.to_string()), ..SecretInput::default() };
        input.webhook.secret = subscription.webhook.secret.as_ref().map(reference);
        input
    }

    /// What would have to be written so that a subscription stays as it is.
    pub(crate) fn of(subscription: &Subscription) -> Self {
        let Subscription { name, description, instances, rules, events, webhook, enabled } = subscription.clone();
        let Notify { url, secret, private_network } = webhook;
        let webhook = WebhookInput { url: Some(url), secret: secret.as_ref().map(kept), private_network };
        Self { name: Some(name), description, instances, rules, events, webhook, enabled }
    }
}

/// A subscription.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SubscriptionView {
    /// Its name. `instance:NAME` is what an instance's own `notify` stands for.
    pub name: SubscriptionName,
    /// For people.
    pub description: String,
    /// The instances whose events are meant; empty for all.
    pub instances: Vec<InstanceName>,
    /// The rules whose events are meant; empty for all.
    pub rules: Vec<RulePath>,
    /// The types of events that are meant.
    pub events: Vec<EventPattern>,
    /// Where they are told.
    pub webhook: WebhookView,
    /// Whether anything is told.
    pub enabled: bool,
    /// How it gets on with its receiver.
    pub health: Health,
    /// Since when nothing has been taken, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// That it was disabled because of its receiver: enabling it lets events through again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
    /// Grows with each change; the ETag.
    pub revision: u64,
    /// The configuration file that it belongs to, if it does: then it is changed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// A receiver of events, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookView {
    /// Where the POSTs go. Who may not change the subscription sees no more than scheme, host and port, because there may be a token in
    /// what follows.
    pub url: String,
    /// What the POSTs are signed with, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretInput>,
    /// Whether the receiver may be at a private address.
    pub private_network: bool,
}

impl SubscriptionView {
    /// How the API shows a subscription; its whole URL only to whom may change it.
    pub(crate) fn new(
        subscription: &Subscription,
        stamp: Option<&Stamp>,
        standing: Option<&Standing>,
        shows_url: bool,
    ) -> Self {
        let Subscription { name, description, instances, rules, events, webhook, enabled } = subscription.clone();
        let url = if shows_url { webhook.url.to_string() } else { webhook.masked_url() };
        let secret = webhook.secret.as_ref().map(kept);
        Self {
            name,
            description,
            instances,
            rules,
            events,
            webhook: WebhookView { url, secret, private_network: webhook.private_network },
            enabled,
            health: standing.map_or(Health::Fine, Standing::health),
            failing_since: standing.map(|standing| standing.failing_since),
            disabled: standing.and_then(|standing| standing.disabled.clone()),
            revision: stamp.map_or(1, |stamp| stamp.revision),
            file: stamp.and_then(Stamp::file).map(str::to_owned),
        }
    }
}

/// One event for one subscription.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeliveryView {
    /// Its identity.
    pub id: DeliveryId,
    /// The event's ID, which the receiver gets as `webhook-id`.
    pub event: String,
    /// The event's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The event's time.
    pub time: Timestamp,
    /// Where it is.
    pub state: DeliveryState,
    /// How often it has been sent again by hand.
    pub redeliveries: u32,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// What came of the attempts, the last twenty of them.
    pub attempts: Vec<Attempt>,
    /// The event, where one delivery is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub body: Option<Value>,
}

impl DeliveryView {
    /// How the API shows a delivery in a list.
    pub(crate) fn new(id: DeliveryId, record: DeliveryRecord) -> Self {
        let DeliveryRecord { event, kind, time, state, round, retry_at, attempts, .. } = record;
        Self { id, event, kind, time, state, redeliveries: round, retry_at, attempts, body: None }
    }

    /// How the API shows one delivery, with the event.
    pub(crate) fn whole(id: DeliveryId, record: DeliveryRecord) -> Self {
        let body = serde_json::from_str(&record.body).ok();
        Self { body, ..Self::new(id, record) }
    }
}

/// A delivery that has been begun.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SentView {
    /// The delivery to look at; it is in the log once the first attempt has ended.
    pub delivery: DeliveryId,
    /// How often it has been sent again by hand, this time included.
    pub redeliveries: u32,
}
