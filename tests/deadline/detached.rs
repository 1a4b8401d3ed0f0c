//! A process has waited for an edited file until the deadline: it gets the file, with all stores until then.

use crate::support::break_time::BreakTime;
use crate::support::bytes::assert_same;
use crate::support::child::scenario;
use crate::support::exclusive::{open, system_with, systems};
use crate::support::{file_with, kernel, skip};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use stillmap::{Error, Exclusive};

const PAGES: usize = 2 * 512;

/// Bytes of each half of the file.
const HALF: usize = PAGES / 2 * 4096;

/// Stores 1 into each page, then 2, and so on until `stop`; returns the last number.
fn store_rising_numbers(half: &mut [u8], round: &AtomicU64, stop: &AtomicBool) -> u64 {
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        // Downwards, so that no page is ever behind the one after it.
        for page in half.chunks_mut(4096).rev() {
            page[100..108].copy_from_slice(&number.to_le_bytes());
        }
        round.store(number, Ordering::Relaxed);
    }
    number
}

/// The number in a page.
fn number(page: &[u8]) -> u64 {
    u64::from_le_bytes(page[100..108].try_into().unwrap())
}

/// Up to some page the number is that of the last round, and from there on that of the round that was under way.
fn assert_stores_until_one_moment(half: &[u8], count: u64, kind: &str) {
    let numbers: Vec<u64> = half.chunks(4096).map(number).collect();
    let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
    assert!(first > 0 && first < count, "{kind}: {first} of {count}");
    assert!(numbers.is_sorted(), "{kind}: a store was lost");
    assert!(last - first <= 1, "{kind}: {numbers:?}");
}

/// Stores stay in this process, and every call that would write to the file fails.
fn assert_is_memory(mut file: Exclusive, path: &Path, kind: &str) {
    file.fill(3);
    assert!(file.has_waiter());
    assert!(matches!(file.flush(), Err(Error::LeaseLost { .. })));
    assert!(matches!(
        file.start_writeback(..),
        Err(Error::LeaseLost { .. })
    ));
    assert!(matches!(file.resize(1), Err(Error::LeaseLost { .. })));
    assert_same(&file, &vec![3; PAGES * 4096], kind);
    let error = file.close().unwrap_err();
    assert!(
        matches!(&error, Error::LeaseLost { path: Some(p), .. } if p == path),
        "{error}"
    );
}

/// Two threads store rising numbers, each into its half; the opener sees for each half how far it had got: all stores
/// until then, none after. The mapping goes on.
#[test]
fn at_the_deadline_the_opener_gets_all_stores_until_then_and_the_mapping_goes_on() {
    scenario!(|| {
        let Some(_time) = BreakTime::of(8) else {
            return;
        };
        for (kind, system) in systems() {
            let path = file_with(system.path(), "file", &vec![0; PAGES * 4096]);
            let mut file = open(&path);
            let address = file.as_ptr();
            let stop = AtomicBool::new(false);
            let rounds = [AtomicU64::new(0), AtomicU64::new(0)];
            // Both threads have ended a round that they began after this.
            let wait_for_rounds = || {
                for round in &rounds {
                    let two_more = round.load(Ordering::Relaxed) + 2;
                    while round.load(Ordering::Relaxed) < two_more {
                        thread::yield_now();
                    }
                }
            };
            let (left, right) = file.split_at_mut(HALF);
            let (seen, counts) = thread::scope(|scope| {
                let storing: Vec<_> = [left, right]
                    .into_iter()
                    .zip(&rounds)
                    .map(|(half, round)| {
                        let stop = &stop;
                        scope.spawn(move || store_rising_numbers(half, round, stop))
                    })
                    .collect();
                wait_for_rounds();
                let seen = fs::read(&path).unwrap();
                // The opener has it: it may write, and we do not see it.
                fs::write(&path, b"the opener's").unwrap();
                wait_for_rounds();
                stop.store(true, Ordering::Relaxed);
                let counts: Vec<u64> = storing.into_iter().map(|t| t.join().unwrap()).collect();
                (seen, counts)
            });
            assert_eq!(seen.len(), PAGES * 4096, "{kind}");
            for (half, count) in seen.chunks(HALF).zip(&counts) {
                assert_stores_until_one_moment(half, *count, kind);
            }
            // The mapping holds the last number everywhere.
            for (half, count) in file.chunks(HALF).zip(&counts) {
                assert!(
                    half.chunks(4096).all(|page| number(page) == *count),
                    "{kind}"
                );
            }
            assert_eq!(file.as_ptr(), address);
            assert_is_memory(file, &path, kind);
            assert_eq!(fs::read(&path).unwrap(), b"the opener's", "{kind}");
        }
    })
    .succeed();
}

/// Locked memory has all its pages at once, and here each has to be waited for.
#[test]
fn locked_bytes_stay_and_stay_locked() {
    scenario!(|| {
        let Some(_time) = BreakTime::of(2) else {
            return;
        };
        for (kind, system) in systems() {
            let path = file_with(system.path(), "file", &vec![1; 300 << 10]);
            let mut file = open(&path);
            file.fill(2);
            let locked = file.pages().lock(..100_000).unwrap();
            assert!(fs::read(&path).unwrap() == vec![2; 300 << 10], "{kind}");
            assert_same(&file, &vec![2; 300 << 10], kind);
            let start = file.as_ptr().addr();
            let bytes = || kernel::smaps(start..start + 1, "Locked");
            assert!((100_000..110_000).contains(&bytes()), "{kind}: {}", bytes());
            drop(locked);
            assert_eq!(bytes(), 0, "{kind}");
        }
    })
    .succeed();
}

