//! A file that other processes keep writing, mapped read-only.
//!
//! No reference into the mapping is ever given out: bytes are copied out of it by moves that may race with writers. So
//! there is nothing that a writer could break, and the mapping can move when the file outgrows its address space.
#![allow(unsafe_code)]

mod mapping;
mod read;

use crate::edited_files::check_not_edited;
use crate::enums::Change;
use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::held::Held;
use crate::input;
use crate::page;
use crate::pages::Pages;
use crate::range;
use crate::snapshot::Snapshot;
use crate::sys::file::{self, FileType, Stat};
use crate::sys::unnamed;
use mapping::LiveMapping;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ops::RangeBounds;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A regular file that other processes keep writing: a log that is appended to, a shared segment that this process may only
/// read, a file of another user.
///
/// It is mapped shared and read-only, and bytes are copied out of it: no `&[u8]` of it exists, so nothing is promised
/// that a writer could break. Opening it takes no lease, blocks no writer and copies nothing, on any file system that
/// can map files.
///
/// The length is that of the last [`refresh`](Live::refresh). Address space beyond the end is reserved, so that a file
/// that grows is read without a new mapping.
///
/// # Files that lose pages
/// Where the file was truncated, or its device fails, calls fail with [`Error::PagesLost`], and no signal reaches the
/// program: as for [`Shared`](crate::Shared), whose page says how. After [`refresh`](Live::refresh) what is left of the
/// file can be read again.
///
/// # File systems
/// Writers through a network file system or a FUSE server become visible when the kernel drops its cached pages. An overlay
/// copies a file of a lower layer up when a process opens it for writing: the new bytes become visible by
/// [`refresh`](Live::refresh). On tmpfs and an overlay a file that has holes is read by pread(2), since a page fault in a hole
/// may take memory; [`load`](Live::load) takes a page there. Without /proc `load` does not see what was copied up.
///
/// # Examples
/// ```
/// use std::io::Write;
/// use stillmap::{Change, Live};
///
/// let dir = tempfile::tempdir()?;
/// let path = dir.path().join("log");
/// std::fs::write(&path, "one\n")?;
/// let mut log = Live::open(&path)?;
/// assert_eq!(log.len(), 4);
///
/// std::fs::File::options().append(true).open(&path)?.write_all(b"two\n")?;
/// assert_eq!(log.refresh()?, Change::Grown(4..8));
/// let mut added = [0; 4];
/// assert_eq!(log.read_at(4, &mut added)?, 4);
/// assert_eq!(&added, b"two\n");
/// # Ok::<(), std::io::Error>(())
/// ```
/// A memfd that its owner keeps writing, sealed so that no other process can (`F_SEAL_FUTURE_WRITE`), is opened by its
/// descriptor:
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use stillmap::{Live, Shared};
///
/// let counter = Shared::<AtomicU64>::memfd("counter")?;
/// let reader = Live::from_fd(counter.fd().unwrap())?;
/// counter.store(7, Ordering::Release);
/// assert_eq!(reader.load::<AtomicU64>(0)?.into_inner(), 7);
/// # Ok::<(), stillmap::Error>(())
/// ```
#[doc(alias("tail", "MAP_SHARED"))]
pub struct Live {
    mapping: LiveMapping,
    /// Bytes of the file that may be read; at most those that are mapped.
    len: usize,
    /// Whether the file can become shorter.
    can_shrink: bool,
    /// Whether a truncation unmaps pages before it zeroes bytes.
    unmaps_first: bool,
    system: FileSystem,
    /// Whether bytes are read by pread(2), and not copied out of the mapping.
    by_reading: bool,
    /// The file when it was mapped, while it may be in a lower layer of an overlay.
    lower: Option<Stat>,
    fd: OwnedFd,
    path: Option<PathBuf>,
}

