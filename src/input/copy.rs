//! A copy of a window of a file: in memory, or in an unnamed file if it is too large for that.

use super::unnamed::copy_to_disk;
use super::{Source, Window};
use crate::budget;
use crate::buffer::{ALIGN, Buffer};
use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::sys::clock;
use crate::sys::file::{self, FileType, Stat};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

/// A larger copy is not repeated when the file changed meanwhile, in bytes: 64 MiB take about 10 ms.
const RETRY_MAX: u64 = 64 << 20;

/// Maximum number of copies of a file that changes meanwhile.
const ATTEMPTS: u32 = 3;

/// A write(2) that began longer ago is not waited for, in nanoseconds, and in nanoseconds for each byte of the file: a slow
/// disk takes 10 MB/s. It may never end, if it reads from memory of a server that does not answer, and the open could not be
/// interrupted.
const WRITE_MAX: i64 = SECOND;
const WRITE_MAX_PER_BYTE: i64 = 100;

const SECOND: i64 = 1_000_000_000;

/// Called with the bytes done, and the total if it is known; an error stops the copy.
pub(crate) type Progress<'p> = dyn FnMut(u64, Option<u64>) -> io::Result<()> + 'p;

/// The place of a copy.
pub(crate) enum Copied {
    Memory(Buffer),
    /// `len` bytes from `start` on in an unnamed file.
    Disk {
        file: File,
        start: u64,
        len: u64,
    },
}

impl Copied {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Copied::Memory(buffer) => buffer.len() as u64,
            Copied::Disk { len, .. } => *len,
        }
    }
}

/// Copies the window of the file or block device that `before` describes. Up to `limits.memory` bytes go into memory; by
/// default half of what is available, or all of it if no disk can take the copy.
///
/// The second value is false if the size, mtime or ctime of the file changed meanwhile.
pub(crate) fn copy(
    source: &Source<'_>,
    window: &Window<'_>,
    mut before: Stat,
    progress: &mut Progress<'_>,
) -> Result<(Copied, bool)> {
    let reader = source.reader();
    let fd = reader.as_ref().map_or(source.fd(), AsFd::as_fd);
    let request = window.request;
    let memory_limit = request.limits.memory;
    let mut range = window.in_file(before.size)?;
    let mut attempt = 1;
    loop {
        wait_for_write(fd, &before);
        let len = range.end - range.start;
        let reservation = budget::reserve_memory(len, memory_limit);
        let buffer = reservation.as_ref().map(|_| buffer(&range));
        let copy = match buffer {
            Some(Ok(buffer)) => {
                Copied::Memory(into_memory(source, fd, range.clone(), buffer, progress)?)
            }
            // Also where memory is refused (`RLIMIT_DATA`): a mapping of a disk takes none.
            _ => to_disk(source, range.clone(), memory_limit, progress)?,
        };
        drop(reservation);
        let after = stat_with_size(source, before.kind)?;
        let is_consistent = after.stamp == before.stamp;
        let is_last = is_consistent || attempt == ATTEMPTS || len > RETRY_MAX;
        if !is_last {
            range = window.in_file(after.size)?;
        }
        // It may have become larger than what may be copied.
        if is_last || !request.may_copy(range.end - range.start) {
            window.check_complete(copy.len())?;
            return Ok((copy, is_consistent));
        }
        attempt += 1;
        before = after;
    }
}

/// Waits for a write(2) to the file that may be under way, and ends soon: its timestamps were moved when it began, so it would
/// not show in them.
pub(crate) fn wait_for_write(fd: BorrowedFd<'_>, stat: &Stat) {
    let is_local = || FileSystem::from_stat(fd, stat).is_ok_and(FileSystem::has_sizes);
    let is_file = stat.kind == FileType::Regular;
    if is_file && may_write_last(stat, clock::timestamp_ns()) && is_local() {
        file::wait_for_write(fd);
    }
}

/// True if a write(2) may have moved the timestamps, and still be under way at `now`.
pub(super) fn may_write_last(stat: &Stat, now: i64) -> bool {
    let changed = stat.stamp.changed_ns();
    // ext2, and ext4 with small inodes, store whole seconds.
    let is_rounded = changed % SECOND == 0;
    let began = changed.saturating_add(if is_rounded { SECOND } else { 0 });
    let size = i64::try_from(stat.size).unwrap_or(i64::MAX);
    let most = WRITE_MAX.saturating_add(size.saturating_mul(WRITE_MAX_PER_BYTE));
    now.saturating_sub(began) < most
}

/// fstat(2), with the size of a block device, which is 0 there.
pub(crate) fn stat_with_size(source: &Source<'_>, kind: FileType) -> Result<Stat> {
    let stat = source.stat()?;
    Ok(match kind {
        FileType::Block => Stat {
            size: source.device_size()?,
            ..stat
        },
        _ => stat,
    })
}

/// Memory for a range.
fn buffer(range: &Range<u64>) -> Result<Buffer> {
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    Buffer::for_range(range.start, len)
}

/// Reads a range, or less of it if the file ends before.
fn into_memory(
    source: &Source<'_>,
    fd: BorrowedFd<'_>,
    range: Range<u64>,
    mut buffer: Buffer,
    progress: &mut Progress<'_>,
) -> Result<Buffer> {
    let total = range.end - range.start;
    let len = usize::try_from(total).unwrap_or(usize::MAX);
    let mut step = |done| progress(done as u64, Some(total));
    let filled = buffer.read_file(fd, range.start, len, &mut step);
    filled.map_err(|e| source.error("pread", e))?;
    Ok(buffer.shrink_to_fit())
}

fn to_disk(
    source: &Source<'_>,
    range: Range<u64>,
    memory_limit: Option<u64>,
    progress: &mut Progress<'_>,
) -> Result<Copied> {
    let total = range.end - range.start;
    // Aligned in the copy as in the file, see `Buffer::aligned_as`.
    let lead = range.start % ALIGN as u64;
    let aligned = range.start - lead..range.end;
    let mut step = |done: u64| progress(done.saturating_sub(lead), Some(total));
    // Looking for holes moves the offset.
    let reader = source.seeking_reader();
    let fd = reader.as_ref().map_or(source.fd(), AsFd::as_fd);
    match copy_to_disk(fd, aligned, &mut step) {
        Ok((file, len)) => Ok(Copied::Disk {
            file,
            start: lead,
            len: len.saturating_sub(lead),
        }),
        Err(e) => {
            let unlimited = || budget::reserve_available(total);
            let reservation = memory_limit.is_none().then(unlimited).flatten();
            if reservation.is_none() {
                return Err(Error::no_room(source.name().as_deref(), total, e));
            }
            let buffer = buffer(&range)?;
            into_memory(source, fd, range, buffer, progress).map(Copied::Memory)
        }
    }
}
