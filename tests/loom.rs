//! The state machines that run without a lock, in every order of their atomic accesses that two or three threads can
//! take. The files of `src/` are compiled here with the atomics of loom; the system calls below are models.
#![allow(dead_code, unused_imports)] // a model uses a part of each file

#[path = "../src/sigbus/fault_entry.rs"]
mod fault_entry;
#[path = "../src/once.rs"]
mod once;
#[path = "../src/table.rs"]
mod table;

mod lease {
    #[path = "../../src/lease/deadline.rs"]
    mod deadline;
    #[path = "../../src/lease/table.rs"]
    mod table;
    #[path = "../../src/lease/time.rs"]
    mod time;

    use super::{Mapped, model};
    use crate::sys::lease::Lease;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;
    use table::{DONE, Data, LeaseEntry, SWAPPED};

    fn published() -> Arc<LeaseEntry> {
        let entry = Arc::new(LeaseEntry::default());
        entry.prepare(3, Lease::Read, 1);
        // SAFETY: nothing is mapped but a model.
        unsafe { entry.publish(Data::default()) };
        entry
    }

    /// The copier looks at the entry once. True if it has replaced the mapping.
    fn serve(entry: &LeaseEntry, is_due: bool, replace: impl FnOnce()) -> bool {
        let mut begun = false;
        entry.serve(is_due, |_| {
            begun = true;
            replace();
            entry.set(SWAPPED);
            entry.set(DONE);
        });
        begun
    }

    /// The same, when the lease is broken.
    fn answer(entry: &LeaseEntry, replace: impl FnOnce()) -> bool {
        serve(entry, true, replace)
    }

    #[test]
    fn a_break_never_replaces_what_its_owner_has_unmapped() {
        model(|| {
            let (entry, mapped) = (published(), Mapped::new());
            let copier = {
                let (entry, mapped) = (Arc::clone(&entry), Arc::clone(&mapped));
                thread::spawn(move || answer(&entry, || mapped.replace()))
            };
            let was_held = entry.end();
            mapped.unmap();
            // Either the owner releases the lease, or the copier did.
            assert_ne!(was_held, copier.join().unwrap());
        });
    }

    #[test]
    fn a_change_of_the_mapping_and_a_break_exclude_each_other() {
        model(|| {
            let entry = published();
            let mapping = Arc::new(UnsafeCell::new(0));
            // SAFETY: loom checks that no other thread uses it.
            let change = |mapping: &UnsafeCell<u32>| mapping.with_mut(|n| unsafe { *n += 1 });
            let copier = {
                let (entry, mapping) = (Arc::clone(&entry), Arc::clone(&mapping));
                thread::spawn(move || answer(&entry, || change(&mapping)))
            };
            let changed = entry.while_leased(|_| change(&mapping));
            let answered = copier.join().unwrap();
            // A copier that found the mapping busy looks again.
            assert!(answered || answer(&entry, || change(&mapping)));
            let changes = 1 + u32::from(changed.is_some());
            // SAFETY: the other thread has ended.
            mapping.with(|n| assert_eq!(unsafe { *n }, changes));
            assert!(!entry.end());
        });
    }

    /// The release was asked for, as `release_leases` does, and is waited for; the owner drops the lease meanwhile.
    #[test]
    fn a_release_ends_for_the_thread_that_asked_and_never_replaces_what_is_unmapped() {
        model(|| {
            let (entry, mapped) = (published(), Mapped::new());
            entry.ask_release();
            let copier = {
                let (entry, mapped) = (Arc::clone(&entry), Arc::clone(&mapped));
                thread::spawn(move || serve(&entry, false, || mapped.replace()))
            };
            let was_held = entry.end();
            mapped.unmap();
            entry.await_release();
            assert_ne!(was_held, copier.join().unwrap());
        });
    }
}

mod backing {
    #[derive(Clone, Copy, Debug)]
    pub(crate) enum Backing {
        Memory,
        Cloned,
        Disk,
        Leased,
    }
}

mod file_system {
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct FileSystem;
}

mod locked_pages {
    #[derive(Debug)]
    pub(crate) struct LockedPages;

