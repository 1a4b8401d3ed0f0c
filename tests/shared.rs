//! `Shared`: every way to get one, what it refuses, bulk bytes against a model, counters that lose nothing.
#![allow(clippy::disallowed_methods)]

mod support;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
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
        received(opened_as_path(&file)),
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
    assert!(Shared::<AtomicU8>::memfd("a\0b").is_err());
}

fn opened_as_path(path: &Path) -> OwnedFd {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_PATH);
    options.open(path).unwrap().into()
}

#[test]
fn more_alignment_than_a_page_is_refused_or_given() {
    stillmap::shareable! {
        #[repr(align(1048576))]
        struct Wide { all: [[AtomicU64; 1024]; 128] }
    }
    for _ in 0..8 {
        match Shared::<Wide>::new() {
            Ok(wide) => assert_eq!(&raw const wide.all as usize % 1048576, 0),
            Err(error) => assert!(matches!(error, Error::Misaligned { align: 1048576, .. })),
        }
    }
    // A reference to nothing has to be aligned, too.
    stillmap::shareable! {
        #[repr(align(1048576))]
        struct Nothing {}
    }
    if let Ok(nothing) = Shared::<Nothing>::new() {
        assert_eq!(&raw const *nothing as usize % 1048576, 0);
    }
    if let Ok(none) = Shared::<[Wide]>::with_len(0) {
        assert_eq!(none.as_ptr() as usize % 1048576, 0);
    }
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_signal() {
    scenario!(|| {
        let dir = temp_dir();
        let there = support::file_with(dir.path(), "there", &[7; 100]);
        kernel::limit(libc::RLIMIT_FSIZE, 8192);
        let create = |path: &Path, len| Shared::<[AtomicU8]>::create_slice(path, len).map(drop);
        for refused in [
            create(&dir.path().join("new"), 8193),
            create(&there, 8193),
            Shared::<[AtomicU8]>::with_len(8193).map(drop),
            Shared::<[AtomicU8]>::memfd_slice("test", 8193).map(drop),
            Anonymous::shared(8193).map(drop),
            Anonymous::shared(8192).unwrap().resize(8193),
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EFBIG), "{refused}");
            assert!(refused.to_string().contains("ulimit -f"), "{refused}");
        }
        assert_eq!(std::fs::read(&there).unwrap(), [7; 100]);
        assert_eq!(std::fs::metadata(&there).unwrap().blocks(), 8);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        create(&there, 8192).unwrap();
    })
    .succeed();
}

#[test]
fn create_extends_with_zeros_and_never_shortens() {
    let dir = temp_dir();
    let path = support::file_with(dir.path(), "file", &[7; 5000]);
    let shared = Shared::<[AtomicU8]>::create_slice(&path, 100).unwrap();
    assert_eq!(bytes(&shared), [7; 100]);
    assert_eq!(std::fs::read(&path).unwrap(), [7; 5000]);
    let shared = Shared::<[AtomicU8]>::create_slice(&path, 9000).unwrap();
    assert_eq!(bytes(&shared), [vec![7; 5000], vec![0; 4000]].concat());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 9000);
}

#[test]
fn create_allocates_the_whole_file() {
    let dir = support::temp_dir_in(env!("CARGO_TARGET_TMPDIR").as_ref());
    let (new, holes) = (dir.path().join("new"), dir.path().join("holes"));
    File::create(&holes).unwrap().set_len(2 << 20).unwrap();
    for path in [new, holes] {
        let shared = Shared::<[AtomicU8]>::create_slice(&path, 1 << 20).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert!(meta.blocks() * 512 >= 1 << 20, "{}", path.display());
        assert_eq!(bytes(&shared), vec![0; 1 << 20]);
    }
}

