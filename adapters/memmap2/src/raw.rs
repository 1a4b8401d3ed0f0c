//! `MmapRaw`, and the options that make it.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use crate::advice::{Advice, UncheckedAdvice};
use crate::locks::{AddressLock, LockState};
use crate::map::{Mmap, MmapMut};
use crate::options::{MmapOptions, RemapOptions};
use crate::shared_file::{FileMapping, range};

/// How it is made.
impl MmapOptions {
    /// A writable mapping of a file by its address alone: no reference to its bytes is made.
    pub fn map_raw<F: AsFd>(&self, file: F) -> io::Result<MmapRaw> {
        MmapRaw::writable(file, self.offset, self.len)
    }

    /// The address of the bytes that [`map`](MmapOptions::map) gives: they never change.
    pub fn map_raw_read_only<F: AsFd>(&self, file: F) -> io::Result<MmapRaw> {
        self.map(file).map(MmapRaw::from)
    }
}

/// A mapping by its address alone.
pub struct MmapRaw {
    /// Before `owner`, so that it is dropped first.
    lock: LockState<AddressLock>,
    start: *mut u8,
    len: usize,
    owner: Owner,
}

#[allow(dead_code, reason = "they keep the mapping")]
enum Owner {
    Mmap(Mmap),
    MmapMut(MmapMut),
    /// Never as a slice: other processes may change the bytes.
    File(FileMapping),
}

// SAFETY: it is an address and an owner that may be sent; code that reads or writes through the address is responsible
// for it.
unsafe impl Send for MmapRaw {}
// SAFETY: as above.
unsafe impl Sync for MmapRaw {}

impl MmapRaw {
    /// A writable mapping of a file.
    pub fn map_raw<F: AsFd>(file: F) -> io::Result<MmapRaw> {
        MmapRaw::writable(file, 0, None)
    }

    pub(crate) fn writable<F: AsFd>(
        file: F,
        offset: u64,
        len: Option<usize>,
    ) -> io::Result<MmapRaw> {
        let mapping = FileMapping::new(file, offset, len)?;
        Ok(MmapRaw {
            lock: LockState::new(),
            start: mapping.start(),
            len: mapping.len(),
            owner: Owner::File(mapping),
        })
    }

    pub fn as_ptr(&self) -> *const u8 {
        self.start
    }

    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.start
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn flush(&self) -> io::Result<()> {
        self.flush_range(0, self.len)
    }

    pub fn flush_async(&self) -> io::Result<()> {
        match &self.owner {
            Owner::MmapMut(map) => map.flush_async(),
            Owner::File(mapping) => mapping.start_writeback(),
            Owner::Mmap(_) => Ok(()),
        }
    }

    pub fn flush_range(&self, offset: usize, len: usize) -> io::Result<()> {
        match &self.owner {
            Owner::MmapMut(map) => map.flush_range(offset, len),
            Owner::File(mapping) => mapping.flush_range(range(offset, len)),
            Owner::Mmap(_) => Ok(()),
        }
    }

    pub fn flush_async_range(&self, _offset: usize, _len: usize) -> io::Result<()> {
        self.flush_async()
    }

    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        self.advise_range(advice, 0, self.len)
    }

    pub fn advise_range(&self, advice: Advice, offset: usize, len: usize) -> io::Result<()> {
        match &self.owner {
            Owner::Mmap(map) => map.advise_range(advice, offset, len),
            Owner::MmapMut(map) => map.advise_range(advice, offset, len),
            Owner::File(mapping) => {
                let pages = mapping.pages();
                Ok(pages.advise(range(offset, len), advice.into())?)
            }
        }
    }

    /// # Safety
    /// As [`MmapMut::unchecked_advise`].
    pub unsafe fn unchecked_advise(&self, advice: UncheckedAdvice) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.unchecked_advise_range(advice, 0, self.len) }
    }

    /// # Safety
    /// As [`MmapMut::unchecked_advise`].
    pub unsafe fn unchecked_advise_range(
        &self,
        advice: UncheckedAdvice,
        offset: usize,
        len: usize,
    ) -> io::Result<()> {
        match &self.owner {
            // SAFETY: the caller's promise.
            Owner::Mmap(map) => unsafe { map.unchecked_advise_range(advice, offset, len) },
            // SAFETY: the caller's promise.
            Owner::MmapMut(map) => unsafe { map.unchecked_advise_range(advice, offset, len) },
            Owner::File(_) => {
                self.advise_range(Advice::Normal, offset, len)?;
                // SAFETY: the range was checked, and the caller is responsible for the bytes.
                unsafe { advice.apply(self.as_ptr().wrapping_add(offset), len) }
            }
        }
    }

    /// Keeps the pages in RAM until `unlock` or drop, mlock(2).
    pub fn lock(&self) -> io::Result<()> {
        self.lock.begin(|| AddressLock::of(self.start, self.len))
    }

    pub fn unlock(&self) -> io::Result<()> {
        self.lock.end();
        Ok(())
    }

    /// Changes the length of the mapping.
    ///
    /// # Safety
    /// Addresses from before are not used.
    pub unsafe fn remap(&mut self, new_len: usize, options: RemapOptions) -> io::Result<()> {
        let was_locked = self.lock.end();
        let done = match &mut self.owner {
            // SAFETY: the caller's promise.
            Owner::Mmap(map) => unsafe { map.remap(new_len, options) },
            // SAFETY: the caller's promise.
            Owner::MmapMut(map) => unsafe { map.remap(new_len, options) },
            Owner::File(mapping) => mapping.remap(new_len, options.may_move),
        };
        (self.start, self.len) = match &mut self.owner {
            Owner::Mmap(map) => (map.as_ptr().cast_mut(), map.len()),
            Owner::MmapMut(map) => (map.as_mut_ptr(), map.len()),
            Owner::File(mapping) => (mapping.start(), mapping.len()),
        };
        if was_locked {
            self.lock()?;
        }
        done
    }
}

impl From<Mmap> for MmapRaw {
    fn from(map: Mmap) -> Self {
        MmapRaw {
            lock: LockState::new(),
            start: map.as_ptr().cast_mut(),
            len: map.len(),
            owner: Owner::Mmap(map),
        }
    }
}

impl From<MmapMut> for MmapRaw {
    fn from(mut map: MmapMut) -> Self {
        MmapRaw {
            lock: LockState::new(),
            start: map.as_mut_ptr(),
            len: map.len(),
            owner: Owner::MmapMut(map),
        }
    }
}

impl fmt::Debug for MmapRaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmapRaw")
            .field("ptr", &self.start)
            .field("len", &self.len)
            .finish()
    }
}
