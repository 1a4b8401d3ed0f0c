//! The order of the crate's locks, and the one way to lock them.
//!
//! A thread that holds a lock may lock only what has a higher [`Rank`]: no two threads can then wait for each other. A
//! debug build checks this at every lock. Data behind a lock is never left half changed by a panic, so a poisoned mutex
//! is used like any other.
//!
//! No lock is held across a system call that waits for another process (open(2) for writing). `LockedPages` is held across
//! mlock(2), which may wait for a page that a lease thread supplies: the lease threads take no lock.

/// The types of the state machines that `tests/loom.rs` compiles with the atomics of loom.
pub(crate) use std::sync::atomic;

use std::ops::{Deref, DerefMut};
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

/// Called by the lease threads: from then on, in a debug build, a lock that they take ends the process.
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
}
