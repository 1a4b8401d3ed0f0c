//! One live mapping, and its owner.
//!
//! ```text
//!   start                                                start + len
//!   |<---------------------- whole pages --------------------->|
//!   | offset_in_page |<------- bytes of a window ------->|     |
//! ```
//! A `Region` counts whole pages; the type that holds it decides which bytes are visible.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use crate::locked_pages::LockedPages;
use crate::once::OnceBox;
use crate::page;
use crate::range::whole_pages;
use crate::sys::memory::{self, Address, PageKind};
use crate::sys::process::abort;
use memmap2::MmapRaw;
use std::io;
use std::mem::{self, MaybeUninit};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

/// Whether mremap(2) was refused a range of more than one area.
fn spans_several_vmas(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EFAULT)
}

/// The name of a failed mmap(2) in errors.
fn mmap(pages: PageKind) -> &'static str {
    match pages {
        PageKind::Reserved => "mmap (huge pages)",
        PageKind::Zeroed | PageKind::None => "mmap",
    }
}

/// A mapping and its owner. `len` is a multiple of the page size; 0 means that nothing is mapped.
pub(crate) struct Region {
    start: NonNull<u8>,
    len: usize,
    /// The owner if memmap2 made it and it was never moved; else this type unmaps.
    raw: Option<MmapRaw>,
    /// Created at first use.
    locked: OnceBox<LockedPages>,
}

// SAFETY: a Region is an address range that it alone owns; which references may be made into it, and from which
// thread, is promised by the types that hold it.
unsafe impl Send for Region {}
// SAFETY: as above; `&Region` alone changes no byte.
unsafe impl Sync for Region {}

impl Region {
    /// No mapping at all. Its start is aligned to a page, as every other's is.
    pub(crate) fn empty() -> Self {
        let start = ptr::without_provenance_mut(page::size());
        Region {
            start: NonNull::new(start).unwrap_or(NonNull::dangling()),
            len: 0,
            raw: None,
            locked: OnceBox::new(),
        }
    }

    /// Private memory of `len` bytes, a multiple of the size of its pages.
    pub(crate) fn anonymous_at(len: usize, address: Address, pages: PageKind) -> Result<Self> {
        let start = memory::map_anonymous(len, address, pages);
        Ok(Region::from_raw_parts(
            start.map_err(|e| Error::os(mmap(pages), None, e).with_len(len))?,
            len,
        ))
    }

    /// The first bytes of a memfd, shared and writable.
    pub(crate) fn shared(
        fd: BorrowedFd<'_>,
        len: usize,
        address: Address,
        pages: PageKind,
    ) -> Result<Self> {
        let start = memory::map_shared(fd, 0, len, address);
        let start = start.map_err(|e| Error::os(mmap(pages), None, e).with_len(len))?;
        Ok(Region::from_raw_parts(start, len))
    }

    /// The pages of a file that hold `offset..offset + len`, shared and writable, and where in them `offset` is.
    pub(crate) fn shared_window(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
    ) -> Result<(Self, usize)> {
        let offset_in_page = offset % page::size() as u64;
        let pages = whole_pages(len.saturating_add(offset_in_page as usize), page::size())?;
        let start = memory::map_shared(fd, offset - offset_in_page, pages, Address::Anywhere);
        let start = start.map_err(|e| Error::os("mmap", None, e).with_len(pages))?;
        Ok((
            Region::from_raw_parts(start, pages),
            offset_in_page as usize,
        ))
    }

    /// Private zeroed memory that starts on a huge page and is advised to have huge pages (`MADV_HUGEPAGE`).
    pub(crate) fn with_huge_pages(len: usize) -> Result<Self> {
        let huge = ptr::without_provenance_mut(page::huge_size().unwrap_or(1));
        let huge = NonNull::new(huge).unwrap_or(NonNull::dangling());
        let region = Region::aligned_like(len, huge, PageKind::Zeroed)?;
        // A kernel without huge pages gives small ones.
        let _ = region.advise(0..region.len, libc::MADV_HUGEPAGE);
        Ok(region)
    }

