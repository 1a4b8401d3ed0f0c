//! System calls that bring bytes to the disk: fsync, syncfs, sync_file_range.

use super::{retry_eintr, to_off_t};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Starts to write a range to the disk and does not wait: sync_file_range(2). A length of 0 is the rest of the file.
/// It promises nothing.
pub(crate) fn start_writeback(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    sync_file_range(fd, (offset, len), libc::SYNC_FILE_RANGE_WRITE)
}

/// The same, and waits until the range is written: every byte of it has a block.
pub(crate) fn write_back(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let wait = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    sync_file_range(fd, (offset, len), libc::SYNC_FILE_RANGE_WRITE | wait)
}

fn sync_file_range(
    fd: BorrowedFd<'_>,
    (offset, len): (u64, u64),
    flags: libc::c_uint,
) -> io::Result<()> {
    let (offset, len) = (to_off_t(offset)?, to_off_t(len)?);
    // SAFETY: sync_file_range(2) touches no memory.
    retry_eintr(|| unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, len, flags) }).map(drop)
}

/// fsync(2); of a directory: its names.
pub(crate) fn fsync(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: fsync(2) touches no memory.
    retry_eintr(|| unsafe { libc::fsync(fd.as_raw_fd()) }).map(drop)
}

/// syncfs(2): everything of the file system that holds `fd`.
pub(crate) fn sync_file_system(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: syncfs(2) touches no memory.
    retry_eintr(|| unsafe { libc::syncfs(fd.as_raw_fd()) }).map(drop)
}
