//! Leases and fork: the child has nothing of its parent's, and can have its own.

use super::Folder;
use super::attacked::leases_of;
use super::support::child::{Forked, scenario};
use super::support::kernel::limit;
use super::support::pipe::pipe_of_files;
use super::support::refuse::{Verdict, intercept};
use super::support::{file_with, skip};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use stillmap::{Backing, Exclusive, Shared, Snapshot};

const LEN: usize = 2 << 20;

fn file(folder: &Folder) -> PathBuf {
    let path = folder.path().join("file");
    fs::write(&path, vec![5; LEN]).unwrap();
    path
}

/// Forks beside the lease threads: the child must not use what the C library cannot copy consistently.
fn fork(body: impl FnOnce()) -> ExitStatus {
    // SAFETY: the other threads are the monitor's, which hold no lock that the child takes.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends the process.
            unsafe { libc::_exit(if done.is_ok() { 0 } else { 101 }) }
        }
        id => {
            let mut status = 0;
            // SAFETY: `status` is valid for the result.
            assert_eq!(unsafe { libc::waitpid(id, &mut status, 0) }, id);
            ExitStatus::from_raw(status)
        }
    }
}

/// The child goes on beside this process.
fn fork_and_go_on(body: impl FnOnce()) -> Forked {
    // SAFETY: the other threads are the monitor's, which hold no lock.
    unsafe { super::support::child::fork_into(body) }
}

#[test]
fn a_snapshot_goes_on_in_a_daemon() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file(&folder);
        let snapshot = stillmap::Snapshot::open(&path).unwrap();
        let window = Snapshot::options().offset(LEN as u64 / 4 * 3).open(&path);
        let window = window.unwrap();
        assert_eq!(snapshot.backing(), Backing::Leased);
        let (wait, mut go) = pipe_of_files();
        let (is_ready, mut ready) = pipe_of_files();
        let daemon = fork_and_go_on(|| {
            assert_eq!(snapshot.backing(), Backing::Leased);
            assert!(snapshot.is_consistent());
            std::io::Write::write_all(&mut ready, &[0]).unwrap();
            // Until the parent reports that the file was replaced.
            std::io::Read::read_exact(&mut { wait }, &mut [0]).unwrap();
            assert!(snapshot.iter().chain(window.iter()).all(|&byte| byte == 5));
            assert!(snapshot.is_consistent() && window.is_consistent());
            assert_ne!(snapshot.backing(), Backing::Leased);
            // It leases for itself.
            let again = stillmap::Snapshot::open(&path).unwrap();
            assert!(again[..] == b"new"[..]);
        });
        drop((snapshot, window));
        std::io::Read::read_exact(&mut { is_ready }, &mut [0]).unwrap();
        fs::write(&path, b"new").unwrap();
        std::io::Write::write_all(&mut go, &[0]).unwrap();
        assert!(daemon.wait().success());
    })
    .succeed();
}

/// A parent that forks and is killed holds back no writer: its lease ends with it.
#[test]
fn nothing_of_a_lease_outlives_its_process() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file(&folder);
        let (heard, mut tell) = pipe_of_files();
        let parent = fork_and_go_on(|| {
            let snapshot = stillmap::Snapshot::open(&path).unwrap();
            assert_eq!(snapshot.backing(), Backing::Leased);
            // The child does nothing but sleep: what it inherited answers no break.
            let _child = fork_and_go_on(|| {
                let id = std::process::id().to_ne_bytes();
                tell.write_all(&id).unwrap();
                loop {
                    std::thread::park();
                }
            });
            loop {
                std::thread::park();
            }
        });
        let mut id = [0; 4];
        std::io::Read::read_exact(&mut { heard }, &mut id).unwrap();
        let child = i32::from_ne_bytes(id);
        parent.kill();
        super::attacked::wait_unreaped(&parent);
        // The kernel would end the parent's, but only after the break time.
        assert_eq!(leases_of(parent.id(), &path), 0);
        assert_eq!(leases_of(child, &path), 1);
        let _ = parent.wait();
        // It returns once no process holds a lease: the child answers for its own.
        fs::write(&path, b"new").unwrap();
        // SAFETY: takes plain numbers; the process was forked above.
        unsafe { libc::kill(child, libc::SIGKILL) };
    })
    .succeed();
}

#[test]
fn a_snapshot_without_a_lease_is_in_the_child() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file(&folder);
        let snapshot = Snapshot::options().lease(false).open(&path).unwrap();
        fs::write(&path, b"new").unwrap();
        let status = fork(|| assert!(snapshot.iter().all(|&byte| byte == 5)));
        assert!(status.success());
    })
    .succeed();
}