    impl LockedPages {
        pub(crate) fn relock(&self) {}
    }
}

mod region {
    pub(crate) struct Region;

    impl Region {
        pub(crate) fn addresses(&self) -> std::ops::Range<usize> {
            0..0
        }

        pub(crate) fn len(&self) -> usize {
            0
        }

        pub(crate) fn locked_pages(&self) -> Option<&crate::locked_pages::LockedPages> {
            None
        }
    }
}

mod sync {
    pub(crate) use loom::sync::atomic;
}

mod process {
    /// No process forks.
    #[derive(Clone, Copy)]
    pub(crate) struct Process;

    impl Process {
        pub(crate) fn current() -> Self {
            Process
        }

        pub(crate) fn is_current(self) -> bool {
            true
        }

        pub(crate) fn to_bits(self) -> usize {
            0
        }

        pub(crate) fn from_bits(_: usize) -> Self {
            Process
        }
    }
}

mod sys {
    pub(crate) mod file {
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct Stat;
    }

    pub(crate) mod futex {
        use loom::sync::atomic::AtomicU32;

        /// May return at any time.
        pub(crate) fn wait(_: &AtomicU32, _: u32) {
            loom::thread::yield_now();
        }

        pub(crate) fn wake_all(_: &AtomicU32) {}
    }

    pub(crate) mod lease {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Lease {
            Read,
            Write,
        }

        pub(crate) fn is_held(_: i32, _: Lease) -> bool {
            true
        }
    }

    pub(crate) mod signal {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum FaultCause {
            MissingPage,
            HardwareError,
        }

        pub(crate) fn yield_now() {
            loom::thread::yield_now();
        }
    }

    pub(crate) mod racy_copy {
        use crate::Mapped;
        use std::ptr::NonNull;

        /// The model of mmap(2) over a mapping: loom fails if it runs beside the unmapping, or after it.
        pub(crate) unsafe fn replace_by_zeros(
            start: NonNull<u8>,
            _: usize,
            _: i32,
        ) -> Result<(), ()> {
            // SAFETY: every model registers a `Mapped`, which lives longer than its threads.
            let mapped = unsafe { start.cast::<Mapped>().as_ref() };
            mapped.replace();
            Ok(())
        }
    }
}

use fault_entry::FaultEntry;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use std::collections::HashSet;
use std::ptr::NonNull;
use sys::signal::FaultCause;
use table::Table;

/// Every order in which a thread is interrupted at most three times.
fn model(f: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.max_branches = 100_000;
    model.check(f);
}

/// A mapping: whether it is there, and how often it was replaced.
struct Mapped {
    is_mapped: UnsafeCell<bool>,
    replaced: AtomicUsize,
}

impl Mapped {
    fn new() -> Arc<Self> {
        Arc::new(Mapped {
            is_mapped: UnsafeCell::new(true),
            replaced: AtomicUsize::new(0),
        })
    }

    fn address(&self) -> NonNull<u8> {
        NonNull::from(self).cast()
    }

    /// loom fails if this runs beside the unmapping, or after it.
    fn replace(&self) {
        self.is_mapped.with(|is_mapped| {
            // SAFETY: loom checks that no thread writes meanwhile.
            assert!(unsafe { *is_mapped }, "replaced after it was unmapped");
        });
        self.replaced.fetch_add(1, Ordering::Relaxed);
    }

    fn unmap(&self) {
        // SAFETY: loom checks that no other thread accesses it meanwhile.
        self.is_mapped
            .with_mut(|is_mapped| unsafe { *is_mapped = false });
    }
}

fn register(entry: &FaultEntry, mapped: &Arc<Mapped>) {
    // SAFETY: nothing is mapped but a model.
    unsafe { entry.register(mapped.address(), size_of::<Mapped>(), 0) };
}

