//! Files that no process can write to, by a share mode, and views of them.

use super::share_mode;
use crate::bytes::ByteSlice;
use crate::reason::Reason;
use crate::sys::{Protection, View};
use std::fs::File;
use std::io;
use std::ptr::NonNull;

/// A file that no process can open for writing, truncate, delete or rename as long as this lives. The handle is given to no
/// other code.
pub(super) struct Locked {
    file: File,
}

impl Locked {
    /// Opens the file of a handle once more, or returns why it cannot be locked.
    pub(super) fn lock(file: &File) -> Result<Self, Reason> {
        let file = share_mode::lock(file)?;
        Ok(Locked { file })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// A view of `len` bytes, not 0, inside the file, to read or to copy on write.
    pub(super) fn view(
        self,
        offset: u64,
        len: usize,
        access: Protection,
    ) -> io::Result<LockedView> {
        let view = View::map(&self.file, offset, len, access)?;
        Ok(LockedView {
            view,
            _locked: self,
        })
    }
}

/// Bytes of a file that is locked as long as they are mapped.
pub(super) struct LockedView {
    // Dropped first: the handle protects the bytes.
    view: View,
    _locked: Locked,
}

// SAFETY: the bytes of `view`, which owns them. They do not change, as `_locked` keeps the file; stores into a view that is
// copied on write go to copies of its pages.
#[allow(unsafe_code)]
unsafe impl ByteSlice for LockedView {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        (self.view.start(), self.view.len())
    }
}
