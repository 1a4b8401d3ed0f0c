//! Resolves a path for calls that create a file, one step at a time: open(2) with `O_CREAT`.
//!
//! Following a symbolic link by its text would bypass what the kernel checks when it follows one: in a sticky directory
//! that all can write to, a link may have been put there by another user. So each step opens what is there with
//! `O_PATH | O_NOFOLLOW`, and the rules of proc_sys_fs(5) for `protected_symlinks`, `protected_regular` and
//! `protected_fifos` are applied to what was opened (fs/namei.c, `may_follow_link` and `may_create_in_sticky`).

use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::sys::credentials;
use crate::sys::descriptor;
use crate::sys::dir::{self, InodeStat};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// As many links as the kernel follows: path_resolution(7).
const LINKS_MAX: usize = 40;

#[derive(Debug)]
pub(crate) enum Resolved {
    Name(Name),
    /// The path names a descriptor of this process, as `/dev/stdout` does; a duplicate of it.
    Descriptor(OwnedFd),
    /// A link of /proc to something that has no path of its own; only the kernel can follow it.
    Magic(Name),
}

/// A name in a directory. The directory is held open, so that it stays the same one if it is renamed.
#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) dir: OwnedFd,
    /// The path of the directory, for messages and for what needs a path.
    pub(crate) dir_path: PathBuf,
    pub(crate) name: CString,
    /// The file with that name now, if any; not a symbolic link, unless it is [`Resolved::Magic`].
    pub(crate) found: Option<Found>,
}

#[derive(Debug)]
pub(crate) struct Found {
    /// Open as `O_PATH`.
    pub(crate) fd: OwnedFd,
    pub(crate) stat: InodeStat,
}

/// Resolves a path; symbolic links are followed, also to where nothing is yet. With `create_new`, anything at the path
/// is `EEXIST`, a symbolic link too.
pub(crate) fn resolve(path: &Path, create_new: bool) -> Result<Resolved> {
    let error = |e| Error::os("open", Some(path), e);
    let sticky = |e| Error::open_in_sticky_directory(Some(path), e);
    let mut base: Option<OwnedFd> = None;
    let mut dir_path = PathBuf::new();
    let mut rest = path.to_path_buf();
    for _ in 0..=LINKS_MAX {
        let name = open_parent(path, base, &dir_path, &rest)?;
        let Some(found) = &name.found else {
            return Ok(Resolved::Name(name));
        };
        if create_new {
            return Err(error(io::Error::from_raw_os_error(libc::EEXIST)));
        }
        let dir_stat = dir::stat(name.dir.as_fd()).map_err(error)?;
        match found.stat.file_type() {
            libc::S_IFDIR => return Err(Error::is_directory(Some(path))),
            libc::S_IFLNK => {}
            _ => {
                check_sticky(&dir_stat, &found.stat).map_err(sticky)?;
                return Ok(Resolved::Name(name));
            }
        }
        if let Some(number) = own_descriptor(&name, &dir_stat) {
            let fd = descriptor::dup_cloexec(number);
            let fd = fd.map_err(|e| Error::os("dup", Some(path), e))?;
            return Ok(Resolved::Descriptor(fd));
        }
        if name.is_on_kernel_file_system() {
            return Ok(Resolved::Magic(name));
        }
        check_link(&dir_stat, &found.stat).map_err(sticky)?;
        rest = PathBuf::from(dir::read_link(found.fd.as_fd()).map_err(error)?);
        (base, dir_path) = (Some(name.dir), name.dir_path);
    }
    Err(error(io::Error::from_raw_os_error(libc::ELOOP)))
}

/// Opens the directory of `rest`, which is relative to `base`, and what has its last name there.
fn open_parent(path: &Path, base: Option<OwnedFd>, base_path: &Path, rest: &Path) -> Result<Name> {
    let error = |e| Error::os("open", Some(path), e);
    let (parent, name) = split(rest);
    let base = base.as_ref().map_or(dir::working_directory(), AsFd::as_fd);
    let open = |directory: &Path| {
        let directory = dir::c_string(directory.as_os_str())?;
        dir::open_directory(base, &directory)
    };
    if rest.as_os_str().is_empty() {
        return Err(error(io::Error::from_raw_os_error(libc::ENOENT)));
    }
    if name.is_empty() {
        return Err(Error::is_directory(Some(path)));
    }
    if matches!(name.as_bytes(), b"." | b"..") {
        open(rest).map_err(error)?;
        return Err(Error::is_directory(Some(path)));
    }
    let dir_path = base_path.join(&parent);
    // With `/.`, so that a symbolic link to the directory is not the last part of the path, as it is not in `rest`.
    let dir = open(&parent.join("."));
    let dir = dir.map_err(|e| Error::open_directory(Some(path), e))?;
    let name = dir::c_string(name).map_err(error)?;
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let found = match dir::open_at(dir.as_fd(), &name, flags, 0) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(error(e)),
        Ok(fd) => {
            let stat = dir::stat(fd.as_fd()).map_err(error)?;
            Some(Found { fd, stat })
        }
    };
    Ok(Name {
        dir,
        dir_path,
        name,
        found,
    })
}

