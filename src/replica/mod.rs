//! Bytes of a file where nobody can change them: in memory, in a clone of the file, or in an unnamed file.

mod copy;
mod fill;
mod memory;
mod unnamed;

pub(crate) use copy::{Copy, copy};
pub(crate) use memory::{Memory, fill_region};
pub(crate) use unnamed::{clone_of, copy_to_disk};

use crate::sys::limits;

/// What keeps the bytes of a [`Snapshot`](crate::Snapshot) as they are.
///
/// # Examples
/// ```
/// let small = folio::open("Cargo.toml")?;
/// assert_eq!(small.backing(), folio::Backing::Memory);
/// # Ok::<(), folio::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backing {
    /// Memory of our own: they were read, copied when a writer came, or [frozen](crate::Anonymous::freeze).
    Memory,
    /// A seal on a memfd, or fs-verity: the kernel lets nobody change them, ever.
    Sealed,
    /// A read lease: the kernel holds a writer back until they are copied.
    Leased,
    /// An unnamed file of our own: a reflink clone, or a copy too large for memory.
    Cloned,
    /// Nothing but the caller's word ([`Snapshot::map_unguarded`](crate::Snapshot::map_unguarded)).
    Unguarded,
}

/// So few bytes always fit, and nobody asks how much memory there is.
const UNASKED: u64 = 1 << 20;

/// True if so many bytes may be copied into memory: up to `limit`, or to the default.
pub(crate) fn fits_memory(len: u64, limit: Option<u64>) -> bool {
    match limit {
        Some(limit) => len <= limit,
        None => len <= UNASKED || len <= default_memory_limit(),
    }
}

/// Half of the memory that is available now.
pub(crate) fn default_memory_limit() -> u64 {
    limits::available_memory() / 2
}
