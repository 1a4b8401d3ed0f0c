//! The ways to get shared memory: without a name, a memfd, a file, a received descriptor.

use super::{Memory, Shareable, Shared, create};
use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::range::whole_pages;
use crate::region::Region;
use crate::shared::sigbus::Guarded;
use crate::sys;
use crate::sys::file::{self, Kind};
use crate::sys::memory::{Pages, Place};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

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
        Ok(value(Mapped::anonymous(size_of::<T>(), align_of::<T>())?))
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
        let mapped = Mapped::memfd(name, size_of::<T>(), align_of::<T>())?;
        Ok(value(mapped))
    }

    /// The first `size_of::<T>()` bytes of a file.
    ///
    /// # Errors
    /// [`Error::TooSmall`] if the file is shorter; [`Error::IsDirectory`]; [`Error::NotMappable`] for what is not a
    /// regular file; [`Error::Os`] for what the kernel refused: the file has to be readable and writable.
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
        let path = path.as_ref();
        let fd = open_file(path)?;
        Mapped::file(fd, Some(path), size_of_value::<T>, align_of::<T>()).map(value)
    }

    /// The first `size_of::<T>()` bytes of a file, which is made if it is not there, and extended with zeros if it
    /// is shorter; it is never shortened.
    ///
    /// Disk space for all of it is allocated before this returns (fallocate(2)), so a full disk is an error here and
    /// not a fault later. A new file appears under its name whole, and several processes may create it at once: they
    /// all get the same one. Its mode is 0666 less the umask.
    ///
    /// # Errors
    /// As [`open`](Shared::open), and `ENOSPC` if the disk is full: then no new file is left behind, and one that was
    /// there keeps its length. `EOPNOTSUPP` if the file system cannot allocate and a file that is there is too short.
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
        let path = path.as_ref();
        let fd = create::open_or_create(path, size_of::<T>() as u64)?;
        Mapped::file(fd, Some(path), size_of_value::<T>, align_of::<T>()).map(value)
    }

    /// The first `size_of::<T>()` bytes of what a received or inherited descriptor stands for, a memfd or a file.
    ///
    /// The descriptor is duplicated; [`TryFrom<OwnedFd>`](Shared#impl-TryFrom<OwnedFd>-for-Shared<T>) takes it.
    ///
    /// The sender is not trusted: unless the memfd is sealed against shrinking, a fault is answered as for a file.
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
        let fd = duplicate(fd.as_fd())?;
        Mapped::file(fd, None, size_of_value::<T>, align_of::<T>()).map(value)
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
        Ok(slice(Mapped::anonymous(
            bytes_of::<A>(len)?,
            align_of::<A>(),
        )?))
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
        let mapped = Mapped::memfd(name, bytes_of::<A>(len)?, align_of::<A>())?;
        Ok(slice(mapped))
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
        let path = path.as_ref();
        let fd = open_file(path)?;
        Mapped::file(fd, Some(path), size_of_slice::<A>, align_of::<A>()).map(slice)
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
        let (path, size) = (path.as_ref(), bytes_of::<A>(len)?);
        let fd = create::open_or_create(path, size as u64)?;
        let size_of = |there, name| exactly(size, there, name);
        Mapped::file(fd, Some(path), size_of, align_of::<A>()).map(slice)
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
        let fd = duplicate(fd.as_fd())?;
        Mapped::file(fd, None, size_of_slice::<A>, align_of::<A>()).map(slice)
    }
}

/// Takes a descriptor: [`Shared::from_fd`].
impl<T: Shareable> TryFrom<OwnedFd> for Shared<T> {
    type Error = Error;

    fn try_from(fd: OwnedFd) -> Result<Self> {
        Mapped::file(fd, None, size_of_value::<T>, align_of::<T>()).map(value)
    }
}

/// Takes a descriptor: [`Shared::from_fd_slice`].
impl<A: Shareable> TryFrom<OwnedFd> for Shared<[A]> {
    type Error = Error;

    fn try_from(fd: OwnedFd) -> Result<Self> {
        Mapped::file(fd, None, size_of_slice::<A>, align_of::<A>()).map(slice)
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    file::duplicate(fd).map_err(|e| Error::os("fcntl", None, e))
}

/// `len` bytes, mapped, readable and writable, whose start is as aligned as was asked for.
struct Mapped {
    memory: Memory,
    len: usize,
    fd: Option<OwnedFd>,
    path: Option<PathBuf>,
}

fn value<T: Shareable>(mapped: Mapped) -> Shared<T> {
    debug_assert_eq!(mapped.len, size_of::<T>());
    Shared {
        value: mapped.memory.region().start().cast(),
        memory: mapped.memory,
        fd: mapped.fd,
        path: mapped.path,
    }
}

fn slice<A: Shareable>(mapped: Mapped) -> Shared<[A]> {
    // For elements without a size, none.
    let len = mapped.len.checked_div(size_of::<A>()).unwrap_or(0);
    let start = mapped.memory.region().start().cast();
    Shared {
        value: NonNull::slice_from_raw_parts(start, len),
        memory: mapped.memory,
        fd: mapped.fd,
        path: mapped.path,
    }
}

impl Mapped {
    fn anonymous(len: usize, align: usize) -> Result<Self> {
        // A memfd that nobody has a descriptor of; unlike MAP_ANONYMOUS it is made by the same calls as the others.
        let mapped = Mapped::memfd("stillmap", len, align)?;
        Ok(Mapped { fd: None, ..mapped })
    }

