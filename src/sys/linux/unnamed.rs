//! System calls for files without a name, and for files by their descriptors. They allocate nothing: for the lease threads and
//! fork handlers.

use super::descriptor::beyond_stdio;
use super::retry_eintr;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// As long as any path that the kernel returns, with its NUL.
pub(crate) const PATH_MAX: usize = libc::PATH_MAX as usize;

/// A new file that only this process can reach (`O_TMPFILE`, open(2)), close-on-exec.
pub(crate) fn create(dir: &CStr) -> io::Result<File> {
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_EXCL | libc::O_CLOEXEC;
    // SAFETY: the path is a C string.
    let fd = retry_eintr(|| unsafe { libc::open64(dir.as_ptr(), flags, 0o600) })?;
    // SAFETY: the kernel just returned this descriptor, and no other code has it.
    beyond_stdio(unsafe { OwnedFd::from_raw_fd(fd) }).map(File::from)
}

/// The path of `/proc/self/fd/N`, with its NUL.
pub(crate) fn proc_path(fd: RawFd, buffer: &mut [u8; 32]) -> &CStr {
    let mut rest = &mut buffer[..];
    // 14 bytes, a number of at most 11 and the NUL: they fit.
    let _ = write!(rest, "/proc/self/fd/{fd}\0");
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"")
}

/// The kernel's name for what is behind a descriptor, readlink(2): a path, or `pipe:[7]`. Leaves room for a NUL.
pub(crate) fn name(fd: RawFd, buffer: &mut [u8; PATH_MAX]) -> io::Result<&[u8]> {
    let mut link = [0; 32];
    let link = proc_path(fd, &mut link);
    let (to, room) = (buffer.as_mut_ptr().cast(), buffer.len() - 1);
    // SAFETY: readlink(2) reads a C string and writes at most `room` bytes.
    let len = retry_eintr(|| unsafe { libc::readlink(link.as_ptr(), to, room) })?;
    Ok(&buffer[..len.unsigned_abs()])
}

/// open(2) of what is behind a descriptor, for reading and with a description of its own, close-on-exec.
pub(crate) fn reopen(fd: RawFd) -> io::Result<File> {
    let mut path = [0; 32];
    let path = proc_path(fd, &mut path);
    let flags = libc::O_RDONLY | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the path is a C string.
    let fd = retry_eintr(|| unsafe { libc::open64(path.as_ptr(), flags) })?;
    // SAFETY: the kernel just returned this descriptor, and no other code has it.
    beyond_stdio(unsafe { OwnedFd::from_raw_fd(fd) }).map(File::from)
}
