//! The bytes of a file as private memory that the program can change.

use super::bytes::Bytes;
use super::input::{self, AsFile, From, Opened, Request};
use super::pages::Pages;
use crate::backing::Backing;
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::error::{Error, Result};
use crate::options::{impl_try_from_file, setters};
use crate::sys::Protection;
use std::path::Path;
use std::ptr::NonNull;

/// The bytes of a file as private memory: read, or a copy-on-write view of a file that is locked, as for
/// [`Snapshot`](crate::Snapshot).
///
/// # Examples
/// ```
/// let mut bytes = stillmap::Private::open("Cargo.toml")?;
/// bytes.make_ascii_uppercase();
/// # Ok::<(), stillmap::Error>(())
/// ```
pub struct Private {
    bytes: Bytes,
}

impl Private {
    /// The bytes of a file, from its start to its end; of a pipe or a device, all that can be read.
    ///
    /// # Errors
    /// [`Error::IsDirectory`]; [`Error::TooLarge`] for a stream of more than 1 GiB; [`Error::Os`].
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        Private::options().open(path)
    }

    /// The bytes of an open descriptor, from its current offset to its end; the offset is moved to the end.
    ///
    /// # Errors
    /// As [`open`](Private::open).
    pub fn from_fd<F: AsFile>(fd: F) -> Result<Self> {
        Private::options().from_fd(fd)
    }

    /// The bytes of an open file, from its start to its end, wherever its offset is.
    ///
    /// # Errors
    /// As [`open`](Private::open).
    pub fn from_file<F: AsFile>(file: F) -> Result<Self> {
        Private::options().from_file(file)
    }

    /// The window and the limits.
    pub fn options() -> PrivateOptions {
        PrivateOptions::default()
    }

    /// [`Backing::Memory`] or [`Backing::Locked`].
    pub fn backing(&self) -> Backing {
        self.bytes.backing()
    }

    /// Prefetch, populate, lock and residency of its pages, as far as the platform has them.
    pub fn pages(&self) -> Pages<'_> {
        self.bytes.pages()
    }

    fn new(opened: Opened) -> Self {
        let bytes = opened.bytes;
        Private { bytes }
    }
}

// SAFETY: the bytes of `bytes`, which promises the same. They are memory, or a view that is copied on write: writable.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Private {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        self.bytes.start_and_len()
    }
}

impl_byte_slice!(Private, debug: backing);
impl_byte_slice_mut!(Private);

impl_try_from_file! {
    /// The whole file, wherever its offset is.
    Private, file => Private::from_file(file)
}

/// How to open a [`Private`]; made by [`Private::options`].
#[derive(Clone, Debug)]
#[must_use]
pub struct PrivateOptions {
    request: Request,
}

impl Default for PrivateOptions {
    fn default() -> Self {
        let view = Some(Protection::CopyOnWrite);
        let request = Request {
            view,
            ..Request::default()
        };
        PrivateOptions { request }
    }
}

setters! {
    impl PrivateOptions;

    /// Skips the first `offset` bytes of the input.
    fn offset(offset: u64) { request.offset = offset; }

    /// Takes `len` bytes, no more and no less; the default is all up to the end.
    fn len(len: usize) { request.len = Some(len); }

    /// The most bytes of the input; more is [`Error::TooLarge`].
    fn size_limit(bytes: u64) { request.limit = Some(bytes); }

    /// The most bytes to read into memory; more is [`Error::TooLarge`], as nothing is copied to a disk here.
    fn memory_limit(bytes: u64) { request.memory_limit = Some(bytes); }
}

impl PrivateOptions {
    /// Opens a path.
    ///
    /// # Errors
    /// As [`Private::open`], and [`Error::OutOfBounds`] for a window that does not lie inside the input.
    pub fn open<P: AsRef<Path>>(&self, path: P) -> Result<Private> {
        input::open_path(path.as_ref(), &self.request, &mut |_, _| ()).map(Private::new)
    }

    /// An open descriptor, as [`Private::from_fd`].
    ///
    /// # Errors
    /// As [`open`](PrivateOptions::open).
    pub fn from_fd<F: AsFile>(&self, fd: F) -> Result<Private> {
        self.open_file(&fd, From::Offset)
    }

    /// An open file, as [`Private::from_file`].
    ///
    /// # Errors
    /// As [`open`](PrivateOptions::open).
    pub fn from_file<F: AsFile>(&self, file: F) -> Result<Private> {
        self.open_file(&file, From::Start)
    }

    fn open_file<F: AsFile>(&self, file: &F, from: From) -> Result<Private> {
        input::open_file(file, from, &self.request, &mut |_, _| ()).map(Private::new)
    }
}
