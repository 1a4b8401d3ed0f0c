//! A commit that failed gives the draft back, with all its bytes; and drafts whose path or length is known late.

use crate::support::bytes::{assert_same, pattern};
use crate::support::child::scenario;
use crate::support::disk::LoopFs;
use crate::support::refuse::{Verdict, intercept};
use crate::support::{file_with, skip, temp_dir, temp_dir_in};
use crate::{draft_of, names, stores};
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use stillmap::{CommitError, Draft, Error};

#[test]
fn the_draft_can_be_changed_and_committed_again() {
    let dir = temp_dir();
    let elsewhere = LoopFs::new("tmpfs", 64 << 20);
    for options in stores(dir.path()) {
        let path = dir.path().join("file");
        let bytes = pattern(1, 100_000);
        let draft = draft_of(options.create_new(true), &path, &bytes).unwrap();
        file_with(dir.path(), "file", b"early");
        let CommitError {
            error, mut draft, ..
        } = draft.commit().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
        assert_same(&draft, &bytes, "given back");
        draft[0] ^= 1;
        draft.resize(150_000).unwrap();
        draft[149_999] = 9;
        let failed = draft.commit_to(dir.path()).unwrap_err();
        let failed = failed.draft.commit().unwrap_err();
        let other = dir.path().join("other");
        let far = elsewhere.as_ref().map(|disk| disk.path().join("far"));
        for target in [Some(other), far].into_iter().flatten() {
            let draft = draft_of(options, &target, b"").unwrap();
            drop(draft);
        }
        let target = elsewhere
            .as_ref()
            .map_or(dir.path(), LoopFs::path)
            .join("target");
        failed.draft.commit_to(&target).unwrap();
        let there = fs::read(&target).unwrap();
        assert_eq!(
            (there.len(), there[0], there[149_999]),
            (150_000, bytes[0] ^ 1, 9)
        );
        assert_same(&there[1..100_000], &bytes[1..], "elsewhere");
        assert_eq!(fs::read(&path).unwrap(), b"early");
        assert_eq!(
            names(dir.path())
                .iter()
                .filter(|name| *name != "target")
                .count(),
            1
        );
        fs::remove_file(&path).unwrap();
        fs::remove_file(&target).unwrap();
    }
}

/// Before: a sparse draft wrote what it has over what the first commit had left in its file, and the rest was published.
#[test]
fn bytes_that_are_removed_after_a_failed_commit_do_not_come_back() {
    let dir = temp_dir();
    for options in stores(dir.path()) {
        let (path, other) = (dir.path().join("file"), dir.path().join("other"));
        let draft = draft_of(options.create_new(true), &path, &[7; 100_000]).unwrap();
        file_with(dir.path(), "file", b"early");
        let mut draft = draft.commit().unwrap_err().draft;
        draft.resize(0).unwrap();
        draft.resize(100_000).unwrap();
        draft[..3].copy_from_slice(b"new");
        draft.commit_to(&other).unwrap();
        let expected = [&b"new"[..], &[0; 99_997]].concat();
        assert_same(&fs::read(&other).unwrap(), &expected, "other");
        fs::remove_file(&path).unwrap();
        fs::remove_file(&other).unwrap();
    }
}

#[test]
fn the_name_may_be_known_last() {
    let dir = temp_dir();
    for options in stores(dir.path()) {
        let draft = draft_of(options, &dir.path().join("unused"), b"bytes").unwrap();
        draft.commit_to(dir.path().join("hash")).unwrap();
        assert_eq!(names(dir.path()), ["hash"]);
        assert_eq!(fs::read(dir.path().join("hash")).unwrap(), b"bytes");
        fs::remove_file(dir.path().join("hash")).unwrap();
    }
}

#[test]
fn the_length_may_be_known_last() {
    let dir = temp_dir();
    let path = dir.path().join("file");
    for options in stores(dir.path()) {
        let mut draft = options.create(&path, 0).unwrap();
        let mut model = Vec::new();
        for number in 0..20_000 {
            writeln!(draft, "{number}").unwrap();
            writeln!(model, "{number}").unwrap();
        }
        draft.seek(SeekFrom::Start(3)).unwrap();
        draft.write_all(b"over").unwrap();
        model[3..7].copy_from_slice(b"over");
        draft.seek(SeekFrom::End(10)).unwrap();
        draft.write_all(b"end").unwrap();
        model.extend([0; 10]);
        model.extend(b"end");
        assert_same(&draft, &model, "before");
        draft.commit().unwrap();
        assert_same(&fs::read(&path).unwrap(), &model, "after");
    }
}

#[test]
fn a_draft_may_start_with_the_bytes_of_the_file() {
    for kind in ["ext4", "xfs", "btrfs", "tmpfs"] {
        let Some(disk) = LoopFs::new(kind, 64 << 20) else {
            continue;
        };
        let mut model = pattern(3, 5 << 20);
        let path = file_with(disk.path(), "file", &model);
        fs::File::open(&path).unwrap().sync_all().unwrap();
        let limits = [u64::MAX, 0];
        let limits = if kind == "btrfs" {
            &limits[..1]
        } else {
            &limits[..]
        };
        for &limit in limits {
            let options = Draft::options().memory_limit(limit);
            let mut draft = options.edit(&path).unwrap();
            assert_same(&draft, &model, kind);
            for at in [0, 1 << 20, (5 << 20) - 1] {
                draft[at] ^= 0xff;
                model[at] ^= 0xff;
            }
            draft.commit().unwrap();
            assert_same(&fs::read(&path).unwrap(), &model, kind);
            let mut draft = options.edit(&path).unwrap();
            draft.resize(6 << 20).unwrap();
            model.resize(6 << 20, 0);
            draft.commit().unwrap();
            assert_same(&fs::read(&path).unwrap(), &model, kind);
        }
    }
    let dir = temp_dir();
    let error = Draft::edit(dir.path().join("none")).map(drop).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

/// A file that becomes longer each time it is read. Before: the draft began with a mixture, and nothing said so.
#[test]
fn a_draft_does_not_start_with_bytes_of_several_moments() {
    scenario!(|| {
        let dir = temp_dir();
        let path = file_with(dir.path(), "file", &pattern(4, 3 << 20));
        let mut writer = fs::File::options().append(true).open(&path).unwrap();
        intercept(libc::SYS_pread64, (0, 0, 0), move |_| {
            writer.write_all(b"more").unwrap();
            Verdict::Continue
        });
        let error = Draft::edit(&path).map(drop).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error:?}");
        assert!(error.to_string().contains("file"), "{error}");
        assert_eq!(names(dir.path()), ["file"]);
    })
    .succeed();
}

