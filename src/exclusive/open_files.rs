//! The files that this process edits. It would block on its own lease if it opened one of them again.

use crate::process::Process;
use crate::process::ProcessLock;
use crate::sync::Rank;
use crate::sys::dir;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

/// Device and inode.
pub(crate) type FileId = (u64, u64);

static OPEN_FILES: ProcessLock<Vec<OpenFile>> = ProcessLock::new(Rank::ExclusiveFiles);

#[derive(Debug)]
struct OpenFile {
    id: FileId,
    process: Process,
    /// Gone when the lease has been released.
    file: Weak<File>,
}

/// One file in the list, until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    id: FileId,
}

impl OpenFile {
    /// False once the file was closed, or another process was let in: then the descriptor leads to another file.
    fn is_open(&self) -> bool {
        let is_same =
            |file: Arc<File>| dir::stat(file.as_fd()).is_ok_and(|stat| stat.id == self.id);
        self.process.is_current() && self.file.upgrade().is_some_and(is_same)
    }
}

/// True if this process edits the file: it would wait for itself if it opened it.
pub(crate) fn is_edited(id: FileId) -> bool {
    let mut files = OPEN_FILES.lock();
    files.retain(OpenFile::is_open);
    files.iter().any(|entry| entry.id == id)
}

impl Claim {
    /// `None` if this process edits the file, or another thread is just opening it. `file` is the same file, open in a
    /// way that breaks no lease.
    pub(super) fn new(id: FileId, file: &Arc<File>) -> Option<Self> {
        let mut files = OPEN_FILES.lock();
        files.retain(OpenFile::is_open);
        if files.iter().any(|entry| entry.id == id) {
            return None;
        }
        files.push(OpenFile {
            id,
            process: Process::current(),
            file: Arc::downgrade(file),
        });
        Some(Claim { id })
    }

    /// From here on it counts as long as `file` lives.
    pub(super) fn hold(&self, file: &Arc<File>) {
        let mut files = OPEN_FILES.lock();
        for entry in files.iter_mut().filter(|entry| entry.id == self.id) {
            entry.file = Arc::downgrade(file);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // An entry whose file is gone may have been replaced by that of a later claim.
        OPEN_FILES
            .lock()
            .retain(|entry| entry.id != self.id || entry.file.strong_count() > 0);
    }
}
