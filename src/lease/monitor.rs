//! The thread that watches the leases of the process, `stillmap-lease`: it waits for the kernel's signals, finds the
//! leases that were broken, and watches the deadlines.
//!
//! A signal names one lease. It may get lost (too many are pending, a security module forbids it, the process has
//! changed its user), so all leases are also checked 32 times in each lease-break time.

use super::copy;
use super::deadline::Deadline;
use super::table::{BUSY, LIVE, LeaseEntry, TABLE, WORKING, is_ambiguous};
use super::time::AtomicMs;
use crate::once::OnceBox;
use crate::sys::file::{self, Stat};
use crate::sys::lease::{self, Lease};
use crate::sys::{clock, futex, userfault};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering, fence};
use std::time::Duration;

/// Time between two attempts to handle a break, in ms.
const RETRY_INTERVAL: u64 = 20;

/// This thread checks all leases this many times in each lease-break time, and at least once in `LOOK_MAX` ms; that takes
/// 0.2 us for each lease.
///
/// A signal has no time: the lease may have been broken at any moment since the last check. If the last check was more than
/// 1.25 intervals ago (the process was stopped, or had no processor), the break counts from the last check, else from now.
/// So a break is counted 1.25 intervals late at most, which is less than half of the margin before the deadline.
const LOOKS_PER_BREAK_TIME: u64 = 32;
const LOOK_MAX: u64 = 2_800;

/// Time between two checks for the event of a move, which takes less than a millisecond.
const MOVE_INTERVAL: Duration = Duration::from_micros(100);

/// The id of the thread; 0 if it does not run.
pub(super) static WATCHER: AtomicU32 = AtomicU32::new(0);

/// Changes when there is work for the copying thread.
pub(super) static WORK: AtomicU32 = AtomicU32::new(0);

/// The watcher blocks without a timeout, since there were no leases at the last check.
static IS_ASLEEP: AtomicBool = AtomicBool::new(false);

/// A userfaultfd whose memory is being moved, or -1.
static MOVING: AtomicI32 = AtomicI32::new(-1);

/// The watcher uses that descriptor, or is about to look for one.
static IS_ACKNOWLEDGING: AtomicBool = AtomicBool::new(false);

/// Stays open, because opening it later may fail (chroot(2), no descriptors). The program may close its number, and reuse it
/// for another file: so the file is compared.
static BREAK_TIME_FILE: OnceBox<(OwnedFd, Stat)> = OnceBox::new();

/// `fs.lease-break-time` in ms when it was last read.
static BREAK_TIME: AtomicMs = AtomicMs::new(0);

/// To be called before the thread starts.
pub(super) fn prepare() -> io::Result<()> {
    if BREAK_TIME_FILE.get().is_none() {
        let fd = lease::open_break_time()?;
        let stat = file::stat(fd.as_fd())?;
        let file = (fd, stat);
        read_break_time(&file).ok_or(io::ErrorKind::InvalidData)?;
        BREAK_TIME_FILE.set(file);
    }
    Ok(())
}

/// In a forked child: the thread does not exist.
pub(super) fn reset_in_child() {
    WATCHER.store(0, Ordering::Relaxed);
    IS_ASLEEP.store(false, Ordering::Relaxed);
    MOVING.store(-1, Ordering::Relaxed);
    IS_ACKNOWLEDGING.store(false, Ordering::Relaxed);
}

/// Sets a lease whose breaks are reported to the watcher.
pub(super) fn set_lease(fd: BorrowedFd<'_>, lease: Lease) -> io::Result<()> {
    lease::set(fd, lease, WATCHER.load(Ordering::Acquire) as i32)
}

