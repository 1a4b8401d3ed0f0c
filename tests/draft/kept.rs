//! Rights that change while a draft is committed, and what the caller has set on it: they stay, whatever fails meanwhile.

use crate::rights::{ACCESS, Rights, WITH_MASK, chmod, rights, without_unnamed_files};
use crate::support::child::{fork, scenario};
use crate::support::disk::LoopFs;
use crate::support::namespace::{bind, own_mounts};
use crate::support::temporary::MOUNT;
use crate::support::trace::{Traced, stop_here};
use crate::support::user::{become_nobody, may_be_nobody};
use crate::support::xattr::{GROUP_OBJ, OTHER, USER_OBJ, acl, set_xattr};
use crate::support::{file_with, skip, temp_dir};
use crate::{draft_of, names, stores};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::UNIX_EPOCH;
use stillmap::{Draft, Replace};

fn open_to_one(path: &Path) -> bool {
    fs::write(path, b"old").unwrap();
    set_xattr(path, ACCESS, &acl(&WITH_MASK)).is_ok()
}

/// The same file, private, in one step.
fn make_private(path: &Path) {
    let entries = [(USER_OBJ, 6, 0), (GROUP_OBJ, 0, 0), (OTHER, 0, 0)];
    set_xattr(path, ACCESS, &acl(&entries)).unwrap();
}

/// Until the clock of the file system has moved on: a change has another time than the one before.
fn wait_for_a_tick(path: &Path) {
    let scratch = path.with_file_name("scratch");
    let changed = |path: &Path| {
        let stat = fs::metadata(path).unwrap();
        (stat.ctime(), stat.ctime_nsec())
    };
    loop {
        fs::write(&scratch, b"x").unwrap();
        if changed(&scratch) > changed(path) {
            break;
        }
    }
    fs::remove_file(&scratch).unwrap();
}

/// The owner takes rights away before the n-th system call of a commit. Before: what was taken away during fsync(2) came
/// back, and between two reads the mask of the ACL became the rights of the group.
#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "registers of x86-64")]
fn rights_that_are_taken_away_during_a_commit() {
    scenario!(|| {
        // fsync(2) takes no time there.
        let Some(disk) = LoopFs::new("tmpfs", 16 << 20) else {
            return;
        };
        let path = disk.path().join("file");
        if !Traced::is_possible() {
            return;
        }
        if !crate::has_unnamed(disk.path()) || !open_to_one(&path) {
            return skip("no ACLs or no unnamed files on tmpfs");
        }
        let before = rights(&path);
        make_private(&path);
        let private = rights(&path);
        let (mut kept, mut followed) = (0, 0);
        for steps in 0.. {
            assert!(open_to_one(&path));
            wait_for_a_tick(&path);
            let child = fork(|| {
                let draft = draft_of(Draft::options(), &path, b"new").unwrap();
                stop_here();
                draft.commit().unwrap();
            });
            let mut child = Traced::new(child.id());
            // Stops since fsync(2) of the file was entered.
            let mut since_fsync = None;
            let is_alive = (0..steps).all(|_| {
                let is_alive = child.step();
                since_fsync = since_fsync.map(|stops: u32| stops + 1);
                if is_alive && child.entering() == Some(libc::SYS_fsync) && since_fsync.is_none() {
                    since_fsync = Some(0);
                }
                is_alive
            });
            if !is_alive {
                break;
            }
            make_private(&path);
            assert_eq!(child.run_on(), 0, "step {steps}");
            let now: Rights = rights(&path);
            if now == private {
                followed += 1;
            } else {
                assert_eq!(now, before, "step {steps}: rights of neither moment");
                // Its entry, its exit.
                assert!(since_fsync.is_some_and(|stops| stops > 1), "step {steps}");
                kept += 1;
            }
            assert_eq!(fs::read(&path).unwrap(), b"new", "step {steps}");
        }
        // Between the last look and the end, and before.
        assert!(kept > 2 && followed > 20, "{kept}, {followed}");
    })
    .succeed();
}

/// A write removes set-user-ID bits, and so does reserving space, if an ordinary user does it.
#[test]
fn set_user_id_bits_of_an_ordinary_user() {
    if !may_be_nobody() {
        return;
    }
    scenario!(|| {
        let dir = temp_dir();
        chmod(dir.path(), 0o777);
        become_nobody();
        let path = dir.path().join("file");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
        for options in stores(dir.path()) {
            for wanted in [0o4755, 0o2755, 0o6711, 0o4711] {
                let draft = draft_of(options.mode(wanted), &path, b"one").unwrap();
                draft.commit().unwrap();
                assert_eq!(mode(), wanted, "asked for");
                let draft = draft_of(options, &path, b"two").unwrap();
                let file = draft.file().unwrap();
                file.set_permissions(Permissions::from_mode(wanted))
                    .unwrap();
                draft.commit().unwrap();
                assert_eq!(mode(), wanted, "set by the caller");
                let draft = draft_of(options, &path, b"three").unwrap();
                draft.commit().unwrap();
                assert_eq!(mode(), wanted & 0o777, "written to");
                chmod(&path, wanted);
                let draft = draft_of(options, &path, b"four").unwrap();
                chmod(&path, 0o600);
                draft.commit().unwrap();
                assert_eq!(mode(), 0o600, "taken away meanwhile");
                fs::remove_file(&path).unwrap();
            }
        }
    })
    .succeed();
}

