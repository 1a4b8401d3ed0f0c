//! `Mmap` and `MmapMut`.

use std::fmt;
use std::io;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use stillmap::{Anonymous, LockGuard, Pages, Private, Snapshot};

use crate::advice::{Advice, UncheckedAdvice};
use crate::options::{MmapOptions, RemapOptions, executable};
use crate::raw::SharedFile;

/// The bytes of a file, read-only: they never change, whatever other processes do to the file.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let map = stillmap_memmap2::Mmap::map(&std::fs::File::open("Cargo.toml")?)?;
/// assert!(map.starts_with(b"[workspace]"));
/// # Ok(())
/// # }
/// ```
pub struct Mmap {
    /// Before `bytes`, so that it is dropped first.
    lock: OwnedLock,
    bytes: ReadOnly,
}

enum ReadOnly {
    Snapshot(Arc<Snapshot>),
    Private(Arc<Private>),
    /// A file mapped by `map_mut`, whose caller is responsible for it.
    Shared(Arc<SharedFile>),
}

impl Mmap {
    /// See [`MmapOptions::map`].
    pub fn map<F: AsFd>(file: F) -> io::Result<Mmap> {
        MmapOptions::new().map(file)
    }

    /// See [`MmapOptions::map_if_safe`].
    pub fn map_if_safe<F: AsFd>(file: F) -> io::Result<Mmap> {
        MmapOptions::new().map_if_safe(file)
    }

    /// Writable memory with the same bytes; stores are not written to the file.
    pub fn make_mut(self) -> io::Result<MmapMut> {
        let mut memory = Anonymous::new(self.len())?;
        memory.copy_from_slice(&self);
        Ok(MmapMut::from(memory))
    }

    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        self.advise_range(advice, 0, self.len())
    }

    pub fn advise_range(&self, advice: Advice, offset: usize, len: usize) -> io::Result<()> {
        Ok(self.pages().advise(range(offset, len), advice.into())?)
    }

    /// Keeps the bytes in RAM, also after a copy took the place of the mapping, until `unlock` or drop.
    pub fn lock(&self) -> io::Result<()> {
        let guard = self.pages().lock(..)?;
        // SAFETY: only the lifetime changes. What the guard refers to is inside the `Arc` of `self.bytes`, which does
        // not move, and `lock` is dropped before it.
        let guard = unsafe { mem::transmute::<LockGuard<'_>, LockGuard<'static>>(guard) };
        self.lock.set(Some(guard));
        Ok(())
    }

    pub fn unlock(&self) -> io::Result<()> {
        self.lock.set(None);
        Ok(())
    }

    fn pages(&self) -> Pages<'_> {
        match &self.bytes {
            ReadOnly::Snapshot(snapshot) => snapshot.pages(),
            ReadOnly::Private(private) => private.pages(),
            ReadOnly::Shared(shared) => shared.pages(),
        }
    }

    fn from_bytes(bytes: ReadOnly) -> Self {
        let lock = OwnedLock::default();
        Mmap { lock, bytes }
    }
}

/// A guard that is kept beside what it refers to.
#[derive(Default)]
struct OwnedLock(Mutex<Option<LockGuard<'static>>>);

impl OwnedLock {
    fn set(&self, guard: Option<LockGuard<'static>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = guard;
    }
}

/// What a system call returned.
fn checked(returned: i32) -> io::Result<()> {
    if returned == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `offset..offset + len`; what overflows is out of bounds.
pub(crate) fn range(offset: usize, len: usize) -> std::ops::Range<usize> {
    offset..offset.saturating_add(len)
}

impl From<Snapshot> for Mmap {
    fn from(snapshot: Snapshot) -> Self {
        Mmap::from_bytes(ReadOnly::Snapshot(Arc::new(snapshot)))
    }
}

impl From<Private> for Mmap {
    fn from(private: Private) -> Self {
        Mmap::from_bytes(ReadOnly::Private(Arc::new(private)))
    }
}

impl Deref for Mmap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            ReadOnly::Snapshot(snapshot) => snapshot,
            ReadOnly::Private(private) => private,
            ReadOnly::Shared(shared) => shared,
        }
    }
}

impl AsRef<[u8]> for Mmap {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Mmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mmap")
            .field("ptr", &self.as_ptr())
            .field("len", &self.len())
            .finish()
    }
}

/// Writable bytes: anonymous memory, a private copy of a file, or a file that is shared with every process that has it open.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let mut map = stillmap_memmap2::MmapMut::map_anon(128)?;
/// map[0] = 42;
/// assert_eq!(map[0], 42);
/// # Ok(())
/// # }
/// ```
pub struct MmapMut(Writable);

enum Writable {
    Anonymous(Anonymous),
    Private(Private),
    Shared(SharedFile),
}

impl MmapMut {
    /// See [`MmapOptions::map_mut`].
    ///
    /// # Safety
    /// As there.
    pub unsafe fn map_mut<F: AsFd>(file: F) -> io::Result<MmapMut> {
        // SAFETY: the caller's promise.
        unsafe { MmapOptions::new().map_mut(file) }
    }

