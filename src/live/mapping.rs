//! A read-only mapping of a file and of the address space that the file may grow into.

use crate::budget;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::page;
use crate::region::Region;
use crate::shared::sigbus::FaultTolerantMapping;
use crate::sys::racy_copy::copy_out;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{Ordering, fence};

/// Address space reserved beyond the end of a file, in bytes, which shows its pages when it grows. It takes no memory. For a
/// log that grows by 500 MB/s a new mapping is made after two seconds, and then after twice the time each.
const RESERVE_MIN: usize = 1 << 30;

/// Bytes that are compared at a time: they stay in the first-level cache.
const COMPARE_CHUNK: usize = 16 << 10;

/// A mapping whose lost pages the SIGBUS handler replaces. No reference into it exists.
pub(super) struct LiveMapping(FaultTolerantMapping);

impl LiveMapping {
    /// Maps the first `len` bytes of a file, and address space for its growth where that is available.
    pub(super) fn new(fd: BorrowedFd<'_>, len: usize) -> Result<Self> {
        let error = |e| Error::os("mmap", None, e);
        let reserved = len.saturating_add(len.max(RESERVE_MIN));
        // Refused where address space or locked memory is limited.
        let region = Region::file(fd, 0, reserved)
            .or_else(|_| Region::file(fd, 0, len.max(page::size())))
            .map_err(error)?;
        // SAFETY: no reference is made into the mapping; its bytes are copied out by moves that may race.
        let mapping = unsafe { FaultTolerantMapping::new(region.0, libc::PROT_READ) }?;
        Ok(LiveMapping(mapping))
    }

    /// Bytes mapped: whole pages.
    pub(super) fn len(&self) -> usize {
        self.0.region().len()
    }

    pub(super) fn start(&self) -> *const u8 {
        self.0.region().start().as_ptr()
    }

    pub(super) fn region(&self) -> &Region {
        self.0.region()
    }

    /// Loads the byte at `offset`, which may fault; false if that is outside the mapping.
    pub(super) fn touch(&self, offset: usize) -> bool {
        let mut byte = 0_u8;
        if offset >= self.len() {
            return false;
        }
        // SAFETY: mapped, and no reference into the mapping exists; `byte` is ours.
        unsafe { copy_out(self.start().wrapping_add(offset), &raw mut byte, 1) };
        fence(Ordering::Acquire);
        true
    }

    /// Whether pages were lost.
    pub(super) fn is_faulted(&self) -> bool {
        self.0.is_faulted()
    }

    /// A copy of a range that is mapped, and whether the bytes were the same when they were read a second time.
    pub(super) fn copy(&self, range: Range<usize>) -> Result<(Buffer, bool)> {
        let from = self.start().wrapping_add(range.start);
        // Others decide how long the file is; the kernel would end a process that copies more than there is room for.
        let len = range.len() as u64;
        let reservation =
            budget::reserve_memory(len, None).or_else(|| budget::reserve_available(len));
        if reservation.is_none() {
            let source = io::Error::from_raw_os_error(libc::ENOMEM);
            return Err(Error::os("read", None, source));
        }
        let mut copy = Buffer::with_capacity(range.len())?;
        while copy.len() < range.len() {
            let (done, most) = (copy.len(), range.len() - copy.len());
            let read = copy.read_from(most, |spare| {
                let (to, len) = (spare.as_mut_ptr().cast::<u8>(), spare.len());
                // SAFETY: the caller's range is mapped, no reference into it exists, and `spare` is exclusively ours.
                unsafe { copy_out(from.wrapping_add(done), to, len) };
                // SAFETY: initialised in the line above.
                Ok(unsafe { std::slice::from_raw_parts_mut(to, len) })
            });
            read.map_err(|e| Error::os("read", None, e))?;
        }
        fence(Ordering::Acquire);
        let mut again = [0; COMPARE_CHUNK];
        let mut offset = 0;
        let is_same = copy.bytes().chunks(COMPARE_CHUNK).all(|chunk| {
            let again = &mut again[..chunk.len()];
            // SAFETY: as above; `again` is ours.
            unsafe { copy_out(from.wrapping_add(offset), again.as_mut_ptr(), again.len()) };
            offset += chunk.len();
            again == chunk
        });
        Ok((copy, is_same))
    }
}
