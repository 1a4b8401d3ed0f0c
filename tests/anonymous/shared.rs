//! What forked children see and change.

use crate::support::bytes::{assert_same, pattern};
use crate::support::child::{fork, scenario};
use crate::support::kernel::resident_pages;
use crate::support::limit_file_sizes;
use crate::support::pipe::pipe;
use std::fs::File;
use std::io::{Read, Write};
use stillmap::{Anonymous, Error};

/// Runs `f` in a child that may use all shared memory of this process, which waits until it has ended.
fn in_child(f: impl FnOnce()) {
    let scope = stillmap::fork::scope(|scope| {
        // SAFETY: this process uses no shared memory before the child has ended.
        unsafe { scope.spawn_unchecked(f) }.map(drop)
    });
    scope.expect("the child succeeds").expect("fork");
}

#[test]
fn a_child_writes_and_the_parent_sees() {
    scenario!(|| {
        let mut memory = Anonymous::shared(3 << 20).unwrap();
        in_child(|| memory.copy_from_slice(&pattern(1, 3 << 20)));
        assert_same(&memory, &pattern(1, 3 << 20), "shared");
        memory[5] = 77;
        in_child(|| assert_eq!(memory[5], 77));
    })
    .succeed();
}

#[test]
fn the_limit_on_file_sizes_is_an_error_and_no_signal() {
    scenario!(|| {
        limit_file_sizes(1 << 20);
        let error = Anonymous::shared(2 << 20).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{error}");
        let mut memory = Anonymous::shared(1 << 20).unwrap();
        memory.fill(7);
        assert!(memory.resize(2 << 20).is_err());
        assert_same(&memory, &[7; 1 << 20], "as it was");
    })
    .succeed();
}

#[test]
fn a_child_writes_and_the_parent_does_not_see() {
    scenario!(|| {
        let mut memory = Anonymous::new(3 << 20).unwrap();
        memory.fill(1);
        fork(|| memory.fill(2)).succeed();
        assert_same(&memory, &vec![1; 3 << 20], "private");
        fork(|| drop(memory)).succeed();
    })
    .succeed();
}

#[test]
fn what_is_discarded_is_zero_and_gone_for_all() {
    scenario!(|| {
        let mut memory = Anonymous::shared(1 << 20).unwrap();
        in_child(|| memory.fill(7));
        memory.discard(4096..).unwrap();
        assert_eq!(resident_pages(&memory), 1);
        in_child(|| {
            assert_same(&memory[..4096], &[7; 4096], "kept");
            assert_same(&memory[4096..], &vec![0; (1 << 20) - 4096], "discarded");
        });
    })
    .succeed();
}

/// The length and the pages belong to the process that made the memory.
#[test]
fn a_child_can_neither_resize_nor_discard() {
    scenario!(|| {
        let mut memory = Anonymous::shared(1 << 20).unwrap();
        memory.fill(7);
        in_child(|| {
            let errors = [
                memory.resize(10),
                memory.resize(4 << 20),
                memory.discard(..),
            ];
            let refused = |e: &Result<(), Error>| matches!(e, Err(Error::WrongProcess { .. }));
            assert!(errors.iter().all(refused), "{errors:?}");
        });
        assert_same(&memory, &vec![7; 1 << 20], "as it was");
    })
    .succeed();
}

#[test]
fn growing_keeps_sharing_with_children_made_afterwards() {
    scenario!(|| {
        let mut memory = Anonymous::shared(100).unwrap();
        memory.resize(5 << 20).unwrap();
        in_child(|| memory.fill(7));
        assert_same(&memory, &vec![7; 5 << 20], "shared");
    })
    .succeed();
}

#[test]
fn it_works_after_the_parent_let_go() {
    scenario!(|| {
        for options in [Anonymous::options(), Anonymous::options().populate(true)] {
            let mut memory = options.allocate(1 << 20).unwrap();
            memory.fill(7);
            let (reader, writer) = pipe();
            let mut kept = Some(memory);
            let child = fork(|| {
                File::from(reader).read_exact(&mut [0]).unwrap();
                let memory = kept.as_mut().unwrap();
                assert_same(memory, &vec![7; 1 << 20], "child");
                memory.resize(2 << 20).unwrap();
                memory.fill(8);
                assert_same(memory, &vec![8; 2 << 20], "child");
            });
            drop(kept.take());
            File::from(writer).write_all(b"x").unwrap();
            child.succeed();
        }
    })
    .succeed();
}
