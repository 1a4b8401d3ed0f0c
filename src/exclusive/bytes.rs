//! The mapping: of a leased file, or of one that the caller guards.

use crate::atfork::NotForChildren;
use crate::backing::Backing;
use crate::error::{Error, Result};
use crate::lease::write::WriteLeasedMapping;
use crate::locked_pages::LockedPages;
use crate::mapped_file::{FileWindow, MappedFile};
use crate::space::{self, Check};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
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
            Bytes::Unguarded(mapping) => mapping.mapped.start(),
        }
    }

    /// The file, as long as stores go to it.
    pub(super) fn file(&self) -> Option<Arc<File>> {
        match self {
            Bytes::Leased(mapping) => mapping.file(),
            Bytes::Unguarded(mapping) => Some(Arc::clone(&mapping.file)),
        }
    }

    pub(super) fn backing(&self) -> Backing {
        match self {
            Bytes::Leased(mapping) => mapping.backing(),
            Bytes::Unguarded(_) => Backing::Unguarded,
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
            Bytes::Unguarded(mapping) => mapping.mapped.locked_pages(),
        }
    }

    /// Changes the length of the mapping, after `set_size` has changed that of the file; `None` if the lease is gone.
    pub(super) fn resize(
        &mut self,
        len: usize,
        set_size: impl FnOnce(&File, &Check<'_>) -> Result<()>,
    ) -> Option<Result<()>> {
        match self {
            Bytes::Leased(mapping) => mapping.resize(len, set_size),
            Bytes::Unguarded(mapping) => Some(mapping.resize(len, set_size)),
        }
    }

    /// Unmaps and closes the file. False if the lease was lost before.
    pub(super) fn release(self) -> bool {
        match self {
            Bytes::Leased(mapping) => mapping.release(),
            Bytes::Unguarded(_) => true,
        }
    }
}

/// A shared mapping without a lease.
pub(super) struct Unguarded {
    /// First: it is dropped before the bytes are unmapped.
    not_for_children: NotForChildren,
    mapped: MappedFile,
    file: Arc<File>,
}

impl Unguarded {
    pub(super) fn map(file: File, window: FileWindow) -> Result<Self> {
        let not_for_children = NotForChildren::new()?;
        let mapped = MappedFile::new(file.as_fd(), window)?;
        not_for_children.set_range(mapped.region().addresses());
        Ok(Unguarded {
            not_for_children,
            mapped,
            file: Arc::new(file),
        })
    }

    fn resize(
        &mut self,
        len: usize,
        set_size: impl FnOnce(&File, &Check<'_>) -> Result<()>,
    ) -> Result<()> {
        let _no_fork = self.not_for_children.clear_range();
        let set_size = || set_size(&self.file, &|| Ok(()));
        let resized = self.mapped.resize(len, set_size);
        let addresses = self.mapped.region().addresses();
        self.not_for_children.set_range(addresses);
        resized
    }
}

/// Without blocks for every byte, a store could find the disk full.
pub(super) fn allocation_error(error: io::Error, path: Option<&Path>) -> Error {
    if space::is_unsupported(&error) {
        let why =
            "its file system cannot fill holes (fallocate), so a full disk would raise a signal";
        return Error::unprotectable(path, why);
    }
    Error::os("fallocate", path, error)
}
