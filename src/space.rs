//! Reserves space on a file system. Every reservation checks the free space first, leaves a little, and frees what
//! it took if it fails.

use crate::file_system::FileSystem;
use crate::sys::space::{self, Dirty, FALLOCATE_CHUNK, Fallocate};
use crate::sys::{file, is_call_unknown, lease, limits, memory, sync, write};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::Duration;

/// The most that a reservation leaves free, in bytes; less on a small file system. A full disk makes other programs fail,
/// and file systems need some blocks for their own records.
const LEFT_FREE_MAX: u64 = 1 << 20;

/// The part of a small file system that a reservation leaves free.
const LEFT_FREE_PART: u64 = 256;

/// Called between the steps of a long operation on a file; an error once the file may not be changed any more.
pub(crate) type Check<'a> = dyn Fn() -> io::Result<()> + 'a;

/// The operation is done whole.
const UNCHECKED: &Check<'static> = &|| Ok(());

/// Bytes of zeros that are written, and written back to the disk, at a time, where fallocate(2) is not supported.
const ZEROS_CHUNK: usize = 1 << 20;

/// xfs frees the blocks of a removed file in the background: how often the free space is checked again, and after which
/// pause.
const RETRIES: u32 = 10;
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// `ENOSPC` if the file system of `fd` reports less free space than that.
pub(crate) fn check_free(fd: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let has_room = |most: u64| {
        // If the free space cannot be determined, go ahead.
        let Ok(space) = space::space(fd) else {
            return true;
        };
        let left = most.min(space.total / LEFT_FREE_PART);
        space.total == 0 || bytes.saturating_add(left) <= space.free
    };
    // Most disks have room; the type of the file system is looked up only for the others.
    if bytes == 0 || has_room(LEFT_FREE_MAX) {
        return Ok(());
    }
    let (left, retries) = match FileSystem::from_fd(fd) {
        Ok(FileSystem::Tmpfs) => (0, 0),
        Ok(FileSystem::Xfs) => (LEFT_FREE_MAX, RETRIES),
        _ => (LEFT_FREE_MAX, 0),
    };
    for _ in 0..retries {
        if has_room(left) {
            return Ok(());
        }
        thread::sleep(RETRY_PAUSE);
    }
    if has_room(left) {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::ENOSPC))
}

/// True if the file system cannot reserve space: fallocate(2) is not supported.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    is_call_unknown(error) || matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV))
}

/// Fails if there is no room for a file of `old` bytes to become `new` bytes long.
pub(crate) fn check_room(file: &File, old: u64, new: u64) -> io::Result<()> {
    check_size(new)?;
    check_free(file.as_fd(), new.saturating_sub(old))
}

/// Makes a file of `old` bytes `new` bytes long, with blocks for the new bytes. The file is as it was after an error.
pub(crate) fn extend(file: &File, old: u64, new: u64) -> io::Result<()> {
    check_room(file, old, new)?;
    let extended = fallocate(file.as_fd(), Fallocate::Extend, old..new, UNCHECKED);
    extended.inspect_err(|_| {
        let _ = file.set_len(old);
    })
}

/// The same, by writing zeros where fallocate(2) is not supported. It ends, and undoes what it did, once `check`
/// fails.
pub(crate) fn extend_or_write_zeros(
    file: &File,
    old: u64,
    new: u64,
    check: &Check<'_>,
) -> io::Result<()> {
    check_room(file, old, new)?;
    let extended = match fallocate(file.as_fd(), Fallocate::Extend, old..new, check) {
        Err(e) if is_unsupported(&e) => write_zeros(file, old..new, check),
        other => other,
    };
    extended.inspect_err(|_| {
        let _ = file.set_len(old);
    })
}

/// fallocate(2), a chunk at a time.
fn fallocate(
    fd: BorrowedFd<'_>,
    how: Fallocate,
    range: Range<u64>,
    check: &Check<'_>,
) -> io::Result<()> {
    let mut starts = range.clone().step_by(FALLOCATE_CHUNK as usize);
    starts.try_for_each(|start| {
        check()?;
        let end = range.end.min(start.saturating_add(FALLOCATE_CHUNK));
        space::fallocate(fd, how, start..end)
    })
}

/// Allocates blocks for the first `len` bytes of a file that other processes may have open. Then it makes the file `len`
/// bytes long if it is shorter, in one step.
pub(crate) fn reserve_from_start(file: &File, len: u64) -> io::Result<()> {
    allocate_from_start(file, len)?.1?;
    let last = len.saturating_sub(1);
    fallocate(file.as_fd(), Fallocate::Extend, last..len, UNCHECKED)
}

