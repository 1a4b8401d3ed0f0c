//! A process that gives its leases up before it stops or sleeps.

use super::support::bytes::{assert_same, pattern};
use super::support::child::scenario;
use super::support::file_with;
use super::support::refuse::{Verdict, intercept};
use super::{Folder, leased};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use stillmap::{Backing, Exclusive, Reason, Snapshot, release_leases};

const LEN: usize = (2 << 20) + 77;

/// `EAGAIN` where it would wait for the holder of a lease.
fn open_without_waiting(path: &Path) -> std::io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.write(true).truncate(true);
    options.custom_flags(libc::O_NONBLOCK).open(path)
}

/// Case: a reader that is stopped by Ctrl-Z held a writer for the whole lease-break time.
#[test]
fn no_writer_waits_for_a_process_that_released_its_leases() {
    scenario!(|| {
        assert!(release_leases(), "there is none yet");
        let Some(folder) = Folder::new() else {
            return;
        };
        let files: Vec<_> = (0..3)
            .map(|number| {
                let path = folder.path().join(number.to_string());
                fs::write(&path, pattern(number, LEN)).unwrap();
                path
            })
            .collect();
        let limited = Snapshot::options().memory_limit(1000);
        let snapshots = [
            leased(|| Snapshot::open(&files[0])),
            leased(|| limited.open(&files[1])),
        ];
        let again = leased(|| Snapshot::open(&files[0]));
        let edited = Exclusive::open(&files[2]);
        assert!(release_leases());
        for (path, snapshot) in files.iter().zip(&snapshots) {
            assert_ne!(snapshot.backing(), Backing::Leased);
            assert_eq!(snapshot.reason(), Some(Reason::Released));
            open_without_waiting(path).unwrap();
        }
        for (number, snapshot) in snapshots.iter().enumerate() {
            assert_same(
                snapshot,
                &pattern(number as u64, LEN),
                "after it was truncated",
            );
            assert!(snapshot.is_consistent());
        }
        assert_same(&again, &snapshots[0], "the same file");
        // An editor keeps its file.
        if let Ok(mut edited) = edited {
            let error = open_without_waiting(&files[2]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
            edited[0] = 1;
            edited.close().unwrap();
        }
        // The next one is leased again, and a writer that comes then is named as the reason.
        fs::write(&files[0], pattern(9, LEN)).unwrap();
        let next = leased(|| Snapshot::open(&files[0]));
        fs::write(&files[0], b"new").unwrap();
        assert_eq!(next.reason(), Some(Reason::Written));
        assert_same(&next, &pattern(9, LEN), "leased again");
    })
    .succeed();
}

/// Releases that meet opens, drops, writers and other releases: no byte changes, and none of them hangs.
#[test]
fn releases_amid_a_storm() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = folder.path().join("file");
        fs::write(&path, vec![0; LEN]).unwrap();
        let is_over = &AtomicBool::new(false);
        let path = &path;
        thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(move || {
                        for _ in 0..300 {
                            let snapshot = Snapshot::open(path).unwrap();
                            let same = |first: &u8| snapshot.iter().all(|byte| byte == first);
                            assert!(!snapshot.is_consistent() || snapshot.first().is_none_or(same));
                        }
                    })
                })
                .collect();
            for _ in 0..2 {
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        release_leases();
                        thread::yield_now();
                    }
                });
            }
            scope.spawn(move || {
                let mut value = 0_u8;
                while !is_over.load(Ordering::Relaxed) {
                    value = value.wrapping_add(1);
                    fs::write(path, vec![value; LEN]).unwrap();
                }
            });
            let ended: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
            is_over.store(true, Ordering::Relaxed);
            assert!(ended.iter().all(Result::is_ok));
        });
        assert!(release_leases());
    })
    .succeed();
}

/// While a thread waits for the release of all leases, and the copying thread is busy with the first, another thread drops
/// the second and opens a file. Before: the new lease took the place of the one that was waited for, for ever.
#[test]
fn a_release_ends_though_other_files_are_opened_meanwhile() {
    scenario!(|| {
        const LARGE: usize = 16 << 20;
        let Some(folder) = Folder::new() else {
            return;
        };
        let file = |name: &str, len| file_with(folder.path(), name, &vec![5; len]);
        let (large, second, third) = (file("1", LARGE), file("2", LEN), file("3", LEN));
        let (copies, is_copying) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        // The reads of a large copy: 4 MiB each.
        intercept(libc::SYS_pread64, (2, u32::MAX, 4 << 20), move |_| {
            let _ = copies.send(());
            let _ = may_go.recv();
            Verdict::Continue
        });
        let first = leased(|| Snapshot::open(&large));
        let second = leased(|| Snapshot::open(&second));
        // Ends a process that waits for ever.
        // SAFETY: takes a number.
        unsafe { libc::alarm(300) };
        let releasing = thread::spawn(release_leases);
        if first.backing() == Backing::Leased && is_copying.recv().is_err() {
            return;
        }
        drop(second);
        let third = leased(|| Snapshot::open(&third));
        drop(go);
        releasing.join().unwrap();
        assert!(first[..] == vec![5; LARGE] && third[..] == [5; LEN]);
    })
    .succeed();
}
