//! `SnapshotOptions`: windows, progress, populate, and which strategies are allowed.

use crate::support::bytes::{assert_same, pattern};
use crate::support::child::scenario;
use crate::support::kernel::{minor_faults, present_pages, present_pages_do_not_fault};
use crate::support::pipe::{feed, pipe};
use crate::support::{file_with, temp_dir};
use std::fs::File;
use stillmap::{Backing, Error, Snapshot, SnapshotOptions};

const SIZES: [usize; 4] = [0, 10_000, 700_000, (6 << 20) + 99];

#[test]
fn outside_the_file_is_out_of_bounds_before_anything_is_read() {
    let dir = temp_dir();
    for size in SIZES {
        let path = file_with(dir.path(), "file", &pattern(1, size));
        let n = size as u64;
        for (offset, len) in [
            (n + 1, None),
            (n + 1, Some(0)),
            (n, Some(1)),
            (0, Some(size + 1)),
            (1, Some(size)),
            (0, Some(usize::MAX)),
            (0, Some(isize::MAX as usize)),
            (u64::MAX, None),
            (u64::MAX, Some(1)),
            (u64::MAX, Some(usize::MAX)),
            (1 << 63, None),
            (i64::MAX as u64, Some(usize::MAX)),
        ] {
            let options = || {
                let options = Snapshot::options().offset(offset);
                let options = match len {
                    Some(len) => options.len(len),
                    None => options,
                };
                options.progress(|_, _| panic!("nothing is to be read"))
            };
            for result in [
                options().open(&path),
                options().from_fd(File::open(&path).unwrap()),
            ] {
                let error = result.unwrap_err();
                let fits = matches!(error, Error::OutOfBounds { offset: o, size: s, .. } if o == offset && s == n);
                assert!(fits, "{len:?} from {offset} of {size}: {error:?}");
                assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
            }
        }
    }
}

#[test]
fn progress_rises_to_the_whole() {
    let dir = temp_dir();
    for size in SIZES {
        let bytes = pattern(2, size);
        let path = file_with(dir.path(), "file", &bytes);
        let mut calls = Vec::new();
        let options = Snapshot::options().lease(false);
        let snapshot = options
            .progress(|done, total| calls.push((done, total)))
            .open(&path)
            .unwrap();
        assert_same(&snapshot, &bytes, size);
        assert!(calls.is_sorted(), "{calls:?}");
        assert!(
            calls.iter().all(|call| call.1 == Some(size as u64)),
            "{calls:?}"
        );
        if size > 0 && snapshot.backing() == Backing::Memory {
            assert_eq!(
                calls.last().map(|call| call.0),
                Some(size as u64),
                "{calls:?}"
            );
        }

        let mut calls = Vec::new();
        let (reader, writer) = pipe();
        let writing = feed(writer, bytes.clone());
        let options = Snapshot::options().progress(|done, total| calls.push((done, total)));
        assert_same(&options.from_fd(&reader).unwrap(), &bytes, size);
        assert!(calls.is_sorted(), "{calls:?}");
        assert!(
            calls.iter().all(|call| call.1.is_none()),
            "the total is unknown: {calls:?}"
        );
        if size > 0 {
            assert_eq!(
                calls.last().map(|call| call.0),
                Some(size as u64),
                "{calls:?}"
            );
        }
        if size > 1 << 20 {
            assert!(calls.len() > 2, "{calls:?}");
        }
        writing.join().unwrap();
    }
}

#[test]
fn progress_may_borrow_and_may_panic() {
    scenario!(|| {
        std::panic::set_hook(Box::new(|_| {}));
        let dir = temp_dir();
        let path = file_with(dir.path(), "file", &pattern(3, 6 << 20));
        // A clone makes no progress: it is there at once.
        let whole = Snapshot::options().lease(false).open(&path).unwrap();
        let is_copied = whole.backing() == Backing::Memory;
        let attempt = || {
            let done = std::panic::catch_unwind(|| {
                let _ = Snapshot::options()
                    .lease(false)
                    .progress(|_, _| panic!())
                    .open(&path);
            });
            let (reader, writer) = pipe();
            let writing = feed(writer, pattern(3, 6 << 20));
            let stream = std::panic::catch_unwind(|| {
                let _ = Snapshot::options()
                    .progress(|_, _| panic!())
                    .from_fd(reader);
            });
            writing.join().unwrap();
            assert!(done.is_err() == is_copied && stream.is_err());
        };
        attempt();
        let before = crate::support::kernel::Holdings::now();
        (0..20).for_each(|_| attempt());
        before.assert_nothing_left("after panics");
    })
    .succeed();
}

