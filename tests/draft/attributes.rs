//! What is changed while the draft is written.

use crate::draft_of;
use crate::rights::{chmod, file};
use crate::support::temp_dir;
use crate::support::xattr::{get_xattr, set_xattr};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use stillmap::Draft;

/// The owner takes rights away while the draft is written.
#[test]
fn rights_are_those_of_the_moment_of_the_commit() {
    let dir = temp_dir();
    let path = file(dir.path(), 0o644);
    let draft = draft_of(Draft::options(), &path, b"new").unwrap();
    chmod(&path, 0o600);
    draft.commit().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn what_the_caller_sets_before_the_commit_stays() {
    let dir = temp_dir();
    for store in crate::stores(dir.path()) {
        let path = file(dir.path(), 0o644);
        let draft = draft_of(store, &path, b"new").unwrap();
        let file = draft.file().unwrap();
        file.set_permissions(Permissions::from_mode(0o604)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
        let noted = set_xattr(name.as_ref(), "user.note", b"mine").is_ok();
        // It cannot be used to change the bytes.
        assert!(file.set_len(0).is_err());
        draft.commit().unwrap();
        let stat = fs::metadata(&path).unwrap();
        assert_eq!(stat.mode() & 0o7777, 0o604);
        assert_eq!(stat.modified().unwrap(), std::time::UNIX_EPOCH);
        let note = noted.then(|| b"mine".to_vec());
        assert_eq!(get_xattr(&path, "user.note"), note);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
