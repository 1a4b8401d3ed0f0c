//! Locked pages, counted by the kernel: `VmLck` of /proc/self/status, in a process where no other code locks.

use crate::flags::areas;
use crate::kinds::{self, Deed};
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::{fork, scenario};
use crate::support::disk::LoopFs;
use crate::support::kernel::{may_map, page_size, status};
use crate::support::leased::Folder;
use crate::support::random::runner;
use crate::support::user::{become_nobody, may_be_nobody};
use crate::support::{file_with, skip};
use proptest::prelude::*;
use std::ops::Range;
use stillmap::{Anonymous, Backing, Error, Pages};

fn locked() -> usize {
    status("VmLck")
}

/// Addresses of locked pages, from smaps.
fn locked_pages() -> Vec<usize> {
    let locked = areas()
        .into_iter()
        .filter(|(_, flags)| flags.contains("lo"));
    locked
        .flat_map(|(range, _)| range.step_by(page_size()))
        .collect()
}

pub struct Lock;

impl Deed for Lock {
    fn on(&mut self, name: &str, pages: Pages<'_>, bytes: &[u8], is_heap: bool) {
        let len = bytes.len();
        assert_eq!(locked(), 0, "{name}: before");
        if is_heap && len > 0 {
            // Its pages hold other blocks, whose owners may lock and unlock them.
            let refused = pages.lock(..).expect_err("a block of the heap");
            assert!(matches!(refused, Error::Unsupported { .. }), "{name}");
            return assert_eq!(locked(), 0, "{name}");
        }
        let all = pages.lock(..).unwrap_or_else(|e| panic!("{name}: {e}"));
        let residency = pages.residency(..).expect("residency");
        assert!(residency.is_full() || !residency.is_reliable(), "{name}");
        if kinds::page_size_of(bytes) > page_size() {
            // Reserved huge pages never leave RAM, and are not counted.
            return assert_eq!(locked(), 0, "{name}");
        }
        assert_eq!(locked(), residency.pages() * page_size(), "{name}: all");
        assert_eq!(all.len(), locked(), "{name}");
        assert!(all.is_held(), "{name}");
        let part = pages.lock(len / 3..len / 2).expect("a part of it");
        assert_eq!(locked(), all.len(), "{name}: a part is in it already");
        drop(all);
        assert_eq!(locked(), part.len(), "{name}: the part stays");
        drop(part);
        assert_eq!(locked(), 0, "{name}: after");
    }
}

#[test]
fn it_goes_with_the_guard_on_every_type() {
    if !crate::support::kernel::may_lock() {
        return;
    }
    scenario!(|| kinds::each(&mut Lock)).succeed();
}

#[test]
fn guards_nest_in_any_order() {
    if !crate::support::kernel::may_lock() {
        return;
    }
    scenario!(|| {
        let page = page_size();
        let pages = 30;
        let memory = Anonymous::new(pages * page).expect("memory");
        let start = memory.as_ptr() as usize;
        let number = || 0..=pages * page;
        let step = (any::<bool>(), number(), number());
        let done = runner(40).run(&proptest::collection::vec(step, 1..30), |steps| {
            let mut held = Vec::new();
            let mut model: Vec<Range<usize>> = Vec::new();
            for (take, a, b) in steps {
                if take || held.is_empty() {
                    let range = a.min(b)..a.max(b);
                    held.push(memory.pages().lock(range.clone()).expect("lock"));
                    model.push(range);
                } else {
                    let index = a % held.len();
                    drop(held.swap_remove(index));
                    model.swap_remove(index);
                }
                let in_a_guard = |page_number: &usize| {
                    let bytes = page_number * page..(page_number + 1) * page;
                    let meets = |range: &&Range<usize>| {
                        !range.is_empty() && range.start < bytes.end && bytes.start < range.end
                    };
                    model.iter().any(|range| meets(&range))
                };
                let expected: Vec<usize> = (0..pages)
                    .filter(in_a_guard)
                    .map(|n| start + n * page)
                    .collect();
                prop_assert_eq!(locked_pages(), expected);
            }
            Ok(())
        });
        done.expect("all cases");
        assert_eq!(locked(), 0);
    })
    .succeed();
}

#[test]
fn more_than_a_step_is_locked_and_unlocked() {
    scenario!(|| {
        let memory = Anonymous::new(50 << 20).expect("memory");
        let guard = match memory.pages().lock(1..) {
            Err(error) if error.to_string().contains("RLIMIT_MEMLOCK") => return skip(error),
            other => other.expect("lock"),
        };
        assert_eq!(locked(), 50 << 20);
        drop(guard);
        assert_eq!(locked(), 0);
    })
    .succeed();
}

