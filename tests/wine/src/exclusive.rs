//! A file that no other handle has open.

use crate::support::*;
use crate::*;
use std::fs::{self, File};

#[test]
fn an_exclusive_file_cannot_be_opened_by_any_process() {
    const NAME: &str = "exclusive::an_exclusive_file_cannot_be_opened_by_any_process";
    if let Some(path) = child_path() {
        assert_eq!(code(File::open(&path)), Some(SHARING_VIOLATION));
        assert_eq!(code(open_for_writing(&path)), Some(SHARING_VIOLATION));
        assert!(matches!(
            Exclusive::try_open(&path),
            Err(Error::Busy { .. })
        ));
        return;
    }
    let (_folder, path) = large_file();
    let mut file = Exclusive::open(&path).unwrap();
    assert_eq!(file.backing(), Backing::Locked);
    assert!(file[..] == bytes()[..]);
    assert!(spawn(NAME, &path).wait().unwrap().success());
    assert_eq!(code(File::open(&path)), Some(SHARING_VIOLATION));
    assert!(Snapshot::open(&path).is_err());
    file[LARGE - 1] ^= 0xff;
    file.flush_range(LARGE - 1..).unwrap();
    file.resize(LARGE + 5000).unwrap();
    assert_eq!(
        (file[LARGE - 1], file[LARGE + 4999]),
        (bytes()[LARGE - 1] ^ 0xff, 0)
    );
    file[LARGE + 4999] = 7;
    file.close().unwrap();
    let stored = fs::read(&path).unwrap();
    assert_eq!((stored.len(), stored[LARGE + 4999]), (LARGE + 5000, 7));
    assert!(stored[..LARGE - 1] == bytes()[..LARGE - 1]);
}

#[test]
fn an_exclusive_file_is_cut_and_emptied() {
    let (_folder, path) = large_file();
    let mut file = Exclusive::open(&path).unwrap();
    for len in [1000, 0, 3] {
        file.resize(len).unwrap();
        assert_eq!(file.len(), len);
    }
    file.copy_from_slice(b"end");
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"end");
}

#[test]
fn a_file_that_is_open_is_busy() {
    let (_folder, path) = large_file();
    let busy = || matches!(Exclusive::open(&path), Err(Error::Busy { .. }));
    let reader = File::open(&path).unwrap();
    assert!(busy());
    drop(reader);
    let snapshot = Snapshot::open(&path).unwrap();
    assert!(busy() && snapshot[..] == bytes()[..]);
    drop(snapshot);
    let writer = File::options().read(true).write(true).open(&path).unwrap();
    // SAFETY: nothing else writes to the file or cuts it.
    let view = unsafe { memmap2::MmapMut::map_mut(&writer) }.unwrap();
    drop(writer);
    assert!(busy(), "a writable view is left");
    drop(view);
    drop(Exclusive::open(&path).unwrap());
    let missing = Exclusive::open(path.with_extension("missing")).unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    let directory = Exclusive::open(path.parent().unwrap());
    assert!(matches!(directory, Err(Error::IsDirectory { .. })));
}
