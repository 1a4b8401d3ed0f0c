//! What all Unixes share.

mod errno;
mod file;

pub(crate) use super::unsupported::*;
pub(crate) use errno::{EISDIR, errno_name};
pub(crate) use file::{
    Directory, Handle, READ_AT_MOVES_OFFSET, file_of, keep_rights, read, read_at, set_mode, stdin,
};

/// `sysconf(_SC_PAGESIZE)`, sysconf(3).
pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf(3) reads a constant and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // sysconf(3) cannot fail for this name.
    usize::try_from(size).unwrap_or(4096)
}
