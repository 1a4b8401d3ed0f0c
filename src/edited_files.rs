//! The files that this process edits as an `Exclusive`. If it opened one of them again, it would block on its own lease.

use crate::error::{Error, Result};
use crate::process::ProcessLock;
use crate::sync::Rank;
use crate::sys::dir;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Device and inode.
pub(crate) type FileId = (u64, u64);

static OPEN_FILES: ProcessLock<Vec<OpenFile>> = ProcessLock::new(Rank::ExclusiveFiles);

/// How many [`Claim`]s there are: if none, no path need be looked up.
static CLAIMS: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug)]
struct OpenFile {
    id: FileId,
    /// False while it is being opened.
    is_leased: bool,
    /// Alive until the lease is released.
    file: Weak<File>,
}

/// One file in the list, until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    id: FileId,
}

impl OpenFile {
    /// False once the file was closed, or the lease was lost: then the descriptor refers to another file.
    fn is_open(&self) -> bool {
        let is_same =
            |file: Arc<File>| dir::stat(file.as_fd()).is_ok_and(|stat| stat.id == self.id);
        self.file.upgrade().is_some_and(is_same)
    }
}

/// True if this process edits the file: it would wait for itself if it opened it.
pub(crate) fn is_edited(id: FileId) -> bool {
    let mut files = OPEN_FILES.lock();
    files.retain(OpenFile::is_open);
    files.iter().any(|entry| entry.is_leased && entry.id == id)
}

/// To be called before a path is opened: `Busy` if this process edits the file.
pub(crate) fn check_not_edited(path: &Path) -> Result<()> {
    if CLAIMS.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    match fs::metadata(path) {
        Ok(found) if is_edited((found.dev(), found.ino())) => {
            Err(Error::is_edited_here(Some(path)))
        }
        // Any error of the path is returned by the open that follows.
        _ => Ok(()),
    }
}

impl Claim {
    /// `None` if this process edits the file, or another thread is just opening it. `file` is the same file, open in a
    /// way that breaks no lease.
    pub(crate) fn new(id: FileId, file: &Arc<File>) -> Option<Self> {
        let mut files = OPEN_FILES.lock();
        files.retain(OpenFile::is_open);
        if files.iter().any(|entry| entry.id == id) {
            return None;
        }
        files.push(OpenFile {
            id,
            is_leased: false,
            file: Arc::downgrade(file),
        });
        CLAIMS.fetch_add(1, Ordering::Relaxed);
        Some(Claim { id })
    }

    /// From here on the file counts as edited as long as `file` lives.
    pub(crate) fn hold(&self, file: &Arc<File>) {
        let mut files = OPEN_FILES.lock();
        for entry in files.iter_mut().filter(|entry| entry.id == self.id) {
            entry.file = Arc::downgrade(file);
            entry.is_leased = true;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // An entry whose file is gone may have been replaced by that of a later claim.
        OPEN_FILES
            .lock()
            .retain(|entry| entry.id != self.id || entry.file.strong_count() > 0);
        CLAIMS.fetch_sub(1, Ordering::Relaxed);
    }
}
