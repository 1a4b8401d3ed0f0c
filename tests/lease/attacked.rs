//! Attacks that once broke the promises of a lease, and what happened then.

use super::Folder;
use super::leased;
use super::support::child::{Forked, argument, fork, fork_into, report, scenario};
use super::support::control_group::{ControlGroup, join};
use super::support::namespace::{bind, hide, mount, own_mounts};
use super::support::{self, exclusive};
use std::fs::{self, File};
use std::io::{Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use stillmap::{Backing, Exclusive, Snapshot};

/// The leases on a file that processes of this number have set, from /proc/locks.
pub(super) fn leases_of(process: libc::pid_t, path: &Path) -> usize {
    let inode = fs::metadata(path).unwrap().ino();
    let locks = fs::read_to_string("/proc/locks").unwrap();
    // 7: LEASE  ACTIVE    READ 4321 08:01:123456 0 EOF
    let is_its = |line: &&str| {
        let words: Vec<_> = line.split_whitespace().collect();
        words[1] == "LEASE"
            && words[4] == process.to_string()
            && words[5].rsplit(':').next() == Some(&inode.to_string())
    };
    locks.lines().filter(is_its).count()
}

/// Waits until a child has ended, and leaves its number to it.
pub(super) fn wait_unreaped(child: &Forked) {
    // SAFETY: zero bits are a valid siginfo.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let (id, flags) = (child.id() as libc::id_t, libc::WEXITED | libc::WNOWAIT);
    // SAFETY: writes one siginfo.
    let ended = unsafe { libc::waitid(libc::P_PID, id, &mut info, flags) };
    assert_eq!(ended, 0);
}

/// Attack "daemonising", by the function itself. Before: the snapshot had the bytes of the daemon's next allocation, a
/// store to the exclusive file went into it (40,894,464 bytes of it), and the inherited lease held a writer for 46 s.
#[test]
fn daemon_after_an_open() {
    const LEN: usize = 40 << 20;
    scenario!(|| {
        let Some(system) = exclusive::system("ext4", 128 << 20) else {
            return;
        };
        let (read, edited) = (system.path().join("read"), system.path().join("edited"));
        fs::write(&read, vec![5; LEN]).unwrap();
        fs::write(&edited, vec![6; LEN]).unwrap();
        let (mut result, tell) = pipe().unwrap();
        let parent = fork(|| {
            let snapshot = leased(|| Snapshot::open(&read));
            let mut file = exclusive::open(&edited);
            // SAFETY: takes numbers. The other threads are the monitor's, which hold no lock.
            assert_eq!(unsafe { libc::daemon(1, 1) }, 0);
            let vec = vec![0xbb_u8; LEN];
            assert!(snapshot.iter().all(|&byte| byte == 5));
            assert!(snapshot.is_consistent());
            // SAFETY: as above.
            let touched = unsafe { fork_into(|| file.fill(7)) }.wait();
            assert_eq!(touched.signal(), Some(libc::SIGSEGV));
            // SAFETY: as above.
            let touched = unsafe { fork_into(|| file.resize(0).unwrap_err().to_string().clear()) };
            touched.succeed();
            assert!(vec.iter().all(|&byte| byte == 0xbb));
            (&tell).write_all(b"ok").unwrap();
            // The daemon's file is its own.
            drop(file);
            exclusive::open(&edited).fill(8);
            (&tell).write_all(b"ay").unwrap();
        });
        drop(tell);
        wait_unreaped(&parent);
        let mut text = [0; 2];
        result.read_exact(&mut text).unwrap();
        assert_eq!(leases_of(parent.id(), &read), 0);
        assert_eq!(leases_of(parent.id(), &edited), 0);
        assert_eq!(&text, b"ok");
        let mut rest = String::new();
        result.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "ay");
        parent.succeed();
    })
    .succeed();
}

