//! Breaks of every kind, one at a time and many together.

use super::storm::{BLOWS, Blow, Competitor, serve, storm};
use super::support::child::{argument, report, scenario};
use super::support::kernel::may_write;
use super::support::random;
use super::support::user::may_be_others;
use super::support::{file_with, skip, temp_dir_in};
use super::{Disk, Folder, leased};
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};
use stillmap::{Backing, Snapshot};

const SERVER: &str = "breaking::the_competitor";

#[test]
fn the_competitor() {
    serve();
}

#[test]
fn nothing_changes_under_a_reader() {
    let seed = random::seed();
    for disk in Disk::all() {
        let survived = storm(disk.path(), SERVER, seed, |survived| survived.blows < 400);
        println!("{}: {survived:?}", disk.name);
        assert!(survived.breaks > 200);
    }
}

#[test]
fn a_broken_lease_becomes_memory_or_where_that_is_short_a_clone() {
    for disk in Disk::all() {
        let folder = temp_dir_in(disk.path());
        let path = folder.path().join("file");
        let bytes = vec![7; 5 << 20];
        let without_memory = if disk.has_clones() {
            Backing::Cloned
        } else {
            Backing::Disk
        };
        for (limit, expected) in [(5 << 20, Backing::Memory), (1 << 20, without_memory)] {
            fs::write(&path, &bytes).unwrap();
            let options = Snapshot::options().memory_limit(limit);
            let snapshot = leased(|| options.open(&path));
            let mut competitor = Competitor::start(SERVER);
            competitor.tell(Blow::Rewrite, &path);
            competitor.wait();
            assert_eq!(snapshot.backing(), expected, "{}", disk.name);
            assert!(snapshot[..] == bytes);
            assert_eq!(fs::read(&path).unwrap(), b"rewritten");
        }
    }
}

/// A file system to which no process can write, until this is dropped: fsfreeze(8).
struct Frozen(File);

impl Frozen {
    fn new(mounted: &Path) -> Option<Self> {
        let root = File::open(mounted).unwrap();
        // SAFETY: these ioctl(2) touch no memory of ours.
        match unsafe { libc::ioctl(root.as_raw_fd(), 0xc004_5877_u64 as _, 0) } {
            0 => Some(Frozen(root)),
            _ => None,
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::ioctl(self.0.as_raw_fd(), 0xc004_5878_u64 as _, 0) };
    }
}

/// Attack: a writer comes while the file system is frozen. Before, on xfs and btrfs: the clone waited for the end of that,
/// and the process was aborted at 40.5 s.
#[test]
fn a_writer_gets_through_while_the_file_system_is_frozen() {
    for disk in ["ext4", "xfs", "btrfs"]
        .into_iter()
        .filter_map(Disk::mounted)
    {
        if !disk.has_leases() {
            continue;
        }
        let bytes = vec![7; 5 << 20];
        let path = file_with(disk.path(), "file", &bytes);
        let snapshot = leased(|| Snapshot::open(&path));
        let Some(frozen) = Frozen::new(disk.path()) else {
            skip("fsfreeze(8) is refused");
            continue;
        };
        let mut open = OpenOptions::new();
        // Breaks the lease, and does not wait for it: the test could not end otherwise where this fails.
        let _ = open.write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let start = Instant::now();
        while snapshot.backing() == Backing::Leased && start.elapsed() < Duration::from_secs(30) {
            thread::yield_now();
        }
        assert_eq!(snapshot.backing(), Backing::Memory, "{}", disk.name);
        assert!(open.open(&path).is_ok());
        drop(frozen);
        assert!(snapshot[..] == bytes && snapshot.is_consistent());
    }
}

#[test]
fn the_same_thread_may_write_to_its_own_file() {
    let Some(folder) = Folder::new() else {
        return;
    };
    let path = folder.path().join("file");
    let bytes = vec![3; 2 << 20];
    fs::write(&path, &bytes).unwrap();
    let many: Vec<Snapshot> = (0..20)
        .map(|_| leased(|| stillmap::Snapshot::open(&path)))
        .collect();
    fs::write(&path, b"x").unwrap();
    assert!(many.iter().all(|snapshot| snapshot[..] == bytes));
}

