//! Which process this is, and locks that a forked child does not inherit.
//!
//! What only one process may use (threads, locks, files that it edits) keeps the [`Process`] that made it. This is the
//! only way in which the crate knows a forked child.
#![allow(unsafe_code)]

use crate::sync::{Guard, Lock, Rank};
use crate::sys::atfork;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

/// Forks between the process that loaded this crate and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// They are counted.
static IS_COUNTING: AtomicBool = AtomicBool::new(false);

/// Identifies a process: its id, and the number of forks. In a new PID namespace a child may have the id of its parent;
/// a child made by clone(2) has another id, but does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u64);

impl Process {
    /// This one. From the first call on, forks are counted, so no earlier one matters: it has no value to compare.
    pub(crate) fn current() -> Self {
        if !IS_COUNTING.load(Ordering::Acquire) {
            // Two threads may both register it; then a fork counts twice. Without memory for it the id alone decides.
            let registered = atfork::register(None, None, count_fork);
            IS_COUNTING.store(registered.is_ok(), Ordering::Release);
        }
        Process::now()
    }

    fn now() -> Self {
        let forks = FORKS.load(Ordering::Relaxed);
        Process(u64::from(std::process::id()) << 32 | u64::from(forks))
    }

    /// Fit for a signal handler.
    pub(crate) fn is_current(self) -> bool {
        self == Process::now()
    }

    /// For an atomic.
    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Process(bits)
    }
}

/// Runs in a forked child, before every other handler of this crate.
extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// The lock of a static variable. In a forked child a thread that does not exist there may hold it, and may have been
/// changing the value: the child has a new lock, and the default value.
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
                // Inherited. Two threads must not come to different locks, so this does not depend on its state.
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
