//! `Exclusive`: an existing file edited in place, with everybody else kept out.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

mod edit;
mod full;
mod refused;
mod turns;
mod wanted;

use folio::{Error, Exclusive};
use std::path::Path;
use support::disk::LoopFs;
use support::skip;

/// The file systems that it works on, each new and empty.
fn systems() -> Vec<(&'static str, LoopFs)> {
    let sizes = [("ext4", 64 << 20), ("xfs", 300 << 20)];
    sizes
        .into_iter()
        .filter_map(|(kind, size)| Some((kind, LoopFs::new(kind, size)?)))
        .collect()
}

/// A file system to test on where which one does not matter.
fn any_system() -> Option<LoopFs> {
    LoopFs::new("ext4", 64 << 20)
}

/// Opens until nobody else has it: the other tests start processes, which have every file open for a moment.
fn open(path: impl AsRef<Path>) -> Exclusive {
    open_counting(path.as_ref(), &mut 0)
}

/// Opens until nobody else has it.
fn open_counting(path: &Path, busy: &mut u64) -> Exclusive {
    loop {
        match Exclusive::open(path) {
            Ok(file) => return file,
            Err(Error::Busy { .. }) => *busy += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Lowers the time that the kernel gives to the holder of a broken lease, for all processes, until it is dropped.
struct BreakTime(String);

impl BreakTime {
    fn of(seconds: u32) -> Option<Self> {
        let file = Path::new("/proc/sys/fs/lease-break-time");
        let before = std::fs::read_to_string(file).ok()?;
        match std::fs::write(file, seconds.to_string()) {
            Ok(()) => Some(BreakTime(before)),
            Err(error) => {
                skip(format_args!("fs.lease-break-time cannot be set: {error}"));
                None
            }
        }
    }
}

impl Drop for BreakTime {
    fn drop(&mut self) {
        let _ = std::fs::write("/proc/sys/fs/lease-break-time", &self.0);
    }
}
