//! Files that are written over, and files that cannot be replaced.

use crate::others::Watch;
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::scenario;
use crate::support::disk::LoopFs;
use crate::support::refuse::{Verdict, intercept};
use crate::support::user::{as_user, may_be_others};
use crate::support::{file_with, is_root, skip, temp_dir};
use crate::{draft_of, names};
use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use stillmap::{Draft, Error, Private, Replace, Snapshot};

#[test]
fn inode_links_and_watches_stay() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "file", b"old and long");
    fs::hard_link(&path, dir.path().join("other")).unwrap();
    symlink("file", dir.path().join("link")).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    let watch = Watch::new(&path);
    let options = Draft::options().replace(Replace::InPlace);
    for bytes in [&b"new"[..], &[7; 100_000], b""] {
        let draft = draft_of(options, &dir.path().join("link"), bytes).unwrap();
        draft.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert_eq!(fs::read(dir.path().join("other")).unwrap(), bytes);
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert!(watch.seen().0 & libc::IN_MODIFY != 0);
    }
    assert_eq!(names(dir.path()), ["file", "link", "other"]);
    // A path without a file gets a new one.
    draft_of(options, &dir.path().join("new"), b"x")
        .unwrap()
        .commit()
        .unwrap();
    assert_eq!(fs::read(dir.path().join("new")).unwrap(), b"x");
}

/// A single file that is bind-mounted, as into a container.
#[test]
fn a_mount_point() {
    if !is_root() {
        return skip("mounting needs root");
    }
    let dir = temp_dir();
    let source = file_with(dir.path(), "source", b"old");
    let mount = file_with(dir.path(), crate::support::temporary::MOUNT, b"");
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    let (from, to) = (text(&source), text(&mount));
    let (none, flags) = (std::ptr::null::<libc::c_char>(), libc::MS_BIND);
    // SAFETY: two C strings.
    let done = unsafe { libc::mount(from.as_ptr(), to.as_ptr(), none, flags, std::ptr::null()) };
    if done != 0 {
        return skip("mount(2) is refused");
    }
    let error = Draft::create(&mount, 3).map(drop).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    assert!(error.to_string().contains("Replace::InPlace"), "{error}");
    for replace in [Replace::RenameOrInPlace, Replace::InPlace] {
        let options = Draft::options().replace(replace);
        let bytes = format!("{replace:?}");
        draft_of(options, &mount, bytes.as_bytes())
            .unwrap()
            .commit()
            .unwrap();
        assert_eq!(fs::read_to_string(&source).unwrap(), bytes);
    }
    crate::support::disk::unmount(&mount);
}

/// A file that may be written to, in a directory that may not; and another user's in a sticky directory.
#[test]
fn a_directory_that_does_not_let_it_be_replaced() {
    if !may_be_others() {
        return;
    }
    scenario!(|| {
        let dir = temp_dir();
        chmod(dir.path(), 0o755);
        for (mode, errno) in [
            (0o755, libc::EACCES),
            (0o1755, libc::EPERM),
            (0o1775, libc::EPERM),
        ] {
            let inner = dir.path().join(format!("{mode:o}"));
            fs::create_dir(&inner).unwrap();
            let path = file_with(&inner, "file", b"old");
            chmod(&path, 0o666);
            chown(&inner, Some(0), Some(65534)).unwrap();
            chmod(&inner, mode);
            assert!(as_user(65534, 65534, || {
                let error = Draft::create(&path, 3).map(drop).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(errno), "{mode:o}: {error}");
                assert!(error.to_string().contains("Replace::InPlace"), "{error}");
                let options = Draft::options().replace(Replace::RenameOrInPlace);
                draft_of(options, &path, b"new").unwrap().commit().unwrap();
                true
            }));
            assert_eq!(fs::read(&path).unwrap(), b"new");
        }
    })
    .succeed();
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

pub const IMMUTABLE: libc::c_int = 0x10;
pub const APPEND: libc::c_int = 0x20;

