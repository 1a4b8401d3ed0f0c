//! Where bytes come from: an open descriptor, what to call it in an error, and which of its bytes are wanted.

mod copy;
mod unnamed;

pub(crate) use copy::{Copy, copy};
pub(crate) use unnamed::{clone_of, copy_to_disk};

use crate::error::{Error, Result};
use crate::range::check_window;
use crate::sys::file::{self, Stat};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open descriptor, ours or borrowed.
pub(crate) struct Source<'a> {
    fd: Fd<'a>,
    path: Option<&'a Path>,
}

enum Fd<'a> {
    Owned(Arc<OwnedFd>),
    Borrowed(BorrowedFd<'a>),
}

impl<'a> Source<'a> {
    /// The one place that opens what the caller names.
    pub(crate) fn open(path: &'a Path) -> Result<Self> {
        let fd = file::open(path).map_err(|e| Error::os("open", Some(path), e))?;
        Ok(Source {
            fd: Fd::Owned(Arc::new(fd)),
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

    /// An open file description that nobody else has, open for reading: what a lease belongs to.
    pub(crate) fn own_description(&self) -> io::Result<Arc<OwnedFd>> {
        match &self.fd {
            Fd::Owned(fd) => Ok(Arc::clone(fd)),
            Fd::Borrowed(fd) => file::reopen(*fd).map(Arc::new),
        }
    }

    /// Another descriptor to read the file by, if the caller's may be read in aligned pieces only.
    pub(crate) fn without_direct(&self) -> Option<OwnedFd> {
        match &self.fd {
            Fd::Borrowed(fd) if file::is_direct(*fd) => file::reopen(*fd).ok(),
            _ => None,
        }
    }

    pub(crate) fn stat(&self) -> Result<Stat> {
        file::stat(self.fd()).map_err(|e| self.error("statx", e))
    }

    /// The descriptor's offset; `None` for what has none: `lseek` fails with ESPIPE.
    pub(crate) fn position(&self) -> Result<Option<u64>> {
        match file::position(self.fd()) {
            Ok(position) => Ok(Some(position)),
            Err(e) if e.raw_os_error() == Some(libc::ESPIPE) => Ok(None),
            Err(e) => Err(self.error("lseek", e)),
        }
    }

    /// Sets the descriptor's offset, and gives what it is then: some devices leave it alone.
    pub(crate) fn set_position(&self, offset: u64) -> Result<u64> {
        file::set_position(self.fd(), offset).map_err(|e| self.error("lseek", e))
    }
}

/// Which bytes of the input are wanted.
pub(crate) struct Window {
    /// Where the input starts: 0, or the offset of the caller's descriptor.
    base: u64,
    offset: u64,
    len: Option<u64>,
}

impl Window {
    /// `position` is the descriptor's offset: a borrowed one is read from there on, one that we opened from 0.
    pub(crate) fn new(source: &Source<'_>, position: u64, offset: u64, len: Option<usize>) -> Self {
        Window {
            base: if source.is_borrowed() { position } else { 0 },
            offset,
            len: len.map(|len| len as u64),
        }
    }

    /// The window as a range of a file of `size` bytes.
    pub(crate) fn of(&self, size: u64) -> Result<Range<u64>> {
        // A descriptor may stand behind the end: there is nothing to read then, and that is no error.
        let rest = size.saturating_sub(self.base);
        let range = check_window(self.offset, self.len, rest)?;
        Ok(self.base + range.start..self.base + range.end)
    }

    /// A file may have fewer bytes than it says (those of /sys do): an error if a window was asked for.
    pub(crate) fn check_read(&self, read: u64, range: &Range<u64>) -> Result<()> {
        match self.len {
            Some(len) if read < len => Err(Error::out_of_bounds(
                self.offset,
                len,
                range.start - self.base + read,
            )),
            _ => Ok(()),
        }
    }

    /// Leaves the caller's descriptor behind the bytes that were taken.
    pub(crate) fn leave(&self, source: &Source<'_>, end: u64) -> Result<()> {
        match source.is_borrowed() {
            true => source.set_position(end).map(drop),
            false => Ok(()),
        }
    }
}