#[test]
fn create_makes_files_as_everybody_does() {
    scenario!(|| {
        let dir = temp_dir();
        // SAFETY: sets the umask of this process.
        unsafe { libc::umask(0o027) };
        let path = dir.path().join("file");
        drop(Shared::<AtomicU8>::create(&path).unwrap());
        drop(File::create(dir.path().join("oracle")).unwrap());
        let mode = |name: &str| {
            let meta = std::fs::metadata(dir.path().join(name)).unwrap();
            meta.permissions().mode()
        };
        assert_eq!(mode("file"), mode("oracle"));
        // By a link, to nothing yet; and from the current directory.
        std::os::unix::fs::symlink("target", dir.path().join("link")).unwrap();
        drop(Shared::<AtomicU64>::create(dir.path().join("link")).unwrap());
        assert_eq!(
            std::fs::metadata(dir.path().join("target")).unwrap().len(),
            8
        );
        std::os::unix::fs::symlink("circle", dir.path().join("circle")).unwrap();
        let circle = Shared::<AtomicU64>::create(dir.path().join("circle"));
        assert_eq!(circle.unwrap_err().raw_os_error(), Some(libc::ELOOP));
        std::env::set_current_dir(dir.path()).unwrap();
        drop(Shared::<AtomicU64>::create("here").unwrap());
        let names: BTreeSet<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let expected = ["circle", "file", "here", "link", "oracle", "target"];
        assert_eq!(names, expected.map(String::from).into());
    })
    .succeed();
}

#[test]
fn all_who_create_at_once_get_one_file() {
    scenario!(|| {
        let dir = temp_dir();
        for round in 0..100 {
            let path = dir.path().join(round.to_string());
            let (start, hold) = pipe();
            fork::scope(|s| {
                for child in 0..6_usize {
                    let (path, start) = (&path, &start);
                    s.spawn(move || {
                        let start = File::from(start.try_clone().unwrap());
                        (&start).read_exact(&mut [0]).unwrap();
                        let len = 1000 * (1 + child % 3);
                        let shared = Shared::<[AtomicU64]>::create_slice(path, len).unwrap();
                        shared[999].fetch_add(1, Ordering::Relaxed);
                    })
                    .unwrap();
                }
                File::from(hold).write_all(&[0; 6]).unwrap();
            })
            .unwrap();
            let shared = Shared::<[AtomicU64]>::open_slice(&path).unwrap();
            assert_eq!(shared.len(), 3000);
            assert_eq!(shared[999].load(Ordering::Relaxed), 6, "round {round}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 100);
    })
    .succeed();
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    if !kernel::may_write(400 << 20) {
        return;
    }
    for kind in ["tmpfs", "ext4", "xfs", "btrfs"] {
        let Some(disk) = LoopFs::new(kind, 64 << 10) else {
            continue;
        };
        let before = std::fs::read_dir(disk.path()).unwrap().count();
        let path = disk.path().join("new");
        let full = Shared::<[AtomicU8]>::create_slice(&path, 400 << 20).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC), "{kind}: {full}");
        assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), before);
        // One that is there keeps its length and its bytes.
        std::fs::write(&path, [7; 1000]).unwrap();
        let full = Shared::<[AtomicU8]>::create_slice(&path, 400 << 20).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC), "{kind}: {full}");
        assert_eq!(std::fs::read(&path).unwrap(), [7; 1000], "{kind}");
        // A file for which there is space can be created, and written to its end.
        let small = disk.path().join("small");
        let shared = Shared::<[AtomicU8]>::create_slice(&small, 16 << 10).unwrap();
        shared.write_at(0, &[1; 16 << 10]).unwrap();
        shared.flush().unwrap();
        assert_eq!(std::fs::read(&small).unwrap(), [1; 16 << 10], "{kind}");
    }
}

/// On a tmpfs as large as the memory, the first attempt would take all memory.
#[test]
fn what_there_is_no_room_for_is_not_begun() {
    scenario!(|| {
        let Some(disk) = LoopFs::new("tmpfs", 64 << 10) else {
            return;
        };
        refuse(libc::SYS_fallocate, libc::EIO);
        let path = disk.path().join("new");
        let full = Shared::<[AtomicU8]>::create_slice(&path, 1 << 20).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC), "{full}");
        let begun = Shared::<[AtomicU8]>::create_slice(&path, 4096).unwrap_err();
        assert_eq!(begun.raw_os_error(), Some(libc::EIO), "{begun}");
    })
    .succeed();
}

