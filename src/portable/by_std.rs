//! What the platform can do beyond `std`: nothing. Files are read and not mapped.

use super::bytes::Access;
use crate::bytes::ByteSlice;
use crate::error::{Error, Result};
use crate::reason::Reason;
use std::alloc::{self, Layout};
use std::convert::Infallible;
use std::fs::{File, Permissions};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;
use tempfile::{Builder, NamedTempFile};

/// True for a stream that shows a size and an offset. There is none.
pub(super) fn is_stream(_file: &File) -> bool {
    false
}

/// A file that no process can change. There is none.
pub(super) struct Locked(Infallible);

impl Locked {
    pub(super) fn lock(_file: &File) -> std::result::Result<Self, Reason> {
        Err(Reason::Platform)
    }

    pub(super) fn file(&self) -> &File {
        match self.0 {}
    }

    pub(super) fn view(self, _offset: u64, _len: usize, _access: Access) -> io::Result<View> {
        match self.0 {}
    }
}

/// Bytes of a [`Locked`] file.
pub(super) struct View(Infallible);

// SAFETY: there is no value.
#[allow(unsafe_code)]
unsafe impl ByteSlice for View {
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        match self.0 {}
    }
}

/// A temporary file, removed when it is dropped.
pub(super) struct Temporary {
    file: NamedTempFile,
}

impl Temporary {
    pub(super) fn new(directory: &Path, builder: Builder) -> io::Result<Self> {
        let file = builder.tempfile_in(directory)?;
        Ok(Temporary { file })
    }

    pub(super) fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    pub(super) fn set_permissions(&self, of: Permissions) -> io::Result<()> {
        self.file.as_file().set_permissions(of)
    }

    /// Renames it, over a file that exists if `replace`. If that fails, it is removed.
    pub(super) fn rename(self, to: &Path, replace: bool) -> io::Result<()> {
        let renamed = if replace {
            self.file.persist(to)
        } else {
            self.file.persist_noclobber(to)
        };
        renamed?;
        Ok(())
    }
}

/// A file that no other process has open. There is none.
pub(super) struct Writable(Infallible);

impl Writable {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Err(Error::unsupported(
            Some(path),
            "an exclusive mapping of a file",
        ))
    }

    pub(super) fn resize(&mut self, _len: usize) -> Result<()> {
        match self.0 {}
    }

    pub(super) fn flush(&self, _range: Range<usize>, _sync: bool) -> Result<()> {
        match self.0 {}
    }
}

// SAFETY: there is no value.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Writable {
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        match self.0 {}
    }
}

/// No memory has pages of its own.
pub(super) fn has_own_pages(_align: usize) -> bool {
    false
}

/// Zeroed memory; the layout is not empty.
pub(super) fn allocate(layout: Layout) -> Option<NonNull<u8>> {
    // SAFETY: the layout is not empty.
    #[allow(unsafe_code)]
    let start = unsafe { alloc::alloc_zeroed(layout) };
    NonNull::new(start)
}

/// # Safety
/// `start` was returned by [`allocate`] for the same layout and not released since, and no reference to it is left.
#[allow(unsafe_code)]
pub(super) unsafe fn release(start: NonNull<u8>, layout: Layout) {
    // SAFETY: the caller's promises.
    unsafe { alloc::dealloc(start.as_ptr(), layout) };
}

/// Which pages are in memory is not known.
pub(super) fn residency(_start: usize, _answers: &mut [u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Has no effect.
pub(super) fn prefetch(_pages: &Range<usize>) -> io::Result<()> {
    Ok(())
}

/// Fails.
pub(super) fn lock(_pages: &Range<usize>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Nothing was locked.
pub(super) fn unlock(_pages: &Range<usize>) {}

/// Memory that processes share. There is none.
pub(super) struct Section(Infallible);

impl Section {
    pub(super) const ALIGN: usize = 1;

    pub(super) fn create(_len: usize) -> Result<Self> {
        Err(Error::unsupported(None, "memory shared between processes"))
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        match self.0 {}
    }
}
