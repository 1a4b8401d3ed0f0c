//! Which process this is, and locks that a forked child does not inherit.
//!
//! A value that only one process may use (a thread, a lock, an edited file) stores the [`Process`] that made it. This is
//! the only way in which the crate detects a forked child.
#![allow(unsafe_code)]

use crate::sync::{Guard, Lock, Rank};
use crate::sys;
use crate::sys::memory::{self, Address, PageKind};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// The number of this process, in a page that the kernel zeroes in each child: `MADV_WIPEONFORK` (Linux 4.14, madvise(2)).
/// So every child is detected, also one that was made by clone(2), or that has the process id of its parent
/// (pid_namespaces(7)).
static NUMBER: AtomicPtr<AtomicUsize> = AtomicPtr::new(ptr::null_mut());

/// Replaces the page where the kernel refuses it. It is not zeroed, so the process id is compared instead.
static NO_PAGE: AtomicUsize = AtomicUsize::new(0);

/// The last number that was assigned, in this process or in one of its ancestors.
static LAST: AtomicUsize = AtomicUsize::new(0);

/// Identifies a process among its ancestors and descendants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(usize);

impl Process {
    /// This process. Async-signal-safe.
    pub(crate) fn current() -> Self {
        let number = number();
        if ptr::eq(number, &raw const NO_PAGE) {
            return Process(std::process::id() as usize);
        }
        match number.load(Ordering::Acquire) {
            0 => Process(assign(number)),
            number => Process(number),
        }
    }

    pub(crate) fn is_current(self) -> bool {
        self == Process::current()
    }

    /// For an atomic.
    pub(crate) fn to_bits(self) -> usize {
        self.0
    }

    pub(crate) fn from_bits(bits: usize) -> Self {
        Process(bits)
    }
}

fn number() -> &'static AtomicUsize {
    let number = NUMBER.load(Ordering::Acquire);
    // SAFETY: null, or stored by `store_page`, and never unmapped.
    unsafe { number.as_ref() }.unwrap_or_else(store_page)
}

/// Two threads may both make a page; the first that has one stores it.
fn store_page() -> &'static AtomicUsize {
    let made = wiped_page();
    let new = made
        .as_ref()
        .map_or((&raw const NO_PAGE).cast_mut(), |page| page.as_ptr().cast());
    let order = (Ordering::AcqRel, Ordering::Acquire);
    let stored = NUMBER.compare_exchange(ptr::null_mut(), new, order.0, order.1);
    if let (Err(_), Ok(page)) = (&stored, &made) {
        // SAFETY: mapped by this thread, which did not pass it on.
        let _ = unsafe { memory::unmap(*page, sys::page_size()) };
    }
    let page = stored.map_or_else(|other| other, |_| new);
    // SAFETY: a static variable, or zeroed memory that is aligned to pages and never unmapped.
    unsafe { &*page }
}

fn wiped_page() -> io::Result<ptr::NonNull<u8>> {
    let page = memory::map_anonymous(sys::page_size(), Address::Anywhere, PageKind::Zeroed)?;
    // SAFETY: mapped in the line above.
    let advised = unsafe { memory::advise(page, sys::page_size(), libc::MADV_WIPEONFORK) };
    if advised.is_err() {
        // SAFETY: as above, and not passed on.
        let _ = unsafe { memory::unmap(page, sys::page_size()) };
    }
    advised.map(|()| page)
}

/// Stores a number for a process that has none yet. If two threads do this, the first number stays.
fn assign(number: &AtomicUsize) -> usize {
    let next = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    let order = (Ordering::AcqRel, Ordering::Acquire);
    let stored = number.compare_exchange(0, next, order.0, order.1);
    stored.map_or_else(|first| first, |_| next)
}