#[test]
fn must_map_copies_nothing_but_small_files() {
    let dir = temp_dir();
    for size in SIZES {
        let bytes = pattern(4, size);
        let path = file_with(dir.path(), "file", &bytes);
        match Snapshot::options().require_mapping(true).open(&path) {
            Ok(snapshot) => {
                assert_same(&snapshot, &bytes, size);
                assert!(
                    size <= 1 << 20 || snapshot.backing() != Backing::Memory,
                    "{snapshot:?}"
                );
            }
            Err(error) => {
                let refused = matches!(
                    error,
                    Error::NotMappable { .. } | Error::Unprotectable { .. }
                );
                assert!(refused, "{error:?}");
                assert!(error.to_string().contains("file"), "{error}");
            }
        }
    }
    for path in ["/proc/version", "/dev/null", "/dev/zero"] {
        let error = Snapshot::options()
            .require_mapping(true)
            .open(path)
            .unwrap_err();
        assert!(
            matches!(error, Error::NotMappable { .. }),
            "{path}: {error:?}"
        );
        assert!(error.to_string().contains(path), "{error}");
    }
}

#[test]
fn without_a_lease_nothing_is_leased() {
    let dir = temp_dir();
    for size in SIZES {
        let bytes = pattern(5, size);
        let path = file_with(dir.path(), "file", &bytes);
        let snapshot = Snapshot::options().lease(false).open(&path).unwrap();
        assert_same(&snapshot, &bytes, size);
        assert_ne!(snapshot.backing(), Backing::Leased);
    }
}

#[test]
fn populate_leaves_nothing_to_fault() {
    if !crate::support::kernel::can_populate() {
        return;
    }
    let counted = present_pages_do_not_fault();
    let dir = temp_dir();
    for size in [700_000, 6 << 20] {
        let bytes = pattern(7, size);
        let path = file_with(dir.path(), "file", &bytes);
        let memfd = crate::sealed::sealed_memfd(&bytes);
        let options = || Snapshot::options().populate(true);
        let window = options().offset(4097).len(size - 9000);
        for snapshot in [
            options().open(&path).unwrap(),
            options().from_fd(&memfd).unwrap(),
            window.from_fd(sealed_again(&bytes)).unwrap(),
        ] {
            let pages = size_in_pages(&snapshot);
            assert_eq!(present_pages(&snapshot), pages, "{snapshot:?}");
            if !counted {
                continue;
            }
            let before = minor_faults();
            let sum: u64 = snapshot
                .iter()
                .step_by(512)
                .map(|&byte| u64::from(byte))
                .sum();
            assert!(std::hint::black_box(sum) > 0);
            // A few for the stack and the counting itself.
            assert!(minor_faults() - before < 8, "{snapshot:?}");
        }
    }
}

fn sealed_again(bytes: &[u8]) -> File {
    crate::sealed::sealed_memfd(bytes)
}

fn size_in_pages(bytes: &[u8]) -> usize {
    let page = crate::support::kernel::page_size();
    let start = bytes.as_ptr() as usize;
    (start + bytes.len()).div_ceil(page) - start / page
}

#[test]
fn options_can_be_given_in_any_order_and_twice() {
    let dir = temp_dir();
    let bytes = pattern(8, 100_000);
    let path = file_with(dir.path(), "file", &bytes);
    let snapshot = SnapshotOptions::default()
        .len(7)
        .size_limit(1)
        .size_limit(20)
        .populate(true)
        .offset(9)
        .memory_limit(u64::MAX)
        .offset(10)
        .len(20)
        .open(&path);
    assert_same(&snapshot.unwrap(), &bytes[10..30], "the last word counts");
}
