//! What forked children see and change.

use crate::both_kinds;
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::{fork, scenario};
use crate::support::kernel::resident_pages;
use crate::support::limit_file_sizes;
use crate::support::pipe::pipe;
use std::fs::File;
use std::io::{Read, Write};
use stillmap::Anonymous;

#[test]
fn a_child_writes_and_the_parent_sees() {
    scenario!(|| {
        let mut memory = Anonymous::shared(3 << 20).unwrap();
        fork(|| memory.copy_from_slice(&pattern(1, 3 << 20))).succeed();
        assert_same(&memory, &pattern(1, 3 << 20), "shared");
        memory[5] = 77;
        fork(|| assert_eq!(memory[5], 77)).succeed();
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
fn what_one_discards_is_zero_and_gone_for_all() {
    scenario!(|| {
        let mut memory = Anonymous::shared(1 << 20).unwrap();
        memory.fill(7);
        fork(|| memory.discard(4096..).unwrap()).succeed();
        assert_eq!(resident_pages(&memory), 1);
        assert_same(&memory[..4096], &[7; 4096], "kept");
        assert_same(&memory[4096..], &vec![0; (1 << 20) - 4096], "discarded");
    })
    .succeed();
}

/// Every process keeps its own length, and no page is lost under a mapping: a child that shrank its own must not make
/// the parent's fault.
#[test]
fn each_process_resizes_its_own() {
    scenario!(|| {
        let mut memory = Anonymous::shared(1 << 20).unwrap();
        memory.fill(7);
        fork(|| {
            memory.resize(10).unwrap();
            memory.resize(4 << 20).unwrap();
            memory[..10].fill(8);
            memory[(1 << 20)..].fill(9);
        })
        .succeed();
        assert_eq!(memory.len(), 1 << 20);
        assert_same(&memory[..10], &[8; 10], "still shared");
        fork(|| drop(memory)).succeed();
    })
    .succeed();
}

#[test]
fn growing_keeps_sharing_with_children_made_afterwards() {
    scenario!(|| {
        let mut memory = Anonymous::shared(100).unwrap();
        memory.resize(5 << 20).unwrap();
        fork(|| memory.fill(7)).succeed();
        assert_same(&memory, &vec![7; 5 << 20], "shared");
    })
    .succeed();
}

#[test]
fn it_works_after_the_parent_let_go() {
    scenario!(|| {
        for options in both_kinds() {
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
