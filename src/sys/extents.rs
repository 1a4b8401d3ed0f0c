//! System calls for where on the disk the bytes of a file are: FIEMAP, and blocks of their own for all of them.

use super::call;
use super::write::{grant, signed};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct fiemap`, with room for extents.
#[repr(C)]
struct Map {
    start: u64,
    len: u64,
    flags: u32,
    mapped: u32,
    room: u32,
    reserved: u32,
    extents: [Extent; ROOM],
}

/// `struct fiemap_extent`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Extent {
    logical: u64,
    physical: u64,
    len: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// So many extents are asked for at a time.
const ROOM: usize = 64;

const FS_IOC_FIEMAP: u32 = 0xc020_660b;
const LAST: u32 = 0x1;
/// The bytes lie in the inode, and move to a block when they are stored to.
const DATA_INLINE: u32 = 0x200;
/// Another file has the same blocks, and stores go to new ones.
const SHARED: u32 = 0x2000;

/// What stores would need new blocks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lacking {
    Nothing,
    /// There is a hole, or bytes without a block.
    Blocks,
    /// Blocks of its own.
    OwnBlocks,
}

/// Looks at the first `size` bytes of a file.
fn lacking(fd: BorrowedFd<'_>, size: u64) -> io::Result<Lacking> {
    let (mut at, mut found) = (0, Lacking::Nothing);
    while at < size {
        let mut map = Map {
            start: at,
            len: size - at,
            flags: 0,
            mapped: 0,
            room: ROOM as u32,
            reserved: 0,
            extents: [Extent::default(); ROOM],
        };
        let (raw, request) = (fd.as_raw_fd(), FS_IOC_FIEMAP as libc::Ioctl);
        // SAFETY: this ioctl(2) reads and writes one `struct fiemap` with as many extents as it says.
        call(|| unsafe { libc::ioctl(raw, request, &raw mut map) })?;
        for extent in map.extents.iter().take(map.mapped as usize) {
            if extent.flags & SHARED != 0 {
                return Ok(Lacking::OwnBlocks);
            }
            if extent.logical > at || extent.flags & DATA_INLINE != 0 {
                found = Lacking::Blocks;
            }
            at = at.max(extent.logical.saturating_add(extent.len));
        }
        let last = map.extents.iter().take(map.mapped as usize).next_back();
        if last.is_none_or(|last| last.flags & LAST != 0) {
            break;
        }
    }
    Ok(if at < size && found == Lacking::Nothing {
        Lacking::Blocks
    } else {
        found
    })
}

/// Grants disk blocks to all of the first `size` bytes of a file, wherever a store would need new ones: in holes, in
/// bytes that lie in the inode, in blocks shared with a clone. Bytes stay; a file that lacks nothing is not touched.
pub(crate) fn own_blocks(fd: BorrowedFd<'_>, size: u64) -> io::Result<()> {
    let found = match lacking(fd, size) {
        // It cannot be told: all is asked for.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY)) => {
            Lacking::OwnBlocks
        }
        other => other?,
    };
    if found == Lacking::Nothing {
        return Ok(());
    }
    if found == Lacking::OwnBlocks {
        let (raw, len) = (fd.as_raw_fd(), signed(size)?);
        let mode = libc::FALLOC_FL_UNSHARE_RANGE;
        // SAFETY: fallocate(2) touches no memory.
        match call(|| unsafe { libc::fallocate64(raw, mode, 0, len) }) {
            // A file system without clones.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {}
            other => drop(other?),
        }
    }
    grant(fd, 0, size, 0)
}
