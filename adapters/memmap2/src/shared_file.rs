//! Files mapped shared and writable, guarded only by the caller's promise.

use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU8;

use stillmap::{Pages, Shared};

/// A file mapped shared and writable. Other processes may change the bytes.
#[derive(Debug)]
pub struct FileMapping {
    memory: Shared<[AtomicU8]>,
    /// What `remap` maps again.
    file: OwnedFd,
    offset: u64,
}

impl FileMapping {
    pub(crate) fn new<F: AsFd>(file: F, offset: u64, len: Option<usize>) -> io::Result<Self> {
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
    pub(crate) fn remap(&mut self, len: usize, may_move: bool) -> io::Result<()> {
        if !may_move && len > self.memory.len() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.memory = window(&self.file, self.offset, Some(len))?;
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    pub(crate) fn start(&self) -> *mut u8 {
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

/// `offset..offset + len`; what overflows is out of bounds.
pub(crate) fn range(offset: usize, len: usize) -> std::ops::Range<usize> {
    offset..offset.saturating_add(len)
}
