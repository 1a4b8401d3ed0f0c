//! Mappings of files that may lose pages: a SIGBUS handler replaces them, so that a fault does not kill the process.
//!
//! The handler replaces a mapping only while it is registered. A mapping is unregistered, and no handler uses its entry
//! any more, before it is unmapped: see [`FaultEntry`].
#![allow(unsafe_code)]

mod fault_entry;
mod spare;

use crate::error::{Error, Result};
use crate::region::Region;
use crate::sys::signal::{self, FaultCause};
use crate::sys::thread;
use crate::table::{Claimed, Table};
use fault_entry::FaultEntry;
use std::mem::ManuallyDrop;

static TABLE: Table<FaultEntry> = Table::new();

/// A mapping of atomics. A fault in it turns it into zeroed private memory, and `is_faulted` is true from then on.
pub(crate) struct FaultTolerantMapping {
    region: ManuallyDrop<Region>,
    entry: ManuallyDrop<Claimed<FaultEntry>>,
}

impl FaultTolerantMapping {
    /// Guards a mapping with this protection, mmap(2), and installs the handler if it is not the current one.
    ///
    /// # Safety
    /// Every reference into the mapping, now and later, counts on any byte to change at any time: it is made of
    /// atomics.
    pub(crate) unsafe fn new(region: Region, protection: i32) -> Result<Self> {
        if cfg!(not(stillmap_no_sigbus)) {
            signal::install_sigbus_handler(handle).map_err(|e| Error::os("sigaction", None, e))?;
            spare::reserve().map_err(|e| Error::os("mmap", None, e))?;
        }
        let entry = TABLE.claim();
        // SAFETY: the region stays mapped until the entry is retired, and consists of atomics, as the caller promises.
        unsafe { entry.register(region.start(), region.len(), protection) };
        Ok(FaultTolerantMapping {
            region: ManuallyDrop::new(region),
            entry: ManuallyDrop::new(entry),
        })
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// True once pages were lost. Set before the replacement can be read, so a check after a copy is enough.
    #[inline]
    pub(crate) fn is_faulted(&self) -> bool {
        self.entry.is_faulted()
    }

    /// Replaces the mapping, as a fault on a lost page does.
    pub(crate) fn fault(&self) {
        // Signals are blocked: a handler on this thread that touched the mapping now would wait for itself.
        let replace = || self.entry.replace(FaultCause::MissingPage);
        thread::without_signals(|| replace() || spare::without(replace));
    }
}

impl Drop for FaultTolerantMapping {
    fn drop(&mut self) {
        if self.entry.retire() {
            // SAFETY: once only, and `region` is not used again.
            unsafe { ManuallyDrop::drop(&mut self.region) };
            // SAFETY: once only, and `entry` is not used again.
            unsafe { ManuallyDrop::drop(&mut self.entry) };
        }
    }
}

/// Called in the signal handler: it does not allocate, lock or panic.
fn handle(address: usize, cause: FaultCause) -> bool {
    let handle = || TABLE.iter().any(|entry| entry.handle(address, cause));
    let is_ours = || TABLE.iter().any(|entry| entry.contains(address));
    // Once more, because another thread may have unmapped the spare mappings.
    handle() || (is_ours() && (spare::without(handle) || handle()))
}
