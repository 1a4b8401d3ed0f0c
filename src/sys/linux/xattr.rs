//! System calls on extended attributes: xattr(7).

use super::memory::heap_zeros;
use super::{is_call_unknown, retry_eintr};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The attributes of the file at a path (getxattr(2) and listxattr(2)), or behind a descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// Symbolic links are followed: `/proc/self/fd/N` is what descriptor N has open, also as `O_PATH`.
    Path(&'a CStr),
    Fd(BorrowedFd<'a>),
}

/// The names of all attributes.
pub(crate) fn list(target: Target<'_>) -> io::Result<Vec<CString>> {
    let names = grow(|start, room| match target {
        // SAFETY: listxattr(2) reads a C string and writes at most `room` bytes.
        Target::Path(path) => unsafe { libc::listxattr(path.as_ptr(), start.cast(), room) },
        // SAFETY: flistxattr(2) writes at most `room` bytes.
        Target::Fd(fd) => unsafe { libc::flistxattr(fd.as_raw_fd(), start.cast(), room) },
    })?;
    let names = names.split_inclusive(|&byte| byte == 0);
    Ok(names
        .filter_map(|name| CString::from_vec_with_nul(name.to_vec()).ok())
        .collect())
}

/// The value of an attribute, or `None` if there is none of that name or the file system has no attributes.
pub(crate) fn get(target: Target<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let value = grow(|start, room| match target {
        // SAFETY: getxattr(2) reads two C strings and writes at most `room` bytes.
        Target::Path(path) => unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), start, room) },
        // SAFETY: fgetxattr(2) reads a C string and writes at most `room` bytes.
        Target::Fd(fd) => unsafe { libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), start, room) },
    });
    match value {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(None),
        other => other.map(Some),
    }
}

/// fsetxattr(2): creates or replaces.
pub(crate) fn set(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    let (start, len) = (value.as_ptr().cast(), value.len());
    // SAFETY: fsetxattr(2) reads a C string and `len` bytes.
    retry_eintr(|| unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), start, len, 0) })
        .map(drop)
}

/// fremovexattr(2); a file without that attribute is no error.
pub(crate) fn remove(fd: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: fremovexattr(2) reads a C string and touches no other memory of ours.
    match retry_eintr(|| unsafe { libc::fremovexattr(fd.as_raw_fd(), name.as_ptr()) }) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(()),
        // The call is refused, and there is nothing to remove.
        Err(e) if is_call_unknown(&e) && matches!(get(Target::Fd(fd), name), Ok(None)) => Ok(()),
        other => other.map(drop),
    }
}

/// Runs a call that fills a buffer, or fails with `ERANGE` if the buffer is too small; `XATTR_SIZE_MAX` is 64 KiB.
fn grow(mut fill: impl FnMut(*mut libc::c_void, usize) -> isize) -> io::Result<Vec<u8>> {
    let mut buffer = heap_zeros(256)?;
    loop {
        let (start, room) = (buffer.as_mut_ptr().cast(), buffer.len());
        match retry_eintr(|| fill(start, room)) {
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) && buffer.len() < 1 << 20 => {
                buffer = heap_zeros(buffer.len() * 16)?;
            }
            Err(e) => return Err(e),
            Ok(n) => {
                buffer.truncate(n.unsigned_abs());
                return Ok(buffer);
            }
        }
    }
}