    fn memfd(name: &str, len: usize, align: usize) -> Result<Self> {
        let name = CString::new(name).map_err(|e| Error::os("memfd_create", None, e.into()))?;
        let memfd = file::memfd(&name, false);
        let memfd = memfd.map_err(|e| Error::os("memfd_create", None, e))?;
        let sized = sys::write::set_len(&memfd, len as u64);
        sized.map_err(|e| Error::os("ftruncate", None, e))?;
        let fd = OwnedFd::from(memfd);
        let sealed = file::add_seals(fd.as_fd(), libc::F_SEAL_SHRINK);
        sealed.map_err(|e| Error::os("fcntl", None, e))?;
        Mapped::file(fd, None, |size, name| exactly(len, size, name), align)
    }

    /// As many bytes of a file as `size_of` says, given how many there are and what to call it.
    fn file(
        fd: OwnedFd,
        path: Option<&Path>,
        size_of: impl FnOnce(u64, Option<PathBuf>) -> Result<usize>,
        align: usize,
    ) -> Result<Self> {
        let name = || {
            path.map(Path::to_path_buf)
                .or_else(|| file::name(fd.as_fd()))
        };
        let error = |call, e| Error::os(call, name().as_deref(), e);
        // Asked before the size: a seal that is there holds for the size that is seen then.
        let seals = file::seals(fd.as_fd());
        let stat = file::stat(fd.as_fd()).map_err(|e| error("statx", e))?;
        let not_mappable = |what| Error::not_mappable(name().as_deref(), what);
        match stat.kind {
            Kind::Regular => {}
            Kind::Directory => return Err(Error::is_directory(name().as_deref())),
            Kind::Block | Kind::Fifo | Kind::Other => {
                return Err(not_mappable("it is not a regular file"));
            }
        }
        if !sys::descriptor::is_read_write(fd.as_fd()).map_err(|e| error("fcntl", e))? {
            return Err(not_mappable("it is not open for reading and writing"));
        }
        if seals & (libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE) != 0 {
            return Err(not_mappable("it is sealed against writing"));
        }
        match FileSystem::from_fd(fd.as_fd()) {
            Ok(FileSystem::Hugetlbfs) => {
                return Err(not_mappable("it is made of reserved huge pages"));
            }
            Ok(FileSystem::Kernel) => return Err(not_mappable("it is not a file of bytes")),
            _ => {}
        }
        let len = size_of(stat.size, name())?;
        let memory = match len {
            0 => Memory::Unshrinkable(Region::empty()),
            _ => {
                let pages = whole(len, name())?;
                let region = Region::shared(fd.as_fd(), pages, Place::Anywhere, Pages::Zeroed);
                let region = region.map_err(|e| e.with_path(name))?;
                match seals & libc::F_SEAL_SHRINK != 0 {
                    true => Memory::Unshrinkable(region),
                    // SAFETY: `Shared` makes references to atomics only.
                    #[allow(unsafe_code)]
                    false => Memory::FaultTolerant(unsafe { Guarded::new(region) }?),
                }
            }
        };
        let start = memory.region().start().as_ptr().addr();
        if start % align != 0 {
            return Err(Error::misaligned(start as u64, align));
        }
        Ok(Mapped {
            memory,
            len,
            path: path.map(Path::to_path_buf),
            fd: Some(fd),
        })
    }
}

fn open_file(path: &Path) -> Result<OwnedFd> {
    file::open_read_write(path).map_err(|e| open_error(path, e))
}

/// An open(2) that failed.
pub(super) fn open_error(path: &Path, source: std::io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::EISDIR) => Error::is_directory(Some(path)),
        _ => Error::os("open", Some(path), source),
    }
}

fn whole(len: usize, path: Option<PathBuf>) -> Result<usize> {
    whole_pages(len, crate::page::size()).map_err(|_| too_large(path))
}

fn too_large(path: Option<PathBuf>) -> Error {
    Error::TooLarge {
        path,
        limit: isize::MAX as u64,
    }
}

fn bytes_of<A>(len: usize) -> Result<usize> {
    let bytes = len.checked_mul(size_of::<A>());
    bytes
        .filter(|&bytes| isize::try_from(bytes).is_ok())
        .ok_or_else(|| too_large(None))
}

fn exactly(needed: usize, size: u64, path: Option<PathBuf>) -> Result<usize> {
    let needed_bytes = needed as u64;
    match size >= needed_bytes {
        true => Ok(needed),
        false => Err(Error::TooSmall {
            path,
            needed: needed_bytes,
            size,
        }),
    }
}

fn size_of_value<T>(size: u64, path: Option<PathBuf>) -> Result<usize> {
    exactly(size_of::<T>(), size, path)
}

fn size_of_slice<A>(size: u64, path: Option<PathBuf>) -> Result<usize> {
    let element = size_of::<A>();
    if element == 0 || size % element as u64 != 0 {
        return Err(Error::wrong_size(path.as_deref(), size, element));
    }
    usize::try_from(size).map_err(|_| too_large(path))
}
