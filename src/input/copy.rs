//! A copy of a window of a file: into memory, or to disk if it is too large for that.

use super::unnamed::copy_to_disk;
use super::{Source, Window};
use crate::budget::fits_memory;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::region::Region;
use crate::sys::file::Stat;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

/// A copy is tried again if the file changed meanwhile, unless so many bytes make that expensive.
const RETRY_MAX: u64 = 64 << 20;
const ATTEMPTS: u32 = 3;

/// Told how many bytes are done, and of how many if that is known.
pub(crate) type Progress<'p> = dyn FnMut(u64, Option<u64>) + 'p;

/// Where a copy is.
pub(crate) enum Copy {
    Buffer(Buffer),
    /// In a mapping of an unnamed file: `len` bytes from `delta` on.
    Disk {
        region: Region,
        delta: usize,
        len: usize,
    },
}

impl Copy {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Copy::Buffer(memory) => memory.len() as u64,
            Copy::Disk { len, .. } => *len as u64,
        }
    }
}

/// Copies the window of a file that `before` describes; up to `memory_limit` bytes into memory. Second, whether the
/// bytes are one moment of the file, as far as its size, mtime and ctime tell.
pub(crate) fn copy(
    source: &Source<'_>,
    window: &Window,
    mut before: Stat,
    memory_limit: Option<u64>,
    progress: &mut Progress<'_>,
) -> Result<(Copy, bool)> {
    let reopened = source.without_direct();
    let fd = reopened.as_ref().map_or(source.fd(), AsFd::as_fd);
    let mut attempt = 1;
    loop {
        let range = window.of(before.size)?;
        let len = range.end - range.start;
        let copy = match fits_memory(len, memory_limit) {
            true => Copy::Buffer(into_memory(source, fd, range.clone(), progress)?),
            false => to_disk(source, fd, range.clone(), progress)?,
        };
        let after = source.stat()?;
        let intact = after.stamp == before.stamp;
        if intact || attempt == ATTEMPTS || len > RETRY_MAX {
            window.check_read(copy.len(), &range)?;
            return Ok((copy, intact));
        }
        attempt += 1;
        before = after;
    }
}

/// Reads a range, or less of it if the file ends before.
pub(crate) fn into_memory(
    source: &Source<'_>,
    fd: BorrowedFd<'_>,
    range: Range<u64>,
    progress: &mut Progress<'_>,
) -> Result<Buffer> {
    let total = range.end - range.start;
    let len = usize::try_from(total).unwrap_or(usize::MAX);
    let mut memory = Buffer::with_capacity(len)?;
    let mut step = |done| {
        progress(done as u64, Some(total));
        Ok(())
    };
    let filled = memory.fill(fd, range.start, len, &mut step);
    filled.map_err(|e| source.error("pread", e))?;
    memory.finish()
}

fn to_disk(
    source: &Source<'_>,
    fd: BorrowedFd<'_>,
    range: Range<u64>,
    progress: &mut Progress<'_>,
) -> Result<Copy> {
    let total = range.end - range.start;
    let mut step = |done| {
        progress(done, Some(total));
        Ok(())
    };
    // Looking for holes moves the offset, which the caller's description shares with others.
    let own = source.own_description().ok();
    let fd = own.as_ref().map_or(fd, |own| own.as_fd());
    let copied = copy_to_disk(fd, range.clone(), &mut step);
    let (file, len) = copied.map_err(|e| source.error("copy to an unnamed file", e))?;
    if len == 0 {
        return Ok(Copy::Buffer(Buffer::with_capacity(0)?));
    }
    let len = usize::try_from(len).map_err(|_| Error::TooLarge {
        path: source.name(),
        limit: isize::MAX.unsigned_abs() as u64,
    })?;
    let (region, delta) =
        Region::file(file.as_fd(), 0, len).map_err(|e| source.error("mmap", e))?;
    Ok(Copy::Disk { region, delta, len })
}
