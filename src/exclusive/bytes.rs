//! The mapping: of a leased file, or of one that the caller guards.

use crate::atfork::NotForChildren;
use crate::error::{Error, Result};
use crate::lease::write::WriteLeasedMapping;
use crate::locked_pages::LockedPages;
use crate::page;
use crate::range::whole_pages;
use crate::region::Region;
use crate::sys::memory::{Address, PageKind};
use std::fs::File;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;

pub(super) enum Bytes {
    Leased(WriteLeasedMapping),
    Unguarded(Unguarded),
}

impl Bytes {
    pub(super) fn start(&self) -> NonNull<u8> {
        match self {
            Bytes::Leased(mapping) => mapping.start(),
            Bytes::Unguarded(mapping) => mapping.region.start(),
        }
    }

    /// The file, as long as stores go to it.
    pub(super) fn file(&self) -> Option<Arc<File>> {
        match self {
            Bytes::Leased(mapping) => mapping.file(),
            Bytes::Unguarded(mapping) => Some(Arc::clone(&mapping.file)),
        }
    }

    pub(super) fn has_waiter(&self) -> bool {
        match self {
            Bytes::Leased(mapping) => mapping.has_waiter(),
            Bytes::Unguarded(_) => false,
        }
    }

    pub(super) fn locked_pages(&self) -> Option<&LockedPages> {
        match self {
            Bytes::Leased(mapping) => mapping.locked_pages(),
            Bytes::Unguarded(mapping) => mapping.region.locked_pages(),
        }
    }

    /// Changes the length of the mapping, after `set_size` has changed that of the file; `None` if the lease is gone.
    pub(super) fn resize(
        &mut self,
        len: usize,
        set_size: impl FnOnce(&File) -> Result<()>,
    ) -> Option<Result<()>> {
        match self {
            Bytes::Leased(mapping) => mapping.resize(len, set_size),
            Bytes::Unguarded(mapping) => Some(mapping.resize(len, set_size)),
        }
    }

    /// Unmaps and closes the file. False if the lease was lost before.
    pub(super) fn release(self) -> bool {
        match self {
            Bytes::Leased(mapping) => mapping.end(),
            Bytes::Unguarded(_) => true,
        }
    }
}

/// A shared mapping without a lease.
pub(super) struct Unguarded {
    /// First: it is dropped before the bytes are unmapped.
    not_for_children: NotForChildren,
    region: Region,
    /// Bytes of the file.
    len: usize,
    file: Arc<File>,
}

impl Unguarded {
    pub(super) fn map(file: File, len: usize) -> Result<Self> {
        let not_for_children = NotForChildren::new()?;
        // At least one page, though it may be behind the end of the file: what is mapped can grow.
        let pages = whole_pages(len.max(1), page::size())?;
        let region = Region::shared(file.as_fd(), pages, Address::Anywhere, PageKind::Zeroed)?;
        not_for_children.set_range(region.addresses());
        Ok(Unguarded {
            not_for_children,
            region,
            len,
            file: Arc::new(file),
        })
    }

    fn resize(&mut self, len: usize, set_size: impl FnOnce(&File) -> Result<()>) -> Result<()> {
        whole_pages(len.max(1), page::size())?;
        set_size(&self.file)?;
        self.not_for_children.clear_range();
        let resized = self.region.resize(len.max(1), page::size());
        self.not_for_children.set_range(self.region.addresses());
        match resized {
            Err(error) if len > self.len => {
                let truncated = self.file.set_len(self.len as u64);
                truncated.map_err(|e| Error::os("ftruncate", None, e))?;
                return Err(error);
            }
            // Pages beyond the end of the file stay mapped, and are never touched.
            _ => self.len = len,
        }
        Ok(())
    }
}
