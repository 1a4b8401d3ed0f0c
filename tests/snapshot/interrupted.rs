//! System calls that a signal interrupts are made again.

use crate::support::bytes::{assert_same, pattern};
use crate::support::child::scenario;
use crate::support::kernel::{interrupt, is_sleeping, thread_id};
use crate::support::pipe::{make_fifo, pipe, pipe_with, wait_until_drained};
use crate::support::temp_dir;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use stillmap::Snapshot;

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

/// A handler without SA_RESTART: interrupted calls return EINTR.
fn handle(signal: i32) {
    // SAFETY: an all-zero sigaction is valid, and the handler only counts.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as *const () as usize;
        libc::sigaction(signal, &action, std::ptr::null_mut())
    };
    assert_eq!(result, 0);
}

/// Interrupts `thread` while it waits in a system call, and waits until its handler has run.
fn interrupt_wait(thread: libc::pid_t) {
    while !is_sleeping(thread) {
        std::thread::yield_now();
    }
    let before = SIGNALS.load(Ordering::SeqCst);
    interrupt(thread, libc::SIGUSR1);
    while SIGNALS.load(Ordering::SeqCst) == before {
        std::thread::yield_now();
    }
}

fn write_with_interrupts(to: OwnedFd, chunks: Vec<Vec<u8>>, reader: libc::pid_t) {
    let mut to = File::from(to);
    for chunk in chunks {
        for _ in 0..3 {
            interrupt_wait(reader);
        }
        to.write_all(&chunk).unwrap();
        assert!(wait_until_drained(&to));
    }
    interrupt_wait(reader);
}

#[test]
fn reading_a_slow_pipe_under_signals() {
    scenario!(|| {
        handle(libc::SIGUSR1);
        for flags in [0, libc::O_NONBLOCK] {
            let chunks: Vec<_> = (1..30).map(|i| pattern(i, 2000 * i as usize)).collect();
            let all = chunks.concat();
            let (reader, writer) = pipe_with(libc::O_CLOEXEC | flags);
            // SAFETY: plain numbers.
            unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, 0) };
            let us = thread_id();
            let writing = std::thread::spawn(move || write_with_interrupts(writer, chunks, us));
            assert_same(&Snapshot::from_fd(reader).unwrap(), &all, "interrupted");
            writing.join().unwrap();
        }
        assert!(SIGNALS.load(Ordering::SeqCst) >= 2 * 29 * 3);
    })
    .succeed();
}

#[test]
fn opening_a_fifo_under_signals() {
    scenario!(|| {
        handle(libc::SIGUSR1);
        let dir = temp_dir();
        let path = dir.path().join("fifo");
        make_fifo(&path);
        let us = thread_id();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                // It sleeps in open(2), which waits for this writer.
                for _ in 0..5 {
                    interrupt_wait(us);
                }
                File::create(&path).unwrap().write_all(b"at last").unwrap();
            });
            assert_same(
                &stillmap::Snapshot::open(&path).unwrap(),
                b"at last",
                "FIFO",
            );
        });
        assert!(SIGNALS.load(Ordering::SeqCst) >= 5);
    })
    .succeed();
}

/// A timer that fires all the time, through everything that is no waiting: large reads, copies, mappings.
#[test]
fn everything_under_an_interval_timer() {
    scenario!(|| {
        let dir = temp_dir();
        let bytes = pattern(1, 9 << 20);
        let path = crate::support::file_with(dir.path(), "file", &bytes);
        handle(libc::SIGALRM);
        let every = libc::timeval {
            tv_sec: 0,
            tv_usec: 200,
        };
        let timer = libc::itimerval {
            it_interval: every,
            it_value: every,
        };
        // SAFETY: a valid timer, and no use for the old one.
        let result = unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
        assert_eq!(result, 0);
        while SIGNALS.load(Ordering::SeqCst) < 200 {
            assert_same(&stillmap::Snapshot::open(&path).unwrap(), &bytes, "file");
            let (reader, writer) = pipe();
            let writing = crate::support::pipe::feed(writer, bytes.clone());
            assert_same(&Snapshot::from_fd(reader).unwrap(), &bytes, "pipe");
            writing.join().unwrap();
        }
    })
    .succeed();
}
