//! A file that nobody else has open, to be edited in place.

use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::error::{Error, Result};
use crate::lease::write::{Editable, Refused, WriteLease};
use crate::page;
use crate::pages::Pages;
use crate::range;
use crate::space;
use crate::sys::file::{self, Kind};
use crate::sys::memory;
use crate::sys::sync;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::RangeBounds;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::thread;
use std::time::Duration;

/// An existing file, edited in place: stores go to the file, and the kernel keeps everybody else out meanwhile.
///
/// It holds a write lease (fcntl(2), "Leases"): nobody else has the file open, and whoever opens it, in this process or
/// another, waits until the `Exclusive` is closed or dropped; a non-blocking open fails with `EAGAIN`.
/// [`has_waiter`](Exclusive::has_waiter) tells when somebody waits.
///
/// The kernel lets nobody wait for ever (`fs.lease-break-time`, 45 seconds). At three quarters of that time the bytes
/// become memory, in place: the file keeps all stores made until then, whoever waits gets in, and later stores stay
/// here; `flush`, `resize` and `close` say [`LeaseLost`](Error::LeaseLost) from then on. If there is no memory for
/// that, the process is aborted with a message, rather than let others write under a `&mut [u8]`. (While it happens,
/// threads that touch the bytes wait, up to some milliseconds per megabyte; a system call that is given them may fail
/// with `EFAULT`, unless the process has `CAP_SYS_PTRACE`.)
///
/// - Holes of the file get blocks when it is opened, so that a full disk is an error there, and no signal later.
/// - ext2, ext3, ext4 and xfs will do, for the owner of the file or with `CAP_LEASE`, where userfaultfd(2) is allowed;
///   all else is [`Unprotectable`](Error::Unprotectable), among it btrfs and f2fs: they write every page to a new place,
///   for which a full disk may have no room.
/// - A forked child does not get the bytes; touching them there ends it.
/// - Renaming and removing the file needs no open, and is not held off: the edits go to the file, whatever its name.
///
/// What `flush`, `start_writeback` and `close` promise when the power fails is in
/// [`docs::durability`](crate::docs::durability).
///
/// # Examples
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("counter");
/// std::fs::write(&path, [0; 8])?;
/// match stillmap::Exclusive::open(&path) {
///     Ok(mut file) => {
///         file[0] += 1;
///         file.flush()?;
///         file.close()?;
///         assert_eq!(std::fs::read(&path)?[0], 1);
///     }
///     Err(stillmap::Error::Unprotectable { why, .. }) => println!("not on this file system: {why}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[doc(alias("F_SETLEASE", "MAP_SHARED"))]
pub struct Exclusive {
    start: NonNull<u8>,
    len: usize,
    editable: Editable,
    path: PathBuf,
}

// SAFETY: the bytes are reached through `&self` for reading and `&mut self` for writing only; the lease keeps all others
// away, and where it goes the bytes become our own memory first.
#[allow(unsafe_code)]
unsafe impl Send for Exclusive {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Exclusive {}

impl Exclusive {
    /// Opens an existing file for reading and writing, and keeps all others out. Whoever holds a lease on it (another
    /// `Exclusive`, a `Snapshot`) is told and waited for, as every open does.
    ///
    /// # Errors
    /// [`Error::Busy`] if anybody has it open, this process as well, and not just for some milliseconds;
    /// [`Error::Unprotectable`] where there is no lease to be had; [`Error::NotMappable`] for what is not a regular file;
    /// [`Error::IsDirectory`]; [`Error::Os`] for what the kernel refused: the open, or the blocks for the file's holes.
    ///
    /// # Examples
    /// ```
    /// let error = stillmap::Exclusive::open("/proc/self/comm").unwrap_err();
    /// assert!(matches!(error, stillmap::Error::Unprotectable { .. }));
    /// ```
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        let path = path.as_ref();
        let mut pause = Duration::from_millis(1);
        loop {
            match Exclusive::try_open(path) {
                Err(Error::Busy { .. }) if pause <= PAUSE_MAX => {
                    // Closed meanwhile, and not for the same time as somebody else who does the same.
                    thread::sleep(pause / 2 + pause * (random() % 16) / 16);
                    pause *= 2;
                }
                other => return other,
            }
        }
    }

