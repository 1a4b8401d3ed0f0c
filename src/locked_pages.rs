//! The locked pages of one mapping (mlock(2)), with a count for each.
//!
//! The kernel keeps one flag for a page, so locks are counted here: a page is unlocked with the last range that holds it.
//! A page that was locked before by other means (mlockall(2)) stays locked.
//!
//! The counts are atomics, since the thread that handles a lease break reads them without a lock: it replaces the pages
//! and locks the new ones.
//!
//! mlock(2) may wait for a page that the copying thread supplies (`lease/detach.rs`). That thread takes no lock, so it never
//! waits for one that is held here.
//!
//! ```text
//!   a thread that locks                a thread that replaces the pages
//!   1. count the pages                 1. replace the pages, mremap(2)
//!   2. mlock(2)                        2. read the counts
//!                                      3. mlock(2)
//! ```
//! If the mlock(2) of the first thread comes before the mremap(2) of the second, the second reads the new counts; if it comes
//! after, it locks the new pages. A thread that unlocks waits for a replacing thread that may have read the old counts, and
//! unlocks again. A replacing thread waits for no other.
#![allow(unsafe_code)]

use crate::page;
use crate::process::Process;
use crate::sync::{Lock, Rank};
use crate::sys::memory;
use crate::sys::mlock::{is_any_locked, mlock, munlock};
use std::alloc::{Layout, alloc_zeroed};
use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

/// The locked pages of one mapping.
#[derive(Debug)]
pub(crate) struct LockedPages {
    /// Of the mapping: whole pages.
    addresses: Range<usize>,
    /// Made with the first lock, and again by a forked child, which inherits no locks.
    table: AtomicPtr<Table>,
}

/// One for each process.
#[derive(Debug)]
struct Table {
    process: Process,
    /// Held while pages are counted and locked.
    changes: Lock<()>,
    /// Number of begins and ends of replacements: odd during one.
    replacements: AtomicUsize,
    /// Of each page: how many ranges hold it, and [`LOCKED_BEFORE`].
    counts: Box<[AtomicU32]>,
}

/// The page was locked before it was counted here.
const LOCKED_BEFORE: u32 = 1 << 31;

/// Most ranges that can hold one page.
const COUNT_MAX: u32 = LOCKED_BEFORE - 1;

