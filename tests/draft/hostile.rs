//! What changes between `create` and `commit`, and what a process may lack then: an error at once, nothing left behind,
//! and nothing lost.

use crate::in_place::{APPEND, IMMUTABLE, set_flags};
use crate::rights::chmod;
use crate::support::child::scenario;
use crate::support::disk::LoopFs;
use crate::support::kernel::limit;
use crate::support::pipe::make_fifo;
use crate::support::user::may_be_others;
use crate::support::xattr::{GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, acl, get_xattr, set_xattr};
use crate::support::{file_with, is_root, temp_dir};
use crate::{draft_of, names, stores};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::AtomicU8;
use stillmap::{Draft, Error, Exclusive, Replace};

/// For every number of descriptors that a process may still open.
#[test]
fn without_descriptors_it_fails_at_any_step_and_leaves_nothing() {
    scenario!(|| {
        let dir = temp_dir();
        let path = file_with(dir.path(), "file", b"old");
        let others = [
            Draft::options().replace(Replace::InPlace),
            Draft::options().create_new(true),
        ];
        let all = stores(dir.path()).into_iter().chain(others);
        for (number, options) in all.enumerate() {
            let path = if number < stores(dir.path()).len() + 1 {
                path.clone()
            } else {
                dir.path().join("new")
            };
            let mut failures = 0;
            for room in 0..40 {
                let next = File::open("/dev/null").unwrap().as_raw_fd() as u64;
                let before = limit(libc::RLIMIT_NOFILE, next + room);
                let draft = draft_of(options, &path, b"new");
                let done = match draft {
                    Err(error) => Err((error, None)),
                    Ok(draft) => draft.commit().map_err(|e| (e.error, Some(e.draft))),
                };
                limit(libc::RLIMIT_NOFILE, before);
                let Err((error, draft)) = done else {
                    break;
                };
                failures += 1;
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{room}: {error}");
                assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
                match draft {
                    None => assert_eq!(fs::read(&path).unwrap_or(b"old".into()), b"old"),
                    Some(draft) => {
                        assert_eq!(draft[..], *b"new");
                        draft.commit().unwrap();
                        break;
                    }
                }
                assert!(
                    names(dir.path())
                        .iter()
                        .all(|name| name == "file" || name == "new")
                );
            }
            assert!(failures > 0);
            assert_eq!(fs::read(&path).unwrap(), b"new");
            fs::write(&path, b"old").unwrap();
            assert!(
                names(dir.path())
                    .iter()
                    .all(|name| name == "file" || name == "new")
            );
        }
    })
    .succeed();
}

