//! What is stored, resized, flushed and reopened, against a `Vec<u8>`; and how much of it goes to the disk.

use crate::support::bytes::{assert_same, pattern};
use crate::support::exclusive::{any_system, open, system, systems};
use crate::support::kernel::page_size;
use crate::support::random::runner;
use crate::support::{file_with, skip};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use stillmap::Error;

#[test]
fn stores_go_to_the_file() {
    for (kind, system) in systems() {
        for len in [0, 1, 4095, 4096, 4097, 1_000_003] {
            let mut model = pattern(len as u64, len);
            let path = file_with(system.path(), "file", &model);
            let mut file = open(&path);
            assert_same(&file, &model, format_args!("{kind}, as opened"));
            for byte in model.iter_mut().step_by(777) {
                *byte ^= 0xff;
            }
            for byte in file.iter_mut().step_by(777) {
                *byte ^= 0xff;
            }
            file.close().unwrap();
            assert_same(
                &fs::read(&path).unwrap(),
                &model,
                format_args!("{kind}, closed"),
            );
            let mut file = open(&path);
            file.fill(1);
            drop(file);
            assert_same(
                &fs::read(&path).unwrap(),
                &vec![1; len],
                format_args!("{kind}, dropped"),
            );
        }
    }
}

#[test]
fn a_file_that_was_not_stored_to_keeps_its_times() {
    for (kind, system) in systems() {
        let path = file_with(system.path(), "file", &[1; 10_000]);
        let long_ago = std::time::UNIX_EPOCH;
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(long_ago).unwrap();
        drop(file);
        let modified = || fs::metadata(&path).unwrap().modified().unwrap();
        open(&path).close().unwrap();
        assert_eq!(modified(), long_ago, "{kind}");
        let mut file = open(&path);
        file[0] = 2;
        file.close().unwrap();
        assert_ne!(modified(), long_ago, "{kind}");
    }
}

