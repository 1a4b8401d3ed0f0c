//! System calls of the handlers that run in a forked child. All but the first two are async-signal-safe
//! (signal-safety(7)).

use super::call;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// pthread_atfork(3): `handler` runs in each child of fork(3), before fork(3) returns there. It must be
/// async-signal-safe where the parent may have other threads.
pub(crate) fn run_in_child(handler: unsafe extern "C" fn()) -> io::Result<()> {
    // SAFETY: the handler is a function, and the C library forgets it when the object that contains it is unloaded.
    match unsafe { libc::pthread_atfork(None, None, Some(handler)) } {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

/// eventfd(2), close-on-exec: a descriptor that leads to nothing.
pub(crate) fn placeholder() -> io::Result<OwnedFd> {
    // SAFETY: eventfd(2) takes two integers.
    let fd = call(|| unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
    // SAFETY: the kernel just returned this descriptor, and no other code has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// dup3(2): the number `fd` becomes another descriptor for what is behind `by`, close-on-exec.
pub(crate) fn replace(fd: RawFd, by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: dup3(2) takes integers. The caller decides about `fd`, which stays open.
    call(|| unsafe { libc::dup3(by.as_raw_fd(), fd, libc::O_CLOEXEC) }).map(drop)
}
