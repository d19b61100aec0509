//! Instances: the registries that transship knows.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Response, StatusCode},
    response::IntoResponse as _,
};
use serde_json::Value;
use transship_model::{Caller, Instance, InstanceName, Owner, Role, Rule, SecretName, SubscriptionName};
use transship_state::{AuditEntry, Catalog, Entry, Op, Snapshot, Stamp, StateError, WrittenSecrets};

use crate::{
    Api,
    audit::differences,
    bindings,
    body::{Document, merge},
    conditions::{Conditions, shown, tagged},
    failure::{Failure, changeable, no_instance, permit, permit_receiver},
    requests::{By, Page, Path, Query},
    tokens,
    view::{InstanceInput, InstanceView, ListView},
    wanted::{self, Purpose, Wanted},
};

/// So often a change is looked at again because somebody else has changed the instance meanwhile.
const TRIES: u32 = 5;

/// Lists the instances that the caller may see, by name.
#[utoipa::path(
    get, path = "/v1/instances", tag = "instances", operation_id = "listInstances", security(("token" = ["viewer"])),
    params(Page),
    responses((status = 200, description = "A page of instances", body = ListView<InstanceView>))
)]
pub(crate) async fn list(
    State(api): State<Api>,
    By(caller): By,
    Query(page): Query<Page>,
) -> Result<Json<ListView<InstanceView>>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    let name = |instance: &&Arc<Instance>| instance.name.to_string();
    let (items, next) = page.cut(catalog.instances().filter(|instance| caller.sees(&instance.name)), name);
    let view = |instance: &Arc<Instance>| InstanceView::new(instance, catalog.stamp(&entry(&instance.name)));
    Ok(Json(ListView::cut(items.into_iter().map(|instance| (instance.name.to_string(), view(instance))), next)))
}

/// Shows an instance.
#[utoipa::path(
    get, path = "/v1/instances/{instance}", tag = "instances", operation_id = "readInstance",
    security(("token" = ["viewer"])),
    params(("instance" = InstanceName, Path, description = "The instance")),
    responses(
        (status = 200, description = "The instance", body = InstanceView, headers(("etag" = String, description = "Its revision"))),
        (status = 304, description = "It is what If-None-Match names"),
    )
)]
pub(crate) async fn read(
    State(api): State<Api>,
    By(caller): By,
    Path(name): Path<InstanceName>,
    conditions: Conditions,
) -> Result<Response<Body>, Failure> {
    let catalog = api.catalog.snapshot().await?;
    let instance = known(&catalog, &caller, Role::Viewer, &name)?;
    let view = InstanceView::new(&instance, catalog.stamp(&entry(&name)));
    Ok(shown(&conditions, view.revision, view))
}

/// Makes an instance, or replaces it.
#[utoipa::path(
    put, path = "/v1/instances/{instance}", tag = "instances", operation_id = "putInstance",
    security(("token" = ["admin"])),
    params(("instance" = InstanceName, Path, description = "The instance")),
    request_body = InstanceInput,
    responses(
        (status = 200, description = "It is this now", body = InstanceView, headers(("etag" = String, description = "Its revision"))),
        (status = 201, description = "It is new", body = InstanceView, headers(("etag" = String, description = "Its revision"))),
    )
)]
pub(crate) async fn put(
    State(api): State<Api>,
    By(caller): By,
    Path(name): Path<InstanceName>,
    conditions: Conditions,
    Document(document): Document,
) -> Result<Response<Body>, Failure> {
    change(&api, &caller, &name, &conditions, |_| Ok(document.clone())).await
}

/// Changes an instance: a JSON merge patch (RFC 7396) of what it is.
#[utoipa::path(
    patch, path = "/v1/instances/{instance}", tag = "instances", operation_id = "patchInstance",
    security(("token" = ["admin"])),
    params(("instance" = InstanceName, Path, description = "The instance")),
    request_body(content = Object, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "It is this now", body = InstanceView, headers(("etag" = String, description = "Its revision"))))
)]
pub(crate) async fn patch(
    State(api): State<Api>,
    By(caller): By,
    Path(name): Path<InstanceName>,
    conditions: Conditions,
    Document(patch): Document,
) -> Result<Response<Body>, Failure> {
    let patched = |current: Option<Value>| {
        let mut document = current.ok_or_else(|| no_instance(&name))?;
        merge(&mut document, &patch);
        Ok(document)
    };
    change(&api, &caller, &name, &conditions, patched).await
}

