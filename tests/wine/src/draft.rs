//! Drafts: what is left of one, and files that cannot be replaced.

use crate::support::*;
use crate::*;
use std::fs;

#[test]
fn a_process_that_is_killed_in_a_commit_leaves_no_temporary_file() {
    const NAME: &str = "draft::a_process_that_is_killed_in_a_commit_leaves_no_temporary_file";
    if let Some(path) = child_path() {
        loop {
            let mut draft = Draft::create(&path, 64 << 20).unwrap();
            draft.fill(1);
            draft.commit().unwrap();
        }
    }
    let (folder, path) = large_file();
    let mut child = spawn(NAME, &path);
    while names(&folder).len() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "the child ended");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(names(&folder), ["large"]);
    let target = fs::read(&path).unwrap();
    assert!(target == bytes() || target == vec![1; 64 << 20]);
}

#[test]
fn a_draft_does_not_replace_a_file_that_is_locked() {
    let (folder, path) = large_file();
    let snapshot = Snapshot::open(&path).unwrap();
    assert_eq!(snapshot.backing(), Backing::Locked);
    let mut draft = Draft::edit(&path).unwrap();
    draft[0] ^= 0xff;
    let failed = draft.commit().unwrap_err();
    assert_eq!(
        failed.error.path(),
        Some(&*fs::canonicalize(&path).unwrap())
    );
    assert!(snapshot[..] == bytes()[..]);
    assert_eq!(names(&folder), ["large"]);
    drop(snapshot);
    failed.draft.commit().unwrap();
    assert_eq!(names(&folder), ["large"]);
    assert_eq!(fs::read(&path).unwrap()[0], bytes()[0] ^ 0xff);
}