    /// Zeroed memory.
    pub fn map_anon(len: usize) -> io::Result<MmapMut> {
        MmapOptions::new().len(len).map_anon()
    }

    pub fn flush(&self) -> io::Result<()> {
        self.flush_range(0, self.len())
    }

    /// Starts to write the changed pages of a file to the disk, and does not wait.
    pub fn flush_async(&self) -> io::Result<()> {
        match &self.0 {
            Writable::Shared(shared) => shared.start_writeback(),
            Writable::Anonymous(_) | Writable::Private(_) => Ok(()),
        }
    }

    pub fn flush_range(&self, offset: usize, len: usize) -> io::Result<()> {
        match &self.0 {
            Writable::Shared(shared) => shared.flush_range(range(offset, len)),
            Writable::Anonymous(_) | Writable::Private(_) => Ok(()),
        }
    }

    /// As [`flush_async`](MmapMut::flush_async): the kernel starts with the whole file.
    pub fn flush_async_range(&self, _offset: usize, _len: usize) -> io::Result<()> {
        self.flush_async()
    }

    pub fn make_read_only(self) -> io::Result<Mmap> {
        Ok(match self.0 {
            Writable::Anonymous(memory) => Mmap::from(memory.freeze()?),
            Writable::Private(private) => Mmap::from(private),
            Writable::Shared(shared) => Mmap::from_bytes(ReadOnly::Shared(Arc::new(shared))),
        })
    }

    /// Fails: stillmap maps nothing executable.
    pub fn make_exec(self) -> io::Result<Mmap> {
        Err(executable())
    }

    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        self.advise_range(advice, 0, self.len())
    }

    pub fn advise_range(&self, advice: Advice, offset: usize, len: usize) -> io::Result<()> {
        let pages = match &self.0 {
            Writable::Anonymous(memory) => memory.pages(),
            Writable::Private(private) => private.pages(),
            Writable::Shared(shared) => shared.pages(),
        };
        Ok(pages.advise(range(offset, len), advice.into())?)
    }

    /// # Safety
    /// The bytes may change: no reference to them is alive.
    pub unsafe fn unchecked_advise(&self, advice: UncheckedAdvice) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.unchecked_advise_range(advice, 0, self.len()) }
    }

    /// # Safety
    /// As [`unchecked_advise`](MmapMut::unchecked_advise).
    pub unsafe fn unchecked_advise_range(
        &self,
        advice: UncheckedAdvice,
        offset: usize,
        len: usize,
    ) -> io::Result<()> {
        // The range check, and its error.
        self.advise_range(Advice::Normal, offset, len)?;
        let start = self.as_ptr().wrapping_add(offset).cast_mut();
        let page = stillmap::page::size();
        let inside = start.addr() % page;
        let start = start.wrapping_sub(inside).cast();
        // SAFETY: whole pages of this mapping, see above; the caller is responsible for the bytes.
        #[expect(clippy::disallowed_methods, reason = "stillmap gives no such advice")]
        let returned = unsafe { libc::madvise(start, len + inside, advice.code()) };
        checked(returned)
    }

    /// Keeps the pages in RAM until `unlock` or drop, mlock(2).
    pub fn lock(&self) -> io::Result<()> {
        // SAFETY: mlock(2) changes no byte.
        checked(unsafe { libc::mlock(self.as_ptr().cast(), self.len()) })
    }

    pub fn unlock(&self) -> io::Result<()> {
        // SAFETY: munlock(2) changes no byte.
        checked(unsafe { libc::munlock(self.as_ptr().cast(), self.len()) })
    }

    /// Changes the length of the mapping.
    ///
    /// # Safety
    /// As [`map_mut`](MmapOptions::map_mut), for the bytes that are added.
    pub unsafe fn remap(&mut self, new_len: usize, options: RemapOptions) -> io::Result<()> {
        match &mut self.0 {
            Writable::Anonymous(memory) if options.may_move || new_len <= memory.len() => {
                Ok(memory.resize(new_len)?)
            }
            // SAFETY: the caller's promise.
            Writable::Shared(shared) => unsafe { shared.remap(new_len, options.may_move) },
            Writable::Anonymous(_) | Writable::Private(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl From<Anonymous> for MmapMut {
    fn from(memory: Anonymous) -> Self {
        MmapMut(Writable::Anonymous(memory))
    }
}

impl From<Private> for MmapMut {
    fn from(private: Private) -> Self {
        MmapMut(Writable::Private(private))
    }
}

impl From<SharedFile> for MmapMut {
    fn from(shared: SharedFile) -> Self {
        MmapMut(Writable::Shared(shared))
    }
}

impl Deref for MmapMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Writable::Anonymous(memory) => memory,
            Writable::Private(private) => private,
            Writable::Shared(shared) => shared,
        }
    }
}

impl DerefMut for MmapMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Writable::Anonymous(memory) => memory,
            Writable::Private(private) => private,
            Writable::Shared(shared) => shared,
        }
    }
}

impl AsRef<[u8]> for MmapMut {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for MmapMut {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for MmapMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmapMut")
            .field("ptr", &self.as_ptr())
            .field("len", &self.len())
            .finish()
    }
}
