//! What can be opened read-only, and what refresh, snapshot and check_fault return.

use crate::support::bytes::pattern;
use crate::support::child::{argument, fork, scenario};
use crate::support::control_group::{ControlGroup, join};
use crate::support::disk::LoopFs;
use crate::support::half_written::HalfWritten;
use crate::support::kernel::{can_populate, limit, mappings, may_map, meminfo, page_size, status};
use crate::support::namespace::{hide, mount, own_mounts};
use crate::support::pipe::pipe_of_files;
use crate::support::user::{become_nobody, may_be_others};
use crate::support::{file_with, skip, temp_dir, temp_dir_in};
use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use stillmap::{Change, Error, Exclusive, Live, Shared};

fn read(live: &Live) -> Vec<u8> {
    let mut bytes = vec![0; live.len()];
    assert_eq!(live.read_at(0, &mut bytes).expect("read"), bytes.len());
    bytes
}

/// shared_memory#100 and others: a consumer that may only read.
#[test]
fn a_file_of_another_user_that_goes_on_writing() {
    if !may_be_others() {
        return;
    }
    let dir = temp_dir();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("chmod");
    let path = dir.path().join("counter");
    let counter = Shared::<AtomicU64>::create(&path).expect("create");
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
    counter.store(5, Ordering::Release);
    scenario!(|| {
        let path = argument("FILE");
        become_nobody();
        assert!(Shared::<AtomicU64>::open(Path::new(&path)).is_err());
        let live = Live::open(Path::new(&path)).expect("open");
        assert_eq!(live.load::<AtomicU64>(0).expect("load").into_inner(), 5);
    })
    .argument("FILE", &path)
    .succeed();
}

#[test]
fn a_memfd_that_is_sealed_against_future_writing() {
    let memory = Shared::<[AtomicU8]>::memfd_slice("segment", 100_000).expect("memfd");
    let fd = memory.fd().expect("its descriptor");
    // SAFETY: takes numbers.
    let sealed =
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE) };
    assert_eq!(sealed, 0);
    assert!(Shared::<[AtomicU8]>::from_fd_slice(fd.try_clone_to_owned().expect("dup")).is_err());
    let live = Live::from_fd(fd).expect("attach");
    memory.write_at(99_000, b"still written").expect("write");
    let mut found = [0; 13];
    assert_eq!(live.read_at(99_000, &mut found).expect("read"), 13);
    assert_eq!(&found, b"still written");
    live.pages().populate(..).expect("populate");
    // Before Linux 5.14 pages are read ahead, and a memfd with holes has none to read.
    let is_resident = live.pages().is_resident(..).expect("in bounds");
    assert!(is_resident || !can_populate());
}

#[test]
fn growing_and_shrinking_is_told_and_needs_no_new_mapping() {
    let dir = temp_dir();
    let bytes = pattern(2, 300_000);
    let path = file_with(dir.path(), "log", &[]);
    let mut live = Live::open(&path).expect("open");
    assert!(live.is_empty());
    assert_eq!(live.read_at(0, &mut [0; 10]).expect("nothing"), 0);
    let maps = || -> usize {
        let is_log = |area: &crate::support::kernel::Area| area.name.ends_with("/log");
        mappings()
            .iter()
            .filter(|area| is_log(area))
            .map(|area| area.range.start)
            .sum()
    };
    let before = maps();
    let mut log = File::options().append(true).open(&path).expect("open");
    let mut len = 0;
    for piece in bytes.chunks(9_999) {
        log.write_all(piece).expect("append");
        assert_eq!(
            live.refresh().expect("refresh"),
            Change::Grown(len..len + piece.len())
        );
        len += piece.len();
    }
    assert!(read(&live) == bytes);
    assert_eq!(maps(), before, "it stayed where it was");
    log.set_len(100).expect("truncate");
    let mut buf = vec![0; 1000];
    for (offset, what) in [(200_000, "a page that is gone"), (50, "a page in part")] {
        let error = live.read_at(offset, &mut buf).expect_err(what);
        assert!(
            matches!(error, Error::PagesLost { .. }),
            "{what}: {error:?}"
        );
        assert!(
            matches!(live.check_fault(), Err(Error::PagesLost { .. })),
            "{what}"
        );
    }
    assert!(matches!(live.snapshot(..), Err(Error::PagesLost { .. })));
    assert_eq!(live.refresh().expect("refresh"), Change::PagesLost);
    live.check_fault().expect("what is left is there");
    assert_eq!(read(&live), bytes[..100]);
    log.set_len(7).expect("truncate");
    assert_eq!(live.refresh().expect("refresh"), Change::Cut(7..100));
    assert_eq!(live.refresh().expect("refresh"), Change::Same);
    assert!(matches!(
        live.load::<AtomicU64>(0),
        Err(Error::OutOfBounds { .. })
    ));
    assert!(matches!(
        live.load::<AtomicU32>(1),
        Err(Error::Misaligned { .. })
    ));
}

