//! Opens many files at a time and returns them in order.
//!
//! ```text
//!   paths --batches of 16--> waiting --thread--> opened --next()--> the caller
//!                               |                                     ^
//!                               +------ the first batch: next() ------+
//! ```
//! The caller takes the first batch itself if no thread has it yet, so it waits only for what is being opened already.

use crate::error::{Error, Result};
use crate::pages::Advice;
use crate::process::Process;
use crate::snapshot::{Snapshot, SnapshotOptions};
use crate::sync::{Lock, Rank};
use crate::sys::thread;
use crate::worker::Worker;
use std::collections::VecDeque;
use std::fmt;
use std::iter::FusedIterator;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar};
use std::{mem, vec};

/// Files that a thread takes at a time. Taking them costs a lock and a wakeup, about as much as opening three files of
/// 4 KiB.
const BATCH: usize = 16;

/// Most files that are opened ahead of the caller. A leased one holds a descriptor.
const FILES_AHEAD: usize = 512;

/// The same while no thread waits for a disk: what was read is still in the cache of the processor when it is used.
///
/// Measured, a warm tree of 5,000 files, 2 processors that others used as well: processor time / time, a loop being 1.
///
/// | threads | 512 ahead | 256 ahead | 128 ahead |
/// |---|---|---|---|
/// | 8 | 1.39 / 0.91 | | |
/// | 2 | 1.27 / 0.88 | 1.24 / 0.84 | 1.11 / 0.84 |
/// | 1 | 1.27 / 1.53 | | 1.11 / 1.12 |
const FILES_AHEAD_IN_MEMORY: usize = 128;

/// Threads wait for a disk if they were blocked this many times while they opened one batch: more often than by locks.
const DISK_WAITS_MIN: u64 = BATCH as u64 / 4;

/// Threads open no more files while those ahead of the caller have this many bytes.
const BYTES_AHEAD: usize = 64 << 20;

/// Most threads. While they wait for a disk, they are more than the processors of a small machine, so that the disk has
/// several reads to do at a time.
const THREADS: usize = 8;

/// Bytes of a mapped file that are read ahead when it is opened. Further readahead is the kernel's.
const READ_AHEAD: usize = 1 << 20;

/// Iterator over the snapshots of many files, see [`open_all`].
///
/// It is `Send` if the iterator over the paths is. Only paths are given to other threads.
///
/// # Examples
/// ```
/// let mut files = stillmap::open_all(["Cargo.toml", "src/lib.rs"]);
/// assert_eq!(files.len(), 2);
/// assert!(files.next().unwrap()?.starts_with(b"[package]"));
/// # Ok::<(), stillmap::Error>(())
/// ```
#[must_use = "it opens nothing before the first `next`"]
pub struct OpenAll<I> {
    /// Paths that are in no batch yet.
    paths: I,
    /// The batch that items are taken from.
    present: Batch,
    /// Paths that were taken from `paths` and not returned as items.
    begun: usize,
    /// Batches in the queue.
    queued: usize,
    queue: Arc<Queue>,
    threads: Vec<Worker<Arc<Queue>>>,
    /// How many threads there are at most while none waits for a disk; 0 if that was not looked up.
    processors: usize,
    /// The process that has the threads.
    process: Process,
    is_ended: bool,
}

/// Files in the order of their paths: some are opened, those after them are not.
#[derive(Default)]
struct Batch {
    opened: vec::IntoIter<Result<Snapshot>>,
    waiting: vec::IntoIter<PathBuf>,
    /// Of what is opened.
    bytes: usize,
}

/// What the caller and the threads share.
struct Queue {
    options: SnapshotOptions,
    state: Lock<State>,
    /// Of what was opened ahead of the caller. It is changed without the lock, and nothing but a bound depends on it.
    bytes: AtomicUsize,
    /// A thread has waited for a disk.
    is_on_disk: AtomicBool,
    /// There is a batch to open and room for its bytes, or the end.
    work: Condvar,
    /// A thread has opened its batch.
    opened: Condvar,
}

#[derive(Default)]
struct State {
    /// In the order of the paths.
    batches: VecDeque<Slot>,
    /// The number of the first of them, counted from the start.
    first: usize,
    is_closed: bool,
}

enum Slot {
    Waiting(Batch),
    /// A thread opens it.
    Taken,
    Opened(Batch),
}

/// Opens all files of `paths` with default options, several at a time: [`SnapshotOptions::open_all`].
///
/// # Examples
/// ```
/// let paths = ["Cargo.toml", "no such file", "src/lib.rs"];
/// let opened: Vec<_> = stillmap::open_all(paths).collect();
/// assert!(opened[0].as_ref().is_ok_and(|bytes| bytes.starts_with(b"[package]")));
/// assert!(opened[1].is_err() && opened[2].is_ok());
/// ```
pub fn open_all<P>(paths: P) -> OpenAll<P::IntoIter>
where
    P: IntoIterator,
    P::Item: AsRef<Path>,
{
    Snapshot::options().open_all(paths)
}

