//! Shared memory in children: only what was passed to them is accessible, and only whole pages can be passed.

use super::{is_childless, one, status};
use crate::support::child::{fork as raw_fork, scenario};
use std::cell::{Cell, RefCell};
use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use stillmap::{Anonymous, Draft, Error, Shared, fork, page};

/// One child with parts, that has to succeed.
fn with<P: fork::Parts>(parts: P, f: impl FnOnce(P)) {
    fork::scope(|s| s.spawn_with(parts, f).map(drop).unwrap()).unwrap();
}

/// The error of passing a part.
fn refused(part: &mut [u8]) -> Error {
    fork::scope(|s| s.spawn_with(part, |_| ()).map(drop).unwrap_err()).unwrap()
}

#[track_caller]
fn assert_faults(f: impl FnOnce()) {
    assert_eq!(status(one(f)).signal(), Some(libc::SIGSEGV));
}

#[test]
fn children_fill_their_parts_in_place() {
    scenario!(|| {
        let mut memory = Anonymous::shared(1_000_000).unwrap();
        let chunk = 123_457_usize.next_multiple_of(page::size());
        fork::scope(|s| {
            for (number, part) in memory.page_chunks_mut(123_457).enumerate() {
                s.spawn_with(part, move |part| part.fill(number as u8 + 1))
                    .unwrap();
            }
        })
        .unwrap();
        for (at, &byte) in memory.iter().enumerate() {
            assert_eq!(usize::from(byte), at / chunk + 1, "{at}");
        }
        assert!(is_childless());
    })
    .succeed();
}

#[test]
fn arrays_vectors_and_tuples_are_parts() {
    scenario!(|| {
        let page = page::size();
        let mut memory = Anonymous::shared(9 * page).unwrap();
        let mut pages: Vec<&mut [u8]> = memory.page_chunks_mut(1).collect();
        let rest = pages.split_off(3);
        let [a, b, c]: [&mut [u8]; 3] = pages.try_into().unwrap();
        with((a, [b, c], rest, &mut [][..]), |(a, others, rest, none)| {
            a.fill(1);
            others.into_iter().for_each(|part| part.fill(2));
            rest.into_iter().for_each(|part| part.fill(3));
            assert!(none.is_empty());
        });
        let pages = memory.chunks(page).map(|page| page[7]);
        assert!(pages.eq([1, 2, 2, 3, 3, 3, 3, 3, 3]));
    })
    .succeed();
}

#[test]
fn a_part_has_whole_pages_of_shared_memory_of_this_process() {
    scenario!(|| {
        let page = page::size();
        let mut memory = Anonymous::shared(3 * page + 100).unwrap();
        for range in [1..page, 0..page - 1, 0..3 * page + 99, page + 8..2 * page] {
            let error = refused(&mut memory[range.clone()]);
            let is_misaligned = matches!(error, Error::Misaligned { align, .. } if align == page);
            assert!(is_misaligned, "{range:?}: {error}");
        }
        // The end of the value is the end of a page, also after it has moved.
        with(&mut memory[page..], |part| part.fill(1));
        memory.resize(500 * page + 1).unwrap();
        assert!(matches!(
            refused(&mut memory[page..3 * page + 100]),
            Error::Misaligned { .. }
        ));
        with(&mut memory[100 * page..], |part| part.fill(2));
        assert_eq!((memory[3 * page + 99], memory[500 * page]), (1, 2));

        let mut private = Anonymous::new(page).unwrap();
        assert!(matches!(refused(&mut private), Error::NotShared));
        let mut vector = vec![0; 3 * page];
        let start = vector.as_ptr().align_offset(page);
        let error = refused(&mut vector[start..start + page]);
        assert!(matches!(error, Error::NotShared));
        // Neither the memory of a draft, nor what was shared before.
        let dir = crate::support::temp_dir();
        for sparse in [false, true] {
            let options = Draft::options().sparse(sparse).memory_limit(0);
            let mut draft = options.create(dir.path().join("draft"), page).unwrap();
            assert!(matches!(refused(&mut draft), Error::NotShared));
        }
        assert!(is_childless());
    })
    .succeed();
}

