//! API tokens.
//!
//! Partition `tokens`, sort key the token's ID: who it is for, and a hash of it. A token is `tsh_<ID>_<secret>`: 256 bits of the
//! system's randomness, and 32 bits by which a scanner tells a token from any other text, and we a mistyped one without asking the
//! table. SHA-256 is enough of a hash for it: what makes passwords need a slow one is that they can be guessed, and nobody guesses 256
//! bits.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use transship_model::{Caller, InstanceName, Role, TokenId};

use crate::{Condition, Item, Key, Op, Query, StateError, Table, TableError, document, task_log::Listing};

const PARTITION: &str = "tokens";
const PREFIX: &str = "tsh_";
/// 64 digits of the secret and 8 of the checksum.
const SECRET_DIGITS: usize = 72;
/// For so long a token that has been read is believed to be as it was: a token that is revoked elsewhere works on for so long.
const FRESH: Duration = Duration::from_secs(10);
/// How exactly it is known when a token was used last.
const USE_COUNTS_FOR: Duration = Duration::from_secs(3600);
/// For so long a token that is of no use any more is still shown.
const SHOWN_AFTERWARDS: Duration = Duration::from_secs(30 * 24 * 3600);
/// So many tokens are remembered at most.
const REMEMBERED: usize = 1000;

/// What is known of a token; not the token itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// By what it is found and named.
    pub id: TokenId,
    /// What it is for, in somebody's words.
    pub name: String,
    /// What its bearer may do.
    pub role: Role,
    /// With which instances; with all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<BTreeSet<InstanceName>>,
    /// When it was made.
    pub created: Timestamp,
    /// By whom.
    pub created_by: String,
    /// From when on it is of no use.
    #[serde(default, rename = "until", skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When it was used last, to the hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
}

/// What a token is to be.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What it is for.
    pub name: String,
    /// What its bearer may do.
    pub role: Role,
    /// With which instances; with all without it.
    pub instances: Option<BTreeSet<InstanceName>>,
    /// From when on it is of no use.
    pub expires: Option<Timestamp>,
}

/// A token that has just been made, and is not stored yet.
#[derive(Debug)]
pub struct MintedToken {
    /// What will be known of it.
    pub token: Token,
    /// The token itself, for whoever asked for it, and for nobody else.
    pub secret: SecretString,
    hash: String,
}

impl MintedToken {
    /// Makes one of the system's randomness.
    ///
    /// # Errors
    /// [`StateError::Unavailable`] if the system has none.
    pub fn new(new: NewToken, by: &str, now: Timestamp) -> Result<Self, StateError> {
        let mut random = [0; 36];
        let no_randomness = |error| StateError::Unavailable(format!("the system's random numbers: {error}"));
        getrandom::fill(&mut random).map_err(no_randomness)?;
        let (of_id, of_secret) = random.split_at(4);
        let id = format!("{:08x}{}", now.as_second().clamp(0, u32::MAX.into()), hex(of_id));
        let body = format!("{PREFIX}{id}_{}", hex(of_secret));
        let secret = format!("{body}{}", checksum(&body));
        let id = id.parse().map_err(|error| StateError::Corrupt { what: "a new token".into(), why: format!("{error}") })?;
        let NewToken { name, role, instances, expires } = new;
        let token = Token {
            id,
            name,
            role,
            instances,
            created: now,
            created_by: by.to_owned(),
            expires,
            last_used: None,
            revoked: None,
        };
        Ok(Self { token, hash: hash(&secret), secret: secret.into() })
    }
}

/// Why somebody is not let in by a token. Only the log tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// It is not of the form that tokens have, or has been mistyped.
    #[error("it is no API token")]
    NoToken,
    /// There is none of its ID, or it is gone for long.
    #[error("there is no token of that ID")]
    Unknown,
    /// Its ID is known, its secret is not.
    #[error("its secret is wrong")]
    Wrong,
    /// It was good for a time that is over.
    #[error("it has expired")]
    Expired,
    /// Somebody has taken it back.
    #[error("it has been revoked")]
    Revoked,
}