/// Allocates blocks for the first `len` bytes of a file that is about to be overwritten, and that other processes may have
/// open, where fallocate(2) is supported. Its length stays.
pub(crate) fn allocate_for_overwrite(file: &File, len: u64) -> io::Result<Unallocated> {
    match allocate_from_start(file, len)? {
        (_, Err(e)) if !is_unsupported(&e) => Err(e),
        (before, _) => Ok(before),
    }
}

/// The second value is what fallocate(2) returned; after an error the file has the same blocks as before.
fn allocate_from_start(file: &File, len: u64) -> io::Result<(Unallocated, io::Result<()>)> {
    check_size(len)?;
    let fd = file.as_fd();
    check_free(fd, len.saturating_sub(file::stat(fd)?.allocated))?;
    let before = Unallocated::find(file, len)?;
    let allocated = fallocate(fd, Fallocate::KeepSize, 0..len, UNCHECKED);
    let allocated = allocated.inspect_err(|_| before.restore(file, 0));
    Ok((before, allocated))
}

/// Where a file had no blocks before its first bytes got some.
#[derive(Debug)]
pub(crate) struct Unallocated {
    size: u64,
    holes: Vec<Range<u64>>,
    /// No block was behind the end.
    is_end_last: bool,
}

impl Unallocated {
    fn find(file: &File, len: u64) -> io::Result<Self> {
        let size = file::stat(file.as_fd())?.size;
        let behind = end_of_block(size)..i64::MAX as u64;
        let extents = space::extents(file.as_fd(), behind, Dirty::Ignore);
        // If they are not known, nothing is freed later.
        let missing = Missing::find(file, &(0..len), Dirty::Ignore).unwrap_or_default();
        Ok(Unallocated {
            size,
            holes: missing.holes,
            is_end_last: extents.is_ok_and(|extents| extents.is_empty()),
        })
    }

    /// Frees the blocks that were allocated since, but not those that another process wrote to, and truncates what a failed
    /// write of up to `written` bytes has appended. If another process has the file open, it may be writing: then nothing is
    /// freed until the file is truncated or removed.
    pub(crate) fn restore(&self, file: &File, written: u64) {
        let fd = file.as_fd();
        lease::while_open_nowhere_else(fd, || {
            for hole in &self.holes {
                let _ = punch_unwritten(fd, hole);
            }
            let now = file::stat(fd).map_or(u64::MAX, |stat| stat.size);
            let is_longer = now > self.size && now <= written;
            // ext4 punches no holes behind the end.
            let has_blocks_behind = now == self.size && self.is_end_last;
            if is_longer || has_blocks_behind {
                let _ = file.set_len(self.size);
            }
        });
    }
}

/// Makes holes of the parts of `range` that are allocated and were never written to. (SEEK_DATA would report such a part as
/// data once it was read.)
fn punch_unwritten(fd: BorrowedFd<'_>, range: &Range<u64>) -> io::Result<()> {
    for extent in space::extents(fd, range.clone(), Dirty::WriteBack)? {
        let (start, end) = (extent.logical.max(range.start), extent.end().min(range.end));
        if extent.is_unwritten() {
            fallocate(fd, Fallocate::PunchHole, start..end, UNCHECKED)?;
        }
    }
    Ok(())
}

/// Allocates blocks for a range of a file of `size` bytes that no other process changes, wherever a store would need a new
/// block: for holes, for bytes that are in the inode, for blocks shared with a clone. Bytes stay; if no block is missing,
/// nothing is done, and after an error holes are holes again.
///
/// It stops when `check` fails: bytes that another process writes must not be overwritten with zeros. The result can be freed.
pub(crate) fn unshare_and_allocate(
    file: &File,
    range: Range<u64>,
    size: u64,
    check: &Check<'_>,
) -> io::Result<Missing> {
    if range.is_empty() || Missing::find(file, &range, Dirty::Ignore)?.is_nothing() {
        return Ok(Missing::default());
    }
    // What is filled with zeros, and freed after an error, must really be a hole.
    let missing = Missing::find(file, &range, Dirty::WriteBack)?;
    if missing.is_nothing() {
        return Ok(missing);
    }
    check_free(file.as_fd(), missing.bytes())?;
    match missing.allocate_or_zero(file, range, size, check) {
        Ok(()) => Ok(missing),
        Err(e) => {
            missing.free(file, check);
            Err(e)
        }
    }
}