    fn try_open(path: &Path) -> Result<Self> {
        let fd = file::open_read_write(path).map_err(|e| match e.raw_os_error() {
            Some(libc::EISDIR) => is_directory(path),
            _ => Error::os("open", Some(path), e),
        })?;
        let file = File::from(fd);
        let stat = file::stat(file.as_fd()).map_err(|e| Error::os("statx", Some(path), e))?;
        match stat.kind {
            Kind::Regular => {}
            Kind::Directory => return Err(is_directory(path)),
            Kind::Block | Kind::Fifo | Kind::Other => {
                return Err(Error::not_mappable(Some(path), "it is not a regular file"));
            }
        }
        let lease = WriteLease::take(file).map_err(|e| refused(e, path))?;
        // Only now does nobody else change it.
        let size = file::stat(lease.file().as_fd());
        let size = size.map_err(|e| Error::os("statx", Some(path), e))?.size;
        let len = usize::try_from(size).map_err(|_| Error::TooLarge {
            path: Some(path.to_path_buf()),
            limit: isize::MAX.unsigned_abs() as u64,
        })?;
        let granted = space::own_blocks(lease.file(), size);
        granted.map_err(|e| no_blocks(e, path))?;
        let editable = lease.map(len).map_err(|e| refused(e, path))?;
        Ok(Exclusive {
            start: editable.start(),
            len,
            editable,
            path: path.to_path_buf(),
        })
    }

    /// Makes the file longer or shorter; the bytes may move. New bytes are zero, and have blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Os`], [`Error::TooLarge`], [`Error::LeaseLost`]; the file is then as it was.
    ///
    /// # Examples
    /// ```no_run
    /// let mut list = stillmap::Exclusive::open("list")?;
    /// let end = list.len();
    /// list.resize(end + 6)?;
    /// list[end..].copy_from_slice(b"entry\n");
    /// list.close()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias("ftruncate", "mremap"))]
    pub fn resize(&mut self, len: usize) -> Result<()> {
        let (old, path) = (self.len, self.path.clone());
        let size = |file: &File| match len > old {
            true => {
                let extended = space::extend_or_write_zeros(file, old as u64, len as u64);
                extended.map_err(|e| no_blocks(e, &path))
            }
            false => {
                let cut = file.set_len(len as u64);
                cut.map_err(|e| Error::os("ftruncate", Some(&path), e))
            }
        };
        let resized = self.editable.resize(len, size);
        let resized = resized.ok_or_else(|| self.lost())?;
        resized.map_err(|e| e.with_path(|| Some(path)))?;
        self.start = self.editable.start();
        self.len = len;
        Ok(())
    }

    /// Waits until every store made so far is on the disk, and the file's length too. Only pages that were stored to
    /// since the last time are written, and what the page cache keeps in one piece with them
    /// ([`docs::durability`](crate::docs::durability)).
    ///
    /// # Errors
    /// [`Error::Os`] if the disk failed: what is on it is not known then, and another flush may not tell again.
    /// [`Error::LeaseLost`].
    ///
    /// # Examples
    /// ```no_run
    /// let mut file = stillmap::Exclusive::open("data")?;
    /// file[0] = 1;
    /// file.flush()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias("msync", "fsync"))]
    pub fn flush(&self) -> Result<()> {
        self.flush_range(..)
    }

