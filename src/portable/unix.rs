//! For Unix only: methods on descriptors.

use super::live::Live;
use super::shared::{Shared, SharedOptions, files};
use crate::Shareable;
use crate::error::Result;
use std::os::fd::{AsFd, BorrowedFd};

impl AsFd for Live {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}

impl<T: Shareable> Shared<T> {
    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported).
    pub fn from_fd<F: AsFd>(_fd: F) -> Result<Self> {
        Err(files(None))
    }
}

impl<A: Shareable> Shared<[A]> {
    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported).
    pub fn from_fd_slice<F: AsFd>(_fd: F) -> Result<Self> {
        Err(files(None))
    }
}

impl<T: ?Sized + Shareable> Shared<T> {
    /// `None`: there is no file.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl<T: ?Sized + Shareable> SharedOptions<T> {
    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported).
    pub fn from_fd<F: AsFd>(&self, _fd: F) -> Result<Shared<T>> {
        Err(files(None))
    }
}
