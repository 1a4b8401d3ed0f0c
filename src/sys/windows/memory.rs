//! Memory in whole pages, and what Windows knows of pages.

use super::check;
use super::view::GRANULARITY;
use std::alloc::{self, Layout};
use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull, null};
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_RELEASE, MEM_RESERVE, PAGE_READWRITE, PrefetchVirtualMemory, VirtualAlloc,
    VirtualFree, VirtualLock, VirtualUnlock, WIN32_MEMORY_RANGE_ENTRY,
};
use windows_sys::Win32::System::ProcessStatus::{
    K32QueryWorkingSetEx, PSAPI_WORKING_SET_EX_INFORMATION,
};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

/// 4 KiB on every processor.
pub(crate) fn page_size() -> usize {
    4 << 10
}

/// Memory with such an alignment gets pages of its own; that with another is of the heap.
pub(crate) fn has_own_pages(align: usize) -> bool {
    (page_size()..=GRANULARITY as usize).contains(&align)
}

/// Zeroed memory; the layout is not empty.
pub(crate) fn allocate(layout: Layout) -> Option<NonNull<u8>> {
    if has_own_pages(layout.align()) {
        return allocate_pages(layout.size());
    }
    // SAFETY: the layout is not empty.
    let start = unsafe { alloc::alloc_zeroed(layout) };
    NonNull::new(start)
}

/// # Safety
/// `start` was returned by [`allocate`] for the same layout and not released since, and no reference to it is left.
pub(crate) unsafe fn release(start: NonNull<u8>, layout: Layout) {
    if has_own_pages(layout.align()) {
        // SAFETY: the caller's promises.
        unsafe { release_pages(start) };
    } else {
        // SAFETY: the caller's promises.
        unsafe { alloc::dealloc(start.as_ptr(), layout) };
    }
}

/// VirtualAlloc: zeroed memory at a multiple of [`GRANULARITY`]. `len` is not 0.
fn allocate_pages(len: usize) -> Option<NonNull<u8>> {
    // SAFETY: at an address that the call chooses, so no memory of ours is replaced.
    let start = unsafe { VirtualAlloc(null(), len, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE) };
    NonNull::new(start.cast())
}

/// VirtualFree.
///
/// # Safety
/// `start` was returned by [`allocate_pages`] and not released since, and no reference to the memory is left.
unsafe fn release_pages(start: NonNull<u8>) {
    // SAFETY: the caller's promises.
    let done = unsafe { VirtualFree(start.as_ptr().cast(), 0, MEM_RELEASE) };
    debug_assert_ne!(done, 0);
}

/// PrefetchVirtualMemory.
pub(crate) fn prefetch(addresses: &Range<usize>) -> io::Result<()> {
    let range = WIN32_MEMORY_RANGE_ENTRY {
        VirtualAddress: ptr::without_provenance_mut(addresses.start),
        NumberOfBytes: addresses.len(),
    };
    // SAFETY: the handle of this process is always open; `range` is readable, and one; no byte is changed.
    let done = unsafe { PrefetchVirtualMemory(GetCurrentProcess(), 1, &raw const range, 0) };
    check(done)
}

/// VirtualLock: whole pages.
pub(crate) fn lock(pages: &Range<usize>) -> io::Result<()> {
    // SAFETY: it changes no byte; addresses without memory are an error.
    let done = unsafe { VirtualLock(ptr::without_provenance(pages.start), pages.len()) };
    check(done)
}

/// VirtualUnlock. Pages that are not locked are not unlocked.
pub(crate) fn unlock(pages: &Range<usize>) {
    // SAFETY: it changes no byte.
    unsafe {
        VirtualUnlock(ptr::without_provenance(pages.start), pages.len());
    }
}

/// QueryWorkingSetEx: sets the lowest bit of a byte for each page from the address `start` on that is in the working set.
pub(crate) fn residency(start: usize, answers: &mut [u8]) -> io::Result<()> {
    let mut pages: Vec<PSAPI_WORKING_SET_EX_INFORMATION> = (0..answers.len())
        .map(|number| PSAPI_WORKING_SET_EX_INFORMATION {
            VirtualAddress: ptr::without_provenance_mut(start + number * page_size()),
            ..PSAPI_WORKING_SET_EX_INFORMATION::default()
        })
        .collect();
    let bytes = u32::try_from(size_of_val(&pages[..])).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the handle of this process is always open; `pages` is writable and has the size that is passed.
    let done =
        unsafe { K32QueryWorkingSetEx(GetCurrentProcess(), pages.as_mut_ptr().cast(), bytes) };
    check(done)?;
    for (answer, page) in answers.iter_mut().zip(&pages) {
        // SAFETY: every bit pattern of the union is a number.
        let flags = unsafe { page.VirtualAttributes.Flags };
        *answer = (flags & 1) as u8;
    }
    Ok(())
}
