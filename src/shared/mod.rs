//! Memory that other threads and processes read and write at the same time, as atomics.

mod bytes;
mod create;
mod mapping;
mod open;
mod options;
mod pages;
mod seal;

pub use options::SharedOptions;

use crate::error::{Error, Result};
use crate::page;
use crate::range;
use crate::region::Region;
use crate::shareable::Shareable;
use crate::sigbus::FaultTolerantMapping;
use crate::sys;
use std::fmt;
use std::ops::{Deref, RangeBounds};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::NonNull;

/// A `T` of atomics in memory that forked children, and processes that open the same file or receive the same
/// descriptor, share.
///
/// ```text
///   this process        Shared<T> --+
///   a forked child      Shared<T> --+--> one value, in a memfd, a file, or memory without a name
///   another process     Shared<T> --+
/// ```
/// It derefs to `&T`, and `T` is made of atomics only ([`Shareable`]), so any process may change any byte at any time. New
/// memory is zeroed. Store with `Release` and load with `Acquire` to publish other bytes, as between threads.
///
/// ## Files that lose pages
/// A file can be truncated by others, its device can fail, and a disk can fill up. Touching a page that is gone raises
/// SIGBUS. The first `Shared` of a file installs a handler (`SA_SIGINFO|SA_ONSTACK`) that replaces the whole mapping, in
/// this process, by zeroed private memory. From then on [`check_fault`](Shared::check_fault), [`read_at`](Shared::read_at),
/// [`write_at`](Shared::write_at), [`flush`](Shared::flush) and [`start_writeback`](Shared::start_writeback) fail with
/// [`Error::PagesLost`] on every thread. Loads and stores through `&T` use that memory. A process forked before the fault
/// keeps its mapping of the file until it faults itself.
///
/// - A SIGBUS that is not caused by a fault in a `Shared` or `Live` is passed to the handler that was installed before.
/// - A handler that the program installs later must pass other signals on. If it does not, the handler of this crate is
///   installed again when the next file is opened (seven times, then the program's stays).
/// - The handler stays installed. A shared library that contains this crate is not unloaded by dlclose(3).
/// - A thread that blocks SIGBUS is killed by the kernel when it faults, whatever handlers are installed (sigaction(2)).
/// - Memory of this type without a name, and memfds that cannot shrink (`F_SEAL_SHRINK`), lose no pages and need no
///   handler. The exception is a machine with `vm.overcommit_memory` 2, see
///   [`docs::safety`](crate::docs::safety#anonymous).
/// - Compiling with `--cfg stillmap_no_sigbus` omits the handler; truncating the file then kills the process.
///
/// # Examples
/// ```
/// use stillmap::Shared;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// let counter = Shared::<AtomicU64>::new()?;
/// stillmap::fork::scope(|s| {
///     for _ in 0..4 {
///         s.spawn(|| {
///             counter.fetch_add(1, Ordering::Relaxed);
///         })?;
///     }
///     Ok::<(), stillmap::Error>(())
/// })??;
/// assert_eq!(counter.load(Ordering::Relaxed), 4);
/// # Ok::<(), stillmap::Error>(())
/// ```
/// It does not deref to a slice of plain bytes:
/// ```compile_fail,E0308
/// let memory = stillmap::Shared::<[std::sync::atomic::AtomicU8]>::with_len(16).unwrap();
/// let bytes: &[u8] = &memory;
/// ```
/// ```
/// let memory = stillmap::Shared::<[std::sync::atomic::AtomicU8]>::with_len(16).unwrap();
/// let bytes: &[std::sync::atomic::AtomicU8] = &memory;
/// # assert_eq!(bytes.len(), 16);
/// ```
/// nor to `&mut T`:
/// ```compile_fail,E0596
/// let mut counter = stillmap::Shared::<std::sync::atomic::AtomicU64>::new().unwrap();
/// let alone: &mut u64 = counter.get_mut();
/// ```
/// ```
/// let counter = stillmap::Shared::<std::sync::atomic::AtomicU64>::new().unwrap();
/// let now: u64 = counter.load(std::sync::atomic::Ordering::Relaxed);
/// # assert_eq!(now, 0);
/// ```
#[doc(alias = "MAP_SHARED")]
pub struct Shared<T: ?Sized + Shareable> {
    value: NonNull<T>,
    memory: SharedMapping,
    fd: Option<OwnedFd>,
    /// Offset of the value in the file, in bytes.
    offset: u64,
    path: Option<PathBuf>,
}

