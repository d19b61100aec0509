//! Secrets that are named by reference: each is for one use for ever, so that nobody has one sent to another place by naming it there.

use serde_json::{Value, json};
use transship_model::{Caller, Role, SecretRef};
use transship_state::{Entry, Op, Snapshot};
use url::Url;

use crate::{
    Api,
    failure::{Failure, permit_all},
    wanted,
};

/// The use of a secret that signs what is told there.
pub(crate) fn signing(url: &Url) -> Value {
    json!({ "receiver": url.origin().ascii_serialization() })
}

/// Looks whether an entry may name a reference for a use, and gives what is to be written with it, which notes that it does.
pub(crate) async fn bind(
    api: &Api,
    caller: &Caller,
    catalog: &Snapshot,
    by: &Entry,
    reference: &SecretRef,
    usage: &Value,
) -> Result<Op, Failure> {
    // Below the prefix are the secrets of all instances.
    permit_all(caller, Role::Admin)?;
    if let Some(other) = used_otherwise(catalog, by, reference, usage) {
        let detail = format!("{reference} is used by {other} for something else: keep this one under a name of its own");
        return Err(Failure::new(409, detail));
    }
    let bound = api.written.bind(reference, usage).await?;
    bound.map_err(|bound| Failure::new(409, format!("{bound}: keep the secret for this one under a name of its own")))
}

/// Another entry that uses a reference for something else.
fn used_otherwise(catalog: &Snapshot, by: &Entry, reference: &SecretRef, usage: &Value) -> Option<Entry> {
    let by_instances = catalog.instances().flat_map(|instance| {
        let uses = wanted::secrets(instance).filter(|(_, secret)| *secret == reference);
        uses.map(|(purpose, _)| (Entry::Instance(instance.name.clone()), wanted::usage(instance, purpose)))
    });
    // What instances' own `notify` stand for is among the instances.
    let by_subscriptions = catalog.subscriptions().filter(|subscription| {
        subscription.name.instance().is_none() && subscription.webhook.secret.as_ref() == Some(reference)
    });
    let by_subscriptions = by_subscriptions
        .map(|subscription| (Entry::Subscription(subscription.name.clone()), signing(&subscription.webhook.url)));
    by_instances.chain(by_subscriptions).find(|(entry, other)| entry != by && other != usage).map(|(entry, _)| entry)
}
