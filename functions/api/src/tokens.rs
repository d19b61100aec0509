//! API tokens: who may call the API.

use std::collections::BTreeSet;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Response, StatusCode, header},
    response::IntoResponse as _,
};
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use transship_model::{Caller, InstanceName, Role, TokenId, input::words};
use transship_state::{AuditEntry, MintedToken, NewToken, Token, Tokens};
use utoipa::ToSchema;

use crate::{
    Api,
    body::Input,
    failure::{Failure, no_instance},
    requests::{By, Page, Path, Query},
    view::{ListView, MintedTokenView, TokenView},
};

/// The greatest length of a token's name, in characters.
const MAX_NAME: usize = 100;
/// So many tokens are read at a time.
const PAGE: usize = 1000;

/// What a token is to be.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenInput {
    /// What it is for, in words of one's own.
    #[schema(min_length = 1, max_length = 100, example = "ci of the shop")]
    pub name: String,
    /// What its bearer may do: not more than who makes it.
    pub role: Role,
    /// With which instances: of those of who makes it. All without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1)]
    pub instances: Option<BTreeSet<InstanceName>>,
    /// From when on it is of no use; never without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// Makes a token.
///
/// The answer is the only place where it is ever shown. Who makes it can't give it more than they have: neither a higher role nor
/// another instance. An `Idempotency-Key` is not honoured, because the answer would have to be kept.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens", operation_id = "createToken", security(("token" = ["admin"])),
    request_body = TokenInput,
    responses(
        (
            status = 201, description = "It lets its bearer in", body = MintedTokenView,
            headers(("location" = String, description = "What is known of it")),
        ),
    )
)]
pub(crate) async fn create(
    State(api): State<Api>,
    By(caller): By,
    Input(input): Input<TokenInput>,
) -> Result<Response<Body>, Failure> {
    let now = Timestamp::now();
    let wrong = |detail: String| Failure::new(422, detail);
    words(&input.name, MAX_NAME).map_err(|error| Failure::mistake("name", error.to_string()))?;
    if input.expires.is_some_and(|expires| expires <= now) {
        return Err(wrong("expires: a time to come is needed; without it the token is good until it is revoked".into()));
    }
    if input.instances.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err(wrong("instances: name at least one, or leave it out for all".into()));
    }
    let catalog = api.catalog.snapshot().await?;
    let is_unknown = |name: &&InstanceName| !caller.sees(name) || catalog.instance(name).is_none();
    if let Some(name) = input.instances.iter().flatten().find(is_unknown) {
        let Failure(problem) = no_instance(name);
        return Err(wrong(format!("instances: {}", problem.detail)));
    }
    if !caller.covers(input.role, input.instances.as_ref()) {
        let detail =
            format!("a token can't do more than who makes it, and you are {}: {}", caller.role, own_instances(&caller));
        return Err(Failure::new(403, detail));
    }
    // Two that are made at once may be one more.
    if api.tokens.count(now, Tokens::MAX).await? >= Tokens::MAX {
        let detail = format!("there are {} tokens, the most there can be: revoke one (GET /v1/tokens lists them)", Tokens::MAX);
        return Err(Failure::new(409, detail));
    }
    let TokenInput { name, role, instances, expires } = input;
    let minted = MintedToken::new(NewToken { name, role, instances, expires }, &caller.name, now)?;
    let entry = AuditEntry::new(&caller, "token.create", &minted.token.id, describe(&minted.token));
    api.tokens.create(&minted, api.audit.op(&entry)?).await?;
    let location = format!("/v1/tokens/{}", minted.token.id);
    let view =
        MintedTokenView { token: minted.secret.expose_secret().to_owned(), about: TokenView::new(minted.token.clone(), now) };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(view)).into_response())
}

