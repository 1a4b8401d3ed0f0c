//! A file that other processes keep writing, by reads.

use super::bytes::Bytes;
use super::input::{self, AsFile, From, Request};
use super::memory::{Buffer, CACHE_LINE};
use super::pages::Pages;
use super::snapshot::Snapshot;
use crate::Shareable;
use crate::bytes::ByteSlice;
use crate::enums::Change;
use crate::error::{Error, Result};
use crate::range;
use crate::sys;
use std::fmt;
use std::fs::{self, File};
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A file that other processes keep writing. Here each call reads from the file.
///
/// # Examples
/// ```
/// let live = stillmap::Live::open("Cargo.toml")?;
/// let mut buf = [0; 9];
/// assert_eq!(live.read_at(0, &mut buf)?, 9);
/// assert_eq!(&buf, b"[package]");
/// # Ok::<(), stillmap::Error>(())
/// ```
pub struct Live {
    file: File,
    len: usize,
    path: Option<PathBuf>,
    /// A call found less than there was, and no `refresh` has told yet.
    is_cut: AtomicBool,
}

impl Live {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::IsDirectory`]; [`Error::NotMappable`] for what is not a regular file; [`Error::Os`].
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        let path = path.as_ref();
        match fs::metadata(path) {
            Ok(stat) if stat.is_dir() => return Err(Error::is_directory(Some(path))),
            // An open of a FIFO would wait for a writer.
            Ok(stat) if !stat.is_file() => return Err(Error::not_a_regular_file(Some(path))),
            _ => {}
        }
        let file = File::open(path).map_err(|e| Error::os("open", Some(path), e))?;
        Live::new(file, Some(path.into()))
    }

    /// The file of a descriptor, which may be closed afterwards.
    ///
    /// # Errors
    /// As [`open`](Live::open).
    pub fn from_fd<F: AsFile>(fd: F) -> Result<Self> {
        let own = fd.with_file(sys::with_own_offset);
        let own = own
            .and_then(|own| own)
            .map_err(|e| Error::os("dup", None, e))?;
        Live::new(own, None)
    }

    fn new(file: File, path: Option<PathBuf>) -> Result<Self> {
        let stat = file
            .metadata()
            .map_err(|e| Error::os("fstat", path.as_deref(), e))?;
        if stat.is_dir() {
            return Err(Error::is_directory(path.as_deref()));
        }
        if !stat.is_file() {
            return Err(Error::not_a_regular_file(path.as_deref()));
        }
        let mut live = Live {
            file,
            len: 0,
            path,
            is_cut: AtomicBool::new(false),
        };
        live.len = live.size()?;
        Ok(live)
    }

    /// The length when it was opened or last refreshed, in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Looks at the length of the file again.
    ///
    /// # Errors
    /// [`Error::Os`]; [`Error::TooLarge`].
    pub fn refresh(&mut self) -> Result<Change> {
        let len = self.size()?;
        let before = std::mem::replace(&mut self.len, len);
        if std::mem::take(self.is_cut.get_mut()) {
            return Ok(Change::PagesLost);
        }
        Ok(match len {
            len if len > before => Change::Grown(before..len),
            len if len < before => Change::Cut(len..before),
            _ => Change::Same,
        })
    }

    /// Fails if the file is shorter than [`len`](Live::len).
    ///
    /// # Errors
    /// [`Error::PagesLost`]; [`Error::Os`].
    pub fn check_fault(&self) -> Result<()> {
        if self.size()? < self.len {
            return Err(self.pages_lost());
        }
        Ok(())
    }

    /// Copies bytes from `offset` on, and returns how many: fewer than `buf` holds at the end, and 0 beyond it.
    ///
    /// # Errors
    /// [`Error::PagesLost`] if the file was truncated below the bytes that were to be read; [`Error::Os`].
    pub fn read_at(&self, offset: usize, buf: &mut [u8]) -> Result<usize> {
        let len = self.len.saturating_sub(offset).min(buf.len());
        let bytes = self.read(offset, len)?;
        buf[..len].copy_from_slice(&bytes);
        Ok(len)
    }

    /// A value as it is now, copied out; it may be torn.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Misaligned`] if `offset` is not a multiple of the type's alignment;
    /// [`Error::PagesLost`].
    pub fn load<T: Shareable>(&self, offset: usize) -> Result<T> {
        range::check_bytes(offset, size_of::<T>(), self.len)?;
        if offset % align_of::<T>() != 0 {
            let error = Error::misaligned(offset as u64, align_of::<T>());
            return Err(error.with_path(|| self.path.clone()));
        }
        let bytes = self.read(offset, size_of::<T>())?;
        let start = bytes.start_and_len().0.cast::<T>();
        // SAFETY:
        // - `size_of::<T>()` bytes are initialised there, and `read_unaligned` needs no alignment.
        // - `Shareable` promises that every bit pattern is a value, and that dropping it does nothing.
        #[allow(unsafe_code)]
        Ok(unsafe { start.read_unaligned() })
    }

    /// A copy of a range.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::PagesLost`]; [`Error::Os`].
    pub fn snapshot<R: RangeBounds<usize>>(&self, range: R) -> Result<Snapshot> {
        let range = range::check(range, self.len)?;
        let request = Request {
            offset: range.start as u64,
            len: Some(range.len()),
            ..Request::default()
        };
        let opened = input::open_file(&self.file, From::Start, &request, &mut |_, _| ());
        opened.map(Snapshot::new).map_err(|e| self.shortened(e))
    }

    /// Prefetch, populate, lock and residency of its pages, as far as the platform has them.
    pub fn pages(&self) -> Pages<'_> {
        Pages::without_bytes(self.len)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    fn size(&self) -> Result<usize> {
        let path = self.path.as_deref();
        let stat = self
            .file
            .metadata()
            .map_err(|e| Error::os("fstat", path, e))?;
        let size = isize::try_from(stat.len()).map_err(|_| Error::too_large_to_address(path))?;
        Ok(size.unsigned_abs())
    }

    fn read(&self, offset: usize, len: usize) -> Result<Bytes> {
        if len == 0 {
            return Buffer::zeroed(0, CACHE_LINE).map(Bytes::Memory);
        }
        let request = Request {
            offset: offset as u64,
            len: Some(len),
            ..Request::default()
        };
        let opened = input::open_file(&self.file, From::Start, &request, &mut |_, _| ());
        opened
            .map(|opened| opened.bytes)
            .map_err(|e| self.shortened(e))
    }

    fn shortened(&self, error: Error) -> Error {
        if matches!(error, Error::OutOfBounds { .. }) {
            return self.pages_lost();
        }
        error.with_path(|| self.path.clone())
    }

    fn pages_lost(&self) -> Error {
        self.is_cut.store(true, Ordering::Relaxed);
        Error::pages_lost(self.path.as_deref())
    }
}

/// Prints the path and the length.
impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Live");
        shown
            .field("path", &self.path)
            .field("len", &self.len)
            .finish()
    }
}