/// Deletes an instance that no rule names, and the secrets that were given for it. Tokens that are for it lose it, and are revoked if they
/// are for no other.
#[utoipa::path(
    delete, path = "/v1/instances/{instance}", tag = "instances", operation_id = "deleteInstance",
    security(("token" = ["admin"])),
    params(("instance" = InstanceName, Path, description = "The instance")),
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn delete(
    State(api): State<Api>,
    By(caller): By,
    Path(name): Path<InstanceName>,
    conditions: Conditions,
) -> Result<Response<Body>, Failure> {
    let entry = entry(&name);
    let decide = |now: &Snapshot, draft: &mut transship_state::Draft<'_>| -> Result<Arc<Instance>, Failure> {
        let instance = known(now, &caller, Role::Admin, &name)?;
        let stamp = now.stamp(&entry);
        conditions.check(stamp.map(|stamp| stamp.revision))?;
        changeable(stamp, &entry)?;
        let rules: Vec<&Arc<Rule>> = now.rules_naming(&name).collect();
        if !rules.is_empty() {
            return Err(Failure::new(409, format!("{entry} is named by {}: delete that first", named(&caller, &rules))));
        }
        // Who may name an instance of that name some day is not who may have named this one.
        let told = now.subscriptions().filter(|known| known.name.instance().is_none());
        let told = told.filter(|known| known.instances.contains(&name) || known.rules.iter().any(|rule| rule.instance == name));
        let told: Vec<String> = told.map(|known| known.name.to_string()).collect();
        if !told.is_empty() {
            let told = told.join(", ");
            return Err(Failure::new(409, format!("{entry} is named by subscription {told}: change or delete that first")));
        }
        draft.delete(&entry);
        draft.also(WrittenSecrets::leaving(&name));
        draft.also(api.audit.op(&AuditEntry::new(&caller, "instance.delete", &name, String::new()))?);
        Ok(instance)
    };
    let gone = match api.catalog.edit(decide).await {
        Ok((_, gone)) => gone,
        Err(failure) => {
            // The first time it may have gone no further than that.
            if failure.0.status == 404 && caller.may(Role::Admin) {
                tokens::forget(&api, &caller, &name).await?;
            }
            return Err(failure);
        }
    };
    // One that is made under its name some day is not theirs.
    tokens::forget(&api, &caller, &name).await?;
    if let Some(notify) = &gone.notify {
        api.deliveries.forgive(&SubscriptionName::of_instance(&name), notify).await?;
    }
    api.written.tidy(&name, &wanted::stored(&gone), &[]).await;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The names of rules, as far as the caller may see them, and how many more there are.
fn named(caller: &Caller, rules: &[&Arc<Rule>]) -> String {
    /// A message lists no more.
    const LISTED: usize = 20;
    let visible = rules.iter().filter(|rule| caller.sees(&rule.source.instance)).take(LISTED);
    let mut names: Vec<String> = visible.map(|rule| format!("rule {}", rule.path())).collect();
    match rules.len() - names.len() {
        0 => {}
        more if names.is_empty() => names.push(format!("{more} rules of instances that are not yours")),
        more => names.push(format!("{more} more")),
    }
    names.join(", ")
}

/// An instance that the caller may do what the role may with.
pub(crate) fn known(catalog: &Snapshot, caller: &Caller, role: Role, name: &InstanceName) -> Result<Arc<Instance>, Failure> {
    permit(caller, role, name)?;
    catalog.instance(name).cloned().ok_or_else(|| no_instance(name))
}

pub(crate) fn entry(name: &InstanceName) -> Entry {
    Entry::Instance(name.clone())
}

/// Why a change was not made.
enum NotMade {
    /// It is not what it was when the change was looked at.
    Moved,
    Refused(Failure),
    /// The store has not said that it was made, and may have made it: an answer can be lost.
    Unknown(StateError),
}

impl From<StateError> for NotMade {
    fn from(error: StateError) -> Self {
        Self::Unknown(error)
    }
}

