//! Where bytes come from: an open descriptor, and what to call it in an error.

use crate::error::{Error, Result};
use crate::sys::file::{self, Stat};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// An open descriptor, ours or borrowed.
pub(crate) struct Source<'a> {
    fd: Fd<'a>,
    path: Option<&'a Path>,
}

enum Fd<'a> {
    Owned(OwnedFd),
    Borrowed(BorrowedFd<'a>),
}

impl<'a> Source<'a> {
    /// The one place that opens what the caller names.
    pub(crate) fn open(path: &'a Path) -> Result<Self> {
        let fd = file::open(path).map_err(|e| Error::os("open", Some(path), e))?;
        Ok(Source {
            fd: Fd::Owned(fd),
            path: Some(path),
        })
    }

    pub(crate) fn descriptor(fd: BorrowedFd<'a>) -> Self {
        Source {
            fd: Fd::Borrowed(fd),
            path: None,
        }
    }

    pub(crate) fn stdin(fd: BorrowedFd<'a>) -> Self {
        Source {
            fd: Fd::Borrowed(fd),
            path: Some(Path::new("/dev/stdin")),
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match &self.fd {
            Fd::Owned(fd) => fd.as_fd(),
            Fd::Borrowed(fd) => *fd,
        }
    }

    /// True if the descriptor is the caller's: bytes are taken from its offset on, and it is left behind them.
    pub(crate) fn is_borrowed(&self) -> bool {
        matches!(self.fd, Fd::Borrowed(_))
    }

    /// What to call it: the caller's path, or the kernel's.
    pub(crate) fn name(&self) -> Option<PathBuf> {
        let given = self.path.map(Path::to_path_buf);
        given.or_else(|| file::name(self.fd()))
    }

    /// A failed system call on it.
    pub(crate) fn error(&self, call: &'static str, source: io::Error) -> Error {
        match source.raw_os_error() {
            Some(libc::EISDIR) => Error::IsDirectory { path: self.name() },
            _ => Error::os(call, self.name().as_deref(), source),
        }
    }

    pub(crate) fn stat(&self) -> Result<Stat> {
        file::stat(self.fd()).map_err(|e| self.error("fstat", e))
    }

    /// The descriptor's offset; `None` for what has none: `lseek` fails with ESPIPE.
    pub(crate) fn position(&self) -> Result<Option<u64>> {
        match file::position(self.fd()) {
            Ok(position) => Ok(Some(position)),
            Err(e) if e.raw_os_error() == Some(libc::ESPIPE) => Ok(None),
            Err(e) => Err(self.error("lseek", e)),
        }
    }

    pub(crate) fn set_position(&self, offset: u64) -> Result<()> {
        let done = file::set_position(self.fd(), offset);
        done.map(drop).map_err(|e| self.error("lseek", e))
    }

    /// The next bytes, at the descriptor's offset; waits for them also in non-blocking mode.
    pub(crate) fn read(&self, into: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        loop {
            match file::read(self.fd(), into) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => file::wait_readable(self.fd())?,
                other => return other,
            }
        }
    }
}
