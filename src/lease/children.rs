//! The parent's side of a fork: it releases no lease before a child that was just forked has its own, or a copy.
//! Otherwise a writer could change the file before the child has either.
#![allow(unsafe_code)]

use super::time::AtomicMs;
use crate::page;
use crate::sys::{clock, memory};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

/// How long a release waits for children, in ms. A child with 1,000 leases needs 30 ms, on an idle machine.
const CHILDREN_MAX: u64 = 250;

/// Time between two checks.
const LOOK_AGAIN: Duration = Duration::from_micros(100);

/// Forks of this process, and when the last one began, monotonic in ms.
static BEGUN: AtomicU32 = AtomicU32::new(0);
static BEGUN_AT: AtomicMs = AtomicMs::new(0);

/// The number of children that are ready, in memory that they share with this process. Null where there is none.
static READY: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// Called by one thread at a time.
pub(super) fn share_count_once() {
    if ready().is_none() {
        share_count();
    }
}

/// Maps the memory that is shared with the children of this process. Does not use the allocator.
fn share_count() {
    let page = memory::map_shared_anonymous(page::size());
    let page = page.map_or(ptr::null_mut(), NonNull::as_ptr);
    READY.store(page.cast(), Ordering::SeqCst);
}

fn ready() -> Option<&'static AtomicU32> {
    // SAFETY: null, or zeroed memory that is never unmapped.
    unsafe { READY.load(Ordering::SeqCst).as_ref() }
}

/// To be called before each fork.
pub(super) fn note_fork() {
    let now = clock::monotonic_ms();
    let begun_at = BEGUN_AT.load(Ordering::SeqCst);
    BEGUN_AT.store(now, Ordering::SeqCst);
    let begun = BEGUN.fetch_add(1, Ordering::SeqCst);
    if let Some(ready) = ready().filter(|_| now >= begun_at + CHILDREN_MAX) {
        // No release waits for earlier children any more. One that was late is not to count for this one.
        ready.store(begun, Ordering::SeqCst);
    }
}

/// In a forked child: the clock of file times when the fork began.
pub(super) fn forked_at_ns() -> i64 {
    let ago = clock::monotonic_ms().saturating_sub(BEGUN_AT.load(Ordering::SeqCst)) + 1;
    clock::timestamp_ns() - i64::try_from(ago * 1_000_000).unwrap_or(i64::MAX)
}

/// In a forked child that has its leases or copies. From here on it counts its own children.
pub(super) fn report_ready() {
    if let Some(ready) = ready() {
        ready.fetch_add(1, Ordering::SeqCst);
    }
    share_count();
    BEGUN.store(0, Ordering::SeqCst);
}

/// Waits for children that were forked before, for a limited time: one may have been killed, and a fork that failed has
/// none. To be called before a lease is released whose mapping has been replaced.
pub(super) fn wait_until_ready() {
    let Some(ready) = ready() else {
        return;
    };
    let begun = BEGUN.load(Ordering::SeqCst);
    while (begun.wrapping_sub(ready.load(Ordering::SeqCst)) as i32) > 0 {
        if clock::monotonic_ms() >= BEGUN_AT.load(Ordering::SeqCst) + CHILDREN_MAX {
            return ready.store(begun, Ordering::SeqCst);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::{self, Fork};

    #[test]
    #[cfg_attr(miri, ignore = "forks")]
    fn a_release_waits_for_a_child_that_is_not_ready() {
        share_count_once();
        let go = memory::map_shared_anonymous(page::size()).unwrap();
        // SAFETY: zeroed memory that is never unmapped.
        let go = unsafe { go.cast::<AtomicU32>().as_ref() };
        note_fork();
        // SAFETY: the child uses nothing of other threads.
        let child = match unsafe { process::fork() }.unwrap() {
            Fork::Parent { child } => child,
            Fork::Child => {
                while go.load(Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
                report_ready();
                process::exit_immediately(0);
            }
        };
        let missing = || {
            let ready = ready().unwrap().load(Ordering::SeqCst);
            BEGUN.load(Ordering::SeqCst).wrapping_sub(ready) as i32
        };
        assert_eq!(missing(), 1);
        wait_until_ready();
        assert!(clock::monotonic_ms() >= BEGUN_AT.load(Ordering::SeqCst) + CHILDREN_MAX);
        // It is not waited for again.
        assert_eq!(missing(), 0);
        go.store(1, Ordering::SeqCst);
        assert!(process::wait(child, None).unwrap().success());
        assert_eq!(missing(), -1);
        // Its late report does not count for the next one.
        note_fork();
        assert_eq!(missing(), 1);
    }
}
