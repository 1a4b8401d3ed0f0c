//! Any length is allowed that fits into an address space, including 0.

use crate::both_kinds;
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::scenario;
use crate::support::kernel::may_write;
use crate::support::pool::has_huge_pages;
use stillmap::{Anonymous, Error, HugePages};

/// Lengths beyond any address space.
const IMPOSSIBLE: &[usize] = &[
    usize::MAX,
    usize::MAX - 1,
    usize::MAX - 4095,
    usize::MAX / 2 + 1,
    isize::MAX as usize,
    // A process of s390x has 2^64 bytes of addresses, and one of 32 bits 2^32, so these are possible there.
    #[cfg(all(target_pointer_width = "64", not(target_arch = "s390x")))]
    (isize::MAX as usize - 4095),
    // 1 << 62 and 1 << 48 of 64 bits, 1 << 31 of 32.
    #[cfg(not(target_arch = "s390x"))]
    (1 << if usize::BITS == 64 { 62 } else { 31 }),
    #[cfg(not(target_arch = "s390x"))]
    (1 << if usize::BITS == 64 { 48 } else { 31 }),
];

/// An address that is free in every process.
const FREE_ADDRESS: usize = 1 << (usize::BITS * 5 / 8);

#[test]
fn it_is_as_long_as_asked_and_zero() {
    for options in both_kinds() {
        for len in [
            1,
            63,
            100,
            4095,
            4096,
            4097,
            65537,
            (2 << 20) - 1,
            (5 << 20) + 3,
        ] {
            for populate in [false, true] {
                let mut memory = options.populate(populate).allocate(len).unwrap();
                assert_eq!(memory.len(), len);
                assert!(memory.iter().all(|&byte| byte == 0));
                assert_eq!(memory.as_ptr() as usize % 4096, 0);
                let bytes = pattern(len as u64, len);
                memory.copy_from_slice(&bytes);
                assert_same(&memory, &bytes, len);
                assert_same(memory.as_ref(), &bytes, len);
                memory.as_mut().fill(1);
                assert_same(&memory, &vec![1; len], len);
            }
        }
    }
}

#[test]
fn nothing_is_a_length_too() {
    for options in both_kinds() {
        for huge in [
            HugePages::System,
            HugePages::Never,
            HugePages::Transparent,
            HugePages::Reserved,
        ] {
            let memory = options.huge_pages(huge).populate(true).allocate(0);
            if huge == HugePages::Reserved && !has_huge_pages() {
                let error = memory.unwrap_err();
                assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
                continue;
            }
            let mut memory = memory.unwrap();
            assert!(memory.is_empty());
            memory.discard(..).unwrap();
            memory.discard(0..0).unwrap();
            memory.resize(0).unwrap();
            assert_eq!(memory[..], []);
            assert_eq!(&memory.freeze().unwrap()[..], b"");
        }
        let mut memory = options.allocate(0).unwrap();
        memory.resize(5000).unwrap();
        assert_same(&memory, &[0; 5000], "grown from nothing");
        memory.fill(7);
        memory.resize(0).unwrap();
        assert!(memory.is_empty());
        memory.resize(10_000).unwrap();
        assert_same(&memory, &[0; 10_000], "and again");
    }
}

