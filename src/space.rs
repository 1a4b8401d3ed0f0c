//! Reserves space on a file system. Every reservation checks the free space first, leaves a little, and frees what
//! it took if it fails.

use crate::file_system::FileSystem;
use crate::sys::space::{self, Fallocate};
use crate::sys::{file, is_call_unknown, lease, limits, memory, sync, write};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::Duration;

/// The most that a reservation leaves free, in bytes; less on a small file system. A full disk fails other programs
/// too, and file systems need some blocks for their own records.
const LEFT_FREE_MAX: u64 = 1 << 20;

/// The part of a small file system that a reservation leaves free.
const LEFT_FREE_PART: u64 = 256;

/// Fails once a file may not be changed any more.
pub(crate) type Check<'a> = dyn Fn() -> io::Result<()> + 'a;

/// Bytes that are allocated between two looks at whether they still may be.
const ALLOCATE_CHUNK: u64 = 64 << 20;

/// Bytes that are written, and written to the disk, at a time where fallocate(2) is not supported.
const ZEROS_CHUNK: usize = 1 << 20;

/// xfs frees the blocks of a removed file in the background: how often to look again, and after which pause.
const LOOKS_AGAIN: u32 = 10;
const LOOK_PAUSE: Duration = Duration::from_millis(10);

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
    let system = FileSystem::from_fd(fd).ok();
    let left = if system == Some(FileSystem::Tmpfs) {
        0
    } else {
        LEFT_FREE_MAX
    };
    let looks_again = if system == Some(FileSystem::Xfs) {
        LOOKS_AGAIN
    } else {
        0
    };
    for _ in 0..looks_again {
        if has_room(left) {
            return Ok(());
        }
        thread::sleep(LOOK_PAUSE);
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

/// Makes a file of `old` bytes `new` bytes long, with blocks for the new bytes. The file is as it was after an error.
pub(crate) fn extend(file: &File, old: u64, new: u64) -> io::Result<()> {
    let added = new.saturating_sub(old);
    if added == 0 {
        return Ok(());
    }
    check_size(new)?;
    check_free(file.as_fd(), added)?;
    let extended = space::fallocate(file.as_fd(), Fallocate::Extend, old, new);
    extended.inspect_err(|_| {
        let _ = file.set_len(old);
    })
}

/// The same in pieces, by writing zeros where fallocate(2) is not supported. It ends, and undoes what it did, once `check`
/// fails.
pub(crate) fn extend_or_write_zeros(
    file: &File,
    old: u64,
    new: u64,
    check: &Check<'_>,
) -> io::Result<()> {
    check_size(new)?;
    check_free(file.as_fd(), new.saturating_sub(old))?;
    let extended = match in_pieces(file, Fallocate::Extend, old..new, check) {
        Err(e) if is_unsupported(&e) => write_zeros(file, old..new, check),
        other => other,
    };
    extended.inspect_err(|_| {
        let _ = file.set_len(old);
    })
}

/// fallocate(2), a piece at a time.
fn in_pieces(file: &File, how: Fallocate, range: Range<u64>, check: &Check<'_>) -> io::Result<()> {
    let mut starts = range.clone().step_by(ALLOCATE_CHUNK as usize);
    starts.try_for_each(|start| {
        check()?;
        let end = range.end.min(start + ALLOCATE_CHUNK);
        space::fallocate(file.as_fd(), how, start, end)
    })
}

/// Gives every one of the first `len` bytes of a file that others may have open a block, and makes it `len` bytes long
/// if it is shorter, in one step and last.
pub(crate) fn reserve_from_start(file: &File, len: u64) -> io::Result<()> {
    allocate_from_start(file, len)?.1?;
    let last = len.saturating_sub(1);
    space::fallocate(file.as_fd(), Fallocate::Extend, last, len)
}

/// Gives blocks to the first `len` bytes of a file that is about to be overwritten, and that others may have open, where
/// fallocate(2) is supported. Its length stays.
pub(crate) fn allocate_for_overwrite(file: &File, len: u64) -> io::Result<Unallocated> {
    match allocate_from_start(file, len)? {
        (_, Err(e)) if !is_unsupported(&e) => Err(e),
        (before, _) => Ok(before),
    }
}

/// Second, what fallocate(2) returned; after an error the file has the blocks that it had.
fn allocate_from_start(file: &File, len: u64) -> io::Result<(Unallocated, io::Result<()>)> {
    check_size(len)?;
    let fd = file.as_fd();
    check_free(fd, len.saturating_sub(space::allocated(fd)?))?;
    let before = Unallocated::find(file, len)?;
    let allocated = space::fallocate(fd, Fallocate::KeepSize, 0, len);
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
        let extents = space::extents(file.as_fd(), behind, false);
        // Where they are not known, nothing will be given back.
        let missing = Missing::find(file, &(0..len), false).unwrap_or_default();
        Ok(Unallocated {
            size,
            holes: missing.holes,
            is_end_last: extents.is_ok_and(|extents| extents.is_empty()),
        })
    }

    /// Frees the blocks that the file got since, but not what others wrote to it; what was appended by a write of up to
    /// `written` bytes that failed is cut off. Another process that has the file open may be writing just now: then they
    /// stay, until the file is truncated or removed.
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

/// Makes a hole of what in `range` was allocated and never written to. (SEEK_DATA takes zeros that were read for data.)
fn punch_unwritten(fd: BorrowedFd<'_>, range: &Range<u64>) -> io::Result<()> {
    for extent in space::extents(fd, range.clone(), true)? {
        let (start, end) = (extent.logical.max(range.start), extent.end().min(range.end));
        if extent.is_unwritten() {
            space::fallocate(fd, Fallocate::PunchHole, start, end)?;
        }
    }
    Ok(())
}

/// Gives blocks of their own to a range of a file of `size` bytes that nothing else changes, wherever a store would need
/// a new block: in holes, in bytes that are in the inode, in blocks shared with a clone. Bytes stay; a range that lacks
/// nothing is not touched, and after an error holes are holes again.
///
/// A step that may not be made any more is an error of `check`: what another process writes must not become zeros.
pub(crate) fn unshare_and_allocate(
    file: &File,
    range: Range<u64>,
    size: u64,
    check: &Check<'_>,
) -> io::Result<()> {
    if range.is_empty() || Missing::find(file, &range, false)?.is_nothing() {
        return Ok(());
    }
    // What is filled, and given back, must be a hole.
    let missing = Missing::find(file, &range, true)?;
    if missing.is_nothing() {
        return Ok(());
    }
    check_free(file.as_fd(), missing.bytes())?;
    let filled = missing.allocate_or_zero(file, range, size, check);
    filled.inspect_err(|_| missing.give_back(file))
}

/// What stores into a file would need new blocks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    holes: Vec<Range<u64>>,
    /// Bytes in blocks that a clone has too.
    shared: u64,
    is_inline: bool,
}

