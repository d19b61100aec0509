//! What has been answered to requests that carry an `Idempotency-Key`, so that a request that is sent again starts nothing twice:
//! draft-ietf-httpapi-idempotency-key-header.
//!
//! Partition `idempotency/<hash of the caller>`, sort key a hash of the key: which request it was, and its answer. Hashes, because both
//! are of others' choosing.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Condition, Item, Key, Op, StateError, Table, TableError, document};

/// What tells one request from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Of a method, a path with its query, and a body.
    pub fn new(method: &str, path: &str, body: &[u8]) -> Self {
        Self(hash(&[method.as_bytes(), path.as_bytes(), body]))
    }
}

/// An answer to be given again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers that belong to the answer, by their names in lowercase.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

/// What is known of a key when a request comes with it.
#[derive(Debug)]
pub enum Begun {
    /// Nothing: the request is to be carried out, and then [`Idempotency::finish`]ed or [`Idempotency::release`]d.
    First(Run),
    /// The same request has been answered.
    Again(Answer),
    /// The same request is being carried out.
    Running,
    /// Another request came with it.
    Other,
}

/// A request that is being carried out.
#[derive(Debug)]
pub struct Run {
    key: Key,
    number: i64,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    request: Fingerprint,
    /// Tells one run from another that began when the first one's time was over.
    number: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<Answer>,
}

/// Reads and writes answers.
#[derive(Clone)]
pub struct Idempotency {
    table: Arc<dyn Table>,
}

impl Idempotency {
    /// For so long an answer is given again.
    pub const KEEP: Duration = Duration::from_secs(24 * 3600);
    /// A request that has not been answered for so long is not carried out any more: its process has ended.
    pub const RUN: Duration = Duration::from_secs(120);

    /// The answers in a table.
    pub fn new(table: Arc<dyn Table>) -> Self {
        Self { table }
    }

    /// Begins to carry out a request, unless that has been done.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn begin(&self, caller: &str, key: &str, request: Fingerprint) -> Result<Begun, StateError> {
        let place = Key::new(format!("idempotency/{}", hash(&[caller.as_bytes()])), hash(&[key.as_bytes()]));
        let number = fastrand::i64(..);
        let first = Stored { request: request.clone(), number, answer: None };
        // Between a refusal and the look at what is there, that may have gone: then once more.
        for _ in 0..3 {
            let item = Item { key: place.clone(), attributes: document::attributes(&first)?, expires: after(Self::RUN) };
            match self.table.write(vec![Op::Put { item, condition: Some(Condition::Absent) }]).await {
                Ok(()) => return Ok(Begun::First(Run { key: place, number })),
                Err(TableError::Condition(_)) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(item) = self.table.get(&place).await? {
                let known: Stored = document::value(item)?;
                return Ok(match known.answer {
                    _ if known.request != request => Begun::Other,
                    Some(answer) => Begun::Again(answer),
                    None => Begun::Running,
                });
            }
        }
        Err(StateError::Contended("an idempotency key".into()))
    }

    /// Keeps the answer. It may be missing afterwards if the run took longer than [`Idempotency::RUN`].
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn finish(&self, run: Run, request: Fingerprint, answer: Answer) -> Result<(), StateError> {
        let stored = Stored { request, number: run.number, answer: Some(answer) };
        let item = Item { key: run.key, attributes: document::attributes(&stored)?, expires: after(Self::KEEP) };
        self.end(Op::Put { item, condition: own(run.number) }).await
    }

    /// Forgets the key: nothing was begun, and the request may be sent again.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn release(&self, run: Run) -> Result<(), StateError> {
        self.end(Op::Delete { key: run.key, condition: own(run.number) }).await
    }

    async fn end(&self, op: Op) -> Result<(), StateError> {
        match self.table.write(vec![op]).await {
            // Its time was over, and it is somebody else's now.
            Err(TableError::Condition(_)) => Ok(()),
            other => Ok(other?),
        }
    }
}

fn own(number: i64) -> Option<Condition> {
    Some(Condition::Equals("number".into(), number.into()))
}

fn after(time: Duration) -> Option<Timestamp> {
    Timestamp::now().checked_add(time).ok()
}

/// A hash of several texts; where one ends and the next begins counts.
/// A hash of texts, in 64 hexadecimal digits: no two lists of texts have the same.
pub(crate) fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
