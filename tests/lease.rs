//! A leased snapshot: its bytes stay, whatever other processes do to the file.

use folio::{Backing, Snapshot};
use std::fs;
use std::process::Command;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[test]
fn a_writer_changes_the_file_and_not_the_snapshot() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("file");
    let bytes = pattern(8 << 20);
    fs::write(&path, &bytes).unwrap();
    let snapshot = folio::open(&path).unwrap();
    assert_eq!(snapshot.backing(), Backing::Leased);
    let status = Command::new("sh")
        .arg("-c")
        .arg("printf changed > \"$0\"")
        .arg(&path)
        .status();
    assert!(status.unwrap().success());
    assert_eq!(fs::read(&path).unwrap(), b"changed");
    assert!(snapshot[..] == bytes);
    assert_eq!(snapshot.backing(), Backing::Memory);
    assert!(snapshot.is_intact());
}

#[test]
fn the_same_thread_may_write_to_its_own_file() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("file");
    let bytes = pattern(1 << 20);
    fs::write(&path, &bytes).unwrap();
    let many: Vec<Snapshot> = (0..300).map(|_| folio::open(&path).unwrap()).collect();
    fs::write(&path, b"x").unwrap();
    assert!(many.iter().all(|snapshot| snapshot[..] == bytes));
}
