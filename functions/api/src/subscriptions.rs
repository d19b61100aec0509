//! Subscriptions: who is told of what.
//!
//! An instance's own `notify` is among them as `instance:NAME`, so that its deliveries are seen and its receiver can be tested; it is
//! changed with the instance.

use std::{collections::HashSet, hash::Hash, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Response, StatusCode, header},
};
use secrecy::SecretString;
use serde_json::Value;
use transship_model::{
    Caller, InstanceName, Notify, Owner, Role, RulePath, SecretName, SecretRef, Subscription, SubscriptionName, input,
};
use transship_state::{AuditEntry, Catalog, Entry, Op, Snapshot, Stamp, WrittenSecrets};

use crate::{
    Api, bindings,
    body::{Input, merge},
    conditions::{Conditions, shown, tagged},
    failure::{Failure, changeable, no_instance, permit, permit_all, permit_receiver},
    requests::{By, Page, Path, Query},
    view::{ListView, SecretInput, SecretKind, SubscriptionInput, SubscriptionView, WebhookInput},
};

/// The greatest length of a URL, in bytes.
const MAX_URL: usize = 2000;
/// The greatest length of a secret, in bytes.
const MAX_SECRET: usize = 16_384;

/// Lists the subscriptions that the caller may see, by name.
///
/// Those whose filters name only instances of the caller's.
#[utoipa::path(
    get, path = "/v1/subscriptions", tag = "subscriptions", operation_id = "listSubscriptions",
    security(("token" = ["viewer"])), params(Page),
    responses((status = 200, description = "A page of subscriptions", body = ListView<SubscriptionView>))
)]
pub(crate) async fn list(
    State(api): State<Api>,
    By(caller): By,
    Query(page): Query<Page>,
) -> Result<Json<ListView<SubscriptionView>>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    let visible = catalog.subscriptions().filter(|subscription| may(&caller, Role::Viewer, subscription));
    let (items, next) = page.cut(visible, |subscription| subscription.name.to_string());
    let standings = api.deliveries.standings().await?;
    let view = |subscription: &Arc<Subscription>| {
        let standing = standings.get(&subscription.name).filter(|standing| standing.is_of(&subscription.webhook));
        let stamp = catalog.stamp(&Entry::Subscription(subscription.name.clone()));
        SubscriptionView::new(subscription, stamp, standing, shows_url(&caller, subscription))
    };
    Ok(Json(ListView::cut(items.iter().map(|subscription| (subscription.name.to_string(), view(subscription))), next)))
}

/// Reads a subscription.
///
/// Whether its receiver takes what it is sent is part of the answer, and not of the ETag.
#[utoipa::path(
    get, path = "/v1/subscriptions/{subscription}", tag = "subscriptions", operation_id = "readSubscription",
    security(("token" = ["viewer"])),
    params(("subscription" = SubscriptionName, Path, description = "The subscription")),
    responses((status = 200, description = "The subscription", body = SubscriptionView, headers(("etag" = String, description = "Its revision"))))
)]
pub(crate) async fn read(
    State(api): State<Api>,
    By(caller): By,
    Path(name): Path<SubscriptionName>,
) -> Result<Response<Body>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    let subscription = known(&catalog, &caller, Role::Viewer, &name)?;
    let view = view(&api, &catalog, &caller, &subscription).await?;
    // What its receiver does changes without a revision: a reader who has this one is told all the same.
    Ok(shown(&Conditions::default(), view.revision, view))
}

/// Makes a subscription, or replaces it.
///
/// Whoever may operate all instances that its filters name may do so, and without such filters whoever may operate all. A receiver in a
/// private network, and a secret by its reference, are for admins to name.
#[utoipa::path(
    put, path = "/v1/subscriptions/{subscription}", tag = "subscriptions", operation_id = "putSubscription",
    security(("token" = ["operator"])),
    params(("subscription" = SubscriptionName, Path, description = "The subscription")),
    request_body = SubscriptionInput,
    responses(
        (status = 200, description = "It is as it was written", body = SubscriptionView, headers(("etag" = String, description = "Its revision"))),
        (status = 201, description = "It is new", body = SubscriptionView, headers(("etag" = String, description = "Its revision"))),
    )
)]
pub(crate) async fn put(
    State(api): State<Api>,
    By(caller): By,
    Path(name): Path<SubscriptionName>,
    conditions: Conditions,
    Input(input): Input<SubscriptionInput>,
) -> Result<Response<Body>, Failure> {
    save(&api, &caller, &name, &conditions, |_| Ok(input.clone())).await
}

