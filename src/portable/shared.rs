//! Memory of atomics, shared by the threads of this process.

use super::memory::{Buffer, CACHE_LINE};
use super::pages::Pages;
use super::snapshot::Snapshot;
use crate::Shareable;
use crate::bytes::ByteSlice;
use crate::error::{Error, Result};
use crate::range::{check, check_bytes};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, RangeBounds};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

/// A `T` of atomics. On this platform the threads of one process share it; between processes it is
/// [`Error::Unsupported`].
///
/// # Examples
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
/// let counter = stillmap::Shared::<AtomicU32>::new()?;
/// counter.fetch_add(1, Ordering::Relaxed);
/// assert_eq!(counter.load(Ordering::Relaxed), 1);
/// # Ok::<(), stillmap::Error>(())
/// ```
pub struct Shared<T: ?Sized + Shareable> {
    value: NonNull<T>,
    /// Owns the value. Nothing else looks at its bytes.
    _memory: Buffer,
}

// SAFETY: it gives `&T` only, whichever thread holds it, and `Shareable` types are `Sync`; it never drops a `T`.
#[allow(unsafe_code)]
unsafe impl<T: ?Sized + Shareable> Send for Shared<T> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T: ?Sized + Shareable> Sync for Shared<T> {}

fn zeroed<T>(len: usize) -> Result<Buffer> {
    let bytes = len.checked_mul(size_of::<T>());
    let bytes = bytes.ok_or_else(|| Error::too_large_to_address(None))?;
    Buffer::zeroed(bytes, CACHE_LINE.max(align_of::<T>()))
}

fn between_processes(path: Option<&Path>) -> Error {
    Error::unsupported(path, "memory shared between processes")
}

