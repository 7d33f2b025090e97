//! Opening the file: what it must look like, and what is said when it does not.
//!
//! **A file that is not ours is never written to.**

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::Durability;

/// `CAST`: says that a SQLite file is castwatch's.
const APPLICATION: i32 = 0x4341_5354;
/// The layout below. A newer one gets the next number and a migration from this one.
const VERSION: i32 = 2;
/// How long a write waits for another process's.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a page. Larger than usual: a shot takes about 1 KiB, a defect 4, and the fewer of them
/// cross a page the less each costs; larger still, and a commit of one shot would cost more.
const PAGE: i32 = 8192;
/// Pages written to the WAL before they are carried over into the file: 16 MiB, so that pages
/// that fill up slowly are carried over once and not after every few commits.
const CHECKPOINT_PAGES: i32 = 2048;
/// The writer's page cache in KiB: the ends of all partitions and the indexes stay in it.
const CACHE_KIB: i32 = 16 * 1024;

/// Bits of a message's key that hold its position; those above hold its partition's id.
pub(super) const POSITION_BITS: u32 = 40;

/// A message's key is its partition's id and its position in one integer: one B-tree, in which a
/// partition lies in order, and no index beside it.
const LAYOUT: &str = "
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    number INTEGER NOT NULL,
    next INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, number)
);
CREATE TABLE messages (
    at INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    written_ms INTEGER NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    source TEXT NOT NULL,
    subject TEXT NOT NULL,
    time TEXT,
    traceparent TEXT,
    extensions TEXT,
    data BLOB NOT NULL
);
CREATE TABLE stages (
    stage TEXT PRIMARY KEY,
    generation INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE snapshots (
    stage TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    position INTEGER,
    tally TEXT,
    state BLOB,
    PRIMARY KEY (stage, topic, partition)
);
CREATE TABLE records (
    shot TEXT PRIMARY KEY,
    machine TEXT NOT NULL,
    die TEXT NOT NULL,
    ended_ns INTEGER NOT NULL,
    json TEXT NOT NULL,
    cause TEXT NOT NULL DEFAULT '',
    alert TEXT
);
CREATE INDEX records_by_time ON records (ended_ns, shot);
CREATE INDEX records_by_machine ON records (machine, ended_ns, shot);
CREATE INDEX records_by_die ON records (die, ended_ns, shot);
CREATE INDEX records_by_cause ON records (cause, ended_ns, shot);
CREATE INDEX records_pending ON records (ended_ns, shot) WHERE alert IS NULL;
CREATE TABLE claims (
    id TEXT PRIMARY KEY,
    settled INTEGER NOT NULL
) WITHOUT ROWID;
";

/// From layout 1: what `castwatch query` asks for. What was told already lies in `alerts`.
const FROM_1: &str = "
ALTER TABLE records ADD COLUMN cause TEXT NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN alert TEXT;
UPDATE records SET cause = coalesce(json_extract(json, '$.cause'), '');
UPDATE records SET alert = told.data FROM (
    SELECT m.subject, CAST(m.data AS TEXT) AS data FROM partitions p
    JOIN messages m ON m.at >= p.id << 40 AND m.at < (p.id + 1) << 40 WHERE p.topic = 'alerts'
) AS told WHERE told.subject = records.shot;
CREATE INDEX records_by_cause ON records (cause, ended_ns, shot);
CREATE INDEX records_pending ON records (ended_ns, shot) WHERE alert IS NULL;
";
const _: () = assert!(POSITION_BITS == 40, "what a partition's messages were found by in layout 1");

/// Why a data folder can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder can't be made or used.
    #[error("data folder {} can't be used: choose another, or see to its permissions", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// There is nothing to look at.
    #[error("there is no {}: give the data folder that castwatch writes to", file.display())]
    Missing {
        /// The file looked for.
        file: PathBuf,
    },
    /// The file is something else.
    #[error("{} is not a castwatch database: move it away, or choose another data folder", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// The file was written by a later version.
    #[error(
        "{} was written by a newer castwatch (layout {found}; this one knows {VERSION}): \
         use that version, or choose another data folder",
        file.display()
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its layout.
        found: i32,
    },
    /// SQLite could not open or read it.
    #[error("{} can't be opened", file.display())]
    Database {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: super::Fault,
    },
}