impl SnapshotOptions {
    /// Opens all files of `paths`, several at a time, and returns them in this order: one item for each path, whether it
    /// could be opened or not.
    ///
    /// Opening starts with the first call of `next`. Up to 8 threads (`stillmap-open`) open at most 512 files ahead of the
    /// caller, and stop at 64 MiB of them; one larger file for each thread may come to that. As long as no disk has to be
    /// waited for, they are as many as the processors, and open 128 files ahead. They start reading mapped files into
    /// memory. They end with the last file, or when the iterator is dropped: that waits for the files that are being
    /// opened, and for a FIFO until it has a writer. If no thread can be started, the caller opens all files.
    ///
    /// While there are threads, [`fork::scope`](crate::fork::scope) fails with
    /// [`Error::MultiThreaded`](crate::Error::MultiThreaded).
    ///
    /// # Errors
    /// Each item is what [`open`](SnapshotOptions::open) returns for its path. In a forked child the iterator returns
    /// [`Error::WrongProcess`](crate::Error::WrongProcess) and ends.
    ///
    /// # Examples
    /// ```
    /// let sources = ["src/lib.rs", "Cargo.toml"];
    /// let mut lines = 0;
    /// for bytes in stillmap::Snapshot::options().lease(false).open_all(sources) {
    ///     lines += bytes?.iter().filter(|&&byte| byte == b'\n').count();
    /// }
    /// assert!(lines > 10);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn open_all<P>(&self, paths: P) -> OpenAll<P::IntoIter>
    where
        P: IntoIterator,
        P::Item: AsRef<Path>,
    {
        OpenAll {
            paths: paths.into_iter(),
            present: Batch::default(),
            begun: 0,
            queued: 0,
            queue: Arc::new(Queue {
                options: self.clone(),
                state: Lock::new(Rank::OpenAll, State::default()),
                bytes: AtomicUsize::new(0),
                is_on_disk: AtomicBool::new(false),
                work: Condvar::new(),
                opened: Condvar::new(),
            }),
            threads: Vec::new(),
            processors: 0,
            process: Process::current(),
            is_ended: false,
        }
    }
}

impl<I> OpenAll<I>
where
    I: Iterator,
    I::Item: AsRef<Path>,
{
    /// Makes the first batch of the queue the present one. False if there is none.
    fn next_batch(&mut self) -> Result<bool> {
        if self.is_ended {
            return Ok(false);
        }
        let batches = self.next_paths();
        if !self.process.is_current() {
            // A forked child: the lock may be held forever, and no thread opens anything.
            self.is_ended = true;
            return Err(Error::wrong_process(None));
        }
        let waiting = self.enqueue(batches);
        self.start_threads(waiting);
        match self.queue.take_first() {
            Some(batch) => self.present = batch,
            None => self.end(),
        }
        self.queued = self.queued.saturating_sub(1);
        Ok(!self.is_ended)
    }

    /// What the queue has room for. The iterator is the caller's code, so no lock is held here.
    fn next_paths(&mut self) -> Vec<Vec<PathBuf>> {
        let mut batches = Vec::new();
        let ahead = if self.queue.is_on_disk() {
            FILES_AHEAD
        } else {
            FILES_AHEAD_IN_MEMORY
        };
        while self.queued + batches.len() < ahead / BATCH {
            let paths = self.paths.by_ref().take(BATCH);
            let paths: Vec<_> = paths.map(|path| path.as_ref().to_path_buf()).collect();
            if paths.is_empty() {
                break;
            }
            batches.push(paths);
        }
        batches
    }

    /// Fills the queue. Returns how many batches wait for a thread.
    fn enqueue(&mut self, batches: Vec<Vec<PathBuf>>) -> usize {
        let mut state = self.queue.state.lock();
        for paths in batches {
            self.queued += 1;
            self.begun += paths.len();
            state.batches.push_back(Slot::Waiting(Batch {
                waiting: paths.into_iter(),
                ..Batch::default()
            }));
            self.queue.work.notify_one();
        }
        let is_waiting = |slot: &&Slot| matches!(slot, Slot::Waiting(_));
        state.batches.iter().filter(is_waiting).count()
    }

    /// One thread for each batch that waits, but for the first, which the caller takes.
    fn start_threads(&mut self, waiting: usize) {
        while self.threads.len() < waiting.saturating_sub(1).min(self.most_threads()) {
            let queue = Arc::clone(&self.queue);
            match Worker::start(c"stillmap-open", queue, |queue| queue.open_batches()) {
                Ok(thread) => self.threads.push(thread),
                Err(_) => break,
            }
        }
    }
}

