//! Any input as bytes that do not change: read into memory.

use super::anonymous::Anonymous;
use super::bytes::Bytes;
use super::input::{self, AsFile, From, Opened, Progress, Request};
use super::pages::Pages;
use crate::backing::Backing;
use crate::bytes::{ByteSlice, impl_byte_slice};
use crate::error::{Error, Result};
use crate::options::{impl_try_from_file, setters};
use crate::reason::Reason;
use crate::sys::Protection;
use std::fmt;
use std::path::Path;
use std::ptr::NonNull;

/// The bytes of a path, standard input or any file, read-only. They never change, whatever other processes do to the
/// file.
///
/// - They are read into memory; files of more than 1 MiB are mapped on Windows, where they can be locked: on local NTFS and
///   ReFS volumes, if they are not open for writing.
/// - As long as a locked file is mapped, every open for writing fails with a sharing violation, and so do deleting it,
///   renaming it and renaming another file over it. [`SnapshotOptions::lease`] turns that off.
/// - A device that fails under a mapped file raises an exception, which ends the process.
///   [`populate`](SnapshotOptions::populate) makes it an error of the call.
///
/// # Examples
/// ```
/// let manifest = stillmap::Snapshot::open("Cargo.toml")?;
/// assert!(manifest.starts_with(b"[package]"));
/// # Ok::<(), stillmap::Error>(())
/// ```
pub struct Snapshot {
    bytes: Bytes,
    is_consistent: bool,
    reason: Option<Reason>,
}

impl Snapshot {
    /// The bytes of a file, from its start to its end.
    ///
    /// # Errors
    /// [`Error::IsDirectory`]; [`Error::TooLarge`] for a stream of more than 1 GiB; [`Error::Os`].
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        Snapshot::options().open(path)
    }

    /// The bytes of standard input, from its current offset to its end.
    ///
    /// # Errors
    /// As [`open`](Snapshot::open).
    pub fn stdin() -> Result<Self> {
        Snapshot::options().stdin()
    }

    /// The bytes of a file, or of standard input if the path is `-`.
    ///
    /// # Errors
    /// As [`open`](Snapshot::open).
    pub fn open_or_stdin<P: AsRef<Path>>(path: P) -> Result<Self> {
        if path.as_ref() == Path::new("-") {
            Snapshot::stdin()
        } else {
            Snapshot::open(path)
        }
    }

    /// The bytes of an open descriptor, from its current offset to its end; the offset is moved to the end.
    ///
    /// # Errors
    /// As [`open`](Snapshot::open).
    pub fn from_fd<F: AsFile>(fd: F) -> Result<Self> {
        Snapshot::options().from_fd(fd)
    }

    /// The bytes of an open file, from its start to its end, wherever its offset is. The offset is moved while the bytes
    /// are read, and then set to what it was.
    ///
    /// # Errors
    /// As [`open`](Snapshot::open).
    pub fn from_file<F: AsFile>(file: F) -> Result<Self> {
        Snapshot::options().from_file(file)
    }

    /// The window and the limits.
    pub fn options() -> SnapshotOptions {
        SnapshotOptions::default()
    }

    /// [`Backing::Memory`] or [`Backing::Locked`].
    pub fn backing(&self) -> Backing {
        self.bytes.backing()
    }

    /// Why the bytes are not mapped; `None` if they are, and for memory that was [frozen](Anonymous::freeze).
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// False if the size or the mtime of the file changed while it was read. A change that moves no timestamp is not seen: by
    /// a write that had begun before, through a mapping, or within one step of the timestamps.
    pub fn is_consistent(&self) -> bool {
        self.is_consistent
    }

    /// As [`from_file`](Snapshot::from_file): here nothing is mapped without a lock.
    ///
    /// # Errors
    /// As [`open`](Snapshot::open).
    ///
    /// # Safety
    /// As long as the snapshot lives, no process writes to the file or truncates it.
    #[allow(unsafe_code)]
    pub unsafe fn map_unguarded<F: AsFile>(fd: F) -> Result<Self> {
        Snapshot::from_file(fd)
    }

    /// Prefetch, populate, lock and residency of its pages, as far as the platform has them.
    pub fn pages(&self) -> Pages<'_> {
        self.bytes.pages()
    }

    pub(super) fn new(opened: Opened) -> Self {
        Snapshot {
            bytes: opened.bytes,
            is_consistent: opened.is_consistent,
            reason: opened.reason,
        }
    }
}

// SAFETY: the bytes of `bytes`, which promises the same.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Snapshot {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        self.bytes.start_and_len()
    }
}

impl_byte_slice!(Snapshot, debug: backing, is_consistent, reason);

impl_try_from_file! {
    /// The whole file, wherever its offset is.
    Snapshot, file => Snapshot::from_file(file)
}

impl Anonymous {
    /// The memory, read-only from here on.
    ///
    /// # Errors
    /// None on this platform.
    pub fn freeze(self) -> Result<Snapshot> {
        Ok(Snapshot {
            bytes: Bytes::Memory(self.into_memory()),
            is_consistent: true,
            reason: None,
        })
    }
}

/// How to open a [`Snapshot`]; made by [`Snapshot::options`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SnapshotOptions {
    request: Request,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        let view = Some(Protection::Read);
        let request = Request {
            view,
            ..Request::default()
        };
        SnapshotOptions { request }
    }
}