/// A file system without fallocate(2), mounted as long as the value lives.
struct Ramfs(tempfile::TempDir);

impl Ramfs {
    fn new() -> Option<Self> {
        let dir = temp_dir();
        let mounted = Command::new("mount")
            .args(["-t", "ramfs", "stillmap-test"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Ramfs(dir)),
            other => {
                support::skip(format_args!("no ramfs: {other:?}"));
                None
            }
        }
    }
}

impl Drop for Ramfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn where_nothing_can_be_allocated_new_files_are_written() {
    let Some(ramfs) = Ramfs::new() else {
        return;
    };
    let path = ramfs.0.path().join("file");
    let shared = Shared::<[AtomicU8]>::create_slice(&path, 100_000).unwrap();
    assert_eq!(bytes(&shared), vec![0; 100_000]);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 100_000);
    // A file that is long enough is opened; one that is too short could not be protected from a full disk.
    drop(Shared::<[AtomicU8]>::create_slice(&path, 1000).unwrap());
    let refused = Shared::<[AtomicU8]>::create_slice(&path, 100_001).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP), "{refused}");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 100_000);
}

#[test]
fn a_disk_filled_by_others_after_create_changes_nothing() {
    let Some(disk) = LoopFs::new("tmpfs", 64 << 10) else {
        return;
    };
    let shared = Shared::<[AtomicU8]>::create_slice(disk.path().join("file"), 32 << 10).unwrap();
    let filled = std::fs::write(disk.path().join("more"), [1; 64 << 10]);
    assert_eq!(filled.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    shared.write_at(0, &[1; 32 << 10]).unwrap();
    shared.check_fault().unwrap();
}

#[test]
fn bulk_bytes_agree_with_a_model() {
    const SIZE: usize = 20_000;
    let shared = Shared::<[AtomicU8]>::with_len(SIZE).unwrap();
    let mut model = vec![0_u8; SIZE];
    let mut random = support::random::seed();
    let mut next = |bound: usize| {
        // xorshift64*
        random |= 1;
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    };
    for turn in 0..20_000_u32 {
        let near = [0, 1, SIZE - 1, SIZE, SIZE + 1, usize::MAX, usize::MAX - 99];
        let offset = match next(4) {
            0 => near[next(near.len())],
            _ => next(SIZE),
        };
        let len = match next(3) {
            0 => next(130),
            1 => next(9000),
            _ => next(20),
        };
        let inside = offset as u128 + len as u128 <= SIZE as u128;
        if next(2) == 0 {
            let data: Vec<u8> = (0..len).map(|i| (turn as usize + i * 7) as u8).collect();
            let done = shared.write_at(offset, &data);
            assert_eq!(done.is_ok(), inside, "write {offset}+{len}");
            if inside {
                model[offset..offset + len].copy_from_slice(&data);
            }
        } else {
            let mut buf = vec![0xAA; len];
            let done = shared.read_at(offset, &mut buf);
            assert_eq!(done.is_ok(), inside, "read {offset}+{len}");
            match inside {
                true => assert!(buf == model[offset..offset + len]),
                false => assert!(matches!(done, Err(Error::OutOfBounds { .. }))),
            }
        }
    }
    assert_eq!(bytes(&shared), model);
}

#[test]
fn a_read_beside_a_writer_gives_bytes_that_were_there() {
    let rounds = if cfg!(miri) { 20 } else { 2000 };
    let shared = Shared::<[AtomicU8]>::with_len(3000).unwrap();
    shared.write_at(0, &[1; 3000]).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for value in [2, 4, 1] {
                    shared.write_at(0, &[value; 3000]).unwrap();
                    shared[1500].store(8, Ordering::Relaxed);
                }
            }
        });
        let mut buf = [0; 2999];
        for _ in 0..rounds {
            shared.read_at(1, &mut buf).unwrap();
            let known = buf.iter().all(|byte| matches!(byte, 1 | 2 | 4 | 8));
            assert!(known);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_was_written_before_a_release_is_read_after_an_acquire() {
    let rounds: u64 = if cfg!(miri) { 20 } else { 20_000 };
    let message = Shared::<[AtomicU8]>::with_len(1000).unwrap();
    let turn = Shared::<AtomicU64>::new().unwrap();
    let start = Barrier::new(2);
    std::thread::scope(|s| {
        s.spawn(|| {
            start.wait();
            for round in 0..rounds {
                while turn.load(Ordering::Acquire) != 2 * round {
                    std::thread::yield_now();
                }
                message.write_at(0, &[round as u8; 1000]).unwrap();
                turn.store(2 * round + 1, Ordering::Release);
            }
        });
        start.wait();
        let mut buf = [0; 1000];
        for round in 0..rounds {
            while turn.load(Ordering::Acquire) != 2 * round + 1 {
                std::thread::yield_now();
            }
            message.read_at(0, &mut buf).unwrap();
            assert_eq!(buf, [round as u8; 1000], "round {round}");
            turn.store(2 * round + 2, Ordering::Release);
        }
    });
}

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
    // So few bytes are read.
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

#[test]
fn children_lose_no_count_wherever_it_is() {
    scenario!(|| {
        if !kernel::may_open(200) || !kernel::may_start(200) {
            return;
        }
        let dir = temp_dir();
        let counters = [
            Shared::<AtomicU64>::new().unwrap(),
            Shared::<AtomicU64>::memfd("test").unwrap(),
            Shared::<AtomicU64>::create(dir.path().join("file")).unwrap(),
        ];
        fork::scope(|s| {
            for _ in 0..64 {
                s.spawn(|| {
                    for _ in 0..100_000 {
                        for counter in &counters {
                            counter.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
                .unwrap();
            }
        })
        .unwrap();
        for counter in &counters {
            assert_eq!(counter.load(Ordering::Relaxed), 6_400_000);
        }
    })
    .succeed();
}

/// A process that shares only a path with this one.
fn stranger(test: &str, path: &Path, task: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("STILLMAP_TEST_STRANGER", task)
        .env("STILLMAP_TEST_PATH", path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn unrelated_processes_lose_no_count_and_survive_one_another() {
    if let Some(task) = std::env::var_os("STILLMAP_TEST_STRANGER") {
        let path = support::child::argument("PATH");
        let counters = Shared::<[AtomicU64; 2]>::create(path).unwrap();
        if task == "count" {
            for _ in 0..100_000 {
                counters[0].fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        loop {
            counters[1].fetch_add(1, Ordering::Relaxed);
        }
    }
    let dir = temp_dir();
    let path = dir.path().join("counters");
    let test = "unrelated_processes_lose_no_count_and_survive_one_another";
    let mut counting: Vec<_> = (0..8).map(|_| stranger(test, &path, "count")).collect();
    let mut killed = stranger(test, &path, "be killed");
    let counters = Shared::<[AtomicU64; 2]>::create(&path).unwrap();
    // In the middle of it.
    while counters[1].load(Ordering::Relaxed) < 1000 {
        std::thread::yield_now();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    for child in &mut counting {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(counters[0].load(Ordering::Relaxed), 800_000);
    let left = counters[1].load(Ordering::Relaxed);
    counters[1].fetch_add(1, Ordering::Relaxed);
    assert_eq!(counters[1].load(Ordering::Relaxed), left + 1);
}

#[test]
fn the_limit_on_file_sizes_is_an_error_and_no_signal() {
    scenario!(|| {
        let dir = temp_dir();
        let (new, there) = (dir.path().join("new"), dir.path().join("there"));
        std::fs::write(&there, [7; 100]).unwrap();
        limit_file_sizes(1 << 20);
        for refused in [
            Shared::<[AtomicU8]>::create_slice(&new, 2 << 20),
            Shared::<[AtomicU8]>::create_slice(&there, 2 << 20),
            Shared::<[AtomicU8]>::memfd_slice("memfd", 2 << 20),
            Shared::<[AtomicU8]>::with_len(2 << 20),
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{error}");
        }
        assert!(!new.exists());
        assert_eq!(std::fs::read(&there).unwrap(), [7; 100]);
    })
    .succeed();
}

/// `Shared::create` followed links by their text, past fs.protected_symlinks, and overwrote a victim's file after 271 tries;
/// and it opened another user's file in a sticky directory, past fs.protected_regular.
#[test]
fn in_a_sticky_directory_create_refuses_what_open_refuses() {
    if !support::is_root() {
        return support::skip("only root can give files away");
    }
    let dir = temp_dir();
    let sticky = dir.path().join("sticky");
    std::fs::create_dir(&sticky).unwrap();
    std::fs::set_permissions(&sticky, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, [1; 8]).unwrap();
    let nobody = Some(65534);
    let theirs = sticky.join("theirs");
    std::fs::write(&theirs, [2; 8]).unwrap();
    std::os::unix::fs::chown(&theirs, nobody, nobody).unwrap();
    let nothing = dir.path().join("nothing");
    for (name, to) in [("link", &victim), ("dangling", &nothing)] {
        std::os::unix::fs::symlink(to, sticky.join(name)).unwrap();
        std::os::unix::fs::lchown(sticky.join(name), nobody, nobody).unwrap();
    }
    for name in ["link", "dangling", "theirs"] {
        let path = sticky.join(name);
        let found = Shared::<AtomicU64>::create(&path).map(|shared| shared.load(Ordering::Relaxed));
        // What std does, asked after it.
        let expected = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let errno = |error: &Error| error.raw_os_error();
        assert_eq!(
            found.as_ref().err().and_then(errno),
            expected.as_ref().err().and_then(|e| e.raw_os_error()),
            "{name}: {found:?}, {expected:?}"
        );
    }
    assert_eq!(std::fs::read(&victim).unwrap(), [1; 8]);
}

#[test]
fn a_range_is_flushed_and_a_protocol_of_ones_own_has_a_slice() {
    let dir = temp_dir();
    let path = dir.path().join("file");
    let mut shared = Shared::<[AtomicU8]>::create_slice(&path, 100_000).unwrap();
    // SAFETY: no other process knows the file.
    let bytes = unsafe { shared.as_mut_slice() };
    bytes[99_999] = 7;
    shared.flush_range(99_000..).unwrap();
    shared.flush_range(5..5).unwrap();
    assert!(matches!(
        shared.flush_range(..100_001),
        Err(Error::OutOfBounds { .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap()[99_999], 7);
}

/// 5,432 bytes beyond 4 GiB, as programs edit a part of a large file: the rest of it stays a hole.
#[test]
fn a_window_beyond_four_gibibytes_allocates_its_own_pages_only() {
    let dir = support::temp_dir_in(env!("CARGO_TARGET_TMPDIR").as_ref());
    let path = dir.path().join("sparse");
    let offset = (4 << 30) + 1;
    let file = File::create(&path).unwrap();
    file.set_len(offset + 5432).unwrap();
    let before = std::fs::metadata(&path).unwrap().blocks();
    let window = Shared::<[AtomicU8]>::options().offset(offset).open(&path);
    let window = window.unwrap();
    assert_eq!(window.len(), 5432);
    window.write_at(5424, b"stillmap").unwrap();
    window[0].store(1, Ordering::Relaxed);
    window.flush_range(0..1).unwrap();
    window.flush_range(5431..).unwrap();
    window.start_writeback().unwrap();
    window.flush().unwrap();
    window.check_fault().unwrap();
    assert!(matches!(
        window.flush_range(5432..5433),
        Err(Error::OutOfBounds { size: 5432, .. })
    ));
    // A file system may allocate more than a page at a time, and the tree that finds them.
    let allocated = std::fs::metadata(&path).unwrap().blocks() - before;
    assert!(allocated * 512 <= 1 << 20, "{allocated} blocks");
    let mut read = [0; 9];
    let file = File::open(&path).unwrap();
    file.read_exact_at(&mut read[..1], offset).unwrap();
    file.read_exact_at(&mut read[1..], offset + 5424).unwrap();
    assert_eq!(&read, b"\x01stillmap");
}

#[test]
fn a_window_is_inside_of_the_file_and_aligned_or_an_error() {
    let dir = temp_dir();
    let content: Vec<u8> = (0..10_000).map(|i| (i % 251) as u8).collect();
    let path = support::file_with(dir.path(), "file", &content);
    let options = Shared::<[AtomicU8]>::options;
    for (offset, len) in [(0, 1), (1, 9_999), (4095, 2), (4096, 0), (4097, 5_903)] {
        let window = options().offset(offset).len(len).open(&path).unwrap();
        let start = offset as usize;
        assert_eq!(
            bytes(&window),
            content[start..start + len],
            "{offset} {len}"
        );
        window.pages().populate(..).unwrap();
        let locked = window.pages().lock(..).unwrap();
        assert!(len == 0 || locked.len() >= len);
        drop(locked);
    }
    let to_the_end = options().offset(9_999).open(&path).unwrap();
    assert_eq!(to_the_end.len(), 1);
    assert!(options().offset(10_000).open(&path).unwrap().is_empty());
    for refused in [
        options().offset(10_001),
        options().offset(9_999).len(2),
        options().offset(u64::MAX).len(1),
        options().offset(u64::MAX),
        options().len(10_001),
    ] {
        let refused = refused.open(&path).unwrap_err();
        assert!(
            matches!(refused, Error::TooSmall { size: 10_000, .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains("file"), "{refused}");
    }
    let many = options().len(usize::MAX).open(&path);
    assert!(matches!(many, Err(Error::TooLarge { .. })), "{many:?}");
    let misaligned = Shared::<[AtomicU64]>::options()
        .offset(12)
        .len(1)
        .open(&path);
    assert!(matches!(
        misaligned,
        Err(Error::Misaligned {
            value: 12,
            align: 8,
            ..
        })
    ));
    let value = Shared::<AtomicU32>::options().offset(4092).open(&path);
    let expected = u32::from_ne_bytes(content[4092..4096].try_into().unwrap());
    assert_eq!(value.unwrap().load(Ordering::Relaxed), expected);
    let rest = Shared::<[AtomicU32]>::options().offset(8).open(&path);
    assert_eq!(rest.unwrap().len(), 2_498);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(9_998).unwrap();
    let rest = Shared::<[AtomicU32]>::options().offset(8).open(&path);
    assert!(matches!(
        rest,
        Err(Error::WrongSize {
            size: 9_990,
            multiple_of: 4,
            ..
        })
    ));
}

/// The size that counts is that of the file up to the end of the window, not the length of the window.
#[test]
fn a_window_that_is_cut_off_is_faulted_and_one_before_the_cut_is_not() {
    let dir = temp_dir();
    let path = support::file_with(dir.path(), "file", &[7; 20_000]);
    let window = |offset| {
        let options = Shared::<[AtomicU8]>::options().offset(offset).len(100);
        options.open(&path).unwrap()
    };
    let (first, last, touched) = (window(50), window(19_000), window(19_000));
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(10_000).unwrap();
    first.check_fault().unwrap();
    first.flush().unwrap();
    // Before a missing page is touched, and after.
    assert!(matches!(last.check_fault(), Err(Error::PagesLost { .. })));
    assert_eq!(touched[99].load(Ordering::Relaxed), 0);
    let mut read = [1; 100];
    assert!(matches!(
        touched.read_at(0, &mut read),
        Err(Error::PagesLost { .. })
    ));
    assert!(matches!(touched.flush(), Err(Error::PagesLost { .. })));
    assert_eq!(bytes(&first), [7; 100]);
}

#[test]
fn a_window_of_a_memfd_is_sealed_with_all_of_it() {
    let all = Shared::<[AtomicU8]>::memfd_slice("test", 10_000).unwrap();
    all.write_at(5_000, b"window").unwrap();
    let fd = duplicate(&all);
    drop(all);
    let window = Shared::<[AtomicU8]>::options().offset(5_000).len(6);
    let sealed = window.from_fd(&fd).unwrap().seal().unwrap();
    assert_eq!(&sealed[..], b"window");
    assert_eq!(Snapshot::from_fd(&fd).unwrap().len(), 10_000);
}
