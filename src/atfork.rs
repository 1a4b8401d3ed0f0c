//! What forked children must not use: address ranges and descriptors of their parent.
//!
//! A value registers what it has here, and a handler that fork(3) calls in the child (pthread_atfork(3)) takes it away
//! before any other code of the child runs: a range gets no access (touching it is SIGSEGV, and no other mapping can
//! come to be there), and the number of a descriptor leads to an empty eventfd, so that the child can still close it.
//! What the parent has locked by a descriptor (a lease) then ends with the parent.
//!
//! Children made by `syscall(SYS_fork)`, `syscall(SYS_clone)` or `_Fork` run no handlers. All of these are `unsafe` to
//! call from Rust; a child made in this way must not use values of this crate, except to execute another program.
//! vfork(2) and posix_spawn(3) run none either, and their children do nothing but that.
//!
//! ```text
//!            set_range               fork, in the child
//!   no range ---------> registered --------------------> no access
//!      ^                    |
//!      +---- clear_range ---+        cleared before the range is unmapped or moved, set after it
//! ```

use crate::error::{Error, Result};
use crate::sync::{Lock, Rank};
use crate::sys::{atfork, memory, process};
use crate::table::{Claimed, Table};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

static TABLE: Table<Entry> = Table::new();

/// What the number of a registered descriptor leads to in a child. Set once the handler is installed.
static PLACEHOLDER: OnceLock<OwnedFd> = OnceLock::new();

/// How many forks lie between the process that loaded this crate and the present one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// What one value keeps from children.
struct Entry {
    start: AtomicUsize,
    /// In bytes; 0 means that there is no range.
    len: AtomicUsize,
    /// -1 means that there is none.
    fd: AtomicI32,
}

impl Default for Entry {
    fn default() -> Self {
        Entry {
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            fd: AtomicI32::new(-1),
        }
    }
}

/// A process, as far as fork(3) tells processes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u64);

impl Process {
    /// This one. It compares unequal to that of a child or a parent once [`install`] has succeeded in the parent.
    pub(crate) fn current() -> Self {
        Process(GENERATION.load(Ordering::Relaxed))
    }

    pub(crate) fn is_current(self) -> bool {
        self == Process::current()
    }
}

/// Installs the handler, unless it is installed: what [`Process`] and [`NotForChildren`] need.
pub(crate) fn install() -> Result<()> {
    static INSTALLING: Lock<()> = Lock::new(Rank::AtFork, ());
    if PLACEHOLDER.get().is_some() {
        return Ok(());
    }
    let _one_thread = INSTALLING.lock();
    if PLACEHOLDER.get().is_some() {
        return Ok(());
    }
    let placeholder = atfork::placeholder().map_err(|e| Error::os("eventfd", None, e))?;
    atfork::run_in_child(in_child).map_err(|e| Error::os("pthread_atfork", None, e))?;
    let _ = PLACEHOLDER.set(placeholder);
    Ok(())
}

/// Address range and descriptor that children of this process must not use, until this is dropped. None at first.
#[derive(Debug)]
pub(crate) struct NotForChildren {
    entry: Claimed<Entry>,
    process: Process,
}

impl NotForChildren {
    pub(crate) fn new() -> Result<Self> {
        install()?;
        Ok(NotForChildren {
            entry: TABLE.claim(),
            process: Process::current(),
        })
    }

    /// Registers whole pages that the caller has mapped, in place of any range before.
    pub(crate) fn set_range(&self, addresses: Range<usize>) {
        self.clear_range();
        self.entry.start.store(addresses.start, Ordering::Relaxed);
        // Release: a child that finds the length finds the start.
        self.entry.len.store(addresses.len(), Ordering::Release);
    }

    /// To be called before the range is unmapped or moved.
    pub(crate) fn clear_range(&self) {
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
        self.process.is_current()
    }
}

impl Drop for NotForChildren {
    fn drop(&mut self) {
        self.clear_range();
        self.clear_descriptor();
    }
}

/// Runs in the child, before fork(3) returns. It allocates nothing, locks nothing and cannot panic.
extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    let Some(placeholder) = PLACEHOLDER.get() else {
        return;
    };
    for entry in TABLE.iter() {
        let len = entry.len.load(Ordering::Acquire);
        let start = entry.start.load(Ordering::Relaxed);
        if len > 0 && memory::protect_none(start..start + len).is_err() {
            process::abort("stillmap: aborting: memory could not be kept from a forked child\n");
        }
        let fd = entry.fd.load(Ordering::Acquire);
        if fd >= 0 {
            // Fails only if the program has closed one of the two, which no safe code can do.
            let _ = atfork::replace(fd, placeholder.as_fd());
        }
    }
}
