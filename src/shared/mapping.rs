//! Advice, residency and locks on shared memory; ranges count bytes.

use super::{Memory, Shareable, Shared};
use crate::page;
use crate::pages::Mapping;
use crate::pages::sealed::{HasPages, Pages};

impl<T: ?Sized + Shareable> HasPages for Shared<T> {
    fn pages(&self) -> Pages<'_> {
        let pages = match &self.memory {
            Memory::Steady(_) => Pages::memory(&**self, page::size()),
            // Open for writing, so the kernel tells of it.
            Memory::Guarded(_) => Pages::own(&**self),
        };
        pages.named(self.path.as_deref())
    }
}

impl<T: ?Sized + Shareable> Mapping for Shared<T> {}
