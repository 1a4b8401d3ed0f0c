//! The file that a path names, and whether it can be replaced.

use super::stream::Stream;
use crate::edited_files::is_edited;
use crate::error::{COPY_RIGHTS, Error, REPLACE, Result};
use crate::resolve::{self, Found, Name, Resolved};
use crate::sys::credentials;
use crate::sys::dir::{self, InodeStat};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) enum Target {
    /// A regular file, or nothing yet.
    Name(TargetName),
    /// Anything else.
    Stream(Stream),
}

/// A name in a directory, and the path that the caller gave.
#[derive(Debug)]
pub(super) struct TargetName {
    pub(super) name: Name,
    pub(super) path: PathBuf,
}

impl Target {
    pub(super) fn resolve(path: &Path, create_new: bool) -> Result<Self> {
        let name = match resolve::resolve(path, create_new)? {
            Resolved::Descriptor(fd) => {
                return Stream::new(File::from(fd), path).map(Target::Stream);
            }
            Resolved::Magic(name) => return open_stream(&name, path, 0).map(Target::Stream),
            Resolved::Name(name) => name,
        };
        match &name.found {
            Some(found) if !found.stat.is_regular() || name.is_on_kernel_file_system() => {
                open_stream(&name, path, libc::O_NOFOLLOW).map(Target::Stream)
            }
            _ => Ok(Target::Name(TargetName {
                name,
                path: path.to_path_buf(),
            })),
        }
    }
}

/// A FIFO blocks until a reader opens it, as open(2) does.
fn open_stream(name: &Name, path: &Path, flags: i32) -> Result<Stream> {
    // Do not acquire a controlling terminal.
    let flags = libc::O_WRONLY | libc::O_NOCTTY | flags;
    let file = dir::open_at(name.dir.as_fd(), &name.name, flags, 0);
    let file = file.map_err(|e| Error::open_for_writing(Some(path), e))?;
    Stream::opened(File::from(file), path)
}

