//! Pages that stay in RAM while a guard lives.

use super::span::chunks;
use crate::locked_pages::{LockedPages, areas};
use crate::process::Process;
use crate::sys::mlock::is_any_locked;
use std::io;
use std::ops::Range;

/// Keeps pages in RAM (mlock(2)) until it is dropped; made by [`Pages::lock`](crate::Pages::lock).
///
/// Locks nest: a page is unlocked with the last `LockGuard` that holds it. A page that the program had locked before by
/// other means, for example mlockall(2), stays locked. Not the other way round: an munlock(2) of the program unlocks
/// these pages too, as the kernel keeps one flag for a page.
///
/// When a copy takes the place of a leased file ([`docs::leases`](crate::docs::leases)), the copy is locked at once. If
/// `RLIMIT_MEMLOCK` does not allow that, [`is_held`](LockGuard::is_held) is false from then on.
///
/// A forked child does not inherit locks.
///
/// # Examples
/// ```
/// let key = stillmap::Anonymous::new(32)?;
/// let locked = key.pages().lock(..)?; // never written to swap, never waited for
/// assert!(locked.len() >= 32);
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "the pages are unlocked when it is dropped"]
pub struct LockGuard<'a> {
    /// `None`: no page.
    locked: Option<&'a LockedPages>,
    pages: Range<usize>,
    process: Process,
}

impl<'a> LockGuard<'a> {
    /// How much it keeps in RAM, in bytes: whole pages.
    ///
    /// # Examples
    /// ```
    /// let memory = stillmap::Anonymous::new(1)?;
    /// assert_eq!(memory.pages().lock(..)?.len(), stillmap::page::size());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether it holds no page, as for an empty range.
    ///
    /// # Examples
    /// ```
    /// let memory = stillmap::Anonymous::new(1)?;
    /// assert!(memory.pages().lock(0..0)?.is_empty());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Asks the kernel whether all of the pages are locked now. False in a forked child, after an munlock(2) of the
    /// program, and where a copy that took the place of a file could not be locked.
    ///
    /// It reads `/proc/self/maps`, or asks for every page where that is missing.
    ///
    /// # Examples
    /// ```
    /// let memory = stillmap::Anonymous::new(1)?;
    /// assert!(memory.pages().lock(..)?.is_held());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn is_held(&self) -> bool {
        areas(self.pages.clone()).all(|area| is_any_locked(&area))
    }

    /// A guard that holds no page yet, to be extended from `start` on.
    pub(super) fn empty(locked: Option<&'a LockedPages>, start: usize) -> Self {
        LockGuard {
            locked,
            pages: start..start,
            process: Process::current(),
        }
    }

    /// Locks up to the address `end` as well.
    pub(super) fn extend(&mut self, end: usize) -> io::Result<()> {
        if let Some(locked) = self.locked {
            locked.lock(&(self.pages.end..end))?;
            self.pages.end = end;
        }
        Ok(())
    }
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        // A forked child inherits no locks.
        if let Some(locked) = self.locked.filter(|_| self.process.is_current()) {
            let chunks = chunks(self.pages.clone(), super::populate::POPULATE_CHUNK);
            chunks.for_each(|chunk| locked.unlock(&chunk));
        }
    }
}
