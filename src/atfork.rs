//! Address ranges and descriptors that forked children must not use.
//!
//! A value registers its range and its descriptor here. A handler that fork(3) calls in the child (pthread_atfork(3))
//! removes them before any other code of the child runs. The range gets no access: touching it raises SIGSEGV, and no other
//! mapping can appear there. The number of the descriptor refers to an empty file, so that the child can still close it.
//! So a lease of the parent ends with the parent, and the child does not keep a file of the parent open.
//!
//! A lendable range ([`NotForChildren::set_lendable`]) stays mapped without access, so that `fork::scope` can give
//! pages of it to one child ([`lend`]). A process may lend only memory that it mapped itself, or pages that were lent to it.
//!
//! Children made by `syscall(SYS_fork)`, `syscall(SYS_clone)` or `_Fork` run no handlers. All of these are `unsafe` to
//! call from Rust; a child made in this way must not use values of this crate, except to execute another program.
//! vfork(2) and posix_spawn(3) run no handlers either, and their children only execute another program.
//!
//! ```text
//!            set_range               fork, in the child
//!   no range ---------> registered --------------------> no access ----> lent to this child: registered there
//!      ^                    |                                     lend
//!      +---- clear_range ---+        cleared before the range is unmapped or moved, set after it
//! ```
#![allow(unsafe_code)]

use crate::budget;
use crate::error::{Error, Result};
use crate::once::OnceBox;
use crate::process::{Process, ProcessLock};
use crate::sync::Rank;
use crate::sys::{atfork, clock, file, memory, process};
use crate::table::{Claimed, Table};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

static TABLE: Table<ForkEntry> = Table::new();

/// The file that replaces a registered descriptor in a child. Set once the handler is installed.
static EMPTY_FILE: OnceBox<OwnedFd> = OnceBox::new();

/// What is done for leases: before a fork, and in the child. They are no handlers of their own: a fork that waits for a thread
/// of [`MAKERS`], which installs them, would not call them.
static LEASES: OnceBox<ForLeases> = OnceBox::new();

/// Called before a fork, and in the child.
pub(crate) type ForLeases = (fn(), fn());

/// Numbers of forks of this process: of those that wait for [`MAKERS`] or have begun, that have begun, that are over.
/// They are compared for equality only: 2^32 forks take days, and a thread waits for forks for 2 s at most.
static WANTED: AtomicUsize = AtomicUsize::new(0);
static BEGUN: AtomicUsize = AtomicUsize::new(0);
static ENDED: AtomicUsize = AtomicUsize::new(0);

/// Number of threads that hold a [`NoFork`].
static MAKERS: AtomicUsize = AtomicUsize::new(0);

/// Number of threads that wait for a fork to end.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// How long a fork waits for [`WAITING`], and then for [`MAKERS`], in ms. An open takes 0.1 ms, and more if its thread waits
/// for a processor: with 5 ms, 1 of 7,000 children forked beside opens on a busy machine had a lease of its parent.
const MAKERS_MAX: u64 = 100;

/// How long a thread waits for a fork. The fork of a process with 100 GiB of memory takes about a second.
const FORK_MAX: Duration = Duration::from_secs(2);

/// What one value keeps from children. It lies in one page: fork(2) copies page by page while other threads store.
#[repr(align(64))]
struct ForkEntry {
    start: AtomicUsize,
    /// In bytes; 0 means that there is no range.
    len: AtomicUsize,
    /// How many bytes, from the start on, may be passed to a child; 0 means none.
    lendable: AtomicUsize,
    /// Size of the pages of a lendable range, in bytes.
    page_size: AtomicUsize,
    /// The process that claimed the entry: in no other is the range lendable.
    process: AtomicUsize,
    /// -1 means that there is none.
    fd: AtomicI32,
}

impl Default for ForkEntry {
    fn default() -> Self {
        ForkEntry {
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            lendable: AtomicUsize::new(0),
            page_size: AtomicUsize::new(0),
            process: AtomicUsize::new(0),
            fd: AtomicI32::new(-1),
        }
    }
}

/// A moment at which this process did not fork.
///
/// A descriptor or mapping is made first, and registered after that. A child that another thread forks in between has it,
/// and its handler does not find it. So the thread that makes it checks afterwards whether the process has forked since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BeforeForks(usize);