/// To be called after an entry was published. False if its lease was broken before.
pub(super) fn look_after(entry: &LeaseEntry) -> bool {
    // `note_signal` and `sleep` see the entry LIVE, or this sees what came before: the break, and what `sleep` stored.
    fence(Ordering::SeqCst);
    if !entry.is_held() {
        return false;
    }
    if IS_ASLEEP.swap(false, Ordering::SeqCst) {
        lease::wake(WATCHER.load(Ordering::Acquire) as i32);
    }
    true
}

fn read_break_time((fd, then): &(OwnedFd, Stat)) -> Option<()> {
    file::stat(fd.as_fd())
        .ok()
        .filter(|now| now.is_same_file(then))?;
    let time = lease::break_time(fd.as_raw_fd())?;
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    BREAK_TIME.store(ms, Ordering::Relaxed);
    Some(())
}

pub(super) fn watch() -> ! {
    let mut looked = clock::monotonic_ms();
    let mut next_timeout = Some(0);
    loop {
        let break_time = BREAK_TIME.load(Ordering::Relaxed);
        let look_interval = (break_time / LOOKS_PER_BREAK_TIME).min(LOOK_MAX);
        let timeout = next_timeout.map(|ms: u64| Duration::from_millis(ms.min(look_interval)));
        let broken = lease::wait(timeout);
        IS_ASLEEP.store(false, Ordering::SeqCst);
        let now = clock::monotonic_ms();
        if let Some(file) = BREAK_TIME_FILE.get() {
            let _ = read_break_time(file);
        }
        // For each break the kernel uses the time that was set then. It may have been changed since the last check.
        let break_time = break_time.min(BREAK_TIME.load(Ordering::Relaxed));
        if let Some(fd) = broken {
            let is_late = now > looked + look_interval + look_interval / 4;
            note_signal(fd, if is_late { looked } else { now }, break_time);
        }
        acknowledge_moves();
        let is_time = now >= looked + look_interval;
        if is_time {
            let note = |entry| note_if_broken(entry, LeaseEntry::is_held, looked, break_time);
            TABLE.iter().for_each(note);
            looked = now;
        }
        next_timeout = match advance(now) {
            Leases::Broken => Some(RETRY_INTERVAL),
            // No lease since the last check: setting the next one wakes this thread.
            Leases::None if is_time => sleep(),
            Leases::Unbroken | Leases::None => {
                Some((looked + look_interval).saturating_sub(now).max(1))
            }
        };
    }
}

/// mremap(2) of the copier blocks until its event is acknowledged.
fn acknowledge_moves() {
    loop {
        // SeqCst with `acknowledge_remaps`: either it waits, or this sees that there is nothing to acknowledge.
        IS_ACKNOWLEDGING.store(true, Ordering::SeqCst);
        let pages = MOVING.load(Ordering::SeqCst);
        let was_acknowledged = pages >= 0 && userfault::acknowledge_event(pages);
        IS_ACKNOWLEDGING.store(false, Ordering::SeqCst);
        if pages < 0 {
            return;
        }
        if !was_acknowledged {
            std::thread::sleep(MOVE_INTERVAL);
        }
    }
}

/// No timeout, unless a lease was set just now.
fn sleep() -> Option<u64> {
    IS_ASLEEP.store(true, Ordering::SeqCst);
    let is_leased = TABLE.iter().any(LeaseEntry::needs_lease);
    is_leased.then_some(0)
}

/// A signal has come for the lease that was set on this descriptor.
fn note_signal(fd: i32, at: u64, break_time: u64) {
    let has_number = |entry: &&LeaseEntry| entry.signal_fd.load(Ordering::Relaxed) == fd;
    let leased = || {
        TABLE
            .iter()
            .filter(has_number)
            .filter(|entry| entry.needs_lease())
    };
    // If several leases have the number, it shows for one of them at most whether it is held, see `is_ambiguous`. So all
    // count as broken, and the copier checks the file.
    let is_held = if leased().nth(1).is_some() {
        |_: &LeaseEntry| false
    } else {
        LeaseEntry::is_held
    };
    leased().for_each(|entry| note_if_broken(entry, is_held, at, break_time));
}

