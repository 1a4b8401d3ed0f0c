//! Descriptors, sizes and devices that change between two system calls of an open.

use crate::sealed::{memfd, seal};
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::{fork, scenario};
use crate::support::disk::{LoopDevice, LoopFs};
use crate::support::trace::{Traced, stop_here};
use crate::support::{file_with, temp_dir};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use stillmap::{Backing, Error, Private, Snapshot};

const LARGE: usize = (1 << 20) + 99;
const FINAL: i32 = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK;

/// Attack "shrink, then seal": a peer does that at each moment of an open in turn. The bytes can be read, without a
/// SIGBUS, and there are no more than the memfd has.
fn shrunk_and_sealed_at_each_call(open: fn(&File) -> usize) {
    if !Traced::is_possible() {
        return;
    }
    for moment in 1.. {
        let file = memfd(&pattern(1, LARGE), libc::MFD_ALLOW_SEALING);
        let child = fork(|| {
            stop_here();
            let len = open(&file);
            assert!(len == LARGE || len == 5000, "{len}");
        });
        let mut traced = Traced::new(child.id());
        let is_running = (0..moment).all(|_| traced.step());
        if is_running {
            file.set_len(5000).unwrap();
            seal(&file, FINAL);
            assert_eq!(traced.run_on(), 0, "at stop {moment}");
        } else {
            assert!(moment > 5, "the open makes system calls");
            return;
        }
    }
}

fn sum(bytes: &[u8]) -> usize {
    let pages = bytes.iter().step_by(512);
    std::hint::black_box(pages.fold(0_u8, |sum, byte| sum.wrapping_add(*byte)));
    bytes.len()
}

#[test]
fn a_memfd_that_is_shrunk_and_then_sealed_beside_a_snapshot() {
    scenario!(|| {
        shrunk_and_sealed_at_each_call(|file| sum(&Snapshot::from_file(file).unwrap()));
    })
    .succeed();
}

#[test]
fn a_memfd_that_is_shrunk_and_then_sealed_beside_private() {
    scenario!(|| {
        shrunk_and_sealed_at_each_call(|file| sum(&Private::from_file(file).unwrap()));
    })
    .succeed();
}

/// Attack "a descriptor that is replaced": dup2(2) puts a writable memfd in the place of a sealed one, at any moment.
#[test]
fn a_descriptor_that_another_thread_replaces() {
    let sealed = memfd(&vec![0x11; LARGE], libc::MFD_ALLOW_SEALING);
    seal(&sealed, FINAL);
    let writable = memfd(&vec![0x22; LARGE], libc::MFD_ALLOW_SEALING);
    let place = sealed.try_clone().unwrap();
    let (stop, turns) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for file in [&writable, &sealed] {
                    // SAFETY: both are open, and `place` owns the number.
                    unsafe { libc::dup2(file.as_raw_fd(), place.as_raw_fd()) };
                    turns.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let mut kinds = [0, 0];
        let mut rounds = 0;
        while rounds < 2000 || (kinds.contains(&0) && rounds < 200_000) {
            rounds += 1;
            let snapshot = Snapshot::from_file(&place);
            let private = Private::from_file(&place);
            for (bytes, backing) in [
                snapshot.as_ref().map(|s| (&s[..], s.backing())).unwrap(),
                private.as_ref().map(|p| (&p[..], p.backing())).unwrap(),
            ] {
                let is_sealed = backing == Backing::Sealed;
                kinds[usize::from(is_sealed)] += 1;
                let wanted = if is_sealed { 0x11 } else { bytes[0] };
                let same = bytes.iter().step_by(4093).all(|&byte| byte == wanted);
                assert!(same && bytes[LARGE - 1] == wanted, "{backing:?}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(turns.into_inner() > 0);
}

/// The same attack on standard input. Before: `Sealed, intact`, and a byte changed after a write; for `Private` a SIGBUS.
#[test]
fn standard_input_that_another_thread_replaces() {
    scenario!(|| {
        let sealed = memfd(&vec![0x11; LARGE], libc::MFD_ALLOW_SEALING);
        seal(&sealed, FINAL);
        let writable = memfd(&vec![0x22; LARGE], libc::MFD_ALLOW_SEALING);
        let stop = AtomicBool::new(false);
        let replace = |file: &File| {
            // With an offset of its own.
            let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
            // SAFETY: both are open, and std does not close standard input.
            unsafe { libc::dup2(again.as_raw_fd(), 0) };
        };
        replace(&sealed);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    replace(&writable);
                    replace(&sealed);
                }
            });
            for round in 0..1000_u32 {
                let snapshot = Snapshot::stdin().unwrap();
                let private = Private::from_fd(std::io::stdin()).unwrap();
                let first = snapshot.first().copied();
                // A store to the one that can be written to is seen by no value.
                writable
                    .write_all_at(&[0x22 + (round % 2) as u8], LARGE as u64 - 1)
                    .unwrap();
                if snapshot.backing() == Backing::Sealed {
                    assert!(snapshot.iter().all(|&byte| byte == 0x11));
                }
                assert_eq!(snapshot.first().copied(), first);
                assert!(snapshot.len() <= LARGE && private.len() <= LARGE);
                assert!(sum(&private) > 0 || private.is_empty());
            }
            stop.store(true, Ordering::Relaxed);
        });
    })
    .succeed();
}

