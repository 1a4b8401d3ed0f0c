//! `Shared`: every way to get one, what it refuses, bulk bytes against a model, counters that lose nothing.
#![allow(clippy::disallowed_methods)]

#[path = "../support/mod.rs"]
mod support;

mod bytes;
mod create;
mod processes;
mod windows;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering,
};
use stillmap::{Anonymous, Backing, Error, Shareable, Shared, Snapshot, fork};
use support::child::scenario;
use support::disk::LoopFs;
use support::pipe::pipe;
use support::pool::HugePagePool;
use support::refuse::refuse;
use support::{kernel, limit_file_sizes, temp_dir};

stillmap::shareable! {
    /// Documentation and derives go through.
    #[derive(Debug, Default)]
    pub struct Counters {
        /// Attempts.
        tried: AtomicU64,
        #[allow(dead_code)]
        by_kind: [AtomicU32; 6],
        pub done: AtomicI64,
    }

    struct Line { counters: Counters, rest: [AtomicU8; 24] }
}

fn duplicate<T: ?Sized + Shareable>(shared: &Shared<T>) -> OwnedFd {
    shared.fd().unwrap().try_clone_to_owned().unwrap()
}

fn bytes(shared: &Shared<[AtomicU8]>) -> Vec<u8> {
    shared.iter().map(|b| b.load(Ordering::Relaxed)).collect()
}

#[test]
fn it_can_cross_threads_and_shows_no_bytes() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<Shared<Counters>>();
    crosses::<Shared<[AtomicU8]>>();
    let shared = Shared::<AtomicU64>::new().unwrap();
    shared.store(123_456_789, Ordering::Relaxed);
    let text = format!("{shared:?}");
    assert!(
        text.contains("size: 8") && !text.contains("123456789"),
        "{text}"
    );
}

#[test]
fn own_structs_have_the_layout_that_they_show() {
    assert_eq!(size_of::<Counters>(), 40);
    assert_eq!(size_of::<Line>(), 64);
    let dir = temp_dir();
    let path = dir.path().join("line");
    let line = Shared::<Line>::create(&path).unwrap();
    line.counters.tried.store(1, Ordering::Relaxed);
    line.counters.by_kind[5].store(2, Ordering::Relaxed);
    line.counters.done.store(-3, Ordering::Relaxed);
    line.rest[23].store(4, Ordering::Relaxed);
    let mut expected = [0; 64];
    expected[..8].copy_from_slice(&1_u64.to_ne_bytes());
    expected[28..32].copy_from_slice(&2_u32.to_ne_bytes());
    expected[32..40].copy_from_slice(&(-3_i64).to_ne_bytes());
    expected[63] = 4;
    assert_eq!(std::fs::read(&path).unwrap(), expected);
}

#[test]
fn every_way_gives_zeros_and_one_memory() {
    let dir = temp_dir();
    let path = dir.path().join("file");
    let made = [
        Shared::<[AtomicU8]>::with_len(10_000).unwrap(),
        Shared::<[AtomicU8]>::memfd_slice("test", 10_000).unwrap(),
        Shared::<[AtomicU8]>::create_slice(&path, 10_000).unwrap(),
    ];
    for shared in &made {
        assert_eq!(bytes(shared), vec![0; 10_000]);
        shared.flush().unwrap();
        shared.start_writeback().unwrap();
        shared.check_fault().unwrap();
    }
    assert!(made[0].fd().is_none());
    let again = Shared::<[AtomicU8]>::from_fd_slice(duplicate(&made[1])).unwrap();
    made[1][9_999].store(1, Ordering::Relaxed);
    assert_eq!(again[9_999].load(Ordering::Relaxed), 1);
    let again = Shared::<[AtomicU8]>::open_slice(&path).unwrap();
    made[2][9_999].store(1, Ordering::Relaxed);
    assert_eq!(again[9_999].load(Ordering::Relaxed), 1);
    assert_eq!(std::fs::read(&path).unwrap(), bytes(&again));
    // What is written past the mapping is seen by the file, and the other way round.
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all_at(&[5], 77)
        .unwrap();
    assert_eq!(made[2][77].load(Ordering::Relaxed), 5);
}

