//! The users that could read or write a file before it is replaced can do so after, and no others, at no moment.

use crate::in_place::{APPEND, IMMUTABLE, set_flags};
use crate::support::child::scenario;
use crate::support::disk::{LoopFs, unmount};
use crate::support::namespace::mount;
use crate::support::refuse::{Refusal, refuse_if};
use crate::support::user::{as_user, may_be_others, start_as_user};
use crate::support::xattr::{GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, acl, get_xattr, set_xattr};
use crate::support::{file_with, skip, temp_dir};
use crate::{draft_of, names};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use stillmap::{Draft, Replace};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// The label of a security module. Without the module it is an attribute as any other.
const LABEL: &str = "security.selinux";

/// Users and their groups: one that ACLs name, one in the files' group, an owner, and one without any rights.
const USERS: [(u32, u32); 4] = [(2001, 2001), (2002, 4321), (1234, 1234), (65534, 65534)];

pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What each user may do: (read, write).
fn access(path: &Path) -> Vec<(bool, bool)> {
    let may = |user: u32, group: u32, write: bool| {
        as_user(user, group, || {
            let mut options = File::options();
            options.read(!write).write(write).open(path).is_ok()
        })
    };
    let users = USERS.iter();
    users
        .map(|&(user, group)| (may(user, group, false), may(user, group, true)))
        .collect()
}

/// All metadata of the file.
fn rights(path: &Path) -> (u32, u32, u32, [Option<Vec<u8>>; 4]) {
    let stat = fs::metadata(path).unwrap();
    let values = [ACCESS, "user.note", "trusted.label", LABEL].map(|name| get_xattr(path, name));
    (stat.uid(), stat.gid(), stat.mode(), values)
}

type Case = (&'static str, fn(&Path) -> PathBuf);

pub fn file(dir: &Path, mode: u32) -> PathBuf {
    let path = file_with(dir, "file", b"old");
    chmod(&path, mode);
    path
}

/// Named user 2001 may read and write; the owning group may not, though its bits (the mask) say so.
fn with_mask(path: &Path) {
    let entries = [
        (USER_OBJ, 6, 0),
        (USER, 6, 2001),
        (GROUP_OBJ, 0, 0),
        (MASK, 6, 0),
        (OTHER, 0, 0),
    ];
    chown(path, None, Some(4321)).unwrap();
    set_xattr(path, ACCESS, &acl(&entries)).unwrap();
    assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o660);
}

fn default_acl(dir: &Path) {
    let entries = [
        (USER_OBJ, 7, 0),
        (USER, 7, 2001),
        (GROUP_OBJ, 5, 0),
        (MASK, 7, 0),
        (OTHER, 5, 0),
    ];
    set_xattr(dir, DEFAULT, &acl(&entries)).unwrap();
}

const CASES: [Case; 16] = [
    ("private", |dir| file(dir, 0o600)),
    ("group", |dir| {
        let path = file(dir, 0o640);
        chown(&path, None, Some(4321)).unwrap();
        path
    }),
    ("all", |dir| file(dir, 0o666)),
    ("other owner", |dir| {
        let path = file(dir, 0o640);
        chown(&path, Some(1234), Some(4321)).unwrap();
        path
    }),
    ("ACL with a mask", |dir| {
        let path = file(dir, 0o600);
        with_mask(&path);
        path
    }),
    ("default ACL", |dir| {
        let path = file(dir, 0o640);
        default_acl(dir);
        path
    }),
    ("ACL and default ACL", |dir| {
        let path = file(dir, 0o600);
        with_mask(&path);
        default_acl(dir);
        path
    }),
    ("attributes", |dir| {
        let path = file(dir, 0o644);
        set_xattr(&path, "user.note", b"of the owner").unwrap();
        // Only privileged processes may set it.
        set_xattr(&path, "trusted.label", b"secret").unwrap();
        path
    }),
    ("label of a security module", |dir| {
        let path = file(dir, 0o640);
        // A module that is loaded takes only what its policy allows.
        let _ = set_xattr(&path, LABEL, b"system_u:object_r:etc_t:s0\0");
        path
    }),
    ("set-group-ID directory", |dir| {
        let path = file(dir, 0o640);
        chown(dir, None, Some(4321)).unwrap();
        chmod(dir, 0o2755);
        path
    }),
    ("sticky directory", |dir| {
        chmod(dir, 0o1777);
        file(dir, 0o600)
    }),
    ("hard links", |dir| {
        let path = file(dir, 0o640);
        fs::hard_link(&path, dir.join("other")).unwrap();
        path
    }),
    ("symbolic link", |dir| {
        with_mask(&file(dir, 0o600));
        symlink("file", dir.join("link")).unwrap();
        dir.join("link")
    }),
    (MOUNT_POINT, |dir| {
        let (source, path) = (file_with(dir, "source", b"old"), file(dir, 0o600));
        with_mask(&source);
        mount(source.to_str().unwrap(), &path, None, libc::MS_BIND, "");
        path
    }),
    ("immutable", |dir| {
        let path = file(dir, 0o640);
        set_flags(&path, IMMUTABLE);
        path
    }),
    ("append-only", |dir| {
        let path = file(dir, 0o640);
        set_flags(&path, APPEND);
        path
    }),
];