impl<T: Shareable> Shared<T> {
    /// A zeroed value.
    ///
    /// # Errors
    /// [`Error::Os`] if the allocator has no more memory.
    pub fn new() -> Result<Self> {
        let memory = zeroed::<T>(1)?;
        let value = memory.start_and_len().0.cast();
        Ok(Shared {
            value,
            _memory: memory,
        })
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn memfd(_name: &str) -> Result<Self> {
        Err(between_processes(None))
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        Err(between_processes(Some(path.as_ref())))
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn create<P: AsRef<Path>>(path: P) -> Result<Self> {
        Err(between_processes(Some(path.as_ref())))
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    #[cfg(unix)]
    pub fn from_fd<F: std::os::fd::AsFd>(_fd: F) -> Result<Self> {
        Err(between_processes(None))
    }
}

impl<A: Shareable> Shared<[A]> {
    /// `len` zeroed values.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Os`] if the allocator has no more memory.
    pub fn with_len(len: usize) -> Result<Self> {
        let memory = zeroed::<A>(len)?;
        let start = memory.start_and_len().0.cast();
        let value = NonNull::slice_from_raw_parts(start, len);
        Ok(Shared {
            value,
            _memory: memory,
        })
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn memfd_slice(_name: &str, _len: usize) -> Result<Self> {
        Err(between_processes(None))
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn open_slice<P: AsRef<Path>>(path: P) -> Result<Self> {
        Err(between_processes(Some(path.as_ref())))
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn create_slice<P: AsRef<Path>>(path: P, _len: usize) -> Result<Self> {
        Err(between_processes(Some(path.as_ref())))
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    #[cfg(unix)]
    pub fn from_fd_slice<F: std::os::fd::AsFd>(_fd: F) -> Result<Self> {
        Err(between_processes(None))
    }
}

impl Shared<[AtomicU8]> {
    /// The bytes as a plain slice.
    ///
    /// # Safety
    /// As long as the slice lives, no other thread uses these bytes.
    #[allow(unsafe_code)]
    pub unsafe fn as_mut_slice(&mut self) -> &mut [u8] {
        let start = self.value.as_ptr().cast::<u8>();
        // SAFETY: `_memory` owns the bytes, which are initialised; the caller excludes all others.
        unsafe { std::slice::from_raw_parts_mut(start, self.len()) }
    }

    /// Copies bytes out, each by one load.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn read_at(&self, offset: usize, buf: &mut [u8]) -> Result<()> {
        check_bytes(offset, buf.len(), self.len())?;
        for (to, from) in buf.iter_mut().zip(&self[offset..]) {
            *to = from.load(Ordering::Relaxed);
        }
        Ok(())
    }

    /// Copies bytes in, each by one store.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn write_at(&self, offset: usize, data: &[u8]) -> Result<()> {
        check_bytes(offset, data.len(), self.len())?;
        for (from, to) in data.iter().zip(&self[offset..]) {
            to.store(*from, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl<T: ?Sized + Shareable> Shared<T> {
    /// Does nothing: there is no file.
    ///
    /// # Errors
    /// None on this platform.
    pub fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// Does nothing: there is no file.
    ///
    /// # Errors
    /// None on this platform.
    pub fn start_writeback(&self) -> Result<()> {
        Ok(())
    }

    /// Does nothing: no page can be lost.
    ///
    /// # Errors
    /// None on this platform.
    pub fn check_fault(&self) -> Result<()> {
        Ok(())
    }

    /// Does nothing: there is no file.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn flush_range<R: RangeBounds<usize>>(&self, range: R) -> Result<()> {
        check(range, size_of_val::<T>(self)).map(drop)
    }

    /// Options for sharing a window of a file, which fails on this platform.
    pub fn options() -> SharedOptions<T> {
        SharedOptions::default()
    }

    /// `None`: there is no file.
    #[cfg(unix)]
    pub fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    /// Residency, advice and locks: nothing is known of them here.
    pub fn pages(&self) -> Pages<'_> {
        Pages::of_len(size_of_val::<T>(self))
    }

    /// Fails: other threads may hold a reference, and nothing can seal the memory.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn seal(self) -> Result<Snapshot> {
        Err(Error::unsupported(None, "sealing"))
    }
}

impl<T: ?Sized + Shareable> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `_memory` owns a `T` there, aligned; zero bytes are a valid value, and all changes are atomic.
        #[allow(unsafe_code)]
        unsafe {
            self.value.as_ref()
        }
    }
}

impl<T: ?Sized + Shareable> AsRef<T> for Shared<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

/// Prints the size, not the value.
impl<T: ?Sized + Shareable> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Shared");
        shown.field("size", &size_of_val::<T>(self)).finish()
    }
}

/// Which part of a file to share.
#[must_use]
pub struct SharedOptions<T: ?Sized> {
    offset: u64,
    len: Option<usize>,
    value: PhantomData<fn() -> Box<T>>,
}

impl<T: ?Sized> SharedOptions<T> {
    /// The first byte of the file to share.
    pub fn offset(mut self, bytes: u64) -> Self {
        self.offset = bytes;
        self
    }
}

impl<A> SharedOptions<[A]> {
    /// How many elements to share.
    pub fn len(mut self, elements: usize) -> Self {
        self.len = Some(elements);
        self
    }
}

impl<T: ?Sized + Shareable> SharedOptions<T> {
    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn open<P: AsRef<Path>>(&self, path: P) -> Result<Shared<T>> {
        Err(between_processes(Some(path.as_ref())))
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    #[cfg(unix)]
    pub fn from_fd<F: std::os::fd::AsFd>(&self, _fd: F) -> Result<Shared<T>> {
        Err(between_processes(None))
    }
}

impl<T: ?Sized> Default for SharedOptions<T> {
    fn default() -> Self {
        SharedOptions {
            offset: 0,
            len: None,
            value: PhantomData,
        }
    }
}

impl<T: ?Sized> Clone for SharedOptions<T> {
    fn clone(&self) -> Self {
        SharedOptions { ..*self }
    }
}

impl<T: ?Sized> fmt::Debug for SharedOptions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedOptions")
            .field("offset", &self.offset)
            .field("len", &self.len)
            .finish()
    }
}