/// Reads and writes tokens.
pub struct Tokens {
    table: Arc<dyn Table>,
    read: Mutex<HashMap<TokenId, (Timestamp, Arc<Stored>)>>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    token: Token,
    hash: String,
}

impl Tokens {
    /// The greatest number of tokens that let somebody in.
    pub const MAX: usize = 1000;

    /// The tokens in a table.
    pub fn new(table: Arc<dyn Table>) -> Self {
        Self { table, read: Mutex::default() }
    }

    /// The ID of a text that has the form of a token; whether it is one is not said.
    pub fn id_of(given: &str) -> Option<TokenId> {
        let (id, secret) = given.strip_prefix(PREFIX)?.split_once('_')?;
        let is_secret =
            secret.len() == SECRET_DIGITS && secret.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let (body, check) = given.split_at_checked(given.len().checked_sub(8)?)?;
        (is_secret && checksum(body) == check).then(|| id.parse().ok())?
    }

    /// Whose token this is. It takes at most one `get`, none within ten seconds of the last, and one write an hour.
    ///
    /// # Errors
    /// See [`StateError`]; who is not let in is the inner error.
    pub async fn admit(&self, given: &str, now: Timestamp) -> Result<Result<Token, TokenRefusal>, StateError> {
        let Some(id) = Self::id_of(given) else { return Ok(Err(TokenRefusal::NoToken)) };
        let Some(stored) = self.look_up(&id, now).await? else { return Ok(Err(TokenRefusal::Unknown)) };
        if !bool::from(hash(given).as_bytes().ct_eq(stored.hash.as_bytes())) {
            return Ok(Err(TokenRefusal::Wrong));
        }
        let token = &stored.token;
        if token.revoked.is_some() {
            return Ok(Err(TokenRefusal::Revoked));
        }
        if token.expires.is_some_and(|expires| expires <= now) {
            return Ok(Err(TokenRefusal::Expired));
        }
        if token.last_used.is_none_or(|last| now.duration_since(last).unsigned_abs() >= USE_COUNTS_FOR) {
            self.note_use(&stored, now).await;
        }
        Ok(Ok(token.clone()))
    }

