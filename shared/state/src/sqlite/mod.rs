//! The embedded adapters: a table and queues in one SQLite file, for one process.
//!
//! An answered write is on the disk. All writes go through one thread that commits many at once (`writer.rs`); reads go past
//! it (`readers.rs`). The file is `transship.db` in the data directory, which one process locks; what that process held of
//! the queues when it ended is free again when the next one opens it.

mod clock;
mod lock;
mod queue;
mod readers;
mod schema;
mod signals;
mod table;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

pub use queue::{Depth, QueueKind, SqliteQueue};
pub use table::SqliteTable;

use crate::{QueueError, TableError};
use lock::DirectoryLock;
use readers::Readers;
use signals::Signals;
use writer::{Durability, Writer};

/// The embedded store: a table and any number of queues.
///
/// It and the handles made from it share one writing thread, which ends when the last of them is dropped. That waits for
/// requests under way, as long as a commit takes; then another process may open the directory.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

/// What handles share. The order of the fields matters: the lock goes last.
struct Inner {
    signals: Signals,
    readers: Readers,
    writer: Writer,
    _lock: DirectoryLock,
}

impl SqliteStore {
    /// Opens the store in this directory, and makes both if need be. Messages that were held are visible again at once.
    ///
    /// It blocks for a moment, longer if a crash left much to recover.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        make_private_dir(dir).map_err(|source| OpenError::Directory { dir: dir.to_owned(), source })?;
        let lock = DirectoryLock::acquire(dir)?;
        let file = dir.join("transship.db");
        let connection = connect(&file)?;
        let signals = Signals::default();
        let writer = Writer::start(connection, signals.clone()).map_err(OpenError::Thread)?;
        Ok(Self { inner: Arc::new(Inner { signals, readers: Readers::new(file), writer, _lock: lock }) })
    }

    /// The table.
    pub fn table(&self) -> SqliteTable {
        SqliteTable::new(Arc::clone(&self.inner))
    }

    /// The queue of this name; it need not be made first. One name must always be used with one kind.
    pub fn queue(&self, name: &str, kind: QueueKind) -> SqliteQueue {
        SqliteQueue::new(Arc::clone(&self.inner), name, kind)
    }

    /// Writes something small and reads it back, to see whether the store works.
    pub async fn check(&self) -> Result<(), TableError> {
        let written = self
            .inner
            .writer
            .handle()
            .run(Durability::Synced, |work| -> Result<i64, TableError> {
                let sql =
                    "INSERT INTO health (id, checked) VALUES (1, ?1) ON CONFLICT DO UPDATE SET checked = excluded.checked";
                work.db.prepare_cached(sql)?.execute([work.now.0])?;
                Ok(work.now.0)
            })
            .await?;
        let read = |db: &Connection| -> Result<i64, TableError> {
            Ok(db.prepare_cached("SELECT checked FROM health")?.query_one([], |row| row.get(0))?)
        };
        // Another check may have written since.
        if self.inner.readers.run(read).await? < written {
            return Err(TableError::Unavailable("what was written could not be read back".to_owned()));
        }
        Ok(())
    }
}

/// Why the store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory can't be made or used.
    #[error("the data directory {} can't be used", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// Somebody else uses it.
    #[error("the data directory {} is in use by {holder}; it belongs to one process at a time", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who uses it, in words: `process 4711`, or `another process`.
        holder: String,
    },
    /// A later version of the program has written it.
    #[error("{} was written by a newer transship (its schema is {found}, this program knows {known}): use that", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// The version of its schema.
        found: u32,
        /// The latest version that this program knows.
        known: u32,
    },
    /// The file can't be opened, or it is not what it should be.
    #[error("the database {} can't be opened", file.display())]
    Database {
        /// The file.
        file: PathBuf,
        /// What went wrong.
        source: rusqlite::Error,
    },
    /// The thread that writes can't be started.
    #[error("the thread that writes can't be started")]
    Thread(#[source] std::io::Error),
}

/// The file did not do what it always should: the disk is full or broken, or the store is closed.
#[derive(Debug, Clone)]
struct Broken(String);

impl Broken {
    fn closed() -> Self {
        Self("the store is closed".to_owned())
    }
}

impl From<rusqlite::Error> for Broken {
    fn from(error: rusqlite::Error) -> Self {
        Self(format!("SQLite: {error}"))
    }
}

impl From<Broken> for TableError {
    fn from(broken: Broken) -> Self {
        Self::Unavailable(broken.0)
    }
}

impl From<rusqlite::Error> for TableError {
    fn from(error: rusqlite::Error) -> Self {
        Broken::from(error).into()
    }
}

impl From<Broken> for QueueError {
    fn from(broken: Broken) -> Self {
        Self::Unavailable(broken.0)
    }
}

impl From<rusqlite::Error> for QueueError {
    fn from(error: rusqlite::Error) -> Self {
        Broken::from(error).into()
    }
}

/// Opens the connection that writes.
fn connect(file: &Path) -> Result<Connection, OpenError> {
    let failed = |source| OpenError::Database { file: file.to_owned(), source };
    let mut connection = Connection::open(file).map_err(failed)?;
    configure(&connection).map_err(failed)?;
    schema::migrate(&mut connection).map_err(|error| error.of(file))?;
    queue::free_all(&connection).map_err(failed)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Pages move from the log to the file 16 MiB at a time, and a log that grew in a burst shrinks again.
    connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    // 32 MiB of pages: enough for the indices of some hundred thousand messages.
    connection.pragma_update(None, "cache_size", -(32 << 10))
}

/// Makes the directory, readable only for its owner, unless there is one.
fn make_private_dir(dir: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}