#[test]
fn a_writer_that_does_not_wait_is_refused_at_first_and_let_in_later() {
    let Some(folder) = Folder::new() else {
        return;
    };
    let path = folder.path().join("file");
    let bytes = vec![3; 8 << 20];
    fs::write(&path, &bytes).unwrap();
    let snapshot = leased(|| stillmap::Snapshot::open(&path));
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    let refused = options.open(&path).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
    while options.open(&path).is_err() {
        thread::yield_now();
    }
    assert_ne!(snapshot.backing(), Backing::Leased);
    assert!(snapshot[..] == bytes);
}

/// More than the real-time signal queue of a process need hold, on one signal that does not queue.
#[test]
fn hundreds_of_files_are_broken_together() {
    if !super::support::kernel::may_open(2000) {
        return;
    }
    for disk in Disk::all() {
        let folder = temp_dir_in(disk.path());
        let open = |i: usize| {
            let path = folder.path().join(i.to_string());
            let bytes = vec![i as u8; 40_000 + i];
            fs::write(&path, &bytes).unwrap();
            let snapshot = leased(|| Snapshot::options().copy_limit(0).open(&path));
            (path, bytes, snapshot)
        };
        let files: Vec<_> = (0..600).map(open).collect();
        let writers = 8;
        let start = Barrier::new(writers);
        thread::scope(|scope| {
            for part in files.chunks(files.len() / writers) {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    part.iter()
                        .for_each(|(path, ..)| fs::write(path, b"new").unwrap());
                });
            }
        });
        for (path, bytes, snapshot) in &files {
            assert!(snapshot[..] == bytes[..], "{}", disk.name);
            assert_ne!(snapshot.backing(), Backing::Leased);
            assert_eq!(fs::read(path).unwrap(), b"new");
        }
    }
}

#[test]
fn a_snapshot_may_go_at_the_very_moment_of_a_break() {
    let Some(folder) = Folder::new() else {
        return;
    };
    let path = folder.path().join("file");
    let mut competitor = Competitor::start(SERVER);
    for round in 0..1500 {
        fs::write(&path, vec![round as u8; 50_000]).unwrap();
        let snapshot = leased(|| Snapshot::options().copy_limit(0).open(&path));
        competitor.tell(Blow::Append, &path);
        // From at once to after it was answered.
        for _ in 0..round % 50 {
            assert_eq!(snapshot[0], round as u8);
            thread::yield_now();
        }
        drop(snapshot);
        competitor.wait();
        assert_eq!(fs::metadata(&path).unwrap().len(), 50_004);
    }
}

#[test]
fn the_program_keeps_its_signals() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = folder.path().join("file");
        fs::write(&path, vec![1; 2 << 20]).unwrap();
        let before = signals();
        let snapshot = stillmap::Snapshot::open(&path).unwrap();
        fs::write(&path, b"new").unwrap();
        assert_eq!(snapshot.backing(), Backing::Memory);
        assert_eq!(signals(), before);
    })
    .succeed();

    /// The masks and dispositions of this thread and process, proc(5).
    fn signals() -> Vec<String> {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let lines = status
            .lines()
            .filter(|line| line.starts_with("Sig") && !line.starts_with("SigQ"));
        lines.map(String::from).collect()
    }
}

#[test]
fn every_blow_is_told_apart() {
    // The storm draws from all of them.
    assert_eq!(BLOWS.iter().filter(|blow| blow.breaks()).count(), 9);
}