/// Before: an open(2) of the FIFO that took the place of the file blocked until it had a reader.
#[test]
fn what_takes_the_place_of_a_file_that_is_written_in_place_is_left_alone() {
    let dir = temp_dir();
    let path = dir.path().join("file");
    let other = file_with(dir.path(), "other", b"other");
    for kind in ["fifo", "link", "directory", "nothing", "socket"] {
        fs::write(&path, b"old").unwrap();
        let options = Draft::options().replace(Replace::InPlace);
        let draft = draft_of(options, &path, b"new").unwrap();
        fs::remove_file(&path).unwrap();
        let mut listener = None;
        match kind {
            "fifo" => make_fifo(&path),
            "link" => symlink(&other, &path).unwrap(),
            "directory" => fs::create_dir(&path).unwrap(),
            "socket" => listener = std::os::unix::net::UnixListener::bind(&path).ok(),
            _ => {}
        }
        let failed = draft.commit().unwrap_err();
        assert_eq!(failed.draft[..], *b"new", "{kind}");
        drop(listener);
        match fs::symlink_metadata(&path) {
            Err(_) => assert_eq!(kind, "nothing"),
            Ok(there) if there.is_dir() => fs::remove_dir(&path).unwrap(),
            Ok(there) => {
                assert!(kind != "fifo" || there.file_type().is_fifo());
                fs::remove_file(&path).unwrap();
            }
        }
        assert_eq!(fs::read(&other).unwrap(), b"other", "{kind}");
        failed.draft.commit_to(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new", "{kind}");
    }
}

/// chattr(1) of the directory or the file, while the draft is written. Before: in a directory that had become append-only,
/// the file kept a temporary name, which could not be removed.
#[test]
fn flags_that_are_set_meanwhile() {
    scenario!(|| {
        let Some(disk) = LoopFs::new("ext4", 64 << 20) else {
            return;
        };
        let dir = disk.path().join("directory");
        fs::create_dir(&dir).unwrap();
        let path = file_with(&dir, "file", b"old");
        for (fixed, flags) in [
            (&dir, APPEND),
            (&dir, IMMUTABLE),
            (&path, APPEND),
            (&path, IMMUTABLE),
        ] {
            for options in stores(&dir) {
                let draft = draft_of(options, &path, b"new").unwrap();
                set_flags(fixed, flags);
                let failed = draft.commit().unwrap_err();
                assert_eq!(failed.raw_os_error(), Some(libc::EPERM), "{failed}");
                assert_eq!(names(&dir), ["file"], "{failed}");
                let again = draft_of(options, &path, b"new").map(drop).unwrap_err();
                assert_eq!(again.raw_os_error(), Some(libc::EPERM), "{again}");
                set_flags(fixed, 0);
                assert_eq!(fs::read(&path).unwrap(), b"old");
                failed.draft.commit().unwrap();
                assert_eq!(names(&dir), ["file"]);
                fs::write(&path, b"old").unwrap();
            }
            // Where only the name cannot be replaced, the file can be written over, early or late.
            if *fixed == dir {
                let either = Draft::options().replace(Replace::RenameOrInPlace);
                let late = draft_of(either, &path, b"late").unwrap();
                set_flags(fixed, flags);
                late.commit().unwrap();
                assert_eq!(fs::read(&path).unwrap(), b"late");
                draft_of(either, &path, b"old").unwrap().commit().unwrap();
                assert_eq!(fs::read(&path).unwrap(), b"old");
                set_flags(fixed, 0);
            }
        }
    })
    .succeed();
}

#[test]
fn a_running_program_can_be_replaced_and_not_written_over() {
    let dir = temp_dir();
    let path = dir.path().join("program");
    fs::copy("/bin/sleep", &path).unwrap();
    let bytes = fs::read(&path).unwrap();
    // Another test's child may have it open for writing until it executes its program.
    let mut program = loop {
        // The name is what busybox runs.
        match Command::new(&path).arg0("sleep").arg("100").spawn() {
            Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) => std::thread::yield_now(),
            other => break other.unwrap(),
        }
    };
    let draft = draft_of(Draft::options(), &path, &bytes).unwrap();
    let in_place = Draft::options().replace(Replace::InPlace);
    let errors = [
        in_place
            .create(&path, 1)
            .and_then(|draft| Ok(draft.commit()?)),
        Exclusive::open(&path).map(drop),
    ]
    .map(|done| done.unwrap_err());
    let done = draft.commit();
    program.kill().unwrap();
    program.wait().unwrap();
    done.unwrap();
    for error in errors {
        assert_eq!(error.raw_os_error(), Some(libc::ETXTBSY), "{error}");
        let text = error.to_string();
        assert!(text.ends_with("; the program is running"), "{text}");
    }
    assert!(fs::read(&path).unwrap() == bytes);
}