/// The kind of "a child's descriptor holds the lease, no process handles the break": another thread forks at any moment of
/// an open or a drop. Before, a child had the descriptor of the open that was under way, and with it the lease after its
/// parent's end.
#[test]
fn a_fork_at_any_moment_of_an_open_takes_no_lease_with_it() {
    const FORKS: usize = 500;
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        // One for each thread: snapshots of one file share its lease.
        let paths = ["one", "two"].map(|name| folder.path().join(name));
        for path in &paths {
            fs::write(path, vec![5; 2 << 20]).unwrap();
        }
        // The children end with the writer.
        let (end, hold) = pipe().unwrap();
        let copy = hold.as_raw_fd();
        let (mut go, tell) = pipe().unwrap();
        let parent = fork(|| {
            // SAFETY: this process's own copy, which it uses for nothing else.
            unsafe { libc::close(copy) };
            drop(leased(|| Snapshot::open(&paths[0])));
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                for path in &paths {
                    let stop = &stop;
                    scope.spawn(move || {
                        while !stop.load(Ordering::Relaxed) {
                            drop(Snapshot::open(path).unwrap());
                        }
                    });
                }
                for _ in 0..FORKS {
                    let wait = || {
                        (&tell).write_all(&[0]).unwrap();
                        drop((&end).read(&mut [0]));
                    };
                    // SAFETY: the child does nothing but a system call.
                    let _ = unsafe { fork_into(wait) };
                }
                stop.store(true, Ordering::Relaxed);
            });
            (&tell).write_all(&[0]).unwrap();
            loop {
                thread::park();
            }
        });
        // The children have given back what they give back, and the opens are over.
        go.read_exact(&mut [0; FORKS + 1]).unwrap();
        // While it lives, none is without an owner either.
        let left = || paths.iter().map(|path| leases_of(parent.id(), path)).sum();
        let alive: usize = left();
        parent.kill();
        wait_unreaped(&parent);
        assert_eq!((alive, left()), (0, 0));
        let _ = parent.wait();
        drop(hold);
    })
    .succeed();
}

/// Attack "the break time misread" (no /proc, no descriptor at that moment). Before: 45 s were assumed, and with a shorter
/// time another process wrote under `&Exclusive`. A time that cannot be read gives no lease.
#[test]
fn without_the_break_time_there_is_no_lease() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = support::file_with(folder.path(), "file", &vec![5; 2 << 20]);
        let garbage = support::file_with(folder.path(), "garbage", b"soon\n");
        let time = "/proc/sys/fs/lease-break-time";
        let system = exclusive::any_system();
        let cases: [(&str, &dyn Fn()); 4] = [
            ("no /proc", &|| hide("/proc")),
            ("no /proc/sys/fs", &|| hide("/proc/sys/fs")),
            ("not a number", &|| bind(&garbage, time)),
            ("empty", &|| {
                bind(&support::file_with(folder.path(), "empty", b""), time)
            }),
        ];
        for (case, spoil) in cases {
            let child = fork(|| {
                if !own_mounts() {
                    return;
                }
                spoil();
                let snapshot = Snapshot::open(&path).unwrap();
                assert_ne!(snapshot.backing(), Backing::Leased, "{case}");
                assert!(snapshot.iter().all(|&byte| byte == 5));
                if let Some(system) = &system {
                    let path = support::file_with(system.path(), "edited", &[1; 5000]);
                    assert!(Exclusive::open(&path).is_err(), "{case}");
                }
            });
            child.succeed();
        }
    })
    .succeed();
}

/// Attack "four files broken at once": four copies of 300 MiB in a group of 1 GiB. Before: OOM-killed, and alive when they
/// were broken one after another. Here a quarter of each, which any machine copies within the break time.
#[test]
fn four_large_files_are_broken_together_in_a_small_memory_group() {
    const LEN: u64 = 75 << 20;
    let Some(group) = ControlGroup::with_memory(256 << 20) else {
        return;
    };
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        join(argument("GROUP"));
        let files: Vec<_> = (0..4)
            .map(|number| {
                let path = folder.path().join(number.to_string());
                File::create(&path).unwrap().set_len(LEN).unwrap();
                let snapshot = leased(|| Snapshot::open(&path));
                (path, snapshot)
            })
            .collect();
        thread::scope(|scope| {
            for (path, _) in &files {
                scope.spawn(move || fs::write(path, b"new").unwrap());
            }
        });
        for (_, snapshot) in &files {
            assert_ne!(snapshot.backing(), Backing::Leased);
            assert!(snapshot.is_consistent() && snapshot.len() as u64 == LEN);
            assert!(snapshot.iter().step_by(1 << 16).all(|&byte| byte == 0));
        }
    })
    .argument("GROUP", group.path())
    .succeed();
}

