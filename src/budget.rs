//! Limits on the memory, descriptors, mappings and addresses that this crate uses; the rest is for the program.

use crate::reason::Reason;
use crate::sys::limits;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

/// A copy of at most this size, in bytes, is made without looking up the available memory.
const ALWAYS_FITS: u64 = 1 << 20;

/// A stream, or a read-ahead, of at most this many bytes continues without looking up the available memory, which takes as
/// long as reading 100 KiB.
pub(crate) const UNCHECKED_MAX: u64 = 64 << 20;

/// A descriptor below this number is never counted as scarce: no process has so low a limit.
const NEVER_SCARCE_BELOW: i32 = 64;

/// While there is no `RLIMIT_AS`, it is looked up for one mapping of this many: getrlimit(2) takes 0.3 µs.
const UNLIMITED_MAPPINGS: usize = 16;

/// This many mappings are made before they are counted for the first time, and refused before they are counted again:
/// counting 65,000 of them takes about 30 ms.
const UNCOUNTED_MAPPINGS: isize = 256;

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

/// True if a copy of `len` bytes fits into the available memory and leaves an eighth of it: for a copy that no disk
/// takes.
pub(crate) fn fits_available(len: u64) -> bool {
    let available = limits::available_memory();
    len <= available - available / 8
}

/// Returns why no further mapping of `len` bytes may be kept, if there is a reason: the last quarter of the addresses
/// and the last eighth of the mappings are for the program.
pub(crate) fn refuse_mapping(len: u64) -> Option<Reason> {
    if is_address_space_scarce(len) {
        return Some(Reason::AddressSpace);
    }
    are_mappings_scarce().then_some(Reason::Mappings)
}

/// True if a descriptor is in the last quarter of those that the process may have (`RLIMIT_NOFILE`), which is for the
/// program: the kernel returns the lowest number that is free.
pub(crate) fn is_descriptor_scarce(fd: BorrowedFd<'_>) -> bool {
    let number = fd.as_raw_fd();
    number >= NEVER_SCARCE_BELOW
        && u64::from(number.unsigned_abs()) >= limits::descriptors() / 4 * 3
}

/// True if a mapping of `len` bytes, and its copy, would take more than three quarters of `RLIMIT_AS`.
fn is_address_space_scarce(len: u64) -> bool {
    /// How many mappings are made before the next look.
    static LEFT: AtomicUsize = AtomicUsize::new(0);

    // Two threads may count one for two, so no order is needed.
    let left = LEFT.load(Ordering::Relaxed);
    if left > 0 {
        LEFT.store(left - 1, Ordering::Relaxed);
        return false;
    }
    let limit = limits::address_space();
    if limit == u64::MAX {
        LEFT.store(UNLIMITED_MAPPINGS - 1, Ordering::Relaxed);
        return false;
    }
    let used = limits::used_address_space().unwrap_or(limit);
    used.saturating_add(2 * len) > limit / 4 * 3
}

/// True if few mappings are left below `vm.max_map_count`. They are counted again when an eighth of what was left has
/// been made since.
fn are_mappings_scarce() -> bool {
    /// Positive: this many may be made before the next count. Negative: this many are refused before it.
    static LEFT: AtomicIsize = AtomicIsize::new(UNCOUNTED_MAPPINGS);

    // Two threads that count at once store about the same number, so no order is needed.
    let left = LEFT.load(Ordering::Relaxed);
    if left > 0 {
        LEFT.fetch_sub(1, Ordering::Relaxed);
        return false;
    }
    if left < -1 {
        LEFT.fetch_add(1, Ordering::Relaxed);
        return true;
    }
    let most = limits::most_mappings();
    let free = most.saturating_sub(limits::mappings().unwrap_or(most));
    let is_scarce = free <= most / 8;
    let next = if is_scarce {
        -UNCOUNTED_MAPPINGS
    } else {
        isize::try_from((free - most / 8) / 8).map_or(isize::MAX, |left| left.max(1))
    };
    LEFT.store(next, Ordering::Relaxed);
    is_scarce
}