#[test]
fn where_address_space_is_limited_it_is_mapped_anew() {
    scenario!(|| {
        let dir = temp_dir();
        let path = file_with(dir.path(), "log", &pattern(3, 10 * page_size()));
        limit(libc::RLIMIT_AS, (status("VmSize") + (64 << 20)) as u64);
        let mut live = Live::open(&path).expect("open");
        let mut log = File::options().append(true).open(&path).expect("open");
        for _ in 0..5 {
            log.write_all(&pattern(4, 10 * page_size() + 1))
                .expect("append");
            live.refresh().expect("refresh");
            assert!(read(&live) == std::fs::read(&path).expect("read"));
        }
    })
    .succeed();
}

/// A file with holes, which its writer makes as long as it likes. Before: the copy was begun, and the kernel ended the process.
#[test]
#[cfg(target_pointer_width = "64")]
fn a_snapshot_of_more_than_fits_into_memory_is_an_error() {
    let len = meminfo("MemTotal") as u64;
    if !may_map(len) {
        return;
    }
    let dir = temp_dir();
    let path = file_with(dir.path(), "log", &[]);
    let log = File::options().write(true).open(&path).expect("open");
    log.set_len(len).expect("set_len");
    let live = Live::open(&path).expect("open");
    let error = live.snapshot(..).expect_err("a copy of that size");
    assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{error}");
    assert_eq!(error.path(), Some(&*path));
    assert!(live.snapshot(..10).expect("a small one").len() == 10);
}

/// Each of them fits, and all of them do not. Before: the kernel ended the process.
#[test]
fn snapshots_that_are_made_at_once_share_the_memory() {
    const LEN: u64 = 90 << 20;
    let mut child = scenario!(|| {
        join(argument("GROUP"));
        let live = Live::open(argument("FILE")).unwrap();
        let all = std::sync::Barrier::new(4);
        let copy = || {
            all.wait();
            let copy = live.snapshot(..);
            all.wait();
            copy
        };
        std::thread::scope(|threads| {
            let copies = [(); 4].map(|()| threads.spawn(copy));
            for copy in copies {
                match copy.join().unwrap() {
                    Ok(copy) => assert_eq!(copy.len() as u64, LEN),
                    Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOMEM)),
                }
            }
        });
    });
    let Some(group) = ControlGroup::with_memory(256 << 20) else {
        return;
    };
    let dir = temp_dir_in(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let path = file_with(dir.path(), "log", &[]);
    let log = File::options().write(true).open(&path).expect("open");
    log.set_len(LEN).expect("set_len");
    let path = std::fs::canonicalize(path).unwrap();
    child
        .argument("GROUP", group.path())
        .argument("FILE", &path)
        .succeed();
}

/// A page fault in a hole of a tmpfs takes a page of memory, which is charged to the reader; read(2) takes none. Before: the
/// kernel ended the process.
#[test]
fn holes_of_a_tmpfs_take_no_memory() {
    let mut child = scenario!(|| {
        join(argument("GROUP"));
        if !own_mounts() {
            return;
        }
        hide("/mnt");
        let log = File::create("/mnt/log").unwrap();
        log.set_len(80 << 20).unwrap();
        let mut live = Live::open("/mnt/log").unwrap();
        log.set_len(400 << 20).unwrap();
        live.refresh().unwrap();
        let mut bytes = vec![1; 1 << 20];
        for offset in (0..live.len()).step_by(bytes.len()) {
            assert_eq!(live.read_at(offset, &mut bytes).unwrap(), bytes.len());
            assert!(bytes.iter().all(|&byte| byte == 0));
        }
        let copy = live.snapshot(..60 << 20).unwrap();
        assert!(copy.is_consistent() && copy.len() == 60 << 20);
        assert_eq!(log.metadata().unwrap().blocks(), 0);
        log.set_len(1000).unwrap();
        let cut = live.read_at(2000, &mut bytes);
        assert!(matches!(cut, Err(Error::PagesLost { .. })), "{cut:?}");
        let cut = live.snapshot(..2000);
        assert!(matches!(cut, Err(Error::PagesLost { .. })), "{cut:?}");
    });
    if let Some(group) = ControlGroup::with_memory(128 << 20) {
        child.argument("GROUP", group.path()).succeed();
    }
}

