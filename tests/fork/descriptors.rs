//! What a child that still runs does not keep of its parent: drafts and exclusive files, and their space. And scopes
//! beside the threads that watch leases.

use super::{one, wait_for};
use crate::support::child::scenario;
use crate::support::disk::LoopFs;
use crate::support::leased::Folder;
use crate::support::pipe::pipe;
use crate::support::{self, exclusive, kernel};
use std::os::fd::AsRawFd;
use std::path::Path;
use stillmap::{Anonymous, Backing, Draft, Exclusive, Snapshot, fork};

/// Runs `f` while a child runs that was forked before.
fn beside_a_child(f: impl FnOnce()) {
    fork::scope(|s| {
        let (running, runs) = pipe();
        let (end, hold) = pipe();
        // The child has copies of the ends that are written to.
        let copies = [runs.as_raw_fd(), hold.as_raw_fd()];
        s.spawn(move || {
            for copy in copies {
                // SAFETY: the child's own copy, which it uses for nothing else.
                unsafe { libc::close(copy) };
            }
            wait_for(end)
        })
        .unwrap();
        drop(runs);
        // The child closes what is not for it when it starts to run.
        wait_for(running);
        f();
        drop(hold);
    })
    .unwrap();
}

#[allow(clippy::useless_conversion)] // `f_frsize` has 32 bits on other targets
fn free_bytes(dir: &Path) -> u64 {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(dir.as_os_str().as_bytes()).unwrap();
    // SAFETY: zero bits are a valid statvfs.
    let mut stat: libc::statvfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: reads the path and writes one struct.
    assert_eq!(unsafe { libc::statvfs64(path.as_ptr(), &mut stat) }, 0);
    stat.f_bavail * u64::from(stat.f_frsize)
}

#[test]
fn a_draft_that_is_dropped_gives_its_space_back_beside_a_child() {
    scenario!(|| {
        // A file system of its own: no other program uses its space.
        let Some(system) = LoopFs::new("ext4", 64 << 20) else {
            return;
        };
        let free = free_bytes(system.path());
        for sparse in [false, true] {
            let options = Draft::options().memory_limit(0).sparse(sparse);
            let draft = options.create(system.path().join("draft"), 20 << 20);
            let mut draft = draft.unwrap();
            draft.fill(1);
            beside_a_child(|| {
                assert!(sparse || free_bytes(system.path()) + (10 << 20) < free);
                drop(draft);
                assert!(free_bytes(system.path()) + (1 << 20) > free);
            });
        }
    })
    .succeed();
}

#[test]
fn an_exclusive_file_that_is_closed_is_not_busy_beside_a_child() {
    scenario!(|| {
        let Some(system) = exclusive::any_system() else {
            return;
        };
        let path = support::file_with(system.path(), "file", &[1; 10_000]);
        let file = exclusive::open(&path);
        beside_a_child(|| {
            file.close().unwrap();
            // Other tests start processes, which have every file open for a moment. The child has it until it ends.
            let opened = (0..1_000).find_map(|_| {
                std::thread::yield_now();
                Exclusive::open(&path).ok()
            });
            opened
                .expect("the child keeps the file open")
                .close()
                .unwrap();
        });
    })
    .succeed();
}

#[test]
fn a_child_changes_nothing_of_an_exclusive_file() {
    scenario!(|| {
        let Some(system) = exclusive::any_system() else {
            return;
        };
        let path = support::file_with(system.path(), "file", &[7; 1 << 20]);
        let mut file = exclusive::open(&path);
        one(|| assert!(file.resize(10).is_err())).unwrap();
        assert!(file.iter().all(|&byte| byte == 7));
        file.resize(10).unwrap();
        file.close().unwrap();
    })
    .succeed();
}

#[test]
fn a_scope_works_beside_the_threads_that_watch_leases() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = support::file_with(folder.path(), "leased", &[7; 4 << 20]);
        let leased = Snapshot::open(&path).unwrap();
        assert_eq!(leased.backing(), Backing::Leased);
        assert!(kernel::threads() > 1);
        let mut memory = Anonymous::shared(4 << 20).unwrap();
        fork::scope(|s| {
            let all = &mut memory[..];
            let filled = s.spawn_with(all, |all| {
                // The child gets threads of its own.
                let again = Snapshot::open(&path).unwrap();
                assert_eq!(again.backing(), Backing::Leased);
                all.copy_from_slice(&again);
            });
            filled.map(drop)
        })
        .unwrap()
        .unwrap();
        assert!(memory.iter().all(|&byte| byte == 7));
        // And the parent's lease is as it was.
        assert_eq!(leased.backing(), Backing::Leased);
        std::fs::write(&path, b"changed").unwrap();
        assert!(leased.iter().all(|&byte| byte == 7));
    })
    .succeed();
}

#[test]
fn an_answer_that_was_just_given_is_not_in_the_way() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        for _ in 0..30 {
            let path = support::file_with(folder.path(), "leased", &[7; 20 << 20]);
            let leased = Snapshot::open(&path).unwrap();
            assert_eq!(leased.backing(), Backing::Leased);
            // Waits for the answer.
            std::fs::write(&path, b"changed").unwrap();
            fork::scope(|_| ()).unwrap();
            assert_eq!(leased[0], 7);
        }
    })
    .succeed();
}