/// Notes whether a lease is broken, since when, and for how long the kernel waits.
fn note_if_broken(
    entry: &LeaseEntry,
    is_held: impl Fn(&LeaseEntry) -> bool,
    at: u64,
    break_time: u64,
) {
    let is_known = entry.broken_at.load(Ordering::Relaxed) != 0;
    if entry.needs_lease() && !is_known && !is_held(entry) {
        entry.break_time.store(break_time, Ordering::Relaxed);
        // Not before the lease was set: this thread may not have run for long.
        let at = at.max(entry.set_at.load(Ordering::Relaxed));
        entry.broken_at.store(at, Ordering::Release);
    }
}

enum Leases {
    None,
    Unbroken,
    Broken,
}

/// Wakes the copying thread for breaks, and ends the process when one cannot be handled in time.
fn advance(now: u64) -> Leases {
    let mut found = Leases::None;
    let mut is_due = false;
    for entry in TABLE.iter() {
        let deadline = entry.deadline();
        // Loaded after the deadline, which only this thread sets: so the deadline is that of the lease in the entry now.
        let state = entry.state();
        if !matches!(state, LIVE | BUSY | WORKING) {
            continue;
        }
        let Some(deadline) = deadline else {
            if matches!(found, Leases::None) {
                found = Leases::Unbroken;
            }
            continue;
        };
        found = Leases::Broken;
        let is_dropped = entry.is_dropped.load(Ordering::Acquire);
        let is_held = || entry.is_held() && !is_ambiguous(entry.fd.load(Ordering::Acquire));
        if deadline.is_near(now) && !is_dropped && !is_held() {
            copy::abort(entry);
        }
        is_due |= state == LIVE && should_handle_now(entry, &deadline, now);
    }
    if is_due {
        wake_copier();
    }
    found
}

/// The break of a read lease is handled at once. A write lease is kept for as long as possible.
fn should_handle_now(entry: &LeaseEntry, deadline: &Deadline, now: u64) -> bool {
    entry.lease() == Lease::Read || deadline.has_waited_long(now, entry.copy_len())
}

/// True once the lease is broken and has to be released.
pub(super) fn is_due(entry: &LeaseEntry) -> bool {
    let now = clock::monotonic_ms();
    let deadline = entry.deadline();
    deadline.is_some_and(|deadline| should_handle_now(entry, &deadline, now))
}

/// Wakes the copying thread.
pub(super) fn wake_copier() {
    WORK.fetch_add(1, Ordering::Release);
    futex::wake_all(&WORK);
}

/// The watcher acknowledges moves of this userfaultfd's memory until the value is dropped, and then no longer uses the
/// descriptor, whose number the program may get for another file.
pub(super) fn acknowledge_remaps(pages: BorrowedFd<'_>) -> impl Drop {
    struct Noted;
    impl Drop for Noted {
        fn drop(&mut self) {
            MOVING.store(-1, Ordering::SeqCst);
            while IS_ACKNOWLEDGING.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
    }
    MOVING.store(pages.as_raw_fd(), Ordering::SeqCst);
    lease::wake(WATCHER.load(Ordering::Acquire) as i32);
    Noted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A daemon that closes all numbers, and writes a number to its first file.
    #[test]
    fn the_break_time_is_not_read_from_another_file() {
        let read = |text: &str, stat: Option<Stat>| {
            let file = file::memfd(c"break-time").unwrap();
            std::io::Write::write_all(&mut &file, text.as_bytes()).unwrap();
            let stat = stat.unwrap_or_else(|| file::stat(file.as_fd()).unwrap());
            read_break_time(&(file.into(), stat))
        };
        let other = file::memfd(c"other").unwrap();
        let other = file::stat(other.as_fd()).unwrap();
        assert!(read("no number\n", None).is_none());
        assert!(read("100000\n", Some(other)).is_none());
    }
}
