//! Files by `std`, as all Unixes have them.

use std::fs::{File, Metadata, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
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

/// Owner, group and mode of another file, which this one replaces, as far as the process may set them; no user gets more
/// access than its mode gave. An ACL is not known.
pub(crate) fn keep_rights(file: &File, of: &Metadata) -> io::Result<()> {
    // A process that may not give a file away may still set a group of its own.
    let _ = fchown(file, None, Some(of.gid()));
    let _ = fchown(file, Some(of.uid()), None);
    let now = file.metadata()?;
    let (has_owner, has_group) = (now.uid() == of.uid(), now.gid() == of.gid());
    let mode = kept_mode(of.mode() & 0o7777, has_owner, has_group);
    file.set_permissions(Permissions::from_mode(mode))
}

/// Without the group, it and all others get what both had; the set-ID bits mean the owner and the group that they were set for.
fn kept_mode(mode: u32, has_owner: bool, has_group: bool) -> u32 {
    let both = mode >> 3 & mode & 0o007;
    match (has_owner, has_group) {
        (true, true) => mode,
        (false, true) => mode & 0o777,
        (_, false) => mode & 0o700 | both << 3 | both,
    }
}

/// A directory, to sync its names.
pub(crate) struct Directory(File);

impl Directory {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Directory)
    }

    /// fsync(2): the names are on the device. Some network file systems have no such call.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match self.0.sync_all() {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_without_its_owner_or_group_gives_nobody_more() {
        for (mode, has_owner, has_group, kept) in [
            (0o6755, true, true, 0o6755),
            (0o6755, false, true, 0o755),
            (0o6750, true, false, 0o700),
            (0o0604, true, false, 0o600),
            (0o0764, false, false, 0o744),
        ] {
            assert_eq!(kept_mode(mode, has_owner, has_group), kept, "{mode:o}");
        }
    }
}