/// Owns the mapping.
enum SharedMapping {
    /// Of a memfd that cannot shrink: it never loses a page.
    Unshrinkable(Region),
    /// Of a file that may lose pages: the SIGBUS handler replaces them.
    FaultTolerant(FaultTolerantMapping),
}

// SAFETY: it gives `&T` only, whichever thread holds it, and `Shareable` types are `Sync`; it never drops a `T`.
#[allow(unsafe_code)]
unsafe impl<T: ?Sized + Shareable> Send for Shared<T> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T: ?Sized + Shareable> Sync for Shared<T> {}

impl<T: ?Sized + Shareable> Shared<T> {
    /// Writes the changes to the device and waits for it (`MS_SYNC`). For memory without a file it does nothing.
    ///
    /// # Errors
    /// [`Error::PagesLost`]; [`Error::Os`] if msync(2) failed: what is on the disk is unknown then, even if a later flush
    /// succeeds, as the kernel reports an error only once.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("counter");
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// let counter = stillmap::Shared::<AtomicU64>::create(&path)?;
    /// counter.fetch_add(1, Ordering::Relaxed);
    /// counter.flush()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    ///
    /// Source: msync(2).
    #[doc(alias = "msync")]
    pub fn flush(&self) -> Result<()> {
        self.flush_range(..)
    }

    /// [`flush`](Shared::flush) of the pages that hold a range of bytes (not elements).
    ///
    /// # Errors
    /// As [`flush`](Shared::flush); [`Error::OutOfBounds`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("table");
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// let table = stillmap::Shared::<[AtomicU64]>::create_slice(&path, 10_000)?;
    /// table[9_000].store(7, Ordering::Relaxed);
    /// table.flush_range(9_000 * 8..9_001 * 8)?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    ///
    /// Source: msync(2).
    pub fn flush_range<R: RangeBounds<usize>>(&self, range: R) -> Result<()> {
        let range = range::check(range, self.size())?;
        self.check_fault()?;
        if !range.is_empty() {
            // A window may start in the middle of a page.
            let first_page = self.region().start();
            let offset_in_page =
                self.value.as_ptr().cast::<u8>().addr() - first_page.as_ptr().addr();
            let start = page::align_down(offset_in_page + range.start);
            // SAFETY: inside the mapping.
            #[allow(unsafe_code)]
            let address = unsafe { first_page.add(start) };
            let done = sys::memory::sync(address, offset_in_page + range.end - start);
            done.map_err(|e| self.error("msync", e))?;
        }
        // Pages that were lost during the call did not reach the device.
        self.check_fault()
    }

    /// Starts writing the changes to the device, and does not wait for it. For memory without a file it does nothing.
    ///
    /// # Errors
    /// As [`flush`](Shared::flush).
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("counter");
    /// let counter = stillmap::Shared::<std::sync::atomic::AtomicU64>::create(&path)?;
    /// counter.start_writeback()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    ///
    /// Source: sync_file_range(2) with `SYNC_FILE_RANGE_WRITE`.
    #[doc(alias = "sync_file_range")]
    pub fn start_writeback(&self) -> Result<()> {
        self.check_fault()?;
        match &self.fd {
            Some(fd) if self.region().len() > 0 => {
                let started =
                    sys::sync::start_writeback(fd.as_fd(), self.offset, self.size() as u64);
                started.map_err(|e| self.error("sync_file_range", e))
            }
            _ => Ok(()),
        }
    }

