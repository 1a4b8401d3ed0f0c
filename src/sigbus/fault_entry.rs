//! The state of one mapping that may lose pages, as the SIGBUS handler sees it.
//!
//! ```text
//!          register              fault              replaced
//!   IDLE ------------> LIVE ------------> REPLACING --------> FAULTED
//!    ^                  |                    |                   |
//!    +------ retire, once no handler is inside ------------------+
//! ```
#![allow(unsafe_code)]

use crate::process::Process;
use crate::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, AtomicUsize, Ordering};
use crate::sys::racy_copy::replace_by_zeros;
use crate::sys::signal::{self, FaultCause};
use std::ptr::{self, NonNull};

const IDLE: u8 = 0;
const LIVE: u8 = 1;
const REPLACING: u8 = 2;
const FAULTED: u8 = 3;

/// One mapping, for the handler.
#[derive(Debug)]
pub(crate) struct FaultEntry {
    state: AtomicU8,
    /// Handlers that use the range; it does not change while there are any.
    inside: AtomicUsize,
    start: AtomicPtr<u8>,
    len: AtomicUsize,
    /// Of the zeros that take the place of the mapping: mmap(2).
    protection: AtomicI32,
    /// The process that registered it.
    process: AtomicUsize,
}

impl Default for FaultEntry {
    fn default() -> Self {
        FaultEntry {
            state: AtomicU8::new(IDLE),
            inside: AtomicUsize::new(0),
            start: AtomicPtr::new(ptr::null_mut()),
            len: AtomicUsize::new(0),
            protection: AtomicI32::new(0),
            process: AtomicUsize::new(0),
        }
    }
}

impl FaultEntry {
    /// From here on the handler replaces the mapping when a page of it is lost.
    ///
    /// # Safety
    /// The caller has retired the entry, or never used it. The range stays mapped until [`FaultEntry::retire`] returns
    /// true, and every reference into it counts on any byte to change at any time.
    pub(crate) unsafe fn register(&self, start: NonNull<u8>, len: usize, protection: i32) {
        self.start.store(start.as_ptr(), Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.protection.store(protection, Ordering::Relaxed);
        // In a child, `inside` may count a handler that exists in the parent only: then the entry stays the parent's.
        if self.inside.load(Ordering::Acquire) == 0 {
            let process = Process::current().to_bits();
            self.process.store(process, Ordering::Relaxed);
        }
        // Release: a thread that sees LIVE sees the range.
        self.state.store(LIVE, Ordering::Release);
    }

    /// True once pages were lost. Set before the replacement can be read, so a check after a copy is enough.
    #[inline]
    pub(crate) fn is_faulted(&self) -> bool {
        // Acquire: what is read after this is not older than it.
        let state = self.state.load(Ordering::Acquire);
        matches!(state, REPLACING | FAULTED)
    }

    /// True if the address is in this mapping, or in the one that the entry had before.
    pub(crate) fn contains(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::Relaxed).addr();
        let len = self.len.load(Ordering::Relaxed);
        address.wrapping_sub(start) < len
    }

    /// In a handler: true if the address is in this mapping, which has been replaced or soon will be.
    pub(crate) fn handle(&self, address: usize, cause: FaultCause) -> bool {
        // This may see parts of two registrations. A thread that faults in a mapping got it after it was
        // registered, so it always finds its own entry.
        if !self.contains(address) {
            return false;
        }
        // `retire` changes `state` and then looks at `inside`; here it is the other way round, and all four are
        // read-modify-writes, which see the latest value: either it finds this handler inside and waits, or this
        // handler finds that the entry is no longer in service. If it is, the range stays as it is.
        self.inside.fetch_add(1, Ordering::AcqRel);
        let state = self.state.fetch_or(0, Ordering::AcqRel);
        let in_service = matches!(state, LIVE | REPLACING | FAULTED);
        let is_handled = in_service && self.contains(address) && self.replace(cause);
        // Release: the replacement comes before the unmapping that waits for us.
        self.inside.fetch_sub(1, Ordering::Release);
        is_handled
    }

    /// Replaces the mapping unless that was done; false if it failed. The caller keeps it from being unmapped.
    pub(crate) fn replace(&self, cause: FaultCause) -> bool {
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let first = self
            .state
            .compare_exchange(LIVE, REPLACING, order.0, order.1);
        match first {
            Ok(_) => {
                let replaced = self.put_zeros();
                // No memory: LIVE again, so that no thread waits.
                let next = if replaced { FAULTED } else { LIVE };
                // Fails if the mapping is being dropped, which waits for us.
                let order = (Ordering::Release, Ordering::Relaxed);
                let _ = self
                    .state
                    .compare_exchange(REPLACING, next, order.0, order.1);
                replaced
            }
            // Another thread was replacing it when this process was forked, and does not exist here.
            Err(REPLACING) if self.is_inherited() => {
                let replaced = self.put_zeros();
                if replaced {
                    let order = (Ordering::Release, Ordering::Relaxed);
                    let _ = self
                        .state
                        .compare_exchange(REPLACING, FAULTED, order.0, order.1);
                }
                replaced
            }
            // Another thread is replacing the mapping: the access is tried again until it has finished.
            Err(REPLACING) => {
                signal::yield_now();
                true
            }
            // Another thread replaced it after this thread had faulted. Only broken RAM can fault in the new memory.
            Err(FAULTED) => cause == FaultCause::MissingPage || self.put_zeros(),
            Err(_) => false,
        }
    }

    /// True in a child of the process that registered it.
    fn is_inherited(&self) -> bool {
        !Process::from_bits(self.process.load(Ordering::Relaxed)).is_current()
    }

    fn put_zeros(&self) -> bool {
        let Some(start) = NonNull::new(self.start.load(Ordering::Relaxed)) else {
            return false;
        };
        let len = self.len.load(Ordering::Relaxed);
        let protection = self.protection.load(Ordering::Relaxed);
        // SAFETY:
        // - The range is registered, and not unmapped while we are inside: see `handle` and `retire`.
        // - `register` was promised that all references into it are atomics.
        unsafe { replace_by_zeros(start, len, protection) }.is_ok()
    }

    /// Takes the entry out of service and waits until no handler is inside. False if that may never be: a child
    /// forked while another thread was in the handler has a copy of its count and not the thread. Then the mapping has
    /// to stay.
    pub(crate) fn retire(&self) -> bool {
        self.state.swap(IDLE, Ordering::AcqRel);
        // See `handle`; it also acquires what the handler did.
        while self.inside.fetch_add(0, Ordering::AcqRel) > 0 {
            if self.is_inherited() {
                return false;
            }
            signal::yield_now();
        }
        true
    }
}