#[test]
fn a_fault_never_replaces_what_is_unmapped() {
    model(|| {
        let mapped = Mapped::new();
        let entry = Arc::new(FaultEntry::default());
        register(&entry, &mapped);
        let handler = {
            let (entry, mapped) = (Arc::clone(&entry), Arc::clone(&mapped));
            thread::spawn(move || {
                entry.handle(mapped.address().as_ptr().addr(), FaultCause::MissingPage)
            })
        };
        assert!(entry.retire());
        mapped.unmap();
        let answered = handler.join().unwrap();
        // A fault that was answered was answered by a replacement.
        assert!(!answered || mapped.replaced.load(Ordering::Relaxed) == 1);
    });
}

#[test]
fn two_faults_replace_a_mapping_once() {
    model(|| {
        let mapped = Mapped::new();
        let entry = Arc::new(FaultEntry::default());
        register(&entry, &mapped);
        let fault = |entry: &FaultEntry, mapped: &Arc<Mapped>| {
            assert!(entry.handle(mapped.address().as_ptr().addr(), FaultCause::MissingPage));
            assert!(entry.is_faulted());
        };
        let handler = {
            let (entry, mapped) = (Arc::clone(&entry), Arc::clone(&mapped));
            thread::spawn(move || fault(&entry, &mapped))
        };
        fault(&entry, &mapped);
        handler.join().unwrap();
        assert_eq!(mapped.replaced.load(Ordering::Relaxed), 1);
        assert!(entry.retire());
    });
}

/// A handler that looked at an entry before it was used again may see parts of both registrations.
#[test]
fn a_late_fault_leaves_the_next_mapping_of_the_entry_alone() {
    model(|| {
        let (first, second) = (Mapped::new(), Mapped::new());
        let entry = Arc::new(FaultEntry::default());
        register(&entry, &first);
        let handler = {
            let (entry, first) = (Arc::clone(&entry), Arc::clone(&first));
            thread::spawn(move || {
                entry.handle(first.address().as_ptr().addr(), FaultCause::MissingPage)
            })
        };
        assert!(entry.retire());
        first.unmap();
        register(&entry, &second);
        handler.join().unwrap();
        assert_eq!(second.replaced.load(Ordering::Relaxed), 0);
        assert!(!entry.is_faulted());
        assert!(entry.retire());
        second.unmap();
    });
}

/// With its first block: loom does not know the atomics of `OnceBox`, which publishes a block.
fn table() -> &'static Table<AtomicUsize> {
    let table = Box::leak(Box::new(Table::new()));
    drop(table.claim());
    table
}

#[test]
fn an_entry_of_a_table_has_one_owner() {
    model(|| {
        let table = table();
        let claim = move |number: usize| {
            let entry = table.claim();
            entry.store(number, Ordering::Relaxed);
            assert_eq!(entry.load(Ordering::Relaxed), number);
        };
        let other = thread::spawn(move || claim(1));
        claim(2);
        other.join().unwrap();
    });
}

/// The registry of what is not for children: a process that forks after a range was registered finds it.
#[test]
fn what_was_registered_before_a_fork_is_found() {
    model(|| {
        let table = table();
        let is_registered = Arc::new(AtomicBool::new(false));
        let owner = {
            let is_registered = Arc::clone(&is_registered);
            thread::spawn(move || {
                let entry = table.claim();
                entry.store(7, Ordering::Release);
                is_registered.store(true, Ordering::Release);
                entry
            })
        };
        // Another value comes and goes meanwhile.
        drop(table.claim());
        if is_registered.load(Ordering::Acquire) {
            assert!(table.iter().any(|entry| entry.load(Ordering::Acquire) == 7));
        }
        drop(owner.join().unwrap());
    });
}

#[test]
fn released_entries_are_used_again_before_there_are_new_ones() {
    model(|| {
        let table = table();
        let address = |entry: &table::Claimed<AtomicUsize>| std::ptr::from_ref(entry.get()).addr();
        let mut claimed: Vec<_> = (0..40).map(|_| table.claim()).collect();
        let entries = table.iter().count();
        for index in [33, 31, 3, 0] {
            drop(claimed.swap_remove(index));
        }
        claimed.extend((0..entries - 36).map(|_| table.claim()));
        assert_eq!(table.iter().count(), entries);
        let addresses: HashSet<usize> = claimed.iter().map(address).collect();
        assert_eq!(addresses.len(), entries);
    });
}
