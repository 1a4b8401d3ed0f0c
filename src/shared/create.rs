//! Making a file for several processes at once: whole and allocated, or not there.
//!
//! A new file gets its space while it has no name, and its name by link(2), which only one of several can win; the
//! others open the winner's. So nobody ever sees one that is too short, and a full disk leaves nothing behind.

use super::open::refused;
use crate::error::{Error, Result};
use crate::space;
use crate::sys::file::{self, Kind};
use crate::sys::{dir, write};
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Somebody made the file, or removed it, between two of our looks. More often than this is no coincidence.
const ROUNDS: u32 = 100;

/// The file at `path`, open for reading and writing, with at least `len` bytes, all on the disk.
pub(super) fn file(path: &Path, len: u64) -> Result<OwnedFd> {
    let mut target = path.to_path_buf();
    for _ in 0..ROUNDS {
        match file::open_read_write(&target) {
            Ok(fd) => return extend(fd, path, len),
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(refused(path, e)),
            Err(_) => {}
        }
        // A symbolic link to nothing: the file is made where it leads.
        if let Ok(leads) = std::fs::read_link(&target) {
            target = directory(&target).join(leads);
        } else if let Some(fd) = make(&target, path, len)? {
            return Ok(fd);
        }
    }
    let source = io::Error::from_raw_os_error(libc::ELOOP);
    Err(Error::os("open", Some(path), source))
}

/// Allocates a file that is there; it becomes longer, if it must, by one step and last.
fn extend(fd: OwnedFd, path: &Path, len: u64) -> Result<OwnedFd> {
    let stat = file::stat(fd.as_fd()).map_err(|e| Error::os("statx", Some(path), e))?;
    if stat.kind != Kind::Regular || len == 0 {
        return Ok(fd);
    }
    match allocate(&fd, len) {
        // As good as `open`: a hole that finds no space later is a fault, which is answered.
        Err(e) if cannot_allocate(&e) && stat.size >= len => Ok(fd),
        Err(e) => Err(Error::os("fallocate", Some(path), e)),
        Ok(()) => Ok(fd),
    }
}

/// Makes a new file; `None` if somebody was faster.
fn make(target: &Path, path: &Path, len: u64) -> Result<Option<OwnedFd>> {
    let refused = |e| refused(path, e);
    let Some(name) = target.file_name() else {
        // Nothing, or `..` of what is not there.
        return Err(refused(io::Error::from_raw_os_error(libc::ENOENT)));
    };
    if target.as_os_str().as_bytes().ends_with(b"/") {
        return Err(refused(io::Error::from_raw_os_error(libc::EISDIR)));
    }
    let name = dir::c_string(name).map_err(refused)?;
    let directory = dir::c_string(directory(target).as_os_str()).map_err(refused)?;
    let dir = dir::open_directory(dir::working_directory(), &directory).map_err(refused)?;
    let new = match dir::open_tmpfile(dir.as_fd(), 0o666) {
        Ok(file) => fill(file.into(), path, len)?,
        Err(e) if dir::is_tmpfile_unsupported(&e) => return make_named(target, path, len),
        Err(e) => return Err(refused(e)),
    };
    let link = dir::proc_path(new.as_fd());
    match dir::link(&link, dir.as_fd(), &name) {
        Ok(()) => Ok(Some(new)),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(e) => Err(Error::os("linkat", Some(path), e)),
    }
}

/// The same by way of a temporary name, which goes if anything fails.
fn make_named(target: &Path, path: &Path, len: u64) -> Result<Option<OwnedFd>> {
    let mut builder = tempfile::Builder::new();
    builder.permissions(Permissions::from_mode(0o666));
    let temporary = builder.tempfile_in(directory(target));
    let temporary = temporary.map_err(|e| refused(path, e))?;
    let fd = temporary.as_file().try_clone();
    let fd = fd.map_err(|e| Error::os("fcntl", Some(path), e))?;
    let fd = fill(fd.into(), path, len)?;
    match temporary.persist_noclobber(target) {
        Ok(_) => Ok(Some(fd)),
        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(e) => Err(Error::os("linkat", Some(path), e.error)),
    }
}

/// Gives a file that nobody else has its bytes.
fn fill(fd: OwnedFd, path: &Path, len: u64) -> Result<OwnedFd> {
    if len == 0 {
        return Ok(fd);
    }
    match allocate(&fd, len) {
        Ok(()) => Ok(fd),
        Err(e) if cannot_allocate(&e) => {
            let file = File::from(fd);
            write_zeros(&file, len).map_err(|e| Error::os("write", Some(path), e))?;
            Ok(file.into())
        }
        Err(e) => Err(Error::os("fallocate", Some(path), e)),
    }
}

fn allocate(fd: &OwnedFd, len: u64) -> io::Result<()> {
    let file = File::from(fd.try_clone()?);
    space::allocate_front(&file, len)
}

/// Where there is no fallocate(2), bytes that were written have their space.
fn write_zeros(file: &File, len: u64) -> io::Result<()> {
    let zeros = [0; 64 << 10];
    let mut left = len;
    while left > 0 {
        let step = left.min(zeros.len() as u64) as usize;
        write::write_all(file, &zeros[..step])?;
        left -= step as u64;
    }
    // Delayed allocation would find out about a full disk too late.
    file.sync_data()
}

fn cannot_allocate(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV)
    )
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// Where there are no unnamed files; no file system at hand is like that.
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no fallocate")]
    fn a_temporary_name_does_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(make_named(&path, &path, 10_000).unwrap().is_some());
        let made = std::fs::metadata(&path).unwrap();
        assert_eq!(made.len(), 10_000);
        assert!(made.blocks() * 512 >= 10_000);
        // Somebody was faster.
        assert!(make_named(&path, &path, 20_000).unwrap().is_none());
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), made.ino());
        assert!(make_named(&path, &path, u64::MAX / 4).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
