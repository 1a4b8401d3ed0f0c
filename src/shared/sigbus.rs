//! Mappings of files that may lose pages: a fault there is answered instead of killing the process.
//!
//! The law of the room: the handler replaces a mapping only while it is registered, and a mapping is unregistered,
//! and every handler gone from its entry, before it is unmapped.
//!
//! ```text
//!              register              fault              replaced
//!   FREE --> CLAIMED --------> LIVE --------> REPLACING --------> FAULTED
//!    ^          ^                |                |                  |
//!    +----------+---- unregister, once no handler is inside ---------+
//! ```
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use crate::region::Region;
use crate::sys::racy_copy::replace_by_zeros;
use crate::sys::signal::{self, Lost};
use crate::sys::thread;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering};

/// A mapping of atomics that a fault does not kill: it becomes zeroed private memory, and says so for ever.
#[derive(Debug)]
pub(crate) struct Guarded {
    region: ManuallyDrop<Region>,
    entry: &'static Entry,
}

impl Guarded {
    /// Guards a mapping, and installs the handler if it is not in front.
    ///
    /// # Safety
    /// Every reference into the mapping, now and later, counts on any byte to change at any time: it is made of
    /// atomics.
    pub(crate) unsafe fn new(region: Region) -> Result<Self> {
        if cfg!(not(stillmap_no_sigbus)) {
            signal::guard_sigbus(answer).map_err(|e| Error::os("sigaction", None, e))?;
        }
        let entry = claim();
        let (start, len) = (region.start(), region.len());
        entry.start.store(start.as_ptr(), Ordering::Relaxed);
        entry.len.store(len, Ordering::Relaxed);
        entry.process.store(std::process::id(), Ordering::Relaxed);
        // Release: who sees LIVE sees the range.
        entry.state.store(LIVE, Ordering::Release);
        Ok(Guarded {
            region: ManuallyDrop::new(region),
            entry,
        })
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// True once pages were lost. Set before the replacement can be read, so asking after a copy is enough.
    #[inline]
    pub(crate) fn is_faulted(&self) -> bool {
        // Acquire: what is read after this is not older than it.
        matches!(
            self.entry.state.load(Ordering::Acquire),
            REPLACING | FAULTED
        )
    }

    /// As if a page had been touched that is gone.
    pub(crate) fn fault(&self) {
        // A signal handler of this thread that touched the mapping in the middle would wait for us in vain.
        thread::without_signals(|| self.entry.replace(Lost::Page));
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.entry.retire() {
            // SAFETY: once only, and `region` is not used again.
            unsafe { ManuallyDrop::drop(&mut self.region) };
            self.entry.state.store(FREE, Ordering::Release);
        }
    }
}

const FREE: u8 = 0;
const CLAIMED: u8 = 1;
const LIVE: u8 = 2;
const REPLACING: u8 = 3;
const FAULTED: u8 = 4;

/// Where a handler finds a mapping.
#[derive(Debug)]
struct Entry {
    state: AtomicU8,
    /// Handlers that look at the range; while there are any, it stays as it is.
    inside: AtomicUsize,
    start: AtomicPtr<u8>,
    len: AtomicUsize,
    /// Who registered it.
    process: AtomicU32,
}

impl Entry {
    const fn new() -> Self {
        Entry {
            state: AtomicU8::new(FREE),
            inside: AtomicUsize::new(0),
            start: AtomicPtr::new(ptr::null_mut()),
            len: AtomicUsize::new(0),
            process: AtomicU32::new(0),
        }
    }

    fn holds(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::Relaxed).addr();
        let len = self.len.load(Ordering::Relaxed);
        address.wrapping_sub(start) < len
    }

