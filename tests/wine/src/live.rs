//! A file that this process writes and reads.

use crate::*;
use std::fs::{self, File};
use std::io::Write;

/// Case: each read moved the offset of the handle for a moment, and what was written then went elsewhere.
#[test]
fn a_live_file_leaves_the_offset_of_a_writer_alone() {
    const ROUNDS: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    fs::write(&path, b"start").unwrap();
    let open = File::options().read(true).write(true).open(&path);
    let mut writer = open.unwrap();
    let live = Live::from_fd(&writer).unwrap();
    let mut written = Vec::new();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for _ in 0..ROUNDS {
                assert_eq!(live.read_at(0, &mut [0; 5]).unwrap(), 5);
            }
        });
        while !reader.is_finished() || written.len() < 5 {
            let next = [written.len() as u8];
            writer.write_all(&next).unwrap();
            written.extend(next);
        }
    });
    assert!(fs::read(&path).unwrap() == written);
}