/// Linux lets `open(O_RDONLY|O_TRUNC)` cut a file without breaking its lease (POSIX leaves that combination
/// undefined). The bytes are gone then: reading them is a signal, and never other bytes, also after the next writer.
#[test]
fn bytes_that_are_gone_are_never_replaced_by_others() {
    let mut child = scenario!(|| {
        let path = PathBuf::from(argument("PATH"));
        let snapshot = leased(|| stillmap::Snapshot::open(&path));
        assert!(snapshot.is_consistent());
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_TRUNC);
        drop(options.open(&path).unwrap());
        assert!(!snapshot.is_consistent());
        if argument("WRITES") == "true" {
            fs::write(&path, vec![6; 3 << 20]).unwrap();
            assert!(!snapshot.is_consistent());
        }
        report("reads");
        let sum: u64 = snapshot.iter().map(|&byte| u64::from(byte)).sum();
        report(sum);
    });
    let Some(folder) = Folder::new() else {
        return;
    };
    let path = folder.path().join("file");
    child.argument("PATH", &path);
    for (writes, signal) in [("false", libc::SIGBUS), ("true", libc::SIGSEGV)] {
        fs::write(&path, vec![5; 2 << 20]).unwrap();
        let outcome = child.argument("WRITES", writes).run();
        assert_eq!(outcome.reports(), ["reads"]);
        assert_eq!(outcome.signal(), Some(signal));
    }
}

/// The process may change its user between taking a lease and answering for it.
#[test]
fn a_writer_gets_through_after_the_process_changed_its_user() {
    if !may_be_others() {
        return;
    }
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = folder.path().join("file");
        fs::write(&path, vec![5; 2 << 20]).unwrap();
        let snapshot = stillmap::Snapshot::open(&path).unwrap();
        assert_eq!(snapshot.backing(), Backing::Leased);
        let mut competitor = Competitor::start(SERVER);
        // SAFETY: takes numbers; every thread changes its user.
        assert_eq!(unsafe { libc::setresuid(65534, 65534, 65534) }, 0);
        competitor.tell(Blow::Rewrite, &path);
        competitor.wait();
        assert_eq!(snapshot.backing(), Backing::Memory);
        assert!(snapshot.iter().all(|&byte| byte == 5));
    })
    .succeed();
}

/// A writer that comes while everything is faulted in waits for the copy, and not for the faults.
#[test]
fn faulting_in_gives_way_to_a_writer() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = folder.path().join("file");
        let len = 256 << 20;
        if !may_write(len) {
            return;
        }
        fs::File::create(&path).unwrap().set_len(len).unwrap();
        let opened = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                opened.wait();
                fs::write(&path, b"new").unwrap();
            });
            opened.wait();
            for _ in 0..20 {
                let options = Snapshot::options().populate(true).copy_limit(0);
                let snapshot = match options.open(&path) {
                    // The writer has it open: a copy could meet its truncation.
                    Err(stillmap::Error::NotMappable { .. }) => continue,
                    other => other.unwrap(),
                };
                assert!(snapshot.is_consistent());
                assert!(snapshot.iter().step_by(4096).all(|&b| b == 0 || b == b'n'));
            }
        });
    })
    .succeed();
}

/// 400 snapshots of one file: one descriptor, one lease, one copy.
#[test]
fn snapshots_of_one_file_share_its_lease() {
    use super::support::child::scenario;
    use super::support::kernel::{descriptors, status};
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = folder.path().join("file");
        fs::write(&path, vec![5; 16 << 20]).unwrap();
        let first = leased(|| stillmap::Snapshot::open(&path));
        let before = descriptors();
        let others: Vec<_> = (0..400)
            .map(|_| stillmap::Snapshot::open(&path).unwrap())
            .collect();
        let window = Snapshot::options()
            .offset(4097)
            .len(8 << 20)
            .open(&path)
            .unwrap();
        assert_eq!(descriptors(), before);
        assert!(others.iter().all(|other| other.as_ptr() == first.as_ptr()));
        assert_eq!(window.as_ptr(), first[4097..].as_ptr());
        let memory = status("VmRSS");
        fs::write(&path, b"new").unwrap();
        assert!(status("VmRSS") < memory + (48 << 20));
        assert_ne!(first.backing(), Backing::Leased);
        assert!(
            others
                .iter()
                .all(|other| other[0] == 5 && other.is_consistent())
        );
        drop((first, others));
        assert!(window.iter().all(|&byte| byte == 5));
        assert_eq!(stillmap::Snapshot::open(&path).unwrap()[..], b"new"[..]);
    })
    .succeed();
}
