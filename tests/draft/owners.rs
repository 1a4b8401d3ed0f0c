//! Without privileges: an owner or a group that cannot be kept.

use crate::rights::{ACCESS, access, chmod, file};
use crate::support::child::scenario;
use crate::support::user::{as_user, may_be_others};
use crate::support::xattr::{GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, acl, set_xattr};
use crate::support::{skip, temp_dir};
use crate::{draft_of, names};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, chown};
use stillmap::{Draft, Replace};

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

/// Without privileges, a file of a group that this user is not in: neither those of its own group nor those that were in
/// the other one get more than before, whatever the file gave to each of them.
#[test]
fn a_group_that_cannot_be_kept() {
    if !may_be_others() {
        return;
    }
    scenario!(|| {
        let dir = temp_dir();
        chmod(dir.path(), 0o777);
        let named = |group, other| {
            [
                (USER_OBJ, 6, 0),
                (USER, 4, 2001),
                (GROUP_OBJ, group, 0),
                (MASK, 6, 0),
                (OTHER, other, 0),
            ]
        };
        for (mode, named) in [
            (0o604, None),
            (0o640, None),
            (0o664, None),
            (0o646, None),
            (0o664, Some(named(0, 4))),
            (0o660, Some(named(6, 0))),
            (0o664, Some(named(4, 6))),
        ] {
            let path = file(dir.path(), mode);
            chown(&path, Some(1234), Some(4321)).unwrap();
            if let Some(entries) = named {
                set_xattr(&path, ACCESS, &acl(&entries)).unwrap();
            }
            let before = access(&path);
            let replaced = as_user(1234, 1234, || {
                let draft = draft_of(Draft::options(), &path, b"new").unwrap();
                draft.commit().is_ok()
            });
            assert!(replaced, "{mode:o}");
            assert_eq!(fs::metadata(&path).unwrap().gid(), 1234);
            let after = access(&path);
            for (before, after) in before.iter().zip(&after) {
                let has_more = (after.0 && !before.0) || (after.1 && !before.1);
                assert!(!has_more, "{mode:o}, {named:?}: {after:?} of {before:?}");
            }
            // The owner, and who is named, keep what they had.
            assert_eq!(after[2], before[2], "{mode:o}, {named:?}");
            if named.is_some() {
                assert_eq!(after[0], before[0], "{mode:o}, {named:?}");
            }
            fs::remove_file(&path).unwrap();
        }
    })
    .succeed();
}