/// Changes a subscription: a JSON merge patch (RFC 7396).
///
/// `{"enabled": true}` enables one, `{"enabled": false}` disables it.
#[utoipa::path(
    patch, path = "/v1/subscriptions/{subscription}", tag = "subscriptions", operation_id = "changeSubscription",
    security(("token" = ["operator"])),
    params(("subscription" = SubscriptionName, Path, description = "The subscription")),
    request_body(content = Object, content_type = "application/merge-patch+json", description = "The keys of a subscription that change; null for the default"),
    responses((status = 200, description = "It is changed", body = SubscriptionView, headers(("etag" = String, description = "Its revision"))))
)]
pub(crate) async fn change(
    State(api): State<Api>,
    By(caller): By,
    Path(name): Path<SubscriptionName>,
    conditions: Conditions,
    Input(patch): Input<Value>,
) -> Result<Response<Body>, Failure> {
    save(&api, &caller, &name, &conditions, |subscription| {
        let subscription = subscription.ok_or_else(|| no_subscription(&name))?;
        let mut document = serde_json::to_value(SubscriptionInput::of(subscription))
            .map_err(|error| Failure::new(500, format!("the subscription can't be shown: {error}")))?;
        merge(&mut document, &patch);
        serde_json::from_value(document)
            .map_err(|error| Failure::new(422, format!("the subscription after this change: {error}")))
    })
    .await
}

/// Deletes a subscription.
///
/// What is on its way is not told any more. Its deliveries stay in their log until they expire, and are seen again if one of its name is
/// made.
#[utoipa::path(
    delete, path = "/v1/subscriptions/{subscription}", tag = "subscriptions", operation_id = "deleteSubscription",
    security(("token" = ["operator"])),
    params(("subscription" = SubscriptionName, Path, description = "The subscription")),
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn delete(
    State(api): State<Api>,
    By(caller): By,
    Path(name): Path<SubscriptionName>,
    conditions: Conditions,
) -> Result<StatusCode, Failure> {
    let entry = Entry::Subscription(name.clone());
    let decide = |catalog: &Snapshot, draft: &mut transship_state::Draft<'_>| {
        let subscription = known(catalog, &caller, Role::Operator, &name)?;
        let stamp = catalog.stamp(&entry);
        may_be_changed(&name, stamp)?;
        conditions.check(stamp.map(|stamp| stamp.revision))?;
        draft.delete(&entry);
        let gone = stored(&subscription);
        if !gone.is_empty() {
            draft.also(WrittenSecrets::leaving(&owner(&name)));
        }
        draft.also(api.audit.op(&AuditEntry::new(&caller, "subscription.delete", &name, describe(&subscription)))?);
        Ok::<_, Failure>(subscription)
    };
    let (_, subscription) = api.catalog.edit(decide).await?;
    api.deliveries.forgive(&name, &subscription.webhook).await?;
    let gone = stored(&subscription);
    if !gone.is_empty() {
        api.written.tidy(&owner(&name), &gone, &[]).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Enables a subscription.
///
/// Also one that was disabled because its receiver took nothing for days: what is known of the receiver is forgotten. What it has missed
/// is in the log of its deliveries, and can be sent again.
#[utoipa::path(
    post, path = "/v1/subscriptions/{subscription}/enable", tag = "subscriptions", operation_id = "enableSubscription",
    security(("token" = ["operator"])),
    params(("subscription" = SubscriptionName, Path, description = "The subscription")),
    responses((status = 200, description = "It is enabled", body = SubscriptionView, headers(("etag" = String, description = "Its revision"))))
)]
pub(crate) async fn enable(
    State(api): State<Api>,
    By(caller): By,
    Path(name): Path<SubscriptionName>,
) -> Result<Response<Body>, Failure> {
    let decide = |catalog: &Snapshot, draft: &mut transship_state::Draft<'_>| {
        let subscription = known(catalog, &caller, Role::Operator, &name)?;
        if !subscription.enabled {
            may_be_changed(&name, catalog.stamp(&Entry::Subscription(name.clone())))?;
            draft.put_subscription(&Subscription { enabled: true, ..(*subscription).clone() }, &Owner::Api);
        }
        draft.also(api.audit.op(&AuditEntry::new(&caller, "subscription.enable", &name, describe(&subscription)))?);
        Ok::<_, Failure>(())
    };
    let (catalog, ()) = api.catalog.edit(decide).await?;
    let subscription = known(&catalog, &caller, Role::Operator, &name)?;
    api.deliveries.forgive(&name, &subscription.webhook).await?;
    let view = view(&api, &catalog, &caller, &subscription).await?;
    Ok(shown(&Conditions::default(), view.revision, view))
}

