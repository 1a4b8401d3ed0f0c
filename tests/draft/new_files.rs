//! A path where no file is: the new one has what `File::create` gives there, or the mode that was asked for, from its first
//! moment.

use crate::draft_of;
use crate::in_place::{APPEND, IMMUTABLE, set_flags};
use crate::rights::{
    ACCESS, LABEL, Rights, USERS, access, chmod, default_acl, rights, watch, without_unnamed_files,
};
use crate::support::child::scenario;
use crate::support::disk::{LoopFs, unmount};
use crate::support::file_with;
use crate::support::namespace::mount;
use crate::support::user::may_be_others;
use crate::support::xattr::{GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, acl, set_xattr};
use std::fs::{self, File};
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use stillmap::{Draft, Replace};

type Case = (&'static str, fn(&Path) -> PathBuf);

fn directory(dir: &Path) -> PathBuf {
    let inner = dir.join("directory");
    fs::create_dir(&inner).unwrap();
    chmod(&inner, 0o777);
    inner
}

/// Directories in which a file is made, and links and names where none is.
const CASES: [Case; 13] = [
    ("plain", |dir| directory(dir).join("new")),
    ("ACL", |dir| {
        let dir = directory(dir);
        let entries = [
            (USER_OBJ, 7, 0),
            (USER, 7, 2001),
            (GROUP_OBJ, 5, 0),
            (MASK, 7, 0),
            (OTHER, 5, 0),
        ];
        set_xattr(&dir, ACCESS, &acl(&entries)).unwrap();
        dir.join("new")
    }),
    ("default ACL", |dir| {
        let dir = directory(dir);
        default_acl(&dir);
        dir.join("new")
    }),
    ("attribute", |dir| {
        let dir = directory(dir);
        set_xattr(&dir, "user.note", b"of the directory").unwrap();
        dir.join("new")
    }),
    ("label of a security module", |dir| {
        let dir = directory(dir);
        let _ = set_xattr(&dir, LABEL, b"system_u:object_r:etc_t:s0\0");
        dir.join("new")
    }),
    ("set-group-ID directory", |dir| {
        let dir = directory(dir);
        chown(&dir, None, Some(4321)).unwrap();
        chmod(&dir, 0o2777);
        dir.join("new")
    }),
    ("sticky directory", |dir| {
        let dir = directory(dir);
        chmod(&dir, 0o1777);
        dir.join("new")
    }),
    ("directory of another owner", |dir| {
        let dir = directory(dir);
        chown(&dir, Some(1234), Some(4321)).unwrap();
        chmod(&dir, 0o755);
        dir.join("new")
    }),
    ("another link was removed", |dir| {
        let dir = directory(dir);
        let path = file_with(&dir, "new", b"old");
        fs::hard_link(&path, dir.join("link")).unwrap();
        chmod(&path, 0o600);
        fs::remove_file(&path).unwrap();
        path
    }),
    ("symbolic link", |dir| {
        let inner = directory(dir);
        default_acl(&inner);
        symlink("directory/new", dir.join("link")).unwrap();
        dir.join("link")
    }),
    (MOUNT_POINT, |dir| {
        let dir = directory(dir);
        let source = dir.with_file_name("source");
        fs::create_dir(&source).unwrap();
        chmod(&source, 0o777);
        default_acl(&source);
        mount(source.to_str().unwrap(), &dir, None, libc::MS_BIND, "");
        dir.join("new")
    }),
    (IMMUTABLE_DIRECTORY, |dir| {
        let dir = directory(dir);
        set_flags(&dir, IMMUTABLE);
        dir.join("new")
    }),
    (APPEND_DIRECTORY, |dir| {
        let dir = directory(dir);
        set_flags(&dir, APPEND);
        dir.join("new")
    }),
];

/// Files made in each directory in each way, while other users try to open them.
const ROUNDS: u8 = 5;

const MOUNT_POINT: &str = "mount point";
const IMMUTABLE_DIRECTORY: &str = "immutable directory";
const APPEND_DIRECTORY: &str = "append-only directory";

/// What is at the end of a link.
fn real(path: &Path) -> PathBuf {
    let target = fs::read_link(path);
    target.map_or(path.to_path_buf(), |target| path.with_file_name(target))
}

/// Makes the file again and again, with these rights; what each user may do with the last one.
fn make_again(
    name: &str,
    path: &Path,
    replace: Replace,
    fails: bool,
    wanted: &Rights,
) -> Option<Vec<(bool, bool)>> {
    let real = real(path);
    let mut may = None;
    for round in 0..ROUNDS {
        let options = Draft::options().replace(replace).durable(false);
        let draft = draft_of(options.require_attributes(true), path, &[round; 100]);
        if let Err(e) = &draft {
            assert!(fails, "{name}, {replace:?}: {e}");
            assert_eq!(e.raw_os_error(), Some(libc::EPERM), "{name}: {e}");
            continue;
        }
        assert!(!fails, "{name}, {replace:?}");
        let committed = draft.unwrap().commit();
        committed.unwrap_or_else(|e| panic!("{name}, {replace:?}: {e}"));
        assert_eq!(fs::read(path).unwrap(), [round; 100], "{name}");
        assert_eq!(rights(&real), *wanted, "{name}, {replace:?}");
        if round + 1 == ROUNDS {
            may = Some(access(&real));
        }
        let home = real.parent().unwrap();
        set_flags(home, 0);
        fs::remove_file(&real).unwrap();
        if name == APPEND_DIRECTORY {
            set_flags(home, APPEND);
        }
    }
    may
}

fn table(dir: &Path, unnamed: bool) {
    // SAFETY: takes a number; this process has one thread.
    unsafe { libc::umask(0o027) };
    for (name, make) in CASES {
        let inner = dir.join("inner");
        fs::create_dir(&inner).unwrap();
        chmod(&inner, 0o755);
        let path = make(&inner);
        let real = real(&path);
        let (home, std) = (real.parent().unwrap(), real.with_file_name("std"));
        // Nothing in an append-only directory can be renamed or removed: not the hidden file either.
        let fails = name == IMMUTABLE_DIRECTORY || name == APPEND_DIRECTORY && !unnamed;
        let made = File::create(&std);
        assert_eq!(made.is_err(), name == IMMUTABLE_DIRECTORY, "{name}");
        if let Err(std_error) = made {
            let error = Draft::create(&path, 1).map(drop).unwrap_err();
            assert_eq!(error.kind(), std_error.kind(), "{name}: {error}");
            set_flags(home, 0);
        } else {
            let (wanted, may) = (rights(&std), access(&std));
            let watchers = watch(&real, &may, true);
            for replace in [Replace::Rename, Replace::InPlace, Replace::RenameOrInPlace] {
                let made = make_again(name, &path, replace, fails, &wanted);
                assert!(fails || made == Some(may.clone()), "{name}, {replace:?}");
            }
            set_flags(home, 0);
            file_with(home, "stop", b"");
            for watcher in watchers {
                assert!(watcher.wait().success(), "{name}: was opened, or was not");
            }
            fs::remove_file(home.join("stop")).unwrap();
        }
        let left = crate::names(home);
        let known = |left: &String| matches!(&left[..], "std" | "link");
        assert!(left.iter().all(known), "{name}: {left:?}");
        if name == MOUNT_POINT {
            unmount(home);
        }
        fs::remove_dir_all(&inner).unwrap();
    }
}

#[test]
fn a_new_file_is_open_to_those_whom_file_create_lets_in() {
    if !may_be_others() {
        return;
    }
    for unnamed in ["1", ""] {
        let mut child = scenario!(|| {
            let Some(disk) = disk_with_or_without_unnamed_files() else {
                return;
            };
            let unnamed = !crate::support::child::argument("UNNAMED").is_empty();
            table(disk.path(), unnamed);
        });
        child.argument("UNNAMED", unnamed).succeed();
    }
}

/// As the argument UNNAMED of the scenario says.
fn disk_with_or_without_unnamed_files() -> Option<LoopFs> {
    let disk = LoopFs::new("ext4", 64 << 20)?;
    if crate::support::child::argument("UNNAMED").is_empty() {
        without_unnamed_files();
    }
    Some(disk)
}

#[test]
fn a_new_file_is_as_file_create_makes_it() {
    if !may_be_others() {
        return;
    }
    for unnamed in ["1", ""] {
        let mut child = scenario!(|| {
            let Some(disk) = disk_with_or_without_unnamed_files() else {
                return;
            };
            for umask in [0, 0o022, 0o077] {
                // SAFETY: takes a number; this process has one thread.
                unsafe { libc::umask(umask) };
                for kind in ["plain", "default ACL", "set-group-ID"] {
                    let dir = disk.path().join(format!("{kind} {umask}"));
                    fs::create_dir(&dir).unwrap();
                    match kind {
                        "default ACL" => default_acl(&dir),
                        "set-group-ID" => {
                            chown(&dir, None, Some(4321)).unwrap();
                            chmod(&dir, 0o2755);
                        }
                        _ => {}
                    }
                    let (ours, std) = (dir.join("ours"), dir.join("std"));
                    File::create(&std).unwrap();
                    let draft = draft_of(Draft::options(), &ours, b"x").unwrap();
                    draft.commit().unwrap();
                    assert_eq!(rights(&ours), rights(&std), "{kind}, {umask:o}");
                    // The file to be replaced is gone at commit, or comes only then.
                    let draft = draft_of(Draft::options(), &ours, b"x").unwrap();
                    fs::remove_file(&ours).unwrap();
                    draft.commit().unwrap();
                    assert_eq!(rights(&ours), rights(&std), "{kind}, {umask:o}: gone");
                    fs::remove_file(&ours).unwrap();
                    let draft = draft_of(Draft::options(), &ours, b"x").unwrap();
                    file_with(&dir, "ours", b"late");
                    chmod(&ours, 0o604);
                    let _ = set_xattr(
                        &ours,
                        ACCESS,
                        &acl(&[(USER_OBJ, 6, 0), (GROUP_OBJ, 0, 0), (OTHER, 4, 0)]),
                    );
                    let late = rights(&ours);
                    draft.commit().unwrap();
                    assert_eq!(rights(&ours), late, "{kind}, {umask:o}: late");
                    // An explicit mode is exact, also where an ACL would be inherited.
                    let exact = Draft::options().mode(0o646);
                    draft_of(exact, &dir.join("exact"), b"x")
                        .unwrap()
                        .commit()
                        .unwrap();
                    let (_, _, mode, values) = rights(&dir.join("exact"));
                    assert_eq!((mode & 0o7777, &values[0]), (0o646, &None), "{kind}");
                }
            }
        });
        child.argument("UNNAMED", unnamed).succeed();
    }
}

/// A new file that is private is never open to others, whatever the directory gives to new files.
#[test]
fn a_private_new_file_is_private_from_the_first_moment() {
    if !may_be_others() {
        return;
    }
    for unnamed in ["1", ""] {
        let mut child = scenario!(|| {
            let Some(disk) = disk_with_or_without_unnamed_files() else {
                return;
            };
            // SAFETY: takes a number; this process has one thread.
            unsafe { libc::umask(0) };
            for mode in [0o777, 0o2777, 0o1777] {
                let dir = disk.path().join(format!("{mode:o}"));
                fs::create_dir(&dir).unwrap();
                default_acl(&dir);
                chown(&dir, None, Some(4321)).unwrap();
                chmod(&dir, mode);
                let path = dir.join("new");
                let watchers = watch(&path, &[(false, false); USERS.len()], true);
                for _ in 0..20 {
                    let options = Draft::options().mode(0o600).create_new(true).durable(false);
                    draft_of(options, &path, b"secret")
                        .unwrap()
                        .commit()
                        .unwrap();
                    let (_, _, now, values) = rights(&path);
                    assert_eq!((now & 0o7777, &values[0]), (0o600, &None), "{mode:o}");
                    fs::remove_file(&path).unwrap();
                }
                file_with(&dir, "stop", b"");
                for watcher in watchers {
                    assert!(watcher.wait().success(), "{mode:o}: was opened");
                }
            }
        });
        child.argument("UNNAMED", unnamed).succeed();
    }
}