    /// As far from the start of a huge page as `other` is: moved there, huge pages stay whole. Linux 6.7 and later align large
    /// mappings. For older kernels, and for another offset, map more and unmap both ends off.
    fn aligned_like(len: usize, other: NonNull<u8>, pages: PageKind) -> Result<Self> {
        let len = whole_pages(len, page::size())?;
        let align = page::huge_size().unwrap_or(1);
        if len == 0 {
            return Ok(Region::empty());
        }
        let missing = |start: NonNull<u8>| {
            let distance = other.as_ptr().addr().wrapping_sub(start.as_ptr().addr());
            distance % align
        };
        let region = Region::anonymous_at(len, Address::Anywhere, pages)?;
        if len < align || missing(region.start) == 0 {
            return Ok(region);
        }
        drop(region);
        let wide = Region::anonymous_at(
            whole_pages(len + align, page::size())?,
            Address::Anywhere,
            pages,
        )?;
        let head = missing(wide.start);
        let (_, rest) = wide.split(head);
        Ok(rest.split(len).0)
    }

    /// Cuts in two at `at`, a multiple of the page size; libc owns both.
    fn split(self, at: usize) -> (Region, Region) {
        debug_assert!(self.raw.is_none() && at <= self.len);
        let (start, len) = (self.start, self.len);
        mem::forget(self);
        let part = |start: NonNull<u8>, len| match len {
            0 => Region::empty(),
            len => Region::from_raw_parts(start, len),
        };
        // SAFETY: `at` is at most `len`, so the sum stays inside the mapping or at its end.
        let middle = unsafe { start.add(at) };
        (part(start, at), part(middle, len - at))
    }

    /// Read-only pages of a file that hold `offset..offset + len`, shared with every process that has it open, and where in
    /// them `offset` is. `len` is not 0.
    pub(crate) fn file(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<(Self, usize)> {
        #[expect(clippy::disallowed_types, reason = "this is the place")]
        let mut options = memmap2::MmapOptions::new();
        options.offset(offset).len(len);
        let raw = match options.map_raw_read_only(fd.as_raw_fd()) {
            // Linux before 6.7: a memfd that is sealed against writing, by a descriptor for writing. A private mapping that
            // is never written to has the same pages.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                // SAFETY: no reference is made here; the code that makes one is responsible for the file.
                unsafe { options.map_copy_read_only(fd.as_raw_fd()) }?.into()
            }
            raw => raw?,
        };
        Ok(Region::around(raw, offset, len))
    }

    /// The same pages copy-on-write: stores stay in this process (`MAP_PRIVATE`).
    pub(crate) fn copy_on_write(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
    ) -> io::Result<(Self, usize)> {
        #[expect(clippy::disallowed_types, reason = "this is the place")]
        let mut options = memmap2::MmapOptions::new();
        // The file may be larger than the free memory, which the kernel need not reserve for stores (`MAP_NORESERVE`).
        options.offset(offset).len(len).no_reserve_swap();
        // SAFETY: no reference is made here; the code that makes one is responsible for the file.
        let map = unsafe { options.map_copy(fd.as_raw_fd()) }?;
        Ok(Region::around(MmapRaw::from(map), offset, len))
    }

    fn around(raw: MmapRaw, offset: u64, len: usize) -> (Self, usize) {
        let offset_in_page = (offset % page::size() as u64) as usize;
        // The kernel has mapped offset_in_page + len bytes, so rounding them up cannot overflow.
        let whole = page::align_up(offset_in_page + len).unwrap_or(offset_in_page + len);
        (
            Region::owned_by_memmap2(raw, offset_in_page, whole),
            offset_in_page,
        )
    }

    /// `raw` starts `offset_in_page` bytes into the first page.
    fn owned_by_memmap2(raw: MmapRaw, offset_in_page: usize, len: usize) -> Self {
        let start = raw.as_mut_ptr().wrapping_sub(offset_in_page);
        Region {
            start: NonNull::new(start).unwrap_or(NonNull::dangling()),
            len,
            raw: Some(raw),
            locked: OnceBox::new(),
        }
    }

