//! Handles a broken write lease after three quarters of the break time: memory replaces the mapping while other threads
//! continue to store to it. Nothing here allocates or takes a lock.
//!
//! 1. Memory without pages, registered with userfaultfd(2), is moved over the mapping in one step. Stores before the move
//!    are in the file; later accesses block.
//! 2. The file's bytes are copied in, page by page, and blocked threads continue. If memory is short, they are copied to an
//!    unnamed file, and that is mapped in place of the memory, in one step.
//! 3. The lease is released, and the file closed.
//!
//! A private mapping of the same file is not enough: a truncation of the file removes its pages, even those that were stored
//! to. Sources: ioctl_userfaultfd(2), mremap(2).
#![allow(unsafe_code)]

use super::copy::{leads_to_file, with_unnamed_file};
use super::monitor;
use super::space::{ReservedMemory, pointer, replace};
use super::table::{DONE, LIVE, LeaseData, LeaseEntry, SWAPPED, WriteData};
use crate::backing::Backing;
use crate::file_system::FileSystem;
use crate::sys::write::write_all_at;
use crate::sys::{file, lease, memory, mlock, userfault};
use crate::{atfork, budget, page, space};
use std::cell::UnsafeCell;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

/// Bytes that are copied at a time.
const COPY_CHUNK: usize = 1 << 20;

/// A buffer of the copier; it takes no RAM before it is used.
struct Buffer(UnsafeCell<[MaybeUninit<u8>; COPY_CHUNK]>);

// SAFETY: one thread uses it.
unsafe impl Sync for Buffer {}

static BUFFER: Buffer = Buffer(UnsafeCell::new([MaybeUninit::new(0); COPY_CHUNK]));

/// Handles a break: the entry is WORKING. It is DONE afterwards, or LIVE again if the bytes could not be copied now.
pub(super) fn handle_break(entry: &LeaseEntry, fd: i32) {
    // Bytes of another file must not be copied into the mapping.
    if !leads_to_file(entry) {
        return entry.set(LIVE);
    }
    // SAFETY: in WORKING the copier alone uses it.
    let data = unsafe { entry.data() };
    let mapping = Mapping {
        start: data.start,
        len: data.len,
        copy_len: data.copy_len(),
    };
    let LeaseData::Write(write) = &mut data.kind else {
        return entry.set(LIVE);
    };
    // SAFETY: the owner keeps the number open until the entry is DONE or LIVE.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    // SAFETY: as above.
    let pages = unsafe { BorrowedFd::borrow_raw(write.userfaultfd) };
    match mapping.detach(entry, write, file, pages) {
        Ok(backing) => {
            // Closing the userfaultfd makes the memory ordinary, and wakes the threads that wait for a page.
            atfork::close_behind(pages);
            data.relock();
            entry.set_backing(backing);
            // Set before another process can continue.
            entry.set(SWAPPED);
            lease::release(fd);
            atfork::close_behind(file);
            entry.set(DONE);
        }
        Err(_) => entry.set(LIVE),
    }
}

/// The addresses of the mapping; lengths in bytes.
struct Mapping {
    start: usize,
    len: usize,
    /// Bytes that are copied, from the start on: whole pages. The rest is reserved address space only.
    copy_len: usize,
}