#[test]
fn what_the_program_locked_itself_stays_locked() {
    scenario!(|| {
        let memory = Anonymous::new(10 * page_size()).expect("memory");
        // SAFETY: takes a flag.
        let done = unsafe { libc::mlockall(libc::MCL_CURRENT) };
        if done != 0 {
            return skip(format_args!(
                "mlockall: {}",
                std::io::Error::last_os_error()
            ));
        }
        let is_locked = || locked_pages().contains(&(memory.as_ptr() as usize));
        assert!(is_locked());
        drop(memory.pages().lock(..).expect("lock"));
        assert!(is_locked());
    })
    .succeed();
}

/// Before: all the pages that the guard held stayed locked, if one of them was locked before.
#[test]
fn pages_beside_those_that_the_program_locked_are_unlocked() {
    if !crate::support::kernel::may_lock() {
        return;
    }
    scenario!(|| {
        let page = page_size();
        let memory = Anonymous::new(10 * page).expect("memory");
        let own = memory[3 * page..].as_ptr();
        // SAFETY: changes no byte.
        assert_eq!(unsafe { libc::mlock(own.cast(), 2 * page) }, 0);
        let guard = memory.pages().lock(..).expect("lock");
        assert_eq!((guard.is_held(), locked()), (true, 10 * page));
        drop(guard);
        assert_eq!(locked_pages(), [own as usize, own as usize + page]);
    })
    .succeed();
}

#[test]
fn a_leaked_guard_does_not_outlive_its_mapping() {
    if !crate::support::kernel::may_lock() {
        return;
    }
    scenario!(|| {
        let page = page_size();
        let memory = Anonymous::new(10 * page).expect("memory");
        let address = memory.as_ptr() as usize;
        std::mem::forget(memory.pages().lock(..).expect("lock"));
        drop(memory);
        assert_eq!(locked(), 0);
        let memory = Anonymous::options()
            .fixed_address(address)
            .allocate(10 * page)
            .expect("the same place");
        let guard = memory.pages().lock(..).expect("lock");
        assert_eq!(
            locked(),
            guard.len(),
            "no other code had locked these pages"
        );
        drop(guard);
        assert_eq!(locked(), 0, "no guard holds it");
        // Nor does it stay behind when the mapping moves away.
        let mut moving = Anonymous::new(10 * page).expect("memory");
        let address = moving.as_ptr() as usize;
        std::mem::forget(moving.pages().lock(..).expect("lock"));
        // Something above it, so that it cannot grow where it is.
        let above = address + 10 * page;
        let above = Anonymous::options().fixed_address(above).allocate(page);
        moving.resize(20 * page).expect("resize");
        drop(above);
        if moving.as_ptr() as usize == address {
            return skip("it did not move");
        }
        let before = locked();
        let other = Anonymous::options()
            .fixed_address(address)
            .allocate(10 * page)
            .expect("the old place");
        let guard = other.pages().lock(..).expect("lock");
        assert_eq!(
            locked(),
            before + guard.len(),
            "no other code had locked these pages"
        );
        drop(guard);
        assert_eq!(locked(), before, "no guard holds it");
    })
    .succeed();
}

#[test]
fn over_the_limit_the_error_names_it_and_nothing_is_locked() {
    scenario!(|| {
        if !may_be_nobody() {
            return;
        }
        let bytes = 8 << 20;
        let mut limit = libc::rlimit64 {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: writes one struct, and reads it.
        unsafe {
            assert_eq!(libc::getrlimit64(libc::RLIMIT_MEMLOCK, &mut limit), 0);
            limit.rlim_cur = limit.rlim_max.min(bytes as u64);
            assert_eq!(libc::setrlimit64(libc::RLIMIT_MEMLOCK, &limit), 0);
        }
        let bytes = limit.rlim_cur as usize / page_size() * page_size();
        become_nobody();
        let memory = Anonymous::new(64 << 20).expect("memory");
        let step = 16 << 20;
        let address = memory.as_ptr() as usize;
        // One page is in a step of its own, and is locked before the limit is met.
        let first = (address + page_size()).next_multiple_of(step) - page_size() - address;
        let range = first..first + bytes + page_size();
        let error = memory.pages().lock(range).expect_err("over the limit");
        assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}");
        assert!(error.to_string().contains("mlock"), "{error}");
        assert_eq!(locked(), 0);
        // The refused step is not counted as locked either.
        let again = first + page_size()..first + page_size() + bytes / 2;
        let fits = memory.pages().lock(again).expect("up to the limit");
        assert_eq!(locked(), fits.len());
    })
    .succeed();
}

