//! Files, and a second process: this test binary, which runs one test again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use tempfile::TempDir;

/// Larger than what is read, and no multiple of a page.
pub(crate) const LARGE: usize = (4 << 20) + 123;

/// `ERROR_SHARING_VIOLATION`.
pub(crate) const SHARING_VIOLATION: i32 = 32;

/// Names the file that the child of a test works on.
const CHILD: &str = "STILLMAP_TEST_CHILD";

pub(crate) fn bytes() -> Vec<u8> {
    (0..LARGE).map(|i| (i * 31 % 251) as u8).collect()
}

pub(crate) fn large_file() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large");
    fs::write(&path, bytes()).unwrap();
    (folder, path)
}

pub(crate) fn open_for_writing(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

pub(crate) fn code<T>(result: io::Result<T>) -> Option<i32> {
    result.err().map(|e| e.raw_os_error().unwrap_or(-1))
}

/// The file to work on, in a child.
pub(crate) fn child_path() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// Runs a test again, in another process, on a file.
pub(crate) fn spawn(test: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(CHILD, path)
        .spawn()
        .unwrap()
}

pub(crate) fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