impl TargetName {
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.name.dir.as_fd()
    }

    /// The error of an operation that a draft in place does not need.
    pub(super) fn replace_error(&self, operation: &'static str, source: io::Error) -> Error {
        let is_irreplaceable = matches!(
            source.raw_os_error(),
            Some(libc::EBUSY | libc::EPERM | libc::EACCES | libc::EXDEV)
        );
        let operation = if is_irreplaceable { REPLACE } else { operation };
        self.error(operation, source)
    }

    pub(super) fn error(&self, operation: &'static str, source: io::Error) -> Error {
        Error::os(operation, Some(&self.path), source)
    }

    /// The regular file that has the name now.
    pub(super) fn look(&self) -> Result<Option<Found>> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let fd = match dir::open_at(self.dir(), &self.name.name, flags, 0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| self.error("open", e))?,
        };
        let stat = dir::stat(fd.as_fd()).map_err(|e| self.error("stat", e))?;
        if !stat.is_regular() {
            return Ok(None);
        }
        let directory = self.directory()?;
        self.check_sticky(&directory, &stat)?;
        Ok(Some(Found { fd, stat }))
    }

    /// `EACCES` for another user's file that `protected_regular` forbids to open.
    pub(super) fn check_sticky(&self, directory: &InodeStat, file: &InodeStat) -> Result<()> {
        let checked = resolve::check_sticky(directory, file);
        checked.map_err(|e| Error::open_in_sticky_directory(Some(&self.path), e))
    }

    /// The same name, and what has it now.
    pub(super) fn again(&self) -> Result<TargetName> {
        let dir = self.dir().try_clone_to_owned();
        Ok(TargetName {
            name: Name {
                dir: dir.map_err(|e| self.error("dup", e))?,
                dir_path: self.name.dir_path.clone(),
                name: self.name.name.clone(),
                found: self.look()?,
            },
            path: self.path.clone(),
        })
    }

    /// `Busy` if this process edits the file in place: an open of it would wait for this process.
    pub(super) fn check_not_edited(&self) -> Result<()> {
        match dir::stat_at(self.dir(), &self.name.name) {
            Ok(stat) if is_edited(stat.id) => Err(Error::is_edited_here(Some(&self.path))),
            _ => Ok(()),
        }
    }

    /// Opens the regular file that has the name now. Anything else is not opened: an open of a FIFO would block.
    pub(super) fn open(&self, flags: i32) -> Result<File> {
        let error = |e| self.error("open", e);
        let found = dir::open_at(
            self.dir(),
            &self.name.name,
            libc::O_PATH | libc::O_NOFOLLOW,
            0,
        );
        let found = found.map_err(error)?;
        let stat = dir::stat(found.as_fd()).map_err(error)?;
        if !stat.is_regular() {
            return Err(error(io::Error::from_raw_os_error(libc::EINVAL)));
        }
        let open = |base: BorrowedFd<'_>, path: &CStr, flags| {
            dir::open_at(base, path, flags | libc::O_NOCTTY, 0)
        };
        let file = match open(
            dir::working_directory(),
            &dir::proc_path(found.as_fd()),
            flags,
        ) {
            // Without /proc.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                open(self.dir(), &self.name.name, flags | libc::O_NOFOLLOW)
            }
            other => other,
        };
        file.map(File::from)
            .map_err(|e| match flags & libc::O_ACCMODE {
                libc::O_RDONLY => error(e),
                _ => Error::open_for_writing(Some(&self.path), e),
            })
    }

    pub(super) fn directory(&self) -> Result<InodeStat> {
        dir::stat(self.dir()).map_err(|e| self.error("stat", e))
    }

    /// Checks what File::create would check: that the file, if there is one, may be written to. Returns its
    /// `STATX_ATTR_*`.
    pub(super) fn check_writable(&self) -> Result<u64> {
        let Some(found) = &self.name.found else {
            return Ok(0);
        };
        let writable = dir::check_writable(self.dir(), &self.name.name);
        writable.map_err(|e| Error::open_for_writing(Some(&self.path), e))?;
        let attributes = dir::attributes(found.fd.as_fd());
        let changeable = check_changeable(attributes);
        changeable.map_err(|e| Error::open_for_writing(Some(&self.path), e))?;
        Ok(attributes)
    }

    /// Checks whether rename(2) could replace what is there, which has these attributes.
    pub(super) fn check_replaceable(&self, attributes: u64) -> Result<()> {
        let Some(found) = &self.name.found else {
            return Ok(());
        };
        let error = |errno| {
            let source = io::Error::from_raw_os_error(errno);
            Err(self.error(REPLACE, source))
        };
        if attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0 {
            return error(libc::EBUSY);
        }
        let changeable = check_changeable(dir::attributes(self.dir()));
        changeable.map_err(|e| self.error(REPLACE, e))?;
        let (me, directory) = (credentials::effective_user(), self.directory()?);
        let is_owner = found.stat.uid == me || directory.uid == me;
        let is_sticky = directory.mode & libc::S_ISVTX != 0;
        if is_sticky && !is_owner && !credentials::has_capability(credentials::CAP_FOWNER) {
            return error(libc::EPERM);
        }
        match dir::check_writable(self.dir(), c".") {
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => error(libc::EACCES),
            _ => Ok(()),
        }
    }
}

/// `EPERM` for what is immutable or append-only: chattr(1).
fn check_changeable(attributes: u64) -> io::Result<()> {
    let fixed = libc::STATX_ATTR_IMMUTABLE | libc::STATX_ATTR_APPEND;
    if attributes & fixed as u64 == 0 {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::EPERM))
}

/// True for an error of a file that cannot be replaced, but perhaps be written to.
pub(super) fn is_irreplaceable(error: &Error) -> bool {
    matches!(error, Error::Os { operation, .. } if [REPLACE, COPY_RIGHTS].contains(operation))
}
