//! No input exhausts memory: over the limit there is an error, and everything is given back.

use crate::support::bytes::{assert_same, pattern};
use crate::support::child::{report, scenario};
use crate::support::kernel::{self, Holdings, may_write, status};
use crate::support::pipe::{feed, pipe};
use crate::support::{file_with, limit_file_sizes, skip, temp_dir};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use stillmap::{Backing, Error, Reason, Snapshot, SnapshotOptions};

#[test]
fn a_stream_may_have_as_many_bytes_as_the_limit_and_no_more() {
    for limit in [0, 1, 4096, 65536, 65537, 1 << 20, (2 << 20) + 1] {
        for (size, fits) in [
            (limit, true),
            (limit + 1, false),
            (2 * limit + 70_000, false),
        ] {
            let bytes = pattern(1, size);
            let (reader, writer) = pipe();
            let writing = feed(writer, bytes.clone());
            let result = Snapshot::options()
                .size_limit(limit as u64)
                .from_fd(&reader);
            drop(reader);
            writing.join().unwrap();
            match result {
                Ok(snapshot) => {
                    assert!(fits, "{size} bytes under a limit of {limit}");
                    assert_same(&snapshot, &bytes, size);
                }
                Err(error) => {
                    let said = matches!(error, Error::TooLarge { limit: said, .. } if said == limit as u64);
                    assert!(said && !fits, "{size} bytes, limit {limit}: {error:?}");
                    assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
                }
            }
        }
    }
}

#[test]
fn the_limit_is_for_files_too_and_counts_the_window() {
    let dir = temp_dir();
    for size in [10_000, 3 << 20] {
        let bytes = pattern(2, size);
        let path = file_with(dir.path(), "file", &bytes);
        let file = Snapshot::options().size_limit(100).open(&path);
        assert!(
            matches!(file, Err(Error::TooLarge { limit: 100, .. })),
            "{file:?}"
        );
        let window = Snapshot::options().size_limit(100).offset(7).len(100);
        assert_same(&window.open(&path).unwrap(), &bytes[7..107], "a window");
        let whole = Snapshot::options().size_limit(size as u64).open(&path);
        assert_same(&whole.unwrap(), &bytes, "just enough");
    }
}

#[test]
fn over_the_limit_everything_is_given_back() {
    scenario!(|| {
        let limits = [0, 1, 100_000, 64 << 20];
        let attempt = |limit| {
            let result = Snapshot::options().size_limit(limit).open("/dev/zero");
            assert!(matches!(result, Err(Error::TooLarge { .. })), "{result:?}");
        };
        let start = status("VmRSS");
        limits.into_iter().for_each(attempt);
        // The largest of them, and not twice as much: nothing was copied to grow.
        let most = status("VmHWM") - start;
        assert!(
            most < (64 << 20) + (16 << 20),
            "{} KiB at the most",
            most / 1024
        );
        let before = Holdings::now();
        for _ in 0..5 {
            limits.into_iter().for_each(attempt);
        }
        before.assert_nothing_left("TooLarge");
    })
    .succeed();
}

#[test]
fn what_was_read_takes_no_more_than_it_needs() {
    scenario!(|| {
        for size in [100_000, 3 << 20, (65 << 20) + 1] {
            let before = status("VmRSS");
            let snapshot = Snapshot::options().len(size).open("/dev/zero").unwrap();
            let (reader, writer) = pipe();
            let writing = feed(writer, snapshot.to_vec());
            let streamed = Snapshot::from_fd(reader.as_fd()).unwrap();
            writing.join().unwrap();
            assert!(*streamed == *snapshot);
            let held = status("VmRSS").saturating_sub(before);
            // A huge page of rounding each, and what the allocator keeps.
            assert!(held < 2 * size + (12 << 20), "{size}: {} KiB", held / 1024);
        }
    })
    .succeed();
}

/// Under `ulimit -v` there is less than the default limit allows: an error, and no abort.
#[test]
fn a_process_without_memory_gets_an_error() {
    if !may_write(1 << 30) {
        return;
    }
    let reports = scenario!(|| {
        let limit = libc::rlimit64 {
            rlim_cur: 300 << 20,
            rlim_max: 300 << 20,
        };
        // SAFETY: a valid limit.
        assert_eq!(unsafe { libc::setrlimit64(libc::RLIMIT_AS, &limit) }, 0);
        let dir = temp_dir();
        let path = dir.path().join("large");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        for result in [
            stillmap::Snapshot::open("/dev/zero"),
            Snapshot::options().size_limit(u64::MAX).open("/dev/zero"),
            Snapshot::options().len(1 << 30).open("/dev/zero"),
            Snapshot::options().len(usize::MAX).open("/dev/zero"),
            Snapshot::options()
                .lease(false)
                .memory_limit(u64::MAX)
                .open(&path),
        ] {
            let error = match result {
                Err(error) => error,
                Ok(snapshot) => panic!("{snapshot:?} in 300 MiB"),
            };
            report(&error);
            let said = error.to_string();
            assert!(said.contains("zero") || said.contains("large"), "{said}");
            let fits = match error {
                Error::TooLarge { .. } => true,
                ref other => other.raw_os_error() == Some(libc::ENOMEM),
            };
            assert!(fits, "{error:?}");
        }
        // And the process goes on.
        let path = file_with(dir.path(), "small", &pattern(3, 5 << 20));
        assert_same(
            &stillmap::Snapshot::open(path).unwrap(),
            &pattern(3, 5 << 20),
            "afterwards",
        );
    })
    .succeed();
    assert_eq!(reports.reports().len(), 5, "{reports:?}");
}