#[test]
fn nothing_is_a_length_too() {
    let dir = temp_dir();
    let path = dir.path().join("empty");
    let made = [
        Shared::<[AtomicU64]>::with_len(0).unwrap(),
        Shared::<[AtomicU64]>::memfd_slice("test", 0).unwrap(),
        Shared::<[AtomicU64]>::create_slice(&path, 0).unwrap(),
        Shared::<[AtomicU64]>::open_slice(&path).unwrap(),
    ];
    for shared in made {
        assert!(shared.is_empty());
        shared.flush().unwrap();
        shared.start_writeback().unwrap();
        shared.check_fault().unwrap();
    }
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    let sealed = Shared::<[AtomicU8]>::memfd_slice("test", 0).unwrap().seal();
    assert!(sealed.unwrap().is_empty());
    let bytes = Shared::<[AtomicU8]>::with_len(0).unwrap();
    bytes.read_at(0, &mut []).unwrap();
    assert!(bytes.read_at(0, &mut [0]).is_err());
}

#[test]
fn a_file_of_the_wrong_size_is_refused_with_both_sizes() {
    let dir = temp_dir();
    let path = support::file_with(dir.path(), "file", &[0; 39]);
    let error = Shared::<Counters>::open(&path).unwrap_err();
    assert!(matches!(
        &error,
        Error::TooSmall {
            needed: 40,
            size: 39,
            ..
        }
    ));
    assert!(error.to_string().contains("file"), "{error}");
    let fd = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let error = Shared::<Counters>::from_fd(fd).unwrap_err();
    assert!(matches!(
        error,
        Error::TooSmall {
            needed: 40,
            size: 39,
            ..
        }
    ));
    let error = Shared::<[AtomicU16]>::open_slice(&path).unwrap_err();
    assert!(matches!(
        error,
        Error::WrongSize {
            size: 39,
            multiple_of: 2,
            ..
        }
    ));
    // And left as it is.
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 39);
}

#[test]
fn lengths_beyond_any_address_space_are_errors() {
    for len in [usize::MAX, usize::MAX / 8, isize::MAX as usize] {
        let refused = [
            Shared::<[AtomicU64]>::with_len(len),
            Shared::<[AtomicU64]>::memfd_slice("test", len),
            Shared::<[AtomicU64]>::create_slice("/nonexistent", len),
        ];
        for result in refused {
            assert!(matches!(result, Err(Error::TooLarge { .. })), "{result:?}");
        }
    }
}

