//! Four readers of a file that is truncated and appended to all the time, on each kind of file system.

use crate::support::bytes::pattern;
use crate::support::child::scenario;
use crate::support::disk::LoopFs;
use crate::support::kernel::page_size;
use crate::support::namespace::own_mounts;
use crate::support::temp_dir;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use stillmap::{Change, Error, Live};

const LEN: usize = 2 << 20;
const ROUNDS: usize = 40;
/// On a machine that does something else, a reader may meet a truncation late.
const MOST_ROUNDS: usize = 100 * ROUNDS;

/// What the readers saw.
#[derive(Default)]
struct Seen {
    whole: AtomicUsize,
    faults: AtomicUsize,
    cuts: AtomicUsize,
}

impl Seen {
    fn all(&self) -> bool {
        let counts = [&self.whole, &self.faults, &self.cuts];
        counts.iter().all(|count| count.load(Ordering::Relaxed) > 0)
    }
}

/// Cuts the file to some length and writes it anew from there, in pieces of `unit` bytes.
fn write_all_the_time(path: &Path, bytes: &[u8], unit: usize, seen: &Seen) {
    let mut file = File::options().write(true).open(path).expect("open");
    let mut random = 1_u64;
    for round in 0..MOST_ROUNDS {
        if round >= ROUNDS && seen.all() {
            break;
        }
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let cut = (random >> 33) as usize % (LEN / unit) * unit;
        file.set_len(cut as u64).expect("truncate");
        file.seek(SeekFrom::Start(cut as u64)).expect("seek");
        for piece in bytes[cut..].chunks(16 * unit) {
            file.write_all(piece).expect("append");
        }
    }
}

/// Every answer is a piece of `bytes`, which is what any version of the file begins with; `may_be_zero`: or zero, where a
/// page was cut in the middle.
fn read_all_the_time(path: &Path, bytes: &[u8], may_be_zero: bool, done: &AtomicBool, seen: &Seen) {
    let mut live = Live::open(path).expect("open");
    let mut buf = vec![0; 64 << 10];
    let mut offset = 0;
    while !done.load(Ordering::Relaxed) {
        offset = (offset + 40_009) % LEN;
        match live.read_at(offset, &mut buf) {
            Ok(n) => {
                let expected = &bytes[offset.min(LEN)..][..n];
                let is_right =
                    |(&found, &byte): (&u8, &u8)| found == byte || may_be_zero && found == 0;
                assert!(buf[..n].iter().zip(expected).all(is_right), "at {offset}");
                seen.whole.fetch_add(usize::from(n > 0), Ordering::Relaxed);
            }
            Err(Error::PagesLost { path: Some(_), .. }) => {
                seen.faults.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("{error:?}"),
        }
        if let Ok(value) = live.load::<AtomicU64>(offset / 8 * 8) {
            let expected = &bytes[offset / 8 * 8..][..8];
            let found = value.into_inner().to_ne_bytes();
            assert!(
                found == expected || found.contains(&0),
                "{found:?}, {expected:?}"
            );
        }
        match live.refresh().expect("refresh") {
            Change::Cut(_) | Change::PagesLost => seen.cuts.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
    }
}

fn storm(path: &Path, unit: usize, may_be_zero: bool) {
    // No byte is 0.
    let bytes: Vec<u8> = pattern(1, LEN).iter().map(|byte| byte | 1).collect();
    std::fs::write(path, &bytes).expect("write");
    let (done, seen) = (AtomicBool::new(false), Seen::default());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| read_all_the_time(path, &bytes, may_be_zero, &done, &seen));
        }
        write_all_the_time(path, &bytes, unit, &seen);
        done.store(true, Ordering::Relaxed);
    });
    assert!(seen.all(), "reads, faults and cuts are seen");
}

/// A file on the disk of the build, and on each kind of file system that can be mounted here.
fn on_each(f: impl Fn(&Path)) {
    let dir = temp_dir();
    f(&dir.path().join("file"));
    if own_mounts() {
        for kind in ["ext4", "xfs", "btrfs", "tmpfs", "tmpfs with huge pages"] {
            if let Some(disk) = LoopFs::new(kind, 64 << 20) {
                f(&disk.path().join("file"));
            }
        }
    }
}

#[test]
fn truncations_and_appends_of_whole_pages_give_pieces_of_the_file_or_an_error_and_no_signal() {
    scenario!(|| on_each(|path| storm(path, page_size(), false))).succeed();
}

#[test]
fn truncations_in_the_middle_of_pages_give_no_signal() {
    scenario!(|| on_each(|path| storm(path, 1000, true))).succeed();
}

/// xfs zeroes the rest of the page before it sets the new length: a read in between returned zeros that no version had.
/// tmpfs maps a huge page whole, so what is behind the new end could be read, as zeros, also afterwards.
#[test]
fn bytes_that_are_cut_off_are_never_read_as_zeros() {
    scenario!(|| on_each(cut_under_readers)).succeed();
}

fn cut_under_readers(path: &Path) {
    const CUTS: usize = 40;
    let (pages, page) = (8, page_size());
    let bytes = vec![5; pages * page];
    let path = PathBuf::from(path);
    let turn = Barrier::new(4);
    let open = || Live::open(&path).expect("open");
    // Some file systems have no direct reads.
    let open_direct = || {
        let mut options = File::options();
        let options = options.read(true).custom_flags(libc::O_DIRECT);
        let file = options.open(&path).or_else(|_| File::open(&path));
        Live::from_fd(file.expect("open")).expect("attach")
    };
    let read_until_cut = |range: std::ops::Range<usize>, open: &dyn Fn() -> Live| {
        let mut buf = vec![0; range.len()];
        for _ in 0..CUTS {
            turn.wait();
            let live = open();
            turn.wait();
            while let Ok(n) = live.read_at(range.start, &mut buf) {
                assert_eq!(n, range.len());
                assert!(!buf.contains(&0), "{range:?}");
            }
            turn.wait();
        }
    };
    std::thread::scope(|scope| {
        // The end of the page that is cut, and all of the file.
        scope.spawn(|| read_until_cut(2 * page - 64..2 * page, &open_direct));
        scope.spawn(|| read_until_cut(page..2 * page, &open));
        scope.spawn(|| read_until_cut(0..pages * page, &open));
        for _ in 0..CUTS {
            std::fs::write(&path, &bytes).expect("write");
            turn.wait();
            turn.wait();
            let file = File::options().write(true).open(&path).expect("open");
            file.set_len(page as u64 + 100).expect("truncate");
            turn.wait();
        }
    });
}
