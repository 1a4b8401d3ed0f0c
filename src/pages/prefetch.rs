//! Pages faulted in ahead of whoever will touch them, by a thread.
//!
//! `MADV_WILLNEED` enters a file page by page, while its caller waits: for a large range that takes longer than to scan
//! it. Faults read ahead in large folios instead, so a thread of ours takes them (`MADV_POPULATE_READ`), one range after
//! the other, and ends with the last one.
//!
//! It knows addresses only, so whoever unmaps or moves a mapping says [`stop`] before. A forked process has the queue in
//! its memory, and no thread: it finds neither, and starts with an empty one ([`PerProcess`]).

use crate::sys::pages;
use crate::sys::process::PerProcess;
use crate::sys::thread::{self, Thread};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What is faulted in at a time, in bytes: whoever says [`stop`] waits for no more than that, or for the readahead of the
/// device. One `MADV_WILLNEED` reads as much from any device.
const STEP: usize = 128 << 10;

/// The most ranges that wait.
const QUEUE_MAX: usize = 64;

static PREFETCHER: PerProcess<Prefetcher> = PerProcess::new();

/// The thread and what it has to do.
#[derive(Default)]
struct Prefetcher {
    work: Mutex<Work>,
    /// A step is over.
    stepped: Condvar,
    /// Lets those who pass by leave the lock alone.
    works: AtomicBool,
}

#[derive(Default)]
struct Work {
    /// Page-aligned addresses.
    ranges: VecDeque<Range<usize>>,
    /// What is being faulted in.
    step: Option<Range<usize>>,
    /// How many are in [`end`]: nothing is started meanwhile, or they would wait for that, too.
    ending: usize,
    /// It may have ended by itself.
    thread: Option<Thread>,
}

/// Has a range of whole pages faulted in, in the background. False if that cannot be had now.
///
/// Until all of it is there, whoever unmaps a part of it has to say [`stop`] first.
pub(crate) fn start(range: Range<usize>) -> bool {
    let Some(prefetcher) = PREFETCHER.get_or_make(Prefetcher::default) else {
        return false;
    };
    let mut work = prefetcher.lock();
    if work.ending > 0 {
        // It would be forgotten with the others.
        return true;
    }
    if work.ranges.len() >= QUEUE_MAX {
        return false;
    }
    work.ranges.push_back(range);
    // Whoever clears it says by that, under the lock, that the thread is about to end.
    if prefetcher.works.swap(true, Ordering::AcqRel) {
        return true;
    }
    work.thread.take().into_iter().for_each(Thread::join);
    match thread::start(c"stillmap-prefetch", || prefetcher.run()) {
        Ok(thread) => work.thread = Some(thread),
        Err(_) => {
            work.ranges.clear();
            prefetcher.works.store(false, Ordering::Release);
        }
    }
    work.thread.is_some()
}

/// Returns when nothing is faulted in there any more.
pub(crate) fn stop(range: Range<usize>) {
    if let Some(prefetcher) = PREFETCHER.get() {
        // Whoever may unmap a range knows of every start there, and so sees what it has set.
        if prefetcher.works.load(Ordering::Acquire) {
            drop(prefetcher.stop(&range));
        }
    }
}

/// Ends the thread, so that the process can be forked.
pub(crate) fn end() {
    if let Some(prefetcher) = PREFETCHER.get() {
        prefetcher.lock().ending += 1;
        let thread = prefetcher.stop(&(0..usize::MAX)).thread.take();
        thread.into_iter().for_each(Thread::join);
        prefetcher.lock().ending -= 1;
    }
}

impl Prefetcher {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what reaches into `range`, and waits for the step that does.
    fn stop(&self, range: &Range<usize>) -> MutexGuard<'_, Work> {
        let overlaps = |other: &Range<usize>| other.start < range.end && range.start < other.end;
        let mut work = self.lock();
        work.ranges.retain(|other| !overlaps(other));
        let stopped = self
            .stepped
            .wait_while(work, |work| work.step.as_ref().is_some_and(overlaps));
        stopped.unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn run(&self) {
        let mut work = self.lock();
        while let Some(range) = work.ranges.pop_front() {
            let end = (range.start + 1).next_multiple_of(STEP).min(range.end);
            let (step, rest) = (range.start..end, end..range.end);
            if !rest.is_empty() {
                work.ranges.push_front(rest.clone());
            }
            work.step = Some(step.clone());
            drop(work);
            // No lock is held meanwhile: a page may take its time to come.
            let done = fault_in(step);
            work = self.lock();
            work.step = None;
            if done.is_err() {
                // The device failed, or the file has lost its pages: whoever touches them will hear of it.
                work.ranges.retain(|other| *other != rest);
            }
            self.stepped.notify_all();
        }
        self.works.store(false, Ordering::Release);
    }
}

fn fault_in(step: Range<usize>) -> io::Result<()> {
    let done = pages::advise(step.clone(), libc::MADV_POPULATE_READ);
    match done {
        // Before Linux 5.14 they can be read at least.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            pages::advise(step, libc::MADV_WILLNEED)
        }
        done => done,
    }
}