#[test]
fn impossible_lengths_are_errors_and_leave_things_as_they_were() {
    let has_huge_pages = has_huge_pages();
    for options in both_kinds() {
        let mut memory = options.allocate(5000).unwrap();
        memory.copy_from_slice(&pattern(1, 5000));
        for &len in IMPOSSIBLE {
            for huge in [
                HugePages::System,
                HugePages::Transparent,
                HugePages::Reserved,
            ] {
                let error = options.huge_pages(huge).allocate(len).unwrap_err();
                let is_unsupported = matches!(error, Error::Unsupported { .. });
                let may_be_unsupported = huge == HugePages::Reserved && !has_huge_pages;
                assert!(
                    matches!(error, Error::TooLarge { .. } | Error::Os { .. })
                        || is_unsupported && may_be_unsupported,
                    "{error:?}"
                );
            }
            for options in [
                options.hint_address(FREE_ADDRESS),
                options.fixed_address(FREE_ADDRESS),
            ] {
                assert!(options.allocate(len).is_err());
            }
            let error = memory.resize(len).unwrap_err();
            assert!(
                matches!(error, Error::TooLarge { .. } | Error::Os { .. }),
                "{error:?}"
            );
            assert_same(&memory, &pattern(1, 5000), "still there");
        }
        memory.resize(6000).unwrap();
        assert_same(&memory[..5000], &pattern(1, 5000), "and usable");
        assert_same(&memory[5000..], &[0; 1000], "and usable");
    }
}

#[test]
fn what_the_process_may_not_have_is_an_error() {
    scenario!(|| {
        if !may_write(1 << 30) {
            return;
        }
        let limit = libc::rlimit64 {
            rlim_cur: 200 << 20,
            rlim_max: 200 << 20,
        };
        // SAFETY: a valid limit.
        assert_eq!(unsafe { libc::setrlimit64(libc::RLIMIT_AS, &limit) }, 0);
        for options in both_kinds() {
            for huge in [HugePages::System, HugePages::Never, HugePages::Transparent] {
                let options = options.huge_pages(huge);
                let error = options.allocate(1 << 30).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{error:?}");
                let mut memory = options.allocate(10 << 20).unwrap();
                memory.copy_from_slice(&pattern(2, 10 << 20));
                let error = memory.resize(1 << 30).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{error:?}");
                assert!(error.to_string().contains("mremap") || error.to_string().contains("mmap"));
                assert_same(&memory, &pattern(2, 10 << 20), "after it");
                memory.discard(..).unwrap();
                memory.resize(11 << 20).unwrap();
                assert_same(&memory, &vec![0; 11 << 20], "and usable");
            }
        }
    })
    .succeed();
}

#[test]
fn ranges_outside_are_out_of_bounds_and_change_nothing() {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    for options in both_kinds() {
        let mut memory = options.allocate(10_000).unwrap();
        memory.copy_from_slice(&pattern(3, 10_000));
        for range in [
            (Included(0), Excluded(10_001)),
            (Included(0), Included(10_000)),
            (Included(10_001), Unbounded),
            (Included(10_001), Excluded(10_001)),
            (Excluded(10_000), Unbounded),
            (Included(5000), Excluded(4999)),
            (Excluded(5000), Excluded(5000)),
            (Excluded(usize::MAX), Unbounded),
            (Unbounded, Included(usize::MAX)),
            (Included(usize::MAX), Included(usize::MAX)),
            (Included(usize::MAX), Excluded(0)),
        ] {
            let error = memory.discard(range).unwrap_err();
            assert!(
                matches!(error, Error::OutOfBounds { size: 10_000, .. }),
                "{error:?}"
            );
        }
        assert_same(&memory, &pattern(3, 10_000), "untouched");
    }
}

/// As the options of every other type.
#[test]
fn the_default_options_are_those_of_new() {
    let memory = stillmap::AnonymousOptions::default().allocate(5).unwrap();
    assert_eq!(
        format!("{memory:?}"),
        format!("{:?}", Anonymous::new(5).unwrap())
    );
}

#[test]
fn it_crosses_threads_and_says_how_much_it_is() {
    fn crosses<T: Send + Sync + 'static>(value: T) -> T {
        value
    }
    let mut memory = crosses(Anonymous::new(1 << 20).unwrap());
    std::thread::scope(|threads| {
        for (i, part) in memory.chunks_mut(1 << 18).enumerate() {
            threads.spawn(move || part.fill(i as u8));
        }
    });
    assert_eq!((memory[0], memory[(1 << 20) - 1]), (0, 3));
    assert!(format!("{memory:?}").contains("1048576"));
    assert!(format!("{memory:?}").len() < 200);
}