/// The rights are those of the file that is replaced at last, or of a new one, and not of the path of `create`.
#[test]
fn rights_of_the_first_path_do_not_go_to_another() {
    if is_root() && !may_be_others() {
        return;
    }
    const ACL: &str = "system.posix_acl_access";
    let dir = temp_dir();
    let path = |name| dir.path().join(name);
    let made = |name, mode, user, note: &[u8]| {
        let path = file_with(dir.path(), name, b"old");
        let _ = set_xattr(&path, "user.note", note);
        if is_root() {
            chown(&path, Some(user), Some(user)).unwrap();
        }
        chmod(&path, mode);
        path
    };
    let rights = |path: &std::path::Path| {
        let stat = fs::metadata(path).unwrap();
        let note = get_xattr(path, "user.note");
        let list = get_xattr(path, ACL);
        (stat.mode() & 0o7777, stat.uid(), stat.gid(), note, list)
    };
    File::create(path("as std")).unwrap();
    let new_rights = rights(&path("as std"));
    for options in stores(dir.path()) {
        let first = made("first", 0o640, 2001, b"secret");
        let second = made("second", 0o604, 2002, b"other");
        let entries = [
            (USER_OBJ, 6, 0),
            (USER, 6, 2003),
            (GROUP_OBJ, 0, 0),
            (MASK, 6, 0),
            (OTHER, 0, 0),
        ];
        let _ = set_xattr(&first, ACL, &acl(&entries));
        let (first_rights, second_rights) = (rights(&first), rights(&second));
        draft_of(options, &first, b"new")
            .unwrap()
            .commit_to(path("new"))
            .unwrap();
        assert_eq!(rights(&path("new")), new_rights);
        draft_of(options, &first, b"new")
            .unwrap()
            .commit_to(&second)
            .unwrap();
        assert_eq!(rights(&second), second_rights);
        fs::remove_file(path("new")).unwrap();
        draft_of(options, &path("new"), b"new")
            .unwrap()
            .commit_to(&second)
            .unwrap();
        assert_eq!(rights(&second), second_rights);
        assert_eq!(
            (rights(&first), fs::read(&first).unwrap()),
            (first_rights, b"old".into())
        );
        assert_eq!(fs::read(&second).unwrap(), b"new");
    }
}

/// A file system without a free inode: there is no new file, and the old one can be written over.
#[test]
fn without_inodes() {
    scenario!(|| {
        let Some(disk) = LoopFs::with_options("ext4", 16 << 20, &["-N", "32"]) else {
            return;
        };
        let path = file_with(disk.path(), "file", b"old");
        let mut ballast = 0;
        while File::create(disk.path().join(format!("ballast {ballast}"))).is_ok() {
            ballast += 1;
        }
        let before = names(disk.path());
        for path in [&path, &disk.path().join("new")] {
            let error = Draft::create(path, 1).map(drop).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
            assert_eq!(error.path(), Some(path.as_path()));
        }
        let in_place = Draft::options().replace(Replace::InPlace);
        draft_of(in_place, &path, b"new").unwrap().commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(disk.path()), before);
    })
    .succeed();
}

/// The working directory was removed, or is another one by now.
#[test]
fn a_relative_path_is_that_of_create() {
    scenario!(|| {
        let dir = temp_dir();
        let [first, second] = ["first", "second"].map(|name| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        });
        std::env::set_current_dir(&first).unwrap();
        let replaced = draft_of(Draft::options(), "file".as_ref(), b"new").unwrap();
        std::env::set_current_dir(&second).unwrap();
        replaced.commit().unwrap();
        assert_eq!(names(&first), ["file"]);
        fs::remove_dir(&second).unwrap();
        let error = Draft::create("file", 1).map(drop).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}");
        let text = error.to_string();
        assert!(text.ends_with("; the directory is missing"), "{text}");
        let shared = stillmap::Shared::<AtomicU8>::create("file");
        let error = shared.map(drop).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}");
        let error = Exclusive::open("file").map(drop).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}");
    })
    .succeed();
}

/// Signals with a handler that does not restart system calls, all the time.
#[test]
fn interrupted_all_the_time() {
    extern "C" fn handler(_: libc::c_int) {}
    scenario!(|| {
        let dir = temp_dir();
        // SAFETY: an all-zero sigaction is valid but for the handler, which does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
        }
        let every = |microseconds| {
            let time = libc::timeval {
                tv_sec: 0,
                tv_usec: microseconds,
            };
            let timer = libc::itimerval {
                it_interval: time,
                it_value: time,
            };
            // SAFETY: reads one struct.
            unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
        };
        for round in 0..5 {
            for options in stores(dir.path())
                .into_iter()
                .chain([Draft::options().replace(Replace::InPlace)])
            {
                let path = dir.path().join("file");
                every(1000);
                let done = draft_of(options, &path, &vec![round; 3 << 20])
                    .and_then(|draft| draft.commit().map_err(Error::from));
                every(0);
                done.unwrap();
                assert!(fs::read(&path).unwrap() == vec![round; 3 << 20]);
                assert_eq!(names(dir.path()), ["file"]);
            }
        }
    })
    .succeed();
}