impl BeforeForks {
    /// This moment; `None` while another thread forks, and before [`install`] has succeeded.
    pub(crate) fn now() -> Option<Self> {
        EMPTY_FILE.get()?;
        // In this order: if the numbers are equal, every fork that was wanted at the second load had ended at the first.
        let ended = ENDED.load(Ordering::SeqCst);
        let wanted = WANTED.load(Ordering::SeqCst);
        (wanted == ended).then_some(BeforeForks(wanted))
    }

    /// True if no fork has begun since: no child has what was made after this moment and is registered now.
    pub(crate) fn is_still(self) -> bool {
        // What was registered is visible to a fork that is not seen here.
        fence(Ordering::SeqCst);
        BEGUN.load(Ordering::SeqCst) == self.0
    }
}

/// While it lives, a fork waits (at most [`MAKERS_MAX`]), so that a descriptor or mapping can be made and registered.
#[derive(Debug)]
pub(crate) struct NoFork {
    since: BeforeForks,
}

impl NoFork {
    /// Waits while another thread forks. `None` if that takes too long: its handlers may wait for this thread.
    pub(crate) fn begin() -> Option<Self> {
        install().ok()?;
        if let Some(begun) = NoFork::try_begin() {
            return Some(begun);
        }
        WAITING.fetch_add(1, Ordering::SeqCst);
        let begun = NoFork::begin_after_forks();
        decrement(&WAITING);
        begun
    }

    fn begin_after_forks() -> Option<Self> {
        let start = Instant::now();
        loop {
            if let Some(begun) = NoFork::try_begin() {
                return Some(begun);
            }
            if start.elapsed() >= FORK_MAX {
                return None;
            }
            std::thread::yield_now();
        }
    }

    /// `None` while another thread forks.
    fn try_begin() -> Option<Self> {
        // Counted before the check: either a fork is seen here, or its handler sees the count.
        MAKERS.fetch_add(1, Ordering::SeqCst);
        let since = BeforeForks::now();
        if since.is_none() {
            decrement(&MAKERS);
        }
        since.map(|since| NoFork { since })
    }

    /// When it began.
    pub(crate) fn since(&self) -> BeforeForks {
        self.since
    }
}

impl Drop for NoFork {
    fn drop(&mut self) {
        decrement(&MAKERS);
    }
}

/// Subtracts 1, unless the count is 0, as in a child that a signal handler has forked meanwhile.
fn decrement(count: &AtomicUsize) {
    let order = (Ordering::SeqCst, Ordering::SeqCst);
    let _ = count.fetch_update(order.0, order.1, |count| count.checked_sub(1));
}

/// Before a fork begins, threads that waited for an earlier fork continue, and threads with a [`NoFork`] finish.
extern "C" fn before_fork() {
    wait_for_none(&WAITING);
    WANTED.fetch_add(1, Ordering::SeqCst);
    wait_for_none(&MAKERS);
    if let Some((before, _)) = LEASES.get() {
        before();
    }
    BEGUN.fetch_add(1, Ordering::SeqCst);
}

/// Waits for a limited time only: the thread that forks may be one of those counted, in a signal handler.
fn wait_for_none(count: &AtomicUsize) {
    let start = clock::monotonic_ms();
    while count.load(Ordering::SeqCst) > 0 && clock::monotonic_ms() < start + MAKERS_MAX {
        std::thread::yield_now();
    }
}

extern "C" fn after_fork() {
    ENDED.fetch_add(1, Ordering::SeqCst);
}

/// Installs the handlers, unless they are installed. [`NotForChildren`] needs them.
pub(crate) fn install() -> Result<()> {
    static INSTALLING: ProcessLock<()> = ProcessLock::new(Rank::AtFork);
    if EMPTY_FILE.get().is_some() {
        return Ok(());
    }
    let _one_thread = INSTALLING.lock();
    if EMPTY_FILE.get().is_some() {
        return Ok(());
    }
    // A pipe without a writer: it can be read and closed.
    let pipe = process::pipe().map(|(reader, _)| reader);
    let empty = pipe.or_else(|_| file::open("/dev/null".as_ref()));
    let empty = empty.map_err(|e| Error::os("pipe2", None, e))?;
    atfork::register(before_fork, after_fork, in_child)
        .map_err(|e| Error::os("pthread_atfork", None, e))?;
    EMPTY_FILE.set(empty);
    Ok(())
}

