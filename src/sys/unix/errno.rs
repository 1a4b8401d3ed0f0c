//! Error numbers.

use std::io;

/// The number of opening a directory as a file.
pub(crate) const EISDIR: Option<i32> = Some(libc::EISDIR);

/// The name of an error number, for those that the text of an error depends on; else empty.
pub(crate) fn errno_name(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES) => "EACCES",
        Some(libc::EAGAIN) => "EAGAIN",
        Some(libc::EBADF) => "EBADF",
        Some(libc::EBUSY) => "EBUSY",
        Some(libc::EFBIG) => "EFBIG",
        Some(libc::EMFILE) => "EMFILE",
        Some(libc::ENOMEM) => "ENOMEM",
        Some(libc::EPERM) => "EPERM",
        Some(libc::ETXTBSY) => "ETXTBSY",
        _ => "",
    }
}
