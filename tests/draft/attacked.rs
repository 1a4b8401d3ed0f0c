//! Attacks that once broke a promise of `Draft`, and what happened then.

use crate::support::child::{fork, fork_into, scenario};
use crate::support::refuse::{Refusal, refuse_if};
use crate::support::setting::Setting;
use crate::support::trace::{Traced, stop_here};
use crate::support::user::{may_be_others, start_as_user};
use crate::support::{file_with, skip, temp_dir};
use crate::{draft_of, names, stores};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use stillmap::{Draft, Replace, Shared};

/// Attack "a draft lent to both sides": other threads drop and create drafts at the same addresses while this one forks.
/// Before: a drop removed the entry of the draft that had come to its address, and parent and child both had that draft.
#[test]
fn a_draft_at_the_address_of_a_dropped_one_is_not_the_childs() {
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        let stop = AtomicBool::new(false);
        let large = || draft_of(Draft::options(), &path, &vec![1; 1 << 20]).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        drop(large());
                    }
                });
            }
            for round in 0..200 {
                let mut draft = large();
                // SAFETY: the child makes one store, and dies of it.
                let child = unsafe { fork_into(|| draft[round] = 2) };
                assert_eq!(child.wait().signal(), Some(libc::SIGSEGV), "round {round}");
                assert_eq!(draft[round], 1);
            }
            stop.store(true, Ordering::Relaxed);
        });
    })
    .succeed();
}

/// Attack "a child that replaces its parent's `Draft` variable". Before: where there are no unnamed files the drop in the
/// child removed the parent's hidden file, and `commit` failed with ENOENT.
#[test]
fn a_drop_in_a_child_removes_no_file_of_its_parent() {
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        refuse_if(Refusal {
            call: libc::SYS_openat,
            errno: libc::EOPNOTSUPP,
            argument: Some((2, libc::O_TMPFILE as u32, libc::O_TMPFILE as u32)),
        });
        for options in stores(dir.path()) {
            let Ok(mut draft) = draft_of(options, &path, &[7; 10_000]) else {
                // Without unnamed files no draft is a mapped file.
                continue;
            };
            let own = dir.path().join("own");
            fork(|| draft = draft_of(options, &own, b"own").unwrap()).succeed();
            draft.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap(), [7; 10_000]);
            fs::remove_file(&path).unwrap();
        }
    })
    .succeed();
}

/// Attack on links that are resolved by hand, past fs.protected_symlinks: another user swaps a name in a sticky directory.
/// Before: `Draft` overwrote the victim's file after 61 and after 305 tries, `Shared::create` after 271; std never did.
#[test]
fn a_link_that_another_user_swaps_in_a_sticky_directory_leads_nowhere() {
    const TRIES: u32 = 1200;
    if !may_be_others() {
        return;
    }
    scenario!(|| {
        let links = "/proc/sys/fs/protected_symlinks";
        let Ok(_setting) = Setting::change(links, |_| Ok("1".into())) else {
            return skip("fs.protected_symlinks cannot be set");
        };
        let dir = temp_dir();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let victim = file_with(dir.path(), "victim", b"of the victim");
        let sticky = dir.path().join("sticky");
        fs::create_dir(&sticky).unwrap();
        fs::set_permissions(&sticky, fs::Permissions::from_mode(0o1777)).unwrap();
        let path = sticky.join("name");
        let attacker = start_as_user(2001, 2001, || {
            let hop = sticky.join("hop");
            loop {
                // A link to the victim, a link to a link, a file, nothing.
                let _ = symlink(&victim, &path);
                let _ = fs::remove_file(&path);
                let _ = symlink(&victim, &hop);
                let _ = symlink(&hop, &path);
                let _ = fs::remove_file(&path);
                let _ = fs::remove_file(&hop);
                let _ = File::create_new(&path);
                let _ = fs::remove_file(&path);
            }
        });
        let ways = [Replace::Rename, Replace::InPlace, Replace::RenameOrInPlace];
        let mut written = 0;
        for turn in 0..TRIES {
            let options = Draft::options().replace(ways[turn as usize % 3]);
            if turn % 4 == 3 {
                let shared = Shared::<std::sync::atomic::AtomicU64>::create(&path);
                let _ = shared.map(|shared| shared.store(u64::MAX, Ordering::Relaxed));
            } else if let Ok(draft) = draft_of(options, &path, b"of the draft") {
                written += u32::from(draft.commit().is_ok());
            }
            assert_eq!(fs::read(&victim).unwrap(), b"of the victim", "try {turn}");
            // The attacker may not remove it.
            let _ = fs::remove_file(&path);
        }
        attacker.kill();
        let _ = attacker.wait();
        assert!(written > 0);
    })
    .succeed();
}

/// Attack "squatted names". Before: links under the names that a commit uses in passing made it fail with EEXIST forever.
/// Here all names that the commits before have used are taken.
#[test]
fn names_in_passing_cannot_be_taken_before() {
    scenario!(|| {
        if !Traced::is_possible() {
            return;
        }
        let dir = temp_dir();
        let path = file_with(dir.path(), "file", b"old");
        let mut seen = BTreeSet::new();
        for round in 0..20 {
            let child = fork(|| {
                stop_here();
                let draft = draft_of(Draft::options(), &path, b"new").unwrap();
                draft.commit().unwrap();
            });
            let mut child = Traced::new(child.id());
            let before = seen.len();
            while child.step() {
                seen.extend(names(dir.path()));
            }
            assert!(seen.len() > before, "round {round}: a name was used again");
            for name in &seen {
                let _ = symlink("nowhere", dir.path().join(name));
            }
        }
        assert_eq!(fs::read(&path).unwrap(), b"new");
    })
    .succeed();
}

/// An emulator (valgrind) makes a copy of the memory where `CLONE_VM` asks for the same: the process that gives the file its
/// name cannot say that it has done so. The file is replaced all the same, once or twice.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_helper_with_a_copy_of_the_memory_will_do() {
    if !crate::has_unnamed(&std::env::temp_dir()) {
        return;
    }
    scenario!(|| {
        if !Traced::is_possible() {
            return;
        }
        let dir = temp_dir();
        let path = file_with(dir.path(), "file", b"old");
        let child = fork(|| {
            stop_here();
            let draft = draft_of(Draft::options(), &path, b"new").unwrap();
            draft.commit().unwrap();
        });
        let mut child = Traced::new(child.id());
        let mut copied = 0;
        while child.step() {
            if child.entering() == Some(libc::SYS_clone) {
                child.clear_in_first_argument(libc::CLONE_VM as u64);
                copied += 1;
            }
        }
        assert_eq!(copied, 1);
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["file"]);
    })
    .succeed();
}
