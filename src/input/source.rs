//! An open descriptor of this crate, and its name for errors.

use crate::atfork::{self, BeforeForks, NoFork};
use crate::edited_files::check_not_edited;
use crate::error::{Error, Result};
use crate::sys::file::{self, FileType, Stat};
use crate::sys::unnamed;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A descriptor that only this crate has. The caller's descriptor is duplicated once and then never used again: another
/// thread may close it, or put another file in its place, at any time.
pub(crate) struct Source<'a> {
    /// A lease may keep it.
    file: Arc<File>,
    path: Option<&'a Path>,
    description: Description,
    is_nonblocking_fifo: bool,
    /// Before it was opened, if the description is its own.
    opened: Option<BeforeForks>,
}

/// The open file description of the descriptor, with its offset, lease and flags: open(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Description {
    Own,
    /// The caller's: read from its offset on, which is moved to the end of what was read.
    CallersFromOffset,
    /// The caller's: the whole file, its offset neither read nor moved.
    CallersWhole,
}

impl<'a> Source<'a> {
    /// Opens a path. Blocks until a FIFO has a writer.
    pub(crate) fn open(path: &'a Path) -> Result<Self> {
        check_not_edited(path)?;
        let opened = BeforeForks::now();
        let fd = file::open(path).map_err(|e| Error::os("open", Some(path), e))?;
        let source = Source::new(fd.into(), Some(path), Description::Own);
        Ok(Source { opened, ..source })
    }

    /// Opens a path, and never blocks on a FIFO.
    pub(crate) fn open_nonblocking(path: &'a Path) -> Result<Self> {
        check_not_edited(path)?;
        let opened = BeforeForks::now();
        match file::open_nonblocking(path) {
            // Another process has a write lease on the file: block until it is released.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Source::open(path),
            Err(e) => Err(Error::os("open", Some(path), e)),
            Ok(fd) => {
                let source = Source::new(fd.into(), Some(path), Description::Own);
                let is_nonblocking_fifo = source.stat()?.kind == FileType::Fifo;
                if !is_nonblocking_fifo {
                    file::set_blocking(source.fd()).map_err(|e| source.error("fcntl", e))?;
                }
                Ok(Source {
                    is_nonblocking_fifo,
                    opened,
                    ..source
                })
            }
        }
    }

    /// True for a FIFO that was opened without waiting for a writer: it seems to be at its end until it has one.
    pub(crate) fn is_nonblocking_fifo(&self) -> bool {
        self.is_nonblocking_fifo
    }

    /// The bytes of a caller's descriptor from its offset on.
    pub(crate) fn from_fd(fd: BorrowedFd<'_>, path: Option<&'a Path>) -> Result<Self> {
        Source::duplicate(fd, path, Description::CallersFromOffset)
    }

    /// The whole file that a descriptor of the caller refers to.
    pub(crate) fn from_file(fd: BorrowedFd<'_>) -> Result<Self> {
        Source::duplicate(fd, None, Description::CallersWhole)
    }

    /// The whole file behind a descriptor that the caller gives up: once it is closed, this process has the file open for
    /// reading only.
    pub(crate) fn from_owned(file: File) -> Self {
        let given = Source::new(file, None, Description::CallersWhole);
        let is_regular = |stat: Stat| stat.kind == FileType::Regular;
        // A FIFO that is opened again blocks until it has a writer; a device may be another one then (/dev/ptmx).
        let is_reopened = given.stat().is_ok_and(is_regular);
        match is_reopened.then(|| given.reopen()) {
            Some(Ok(file)) => Source::new(file, None, Description::Own),
            _ => given,
        }
    }

    fn duplicate(fd: BorrowedFd<'_>, path: Option<&'a Path>, from: Description) -> Result<Self> {
        let own = fd
            .try_clone_to_owned()
            .map_err(|e| Error::os("fcntl", path, e))?;
        Ok(Source::new(own.into(), path, from))
    }

