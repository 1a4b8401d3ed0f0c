//! Address space for copies, reserved when a lease is set, so that a break can be handled although the program has reached
//! a limit on addresses (`RLIMIT_AS`) or mappings (vm.max_map_count) since.
//!
//! One thread handles all breaks, so one range of the length of the largest leased mapping is enough. It is in a slot. The
//! copier takes it out while it copies; a thread that leases a larger file puts a larger range there.
//!
//! ```text
//!   |<- header ->|<- to a multiple of a huge page ->|<--- length of the largest mapping --->|<- SPARE_VMAS pages ->|
//! ```
//! Adjacent spare pages have different protection, so each counts as a mapping, until a break needs some mappings.
#![allow(unsafe_code)]

use crate::page;
use crate::sys::memory::{self, Address, PageKind};
use crate::sys::process;
use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Mappings reserved for a break: it splits the reserved range in three, and mremap(2) needs five that are free.
const SPARE_VMAS: usize = 16;

/// Leads to the header of the range that is reserved and not in use.
static SLOT: AtomicPtr<Span> = AtomicPtr::new(ptr::null_mut());

/// The longest mapping for which there is a range, in the slot or in use.
static FITS: AtomicUsize = AtomicUsize::new(0);

/// A reserved range. A copy of this is in its header, so that no allocation is needed for it.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    len: usize,
    fits: usize,
}

/// True if there is a range for a copy of `len` bytes.
pub(super) fn fits(len: usize) -> bool {
    len <= FITS.load(Ordering::Acquire)
}

/// Reserves what a copy of `len` bytes needs. Called by one thread at a time.
pub(super) fn reserve(len: usize) -> io::Result<()> {
    if fits(len) {
        return Ok(());
    }
    // Twice as long, if possible, so that a series of longer and longer files reserves seldom.
    let double = len.checked_next_power_of_two().unwrap_or(len);
    let span = Span::map(double).or_else(|_| Span::map(len))?;
    FITS.store(span.fits, Ordering::Release);
    if let Some(old) = swap(span.header()) {
        old.unmap();
    }
    Ok(())
}

/// Puts another range into the slot, or none.
fn swap(next: *mut Span) -> Option<Span> {
    let old = SLOT.swap(next, Ordering::AcqRel);
    // SAFETY: null, or the header of a range that no other thread has, since it was in the slot.
    unsafe { old.as_ref() }.copied()
}

/// In a forked child: another range, if the parent's copier was using the one there was.
pub(super) fn reserve_in_child() -> io::Result<()> {
    if !SLOT.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    reserve(FITS.swap(0, Ordering::AcqRel))
}

impl Span {
    /// Takes the range out of the slot. It is missing or too short if it could not be reserved again after its last use, or
    /// if another thread was using it when this process was forked: then a new one is mapped, if possible.
    fn acquire(fits: usize) -> io::Result<Self> {
        match swap(ptr::null_mut()) {
            Some(span) if span.fits >= fits => return Ok(span),
            Some(short) => short.unmap(),
            None => {}
        }
        Span::map(fits).inspect_err(|_| FITS.store(0, Ordering::Release))
    }

    fn map(fits: usize) -> io::Result<Self> {
        let (page, huge) = (page::size(), page::huge_size().unwrap_or(0));
        let len = fits.checked_add(huge + (SPARE_VMAS + 1) * page);
        let len = len.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let start = memory::map_anonymous(len, Address::Anywhere, PageKind::None)?;
        let start = start.as_ptr().expose_provenance();
        let span = Span { start, len, fits };
        span.prepare().inspect_err(|_| span.unmap())?;
        Ok(span)
    }

    /// Writes the header, and makes a mapping of each spare page.
    fn prepare(&self) -> io::Result<()> {
        let page = page::size();
        // SAFETY: the first page of the range, which is ours.
        unsafe { memory::protect_read_write(self.start..self.start + page) }?;
        // SAFETY: mapped, writable and aligned.
        unsafe { self.header().write(*self) };
        for spare in (0..SPARE_VMAS).step_by(2) {
            let at = self.start + self.len - (spare + 1) * page;
            // SAFETY: a page of the range, that no code writes to.
            unsafe { memory::protect_read_only(pointer(at), page) }?;
        }
        Ok(())
    }

