//! Options for sharing a window of a file.

use super::mapping::{MappedBytes, SharedWindow, open_file};
use super::{Shareable, Shared};
use crate::error::{Error, Result};
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Options for sharing a part of a file; made by [`Shared::options`].
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("table");
/// use stillmap::Shared;
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// std::fs::write(&path, [0; 4096]).unwrap();
/// let part = Shared::<[AtomicU32]>::options().offset(16).len(100).open(&path)?;
/// assert_eq!(part.len(), 100);
/// part[0].store(7, Ordering::Relaxed);
/// assert_eq!(std::fs::read(&path).unwrap()[16..20], 7_u32.to_ne_bytes());
/// # Ok::<(), stillmap::Error>(())
/// ```
#[must_use]
pub struct SharedOptions<T: ?Sized> {
    offset: u64,
    len: Option<usize>,
    value: PhantomData<fn() -> Box<T>>,
}

impl<T: ?Sized + Shareable> Shared<T> {
    /// Options for sharing a window of a file: [`SharedOptions`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("numbers");
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// std::fs::write(&path, [1_u64, 2, 3].map(u64::to_ne_bytes).concat()).unwrap();
    /// let second = stillmap::Shared::<AtomicU64>::options().offset(8).open(&path)?;
    /// assert_eq!(second.load(Ordering::Relaxed), 2);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn options() -> SharedOptions<T> {
        SharedOptions::default()
    }
}

impl<T: ?Sized> SharedOptions<T> {
    /// The first byte of the file to share; default 0. It must be a multiple of the alignment of the elements, and need
    /// not be a multiple of the page size.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("file");
    /// use stillmap::{Error, Shared};
    /// use std::sync::atomic::{AtomicU8, AtomicU32};
    ///
    /// std::fs::write(&path, [0; 10]).unwrap();
    /// let bytes = Shared::<[AtomicU8]>::options().offset(3).open(&path)?;
    /// assert_eq!(bytes.len(), 7);
    /// let numbers = Shared::<AtomicU32>::options().offset(3).open(&path);
    /// assert!(matches!(numbers, Err(Error::Misaligned { value: 3, align: 4, .. })));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn offset(mut self, bytes: u64) -> Self {
        self.offset = bytes;
        self
    }
}

impl<A> SharedOptions<[A]> {
    /// Number of elements to share; the default is all up to the end of the file.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("file");
    /// use std::sync::atomic::AtomicU16;
    /// std::fs::write(&path, [0; 9]).unwrap();
    /// let numbers = stillmap::Shared::<[AtomicU16]>::options().len(4).open(&path)?;
    /// assert_eq!(numbers.len(), 4);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn len(mut self, elements: usize) -> Self {
        self.len = Some(elements);
        self
    }
}

impl<T: Shareable> SharedOptions<T> {
    /// Opens a path, as [`Shared::open`] does.
    ///
    /// # Errors
    /// As [`Shared::open`]: [`Error::TooSmall`] if the file ends before the window does. [`Error::Misaligned`] if the
    /// offset is not a multiple of the alignment of `T`.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("file");
    /// use stillmap::{Error, Shared};
    /// use std::sync::atomic::AtomicU64;
    ///
    /// std::fs::write(&path, [0; 20]).unwrap();
    /// let number = Shared::<AtomicU64>::options().offset(8).open(&path)?;
    /// let outside = Shared::<AtomicU64>::options().offset(16).open(&path);
    /// assert!(matches!(outside, Err(Error::TooSmall { needed: 24, size: 20, .. })));
    /// # drop(number);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn open<P: AsRef<Path>>(&self, path: P) -> Result<Shared<T>> {
        let (path, window) = (path.as_ref(), SharedWindow::of_value::<T>(self.offset));
        Ok(MappedBytes::file(open_file(path)?, Some(path), &window)?.into_value())
    }

    /// Duplicates a descriptor, as [`Shared::from_fd`] does.
    ///
    /// # Errors
    /// As [`Shared::from_fd`] and [`open`](SharedOptions::open).
    ///
    /// # Examples
    /// ```
    /// use stillmap::Shared;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// let all = Shared::<[AtomicU64]>::memfd_slice("example", 3)?;
    /// let last = Shared::<AtomicU64>::options().offset(16).from_fd(all.fd().unwrap())?;
    /// last.store(7, Ordering::Relaxed);
    /// assert_eq!(all[2].load(Ordering::Relaxed), 7);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn from_fd<F: AsFd>(&self, fd: F) -> Result<Shared<T>> {
        let window = SharedWindow::of_value::<T>(self.offset);
        Ok(MappedBytes::file(duplicate(fd)?, None, &window)?.into_value())
    }
}

impl<A: Shareable> SharedOptions<[A]> {
    /// Opens a path, as [`Shared::open_slice`] does.
    ///
    /// # Errors
    /// As [`Shared::open_slice`]: without a length [`Error::WrongSize`] if the rest of the file is not a multiple of the
    /// element's size. [`Error::TooSmall`] if the file ends before the window does; [`Error::Misaligned`] if the offset is
    /// not a multiple of the alignment of the elements; [`Error::TooLarge`] if no address space could hold them.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("file");
    /// use stillmap::{Error, Shared};
    /// use std::sync::atomic::AtomicU32;
    ///
    /// std::fs::write(&path, [0; 20]).unwrap();
    /// let options = Shared::<[AtomicU32]>::options().offset(4);
    /// assert_eq!(options.open(&path)?.len(), 4);
    /// let outside = options.len(5).open(&path);
    /// assert!(matches!(outside, Err(Error::TooSmall { needed: 24, size: 20, .. })));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn open<P: AsRef<Path>>(&self, path: P) -> Result<Shared<[A]>> {
        let (path, window) = (path.as_ref(), self.window()?);
        Ok(MappedBytes::file(open_file(path)?, Some(path), &window)?.into_slice())
    }

    /// Duplicates a descriptor, as [`Shared::from_fd_slice`] does.
    ///
    /// # Errors
    /// As [`Shared::from_fd_slice`] and [`open`](SharedOptions::open).
    ///
    /// # Examples
    /// ```
    /// use stillmap::Shared;
    /// use std::sync::atomic::AtomicU8;
    ///
    /// let all = Shared::<[AtomicU8]>::memfd_slice("example", 100)?;
    /// let part = Shared::<[AtomicU8]>::options().offset(50).len(9).from_fd(all.fd().unwrap())?;
    /// part.write_at(0, b"stillmap")?;
    /// let mut bytes = [0; 8];
    /// all.read_at(50, &mut bytes)?;
    /// assert_eq!(&bytes, b"stillmap");
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn from_fd<F: AsFd>(&self, fd: F) -> Result<Shared<[A]>> {
        let window = self.window()?;
        Ok(MappedBytes::file(duplicate(fd)?, None, &window)?.into_slice())
    }

    fn window(&self) -> Result<SharedWindow> {
        SharedWindow::of_slice::<A>(self.offset, self.len)
    }
}

fn duplicate<F: AsFd>(fd: F) -> Result<OwnedFd> {
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(|e| Error::os("fcntl", None, e))
}

impl<T: ?Sized> Default for SharedOptions<T> {
    fn default() -> Self {
        SharedOptions {
            offset: 0,
            len: None,
            value: PhantomData,
        }
    }
}

impl<T: ?Sized> Clone for SharedOptions<T> {
    fn clone(&self) -> Self {
        SharedOptions { ..*self }
    }
}

impl<T: ?Sized> fmt::Debug for SharedOptions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedOptions")
            .field("offset", &self.offset)
            .field("len", &self.len)
            .finish()
    }
}