/// The lock of a static variable. In a forked child the lock may be held by a thread that does not exist there, and the
/// value may be half changed. So the child makes a new lock, with the default value.
#[derive(Debug)]
pub(crate) struct ProcessLock<T: 'static> {
    rank: Rank,
    /// Made at first use, and never freed.
    lock: AtomicPtr<LockOfProcess<T>>,
}

#[derive(Debug)]
struct LockOfProcess<T> {
    /// The process that made it.
    process: Process,
    lock: Lock<T>,
}

impl<T: Default> ProcessLock<T> {
    pub(crate) const fn new(rank: Rank) -> Self {
        let lock = AtomicPtr::new(ptr::null_mut());
        ProcessLock { rank, lock }
    }

    /// Blocks until no other thread of this process holds it.
    pub(crate) fn lock(&'static self) -> Guard<'static, T> {
        self.of_this_process().lock()
    }

    fn of_this_process(&'static self) -> &'static Lock<T> {
        let process = Process::current();
        loop {
            let current = self.lock.load(Ordering::Acquire);
            // SAFETY: null, or made by `replace`, and never freed.
            match unsafe { current.as_ref() } {
                Some(made) if made.process == process => return &made.lock,
                // None yet, or the parent's, which is replaced whether it is held or not: all threads must use one lock.
                _ => self.replace(current, process),
            }
        }
    }

    /// Stores a new lock, unless another thread was faster.
    fn replace(&self, current: *mut LockOfProcess<T>, process: Process) {
        let new = Box::into_raw(Box::new(LockOfProcess {
            process,
            lock: Lock::new(self.rank, T::default()),
        }));
        let order = (Ordering::AcqRel, Ordering::Relaxed);
        let stored = self.lock.compare_exchange(current, new, order.0, order.1);
        if stored.is_err() {
            // SAFETY: made above, and not stored.
            drop(unsafe { Box::from_raw(new) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No handler of fork(3) runs in a child of clone(2).
    #[test]
    #[cfg_attr(miri, ignore = "forks")]
    #[cfg(not(target_arch = "s390x"))] // other arguments
    fn a_child_of_the_bare_system_call_is_known() {
        let parent = Process::current();
        assert!(parent.is_current());
        // SAFETY: as fork(2): a copy of this process, with one thread, which calls nothing of the C library but _exit(2).
        let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
        if child == 0 {
            let own = Process::current();
            let is_known = !parent.is_current() && own.is_current() && own != parent;
            crate::sys::process::exit_immediately(i32::from(!is_known));
        }
        let status = crate::sys::process::wait(child as i32, None).unwrap();
        assert_eq!(status.code(), Some(0));
        assert!(parent.is_current());
    }

    /// A child that is forked while a thread holds the lock does not have that thread.
    #[test]
    #[cfg_attr(miri, ignore = "forks")]
    fn a_forked_child_finds_no_lock_held_by_a_thread_that_it_does_not_have() {
        use crate::sys::process::{self, Fork};
        static SHARED: ProcessLock<u32> = ProcessLock::new(Rank::Leases);
        *SHARED.lock() = 1;
        for is_held in [false, true] {
            let held = std::sync::Barrier::new(2);
            let forked = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let guard = is_held.then(|| SHARED.lock());
                    held.wait();
                    forked.wait();
                    drop(guard);
                });
                held.wait();
                // SAFETY: the child uses nothing of other threads.
                let child = match unsafe { process::fork() }.unwrap() {
                    Fork::Parent { child } => child,
                    Fork::Child => {
                        // Ends a child that waits for ever.
                        // SAFETY: takes a number.
                        unsafe { libc::alarm(60) };
                        let value = *SHARED.lock();
                        *SHARED.lock() = 2;
                        let again = *SHARED.lock();
                        process::exit_immediately((value + again) as i32);
                    }
                };
                forked.wait();
                let status = process::wait(child, None).unwrap();
                assert_eq!(status.code(), Some(2));
            });
        }
        assert_eq!(*SHARED.lock(), 1);
    }
}