#[test]
fn the_bytes_stay_where_all_memory_is_locked_as_it_is_mapped() {
    scenario!(|| {
        let Some(_time) = BreakTime::of(2) else {
            return;
        };
        for (kind, system) in systems() {
            let path = file_with(system.path(), "file", &vec![1; 300 << 10]);
            let mut file = open(&path);
            file.fill(2);
            // SAFETY: a number.
            if unsafe { libc::mlockall(libc::MCL_FUTURE) } != 0 {
                return skip("mlockall(2) is refused");
            }
            assert!(fs::read(&path).unwrap() == vec![2; 300 << 10], "{kind}");
            assert_same(&file, &vec![2; 300 << 10], kind);
            // SAFETY: takes nothing.
            unsafe { libc::munlockall() };
        }
    })
    .succeed();
}

#[test]
fn nothing_is_lost_when_the_opener_is_the_same_thread() {
    scenario!(|| {
        let Some(_time) = BreakTime::of(2) else {
            return;
        };
        for (kind, system) in systems() {
            let path = file_with(system.path(), "file", &[1; 5000]);
            let mut file = open(&path);
            file.fill(2);
            assert_eq!(fs::read(&path).unwrap(), [2; 5000], "{kind}");
            assert_eq!(&file[..], [2; 5000]);
            assert!(
                matches!(file.close(), Err(Error::LeaseLost { .. })),
                "{kind}"
            );
            let mut first = open(&path);
            first.resize(9000).unwrap();
            first.fill(4);
            assert_eq!(fs::read(&path).unwrap(), [4; 9000], "{kind}");
            // The file is free from here on, for this process as well.
            let mut second = open(&path);
            assert_eq!(&second[..], [4; 9000]);
            second.fill(5);
            second.close().unwrap();
            assert_eq!(&first[..], [4; 9000]);
        }
    })
    .succeed();
}

#[test]
fn an_empty_file_is_let_go_like_any_other() {
    scenario!(|| {
        let Some(_time) = BreakTime::of(3) else {
            return;
        };
        for (kind, system) in systems() {
            let path = file_with(system.path(), "file", b"");
            let file = open(&path);
            assert_eq!(fs::read(&path).unwrap(), b"", "{kind}");
            assert!(
                matches!(file.close(), Err(Error::LeaseLost { .. })),
                "{kind}"
            );
        }
    })
    .succeed();
}

/// Attack "a flush while the bytes become memory": it returned `Ok` for stores that never reached the file.
#[test]
fn what_was_flushed_is_in_the_file_that_the_opener_gets() {
    scenario!(|| {
        let Some(_time) = BreakTime::of(8) else {
            return;
        };
        for (kind, system) in systems() {
            // The first page is there at once, and the last much later.
            let path = file_with(system.path(), "file", &vec![0; 40 << 20]);
            let mut file = open(&path);
            let opener = thread::spawn(move || {
                let mut number = [0; 8];
                fs::File::open(path)
                    .unwrap()
                    .read_exact(&mut number)
                    .unwrap();
                u64::from_le_bytes(number)
            });
            let (mut number, mut flushed) = (0_u64, 0);
            loop {
                number += 1;
                file[..8].copy_from_slice(&number.to_le_bytes());
                match file.flush() {
                    Ok(()) => flushed = number,
                    Err(Error::LeaseLost { .. }) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            let seen = opener.join().unwrap();
            assert!(seen >= flushed, "{kind}: {seen}, {flushed} was flushed");
        }
    })
    .succeed();
}

/// Attack "holes are filled for longer than the kernel waits": the zeros came over what the other process had written.
#[test]
fn what_the_opener_writes_into_a_hole_stays() {
    const LEN: u64 = 1 << 30;
    const STEP: usize = 1 << 20;
    scenario!(|| {
        let Some(_time) = BreakTime::of(1) else {
            return;
        };
        // ext2, where holes are filled by writing zeros.
        let options = ["-O", "^extent,^64bit"];
        let Some(system) = system_with("ext4", LEN + (200 << 20), &options) else {
            return;
        };
        let path = file_with(system.path(), "file", &[]);
        let sparse = fs::File::options().write(true).open(&path).unwrap();
        sparse.set_len(LEN).unwrap();
        drop(sparse);
        let path = &path;
        thread::scope(|scope| {
            scope.spawn(|| {
                while fs::metadata(path).unwrap().blocks() < 1000 {
                    std::hint::spin_loop();
                }
                let file = fs::File::options().write(true).open(path).unwrap();
                for at in (0..LEN).step_by(STEP) {
                    file.write_all_at(&[7], at).unwrap();
                }
            });
            drop(Exclusive::open(path));
        });
        let file = fs::File::open(path).unwrap();
        for at in (0..LEN).step_by(STEP) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            assert_eq!(byte, [7], "at {at}");
        }
    })
    .succeed();
}
