//! Leases in a forked child. A lease belongs to one process. So before fork(2) returns in the child, a handler sets a lease
//! of the child for every snapshot, and closes the parent's descriptors: a lease of the parent ends with the parent.
//!
//! The parent releases no lease until the child has its own or a copy. The child's lease continues the parent's without a
//! gap if the parent's is still unbroken after the child's was set. Otherwise the bytes are copied. The copy is used if the
//! parent's lease is still unbroken, or if the file is unchanged: it has the same size and times, and was not changed so
//! shortly before the fork that a second change could have left the same times. Else the child gets no access to the bytes.
//! It never has access to an [`Exclusive`](crate::Exclusive) of its parent.
//!
//! The handler allocates nothing and takes no lock, since the parent may have had other threads.
#![allow(unsafe_code)]

use super::space::pointer;
use super::table::{
    BUSY, DONE, Data, LIVE, LeaseData, LeaseEntry, PREPARING, ReadData, SWAPPED, TABLE, WORKING,
};
use super::{children, copier, copy, monitor, space, threads};
use crate::atfork;
use crate::backing::Backing;
use crate::sys::lease::{self, Lease};
use crate::sys::{atfork as handlers, clock, file, memory, unnamed};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::Ordering;

/// Two changes of a file that are further apart than this have different times: the clock of file times moves in steps of 1
/// to 10 ms.
const TIMESTAMP_STEP_NS: i64 = 20_000_000;

/// An entry lies in one page, so the child has it as it was at one moment, see [`LeaseEntry`].
const _: () = assert!(size_of::<LeaseEntry>() == 512);

/// Called by one thread at a time.
pub(super) fn install() -> io::Result<()> {
    atfork::install().map_err(io::Error::from)?;
    children::share_count_once();
    atfork::set_leases((children::note_fork, in_child));
    Ok(())
}

fn in_child() {
    keep_snapshots();
    children::report_ready();
}

fn keep_snapshots() {
    monitor::reset_in_child();
    copier::reset_in_child();
    let mut has_leases = false;
    for entry in TABLE.iter() {
        has_leases |= detach_from_parent(entry);
    }
    if !has_leases {
        return;
    }
    let is_monitored = space::reserve_in_child().is_ok() && threads::start_threads().is_ok();
    for entry in TABLE.iter().filter(|entry| entry.state() == BUSY) {
        // SAFETY: in BUSY this thread alone uses it.
        let data = *unsafe { entry.data() };
        if let LeaseData::Read(read) = data.kind {
            keep_bytes(entry, &data, &read, is_monitored);
        }
    }
}

/// True if the entry needs a lease of the child's own; it is BUSY then.
fn detach_from_parent(entry: &LeaseEntry) -> bool {
    let fd = entry.fd.load(Ordering::Acquire);
    if fd < 0 {
        return false;
    }
    // SAFETY: no other thread exists, and the number is open: the parent's.
    let data = *unsafe { entry.data() };
    if entry.state() == DONE {
        if let LeaseData::Write(_) = data.kind {
            // The copy may be an unnamed file, which both processes would store to.
            deny_access(&data);
        }
        return false;
    }
    // SAFETY: as above.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    match (entry.state(), data.kind) {
        (LIVE | BUSY | WORKING, LeaseData::Read(_)) => {
            entry.broken_at.store(0, Ordering::Relaxed);
            entry.end_release(false);
            entry.set(BUSY);
            return true;
        }
        (LIVE | BUSY | WORKING | SWAPPED, LeaseData::Write(write)) => {
            deny_access(&data);
            // SAFETY: as above.
            atfork::close_in_child(unsafe { BorrowedFd::borrow_raw(write.userfaultfd) });
            entry.set(DONE);
        }
        (SWAPPED, LeaseData::Read(read)) => {
            // The parent may have released the lease, and a process may have written since.
            let is_known = entry.is_copy_consistent.load(Ordering::Acquire);
            if !is_known && !copy::is_unchanged(file, &read.stat, false) {
                entry.is_inconsistent.store(true, Ordering::Relaxed);
            }
            entry.set(DONE);
        }
        (PREPARING, _) if !is_open(fd) => {
            entry.forget_descriptor();
            return false;
        }
        (PREPARING, _) => {}
        _ => entry.set(DONE),
    }
    atfork::close_in_child(file);
    false
}

/// False if the parent had closed the descriptor: another thread may have got the number for another file. Only descriptors
/// with a lease have its signal.
fn is_open(fd: RawFd) -> bool {
    let entries = TABLE.iter().map(|entry| entry.fd.load(Ordering::Acquire));
    entries.filter(|&number| number == fd).count() == 1 && lease::is_reported(fd)
}

/// Keeps the bytes of a snapshot as they are in the child.
fn keep_bytes(entry: &LeaseEntry, data: &Data, read: &ReadData, is_monitored: bool) {
    let fd = entry.fd.load(Ordering::Acquire);
    // SAFETY: the number is open until the owner ends the entry.
    let parents = unsafe { BorrowedFd::borrow_raw(fd) };
    if is_monitored && continue_lease(entry, parents, data, read) {
        return entry.set(LIVE);
    }
    if !copy_unchanged(parents, data, read) {
        deny_access(data);
        entry.is_inconsistent.store(true, Ordering::Relaxed);
    }
    entry.set_backing(Backing::Memory);
    atfork::close_in_child(parents);
    entry.set(DONE);
}

/// Sets a lease of this process on a description of its own. False if the parent's was broken before.
fn continue_lease(
    entry: &LeaseEntry,
    parents: BorrowedFd<'_>,
    data: &Data,
    read: &ReadData,
) -> bool {
    let Ok(own) = unnamed::reopen(parents.as_raw_fd()) else {
        return false;
    };
    // A path may be mounted over /proc.
    let is_same = file::stat(own.as_fd()).is_ok_and(|stat| stat.is_same_file(&read.stat));
    entry.set_at.store(clock::monotonic_ms(), Ordering::Relaxed);
    let is_set = is_same && monitor::set_lease(own.as_fd(), Lease::Read).is_ok();
    // Asked last: the file has not changed up to now, and cannot from now on.
    if !is_set || !lease::is_held(parents.as_raw_fd(), Lease::Read) {
        return false;
    }
    // The inherited mapping would keep the parent's description open, and with it its lease.
    // SAFETY: the same pages of the same file; no other thread of the program exists.
    let mapped =
        unsafe { memory::map_fixed_file(pointer(data.start), data.len, own.as_fd(), read.offset) };
    if mapped.is_err() {
        return false;
    }
    entry.signal_fd.store(own.as_raw_fd(), Ordering::Relaxed);
    handlers::replace(parents.as_raw_fd(), own.as_fd()).is_ok()
}

/// Copies what another process may be changing. False unless the copy is what was leased.
fn copy_unchanged(file: BorrowedFd<'_>, data: &Data, read: &ReadData) -> bool {
    let end = (read.offset + data.len as u64).min(read.stat.size);
    let is_old = read.stat.stamp.changed_ns() + TIMESTAMP_STEP_NS < children::forked_at_ns();
    let is_unchanged = || is_old && copy::is_unchanged(file, &read.stat, false);
    copy::copy_to_memory(file, data, read.offset..end, &|| false).is_ok()
        && (lease::is_held(file.as_raw_fd(), Lease::Read) || is_unchanged())
}

fn deny_access(data: &Data) {
    // SAFETY: the mapping of an inherited value, which is to have no access. It keeps the parent's file open no longer.
    unsafe { atfork::unmap_in_child(data.start..data.start + data.len) };
}
