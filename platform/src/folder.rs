//! Objects in a folder: charts beside the embedded log.
//!
//! **An object is there whole or not at all**: it is written under another name in the same
//! folder, brought to the disk, and renamed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use castwatch_core::{Objects, PortError};

/// The longest key, in bytes.
const MAX_KEY: usize = 1024;
/// The longest part of a key between slashes, in bytes: what file systems allow.
const MAX_SEGMENT: usize = 255;

/// Objects as files below one folder; a key is a relative path with `/`.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

/// Why a key is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{key}` is not a key: parts between single slashes, none empty or beginning with a dot, no backslash or \
     control character, a part at most {MAX_SEGMENT} bytes and all at most {MAX_KEY}"
)]
pub struct KeyError {
    key: String,
}

impl Folder {
    /// Objects below `root`, which is made when the first one is stored.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the object of `key` lies.
    ///
    /// # Errors
    /// [`KeyError`] for a key that could leave the folder or that a file system could not name.
    pub fn path(&self, key: &str) -> Result<PathBuf, KeyError> {
        checked(key)?;
        Ok(key.split('/').fold(self.root.clone(), |path, part| path.join(part)))
    }
}

/// A key that a folder, and so every other store, may have.
///
/// # Errors
/// [`KeyError`] for a key that could leave the folder or that a file system could not name.
pub(crate) fn checked(key: &str) -> Result<&str, KeyError> {
    let odd = |c: char| c.is_control() || c == '\\';
    let fine = |part: &str| !part.is_empty() && part.len() <= MAX_SEGMENT && !part.starts_with('.');
    if key.len() > MAX_KEY || key.contains(odd) || !key.split('/').all(fine) {
        return Err(KeyError { key: key.chars().take(80).collect() });
    }
    Ok(key)
}

impl Objects for Folder {
    async fn put(&self, key: &str, _content_type: &str, bytes: Bytes) -> Result<(), PortError> {
        let what = || format!("store of {key}");
        let path = self.path(key).map_err(|e| PortError::refused(what(), e))?;
        let stored = tokio::task::spawn_blocking(move || write_whole(&path, &bytes)).await;
        flatten(stored).map_err(|e| PortError::unavailable(what(), e))
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, PortError> {
        let what = || format!("read of {key}");
        let path = self.path(key).map_err(|e| PortError::refused(what(), e))?;
        let read = tokio::task::spawn_blocking(move || match fs::read(path) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => Ok(None),
            Err(e) => Err(e),
        });
        flatten(read.await).map_err(|e| PortError::unavailable(what(), e))
    }
}

fn flatten<T>(joined: Result<io::Result<T>, tokio::task::JoinError>) -> io::Result<T> {
    joined.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().unwrap_or(Path::new("."));
    make(folder)?;
    // A name that no key can have, and no other writer has.
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let draft = folder.join(format!(".{}-{number}.part", std::process::id()));
    let written = write_through(&draft, bytes).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written?;
    sync(folder)
}

/// Makes a folder and those above it.
fn make(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().unwrap_or(Path::new(""));
    make(above)?;
    match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(e) => Err(e),
        Ok(()) => sync(above),
    }
}

/// Brings the names in a folder to the disk: a new one must survive a power loss too.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?.sync_all()
}

fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn passes_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("charts/below");
        castwatch_core::contract::objects(&Folder::new(&root)).await;
        let drafts: Vec<_> =
            fs::read_dir(root.join("contract/race")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(drafts, ["one.png"], "nothing else is left");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_is_an_outage() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("charts"), b"a file").unwrap();
        let folder = Folder::new(dir.path().join("charts"));
        let error = folder.put("a/b.png", "image/png", Bytes::from_static(b"x")).await.unwrap_err();
        assert!(matches!(error, PortError::Unavailable { .. }), "{error:?}");
        assert_eq!(fs::read(dir.path().join("charts")).unwrap(), b"a file");
    }

    #[test]
    fn keys_stay_below_the_folder() {
        let folder = Folder::new("charts");
        assert_eq!(folder.path("a/b.png").unwrap(), Path::new("charts/a/b.png"));
        for key in ["..\\x", ".hidden", "a/.part", &"x".repeat(256)] {
            assert!(folder.path(key).is_err(), "{key}");
        }
    }
}
