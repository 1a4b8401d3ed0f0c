//! fstatfs(2).

use super::call;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The magic number of the file system that an open file is on (`f_type`).
pub(crate) fn magic(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: fstatfs(2) writes one `struct statfs` to the pointer, which has room for it.
    call(|| unsafe { libc::fstatfs(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstatfs(2) succeeded, so it is filled in.
    let magic = unsafe { stat.assume_init() }.f_type;
    // The type of the number differs between C libraries, and so does its sign on 32 bits; its bits do not.
    Ok(magic as u32)
}