/// Makes or replaces a subscription by what `make` says, given the one that is there.
async fn save(
    api: &Api,
    caller: &Caller,
    name: &SubscriptionName,
    conditions: &Conditions,
    make: impl Fn(Option<&Subscription>) -> Result<SubscriptionInput, Failure>,
) -> Result<Response<Body>, Failure> {
    if name.instance().is_some() {
        known(&*api.catalog.snapshot().await?, caller, Role::Operator, name)?;
        may_be_changed(name, None)?;
    }
    let entry = Entry::Subscription(name.clone());
    let owner = owner(name);
    let fresh = WrittenSecrets::name(&owner, "webhook").ok_or_else(|| Failure::new(500, "a secret can't be named"))?;
    // What it is, what it is to be, and the value of a secret that is given with it.
    let judged = |catalog: &Snapshot| {
        let (before, stamp) = (catalog.subscription(name), catalog.stamp(&entry));
        if let Some(before) = &before {
            if !may(caller, Role::Viewer, before) {
                return Err(Failure::new(
                    409,
                    format!("there is a subscription {name} that is none of yours: choose another name"),
                ));
            }
            permit_with(caller, Role::Operator, before)?;
            may_be_changed(name, stamp)?;
        }
        conditions.check(stamp.map(|stamp| stamp.revision))?;
        let input = make(before.as_deref())?;
        let value = input.webhook.secret.as_ref().and_then(|secret| secret.value.clone());
        let subscription = judge(catalog, caller, name, before.as_deref(), input, &fresh)?;
        Ok((before, subscription, value))
    };
    let catalog = api.catalog.snapshot().await?;
    let (before, first, value) = judged(&catalog)?;
    let bound = bind(api, caller, &catalog, before.as_deref(), &first).await?;
    let decide = |catalog: &Snapshot, draft: &mut transship_state::Draft<'_>| {
        let (before, subscription, _) = judged(catalog)?;
        if subscription.webhook != first.webhook {
            // What it was bound to is not what it would be.
            return Err(Failure::new(409, format!("{entry} is being changed by others: read it, and send yours again")));
        }
        // Those of instances are as many as there are instances.
        let made = || catalog.subscriptions().filter(|known| known.name.instance().is_none()).count();
        if before.is_none() && made() >= Catalog::MAX_SUBSCRIPTIONS {
            let detail = format!("there are {} subscriptions, the most there can be: delete one", Catalog::MAX_SUBSCRIPTIONS);
            return Err(Failure::new(409, detail));
        }
        bound.iter().cloned().for_each(|op| draft.also(op));
        let saved = draft.put_subscription(&subscription, &Owner::Api);
        if saved.change.is_some() {
            let action = if before.is_some() { "subscription.change" } else { "subscription.create" };
            draft.also(api.audit.op(&AuditEntry::new(caller, action, name, describe(&subscription)))?);
        }
        Ok((before, subscription))
    };
    if let Some(value) = &value {
        api.written.write(&owner, &fresh, &SecretString::from(value.as_str())).await?;
    }
    let (catalog, (before, subscription)) = match api.catalog.edit(decide).await {
        Ok(made) => made,
        Err(failure) => {
            // 503: it may have been made all the same, and name it.
            if value.is_some() && failure.0.status != 503 {
                let in_use = before.as_deref().map(stored).unwrap_or_default();
                api.written.tidy(&owner, &[fresh], &in_use).await;
            }
            return Err(failure);
        }
    };
    let gone = before.as_deref().map(stored).unwrap_or_default();
    if !gone.is_empty() || value.is_some() {
        api.written.tidy(&owner, &gone, &stored(&subscription)).await;
    }
    if subscription.enabled && before.as_ref().is_some_and(|before| !before.enabled) {
        // Somebody has switched it on: what was found out about its receiver before that is of no account.
        api.deliveries.forgive(name, &subscription.webhook).await?;
    }
    let view = view(api, &catalog, caller, &subscription).await?;
    let is_new = before.is_none();
    let mut response = tagged(if is_new { StatusCode::CREATED } else { StatusCode::OK }, view.revision, view);
    if let Ok(location) = format!("/v1/subscriptions/{name}").parse()
        && is_new
    {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// What is to be written with a subscription that names a secret by reference: that it is for its receiver, and for no other.
async fn bind(
    api: &Api,
    caller: &Caller,
    catalog: &Snapshot,
    before: Option<&Subscription>,
    wanted: &Subscription,
) -> Result<Option<Op>, Failure> {
    let uses =
        |subscription: &Subscription| (subscription.webhook.secret.clone(), bindings::signing(&subscription.webhook.url));
    let (secret, usage) = uses(wanted);
    let Some(reference @ (SecretRef::SecretsManager(_) | SecretRef::Parameter(_))) = &secret else { return Ok(None) };
    if before.is_some_and(|before| uses(before) == (secret.clone(), usage.clone())) {
        return Ok(None);
    }
    let entry = Entry::Subscription(wanted.name.clone());
    bindings::bind(api, caller, catalog, &entry, reference, &usage).await.map(Some)
}

/// Before the name of a subscription: whose the secrets are that were given with it.
const OWNER: &str = "subscriptions/";

/// Whose the secrets are that were given with a subscription.
pub(crate) fn owner(name: &SubscriptionName) -> String {
    format!("{OWNER}{name}")
}

/// The secrets given to the API that an owner uses, if that is a subscription that is there.
pub(crate) fn in_use(catalog: &Snapshot, owner: &str) -> Option<Vec<SecretName>> {
    let name = owner.strip_prefix(OWNER)?.parse().ok()?;
    Some(catalog.subscription(&name).map(|subscription| stored(&subscription)).unwrap_or_default())
}

/// The secrets that were given to the API with a subscription.
fn stored(subscription: &Subscription) -> Vec<SecretName> {
    match &subscription.webhook.secret {
        Some(SecretRef::Stored(name)) => vec![name.clone()],
        _ => Vec::new(),
    }
}

/// What a subscription comes to that somebody has written, if they may have it so.
fn judge(
    catalog: &Snapshot,
    caller: &Caller,
    name: &SubscriptionName,
    before: Option<&Subscription>,
    input: SubscriptionInput,
    fresh: &SecretName,
) -> Result<Subscription, Failure> {
    let was = |names: &dyn Fn(&Subscription) -> bool| before.is_some_and(names);
    let SubscriptionInput { name: written, description, instances, rules, events, webhook, enabled } = input;
    if written.is_some_and(|written| written != *name) {
        return Err(Failure::mistake("name", format!("the path says {name}; a subscription keeps its name")));
    }
    if name.instance().is_some() {
        let detail = "names that begin with 'instance:' stand for what instances' own 'notify' says: choose another";
        return Err(Failure::mistake("name", detail));
    }
    let description = input::description(&description).map_err(|error| Failure::mistake("description", error.to_string()))?;
    each_once("instances", &instances)?;
    each_once("rules", &rules)?;
    each_once("events", &events)?;
    if events.is_empty() {
        let detail = "leave it out for the ends of all tasks, or name at least one type";
        return Err(Failure::mistake("events", detail));
    }
    // What is gone by now was there when it was named: whoever changes something else need not name others.
    let is_there = |name: &InstanceName| catalog.instance(name).is_some() || was(&|before| before.instances.contains(name));
    if let Some(unknown) = instances.iter().find(|name| !caller.sees(name) || !is_there(name)) {
        let Failure(problem) = no_instance(unknown);
        return Err(Failure::mistake("instances", problem.detail));
    }
    let is_there = |path: &RulePath| {
        catalog.rule_named(&path.instance, &path.rule).is_some() || was(&|before| before.rules.contains(path))
    };
    if let Some(unknown) = rules.iter().find(|path| !caller.sees(&path.instance) || !is_there(path)) {
        let detail = format!("there is no rule {unknown}: GET /v1/instances/{}/rules lists them", unknown.instance);
        return Err(Failure::mistake("rules", detail));
    }
    let webhook = receiver(caller, before.map(|before| &before.webhook), webhook, fresh)?;
    let subscription = Subscription { name: name.clone(), description, instances, rules, events, webhook, enabled };
    permit_with(caller, Role::Operator, &subscription)?;
    Ok(subscription)
}

/// Where a subscription tells, if the caller may have it so. A secret that is given by its value gets the name `fresh`.
fn receiver(caller: &Caller, before: Option<&Notify>, input: WebhookInput, fresh: &SecretName) -> Result<Notify, Failure> {
    let wrong = |key: &str, detail: String| Failure::mistake(&format!("webhook/{key}"), detail);
    let WebhookInput { url, secret, private_network } = input;
    let url = url.or_else(|| before.map(|before| before.url.clone()));
    let url =
        url.ok_or_else(|| wrong("url", "is missing: where the events are told, like https://ci.example.com/transship".into()))?;
    if url.as_str().len() > MAX_URL {
        return Err(wrong("url", format!("longer than {MAX_URL} characters")));
    }
    input::receiver(url.as_str(), private_network).map_err(|error| wrong("url", error.to_string()))?;
    let is_same_place = before.is_some_and(|before| before.url == url);
    let kept = before.and_then(|before| before.secret.clone());
    let secret = match secret {
        None => None,
        // A patch leaves what was shown of the one before beside the new one.
        Some(SecretInput { value: Some(value), reference, .. })
            if reference.is_none() || is_shown(kept.as_ref(), reference.as_ref(), None) =>
        {
            if !(1..=MAX_SECRET).contains(&value.len()) || value.chars().any(char::is_control) {
                return Err(wrong("secret/value", format!("1 to {MAX_SECRET} bytes are needed, on one line")));
            }
            Some(SecretRef::Stored(fresh.clone()))
        }
        // What was shown, sent back: it stays, and who may not name a secret may leave it where it is.
        Some(SecretInput { value: None, reference, from })
            if is_same_place && is_shown(kept.as_ref(), reference.as_ref(), from) =>
        {
            kept
        }
        Some(SecretInput { value: None, reference: Some(reference), .. }) => Some(named(caller, &reference)?),
        // Whoever may change the URL must not be able to find out by it what a secret is.
        Some(SecretInput { value: None, reference: None, from: Some(_) }) if kept.is_some() => {
            return Err(wrong("secret", "the url is another: give the secret again, or leave it out to sign nothing".into()));
        }
        Some(_) => {
            let forms =
                "give it as { \"value\": \"…\" }, or say where AWS keeps it: { \"reference\": \"secretsmanager:NAME\" }";
            return Err(wrong("secret", forms.into()));
        }
    };
    let webhook = Notify { url, secret, private_network };
    permit_receiver(caller, before, &webhook)?;
    Ok(webhook)
}

/// Whether this is what is shown of a secret.
fn is_shown(kept: Option<&SecretRef>, reference: Option<&String>, from: Option<SecretKind>) -> bool {
    let Some(kept) = kept else { return false };
    let is_same = reference.is_none_or(|reference| *reference == kept.to_string());
    is_same && (from == Some(SecretKind::of(kept)) || (from.is_none() && reference.is_some()))
}

/// A secret by its reference. A signature gives away what a weak secret is, so that an operator may not name any.
fn named(caller: &Caller, reference: &str) -> Result<SecretRef, Failure> {
    let wrong = |detail| Err(Failure::mistake("webhook/secret/reference", detail));
    match reference.parse() {
        Ok(SecretRef::SecretsManager(name)) if name.is_written() => {
            wrong("what was given to the API is nobody's to name: give the value")
        }
        Ok(secret @ (SecretRef::SecretsManager(_) | SecretRef::Parameter(_))) => {
            permit_all(caller, Role::Admin)?;
            Ok(secret)
        }
        Ok(_) => wrong("env: and file: may be named only in the configuration file of `serve`"),
        Err(_) => wrong("a reference is secretsmanager:NAME or ssm:NAME"),
    }
}

fn each_once<T: Eq + Hash>(key: &str, entries: &[T]) -> Result<(), Failure> {
    if entries.len() > Subscription::MAX_FILTER {
        return Err(Failure::mistake(key, format!("at most {} entries", Subscription::MAX_FILTER)));
    }
    if entries.iter().collect::<HashSet<_>>().len() < entries.len() {
        return Err(Failure::mistake(key, "something is given twice"));
    }
    Ok(())
}

/// A subscription that the caller may do what the role may with. One that is not for them is not there.
pub(crate) fn known(
    catalog: &Snapshot,
    caller: &Caller,
    role: Role,
    name: &SubscriptionName,
) -> Result<Arc<Subscription>, Failure> {
    let visible = catalog.subscription(name).filter(|subscription| may(caller, Role::Viewer, subscription));
    let subscription = visible.ok_or_else(|| no_subscription(name))?;
    permit_with(caller, role, &subscription)?;
    Ok(subscription)
}

fn permit_with(caller: &Caller, role: Role, subscription: &Subscription) -> Result<(), Failure> {
    match subscription.named_instances() {
        None => permit_all(caller, role),
        Some(named) => named.into_iter().try_for_each(|name| permit(caller, role, name)),
    }
}

fn may(caller: &Caller, role: Role, subscription: &Subscription) -> bool {
    match subscription.named_instances() {
        None => caller.may(role),
        Some(named) => named.into_iter().all(|name| caller.may_with(role, name)),
    }
}

/// A URL may hold a token: who may change it, sees it.
fn shows_url(caller: &Caller, subscription: &Subscription) -> bool {
    let role = if subscription.name.instance().is_some() { Role::Admin } else { Role::Operator };
    may(caller, role, subscription)
}

/// Refuses to change what is somebody else's.
fn may_be_changed(name: &SubscriptionName, stamp: Option<&Stamp>) -> Result<(), Failure> {
    if let Some(instance) = name.instance() {
        let detail = format!("{name} is what the instance {instance} says in its own 'notify': change the instance");
        return Err(Failure::new(409, detail));
    }
    changeable(stamp, &Entry::Subscription(name.clone()))
}

fn no_subscription(name: &SubscriptionName) -> Failure {
    Failure::new(404, format!("there is no subscription {name}: GET /v1/subscriptions lists them"))
}

async fn view(
    api: &Api,
    catalog: &Snapshot,
    caller: &Caller,
    subscription: &Subscription,
) -> Result<SubscriptionView, Failure> {
    let standing = api.deliveries.standing(&subscription.name, &subscription.webhook).await?;
    let stamp = catalog.stamp(&Entry::Subscription(subscription.name.clone()));
    Ok(SubscriptionView::new(subscription, stamp, standing.as_ref(), shows_url(caller, subscription)))
}

/// For the audit.
fn describe(subscription: &Subscription) -> String {
    let Subscription { instances, rules, events, webhook, enabled, .. } = subscription;
    let join = |all: Vec<String>| all.join(", ");
    let mut words = vec![join(events.iter().map(ToString::to_string).collect())];
    if !instances.is_empty() {
        words.push(format!("of {}", join(instances.iter().map(ToString::to_string).collect())));
    }
    if !rules.is_empty() {
        words.push(format!("by {}", join(rules.iter().map(ToString::to_string).collect())));
    }
    let state = if *enabled { "" } else { ", not enabled" };
    format!("{} to {}{state}", words.join(" "), webhook.masked_url())
}
