//! Creates a file that several processes may create at once: it is complete and allocated, or not there.
//!
//! A new file is allocated while it has no name, and named by link(2), which succeeds in one process only; the others open
//! that file. So no process sees a file that is too short, and a full disk leaves nothing behind. Where a file system has
//! no unnamed files or no hard links, the name is created with `O_EXCL`, and the file is allocated after that.

use super::mapping::{check_file, open_file};
use crate::edited_files::check_not_edited;
use crate::error::{Error, Result};
use crate::resolve::{self, Name, Resolved};
use crate::space;
use crate::sys::dir;
use crate::sys::file::{self, Stat};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Each attempt fails only if another process created or removed the file between two steps.
const MAX_ATTEMPTS: u32 = 100;

/// Mode of a new file, less the umask.
const MODE: u32 = 0o666;

/// Opens or creates the file at `path` for reading and writing, with at least `len` bytes, all of them allocated.
pub(super) fn open_or_create(path: &Path, len: u64) -> Result<OwnedFd> {
    check_not_edited(path)?;
    for _ in 0..MAX_ATTEMPTS {
        let name = match resolve::resolve(path, false)? {
            Resolved::Descriptor(fd) => return ensure_len(fd.into(), path, len),
            // A link that only the kernel can follow; its target exists.
            Resolved::Magic(_) => {
                let fd = open_file(path)?;
                return ensure_len(fd.into(), path, len);
            }
            Resolved::Name(name) => name,
        };
        let opened = if name.found.is_some() {
            open_existing(&name, path)?.map(|file| ensure_len(file, path, len))
        } else {
            create_unlinked(&name, path, len)?.map(|file| Ok(file.into()))
        };
        if let Some(fd) = opened {
            return fd;
        }
    }
    let source = io::Error::from_raw_os_error(libc::ELOOP);
    Err(Error::os("open", Some(path), source))
}

/// Opens the file of that name, unless it is a symbolic link; `None` if it was removed meanwhile.
fn open_existing(name: &Name, path: &Path) -> Result<Option<File>> {
    let flags = libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NOCTTY;
    let fd = match dir::open_at(name.dir.as_fd(), &name.name, flags, 0) {
        // ELOOP: a symbolic link took its place.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ELOOP)) => return Ok(None),
        opened => opened.map_err(|e| Error::open_read_write(Some(path), e))?,
    };
    // Another file may have taken its place.
    let error = |e| Error::os("open", Some(path), e);
    let directory = dir::stat(name.dir.as_fd()).map_err(error)?;
    let stat = dir::stat(fd.as_fd()).map_err(error)?;
    resolve::check_sticky(&directory, &stat)
        .map_err(|e| Error::open_in_sticky_directory(Some(path), e))?;
    Ok(Some(File::from(fd)))
}

/// Allocates an existing file. If it is too short, it is extended in one step at the end.
fn ensure_len(file: File, path: &Path, len: u64) -> Result<OwnedFd> {
    let stat = check(&file, path)?;
    if len == 0 {
        return Ok(file.into());
    }
    match space::reserve_from_start(&file, len) {
        // As after `open`: if the disk fills up later, a store faults, and the handler replaces the mapping.
        Err(e) if space::is_unsupported(&e) && stat.size >= len => Ok(file.into()),
        Err(e) => Err(Error::os("fallocate", Some(path), e)),
        Ok(()) => Ok(file.into()),
    }
}

/// Creates a new file without a name and links it; `None` if another process created one first.
fn create_unlinked(name: &Name, path: &Path, len: u64) -> Result<Option<File>> {
    let dir = name.dir.as_fd();
    let file = match dir::open_tmpfile(dir, MODE) {
        Ok(file) => file,
        Err(e) if dir::is_tmpfile_unsupported(&e) => return create_named(name, path, len),
        Err(e) => return Err(name.create_error(path, e)),
    };
    allocate(&file, path, len)?;
    let linked = dir::link(&dir::proc_path(file.as_fd()), dir, &name.name);
    match linked {
        Ok(()) => Ok(Some(file)),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(None),
        // No hard links, or no /proc.
        Err(_) => create_named(name, path, len),
    }
}

/// Creates a new file under its name, before it is allocated.
fn create_named(name: &Name, path: &Path, len: u64) -> Result<Option<File>> {
    let dir = name.dir.as_fd();
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let file = match dir::open_at(dir, &name.name, flags, MODE) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(None),
        opened => File::from(opened.map_err(|e| name.create_error(path, e))?),
    };
    let allocated = allocate(&file, path, len);
    if allocated.is_err() {
        let _ = dir::unlink(dir, &name.name);
    }
    allocated.map(|()| Some(file))
}

/// Before the file is changed: what is never mapped is left as it is.
fn check(file: &File, path: &Path) -> Result<Stat> {
    let checked = check_file(file.as_fd(), file::seals(file.as_fd()));
    checked.map_err(|e| e.with_path(|| Some(path.to_path_buf())))
}

/// Allocates a new file.
fn allocate(file: &File, path: &Path, len: u64) -> Result<()> {
    check(file, path)?;
    let allocated = space::extend_or_write_zeros(file, 0, len, &|| Ok(()));
    allocated.map_err(|e| Error::os("fallocate", Some(path), e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// The path for file systems without unnamed files or hard links.
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no fallocate")]
    fn without_unnamed_files_it_is_created_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let Resolved::Name(name) = resolve::resolve(&path, false).unwrap() else {
            panic!("no name");
        };
        // After a failure no file is left.
        assert!(create_named(&name, &path, u64::MAX / 4).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(create_named(&name, &path, 10_000).unwrap().is_some());
        let made = std::fs::metadata(&path).unwrap();
        assert_eq!(made.len(), 10_000);
        assert!(made.blocks() * 512 >= 10_000);
        // Another process was faster.
        assert!(create_named(&name, &path, 20_000).unwrap().is_none());
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), made.ino());
    }
}