    /// In a handler: true if the address is in this mapping, which has been replaced or soon will be.
    fn answer(&self, address: usize, lost: Lost) -> bool {
        // A glimpse, perhaps of two registrations at once. Whoever faulted in a mapping got it after it was
        // registered, so its own entry never escapes this.
        if !self.holds(address) {
            return false;
        }
        // With `retire` this is store-then-load on both sides, in one total order (SeqCst): either it sees us inside
        // and waits, or we see that the entry is no longer in service. If it is, the range stays as it is.
        self.inside.fetch_add(1, Ordering::SeqCst);
        let state = self.state.load(Ordering::SeqCst);
        let in_service = matches!(state, LIVE | REPLACING | FAULTED);
        let answered = in_service && self.holds(address) && self.replace(lost);
        // Release: the replacement comes before the unmapping that waits for us.
        self.inside.fetch_sub(1, Ordering::Release);
        answered
    }

    /// Replaces the mapping unless somebody did; false if that failed. The caller keeps it from being unmapped.
    fn replace(&self, lost: Lost) -> bool {
        let first =
            self.state
                .compare_exchange(LIVE, REPLACING, Ordering::SeqCst, Ordering::SeqCst);
        match first {
            Ok(_) => {
                let replaced = self.put_zeros();
                // No memory: as it was, so that nobody waits for what will not come.
                let next = if replaced { FAULTED } else { LIVE };
                // Fails if the mapping is being dropped, which waits for us.
                let order = (Ordering::Release, Ordering::Relaxed);
                let _ = self
                    .state
                    .compare_exchange(REPLACING, next, order.0, order.1);
                replaced
            }
            // Another thread is at it: the access faults again until that is done.
            Err(REPLACING) => {
                signal::yield_now();
                true
            }
            // It was done while this fault was on its way; only broken RAM can be under the new memory.
            Err(FAULTED) => lost == Lost::Page || self.put_zeros(),
            Err(_) => false,
        }
    }

    fn put_zeros(&self) -> bool {
        let Some(start) = NonNull::new(self.start.load(Ordering::Relaxed)) else {
            return false;
        };
        // SAFETY:
        // - The range is registered, and not unmapped while we are inside: see `answer` and `retire`.
        // - `Guarded::new` was promised that all references into it are atomics.
        unsafe { replace_by_zeros(start, self.len.load(Ordering::Relaxed)) }.is_ok()
    }

    /// Takes the entry out of service and waits until no handler is inside. False if that may never be: a process
    /// forked while another thread was in the handler has its count and not the thread. Then the mapping has to stay.
    fn retire(&self) -> bool {
        self.state.swap(CLAIMED, Ordering::SeqCst);
        // SeqCst: see `answer`; it also acquires what the handler did.
        while self.inside.load(Ordering::SeqCst) > 0 {
            if self.process.load(Ordering::Relaxed) != std::process::id() {
                return false;
            }
            signal::yield_now();
        }
        true
    }
}

/// Entries in blocks that are chained and never freed, so that a handler can walk them at any time.
struct Block {
    entries: [Entry; 32],
    next: OnceLock<&'static Block>,
}

impl Block {
    const fn new() -> Self {
        Block {
            entries: [const { Entry::new() }; 32],
            next: OnceLock::new(),
        }
    }
}

static FIRST: Block = Block::new();

fn blocks() -> impl Iterator<Item = &'static Block> {
    // Reading a OnceLock is one atomic load.
    std::iter::successors(Some(&FIRST), |block| block.next.get().copied())
}

/// An entry for a new mapping.
fn claim() -> &'static Entry {
    let mut block = &FIRST;
    loop {
        for entry in &block.entries {
            // Acquire: the last owner is done with it.
            let claimed =
                entry
                    .state
                    .compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed);
            if claimed.is_ok() {
                return entry;
            }
        }
        block = block.next.get_or_init(|| Box::leak(Box::new(Block::new())));
    }
}

/// What the handler asks: no allocation, no lock, nothing that can panic.
fn answer(address: usize, lost: Lost) -> bool {
    blocks()
        .flat_map(|block| &block.entries)
        .any(|entry| entry.answer(address, lost))
}