/// A program is replaced while other threads start it: ETXTBSY if a descriptor is open for writing. Before: 50 of 824
/// starts.
#[test]
fn a_program_can_be_started_at_any_moment() {
    const STARTS: usize = 800;
    const COMMITS: usize = 200;
    // In a process of its own: a child of another test would have the descriptors until it executes its program.
    scenario!(|| {
        let dir = temp_dir();
        // By this name it also is `true` where that is a link to busybox.
        let program = dir.path().join("true");
        fs::copy("/bin/true", &program).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let bytes = fs::read(&program).unwrap();
        let (starts, commits) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let is_done = || {
            starts.load(Ordering::Relaxed) >= STARTS && commits.load(Ordering::Relaxed) >= COMMITS
        };
        let start_program = || {
            while !is_done() {
                let status = Command::new(&program).status();
                assert!(status.unwrap().success());
                starts.fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            let starters = [scope.spawn(start_program), scope.spawn(start_program)];
            for options in stores(dir.path()).iter().cycle() {
                if is_done() || starters.iter().any(|thread| thread.is_finished()) {
                    break;
                }
                let draft = draft_of(options.durable(false), &program, &bytes).unwrap();
                draft.commit().unwrap();
                commits.fetch_add(1, Ordering::Relaxed);
            }
        });
    })
    .succeed();
}

/// Without /proc, as an ordinary user: the helper process may not link the file, this one may.
#[test]
fn without_proc() {
    if !crate::support::user::may_be_others() {
        return;
    }
    scenario!(|| {
        let dir = temp_dir();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let root = std::ffi::CString::new(dir.path().to_str().unwrap()).unwrap();
        // SAFETY: C strings; this process has one thread.
        assert_eq!(unsafe { libc::chroot(root.as_ptr()) }, 0);
        std::env::set_current_dir("/").unwrap();
        crate::support::user::become_nobody();
        for bytes in [b"one", b"two"] {
            let made = draft_of(Draft::options(), "file".as_ref(), bytes).unwrap();
            match made.commit() {
                // Linux before 6.10.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return,
                other => other.unwrap(),
            }
            assert_eq!(fs::read("file").unwrap(), bytes);
            assert_eq!(names("/".as_ref()), ["file"]);
        }
    })
    .succeed();
}

/// The rename fails after the unnamed file was linked, and linkat(2) accepts an unnamed file once only.
#[test]
fn a_draft_whose_rename_failed_can_be_committed_elsewhere() {
    let dir = temp_dir();
    let path = dir.path().join("file");
    for options in [Draft::options(), Draft::options().memory_limit(0)] {
        let mut draft = options.create(&path, 3 << 20).unwrap();
        draft.fill(7);
        std::fs::create_dir(&path).unwrap();
        let failed = draft.commit().unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::EISDIR));
        let failed = failed.draft.commit().unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::EISDIR));
        let other = dir.path().join("other");
        failed.draft.commit_to(&other).unwrap();
        assert!(std::fs::read(&other).unwrap() == vec![7; 3 << 20]);
        std::fs::remove_dir(&path).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

/// Attack "the temporary name": a process opens the file by it before the rename fails, and writes to the bytes of the
/// draft that was given back.
#[test]
fn no_process_reaches_the_bytes_by_a_name_that_the_file_had() {
    let dir = temp_dir_in(env!("CARGO_TARGET_TMPDIR").as_ref());
    let (path, other) = (dir.path().join("file"), dir.path().join("other"));
    let open_temporary = || {
        let mut names = fs::read_dir(dir.path()).unwrap().flatten();
        let name = names.find(|entry| entry.file_name().as_bytes().starts_with(b"."))?;
        fs::File::options().write(true).open(name.path()).ok()
    };
    for _ in 0..10_000 {
        // In its file from the start.
        let options = Draft::options().memory_limit(0).durable(false);
        let mut draft = options.create(&path, 5000).unwrap();
        draft.fill(1);
        fs::create_dir(&path).unwrap();
        let ended = AtomicBool::new(false);
        let (opened, draft) = std::thread::scope(|scope| {
            let attack = scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    let opened = open_temporary();
                    if opened.is_some() {
                        return opened;
                    }
                }
                None
            });
            let failed = draft.commit().unwrap_err();
            ended.store(true, Ordering::Relaxed);
            (attack.join().unwrap(), failed.draft)
        });
        fs::remove_dir(&path).unwrap();
        if let Some(file) = opened {
            file.write_all_at(&[9; 5000], 0).unwrap();
            assert_same(&draft, &[1; 5000], "the bytes of the draft");
            draft.commit_to(&other).unwrap();
            assert_same(&fs::read(&other).unwrap(), &[1; 5000], "the file");
            return;
        }
    }
    skip("the temporary name was never found in time");
}