    fn from_raw_parts(start: NonNull<u8>, len: usize) -> Self {
        Region {
            start,
            len,
            raw: None,
            locked: OnceBox::new(),
        }
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes mapped, a multiple of the page size.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Its address range, for calls that take addresses.
    pub(crate) fn addresses(&self) -> Range<usize> {
        let start = self.start.as_ptr().addr();
        start..start + self.len
    }

    /// Its locked pages; `None` if nothing is mapped.
    pub(crate) fn locked_pages(&self) -> Option<&LockedPages> {
        let new = || LockedPages::new(self.addresses());
        (self.len > 0).then(|| self.locked.get_or_init(new))
    }

    /// Changes how much is mapped; the pages that stay keep their bytes, and the start may move.
    /// For memory made by this type only: a file does not grow by it.
    pub(crate) fn resize(&mut self, len: usize, page_size: usize) -> Result<()> {
        let len = whole_pages(len, page_size)?;
        if len == self.len {
            return Ok(());
        }
        if len == 0 {
            *self = Region::empty();
            return Ok(());
        }
        // SAFETY:
        // - The range is one mapping, owned by this value.
        // - `&mut self` proves that no reference into it is left.
        let start = unsafe { memory::remap(self.start, self.len, len) };
        match start {
            Ok(start) => self.moved_to(start, len),
            Err(e) if spans_several_vmas(&e) => {
                let target = Region::aligned_like(len, self.start, PageKind::None)?;
                self.grow_vma_by_vma(target)?;
            }
            Err(e) => return Err(Error::os("mremap", None, e).with_len(len)),
        }
        Ok(())
    }

    /// Grows memory made by [`Region::with_huge_pages`], so that it stays aligned to huge pages: they are moved by
    /// their page tables and never split.
    pub(crate) fn grow_with_huge_pages(&mut self, len: usize) -> Result<()> {
        let target = Region::aligned_like(len, self.start, PageKind::None)?;
        // SAFETY:
        // - The source is one mapping owned by this value, and `&mut self` proves that no reference is left.
        // - The target was mapped just now, without access: no reference into it can exist.
        let moved = unsafe { memory::remap_onto(self.start, self.len, target.start, target.len) };
        match moved {
            Ok(()) => {
                let len = target.len;
                self.moved_to(target.into_start(), len);
            }
            Err(e) => {
                target.give_up_target();
                if !spans_several_vmas(&e) {
                    return Err(Error::os("mremap", None, e).with_len(len));
                }
                // Another mapping may be at the first target by now.
                let target = Region::aligned_like(len, self.start, PageKind::None)?;
                self.grow_vma_by_vma(target)?;
            }
        }
        Ok(())
    }

    /// Unmaps what an mremap(2) that failed was to replace, unless the call has unmapped it already: then these
    /// addresses are no longer ours.
    fn give_up_target(self) {
        if !memory::is_mapped(self.start, self.len) {
            mem::forget(self);
        }
    }

    /// Moves to `target`, which is longer, area by area, each with its advice; the last one grows. mremap(2) takes one
    /// area only, and advice on a part of a mapping makes several of it.
    fn grow_vma_by_vma(&mut self, target: Region) -> Result<()> {
        let vmas = memory::vmas(self.addresses());
        let vmas = vmas.map_err(|e| Error::os("read", Some("/proc/self/maps".as_ref()), e))?;
        if vmas.iter().map(|vma| vma.len()).sum::<usize>() != self.len {
            let refused = io::Error::from_raw_os_error(libc::EFAULT);
            return Err(Error::os("mremap", None, refused));
        }
        // From the last, which needs memory and may be refused; the others then take the place that it took.
        for (moved, vma) in vmas.iter().rev().enumerate() {
            let at = vma.start - self.start.as_ptr().addr();
            let len = match moved {
                0 => target.len - at,
                _ => vma.len(),
            };
            // SAFETY: `at` is in this mapping.
            let from = unsafe { self.start.add(at) };
            // SAFETY: the target is longer.
            let to = unsafe { target.start.add(at) };
            // SAFETY:
            // - The source is an area of this mapping, and `&mut self` proves that no reference is left.
            // - The target is without access: no reference into it can exist.
            match unsafe { memory::remap_onto(from, vma.len(), to, len) } {
                Ok(()) => {}
                Err(e) if moved == 0 => {
                    target.give_up_target();
                    return Err(Error::os("mremap", None, e));
                }
                // Some bytes have moved and some have not, and other mappings may be at the old addresses by now.
                Err(e) => {
                    let why = e.to_string();
                    abort(&[
                        b"stillmap: aborting: memory could not be moved: ",
                        why.as_bytes(),
                        b"\n",
                    ])
                }
            }
        }
        let len = target.len;
        self.moved_to(target.into_start(), len);
        Ok(())
    }

    /// Releases ownership; the mapping stays.
    fn into_start(self) -> NonNull<u8> {
        let start = self.start;
        mem::forget(self);
        start
    }

    /// Called after the mapping has moved: its old owner must not unmap the old addresses.
    fn moved_to(&mut self, start: NonNull<u8>, len: usize) {
        mem::forget(self.raw.take());
        // Only a leaked guard can be left.
        self.locked = OnceBox::new();
        self.start = start;
        self.len = len;
    }

    /// Takes write access away, for good.
    pub(crate) fn protect_read_only(&mut self) -> Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        // SAFETY: the range is owned by this value, and `&mut self` proves that nothing writes to it.
        let done = unsafe { memory::protect_read_only(self.start, self.len) };
        done.map_err(|e| Error::os("mprotect", None, e))
    }

