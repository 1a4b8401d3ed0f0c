//! Each system call refused by the kernel: an error that names the operation and the path, the target untouched, and
//! nothing left behind.

use crate::support::child::{argument, report, scenario};
use crate::support::refuse::{Refusal, Verdict, intercept, refuse, refuse_if};
use crate::support::{kernel, skip, temp_dir};
use crate::{draft_of, names, stores};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use stillmap::{Draft, DraftOptions, Result};

/// Every operation of a draft, in one run.
fn all_of_it(options: DraftOptions, path: &Path) -> Result<()> {
    let mut draft = draft_of(options, path, &[7; 10_000])?;
    draft.resize(20_000)?;
    draft.resize(9000)?;
    Ok(draft.commit()?)
}

/// The system calls of a draft, and the man page's name for each.
const CALLS: [(libc::c_long, &str); 9] = [
    (libc::SYS_openat, "open"),
    (libc::SYS_fallocate, "fallocate"),
    (crate::support::refuse::FTRUNCATE, "ftruncate"),
    (crate::support::refuse::MMAP, "mmap"),
    (libc::SYS_pwrite64, "pwrite"),
    (libc::SYS_fchmod, "fchmod"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_linkat, "linkat"),
    (libc::SYS_renameat, "renameat"),
];

#[test]
fn each_call_on_its_own() {
    if !crate::has_unnamed(&std::env::temp_dir()) {
        return;
    }
    let dir = temp_dir();
    for store in 0..stores(dir.path()).len() {
        for (call, name) in CALLS {
            if name == "mmap" && cfg!(target_env = "musl") {
                skip("mmap(2) refused: musl's allocator has no other way to get memory");
                continue;
            }
            for errno in [libc::EIO, libc::EDQUOT] {
                let mut child = scenario!(|| {
                    let number = |name| {
                        argument(name)
                            .to_str()
                            .unwrap()
                            .parse::<libc::c_long>()
                            .unwrap()
                    };
                    let dir = temp_dir();
                    let options = stores(dir.path())[number("STORE") as usize];
                    let path = dir.path().join("file");
                    fs::write(&path, b"old").unwrap();
                    // Whatever the umask is, a new file has another one.
                    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
                        .unwrap();
                    let before = kernel::descriptors();
                    // For what is checked afterwards, a process without the filter.
                    let child = crate::support::child::fork(|| {
                        refuse(number("CALL"), number("ERRNO") as i32);
                        let error = match all_of_it(options, &path) {
                            Ok(()) => return report("unused"),
                            Err(error) => error,
                        };
                        report(format_args!("{:?} {error}", error.raw_os_error()));
                        assert_eq!(error.raw_os_error(), Some(number("ERRNO") as i32));
                    });
                    child.succeed();
                    assert_eq!(before, kernel::descriptors());
                    let bytes = fs::read(&path).unwrap();
                    report(format_args!("{}", bytes == b"old"));
                    assert!(bytes == b"old" || bytes == [7; 9000]);
                    assert_eq!(names(dir.path()), ["file"]);
                });
                let outcome = child
                    .argument("STORE", store.to_string())
                    .argument("CALL", call.to_string())
                    .argument("ERRNO", errno.to_string())
                    .succeed();
                let reports = outcome.reports();
                let what = format!("store {store}, {name}: {reports:?}");
                if reports[0] == "unused" {
                    // Each store uses most of them, not all.
                    assert!(
                        store == 1 && name == "fallocate" || store == 2 && name == "pwrite",
                        "{what}"
                    );
                    continue;
                }
                let begin = format!("Some({errno}) {name}");
                assert!(reports[0].starts_with(&begin), "{what}");
                let names_path = reports[0].contains(" failed on /");
                assert!(names_path && reports[1] == "true", "{what}");
            }
        }
    }
}

#[test]
fn a_commit_without_mappings_is_whole_or_an_error() {
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        for options in stores(dir.path()) {
            fs::write(&path, b"old").unwrap();
            let child = crate::support::child::fork(|| {
                let draft = draft_of(options, &path, &[7; 10_000]).unwrap();
                refuse(crate::support::refuse::MMAP, libc::ENOMEM);
                if let Err(error) = draft.commit() {
                    let errno = stillmap::Error::from(error).raw_os_error();
                    assert_eq!(errno, Some(libc::ENOMEM));
                }
            });
            child.succeed();
            let bytes = fs::read(&path).unwrap();
            assert!(bytes == b"old" || bytes == [7; 10_000]);
            assert_eq!(names(dir.path()), ["file"]);
        }
    })
    .succeed();
}