/// chattr(1): of these two flags the file has `flags` afterwards.
pub fn set_flags(path: &Path, flags: libc::c_int) {
    let file = File::open(path).unwrap();
    let mut all: libc::c_int = 0;
    // SAFETY: writes one number.
    let read = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut all) };
    all = all & !(IMMUTABLE | APPEND) | flags;
    // SAFETY: reads one number.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const all) };
    let error = std::io::Error::last_os_error();
    assert_eq!((read, done), (0, 0), "{error}");
}

#[test]
fn immutable_and_append_only_files_are_refused_at_create() {
    let Some(disk) = LoopFs::new("ext4", 16 << 20) else {
        return;
    };
    let path = file_with(disk.path(), "file", b"old");
    for flags in [IMMUTABLE, APPEND] {
        set_flags(&path, flags);
        let std = File::create(&path).unwrap_err();
        for replace in [Replace::Rename, Replace::InPlace, Replace::RenameOrInPlace] {
            let error = Draft::options().replace(replace).create(&path, 1);
            let error = error.map(drop).unwrap_err();
            assert_eq!(error.kind(), std.kind(), "{flags}, {replace:?}: {error}");
        }
        set_flags(&path, 0);
    }
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn settings_of_the_kernel_are_written() {
    let path = "/proc/self/comm";
    let before = fs::read(path).unwrap();
    let draft = draft_of(Draft::options(), path.as_ref(), b"draft").unwrap();
    draft.commit().unwrap();
    assert_eq!(fs::read(path).unwrap(), b"draft\n");
    fs::write(path, before).unwrap();
}

/// protected_symlinks and protected_regular, proc_sys_fs(5): what open(2) with O_CREAT refuses is refused.
#[test]
fn links_and_files_of_others_in_a_sticky_directory() {
    if !may_be_others() {
        return;
    }
    let dir = temp_dir();
    chmod(dir.path(), 0o755);
    let victim = file_with(dir.path(), "victim", b"of root");
    let sticky = dir.path().join("sticky");
    fs::create_dir(&sticky).unwrap();
    chmod(&sticky, 0o1777);
    symlink(&victim, sticky.join("link")).unwrap();
    symlink("link", sticky.join("mine")).unwrap();
    std::os::unix::fs::lchown(sticky.join("link"), Some(2001), Some(2001)).unwrap();
    file_with(&sticky, "file", b"of 2001");
    chown(sticky.join("file"), Some(2001), Some(2001)).unwrap();
    for name in ["link", "mine", "file"] {
        let std = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(sticky.join(name));
        for replace in [Replace::Rename, Replace::InPlace, Replace::RenameOrInPlace] {
            let ours = Draft::options()
                .replace(replace)
                .create(sticky.join(name), 1);
            let (ours, std) = (ours.map(drop), std.as_ref().map(drop));
            assert_eq!(
                ours.as_ref().err().map(stillmap::Error::kind),
                std.err().map(std::io::Error::kind),
                "{name}, {replace:?}: {ours:?}"
            );
        }
    }
    // The file comes while the draft is written.
    let path = sticky.join("late");
    let draft = draft_of(Draft::options(), &path, b"secret").unwrap();
    file_with(&sticky, "late", b"of 2001");
    chown(&path, Some(2001), Some(2001)).unwrap();
    chmod(&path, 0o666);
    let std = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    if std.is_err_and(|e| e.kind() == ErrorKind::PermissionDenied) {
        assert!(draft.commit().is_err());
        assert_eq!(fs::read(&path).unwrap(), b"of 2001");
    }
    assert_eq!(fs::read(&victim).unwrap(), b"of root");
}

/// The disk has no room for the bytes: nothing of the file changes, and what was taken is given back.
#[test]
fn without_room_the_file_stays_as_it_is() {
    for kind in ["ext4", "xfs", "tmpfs"] {
        let Some(disk) = LoopFs::new(kind, 64 << 20) else {
            continue;
        };
        let path = file_with(disk.path(), "file", &[7; 10_000]);
        File::open(&path).unwrap().sync_all().unwrap();
        let before = crate::support::disk::free(disk.path());
        let options = Draft::options().replace(Replace::InPlace);
        // One byte more than the disk has, and the file has already.
        let taken = fs::metadata(&path).unwrap().blocks() * 512;
        let draft = options
            .create(&path, (before + taken + 1) as usize)
            .unwrap();
        let failed = draft.commit().unwrap_err();
        assert_eq!(
            failed.raw_os_error(),
            Some(libc::ENOSPC),
            "{kind}: {failed}"
        );
        assert_eq!(fs::read(&path).unwrap(), [7; 10_000], "{kind}");
        assert_eq!(crate::support::disk::free(disk.path()), before, "{kind}");
    }
}

/// The process that has a leased snapshot of the file writes over it: its own open of the file blocks until the lease
/// threads have copied the bytes.
#[test]
fn a_snapshot_of_the_file_in_the_same_process_keeps_its_bytes() {
    for kind in ["ext4", "xfs", "btrfs", "tmpfs"] {
        let Some(disk) = LoopFs::new(kind, 64 << 20) else {
            continue;
        };
        for len in [1000, 3 << 20] {
            let (old, new) = (pattern(1, len), pattern(2, len + 5));
            for replace in [Replace::Rename, Replace::InPlace, Replace::RenameOrInPlace] {
                let what = format!("{kind}, {len} bytes, {replace:?}");
                let path = file_with(disk.path(), "file", &old);
                let options = Draft::options().replace(replace);
                let snapshot = Snapshot::open(&path).unwrap();
                let mut private = Private::open(&path).unwrap();
                private[0] ^= 1;
                let edited = options.edit(&path).unwrap();
                draft_of(options, &path, &new).unwrap().commit().unwrap();
                assert_same(&snapshot, &old, &what);
                assert!(snapshot.is_consistent(), "{what}");
                assert_same(&private[1..], &old[1..], &what);
                assert_same(&fs::read(&path).unwrap(), &new, &what);
                // Of a snapshot of the file itself, while that one lives.
                let source = Snapshot::open(&path).unwrap();
                draft_of(options, &path, &source).unwrap().commit().unwrap();
                edited.commit().unwrap();
                assert_same(&source, &new, &what);
                assert_same(&fs::read(&path).unwrap(), &old, &what);
            }
        }
    }
}

/// It would wait for itself, and the file would be lost to it after 34 seconds.
#[test]
fn a_file_that_this_process_edits_is_busy() {
    let Some(disk) = crate::support::exclusive::any_system() else {
        return;
    };
    let path = file_with(disk.path(), "file", b"old");
    let mut file = crate::support::exclusive::open(&path);
    file[0] = b'O';
    let error = Draft::edit(&path).map(drop).unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    let options = Draft::options().replace(Replace::InPlace);
    let failed = draft_of(options, &path, b"new").unwrap().commit();
    let failed = failed.unwrap_err();
    assert!(matches!(failed.error, Error::Busy { .. }), "{failed}");
    assert!(!file.has_waiter());
    file.close().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"Old");
    failed.draft.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    // A rename needs no open.
    let file = crate::support::exclusive::open(&path);
    let draft = draft_of(Draft::options(), &path, b"newer").unwrap();
    draft.commit().unwrap();
    assert!(!file.has_waiter());
    assert_eq!(file[..], *b"new");
    assert_eq!(fs::read(&path).unwrap(), b"newer");
}

/// The disk becomes full while the blocks are taken, and another process appends meanwhile. Before: what it had appended
/// became zeros.
#[test]
fn what_others_append_to_a_file_stays_when_the_disk_is_full() {
    scenario!(|| {
        const APPENDED: usize = 1 << 20;
        let dir = temp_dir();
        let path = file_with(dir.path(), "file", &[1; 1000]);
        let options = Draft::options().replace(Replace::InPlace);
        let draft = draft_of(options, &path, &vec![2; 4 * APPENDED]).unwrap();
        let other = File::options().append(true).open(&path).unwrap();
        let mut appended = false;
        intercept(libc::SYS_fallocate, (0, 0, 0), move |_| {
            if std::mem::replace(&mut appended, true) {
                return Verdict::Continue;
            }
            (&other).write_all(&vec![7; APPENDED]).unwrap();
            Verdict::Fail(libc::ENOSPC)
        });
        let error = draft.commit().unwrap_err().error;
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
        let now = fs::read(&path).unwrap();
        assert!(now[..1000] == [1; 1000] && now[1000..] == vec![7; APPENDED]);
    })
    .succeed();
}