const MOUNT_POINT: &str = "mount point";

/// Why a file is refused at `create`, if it is.
fn refusal(name: &str, replace: Replace) -> Option<i32> {
    match (name, replace) {
        (MOUNT_POINT, Replace::Rename) => Some(libc::EBUSY),
        ("immutable" | "append-only", _) => Some(libc::EPERM),
        _ => None,
    }
}

/// Users that may not read the file at first try all the time, also under every other name in the directory.
fn watch(path: &Path, before: &[(bool, bool)]) -> Vec<crate::support::child::Forked> {
    let stop = path.with_file_name("stop");
    let users = USERS.iter().zip(before).filter(|(_, may)| !may.0);
    users
        .map(|(&(user, group), _)| {
            start_as_user(user, group, || {
                let dir = path.parent().unwrap();
                while !stop.exists() {
                    for entry in fs::read_dir(dir).unwrap() {
                        let other = entry.unwrap().path();
                        if other != stop && File::open(&other).is_ok() {
                            return false;
                        }
                    }
                }
                true
            })
        })
        .collect()
}

fn table(dir: &Path) {
    for (name, make) in CASES {
        for replace in [Replace::Rename, Replace::InPlace, Replace::RenameOrInPlace] {
            let inner = dir.join("inner");
            fs::create_dir(&inner).unwrap();
            chmod(&inner, 0o755);
            let path = make(&inner);
            let before = (rights(&path), access(&path));
            let watchers = watch(&path, &before.1);
            let refusal = refusal(name, replace);
            for round in 0..10_u8 {
                let options = Draft::options().replace(replace).durable(false);
                let options = options.require_attributes(true);
                match draft_of(options, &path, &[round; 100]) {
                    Err(e) => assert_eq!(e.raw_os_error(), refusal, "{name}, {replace:?}: {e}"),
                    Ok(draft) => draft.commit().unwrap(),
                }
            }
            let bytes: &[u8] = if refusal.is_some() { b"old" } else { &[9; 100] };
            assert_eq!(fs::read(&path).unwrap(), bytes, "{name}, {replace:?}");
            file_with(&inner, "stop", b"");
            for watcher in watchers {
                assert!(watcher.wait().success(), "{name}, {replace:?}: was opened");
            }
            let after = (rights(&path), access(&path));
            assert_eq!(after, before, "{name}, {replace:?}");
            if name == MOUNT_POINT {
                unmount(&path);
            } else {
                set_flags(&path, 0);
            }
            fs::remove_dir_all(&inner).unwrap();
        }
    }
}

#[test]
fn replacing_a_file_changes_no_users_access() {
    if !may_be_others() {
        return;
    }
    scenario!(|| {
        let Some(disk) = LoopFs::new("ext4", 64 << 20) else {
            return;
        };
        table(disk.path());
    })
    .succeed();
}

fn without_unnamed_files() {
    refuse_if(Refusal {
        call: libc::SYS_openat,
        errno: libc::EOPNOTSUPP,
        argument: Some((2, libc::O_TMPFILE as u32, libc::O_TMPFILE as u32)),
    });
}

/// A hidden file is private from its first moment: a 0600 file that was replaced could be read under its hidden name.
#[test]
fn nor_does_it_where_there_are_no_unnamed_files() {
    if !may_be_others() {
        return;
    }
    scenario!(|| {
        let Some(disk) = LoopFs::new("ext4", 64 << 20) else {
            return;
        };
        without_unnamed_files();
        table(disk.path());
    })
    .succeed();
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
                let watchers = watch(&path, &[(false, false); USERS.len()]);
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

/// Without privileges: an owner that cannot be kept is refused at `create`, or gives no user more.
#[test]
fn an_owner_that_cannot_be_kept() {
    if !may_be_others() {
        return;
    }
    scenario!(|| {
        let dir = temp_dir();
        chmod(dir.path(), 0o777);
        let path = file(dir.path(), 0o666);
        chown(&path, Some(1234), Some(4321)).unwrap();
        set_xattr(
            &path,
            ACCESS,
            &acl(&[
                (USER_OBJ, 6, 0),
                (USER, 4, 2001),
                (GROUP_OBJ, 6, 0),
                (MASK, 6, 0),
                (OTHER, 2, 0),
            ]),
        )
        .unwrap_or_else(|e| skip(format_args!("no ACLs: {e}")));
        assert!(as_user(65534, 65534, || {
            let strict = Draft::options().require_attributes(true);
            let error = strict.create(&path, 1).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
            let in_place = strict.replace(Replace::RenameOrInPlace);
            draft_of(in_place, &path, b"x").unwrap().commit().unwrap();
            draft_of(Draft::options(), &path, b"x")
                .unwrap()
                .commit()
                .unwrap();
            true
        }));
        assert_eq!(names(dir.path()), ["file"]);
        let stat = fs::metadata(&path).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (65534, 65534));
        // The group that it has now has no more than all others.
        assert!(!as_user(2002, 65534, || File::open(&path).is_ok()));
        assert!(as_user(2001, 2001, || File::open(&path).is_ok()));
    })
    .succeed();
}