fn trouble(file: &Path, error: rusqlite::Error) -> OpenError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::Foreign { file: file.to_owned() },
        _ => OpenError::Database { file: file.to_owned(), source: error.into() },
    }
}

/// Whose file it is.
enum Found {
    Empty,
    Ours,
    Older,
    Newer(i32),
    Foreign,
}

fn look(db: &Connection) -> rusqlite::Result<Found> {
    let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match (application, version) {
        (APPLICATION, VERSION) => Found::Ours,
        (APPLICATION, 1) => Found::Older,
        (APPLICATION, newer) if newer > VERSION => Found::Newer(newer),
        (0, 0) if tables == 0 => Found::Empty,
        _ => Found::Foreign,
    })
}

/// Looks at one moment of the file: between two questions another process may lay it out.
fn look_once(db: &mut Connection) -> rusqlite::Result<Found> {
    look(&*db.transaction()?)
}

/// The writing connection, with the layout in place.
pub(super) fn open_to_write(file: &Path, durability: Durability) -> Result<Connection, OpenError> {
    let trouble = |error| trouble(file, error);
    let mut db = Connection::open(file).map_err(trouble)?;
    db.busy_timeout(PATIENCE).map_err(trouble)?;
    if check(file, look_once(&mut db))? == Layout::Old {
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(trouble)?;
        // Another process may have been as early as this one.
        if check(file, look(&tx))? == Layout::Old {
            tx.execute_batch(FROM_1).map_err(trouble)?;
            tx.pragma_update(None, "user_version", VERSION).map_err(trouble)?;
        }
        tx.commit().map_err(trouble)?;
    } else if check(file, look_once(&mut db))? == Layout::Wanted {
        db.pragma_update(None, "page_size", PAGE).map_err(trouble)?;
        into_wal(&db).map_err(trouble)?;
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(trouble)?;
        // Another process may have been as early as this one.
        if check(file, look(&tx))? == Layout::Wanted {
            lay_out(&tx).map_err(trouble)?;
        }
        tx.commit().map_err(trouble)?;
    }
    set_up(&db, durability).map_err(trouble)?;
    Ok(db)
}

/// A connection that only reads, to a file that has its layout.
pub(super) fn open_to_read(file: &Path) -> Result<Connection, OpenError> {
    let trouble = |error| trouble(file, error);
    if !file.exists() {
        return Err(OpenError::Missing { file: file.to_owned() });
    }
    // Not SQLITE_OPEN_READ_ONLY: readers of a WAL must be able to write its index beside the file.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(file, flags).map_err(trouble)?;
    db.busy_timeout(PATIENCE).map_err(trouble)?;
    db.pragma_update(None, "query_only", true).map_err(trouble)?;
    match check(file, look_once(&mut db))? {
        Layout::There => Ok(db),
        Layout::Wanted => Err(OpenError::Missing { file: file.to_owned() }),
        Layout::Old => {
            drop(db);
            // Whoever opens it to write brings it to today's layout.
            open_to_write(file, Durability::Full)?;
            open_to_read(file)
        }
    }
}

#[derive(PartialEq, Eq)]
enum Layout {
    Wanted,
    Old,
    There,
}

fn check(file: &Path, found: rusqlite::Result<Found>) -> Result<Layout, OpenError> {
    match found.map_err(|error| trouble(file, error))? {
        Found::Empty => Ok(Layout::Wanted),
        Found::Ours => Ok(Layout::There),
        Found::Older => Ok(Layout::Old),
        Found::Newer(found) => Err(OpenError::Newer { file: file.to_owned(), found }),
        Found::Foreign => Err(OpenError::Foreign { file: file.to_owned() }),
    }
}

/// Turns the file's journal into a WAL. SQLite does not wait here for others that do the same.
fn into_wal(db: &Connection) -> rusqlite::Result<()> {
    let began = Instant::now();
    loop {
        match db.pragma_update(None, "journal_mode", "wal") {
            Err(error) if busy(&error) && began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

fn busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn lay_out(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(LAYOUT)?;
    db.pragma_update(None, "application_id", APPLICATION)?;
    db.pragma_update(None, "user_version", VERSION)
}

fn set_up(db: &Connection, durability: Durability) -> rusqlite::Result<()> {
    let synchronous = match durability {
        Durability::Full => "full",
        Durability::Normal => "normal",
    };
    db.pragma_update(None, "synchronous", synchronous)?;
    db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    db.pragma_update(None, "cache_size", -CACHE_KIB)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(())
}