/// Safe code that had one part in two processes, and lost 48.7 of 50 million reads.
#[test]
fn a_part_in_a_cell_a_lock_or_a_static_is_accessible_in_one_process() {
    static LEAKED: Mutex<Option<&'static mut [u8]>> = Mutex::new(None);
    scenario!(|| {
        let mut memory = Anonymous::shared(2 * page::size()).unwrap();
        let (first, second) = memory.split_at_mut(page::size());
        let slot = Cell::new(Some(first));
        let result = fork::scope(|s| {
            s.spawn(|| slot.take().unwrap().fill(1)).unwrap();
            slot.take().unwrap().fill(2);
        });
        assert_eq!(status(result).signal(), Some(libc::SIGSEGV));
        let locked = RefCell::new(second);
        assert_faults(|| locked.borrow_mut().fill(1));
        assert_faults(|| assert_eq!(locked.borrow()[0], 0));
        let leaked = Box::leak(Box::new(Anonymous::shared(8).unwrap()));
        *LEAKED.lock().unwrap() = Some(leaked);
        assert_faults(|| LEAKED.lock().unwrap().as_deref_mut().unwrap().fill(1));
        assert!(memory[..page::size()].iter().all(|&byte| byte == 2));
        assert!(memory[page::size()..].iter().all(|&byte| byte == 0));
    })
    .succeed();
}

#[test]
fn a_child_with_one_part_has_no_other() {
    scenario!(|| {
        let mut memory = Anonymous::shared(3 * page::size()).unwrap();
        let mut pages = memory.page_chunks_mut(1);
        let (first, second) = (pages.next().unwrap(), pages.next().unwrap());
        let slot = Cell::new(Some(second));
        let result = fork::scope(|s| {
            let child = s.spawn_with(first, |first| {
                first.fill(1);
                slot.take().unwrap().fill(2);
            });
            let child = child.unwrap();
            // Passed to two children, each from its own copy of the slot.
            let refused = s.spawn(|| {
                let part = slot.take().unwrap();
                let refused = fork::scope(|s| s.spawn_with(part, |part| part.fill(3)).map(drop));
                assert!(matches!(refused.unwrap(), Err(Error::NotShared)));
            });
            assert!(refused.unwrap().wait().unwrap().success());
            let part = slot.take().unwrap();
            s.spawn_with(part, |part| part.fill(4)).unwrap();
            child.wait().unwrap().signal()
        });
        assert_eq!(result.unwrap(), Some(libc::SIGSEGV));
        let pages = memory.chunks(page::size()).map(|page| page[9]);
        assert!(pages.eq([1, 4, 0]));
    })
    .succeed();
}

#[test]
fn a_child_passes_on_what_it_was_given_and_nothing_else() {
    scenario!(|| {
        let page = page::size();
        let mut memory = Anonymous::shared(4 * page).unwrap();
        let (mine, theirs) = memory.split_at_mut(page);
        let mine = Cell::new(Some(mine));
        with(theirs, |part| {
            let (first, rest) = part.split_at_mut(page);
            first.fill(1);
            fork::scope(|s| {
                // The memory of this child is not accessible in its own children.
                let failing = s.spawn(|| first.fill(9)).unwrap();
                let (second, third) = rest.split_at_mut(page);
                s.spawn_with(second, |second| second.fill(2)).unwrap();
                s.spawn_with(third, |third| third.fill(3)).unwrap();
                assert_eq!(failing.wait().unwrap().signal(), Some(libc::SIGSEGV));
                let refused = s.spawn_with(mine.take().unwrap(), |_| ());
                assert!(matches!(refused, Err(Error::NotShared)));
            })
            .unwrap();
            // And it makes memory of its own to share.
            let mut own = Anonymous::shared(8).unwrap();
            with(&mut own[..], |own| own.fill(5));
            assert_eq!(own[..], [5; 8]);
        });
        assert!(memory.chunks(page).map(|page| page[0]).eq([0, 1, 2, 3]));
    })
    .succeed();
}

