//! mlock(2), munlock(2), and whether pages are locked.

use super::retry_eintr;
use std::io;
use std::ops::Range;
use std::ptr;

pub(crate) fn mlock(range: Range<usize>) -> io::Result<()> {
    let start = ptr::without_provenance(range.start);
    // SAFETY: mlock(2) changes no byte, whatever is there.
    retry_eintr(|| unsafe { libc::mlock(start, range.len()) }).map(drop)
}

pub(crate) fn munlock(range: Range<usize>) {
    let start = ptr::without_provenance(range.start);
    // SAFETY: munlock(2) changes no byte. It fails only where nothing is mapped, and then nothing is locked.
    let _ = retry_eintr(|| unsafe { libc::munlock(start, range.len()) });
}

/// Whether any page of the range is locked: msync(2) with `MS_INVALIDATE` fails with `EBUSY` then, and does nothing else.
pub(crate) fn is_any_locked(range: &Range<usize>) -> bool {
    let start = ptr::without_provenance_mut(range.start);
    let flags = libc::MS_ASYNC | libc::MS_INVALIDATE;
    // SAFETY: `MS_ASYNC` starts nothing since Linux 2.6.19, and Linux has no copies to invalidate.
    let done = retry_eintr(|| unsafe { libc::msync(start, range.len(), flags) });
    done.is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY))
}
