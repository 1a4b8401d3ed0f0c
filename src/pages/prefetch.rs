//! Faults pages in on a thread while the program works.
//!
//! `MADV_WILLNEED` enters a file page by page while its caller waits: for a large range that takes longer than to scan
//! it. Faults read ahead in large folios instead, so a thread takes them (`MADV_POPULATE_READ`). A 256 MiB file, cold,
//! after some work of the program: 125 ms to scan, against 194 ms without.

use super::populate::fault_in;
use super::span::chunks;
use crate::worker::Worker;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes in one fault: dropping the guard waits for at most one of them, or for the readahead of the device. Every device
/// reads this much in one `MADV_WILLNEED`.
const PREFETCH_CHUNK: usize = 128 << 10;

/// Reads pages in while it lives; made by [`Pages::prefetch`](crate::Pages::prefetch).
///
/// Dropping it stops its thread, and waits for the read that is under way (128 KiB, or the readahead of the device). The
/// thread ends when all pages are there, and where the device fails: touching the page reports it. It takes
/// no lock and allocates nothing.
///
/// A guard that is leaked (`std::mem::forget`) continues to its end; if the mapping is dropped before, it can fault in pages
/// of what comes to the same addresses, and changes no byte.
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

    /// Has whole pages faulted in by a thread.
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
        if work.stop.load(Ordering::Acquire) || fault_in(chunk, false).is_err() {
            break;
        }
    }
    work.done.store(true, Ordering::Release);
}
