//! Huge-page slabs: blocks of memory are cut one after another from 4 MiB that the kernel supplies in two page faults.
//!
//! ```text
//!   4 MiB, from the start of a huge page
//!   | block | block |     block     | block |   not cut yet    |
//!   0    units of 16 KiB, each with the number of its blocks  end
//! ```
//! Each thread cuts from a slab of its own, without a lock. Any thread may drop a block. The blocks and the thread own the
//! slab together (`Arc`); the last owner unmaps it, or keeps it for the next thread that needs one, see [`WARM`]. The
//! block that was cut last makes room for the next one when its thread drops it.
//!
//! A slab that is no longer cut from is *retired*. Where few units of it have blocks, the pages of all others are returned
//! to the kernel, see [`SPARSE`].
//!
//! After fork(2) the child has private copies. The slabs of threads that it does not have are never retired there.
#![allow(unsafe_code)]

use super::heap::ALIGN;
use crate::page;
use crate::region::Region;
use crate::sys::{self, memory};
use std::cell::Cell;
use std::mem::{self, MaybeUninit};
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicUsize, Ordering};

/// The size of a slab in bytes: two huge pages of 2 MiB, so that the end that a block does not fit into is short.
pub(super) const SLAB: usize = 4 << 20;

/// Pages are returned to the kernel in units of this many bytes. A block keeps the units that it is in, so a block of one
/// byte keeps 16 KiB.
const UNIT: usize = 16 << 10;
const UNITS: usize = SLAB / UNIT;

/// A retired slab returns the units without blocks when at most one in `SPARSE` of those that have memory has blocks. So
/// it holds less than `SPARSE` times the units of its blocks. Returning pages splits huge pages, so it is not done earlier.
///
/// The worst case is a small block that is left alone: 64 KiB. Measured, 200,000 files in batches of 1,000, each batch
/// dropped but for one file of 1 byte; resident KiB for each of the 200 that were kept, the thread's slab not counted:
///
/// | the other files | dropped in order | in random order |
/// |---|---|---|
/// | 1 byte (in the heap) | 1 | 1 |
/// | 4 KiB | 23 | 24 |
/// | 60,000 bytes | 15 | 15 |
///
/// A huge page of which a part was returned is freed when memory is short, by the kernel. Splitting it at once (`MADV_FREE`
/// before `MADV_DONTNEED`) doubled the time of files of 64 KiB that are read, kept and dropped, so it is not done.
const SPARSE: usize = 4;

/// In [`Slab::blocks`]: the pages of this unit were returned.
const RETURNED: u16 = u16::MAX;

/// One slab without blocks, kept for the next thread that needs one: null, or made by `Box::into_raw`. Its pages are still
/// there, but the kernel may take them when memory is short (`MADV_FREE`, madvise(2)). All accesses are swaps of the
/// whole pointer, so each slab has one owner. There is no lock that a forked child could find locked.
static WARM: AtomicPtr<Region> = AtomicPtr::new(ptr::null_mut());

