//! Entries that are never freed, so that a signal handler, a fork handler or a thread that takes no lock can read all of
//! them at any time. Entries are reused, so their fields are atomic.

use crate::once::OnceBox;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::ops::Deref;

/// Entries of the first block. Each further block has twice as many as the one before.
const FIRST_BLOCK: usize = 32;

/// Blocks of entries, chained.
pub(crate) struct Table<T: 'static> {
    first: OnceBox<EntryBlock<T>>,
}

struct EntryBlock<T: 'static> {
    entries: Vec<TableEntry<T>>,
    /// How many of them are claimed.
    claimed: AtomicUsize,
    /// Where to look for a free one first.
    next_free: AtomicUsize,
    next: OnceBox<EntryBlock<T>>,
}

#[derive(Default)]
struct TableEntry<T> {
    is_claimed: AtomicBool,
    value: T,
}

/// An entry of a table. Dropping it gives the entry to the next caller of [`Table::claim`].
pub(crate) struct Claimed<T: 'static> {
    block: &'static EntryBlock<T>,
    index: usize,
}

impl<T: Default> Table<T> {
    pub(crate) const fn new() -> Self {
        let first = OnceBox::new();
        Table { first }
    }

    /// All entries, including those that are not claimed. Takes no lock and allocates nothing.
    pub(crate) fn iter(&'static self) -> impl Iterator<Item = &'static T> {
        let blocks = std::iter::successors(self.first.get(), |block| block.next.get());
        blocks.flat_map(|block| block.entries.iter().map(|entry| &entry.value))
    }

    /// An entry that no other caller has, as its last owner left it. Allocates where all are claimed.
    pub(crate) fn claim(&'static self) -> Claimed<T> {
        let mut block = self.first.get_or_init(|| EntryBlock::new(FIRST_BLOCK));
        loop {
            if let Some(index) = block.claim() {
                return Claimed { block, index };
            }
            let double = || EntryBlock::new(2 * block.entries.len());
            block = block.next.get_or_init(double);
        }
    }
}

impl<T: Default> EntryBlock<T> {
    fn new(len: usize) -> Self {
        EntryBlock {
            entries: std::iter::repeat_with(TableEntry::default)
                .take(len)
                .collect(),
            claimed: AtomicUsize::new(0),
            next_free: AtomicUsize::new(0),
            next: OnceBox::new(),
        }
    }

    fn claim(&self) -> Option<usize> {
        let len = self.entries.len();
        if self.claimed.load(Ordering::Relaxed) >= len {
            return None;
        }
        let start = self.next_free.load(Ordering::Relaxed);
        let index = (start..start + len)
            .map(|index| index % len)
            .find(|&index| !self.entries[index].is_claimed.swap(true, Ordering::Acquire))?;
        self.claimed.fetch_add(1, Ordering::Relaxed);
        self.next_free.store(index + 1, Ordering::Relaxed);
        Some(index)
    }
}

impl<T> Claimed<T> {
    /// A reference for other threads, valid for ever: after this is dropped, another owner may use the entry.
    pub(crate) fn get(&self) -> &'static T {
        &self.block.entries[self.index].value
    }
}

impl<T> Drop for Claimed<T> {
    fn drop(&mut self) {
        // Release: the next owner finds what this one has stored.
        let entry = &self.block.entries[self.index];
        entry.is_claimed.store(false, Ordering::Release);
        self.block.claimed.fetch_sub(1, Ordering::Relaxed);
        self.block.next_free.store(self.index, Ordering::Relaxed);
    }
}

impl<T> Deref for Claimed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.get()
    }
}