/// Sets what is done for leases, see [`LEASES`]. The handlers are installed.
pub(crate) fn set_leases(functions: ForLeases) {
    LEASES.set(functions);
}

fn replace_by_empty_file(fd: BorrowedFd<'_>) -> io::Result<()> {
    let empty = EMPTY_FILE.get().ok_or(io::ErrorKind::NotFound)?;
    atfork::replace(fd.as_raw_fd(), empty.as_fd())
}

/// Closes the file of a descriptor whose number its owner closes later: until then the number refers to an empty file.
pub(crate) fn close_behind(fd: BorrowedFd<'_>) {
    // Fails only if the program has closed one of the two, which no safe code can do.
    let _ = replace_by_empty_file(fd);
}

/// In a forked child: the same, or closes the number too if it cannot be replaced.
pub(crate) fn close_in_child(fd: BorrowedFd<'_>) {
    if replace_by_empty_file(fd).is_err() {
        // The owner of the number closes nothing later.
        atfork::close(fd.as_raw_fd());
    }
}

/// An address range and a descriptor that children of this process must not use, until this is dropped. None at first.
pub(crate) struct NotForChildren {
    entry: Claimed<ForkEntry>,
}

impl NotForChildren {
    pub(crate) fn new() -> Result<Self> {
        install()?;
        let entry = TABLE.claim();
        let process = Process::current().to_bits();
        entry.process.store(process, Ordering::Relaxed);
        Ok(NotForChildren { entry })
    }

    /// Registers whole pages that the caller has mapped, in place of any range before.
    pub(crate) fn set_range(&self, addresses: Range<usize>) {
        self.set_lendable(addresses, 0, 0);
    }

    /// The same for shared memory, of which this process may lend the first `bytes` to a child: in whole pages of
    /// `page_size`; the last one, which has bytes of no other value, also in part.
    pub(crate) fn set_lendable(&self, addresses: Range<usize>, bytes: usize, page_size: usize) {
        self.forget_range();
        self.entry.start.store(addresses.start, Ordering::Relaxed);
        self.entry.lendable.store(bytes, Ordering::Relaxed);
        self.entry.page_size.store(page_size, Ordering::Relaxed);
        // Release: a child that finds the length finds the start.
        self.entry.len.store(addresses.len(), Ordering::Release);
    }

    /// To be called before the range is unmapped or moved. A child that is forked in between has it mapped: while the result
    /// lives, a fork waits.
    #[must_use]
    pub(crate) fn clear_range(&self) -> Option<NoFork> {
        // A fork that is under way may have copied the mapping, and not this entry.
        let no_fork = NoFork::begin();
        self.forget_range();
        no_fork
    }

    /// The same where another handler keeps the range from children from now on.
    pub(crate) fn forget_range(&self) {
        self.entry.len.store(0, Ordering::Release);
    }

    /// Registers a descriptor, in place of any before.
    pub(crate) fn set_descriptor(&self, fd: BorrowedFd<'_>) {
        self.entry.fd.store(fd.as_raw_fd(), Ordering::Release);
    }

    /// To be called before the descriptor is closed.
    pub(crate) fn clear_descriptor(&self) {
        self.entry.fd.store(-1, Ordering::Release);
    }

    /// False in a child of the process that made this.
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.entry.is_of_this_process()
    }
}

impl ForkEntry {
    fn is_of_this_process(&self) -> bool {
        Process::from_bits(self.process.load(Ordering::Relaxed)).is_current()
    }

    /// The registered addresses; empty if there are none.
    fn range(&self) -> Range<usize> {
        let len = self.len.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        start..start + len
    }

    fn is_lendable(&self) -> bool {
        self.lendable.load(Ordering::Relaxed) > 0
    }

    /// The addresses of the bytes that this process may pass to a child.
    fn lendable(&self) -> Range<usize> {
        let range = self.range();
        let len = self.lendable.load(Ordering::Relaxed).min(range.len());
        let is_own = self.is_of_this_process();
        range.start..range.start + if is_own { len } else { 0 }
    }
}