impl Live {
    /// Opens a file. Blocks while another process edits it by [`Exclusive`](crate::Exclusive), or has a write lease on it.
    ///
    /// # Errors
    /// [`Error::Os`] for what the kernel refused; [`Error::IsDirectory`]; [`Error::NotMappable`] for what is not a regular
    /// file of bytes; [`Error::Busy`] for a file that this process edits as an [`Exclusive`](crate::Exclusive);
    /// [`Error::TooLarge`] for more than the address space.
    ///
    /// # Examples
    /// ```
    /// let manifest = stillmap::Live::open("Cargo.toml")?;
    /// let mut start = [0; 9];
    /// manifest.read_at(0, &mut start)?;
    /// assert_eq!(&start, b"[package]");
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        let path = path.as_ref();
        check_not_edited(path)?;
        // A FIFO without a writer would block.
        let fd = match file::open_nonblocking(path) {
            // Another process has a write lease on the file: block until it is released.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => file::open(path),
            opened => opened,
        };
        let fd = fd.map_err(|e| Error::os("open", Some(path), e))?;
        Live::new(fd, Some(path.to_path_buf()))
    }

    /// The whole file that a descriptor has open for reading, wherever its offset is. The descriptor is duplicated.
    ///
    /// # Errors
    /// As [`Live::open`].
    ///
    /// # Examples
    /// ```
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// let live = stillmap::Live::from_fd(&file)?;
    /// drop(file);
    /// assert!(live.len() > 100);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_fd<F: AsFd>(fd: F) -> Result<Self> {
        let fd = fd
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| Error::os("fcntl", None, e))?;
        Live::new(fd, None)
    }

    fn new(fd: OwnedFd, path: Option<PathBuf>) -> Result<Self> {
        let name = || path.clone().or_else(|| file::name(fd.as_fd()));
        let error = |operation, e| Error::os(operation, name().as_deref(), e);
        let not_mappable = |what| Err(Error::not_mappable(name().as_deref(), what));
        let stat = file::stat(fd.as_fd()).map_err(|e| error("fstat", e))?;
        match stat.kind {
            FileType::Regular => {}
            FileType::Directory => return Err(Error::is_directory(name().as_deref())),
            FileType::Block | FileType::Fifo | FileType::Other => {
                return Err(Error::not_a_regular_file(name().as_deref()));
            }
        }
        let system = FileSystem::from_stat(fd.as_fd(), &stat).map_err(|e| error("fstatfs", e))?;
        if system == FileSystem::Hugetlbfs {
            return not_mappable("it is made of reserved huge pages");
        }
        if system == FileSystem::Kernel {
            return not_mappable("it is not a file of bytes");
        }
        // Asked before the length: a seal that is there holds for the length that is seen then.
        let can_shrink = file::seals(fd.as_fd()) & libc::F_SEAL_SHRINK == 0;
        let len = length(&stat).ok_or_else(|| Error::too_large_to_address(name().as_deref()))?;
        let mapping = LiveMapping::new(fd.as_fd(), len).map_err(|e| e.with_path(name))?;
        let path = name();
        let mut live = Live {
            mapping,
            len,
            can_shrink,
            unmaps_first: system.unmaps_before_zeroing(),
            system,
            by_reading: false,
            lower: None,
            fd,
            path,
        };
        live.by_reading = live.has_costly_holes(&stat);
        if system == FileSystem::Overlayfs {
            // Since the caller opened the descriptor, it may have been copied up.
            live.open_again(stat, len)?;
        }
        Ok(live)
    }

    /// True if the file has holes, and a page fault in one may take memory: on tmpfs, where read(2) takes none.
    fn has_costly_holes(&self, stat: &Stat) -> bool {
        let may_be_memory = matches!(self.system, FileSystem::Tmpfs | FileSystem::Overlayfs);
        may_be_memory && stat.allocated < stat.size
    }

    /// Maps the file that an overlay shows now: `stat`, with a length of `len`. A file of a lower layer is copied up when a
    /// process opens it for writing. By a descriptor that was opened before, the new file is read, and the old one is mapped.
    fn open_again(&mut self, stat: Stat, len: usize) -> Result<()> {
        let opened = unnamed::reopen(self.fd.as_raw_fd()).map(OwnedFd::from).ok();
        let is_same = |fd: &OwnedFd| file::stat(fd.as_fd()).is_ok_and(|it| it.is_same_file(&stat));
        let opened = opened.filter(is_same);
        // Without /proc, or the right to open it, it can still be read.
        self.by_reading = opened.is_none() || self.has_costly_holes(&stat);
        let fd = opened.as_ref().unwrap_or(&self.fd);
        let mapping = LiveMapping::new(fd.as_fd(), len);
        self.mapping = mapping.map_err(|e| e.with_path(|| self.path.clone()))?;
        if let Some(fd) = opened {
            self.fd = fd;
        }
        self.lower = Some(stat);
        Ok(())
    }

    /// Bytes of the file at the last [`refresh`](Live::refresh), or when it was opened.
    ///
    /// # Examples
    /// ```
    /// assert!(stillmap::Live::open("Cargo.toml")?.len() > 100);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is 0.
    ///
    /// # Examples
    /// ```
    /// assert!(!stillmap::Live::open("Cargo.toml")?.is_empty());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads the length of the file again. Bytes that were added can be read from here on; bytes that were cut off
    /// cannot. After [`Error::PagesLost`] it maps the file anew.
    ///
    /// It takes one fstat(2) if the length is the same.
    ///
    /// # Errors
    /// [`Error::Os`] for what the kernel refused; [`Error::TooLarge`] for more than the address space. The old length still
    /// applies then.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Change;
    /// let dir = tempfile::tempdir()?;
    /// let path = dir.path().join("log");
    /// std::fs::write(&path, "12345678")?;
    /// let mut log = stillmap::Live::open(&path)?;
    /// assert_eq!(log.refresh()?, Change::Same);
    /// std::fs::File::options().write(true).open(&path)?.set_len(3)?;
    /// assert_eq!(log.refresh()?, Change::Cut(3..8));
    /// assert_eq!(log.len(), 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn refresh(&mut self) -> Result<Change> {
        let path = self.path.as_deref();
        let stat = self.stat()?;
        let len = length(&stat).ok_or_else(|| Error::too_large_to_address(path))?;
        let is_faulted = self.mapping.is_faulted();
        let lower = self.lower.filter(|lower| lower.stamp != stat.stamp);
        if let Some(lower) = lower {
            self.open_again(stat, len)?;
            // With another size it is in the upper layer, and is not copied up any more.
            self.lower = self
                .lower
                .filter(|_| lower.size == stat.size || self.by_reading);
        } else if is_faulted || len > self.mapping.len() {
            let mapping = LiveMapping::new(self.fd.as_fd(), len);
            self.mapping = mapping.map_err(|e| e.with_path(|| self.path.clone()))?;
        }
        if self.lower.is_none() {
            self.by_reading = self.has_costly_holes(&stat);
        }
        let before = std::mem::replace(&mut self.len, len);
        Ok(match len {
            _ if is_faulted => Change::PagesLost,
            len if len > before => Change::Grown(before..len),
            len if len < before => Change::Cut(len..before),
            _ => Change::Same,
        })
    }

    /// Whether all of its bytes are still there.
    ///
    /// # Errors
    /// [`Error::PagesLost`] if the file is shorter than [`len`](Live::len) or has lost pages.
    ///
    /// # Examples
    /// ```
    /// stillmap::Live::open("Cargo.toml")?.check_fault()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn check_fault(&self) -> Result<()> {
        self.check_copied(self.len, || false)
    }

    /// Copies a range at one moment.
    ///
    /// [`Snapshot::is_consistent`] is false if the file changed while it was copied, as far as that can be seen: its length,
    /// its times, or a byte that differs when the range is read a second time. A writer that stores through a mapping of its
    /// own leaves no other trace. A write(2) that is under way is waited for, as by a [`Snapshot`].
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::PagesLost`]; [`Error::Os`] if there is no memory for the copy: it leaves an eighth of
    /// what is available.
    ///
    /// # Examples
    /// ```
    /// let live = stillmap::Live::open("Cargo.toml")?;
    /// let copy = live.snapshot(..9)?;
    /// assert_eq!(&copy[..], b"[package]");
    /// assert!(copy.is_consistent());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn snapshot<R: RangeBounds<usize>>(&self, range: R) -> Result<Snapshot> {
        let range = range::check(range, self.len)?;
        let before = self.stat()?;
        input::wait_for_write(self.fd.as_fd(), &before);
        // On xfs, read(2) waits for it.
        let _ = self.has_byte_before(1);
        let copied = self.copy(range.clone());
        let (copy, is_same) = copied.map_err(|e| e.with_path(|| self.path.clone()))?;
        self.check_copied(range.end, || false)?;
        let is_consistent = is_same && self.stat()?.stamp == before.stamp;
        Ok(Snapshot::from_copy(Held::buffer(copy), is_consistent))
    }

    /// Advice, prefetch, populate, lock and residency of its pages.
    ///
    /// # Examples
    /// ```
    /// let live = stillmap::Live::open("Cargo.toml")?;
    /// println!("{:60}", live.pages().residency(..)?);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn pages(&self) -> Pages<'_> {
        let region = self.mapping.region();
        let pages = Pages::unreferenced(region, self.len).with_path(self.path.as_deref());
        if self.system == FileSystem::Tmpfs {
            pages
        } else {
            pages.on_disk()
        }
    }

    fn stat(&self) -> Result<Stat> {
        let stat = file::stat(self.fd.as_fd());
        stat.map_err(|e| Error::os("fstat", self.path.as_deref(), e))
    }

    /// Fails if the bytes up to `end` were not all in the file when they were copied out. `is_certain` says whether the
    /// copy itself shows it.
    fn check_copied(&self, end: usize, is_certain: impl FnOnce() -> bool) -> Result<()> {
        // The kernel zeroes the rest of the last page of a file that is truncated, which is no fault. On file systems where it
        // unmaps the page behind first, touching that page takes a tenth of the time of a system call.
        let is_whole =
            !self.can_shrink || self.unmaps_first && self.has_page_behind(end) || is_certain();
        if !self.mapping.is_faulted() && (is_whole || self.has_byte_before(end)) {
            return Ok(());
        }
        Err(Error::pages_lost(self.path.as_deref()))
    }

    /// True if read(2) still returns the byte before `end`. read(2) waits for a truncation that has zeroed bytes and not yet
    /// set the length; fstat(2) does not.
    fn has_byte_before(&self, end: usize) -> bool {
        let Some(last) = end.checked_sub(1) else {
            return true;
        };
        let mut byte = [MaybeUninit::uninit()];
        let read = file::read_at(self.fd.as_fd(), &mut byte, last as u64);
        read.map(|read| !read.is_empty())
            .or_else(|_| self.has_byte_in_block(last))
            // A file that can be mapped and not read.
            .or_else(|_| self.stat().map(|stat| stat.size >= end as u64))
            .unwrap_or(false)
    }

    /// The same for a descriptor of the caller that is for aligned reads only (`O_DIRECT`).
    fn has_byte_in_block(&self, last: usize) -> io::Result<bool> {
        let mut block = AlignedBlock([MaybeUninit::uninit(); DIRECT_BLOCK]);
        let start = last - last % DIRECT_BLOCK;
        let read = file::read_at(self.fd.as_fd(), &mut block.0, start as u64)?;
        Ok(start + read.len() > last)
    }

    /// Touches the page behind the one that holds the byte before `end`. False if it is lost, or the file had none.
    fn has_page_behind(&self, end: usize) -> bool {
        let behind = end.next_multiple_of(page::size());
        behind < self.len && self.mapping.touch(behind) && !self.mapping.is_faulted()
    }
}

/// Enough for a direct read of a disk: its sectors have 512 or 4,096 bytes, open(2) on `O_DIRECT`.
const DIRECT_BLOCK: usize = 4096;

#[repr(align(4096))]
struct AlignedBlock([MaybeUninit<u8>; DIRECT_BLOCK]);

/// The length of a file, if it can be addressed.
fn length(stat: &Stat) -> Option<usize> {
    isize::try_from(stat.size).ok().map(isize::unsigned_abs)
}

/// The descriptor of the file, to be compared with what is at its path now, for example.
impl AsFd for Live {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Prints the path and the length.
impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("path", &self.path)
            .field("len", &self.len)
            .finish()
    }
}
