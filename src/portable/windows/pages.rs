//! Memory in whole pages, and what Windows knows of pages.

use super::system::{self, GRANULARITY};
use crate::page;
use crate::sync::{Lock, Rank};
use std::alloc::{self, Layout};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

/// Memory with such an alignment gets pages of its own; that with another is of the heap.
pub(in super::super) fn has_own_pages(align: usize) -> bool {
    (4096..=GRANULARITY as usize).contains(&align)
}

/// How many guards hold each page: Windows keeps one flag for a page.
static LOCKED: Lock<BTreeMap<usize, u32>> = Lock::new(Rank::LockedPages, BTreeMap::new());

/// Zeroed memory; the layout is not empty.
pub(in super::super) fn allocate(layout: Layout) -> Option<NonNull<u8>> {
    if has_own_pages(layout.align()) {
        return system::allocate(layout.size());
    }
    // SAFETY: the layout is not empty.
    #[allow(unsafe_code)]
    let start = unsafe { alloc::alloc_zeroed(layout) };
    NonNull::new(start)
}

/// # Safety
/// `start` was returned by [`allocate`] for the same layout and not released since, and no reference to it is left.
#[allow(unsafe_code)]
pub(in super::super) unsafe fn release(start: NonNull<u8>, layout: Layout) {
    if has_own_pages(layout.align()) {
        // SAFETY: the caller's promises.
        unsafe { system::release(start) };
    } else {
        // SAFETY: the caller's promises.
        unsafe { alloc::dealloc(start.as_ptr(), layout) };
    }
}

/// Sets the lowest bit of a byte for each page from the address `start` on that is in the working set.
pub(in super::super) fn residency(start: usize, answers: &mut [u8]) -> io::Result<()> {
    system::are_valid(start, page::size(), answers)
}

/// Reads pages that are not in memory, in large parts.
pub(in super::super) fn prefetch(pages: &Range<usize>) -> io::Result<()> {
    system::prefetch(pages)
}

/// Locks whole pages once more. On failure nothing is locked that was not.
pub(in super::super) fn lock(pages: &Range<usize>) -> io::Result<()> {
    let mut locked = LOCKED.lock();
    if let Err(e) = system::lock(pages) {
        // It may have locked a part.
        unlock_unheld(&locked, pages);
        return Err(e);
    }
    for page in pages.clone().step_by(page::size()) {
        *locked.entry(page).or_default() += 1;
    }
    Ok(())
}

/// Ends one lock of these pages.
pub(in super::super) fn unlock(pages: &Range<usize>) {
    let mut locked = LOCKED.lock();
    for page in pages.clone().step_by(page::size()) {
        if let Some(guards) = locked.get_mut(&page) {
            *guards -= 1;
        }
    }
    locked.retain(|_, guards| *guards > 0);
    unlock_unheld(&locked, pages);
}

fn unlock_unheld(locked: &BTreeMap<usize, u32>, pages: &Range<usize>) {
    for page in pages.clone().step_by(page::size()) {
        if !locked.contains_key(&page) {
            system::unlock(&(page..page + page::size()));
        }
    }
}