#[test]
fn a_lock_stays_when_a_writer_makes_other_pages_come_under_it() {
    if !crate::support::kernel::may_lock() {
        return;
    }
    scenario!(|| {
        let bytes = pattern(7, 3 << 20);
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file_with(folder.path(), "file", &bytes);
        let snapshot = stillmap::Snapshot::open(&path).expect("open");
        assert_eq!(snapshot.backing(), Backing::Leased);
        let page = page_size();
        let guard = snapshot.pages().lock(page..2 << 20).expect("lock");
        let before = locked_pages();
        assert_eq!(before.len() * page, guard.len());
        // Returns when the bytes are elsewhere.
        std::fs::write(&path, "something else").expect("write");
        assert_ne!(snapshot.backing(), Backing::Leased);
        assert_eq!(locked_pages(), before);
        assert_same(&snapshot, &bytes, "the snapshot");
        drop(guard);
        assert_eq!(locked(), 0);
    })
    .succeed();
}

#[test]
fn a_forked_child_locks_for_itself() {
    scenario!(|| {
        let memory = Anonymous::new(10 * page_size()).expect("memory");
        let guard = memory.pages().lock(..).expect("lock");
        fork(|| {
            assert_eq!(locked(), 0, "locks are not inherited");
            let ours = memory.pages().lock(1..page_size() + 1).expect("lock");
            assert_eq!(locked(), ours.len());
            drop(ours);
            assert_eq!(locked(), 0);
        })
        .succeed();
        assert_eq!(locked(), guard.len(), "the parent's are as they were");
    })
    .succeed();
}

/// A break beside `lock` lost the lock in 19 of 3,000 runs: its count was stored after mlock(2).
#[test]
fn a_lock_taken_or_dropped_beside_a_break_is_what_the_guard_says() {
    if !crate::support::kernel::may_lock() {
        return;
    }
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let page = page_size();
        let bytes = pattern(9, (2 << 20).max(200 * page));
        for round in 0..300 {
            let path = file_with(folder.path(), "file", &bytes);
            let snapshot = stillmap::Snapshot::open(&path).expect("open");
            assert_eq!(snapshot.backing(), Backing::Leased);
            let pages = snapshot.pages();
            let early = pages.lock(..10 * page).expect("lock");
            let start = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    // Returns when the bytes are elsewhere.
                    std::fs::write(&path, "something else").expect("write");
                });
                start.wait();
                // Somewhere around the break, from one round to the next a bit later.
                for _ in 0..round % 30 * 10 {
                    std::hint::spin_loop();
                }
                drop(early);
                let late = pages.lock(20 * page..200 * page).expect("lock");
                while snapshot.backing() == Backing::Leased {
                    std::thread::yield_now();
                }
                assert!(late.is_held(), "round {round}");
                assert_eq!(locked(), late.len(), "round {round}");
                drop(late);
                assert_eq!(locked(), 0, "round {round}");
            });
        }
    })
    .succeed();
}

#[test]
fn a_guard_whose_pages_were_unlocked_is_not_held() {
    scenario!(|| {
        let page = page_size();
        let memory = Anonymous::new(10 * page).expect("memory");
        let guard = memory.pages().lock(..).expect("lock");
        assert!(guard.is_held());
        // SAFETY: changes no byte.
        let done = unsafe { libc::munlock(memory[5 * page..].as_ptr().cast(), page) };
        assert_eq!(done, 0);
        assert!(!guard.is_held());
        fork(|| assert!(!guard.is_held())).succeed();
    })
    .succeed();
}

/// Case: a sparse giant has more pages than there is memory to count their locks.
#[test]
fn a_page_of_a_giant_is_locked_or_refused() {
    const GIANT: u64 = 30 << 40;
    scenario!(|| {
        if !may_map(GIANT) {
            return;
        }
        let Some(system) = LoopFs::new("xfs", 300 << 20) else {
            return;
        };
        let path = file_with(system.path(), "file", &[]);
        let giant = std::fs::File::options().write(true).open(&path).unwrap();
        giant.set_len(GIANT).unwrap();
        drop(giant);
        let snapshot = stillmap::Snapshot::open(&path).unwrap();
        match snapshot.pages().lock(..1) {
            Ok(guard) => assert!(guard.is_held()),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOMEM)),
        }
    })
    .succeed();
}