fn private_draft(options: stillmap::DraftOptions, path: &Path) -> Draft {
    let draft = draft_of(options, path, b"mine").unwrap();
    let file = draft.file().unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    file.set_modified(UNIX_EPOCH).unwrap();
    draft
}

fn assert_private(path: &Path, case: &str) {
    let stat = fs::metadata(path).unwrap();
    assert_eq!(stat.mode() & 0o7777, 0o600, "{case}");
    assert_eq!(stat.modified().unwrap(), UNIX_EPOCH, "{case}");
    assert_eq!(fs::read(path).unwrap(), b"mine", "{case}");
}

/// What the caller has set through `file()`. Before: a draft that the caller had made private was open to all.
fn failures_and_other_paths() {
    let dir = temp_dir();
    let elsewhere = temp_dir();
    let path = dir.path().join("file");
    for options in stores(dir.path()) {
        let other = file_with(dir.path(), "other", b"old");
        chmod(&other, 0o666);
        let draft = private_draft(options, &path);
        fs::create_dir(&path).unwrap();
        let failed = draft.commit().unwrap_err();
        fs::remove_dir(&path).unwrap();
        failed.draft.commit_to(&other).unwrap();
        assert_private(&other, "the rename failed");

        chmod(&other, 0o666);
        private_draft(options, &path).commit_to(&other).unwrap();
        assert_private(&other, "another name");

        let draft = private_draft(options.create_new(true), &path);
        fs::write(&path, b"early").unwrap();
        let failed = draft.commit().unwrap_err();
        fs::remove_file(&path).unwrap();
        failed.draft.commit().unwrap();
        assert_private(&path, "the link failed");

        let far = file_with(elsewhere.path(), "far", b"old");
        chmod(&far, 0o666);
        chmod(&path, 0o644);
        private_draft(options, &path).commit_to(&far).unwrap();
        assert_private(&far, "another directory");
        assert_eq!(names(dir.path()), ["file", "other"]);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_the_caller_sets_stays_when_a_commit_fails() {
    failures_and_other_paths();
}

#[test]
fn and_where_there_are_no_unnamed_files() {
    scenario!(|| {
        without_unnamed_files();
        failures_and_other_paths();
    })
    .succeed();
}

/// The same directory under another path, as a container has it: linkat(2) between the two is EXDEV.
#[test]
fn a_draft_goes_to_another_mount_of_its_directory() {
    scenario!(|| {
        let dir = temp_dir();
        if !own_mounts() {
            return;
        }
        let (first, second) = (dir.path().join("first"), dir.path().join(MOUNT));
        fs::create_dir(&first).unwrap();
        fs::create_dir(&second).unwrap();
        bind(&first, &second);
        for options in stores(dir.path()) {
            let draft = draft_of(options, &first.join("unused"), b"new").unwrap();
            draft.commit_to(second.join("file")).unwrap();
            assert_eq!(fs::read(first.join("file")).unwrap(), b"new");
            assert_eq!(names(&first), ["file"]);
        }
        crate::support::disk::unmount(&second);
    })
    .succeed();
}

/// A file is mounted over the path, so the rename fails, and there is no memory to keep the bytes in: that is an error. A
/// file that is written in place must not become empty.
#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "registers of x86-64")]
fn bytes_that_are_lost_are_not_written_in_place() {
    scenario!(|| {
        let dir = temp_dir();
        if !crate::can_map(dir.path()) || !Traced::is_possible() || !own_mounts() {
            return;
        }
        let path = file_with(dir.path(), MOUNT, b"under it");
        let other = file_with(dir.path(), "other", b"other");
        let child = fork(|| {
            let options = Draft::options().memory_limit(0);
            let options = options.replace(Replace::RenameOrInPlace);
            let draft = draft_of(options, &path, b"new").unwrap();
            bind(&other, &path);
            stop_here();
            let failed = draft.commit().unwrap_err();
            assert_eq!(failed.raw_os_error(), Some(libc::EBUSY), "{failed}");
            file_with(dir.path(), "failed", b"");
        });
        let mut child = Traced::new(child.id());
        let mut is_renamed = false;
        let mut refused = 0;
        while child.step() {
            match child.entering() {
                Some(libc::SYS_renameat) => is_renamed = true,
                Some(libc::SYS_mmap) if is_renamed => {
                    child.fail(libc::ENOMEM);
                    refused += 1;
                }
                _ => {}
            }
        }
        assert!(refused > 0);
        assert_eq!(fs::read(&other).unwrap(), b"other");
        crate::support::disk::unmount(&path);
        assert_eq!(names(dir.path()), ["failed", MOUNT, "other"]);
    })
    .succeed();
}
