//! System calls of the handlers that run in a forked child. All but the first are async-signal-safe
//! (signal-safety(7)).

use super::retry_eintr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// pthread_atfork(3): `before` runs in the parent before each fork(3), and `in_child` in the child, before fork(3)
/// returns there, in the order of registration. The latter must be async-signal-safe where the parent may have other
/// threads.
pub(crate) fn register(
    before: Option<unsafe extern "C" fn()>,
    in_child: unsafe extern "C" fn(),
) -> io::Result<()> {
    // SAFETY: the handlers are functions, and the C library forgets them when the object that has them is unloaded.
    match unsafe { libc::pthread_atfork(before, None, Some(in_child)) } {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

/// dup3(2): makes the number `fd` a duplicate of `by`, close-on-exec.
pub(crate) fn replace(fd: RawFd, by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: dup3(2) takes integers. The caller decides about `fd`, which stays open.
    retry_eintr(|| unsafe { libc::dup3(by.as_raw_fd(), fd, libc::O_CLOEXEC) }).map(drop)
}
