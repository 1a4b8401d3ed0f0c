//! Files by `std`, as all Unixes have them.

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use tempfile::Builder;

/// Types that have an open file.
pub(crate) use std::os::fd::AsFd as Handle;

/// The file of a descriptor, by another descriptor.
pub(crate) fn file_of<F: Handle>(fd: &F) -> io::Result<File> {
    fd.as_fd().try_clone_to_owned().map(File::from)
}

/// Standard input as a file.
pub(crate) fn stdin() -> io::Result<Option<File>> {
    file_of(&io::stdin()).map(Some)
}

/// read(2). Waits for bytes also where the descriptor is in non-blocking mode.
pub(crate) fn read(mut file: &File, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(into) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && wait_readable(file)? => {}
            other => return other,
        }
    }
}

/// poll(2): false for what cannot be waited for.
fn wait_readable(file: &File) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: poll(2) reads and writes the one `struct pollfd` it is given.
    match unsafe { libc::poll(&mut poll, 1, -1) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(poll.revents & libc::POLLNVAL == 0),
    }
}

/// pread(2): in one step, whatever other threads read.
pub(crate) fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    FileExt::read_at(file, into, offset)
}

/// The offset of the file stays where it is.
pub(crate) const READ_AT_MOVES_OFFSET: bool = false;

/// The mode of a temporary file, before the umask.
pub(crate) fn set_mode(builder: &mut Builder<'_, '_>, mode: u32) {
    builder.permissions(Permissions::from_mode(mode));
}

/// fsync(2) of a directory: its names are on the device.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
