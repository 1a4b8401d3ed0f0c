//! Small files that have not changed lately, and what else is opened after one.
#![cfg_attr(not(target_arch = "x86_64"), allow(unused_imports))]

use crate::support::bytes::pattern;
use crate::support::child::{fork, scenario};
use crate::support::disk::LoopFs;
use crate::support::half_written::HalfWritten;
use crate::support::pipe::{make_fifo, terminal};
use crate::support::trace::{Traced, stop_here};
use crate::support::{file_with, kernel, skip, temp_dir};
use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use stillmap::{Backing, Error, Reason, Snapshot};

const LEN: usize = 20_000;

/// Until the file is old enough to be read with one look at it.
fn wait_until_settled(path: &Path) {
    let written = fs::metadata(path).unwrap().modified().unwrap();
    while written + Duration::from_millis(1100) > SystemTime::now() {
        std::thread::yield_now();
    }
}

/// A directory with a settled file, opened before.
fn with_settled(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = temp_dir();
    let path = file_with(dir.path(), name, &pattern(1, LEN));
    wait_until_settled(&path);
    drop(Snapshot::open(&path).unwrap());
    (dir, path)
}

/// The system calls of an open up to the first close; `before_look` is called before the first fstat.
#[cfg(target_arch = "x86_64")]
fn calls(path: &Path, before_look: impl FnOnce()) -> Vec<libc::c_long> {
    let looks = [libc::SYS_fstat, libc::SYS_newfstatat];
    let child = fork(|| {
        stop_here();
        let snapshot = Snapshot::open(path).unwrap();
        assert_eq!(snapshot.len(), LEN);
        assert!(snapshot.is_consistent());
    });
    let mut traced = Traced::new(child.id());
    let (mut calls, mut before_look) = (Vec::new(), Some(before_look));
    while traced.step() && !calls.contains(&libc::SYS_close) {
        let Some(call) = traced.entering() else {
            continue;
        };
        // Not those before it, nor those of the allocator and of the checks of a debug build.
        let is_open = [libc::SYS_open, libc::SYS_openat].contains(&call);
        let others = [
            libc::SYS_brk,
            libc::SYS_mmap,
            libc::SYS_munmap,
            libc::SYS_fcntl,
        ];
        if is_open || !(others.contains(&call) || calls.is_empty()) {
            calls.push(call);
        }
        if looks.contains(&call) {
            before_look.take().into_iter().for_each(|call| call());
        }
    }
    assert_eq!(traced.run_on(), 0);
    calls
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_settled_file_takes_four_system_calls() {
    scenario!(|| {
        if !Traced::is_possible() {
            return;
        }
        let (_dir, path) = with_settled("file");
        if !is_local(&path) {
            return skip("not a local file system");
        }
        let mut calls = calls(&path, || {});
        // A system call where there is no vDSO: user-mode Linux.
        calls.retain(|&call| call != libc::SYS_clock_gettime);
        assert_eq!(calls.len(), 4, "{calls:?}");
    })
    .succeed();
}

/// Case: another process writes between the read and the look at the file, and the length stays.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_file_that_changes_after_the_read_is_read_again() {
    scenario!(|| {
        if !Traced::is_possible() {
            return;
        }
        let (_dir, path) = with_settled("file");
        let file = File::options().write(true).open(&path).unwrap();
        let write = || file.write_all_at(&pattern(2, LEN), 0).unwrap();
        let calls = calls(&path, write);
        assert!(calls.contains(&libc::SYS_pread64), "{calls:?}");
    })
    .succeed();
}

