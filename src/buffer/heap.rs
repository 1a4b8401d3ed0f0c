//! A block of the heap, aligned to a cache line.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Makes the allocator align to 64 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct CacheLine(#[allow(dead_code, reason = "memory")] [MaybeUninit<u8>; 64]);

/// At least `capacity` bytes. The vector stays empty: only its capacity is used.
#[derive(Debug)]
pub(super) struct HeapBlock(Vec<CacheLine>);

impl HeapBlock {
    /// Memory that is not initialised.
    pub(super) fn with_capacity(capacity: usize) -> Result<Self> {
        let mut lines = Vec::new();
        let reserved = lines.try_reserve_exact(capacity.div_ceil(size_of::<CacheLine>()));
        reserved.map_err(|_| {
            let source = std::io::Error::from_raw_os_error(libc::ENOMEM);
            Error::os("allocate memory", None, source)
        })?;
        Ok(HeapBlock(lines))
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        NonNull::new(self.0.as_ptr().cast_mut().cast()).unwrap_or(NonNull::dangling())
    }

    pub(super) fn capacity(&self) -> usize {
        self.0.capacity() * size_of::<CacheLine>()
    }

    pub(super) fn uninit_slice_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        let lines = self.0.spare_capacity_mut();
        let len = std::mem::size_of_val(lines);
        // SAFETY: the same memory, borrowed as long. MaybeUninit<u8> is valid for any byte at any address.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_aligned_and_large_enough() {
        for capacity in [0, 1, 63, 64, 65, 4096] {
            let mut block = HeapBlock::with_capacity(capacity).unwrap();
            assert!(block.uninit_slice_mut().len() >= capacity);
            assert_eq!(block.start().as_ptr().addr() % 64, 0);
            block.uninit_slice_mut().fill(MaybeUninit::new(7));
        }
    }

    #[test]
    fn what_cannot_be_allocated_is_an_error() {
        assert!(HeapBlock::with_capacity(isize::MAX as usize).is_err());
    }
}