#[test]
fn a_copy_of_the_value_in_a_child_changes_nothing() {
    scenario!(|| {
        let len = 3 * page::size();
        let slot = Cell::new(Some(Anonymous::shared(len).unwrap()));
        fork::scope(|s| {
            let child = s.spawn(|| {
                let mut copy = slot.take().unwrap();
                let discarded = copy.discard(..);
                assert!(matches!(discarded, Err(Error::WrongProcess { .. })));
                for len in [0, 1, 2 * len] {
                    let resized = copy.resize(len);
                    assert!(matches!(resized, Err(Error::WrongProcess { .. })));
                }
            });
            let mut memory = slot.take().unwrap();
            memory.fill(7);
            assert!(child.unwrap().wait().unwrap().success());
            // Dropped in the child with its copy, and still ours.
            slot.set(Some(memory));
            assert!(
                s.spawn(|| drop(slot.take()))
                    .unwrap()
                    .wait()
                    .unwrap()
                    .success()
            );
        })
        .unwrap();
        let memory = slot.take().unwrap();
        assert!(memory.iter().all(|&byte| byte == 7));
    })
    .succeed();
}

#[test]
fn a_fork_of_the_programs_own_has_no_shared_memory_before_it_asks() {
    scenario!(|| {
        let mut memory = Anonymous::shared(8).unwrap();
        let status = raw_fork(|| memory.fill(1)).wait();
        assert_eq!(status.signal(), Some(libc::SIGSEGV));
        raw_fork(|| {
            // SAFETY: the parent waits.
            unsafe { memory.allow_in_child() }.unwrap();
            memory.fill(2);
            assert!(memory.resize(10).is_err());
            assert!(matches!(
                memory.discard(..),
                Err(Error::WrongProcess { .. })
            ));
            // A child of the child.
            assert_faults(|| memory.fill(3));
        })
        .succeed();
        assert_eq!(memory[..], [2; 8]);
    })
    .succeed();
}

#[test]
fn unchecked_children_have_all_that_their_parent_has() {
    scenario!(|| {
        let mut memory = Anonymous::shared(8).unwrap();
        let mut other = Anonymous::shared(1 << 20).unwrap();
        other.fill(2);
        let (left, right) = memory.split_at_mut(4);
        fork::scope(|s| {
            // SAFETY: the halves are used by one child each.
            unsafe { s.spawn_unchecked(|| left.fill(1)) }.unwrap();
            // SAFETY: as above.
            unsafe { s.spawn_unchecked(|| right.fill(other[1 << 19])) }.unwrap();
        })
        .unwrap();
        assert_eq!(memory[..], [1, 1, 1, 1, 2, 2, 2, 2]);
    })
    .succeed();
}

#[test]
fn a_part_of_a_child_that_failed_is_the_parents_again() {
    scenario!(|| {
        let mut memory = Anonymous::shared(8).unwrap();
        let result = fork::scope(|s| {
            s.spawn_with(&mut memory[..], |part| {
                part[0] = 1;
                panic!("on purpose");
            })
            .map(drop)
            .unwrap();
        });
        assert_eq!(status(result).code(), Some(101));
        memory[1] = 2;
        assert_eq!(memory[..2], [1, 2]);
        with(&mut memory[..], |part| part[2] = 3);
        assert_eq!(memory[..3], [1, 2, 3]);
    })
    .succeed();
}

#[test]
fn atomics_are_shared_and_private_memory_is_copied() {
    scenario!(|| {
        let count = Shared::<AtomicU32>::new().unwrap();
        let mut private = Anonymous::new(4096).unwrap();
        one(|| {
            private.fill(7);
            assert!(private.iter().all(|&byte| byte == 7));
            count.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        assert!(private.iter().all(|&byte| byte == 0));
        assert_eq!(count.load(Ordering::Relaxed), 1);
    })
    .succeed();
}
