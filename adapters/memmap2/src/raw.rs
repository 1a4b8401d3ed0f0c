//! Files mapped shared and writable, guarded only by the caller's promise; `MmapRaw`.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU8;

use stillmap::{Pages, Shared};

use crate::advice::{Advice, UncheckedAdvice};
use crate::locks::{AddressLock, LockState};
use crate::map::{Mmap, MmapMut, range};
use crate::options::RemapOptions;

/// A file mapped shared and writable. Other processes may change the bytes.
#[derive(Debug)]
pub struct FileMapping {
    memory: Shared<[AtomicU8]>,
    /// What `remap` maps again.
    file: OwnedFd,
    offset: u64,
}

impl FileMapping {
    fn new<F: AsFd>(file: F, offset: u64, len: Option<usize>) -> io::Result<Self> {
        let file = file.as_fd().try_clone_to_owned()?;
        Ok(FileMapping {
            memory: window(&file, offset, len)?,
            file,
            offset,
        })
    }

    pub fn pages(&self) -> Pages<'_> {
        self.memory.pages()
    }

    pub fn flush_range(&self, range: Range<usize>) -> io::Result<()> {
        Ok(self.memory.flush_range(range)?)
    }

    pub fn start_writeback(&self) -> io::Result<()> {
        Ok(self.memory.start_writeback()?)
    }

    /// Maps the file again; the mapping before ends.
    fn remap(&mut self, len: usize, may_move: bool) -> io::Result<()> {
        if !may_move && len > self.memory.len() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.memory = window(&self.file, self.offset, Some(len))?;
        Ok(())
    }

    fn start(&self) -> *mut u8 {
        self.memory.as_ptr().cast_mut().cast()
    }
}

fn window<F: AsFd>(file: F, offset: u64, len: Option<usize>) -> io::Result<Shared<[AtomicU8]>> {
    let mut options = Shared::<[AtomicU8]>::options().offset(offset);
    if let Some(len) = len {
        options = options.len(len);
    }
    Ok(options.from_fd(file)?)
}

/// A file mapped shared and writable. Its creator has promised that no other process changes the bytes.
#[derive(Debug)]
pub struct SharedFile(FileMapping);

/// # Safety
/// No other process or part of this one changes the bytes or truncates the file while it is mapped.
pub(crate) unsafe fn map_file<F: AsFd>(
    file: F,
    offset: u64,
    len: Option<usize>,
) -> io::Result<SharedFile> {
    FileMapping::new(file, offset, len).map(SharedFile)
}

impl SharedFile {
    pub fn pages(&self) -> Pages<'_> {
        self.0.pages()
    }

    pub fn flush_range(&self, range: Range<usize>) -> io::Result<()> {
        self.0.flush_range(range)
    }

    pub fn start_writeback(&self) -> io::Result<()> {
        self.0.start_writeback()
    }

    /// # Safety
    /// As [`map_file`], for the bytes that are added.
    pub unsafe fn remap(&mut self, len: usize, may_move: bool) -> io::Result<()> {
        self.0.remap(len, may_move)
    }
}

impl Deref for SharedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let (start, len) = (self.0.start(), self.0.memory.len());
        // SAFETY: `len` bytes are mapped from `start` on; that no other code changes them was promised to `map_file`.
        unsafe { std::slice::from_raw_parts(start, len) }
    }
}

impl DerefMut for SharedFile {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: that no other code uses the bytes was promised to `map_file`.
        unsafe { self.0.memory.as_mut_slice() }
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
            len: mapping.memory.len(),
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
            Owner::File(mapping) => (mapping.start(), mapping.memory.len()),
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