/// Attack "SIGURG by kill(2), taken by sigwait in a thread that is not the main one". Before: 0 of 200 arrived.
#[test]
fn a_program_has_every_signal_for_itself() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = folder.path().join("file");
        // Every signal that a program may wait for, but those that would end it or its threads.
        let wanted: Vec<i32> = (libc::SIGRTMIN()..=libc::SIGRTMAX())
            .chain([libc::SIGURG, libc::SIGIO, libc::SIGUSR1, libc::SIGALRM])
            .collect();
        // SAFETY: zero bits are a valid set, which the calls fill and read.
        let set = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            wanted.iter().for_each(|&signal| {
                libc::sigaddset(&mut set, signal);
            });
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            set
        };
        let (arrived, arrivals) = mpsc::channel();
        thread::spawn(move || {
            loop {
                let mut signal = 0;
                // SAFETY: reads the set and writes the number.
                assert_eq!(unsafe { libc::sigwait(&set, &mut signal) }, 0);
                arrived.send(signal).unwrap();
            }
        });
        for round in 0..200 {
            fs::write(&path, vec![round as u8; 2 << 20]).unwrap();
            let snapshot = leased(|| Snapshot::open(&path));
            let signal = wanted[round % wanted.len()];
            for signal in [libc::SIGURG, signal] {
                // SAFETY: takes numbers.
                unsafe { libc::kill(libc::getpid(), signal) };
                assert_eq!(arrivals.recv().unwrap(), signal);
            }
            fs::write(&path, b"new").unwrap();
            assert!(snapshot.iter().all(|&byte| byte == round as u8));
        }
        // And nothing arrived that it was not sent.
        assert!(arrivals.try_recv().is_err());
    })
    .succeed();
}

/// Mounts an overlay; returns the directory of its upper layer, and its own.
fn overlay(folder: &Path) -> (PathBuf, PathBuf) {
    let part = |name: &str| {
        let path = folder.join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(part);
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    mount("overlay", &merged, Some("overlay"), 0, &options);
    (upper, merged)
}

/// Attack "truncate(2) through an overlay above the file". Before: `is_consistent()` was false after the cut, and true again
/// when the file was extended back; the bytes were zero in between and afterwards.
#[test]
fn a_cut_through_an_overlay_is_never_intact_again() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        if !own_mounts() {
            return;
        }
        let (upper, merged) = overlay(folder.path());
        let len = 2 << 20;
        let path = support::file_with(&upper, "file", &vec![5; len]);
        let above = merged.join("file");
        for back in [len as u64, 10, 3 << 20] {
            fs::write(&path, vec![5; len]).unwrap();
            let snapshot = leased(|| Snapshot::open(&path));
            let file = File::open(&above).unwrap();
            assert!(snapshot.is_consistent());
            drop(file);
            for size in [10, back] {
                support::truncate(&above, size).unwrap();
                if snapshot.backing() == Backing::Leased {
                    assert!(!snapshot.is_consistent(), "cut to {size}");
                } else {
                    // A kernel that breaks the lease.
                    assert!(snapshot.iter().all(|&byte| byte == 5));
                }
            }
        }
        // SAFETY: a C string.
        unsafe { libc::umount2(support::c_path(&merged).as_ptr(), libc::MNT_DETACH) };
    })
    .succeed();
}