#[test]
fn a_child_leases_for_itself() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file(&folder);
        let of_parent = stillmap::Snapshot::open(&path).unwrap();
        let status = fork(|| {
            let of_child = stillmap::Snapshot::open(&path).unwrap();
            assert_eq!(of_child.backing(), Backing::Leased);
            // Both processes are asked for their leases, and both copy.
            fs::write(&path, b"new").unwrap();
            assert_eq!(of_child.backing(), Backing::Memory);
            assert!(of_child.iter().all(|&byte| byte == 5));
        });
        assert!(status.success());
        assert_eq!(of_parent.backing(), Backing::Memory);
        assert!(of_parent.iter().all(|&byte| byte == 5));
    })
    .succeed();
}

/// A child that does nothing with what it inherited does not keep a writer waiting.
#[test]
fn dropping_in_the_parent_gives_the_lease_back() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file(&folder);
        let snapshot = stillmap::Snapshot::open(&path).unwrap();
        let (mut end, release) = std::os::unix::net::UnixStream::pair().unwrap();
        // SAFETY: as in `fork`; the child only reads and exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(release);
            let _ = end.write(&[0]);
            let _ = end.read(&mut [0]);
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) };
        }
        drop(snapshot);
        // The child has closed what it inherited before any code of it runs.
        (&release).read_exact(&mut [0]).unwrap();
        // The child has a lease of its own, and answers for it although it only waits.
        let mut writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all(b"new").unwrap();
        drop(release);
        let mut status = 0;
        // SAFETY: `status` is valid for the result.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    })
    .succeed();
}

/// A fork in one thread while another opens files: the child finds no lock of the crate held by a thread that it does not
/// have. Before: it waited for ever for the list of edited files.
#[test]
fn a_child_forked_while_another_thread_opens_files_can_open_files() {
    const CHILDREN: usize = 40;
    const EDITED: usize = 200;
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let file = |name: &str, len| file_with(folder.path(), name, &vec![5; len]);
        // The longer the list, the longer its lock is held.
        let edited = (0..EDITED).map(|number| Exclusive::open(file(&number.to_string(), 4096)));
        let Ok(_edited) = edited.collect::<Result<Vec<_>, _>>() else {
            return skip("no write leases here");
        };
        let (one, other, shared) = (file("one", 4096), file("other", 4096), file("shared", LEN));
        let use_all = |edited: &PathBuf| {
            // Busy, in a child: another child may have it open.
            let _ = Exclusive::open(edited);
            drop(Snapshot::open(&shared).unwrap());
            drop(Shared::<[AtomicU8]>::open_slice(&other).unwrap());
        };
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        use_all(&one);
                    }
                });
            }
            for _ in 0..CHILDREN {
                let status = fork(|| {
                    // Ends a child that waits for ever.
                    // SAFETY: takes a number.
                    unsafe { libc::alarm(120) };
                    use_all(&one);
                });
                assert!(status.success(), "{status}");
            }
            stop.store(true, Ordering::Relaxed);
        });
    })
    .succeed();
}

/// A child forked after its parent has copied the bytes and released the lease, and before the parent has closed the file.
/// Before: a writer that came in between made the child's snapshot inconsistent, although it had the right bytes.
#[test]
fn a_child_forked_at_the_end_of_a_break_has_a_consistent_snapshot() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file(&folder);
        // The copying thread of this process never comes to close the file; its name is not to be found for a child's.
        intercept(libc::SYS_dup3, (0, 0, 0), |thread| {
            let name = fs::read_to_string(format!("/proc/self/task/{thread}/comm"));
            match name.is_ok_and(|name| name.trim() == "stillmap-copy") {
                true => Verdict::Hold,
                false => Verdict::Continue,
            }
        });
        let snapshot = super::leased(|| Snapshot::open(&path));
        fs::write(&path, b"new").unwrap();
        let status = fork(|| {
            assert!(snapshot[..] == [5; LEN]);
            assert!(snapshot.is_consistent());
        });
        assert!(status.success(), "{status}");
        // Dropping it would wait for the copying thread.
        std::mem::forget(snapshot);
    })
    .succeed();
}

/// A child that can have no lease of its own copies the bytes under its parent's, which shows that they are right. Before: if
/// only the permissions had changed since the open, or all was less than 20 ms old, it had no access to them.
#[test]
fn a_child_without_descriptors_has_a_copy_also_of_a_file_with_new_permissions() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file(&folder);
        let snapshot = super::leased(|| Snapshot::open(&path));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, mode).unwrap();
        let before = limit(libc::RLIMIT_NOFILE, 0);
        let status = fork(|| {
            assert!(snapshot[..] == [5; LEN]);
            assert!(snapshot.is_consistent());
        });
        limit(libc::RLIMIT_NOFILE, before);
        assert!(status.success(), "{status}");
        assert_eq!(snapshot.backing(), Backing::Leased);
    })
    .succeed();
}