/// What stores into a file would need new blocks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    holes: Vec<Range<u64>>,
    /// Bytes in blocks that a clone has too.
    shared: u64,
    is_inline: bool,
}

impl Missing {
    fn find(file: &File, range: &Range<u64>, dirty: Dirty) -> io::Result<Self> {
        // Whole blocks: only those can be freed.
        let blocks = start_of_block(range.start)..end_of_block(range.end);
        match space::extents(file.as_fd(), blocks.clone(), dirty) {
            Ok(extents) => Ok(Missing::between(&extents, &blocks, range)),
            // Unknown: ask for everything.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY)) => {
                Ok(Missing {
                    holes: Vec::new(),
                    shared: range.end - range.start,
                    is_inline: true,
                })
            }
            Err(e) => Err(e),
        }
    }

    /// `extents` are those of `blocks`, the whole blocks around `range`.
    fn between(extents: &[space::Extent], blocks: &Range<u64>, range: &Range<u64>) -> Self {
        let (mut missing, mut at) = (Missing::default(), blocks.start);
        for extent in extents {
            if extent.logical > at {
                missing.holes.push(at..extent.logical);
            }
            if extent.is_shared() {
                let end = extent.end().min(blocks.end);
                missing.shared += end.saturating_sub(extent.logical.max(blocks.start));
            }
            missing.is_inline |= extent.is_inline();
            at = at.max(extent.end());
        }
        if at < blocks.end {
            missing.holes.push(at..blocks.end);
        }
        let is_in_range = |hole: &Range<u64>| hole.start < range.end && range.start < hole.end;
        missing.holes.retain(is_in_range);
        missing
    }

    fn is_nothing(&self) -> bool {
        *self == Missing::default()
    }

    fn bytes(&self) -> u64 {
        let holes = self.holes.iter().map(|hole| hole.end - hole.start);
        holes.sum::<u64>() + self.shared
    }

    fn allocate_or_zero(
        &self,
        file: &File,
        range: Range<u64>,
        size: u64,
        check: &Check<'_>,
    ) -> io::Result<()> {
        let fallocate = |how| fallocate(file.as_fd(), how, range.clone(), check);
        if self.shared > 0 {
            match fallocate(Fallocate::Unshare) {
                // A file system without clones.
                Err(e) if is_unsupported(&e) || e.raw_os_error() == Some(libc::EINVAL) => {}
                other => other?,
            }
        }
        match fallocate(Fallocate::KeepSize) {
            Err(e) if is_unsupported(&e) && self.shared == 0 && !self.is_inline => {
                let mut holes = self.holes.iter();
                holes.try_for_each(|hole| write_zeros(file, hole.start..hole.end.min(size), check))
            }
            other => other,
        }
    }

    /// Makes the holes holes again. Once another process may have the file open (`check` fails), what it has written stays.
    pub(crate) fn free(&self, file: &File, check: &Check<'_>) {
        let fd = file.as_fd();
        for hole in &self.holes {
            let _ = if check().is_ok() {
                fallocate(fd, Fallocate::PunchHole, hole.clone(), UNCHECKED)
            } else {
                punch_unwritten(fd, hole)
            };
        }
    }
}

/// Writes zeros, and writes them back to the disk: with delayed allocation, a full disk would be noticed too late otherwise.
fn write_zeros(file: &File, range: Range<u64>, check: &Check<'_>) -> io::Result<()> {
    let zeros = memory::heap_zeros(ZEROS_CHUNK)?;
    for start in range.clone().step_by(ZEROS_CHUNK) {
        check()?;
        let len = (range.end - start).min(ZEROS_CHUNK as u64) as usize;
        write::write_all_at(file, &zeros[..len], start)?;
        // This range only: the rest of the file may have any number of dirty pages.
        sync::write_back(file.as_fd(), start, len as u64)?;
    }
    Ok(())
}

/// `EFBIG` over `RLIMIT_FSIZE`, before anything is allocated and without SIGXFSZ.
fn check_size(len: u64) -> io::Result<()> {
    if len > limits::file_size() {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    Ok(())
}

/// The start of the first block, as large as any file system has them (64 KiB).
fn start_of_block(offset: u64) -> u64 {
    offset & !0xffff
}

/// The end of the last one.
fn end_of_block(size: u64) -> u64 {
    start_of_block(size.saturating_add(0xffff))
}
