//! An existing file, edited in place while no other process has it open.

mod bytes;
mod open;
mod options;

pub use options::ExclusiveOptions;

use crate::backing::Backing;
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::edited_files::Claim;
use crate::error::{Error, Result};
use crate::mapped_file::FileWindow;
use crate::page;
use crate::pages::Pages;
use crate::process::Process;
use crate::range;
use crate::space;
use crate::sys::{file, memory, sync, write};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::ops::RangeBounds;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering};

/// An existing file, edited in place. Stores go to the file, and the kernel blocks every other open meanwhile.
///
/// It holds a write lease (fcntl(2), "Leases"): no other descriptor has the file open, and every open, in this process or
/// another, blocks until the `Exclusive` is closed or dropped; a non-blocking open fails with `EAGAIN`. An open by this
/// crate in the same process, which would wait for itself, fails with [`Busy`](Error::Busy) at once.
/// [`has_waiter`](Exclusive::has_waiter) returns whether an open is blocked.
///
/// The kernel blocks an open for a limited time (`fs.lease-break-time`, 45 seconds). After three quarters of that time (5
/// seconds earlier for each GiB of the file, which has to be copied) the lease is given up:
///
/// - The bytes become memory, at the same addresses. The file keeps all stores made until then, and the waiting process gets
///   the file. Later stores stay in this process, and `flush`, `resize` and `close` fail with
///   [`LeaseLost`](Error::LeaseLost).
/// - If memory is short (also that of the control group), the bytes go to an unnamed file instead, beside the file or in a
///   directory for temporary files. If there is no room for that either, the process is aborted with a message, since
///   another process would write under a `&mut [u8]`.
/// - If the process does not run in the last quarter of the break time (stopped, or a machine that is paused), the waiting
///   process gets the file before the bytes are memory, and its stores appear in them until the process runs again.
/// - Threads that touch the bytes during the copy wait for it, some milliseconds per megabyte at most. A system call on the
///   bytes may fail with `EFAULT` then, unless the process has `CAP_SYS_PTRACE`.
///
/// What else to know:
///
/// - Holes of the file get blocks when it is opened, so that a full disk is an error there, and no signal later. After an
///   error the disk is as it was.
/// - It works on ext2, ext3, ext4 and xfs, for the owner of the file or with `CAP_LEASE`, where userfaultfd(2) is allowed;
///   anything else is [`Unprotectable`](Error::Unprotectable), also btrfs and f2fs: they write every page to a new place,
///   for which a full disk may have no room. [`map_unguarded`](Exclusive::map_unguarded) takes any file.
/// - A forked child does not get the bytes: touching them there is SIGSEGV, and other calls fail with
///   [`WrongProcess`](Error::WrongProcess).
/// - Renaming and removing the file needs no open, and is not blocked: the edits go to the file, whatever its name.
///
/// What `flush`, `start_writeback` and `close` promise when the power fails is in
/// [`docs::durability`](crate::docs::durability).
///
/// # Examples
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("counter");
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
    /// Offset of the bytes in the file.
    offset: u64,
    bytes: Bytes,
    /// While it is leased, this process does not open the file again.
    claim: Option<Claim>,
    process: Process,
    path: Option<PathBuf>,
    /// The errno of a flush that failed. The kernel reports it once, and counts what it could not write as written.
    flush_error: AtomicI32,
}

// SAFETY: the bytes are accessed through `&self` for reading and `&mut self` for writing only. The lease keeps every other
// process away, or the caller's promise does; before the lease is released, the bytes become memory of this process.
#[allow(unsafe_code)]
unsafe impl Send for Exclusive {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Exclusive {}

impl Exclusive {
    /// What keeps other processes away: [`Backing::Leased`]; [`Backing::Memory`] or [`Backing::Disk`] after the lease was
    /// lost; [`Backing::Unguarded`].
    ///
    /// # Examples
    /// ```no_run
    /// let file = stillmap::Exclusive::open("data")?;
    /// assert_eq!(file.backing(), stillmap::Backing::Leased);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn backing(&self) -> Backing {
        self.bytes.backing()
    }

    fn new(bytes: Bytes, window: FileWindow, claim: Option<Claim>, path: Option<PathBuf>) -> Self {
        Exclusive {
            start: bytes.start(),
            len: window.len,
            offset: window.offset,
            bytes,
            claim,
            process: Process::current(),
            path,
            flush_error: AtomicI32::new(0),
        }
    }