    fn new(file: File, path: Option<&'a Path>, description: Description) -> Self {
        Source {
            file: Arc::new(file),
            path,
            description,
            is_nonblocking_fifo: false,
            opened: None,
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// True if the input starts at the offset of the caller's descriptor, which is moved.
    pub(crate) fn uses_callers_offset(&self) -> bool {
        self.description == Description::CallersFromOffset
    }

    /// Offset of the input in the file. `position` is the offset of the descriptor.
    pub(crate) fn start(&self, position: u64) -> u64 {
        if self.uses_callers_offset() {
            position
        } else {
            0
        }
    }

    /// True if the open file description is shared with the caller.
    pub(crate) fn is_shared(&self) -> bool {
        self.description != Description::Own
    }

    /// The caller's path, or the kernel's name for the descriptor.
    pub(crate) fn name(&self) -> Option<PathBuf> {
        let given = self.path.map(Path::to_path_buf);
        given.or_else(|| file::name(self.fd()))
    }

    /// A failed system call on it.
    pub(crate) fn error(&self, operation: &'static str, source: io::Error) -> Error {
        let name = self.name();
        match source.raw_os_error() {
            Some(libc::EISDIR) => Error::is_directory(name.as_deref()),
            _ => Error::os(operation, name.as_deref(), source),
        }
    }

    /// A descriptor for a lease, on a description of the same file that only this crate has. It may be the one of this
    /// source. When a lease is broken, the number leads to another file at once, so nothing is read from this source once
    /// the file is leased. While the second value lives, no child has the description.
    pub(crate) fn lease_descriptor(&self) -> io::Result<(Arc<File>, NoFork)> {
        atfork::install().map_err(|e| match e.raw_os_error() {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => e.into(),
        })?;
        let no_fork = NoFork::begin().ok_or(io::ErrorKind::WouldBlock)?;
        // False if a child was forked since this one was opened: the child has it too.
        let is_alone = self.opened.is_some_and(BeforeForks::is_still);
        let file = if is_alone {
            Arc::clone(&self.file)
        } else {
            Arc::new(self.reopen()?)
        };
        Ok((file, no_fork))
    }

    /// Opens the file again, for reading and with an own description, through `/proc/self/fd`. What is opened there is
    /// compared: a path can be mounted over `/proc`.
    pub(crate) fn reopen(&self) -> io::Result<File> {
        let file = unnamed::reopen(self.fd().as_raw_fd())?;
        if file::stat(file.as_fd())?.is_same_file(&file::stat(self.fd())?) {
            Ok(file)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    /// Another descriptor to read the file by, if this one is the caller's and can be read in aligned pieces only
    /// (`O_DIRECT`).
    pub(crate) fn reader(&self) -> Option<File> {
        let is_needed = self.is_shared() && file::is_direct(self.fd());
        is_needed.then(|| self.reopen().ok()).flatten()
    }

    /// Another descriptor for calls that move the offset, if this one is the caller's.
    pub(crate) fn seeking_reader(&self) -> Option<File> {
        self.is_shared().then(|| self.reopen().ok()).flatten()
    }

    pub(crate) fn stat(&self) -> Result<Stat> {
        file::stat(self.fd()).map_err(|e| self.error("fstat", e))
    }

    pub(crate) fn stat_and_mount(&self) -> Result<Stat> {
        file::stat_and_mount(self.fd()).map_err(|e| self.error("fstat", e))
    }

    /// The size of a block device, in bytes. Looking for it moves the offset.
    pub(crate) fn device_size(&self) -> Result<u64> {
        let reader = self.seeking_reader();
        let fd = reader.as_ref().map_or(self.fd(), AsFd::as_fd);
        file::device_size(fd).map_err(|e| self.error("lseek", e))
    }

    /// The descriptor's offset; `None` for what has none: lseek(2) fails with ESPIPE, and on some devices (/dev/kmsg) with
    /// EINVAL.
    pub(crate) fn position(&self) -> Result<Option<u64>> {
        match file::position(self.fd()) {
            Ok(position) => Ok(Some(position)),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESPIPE | libc::EINVAL)) => Ok(None),
            Err(e) => Err(self.error("lseek", e)),
        }
    }

    /// Sets the descriptor's offset, and returns the offset after that: some devices ignore the request.
    pub(crate) fn set_position(&self, offset: u64) -> Result<u64> {
        file::set_position(self.fd(), offset).map_err(|e| self.error("lseek", e))
    }
}
