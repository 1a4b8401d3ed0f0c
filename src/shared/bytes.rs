//! Copies of many bytes in and out, at the speed of memcpy, while other processes write.

use super::Shared;
use crate::error::Result;
use crate::range;
use crate::sys;
use std::sync::atomic::{AtomicU8, Ordering, fence};

impl Shared<[AtomicU8]> {
    /// Copies `buf.len()` bytes out, from `offset` on.
    ///
    /// Each byte is the value at some time during the call. If others write during the call, the bytes need not be of one
    /// moment. Bytes that were written before an atomic was stored to with `Release` are read after a load of it with
    /// `Acquire`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds); [`Error::PagesLost`](crate::Error::PagesLost), and the
    /// contents of `buf` are unspecified.
    ///
    /// # Examples
    /// ```
    /// use std::sync::atomic::AtomicU8;
    /// let memory = stillmap::Shared::<[AtomicU8]>::with_len(4096)?;
    /// memory.write_at(4087, b"stillmap")?;
    /// let mut bytes = [0; 9];
    /// memory.read_at(4087, &mut bytes)?;
    /// assert_eq!(&bytes, b"stillmap\0");
    /// assert!(memory.read_at(4088, &mut bytes).is_err());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[inline]
    pub fn read_at(&self, offset: usize, buf: &mut [u8]) -> Result<()> {
        let from = self.range(offset, buf.len())?;
        // SAFETY:
        // - `range` checked that the bytes are in the mapping; this process uses them through `AtomicU8` only.
        // - `buf` is exclusively ours, and no `&mut [u8]` is ever made of the mapping.
        #[allow(unsafe_code)]
        unsafe {
            sys::racy_copy::copy_out(from, buf.as_mut_ptr(), buf.len());
        }
        // A fault is marked before its zeros can be read; the mark must not be read before the bytes.
        fence(Ordering::Acquire);
        self.check_flag()
    }

    /// Copies `data` in, from `offset` on.
    ///
    /// Others see the bytes change one by one, in any order. Store to an atomic with `Release` afterwards to publish them.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds), and nothing was written;
    /// [`Error::PagesLost`](crate::Error::PagesLost), and the bytes are lost.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Shared;
    /// use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
    ///
    /// let message = Shared::<[AtomicU8]>::with_len(100)?;
    /// let length = Shared::<AtomicU64>::new()?;
    /// stillmap::fork::scope(|s| {
    ///     s.spawn(|| {
    ///         message.write_at(0, b"done").unwrap();
    ///         length.store(4, Ordering::Release);
    ///     })?;
    ///     while length.load(Ordering::Acquire) == 0 {
    ///         std::thread::yield_now();
    ///     }
    ///     let mut text = [0; 4];
    ///     message.read_at(0, &mut text)?;
    ///     assert_eq!(&text, b"done");
    ///     Ok::<(), stillmap::Error>(())
    /// })??;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[inline]
    pub fn write_at(&self, offset: usize, data: &[u8]) -> Result<()> {
        let to = self.range(offset, data.len())?;
        // SAFETY:
        // - `range` checked that the bytes are in the mapping; this process uses them through `AtomicU8` only.
        // - `data` does not change, as it is a `&[u8]`, so it is not in the mapping.
        #[allow(unsafe_code)]
        unsafe {
            sys::racy_copy::copy_in(data.as_ptr(), to, data.len());
        }
        fence(Ordering::Acquire);
        self.check_flag()
    }

    /// The bytes as a plain slice, for programs with a protocol of their own: a lock in another place, one writer, pages
    /// that are published by a version number.
    ///
    /// # Safety
    /// As long as the slice lives,
    /// - no other thread or process writes to these bytes, and none reads bytes that are written to through the slice;
    /// - the file is not truncated, its device does not fail and its disk has room for it: zeros would take the place of
    ///   the bytes.
    ///
    /// # Examples
    /// ```
    /// use std::sync::atomic::AtomicU8;
    /// let mut memory = stillmap::Shared::<[AtomicU8]>::with_len(4096)?;
    /// // SAFETY: no other process has this memory.
    /// let bytes = unsafe { memory.as_mut_slice() };
    /// bytes.fill(7);
    /// bytes.sort_unstable();
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[allow(unsafe_code)]
    pub unsafe fn as_mut_slice(&mut self) -> &mut [u8] {
        let (start, len) = (self.value.as_ptr().cast::<u8>(), self.len());
        // SAFETY:
        // - `len` bytes are mapped, readable and writable, and initialised: pages start as zeros or hold the file.
        // - `&mut self` excludes this value; the caller excludes all others.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// The address of `len` bytes from `offset` on.
    #[inline]
    fn range(&self, offset: usize, len: usize) -> Result<*mut u8> {
        range::check_bytes(offset, len, self.len())?;
        Ok(self.value.as_ptr().cast::<u8>().wrapping_add(offset))
    }
}
