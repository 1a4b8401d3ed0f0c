//! Somebody else wants the file: he waits, and when he has waited long enough he gets it, with all stores until then.

use crate::support::bytes::assert_same;
use crate::support::child::scenario;
use crate::support::{file_with, kernel};
use crate::{BreakTime, open, systems};
use folio::{Error, Exclusive};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

#[test]
fn every_other_open_waits_or_fails_if_it_may_not_wait() {
    for (kind, system) in systems() {
        let path = file_with(system.path(), "file", b"old bytes");
        let mut file = open(&path);
        assert!(!file.is_wanted());
        for (read, write) in [(true, false), (false, true), (true, true)] {
            let mut options = File::options();
            options
                .read(read)
                .write(write)
                .custom_flags(libc::O_NONBLOCK);
            let refused = options.open(&path).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::WouldBlock, "{kind}");
        }
        assert!(file.is_wanted());
        let reader = thread::spawn({
            let path = path.clone();
            move || fs::read(path).unwrap()
        });
        file.copy_from_slice(b"NEW BYTES");
        file.close().unwrap();
        assert_eq!(reader.join().unwrap(), b"NEW BYTES", "{kind}");
    }
}

#[test]
fn names_may_change_meanwhile() {
    for (_, system) in systems() {
        let path = file_with(system.path(), "file", b"old");
        let mut file = open(&path);
        fs::rename(&path, system.path().join("other")).unwrap();
        fs::write(&path, b"another file").unwrap();
        assert!(!file.is_wanted());
        file.copy_from_slice(b"new");
        file.close().unwrap();
        assert_eq!(fs::read(system.path().join("other")).unwrap(), b"new");
        assert_eq!(fs::read(&path).unwrap(), b"another file");
    }
}

/// Two threads store rising numbers, each into its half; the opener sees for each half how far it had got: all stores
/// until then, none after. The mapping goes on.
#[test]
fn at_the_deadline_the_opener_gets_all_stores_until_then_and_the_mapping_goes_on() {
    scenario!(|| {
        let Some(_time) = BreakTime::of(2) else {
            return;
        };
        for (kind, system) in systems() {
            let pages = 2 * 512;
            let path = file_with(system.path(), "file", &vec![0; pages * 4096]);
            let mut file = open(&path);
            let address = file.as_ptr();
            let stop = AtomicBool::new(false);
            let (left, right) = file.split_at_mut(pages / 2 * 4096);
            let (seen, counts) = thread::scope(|scope| {
                let storing: Vec<_> = [left, right]
                    .into_iter()
                    .map(|half| {
                        let stop = &stop;
                        scope.spawn(move || {
                            let mut number = 0_u64;
                            while !stop.load(Ordering::Relaxed) {
                                number += 1;
                                // Downwards, so that no page is ever behind the one after it.
                                for page in half.chunks_mut(4096).rev() {
                                    page[100..108].copy_from_slice(&number.to_le_bytes());
                                }
                            }
                            number
                        })
                    })
                    .collect();
                let seen = fs::read(&path).unwrap();
                // The opener has it: it may write, and we do not see it.
                fs::write(&path, b"the opener's").unwrap();
                stop.store(true, Ordering::Relaxed);
                let counts: Vec<u64> = storing.into_iter().map(|t| t.join().unwrap()).collect();
                (seen, counts)
            });
            assert_eq!(seen.len(), pages * 4096, "{kind}");
            let number = |page: &[u8]| u64::from_le_bytes(page[100..108].try_into().unwrap());
            for (half, count) in seen.chunks(pages / 2 * 4096).zip(&counts) {
                let numbers: Vec<u64> = half.chunks(4096).map(number).collect();
                assert!(
                    numbers[0] > 0 && numbers[0] < *count,
                    "{kind}: {} of {count}",
                    numbers[0]
                );
                // The stores until one moment: from some page on the round that was under way, before it the last.
                assert!(numbers.is_sorted(), "{kind}: a store was lost");
                assert!(
                    numbers[numbers.len() - 1] - numbers[0] <= 1,
                    "{kind}: {numbers:?}"
                );
            }
            // The mapping holds the last number everywhere.
            for (half, count) in file.chunks(pages / 2 * 4096).zip(&counts) {
                assert!(
                    half.chunks(4096).all(|page| number(page) == *count),
                    "{kind}"
                );
            }
            assert_eq!(file.as_ptr(), address);
            file.fill(3);
            assert!(file.is_wanted());
            assert!(matches!(file.flush(), Err(Error::LeaseLost { .. })));
            assert!(matches!(
                file.start_writeback(..),
                Err(Error::LeaseLost { .. })
            ));
            assert!(matches!(file.resize(1), Err(Error::LeaseLost { .. })));
            assert_same(&file, &vec![3; pages * 4096], kind);
            let error = file.close().unwrap_err();
            assert!(
                matches!(&error, Error::LeaseLost { path: Some(p) } if *p == path),
                "{error}"
            );
            assert_eq!(fs::read(&path).unwrap(), b"the opener's", "{kind}");
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
        let Some(_time) = BreakTime::of(1) else {
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

#[test]
fn nothing_is_left_of_thousands() {
    scenario!(|| {
        let Some(system) = crate::any_system() else {
            return;
        };
        let path = file_with(system.path(), "file", &[1; 5000]);
        let cycle = || {
            let mut file = open(&path);
            file[0] ^= 1;
            file.resize(6000).unwrap();
            file.resize(5000).unwrap();
        };
        let refused = || {
            let _reader = File::open(&path).unwrap();
            assert!(Exclusive::open(&path).is_err());
        };
        cycle();
        let before = kernel::Holdings::now();
        (0..3000).for_each(|_| cycle());
        // Each of these waits a little before it is sure.
        (0..50).for_each(|_| refused());
        before.assert_nothing_left("3000 times");
    })
    .succeed();
}