#[test]
fn a_range_outside_the_file_is_an_error() {
    let Some(system) = any_system() else { return };
    let path = file_with(system.path(), "file", &[1; 5000]);
    let file = open(path);
    file.flush_range(0..5000).unwrap();
    file.flush_range(4999..=4999).unwrap();
    file.flush_range(5000..).unwrap();
    file.start_writeback(4097..4098).unwrap();
    for range in [0..5001, 5001..5001, usize::MAX - 1..usize::MAX] {
        for done in [file.flush_range(range.clone()), file.start_writeback(range)] {
            assert!(matches!(done, Err(Error::OutOfBounds { size: 5000, .. })));
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Store { at: usize, len: usize, byte: u8 },
    Resize(usize),
    Flush,
    FlushRange { at: usize, len: usize },
    Writeback,
    Reopen,
}

fn length() -> impl Strategy<Value = usize> {
    let near = |n: usize| n.saturating_sub(3)..n + 3;
    prop_oneof![0..5_usize, near(4096), near(8192), 0..200_000_usize]
}

fn act() -> impl Strategy<Value = Act> {
    let place = || (any::<usize>(), length());
    prop_oneof![
        6 => (place(), any::<u8>()).prop_map(|((at, len), byte)| Act::Store { at, len, byte }),
        4 => length().prop_map(Act::Resize),
        1 => Just(Act::Flush),
        1 => place().prop_map(|(at, len)| Act::FlushRange { at, len }),
        1 => Just(Act::Writeback),
        2 => Just(Act::Reopen),
    ]
}

#[test]
fn a_file_is_a_vector() {
    for (kind, system) in systems() {
        let path = system.path().join("file");
        let cases = (length(), prop::collection::vec(act(), 1..25));
        let ran = runner(60).run(&cases, |(len, acts)| {
            let mut model = pattern(len as u64, len);
            fs::write(&path, &model).unwrap();
            let mut file = open(&path);
            for act in acts {
                match act {
                    Act::Store { at, len, byte } => {
                        let at = at % (model.len() + 1);
                        let end = model.len().min(at + len);
                        file[at..end].fill(byte);
                        model[at..end].fill(byte);
                    }
                    Act::Resize(len) => {
                        file.resize(len).unwrap();
                        model.resize(len, 0);
                    }
                    Act::Flush => file.flush().unwrap(),
                    Act::FlushRange { at, len } => {
                        let at = at % (model.len() + 1);
                        let end = model.len().min(at + len);
                        file.flush_range(at..end).unwrap();
                    }
                    Act::Writeback => file.start_writeback(..).unwrap(),
                    Act::Reopen => {
                        file.close().unwrap();
                        assert_same(&fs::read(&path).unwrap(), &model, kind);
                        file = open(&path);
                    }
                }
                assert_same(&file, &model, kind);
            }
            file.close().unwrap();
            assert_same(&fs::read(&path).unwrap(), &model, kind);
            Ok(())
        });
        ran.unwrap();
    }
}

/// Bytes that this process made the kernel write, by /proc/self/io. Read in a process of its own.
fn written() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.unwrap().trim().parse().unwrap()
}

/// Sectors written to the block device that holds a file, in bytes.
fn device_written(path: &std::path::Path) -> u64 {
    let dev = fs::metadata(path).unwrap().dev();
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap();
    let sectors: u64 = stat.split_whitespace().nth(6).unwrap().parse().unwrap();
    sectors * 512
}

#[test]
fn only_changed_pages_are_written() {
    if page_size() != 4096 {
        return skip("counts pages of 4 KiB");
    }
    let Some(system) = system("ext4", 128 << 20) else {
        return;
    };
    let path = file_with(system.path(), "file", &pattern(1, 64 << 20));
    fs::File::open(&path).unwrap().sync_all().unwrap();
    let mut child = crate::support::child::scenario!(|| {
        let path = std::path::PathBuf::from(crate::support::child::argument("PATH"));
        let changed = 100;
        // A page-cache folio that the kernel is just moving cannot be split, and is written whole; the next time it is not moving.
        let mut rounds = (0..5).map(|_| {
            let mut file = open(&path);
            file.flush().unwrap();
            let (before, device) = (written(), device_written(&path));
            for page in 0..changed {
                file[page * 160 * 4096 + 17] ^= 1;
            }
            file.flush().unwrap();
            let ours = written() - before;
            let on_device = device_written(&path) - device;
            // The mapping's pages, and some metadata of the file system beside them.
            println!("{ours} bytes accounted, {on_device} on the device");
            (file, ours, on_device)
        });
        let least = changed as u64 * 4096;
        let exact = rounds.find(|&(_, ours, _)| ours == least);
        let (mut file, _, on_device) = exact.expect("no more than these pages accounted to us");
        let most = least + (1 << 20);
        assert!(
            (least..most).contains(&on_device),
            "{on_device} bytes on the device"
        );
        // A range of them: two pages of many.
        for page in 0..changed {
            file[page * 160 * 4096 + 17] ^= 1;
        }
        let device = device_written(&path);
        file.flush_range(160 * 4096..161 * 4096).unwrap();
        let on_device = device_written(&path) - device;
        assert!(
            (4096..300_000).contains(&on_device),
            "{on_device} bytes for one page"
        );
        file.close().unwrap();
    });
    child.argument("PATH", &path).succeed();
}

/// The page cache keeps what was written in one go in one piece; those of less than 128 KiB stay whole. Prints what
/// docs/durability.md says of it.
#[test]
fn how_much_is_written_depends_on_how_the_file_was() {
    if page_size() != 4096 {
        return skip("counts pages of 4 KiB");
    }
    let Some(system) = system("ext4", 128 << 20) else {
        return;
    };
    crate::support::child::scenario!(|| {
        let dir = std::path::PathBuf::from(crate::support::child::argument("PATH"));
        let path = dir.join("file");
        for piece in [8, 16, 32, 64, 128, 1024].map(|kib: usize| kib << 10) {
            let _ = fs::remove_file(&path);
            let mut made = fs::File::create(&path).unwrap();
            let bytes = pattern(1, piece);
            for _ in 0..(64 << 20) / piece {
                std::io::Write::write_all(&mut made, &bytes).unwrap();
            }
            made.sync_all().unwrap();
            drop(made);
            // Anywhere in a piece. As above, the kernel may be moving one.
            let mut rounds = (0..5).map(|_| {
                let mut file = open(&path);
                file.flush().unwrap();
                let before = written();
                for number in 0..100 {
                    file[(number * 163 + number % 7) * 4096] ^= 1;
                }
                file.flush().unwrap();
                (written() - before) / 4096
            });
            let most = match piece >> 10 {
                128.. => 100,
                _ => 100 * piece as u64 / 4096,
            };
            let pages = rounds.find(|pages| (100..=most).contains(pages));
            let pages = pages.unwrap_or_else(|| panic!("more than {most} pages, {piece}"));
            println!("pieces of {} KiB: {pages} pages for 100", piece >> 10);
        }
    })
    .argument("PATH", system.path())
    .succeed();
}

/// Pages of a file that we have open which are dirty and not being written, cachestat(2).
fn dirty_pages(path: &std::path::Path) -> Option<u64> {
    const CACHESTAT: libc::c_long = 451;
    let open = crate::support::kernel::descriptors();
    let (fd, _) = open.iter().find(|(_, name)| name == path).unwrap();
    let (range, mut counts) = ([0_u64, u64::MAX >> 1], [0_u64; 5]);
    // SAFETY: reads one `struct cachestat_range` and writes one `struct cachestat`.
    let done = unsafe { libc::syscall(CACHESTAT, *fd, range.as_ptr(), counts.as_mut_ptr(), 0) };
    (done == 0).then_some(counts[1])
}

#[test]
fn writeback_really_starts() {
    let Some(system) = system("ext4", 128 << 20) else {
        return;
    };
    let path = file_with(system.path(), "file", &pattern(1, 32 << 20));
    let mut file = open(&path);
    file.flush().unwrap();
    let before = device_written(&path);
    for page in 0..4096 {
        file[page * 4096] ^= 1;
    }
    let Some(dirty) = dirty_pages(&path) else {
        return skip("cachestat(2) is missing (Linux 6.5)");
    };
    assert!(dirty >= 4096, "{dirty}");
    file.start_writeback(..2048 * 4096).unwrap();
    // What is on its way is not dirty any more. The kernel's own writeback comes after 5 seconds or more.
    let left = dirty_pages(&path).unwrap();
    assert!((2000..=2048).contains(&left), "{left}");
    file.start_writeback(..).unwrap();
    assert_eq!(dirty_pages(&path), Some(0));
    // It does not wait, so the device may be busy still.
    while device_written(&path) - before < 16 << 20 {
        std::thread::yield_now();
    }
    file.close().unwrap();
}