impl<I> OpenAll<I> {
    fn most_threads(&mut self) -> usize {
        if self.queue.is_on_disk() {
            return THREADS;
        }
        if self.processors == 0 {
            self.processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        }
        self.processors.min(THREADS)
    }

    fn next_present(&mut self) -> Option<Result<Snapshot>> {
        let queue = &self.queue;
        let opened = self.present.opened.next();
        let item = opened.or_else(|| self.present.waiting.next().map(|path| queue.open(&path)))?;
        self.begun -= 1;
        Some(item)
    }

    /// Ends the threads, and waits for them.
    fn end(&mut self) {
        self.is_ended = true;
        if self.process.is_current() {
            self.queue.state.lock().is_closed = true;
            self.queue.work.notify_all();
        } else {
            // Never dropped in a child: a thread that does not exist here may have been changing it.
            mem::forget(Arc::clone(&self.queue));
        }
        self.threads.clear();
    }
}

impl<I> Drop for OpenAll<I> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<I> fmt::Debug for OpenAll<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAll")
            .field("options", &self.queue.options)
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

impl Queue {
    fn open(&self, path: &Path) -> Result<Snapshot> {
        self.options.open(path)
    }

    fn is_on_disk(&self) -> bool {
        self.is_on_disk.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= BYTES_AHEAD
    }

    /// What a thread does.
    fn open_batches(&self) {
        while let Some((number, batch)) = self.take_waiting() {
            let waits = thread::waits();
            let batch = self.open_batch(batch);
            if thread::waits() >= waits + DISK_WAITS_MIN {
                self.is_on_disk.store(true, Ordering::Relaxed);
            }
            let mut state = self.state.lock();
            let index = number - state.first;
            state.batches[index] = Slot::Opened(batch);
            drop(state);
            self.opened.notify_one();
        }
    }

    /// Opens as many of the files as there is room for. The caller opens the rest, one by one.
    fn open_batch(&self, mut batch: Batch) -> Batch {
        let mut opened = Vec::with_capacity(batch.waiting.len());
        while !self.is_full() {
            let Some(path) = batch.waiting.next() else {
                break;
            };
            let snapshot = self.open(&path);
            if let Ok(snapshot) = &snapshot {
                batch.bytes += snapshot.len();
                self.bytes.fetch_add(snapshot.len(), Ordering::Relaxed);
                let start = ..snapshot.len().min(READ_AHEAD);
                // Only a hint; it does nothing for bytes that are in memory.
                let _ = snapshot.pages().advise(start, Advice::WillNeed);
            }
            opened.push(snapshot);
        }
        batch.opened = opened.into_iter();
        batch
    }

    /// The next batch for a thread, and its number. `None` at the end.
    fn take_waiting(&self) -> Option<(usize, Batch)> {
        let state = self.state.lock();
        let mut state = state.wait_while(&self.work, |state| {
            !state.is_closed && (self.is_full() || state.first_waiting().is_none())
        });
        let index = state.first_waiting().filter(|_| !state.is_closed)?;
        match mem::replace(&mut state.batches[index], Slot::Taken) {
            Slot::Waiting(batch) => Some((state.first + index, batch)),
            _ => None,
        }
    }

    /// The first batch for the caller. It waits if a thread is opening it.
    fn take_first(&self) -> Option<Batch> {
        let state = self.state.lock();
        let is_taken = |state: &mut State| matches!(state.batches.front(), Some(Slot::Taken));
        let mut state = state.wait_while(&self.opened, is_taken);
        let slot = state.batches.pop_front()?;
        state.first += 1;
        match slot {
            Slot::Waiting(batch) => Some(batch),
            Slot::Taken => None,
            Slot::Opened(batch) => {
                let was_full = self.is_full();
                self.bytes.fetch_sub(batch.bytes, Ordering::Relaxed);
                if was_full {
                    self.work.notify_all();
                }
                Some(batch)
            }
        }
    }
}

impl State {
    fn first_waiting(&self) -> Option<usize> {
        let mut batches = self.batches.iter();
        batches.position(|slot| matches!(slot, Slot::Waiting(_)))
    }
}

impl<I> Iterator for OpenAll<I>
where
    I: Iterator,
    I::Item: AsRef<Path>,
{
    type Item = Result<Snapshot>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.next_present() {
                return Some(item);
            }
            match self.next_batch() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let (least, most) = self.paths.size_hint();
        let most = most.and_then(|most| most.checked_add(self.begun));
        (least.saturating_add(self.begun), most)
    }
}

impl<I> ExactSizeIterator for OpenAll<I>
where
    I: ExactSizeIterator,
    I::Item: AsRef<Path>,
{
}

impl<I> FusedIterator for OpenAll<I>
where
    I: FusedIterator,
    I::Item: AsRef<Path>,
{
}