/// The whole pages that `bytes` are, if this process may pass them to a child. No other thread may register meanwhile.
pub(crate) fn lendable_pages(bytes: Range<usize>) -> Result<Range<usize>> {
    let overlaps = |range: Range<usize>| range.start < bytes.end && bytes.start < range.end;
    let mut entries = TABLE.iter();
    if entries.any(|entry| !entry.is_lendable() && overlaps(entry.range())) {
        return Err(Error::not_shared());
    }
    let mut entries = TABLE.iter();
    let contains = |range: Range<usize>| range.start <= bytes.start && bytes.end <= range.end;
    let entry = entries.find(|entry| contains(entry.lendable()));
    let entry = entry.ok_or_else(Error::not_shared)?;
    let page_size = entry.page_size.load(Ordering::Relaxed);
    let is_end = bytes.end == entry.lendable().end;
    for address in [bytes.start, bytes.end] {
        if address % page_size != 0 && !(is_end && address == bytes.end) {
            return Err(Error::misaligned(address as u64, page_size));
        }
    }
    Ok(bytes.start..bytes.end.next_multiple_of(page_size))
}

/// Everything that this process may pass to a child, in pages.
pub(crate) fn all_lendable() -> Vec<Range<usize>> {
    let ranges = TABLE.iter().map(ForkEntry::lendable);
    let ranges = ranges.filter(|range| !range.is_empty());
    ranges
        .filter_map(|range| lendable_pages(range).ok())
        .collect()
}

/// In a child: makes pages accessible again that were lendable in its parent. They are lendable in this process.
///
/// # Safety
/// No other process uses what these pages hold, or all that use it agree on how.
pub(crate) unsafe fn lend(pages: Range<usize>) -> Result<()> {
    let mut entries = TABLE.iter();
    let parents = entries.find(|entry| entry.is_lendable() && entry.range().contains(&pages.start));
    let page_size = parents.map_or(1, |entry| entry.page_size.load(Ordering::Relaxed));
    let part = NotForChildren::new()?;
    // SAFETY: mapped shared memory of this crate; the caller promises the rest.
    unsafe { memory::protect_read_write(pages.clone()) }
        .map_err(|e| Error::os("mprotect", None, e))?;
    part.set_lendable(pages.clone(), pages.len(), page_size);
    // Never removed: the pages stay lendable as long as this process lives.
    std::mem::forget(part);
    Ok(())
}

impl Drop for NotForChildren {
    fn drop(&mut self) {
        let len = self.entry.len.load(Ordering::Relaxed);
        let is_registered = len > 0 || self.entry.fd.load(Ordering::Relaxed) >= 0;
        let _no_fork = is_registered.then(|| self.clear_range());
        self.clear_descriptor();
    }
}

/// Runs in the child, before fork(3) returns. It allocates nothing, locks nothing and cannot panic.
extern "C" fn in_child() {
    // Other forks that were under way in the parent are none of this process.
    let wanted = WANTED.load(Ordering::Relaxed);
    BEGUN.store(wanted, Ordering::Relaxed);
    ENDED.store(wanted, Ordering::Relaxed);
    WAITING.store(0, Ordering::Relaxed);
    MAKERS.store(0, Ordering::Relaxed);
    budget::reset_in_child();
    for entry in TABLE.iter() {
        if entry.is_lendable() {
            deny_access(entry.range());
        } else {
            // SAFETY: registered, so mapped by this crate; no access is what the owner wants a child to have.
            unsafe { unmap_in_child(entry.range()) };
        }
        let fd = entry.fd.load(Ordering::Acquire);
        if fd >= 0 {
            // SAFETY: the value that registered it keeps the number open until it clears it here.
            close_in_child(unsafe { BorrowedFd::borrow_raw(fd) });
        }
    }
    if let Some((_, in_child)) = LEASES.get() {
        in_child();
    }
}

/// In a forked child: unmaps a range and denies access to it.
///
/// # Safety
/// The range is empty, or mapped by this crate, and this process is not to use what it holds.
pub(crate) unsafe fn unmap_in_child(range: Range<usize>) {
    // SAFETY: as the caller promises.
    if !range.is_empty() && unsafe { memory::map_fixed_none(range.clone()) }.is_err() {
        // Over RLIMIT_AS every mmap(2) is refused. The pages stay mapped, and the child keeps their file open.
        deny_access(range);
    }
}

/// In a forked child: denies access to a range, or ends the child where the kernel refuses that.
fn deny_access(range: Range<usize>) {
    if !range.is_empty() && memory::protect_none(range).is_err() {
        process::abort(&[b"stillmap: aborting: memory could not be kept from a forked child\n"]);
    }
}
