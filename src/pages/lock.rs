//! Pages that stay in RAM while a guard lives.

use super::lock_table;
use super::range::{STEP, pieces};
use std::io;
use std::marker::PhantomData;
use std::ops::Range;

/// Keeps pages in RAM (mlock(2)) until it is dropped; made by [`Mapping::lock`](crate::Mapping::lock).
///
/// Locks nest: a page is unlocked with the last `LockGuard` that holds it, and a page that the program had locked before
/// by itself, say with mlockall(2), stays locked. The other way round it is not so: an munlock(2) from elsewhere
/// unlocks these pages too, as the kernel keeps one flag for a page.
///
/// A forked child does not inherit locks.
///
/// # Examples
/// ```
/// use stillmap::Mapping;
/// let key = stillmap::open("Cargo.toml")?;
/// let locked = key.lock(0..32)?; // never written to swap, never waited for
/// assert!(locked.bytes() >= 32);
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
    /// use stillmap::Mapping;
    /// let memory = stillmap::Anonymous::new(1)?;
    /// assert_eq!(memory.lock(..)?.bytes(), stillmap::page::size());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn bytes(&self) -> usize {
        self.pages.len()
    }

    /// A guard that holds nothing yet, to be extended from `start` on.
    pub(super) fn nothing(start: usize) -> Self {
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
        pieces(self.pages.clone(), STEP).for_each(lock_table::unlock);
    }
}
