//! How a mapping is made.

use std::error::Error;
use std::fmt;
use std::io;

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
    pub(crate) offset: u64,
    pub(crate) len: Option<usize>,
    pub(crate) huge: bool,
    pub(crate) populate: bool,
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
}

pub(crate) fn executable() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "stillmap maps nothing executable",
    )
}

/// Why [`MmapOptions::map_if_safe`] failed.
pub struct MapIfSafeError(pub(crate) io::Error);

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

/// How [`MmapMut::remap`](crate::MmapMut::remap) may change a mapping.
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
