//! Leases and fork: the child has nothing of its parent's, and can have its own.

use super::Folder;
use super::support::child::scenario;
use super::support::kernel;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use stillmap::{Backing, Snapshot};

const LEN: usize = 2 << 20;

fn file(folder: &Folder) -> PathBuf {
    let path = folder.path().join("file");
    fs::write(&path, vec![5; LEN]).unwrap();
    path
}

/// Forks although the keeper runs: the child is not to touch what the C library cannot give it whole.
fn fork(body: impl FnOnce()) -> ExitStatus {
    // SAFETY: the other thread is the keeper, which holds no lock that the child takes.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends the process.
            unsafe { libc::_exit(if done.is_ok() { 0 } else { 101 }) }
        }
        id => {
            let mut status = 0;
            // SAFETY: `status` is a valid place for the answer.
            assert_eq!(unsafe { libc::waitpid(id, &mut status, 0) }, id);
            ExitStatus::from_raw(status)
        }
    }
}

#[test]
fn a_leased_mapping_is_not_in_the_child() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file(&folder);
        let snapshot = stillmap::open(&path).unwrap();
        assert_eq!(snapshot.backing(), Backing::Leased);
        let address = snapshot.as_ptr().addr();
        assert!(kernel::mapping_at(address).is_some());
        let status = fork(|| assert!(kernel::mapping_at(address).is_none()));
        assert!(status.success());
        assert_eq!(snapshot[LEN - 1], 5);
    })
    .succeed();
}

/// The child takes memory until something lies where its parent's mapping was; dropping the inherited value must not
/// unmap that, nor take the lease from the parent.
#[test]
fn dropping_what_was_inherited_touches_neither_child_nor_parent() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file(&folder);
        let snapshot = stillmap::open(&path).unwrap();
        let address = snapshot.as_ptr().addr();
        let mut inherited = Some(snapshot);
        let status = fork(|| {
            let options = stillmap::Anonymous::options().at(address);
            let mut mine = options.allocate(LEN).unwrap();
            mine.fill(9);
            drop(inherited.take());
            assert!(mine.iter().all(|&byte| byte == 9));
        });
        assert!(status.success());
        let snapshot = inherited.take().unwrap();
        assert_eq!(snapshot.backing(), Backing::Leased);
        fs::write(&path, b"new").unwrap();
        assert!(snapshot.iter().all(|&byte| byte == 5));
        assert!(snapshot.is_intact());
    })
    .succeed();
}

#[test]
fn a_snapshot_across_fork_is_in_the_child() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file(&folder);
        let snapshot = Snapshot::options().across_fork(true).open(&path).unwrap();
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
        let of_parent = stillmap::open(&path).unwrap();
        let status = fork(|| {
            let of_child = stillmap::open(&path).unwrap();
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

/// A child that holds an inherited descriptor of the lease does not keep a writer waiting.
#[test]
fn dropping_in_the_parent_gives_the_lease_back() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file(&folder);
        let snapshot = stillmap::open(&path).unwrap();
        let (mut end, release) = std::os::unix::net::UnixStream::pair().unwrap();
        // SAFETY: as in `fork`; the child only reads and exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(release);
            let _ = end.read(&mut [0]);
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) };
        }
        drop(snapshot);
        // Refused if the lease were still there: nobody answers for it any more.
        let mut options = fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
        let mut writer = options.write(true).open(&path).unwrap();
        writer.write_all(b"new").unwrap();
        drop(release);
        let mut status = 0;
        // SAFETY: `status` is a valid place for the answer.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    })
    .succeed();
}
