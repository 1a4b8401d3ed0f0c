//! `Mmap` and `MmapMut`, and the options that make them.

use std::fmt;
use std::io;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::sync::Arc;

use stillmap::{Anonymous, Backing, Error, HugePages, LockGuard, Pages, Private, Snapshot};

use crate::advice::{Advice, UncheckedAdvice};
use crate::locks::{AddressLock, LockState};
use crate::options::{MapIfSafeError, MmapOptions, RemapOptions, executable};
use crate::shared_file::{SharedFile, map_file, range};

/// How each of them is made.
impl MmapOptions {
    /// The bytes of a file, read-only: they never change.
    pub fn map<F: AsFd>(&self, file: F) -> io::Result<Mmap> {
        let mut options = Snapshot::options()
            .offset(self.offset)
            .populate(self.populate);
        if let Some(len) = self.len {
            options = options.len(len);
        }
        Ok(Mmap::from(options.from_file(file)?))
    }

    /// As [`map`](MmapOptions::map), which is safe for every file.
    pub fn map_if_safe<F: AsFd>(&self, file: F) -> Result<Mmap, MapIfSafeError> {
        self.map(file).map_err(MapIfSafeError)
    }

    /// Fails: stillmap maps nothing executable.
    pub fn map_exec<F: AsFd>(&self, _file: F) -> io::Result<Mmap> {
        Err(executable())
    }

    /// A writable mapping of a file, shared with every process that has it open.
    ///
    /// # Safety
    /// As memmap2's `map_mut`: no other process or part of this one changes the bytes or truncates the file while it is mapped.
    pub unsafe fn map_mut<F: AsFd>(&self, file: F) -> io::Result<MmapMut> {
        // SAFETY: the caller's promise.
        let file = unsafe { map_file(file, self.offset, self.len) }?;
        Ok(MmapMut::from(file))
    }

    /// A private copy of the bytes of a file: stores are not written to it.
    pub fn map_copy<F: AsFd>(&self, file: F) -> io::Result<MmapMut> {
        self.private(file).map(MmapMut::from)
    }

    /// The same, read-only.
    pub fn map_copy_read_only<F: AsFd>(&self, file: F) -> io::Result<Mmap> {
        self.private(file).map(Mmap::from)
    }

    fn private<F: AsFd>(&self, file: F) -> io::Result<Private> {
        let mut options = Private::options().offset(self.offset);
        if let Some(len) = self.len {
            options = options.len(len);
        }
        Ok(options.from_file(file)?)
    }

    /// Zeroed memory of the length that was set.
    pub fn map_anon(&self) -> io::Result<MmapMut> {
        let huge = if self.huge {
            HugePages::Reserved
        } else {
            HugePages::System
        };
        let options = Anonymous::options()
            .huge_pages(huge)
            .populate(self.populate);
        Ok(MmapMut::from(options.allocate(self.len.unwrap_or(0))?))
    }
}

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
    lock: LockState<MmapLock>,
    bytes: ReadOnly,
}

#[allow(dead_code, reason = "they are kept until the lock ends")]
enum MmapLock {
    /// Of what the `Arc` in `bytes` holds.
    Pages(LockGuard<'static>),
    Heap(AddressLock),
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
    pub fn map_if_safe<F: AsFd>(file: F) -> Result<Mmap, MapIfSafeError> {
        MmapOptions::new().map_if_safe(file)
    }

    /// Writable again what [`MmapMut::make_read_only`] made read-only. Of other maps a copy in memory, which is not written
    /// to the file.
    pub fn make_mut(self) -> io::Result<MmapMut> {
        let copy = |bytes: &[u8]| {
            let mut memory = Anonymous::new(bytes.len())?;
            memory.copy_from_slice(bytes);
            Ok(MmapMut::from(memory))
        };
        let Mmap { lock, bytes } = self;
        // It refers to what is in `bytes`.
        drop(lock);
        match bytes {
            ReadOnly::Snapshot(snapshot) => copy(&snapshot),
            ReadOnly::Private(private) => match Arc::try_unwrap(private) {
                Ok(private) => Ok(MmapMut::from(private)),
                Err(private) => copy(&private),
            },
            ReadOnly::Shared(shared) => match Arc::try_unwrap(shared) {
                Ok(shared) => Ok(MmapMut::from(shared)),
                Err(shared) => copy(&shared),
            },
        }
    }

    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        self.advise_range(advice, 0, self.len())
    }

