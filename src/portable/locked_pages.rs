//! How many guards hold each page: Windows keeps one flag for a page.

use crate::page;
use crate::sync::{Lock, Rank};
use crate::sys;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

static LOCKED: Lock<BTreeMap<usize, u32>> = Lock::new(Rank::LockedPages, BTreeMap::new());

/// Locks whole pages once more. On failure nothing is locked that was not.
pub(super) fn lock(pages: &Range<usize>) -> io::Result<()> {
    let mut locked = LOCKED.lock();
    if let Err(e) = sys::lock(pages) {
        // It may have locked a part.
        unlock_unheld(&locked, pages);
        return Err(e);
    }
    for page in pages.clone().step_by(page::size()) {
        *locked.entry(page).or_default() += 1;
    }
    Ok(())
}

/// Ends one lock of these pages.
pub(super) fn unlock(pages: &Range<usize>) {
    let mut locked = LOCKED.lock();
    for page in pages.clone().step_by(page::size()) {
        if let Some(guards) = locked.get_mut(&page) {
            *guards -= 1;
        }
    }
    locked.retain(|_, guards| *guards > 0);
    unlock_unheld(&locked, pages);
}

fn unlock_unheld(locked: &BTreeMap<usize, u32>, pages: &Range<usize>) {
    for page in pages.clone().step_by(page::size()) {
        if !locked.contains_key(&page) {
            sys::unlock(&(page..page + page::size()));
        }
    }
}