    /// The same for the pages that hold a range, in bytes.
    ///
    /// # Errors
    /// As [`flush`](Exclusive::flush), and [`Error::OutOfBounds`].
    ///
    /// # Examples
    /// ```no_run
    /// let mut file = stillmap::Exclusive::open("data")?;
    /// file[5000] = 1;
    /// file.flush_range(5000..=5000)?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn flush_range<R: RangeBounds<usize>>(&self, range: R) -> Result<()> {
        let range = range::check(range, self.len)?;
        match range == (0..self.len) {
            // Also where there are no pages: it tells of a new length, too.
            true => self.leased("fdatasync", File::sync_data),
            false => self.leased("msync", |_| {
                let first = page::round_down(range.start);
                let start = self.start.as_ptr().wrapping_add(first);
                let start = NonNull::new(start).unwrap_or(self.start);
                memory::sync(start, range.end - first)
            }),
        }
    }

    /// Starts to write the stores to a range to the disk, and does not wait: a later flush has less to do. It promises
    /// nothing. (`msync(MS_ASYNC)` starts nothing at all on Linux; this is `sync_file_range`.)
    ///
    /// # Errors
    /// [`Error::OutOfBounds`], [`Error::LeaseLost`], [`Error::Os`].
    ///
    /// # Examples
    /// ```no_run
    /// let mut file = stillmap::Exclusive::open("data")?;
    /// file[..4096].fill(1);
    /// file.start_writeback(..4096)?;
    /// file[4096..8192].fill(2);
    /// file.flush()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias("sync_file_range", "MS_ASYNC"))]
    pub fn start_writeback<R: RangeBounds<usize>>(&self, range: R) -> Result<()> {
        let range = range::check(range, self.len)?;
        self.leased("sync_file_range", |file| match range.len() {
            0 => Ok(()),
            len => sync::start_writeback(file.as_fd(), range.start as u64, len as u64),
        })
    }

    /// True if somebody waits to open the file, or came too late and got in.
    ///
    /// # Examples
    /// ```no_run
    /// let mut file = stillmap::Exclusive::open("data")?;
    /// for i in 0..file.len() {
    ///     file[i] ^= 0x55;
    ///     if i % 4096 == 0 && file.has_waiter() {
    ///         break; // in time, so that nothing is lost
    ///     }
    /// }
    /// file.close()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn has_waiter(&self) -> bool {
        self.editable.has_waiter()
    }

    /// Flushes, lets the others in, and says if anything was lost. Dropping lets them in, too, without a flush.
    ///
    /// # Errors
    /// As [`flush`](Exclusive::flush). The file is closed all the same.
    ///
    /// # Examples
    /// ```no_run
    /// stillmap::Exclusive::open("data")?.close()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn close(self) -> Result<()> {
        let flushed = self.flush();
        let lost = self.lost();
        let Exclusive { editable, .. } = self;
        match editable.end() {
            true => flushed,
            false => Err(lost),
        }
    }

    /// Runs a system call that makes sense only while stores go to the file. No lock is held meanwhile, since the disk
    /// may take its time: so the lease is looked at again afterwards.
    fn leased(&self, call: &'static str, f: impl FnOnce(&File) -> io::Result<()>) -> Result<()> {
        let file = self.editable.file().ok_or_else(|| self.lost())?;
        let done = f(&file);
        drop(file);
        match self.editable.file() {
            None => Err(self.lost()),
            Some(_) => done.map_err(|e| Error::os(call, Some(&self.path), e)),
        }
    }

    fn lost(&self) -> Error {
        Error::LeaseLost {
            path: Some(self.path.clone()),
        }
    }
}

/// The last pause before a file is said to be busy. For a moment others may have it open who know nothing of it: a
/// process that another thread of ours has just forked, and that has not executed its program yet.
const PAUSE_MAX: Duration = Duration::from_millis(16);

fn random() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

fn is_directory(path: &Path) -> Error {
    Error::IsDirectory {
        path: Some(path.to_path_buf()),
    }
}

fn refused(why: Refused, path: &Path) -> Error {
    let path = Some(path.to_path_buf());
    match why {
        Refused::Busy => Error::Busy { path },
        Refused::Never(why) => Error::Unprotectable { path, why },
        Refused::Failed(error) => error.with_path(|| path),
    }
}

/// Without blocks for every byte, a store could find the disk full.
fn no_blocks(error: io::Error, path: &Path) -> Error {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => Error::Unprotectable {
            path: Some(path.to_path_buf()),
            why: "its file system cannot fill holes (fallocate), and could not tell of a full disk",
        },
        _ => Error::os("fallocate", Some(path), error),
    }
}

// SAFETY:
// - `len` bytes are mapped from the start on, inside the file: no other process can shorten it.
// - No other process has it open while it is shared, and no file is behind it afterwards.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Exclusive {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        (self.start, self.len)
    }
}

impl_byte_slice!(Exclusive, debug: has_waiter);
impl_byte_slice_mut!(Exclusive);

impl Exclusive {
    /// Advice, prefetch, populate, lock and residency of its pages.
    ///
    /// # Examples
    /// ```no_run
    /// let file = stillmap::Exclusive::open("table")?;
    /// file.pages().populate(..)?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn pages(&self) -> Pages<'_> {
        let pages = Pages::own(&self[..]).on_disk();
        let pages = pages.with_locks(self.editable.locked_pages());
        pages.with_path(Some(&self.path))
    }
}