/// At the last slash. `Path::file_name` would drop a `/.` at the end, which makes a path a directory.
fn split(path: &Path) -> (PathBuf, &OsStr) {
    let bytes = path.as_os_str().as_bytes();
    let (dir_path, name) = match bytes.iter().rposition(|&b| b == b'/') {
        Some(0) => (&b"/"[..], &bytes[1..]),
        Some(slash) => (&bytes[..slash], &bytes[slash + 1..]),
        None => (&b"."[..], bytes),
    };
    let dir_path = PathBuf::from(OsStr::from_bytes(dir_path));
    (dir_path, OsStr::from_bytes(name))
}

/// The number of a descriptor of this process, if a name refers to one: `/dev/stdout`, `/dev/fd/1` and
/// `/proc/self/fd/1` all lead there.
fn own_descriptor(name: &Name, dir_stat: &InodeStat) -> Option<i32> {
    let number = name.name.to_str().ok()?.parse().ok()?;
    let ours = dir::open_directory(dir::working_directory(), c"/proc/self/fd").ok()?;
    let ours = dir::stat(ours.as_fd()).ok()?;
    (ours.id == dir_stat.id).then_some(number)
}

impl Name {
    /// The error of creating a file in the directory. In one that was removed, some file systems return `EPERM` (ext4).
    pub(crate) fn create_error(&self, path: &Path, source: io::Error) -> Error {
        if dir::stat(self.dir.as_fd()).is_ok_and(|stat| stat.links == 0) {
            let source = io::Error::from_raw_os_error(libc::ENOENT);
            return Error::open_directory(Some(path), source);
        }
        Error::create_file(Some(path), source)
    }

    /// True below /proc and /sys.
    pub(crate) fn is_on_kernel_file_system(&self) -> bool {
        FileSystem::from_fd(self.dir.as_fd()).is_ok_and(|system| system == FileSystem::Kernel)
    }
}

const STICKY_FOR_ALL: u32 = libc::S_ISVTX | libc::S_IWOTH;

/// `EACCES` for a link that `protected_symlinks` forbids to follow.
fn check_link(dir: &InodeStat, link: &InodeStat) -> io::Result<()> {
    let is_fine = link.uid == credentials::effective_user()
        || dir.mode & STICKY_FOR_ALL != STICKY_FOR_ALL
        || dir.uid == link.uid;
    if is_fine || setting("protected_symlinks") == 0 {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::EACCES))
}

/// `EACCES` for a file or FIFO of another user that `protected_regular` or `protected_fifos` forbids to open with
/// `O_CREAT`.
pub(crate) fn check_sticky(dir: &InodeStat, file: &InodeStat) -> io::Result<()> {
    let name = match file.file_type() {
        libc::S_IFREG => "protected_regular",
        libc::S_IFIFO => "protected_fifos",
        _ => return Ok(()),
    };
    let is_fine = dir.mode & libc::S_ISVTX == 0
        || dir.mode & (libc::S_IWOTH | libc::S_IWGRP) == 0
        || file.uid == dir.uid
        || file.uid == credentials::effective_user();
    if is_fine {
        return Ok(());
    }
    let needed = if dir.mode & libc::S_IWOTH != 0 { 1 } else { 2 };
    if setting(name) < needed {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::EACCES))
}

/// A number of `/proc/sys/fs`; where it cannot be read, the value that protects most.
fn setting(name: &str) -> u32 {
    let text = std::fs::read_to_string(Path::new("/proc/sys/fs").join(name));
    let number = text.ok().and_then(|text| text.trim().parse().ok());
    number.unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_at_its_last_slash() {
        for (path, dir_path, name) in [
            ("a", ".", "a"),
            ("/a", "/", "a"),
            ("a/b", "a", "b"),
            ("a/b/.", "a/b", "."),
            ("a/", "a", ""),
            ("//a", "/", "a"),
        ] {
            let (f, n) = split(Path::new(path));
            assert_eq!((f.as_path(), n), (Path::new(dir_path), OsStr::new(name)));
        }
    }

    fn entry(mode: u32, uid: u32) -> InodeStat {
        InodeStat {
            id: (0, 0),
            mode,
            uid,
            gid: 0,
            links: 1,
            size: 0,
            changed: (0, 0),
        }
    }

    /// The table of proc_sys_fs(5), as far as it does not depend on the settings of this machine.
    #[test]
    fn links_and_files_of_oneself_or_of_the_owner_of_the_directory_are_fine() {
        let me = credentials::effective_user();
        let other = me + 1;
        for (dir, file) in [
            (entry(0o41777, other), entry(0o100644, me)),
            (entry(0o41777, other), entry(0o100644, other)),
            (entry(0o40777, me), entry(0o100644, other)),
            (entry(0o41755, me), entry(0o100644, other)),
        ] {
            assert!(check_sticky(&dir, &file).is_ok());
            assert!(check_link(&dir, &file).is_ok());
        }
    }
}