thread_local! {
    /// The slab that this thread cuts from.
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

struct Slab {
    region: Region,
    /// How many blocks each unit has a part of, or [`RETURNED`].
    blocks: [AtomicU16; UNITS],
    /// Units that have blocks. It lags behind `blocks` and is a hint.
    used_units: AtomicUsize,
    /// Units that may have memory. 0 until the slab is retired: from then on there are no new blocks.
    resident_units: AtomicUsize,
}

/// A slab, and the end of its last block.
struct Current {
    slab: Arc<Slab>,
    end: usize,
}

/// Memory in a slab that nothing else refers to.
pub(super) struct SlabBlock {
    slab: Arc<Slab>,
    range: Range<usize>,
}

/// A block of at least `capacity` bytes. `None` where there are no huge pages, no memory, or where the thread ends.
pub(super) fn allocate(capacity: usize) -> Option<SlabBlock> {
    let len = capacity.checked_next_multiple_of(ALIGN)?;
    if len == 0 || len > SLAB || !is_supported() {
        return None;
    }
    with_current(|current| {
        if let Some(block) = current.as_mut().and_then(|current| current.cut(len)) {
            return Some(block);
        }
        // Retired first: if it has no blocks, it is the next one.
        *current = None;
        let slab = Slab::new()?;
        current.insert(Current { slab, end: 0 }).cut(len)
    })
    .flatten()
}

/// The thread has no blocks left: its slab may serve others.
pub(super) fn retire_current() {
    with_current(|current| *current = None);
}

/// Returns the slab that is kept for later to the kernel.
pub(super) fn release_warm() {
    drop(take_warm());
}

/// `None` if the thread ends and its slab is gone already.
fn with_current<T>(f: impl FnOnce(&mut Option<Current>) -> T) -> Option<T> {
    let call = |cell: &Cell<Option<Current>>| {
        let mut current = cell.take();
        let value = f(&mut current);
        // Nothing was put there meanwhile, unless the allocator of the program opens files.
        drop(cell.replace(current));
        value
    };
    CURRENT.try_with(call).ok()
}

/// False where a slab would not be made of huge pages: then the heap is better.
fn is_supported() -> bool {
    // 0: not looked up yet. Two threads that do this at once store the same, so no order is needed.
    static SUPPORTED: AtomicU8 = AtomicU8::new(0);
    match SUPPORTED.load(Ordering::Relaxed) {
        0 => {
            let fits = page::huge_size().is_some_and(|huge| SLAB % huge == 0);
            let fits = fits && UNIT % page::size() == 0 && sys::are_huge_pages_enabled();
            SUPPORTED.store(1 + u8::from(fits), Ordering::Relaxed);
            fits
        }
        known => known == 2,
    }
}

fn take_warm() -> Option<Box<Region>> {
    let warm = WARM.swap(ptr::null_mut(), Ordering::Acquire);
    // SAFETY: a pointer in WARM is made by `Box::into_raw`, and the swap made this thread its only owner.
    NonNull::new(warm).map(|warm| unsafe { Box::from_raw(warm.as_ptr()) })
}

fn keep_warm(region: Region) {
    // SAFETY: the slab has no blocks, so nothing refers to the bytes. Refused, the pages stay.
    let _ = unsafe { memory::advise(region.start(), region.len(), libc::MADV_FREE) };
    let region = Box::into_raw(Box::new(region));
    let put = WARM.compare_exchange(
        ptr::null_mut(),
        region,
        Ordering::Release,
        Ordering::Relaxed,
    );
    if put.is_err() {
        // SAFETY: made above, and the exchange did not store it.
        drop(unsafe { Box::from_raw(region) });
    }
}

impl Current {
    fn cut(&mut self, len: usize) -> Option<SlabBlock> {
        // `get_mut` succeeds once all blocks are dropped, and what their threads did with them has happened before. The
        // count is looked at first because it is cheaper.
        if self.end > 0
            && Arc::strong_count(&self.slab) == 1
            && Arc::get_mut(&mut self.slab).is_some()
        {
            self.end = 0;
        }
        let range = self.end..self.end + len;
        if range.end > SLAB {
            return None;
        }
        self.end = range.end;
        self.slab.add_block(units(&range));
        let slab = Arc::clone(&self.slab);
        Some(SlabBlock { slab, range })
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        // Release: a thread that finds the slab retired finds all blocks counted.
        self.slab.resident_units.store(UNITS, Ordering::Release);
        self.slab.return_pages_if_sparse();
    }
}

impl Slab {
    fn new() -> Option<Arc<Self>> {
        let region = match take_warm() {
            Some(region) => *region,
            None => Region::with_huge_pages(SLAB).ok()?,
        };
        Some(Arc::new(Slab {
            region,
            blocks: [const { AtomicU16::new(0) }; UNITS],
            used_units: AtomicUsize::new(0),
            resident_units: AtomicUsize::new(0),
        }))
    }

    /// Only the thread that cuts from the slab calls this.
    fn add_block(&self, units: Range<usize>) {
        for unit in units {
            // Relaxed: other threads get to know of the block with the block.
            if self.blocks[unit].fetch_add(1, Ordering::Relaxed) == 0 {
                self.used_units.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn remove_block(&self, units: Range<usize>) {
        for unit in units {
            // Release: what this thread did with the bytes comes before their pages are returned.
            if self.blocks[unit].fetch_sub(1, Ordering::Release) == 1 {
                self.used_units.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn return_pages_if_sparse(&self) {
        // Acquire: if it is retired, the units of all blocks are counted.
        let resident = self.resident_units.load(Ordering::Acquire);
        let used = self.used_units.load(Ordering::Relaxed);
        // Without any block, the slab ends as a whole.
        if used > 0 && SPARSE * used <= resident {
            self.return_pages();
        }
    }

    /// For a retired slab, of which units without blocks get none.
    fn return_pages(&self) {
        // khugepaged would fill the holes again. Refused, it may.
        let _ = self.region.advise(0..SLAB, libc::MADV_NOHUGEPAGE);
        let mut unit = 0;
        while unit < UNITS {
            let first = unit;
            while unit < UNITS && self.claim_unused(unit) {
                unit += 1;
            }
            if first < unit {
                let freed = unit - first;
                self.resident_units.fetch_sub(freed, Ordering::Relaxed);
                // SAFETY: units of this slab.
                let start = unsafe { self.region.start().add(first * UNIT) };
                // SAFETY: the units are in the slab, which lives. They had no blocks when they were claimed and get none, as
                // the slab is retired: nothing refers to their bytes. Refused (mlockall(2)), the pages stay.
                let _ = unsafe { memory::advise(start, freed * UNIT, libc::MADV_DONTNEED) };
            }
            unit += 1;
        }
    }

    /// True for one caller only.
    fn claim_unused(&self, unit: usize) -> bool {
        // Acquire: what other threads did with the bytes comes before.
        let claimed =
            self.blocks[unit].compare_exchange(0, RETURNED, Ordering::Acquire, Ordering::Relaxed);
        claimed.is_ok()
    }
}

fn units(range: &Range<usize>) -> Range<usize> {
    range.start / UNIT..range.end.div_ceil(UNIT)
}

impl Drop for Slab {
    fn drop(&mut self) {
        // A slab that has returned pages has lost its huge pages.
        if *self.resident_units.get_mut() == UNITS {
            keep_warm(mem::replace(&mut self.region, Region::empty()));
        }
    }
}

impl SlabBlock {
    pub(super) fn capacity(&self) -> usize {
        self.range.len()
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        // SAFETY: the range is in the region, which `slab` keeps mapped.
        unsafe { self.slab.region.start().add(self.range.start) }
    }

    pub(super) fn uninit_slice_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        let start = self.start().as_ptr().cast();
        // SAFETY: private writable memory that `slab` keeps mapped; no other block has a part of the range, and
        // `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(start, self.range.len()) }
    }

    /// Frees the end behind the cache line that `len` is in.
    pub(super) fn truncate(&mut self, len: usize) {
        let end = self.range.start + len.max(1).next_multiple_of(ALIGN);
        if end < self.range.end {
            let kept = units(&(self.range.start..end));
            self.slab.remove_block(kept.end..units(&self.range).end);
            self.move_end(end);
            self.range.end = end;
        }
    }

    /// If the block was cut last by this thread, the next one starts at `end`.
    fn move_end(&self, end: usize) {
        with_current(|current| {
            if let Some(current) = current.as_mut() {
                if current.end == self.range.end && Arc::ptr_eq(&current.slab, &self.slab) {
                    current.end = end;
                }
            }
        });
    }
}

impl Drop for SlabBlock {
    fn drop(&mut self) {
        self.slab.remove_block(units(&self.range));
        self.move_end(self.range.start);
        self.slab.return_pages_if_sparse();
    }
}
