//! Places to test `Exclusive`, and how to open one there.

use super::disk::LoopFs;
use super::skip;
use std::path::Path;
use stillmap::{Error, Exclusive};

/// The file systems that it works on, each new and empty.
pub fn systems() -> Vec<(&'static str, LoopFs)> {
    ["ext4", "xfs"]
        .into_iter()
        .filter_map(|kind| Some((kind, system(kind, 64 << 20)?)))
        .collect()
}

/// A new file system to edit files on, of at least that size.
pub fn system(kind: &str, size: u64) -> Option<LoopFs> {
    system_with(kind, size, &[])
}

/// The same, with more options for its mkfs.
pub fn system_with(kind: &str, size: u64, more: &[&str]) -> Option<LoopFs> {
    has_userfaultfd()
        .then(|| LoopFs::with_options(kind, size, more))
        .flatten()
}

/// False, after saying so, under the seccomp filters of many containers: nothing can be edited there.
pub fn has_userfaultfd() -> bool {
    const USER_MODE_ONLY: i32 = 1;
    let has = [0, USER_MODE_ONLY].into_iter().any(|flags| {
        // SAFETY: takes an integer.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | flags) };
        // SAFETY: the descriptor that the kernel just gave.
        fd >= 0 && unsafe { libc::close(fd as i32) } == 0
    });
    if !has {
        skip("userfaultfd(2) is refused here");
    }
    has
}

/// Any file system to test on.
pub fn any_system() -> Option<LoopFs> {
    system("ext4", 64 << 20)
}

/// Retries until no other process has it open: other tests start processes, which have every file open for a moment.
pub fn open(path: impl AsRef<Path>) -> Exclusive {
    open_counting(path.as_ref(), &mut 0)
}

/// Retries until no other process has it open.
pub fn open_counting(path: &Path, busy: &mut u64) -> Exclusive {
    loop {
        match Exclusive::open(path) {
            Ok(file) => return file,
            Err(Error::Busy { .. }) => *busy += 1,
            Err(error) => panic!("{error}"),
        }
    }
}
