//! Handles a broken read lease: copies the bytes, moves the copy over the mapping in one step, and releases the lease.
//! Nothing here allocates or takes a lock.
#![allow(unsafe_code)]

use super::children;
use super::deadline::Deadline;
use super::space::{ReservedMemory, pointer, replace};
use super::table::{DONE, Data, LIVE, LeaseData, LeaseEntry, ReadData, SWAPPED, is_ambiguous};
use crate::backing::Backing;
use crate::file_system::FileSystem;
use crate::input::copy_into;
use crate::once::OnceBox;
use crate::sys::file::{self, Stat};
use crate::sys::unnamed::{self, PATH_MAX};
use crate::sys::{clock, lease, memory, process};
use crate::{atfork, budget};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

/// Bytes that are copied between two checks whether the copy is still needed.
const COPY_CHUNK: usize = 4 << 20;

/// `TMPDIR`, or its default.
static TEMP_DIR: OnceBox<CString> = OnceBox::new();

/// To be called before the copier starts.
pub(super) fn prepare() {
    TEMP_DIR.get_or_init(|| {
        let dir = std::env::temp_dir().into_os_string().into_vec();
        CString::new(dir).unwrap_or_default()
    });
}

/// Handles a break: the entry is WORKING. It is DONE afterwards, or LIVE again if the bytes could not be copied now.
pub(super) fn handle_break(entry: &LeaseEntry, fd: RawFd) {
    // SAFETY: in WORKING the copier alone uses it.
    let data = *unsafe { entry.data() };
    let LeaseData::Read(read) = data.kind else {
        return entry.set(LIVE);
    };
    // SAFETY: the owner keeps the number open until the entry is DONE or LIVE.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    if !leads_to_file(entry) || is_ambiguous(fd) {
        return without_descriptor(entry, &data);
    }
    match replace_mapping(entry, file, &data, &read) {
        Ok(backing) => {
            entry.set_backing(backing);
            entry.set(SWAPPED);
            finish(entry, file, &read);
        }
        // The program may have given the number to another descriptor of the file that cannot be read (O_PATH, O_DIRECT).
        Err(_) if !entry.is_dropped.load(Ordering::Relaxed) && !lease::is_reported(fd) => {
            without_descriptor(entry, &data);
        }
        Err(_) => entry.set(LIVE),
    }
}

/// False if the number refers to another file, or to none: the program has closed it, as a daemon closes all that it
/// inherited, or it belongs to a thread with a descriptor table of its own (unshare(2), `CLONE_FILES`). The entry is WORKING.
pub(super) fn leads_to_file(entry: &LeaseEntry) -> bool {
    // SAFETY: in WORKING the copier alone uses it.
    let then = unsafe { entry.data() }.stat();
    // SAFETY: the owner keeps the number open until the entry is DONE or LIVE.
    let file = unsafe { BorrowedFd::borrow_raw(entry.fd.load(Ordering::Acquire)) };
    let now = file::stat(file);
    now.is_ok_and(|now| then.is_some_and(|then| now.is_same_file(&then)))
}

/// The same as [`handle_break`] where no readable descriptor refers to the file: the bytes are copied from the mapping. The
/// mapping keeps the file, and so the lease, until its last page is replaced; in the second case of [`leads_to_file`], the
/// lease ends with the thread.
fn without_descriptor(entry: &LeaseEntry, data: &Data) {
    let fill = |to: NonNull<u8>| {
        let mut done = 0;
        while done < data.len {
            // SAFETY: inside the memory, which is as long as the mapping.
            let to = unsafe { to.add(done) };
            // SAFETY: as above; only this thread has the memory.
            done += unsafe { memory::read_mapped(data.start + done, to, data.len - done) }?;
        }
        children::wait_until_ready();
        // Without the descriptor it is not known whether the lease was still held.
        entry.is_inconsistent.store(true, Ordering::Release);
        // Set before the writer can continue.
        entry.set_backing(Backing::Memory);
        entry.set(SWAPPED);
        Ok(())
    };
    if put_copy(data, fill).is_err() {
        entry.set_backing(Backing::Leased);
        return entry.set(LIVE);
    }
    entry.forget_descriptor();
    entry.set(DONE);
}

