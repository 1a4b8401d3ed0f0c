//! Files that another process shrinks, grows and overwrites while they are read.

use crate::sealed::memfd;
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::scenario;
use crate::support::refuse::{Verdict, intercept};
use crate::support::temp_dir;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use stillmap::{Backing, Error, Snapshot};

const MOST: usize = 3 << 20;

/// Stops the writer, also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `read` again and again while a writer makes the file shorter and longer, until it has seen enough; at every
/// moment the file holds a prefix of `whole`.
fn while_it_changes(path: &Path, whole: &[u8], mut read: impl FnMut() -> bool) {
    let stop = AtomicBool::new(false);
    let turns = AtomicUsize::new(0);
    let file = File::create(path).unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut len = 0;
            let mut state = 12345_u64;
            while !stop.load(Ordering::Relaxed) {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                // Mostly small steps, sometimes everything.
                let next = match state >> 62 {
                    0 => 0,
                    1 => (state >> 20) as usize % 5000,
                    _ => (state >> 20) as usize % MOST,
                };
                if next < len {
                    file.set_len(next as u64).unwrap();
                } else {
                    file.write_all_at(&whole[len..next], len as u64).unwrap();
                }
                len = next;
                turns.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stop = Stop(&stop);
        let mut reads = 0;
        // On one processor the writer may do all its turns between two reads.
        while !read() || reads < 300 || turns.load(Ordering::Relaxed) < 100 {
            reads += 1;
        }
    });
}

/// Beside a truncation read(2) may see the zeros that the kernel writes behind the new end, and so may a copy.
fn assert_written_or_cut(bytes: &[u8], whole: &[u8]) {
    let mut pairs = bytes.iter().zip(whole);
    assert!(pairs.all(|(byte, written)| byte == written || *byte == 0));
}

#[test]
fn a_whole_file_is_a_valid_read() {
    let dir = temp_dir();
    let path = dir.path().join("file");
    let whole = pattern(1, MOST);
    let mut some = 0;
    while_it_changes(&path, &whole, || {
        let snapshot = stillmap::Snapshot::open(&path).unwrap();
        assert_written_or_cut(&snapshot, &whole);
        let snapshot = Snapshot::from_fd(File::open(&path).unwrap()).unwrap();
        assert_written_or_cut(&snapshot, &whole);
        some += snapshot.len();
        some > 0
    });
}

#[test]
fn a_window_is_whole_or_an_error() {
    let dir = temp_dir();
    let path = dir.path().join("file");
    let whole = pattern(2, MOST);
    let (mut inside, mut outside) = (0, 0);
    let mut turn = 0_usize;
    while_it_changes(&path, &whole, || {
        turn += 1;
        let offset = [0, 1, 4096, 1_000_003][turn % 4];
        let len = [10, 5000, 300_000, 1_500_000][turn / 4 % 4];
        match Snapshot::options()
            .offset(offset as u64)
            .len(len)
            .open(&path)
        {
            Ok(window) => {
                inside += 1;
                assert_written_or_cut(&window, &whole[offset..offset + len]);
            }
            Err(error) => {
                outside += 1;
                assert!(matches!(error, Error::OutOfBounds { .. }), "{error:?}");
            }
        }
        inside > 0 && outside > 0
    });
}

#[test]
fn overwritten_bytes_are_old_or_new_and_stay() {
    let dir = temp_dir();
    let path = dir.path().join("file");
    for size in [5000, 300_000, 1_500_000] {
        let (old, new) = (vec![1_u8; size], vec![2_u8; size]);
        std::fs::write(&path, &old).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let file = File::options().write(true).open(&path).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    file.write_all_at(&new, 0).unwrap();
                    file.write_all_at(&old, 0).unwrap();
                }
            });
            let _stop = Stop(&stop);
            for _ in 0..30 {
                let snapshot = stillmap::Snapshot::open(&path).unwrap();
                assert_eq!(snapshot.len(), size);
                let first = snapshot.to_vec();
                assert!(first.iter().all(|byte| (1..=2).contains(byte)));
                std::thread::yield_now();
                assert_same(&snapshot, &first, "looked at twice");
            }
        });
    }
}

