//! The channel of a file: alerts as JSON lines.
//!
//! **Every alert stands in the file once, whole, on disk when [`Sender::send`] returns.** The ids
//! in the file are read at the start, so an alert in doubt is not written again; a last line torn
//! by a crash is cut off, because its alert was never acknowledged. Only one process writes.

use std::collections::HashSet;
use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use castwatch_core::payload::Alert;

use crate::sender::{SendError, Sender};

/// Appends alerts to a file.
#[derive(Debug)]
pub struct File {
    name: String,
    lines: Arc<Mutex<Lines>>,
}

/// The file, and what is known of it.
#[derive(Debug)]
struct Lines {
    file: fs::File,
    /// Where the last whole line ends.
    end: u64,
    /// Whether a failed write may have left something behind it.
    torn: bool,
    ids: HashSet<String>,
}

/// Why a file can't take alerts.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be opened, read or repaired.
    #[error("{} can't be used for alerts", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It holds something else; nothing was changed.
    #[error("{}:{line}: not an alert; the file belongs to something else", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The first line that is not an alert.
        line: usize,
    },
    /// Another process writes to it.
    #[error("{} is written by another process", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
}

/// What is read of a line again.
#[derive(serde::Deserialize)]
struct Id {
    id: String,
}

impl File {
    /// Opens the file or makes it for the channel `name`, reads the ids that stand in it and repairs a torn last line.
    ///
    /// # Errors
    /// [`FileError`]; a file that holds other things than alerts is left as it is.
    pub fn open(name: impl Into<String>, path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let failed = |source| FileError::Io { path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => FileError::Locked { path: path.to_owned() },
            TryLockError::Error(source) => failed(source),
        })?;
        let (end, ids) = read(path, &file)?;
        file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(failed)?;
        file.sync_all().and_then(|()| sync_folder(path)).map_err(failed)?;
        let lines = Lines { file, end, torn: false, ids };
        Ok(Self { name: name.into(), lines: Arc::new(Mutex::new(lines)) })
    }
}

/// The end of the last whole line, and the ids.
fn read(path: &Path, file: &fs::File) -> Result<(u64, HashSet<String>), FileError> {
    let (mut end, mut ids) = (0, HashSet::new());
    let mut reader = BufReader::new(file);
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let n = reader
            .read_until(b'\n', &mut bytes)
            .map_err(|source| FileError::Io { path: path.to_owned(), source })?;
        if n == 0 {
            break;
        }
        let whole = bytes.last() == Some(&b'\n');
        match serde_json::from_slice::<Id>(&bytes) {
            Ok(Id { id }) if whole => {
                ids.insert(id);
                end += n as u64;
            }
            // Torn by a crash: the beginning of an alert, or the zeros some file systems leave.
            _ if !whole && matches!(bytes[0], b'{' | 0) => break,
            _ => return Err(FileError::Foreign { path: path.to_owned(), line }),
        }
    }
    Ok((end, ids))
}

/// A new file is there after a power cut only when its folder is on disk too.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

impl Lines {
    fn append(&mut self, id: String, mut line: Vec<u8>) -> io::Result<()> {
        if self.ids.contains(&id) {
            return Ok(());
        }
        if self.torn {
            // Or this line would be glued to the beginning of the one that failed.
            self.file.set_len(self.end)?;
            self.file.seek(SeekFrom::Start(self.end))?;
        }
        line.push(b'\n');
        self.torn = true;
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        self.torn = false;
        self.end += line.len() as u64;
        self.ids.insert(id);
        Ok(())
    }
}

impl Sender for File {
    fn name(&self) -> &str {
        &self.name
    }

    fn idempotent(&self) -> bool {
        true
    }

    async fn send(&self, alert: &Alert) -> Result<(), SendError> {
        let line = serde_json::to_vec(alert).map_err(SendError::refused)?;
        let (id, lines) = (alert.id.clone(), Arc::clone(&self.lines));
        tokio::task::spawn_blocking(move || {
            lines.lock().unwrap_or_else(PoisonError::into_inner).append(id, line)
        })
        .await
        .map_err(SendError::transient)?
        .map_err(SendError::transient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::tests::explanation;

    fn alert(cycle: u64) -> Alert {
        crate::alert(&explanation("DCM-03", cycle), &["file".into()])
    }

    fn ids(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(|l| serde_json::from_str::<Alert>(l).unwrap().cycle).collect()
    }

    #[tokio::test]
    async fn writes_each_alert_once_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.jsonl");
        let file = File::open("file", &path).unwrap();
        for cycle in [1, 2, 1] {
            file.send(&alert(cycle)).await.unwrap();
        }
        assert!(matches!(File::open("file", &path), Err(FileError::Locked { .. })));
        drop(file);
        let file = File::open("file", &path).unwrap();
        for cycle in [2, 3] {
            file.send(&alert(cycle)).await.unwrap();
        }
        assert_eq!(ids(&path), [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_torn_last_line_is_cut_at_every_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.jsonl");
        let line = |cycle| serde_json::to_string(&alert(cycle)).unwrap() + "\n";
        let (first, second) = (line(1), line(2));
        for cut in (0..second.len()).step_by(7).chain([second.len() - 1]) {
            fs::write(&path, [first.as_bytes(), &second.as_bytes()[..cut]].concat()).unwrap();
            let file = File::open("file", &path).unwrap();
            file.send(&alert(2)).await.unwrap();
            assert_eq!(ids(&path), [1, 2], "cut at {cut}");
        }
        fs::write(&path, [first.as_bytes(), &[0; 40]].concat()).unwrap();
        drop(File::open("file", &path).unwrap());
        assert_eq!(ids(&path), [1]);
    }

    #[tokio::test]
    async fn what_a_failed_write_left_is_cut_before_the_next_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.jsonl");
        let file = File::open("file", &path).unwrap();
        file.send(&alert(1)).await.unwrap();
        {
            let mut lines = file.lines.lock().unwrap();
            lines.file.write_all(b"{\"id\":\"al").unwrap();
            lines.torn = true;
        }
        file.send(&alert(2)).await.unwrap();
        assert_eq!(ids(&path), [1, 2]);
    }

    #[test]
    fn a_foreign_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        for text in ["dear diary", "dear diary\n", "{\"id\":\"alert:x\"}\n{\"name\":1}\n"] {
            fs::write(&path, text).unwrap();
            let error = File::open("file", &path).unwrap_err();
            assert!(matches!(error, FileError::Foreign { .. }), "{text}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let error = File::open("file", folder.path().join("no/such/folder")).unwrap_err();
        assert!(error.to_string().contains("no/such/folder can't be used for alerts"), "{error}");
    }
}
