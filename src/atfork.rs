//! Memory that a forked child has and must not touch: what it stores there, its parent would see.

use crate::sys::memory;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where each such range starts and ends.
static WITHHELD: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

/// Each use is one step, so a panic leaves nothing half done; and no thread of the keeper's is among the users, so it
/// is free in a forked child.
fn withheld() -> MutexGuard<'static, BTreeMap<usize, usize>> {
    WITHHELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pages that children of [`fork::scope`](crate::fork::scope) cannot touch, until this is dropped. None at first.
#[derive(Debug, Default)]
pub(crate) struct Withheld(Range<usize>);

impl Withheld {
    /// These addresses instead: whole pages, mapped by whoever calls.
    pub(crate) fn cover(&mut self, addresses: Range<usize>) {
        let mut all = withheld();
        if !self.0.is_empty() {
            all.remove(&self.0.start);
        }
        if !addresses.is_empty() {
            all.insert(addresses.start, addresses.end);
        }
        self.0 = addresses;
    }
}

impl Drop for Withheld {
    fn drop(&mut self) {
        self.cover(0..0);
    }
}

/// To be called first in a forked child. The pages stay mapped, so that nothing else comes to be where references
/// point to; touching one ends the child.
pub(crate) fn in_child() -> io::Result<()> {
    let all = withheld();
    all.iter()
        .try_for_each(|(&start, &end)| memory::protect_none(start..end))
}
