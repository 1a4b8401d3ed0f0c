//! File systems: fstatfs(2), and an ioctl(2) that only btrfs answers.

use super::retry_eintr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The magic number of the file system that an open file is on (`f_type`).
pub(crate) fn magic(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut stat = MaybeUninit::<libc::statfs64>::uninit();
    // SAFETY: fstatfs(2) writes one `struct statfs` to the pointer, which has room for it.
    retry_eintr(|| unsafe { libc::fstatfs64(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstatfs(2) succeeded, so it is filled in.
    let magic = unsafe { stat.assume_init() }.f_type;
    // The type of the number differs between C libraries, and so does its sign on 32 bits; its bits do not.
    Ok(magic as u32)
}

/// `struct btrfs_ioctl_fs_info_args` of linux/btrfs.h.
type BtrfsInfo = [u64; 128];

const BTRFS_IOC_FS_INFO: libc::Ioctl = libc::_IOR::<BtrfsInfo>(0x94, 31);

/// True if the file is on btrfs: another file system that shows its magic number does not answer its ioctl(2).
pub(crate) fn is_btrfs(fd: BorrowedFd<'_>) -> bool {
    let mut info = MaybeUninit::<BtrfsInfo>::zeroed();
    // SAFETY: this ioctl(2) writes 1024 bytes to the pointer, which has room for them.
    retry_eintr(|| unsafe { libc::ioctl(fd.as_raw_fd(), BTRFS_IOC_FS_INFO, info.as_mut_ptr()) })
        .is_ok()
}