    pub fn advise_range(&self, advice: Advice, offset: usize, len: usize) -> io::Result<()> {
        Ok(self.pages().advise(range(offset, len), advice.into())?)
    }

    /// # Safety
    /// As [`unchecked_advise_range`](Mmap::unchecked_advise_range).
    pub unsafe fn unchecked_advise(&self, advice: UncheckedAdvice) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.unchecked_advise_range(advice, 0, self.len()) }
    }

    /// The bytes of [`map`](Mmap::map) never change: `DontNeed` makes their pages the first to be reclaimed, and the other
    /// advice fails.
    ///
    /// # Safety
    /// As [`MmapMut::unchecked_advise_range`].
    pub unsafe fn unchecked_advise_range(
        &self,
        advice: UncheckedAdvice,
        offset: usize,
        len: usize,
    ) -> io::Result<()> {
        let pages = self.pages();
        pages.advise(range(offset, len), stillmap::Advice::Normal)?;
        match (&self.bytes, advice) {
            (ReadOnly::Snapshot(_), UncheckedAdvice::DontNeed) => {
                Ok(pages.advise(range(offset, len), stillmap::Advice::Cold)?)
            }
            (ReadOnly::Private(private), _) if private.backing() != Backing::Memory => {
                // SAFETY: the range was checked, the pages are the mapping's, and the caller is responsible for the bytes.
                unsafe { advice.apply(self.as_ptr().wrapping_add(offset), len) }
            }
            // SAFETY: as above.
            (ReadOnly::Shared(_), _) => unsafe {
                advice.apply(self.as_ptr().wrapping_add(offset), len)
            },
            (ReadOnly::Snapshot(_) | ReadOnly::Private(_), _) => {
                Err(io::ErrorKind::Unsupported.into())
            }
        }
    }

    /// Keeps the bytes in RAM, also after a copy took the place of the mapping, until `unlock` or drop.
    pub fn lock(&self) -> io::Result<()> {
        self.lock.begin(|| match self.pages().lock(..) {
            Ok(guard) => {
                // SAFETY: only the lifetime changes. What the guard refers to is inside the `Arc` of `self.bytes`, which
                // does not move, and `lock` is dropped before it.
                let guard = unsafe { mem::transmute::<LockGuard<'_>, LockGuard<'static>>(guard) };
                Ok(MmapLock::Pages(guard))
            }
            // A small file was read into the heap.
            Err(Error::Unsupported { .. }) => Ok(MmapLock::Heap(AddressLock::new(self)?)),
            Err(error) => Err(error.into()),
        })
    }

    pub fn unlock(&self) -> io::Result<()> {
        self.lock.end();
        Ok(())
    }

    /// Fails, but for what [`MmapMut::map_mut`] has mapped: map the file again.
    ///
    /// # Safety
    /// As [`MmapMut::remap`].
    pub unsafe fn remap(&mut self, new_len: usize, options: RemapOptions) -> io::Result<()> {
        match &mut self.bytes {
            ReadOnly::Shared(shared) => {
                self.lock.end();
                let shared = Arc::get_mut(shared).ok_or(io::ErrorKind::Unsupported)?;
                // SAFETY: the caller's promise.
                unsafe { shared.remap(new_len, options.may_move) }
            }
            ReadOnly::Snapshot(_) | ReadOnly::Private(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn pages(&self) -> Pages<'_> {
        match &self.bytes {
            ReadOnly::Snapshot(snapshot) => snapshot.pages(),
            ReadOnly::Private(private) => private.pages(),
            ReadOnly::Shared(shared) => shared.pages(),
        }
    }

    fn from_bytes(bytes: ReadOnly) -> Self {
        let lock = LockState::new();
        Mmap { lock, bytes }
    }
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
pub struct MmapMut {
    /// Before `memory`, so that it is dropped first.
    lock: LockState<AddressLock>,
    memory: Writable,
}

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
        match &self.memory {
            Writable::Shared(shared) => shared.start_writeback(),
            Writable::Anonymous(_) | Writable::Private(_) => Ok(()),
        }
    }

    pub fn flush_range(&self, offset: usize, len: usize) -> io::Result<()> {
        match &self.memory {
            Writable::Shared(shared) => shared.flush_range(range(offset, len)),
            Writable::Anonymous(_) | Writable::Private(_) => Ok(()),
        }
    }

    /// As [`flush_async`](MmapMut::flush_async): the kernel starts with the whole file.
    pub fn flush_async_range(&self, _offset: usize, _len: usize) -> io::Result<()> {
        self.flush_async()
    }

    pub fn make_read_only(self) -> io::Result<Mmap> {
        Ok(match self.memory {
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
        let pages = match &self.memory {
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
        match &self.memory {
            // Pages of the heap hold bytes of others, and in memory there is no file to return to.
            Writable::Private(private) if private.backing() == Backing::Memory => {
                Err(io::ErrorKind::Unsupported.into())
            }
            // SAFETY: the range was checked, the pages are the mapping's, and the caller is responsible for the bytes.
            _ => unsafe { advice.apply(self.as_ptr().wrapping_add(offset), len) },
        }
    }

    /// Keeps the pages in RAM until `unlock` or drop, mlock(2).
    pub fn lock(&self) -> io::Result<()> {
        self.lock.begin(|| AddressLock::new(self))
    }

    pub fn unlock(&self) -> io::Result<()> {
        self.lock.end();
        Ok(())
    }

    /// Changes the length of the mapping.
    ///
    /// # Safety
    /// As [`map_mut`](MmapOptions::map_mut), for the bytes that are added.
    pub unsafe fn remap(&mut self, new_len: usize, options: RemapOptions) -> io::Result<()> {
        let was_locked = self.lock.end();
        let done = match &mut self.memory {
            Writable::Anonymous(memory) if options.may_move || new_len <= memory.len() => {
                memory.resize(new_len).map_err(io::Error::from)
            }
            // SAFETY: the caller's promise.
            Writable::Shared(shared) => unsafe { shared.remap(new_len, options.may_move) },
            Writable::Anonymous(_) | Writable::Private(_) => Err(io::ErrorKind::Unsupported.into()),
        };
        if was_locked {
            self.lock()?;
        }
        done
    }
}

impl MmapMut {
    fn from_memory(memory: Writable) -> Self {
        let lock = LockState::new();
        MmapMut { lock, memory }
    }
}

impl From<Anonymous> for MmapMut {
    fn from(memory: Anonymous) -> Self {
        MmapMut::from_memory(Writable::Anonymous(memory))
    }
}

impl From<Private> for MmapMut {
    fn from(private: Private) -> Self {
        MmapMut::from_memory(Writable::Private(private))
    }
}

impl From<SharedFile> for MmapMut {
    fn from(shared: SharedFile) -> Self {
        MmapMut::from_memory(Writable::Shared(shared))
    }
}

impl Deref for MmapMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Writable::Anonymous(memory) => memory,
            Writable::Private(private) => private,
            Writable::Shared(shared) => shared,
        }
    }
}

impl DerefMut for MmapMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
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

// SAFETY: moving the value does not move the bytes.
#[cfg(feature = "stable_deref_trait")]
unsafe impl stable_deref_trait::StableDeref for Mmap {}

// SAFETY: as above.
#[cfg(feature = "stable_deref_trait")]
unsafe impl stable_deref_trait::StableDeref for MmapMut {}