setters! {
    impl SnapshotOptions;

    /// Skips the first `offset` bytes of the input.
    fn offset(offset: u64) { request.offset = offset; }

    /// Takes `len` bytes, no more and no less; the default is all up to the end.
    fn len(len: usize) { request.len = Some(len); }

    /// The most bytes of the input; more is [`Error::TooLarge`].
    fn size_limit(bytes: u64) { request.limit = Some(bytes); }

    /// The most bytes to read into memory; more is [`Error::TooLarge`], as nothing is copied to a disk here.
    fn memory_limit(bytes: u64) { request.memory_limit = Some(bytes); }

    /// The most bytes to copy; more is [`Error::NotMappable`] if they cannot be mapped.
    fn copy_limit(bytes: u64) { request.copy_limit = Some(bytes); }

    /// Whether to lock a file, which keeps others from writing to it; default true. Otherwise it is read.
    fn lease(enable: bool) { request.view = enable.then_some(Protection::Read); }

    /// Refuses what is larger than 1 MiB and cannot be mapped, with [`Error::NotMappable`].
    fn require_mapping(enable: bool) { request.require_mapping = enable; }

    /// Whether to read all bytes before the call returns, also those of a file that is mapped.
    fn populate(enable: bool) { request.populate = enable; }

    /// No effect: nothing is copied to a disk here.
    fn spill(_enable: bool) {}
}

impl SnapshotOptions {
    /// Calls `f` with the bytes read so far and those in all, where that is known. Mapping a file reads nothing.
    pub fn progress<F: FnMut(u64, Option<u64>)>(self, f: F) -> SnapshotProgress<F> {
        SnapshotProgress { options: self, f }
    }

    /// Opens a path.
    ///
    /// # Errors
    /// As [`Snapshot::open`], and [`Error::OutOfBounds`] for a window that does not lie inside the input.
    pub fn open<P: AsRef<Path>>(&self, path: P) -> Result<Snapshot> {
        self.open_path(path.as_ref(), &mut |_, _| ())
    }

    /// Standard input, as [`Snapshot::stdin`].
    ///
    /// # Errors
    /// As [`open`](SnapshotOptions::open).
    pub fn stdin(&self) -> Result<Snapshot> {
        input::open_stdin(&self.request, &mut |_, _| ()).map(Snapshot::new)
    }

    /// An open descriptor, as [`Snapshot::from_fd`].
    ///
    /// # Errors
    /// As [`open`](SnapshotOptions::open).
    pub fn from_fd<F: AsFile>(&self, fd: F) -> Result<Snapshot> {
        self.open_file(&fd, From::Offset, &mut |_, _| ())
    }

    /// An open file, as [`Snapshot::from_file`].
    ///
    /// # Errors
    /// As [`open`](SnapshotOptions::open).
    pub fn from_file<F: AsFile>(&self, file: F) -> Result<Snapshot> {
        self.open_file(&file, From::Start, &mut |_, _| ())
    }

    /// As [`from_file`](SnapshotOptions::from_file): here nothing is mapped without a lock.
    ///
    /// # Errors
    /// As [`open`](SnapshotOptions::open).
    ///
    /// # Safety
    /// As [`Snapshot::map_unguarded`].
    #[allow(unsafe_code)]
    pub unsafe fn map_unguarded<F: AsFile>(&self, file: F) -> Result<Snapshot> {
        self.from_file(file)
    }

    fn open_path(&self, path: &Path, progress: &mut Progress<'_>) -> Result<Snapshot> {
        input::open_path(path, &self.request, progress).map(Snapshot::new)
    }

    fn open_file<F: AsFile>(
        &self,
        file: &F,
        from: From,
        progress: &mut Progress<'_>,
    ) -> Result<Snapshot> {
        input::open_file(file, from, &self.request, progress).map(Snapshot::new)
    }
}

/// [`SnapshotOptions`] with a callback; made by [`SnapshotOptions::progress`].
#[must_use]
pub struct SnapshotProgress<F> {
    options: SnapshotOptions,
    f: F,
}

impl<F: FnMut(u64, Option<u64>)> SnapshotProgress<F> {
    /// As [`SnapshotOptions::open`].
    ///
    /// # Errors
    /// As [`SnapshotOptions::open`].
    pub fn open<P: AsRef<Path>>(mut self, path: P) -> Result<Snapshot> {
        self.options.open_path(path.as_ref(), &mut self.f)
    }

    /// As [`SnapshotOptions::stdin`].
    ///
    /// # Errors
    /// As [`SnapshotOptions::open`].
    pub fn stdin(mut self) -> Result<Snapshot> {
        input::open_stdin(&self.options.request, &mut self.f).map(Snapshot::new)
    }

    /// As [`SnapshotOptions::from_fd`].
    ///
    /// # Errors
    /// As [`SnapshotOptions::open`].
    pub fn from_fd<D: AsFile>(mut self, fd: D) -> Result<Snapshot> {
        self.options.open_file(&fd, From::Offset, &mut self.f)
    }

    /// As [`SnapshotOptions::from_file`].
    ///
    /// # Errors
    /// As [`SnapshotOptions::open`].
    pub fn from_file<D: AsFile>(mut self, file: D) -> Result<Snapshot> {
        self.options.open_file(&file, From::Start, &mut self.f)
    }
}

impl<F> fmt::Debug for SnapshotProgress<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SnapshotProgress");
        shown
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