    fn addresses(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    fn header(&self) -> *mut Span {
        ptr::with_exposed_provenance_mut(self.start)
    }

    fn unmap(&self) {
        // SAFETY: the caller has the only copy of the span that is used, and no reference leads into the range.
        let _ = unsafe { memory::unmap(pointer(self.start), self.len) };
    }
}

/// Zeroed memory in the reserved range.
pub(super) struct ReservedMemory {
    span: Span,
    start: usize,
    len: usize,
}

impl ReservedMemory {
    /// `len` bytes of which no page is there, as far from the start of a huge page as `like` is. For one thread.
    pub(super) fn new(like: usize, len: usize) -> io::Result<Self> {
        let span = Span::acquire(len)?;
        let (first, huge) = (span.start + page::size(), page::huge_size().unwrap_or(1));
        let start = first + like.wrapping_sub(first) % huge;
        let taken = ReservedMemory { span, start, len };
        // By mprotect(2): the kernel refuses every mmap(2), even one over pages of the caller, while the process has more
        // addresses than RLIMIT_AS, or more locked pages than RLIMIT_MEMLOCK, which may have been lowered since.
        // The first call merges the spare pages into one mapping, which frees the others.
        let merged = memory::protect_none(span.addresses());
        // SAFETY: private memory of ours, that no code has stored to.
        let opened =
            merged.and_then(|()| unsafe { memory::protect_read_write(start..start + len) });
        match opened {
            Ok(()) => Ok(taken),
            Err(e) => {
                taken.put_back();
                Err(e)
            }
        }
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        pointer(self.start)
    }

    /// Frees the memory and keeps the addresses.
    pub(super) fn put_back(self) {
        // SAFETY: the memory is ours, and no reference leads into it.
        let freed = unsafe { memory::advise(self.start(), self.len, libc::MADV_DONTNEED) };
        let closed = freed.and_then(|()| memory::protect_none(self.span.addresses()));
        let prepared = closed.and_then(|()| self.span.prepare());
        if prepared.is_err() {
            self.span.unmap();
        }
        offer(prepared.map(|()| self.span));
    }

    /// Reserves again, after the memory was moved away: its addresses may belong to another mapping by now.
    pub(super) fn reserve_again(self) {
        let end = self.span.start + self.span.len;
        for part in [self.span.start..self.start, self.start + self.len..end] {
            if !part.is_empty() {
                // SAFETY: a part of the range that was not moved.
                let _ = unsafe { memory::unmap(pointer(part.start), part.len()) };
            }
        }
        offer(Span::map(self.span.fits));
    }
}

/// Puts a range back, unless another thread has put one into the slot meanwhile.
fn offer(span: io::Result<Span>) {
    let Ok(span) = span else {
        // The next lease reserves again.
        return FITS.store(0, Ordering::Release);
    };
    let order = (Ordering::AcqRel, Ordering::Acquire);
    let offered = SLOT.compare_exchange(ptr::null_mut(), span.header(), order.0, order.1);
    if offered.is_err() {
        span.unmap();
    }
}

/// Runs `swap`, which puts other pages in place of a mapping, at the same addresses and in one step.
///
/// A call with `MAP_FIXED` or `MREMAP_FIXED` may fail after the kernel has unmapped the target (mm/mremap.c, mm/vma.c).
/// Then another mapping could appear there, under the references of the program; so the process is aborted.
pub(super) fn replace(
    target: NonNull<u8>,
    len: usize,
    swap: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let swapped = swap();
    if swapped.is_err() && !memory::is_mapped(target, len) {
        process::abort(&[
            b"stillmap: aborting: the kernel has unmapped memory and could not map its copy\n",
        ]);
    }
    swapped
}

/// The address of a mapping, as a pointer.
pub(super) fn pointer(address: usize) -> NonNull<u8> {
    NonNull::new(ptr::with_exposed_provenance_mut(address)).unwrap_or(NonNull::dangling())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::Fork;

    /// mremap(2) that fails half-way was taken for one that had changed nothing: the next mapping came under the
    /// references of the program.
    #[test]
    #[cfg_attr(miri, ignore = "forks")]
    fn a_swap_that_lost_its_target_ends_the_process() {
        for is_unmapped in [false, true] {
            // SAFETY: the child uses nothing of other threads.
            let child = match unsafe { process::fork() }.unwrap() {
                Fork::Parent { child } => child,
                Fork::Child => {
                    let failed = lose(is_unmapped).is_err();
                    process::exit_immediately(if failed { 0 } else { 1 });
                }
            };
            let status = process::wait(child, None).unwrap();
            assert_eq!(status.success(), !is_unmapped, "{status}");
            assert_eq!(status.code().is_none(), is_unmapped, "{status}");
        }
    }

    fn lose(is_unmapped: bool) -> io::Result<()> {
        let len = 4 * page::size();
        let target = memory::map_anonymous(len, Address::Anywhere, PageKind::Zeroed)?;
        replace(target, len, || {
            if is_unmapped {
                // SAFETY: mapped above, and nothing refers to it.
                unsafe { memory::unmap(target, page::size()) }?;
            }
            Err(io::Error::from_raw_os_error(libc::ENOMEM))
        })
    }
}