impl LockedPages {
    /// None is locked yet. The addresses are those of a whole mapping.
    pub(crate) fn new(addresses: Range<usize>) -> Self {
        LockedPages {
            addresses,
            table: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Locks whole pages once more. On failure nothing is locked that was not.
    pub(crate) fn lock(&self, pages: &Range<usize>) -> io::Result<()> {
        let table = self.table_of_this_process()?;
        let numbers = self.numbers(pages);
        let _changes = table.changes.lock();
        if !table.have_room(numbers.clone()) {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        for run in table.runs(numbers.clone(), |count| count == 0) {
            if !is_any_locked(&self.pages(&run)) {
                continue;
            }
            for area in areas(self.pages(&run)).filter(is_any_locked) {
                let before = |count: &AtomicU32| count.store(LOCKED_BEFORE, Ordering::SeqCst);
                table.counts[self.numbers(&area)].iter().for_each(before);
            }
        }
        table.add(numbers.clone(), 1);
        let locked = mlock(pages.clone());
        if locked.is_err() {
            self.remove(table, numbers);
        }
        locked
    }

    /// Ends one lock of these pages.
    pub(crate) fn unlock(&self, pages: &Range<usize>) {
        let Some(table) = self.table() else {
            return;
        };
        let _changes = table.changes.lock();
        self.remove(table, self.numbers(pages));
    }

    /// Locks the pages that are counted, after they were replaced by others. It waits for no other thread and allocates
    /// nothing. If the kernel refuses, the pages stay unlocked.
    pub(crate) fn relock(&self) {
        let Some(table) = self.table() else {
            return;
        };
        table.replacements.fetch_add(1, Ordering::SeqCst);
        for run in table.runs(0..table.counts.len(), |count| count & COUNT_MAX > 0) {
            let _ = mlock(self.pages(&run));
        }
        table.replacements.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts these pages once less, and unlocks those that no range holds any more.
    fn remove(&self, table: &Table, numbers: Range<usize>) {
        let before = table.replacements.load(Ordering::SeqCst);
        table.add(numbers.clone(), u32::MAX);
        let unlock = || {
            for run in table.runs(numbers.clone(), |count| count == 0) {
                munlock(self.pages(&run));
            }
        };
        unlock();
        let mut now = table.replacements.load(Ordering::SeqCst);
        if now % 2 == 1 || now != before {
            // That thread may have read the counts before they changed, and locked the pages afterwards.
            while now % 2 == 1 {
                std::thread::yield_now();
                now = table.replacements.load(Ordering::SeqCst);
            }
            unlock();
        }
        let forget = |count: &AtomicU32| {
            let locked_before = (LOCKED_BEFORE, 0);
            let order = (Ordering::SeqCst, Ordering::SeqCst);
            let _ = count.compare_exchange(locked_before.0, locked_before.1, order.0, order.1);
        };
        table.counts[numbers].iter().for_each(forget);
    }

    fn numbers(&self, pages: &Range<usize>) -> Range<usize> {
        let number = |address: usize| (address - self.addresses.start) / page::size();
        number(pages.start)..number(pages.end)
    }

    fn pages(&self, numbers: &Range<usize>) -> Range<usize> {
        let address = |number: usize| self.addresses.start + number * page::size();
        address(numbers.start)..address(numbers.end)
    }

    /// The table of this process, if there is one.
    fn table(&self) -> Option<&Table> {
        // SAFETY:
        // - The pointer is null or a table that `table_of_this_process` made.
        // - A table is freed with `self` only; Acquire: it is seen whole.
        let table = unsafe { self.table.load(Ordering::Acquire).as_ref() };
        table.filter(|table| table.process.is_current())
    }

    fn table_of_this_process(&self) -> io::Result<&Table> {
        loop {
            let old = self.table.load(Ordering::Acquire);
            if let Some(table) = self.table() {
                return Ok(table);
            }
            let new = Table::new(self.addresses.len() / page::size())?;
            let new = Box::into_raw(Box::new(new));
            let order = (Ordering::AcqRel, Ordering::Acquire);
            // What a forked child inherited is not freed: guards of its parent may refer to it.
            let stored = self.table.compare_exchange(old, new, order.0, order.1);
            if stored.is_err() {
                // SAFETY: made above, and no other thread has it.
                drop(unsafe { Box::from_raw(new) });
            }
        }
    }
}

impl Drop for LockedPages {
    fn drop(&mut self) {
        let table = *self.table.get_mut();
        if !table.is_null() {
            // SAFETY: made by `Box::into_raw`, and `&mut self` proves that no reference to it is left.
            drop(unsafe { Box::from_raw(table) });
        }
    }
}

impl Table {
    /// Fails where there is no memory: a mapping of a sparse file may have more pages than counts fit into it.
    fn new(pages: usize) -> io::Result<Self> {
        Ok(Table {
            process: Process::current(),
            changes: Lock::new(Rank::LockedPages, ()),
            replacements: AtomicUsize::new(0),
            counts: zeros(pages)?,
        })
    }

    fn have_room(&self, numbers: Range<usize>) -> bool {
        let has_room = |count: &AtomicU32| count.load(Ordering::SeqCst) & COUNT_MAX < COUNT_MAX;
        self.counts[numbers].iter().all(has_room)
    }

    /// Adds to each count; `u32::MAX` is one less.
    fn add(&self, numbers: Range<usize>, change: u32) {
        for count in &self.counts[numbers] {
            count.fetch_add(change, Ordering::SeqCst);
        }
    }

    /// Runs of adjacent pages of this range whose counts satisfy `wanted`, each as long as possible.
    fn runs(
        &self,
        numbers: Range<usize>,
        wanted: impl Fn(u32) -> bool,
    ) -> impl Iterator<Item = Range<usize>> {
        let mut next = numbers.start;
        let is_wanted = move |number: &usize| wanted(self.counts[*number].load(Ordering::SeqCst));
        std::iter::from_fn(move || {
            let start = (next..numbers.end).find(&is_wanted)?;
            next = (start..numbers.end)
                .find(|number| !is_wanted(number))
                .unwrap_or(numbers.end);
            Some(start..next)
        })
    }
}

/// Parts of whole pages in which all pages are locked, or none: the kernel keeps one flag for an area.
pub(crate) fn areas(pages: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let areas = memory::vmas(pages.clone());
    // Without /proc, every page.
    let page = |start| start..start + page::size();
    let each = areas
        .is_err()
        .then(|| pages.step_by(page::size()).map(page));
    areas
        .into_iter()
        .flatten()
        .chain(each.into_iter().flatten())
}

/// `len` zeros. Memory that is not touched costs nothing, and a large mapping has many pages that are never locked.
fn zeros(len: usize) -> io::Result<Box<[AtomicU32]>> {
    let out_of_memory = || io::Error::from_raw_os_error(libc::ENOMEM);
    let layout = Layout::array::<AtomicU32>(len).map_err(|_| out_of_memory())?;
    if layout.size() == 0 {
        return Ok(Box::default());
    }
    // SAFETY: the size is not 0.
    let start = unsafe { alloc_zeroed(layout) };
    let start = NonNull::new(start).ok_or_else(out_of_memory)?;
    let zeros = ptr::slice_from_raw_parts_mut(start.as_ptr().cast::<AtomicU32>(), len);
    // SAFETY: memory of the global allocator with the layout of the slice, of which all zeros are a value.
    Ok(unsafe { Box::from_raw(zeros) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_pages_that_are_wanted() {
        for pattern in 0..1024_u32 {
            let table = Table::new(10).unwrap();
            for number in 0..10 {
                table.counts[number].store(pattern >> number & 1, Ordering::Relaxed);
            }
            let mut found = 0;
            let mut last = 0;
            for run in table.runs(2..9, |count| count == 1) {
                assert!(!run.is_empty() && (found == 0 || run.start > last));
                last = run.end;
                run.for_each(|number| found |= 1 << number);
            }
            assert_eq!(found, pattern & 0b1_1111_1100);
        }
    }
}
