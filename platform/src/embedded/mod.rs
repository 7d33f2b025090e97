//! The embedded default: one SQLite file is the log, the snapshots, the records and the claims.
//!
//! **What a call returned for is on the disk** (with [`Durability::Full`], the default, also after
//! a power loss): every write is part of one transaction, and a process killed at any point leaves
//! all of a transaction or nothing. Positions of a partition are contiguous from 0.
//!
//! Several processes may open the same folder. They see each other's messages, and two that run
//! the same stage fence each other through [`Snapshots::take`].

mod consumer;
mod inspect;
mod publish;
mod records;
mod schema;
mod snapshots;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use castwatch_core::{PortError, Topic};
use rusqlite::Connection;
use tokio::sync::watch;

pub use consumer::EmbeddedConsumer;
pub use inspect::{Claims, Extent, Inspector};
pub use schema::OpenError;
pub use writer::Fault;

use writer::Writer;

/// The name of the database in a data folder.
pub const FILE: &str = "castwatch.sqlite";

/// What a write that was acknowledged survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A power loss: every commit waits for the disk.
    #[default]
    Full,
    /// The end of the process at any point; a power loss may take the last commits back.
    Normal,
}

/// How an embedded log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddedSettings {
    /// Partitions of a topic that is created; one that exists keeps its own.
    pub partitions: u32,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// The most messages a consumer hands over at once.
    pub batch: usize,
}

impl Default for EmbeddedSettings {
    fn default() -> Self {
        Self { partitions: 4, durability: Durability::Full, batch: 512 }
    }
}

/// A data folder's database, open for reading and writing.
#[derive(Debug)]
pub struct Embedded {
    file: PathBuf,
    settings: EmbeddedSettings,
    writer: Writer,
    reader: Arc<Mutex<Connection>>,
    /// Changes after every commit, of this process or another.
    commits: watch::Receiver<u64>,
}

impl Embedded {
    /// Opens the database of `dir` with the default settings; creates both where they are missing.
    ///
    /// # Errors
    /// [`OpenError`], which says what to do.
    pub fn open(dir: impl AsRef<Path>) -> Result<Arc<Self>, OpenError> {
        Self::open_with(dir, EmbeddedSettings::default())
    }

    /// Opens the database of `dir`; creates both where they are missing.
    ///
    /// # Errors
    /// [`OpenError`], which says what to do.
    pub fn open_with(dir: impl AsRef<Path>, settings: EmbeddedSettings) -> Result<Arc<Self>, OpenError> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir)
            .map_err(|source| OpenError::Folder { folder: dir.to_owned(), source })?;
        let file = dir.join(FILE);
        let db = schema::open_to_write(&file, settings.durability)?;
        let reader = schema::open_to_read(&file)?;
        let (committed, commits) = watch::channel(0);
        let writer = Writer::start(db, committed)
            .map_err(|source| OpenError::Folder { folder: dir.to_owned(), source })?;
        Ok(Arc::new(Self { file, settings, writer, reader: Arc::new(Mutex::new(reader)), commits }))
    }

    /// A member of the group `stage` that reads `topics`; it is the only one, so that every
    /// partition is its own.
    #[must_use]
    pub fn consumer(self: &Arc<Self>, stage: &str, topics: &[Topic]) -> EmbeddedConsumer {
        EmbeddedConsumer::new(Arc::clone(self), stage, topics)
    }

    /// A second, reading look at the same database.
    ///
    /// # Errors
    /// [`OpenError`], which says what to do.
    pub fn inspector(&self) -> Result<Inspector, OpenError> {
        Inspector::at(&self.file)
    }

    /// Reads through the shared reading connection, away from the runtime's own threads.
    async fn read<T, F>(&self, what: &str, query: F) -> Result<T, PortError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        read(&self.reader, what, query).await
    }
}

/// Runs `query` on `db`, away from the runtime's own threads.
async fn read<T, F>(db: &Arc<Mutex<Connection>>, what: &str, query: F) -> Result<T, PortError>
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
{
    let db = Arc::clone(db);
    let answer = tokio::task::spawn_blocking(move || {
        // A query that panicked left nothing half done in a connection that only reads.
        query(&db.lock().unwrap_or_else(PoisonError::into_inner))
    });
    match answer.await {
        Ok(answer) => answer.map_err(|error| PortError::unavailable(what, Fault::from(error))),
        Err(panicked) => Err(PortError::unavailable(what, panicked)),
    }
}
