//! Handles a broken write lease after three quarters of the break time: memory takes
//! the place of the mapping while other threads go on storing to it. Nothing here allocates or takes a lock.
//!
//! 1. Memory without pages, registered with userfaultfd(2), is moved over the mapping in one step. A store before that
//!    is in the file; a later access to a page blocks.
//! 2. The file's bytes are copied in, page by page, and blocked threads continue.
//! 3. The lease is released, and the file closed.
//!
//! A private mapping of the same file is not enough: when the file is truncated it loses its pages, those included that
//! were stored to. Sources: ioctl_userfaultfd(2), mremap(2).
#![allow(unsafe_code)]

use super::monitor;
use super::space::{ReservedMemory, pointer, replace};
use super::table::{DONE, LIVE, LeaseData, LeaseEntry, WriteData};
use crate::atfork;
use crate::backing::Backing;
use crate::page;
use crate::sys::{file, lease, memory, mlock, userfault};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};

/// Bytes that are copied into the memory at a time.
const UFFD_CHUNK: usize = 1 << 20;

/// `UFFD_CHUNK` bytes for the answerer alone; mapped before it starts.
static BUFFER: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

/// To be called before the answerer starts.
pub(super) fn prepare() -> io::Result<()> {
    if BUFFER.load(Ordering::Relaxed).is_null() {
        let (address, pages) = (memory::Address::Anywhere, memory::PageKind::Zeroed);
        let buffer = memory::map_anonymous(UFFD_CHUNK, address, pages)?;
        BUFFER.store(buffer.as_ptr(), Ordering::Release);
    }
    Ok(())
}

/// Handles a break: the entry is WORKING. It is DONE afterwards, or LIVE again if there was no memory.
pub(super) fn handle_break(entry: &LeaseEntry, fd: i32) {
    // SAFETY: in WORKING the answerer alone uses it.
    let data = unsafe { entry.data() };
    let (start, mapped) = (data.start, data.len);
    let LeaseData::Write(write) = &mut data.kind else {
        return entry.set(LIVE);
    };
    // SAFETY: the owner keeps the number open until the entry is DONE or LIVE.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    // SAFETY: as above.
    let pages = unsafe { BorrowedFd::borrow_raw(write.userfaultfd) };
    match detach((start, mapped), write, file, pages) {
        Ok(()) => {
            // Closing the userfaultfd makes the memory ordinary.
            atfork::close_behind(pages);
            data.relock();
            lease::release(fd);
            atfork::close_behind(file);
            entry.set_backing(Backing::Memory);
            entry.set(DONE);
        }
        Err(_) => entry.set(LIVE),
    }
}

fn detach(
    (start, mapped): (usize, usize),
    write: &mut WriteData,
    file: BorrowedFd<'_>,
    pages: BorrowedFd<'_>,
) -> io::Result<()> {
    if !write.is_moved {
        replace_with_userfault_memory((start, mapped), pages)?;
        write.is_moved = true;
    }
    let end = page::align_up(write.len).map_or(mapped, |end| end.min(mapped));
    let buffer = BUFFER.load(Ordering::Acquire).cast::<MaybeUninit<u8>>();
    while write.populated < end {
        let len = UFFD_CHUNK.min(end - write.populated);
        // SAFETY: `prepare` has mapped UFFD_CHUNK bytes for this thread alone.
        let chunk = unsafe { std::slice::from_raw_parts_mut(buffer, len) };
        let bytes = len.min(write.len - write.populated);
        read_exact(file, &mut chunk[..bytes], write.populated as u64)?;
        chunk[bytes..].fill(MaybeUninit::new(0));
        // SAFETY: every byte of the chunk was written.
        let chunk = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), len) };
        // SAFETY: the pages are missing still, and the bytes are those that the mapping had: the lease holds until all
        // of them are there.
        unsafe { userfault::copy_in(pages, pointer(start + write.populated), chunk) }?;
        write.populated += len;
    }
    Ok(())
}

fn read_exact(
    file: BorrowedFd<'_>,
    mut into: &mut [MaybeUninit<u8>],
    mut offset: u64,
) -> io::Result<()> {
    while !into.is_empty() {
        let n = file::read_at(file, into, offset)?.len();
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        into = &mut into[n..];
        offset += n as u64;
    }
    Ok(())
}

/// Puts memory without pages in place of the mapping.
fn replace_with_userfault_memory(
    (start, len): (usize, usize),
    pages: BorrowedFd<'_>,
) -> io::Result<()> {
    let memory = ReservedMemory::new(start, len)?;
    let from = memory.start();
    let moved = make_missing(from, len)
        .and_then(|()| userfault::register(pages, from, len))
        .and_then(|()| {
            let _noted = monitor::acknowledge_remaps(pages);
            let target = pointer(start);
            replace(target, len, || {
                // SAFETY:
                // - The memory is one mapping of ours, and no reference leads into it.
                // - The owner of the entry owns the target; those who use it block until its bytes are there again.
                unsafe { memory::remap_onto(from, len, target, len) }
            })
        });
    match moved {
        Ok(_) => memory.reserve_again(),
        Err(_) => memory.put_back(),
    }
    moved
}

/// Under mlockall(2) with MCL_FUTURE, new memory has all its pages.
fn make_missing(start: NonNull<u8>, len: usize) -> io::Result<()> {
    let address = start.as_ptr().addr();
    mlock::munlock(address..address + len);
    // SAFETY: the memory is ours, and no reference leads into it.
    unsafe { memory::advise(start, len, libc::MADV_DONTNEED) }
}
