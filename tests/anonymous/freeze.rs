//! `freeze`: from writable memory to bytes that do not change.

use crate::both_kinds;
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::{fork, scenario};
use crate::support::kernel::{mapping_at, minor_faults};
use crate::support::pipe::pipe;
use std::fs::File;
use std::io::{Read, Write};
use stillmap::{Anonymous, Backing};

#[test]
fn the_bytes_stay() {
    for options in both_kinds() {
        for len in [0, 1, 100, 4096, 100_000, (3 << 20) + 1] {
            let mut memory = options.allocate(len).unwrap();
            memory.copy_from_slice(&pattern(1, len));
            let frozen = memory.freeze().unwrap();
            assert_same(&frozen, &pattern(1, len), len);
            assert_eq!(frozen.backing(), Backing::Memory);
            assert!(frozen.is_consistent());
            assert_eq!(frozen.as_ptr() as usize % 64, 0);
        }
    }
}

#[test]
fn private_memory_is_not_copied_and_becomes_read_only() {
    let mut memory = Anonymous::new(8 << 20).unwrap();
    memory.fill(7);
    let start = memory.as_ptr() as usize;
    let before = minor_faults();
    let frozen = memory.freeze().unwrap();
    assert!(minor_faults() - before < 10);
    assert_eq!(frozen.as_ptr() as usize, start);
    let area = mapping_at(start).unwrap();
    assert!(area.permissions.starts_with("r--"), "{area:?}");
    let end = mapping_at(start + (8 << 20) - 1).unwrap();
    assert!(end.permissions.starts_with("r--"), "{end:?}");
}

/// A child holds the memory writable still, and writes.
#[test]
fn shared_memory_is_copied() {
    scenario!(|| {
        let mut memory = Anonymous::shared(1 << 20).unwrap();
        memory.fill(7);
        let (go, started) = pipe();
        let (done, finished) = pipe();
        let address = memory.as_mut_ptr() as usize;
        let scope = stillmap::fork::scope(|scope| {
            let write = move || {
                File::from(go).read_exact(&mut [0]).unwrap();
                // SAFETY: this process has its own mapping there, and no reference to it is left.
                unsafe { std::ptr::write_bytes(address as *mut u8, 8, 1 << 20) };
                File::from(finished).write_all(b"x").unwrap();
            };
            // SAFETY: this process freezes the memory, and does not use it again.
            unsafe { scope.spawn_unchecked(write) }.unwrap();
            let frozen = memory.freeze().unwrap();
            assert_same(&frozen, &vec![7; 1 << 20], "before");
            File::from(started).write_all(b"x").unwrap();
            File::from(done).read_exact(&mut [0]).unwrap();
            assert_same(&frozen, &vec![7; 1 << 20], "after the child wrote");
        });
        scope.expect("the child succeeds");
    })
    .succeed();
}

/// A child that was forked before has a copy of its own, writable or not as it was.
#[test]
fn a_child_of_frozen_private_memory_changes_nothing() {
    scenario!(|| {
        let mut memory = Anonymous::new(1 << 20).unwrap();
        memory.fill(7);
        let (go, started) = pipe();
        let address = memory.as_mut_ptr() as usize;
        let child = fork(move || {
            File::from(go).read_exact(&mut [0]).unwrap();
            // SAFETY: this process has its own mapping there, and no reference to it is left.
            unsafe { std::ptr::write_bytes(address as *mut u8, 8, 1 << 20) };
        });
        let frozen = memory.freeze().unwrap();
        File::from(started).write_all(b"x").unwrap();
        child.succeed();
        assert_same(&frozen, &vec![7; 1 << 20], "frozen");
    })
    .succeed();
}
