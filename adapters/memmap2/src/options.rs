//! How a mapping is made.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::AsFd;

use stillmap::{Anonymous, HugePages, Private, Snapshot};

use crate::map::{Mmap, MmapMut};
use crate::raw::{MmapRaw, map_file};

/// Which part of a file to map, and how; the same options as memmap2's.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let file = std::fs::File::open("Cargo.toml")?;
/// let map = stillmap_memmap2::MmapOptions::new().offset(1).len(9).map(&file)?;
/// assert_eq!(&map[..], b"workspace");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct MmapOptions {
    offset: u64,
    len: Option<usize>,
    huge: bool,
    populate: bool,
}

impl MmapOptions {
    pub fn new() -> Self {
        MmapOptions::default()
    }

    /// The first byte of the file to map; has no effect on anonymous memory.
    pub fn offset(&mut self, offset: u64) -> &mut Self {
        self.offset = offset;
        self
    }

    /// How many bytes to map; the default is up to the end of the file.
    pub fn len(&mut self, len: usize) -> &mut Self {
        self.len = Some(len);
        self
    }

    /// Accepted for memmap2's sake: Linux ignores `MAP_STACK`.
    pub fn stack(&mut self) -> &mut Self {
        self
    }

    /// Anonymous memory of reserved huge pages, of the kernel's default size whatever `page_bits` is.
    pub fn huge(&mut self, _page_bits: Option<u8>) -> &mut Self {
        self.huge = true;
        self
    }

    /// Fault all pages in at once.
    pub fn populate(&mut self) -> &mut Self {
        self.populate = true;
        self
    }

    /// Accepted for memmap2's sake: private mappings of files never reserve swap here.
    pub fn no_reserve_swap(&mut self) -> &mut Self {
        self
    }

    /// Accepted for memmap2's sake: nothing is probed.
    pub fn no_probe_handle(&mut self) -> &mut Self {
        self
    }

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

    /// A writable mapping of a file by its address alone: no reference to its bytes is made.
    pub fn map_raw<F: AsFd>(&self, file: F) -> io::Result<MmapRaw> {
        MmapRaw::writable(file, self.offset, self.len)
    }

    /// The address of the bytes that [`map`](MmapOptions::map) gives: they never change.
    pub fn map_raw_read_only<F: AsFd>(&self, file: F) -> io::Result<MmapRaw> {
        self.map(file).map(MmapRaw::from)
    }
}

pub(crate) fn executable() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "stillmap maps nothing executable",
    )
}

/// Why [`MmapOptions::map_if_safe`] failed.
pub struct MapIfSafeError(io::Error);

impl MapIfSafeError {
    /// False: it is supported wherever this crate is.
    pub fn not_supported(&self) -> bool {
        false
    }

    /// A window that is not inside the file.
    pub fn not_safe(&self) -> bool {
        self.0.kind() == io::ErrorKind::InvalidInput
    }

    /// Any other error.
    pub fn map_failed(&self) -> bool {
        !self.not_safe()
    }
}

impl Error for MapIfSafeError {}

impl fmt::Display for MapIfSafeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for MapIfSafeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<MapIfSafeError> for io::Error {
    fn from(error: MapIfSafeError) -> Self {
        error.0
    }
}

/// How [`MmapMut::remap`] may change a mapping.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemapOptions {
    pub(crate) may_move: bool,
}

impl RemapOptions {
    pub fn new() -> Self {
        RemapOptions::default()
    }

    /// Whether the address may change.
    pub fn may_move(mut self, may_move: bool) -> Self {
        self.may_move = may_move;
        self
    }
}
