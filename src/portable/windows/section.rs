//! Memory that processes share: a section without a file, which a child inherits by its handle.

use super::system::{self, GRANULARITY, Protection};
use crate::error::{Error, Result};
use std::os::windows::io::{AsHandle, BorrowedHandle, OwnedHandle};
use std::ptr::NonNull;

/// A view of a section. Other processes change its bytes at any moment.
pub(in super::super) struct Section {
    view: NonNull<u8>,
    handle: OwnedHandle,
}

impl Section {
    /// Views start at a multiple of this.
    pub(in super::super) const ALIGN: usize = GRANULARITY as usize;

    /// Zeroed memory, with a handle that child processes inherit.
    pub(in super::super) fn create(len: usize) -> Result<Self> {
        // No section is empty.
        let handle = system::create_section(len.max(1) as u64)
            .map_err(|e| Error::os("CreateFileMapping", None, e))?;
        Section::map(handle, len)
    }

    /// The section of a handle. It has at least `len` bytes, to read and to write, and all of them have memory.
    pub(in super::super) fn open(handle: BorrowedHandle<'_>, len: usize) -> Result<Self> {
        let handle = handle.try_clone_to_owned();
        Section::map(handle.map_err(|e| Error::os("dup", None, e))?, len)
    }

    fn map(handle: OwnedHandle, len: usize) -> Result<Self> {
        // 0 bytes: all of them.
        let view = system::map_section(handle.as_handle(), 0, 0, Protection::Write)
            .map_err(|e| Error::os("mmap", None, e))?;
        let section = Section { view, handle };
        let usable = system::usable_bytes(view).map_err(|e| Error::os("mmap", None, e))?;
        if usable < len {
            return Err(Error::too_small(None, len as u64, usable as u64));
        }
        Ok(section)
    }

    pub(in super::super) fn start(&self) -> NonNull<u8> {
        self.view
    }

    pub(in super::super) fn handle(&self) -> BorrowedHandle<'_> {
        self.handle.as_handle()
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, unmapped here only, and no borrow is left.
        #[allow(unsafe_code)]
        unsafe {
            system::unmap(self.view);
        }
    }
}