#[test]
fn files_over_the_memory_limit_are_not_copied_into_memory() {
    let dir = temp_dir();
    for size in [10_000, 700_000, 5 << 20] {
        let bytes = pattern(4, size);
        let path = file_with(dir.path(), "file", &bytes);
        let options = || Snapshot::options().lease(false);
        for limit in [size as u64, u64::MAX] {
            assert_same(
                &options().memory_limit(limit).open(&path).unwrap(),
                &bytes,
                size,
            );
        }
        match options().memory_limit(size as u64 - 1).open(&path) {
            Ok(snapshot) => {
                assert_same(&snapshot, &bytes, size);
                assert_ne!(snapshot.backing(), stillmap::Backing::Memory, "{size}");
            }
            Err(error) => assert!(
                matches!(error, Error::TooLarge { limit, .. } if limit == size as u64 - 1),
                "{error:?}"
            ),
        }
        // A window counts by what it takes.
        let window = options().memory_limit(1000).offset(5).len(1000).open(&path);
        assert_same(&window.unwrap(), &bytes[5..1005], "window");
    }
}

#[test]
fn a_copy_on_disk_over_the_limit_on_file_sizes_is_an_error_and_no_signal() {
    scenario!(|| {
        let dir = temp_dir();
        let path = file_with(dir.path(), "file", &pattern(3, 2 << 20));
        limit_file_sizes(1 << 20);
        let options = || Snapshot::options().lease(false).memory_limit(0);
        match options().open(&path) {
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{error}"),
            // A clone needs no file of ours that grows, on some file systems.
            Ok(snapshot) => assert_same(&snapshot, &pattern(3, 2 << 20), "a clone"),
        }
        let snapshot = Snapshot::options().lease(false).open(&path).unwrap();
        assert_same(&snapshot, &pattern(3, 2 << 20), "in memory");
    })
    .succeed();
}

/// Case: 13,471 leases beside 52,000 mappings of the program, and the program could start no thread any more.
#[test]
fn the_last_mappings_are_for_the_program() {
    scenario!(|| {
        let dir = temp_dir();
        // One file has one lease and one mapping, so there are many files.
        let open = |number: usize| {
            let path = dir.path().join(number.to_string());
            File::create(&path).unwrap().set_len(2 << 20).unwrap();
            stillmap::Snapshot::open(&path).unwrap()
        };
        if open(0).backing() != Backing::Leased {
            return skip("no leases in the directory for temporary files");
        }
        let mut give_back = kernel::fill_mappings();
        (0..2000).for_each(|_| give_back());
        let mut held = Vec::new();
        let reason = (1..600).find_map(|number| {
            held.push(open(number));
            held.last().unwrap().reason()
        });
        assert_eq!(reason, Some(Reason::Mappings), "{} held", held.len());
        std::thread::spawn(|| ()).join().unwrap();
    })
    .succeed();
}

/// Case: a stream larger than memory.
#[test]
fn a_stream_beyond_the_memory_limit_spills() {
    let bytes = pattern(9, 5 << 20);
    for limit in [0, 1, 1 << 20, 5 << 20] {
        let (reader, writer) = pipe();
        let writing = feed(writer, bytes.clone());
        let options = Snapshot::options().memory_limit(limit).spill(true);
        let snapshot = options.offset(10).from_fd(&reader).unwrap();
        writing.join().unwrap();
        assert_same(&snapshot, &bytes[10..], limit);
        let on_disk = limit < 5 << 20;
        assert_eq!(snapshot.backing() == Backing::Disk, on_disk, "{limit}");
        assert_eq!(snapshot.as_ptr().addr() % 64, 10, "{limit}: alignment");
    }
    let options = Snapshot::options().memory_limit(1 << 20).spill(true);
    let window = options.clone().len(2 << 20).open("/dev/zero").unwrap();
    assert!(window.len() == 2 << 20 && window.iter().all(|&byte| byte == 0));
    let endless = options.size_limit(8 << 20).open("/dev/zero").unwrap_err();
    assert!(matches!(endless, Error::TooLarge { limit: 8388608, .. }));
}

/// Attack: bytes skipped for an offset were neither limited nor counted.
#[test]
fn skipped_bytes_count_against_the_limit() {
    let options = Snapshot::options().offset(1 << 60).size_limit(1 << 20);
    let error = options.open("/dev/zero").unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 1048576, .. }));
    let (reader, writer) = pipe();
    let writing = feed(writer, pattern(1, 1 << 20));
    let options = Snapshot::options()
        .offset((1 << 20) - 5)
        .size_limit(1 << 20);
    assert_eq!(options.from_fd(&reader).unwrap().len(), 5, "just enough");
    writing.join().unwrap();
}

/// The progress callback stands in for a process that appends. Before: the copy was made again, of all bytes.
#[test]
fn a_file_that_grows_over_a_limit_while_it_is_copied() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "file", b"");
    let open = |options: SnapshotOptions| {
        std::fs::write(&path, b"8 bytes.").unwrap();
        let mut more = Some(b"8 more.");
        let append = |_, _| {
            if let Some(more) = more.take() {
                let mut file = File::options().append(true).open(&path).unwrap();
                file.write_all(more).unwrap();
            }
        };
        options.progress(append).open(&path)
    };
    let over = open(Snapshot::options().size_limit(10));
    assert!(
        matches!(
            over,
            Err(Error::TooLarge {
                limit: 10,
                path: Some(_),
                ..
            })
        ),
        "{over:?}"
    );
    let old = open(Snapshot::options().copy_limit(10)).unwrap();
    assert_same(&old, b"8 bytes.", "no second copy");
    assert!(!old.is_consistent());
    let all = open(Snapshot::options().size_limit(15)).unwrap();
    assert_same(&all, b"8 bytes.8 more.", "within the limit");
    assert!(all.is_consistent());
}
