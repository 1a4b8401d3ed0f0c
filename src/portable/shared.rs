//! Memory of atomics, shared by the threads of this process, and on Windows with other processes.

use super::memory::{Buffer, CACHE_LINE};
use super::pages::{Kind, Pages};
use super::snapshot::Snapshot;
use crate::Shareable;
use crate::bytes::ByteSlice;
use crate::error::{Error, Result};
use crate::range::{check, check_bytes};
use crate::sys::Section;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, RangeBounds};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

/// A `T` of atomics. The threads of a process share it.
///
/// On Windows, processes can share it too: [`memfd`](Shared::memfd) makes a section without a file, whose handle a child
/// inherits, and opens with `Shared::from_handle`. On other platforms `memfd` fails with [`Error::Unsupported`]. Files can be
/// shared on Linux only.
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
    memory: Memory,
}

/// Owns the value. No other code of this process accesses its bytes.
pub(super) enum Memory {
    Private(Buffer),
    Section(Section),
}

impl Memory {
    /// Of this process; zeroed.
    fn private<T>(len: usize) -> Result<Self> {
        Buffer::zeroed(bytes_of::<T>(len)?, CACHE_LINE.max(align_of::<T>())).map(Memory::Private)
    }

    /// Of every process that has its handle; zeroed.
    fn section<T>(len: usize) -> Result<Self> {
        // No section is empty.
        let bytes = bytes_of::<T>(len)?.max(1);
        let section = Section::create(bytes as u64).map_err(|e| match e.raw_os_error() {
            Some(_) => Error::os("CreateFileMapping", None, e),
            None => Error::unsupported(None, "memory shared between processes"),
        })?;
        Memory::of_section::<T>(section, len)
    }

    /// That of a section with at least so many bytes, to read and to write, all of which have memory.
    pub(super) fn of_section<T>(section: Section, len: usize) -> Result<Self> {
        let needed = bytes_of::<T>(len)?;
        if align_of::<T>() > Section::ALIGN {
            return Err(Error::unsupported(None, "so large an alignment"));
        }
        let usable = section.usable_bytes();
        let usable = usable.map_err(|e| Error::os("mmap", None, e))?;
        if usable < needed {
            return Err(Error::too_small(None, needed as u64, usable as u64));
        }
        Ok(Memory::Section(section))
    }

    fn start(&self) -> NonNull<u8> {
        match self {
            Memory::Private(memory) => memory.start_and_len().0,
            Memory::Section(section) => section.start(),
        }
    }
}

fn bytes_of<T>(len: usize) -> Result<usize> {
    let bytes = len.checked_mul(size_of::<T>());
    bytes
        .filter(|&bytes| isize::try_from(bytes).is_ok())
        .ok_or_else(|| Error::too_large_to_address(None))
}

// SAFETY: it gives `&T` only, whichever thread holds it, and `Shareable` types are `Sync`; it never drops a `T`.
#[allow(unsafe_code)]
unsafe impl<T: ?Sized + Shareable> Send for Shared<T> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T: ?Sized + Shareable> Sync for Shared<T> {}

pub(super) fn files(path: Option<&Path>) -> Error {
    Error::unsupported(path, "a file as shared memory")
}

impl<T: Shareable> Shared<T> {
    /// A zeroed value.
    ///
    /// # Errors
    /// [`Error::Os`] if the allocator has no more memory.
    pub fn new() -> Result<Self> {
        Ok(Shared::one(Memory::private::<T>(1)?))
    }

    /// A zeroed value that other processes can share, on Windows. The name is not used.
    ///
    /// # Errors
    /// [`Error::Unsupported`]; [`Error::Os`].
    pub fn memfd(_name: &str) -> Result<Self> {
        Ok(Shared::one(Memory::section::<T>(1)?))
    }

    pub(super) fn one(memory: Memory) -> Self {
        let value = memory.start().cast();
        Shared { value, memory }
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        Err(files(Some(path.as_ref())))
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn create<P: AsRef<Path>>(path: P) -> Result<Self> {
        Err(files(Some(path.as_ref())))
    }
}

impl<A: Shareable> Shared<[A]> {
    /// `len` zeroed values.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Os`] if the allocator has no more memory.
    pub fn with_len(len: usize) -> Result<Self> {
        Ok(Shared::many(Memory::private::<A>(len)?, len))
    }

    /// `len` zeroed values that other processes can share, on Windows. The name is not used.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Unsupported`]; [`Error::Os`].
    pub fn memfd_slice(_name: &str, len: usize) -> Result<Self> {
        Ok(Shared::many(Memory::section::<A>(len)?, len))
    }

    pub(super) fn many(memory: Memory, len: usize) -> Self {
        let value = NonNull::slice_from_raw_parts(memory.start().cast(), len);
        Shared { value, memory }
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn open_slice<P: AsRef<Path>>(path: P) -> Result<Self> {
        Err(files(Some(path.as_ref())))
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn create_slice<P: AsRef<Path>>(path: P, _len: usize) -> Result<Self> {
        Err(files(Some(path.as_ref())))
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
        // SAFETY: `memory` owns the bytes, which are initialised; the caller excludes all others.
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

    pub(super) fn section(&self) -> Option<&Section> {
        match &self.memory {
            Memory::Private(_) => None,
            Memory::Section(section) => Some(section),
        }
    }

    /// Prefetch, populate, lock and residency of its pages, as far as the platform has them.
    pub fn pages(&self) -> Pages<'_> {
        let kind = match &self.memory {
            Memory::Private(memory) => memory.kind(),
            Memory::Section(_) => Kind::Own,
        };
        Pages::shared(self.value.addr().get(), size_of_val::<T>(self), kind)
    }

    /// Fails: the platform has no seals.
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
        // SAFETY: `memory` owns a `T` there, aligned; zero bytes are a valid value, and all changes are atomic.
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

/// Options for sharing a part of a file; without effect here, since no file can be shared.
#[must_use]
pub struct SharedOptions<T: ?Sized>(PhantomData<fn() -> Box<T>>);

impl<T: ?Sized> SharedOptions<T> {
    /// No effect.
    pub fn offset(self, _bytes: u64) -> Self {
        self
    }
}

impl<A> SharedOptions<[A]> {
    /// No effect.
    pub fn len(self, _elements: usize) -> Self {
        self
    }
}

impl<T: ?Sized + Shareable> SharedOptions<T> {
    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn open<P: AsRef<Path>>(&self, path: P) -> Result<Shared<T>> {
        Err(files(Some(path.as_ref())))
    }
}

impl<T: ?Sized> Default for SharedOptions<T> {
    fn default() -> Self {
        SharedOptions(PhantomData)
    }
}

impl<T: ?Sized> Clone for SharedOptions<T> {
    fn clone(&self) -> Self {
        SharedOptions::default()
    }
}

impl<T: ?Sized> fmt::Debug for SharedOptions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedOptions")
    }
}
