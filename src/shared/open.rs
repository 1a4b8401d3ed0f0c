//! The ways to get shared memory: without a name, a memfd, a file, a received descriptor.

use super::mapping::{MappedBytes, SharedWindow, bytes_of, check_align};
use super::{Shareable, Shared, create};
use crate::error::{Error, Result};
use crate::page;
use crate::range::whole_pages;
use crate::region::Region;
use crate::sys::memory::{Address, PageKind};
use std::alloc::Layout;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

impl<T: Shareable> Shared<T> {
    /// Zeroed memory without a name, shared with forked children ([`fork::scope`](crate::fork::scope)).
    ///
    /// # Errors
    /// [`Error::Os`] for what the kernel refused; [`Error::Misaligned`] if `T` asks for more alignment than a page.
    ///
    /// # Examples
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// let counter = stillmap::Shared::<AtomicU64>::new()?;
    /// assert_eq!(counter.fetch_add(1, Ordering::Relaxed), 0);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn new() -> Result<Self> {
        Ok(MappedBytes::anonymous(size_of::<T>(), Layout::new::<T>())?.into_value())
    }

    /// Zeroed memory with a descriptor, to send to other processes or to [`seal`](Shared::seal). It can grow, and
    /// never shrink. `name` is what `/proc` shows; several may have the same.
    ///
    /// # Errors
    /// As [`new`](Shared::new); a name with a zero byte or of more than 249 bytes is refused (`EINVAL`).
    ///
    /// # Examples
    /// ```
    /// let counter = stillmap::Shared::<std::sync::atomic::AtomicU64>::memfd("counter")?;
    /// assert!(counter.fd().is_some());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    ///
    /// Source: memfd_create(2), Linux 3.17.
    #[doc(alias = "memfd_create")]
    pub fn memfd(name: &str) -> Result<Self> {
        let mapped = MappedBytes::memfd(name, size_of::<T>(), Layout::new::<T>())?;
        Ok(mapped.into_value())
    }

    /// The first `size_of::<T>()` bytes of a file.
    ///
    /// # Errors
    /// [`Error::TooSmall`] if the file is shorter; [`Error::IsDirectory`]; [`Error::NotMappable`] for what is not a
    /// regular file; [`Error::Busy`] for one that this process edits as an [`Exclusive`](crate::Exclusive); [`Error::Os`] for
    /// what the kernel refused: the file must be readable and writable.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("counter");
    /// use stillmap::Shared;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// std::fs::write(&path, 41_u64.to_ne_bytes()).unwrap();
    /// let counter = Shared::<AtomicU64>::open(&path)?;
    /// counter.fetch_add(1, Ordering::Relaxed);
    /// assert_eq!(std::fs::read(&path).unwrap(), 42_u64.to_ne_bytes());
    ///
    /// let error = Shared::<[AtomicU64; 2]>::open(&path).unwrap_err();
    /// assert!(matches!(error, stillmap::Error::TooSmall { needed: 16, size: 8, .. }));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        Self::options().open(path)
    }

    /// The first `size_of::<T>()` bytes of a file, which is made if it is not there, and extended with zeros if it
    /// is shorter; it is never shortened.
    ///
    /// Disk space for all of it is allocated before this returns (fallocate(2)), so a full disk is an error here and
    /// not a fault later. A new file appears complete under its name, and several processes may create it at once: they
    /// all get the same one. Its mode is 0666 less the umask.
    ///
    /// # Errors
    /// As [`open`](Shared::open), and `ENOSPC` if the disk is full. No new file is left behind then, nor where there is no
    /// address space for it, and one that was there keeps its length. `EOPNOTSUPP` if the file system cannot allocate and a
    /// file that is there is too short.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("counter");
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// let counter = stillmap::Shared::<AtomicU64>::create(&path)?;
    /// let same = stillmap::Shared::<AtomicU64>::create(&path)?;
    /// counter.fetch_add(1, Ordering::Relaxed);
    /// assert_eq!(same.load(Ordering::Relaxed), 1);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn create<P: AsRef<Path>>(path: P) -> Result<Self> {
        let window = SharedWindow::of_value::<T>(0);
        Ok(create_and_map(path.as_ref(), Layout::new::<T>(), &window)?.into_value())
    }

    /// The first `size_of::<T>()` bytes of a memfd or file, by a received or inherited descriptor.
    ///
    /// The descriptor is duplicated; [`TryFrom<OwnedFd>`](Shared#impl-TryFrom<OwnedFd>-for-Shared<T>) takes it.
    ///
    /// The sender is not trusted: unless the memfd is sealed against shrinking, a fault is handled as for a file.
    ///
    /// # Errors
    /// As [`open`](Shared::open); [`Error::NotMappable`] also if the descriptor is not open for reading and writing, or
    /// the memfd is sealed against writing.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Shared;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// let mine = Shared::<AtomicU64>::memfd("example")?;
    /// let fd = mine.fd().unwrap().try_clone_to_owned()?; // as if it had come through a socket
    /// let theirs = Shared::<AtomicU64>::from_fd(fd)?;
    /// theirs.store(7, Ordering::Relaxed);
    /// assert_eq!(mine.load(Ordering::Relaxed), 7);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_fd<F: AsFd>(fd: F) -> Result<Self> {
        Self::options().from_fd(fd)
    }
}