/// Case: a write(2) to a small file takes longer than 0.1 s, and begins in the second before, in timestamps of whole seconds
/// too. Before: the half of it was read and called consistent.
#[test]
fn a_write_of_less_than_a_second_is_waited_for() {
    for inode in ["256", "128"] {
        let Some(disk) = LoopFs::with_options("ext4", 64 << 20, &["-I", inode]) else {
            return;
        };
        let settled = file_with(disk.path(), "settled", &pattern(1, LEN));
        let path = file_with(disk.path(), "file", &[0; 64 << 10]);
        wait_until_settled(&path);
        let wait_until = |part: Range<u128>| {
            let part_of_second = || {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                now.as_millis() % 1000
            };
            while !part.contains(&part_of_second()) {
                std::thread::yield_now();
            }
        };
        loop {
            wait_until(800..850);
            let Some(write) = HalfWritten::begin(&path, 64 << 10) else {
                return;
            };
            wait_until(50..800);
            let begun = write.begun;
            let snapshot = write.meanwhile(|| {
                drop(Snapshot::open(&settled).unwrap());
                Snapshot::open(&path).unwrap()
            });
            let is_whole = HalfWritten::is_whole(&snapshot);
            if is_whole || !snapshot.is_consistent() {
                break;
            }
            assert!(
                begun.elapsed() > Duration::from_secs(1),
                "inodes of {inode} bytes"
            );
        }
    }
}

/// ext, xfs, f2fs: elsewhere a file is looked at before and after it is read.
#[cfg(target_arch = "x86_64")]
fn is_local(path: &Path) -> bool {
    let kind = kernel::file_system(File::open(path).unwrap());
    [0xef53, 0x5846_5342, 0xf2f5_2010].contains(&kind)
}

/// Attack: what is opened next is no small file, and each byte can be read once.
#[test]
fn a_stream_after_a_small_file_loses_nothing() {
    let (dir, _) = with_settled("file");
    let fifo = dir.path().join("fifo");
    make_fifo(&fifo);
    for len in [0, 1, 70_000, 300_000] {
        drop(Snapshot::open(dir.path().join("file")).unwrap());
        let bytes = pattern(3, len);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let mut writer = File::create(&fifo).unwrap();
                bytes
                    .chunks(50_000)
                    .for_each(|part| writer.write_all(part).unwrap());
            });
            let snapshot = Snapshot::open(&fifo).unwrap();
            assert!(snapshot[..] == bytes, "{len}");
            assert_eq!(snapshot.reason(), Some(Reason::Stream));
        });
    }
}

#[test]
fn a_terminal_after_a_small_file_ends_at_one_key() {
    scenario!(|| {
        let (_dir, file) = with_settled("file");
        let (master, slave) = match terminal() {
            Ok(pair) => pair,
            Err(error) => return skip(format_args!("no terminal: {error}")),
        };
        let path = format!("/proc/self/fd/{}", slave.as_raw_fd());
        let mut keys = File::from(master);
        for (typed, read) in [("\x04", ""), ("one\n\x04", "one\n"), ("\x04", "")] {
            drop(Snapshot::open(&file).unwrap());
            keys.write_all(typed.as_bytes()).unwrap();
            assert_eq!(Snapshot::open(&path).unwrap()[..], *read.as_bytes());
        }
    })
    .succeed();
}

#[test]
fn anything_may_follow_a_small_file() {
    let (dir, file) = with_settled("file");
    let large = file_with(dir.path(), "large", &pattern(4, 3 << 20));
    let empty = file_with(dir.path(), "empty", b"");
    let fresh = file_with(dir.path(), "fresh", b"just now");
    let open = |path: &Path| {
        let before = Snapshot::open(&file).unwrap();
        assert!(before[..] == pattern(1, LEN) && before.reason() == Some(Reason::Small));
        assert_eq!(before.backing(), Backing::Memory);
        Snapshot::open(path)
    };
    assert!(matches!(open(dir.path()), Err(Error::IsDirectory { .. })));
    assert!(open(&dir.path().join("none")).is_err());
    assert!(open(&large).unwrap()[..] == pattern(4, 3 << 20));
    assert_eq!(open(&empty).unwrap().len(), 0);
    assert_eq!(open(&fresh).unwrap()[..], *b"just now");
    assert_eq!(open(Path::new("/dev/null")).unwrap().len(), 0);
    let version = fs::read("/proc/version").unwrap();
    assert_eq!(open(Path::new("/proc/version")).unwrap()[..], version);
    // Of a file of /sys, fewer bytes can be read than its size.
    if let Ok(online) = fs::read("/sys/devices/system/cpu/online") {
        let path = Path::new("/sys/devices/system/cpu/online");
        assert_eq!(open(path).unwrap()[..], online);
    }
}
