//! A read-only mapping of a file and of the address space that the file may grow into.

use crate::error::{Error, Result};
use crate::page;
use crate::region::Region;
use crate::sigbus::FaultTolerantMapping;
use crate::sys::racy_copy::copy_out;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{Ordering, fence};

/// Address space reserved beyond the end of a file, in bytes, which shows its pages when it grows. It takes no memory. For a
/// log that grows by 500 MB/s a new mapping is made after two seconds, and then after twice the time each.
const RESERVE_MIN: usize = 1 << 30;

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

    /// Copies bytes out from `offset` on.
    ///
    /// # Panics
    /// If they are not mapped: no caller asks for more than the length of the file, which is.
    pub(super) fn copy_out<'b>(
        &self,
        offset: usize,
        into: &'b mut [MaybeUninit<u8>],
    ) -> &'b mut [u8] {
        let (to, len) = (into.as_mut_ptr().cast::<u8>(), into.len());
        assert!(len <= self.len().saturating_sub(offset));
        // SAFETY: mapped, see above; no reference into the mapping exists, and `into` is exclusively ours.
        unsafe { copy_out(self.start().wrapping_add(offset), to, len) };
        fence(Ordering::Acquire);
        // SAFETY: the same memory, borrowed as long, and initialised above.
        unsafe { std::slice::from_raw_parts_mut(to, len) }
    }
}
