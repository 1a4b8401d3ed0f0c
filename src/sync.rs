//! The order of the crate's locks, and the one way to lock them.
//!
//! A thread that holds a lock may lock only what has a higher [`Rank`]: no two threads can then wait for each other. A
//! debug build checks this at every lock. Data behind a lock is never left half changed by a panic, so a poisoned mutex
//! is used like any other.
//!
//! No lock is held across a system call that waits for another process (open(2) for writing). `LockedPages` is held across
//! mlock(2), which may wait for a page that a lease thread supplies: the lease threads take no lock of this table.

#![allow(unsafe_code)]

/// The types of the state machines that `tests/loom.rs` compiles with the atomics of loom.
#[cfg_attr(not(target_os = "linux"), allow(unused_imports))]
pub(crate) use std::sync::atomic;

use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The order: each lock is taken before those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Rank {
    /// The files that this process edits.
    ExclusiveFiles,
    /// The files that this process has leased; address space kept for copies.
    Leases,
    /// The locked pages (mlock).
    LockedPages,
    /// The batches of an `OpenAll`.
    OpenAll,
    /// The chunks of a copy that several threads share.
    Copy,
    /// The handlers of fork(2), while they are installed.
    AtFork,
}

/// A mutex with a rank.
#[derive(Debug)]
pub(crate) struct Lock<T> {
    rank: Rank,
    mutex: Mutex<T>,
}

impl<T> Lock<T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        let mutex = Mutex::new(value);
        Lock { rank, mutex }
    }

    /// Blocks until no other thread holds it.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        let held = HeldRank::new(self.rank);
        let guard = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
        Guard { guard, _held: held }
    }
}

/// Forks between the process that loaded this crate and this one. In a new PID namespace a child may have the id of its
/// parent.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Called in a forked child.
pub(crate) fn note_fork() {
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
    /// The process that made it: its id, and the value of [`FORKS`].
    process: (u32, u32),
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
        let process = (std::process::id(), FORKS.load(Ordering::Relaxed));
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
    fn replace(&self, current: *mut LockOfProcess<T>, process: (u32, u32)) {
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

/// Releases the lock when it is dropped.
#[derive(Debug)]
pub(crate) struct Guard<'a, T> {
    guard: MutexGuard<'a, T>,
    _held: HeldRank,
}

impl<T> Guard<'_, T> {
    /// Releases the lock, waits until `condvar` is notified and `condition` is false, and holds the lock again.
    pub(crate) fn wait_while(
        self,
        condvar: &Condvar,
        condition: impl FnMut(&mut T) -> bool,
    ) -> Self {
        let Guard { guard, _held } = self;
        let guard = condvar.wait_while(guard, condition);
        let guard = guard.unwrap_or_else(PoisonError::into_inner);
        Guard { guard, _held }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// A rank that this thread holds. Only a debug build counts them.
#[derive(Debug)]
struct HeldRank {
    #[cfg(debug_assertions)]
    rank: Rank,
}

#[cfg(debug_assertions)]
thread_local! {
    /// One bit for each rank. It needs no destructor, so a lock may be taken while a thread ends.
    static HELD: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// For the threads of the lease monitor: in a debug build, a lock that they take ends the process.
pub(crate) fn forbid_locks() {
    #[cfg(debug_assertions)]
    HELD.set(u32::MAX);
}

#[cfg(debug_assertions)]
impl HeldRank {
    fn new(rank: Rank) -> HeldRank {
        HELD.with(|held| {
            let wrong = held.get() >> rank as u8;
            assert!(
                wrong == 0,
                "a lock of rank {rank:?} is taken while this thread holds one of rank {}",
                rank as u32 + wrong.ilog2()
            );
            held.set(held.get() | 1 << rank as u8);
        });
        HeldRank { rank }
    }
}

#[cfg(debug_assertions)]
impl Drop for HeldRank {
    fn drop(&mut self) {
        HELD.with(|held| held.set(held.get() & !(1 << self.rank as u8)));
    }
}

#[cfg(not(debug_assertions))]
impl HeldRank {
    fn new(_: Rank) -> HeldRank {
        HeldRank {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    static UPPER: Lock<u32> = Lock::new(Rank::ExclusiveFiles, 0);
    static LOWER: Lock<u32> = Lock::new(Rank::AtFork, 0);

    #[test]
    fn locks_are_taken_in_the_order_of_their_ranks() {
        {
            let _upper = UPPER.lock();
            *LOWER.lock() += 1;
        }
        let wrong = catch_unwind(|| {
            let _lower = LOWER.lock();
            drop(UPPER.lock());
        });
        assert_eq!(wrong.is_err(), cfg!(debug_assertions));
        // Neither poisoned nor held.
        let _upper = UPPER.lock();
        assert_eq!(*LOWER.lock(), 1);
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
