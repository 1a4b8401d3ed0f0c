//! A file that no other handle has open, mapped for writing.

use super::share_mode;
use crate::bytes::ByteSlice;
use crate::error::{Error, Result};
use crate::sys::{Protection, View};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

/// As long as it lives, every other open of the file fails: its handle shares nothing.
pub(super) struct Writable {
    /// Dropped first, because `file` keeps other processes out. `None` for a length of 0.
    view: Option<View>,
    file: File,
    path: PathBuf,
}

impl Writable {
    /// Fails with `Busy` if any handle of the file is open, or a writable view of it is left.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut opened = Writable {
            view: None,
            file: share_mode::open_alone(path)?,
            path: path.into(),
        };
        let stat = opened.file.metadata();
        let stat = stat.map_err(|e| Error::os("fstat", Some(path), e))?;
        let len =
            usize::try_from(stat.len()).map_err(|_| Error::too_large_to_address(Some(path)))?;
        opened.map(len)?;
        Ok(opened)
    }

    fn map(&mut self, len: usize) -> Result<()> {
        // Two views for writing would be two owners of the bytes.
        self.view = None;
        if len > 0 {
            let mapped = View::map(&self.file, 0, len, Protection::Write);
            let path = Some(&*self.path);
            self.view = Some(mapped.map_err(|e| Error::os("mmap", path, e))?);
        }
        Ok(())
    }

    /// A file cannot be cut while it is mapped. If the new length cannot be mapped, there are no bytes until a later call
    /// succeeds.
    pub(super) fn resize(&mut self, len: usize) -> Result<()> {
        let old = self.start_and_len().1;
        self.view = None;
        match self.file.set_len(len as u64) {
            Ok(()) => self.map(len),
            Err(e) => {
                self.map(old)?;
                Err(Error::os("ftruncate", Some(&self.path), e))
            }
        }
    }

    /// Writes a range, inside the file, to the file system, and to the device if `sync`.
    pub(super) fn flush(&self, range: Range<usize>, sync: bool) -> Result<()> {
        let path = Some(&*self.path);
        if let Some(view) = self.view.as_ref().filter(|_| !range.is_empty()) {
            view.flush(range).map_err(|e| Error::os("msync", path, e))?;
        }
        if sync {
            self.file
                .sync_all()
                .map_err(|e| Error::os("fsync", path, e))?;
        }
        Ok(())
    }
}

// SAFETY: the bytes of `view`, which owns them, or none. `file` keeps all others from writing to them.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Writable {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        match &self.view {
            Some(view) => (view.start(), view.len()),
            None => (NonNull::dangling(), 0),
        }
    }
}