/// What is lost in this way is not read as other bytes once a writer was let in: touching it is a signal.
#[test]
fn bytes_that_were_cut_off_through_an_overlay_are_not_read_as_others() {
    let mut child = scenario!(|| {
        let Some(folder) = Folder::new().filter(|_| own_mounts()) else {
            return;
        };
        let (upper, merged) = overlay(folder.path());
        let path = support::file_with(&upper, "file", &[5; 2 << 20]);
        let snapshot = leased(|| Snapshot::open(&path));
        support::truncate(&merged.join("file"), 10).unwrap();
        fs::write(&path, vec![6; 2 << 20]).unwrap();
        if snapshot.backing() == Backing::Memory {
            return report("a kernel that breaks the lease");
        }
        assert!(!snapshot.is_consistent());
        report("let in");
        report(snapshot[1 << 20]);
    });
    let outcome = child.run();
    match outcome.reports()[..] {
        ["let in"] => assert_eq!(outcome.signal(), Some(libc::SIGSEGV), "{outcome:?}"),
        [] | ["a kernel that breaks the lease"] => {
            assert!(outcome.status.success(), "{outcome:?}");
        }
        _ => panic!("{outcome:?}"),
    }
}

/// Attack "a parent with a leased snapshot forks and exits", with an exclusive file. Before: no process handled
/// the break of the child's descriptor.
#[test]
fn an_exclusive_file_does_not_outlive_its_process() {
    scenario!(|| {
        let Some(system) = exclusive::any_system() else {
            return;
        };
        let path = support::file_with(system.path(), "file", &[1; 5000]);
        let (end, hold) = pipe().unwrap();
        let copy = hold.as_raw_fd();
        let (mut go, tell) = pipe().unwrap();
        let parent = fork(|| {
            // SAFETY: this process's own copy, which it uses for nothing else.
            unsafe { libc::close(copy) };
            let mut file = exclusive::open(&path);
            file.fill(2);
            // Runs once fork(2) is complete in the child, which has closed the parent's descriptors by then.
            let wait = || {
                (&tell).write_all(&[0]).unwrap();
                drop((&end).read(&mut [0]));
            };
            // SAFETY: the child does nothing but two system calls.
            let _ = unsafe { fork_into(wait) };
            loop {
                thread::park();
            }
        });
        go.read_exact(&mut [0]).unwrap();
        assert_eq!(leases_of(parent.id(), &path), 1);
        parent.kill();
        wait_unreaped(&parent);
        assert_eq!(leases_of(parent.id(), &path), 0);
        // And nothing of it is open in the child.
        exclusive::open(&path).fill(3);
        assert_eq!(fs::read(&path).unwrap(), [3; 5000]);
        let _ = parent.wait();
        drop(hold);
    })
    .succeed();
}

/// Attack: the first snapshot is opened by a thread with a schedule of its own (`SCHED_FIFO`, pinned to a processor that it
/// never leaves). Before: the lease threads inherited it, and never ran.
#[test]
fn lease_threads_have_the_ordinary_schedule() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        // SAFETY: all zeros are a value of it.
        let priority: libc::sched_param = unsafe { std::mem::zeroed() };
        // The one that needs no right.
        let batch = (libc::SYS_sched_setscheduler, libc::SCHED_BATCH);
        // SAFETY: reads one struct.
        let set = unsafe { libc::syscall(batch.0, 0, batch.1, &raw const priority) };
        if set != 0 {
            return support::skip("no other schedule is allowed");
        }
        let path = support::file_with(folder.path(), "file", &[5; 2 << 20]);
        let _snapshot = leased(|| Snapshot::open(&path));
        let schedules: Vec<_> = fs::read_dir("/proc/self/task")
            .unwrap()
            .map(|task| task.unwrap().path())
            .filter(|task| {
                let name = fs::read_to_string(task.join("comm")).unwrap();
                name.starts_with("stillmap-")
            })
            .map(|task| {
                let id: libc::pid_t = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
                // SAFETY: takes a number.
                unsafe { libc::syscall(libc::SYS_sched_getscheduler, id) }
            })
            .collect();
        assert_eq!(schedules, [libc::SCHED_OTHER.into(); 2]);
    })
    .succeed();
}
