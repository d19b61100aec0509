//! What the file holds, and how an older file becomes a newer one.

use rusqlite::{Connection, TransactionBehavior};

use super::OpenError;

/// Each step brings a file one version on; `user_version` counts those it has been through. Steps are only ever appended.
const STEPS: &[&str] = &[
    // Text is compared by its bytes (BINARY), as the port wants it.
    "
    CREATE TABLE items (
        partition     TEXT NOT NULL,
        sort          TEXT NOT NULL,
        expires       INTEGER,                -- seconds since 1970
        attributes    TEXT NOT NULL,          -- a JSON object
        PRIMARY KEY (partition, sort)
    ) STRICT;
    CREATE INDEX items_by_expiry ON items (expires) WHERE expires IS NOT NULL;

    -- A message with a group is 'waiting' while another of its group stands before it; only the first of a group is ever in
    -- another state. So 'ready' is all that receiving has to look for, however many messages wait.
    CREATE TABLE messages (
        -- The order of sending. Not used again after a deletion (AUTOINCREMENT), because receipts contain it.
        id            INTEGER PRIMARY KEY AUTOINCREMENT,
        queue         TEXT NOT NULL,
        message_group TEXT,                   -- NULL on a standard queue
        deliveries    INTEGER NOT NULL DEFAULT 0,
        state         TEXT NOT NULL CHECK (state IN ('waiting', 'ready', 'held', 'delayed')),
        until         INTEGER,                -- the end of being held or delayed, milliseconds since 1970; else NULL
        body          TEXT NOT NULL
    ) STRICT;
    -- Within equal keys an index is ordered by id: the oldest of a queue or group comes first.
    CREATE INDEX messages_ready ON messages (queue) WHERE state = 'ready';
    CREATE INDEX messages_by_group ON messages (queue, message_group);
    CREATE INDEX messages_until ON messages (until) WHERE until IS NOT NULL;

    -- What was sent lately, for as long as the same must not be sent again.
    CREATE TABLE sent (
        queue         TEXT NOT NULL,
        deduplication TEXT NOT NULL,
        until         INTEGER NOT NULL,       -- milliseconds since 1970
        PRIMARY KEY (queue, deduplication)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sent_until ON sent (until);

    -- Where the health check writes.
    CREATE TABLE health (id INTEGER PRIMARY KEY CHECK (id = 1), checked INTEGER NOT NULL) STRICT;
    ",
    // When a message was sent, in milliseconds since 1970: NULL for what lay here before that was noted.
    "ALTER TABLE messages ADD COLUMN sent INTEGER;",
];

/// Brings the file up to this program's version.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), MigrateError> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let steps = (1u32..).zip(STEPS);
    let known = steps.clone().map(|(version, _)| version).max().unwrap_or(0);
    if found > known {
        return Err(MigrateError::Newer { found, known });
    }
    for (version, step) in steps.filter(|(version, _)| *version > found) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Why a file can't be used.
pub(super) enum MigrateError {
    Newer { found: u32, known: u32 },
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for MigrateError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl MigrateError {
    /// The same, with the file's name.
    pub(super) fn of(self, file: &std::path::Path) -> OpenError {
        match self {
            Self::Newer { found, known } => OpenError::Newer { file: file.to_owned(), found, known },
            Self::Database(source) => OpenError::Database { file: file.to_owned(), source },
        }
    }
}
