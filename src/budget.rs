//! How much of a shared resource may be used: memory for copies.

use crate::sys::limits;

/// A copy of at most this size, in bytes, is made without a look at the available memory.
const ALWAYS_FITS: u64 = 1 << 20;

/// True if a copy of `len` bytes may be in memory: up to `limit`, or to the default.
pub(crate) fn fits_memory(len: u64, limit: Option<u64>) -> bool {
    match limit {
        Some(limit) => len <= limit,
        None => len <= ALWAYS_FITS || len <= default_memory_limit(),
    }
}

/// Half of the memory that is available now.
pub(crate) fn default_memory_limit() -> u64 {
    limits::available_memory() / 2
}
