//! System calls of the handlers that run in a forked child. All but [`register`] are async-signal-safe
//! (signal-safety(7)).

use super::retry_eintr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// pthread_atfork(3): `before` and `after` run in the parent before and after each fork(3). `in_child` runs in the child
/// before fork(3) returns there, in the order of registration; it must be async-signal-safe, since the parent may have
/// other threads.
pub(crate) fn register(
    before: unsafe extern "C" fn(),
    after: unsafe extern "C" fn(),
    in_child: unsafe extern "C" fn(),
) -> io::Result<()> {
    // SAFETY: the handlers are functions, and the C library forgets them when the object that has them is unloaded.
    match unsafe { libc::pthread_atfork(Some(before), Some(after), Some(in_child)) } {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

/// dup3(2): makes the number `fd` a duplicate of `by`, close-on-exec.
pub(crate) fn replace(fd: RawFd, by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: dup3(2) takes integers. The caller decides about `fd`, which stays open.
    let replace =
        || retry_eintr(|| unsafe { libc::dup3(by.as_raw_fd(), fd, libc::O_CLOEXEC) }).map(drop);
    match replace() {
        // Both are open; but dup3(2) takes no number above the limit, which was lowered since.
        Err(e) if e.raw_os_error() == Some(libc::EBADF) => with_limit_above(fd, replace),
        replaced => replaced,
    }
}

/// close(2), for a descriptor that [`replace`] cannot replace: its number is above a limit that this process may not raise.
/// So no other descriptor gets the number.
pub(crate) fn close(fd: RawFd) {
    // SAFETY: takes an integer; the caller decides about `fd`.
    unsafe { libc::close(fd) };
}

/// Runs `f` while this process may have the descriptor `fd`, if it may raise its limit so far.
fn with_limit_above(fd: RawFd, f: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: getrlimit(2) writes one struct to the pointer, which has room for it.
    retry_eintr(|| unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, before.as_mut_ptr()) })?;
    // SAFETY: filled in above.
    let before = unsafe { before.assume_init() };
    let needed = libc::rlim_t::from(fd.unsigned_abs()) + 1;
    // The hard limit only where it is too low: that takes CAP_SYS_RESOURCE.
    let raised = libc::rlimit {
        rlim_cur: before.rlim_cur.max(needed),
        rlim_max: before.rlim_max.max(needed),
    };
    // SAFETY: setrlimit(2) reads one struct.
    retry_eintr(|| unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) })?;
    let done = f();
    // SAFETY: as above. It cannot fail: the limit is lowered.
    let _ = retry_eintr(|| unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const before) });
    done
}
