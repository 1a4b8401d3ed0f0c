//! mlock(2) by address, for pages that may lie in the heap.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use stillmap::page;

/// What a system call returned.
pub(crate) fn checked(returned: i32) -> io::Result<()> {
    if returned == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A lock that is a state: taken twice it is taken once, and it ends with its owner.
#[derive(Debug)]
pub(crate) struct LockState<T>(Mutex<Option<T>>);

impl<T> LockState<T> {
    pub(crate) const fn new() -> Self {
        LockState(Mutex::new(None))
    }

    /// Calls `lock` unless it is locked.
    pub(crate) fn begin(&self, lock: impl FnOnce() -> io::Result<T>) -> io::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_none() {
            *state = Some(lock()?);
        }
        Ok(())
    }

    /// Ends the lock; whether there was one.
    pub(crate) fn end(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.take().is_some()
    }
}

/// Pages that are kept in RAM. The kernel keeps one flag for a page, and a small map shares its page of the heap with
/// others: such a page is unlocked with the last lock. What was locked before by other means stays locked.
#[derive(Debug)]
pub(crate) struct AddressLock {
    pages: Range<usize>,
    /// Whether all pages but the first and the last were unlocked before. They are of this map alone.
    unlocks_inner: bool,
    process: u32,
}

impl AddressLock {
    pub(crate) fn new(bytes: &[u8]) -> io::Result<Self> {
        AddressLock::of(bytes.as_ptr(), bytes.len())
    }

    pub(crate) fn of(start: *const u8, len: usize) -> io::Result<Self> {
        let pages = pages_of(start.addr(), len);
        let mut edges = Edges::of_this_process();
        for page in edges_of(&pages) {
            edges.entry(page).or_insert_with(|| Edge::new(page)).locks += 1;
        }
        let lock = AddressLock {
            unlocks_inner: !is_any_locked(&inner(&pages)),
            process: process::id(),
            pages,
        };
        // SAFETY: mlock(2) changes no byte.
        let locked = checked(unsafe { libc::mlock(start.cast(), len) });
        drop(edges);
        // On failure `lock` is dropped: part of it may be locked.
        locked.map(|()| lock)
    }
}

impl Drop for AddressLock {
    fn drop(&mut self) {
        // A forked child inherits no locks.
        if self.process != process::id() {
            return;
        }
        let mut edges = Edges::of_this_process();
        for page in edges_of(&self.pages) {
            let Some(edge) = edges.get_mut(&page) else {
                continue;
            };
            edge.locks -= 1;
            if edge.locks == 0 {
                if !edge.was_locked {
                    munlock(&one(page));
                }
                edges.remove(&page);
            }
        }
        if self.unlocks_inner {
            munlock(&inner(&self.pages));
        }
    }
}

/// A page in which a map starts or ends, so that bytes of others may be in it.
#[derive(Debug)]
struct Edge {
    locks: usize,
    /// Before the first of these locks.
    was_locked: bool,
}

impl Edge {
    fn new(page: usize) -> Self {
        Edge {
            locks: 0,
            was_locked: is_any_locked(&one(page)),
        }
    }
}

/// The edges of all locks of a process, by address. They are held during the system calls that they decide about.
struct Edges {
    process: u32,
    edges: Mutex<BTreeMap<usize, Edge>>,
}

impl Edges {
    /// A forked child gets edges of its own: it inherits no locks, and the mutex may have been held.
    fn of_this_process() -> MutexGuard<'static, BTreeMap<usize, Edge>> {
        static CURRENT: AtomicPtr<Edges> = AtomicPtr::new(ptr::null_mut());
        let process = process::id();
        loop {
            let current = CURRENT.load(Ordering::Acquire);
            // SAFETY: null, or a box that was leaked below.
            let edges = unsafe { current.as_ref() };
            if let Some(edges) = edges.filter(|edges| edges.process == process) {
                return edges.edges.lock().unwrap_or_else(PoisonError::into_inner);
            }
            let edges = Mutex::new(BTreeMap::new());
            let new = Box::into_raw(Box::new(Edges { process, edges }));
            let order = (Ordering::AcqRel, Ordering::Relaxed);
            if CURRENT
                .compare_exchange(current, new, order.0, order.1)
                .is_err()
            {
                // SAFETY: it was not published.
                drop(unsafe { Box::from_raw(new) });
            }
        }
    }
}

/// The pages that a range of addresses reaches into.
fn pages_of(start: usize, len: usize) -> Range<usize> {
    let first = start / page::size() * page::size();
    if len == 0 {
        first..first
    } else {
        first..(start + len).next_multiple_of(page::size())
    }
}

fn one(page: usize) -> Range<usize> {
    page..page + page::size()
}

/// The first page and the last, which may be the same.
fn edges_of(pages: &Range<usize>) -> impl Iterator<Item = usize> + use<> {
    let first = (!pages.is_empty()).then_some(pages.start);
    let last = pages.end.saturating_sub(page::size());
    first
        .into_iter()
        .chain((last > pages.start).then_some(last))
}

/// The pages between the first and the last.
fn inner(pages: &Range<usize>) -> Range<usize> {
    let start = pages.start + page::size();
    start..pages.end.saturating_sub(page::size()).max(start)
}

fn munlock(pages: &Range<usize>) {
    // SAFETY: munlock(2) changes no byte. Refused, the pages stay locked.
    unsafe { libc::munlock(ptr::without_provenance(pages.start), pages.len()) };
}

/// Whether any page of a range is locked: msync(2) with `MS_INVALIDATE` fails with `EBUSY` then, and does nothing else.
fn is_any_locked(pages: &Range<usize>) -> bool {
    let flags = libc::MS_ASYNC | libc::MS_INVALIDATE;
    // SAFETY: `MS_ASYNC` starts nothing since Linux 2.6.19, and Linux has no copies to invalidate.
    let status =
        unsafe { libc::msync(ptr::without_provenance_mut(pages.start), pages.len(), flags) };
    status != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EBUSY)
}
