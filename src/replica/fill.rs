//! Reads a large range of a file into memory: two threads take turns, if a second one can be had.
//!
//! One processor does not keep up with the memory: half of its time it zeroes huge pages, the other half it copies.

use crate::sys::{file, lease};
use std::io;
use std::iter;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ScopedJoinHandle};

/// What a thread takes at a time, in bytes: a few huge pages. Chunks rather than halves, so that a thread that gets less
/// of its processor just takes fewer of them.
const CHUNK: usize = 4 << 20;

/// So many bytes are worth a second thread.
const LARGE: usize = 8 * CHUNK;

/// Told how many bytes are done, again and again, and may stop it.
pub(crate) type Step<'s> = dyn FnMut(usize) -> io::Result<()> + 's;

/// Reads a file from `offset` on, and gives how much there was without a gap: all of `into`, unless the file ends before.
pub(crate) fn fill(
    into: &mut [MaybeUninit<u8>],
    fd: BorrowedFd<'_>,
    offset: u64,
    step: &mut Step<'_>,
) -> io::Result<usize> {
    let len = into.len();
    // No huge page belongs to two chunks: two threads would both zero it, one of them in vain.
    let (first, rest) = into.split_at_mut(len.min(CHUNK - into.as_ptr().addr() % CHUNK));
    let chunks = iter::once(first).chain(rest.chunks_mut(CHUNK));
    let placed = chunks.scan(0, |end, chunk| {
        let start = *end;
        *end += chunk.len();
        Some((start, chunk))
    });
    let chunks = Mutex::new(placed);
    let no_more = || lock(&chunks).by_ref().for_each(drop);
    let done = AtomicUsize::new(0);
    let end = AtomicUsize::new(len);
    let read_next = || -> io::Result<bool> {
        let Some((start, chunk)) = lock(&chunks).next() else {
            return Ok(false);
        };
        let n = read_full(fd, chunk, offset + start as u64)?;
        done.fetch_add(n, Ordering::Relaxed);
        if n < chunk.len() {
            end.fetch_min(start + n, Ordering::Relaxed);
            no_more();
        }
        Ok(true)
    };
    let read_all = |step: &mut Step<'_>| {
        let mut read = || {
            while read_next()? {
                step(done.load(Ordering::Relaxed))?;
            }
            Ok(())
        };
        read().inspect_err(|_| no_more())
    };
    let is_alone =
        || len < LARGE || thread::available_parallelism().is_ok_and(|number| number.get() == 1);
    if is_alone() {
        read_all(step)?;
        return Ok(end.into_inner());
    }
    let mut told = 0;
    thread::scope(|scope| {
        let second = start_thread(scope, || read_all(&mut |_| Ok(())));
        let first = read_all(&mut |done| {
            told = done;
            step(done)
        });
        let second = second.map_or(Ok(()), |second| second.join().unwrap_or_else(|_| lost()));
        first.and(second)
    })?;
    let done = done.into_inner();
    // The second thread may have been the last.
    if told < done {
        step(done)?;
    }
    Ok(end.into_inner())
}

/// Reads until `into` is full or the file ends: how many bytes.
fn read_full(fd: BorrowedFd<'_>, into: &mut [MaybeUninit<u8>], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        let n = file::read_at(fd, &mut into[done..], offset + done as u64)?.len();
        if n == 0 {
            break;
        }
        done += n;
    }
    Ok(done)
}

/// `None` if there is no thread to be had. It runs with every signal blocked, so that none of the program's is ever
/// handled on it.
fn start_thread<'s>(
    scope: &'s thread::Scope<'s, '_>,
    run: impl FnOnce() -> io::Result<()> + Send + 's,
) -> Option<ScopedJoinHandle<'s, io::Result<()>>> {
    let mask = lease::block_all_signals();
    let name = "folio-copy".to_string();
    let started = thread::Builder::new().name(name).spawn_scoped(scope, run);
    lease::restore_signals(&mask);
    started.ok()
}

/// A thread that panicked has left its chunk as it was.
fn lost() -> io::Result<()> {
    Err(io::Error::other("a thread that copies panicked"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
