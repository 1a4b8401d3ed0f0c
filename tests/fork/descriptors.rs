//! What a child does not keep of its parent, and scopes beside the threads that watch leases.

use super::one;
use crate::support::child::scenario;
use crate::support::leased::Folder;
use crate::support::{self, exclusive, kernel};
use stillmap::{Anonymous, Backing, Snapshot, fork};

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
