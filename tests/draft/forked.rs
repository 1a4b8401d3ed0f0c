//! A forked child gets no draft of its parent, whichever way its bytes are kept.

use crate::support::child::scenario;
use crate::support::temp_dir;
use crate::{draft_of, names, stores};
use std::cell::RefCell;
use std::fs;
use std::os::unix::process::ExitStatusExt;

#[test]
fn touching_the_bytes_ends_the_child_and_changes_nothing() {
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        for options in stores(dir.path()) {
            let draft = draft_of(options, &path, &[7; 10_000]).unwrap();
            // The borrow checker sees no difference between this cell and its copy in the child.
            let cell = RefCell::new(draft);
            stillmap::fork::scope(|scope| {
                let child = scope.spawn(|| cell.borrow_mut()[0] = 8).unwrap();
                assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGSEGV));
            })
            .unwrap();
            let mut draft = cell.into_inner();
            draft.resize(20_000).unwrap();
            assert_eq!(draft[..10_000], [7; 10_000]);
            // Where it was resized to, too.
            stillmap::fork::scope(|scope| {
                let child = scope.spawn(|| draft[19_999] = 8).unwrap();
                assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGSEGV));
            })
            .unwrap();
            assert_eq!(draft[19_999], 0);
            draft.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap()[..10_000], [7; 10_000]);
        }
    })
    .succeed();
}

#[test]
fn a_child_can_neither_resize_nor_commit_it_nor_is_it_in_its_way() {
    if !crate::has_unnamed(&std::env::temp_dir()) {
        return;
    }
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        for options in stores(dir.path()) {
            let mut draft = draft_of(options, &path, &[7; 10_000]).unwrap();
            let moved = draft_of(options, &path, b"moved").unwrap();
            stillmap::fork::scope(|scope| {
                let draft = &mut draft;
                let child = scope.spawn(|| {
                    for len in [0, 5000, 20_000] {
                        let error = draft.resize(len).unwrap_err();
                        assert!(error.to_string().contains("file"), "{error}");
                    }
                    assert!(moved.commit().is_err());
                    draft_of(options, &path.with_file_name("own"), b"own")
                        .and_then(|own| Ok(own.commit()?))
                        .unwrap();
                });
                assert!(child.unwrap().wait().unwrap().success());
            })
            .unwrap();
            assert_eq!(draft[..], [7; 10_000]);
            assert_eq!(names(dir.path()), ["own"]);
            draft.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap(), [7; 10_000]);
            fs::remove_file(&path).unwrap();
        }
    })
    .succeed();
}
