//! Bytes and values out of a mapping that others write to.

use super::Live;
use crate::budget;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::page;
use crate::range;
use crate::shareable::Shareable;
use crate::sys::file;
use crate::sys::racy_copy::load_out;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr;
use std::sync::atomic::{Ordering, fence};

/// Bytes that are compared at a time: they stay in the first-level cache.
const COMPARE_CHUNK: usize = 16 << 10;

impl Live {
    /// Copies bytes from `offset` on into `buf`, at the speed of memcpy, and returns how many: fewer than `buf` holds at
    /// the end, and 0 beyond it.
    ///
    /// Each byte is one that was there at some time during the call. If others write meanwhile, the bytes need not be of
    /// one moment: if a file is truncated and grows again during the call, bytes in between can be zero. To check that the file
    /// was long enough, the page behind the bytes is touched. One pread(2) checks it on file systems other than ext4, btrfs and
    /// f2fs, and at the end of the file if the bytes in its last page contain a zero.
    ///
    /// On FAT, exFAT and the old driver of ext2 (most kernels use that of ext4), a truncation first zeroes the bytes behind
    /// the new end in the last block, and sets the length a moment later. In between `read_at` returns these zeros, as
    /// read(2) does: neither waits for the truncation there, so they cannot be distinguished from zeros that were written.
    ///
    /// # Errors
    /// [`Error::PagesLost`] if the file was truncated below the bytes that were read, or lost pages. `buf` then holds
    /// anything, and [`refresh`](Live::refresh) returns how long the file is.
    ///
    /// # Examples
    /// ```
    /// let live = stillmap::Live::open("Cargo.toml")?;
    /// let mut buf = [0; 100];
    /// assert_eq!(live.read_at(1, &mut buf)?, 100);
    /// assert!(buf.starts_with(b"package]"));
    /// assert_eq!(live.read_at(live.len() - 1, &mut buf)?, 1);
    /// assert_eq!(live.read_at(live.len(), &mut buf)?, 0);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn read_at(&self, offset: usize, buf: &mut [u8]) -> Result<usize> {
        let len = self.len.saturating_sub(offset).min(buf.len());
        if len == 0 {
            return Ok(0);
        }
        let into = ptr::from_mut(&mut buf[..len]) as *mut [MaybeUninit<u8>];
        // SAFETY: the same bytes, borrowed as long, and nothing but initialised bytes is written to them.
        let copied = self.fill(offset, unsafe { &mut *into })?;
        self.check_copied(offset + len, || self.shows_no_cut(offset, copied))?;
        Ok(len)
    }

    /// Fills `into` with bytes that are mapped, from `offset` on. The caller checks whether they were in the file.
    fn fill<'b>(&self, offset: usize, into: &'b mut [MaybeUninit<u8>]) -> Result<&'b mut [u8]> {
        let len = into.len();
        if !self.by_reading {
            return Ok(self.mapping.copy_out(offset, into));
        }
        let path = self.path.as_deref();
        match file::read_full_at(self.fd.as_fd(), into, offset as u64) {
            // SAFETY: the same memory, borrowed as long, and all of it was read.
            Ok(read) if read == len => Ok(unsafe { &mut *(ptr::from_mut(into) as *mut [u8]) }),
            Ok(_) => Err(Error::pages_lost(path)),
            Err(e) => Err(Error::os("pread", path, e)),
        }
    }

    /// A copy of a range, and whether the bytes were the same when they were read a second time.
    pub(super) fn copy(&self, range: Range<usize>) -> Result<(Buffer, bool)> {
        let error = |e| Error::os("read", self.path.as_deref(), e);
        // Others decide how long the file is; the kernel would end a process that copies more than there is room for.
        let len = range.len() as u64;
        let reservation =
            budget::reserve_memory(len, None).or_else(|| budget::reserve_available(len));
        if reservation.is_none() {
            return Err(error(io::Error::from_raw_os_error(libc::ENOMEM)));
        }
        let mut copy = Buffer::with_capacity(range.len())?;
        while copy.len() < range.len() {
            let (offset, most) = (range.start + copy.len(), range.len() - copy.len());
            let mut failed = None;
            let read = copy.read_from(most, |spare| {
                self.fill(offset, spare).or_else(|e| {
                    failed = Some(e);
                    Ok(&mut [])
                })
            });
            read.map_err(error)?;
            failed.map_or(Ok(()), Err)?;
        }
        let mut again = [MaybeUninit::uninit(); COMPARE_CHUNK];
        let mut offset = range.start;
        for chunk in copy.bytes().chunks(COMPARE_CHUNK) {
            if self.fill(offset, &mut again[..chunk.len()])? != chunk {
                return Ok((copy, false));
            }
            offset += chunk.len();
        }
        Ok((copy, true))
    }

    /// True if none of the bytes is zero that a truncation could have zeroed before they were copied out. Where pages are
    /// unmapped first, and the last page is still there, these are the bytes in that page only.
    fn shows_no_cut(&self, offset: usize, copied: &[u8]) -> bool {
        let last_page = page::align_down(offset + copied.len() - 1);
        let at_risk = if self.unmaps_first && self.mapping.touch(last_page) {
            &copied[last_page.saturating_sub(offset)..]
        } else {
            copied
        };
        at_risk.len() <= page::size() && !at_risk.contains(&0)
    }

    /// A value as it is now, copied out. An aligned integer is loaded in one piece (`Acquire`), any other type byte by
    /// byte, so it may be torn.
    ///
    /// It makes no system call. If the file was truncated inside its last page (on tmpfs, a huge page), what is gone reads
    /// as zero there; [`check_fault`](Live::check_fault) fails afterwards.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Misaligned`] if `offset` is not a multiple of the type's alignment;
    /// [`Error::PagesLost`].
    ///
    /// # Examples
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering};
    /// let dir = tempfile::tempdir()?;
    /// let path = dir.path().join("numbers");
    /// let writer = stillmap::Shared::<[AtomicU32]>::create_slice(&path, 100)?;
    /// let reader = stillmap::Live::open(&path)?;
    /// writer[5].store(7, Ordering::Release);
    /// assert_eq!(reader.load::<AtomicU32>(20)?.into_inner(), 7);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn load<T: Shareable>(&self, offset: usize) -> Result<T> {
        range::check_bytes(offset, size_of::<T>(), self.len)?;
        let align = align_of::<T>();
        let from = self.mapping.start().wrapping_add(offset);
        if from.addr() % align != 0 {
            let error = Error::misaligned(offset as u64, align);
            return Err(error.with_path(|| self.path.clone()));
        }
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY:
        // - The bytes are in the mapping, and no reference into it exists.
        // - `value` is exclusively ours, and has room for them.
        unsafe { load_out(from, value.as_mut_ptr().cast(), size_of::<T>()) };
        fence(Ordering::Acquire);
        if self.mapping.is_faulted() {
            return Err(Error::pages_lost(self.path.as_deref()));
        }
        // SAFETY: `Shareable` promises that every bit pattern is a value, and that dropping it does nothing.
        Ok(unsafe { value.assume_init() })
    }
}