    /// Whether the memory is still that of the file.
    ///
    /// A file that is too short now counts as lost pages, even if none of them was touched yet (fstat(2)). A file that was
    /// truncated and extended again since the last call is not noticed: it reads as zeros.
    ///
    /// # Errors
    /// [`Error::PagesLost`] once the file has lost pages, and on every later call: truncation, a device error, a full disk
    /// under a sparse file.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("counter");
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// let counter = stillmap::Shared::<AtomicU64>::create(&path)?;
    /// std::fs::File::create(&path).unwrap(); // truncates it
    /// assert_eq!(counter.load(Ordering::Relaxed), 0); // no signal
    /// assert!(matches!(counter.check_fault(), Err(stillmap::Error::PagesLost { .. })));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn check_fault(&self) -> Result<()> {
        let (SharedMapping::FaultTolerant(mapping), Some(fd)) = (&self.memory, &self.fd) else {
            return Ok(());
        };
        if !mapping.is_faulted() {
            let stat = sys::file::stat(fd.as_fd()).map_err(|e| self.error("fstat", e))?;
            if stat.size >= self.offset + self.size() as u64 {
                return self.check_flag();
            }
            mapping.fault();
        }
        Err(self.pages_lost())
    }

    /// The descriptor of the memfd or file, to send or to inherit; `None` for memory without a name.
    ///
    /// # Examples
    /// ```
    /// let memory = stillmap::Shared::<std::sync::atomic::AtomicU64>::memfd("example")?;
    /// let to_send = memory.fd().unwrap().try_clone_to_owned()?;
    /// # drop(to_send);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// The mapping, for advice on it.
    pub(crate) fn region(&self) -> &Region {
        self.memory.region()
    }

    /// Bytes of the value.
    pub(crate) fn size(&self) -> usize {
        size_of_val::<T>(self)
    }

    /// Ends the mapping and leaves the descriptor.
    pub(crate) fn into_fd(self) -> (Option<OwnedFd>, Option<PathBuf>) {
        (self.fd, self.path)
    }

    /// The fault flag alone: no system call.
    #[inline]
    fn check_flag(&self) -> Result<()> {
        match &self.memory {
            SharedMapping::FaultTolerant(mapping) if mapping.is_faulted() => Err(self.pages_lost()),
            _ => Ok(()),
        }
    }

    #[cold]
    fn pages_lost(&self) -> Error {
        Error::pages_lost(self.name().as_deref())
    }

    fn error(&self, call: &'static str, source: std::io::Error) -> Error {
        Error::os(call, self.name().as_deref(), source)
    }

    /// The path for messages: the caller's, or the kernel's.
    fn name(&self) -> Option<PathBuf> {
        let by_kernel = || sys::file::name(self.fd.as_ref()?.as_fd());
        self.path.clone().or_else(by_kernel)
    }
}

impl SharedMapping {
    fn region(&self) -> &Region {
        match self {
            SharedMapping::Unshrinkable(region) => region,
            SharedMapping::FaultTolerant(mapping) => mapping.region(),
        }
    }
}

impl<T: ?Sized + Shareable> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY:
        // - The mapping is readable and writable, as large as the value and aligned for it, and lives as long as
        //   `self`; only zeroed memory ever replaces it.
        // - Every bit pattern is a valid `T`, and any process that has the memory mapped may change any byte at any
        //   time: `T` is made of atomics, which allow that.
        #[allow(unsafe_code)]
        unsafe {
            self.value.as_ref()
        }
    }
}

impl<T: ?Sized + Shareable> AsRef<T> for Shared<T> {
    #[inline]
    fn as_ref(&self) -> &T {
        self
    }
}

/// Prints the size, the path and whether pages were lost, not the value.
impl<T: ?Sized + Shareable> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("size", &self.size())
            .field("path", &self.name())
            .field("faulted", &self.check_flag().is_err())
            .finish()
    }
}