    /// madvise(2) with advice that leaves the bytes alone, on whole pages of this mapping.
    pub(crate) fn advise(&self, pages: Range<usize>, advice: i32) -> io::Result<()> {
        debug_assert!(!matches!(
            advice,
            libc::MADV_DONTNEED | libc::MADV_REMOVE | libc::MADV_FREE
        ));
        // SAFETY: `at` keeps the range inside this mapping, and the advice leaves the bytes alone.
        unsafe { self.advise_any(pages, advice) }
    }

    /// Faults pages in for reading; a device error is an `Err` here and would be a signal later.
    pub(crate) fn populate(&self, pages: Range<usize>) -> io::Result<()> {
        match self.advise(pages, libc::MADV_POPULATE_READ) {
            // Linux before 5.14: the pages come when they are touched.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }

    /// Gives pages back to the kernel; they read as zero afterwards. For memory made by this type only.
    pub(crate) fn discard(&mut self, pages: Range<usize>, shared: bool) -> io::Result<()> {
        // MADV_REMOVE punches a hole into shared memory, for every process; MADV_DONTNEED would only drop the pages of
        // this mapping.
        let advice = if shared {
            libc::MADV_REMOVE
        } else {
            libc::MADV_DONTNEED
        };
        // SAFETY: `&mut self` proves that no reference into the mapping is left.
        unsafe { self.advise_any(pages, advice) }
    }

    /// # Safety
    /// If `advice` destroys bytes, no reference into the mapping is left.
    unsafe fn advise_any(&self, pages: Range<usize>, advice: i32) -> io::Result<()> {
        assert!(
            pages.start <= pages.end && pages.end <= self.len,
            "{pages:?} of {}",
            self.len
        );
        if pages.is_empty() {
            return Ok(());
        }
        // SAFETY: checked above.
        let start = unsafe { self.start.add(pages.start) };
        // SAFETY: the range lies in this mapping; the caller answers for the advice.
        unsafe { memory::advise(start, pages.len(), advice) }
    }

    /// Uninitialised memory to write to.
    ///
    /// # Safety
    /// The pages are writable memory that no other process shares.
    pub(crate) unsafe fn uninit_slice_mut(
        &mut self,
        range: Range<usize>,
    ) -> &mut [MaybeUninit<u8>] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: checked above.
        let start = unsafe { self.start.add(range.start) };
        // SAFETY: inside this mapping; `&mut self` and the caller make it exclusive; MaybeUninit takes any byte.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast(), range.len()) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.raw.is_none() && self.len > 0 {
            // SAFETY: the mapping is owned by this value, and it ends here.
            let _ = unsafe { memory::unmap(self.start, self.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no mremap")]
    fn growing_keeps_bytes_and_alignment() {
        let huge = page::huge_size().unwrap_or(page::size());
        let mut region = Region::with_huge_pages(2 * huge).unwrap();
        // SAFETY: the memory is ours.
        let first = unsafe { region.uninit_slice_mut(0..1) };
        first[0].write(7);
        region.grow_with_huge_pages(8 * huge).unwrap();
        assert_eq!(region.start().as_ptr().addr() % huge, 0);
        // SAFETY: written above.
        assert_eq!(unsafe { region.start().read() }, 7);
    }
}
