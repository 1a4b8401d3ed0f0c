//! What is left after 100,000 snapshots and 10,000 errors: nothing. A binary of its own, and each count in a child.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

mod support;

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use stillmap::{Anonymous, Backing, HugePages, Snapshot};
use support::bytes::pattern;
use support::child::scenario;
use support::kernel::Holdings;
use support::pipe::pipe;
use support::{file_with, temp_dir};

/// Once before the count, for what is made once and kept; then `times` times.
#[track_caller]
fn assert_leaves_nothing(times: usize, what: &str, mut act: impl FnMut()) {
    for _ in 0..10 {
        act();
    }
    let before = Holdings::now();
    for _ in 0..times {
        act();
    }
    before.assert_nothing_left(format_args!("{times} times {what}"));
}

fn sealed_memfd(len: usize) -> File {
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK;
    // SAFETY: a C string; the descriptor is new, and no other code has it.
    let mut file = unsafe {
        let fd = libc::memfd_create(c"leaks".as_ptr(), libc::MFD_ALLOW_SEALING);
        assert!(fd >= 0);
        File::from_raw_fd(fd)
    };
    file.write_all(&pattern(1, len)).unwrap();
    // SAFETY: plain numbers.
    assert_eq!(
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) },
        0
    );
    file
}

#[test]
fn a_hundred_thousand_small_files() {
    scenario!(|| {
        let dir = temp_dir();
        let small = file_with(dir.path(), "small", &pattern(1, 5000));
        assert_leaves_nothing(100_000, "a small file", || {
            assert_eq!(stillmap::Snapshot::open(&small).unwrap().len(), 5000);
        });
    })
    .succeed();
}

#[test]
fn a_hundred_thousand_mappings() {
    scenario!(|| {
        let mut sealed = sealed_memfd(3 << 20);
        assert_leaves_nothing(100_000, "a mapping", || {
            sealed.rewind().unwrap();
            let options = Snapshot::options()
                .offset(4097)
                .len(2 << 20)
                .require_mapping(true);
            let snapshot = options.from_fd(&sealed).unwrap();
            assert_eq!(
                (snapshot.len(), snapshot.backing()),
                (2 << 20, Backing::Sealed)
            );
        });
    })
    .succeed();
}

#[test]
fn every_other_way_to_a_snapshot() {
    scenario!(|| {
        let dir = temp_dir();
        let large = file_with(dir.path(), "large", &pattern(2, 3 << 20));
        assert_leaves_nothing(500, "a large file", || {
            assert_eq!(stillmap::Snapshot::open(&large).unwrap().len(), 3 << 20);
        });
        assert_leaves_nothing(10_000, "a file by its descriptor", || {
            let file = File::open(&large).unwrap();
            Snapshot::options()
                .offset(9)
                .len(999)
                .from_fd(file)
                .unwrap();
        });
        assert_leaves_nothing(10_000, "a /proc file", || {
            assert!(
                !stillmap::Snapshot::open("/proc/version")
                    .unwrap()
                    .is_empty()
            );
        });
        assert_leaves_nothing(10_000, "a pipe", || {
            let (reader, writer) = pipe();
            File::from(writer).write_all(b"some").unwrap();
            assert_eq!(Snapshot::from_fd(reader).unwrap().len(), 4);
        });
        assert_leaves_nothing(500, "a large stream", || {
            Snapshot::options().len(3 << 20).open("/dev/zero").unwrap();
        });
        assert_leaves_nothing(10_000, "an unguarded mapping", || {
            let file = File::open(&large).unwrap();
            // SAFETY: no process changes the file in this test.
            let snapshot = unsafe { Snapshot::map_unguarded(file) }.unwrap();
            assert_eq!(snapshot.len(), 3 << 20);
        });
    })
    .succeed();
}

#[test]
fn ten_thousand_errors_of_each_kind() {
    scenario!(|| {
        let dir = temp_dir();
        let file = file_with(dir.path(), "file", &pattern(3, 1 << 20));
        let missing = dir.path().join("missing");
        let write_only = File::create(dir.path().join("write-only")).unwrap();
        assert_leaves_nothing(10_000, "errors", || {
            stillmap::Snapshot::open(&missing).unwrap_err();
            stillmap::Snapshot::open(dir.path()).unwrap_err();
            stillmap::Snapshot::open("/proc/self/mem").unwrap_err();
            Snapshot::options().offset(1 << 40).open(&file).unwrap_err();
            Snapshot::options().len(usize::MAX).open(&file).unwrap_err();
            Snapshot::options()
                .size_limit(1000)
                .open("/dev/zero")
                .unwrap_err();
            Snapshot::options()
                .require_mapping(true)
                .open("/dev/zero")
                .unwrap_err();
            Snapshot::from_fd(&write_only).unwrap_err();
            Snapshot::from_fd(File::open(dir.path()).unwrap()).unwrap_err();
            // More than there are addresses, of 64 bits and of 32.
            let too_long = usize::MAX / if usize::BITS == 64 { 16 } else { 1 };
            Anonymous::new(too_long).unwrap_err();
            Anonymous::shared(too_long).unwrap_err();
            Anonymous::options()
                .fixed_address(4095)
                .allocate(1)
                .unwrap_err();
        });
        assert_leaves_nothing(200, "streams over a large limit", || {
            Snapshot::options()
                .size_limit(5 << 20)
                .open("/dev/zero")
                .unwrap_err();
        });
    })
    .succeed();
}

#[test]
fn a_hundred_thousand_anonymous_memories() {
    scenario!(|| {
        assert_leaves_nothing(100_000, "private memory", || {
            Anonymous::new(100_000).unwrap()[5] = 1;
        });
        for huge in [HugePages::Never, HugePages::Transparent] {
            for shared in [false, true] {
                let options = Anonymous::options().huge_pages(huge).shared(shared);
                assert_leaves_nothing(5_000, "memory that is resized", || {
                    let mut memory = options.allocate(10_000).unwrap();
                    memory[9_999] = 1;
                    memory.resize(5 << 20).unwrap();
                    memory.discard(5..100_000).unwrap();
                    memory.resize(20_000).unwrap();
                    assert!(memory.resize(usize::MAX).is_err());
                    memory.freeze().unwrap();
                });
            }
        }
    })
    .succeed();
}