    /// Makes the file longer or shorter; the bytes may move, unless there is room for them
    /// ([`reserve`](ExclusiveOptions::reserve)). New bytes are zero, and have blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Os`], [`Error::TooLarge`]; [`Error::LeaseLost`], also if another process has waited so long that the new
    /// blocks cannot be allocated in time; [`Error::Unsupported`] for a window that ends before the file does. The file is
    /// then as it was.
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
        self.check_process()?;
        let (offset, path) = (self.offset, self.path.clone());
        let (old, new) = (offset + self.len as u64, offset.saturating_add(len as u64));
        // Before addresses are taken for it. No file system has room for what cannot be addressed.
        range::whole_pages(len, page::size()).map_err(|e| e.with_path(|| path.clone()))?;
        if let Some(file) = self.bytes.file().filter(|_| new > old) {
            let has_room = space::check_room(&file, old, new);
            has_room.map_err(|e| bytes::allocation_error(e, path.as_deref()))?;
        }
        let set_size = |file: &File, check: &space::Check<'_>| {
            let path = path.as_deref();
            let size = file::stat(file.as_fd()).map_err(|e| Error::os("fstat", path, e))?;
            if size.size != old {
                let what = "resizing a window that ends before its file does";
                return Err(Error::unsupported(path, what));
            }
            if new > old {
                let extended = space::extend_or_write_zeros(file, old, new, check);
                return extended.map_err(|e| bytes::allocation_error(e, path));
            }
            let cut = write::set_len(file, new);
            cut.map_err(|e| Error::os("ftruncate", path, e))
        };
        let resized = self.bytes.resize(len, set_size);
        // Also after an error they may have moved.
        self.start = self.bytes.start();
        let resized = resized.ok_or_else(|| self.lease_lost())?;
        resized.map_err(|e| e.with_path(|| self.path.clone()))?;
        self.len = len;
        Ok(())
    }

    /// Blocks until every store made so far and the length of the file are on the disk. Only pages that were stored to
    /// since the last flush are written, and what the page cache keeps in one piece with them
    /// ([`docs::durability`](crate::docs::durability)).
    ///
    /// # Errors
    /// [`Error::Os`] if the disk failed. Its contents are unknown then, so every later flush fails with the same error,
    /// and so does [`close`](Exclusive::close). [`Error::LeaseLost`].
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

    /// Like [`flush`](Exclusive::flush), for the pages that hold a range, in bytes.
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
        if range == (0..self.len) {
            // Also where there are no pages: it also writes a new length.
            return self.flush_with("fdatasync", File::sync_data);
        }
        self.flush_with("msync", |_| {
            let first = self.start.as_ptr().wrapping_add(range.start);
            let offset_in_page = first.addr() - page::align_down(first.addr());
            let start = NonNull::new(first.wrapping_sub(offset_in_page)).unwrap_or(self.start);
            memory::sync(start, offset_in_page + range.len())
        })
    }

    /// Starts to write the stores to a range to the disk, and does not wait: a later flush has less to do. It promises
    /// nothing. (`msync(MS_ASYNC)` starts nothing on Linux; this is sync_file_range(2).)
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
        self.while_leased("sync_file_range", |file| match range.len() {
            0 => Ok(()),
            len => {
                sync::start_writeback(file.as_fd(), self.offset + range.start as u64, len as u64)
            }
        })
    }

    /// True if another process, or another thread, is blocked in an open of the file, or has been let in because the
    /// deadline passed. Always false without a lease ([`map_unguarded`](Exclusive::map_unguarded)).
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
        self.bytes.has_waiter()
    }

    /// Flushes and closes the file, and reports any loss. Dropping closes it without a flush.
    ///
    /// # Errors
    /// As [`flush`](Exclusive::flush). The file is closed also after an error, and stores that are not in it are dropped: a
    /// program that wants to keep them calls `flush` first, and copies the bytes if that fails.
    ///
    /// # Examples
    /// ```no_run
    /// stillmap::Exclusive::open("data")?.close()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn close(self) -> Result<()> {
        let flushed = self.flush();
        if let Err(Error::WrongProcess { .. }) = flushed {
            return flushed;
        }
        let lost = self.lease_lost();
        let Exclusive { bytes, claim, .. } = self;
        let was_held = bytes.release();
        drop(claim);
        if was_held { flushed } else { Err(lost) }
    }

    /// Runs a system call that waits until stores are on the disk, unless one has failed before.
    fn flush_with(
        &self,
        operation: &'static str,
        sync: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<()> {
        self.while_leased(operation, |file| {
            let failed = self.flush_error.load(Ordering::Relaxed);
            if failed != 0 {
                return Err(io::Error::from_raw_os_error(failed));
            }
            sync(file).inspect_err(|e| {
                let errno = e.raw_os_error().unwrap_or(libc::EIO);
                self.flush_error.store(errno, Ordering::Relaxed);
            })
        })
    }

    /// Runs a system call that makes sense only while stores go to the file. No lock is held meanwhile, since it may
    /// wait for the disk: so the lease is checked again afterwards.
    fn while_leased(
        &self,
        operation: &'static str,
        f: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<()> {
        self.check_process()?;
        let file = self.bytes.file().ok_or_else(|| self.lease_lost())?;
        let done = f(&file);
        drop(file);
        if self.bytes.file().is_none() {
            return Err(self.lease_lost());
        }
        done.map_err(|e| Error::os(operation, self.path.as_deref(), e))
    }

    fn check_process(&self) -> Result<()> {
        if self.process.is_current() {
            return Ok(());
        }
        Err(Error::wrong_process(self.path.as_deref()))
    }

    fn lease_lost(&self) -> Error {
        Error::lease_lost(self.path.as_deref())
    }
}

// SAFETY:
// - `len` bytes are mapped from the start on, inside the file: no other process can shorten it.
// - No other process has it open while it is shared, and no file is behind it afterwards; or the caller of
//   `map_unguarded` promised both.
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
        let pages = pages.with_locks(self.bytes.locked_pages());
        pages.with_path(self.path.as_deref())
    }
}