/// Releases the lease of a mapping that was replaced.
fn finish(entry: &LeaseEntry, file: BorrowedFd<'_>, read: &ReadData) {
    // Checked before the release lets a writer continue, and again if the kernel had ended the lease before.
    let mut is_consistent = is_unchanged(file, &read.stat, true);
    // Stored for a child that is forked from here on: it cannot check whether the lease was held until it was released.
    let is_known = is_consistent && is_unchanged(file, &read.stat, false);
    entry.is_copy_consistent.store(is_known, Ordering::Release);
    children::wait_until_ready();
    // False if the kernel has ended the lease, or if the number is that of another description of the file.
    let is_ours = lease::is_reported(file.as_raw_fd());
    if !lease::release(file.as_raw_fd()) {
        is_consistent &= is_unchanged(file, &read.stat, false);
    }
    if !is_consistent {
        entry.is_inconsistent.store(true, Ordering::Release);
    }
    if is_ours {
        // The owner closes the number. The file itself is not kept open any longer.
        atfork::close_behind(file);
    }
    entry.set(DONE);
}

/// True if the file has not changed since the lease was set. While the lease is held (`is_held`), only size and mtime are
/// compared: a truncation changes them, and links, permissions and owners change only ctime.
pub(super) fn is_unchanged(file: BorrowedFd<'_>, then: &Stat, is_held: bool) -> bool {
    file::stat(file).is_ok_and(|now| {
        if is_held {
            now.stamp.has_same_content(&then.stamp)
        } else {
            now.stamp == then.stamp
        }
    })
}

/// Copies the bytes and maps the copy in place of the file.
fn replace_mapping(
    entry: &LeaseEntry,
    file: BorrowedFd<'_>,
    data: &Data,
    read: &ReadData,
) -> io::Result<Backing> {
    if file::stat(file)?.size != read.stat.size {
        // Truncated in a way that breaks no lease, or after the kernel ended the lease: the bytes are lost, and no other bytes
        // may appear there. Touching them raises SIGSEGV.
        let range = data.start..data.start + data.len;
        replace(pointer(data.start), data.len, || {
            // SAFETY: as in `map_file`, and nothing can be read there.
            unsafe { memory::map_fixed_none(range) }
        })?;
        entry.is_inconsistent.store(true, Ordering::Release);
        return Ok(Backing::Disk);
    }
    let end = (read.offset + data.len as u64).min(read.stat.size);
    let stop = || entry.is_dropped.load(Ordering::Relaxed);
    let may_clone = read.system.may_clone();
    if let Some(_reservation) = budget::reserve_memory(data.len as u64, read.memory_limit) {
        let has_waited = |deadline: Deadline| deadline.has_waited(clock::monotonic_ms());
        let is_slow = || may_clone && entry.deadline().is_some_and(has_waited);
        match copy_to_memory(file, data, read.offset..end, &|| stop() || is_slow()) {
            Ok(()) => return Ok(Backing::Memory),
            Err(e) if stop() => return Err(e),
            Err(_) => {}
        }
    }
    if may_clone {
        let clone = |to: File| file::clone_into(file, to.as_fd()).map(|()| to);
        if let Ok(clone) = with_unnamed_file(file, clone) {
            map_file(data, clone.as_fd(), read.offset)?;
            return Ok(Backing::Cloned);
        }
    }
    let mut step = |_| {
        if stop() {
            Err(io::ErrorKind::Interrupted.into())
        } else {
            Ok(())
        }
    };
    let copy = |to: File| copy_into(file, read.offset..end, to, &mut step);
    let (copy, _) = with_unnamed_file(file, copy)?;
    map_file(data, copy.as_fd(), 0)?;
    Ok(Backing::Disk)
}

/// Puts pages of an unnamed file in place of the mapping.
fn map_file(data: &Data, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
    let target = pointer(data.start);
    // SAFETY:
    // - The owner of the entry owns the mapping and keeps it until the break is handled.
    // - Readers find the same bytes: the file has not changed since the lease was set.
    let map = || unsafe { memory::map_fixed_file(target, data.len, file, offset) };
    replace(target, data.len, map)?;
    data.relock();
    Ok(())
}

