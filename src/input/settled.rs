//! A small file that has not changed lately, read in four system calls: open, read, fstat, close.

use super::Source;
use super::copy::may_write_last;
use crate::budget;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::file_system::FileSystem;
use crate::sys::clock;
use crate::sys::file::{self, FileType, Stat};
use std::cell::Cell;

/// Largest file that is read before its size is known, in bytes. Of a larger one these bytes are read needlessly, which
/// takes 4 µs; so this is tried only after another small file.
const SMALL_MAX: usize = 64 << 10;

thread_local! {
    /// The device of the file that this thread has opened last, if the next one is probably small, on the same device, and
    /// has not changed lately either.
    static EXPECTED: Cell<Option<u64>> = const { Cell::new(None) };
    /// The last device whose timestamps were found to be those of this kernel's clock.
    static LOCAL: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The result of one read from a descriptor whose type is not known.
pub(crate) enum Attempt {
    /// All bytes of a file that did not change meanwhile.
    Whole(Buffer),
    /// A stream has begun with these bytes; it has ended if there are none.
    Stream(Buffer),
    /// Not usable: the file is opened in the usual way.
    Failed,
}

/// Reads a file that was just opened, if it is probably small.
pub(crate) fn attempt(source: &Source<'_>) -> Result<Attempt> {
    let Some(expected) = EXPECTED.get() else {
        return Ok(Attempt::Failed);
    };
    let before = clock::timestamp_ns();
    let mut buffer = Buffer::with_capacity(SMALL_MAX)?;
    // By read(2), which takes nothing from a stream that the next read needs.
    let read = buffer.read_from(SMALL_MAX, |into| file::read(source.fd(), into, None));
    let Ok(len) = read else {
        return Ok(Attempt::Failed);
    };
    let stat = source.stat()?;
    let buffer = buffer.shrink_to_fit();
    let fits = budget::take_memory(len);
    Ok(match stat.kind {
        FileType::Regular if stat.size > 0 => {
            let is_whole = stat.size == len as u64 && stat.device() == expected;
            if fits && is_whole && is_settled(&stat, before) {
                Attempt::Whole(buffer)
            } else {
                Attempt::Failed
            }
        }
        FileType::Directory | FileType::Block => Attempt::Failed,
        _ => Attempt::Stream(buffer),
    })
}

/// True if the file was changed last clearly before `before`: neither since then, nor by a write that was going on. The clock
/// of the timestamps moves in steps of up to 10 ms, or of a second, which are less than a write may take.
fn is_settled(stat: &Stat, before: i64) -> bool {
    // A clock that was set back would make a change look old.
    let is_clock_set_back = clock::timestamp_ns() < before;
    !may_write_last(stat, before) && !is_clock_set_back
}

/// Notes what was opened, for the next attempt.
pub(crate) fn note(source: &Source<'_>, stat: &Stat) {
    let is_small = stat.kind == FileType::Regular && (1..=SMALL_MAX as u64).contains(&stat.size);
    let device = stat.device();
    // A major number of 0 is not of a disk, and is given to the next mount at once, of whatever kind.
    let is_on_disk = stat.device_major() != 0;
    if is_small && is_on_disk && LOCAL.get() != Some(device) {
        // Elsewhere the timestamps may come from another clock: of a server, or of another machine of a cluster.
        let system = FileSystem::from_stat(source.fd(), stat);
        if system.is_ok_and(FileSystem::keeps_leases) {
            LOCAL.set(Some(device));
        }
    }
    // A file that has just been written would be read twice, and the next one probably too.
    let is_expected =
        is_small && LOCAL.get() == Some(device) && is_settled(stat, clock::timestamp_ns());
    EXPECTED.set(Some(device).filter(|_| is_expected));
}
