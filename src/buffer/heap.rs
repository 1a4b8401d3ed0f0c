//! A block of the heap, aligned to a cache line.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

/// Blocks start at multiples of this, a cache line.
pub(crate) const ALIGN: usize = 64;

/// Larger blocks are not made smaller, but copied, in bytes: from 128 KiB on, allocators make a mapping for each (glibc,
/// musl), which would stay one.
const SHRUNK_MAX: usize = 64 << 10;

/// Memory that is not initialised. The vector stays empty: only its capacity is used. It is larger than the block, since
/// an allocator that is asked to align takes twice as long (glibc: 500 instructions more).
#[derive(Debug)]
pub(super) struct HeapBlock {
    memory: Vec<u8>,
    capacity: usize,
}

impl HeapBlock {
    pub(super) fn with_capacity(capacity: usize) -> Result<Self> {
        let mut memory = Vec::new();
        let reserved = memory.try_reserve_exact(with_padding(capacity));
        reserved.map_err(|_| {
            let source = std::io::Error::from_raw_os_error(libc::ENOMEM);
            Error::os("allocate memory", None, source).with_len(capacity)
        })?;
        Ok(HeapBlock { memory, capacity })
    }

    /// Bytes between the start of the vector and the block.
    #[inline]
    fn padding(&self) -> usize {
        let start = self.memory.as_ptr().addr();
        start.next_multiple_of(ALIGN) - start
    }

    #[inline]
    pub(super) fn start(&self) -> NonNull<u8> {
        let padding = self.padding();
        // SAFETY: the vector has room for `ALIGN - 1` bytes and the block.
        let start = unsafe { self.memory.as_ptr().add(padding) };
        NonNull::new(start.cast_mut()).unwrap_or(NonNull::dangling())
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    #[inline]
    pub(super) fn uninit_slice_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        let block = self.padding()..self.padding() + self.capacity;
        &mut self.memory.spare_capacity_mut()[block]
    }

    /// Gives back all but the first `len` bytes, unless there is no memory for a copy.
    pub(super) fn truncate(&mut self, len: usize) {
        if self.capacity <= SHRUNK_MAX {
            self.shrink(len);
        } else if let Ok(mut copy) = HeapBlock::with_capacity(len) {
            copy.uninit_slice_mut()
                .copy_from_slice(&self.uninit_slice_mut()[..len]);
            *self = copy;
        }
    }

    fn shrink(&mut self, len: usize) {
        let before = self.padding();
        self.memory.shrink_to(with_padding(len));
        self.capacity = len;
        let after = self.padding();
        // An allocator may move what it makes smaller.
        if after != before {
            let start = self.memory.as_mut_ptr();
            // SAFETY: less than `ALIGN`, and the vector has room for `ALIGN - 1` bytes and the block.
            let from = unsafe { start.add(before) };
            // SAFETY: as above.
            let to = unsafe { start.add(after) };
            // SAFETY: as above: `len` bytes from either on are in the vector.
            unsafe { ptr::copy(from, to, len) };
        }
    }
}

fn with_padding(capacity: usize) -> usize {
    capacity.saturating_add(ALIGN - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_aligned_and_large_enough() {
        for capacity in [0, 1, 63, 64, 65, 4096] {
            let mut block = HeapBlock::with_capacity(capacity).unwrap();
            assert!(block.uninit_slice_mut().len() >= capacity);
            assert_eq!(block.start().as_ptr().addr() % ALIGN, 0);
            block.uninit_slice_mut().fill(MaybeUninit::new(7));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri takes minutes for single bytes of large blocks")]
    fn a_truncated_block_keeps_its_bytes_and_is_aligned() {
        let mut others = Vec::new();
        let lens = [0, 1, 63, 64, 4096, SHRUNK_MAX];
        for (len, capacity) in lens
            .into_iter()
            .flat_map(|len| [(len, SHRUNK_MAX), (len, 3 * SHRUNK_MAX)])
        {
            let mut block = HeapBlock::with_capacity(capacity).unwrap();
            let kept = block.uninit_slice_mut().iter_mut().take(len);
            for (byte, value) in kept.zip((0..251).cycle()) {
                byte.write(value);
            }
            block.truncate(len);
            assert_eq!(block.start().as_ptr().addr() % ALIGN, 0);
            let bytes = block.uninit_slice_mut().iter();
            // SAFETY: written above.
            let bytes = bytes.map(|byte| unsafe { byte.assume_init() });
            assert!(bytes.eq((0..251).cycle().take(len)));
            others.push(block);
        }
    }

    #[test]
    fn what_cannot_be_allocated_is_an_error() {
        assert!(HeapBlock::with_capacity(isize::MAX as usize).is_err());
    }
}
