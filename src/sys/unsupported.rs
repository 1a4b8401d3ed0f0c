//! Everything that `portable/` calls, where a platform has no call for it: by `std`, or not at all.

use std::alloc::{self, Layout};
use std::borrow::Borrow;
use std::convert::Infallible;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;
use tempfile::{Builder, NamedTempFile};

fn unsupported<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Pages of WebAssembly are 64 KiB; elsewhere that is not known.
pub(crate) fn page_size() -> usize {
    if cfg!(target_family = "wasm") {
        64 << 10
    } else {
        4 << 10
    }
}

/// Not known.
pub(crate) fn huge_page_size() -> Option<usize> {
    None
}

pub(crate) mod pages {
    /// They are not counted.
    pub(crate) fn faults() -> (u64, u64) {
        (0, 0)
    }
}

/// There is none.
pub(crate) const EISDIR: Option<i32> = None;

/// Not known.
pub(crate) fn errno_name(_error: &io::Error) -> &'static str {
    ""
}

/// Types that have an open file.
#[allow(unreachable_pub, reason = "a bound of public functions")]
pub trait Handle: Borrow<File> {}

impl<F: Borrow<File>> Handle for F {}

/// Its file.
pub(crate) fn file_of<F: Handle>(file: &F) -> io::Result<&File> {
    Ok(file.borrow())
}

/// Standard input is a stream only.
pub(crate) fn stdin() -> io::Result<Option<File>> {
    Ok(None)
}

/// As `std` does.
pub(crate) fn read(mut file: &File, into: &mut [u8]) -> io::Result<usize> {
    file.read(into)
}

/// In two steps: `std` has no other way here.
pub(crate) fn read_at(mut file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    file.seek(SeekFrom::Start(offset))?;
    file.read(into)
}

/// The same file, by another handle whose offset reads do not move for others, as far as the platform can.
pub(crate) fn with_own_offset(file: &File) -> io::Result<File> {
    file.try_clone()
}

/// Whether [`read_at`] leaves the offset of the file elsewhere.
pub(crate) const READ_AT_MOVES_OFFSET: bool = true;

/// True for a stream that shows a size and an offset. There is none.
pub(crate) fn is_stream(_file: &File) -> bool {
    false
}

/// There are no modes.
pub(crate) fn set_mode(_builder: &mut Builder<'_, '_>, _mode: u32) {}

/// Gives a file the rights of another one that it replaces.
pub(crate) fn keep_rights(file: &File, of: &Metadata) -> io::Result<()> {
    file.set_permissions(of.permissions())
}

/// A directory, to sync its names: no call does that.
pub(crate) struct Directory;

impl Directory {
    pub(crate) fn open(_path: &Path) -> io::Result<Self> {
        Ok(Directory)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A temporary file, removed when it is dropped.
pub(crate) struct Temporary {
    file: NamedTempFile,
}

impl Temporary {
    pub(crate) fn new(directory: &Path, builder: Builder) -> io::Result<Self> {
        let file = builder.tempfile_in(directory)?;
        Ok(Temporary { file })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Renames it, over a file that exists if `replace`. If that fails, it is removed.
    pub(crate) fn rename(self, to: &Path, replace: bool) -> io::Result<()> {
        let renamed = if replace {
            self.file.persist(to)
        } else {
            self.file.persist_noclobber(to)
        };
        renamed?;
        Ok(())
    }
}

/// True if memory with such an alignment has pages of its own; that with another is of the heap. None has.
pub(crate) fn has_own_pages(_align: usize) -> bool {
    false
}

/// Zeroed memory; the layout is not empty.
pub(crate) fn allocate(layout: Layout) -> Option<NonNull<u8>> {
    // SAFETY: the layout is not empty.
    let start = unsafe { alloc::alloc_zeroed(layout) };
    NonNull::new(start)
}

/// # Safety
/// `start` was returned by [`allocate`] for the same layout and not released since, and no reference to it is left.
pub(crate) unsafe fn release(start: NonNull<u8>, layout: Layout) {
    // SAFETY: the caller's promises.
    unsafe { alloc::dealloc(start.as_ptr(), layout) };
}

/// Which pages are in memory is not known.
pub(crate) fn residency(_start: usize, _answers: &mut [u8]) -> io::Result<()> {
    unsupported()
}

/// Has no effect.
pub(crate) fn prefetch(_pages: &Range<usize>) -> io::Result<()> {
    Ok(())
}

/// Fails.
pub(crate) fn lock(_pages: &Range<usize>) -> io::Result<()> {
    unsupported()
}

/// Nothing was locked.
pub(crate) fn unlock(_pages: &Range<usize>) {}

/// What may be done with the memory of a view of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protection {
    Read,
    /// Stores go to copies of the pages.
    CopyOnWrite,
    /// Stores go to the file.
    Write,
}

/// A view of a file. There is none.
pub(crate) struct View(Infallible);

impl View {
    pub(crate) fn map(_: &File, _offset: u64, _len: usize, _: Protection) -> io::Result<Self> {
        unsupported()
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        match self.0 {}
    }

    pub(crate) fn len(&self) -> usize {
        match self.0 {}
    }

    pub(crate) fn flush(&self, _range: Range<usize>) -> io::Result<()> {
        match self.0 {}
    }
}

/// Memory that processes share. There is none.
pub(crate) struct Section(Infallible);

impl Section {
    pub(crate) const ALIGN: usize = 1;

    pub(crate) fn create(_len: u64) -> io::Result<Self> {
        unsupported()
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        match self.0 {}
    }

    pub(crate) fn usable_bytes(&self) -> io::Result<usize> {
        match self.0 {}
    }
}
