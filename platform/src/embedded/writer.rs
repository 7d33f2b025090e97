//! The one writer of a process.
//!
//! **Everything asked for while a commit was under way goes into the next one**, so that stages
//! that run side by side share the wait for the disk. A group is written as a whole or not at
//! all; where it failed, each of its callers is told and may try again.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use castwatch_core::PortError;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::{oneshot, watch};

/// How often the commits of other processes are looked for.
const LOOK: Duration = Duration::from_millis(15);
/// The most jobs of one commit.
const GROUP: usize = 64;

/// Why the database did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// No room.
    #[error("the disk is full: make room, the line goes on by itself")]
    Full(#[source] Arc<rusqlite::Error>),
    /// Another process holds the write lock for too long.
    #[error("another process keeps the database locked")]
    Busy(#[source] Arc<rusqlite::Error>),
    /// What is in the file makes no sense.
    #[error(
        "the database is damaged: stop castwatch, keep a copy of the data folder, and start with an empty one"
    )]
    Damaged(#[source] Arc<rusqlite::Error>),
    /// Anything else, such as a read or write error of the disk.
    #[error("the database failed")]
    Failed(#[source] Arc<rusqlite::Error>),
    /// The thread that writes is gone.
    #[error("the writer has ended")]
    Ended,
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        // Only what is not as it was written can't be read back as what it is.
        let strange = matches!(
            error,
            E::FromSqlConversionFailure(..)
                | E::Utf8Error(..)
                | E::InvalidColumnType(..)
                | E::IntegralValueOutOfRange(..)
        );
        let code = error.sqlite_error_code();
        let error = Arc::new(error);
        match code {
            _ if strange => Self::Damaged(error),
            Some(ErrorCode::DiskFull) => Self::Full(error),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(error),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error),
            _ => Self::Failed(error),
        }
    }
}

/// One caller's part of a commit.
trait Job: Send {
    fn work(&mut self, db: &Connection) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, committed: Result<(), Fault>);
}

struct Work<T, F> {
    work: Option<F>,
    out: Option<T>,
    reply: oneshot::Sender<Result<T, Fault>>,
}

impl<T, F> Job for Work<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
{
    fn work(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.out = Some(work(db)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), Fault>) {
        let Self { out, reply, .. } = *self;
        // Nobody listens any more where the caller was dropped; the work is done all the same.
        let _ = reply.send(committed.and_then(|()| out.ok_or(Fault::Ended)));
    }
}

/// Hands jobs to the thread that owns the writing connection.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `committed` changes after every commit of this process or another.
    pub(super) fn start(db: Connection, committed: watch::Sender<u64>) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("castwatch-writer".into())
            .spawn(move || serve(db, &queue, &committed))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `work` inside the next commit and returns once that is durable.
    pub(super) async fn run<T, F>(&self, what: impl FnOnce() -> String, work: F) -> Result<T, PortError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Work { work: Some(work), out: None, reply });
        let handed = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        let answer = if handed { answer.await.unwrap_or(Err(Fault::Ended)) } else { Err(Fault::Ended) };
        answer.map_err(|fault| PortError::unavailable(what(), fault))
    }
}

impl Drop for Writer {
    /// Waits for what was handed over, so that a dropped database has let its file go.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut db: Connection, queue: &mpsc::Receiver<Box<dyn Job>>, committed: &watch::Sender<u64>) {
    let mut seen = version(&db);
    loop {
        match queue.recv_timeout(LOOK) {
            Ok(first) => {
                let mut group = vec![first];
                group.extend(queue.try_iter().take(GROUP - 1));
                let outcome = commit(&mut db, &mut group).map_err(Fault::from);
                if outcome.is_ok() {
                    committed.send_modify(|n| *n += 1);
                }
                for job in group {
                    job.answer(outcome.clone());
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = version(&db);
        if now != seen {
            seen = now;
            committed.send_modify(|n| *n += 1);
        }
    }
}

fn commit(db: &mut Connection, group: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for job in group {
        job.work(&tx)?;
    }
    tx.commit()
}

/// A number that changes when another connection commits; `None` when it can't be read just now.
fn version(db: &Connection) -> Option<i64> {
    db.pragma_query_value(None, "data_version", |row| row.get(0)).ok()
}
