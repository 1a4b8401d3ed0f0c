//! The thread that handles breaks, `stillmap-copy`: it copies bytes and releases leases, one after the other.

use super::table::{LIVE, LeaseEntry, TABLE};
use super::{copy, detach, monitor};
use crate::sys::futex;
use crate::sys::lease::Lease;
use std::sync::atomic::{AtomicU32, Ordering};

/// The id of the thread; 0 if it does not run.
pub(super) static COPIER: AtomicU32 = AtomicU32::new(0);

pub(super) fn is_running() -> bool {
    COPIER.load(Ordering::Acquire) != 0
}

/// In a forked child: the thread does not exist.
pub(super) fn reset_in_child() {
    COPIER.store(0, Ordering::Relaxed);
}

pub(super) fn copy_broken() -> ! {
    loop {
        let seen = monitor::WORK.load(Ordering::Acquire);
        for entry in TABLE.iter() {
            let is_due = monitor::is_due(entry);
            entry.serve(is_due, |is_release_asked| handle(entry, is_release_asked));
        }
        futex::wait(&monitor::WORK, seen);
    }
}

fn handle(entry: &LeaseEntry, is_release_asked: bool) {
    let may_release = is_release_asked && entry.lease() == Lease::Read;
    if entry.is_held() && !may_release && copy::leads_to_file(entry) {
        // An older lease was broken, which had the same entry and descriptor number.
        entry.broken_at.store(0, Ordering::Release);
        return entry.set(LIVE);
    }
    let fd = entry.fd.load(Ordering::Acquire);
    match entry.lease() {
        Lease::Read => copy::handle_break(entry, fd),
        Lease::Write => detach::handle_break(entry, fd),
    }
}

/// Makes the thread copy the bytes of all leased snapshots and release their leases. True if none is left.
pub(crate) fn release_all() -> bool {
    if !is_running() {
        return true;
    }
    let is_leased = |entry: &&LeaseEntry| entry.lease() == Lease::Read && entry.needs_lease();
    TABLE
        .iter()
        .filter(is_leased)
        .for_each(LeaseEntry::ask_release);
    monitor::wake_copier();
    TABLE.iter().for_each(LeaseEntry::await_release);
    !TABLE.iter().any(|entry| is_leased(&entry))
}
