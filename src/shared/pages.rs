//! Access to the pages of shared memory.

use super::{Shareable, Shared, SharedMapping};
use crate::page;
use crate::pages::Pages;

impl<T: ?Sized + Shareable> Shared<T> {
    /// Advice, populate, lock and residency of its pages. Ranges count bytes, not elements.
    ///
    /// # Examples
    /// ```
    /// use std::sync::atomic::AtomicU64;
    /// let table = stillmap::Shared::<[AtomicU64]>::with_len(1 << 16)?;
    /// table.pages().populate(..)?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn pages(&self) -> Pages<'_> {
        let pages = match &self.memory {
            SharedMapping::Unshrinkable(_) => Pages::memory(&**self, page::size()),
            // Open for writing, so mincore(2) is reliable for it.
            SharedMapping::FaultTolerant(_) => Pages::own(&**self),
        };
        let pages = pages.with_locks(self.memory.region().locked_pages());
        pages.with_path(self.path.as_deref())
    }
}
