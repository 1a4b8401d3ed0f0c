//! Limits on the memory, descriptors, mappings and addresses that this crate uses; the rest is for the program.

use crate::reason::Reason;
use crate::sys::limits;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

/// A copy of at most this size, in bytes, is made without looking up the available memory for it alone.
const SMALL_MAX: u64 = 1 << 20;

/// Bytes that are taken in small pieces between two looks at the available memory: a sixteenth of what was available, but not
/// less than the first and not more than the second.
const UNSEEN_MIN: u64 = 8 << 20;
const UNSEEN_MAX: u64 = 256 << 20;

/// A stream, or a read-ahead, of at most this many bytes is not compared with half of the available memory. Looking that up
/// takes as long as reading 100 KiB.
pub(crate) const UNCHECKED_MAX: u64 = 64 << 20;

/// A descriptor below this number is never counted as scarce: hardly a process has a limit of less than 20.
const NEVER_SCARCE_BELOW: i32 = 16;

/// While there is no limit (`RLIMIT_AS`), getrlimit(2) is called for one mapping in this many: it takes 0.3 µs.
const UNLIMITED_MAPPINGS: usize = 16;

/// This many mappings are made before the first count, and refused before the next one: counting 65,000 mappings takes
/// about 30 ms.
const UNCOUNTED_MAPPINGS: isize = 256;

/// True if a copy of `len` bytes may be in memory: up to `limit`, or to the default.
pub(crate) fn fits_memory(len: u64, limit: Option<u64>) -> bool {
    match limit {
        Some(limit) => len <= limit,
        None if len <= SMALL_MAX => take_memory(len as usize),
        None => len <= default_memory_limit(),
    }
}

/// Bytes of the copies that are being made. Those that are not written yet still count as available.
static RESERVED: AtomicUsize = AtomicUsize::new(0);

/// Memory for a copy, until the copy is complete.
#[must_use]
pub(crate) struct Reservation(usize);

/// The same as [`fits_memory`], together with the copies that other threads make now. `None` if it does not fit.
pub(crate) fn reserve_memory(len: u64, limit: Option<u64>) -> Option<Reservation> {
    if limit.is_some() || len <= SMALL_MAX {
        return fits_memory(len, limit).then_some(Reservation(0));
    }
    reserve(len, |all| fits_memory(all, None))
}

/// True if a small piece of a copy or stream fits into memory, together with those that any thread has taken since the
/// available memory was looked up last.
pub(crate) fn take_memory(len: usize) -> bool {
    /// Bytes that may be taken before the next look.
    static LEFT: AtomicUsize = AtomicUsize::new(UNSEEN_MIN as usize);

    // Two threads may look at once, so no order is needed.
    let take = |left: usize| left.checked_sub(len);
    let taken = LEFT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
    if taken.is_ok() {
        return true;
    }
    let limit = default_memory_limit();
    let others = RESERVED.load(Ordering::Relaxed) as u64;
    let fits = others.saturating_add(UNSEEN_MIN + len as u64) <= limit;
    let next = if fits {
        (limit / 8).clamp(UNSEEN_MIN, UNSEEN_MAX)
    } else {
        0
    };
    LEFT.store(next as usize, Ordering::Relaxed);
    fits
}

/// Memory for a copy that fits on no disk: of what is available it leaves an eighth. `None` if it does not fit together with
/// the copies that other threads make now.
pub(crate) fn reserve_available(len: u64) -> Option<Reservation> {
    reserve(len, fits_available)
}

fn reserve(len: u64, fits: impl FnOnce(u64) -> bool) -> Option<Reservation> {
    let bytes = usize::try_from(len).ok()?;
    let add = |reserved: usize| reserved.checked_add(bytes);
    let others = RESERVED.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add);
    let others = others.ok()?;
    let reservation = Reservation(bytes);
    fits(len.saturating_add(others as u64)).then_some(reservation)
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let subtract = |reserved: usize| Some(reserved.saturating_sub(self.0));
        let _ = RESERVED.fetch_update(Ordering::SeqCst, Ordering::SeqCst, subtract);
    }
}

/// In a forked child: the threads that made copies do not exist.
pub(crate) fn reset_in_child() {
    RESERVED.store(0, Ordering::SeqCst);
}

/// Half of the memory that is available now.
pub(crate) fn default_memory_limit() -> u64 {
    limits::available_memory() / 2
}

/// True if a copy of `len` bytes fits into the available memory and leaves an eighth of it: for a copy that fits on no
/// disk.
pub(crate) fn fits_available(len: u64) -> bool {
    len <= most_memory()
}

/// The memory that is available now, but for an eighth of it.
pub(crate) fn most_memory() -> u64 {
    let available = limits::available_memory();
    available - available / 8
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
    // Without /proc they cannot be counted, and the kernel refuses those that are too many.
    let free = most.saturating_sub(limits::mappings().unwrap_or(0));
    let is_scarce = free <= most / 8;
    let next = if is_scarce {
        -UNCOUNTED_MAPPINGS
    } else {
        isize::try_from((free - most / 8) / 8).map_or(isize::MAX, |left| left.max(1))
    };
    LEFT.store(next, Ordering::Relaxed);
    is_scarce
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the soak: in a control group with 64 MiB three copies of 24 MiB were made at once, and it was killed.
    #[test]
    fn copies_that_are_being_made_count() {
        let limit = default_memory_limit();
        if usize::try_from(limit).is_err() {
            return eprintln!("skipped: more memory than a 32-bit process has addresses");
        }
        let first = reserve_memory(limit / 4 * 3, None);
        assert!(first.is_some());
        assert!(reserve_memory(limit / 2, None).is_none());
        assert!(reserve_available(limit / 4 * 5).is_none());
        assert!(reserve_memory(limit / 2, Some(limit)).is_some());
        drop(first);
        assert!(reserve_memory(limit / 2, None).is_some());
        assert!(reserve_available(limit / 4 * 5).is_some());
    }
}