    /// A token, also one that is revoked or has expired, for thirty days more.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn read(&self, id: &TokenId) -> Result<Option<Token>, StateError> {
        Ok(self.table.get(&key(id)).await?.map(document::value::<Stored>).transpose()?.map(|stored| stored.token))
    }

    /// A page of tokens, the newest first.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn list(&self, after: Option<String>, limit: usize) -> Result<Listing<Token>, StateError> {
        let query = Query { partition: PARTITION.into(), prefix: String::new(), after, descending: true, limit };
        let page = self.table.query(query).await?;
        let read = |item| document::value::<Stored>(item).map(|stored| stored.token);
        Ok(Listing { items: page.items.into_iter().map(read).collect::<Result<_, _>>()?, next: page.next })
    }

    /// How many tokens let somebody in, as far as it is needed to know whether there are `enough`.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn count(&self, now: Timestamp, enough: usize) -> Result<usize, StateError> {
        let (mut count, mut after) = (0, None);
        loop {
            let listing = self.list(after, 1000).await?;
            let is_good = |token: &&Token| token.revoked.is_none() && token.expires.is_none_or(|expires| expires > now);
            count += listing.items.iter().filter(is_good).count();
            after = listing.next;
            if count >= enough || after.is_none() {
                return Ok(count);
            }
        }
    }

    /// Stores a token: from here on it lets its bearer in. `beside` is written with it, or neither is.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn create(&self, minted: &MintedToken, beside: Op) -> Result<(), StateError> {
        let stored = Stored { token: minted.token.clone(), hash: minted.hash.clone() };
        let expires = minted.token.expires.map(shown_until);
        let item = Item { key: key(&minted.token.id), attributes: document::attributes(&stored)?, expires };
        Ok(self.table.write(vec![Op::Put { item, condition: Some(Condition::Absent) }, beside]).await?)
    }

    /// Takes a token back: at once in this process, within ten seconds in others. `beside` is written with it, or neither is. Answers
    /// whether there was such a token.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn revoke(&self, id: &TokenId, now: Timestamp, beside: Op) -> Result<bool, StateError> {
        let set = Map::from_iter([("revoked".to_owned(), Value::from(now.to_string()))]);
        let (expires, condition) = (Some(shown_until(now)), Some(Condition::Present));
        let revoked = Op::Update { key: key(id), set, add: Default::default(), expires, condition };
        let written = self.table.write(vec![revoked, beside]).await;
        self.remembered().remove(id);
        match written {
            Err(TableError::Condition(0)) => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    /// Leaves a token these instances only: at once in this process, within ten seconds in others. `beside` is written with it, or
    /// neither is. Of a token that is gone nothing is left.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn narrow(
        &self,
        id: &TokenId,
        (before, now): (&BTreeSet<InstanceName>, &BTreeSet<InstanceName>),
        beside: Op,
    ) -> Result<bool, StateError> {
        let names = |all: &BTreeSet<InstanceName>| all.iter().map(|name| Value::from(name.as_str())).collect();
        let set = Map::from_iter([("instances".to_owned(), Value::Array(names(now)))]);
        let condition = Some(Condition::Equals("instances".to_owned(), Value::Array(names(before))));
        let expires = None;
        let narrowed = Op::Update { key: key(id), set, add: Default::default(), expires, condition };
        let written = self.table.write(vec![narrowed, beside]).await;
        self.remembered().remove(id);
        match written {
            Err(TableError::Condition(0)) => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    /// Whether somebody who has been let in still would be. Who came without a token would.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn still(&self, caller: &Caller, now: Timestamp) -> Result<bool, StateError> {
        let Some(id) = caller.name.strip_prefix("token:").and_then(|id| id.parse().ok()) else { return Ok(true) };
        let known = self.look_up(&id, now).await?;
        let is_good = |token: &Token| token.revoked.is_none() && token.expires.is_none_or(|expires| expires > now);
        Ok(known.is_some_and(|stored| is_good(&stored.token)))
    }

    async fn look_up(&self, id: &TokenId, now: Timestamp) -> Result<Option<Arc<Stored>>, StateError> {
        // By the clock and not by what has passed: a function's environment may have been frozen.
        let is_fresh = |read: Timestamp| now.duration_since(read).unsigned_abs() < FRESH;
        let known = self.remembered().get(id).filter(|(read, _)| is_fresh(*read)).map(|(_, stored)| stored.clone());
        if known.is_some() {
            return Ok(known);
        }
        let Some(item) = self.table.get(&key(id)).await? else { return Ok(None) };
        let stored = Arc::new(document::value::<Stored>(item)?);
        self.remember(stored.clone(), now);
        Ok(Some(stored))
    }

    /// That it was used is nothing to refuse a request for.
    async fn note_use(&self, stored: &Stored, now: Timestamp) {
        let set = Map::from_iter([("last_used".to_owned(), Value::from(now.to_string()))]);
        let key = key(&stored.token.id);
        let used = Op::Update { key, set, add: Default::default(), expires: None, condition: Some(Condition::Present) };
        if let Err(error) = self.table.write(vec![used]).await {
            tracing::warn!(%error, token = %stored.token.id, "that a token was used could not be noted");
        }
        let token = Token { last_used: Some(now), ..stored.token.clone() };
        let mut remembered = self.remembered();
        if let Some((_, known)) = remembered.get_mut(&token.id) {
            *known = Arc::new(Stored { token, hash: stored.hash.clone() });
        }
    }

    fn remember(&self, stored: Arc<Stored>, now: Timestamp) {
        let mut remembered = self.remembered();
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(stored.token.id.clone(), (now, stored));
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<TokenId, (Timestamp, Arc<Stored>)>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(id: &TokenId) -> Key {
    Key::new(PARTITION, id.as_str())
}

fn shown_until(end: Timestamp) -> Timestamp {
    end.checked_add(SHOWN_AFTERWARDS).unwrap_or(Timestamp::MAX)
}

fn hash(text: &str) -> String {
    hex(&Sha256::digest(text))
}

fn checksum(body: &str) -> String {
    hex(&Sha256::digest(body)[..4])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
