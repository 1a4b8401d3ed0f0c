//! The example `follow`: a log that grows, is truncated and is replaced.

use crate::support::bytes::pattern;
use crate::support::{example, file_with, skip, temp_dir};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};

struct Follow(Child);

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().append(true).open(path).expect("open");
    file.write_all(bytes).expect("append");
}

#[test]
fn it_prints_all_that_is_written() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "log", b"first\n");
    let mut command = example("follow");
    if !Path::new(command.get_program()).exists() {
        return skip("the examples are not built");
    }
    command.arg("--all").arg(&path);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut follow = Follow(child.expect("start it"));
    let mut out = follow.0.stdout.take().expect("its output");
    let mut notes = BufReader::new(follow.0.stderr.take().expect("its notes")).lines();
    let mut printed = |expected: &[u8]| {
        let mut found = vec![0; expected.len()];
        out.read_exact(&mut found).expect("read");
        assert!(found == expected);
    };
    printed(b"first\n");
    let large = pattern(1, 10 << 20);
    append(&path, &large);
    printed(&large);
    File::create(&path).expect("truncate");
    let note = notes.next().expect("a line").expect("text");
    assert!(note.ends_with("was truncated"), "{note}");
    append(&path, b"after the cut\n");
    printed(b"after the cut\n");
    // Written to the old file until the new one is there.
    std::fs::rename(&path, dir.path().join("log.1")).expect("rename");
    append(&dir.path().join("log.1"), b"late\n");
    printed(b"late\n");
    file_with(dir.path(), "log", b"new\n");
    let note = notes.next().expect("a line").expect("text");
    assert!(note.ends_with("was replaced"), "{note}");
    printed(b"new\n");
}
