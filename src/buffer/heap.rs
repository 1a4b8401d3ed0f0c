//! A heap block for a few bytes, aligned to a cache line.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes read are given out with this alignment at least.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "room")] [MaybeUninit<u8>; 64]);

/// Bytes in all blocks that live, those too small to count aside.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Blocks up to this size are not counted, in bytes.
const UNCOUNTED: usize = 32 << 10;

/// Room for at least `capacity` bytes, aligned to 64.
pub(crate) struct HeapBlock(Vec<Line>);

impl std::fmt::Debug for HeapBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HeapBlock").field(&self.capacity()).finish()
    }
}

impl HeapBlock {
    /// Room that is not initialised. An allocator that has none left gives an error.
    pub(crate) fn with_capacity(capacity: usize) -> Result<Self> {
        let mut lines = Vec::new();
        let count = capacity.div_ceil(size_of::<Line>());
        match lines.try_reserve_exact(count) {
            Ok(()) => {
                let block = HeapBlock(lines);
                // A count that nothing else hangs on: no order is needed.
                LIVE.fetch_add(block.counted(), Ordering::Relaxed);
                Ok(block)
            }
            Err(_) => {
                let source = std::io::Error::from_raw_os_error(libc::ENOMEM);
                Err(Error::os("malloc", None, source))
            }
        }
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        NonNull::new(self.0.as_ptr().cast_mut().cast()).unwrap_or(NonNull::dangling())
    }

    pub(crate) fn capacity(&self) -> usize {
        self.0.capacity() * size_of::<Line>()
    }

    /// Bytes in all blocks that live now; small ones aside.
    pub(crate) fn live() -> usize {
        LIVE.load(Ordering::Relaxed)
    }

    fn counted(&self) -> usize {
        match self.capacity() {
            small if small <= UNCOUNTED => 0,
            large => large,
        }
    }

    /// Room to write to.
    pub(crate) fn spare(&mut self) -> &mut [MaybeUninit<u8>] {
        let lines = self.0.spare_capacity_mut();
        let len = std::mem::size_of_val(lines);
        // SAFETY: the same memory, borrowed as long; MaybeUninit<u8> takes any byte and any alignment.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) }
    }
}

impl Drop for HeapBlock {
    fn drop(&mut self) {
        LIVE.fetch_sub(self.counted(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_aligned_and_large_enough() {
        for capacity in [0, 1, 63, 64, 65, 4096] {
            let mut block = HeapBlock::with_capacity(capacity).unwrap();
            assert!(block.spare().len() >= capacity);
            assert_eq!(block.start().as_ptr().addr() % 64, 0);
            block.spare().fill(MaybeUninit::new(7));
        }
    }

    #[test]
    fn what_cannot_be_allocated_is_an_error() {
        assert!(HeapBlock::with_capacity(isize::MAX as usize).is_err());
    }
}
