//! System calls on descriptors themselves: fcntl(2), close-on-exec duplicates, poll(2).

use super::retry_eintr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Duplicates the descriptor of this number, close-on-exec.
pub(crate) fn dup_cloexec(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: this fcntl(2) takes an integer and touches no memory of ours.
    let fd = retry_eintr(|| unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the kernel just returned this descriptor, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The same file by a number that is not that of stdin, stdout or stderr. A program that has closed one of these gets its
/// number for the next file, and safe code may put another file there at any time (dup2(2)).
pub(crate) fn beyond_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > libc::STDERR_FILENO {
        return Ok(fd);
    }
    fd.try_clone()
}

/// Whether a descriptor was opened for writing.
pub(crate) fn is_writable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(matches!(access_mode(fd)?, libc::O_WRONLY | libc::O_RDWR))
}

/// Whether a descriptor was opened for reading and writing.
pub(crate) fn is_read_write(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(access_mode(fd)? == libc::O_RDWR)
}

/// poll(2) of one descriptor for these events. Returns those that have happened.
pub(super) fn poll(fd: BorrowedFd<'_>, events: i16, wait: Wait) -> io::Result<i16> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: poll(2) reads and writes one `struct pollfd`.
    retry_eintr(|| unsafe { libc::poll(&mut poll, 1, wait as i32) })?;
    Ok(poll.revents)
}

/// How long [`poll`] waits, in ms.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(super) enum Wait {
    Forever = -1,
    No = 0,
}

/// The access mode that a descriptor was opened with. `O_PATH` equals none of them.
fn access_mode(fd: BorrowedFd<'_>) -> io::Result<i32> {
    Ok(flags(fd)? & (libc::O_ACCMODE | libc::O_PATH))
}

/// The flags that a descriptor was opened with, or has got since: fcntl(2) `F_GETFL`.
pub(super) fn flags(fd: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: this fcntl(2) takes no argument and touches no memory of ours.
    retry_eintr(|| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })
}

/// Which signal reports a lease break: fcntl(2). libc has the number for some C libraries only.
pub(super) const F_SETSIG: i32 = 10;

/// True if any descriptor has the file open for writing. `fd` is open for reading only; false where this cannot be
/// determined. By fcntl(2), "Leases": a read lease is granted only without writers. It is released at once.
pub(crate) fn has_writer(fd: BorrowedFd<'_>) -> bool {
    let fd = fd.as_raw_fd();
    // A break in between would raise SIGIO, which terminates the process; SIGURG is ignored by default.
    // SAFETY: this fcntl(2) takes an integer and touches no memory of ours.
    if retry_eintr(|| unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) }).is_err() {
        return false;
    }
    // SAFETY: as above.
    match retry_eintr(|| unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) }) {
        Err(e) => e.raw_os_error() == Some(libc::EAGAIN),
        Ok(_) => {
            // SAFETY: as above.
            let _ = retry_eintr(|| unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) });
            false
        }
    }
}