impl<A: Shareable> Shared<[A]> {
    /// As [`Shared::new`], with `len` elements.
    ///
    /// # Errors
    /// As [`Shared::new`]; [`Error::TooLarge`] if no address space could hold them.
    ///
    /// # Examples
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering};
    /// let table = stillmap::Shared::<[AtomicU32]>::with_len(1000)?;
    /// table[999].store(1, Ordering::Relaxed);
    /// assert_eq!(table.len(), 1000);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn with_len(len: usize) -> Result<Self> {
        let mapped = MappedBytes::anonymous(bytes_of::<A>(len)?, Layout::new::<A>())?;
        Ok(mapped.into_slice())
    }

    /// As [`Shared::memfd`], with `len` elements.
    ///
    /// # Errors
    /// As [`Shared::memfd`]; [`Error::TooLarge`] if no address space could hold them.
    ///
    /// # Examples
    /// ```
    /// use std::sync::atomic::AtomicU8;
    /// let page = stillmap::Shared::<[AtomicU8]>::memfd_slice("page", 4096)?;
    /// assert_eq!(page.len(), 4096);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn memfd_slice(name: &str, len: usize) -> Result<Self> {
        let mapped = MappedBytes::memfd(name, bytes_of::<A>(len)?, Layout::new::<A>())?;
        Ok(mapped.into_slice())
    }

    /// A whole file as elements.
    ///
    /// # Errors
    /// As [`Shared::open`]; [`Error::WrongSize`] if the file's size is not a multiple of the element's.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("table");
    /// use stillmap::Shared;
    /// use std::sync::atomic::{AtomicU8, AtomicU32};
    ///
    /// std::fs::write(&path, [1; 10]).unwrap();
    /// assert_eq!(Shared::<[AtomicU8]>::open_slice(&path)?.len(), 10);
    /// let error = Shared::<[AtomicU32]>::open_slice(&path).unwrap_err();
    /// assert!(matches!(error, stillmap::Error::WrongSize { size: 10, multiple_of: 4, .. }));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn open_slice<P: AsRef<Path>>(path: P) -> Result<Self> {
        Self::options().open(path)
    }

    /// The first `len` elements of a file that is made or extended, as by [`Shared::create`].
    ///
    /// # Errors
    /// As [`Shared::create`]; [`Error::TooLarge`] if no address space could hold them.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("table");
    /// use stillmap::Shared;
    /// use std::sync::atomic::AtomicU64;
    ///
    /// assert_eq!(Shared::<[AtomicU64]>::create_slice(&path, 100)?.len(), 100);
    /// assert_eq!(Shared::<[AtomicU64]>::create_slice(&path, 10)?.len(), 10);
    /// assert_eq!(Shared::<[AtomicU64]>::open_slice(&path)?.len(), 100); // not shortened
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn create_slice<P: AsRef<Path>>(path: P, len: usize) -> Result<Self> {
        let path = path.as_ref();
        let bytes = bytes_of::<A>(len).map_err(|e| e.with_path(|| Some(path.to_path_buf())))?;
        let window = SharedWindow::of_slice::<A>(0, Some(len))?;
        let layout = Layout::from_size_align(bytes, align_of::<A>());
        let layout = layout.map_err(|_| Error::too_large_to_address(Some(path)))?;
        Ok(create_and_map(path, layout, &window)?.into_slice())
    }

    /// As [`Shared::from_fd`], all of it as elements.
    ///
    /// # Errors
    /// As [`Shared::from_fd`]; [`Error::WrongSize`] if the size is not a multiple of the element's.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Shared;
    /// use std::sync::atomic::AtomicU8;
    /// let mine = Shared::<[AtomicU8]>::memfd_slice("example", 100)?;
    /// let theirs = Shared::<[AtomicU8]>::from_fd_slice(mine.fd().unwrap())?;
    /// assert_eq!(theirs.len(), 100);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_fd_slice<F: AsFd>(fd: F) -> Result<Self> {
        Self::options().from_fd(fd)
    }
}

/// The front of a file, which is made or extended. What can fail without the file fails first: then there is no new one,
/// and none is longer than before.
fn create_and_map(path: &Path, value: Layout, window: &SharedWindow) -> Result<MappedBytes> {
    let add_path = |error: Error| error.with_path(|| Some(path.to_path_buf()));
    check_align(value).map_err(add_path)?;
    let pages = whole_pages(value.size(), page::size()).map_err(add_path)?;
    let room = if pages > 0 {
        Region::anonymous_at(pages, Address::Anywhere, PageKind::None).map_err(add_path)?
    } else {
        Region::empty()
    };
    let fd = create::open_or_create(path, value.size() as u64)?;
    drop(room);
    MappedBytes::file(fd, Some(path), window)
}

/// Takes a descriptor: [`Shared::from_fd`].
impl<T: Shareable> TryFrom<OwnedFd> for Shared<T> {
    type Error = Error;

    fn try_from(fd: OwnedFd) -> Result<Self> {
        Ok(MappedBytes::file(fd, None, &SharedWindow::of_value::<T>(0))?.into_value())
    }
}

/// Takes a descriptor: [`Shared::from_fd_slice`].
impl<A: Shareable> TryFrom<OwnedFd> for Shared<[A]> {
    type Error = Error;

    fn try_from(fd: OwnedFd) -> Result<Self> {
        let window = SharedWindow::of_slice::<A>(0, None)?;
        Ok(MappedBytes::file(fd, None, &window)?.into_slice())
    }
}
