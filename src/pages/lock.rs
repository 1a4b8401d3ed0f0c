//! Pages that stay in RAM while a guard lives.

use super::lock_table;
use super::populate::POPULATE_CHUNK;
use super::range::chunks;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;

/// Keeps pages in RAM (mlock(2)) until it is dropped; made by [`Pages::lock`](crate::Pages::lock).
///
/// Locks nest: a page is unlocked with the last `LockGuard` that holds it, and a page that the program had locked before
/// by itself, say with mlockall(2), stays locked. The other way round it is not so: an munlock(2) from elsewhere
/// unlocks these pages too, as the kernel keeps one flag for a page.
///
/// A forked child does not inherit locks.
///
/// # Examples
/// ```
/// let key = stillmap::open("Cargo.toml")?;
/// let locked = key.pages().lock(0..32)?; // never written to swap, never waited for
/// assert!(locked.len() >= 32);
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "the pages are unlocked when it is dropped"]
pub struct LockGuard<'a> {
    pages: Range<usize>,
    mapping: PhantomData<&'a ()>,
}

impl LockGuard<'_> {
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

    /// A guard that holds nothing yet, to be extended from `start` on.
    pub(super) fn empty(start: usize) -> Self {
        LockGuard {
            pages: start..start,
            mapping: PhantomData,
        }
    }

    /// Locks up to the address `end` as well.
    pub(super) fn extend(&mut self, end: usize) -> io::Result<()> {
        lock_table::lock(self.pages.end..end)?;
        self.pages.end = end;
        Ok(())
    }
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        chunks(self.pages.clone(), POPULATE_CHUNK).for_each(lock_table::unlock);
    }
}
