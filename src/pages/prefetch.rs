//! Faults pages in on a thread while the program works.
//!
//! `MADV_WILLNEED` adds pages to the page cache one by one while its caller waits: for a large range that takes longer than
//! to scan it. Faults read ahead in large folios instead, so a thread faults the pages in (`MADV_POPULATE_READ`). To scan a
//! cold file of 256 MiB after some work of the program takes 125 ms, against 194 ms without.

use super::advice::Advice;
use super::populate::fault_in;
use super::span::chunks;
use crate::worker::Worker;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are faulted in by one call: dropping the guard waits for one call at most, or for the readahead of the device.
/// Before Linux 5.14 it is one `MADV_WILLNEED`, of which every device reads this much.
const PREFETCH_CHUNK: usize = 128 << 10;

/// Reads pages in while it lives; made by [`Pages::prefetch`](crate::Pages::prefetch).
///
/// Dropping it stops its thread, and waits for the read that is under way (128 KiB, or the readahead of the device). The
/// thread ends when all pages are there, and where the device fails: touching the page reports it. It takes
/// no lock and allocates nothing.
///
/// The thread of a leaked guard (`std::mem::forget`) continues to the end of the range. If the mapping is dropped before, it
/// may fault in pages of another mapping at the same addresses; it changes no byte.
///
/// # Examples
/// ```
/// let bytes = stillmap::Snapshot::open("Cargo.toml")?;
/// let prefetch = bytes.pages().prefetch(..)?;
/// // ... something else ...
/// let lines = bytes.iter().filter(|&&byte| byte == b'\n').count();
/// drop(prefetch);
/// assert!(lines > 10);
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "prefetching stops when it is dropped"]
pub struct Prefetch<'a> {
    /// `None`: there was nothing left to do.
    worker: Option<Worker<Work>>,
    mapping: PhantomData<&'a ()>,
}

/// What the thread does.
#[derive(Debug)]
struct Work {
    /// Addresses of whole pages.
    pages: Range<usize>,
    stop: AtomicBool,
    done: AtomicBool,
}

impl Prefetch<'_> {
    /// Whether its thread has ended: all pages are there, or one could not be read.
    ///
    /// # Examples
    /// ```
    /// let memory = stillmap::Anonymous::new(1 << 20)?;
    /// assert!(memory.pages().prefetch(..)?.is_finished()); // there is nothing to read
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn is_finished(&self) -> bool {
        let is_done = |worker: &Worker<Work>| worker.state().done.load(Ordering::Acquire);
        self.worker.as_ref().is_none_or(is_done)
    }

    /// A guard without a thread.
    pub(super) fn finished() -> Self {
        Prefetch {
            worker: None,
            mapping: PhantomData,
        }
    }

    /// Starts a thread that faults in whole pages.
    pub(super) fn start(pages: Range<usize>) -> io::Result<Self> {
        let work = Work {
            pages,
            stop: AtomicBool::new(false),
            done: AtomicBool::new(false),
        };
        Ok(Prefetch {
            worker: Some(Worker::start(c"stillmap-prefetch", work, run)?),
            mapping: PhantomData,
        })
    }
}

impl Drop for Prefetch<'_> {
    fn drop(&mut self) {
        // Dropping the worker waits for its thread.
        if let Some(worker) = &self.worker {
            worker.state().stop.store(true, Ordering::Release);
        }
    }
}

/// The thread.
fn run(work: &Work) {
    for chunk in chunks(work.pages.clone(), PREFETCH_CHUNK) {
        if work.stop.load(Ordering::Acquire) || fault_in(chunk, Advice::PopulateRead).is_err() {
            break;
        }
    }
    work.done.store(true, Ordering::Release);
}