/// An overlay copies a file of a lower layer up when a process opens it for writing: what was opened before leads to the old
/// file, as far as it is mapped. Before: the old bytes for ever, or `PagesLost` after each refresh.
#[test]
fn a_file_that_an_overlay_copies_up() {
    scenario!(|| {
        if !own_mounts() {
            return;
        }
        hide("/mnt");
        for dir in ["/mnt/lower", "/mnt/upper", "/mnt/work", "/mnt/merged"] {
            std::fs::create_dir(dir).unwrap();
        }
        for file in ["log", "descriptor", "reader"] {
            std::fs::write(Path::new("/mnt/lower").join(file), b"old bytes").unwrap();
        }
        let layers = "lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work";
        mount(
            "none",
            "/mnt/merged".as_ref(),
            Some("overlay"),
            0,
            &format!("{layers},metacopy=on"),
        );
        let path = Path::new("/mnt/merged/log");
        let mut live = Live::open(path).unwrap();
        assert_eq!(read(&live), b"old bytes");
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(live.refresh().unwrap(), Change::Same);
        let mut log = File::options().write(true).open(path).unwrap();
        log.write_all(b"new").unwrap();
        assert_eq!(live.refresh().unwrap(), Change::Same);
        assert_eq!(read(&live), b"new bytes");
        assert_eq!(live.load::<AtomicU8>(0).unwrap().into_inner(), b'n');
        assert_eq!(&live.snapshot(..).unwrap()[..], b"new bytes");
        let more = pattern(4, 3 * page_size());
        log.write_all(&[&b" bytes"[..], &more].concat()).unwrap();
        let len = 9 + more.len();
        assert_eq!(live.refresh().unwrap(), Change::Grown(9..len));
        assert_eq!(read(&live)[9..], more);
        live.check_fault().unwrap();

        // A descriptor that was opened before.
        let path = Path::new("/mnt/merged/descriptor");
        let file = File::open(path).unwrap();
        let mut log = File::options().write(true).open(path).unwrap();
        log.write_all(b"new").unwrap();
        let live = Live::from_fd(&file).unwrap();
        assert_eq!(read(&live), b"new bytes");
        assert_eq!(live.load::<AtomicU8>(0).unwrap().into_inner(), b'n');

        // It cannot be opened again.
        let path = Path::new("/mnt/merged/reader");
        let mut live = Live::open(path).unwrap();
        hide("/proc");
        let mut log = File::options().append(true).open(path).unwrap();
        log.write_all(&more).unwrap();
        assert_eq!(live.refresh().unwrap(), Change::Grown(9..len));
        assert_eq!(read(&live)[9..], more);
        assert_eq!(live.snapshot(9..).unwrap()[..], more);
    })
    .succeed();
}

/// The zeros that take the place of a file are not writable: they are not charged to the process (`vm.overcommit_memory` 2),
/// and have no pages of their own under mlockall(2). Before: a gigabyte of RAM, or SIGBUS where there was not as much.
#[test]
fn a_file_that_is_truncated_takes_no_memory() {
    scenario!(|| {
        let dir = temp_dir();
        let path = file_with(dir.path(), "log", &pattern(3, 10 * page_size()));
        let live = Live::open(&path).expect("open");
        let before = status("VmData");
        let log = File::options().write(true).open(&path).expect("open");
        log.set_len(0).expect("truncate");
        let lost = live.load::<AtomicU8>(page_size()).expect_err("lost");
        assert!(matches!(lost, Error::PagesLost { .. }), "{lost:?}");
        let charged = status("VmData") - before;
        assert!(charged < 64 << 20, "{charged}");
    })
    .succeed();
}

