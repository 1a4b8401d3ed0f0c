//! The users that could read or write a file before it is replaced can do so after, and no others, at no moment.

use crate::draft_of;
use crate::in_place::{APPEND, IMMUTABLE, set_flags};
use crate::support::child::{Forked, scenario};
use crate::support::disk::{LoopFs, unmount};
use crate::support::file_with;
use crate::support::namespace::mount;
use crate::support::refuse::{Refusal, refuse_if};
use crate::support::user::{as_user, may_be_others, start_as_user};
use crate::support::xattr::{GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, acl, get_xattr, set_xattr};
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use stillmap::{Draft, Replace};

pub const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// The label of a security module. Without the module it is an attribute as any other.
pub const LABEL: &str = "security.selinux";

const CAPABILITY: &str = "security.capability";

/// Users and their groups: one that ACLs name, one in the files' group, an owner, and one without any rights.
pub const USERS: [(u32, u32); 4] = [(2001, 2001), (2002, 4321), (1234, 1234), (65534, 65534)];

pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What each user may do: (read, write).
pub fn access(path: &Path) -> Vec<(bool, bool)> {
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

/// Owner, group, mode, and extended attributes.
pub type Rights = (u32, u32, u32, [Option<Vec<u8>>; 4]);

/// All metadata of the file.
pub fn rights(path: &Path) -> Rights {
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
pub const WITH_MASK: [(u16, u16, u32); 5] = [
    (USER_OBJ, 6, 0),
    (USER, 6, 2001),
    (GROUP_OBJ, 0, 0),
    (MASK, 6, 0),
    (OTHER, 0, 0),
];

fn with_mask(path: &Path) {
    chown(path, None, Some(4321)).unwrap();
    set_xattr(path, ACCESS, &acl(&WITH_MASK)).unwrap();
    assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o660);
}

pub fn default_acl(dir: &Path) {
    let entries = [
        (USER_OBJ, 7, 0),
        (USER, 7, 2001),
        (GROUP_OBJ, 5, 0),
        (MASK, 7, 0),
        (OTHER, 5, 0),
    ];
    set_xattr(dir, DEFAULT, &acl(&entries)).unwrap();
}

const CASES: [Case; 18] = [
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
    ("capability", |dir| {
        let path = file(dir, 0o755);
        // struct vfs_cap_data, linux/capability.h: CAP_NET_RAW, permitted and effective.
        let mut value = [0; 20];
        (value[0], value[3], value[5]) = (1, 2, 0x20);
        set_xattr(&path, CAPABILITY, &value).unwrap();
        path
    }),
    ("set-user-ID and set-group-ID", |dir| {
        let path = file(dir, 0o755);
        chown(&path, Some(1234), Some(4321)).unwrap();
        chmod(&path, 0o6751);
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

/// Each user tries all the time to open the file, for reading and for writing: it may do so at every moment what it
/// could do at first, and nothing else. Who may not read the file tries every other name in the directory, too.
pub fn watch(path: &Path, may: &[(bool, bool)], is_new: bool) -> Vec<Forked> {
    let stop = path.with_file_name("stop");
    let open = |path: &Path, write: bool| File::options().read(!write).write(write).open(path);
    let users = USERS.iter().zip(may);
    users
        .map(|(&(user, group), &(may_read, may_write))| {
            start_as_user(user, group, || {
                let dir = path.parent().unwrap();
                while !stop.exists() {
                    for (write, may) in [(false, may_read), (true, may_write)] {
                        match open(path, write) {
                            // New files are removed by the test, so that others are new.
                            Err(e) if is_new && e.kind() == ErrorKind::NotFound => {}
                            opened if opened.is_ok() != may => return false,
                            _ => {}
                        }
                    }
                    if may_read {
                        continue;
                    }
                    let names = fs::read_dir(dir)
                        .unwrap()
                        .map(|entry| entry.unwrap().path());
                    if names
                        .filter(|name| *name != stop)
                        .any(|name| open(&name, false).is_ok())
                    {
                        return false;
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
            let watchers = watch(&path, &before.1, false);
            let refusal = refusal(name, replace);
            let had_capability = get_xattr(&path, CAPABILITY).is_some();
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
                assert!(
                    watcher.wait().success(),
                    "{name}, {replace:?}: was opened, or was not"
                );
            }
            let after = (rights(&path), access(&path));
            assert_eq!(after, before, "{name}, {replace:?}");
            if had_capability {
                // As the kernel does when a file is written to.
                assert_eq!(get_xattr(&path, CAPABILITY), None, "{name}, {replace:?}");
            }
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

pub fn without_unnamed_files() {
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
