//! Paths that mean something else at `commit` than at `create`, and paths at the limits of the kernel.

use crate::support::child::scenario;
use crate::support::{file_with, temp_dir};
use crate::{draft_of, names, stores};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use stillmap::Draft;

/// What the path means is settled by `create`, and the directory is held open.
#[test]
fn the_directory_may_change_meanwhile() {
    scenario!(|| {
        let dir = temp_dir();
        for options in stores(dir.path()) {
            let (first, second) = (dir.path().join("first"), dir.path().join("second"));
            fs::create_dir(&first).unwrap();
            fs::create_dir(&second).unwrap();
            // A relative path, and another working directory.
            std::env::set_current_dir(&first).unwrap();
            let draft = draft_of(options, "file".as_ref(), b"new").unwrap();
            std::env::set_current_dir(&second).unwrap();
            draft.commit().unwrap();
            assert_eq!(fs::read(first.join("file")).unwrap(), b"new");
            // Renamed, and another one in its place.
            let draft = draft_of(options, &first.join("file"), b"newer").unwrap();
            fs::rename(&first, dir.path().join("third")).unwrap();
            fs::create_dir(&first).unwrap();
            draft.commit().unwrap();
            assert_eq!(fs::read(dir.path().join("third/file")).unwrap(), b"newer");
            assert!(names(&first).is_empty() && names(&second).is_empty());
            // Removed: the draft comes back, and goes elsewhere.
            let draft = draft_of(options, &first.join("file"), b"newest").unwrap();
            fs::remove_dir(&first).unwrap();
            let failed = draft.commit().unwrap_err();
            assert_eq!(failed.kind(), ErrorKind::NotFound, "{failed}");
            let failed = failed.draft.commit_to(first.join("file")).unwrap_err();
            assert_eq!(failed.kind(), ErrorKind::NotFound, "{failed}");
            failed.draft.commit_to(second.join("file")).unwrap();
            assert_eq!(fs::read(second.join("file")).unwrap(), b"newest");
            std::env::set_current_dir("/").unwrap();
            fs::remove_dir_all(dir.path().join("third")).unwrap();
            fs::remove_dir_all(&second).unwrap();
        }
    })
    .succeed();
}

/// A directory whose path is longer than PATH_MAX, by the working directory and by a descriptor of it.
#[test]
fn a_directory_deeper_than_any_path() {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    scenario!(|| {
        let dir = temp_dir();
        let name = "d".repeat(200);
        std::env::set_current_dir(dir.path()).unwrap();
        for _ in 0..25 {
            fs::create_dir(&name).unwrap();
            std::env::set_current_dir(&name).unwrap();
        }
        let mut options = fs::File::options();
        options
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        let here = options.open(".").unwrap();
        let by_descriptor = format!("/proc/self/fd/{}/{}", here.as_raw_fd(), "n".repeat(255));
        for path in ["n".repeat(255), by_descriptor] {
            for bytes in [b"one", b"two"] {
                let draft = draft_of(Draft::options(), path.as_ref(), bytes).unwrap();
                draft.commit().unwrap();
                assert_eq!(fs::read(&path).unwrap(), bytes);
            }
            assert_eq!(names(".".as_ref()), ["n".repeat(255)]);
        }
        let long = format!("{}/file", vec![&name[..]; 25].join("/"));
        let error = Draft::create(dir.path().join(long), 1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG), "{error}");
    })
    .succeed();
}

#[test]
fn as_many_links_are_followed_as_the_kernel_follows() {
    let dir = temp_dir();
    let mut target = String::from("file");
    for number in 1..=45 {
        let link = format!("link{number}");
        symlink(&target, dir.path().join(&link)).unwrap();
        target = link;
        let path = dir.path().join(&target);
        let std = fs::File::create(&path);
        let ours = draft_of(Draft::options(), &path, b"x").and_then(|draft| Ok(draft.commit()?));
        assert_eq!(
            ours.map_err(|e| e.raw_os_error()),
            std.map(drop).map_err(|e| e.raw_os_error()),
            "{number} links"
        );
    }
}

/// A file comes, or goes, between `create` and `commit`: the default replaces what is there then.
#[test]
fn what_has_the_name_may_change_meanwhile() {
    let dir = temp_dir();
    let path = dir.path().join("file");
    for options in stores(dir.path()) {
        let changes: [(&str, &dyn Fn()); 5] = [
            ("a file", &|| drop(file_with(dir.path(), "file", b"other"))),
            ("a link", &|| symlink("other", &path).unwrap()),
            ("a dangling link", &|| symlink("nowhere", &path).unwrap()),
            ("a socket", &|| {
                drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            }),
            ("nothing", &|| {}),
        ];
        for (what, change) in changes {
            let other = file_with(dir.path(), "other", b"of another program");
            for is_new in [false, true] {
                let options = options.create_new(is_new);
                let draft = draft_of(options, &path, b"new").unwrap();
                change();
                let committed = draft.commit();
                if is_new && what != "nothing" {
                    let failed = committed.unwrap_err();
                    assert_eq!(failed.raw_os_error(), Some(libc::EEXIST), "{what}");
                } else {
                    committed.unwrap_or_else(|e| panic!("{what}: {e}"));
                    assert!(fs::symlink_metadata(&path).unwrap().is_file(), "{what}");
                    assert_eq!(fs::read(&path).unwrap(), b"new", "{what}");
                }
                assert_eq!(fs::read(&other).unwrap(), b"of another program", "{what}");
                fs::remove_file(&path).unwrap();
                assert_eq!(names(dir.path()), ["other"], "{what}");
            }
        }
        fs::remove_file(dir.path().join("other")).unwrap();
    }
}

#[test]
fn a_panic_leaves_no_trace() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "file", b"old");
    for options in stores(dir.path()) {
        let unwound = std::panic::catch_unwind(|| {
            let mut draft = draft_of(options, &path, b"new").unwrap();
            draft.resize(10_000).unwrap();
            std::panic::resume_unwind(Box::new(draft));
        });
        drop(unwound.unwrap_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["file"]);
    }
}