#[test]
fn a_snapshot_of_it_is_a_copy_of_one_moment() {
    let memory = Shared::<[AtomicU8]>::memfd_slice("segment", 4 << 20).expect("memfd");
    let live = Live::from_fd(memory.fd().expect("its descriptor")).expect("attach");
    memory.write_at(1 << 20, b"before").expect("write");
    let copy = live.snapshot(1 << 20..3 << 20).expect("snapshot");
    assert!(copy.is_consistent());
    memory.write_at(1 << 20, b"after!").expect("write");
    assert!(copy.starts_with(b"before"));
    assert!(live.snapshot(..(4 << 20) + 1).is_err());
    // Stored to all the time: `is_consistent` is false.
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !done.load(Ordering::Relaxed) {
                memory[(4 << 20) - 1].store(round, Ordering::Relaxed);
                memory[0].store(round, Ordering::Relaxed);
                round = round.wrapping_add(1);
            }
        });
        while live.snapshot(..).expect("snapshot").is_consistent() {}
        done.store(true, Ordering::Relaxed);
    });
}

/// Before: half of a write(2) that had begun before the copy was called consistent.
#[test]
fn a_snapshot_of_it_waits_for_a_write() {
    // More than the kernel copies before it looks for the next bytes.
    const LEN: usize = 16 << 20;
    for kind in ["ext4", "xfs", "btrfs", "tmpfs"] {
        let Some(disk) = LoopFs::new(kind, 64 << 20) else {
            continue;
        };
        let path = file_with(disk.path(), "file", &[0; LEN]);
        let live = Live::open(&path).unwrap();
        loop {
            let Some(write) = HalfWritten::begin(&path, LEN) else {
                return;
            };
            let begun = write.begun;
            let snapshot = write.meanwhile(|| live.snapshot(..).unwrap());
            if HalfWritten::is_whole(&snapshot) || !snapshot.is_consistent() {
                break;
            }
            assert!(begun.elapsed() > Duration::from_secs(1), "{kind}");
        }
    }
}

#[test]
fn what_is_no_file_of_bytes_is_refused() {
    let dir = temp_dir();
    let fifo = dir.path().join("fifo");
    let name = std::ffi::CString::new(fifo.as_os_str().as_encoded_bytes()).expect("a path");
    // SAFETY: the name is a C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    assert!(matches!(
        Live::open(dir.path()),
        Err(Error::IsDirectory { .. })
    ));
    for path in [
        fifo.as_path(),
        Path::new("/dev/null"),
        Path::new("/proc/self/status"),
    ] {
        let refused = Live::open(path).expect_err("no file of bytes");
        assert!(matches!(refused, Error::NotMappable { .. }), "{refused:?}");
    }
    let gone = Live::open(dir.path().join("nothing")).expect_err("it is not there");
    assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"huge".as_ptr(), libc::MFD_HUGETLB) };
    if fd < 0 {
        return skip("no reserved huge pages");
    }
    // SAFETY: new, and no other code has it.
    let huge = unsafe { File::from_raw_fd(fd) };
    assert!(matches!(
        Live::from_fd(&huge),
        Err(Error::NotMappable { .. })
    ));
}

#[test]
fn a_descriptor_for_aligned_reads_only() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "zeros", &[0; 10_000]);
    let direct = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path);
    let Ok(direct) = direct else {
        return skip("O_DIRECT is refused");
    };
    let live = Live::from_fd(&direct).expect("attach");
    assert_eq!(read(&live), [0; 10_000]);
    live.check_fault().expect("all bytes are there");
}

/// Before: `EAGAIN`, while another program edited the file.
#[test]
fn an_open_waits_for_one_that_edits_the_file() {
    // Alone: a child that another test starts has the file open for writing until it executes its program.
    scenario!(|| {
        let dir = temp_dir();
        let path = file_with(dir.path(), "edited", &[1; 10_000]);
        let (mut is_edited, mut edited) = pipe_of_files();
        let opening = fork(|| {
            let mut answer = [0];
            is_edited.read_exact(&mut answer).unwrap();
            if answer == *b"y" {
                let found = read(&Live::open(&path).expect("open"));
                assert_eq!(found.len(), 10_000);
                assert_eq!(found[9_999], 2);
            }
        });
        let mut exclusive = match Exclusive::open(&path) {
            Ok(exclusive) => exclusive,
            Err(error) => {
                edited.write_all(b"n").unwrap();
                return skip(format_args!("no write lease: {error}"));
            }
        };
        edited.write_all(b"y").unwrap();
        while !exclusive.has_waiter() {
            std::thread::yield_now();
        }
        exclusive[9_999] = 2;
        exclusive.close().expect("close");
        assert!(opening.wait().success());
    })
    .succeed();
}