impl Mapping {
    fn detach(
        &self,
        entry: &LeaseEntry,
        write: &mut WriteData,
        file: BorrowedFd<'_>,
        pages: BorrowedFd<'_>,
    ) -> io::Result<Backing> {
        // Checked first: a process that takes more memory than its control group has left is killed.
        let is_in_memory = write.supplied > 0 || budget::fits_available(self.copy_len as u64);
        let disk = if is_in_memory {
            None
        } else {
            Some(self.disk(file)?)
        };
        // Set before the memory is moved: if a flush does not see it, all stores so far are in the file.
        if !entry.is_moved.swap(true, Ordering::SeqCst) {
            let moved = self.move_memory_over(pages);
            moved.inspect_err(|_| entry.is_moved.store(false, Ordering::SeqCst))?;
        }
        // After a failure this is repeated, which does no harm.
        self.drop_reserved()?;
        let window = (write.offset, write.used);
        match disk {
            None => {
                let from = write.supplied;
                let mut put = |at, chunk: &[u8]| {
                    let to = pointer(self.start + at);
                    // SAFETY: the pages are missing still, and the bytes are those that the mapping had: the lease
                    // holds until all of them are there.
                    unsafe { userfault::copy_in(pages, to, chunk) }?;
                    write.supplied = at + chunk.len();
                    Ok(())
                };
                self.copy(window, file, from, &mut put)?;
                Ok(Backing::Memory)
            }
            Some(disk) => {
                let mut put = |at, chunk: &[u8]| write_all_at(&disk, chunk, at as u64);
                self.copy(window, file, 0, &mut put)?;
                let target = pointer(self.start);
                replace(target, self.copy_len, || {
                    // SAFETY: the owner of the entry owns the target; threads that access it block until its bytes are there.
                    unsafe { memory::map_fixed_shared(target, self.copy_len, disk.as_fd()) }
                })?;
                Ok(Backing::Disk)
            }
        }
    }

    /// An unnamed file with blocks for the copy, where a store to a block that is there cannot fail.
    fn disk(&self, beside: BorrowedFd<'_>) -> io::Result<File> {
        with_unnamed_file(beside, |to| {
            if !FileSystem::from_fd(to.as_fd())?.writes_in_place() {
                return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
            }
            space::extend(&to, 0, self.copy_len as u64)?;
            Ok(to)
        })
    }

    /// Passes the bytes of the file from `from` on to `put`, whole pages at a time, with their offset in the mapping.
    fn copy(
        &self,
        (offset, used): (u64, usize),
        file: BorrowedFd<'_>,
        from: usize,
        put: &mut dyn FnMut(usize, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = page::align_up(used).map_or(self.copy_len, |end| end.min(self.copy_len));
        // SAFETY: the copier alone runs this, once at a time.
        let buffer = unsafe { &mut *BUFFER.0.get() };
        for at in (from..end).step_by(COPY_CHUNK) {
            let len = COPY_CHUNK.min(end - at);
            let chunk = &mut buffer[..len];
            let bytes = len.min(used - at);
            if file::read_full_at(file, &mut chunk[..bytes], offset + at as u64)? < bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            chunk[bytes..].fill(MaybeUninit::new(0));
            // SAFETY: every byte of the chunk was written.
            let chunk = unsafe { std::slice::from_raw_parts(chunk.as_ptr().cast::<u8>(), len) };
            put(at, chunk)?;
        }
        Ok(())
    }

    /// Puts memory without pages in place of the mapping.
    fn move_memory_over(&self, pages: BorrowedFd<'_>) -> io::Result<()> {
        let memory = ReservedMemory::new(self.start, self.copy_len)?;
        let (from, len) = (memory.start(), self.copy_len);
        let moved = make_missing(from, len)
            .and_then(|()| userfault::register(pages, from, len))
            .and_then(|()| {
                let _noted = monitor::acknowledge_remaps(pages);
                let target = pointer(self.start);
                replace(target, len, || {
                    // SAFETY:
                    // - The memory is one mapping of ours, and no reference leads into it.
                    // - The owner of the entry owns the target; threads that access it block until its bytes are there again.
                    unsafe { memory::remap_onto(from, len, target, len) }
                })
            });
        match moved {
            Ok(_) => memory.reserve_again(),
            Err(_) => memory.put_back(),
        }
        moved
    }

    /// Unmaps the file from the addresses that are only reserved: a mapping keeps it open.
    fn drop_reserved(&self) -> io::Result<()> {
        if self.copy_len == self.len {
            return Ok(());
        }
        // SAFETY: the owner of the entry owns the range, and makes no reference into what it has reserved.
        unsafe { memory::map_fixed_none(self.start + self.copy_len..self.start + self.len) }
    }
}

/// Frees the pages of new memory: under mlockall(2) with `MCL_FUTURE` it has all of them.
fn make_missing(start: NonNull<u8>, len: usize) -> io::Result<()> {
    let address = start.as_ptr().addr();
    mlock::munlock(address..address + len);
    // SAFETY: the memory is ours, and no reference leads into it.
    unsafe { memory::advise(start, len, libc::MADV_DONTNEED) }
}