#[test]
fn what_cannot_be_shared_is_refused() {
    let dir = temp_dir();
    let open = |path: &Path| Shared::<AtomicU8>::open(path).unwrap_err();
    let received = |fd: OwnedFd| Shared::<AtomicU8>::from_fd(fd).unwrap_err();
    for error in [
        open(dir.path()),
        Shared::<AtomicU8>::create(dir.path()).unwrap_err(),
        received(File::open(dir.path()).unwrap().into()),
    ] {
        assert!(matches!(error, Error::IsDirectory { .. }), "{error}");
    }
    let fifo = dir.path().join("fifo");
    support::pipe::make_fifo(&fifo);
    let (reader, writer) = pipe();
    let file = support::file_with(dir.path(), "file", b"bytes");
    let memfd = Shared::<AtomicU8>::memfd("test").unwrap();
    let sealed = duplicate(&memfd);
    memfd.seal().unwrap();
    for error in [
        open(&fifo),
        open(Path::new("/dev/zero")),
        open(Path::new("/proc/self/comm")),
        Shared::<AtomicU8>::create("/dev/null").unwrap_err(),
        received(reader),
        received(writer),
        received(File::open(&file).unwrap().into()),
        received(OpenOptions::new().write(true).open(&file).unwrap().into()),
        received(sealed),
        received(support::by_name(&file)),
    ] {
        assert!(matches!(error, Error::NotMappable { .. }), "{error}");
    }
    let setting = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
    match OpenOptions::new().read(true).write(true).open(setting) {
        Ok(_) => assert!(matches!(open(setting), Error::NotMappable { .. })),
        Err(error) => support::skip(format_args!("a setting in /sys: {error}")),
    }
    let missing = open(&dir.path().join("missing"));
    assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
    let missing = Shared::<AtomicU8>::create(dir.path().join("missing/file")).unwrap_err();
    assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
    for (path, errno) in [("", libc::ENOENT), ("none/..", libc::ENOENT)] {
        let refused = Shared::<AtomicU8>::create(path).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(errno), "{path:?}");
    }
    let slash = Shared::<AtomicU8>::create(dir.path().join("new/")).unwrap_err();
    assert!(matches!(slash, Error::IsDirectory { .. }), "{slash}");
    let zero = Shared::<AtomicU8>::memfd("a\0b").unwrap_err();
    assert_eq!(zero.raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn more_alignment_than_a_page_is_always_refused() {
    stillmap::shareable! {
        #[repr(align(131072))]
        struct Wide { all: [AtomicU64; 16384] }
    }
    let is_refused = |error| matches!(error, Error::Misaligned { align: 131072, .. });
    // Case: it depended on the address, so that a program worked now and then.
    let mut others = Vec::new();
    for _ in 0..100 {
        assert!(is_refused(Shared::<Wide>::new().unwrap_err()));
        others.push(stillmap::Anonymous::new(1).unwrap());
    }
    // A reference to nothing has to be aligned, too.
    stillmap::shareable! {
        #[repr(align(131072))]
        struct Nothing {}
    }
    assert!(is_refused(Shared::<Nothing>::new().unwrap_err()));
    assert!(is_refused(Shared::<[Wide]>::with_len(0).unwrap_err()));
}

/// Linux before 6.7 refuses to map a sealed memfd shared by this descriptor, which is for writing. Before: EPERM.
#[test]
fn sealed_bytes_are_final() {
    let shared = Shared::<[AtomicU8]>::memfd_slice("test", 5000).unwrap();
    shared.write_at(0, &[7; 5000]).unwrap();
    let fd = duplicate(&shared);
    let sealed = shared.seal().unwrap();
    assert_eq!(sealed.backing(), Backing::Sealed);
    assert!(sealed[..] == [7; 5000]);
    let file = File::from(fd);
    assert!(file.write_all_at(&[1], 0).is_err());
    assert!(file.set_len(0).is_err());
    assert!(file.set_len(10_000).is_err());
    assert!(Shared::<AtomicU8>::from_fd(file.try_clone().unwrap()).is_err());
    // Files this small are read.
    assert!(Snapshot::from_fd(&file).unwrap()[..] == [7; 5000]);
}

#[test]
fn what_others_have_mapped_is_not_sealed() {
    scenario!(|| {
        let shared = Shared::<[AtomicU8]>::memfd_slice("test", 5000).unwrap();
        let other = Shared::<[AtomicU8]>::from_fd_slice(duplicate(&shared)).unwrap();
        let fd = duplicate(&shared);
        let busy = shared.seal();
        assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");
        // The others have it as it was.
        other.write_at(0, b"still here").unwrap();
        drop(other);
        let (end, hold) = pipe();
        let (ready, say) = pipe();
        let shared = Shared::<[AtomicU8]>::from_fd_slice(fd).unwrap();
        let fd = duplicate(&shared);
        fork::scope(|s| {
            // A child has it mapped, although it does not use it.
            s.spawn(|| {
                File::from(say).write_all(b"!").unwrap();
                File::from(end).read_exact(&mut [0]).unwrap();
            })
            .unwrap();
            File::from(ready).read_exact(&mut [0]).unwrap();
            assert!(matches!(shared.seal(), Err(Error::Busy { .. })));
            File::from(hold).write_all(b"!").unwrap();
        })
        .unwrap();
        let shared = Shared::<[AtomicU8]>::from_fd_slice(fd).unwrap();
        assert!(shared.seal().unwrap().starts_with(b"still here"));
    })
    .succeed();
}

#[test]
fn only_memfds_that_take_seals_are_sealed() {
    let dir = temp_dir();
    let file = Shared::<AtomicU8>::create(dir.path().join("file")).unwrap();
    let anonymous = Shared::<AtomicU8>::new().unwrap();
    // SAFETY: the name is a C string, and the descriptor is new.
    let fixed = unsafe {
        let fd = libc::memfd_create(c"fixed".as_ptr(), libc::MFD_CLOEXEC);
        File::from_raw_fd(fd)
    };
    fixed.set_len(1).unwrap();
    let fixed = Shared::<AtomicU8>::from_fd(fixed).unwrap();
    for shared in [file, anonymous, fixed] {
        let refused = shared.seal().unwrap_err();
        assert!(matches!(refused, Error::Unsealable { .. }), "{refused}");
    }
}

#[test]
fn a_memfd_never_shrinks() {
    let shared = Shared::<[AtomicU8]>::memfd_slice("test", 5000).unwrap();
    let file = File::from(duplicate(&shared));
    assert!(file.set_len(4999).is_err());
    file.set_len(10_000).unwrap();
    assert_eq!(shared.len(), 5000);
}