impl Missing {
    fn find(file: &File, range: &Range<u64>, sync: bool) -> io::Result<Self> {
        // Whole blocks: only those can be given back.
        let blocks = start_of_block(range.start)..end_of_block(range.end);
        match space::extents(file.as_fd(), blocks.clone(), sync) {
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
        let fallocate = |how| in_pieces(file, how, range.clone(), check);
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

    fn give_back(&self, file: &File) {
        for hole in &self.holes {
            let _ = space::fallocate(file.as_fd(), Fallocate::PunchHole, hole.start, hole.end);
        }
    }
}

/// Bytes that were written have their space. Delayed allocation would find a full disk too late, so they are written to
/// the disk.
fn write_zeros(file: &File, range: Range<u64>, check: &Check<'_>) -> io::Result<()> {
    let zeros = memory::heap_zeros(ZEROS_CHUNK)?;
    for start in range.clone().step_by(ZEROS_CHUNK) {
        check()?;
        let len = (range.end - start).min(ZEROS_CHUNK as u64) as usize;
        write::write_all_at(file, &zeros[..len], start)?;
        // Not the whole file: what else of it is not on the disk yet may take any time.
        sync::write_back(file.as_fd(), start, len as u64)?;
    }
    Ok(())
}

/// `EFBIG` over `RLIMIT_FSIZE`, before anything is taken and without SIGXFSZ.
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
