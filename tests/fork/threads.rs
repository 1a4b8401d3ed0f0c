//! Other threads: refused while they run, waited for while they end.

use super::wait_for;
use crate::support::child::scenario;
use crate::support::kernel;
use crate::support::pipe::pipe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use stillmap::{Error, fork};

#[test]
fn other_threads_are_an_error_when_the_scope_opens_and_at_each_spawn() {
    scenario!(|| {
        let (end, hold) = pipe();
        let waiter = std::thread::spawn(move || wait_for(end));
        let refused = fork::scope(|_| unreachable!());
        assert!(matches!(
            refused,
            Err::<(), _>(Error::MultiThreaded { threads: 1, .. })
        ));
        drop(hold);
        waiter.join().unwrap();
        fork::scope(|s| {
            let (end, hold) = pipe();
            s.spawn(|| ()).unwrap();
            let waiter = std::thread::spawn(move || wait_for(end));
            let refused = s.spawn(|| ()).unwrap_err();
            assert!(matches!(refused, Error::MultiThreaded { threads: 1, .. }));
            drop(hold);
            waiter.join().unwrap();
            s.spawn(|| ()).unwrap();
        })
        .unwrap();
    })
    .succeed();
}

#[test]
fn threads_that_were_joined_are_never_in_the_way() {
    scenario!(|| {
        for turn in 0..1_000 {
            if turn % 2 == 0 {
                std::thread::spawn(|| ()).join().unwrap();
            } else {
                std::thread::scope(|s| {
                    for _ in 0..3 {
                        s.spawn(|| ());
                    }
                });
            }
            fork::scope(|_| ()).unwrap();
        }
    })
    .succeed();
}

/// There is always another thread, and never the same for long.
#[test]
fn threads_that_start_one_another_are_not_missed() {
    fn next(stop: Arc<AtomicBool>) {
        if !stop.load(Ordering::Relaxed) {
            std::thread::spawn(|| next(stop));
        }
    }
    scenario!(|| {
        let stop = Arc::new(AtomicBool::new(false));
        let first = Arc::clone(&stop);
        std::thread::spawn(|| next(first));
        for _ in 0..20 {
            let refused = fork::scope(|_| unreachable!());
            assert!(matches!(refused, Err::<(), _>(Error::MultiThreaded { .. })));
        }
        stop.store(true, Ordering::Relaxed);
        // And once the last has ended, nothing is in the way.
        while fork::scope(|_| ()).is_err() {}
    })
    .succeed();
}

#[test]
fn a_thread_that_cannot_be_looked_at_is_there() {
    scenario!(|| {
        let (end, hold) = pipe();
        let waiter = std::thread::spawn(move || wait_for(end));
        let all = kernel::limit(libc::RLIMIT_NOFILE, 0);
        for number in 0..20 {
            kernel::limit(libc::RLIMIT_NOFILE, number);
            assert!(fork::scope(|_| ()).is_err(), "{number} descriptors");
        }
        kernel::limit(libc::RLIMIT_NOFILE, all);
        drop(hold);
        waiter.join().unwrap();
        fork::scope(|_| ()).unwrap();
    })
    .succeed();
}
