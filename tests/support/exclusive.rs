//! Where `Exclusive` is tried, and how it is opened there.

use super::disk::LoopFs;
use folio::{Error, Exclusive};
use std::path::Path;

/// The file systems that it works on, each new and empty.
pub fn systems() -> Vec<(&'static str, LoopFs)> {
    let sizes = [("ext4", 64 << 20), ("xfs", 300 << 20)];
    sizes
        .into_iter()
        .filter_map(|(kind, size)| Some((kind, LoopFs::new(kind, size)?)))
        .collect()
}

/// A file system to test on where which one does not matter.
pub fn any_system() -> Option<LoopFs> {
    LoopFs::new("ext4", 64 << 20)
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