/// Copies a range of the file into memory and puts that in place of the mapping.
pub(super) fn copy_to_memory(
    file: BorrowedFd<'_>,
    data: &Data,
    range: std::ops::Range<u64>,
    stop: &dyn Fn() -> bool,
) -> io::Result<()> {
    put_copy(data, |to| read_range(file, to, range, stop))
}

/// Puts memory in place of the mapping, once `fill` has filled it.
fn put_copy(data: &Data, fill: impl FnOnce(NonNull<u8>) -> io::Result<()>) -> io::Result<()> {
    let memory = ReservedMemory::new(data.start, data.len)?;
    // Ignored by a kernel without huge pages.
    // SAFETY: the memory is ours.
    let _ = unsafe { memory::advise(memory.start(), data.len, libc::MADV_HUGEPAGE) };
    if let Err(e) = fill(memory.start()) {
        memory.put_back();
        return Err(e);
    }
    let (from, target) = (memory.start(), pointer(data.start));
    // SAFETY: as in `map_file`; the memory is one mapping of ours, and no reference leads into it.
    let moved = replace(target, data.len, || unsafe {
        memory::remap_onto(from, data.len, target, data.len)
    });
    match moved {
        Ok(()) => {
            data.relock();
            memory.reserve_again();
        }
        Err(_) => memory.put_back(),
    }
    moved
}

/// Reads a range of the file, or less if it ends before: the caller notices a truncation.
fn read_range(
    file: BorrowedFd<'_>,
    to: NonNull<u8>,
    range: std::ops::Range<u64>,
    stop: &dyn Fn() -> bool,
) -> io::Result<()> {
    for offset in range.clone().step_by(COPY_CHUNK) {
        if stop() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = COPY_CHUNK.min((range.end - offset) as usize);
        // SAFETY: inside the memory, which is as long as the range at least.
        let start = unsafe { to.cast().add((offset - range.start) as usize) };
        // SAFETY: as above; MaybeUninit takes any byte.
        let chunk = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) };
        file::read_full_at(file, chunk, offset)?;
    }
    Ok(())
}

/// Calls `write` with a new unnamed file: beside the file, then in the directories for temporary files, until it
/// succeeds.
pub(super) fn with_unnamed_file<T>(
    beside: BorrowedFd<'_>,
    mut write: impl FnMut(File) -> io::Result<T>,
) -> io::Result<T> {
    let mut path = [0; PATH_MAX];
    let name = unnamed::name(beside.as_raw_fd(), &mut path);
    let slash = name
        .ok()
        .and_then(|name| name.iter().rposition(|&byte| byte == b'/'));
    // The directory of "/file" is "/".
    path[slash.map_or(0, |slash| slash.max(1))] = 0;
    let beside = CStr::from_bytes_until_nul(&path).unwrap_or(c"");
    let temporary = TEMP_DIR.get().map_or(c"", CString::as_c_str);
    let mut last = io::Error::from_raw_os_error(libc::ENOSPC);
    // Disks that are known to be local come first.
    for is_suitable in [FileSystem::is_local_disk, FileSystem::is_maybe_disk] {
        for dir in [beside, c"/var/tmp", temporary] {
            let suitable = |file: &File| {
                FileSystem::from_fd(file.as_fd())
                    .is_ok_and(|system| is_suitable(system, file.as_fd()))
            };
            match unnamed::create(dir) {
                Ok(file) if suitable(&file) => match write(file) {
                    Ok(written) => return Ok(written),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
                    Err(e) => last = e,
                },
                Ok(_) => {}
                Err(e) => last = e,
            }
        }
    }
    Err(last)
}

/// Ends the process, since otherwise the bytes would change.
pub(super) fn abort(entry: &LeaseEntry) -> ! {
    let why: &[u8] = match entry.lease() {
        lease::Lease::Read => {
            b" is about to be changed by another process while its bytes are in use, and they could not be copied in \
              time, to memory or to disk (see fs.lease-break-time)\n"
        }
        lease::Lease::Write => {
            b" is about to be opened by another process while it is edited, and its bytes could not be copied in time, \
              to memory or to disk (see fs.lease-break-time)\n"
        }
    };
    let mut path = [0; PATH_MAX];
    let name = unnamed::name(entry.fd.load(Ordering::Relaxed), &mut path);
    process::abort(&[b"stillmap: aborting: ", name.unwrap_or(b"a file"), why])
}
