//! Where `Exclusive` is tried, and how it is opened there.

use super::disk::LoopFs;
use super::skip;
use folio::{Error, Exclusive};
use std::path::Path;

/// False, after saying why, where this process may not use userfaultfd(2), which it needs to let others in.
pub fn may_let_others_in() -> bool {
    const USER_MODE_ONLY: i32 = 1;
    let may = [0, USER_MODE_ONLY].into_iter().any(|flags| {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | flags;
        // SAFETY: takes flags; the descriptor is nobody else's.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        // SAFETY: as above.
        fd >= 0 && unsafe { libc::close(fd as i32) } == 0
    });
    if !may {
        skip("userfaultfd is refused");
    }
    may
}

/// A new file system, where this process may edit files.
pub fn system(kind: &str, size: u64) -> Option<LoopFs> {
    may_let_others_in().then(|| LoopFs::new(kind, size))?
}

/// The file systems that it works on, each new and empty.
pub fn systems() -> Vec<(&'static str, LoopFs)> {
    let sizes = [("ext4", 64 << 20), ("xfs", 300 << 20)];
    sizes
        .into_iter()
        .filter_map(|(kind, size)| Some((kind, system(kind, size)?)))
        .collect()
}

/// A file system to test on where which one does not matter.
pub fn any_system() -> Option<LoopFs> {
    system("ext4", 64 << 20)
}

/// Opens until nobody else has it: the other tests start processes, which have every file open for a moment.
pub fn open(path: impl AsRef<Path>) -> Exclusive {
    open_counting(path.as_ref(), &mut 0)
}

/// Opens until nobody else has it.
pub fn open_counting(path: &Path, busy: &mut u64) -> Exclusive {
    loop {
        match Exclusive::open(path) {
            Ok(file) => return file,
            Err(Error::Busy { .. }) => *busy += 1,
            Err(error) => panic!("{error}"),
        }
    }
}
