//! Memory for the bytes of one small input: from the heap, or from a slab once the thread holds much.

use super::heap::HeapBlock;
use super::slab::{self, SlabBlock};
use crate::error::Result;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A file of at most this size, in bytes, is always read.
///
/// Measured: microseconds of processor time to open, scan and drop one of up to 1,000 files in the page cache, each dropped
/// before the next is opened / all kept until the last is scanned. A busy machine with two processors; the lower quartile
/// of 13 rounds that took turns.
///
/// | size | read | leased | `std::fs::read` | memmap2 |
/// |---|---|---|---|---|
/// | 4 KiB | 9.2 / 9.8 | 32.6 / 37.4 | 9.5 / 13.9 | 18.5 / 21.4 |
/// | 16 KiB | 9.0 / 11.1 | 26.0 / 28.1 | 9.4 / 21.7 | 16.8 / 17.3 |
/// | 64 KiB | 14.4 / 22.5 | 28.2 / 33.1 | 14.3 / 61.4 | 18.9 / 22.2 |
/// | 128 KiB | 23.8 / 39.1 | 40.3 / 44.6 | 21.8 / 118 | 30.1 / 33.6 |
/// | 256 KiB | 48.6 / 91.0 | 68.7 / 71.8 | 41.4 / 274 | 52.5 / 56.9 |
/// | 512 KiB | 72.0 / 147 | 87.2 / 89.7 | 67.5 / 434 | 73.4 / 78.6 |
/// | 1 MiB | 128 / 264 | 144 / 137 | 123 / 820 | 130 / 124 |
///
/// So up to 128 KiB reading is faster either way, and up to 1 MiB if the memory is used again.
pub(super) const READ_ALWAYS_MAX: usize = 128 << 10;

/// A thread that holds no more than this, in bytes, gets blocks from the heap. The heap reuses memory that was dropped; a
/// program that keeps its blocks pays a page fault for each 4 KiB instead. 64 of these cost as much as the one fault for
/// a huge page, which is zeroed as a whole.
const HEAP_HELD_MAX: usize = 256 << 10;

thread_local! {
    /// Bytes in blocks that this thread made, less those in blocks that it dropped, at least 0. The count is not exact: a block
    /// that another thread drops still counts here, so this thread gets slabs. Without a destructor, it can be used until the
    /// thread has ended.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Bytes in all blocks of more than [`READ_ALWAYS_MAX`].
static LARGE: AtomicUsize = AtomicUsize::new(0);

/// A block, and its share of what is held.
pub(super) struct Block {
    memory: BlockMemory,
    // Dropped after `memory`.
    held: HeldBytes,
}

enum BlockMemory {
    Heap(HeapBlock),
    Slab(SlabBlock),
}

/// Bytes that are counted as held until this is dropped.
#[derive(Debug)]
struct HeldBytes(usize);

impl Block {
    /// At least `capacity` bytes, not initialised, aligned to 64.
    pub(super) fn with_capacity(capacity: usize) -> Result<Self> {
        let from_slab = match HELD.get() {
            0..=HEAP_HELD_MAX => None,
            _ => slab::allocate(capacity),
        };
        let memory = match from_slab {
            Some(block) => BlockMemory::Slab(block),
            None => BlockMemory::Heap(HeapBlock::with_capacity(capacity)?),
        };
        let held = HeldBytes::new(memory.capacity());
        Ok(Block { memory, held })
    }

    #[inline]
    pub(super) fn start(&self) -> NonNull<u8> {
        match &self.memory {
            BlockMemory::Heap(block) => block.start(),
            BlockMemory::Slab(block) => block.start(),
        }
    }

    #[inline]
    pub(super) fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    #[inline]
    pub(super) fn uninit_slice_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        match &mut self.memory {
            BlockMemory::Heap(block) => block.uninit_slice_mut(),
            BlockMemory::Slab(block) => block.uninit_slice_mut(),
        }
    }

    /// Frees the bytes behind the first `len`; in a slab, those behind the cache line that `len` is in.
    pub(super) fn truncate(&mut self, len: usize) {
        match &mut self.memory {
            BlockMemory::Heap(block) => block.truncate(len),
            BlockMemory::Slab(block) => block.truncate(len),
        }
        self.held = HeldBytes::new(self.capacity());
    }

    /// Bytes in all blocks of the process that have more than [`READ_ALWAYS_MAX`].
    pub(super) fn large_bytes() -> usize {
        // Nothing else depends on the count, so no order is needed.
        LARGE.load(Ordering::Relaxed)
    }
}

impl BlockMemory {
    #[inline]
    fn capacity(&self) -> usize {
        match self {
            BlockMemory::Heap(block) => block.capacity(),
            BlockMemory::Slab(block) => block.capacity(),
        }
    }
}

impl HeldBytes {
    fn new(len: usize) -> Self {
        HELD.set(HELD.get() + len);
        if len > READ_ALWAYS_MAX {
            LARGE.fetch_add(len, Ordering::Relaxed);
        }
        HeldBytes(len)
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        HELD.set(HELD.get().saturating_sub(self.0));
        if self.0 > READ_ALWAYS_MAX {
            LARGE.fetch_sub(self.0, Ordering::Relaxed);
        }
        if HELD.get() == 0 {
            slab::retire_current();
        }
    }
}