/// Lists tokens, the newest first: those that can do nothing that the caller can't.
///
/// The tokens themselves are not among what is shown. One that is revoked or has expired is shown for thirty days more.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "tokens", operation_id = "listTokens", security(("token" = ["admin"])), params(Page),
    responses((status = 200, description = "A page of tokens", body = ListView<TokenView>))
)]
pub(crate) async fn list(
    State(api): State<Api>,
    By(caller): By,
    Query(page): Query<Page>,
) -> Result<Json<ListView<TokenView>>, Failure> {
    let now = Timestamp::now();
    let (mut items, mut after) = (Vec::new(), page.cursor);
    loop {
        let listing = api.tokens.list(after, page.limit + 1).await?;
        let visible = listing.items.into_iter().filter(|token| is_visible(&caller, token));
        items.extend(visible.map(|token| TokenView::new(token, now)));
        after = listing.next;
        if items.len() > page.limit || after.is_none() {
            break;
        }
    }
    let is_more = items.len() > page.limit;
    items.truncate(page.limit);
    let next = items.last().filter(|_| is_more).map(|token| token.id.to_string());
    Ok(Json(ListView { items, next }))
}

/// Reads what is known of a token.
#[utoipa::path(
    get, path = "/v1/tokens/{token}", tag = "tokens", operation_id = "readToken", security(("token" = ["admin"])),
    params(("token" = TokenId, Path, description = "The token's ID")),
    responses((status = 200, description = "What is known of it", body = TokenView))
)]
pub(crate) async fn read(State(api): State<Api>, By(caller): By, Path(id): Path<TokenId>) -> Result<Json<TokenView>, Failure> {
    Ok(Json(TokenView::new(known(&api, &caller, &id).await?, Timestamp::now())))
}

/// Revokes a token: within ten seconds it lets nobody in any more.
///
/// What it has made, tokens included, stays.
#[utoipa::path(
    delete, path = "/v1/tokens/{token}", tag = "tokens", operation_id = "revokeToken", security(("token" = ["admin"])),
    params(("token" = TokenId, Path, description = "The token's ID")),
    responses((status = 204, description = "It is revoked, or was already"))
)]
pub(crate) async fn revoke(State(api): State<Api>, By(caller): By, Path(id): Path<TokenId>) -> Result<StatusCode, Failure> {
    let token = known(&api, &caller, &id).await?;
    if token.revoked.is_none() {
        let entry = AuditEntry::new(&caller, "token.revoke", &id, describe(&token));
        if !api.tokens.revoke(&id, Timestamp::now(), api.audit.op(&entry)?).await? {
            return Err(no_token(&id));
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Takes an instance that is gone away from all tokens that are for it; those that are for no other are revoked.
pub(crate) async fn forget(api: &Api, caller: &Caller, gone: &InstanceName) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let listing = api.tokens.list(after, PAGE).await?;
        for token in listing.items.into_iter().filter(|token| token.revoked.is_none()) {
            let Some(mut left) = token.instances.clone().filter(|names| names.contains(gone)) else { continue };
            left.remove(gone);
            let details = |token: &Token| format!("{}; instance {gone} is gone", describe(token));
            if left.is_empty() {
                let entry = AuditEntry::new(caller, "token.revoke", &token.id, details(&token));
                api.tokens.revoke(&token.id, Timestamp::now(), api.audit.op(&entry)?).await?;
            } else {
                let token = Token { instances: Some(left.clone()), ..token };
                let entry = AuditEntry::new(caller, "token.change", &token.id, details(&token));
                api.tokens.narrow(&token.id, &left, api.audit.op(&entry)?).await?;
            }
        }
        after = listing.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// A token that the caller may know of.
async fn known(api: &Api, caller: &Caller, id: &TokenId) -> Result<Token, Failure> {
    api.tokens.read(id).await?.filter(|token| is_visible(caller, token)).ok_or_else(|| no_token(id))
}

fn no_token(id: &TokenId) -> Failure {
    Failure::new(404, format!("there is no token {id}: GET /v1/tokens lists them"))
}

fn is_visible(caller: &Caller, token: &Token) -> bool {
    caller.covers(token.role, token.instances.as_ref())
}

fn own_instances(caller: &Caller) -> String {
    match &caller.instances {
        None => "all instances".into(),
        Some(own) => own.iter().map(InstanceName::as_str).collect::<Vec<_>>().join(", "),
    }
}

/// For the audit.
fn describe(token: &Token) -> String {
    let with = token
        .instances
        .as_ref()
        .map_or_else(|| "all instances".into(), |names| names.iter().map(InstanceName::as_str).collect::<Vec<_>>().join(", "));
    let until = token.expires.map_or_else(String::new, |expires| format!(", until {expires}"));
    format!("{:?}: {} of {with}{until}", token.name, token.role)
}
