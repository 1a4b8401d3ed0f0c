//! Files that are open already, that this process edits, and that no lease protects.

use crate::support::child::{fork, scenario};
use crate::support::disk::{LoopFs, free};
use crate::support::exclusive::{any_system, open, systems};
use crate::support::{file_with, temp_dir};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicU8;
use std::time::{Duration, Instant};
use stillmap::{Backing, Draft, Error, Exclusive, Live, Private, Shared, Snapshot, open_all};

fn read_write(path: &std::path::Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// Case: the process blocked on its own lease for 34 seconds, and lost it.
#[test]
fn a_second_one_in_the_same_process_is_busy_at_once() {
    for (kind, system) in systems() {
        let path = file_with(system.path(), "file", b"bytes");
        let other = system.path().join("other");
        fs::hard_link(&path, &other).unwrap();
        let mut first = open(&path);
        for path in [&path, &other] {
            assert!(matches!(Exclusive::open(path), Err(Error::Busy { .. })));
            assert!(matches!(Exclusive::try_open(path), Err(Error::Busy { .. })));
            let is_busy = [
                Snapshot::open(path).map(drop),
                Snapshot::options().copy_limit(1 << 20).open(path).map(drop),
                open_all([path]).next().unwrap().map(drop),
                Private::open(path).map(drop),
                Live::open(path).map(drop),
                Shared::<[AtomicU8]>::open_slice(path).map(drop),
                Shared::<[AtomicU8]>::create_slice(path, 5).map(drop),
                Draft::edit(path).map(drop),
            ]
            .map(|opened| matches!(opened, Err(Error::Busy { .. })));
            assert_eq!(is_busy, [true; 8]);
        }
        // No open has reached the file, so the lease is as it was.
        assert!(!first.has_waiter(), "{kind}");
        first[0] = b'B';
        first.close().unwrap();
        assert_eq!(&Snapshot::open(&path).unwrap()[..], b"Bytes");
        open(&other).close().unwrap();
        // One that waits gets it when it is released. Before: a time without end was a panic.
        let first = open(&path);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let options = Exclusive::options().wait(Duration::MAX);
                options.open(&path).map(|file| file[0])
            });
            first.close().unwrap();
            assert_eq!(second.join().unwrap().unwrap(), b'B');
        });
    }
}

#[test]
fn another_process_is_not_waited_for_longer_than_asked() {
    scenario!(|| {
        let Some(system) = any_system() else { return };
        let path = file_with(system.path(), "file", b"bytes");
        let (theirs, ours) = crate::support::pipe::pipe();
        let child = fork(|| {
            let _file = open(&path);
            std::io::Write::write_all(&mut File::from(ours.try_clone().unwrap()), b"x").unwrap();
            loop {
                std::thread::park();
            }
        });
        std::io::Read::read_exact(&mut File::from(theirs), &mut [0]).unwrap();
        // Only against a hang: the lease would be lost after 34 seconds.
        let start = Instant::now();
        assert!(matches!(
            Exclusive::try_open(&path),
            Err(Error::Busy { .. })
        ));
        let options = Exclusive::options().wait(Duration::from_millis(50));
        assert!(matches!(options.open(&path), Err(Error::Busy { .. })));
        assert!(start.elapsed() < Duration::from_secs(20));
        child.kill();
        child.wait();
        open(&path).close().unwrap();
    })
    .succeed();
}

/// Case: `Instant + Duration::MAX` panicked.
#[test]
fn a_file_can_be_waited_for_without_end() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "file", b"bytes");
    let options = Exclusive::options().wait(Duration::MAX);
    match options.open(&path) {
        Err(Error::Unprotectable { .. }) => {}
        opened => opened.unwrap().close().unwrap(),
    }
    match options.from_owned(read_write(&path)) {
        Err(Error::Unprotectable { .. }) => {}
        opened => opened.unwrap().close().unwrap(),
    }
}

#[test]
fn a_file_that_is_open() {
    for (kind, system) in systems() {
        let path = file_with(system.path(), "file", b"bytes");
        let mut file = loop {
            match Exclusive::try_from(read_write(&path)) {
                Err(Error::Busy { .. }) => {}
                other => break other.unwrap(),
            }
        };
        assert_eq!(file.backing(), Backing::Leased);
        file[0] = b'B';
        file.close().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"Bytes", "{kind}");
        // A duplicate could write to the file.
        let file = read_write(&path);
        let _duplicate = file.try_clone().unwrap();
        assert!(matches!(Exclusive::try_from(file), Err(Error::Busy { .. })));
        let error = Exclusive::try_from(File::open(&path).unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        let why = "the descriptor is not open for reading and writing";
        assert!(error.to_string().ends_with(why), "{error}");
    }
}

#[test]
fn any_file_on_the_callers_word() {
    let dir = temp_dir();
    let disks = ["btrfs", "tmpfs", "xfs"].map(|kind| LoopFs::new(kind, 128 << 20));
    let disks = disks.iter().flatten().map(LoopFs::path);
    for dir in disks.chain([dir.path()]) {
        let path = file_with(dir, "file", &[1; 5000]);
        let file = read_write(&path);
        // SAFETY: this test alone knows the file.
        let mut map = unsafe { Exclusive::map_unguarded(&file) }.unwrap();
        assert_eq!((map.len(), map.backing()), (5000, Backing::Unguarded));
        map[4999] = 2;
        map.resize(20_000).unwrap();
        map[19_999] = 3;
        map.flush_range(19_999..).unwrap();
        map.resize(0).unwrap();
        map.resize(10).unwrap();
        map[9] = 4;
        assert!(!map.has_waiter());
        map.close().unwrap();
        assert_eq!(fs::read(&path).unwrap(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
    }
    let null = read_write("/dev/null".as_ref());
    // SAFETY: it fails.
    let error = unsafe { Exclusive::map_unguarded(&null) }.unwrap_err();
    assert!(matches!(error, Error::NotMappable { .. }));
    let reader = File::open(file_with(dir.path(), "file", b"x")).unwrap();
    // SAFETY: it fails.
    let error = unsafe { Exclusive::map_unguarded(&reader) }.unwrap_err();
    let why = "the descriptor is not open for reading and writing";
    assert!(error.to_string().ends_with(why), "{error}");
}

/// A sparse file that is larger than the disk: an error, and the disk is as it was. It was full afterwards.
#[test]
fn a_giant_with_holes_takes_nothing_if_it_does_not_fit() {
    for (kind, system) in systems() {
        for excess in [1 << 30, 1] {
            let path = system.path().join("giant");
            let file = File::create(&path).unwrap();
            file.set_len(free(system.path()) + excess).unwrap();
            // Something in the middle, that has to stay.
            std::os::unix::fs::FileExt::write_all_at(&file, b"data", 10 << 20).unwrap();
            file.sync_all().unwrap();
            let (before, blocks) = (free(system.path()), file.metadata().unwrap().blocks());
            drop(file);
            let error = loop {
                match Exclusive::open(&path).map(drop) {
                    Err(Error::Busy { .. }) => {}
                    other => break other.unwrap_err(),
                }
            };
            // With 32 bits there may be no addresses for it.
            let no_addresses = (usize::BITS == 32).then_some(libc::ENOMEM);
            let errno = error.raw_os_error();
            assert!(
                errno == Some(libc::ENOSPC) || errno == no_addresses,
                "{kind}: {error}"
            );
            assert_eq!(free(system.path()), before, "{kind}");
            assert_eq!(fs::metadata(&path).unwrap().blocks(), blocks, "{kind}");
            fs::remove_file(&path).unwrap();
        }
    }
}