/// The progress callback stands in for a writer that always comes in the middle of the copy.
#[test]
fn a_copy_that_never_finds_the_file_still_is_not_intact() {
    let dir = temp_dir();
    let path = dir.path().join("file");
    let size = 8 << 20;
    std::fs::write(&path, pattern(3, size)).unwrap();
    let mut writer = File::options().append(true).open(&path).unwrap();
    let mut wrote = 0;
    let result = Snapshot::options()
        .lease(false)
        .progress(|done, _| {
            if done > 0 && (done as usize) < size {
                writer.write_all(b"more").unwrap();
                wrote += 1;
            }
        })
        .open(&path);
    let snapshot = result.unwrap();
    assert_same(&snapshot[..size], &pattern(3, size), "what stood still");
    if snapshot.backing() == Backing::Memory {
        assert!(wrote > 0, "no progress in the middle of {size} bytes");
        assert!(!snapshot.is_consistent());
    }
    drop(snapshot);
    assert!(
        stillmap::Snapshot::open(&path).unwrap().is_consistent(),
        "no writer now"
    );
}

/// One disturbance, then quiet: the copy is tried again.
#[test]
fn a_copy_is_retried_until_the_file_stands_still() {
    let dir = temp_dir();
    let path = dir.path().join("file");
    let size = 8 << 20;
    std::fs::write(&path, pattern(4, size)).unwrap();
    let writer = File::options().write(true).open(&path).unwrap();
    let mut wrote = false;
    let snapshot = Snapshot::options()
        .lease(false)
        .progress(|done, _| {
            if done > 0 && !wrote {
                writer.write_all_at(b"changed", 0).unwrap();
                writer.write_all_at(b"changed", size as u64 - 7).unwrap();
                wrote = true;
            }
        })
        .open(&path)
        .unwrap();
    if wrote {
        assert_same(&snapshot, &std::fs::read(&path).unwrap(), "one moment");
    }
    assert!(snapshot.is_consistent());
}

/// A writer has truncated the file and writes it while it is read. Before: taken for a stream, and consistent.
#[test]
fn a_file_that_was_empty_and_is_written_meanwhile() {
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        let name = path.clone();
        File::create(&path).unwrap();
        assert!(Snapshot::open(&path).unwrap().is_consistent());
        // At the first pread(2), once the size has been looked at.
        let mut bytes = Some(vec![1; 300_000]);
        intercept(libc::SYS_pread64, (0, 0, 0), move |_| {
            if let Some(bytes) = bytes.take() {
                std::fs::write(&name, bytes).unwrap();
            }
            Verdict::Continue
        });
        let snapshot = Snapshot::open(&path).unwrap();
        assert_eq!(snapshot.len(), 300_000);
        assert!(!snapshot.is_consistent());
        assert!(Snapshot::open("/proc/version").unwrap().is_consistent());
    })
    .succeed();
}

/// The clock of the timestamps of files.
fn timestamp_clock() -> (libc::time_t, libc::c_long) {
    // SAFETY: all zeros are a valid timespec.
    let mut now: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: clock_gettime(2) writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &mut now) };
    (now.tv_sec, now.tv_nsec)
}

/// The timestamps are moved when a write(2) begins. Before: of copies that were made while one went on, most were a mixture
/// and consistent.
#[test]
fn half_of_a_write_is_not_intact() {
    const LEN: usize = 8 << 20;
    let file = memfd(&vec![0; LEN], 0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let _stop = Stop(&stop);
        threads.spawn(|| {
            for byte in (1..=u8::MAX).cycle() {
                let bytes = vec![byte; LEN];
                file.write_all_at(&bytes, 0).unwrap();
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // The next one has another timestamp: before Linux 6.13 they move in steps of up to 10 ms.
                let written = timestamp_clock();
                while timestamp_clock() == written {
                    std::thread::yield_now();
                }
            }
        });
        for _ in 0..30 {
            let snapshot = Snapshot::from_file(&file).unwrap();
            let mut pages = snapshot.iter().step_by(4096);
            let is_whole = pages.all(|byte| *byte == snapshot[0]);
            assert!(is_whole || !snapshot.is_consistent());
        }
    });
}