/// The kind of that attack: an `as_fd` that returns another descriptor each time.
#[test]
fn as_fd_is_called_once() {
    struct Fickle(File, AtomicBool);
    impl AsFd for Fickle {
        fn as_fd(&self) -> BorrowedFd<'_> {
            assert!(!self.1.swap(true, Ordering::Relaxed), "called again");
            self.0.as_fd()
        }
    }
    let new = || {
        let sealed = memfd(&vec![0x11; LARGE], libc::MFD_ALLOW_SEALING);
        seal(&sealed, FINAL);
        Fickle(sealed, AtomicBool::new(false))
    };
    assert_eq!(Snapshot::from_fd(new()).unwrap()[0], 0x11);
    assert_eq!(Snapshot::from_file(new()).unwrap()[0], 0x11);
    assert_eq!(Private::from_fd(new()).unwrap()[0], 0x11);
    let fickle = new();
    // SAFETY: the memfd is sealed.
    assert_eq!(
        unsafe { Snapshot::map_unguarded(&fickle) }.unwrap()[0],
        0x11
    );
}

/// Attack: a block device that is written to meanwhile had 0 bytes in 80 of 200 opens.
#[test]
fn a_block_device_that_is_written_to_has_all_its_bytes() {
    let dir = temp_dir();
    let size = 1 << 20;
    let Some(device) = LoopDevice::new(&file_with(dir.path(), "image", &vec![7; size])) else {
        return;
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let writer = File::options().write(true).open(device.path()).unwrap();
            while !stop.load(Ordering::Relaxed) {
                writer.write_all_at(&[7; 4096], 8192).unwrap();
            }
        });
        for _ in 0..100 {
            let snapshot = stillmap::Snapshot::open(device.path()).unwrap();
            let private = Private::open(device.path()).unwrap();
            assert!(snapshot.len() == size && private.len() == size);
            assert!(snapshot.iter().all(|&byte| byte == 7));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Attack: a sparse sealed memfd took 4 GiB despite both limits, since a mapping takes a page for each hole it reads.
#[test]
fn holes_of_a_sealed_memfd_count_against_the_memory_limit() {
    let size = 256 << 20;
    let file = memfd(b"head", libc::MFD_ALLOW_SEALING);
    file.set_len(size as u64).unwrap();
    seal(&file, FINAL);
    let blocks = || file.metadata().unwrap().blocks();
    let before = blocks();
    let over = Snapshot::options().size_limit(1 << 20).from_file(&file);
    assert!(matches!(over, Err(Error::TooLarge { limit: 1048576, .. })));
    let over = Private::options().size_limit(1 << 20).from_file(&file);
    assert!(matches!(over, Err(Error::TooLarge { limit: 1048576, .. })));
    let snapshot = Snapshot::options().memory_limit(1 << 20).from_file(&file);
    let snapshot = snapshot.unwrap();
    let private = Private::options().memory_limit(1 << 20).from_file(&file);
    let private = private.unwrap();
    for bytes in [&snapshot[..], &private[..]] {
        assert!(bytes.len() == size && bytes.starts_with(b"head\0"));
        assert!(bytes[4..].iter().step_by(4096).all(|&byte| byte == 0));
    }
    assert_eq!(snapshot.backing(), Backing::Disk);
    assert_eq!(private.backing(), Backing::Disk);
    assert_eq!(blocks(), before, "no page of the memfd was made");
}

/// Attack "the function that is called on progress forks": parent and child read from one descriptor, and wrote to one
/// unnamed file, and the child had no second thread that reads its part.
#[test]
fn only_the_parent_goes_on_when_progress_forks() {
    scenario!(|| {
        let dir = temp_dir();
        let bytes = pattern(1, 64 << 20);
        let path = file_with(dir.path(), "file", &bytes);
        // In memory, and on disk.
        for limit in [u64::MAX, 1 << 20] {
            let mut child = None;
            let options = Snapshot::options().lease(false).memory_limit(limit);
            let opened = options.progress(|_, _| {
                if child.is_none() {
                    // SAFETY: the other thread holds no lock that the child takes.
                    child = Some(unsafe { libc::fork() });
                }
            });
            let opened = opened.open(&path);
            let child = child.unwrap();
            if child == 0 {
                let is_refused = matches!(opened, Err(Error::WrongProcess { .. }));
                // SAFETY: ends the process.
                unsafe { libc::_exit(if is_refused { 0 } else { 1 }) };
            }
            let mut status = 0;
            // SAFETY: `status` is a valid place for the answer.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0);
            assert_same(&opened.unwrap(), &bytes, "the parent's");
        }
    })
    .succeed();
}

/// Attack "holes that are none": the kernel reports bytes that have no blocks yet (delayed allocation, in a file of ext2
/// or ext3) as holes, and the copy had zeros.
#[test]
fn bytes_that_were_not_written_back_yet_are_copied() {
    for options in [&["-O", "^extent,^64bit"][..], &[]] {
        let Some(system) = LoopFs::with_options("ext4", 64 << 20, options) else {
            return;
        };
        let path = system.path().join("file");
        let sparse = File::create(&path).unwrap();
        let mut model = vec![0; 8 << 20];
        sparse.set_len(model.len() as u64).unwrap();
        for at in (100..model.len()).step_by(1 << 20) {
            sparse.write_all_at(b"bytes", at as u64).unwrap();
            model[at..at + 5].copy_from_slice(b"bytes");
        }
        let on_disk = Snapshot::options().lease(false).memory_limit(0);
        let copy = on_disk.open(&path).unwrap();
        assert_eq!(copy.backing(), Backing::Disk);
        assert_same(&copy, &model, "the copy");
    }
}