/// Before: the bytes were in the file for the other directory, which was gone, and later stores were lost.
#[test]
fn a_draft_that_could_not_move_loses_no_store() {
    scenario!(|| {
        let dir = temp_dir();
        let (path, far) = (dir.path().join("file"), dir.path().join("far"));
        fs::create_dir(&far).unwrap();
        let is_refused = Arc::new(AtomicBool::new(false));
        let refused = Arc::clone(&is_refused);
        intercept(libc::SYS_fchmod, (0, 0, 0), move |_| {
            if refused.load(Ordering::SeqCst) {
                Verdict::Fail(libc::EIO)
            } else {
                Verdict::Continue
            }
        });
        for options in stores(dir.path()) {
            let draft = draft_of(options, &path, &[1; 100_000]).unwrap();
            let private = Permissions::from_mode(0o640);
            draft.file().unwrap().set_permissions(private).unwrap();
            is_refused.store(true, Ordering::SeqCst);
            let failed = draft.commit_to(far.join("file")).unwrap_err();
            assert_eq!(failed.raw_os_error(), Some(libc::EIO), "{failed}");
            is_refused.store(false, Ordering::SeqCst);
            let mut draft = failed.draft;
            draft.fill(2);
            draft.commit_to(&path).unwrap();
            assert!(fs::read(&path).unwrap() == [2; 100_000], "{options:?}");
            fs::remove_file(&path).unwrap();
        }
    })
    .succeed();
}

#[test]
fn the_last_sync_of_the_directory_comes_when_the_file_is_visible() {
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        fs::write(&path, b"old").unwrap();
        let probe = fs::File::open(&path).unwrap();
        let draft = draft_of(Draft::options(), &path, b"new").unwrap();
        // Descriptors are given from the lowest: the directory has the first after the probe.
        let directory = std::os::fd::AsRawFd::as_raw_fd(&probe) as u32 + 1;
        let target = fs::read_link(format!("/proc/self/fd/{directory}")).unwrap();
        assert_eq!(target, dir.path());
        refuse_if(Refusal {
            call: libc::SYS_fsync,
            errno: libc::EIO,
            argument: Some((0, u32::MAX, directory)),
        });
        let error = draft.commit().unwrap_err();
        let expected = format!("fsync failed on {}", dir.path().display());
        assert_eq!(error.to_string(), expected);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    })
    .succeed();
}

/// As on a file system that has no unnamed files.
fn without_unnamed_files() {
    refuse_if(Refusal {
        call: libc::SYS_openat,
        errno: libc::EOPNOTSUPP,
        argument: Some((2, libc::O_TMPFILE as u32, libc::O_TMPFILE as u32)),
    });
}

#[test]
fn a_hidden_file_takes_the_place_of_an_unnamed_one() {
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        // SAFETY: plain numbers; this process has one thread.
        unsafe { libc::umask(0o027) };
        without_unnamed_files();
        // Another process could open a hidden file that is mapped, and truncate it.
        let mapped = Draft::options().memory_limit(0);
        let error = mapped.create(&path, 1).unwrap_err();
        assert!(
            matches!(error, stillmap::Error::TooLarge { limit: 0, .. }),
            "{error}"
        );
        assert!(names(dir.path()).is_empty());
        for options in [Draft::options(), Draft::options().sparse(true)] {
            for bytes in ["new", "newer"] {
                let draft = draft_of(options, &path, bytes.as_bytes()).unwrap();
                let while_open = names(dir.path());
                assert!(
                    while_open
                        .iter()
                        .any(|name| name.starts_with(".file.stillmap-draft"))
                );
                draft.commit().unwrap();
                assert_eq!(fs::read(&path).unwrap(), bytes.as_bytes());
                assert_eq!(names(dir.path()), ["file"]);
                let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).unwrap());
                assert_eq!(mode & 0o7777, 0o640);
            }
            drop(draft_of(options, &path, b"dropped").unwrap());
            assert_eq!(names(dir.path()), ["file"]);
            let early = draft_of(options.create_new(true), &dir.path().join("new"), b"x").unwrap();
            fs::write(dir.path().join("new"), b"there").unwrap();
            let error = stillmap::Error::from(early.commit().unwrap_err());
            assert_eq!(error.raw_os_error(), Some(libc::EEXIST), "{error}");
            fs::remove_file(dir.path().join("new")).unwrap();
            assert_eq!(names(dir.path()), ["file"]);
            fs::remove_file(&path).unwrap();
        }
    })
    .succeed();
}

#[test]
fn where_nothing_can_be_reserved_drafts_stay_in_memory() {
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        refuse(libc::SYS_fallocate, libc::EOPNOTSUPP);
        all_of_it(Draft::options(), &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [7; 9000]);
        let error = Draft::options()
            .memory_limit(100)
            .create(&path, 101)
            .unwrap_err();
        assert!(
            matches!(error, stillmap::Error::TooLarge { limit: 100, .. }),
            "{error}"
        );
        assert_eq!(names(dir.path()), ["file"]);
    })
    .succeed();
}

#[test]
fn where_no_process_can_be_made_the_file_is_replaced_all_the_same() {
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        fs::write(&path, b"old").unwrap();
        refuse(libc::SYS_clone, libc::EPERM);
        all_of_it(Draft::options(), &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [7; 9000]);
        assert_eq!(names(dir.path()), ["file"]);
    })
    .succeed();
}
