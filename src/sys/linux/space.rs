//! System calls for the blocks of a file: fallocate, fstatvfs, FIEMAP.

use super::signal_mask::SignalMask;
use super::{credentials, limits, retry_eintr, to_off_t};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The most that one fallocate(2) should reserve. An interrupted call may undo what it did (tmpfs), so signals are blocked
/// while it runs, and it must not run for long.
pub(crate) const FALLOCATE_CHUNK: u64 = 64 << 20;

/// A call for at most this many bytes ends before a second signal comes: signals are not blocked, and it is made again if one
/// interrupts it.
const INTERRUPTIBLE_MAX: u64 = 1 << 20;

/// The operation of [`fallocate`] on a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallocate {
    /// Blocks for holes; the file becomes longer if the range ends behind its end.
    Extend,
    /// Blocks for holes; the file keeps its length.
    KeepSize,
    /// Blocks of its own where a clone has the same blocks, and for holes (xfs, btrfs).
    Unshare,
    /// No blocks: the range becomes a hole.
    PunchHole,
}

/// fallocate(2). Bytes stay, but for [`Fallocate::PunchHole`].
pub(crate) fn fallocate(fd: BorrowedFd<'_>, how: Fallocate, range: Range<u64>) -> io::Result<()> {
    let mode = match how {
        Fallocate::Extend => 0,
        Fallocate::KeepSize => libc::FALLOC_FL_KEEP_SIZE,
        Fallocate::Unshare => libc::FALLOC_FL_UNSHARE_RANGE,
        Fallocate::PunchHole => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
    };
    let len = range.end - range.start;
    let may_raise = limits::file_size() != u64::MAX;
    let _mask =
        (len > INTERRUPTIBLE_MAX || may_raise).then(|| SignalMask::block_all(&[libc::SIGXFSZ]));
    let (offset, len) = (to_off_t(range.start)?, to_off_t(len)?);
    // SAFETY: fallocate(2) touches no memory.
    retry_eintr(|| unsafe { libc::fallocate64(fd.as_raw_fd(), mode, offset, len) }).map(drop)
}

/// The size of a file system, in bytes: fstatvfs(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// 0 where the file system has no size (ramfs).
    pub(crate) total: u64,
    /// Bytes that this process may still allocate.
    pub(crate) free: u64,
}

pub(crate) fn space(fd: BorrowedFd<'_>) -> io::Result<Space> {
    let mut stat = MaybeUninit::<libc::statvfs64>::uninit();
    // SAFETY: fstatvfs(3) writes one `struct statvfs` to the pointer, which has room for it.
    retry_eintr(|| unsafe { libc::fstatvfs64(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstatvfs(3) succeeded, so it is filled in.
    let stat = unsafe { stat.assume_init() };
    let free = if credentials::effective_user() == 0 {
        stat.f_bfree
    } else {
        stat.f_bavail
    };
    #[allow(clippy::unnecessary_cast)] // the types differ between architectures
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize as u64);
    Ok(Space {
        total: bytes(stat.f_blocks),
        free: bytes(free),
    })
}

/// `struct fiemap` of linux/fiemap.h, with room for extents.
#[repr(C)]
struct Fiemap {
    start: u64,
    len: u64,
    flags: u32,
    mapped: u32,
    room: u32,
    reserved: u32,
    extents: [Extent; EXTENTS_PER_CALL],
}

/// `struct fiemap_extent`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Extent {
    /// Offset in the file, in bytes.
    pub(crate) logical: u64,
    physical: u64,
    pub(crate) len: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

const EXTENTS_PER_CALL: usize = 64;
/// Of the header of `struct fiemap`.
const FS_IOC_FIEMAP: libc::Ioctl = libc::_IOWR::<[u64; 4]>(b'f' as u32, 11);
const FIEMAP_FLAG_SYNC: u32 = 0x1;
const FIEMAP_EXTENT_LAST: u32 = 0x1;
const FIEMAP_EXTENT_DATA_INLINE: u32 = 0x200;
const FIEMAP_EXTENT_UNWRITTEN: u32 = 0x800;
const FIEMAP_EXTENT_SHARED: u32 = 0x2000;

impl Extent {
    pub(crate) fn end(&self) -> u64 {
        self.logical.saturating_add(self.len)
    }

    /// The bytes are in the inode, and move to a block when they are written to.
    pub(crate) fn is_inline(&self) -> bool {
        self.flags & FIEMAP_EXTENT_DATA_INLINE != 0
    }

    /// Allocated, and never written to: it reads as zeros.
    pub(crate) fn is_unwritten(&self) -> bool {
        self.flags & FIEMAP_EXTENT_UNWRITTEN != 0
    }

    /// Another file has the same blocks; a write goes to new ones.
    pub(crate) fn is_shared(&self) -> bool {
        self.flags & FIEMAP_EXTENT_SHARED != 0
    }
}

/// What [`extents`] does with bytes that were not written back yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dirty {
    /// They may be missing, as if they were in a hole.
    Ignore,
    /// They are written back first (`FIEMAP_FLAG_SYNC`).
    WriteBack,
}

/// The extents that have bytes of a range of a file, in order: ioctl(2) `FS_IOC_FIEMAP`.
pub(crate) fn extents(
    fd: BorrowedFd<'_>,
    range: Range<u64>,
    dirty: Dirty,
) -> io::Result<Vec<Extent>> {
    let flags = match dirty {
        Dirty::Ignore => 0,
        Dirty::WriteBack => FIEMAP_FLAG_SYNC,
    };
    let (mut at, mut found) = (range.start, Vec::new());
    while at < range.end {
        let mut map = Fiemap {
            start: at,
            len: range.end - at,
            flags,
            mapped: 0,
            room: EXTENTS_PER_CALL as u32,
            reserved: 0,
            extents: [Extent::default(); EXTENTS_PER_CALL],
        };
        let (raw, request) = (fd.as_raw_fd(), FS_IOC_FIEMAP);
        // SAFETY: this ioctl(2) reads and writes one `struct fiemap` with as many extents as it says.
        retry_eintr(|| unsafe { libc::ioctl(raw, request, &raw mut map) })?;
        let mut extents = map.extents.iter().take(map.mapped as usize);
        found.extend(extents.clone());
        match extents.next_back() {
            Some(last) if last.flags & FIEMAP_EXTENT_LAST == 0 => at = last.end().max(at + 1),
            _ => break,
        }
    }
    Ok(found)
}