/// Makes or changes an instance. `document` says what it is to be, given what it is.
pub(crate) async fn change(
    api: &Api,
    caller: &Caller,
    name: &InstanceName,
    conditions: &Conditions,
    document: impl Fn(Option<Value>) -> Result<Value, Failure>,
) -> Result<Response<Body>, Failure> {
    permit(caller, Role::Admin, name)?;
    let entry = entry(name);
    for _ in 0..TRIES {
        let catalog = api.catalog.snapshot().await?;
        let (before, stamp) = (catalog.instance(name), catalog.stamp(&entry));
        conditions.check(stamp.map(|stamp| stamp.revision))?;
        changeable(stamp, &entry)?;
        let current = before.map(|instance| serde_json::to_value(InstanceInput::of(instance)).unwrap_or_default());
        let wanted = wanted::read(name, &document(current)?, before.map(|instance| &**instance))?;
        if let Some(notify) = &wanted.instance.notify {
            permit_receiver(caller, before.and_then(|before| before.notify.as_ref()), notify)?;
        }
        let bindings = bind(api, caller, &catalog, &wanted).await?;
        let made = match keep(api, &wanted).await {
            Ok(()) => make(api, caller, &entry, &wanted, before, stamp, bindings).await,
            Err(failure) => Err(NotMade::Refused(failure)),
        };
        match made {
            Ok(response) => {
                let gone = before.map(|instance| wanted::stored(instance)).unwrap_or_default();
                api.written.tidy(name, &gone, &wanted::stored(&wanted.instance)).await;
                // Functions have no clock of their own.
                if let Err(error) = api.sweep().await {
                    tracing::warn!(%error, "secrets that nobody uses any more could not be looked for");
                }
                return Ok(response);
            }
            // What it has named by then is still needed; what not, is taken away at the next change.
            Err(NotMade::Unknown(error)) => return Err(error.into()),
            Err(NotMade::Refused(failure)) => {
                discard(api, &wanted, before).await;
                return Err(failure);
            }
            Err(NotMade::Moved) => discard(api, &wanted, before).await,
        }
    }
    Err(Failure::new(409, format!("{entry} is being changed by others: read it, and send yours again")))
}

/// Puts the secrets that a request brings where they are kept.
async fn keep(api: &Api, wanted: &Wanted) -> Result<(), Failure> {
    for (name, value) in &wanted.values {
        api.written.write(&wanted.instance.name, name, value).await?;
    }
    Ok(())
}

/// Takes the secrets that a request has brought away again.
async fn discard(api: &Api, wanted: &Wanted, before: Option<&Arc<Instance>>) {
    let names: Vec<SecretName> = wanted.values.iter().map(|(name, _)| name.clone()).collect();
    if !names.is_empty() {
        let in_use = before.map(|instance| wanted::stored(instance)).unwrap_or_default();
        api.written.tidy(&wanted.instance.name, &names, &in_use).await;
    }
}

/// Looks whether the references that a request names may be used for what it wants, and notes that they are.
async fn bind(api: &Api, caller: &Caller, catalog: &Snapshot, wanted: &Wanted) -> Result<Vec<Op>, Failure> {
    let mut ops = Vec::new();
    for (purpose, reference) in &wanted.references {
        let usage = wanted::usage(&wanted.instance, *purpose);
        let op = bindings::bind(api, caller, catalog, &entry(&wanted.instance.name), reference, &usage).await?;
        // One reference twice in a request is one binding.
        if ops.iter().all(|known: &Op| known.key() != op.key()) {
            ops.push(op);
        }
    }
    Ok(ops)
}

async fn make(
    api: &Api,
    caller: &Caller,
    entry: &Entry,
    wanted: &Wanted,
    before: Option<&Arc<Instance>>,
    stamp: Option<&Stamp>,
    bindings: Vec<Op>,
) -> Result<Response<Body>, NotMade> {
    let instance = &wanted.instance;
    let decide = |now: &Snapshot, draft: &mut transship_state::Draft<'_>| {
        if now.instance(&instance.name) != before || now.stamp(entry) != stamp {
            return Err(NotMade::Moved);
        }
        if before.is_none() && now.instances().count() >= Catalog::MAX_INSTANCES {
            let detail = format!("there are {} instances already, and no more are possible", Catalog::MAX_INSTANCES);
            return Err(NotMade::Refused(Failure::new(409, detail)));
        }
        bindings.iter().cloned().for_each(|op| draft.also(op));
        let saved = draft.put_instance(instance, &Owner::Api);
        if saved.change.is_some() {
            let action = if before.is_some() { "instance.change" } else { "instance.create" };
            let documents = before.map(|before| InstanceInput::of(before));
            let mut details = differences(documents.as_ref(), &InstanceInput::of(instance));
            if !wanted.values.is_empty() {
                details += "; secrets were given";
            }
            let entry = AuditEntry::new(caller, action, &instance.name, details);
            draft.also(api.audit.op(&entry).map_err(NotMade::from)?);
        }
        Ok(saved)
    };
    let (after, _) = api.catalog.edit(decide).await?;
    let mut view = InstanceView::new(instance, after.stamp(entry));
    view.dropped = wanted.dropped.iter().map(Purpose::to_string).collect();
    let status = if before.is_none() { StatusCode::CREATED } else { StatusCode::OK };
    Ok(tagged(status, view.revision, view))
}
